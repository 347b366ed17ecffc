"""From a Hugging Face ``config.json`` to a decoder and its precision.

The hub's file may be the language model's own or nest it beside a vision tower (``text_config``). What is not
the language model is named in ``Decoder.omitted`` and left out of the graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from hw_configs.problems import nearest
from workloads.transformer.families import READERS
from workloads.transformer.families.images import read_tower
from workloads.transformer.fields import Fields
from workloads.transformer.formats import Precision
from workloads.transformer.quantization import read_precision
from workloads.transformer.shape import Decoder

__all__ = ["known_families", "read_decoder"]

NESTED: Final = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where multimodal files keep their language model."""

SHARED: Final = ("tie_word_embeddings", "quantization_config", "vocab_size")

NESTED_DEFAULTS: Final[dict[str, dict[str, int]]] = {
    "llama": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "mistral": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000,
    },
    "qwen2": {
        "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 151936,
    },
    "gemma3_text": {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 262208,
    },
}  # fmt: skip
"""The defaults of each family's configuration class, for nested sections alone."""

TOWERS: Final = {
    "vision_config": "vision tower",
    "audio_config": "audio tower",
    "talker_config": "speech decoder",
    "token2wav_config": "speech decoder",
}

ALIASES: Final[dict[str, str]] = {
    "Yi": "llama", "mimo": "qwen2", "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe",
    "llama4": "llama4_text",
    "gemma3": "gemma3_text", "gemma4": "gemma4_text", "qwen3_omni_moe_text": "qwen3_moe",
    "glm4v_text": "glm4", "glm4v_moe_text": "glm4_moe", "stablelm_epoch": "stablelm",
    "qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text",
}  # fmt: skip
"""Other values of ``model_type`` for a family that is known under its own name."""


_ENDING: Final = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")


def known_families() -> list[str]:
    """Every ``model_type`` that can be read."""
    return sorted({*READERS, *ALIASES})


def read_decoder(
    f: Fields, options_dtype: str | None, kv_dtype: str | None, sides: tuple[int, int] | None = None
) -> tuple[Decoder, Precision]:
    """The language model in a config file; raises ``InputError`` with everything that is wrong with it."""
    outer = f
    for name in NESTED:
        inner = f.section(name)
        if inner is not None:
            f = _filled(inner, outer)
    model_type = _model_type(f, outer)
    reader = READERS.get(ALIASES.get(model_type, model_type))
    if reader is None:
        known = known_families()
        message = f"unknown model_type {model_type!r}; known: {', '.join(known)}"
        raise f.refusal("model_type", message, nearest(model_type, known))
    decoder = reader(f, ALIASES.get(model_type, model_type))
    precision = read_precision(f, outer, decoder, options_dtype, kv_dtype)
    f.finish()
    omitted = [noun for key, noun in TOWERS.items() if outer.values.get(key) is not None]
    if f.has("num_nextn_predict_layers") and f.values["num_nextn_predict_layers"]:
        omitted.append("multi-token prediction layers")
    decoder = _with_tower(decoder, outer, sides)
    return replace(
        decoder, dtype=precision.own, omitted=(*decoder.omitted, *dict.fromkeys(omitted))
    ), precision


def _with_tower(decoder: Decoder, outer: Fields, sides: tuple[int, int] | None) -> Decoder:
    """The language model with its tower, or with what is not understood of it: text alone needs no tower."""
    if outer.values.get("vision_config") is None:
        return decoder
    apart = Fields(outer.values, outer.file, outer.line_of, outer.path, [])
    tower = read_tower(apart, decoder.hidden, sides)
    if apart.problems:
        return replace(decoder, tower_trouble=str(apart.problems[0]))
    return replace(decoder, tower=tower)


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _filled(inner: Fields, outer: Fields) -> Fields:
    """A nested section that takes from the outer file what may stand there, and its family's sizes.

    A nested section is often written as the difference from its family's published defaults.
    """
    shared = {name: outer.values[name] for name in SHARED if name in outer.values}
    family = str(inner.values.get("model_type", ""))
    values: Mapping[str, Any] = {**NESTED_DEFAULTS.get(family, {}), **shared, **inner.values}
    return Fields(values, inner.file, inner.line_of, inner.path, inner.problems)


def _model_type(f: Fields, outer: Fields) -> str:
    if f.has("model_type"):
        return f.word("model_type")
    if outer.has("model_type"):
        return outer.word("model_type")
    for architecture in [*(f.words("architectures") or []), *(outer.words("architectures") or [])]:
        for known in known_families():
            if _folded(known) == _folded(_ENDING.sub("", architecture)):
                return known
    raise f.refusal("model_type", "missing field model_type; expected the family, for example llama")
