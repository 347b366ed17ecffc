"""Optimizer state of low rank, counted: moments of a gradient projected to rank r (GaLore, arXiv:2403.03507, table 1).

A weight of m x n, m at most n, keeps 2 n r moments and a projection of m r elements instead of 2 m n moments. The same
as part of a whole step is the method ``low-rank`` of :mod:`workloads.trained_parts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

__all__ = ["LowRankStates", "adam_moment_elements", "low_rank_states"]


def adam_moment_elements(shapes: Iterable[tuple[int, ...]]) -> int:
    """Elements of Adam's two moments."""
    return 2 * sum(prod(shape) for shape in shapes)


@dataclass(frozen=True, slots=True)
class LowRankStates:
    """Elements of moments and of projections."""

    moments: int
    projections: int

    def bytes(self, moment_bits: int, projection_bits: int = 16) -> float:
        """Bytes of all, with moments and projections of so many bits."""
        return (self.moments * moment_bits + self.projections * projection_bits) / 8


def low_rank_states(
    shapes: Iterable[tuple[int, ...]], rank: int, whole: frozenset[int] = frozenset()
) -> LowRankStates:
    """Adam's state where gradients of matrices are projected to ``rank``.

    Vectors, matrices whose smaller side is at most the rank, and the shapes at the indices in ``whole``
    (embeddings and heads) keep whole moments. Raises ``ValueError`` for a rank below one.
    """
    if rank < 1:
        raise ValueError(f"found a rank of {rank}; expected 1 or more")
    moments = projections = 0
    for index, shape in enumerate(shapes):
        if len(shape) != 2 or min(shape) <= rank or index in whole:
            moments += 2 * prod(shape)
            continue
        moments += 2 * max(shape) * rank
        projections += min(shape) * rank
    return LowRankStates(moments, projections)
