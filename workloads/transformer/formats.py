"""How weights are stored: element type, scales, and the precision the product runs in, module by module.

Read from what a checkpoint says of its quantisation or from the element type a user asks for. Scales and zero
points are counted as bytes of the weight they belong to, not as parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from workloads.dtypes import dtype_bits, size_bytes
from workloads.transformer.module_names import EXPERTS, LINEAR, ModuleSet, kind_of

__all__ = ["OWN_BLOCKS", "PLAIN", "Format", "FormatRule", "Precision"]

OWN_BLOCKS: Final = {"nvfp4": 16, "mxfp4": 32, "mxfp6": 32, "mxfp8": 32}
"""Elements that share a scale in types that have scales of their own."""


@dataclass(frozen=True, slots=True)
class Format:
    """Storage of one weight matrix of ``rows`` outputs by ``columns`` inputs.

    ``dtype`` empty: the checkpoint's own type. ``arithmetic`` empty: the activations' type. One scale
    (and zero point) covers ``block_rows`` x ``block_columns`` elements; 0 stands for the whole side.
    ``column_bits`` are bits kept per input (the group index of GPTQ). ``static``: where the arithmetic is narrower than
    activations, their scales stand in the checkpoint rather than being found as they come.
    """

    dtype: str = ""
    arithmetic: str = ""
    scale_bits: float = 0
    zero_bits: float = 0
    block_rows: int = 0
    block_columns: int = 0
    column_bits: int = 0
    static: bool = False

    def scale_block(self) -> int:
        """Elements along the sum that share a scale of either operand; 0 where none is inside the sum."""
        return OWN_BLOCKS.get(self.dtype, self.block_columns)

    def bytes(self, matrices: int, rows: int, columns: int, own_dtype: str) -> int:
        """Bytes of that many matrices with their scales."""
        dtype = self.dtype or own_dtype
        plain = size_bytes(matrices * rows * columns, dtype)
        per_block = self.scale_bits + self.zero_bits
        if not per_block and not self.column_bits:
            return plain
        down = -(-rows // (self.block_rows or rows))
        across = -(-columns // (self.block_columns or columns))
        bits = matrices * (down * across * per_block + columns * self.column_bits)
        return plain - int(-bits // 8)


PLAIN = Format()
"""Stored as the activations are."""


@dataclass(frozen=True, slots=True)
class FormatRule:
    """Modules that a checkpoint names, and how it stores them."""

    modules: ModuleSet
    format: Format


NO_MODULES: Final = ModuleSet()


@dataclass(frozen=True)
class Precision:
    """The element types of a whole model: a table of formats by module.

    ``own`` is the type of activations and of every weight that no quantisation covers. A module in ``skipped`` stays
    plain; else the first of ``rules`` that names it holds; else ``linear`` does for modules of the kinds it
    ``covers``. ``kv`` is the type of the cache, if it differs. ``note``: what a user should know.
    """

    own: str
    linear: Format = PLAIN
    rules: tuple[FormatRule, ...] = ()
    skipped: ModuleSet = NO_MODULES
    covers: frozenset[str] = frozenset((LINEAR, EXPERTS))
    kv: str = ""
    note: str = ""

    @property
    def cache(self) -> str:
        """Element type of the KV cache."""
        return self.kv or self.own

    @property
    def weight_dtype(self) -> str:
        """Element type of the blocks' weights; several are joined."""
        return " + ".join(dict.fromkeys(fmt.dtype for fmt in self.formats if fmt.dtype)) or self.own

    @property
    def formats(self) -> tuple[Format, ...]:
        """Every format of the table, each once."""
        return tuple(
            dict.fromkeys(fmt for fmt in (self.linear, *(r.format for r in self.rules)) if fmt != PLAIN)
        )

    def format_of(self, module: str) -> Format:
        """The storage of one weight, named as the hub names its module."""
        if not module or (self.linear is PLAIN and not self.rules) or module in self.skipped:
            return PLAIN
        for rule in self.rules:
            if module in rule.modules:
                return rule.format
        return self.linear if kind_of(module) in self.covers else PLAIN

    def plain(self, note: str) -> Precision:
        """The same model with every weight in its own type."""
        return replace(self, linear=PLAIN, rules=(), note=note)

    def narrow(self, fmt: Format, arithmetic: str) -> bool:
        """Whether a weight in this format is stored narrower than its product runs."""
        return bool(fmt.dtype) and dtype_bits(fmt.dtype) < dtype_bits(arithmetic)
