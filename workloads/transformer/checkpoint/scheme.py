"""What every reader of a quantised checkpoint's metadata gives back, and what readers share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from workloads.transformer.fields import Fields
from workloads.transformer.formats import NO_MODULES, OWN_BLOCKS, PLAIN, Format, FormatRule
from workloads.transformer.module_names import EXPERTS, LINEAR, ModuleSet, module_set

__all__ = [
    "BLOCKS", "EVERYTHING", "Scheme", "element_type", "integer_format", "kv_type", "listed", "named", "scaled",
]  # fmt: skip

BLOCKS: Final = frozenset((LINEAR, EXPERTS))
EVERYTHING: Final = frozenset(("linear layer", "experts", "router", "output projection", "embedding"))

MAX_GROUP: Final = 2**20


@dataclass(frozen=True, slots=True)
class Scheme:
    """Formats by module, as :class:`workloads.transformer.formats.Precision` has them; ``kv``: type of the cache."""

    linear: Format = PLAIN
    rules: tuple[FormatRule, ...] = ()
    skipped: ModuleSet = NO_MODULES
    covers: frozenset[str] = BLOCKS
    kv: str = ""
    note: str = ""


def named(f: Fields, key: str, patterns: Iterable[str], expressions: bool = False) -> ModuleSet:
    """The modules of a list; an expression that cannot be read is a problem of ``key``."""
    try:
        return module_set(patterns, expressions)
    except ValueError as error:
        f.problem(key, str(error))
        return NO_MODULES


def listed(f: Fields, *keys: str) -> ModuleSet:
    """The modules that any of these lists names."""
    patterns = [pattern for key in keys for pattern in f.words(key) or []]
    return named(f, next((key for key in keys if f.has(key)), keys[0]), patterns)


def integer_format(
    bits: int, group: int, zero_bits: float, scale_bits: float = 16, column_bits: int = 0
) -> Format:
    """Integers with a scale and a zero point per ``group`` inputs (0: the whole row); the product runs in 16 bits."""
    return Format(f"int{bits}", "", scale_bits, zero_bits, 1, max(group, 0), column_bits)


def element_type(kind: str, bits: int, group: int = 0) -> str | None:
    """The element type of a weight or an input of ``kind`` (int, float); None for one that Offchip does not know."""
    if kind == "float":
        four = {16: "nvfp4", 32: "mxfp4"}.get(group, "fp4")
        return {4: four, 6: "fp6", 8: "fp8", 16: "", 32: ""}.get(bits)
    if 2 <= bits <= 8:
        return f"int{bits}"
    return "" if bits == 16 else None


def scaled(
    dtype: str,
    scale_bits: float,
    zero_bits: float,
    rows: int,
    columns: int,
    arithmetic: str = "",
    static: bool = False,
) -> Format:
    """A format whose scales stand apart, unless the type has scales of its own."""
    if dtype in OWN_BLOCKS:
        return Format(dtype, arithmetic, static=static)
    return Format(dtype, arithmetic, scale_bits, zero_bits, rows, columns, static=static)


_CACHES: Final = {
    "FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8", "INT4": "int4", "FP16": "fp16", "BF16": "bf16",
    "FP8_E4M3": "fp8", "FP8_E5M2": "fp8", "FP8_AFFINE": "fp8", "NVFP4_AFFINE": "nvfp4", "NONE": "", "AUTO": "",
}  # fmt: skip


def kv_type(q: Fields, *keys: str) -> str:
    """The cache's element type from the first of ``keys`` that is there: a word, or bits and kind; "" for none."""
    for key in keys:
        if not q.has(key):
            continue
        value = q.values[key]
        if isinstance(value, str):
            if value.upper() not in _CACHES:
                q.problem(key, f"found {value!r}; expected one of {', '.join(_CACHES)}")
            return _CACHES.get(value.upper(), "")
        section = q.section(key)
        if section is None:
            return ""
        bits = section.integer("num_bits", default=8, most=16)
        kind = section.word("type", default="float", known=("int", "float"))
        group = section.integer("group_size", default=0, least=-1, most=MAX_GROUP)
        dtype = element_type(kind, bits, group)
        if dtype not in ("fp8", "int8", "int4", "nvfp4", "mxfp4", "fp4", ""):
            section.problem("num_bits", f"found {bits} bits of type {kind}; expected 4, 8 or 16 for a cache")
            return ""
        return dtype or ""
    return ""
