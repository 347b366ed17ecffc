"""How weights are stored: element type, scales, and the precision the product runs in.

Read from a checkpoint's ``quantization_config`` or from the element type a user asks for. Scales and zero
points are counted as bytes of the weight they belong to, not as parameters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from workloads.dtypes import dtype_bits, size_bytes

__all__ = ["OWN_BLOCKS", "PLAIN", "Format", "Precision"]

OWN_BLOCKS: Final = {"nvfp4": 16, "mxfp4": 32, "mxfp8": 32}
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


@dataclass(frozen=True)
class Precision:
    """The element types of a whole model.

    ``own`` is the type of activations and of every weight that no quantisation covers; ``linear`` the
    storage of quantised linear layers; ``skipped`` the module names (as the hub writes them) that stay as
    they are; ``head`` and ``embedding`` whether quantisation covers those too.
    """

    own: str
    linear: Format = PLAIN
    skipped: tuple[str, ...] = ()
    kv: str = ""
    experts_only: bool = False
    head: bool = False
    note: str = ""

    @property
    def cache(self) -> str:
        """Element type of the KV cache."""
        return self.kv or self.own

    def format_of(self, module: str) -> Format:
        """The storage of one linear layer, named as the hub names its module."""
        if self.linear is PLAIN:
            return PLAIN
        if self.experts_only and ".experts" not in module:
            return PLAIN
        if module == "lm_head" and not self.head:
            return PLAIN
        return PLAIN if _matches(self.skipped, module) else self.linear

    def narrow(self, fmt: Format, arithmetic: str) -> bool:
        """Whether a weight in this format is stored narrower than its product runs."""
        return bool(fmt.dtype) and dtype_bits(fmt.dtype) < dtype_bits(arithmetic)


def _matches(patterns: Sequence[str], module: str) -> bool:
    """The hub's rule: a name, a part of a dotted name, a glob with ``*``, or ``re:`` and an expression.

    An expression that Python cannot read matches nothing.
    """
    for pattern in patterns:
        if pattern.startswith("re:"):
            if _expression(pattern[3:], module):
                return True
        elif "*" in pattern:
            glob = re.escape(pattern).replace(r"\*", "[^ ]*")
            if re.search(rf"(?:^|\.){glob}(?:\.|$)", module):
                return True
        elif f".{pattern}." in f".{module}.":
            return True
    return False


def _expression(text: str, module: str) -> bool:
    try:
        return re.match(text, module) is not None
    except re.error:
        return False
