"""Mixture of experts: how many experts a batch touches, routing, and products grouped by expert.

Each of T tokens picks k of E experts. With uniform routing, the number of experts that any token picks has
the expectation E (1 - (1 - k/E)^T) (occupancy problem); that many experts' weights must be read. The largest
group decides when experts sit on different devices. A grouped product runs one tile grid over all groups, so
each group pays its own partial tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw_configs.problems import bad_input
from workloads.dtypes import BITS
from workloads.graph import Operator, legacy_operator

__all__ = ["Routing", "expected_active", "grouped_product", "route", "top_k"]


@dataclass(frozen=True, slots=True)
class Routing:
    """Tokens per expert of one routed batch."""

    tokens: tuple[int, ...]

    @property
    def active(self) -> int:
        """Experts with at least one token."""
        return sum(1 for count in self.tokens if count)

    @property
    def imbalance(self) -> float:
        """Largest group over the mean of all experts; 1 is perfect balance."""
        mean = sum(self.tokens) / len(self.tokens)
        return max(self.tokens) / mean if mean else 1.0


def expected_active(tokens: int, experts: int, chosen: int) -> float:
    """Experts that uniform routing touches, on average.

    >>> round(expected_active(1, 8, 2), 6), round(expected_active(1000, 8, 2), 6)
    (2.0, 8.0)
    """
    _check(tokens, experts, chosen)
    return (
        float(experts * -np.expm1(tokens * np.log1p(-chosen / experts)))
        if chosen < experts
        else float(experts)
    )


def route(tokens: int, experts: int, chosen: int, skew: float = 0.0, seed: int = 0) -> Routing:
    """Tokens per expert of one random batch; expert i has the weight (i + 1)^-skew (0 is uniform)."""
    _check(tokens, experts, chosen)
    if tokens * experts > 50_000_000:
        raise bad_input("tokens x experts exceeds 50 million; route a smaller batch")
    generator = np.random.default_rng(seed)
    # Gumbel top-k draws k distinct experts per token with probability by weight.
    keys = generator.gumbel(size=(tokens, experts)) - skew * np.log(np.arange(1, experts + 1))
    picked = np.argpartition(-keys, chosen - 1, axis=1)[:, :chosen]
    return Routing(tuple(int(count) for count in np.bincount(picked.ravel(), minlength=experts)))


def grouped_product(tokens: int, n: int, k: int, experts: int, chosen: int, dtype: str = "bf16") -> Operator:
    """The grouped product of a routed layer: its expected active experts, FLOPs and bytes."""
    active = max(1, round(expected_active(tokens, experts, chosen)))
    rows = tokens * chosen
    element = BITS[dtype] / 8
    return legacy_operator(
        "experts", "grouped_matmul", (), (), 2.0 * rows * n * k, int((rows * k + active * k * n) * element),
        int(rows * n * max(element, 2)), dtype, (),
        {"m": rows, "n": n, "k": k, "groups": experts, "active": chosen, "expected_groups": active},
    )  # fmt: skip


def top_k(rows: int, columns: int, chosen: int, dtype: str = "fp32") -> Operator:
    """Selection of the k largest of each row: the row is read once, values and indices are written."""
    _check(rows, columns, chosen)
    element = BITS[dtype] / 8
    return legacy_operator(
        "top_k", "topk", (), (), float(rows * columns), int(rows * columns * element),
        int(rows * chosen * (element + 4)), dtype, (), {"m": rows, "n": columns, "k": chosen},
    )  # fmt: skip


def _check(tokens: int, experts: int, chosen: int) -> None:
    if tokens < 0 or experts < 1 or not 1 <= chosen <= experts:
        raise bad_input(f"cannot choose {chosen} of {experts} experts for {tokens} tokens")
