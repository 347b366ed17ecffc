"""From a Hugging Face ``config.json`` to a decoder and its precision.

The hub's file may be the language model's own or nest it beside a vision tower (``text_config``). What is not
the language model is named in ``Decoder.omitted`` and left out of the graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from hw_configs.problems import nearest
from workloads.transformer.families import READERS
from workloads.transformer.families.defaults import declared, inner_types
from workloads.transformer.families.images import read_tower
from workloads.transformer.fields import Fields
from workloads.transformer.formats import Precision
from workloads.transformer.quantization import read_precision
from workloads.transformer.shape import Decoder
from workloads.transformer.unread import note_unread

__all__ = ["known_families", "read_decoder"]

NESTED: Final = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where multimodal files keep their language model."""

SHARED: Final = ("quantization_config", "vocab_size")

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
    "glm4v_moe_text": "glm4_moe", "stablelm_epoch": "stablelm",
    "qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text", "exaone": "llama", "iquestcoder": "llama",
    "emu3_text_model": "llama", "phi4_multimodal": "phi3", "qwen2_5_omni_text": "qwen2", "gpt-sw3": "gpt2",
    "ernie4_5_vl_moe_text": "ernie4_5_moe", "sarvam_mla": "deepseek_v3",
    "hyperclovax_text": "hyperclovax",
}  # fmt: skip
"""Other values of ``model_type`` for a family that is known under its own name."""


_ENDING: Final = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")


def known_families() -> list[str]:
    """Every ``model_type`` that can be read."""
    return sorted({*READERS, *ALIASES})


def read_decoder(
    f: Fields,
    options_dtype: str | None,
    kv_dtype: str | None,
    side: Mapping[str, Fields] | None = None,
    sides: tuple[int, int] | None = None,
) -> tuple[Decoder, Precision]:
    """The language model in a config file; raises ``InputError`` with everything that is wrong with it.

    ``side``: the files beside it that say how a checkpoint is quantised, by name. ``sides``: of images.
    """
    outer = f
    outer.defaults = declared(str(outer.values.get("model_type", "")))
    for name in NESTED:
        inner = f.section(name)
        if inner is not None:
            f = _filled(inner, f, name)
    model_type = _model_type(f, outer)
    family = ALIASES.get(model_type, model_type)
    reader = READERS.get(family)
    if reader is None:
        # Files of engines name a family of their own beside the published class.
        model_type = _by_architecture(f, outer) or model_type
        family = ALIASES.get(model_type, model_type)
        reader = READERS.get(family)
    if reader is None:
        known = known_families()
        raise f.refusal("model_type", f"unknown model_type {model_type!r}", nearest(model_type, known), known)
    f.defaults = declared(model_type) or declared(family)
    decoder = _with_layers_of_their_own(f, family, reader(f, family))
    if f is not outer:
        decoder = replace(decoder, tied=_tied(outer, decoder.tied))
    precision = read_precision(f, outer, decoder, options_dtype, kv_dtype, side)
    notes = [note_unread(f, f.defaults)]
    if f is not outer:
        notes.append(note_unread(outer, outer.defaults))
    f.finish()
    omitted = [noun for key, noun in TOWERS.items() if outer.values.get(key) is not None]
    if f.has("num_nextn_predict_layers") and f.value("num_nextn_predict_layers"):
        omitted.append("multi-token prediction layers")
    decoder = _with_tower(decoder, outer, sides)
    return replace(
        decoder,
        dtype=precision.own,
        omitted=(*decoder.omitted, *dict.fromkeys(omitted)),
        notes=(*decoder.notes, *filter(None, notes)),
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


def _filled(inner: Fields, outer: Fields, section: str) -> Fields:
    """A nested section that takes from the outer file what may stand there.

    It is often written as the difference from its family's published defaults; where it does not name its family,
    the outer one does.
    """
    values = {name: outer.values[name] for name in SHARED if name in outer.values} | dict(inner.values)
    if "model_type" not in values:
        family = inner_types(str(outer.values.get("model_type", ""))).get(section)
        values |= {"model_type": family} if family else {}
    return Fields(values, inner.file, inner.line_of, inner.path, inner.problems, partial=True)


def _with_layers_of_their_own(f: Fields, family: str, decoder: Decoder) -> Decoder:
    """A decoder whose ``per_layer_config`` gives some layers other values: layer number to keys.

    Each distinct set of values is read as a file of its own, of which the layers that have it are taken.
    """
    section = f.section("per_layer_config")
    if section is None:
        return decoder
    groups: dict[str, list[int]] = {}
    for name, values in section.values.items():
        number = int(name) if str(name).isdecimal() and len(str(name)) < 6 else -1
        if not 0 <= number < len(decoder.layers) or not isinstance(values, Mapping):
            section.problem(str(name), f"expected a layer from 0 to {len(decoder.layers) - 1} with its keys")
            continue
        groups.setdefault(repr(sorted(values.items())), []).append(number)
        section.asked.add(str(name))
    layers = list(decoder.layers)
    for numbers in groups.values():
        own = next(v for k, v in section.values.items() if str(k).isdecimal() and int(k) == numbers[0])
        changed = replace(f, values={**f.values, **own}, asked=set())
        read = READERS[family](changed, family)
        for name in own:
            if name not in changed.asked and name not in f.defaults:
                section.problem(str(numbers[0]), f"unknown key {name!r} of a layer")
        f.asked |= changed.asked
        for number in numbers:
            layers[number] = read.layers[number]
    return replace(decoder, layers=tuple(layers))


def _tied(outer: Fields, inner: bool) -> bool:
    """Whether a nested model's output projection is its embedding: the outer file decides, then its family."""
    return outer.flag("tie_word_embeddings", default=inner)


def _model_type(f: Fields, outer: Fields) -> str:
    if f.has("model_type"):
        found = f.word("model_type")
        # A multimodal family's file may have its language model's keys on its own level.
        inner = inner_types(found)
        return next(iter(inner.values())) if f is outer and inner and found not in READERS else found
    if outer.has("model_type"):
        return outer.word("model_type")
    by_name = _by_architecture(f, outer)
    if by_name is not None:
        return by_name
    raise f.refusal("model_type", "missing field model_type; expected the family, for example llama")


def _by_architecture(f: Fields, outer: Fields) -> str | None:
    """The family that ``architectures`` names, where it is known."""
    for architecture in [*(f.words("architectures") or []), *(outer.words("architectures") or [])]:
        for known in known_families():
            if _folded(known) == _folded(_ENDING.sub("", architecture)):
                return known
    return None
