"""Which of many distinct points some other point dominates, in n log n: the kernels behind Pareto fronts.

Points come sorted by all columns, so one can be dominated only by one that stands before it, and the first
column need not be looked at again. The others come as ranks from 0. Method: Kung, Luccio and Preparata,
"On finding the maxima of a set of vectors", JACM 22 (1975), with a Fenwick tree that holds the least last
column of a prefix.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled

__all__ = ["FULL_SORT", "beaten_by_divide", "beaten_by_tree"]

FULL_SORT: Final = 2048
"""Below so many points, comparing blocks is faster than loading the kernels."""

Ranks = NDArray[np.int64]


@compiled
def _least(tree: Any, position: int) -> int:
    """Least value entered at positions up to this one."""
    least: int = tree[0]
    at = position + 1
    while at > 0:
        least = min(least, tree[at])
        at -= at & -at
    return least


@compiled
def _enter(tree: Any, position: int, value: int) -> None:
    at = position + 1
    while at < len(tree):
        tree[at] = min(tree[at], value)
        at += at & -at


@compiled
def beaten_by_tree(second: Ranks, third: Ranks) -> NDArray[np.bool_]:
    """Three columns, the first one sorted: whether an earlier point is nowhere worse."""
    n = len(second)
    tree = np.full(n + 1, n, dtype=np.int64)
    beaten = np.zeros(n, dtype=np.bool_)
    for i in range(n):
        beaten[i] = _least(tree, second[i]) <= third[i]
        if not beaten[i]:
            _enter(tree, second[i], third[i])
    return beaten


@compiled
def beaten_by_divide(second: Ranks, third: Ranks, fourth: Ranks) -> NDArray[np.bool_]:
    """Four columns, the first one sorted: whether an earlier point is nowhere worse.

    Halves are merged from the bottom up: the points of the left one stand earlier, so three columns are left to
    compare; in the order of the second, the tree over the third answers for the fourth.
    """
    n = len(second)
    beaten = np.zeros(n, dtype=np.bool_)
    order = np.arange(n)
    merged = np.empty(n, dtype=np.int64)
    tree = np.full(n + 1, n, dtype=np.int64)
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            left, right = low, middle
            for at in range(low, high):
                if right >= high or (left < middle and second[order[left]] <= second[order[right]]):
                    merged[at] = order[left]
                    if not beaten[order[left]]:
                        _enter(tree, third[order[left]], fourth[order[left]])
                    left += 1
                else:
                    point = order[right]
                    merged[at] = point
                    if not beaten[point]:
                        beaten[point] = _least(tree, third[point]) <= fourth[point]
                    right += 1
            for at in range(low, middle):
                _clear(tree, third[order[at]])
        for at in range(n):
            order[at] = merged[at]
        width *= 2
    return beaten


@compiled
def _clear(tree: Any, position: int) -> None:
    at, none = position + 1, len(tree) - 1
    while at < len(tree) and tree[at] != none:
        tree[at] = none
        at += at & -at
