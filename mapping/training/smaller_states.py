"""Memory rules that shrink what training keeps: quantised activations, and optimizer state of low rank.

- Activations saved in few bits for the backward pass, the forward pass exact (Mesa, arXiv:2111.11124).
- Moments of a gradient projected to rank r (GaLore, Zhao et al., arXiv:2403.03507, table 1): a weight of m x n, m at
  most n, keeps 2 n r moments and a projection of m r elements instead of 2 m n moments.

Both say bytes only; what they cost in time and quality is not modelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from mapping.training.setup import MemoryBudget

__all__ = ["LowRankStates", "adam_moment_elements", "low_rank_states", "with_saved_bits"]


def with_saved_bits(
    budget: MemoryBudget, element_bits: int, saved_bits: int, group: int = 256
) -> MemoryBudget:
    """The budget with skeletal activations saved in ``saved_bits`` instead of ``element_bits``.

    Every ``group`` of values carries a 16-bit scale and offset. Raises ``ValueError`` where nothing is saved.
    """
    if not 0 < saved_bits <= element_bits:
        raise ValueError(f"found {saved_bits} bits; expected 1 to {element_bits}")
    share = (saved_bits + 32 / group) / element_bits if saved_bits < element_bits else 1.0
    return replace(
        budget,
        skeletal=int(budget.skeletal * share),
        host_activations=int(budget.host_activations * share),
    )


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
