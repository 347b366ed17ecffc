"""Writes ``workloads/transformer/families/defaults.json``: what each family's configuration class in
huggingface/transformers (Apache-2.0) declares, so that a file which leaves a key out is read as its maker meant it.

Needs ``transformers``; run as ``python make_defaults.py OUT.json < KNOWN``, the families that are read, one name a line
(``workloads.transformer.config.known_families``): they are written, and the multimodal families around them.

Whole numbers, flags and words keep their value; a key whose default is something else (a list, a mapping, a float,
nothing) is there by name, with null. ``sections`` are the nested language models by key, with their ``model_type``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import transformers

BASE = {field.name for field in dataclasses.fields(transformers.PretrainedConfig)}
COMMON = re.compile(
    r"(_token_id|_token_ids|_token_index|dropout|_dropout_prob|_eps|epsilon|_pdrop|initializer_range|_coef)$"
    r"|^(max_position_embeddings|use_cache|rope_parameters|rope_theta|rope_scaling|initializer_factor)$"
)
INNER = ("text_config", "llm_config", "language_config", "thinker_config")


def declared(config_class: type) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in dataclasses.fields(config_class):
        if field.name in BASE or COMMON.search(field.name):
            continue
        default = field.default
        plain = isinstance(default, bool | int | str) and default is not dataclasses.MISSING
        found[field.name] = default if plain else None
    return found


def sections(config_class: type) -> dict[str, str]:
    try:
        made = config_class()
    except Exception as error:
        print(f"{config_class.__name__}: {error}", file=sys.stderr)
        return {}
    inner = {name: getattr(made, name, None) for name in INNER}
    return {name: config.model_type for name, config in inner.items() if config is not None}


def main(out: Path, known: set[str]) -> None:
    transformers.logging.set_verbosity_error()
    families = {}
    for model_type, config_class in sorted(transformers.CONFIG_MAPPING.items()):
        entry = declared(config_class)
        if not {"vocab_size", "text_config", "tie_word_embeddings"} & entry.keys():
            continue
        nested = sections(config_class)
        if known & {model_type, *nested.values()}:
            families[model_type] = entry | ({"sections": nested} if nested else {})
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(families[name])}" for name in sorted(families))
    out.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.stdin.read().split()))
