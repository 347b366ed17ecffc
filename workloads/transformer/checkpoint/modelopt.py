"""NVIDIA ModelOpt: an algorithm for the model, or one per module, in ``config.json`` or in ``hf_quant_config.json``."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from hw_configs.problems import nearest
from workloads.transformer.checkpoint.groups import read_groups
from workloads.transformer.checkpoint.integers import read_fp8
from workloads.transformer.checkpoint.scheme import MAX_GROUP, Scheme, kv_type, listed, named
from workloads.transformer.fields import Fields
from workloads.transformer.formats import PLAIN, Format, FormatRule

__all__ = ["read_fp8_or_mixed", "read_modelopt"]

EXCLUDED: Final = ("exclude_modules", "ignore", "modules_to_not_convert", "ignored_layers")
CACHE: Final = ("kv_cache_scheme", "kv_cache_quant_algo")

_FP8: Final = Format("fp8", "fp8", scale_bits=32, static=True)
ALGORITHMS: Final[dict[str, Format]] = {
    "FP8": _FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": Format("fp8", "fp8", scale_bits=32, block_rows=1),
    "FP8_PB_WO": Format("fp8", "", scale_bits=32, block_rows=128, block_columns=128),
    "FP8_PB_REAL": Format("fp8", "fp8", scale_bits=32, block_rows=128, block_columns=128),
    "MXFP8": Format("mxfp8", "mxfp8"),
    "NVFP4": Format("nvfp4", "nvfp4"),
    "NVFP4_AWQ": Format("nvfp4", "nvfp4"),
    "W4A16_NVFP4": Format("nvfp4"),
    "W4A8_NVFP4_FP8": Format("nvfp4", "fp8", static=True),
    "MXFP4": Format("mxfp4", "mxfp4"),
    "W4A16_MXFP4": Format("mxfp4"),
    "W4A8_MXFP4_FP8": Format("mxfp4", "fp8", static=True),
    "W4A16_AWQ": Format("int4", "", 16, 0, 1, 128),
    "INT4_AWQ": Format("int4", "", 16, 0, 1, 128),
    "W4A8_AWQ": Format("int4", "fp8", 16, 0, 1, 128, static=True),
    "W8A16": Format("int8", "", 16, 0, 1),
    "W4A16": Format("int4", "", 16, 0, 1),
    "W8A8_SQ_PER_CHANNEL": Format("int8", "int8", 32, 0, 1),
    "INT8_SQ": Format("int8", "int8", 32, 0, 1),
}  # fmt: skip
"""Storage and arithmetic by ``quant_algo``."""

MIXED: Final = "MIXED_PRECISION"
_EXPERT: Final = re.compile(r"(^|\.)experts\.(\d+)(?=\.|$)")


def read_modelopt(q: Fields) -> Scheme:
    """One algorithm for all that is not excluded, or ``quantized_layers`` with each module's own."""
    skipped, cache = listed(q, *EXCLUDED), kv_type(q, *CACHE)
    word = q.word("quant_algo", default="")
    if word == MIXED or q.has("quantized_layers"):
        return Scheme(PLAIN, _layers(q), skipped, kv=cache)
    if not word:
        if q.has("config_groups"):
            return replace(read_groups(q), kv=cache)
        if "quant_algo" in q.values:
            return Scheme(kv=cache)
        q.problem(
            "quant_algo", f"missing field quant_algo; expected one of {', '.join((*ALGORITHMS, MIXED))}"
        )
        return Scheme()
    return Scheme(_algorithm(q), (), skipped, kv=cache)


def read_fp8_or_mixed(q: Fields) -> Scheme:
    """``quant_method`` fp8, with ModelOpt's modules on top where its keys stand there too (DeepSeek-V4-NVFP4).

    What ModelOpt ignores stays as it was: fp8.
    """
    base = read_fp8(q)
    if not q.has("quant_algo") and not q.has("quantized_layers"):
        return replace(base, kv=kv_type(q, *CACHE))
    layers = _layers(q) if q.has("quantized_layers") else (_moe(q),)
    return replace(base, rules=(*layers, *base.rules), kv=kv_type(q, *CACHE))


def _moe(q: Fields) -> FormatRule:
    key = "moe_quant_algo" if q.has("moe_quant_algo") else "quant_algo"
    return FormatRule(named(q, key, ["experts"]), _algorithm(q, key))


def _layers(q: Fields) -> tuple[FormatRule, ...]:
    """Rules of ``quantized_layers``; the experts of a layer must agree, for they are one tensor here."""
    layers = q.section("quantized_layers")
    if layers is None:
        q.problem("quantized_layers", f"missing field quantized_layers; expected it with quant_algo {MIXED}")
        return ()
    by_format: dict[Format, list[str]] = {}
    experts: dict[str, Format] = {}
    for name in layers.values:
        layer = layers.section(name)
        if layer is None:
            continue
        fmt = _algorithm(layer)
        alike = _EXPERT.sub(r"\1experts", name)
        if alike != name and experts.setdefault(alike, fmt) != fmt:
            layers.problem(
                name, f"the experts of {alike} have different formats; expected one for all of a layer"
            )
        by_format.setdefault(fmt, []).append(name)
    return tuple(FormatRule(named(q, "quantized_layers", names), fmt) for fmt, names in by_format.items())


def _algorithm(q: Fields, key: str = "quant_algo") -> Format:
    word = q.word(key)
    fmt = ALGORITHMS.get(word.upper())
    if fmt is None:
        if word:
            q.problem(
                key,
                f"unknown {key} {word!r}; known: {', '.join((*ALGORITHMS, MIXED))}",
                nearest(word, ALGORITHMS),
            )
        return PLAIN
    group = q.integer("group_size", default=0, least=-1, most=MAX_GROUP)
    if fmt.block_columns and fmt.block_rows == 1 and group > 0:
        return replace(fmt, block_columns=group)
    own = {"nvfp4": 16, "mxfp4": 32}.get(fmt.dtype)
    if own is not None and group not in (0, own):
        q.problem("group_size", f"found {group}; expected {own} with {word}")
    return fmt
