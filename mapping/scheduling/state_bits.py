"""Kernel helpers for states held as rows of bit sets, and what a drop costs."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from hw_configs.compiled import compiled, inlined
from mapping.scheduling.instance import WORD_BITS

__all__ = ["COST_SCALE", "NO_LIMIT", "Limits", "drop_cost", "flip_bit", "has_bit", "inlined", "same_row"]

COST_SCALE: Final = 1 << 20
"""A cost is one number: bytes times this, plus transfers, so that transfers break ties."""
NO_LIMIT: Final = 1 << 62


class Limits(NamedTuple):
    """How far a search goes: bytes of the scratchpad and the unit of sizes; only costs (scaled) below ``below``.

    ``width``: states kept of a layer; ``may_drop``: whether tensors may leave the scratchpad before their last use.
    """

    capacity: int
    unit: int
    below: int
    width: int
    may_drop: bool
    max_states: int
    max_layer: int


@compiled(inline="always")
def has_bit(words: Any, row: int, bit: int) -> Any:
    """Whether a bit of a row is set."""
    return (words[row, bit // WORD_BITS] >> (bit % WORD_BITS)) & 1 != 0


@compiled(inline="always")
def flip_bit(word: Any, bit: int) -> None:
    """Change one bit of a single bit set."""
    word[bit // WORD_BITS] ^= 1 << (bit % WORD_BITS)


@compiled(inline="always")
def drop_cost(size: int, has_copy: bool) -> int:
    """Scaled cost of a drop: its retrieve, and the write of a first copy."""
    return size * COST_SCALE + 1 if has_copy else 2 * (size * COST_SCALE + 1)


@compiled
def same_row(a: Any, i: int, b: Any) -> bool:
    """Whether row i equals a bit set."""
    for w in range(len(b)):  # noqa: SIM110 (numba)
        if a[i, w] != b[w]:
            return False
    return True
