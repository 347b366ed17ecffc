"""MLX: bits and group for the model under ``quantization``, and modules with their own beside them."""

from __future__ import annotations

from typing import Final

from workloads.transformer.checkpoint.scheme import EVERYTHING, Scheme, integer_format, named
from workloads.transformer.fields import Fields
from workloads.transformer.formats import PLAIN, Format, FormatRule

__all__ = ["read_mlx"]

BITS: Final = (2, 3, 4, 5, 6, 8)
OWN: Final = (
    "group_size",
    "bits",
    "mode",
    "quant_method",
    "linear_class",
    "quantization_mode",
    "trained_format",
)
FLOATS: Final = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Modes whose types have scales of their own: bits and group."""


def read_mlx(q: Fields) -> Scheme:
    """16-bit scale and bias per group; embeddings, routers and the output projection as well."""
    fmt = _format(q, 64, 4, "affine")
    group, bits, mode = _stated(q, 64, 4, "affine")
    rules, skipped = [], []
    for name in q.values:
        if name in OWN:
            continue
        value = q.values[name]
        if value is False:
            skipped.append(name)
        elif value is True:
            rules.append(FormatRule(named(q, name, [name]), fmt))
        elif isinstance(value, dict):
            other = q.section(name)
            if other is not None:
                rules.append(FormatRule(named(q, name, [name]), _format(other, group, bits, mode)))
        else:
            q.problem(name, f"found {value!r}; expected a module's bits and group_size, or false")
    return Scheme(fmt, tuple(rules), named(q, "", skipped), EVERYTHING)


def _stated(q: Fields, group: int, bits: int, mode: str) -> tuple[int, int, str]:
    mode = q.word("mode", default=mode, known=("affine", *FLOATS))
    if mode in FLOATS:
        bits, group = FLOATS[mode]
    return (
        q.integer("group_size", default=group, least=16, most=1024),
        q.integer("bits", default=bits, least=2, most=8),
        mode,
    )


def _format(q: Fields, group: int, bits: int, mode: str) -> Format:
    group, bits, mode = _stated(q, group, bits, mode)
    if mode in FLOATS:
        if (bits, group) != FLOATS[mode]:
            q.problem(
                "bits",
                f"found {bits} bits in groups of {group}; {mode} has {FLOATS[mode][0]} in groups of {FLOATS[mode][1]}",
            )
            return PLAIN
        return Format(mode)
    if bits not in BITS:
        q.problem("bits", f"found {bits}; expected one of {', '.join(map(str, BITS))}")
        return PLAIN
    return integer_format(bits, group, 16)
