"""What is known of a problem with rules before its pairs are: a plan in which nothing shares a byte, and a bound.

The answer where the clock runs out while the model is made. Buffers of one storage lie at one offset, storages one
above the other. No plan where pins or smaller outputs in place leave no such stack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.allocation.problem import AllocationProblem
from mapping.allocation.storage_model import StorageModel
from mapping.allocation.storage_search import Found

__all__ = ["stacked"]

_HIGHEST: Final = 2**62
Ints = NDArray[np.int64]


def stacked(problem: AllocationProblem, root: Sequence[int]) -> tuple[StorageModel, Found]:
    """A model without pairs, and the stack with its bound; ``root`` as of ``groups_of``."""
    groups: dict[int, list[int]] = {}
    for i, r in enumerate(root):
        groups.setdefault(r, []).append(i)
    members = tuple(map(tuple, groups.values()))
    used = (problem.upper > problem.lower) & (problem.size > 0)
    size = [max((int(problem.size[i]) for i in group if used[i]), default=0) for group in members]
    none = np.zeros((0, 4), np.int64)
    model = StorageModel(
        1, members, np.array(size, np.int64), np.ones(len(members), np.int64),
        np.full(len(members), -1, np.int64), none, none, none[:, :3], none, _bound(problem, root),
    )  # fmt: skip
    nested = any(root[out] != root[into] for out, into in problem.rules.inside)
    places = None if nested or (problem.fixed >= 0).any() else _stack(problem, members, size)
    return model, Found(places, model.bound, "stack")


def _stack(
    problem: AllocationProblem, members: Sequence[tuple[int, ...]], size: Sequence[int]
) -> Ints | None:
    at, top = [], 0
    for group, tall in zip(members, size, strict=True):
        step = math.lcm(*(int(problem.alignment[i]) for i in group))
        edges = [
            (int(problem.size[i]), problem.rules.boundary[i]) for i in group if i in problem.rules.boundary
        ]
        place = -(-top // step) * step
        if any(tall and place // edge != (place + tall - 1) // edge for tall, edge in edges):
            # No buffer is larger than its boundary, so that none crosses one from here.
            step = math.lcm(step, *(edge for _, edge in edges))
            place = -(-top // step) * step
        at.append(place)
        top = max(top, place + tall)
    return np.array(at, np.int64) if top < _HIGHEST and max(at, default=0) < _HIGHEST else None


def _bound(problem: AllocationProblem, root: Sequence[int]) -> int:
    """Most live bytes of the buffers that no rule lets share any and that have no gaps."""
    rules = problem.rules
    free = np.array([r == i for i, r in enumerate(root)], dtype=bool)
    for i in (*(i for group in rules.alias for i in group), *problem.gaps):
        free[i] = False
    for pair in (*rules.inside, *rules.shared):
        free[list(pair)] = False
    free &= problem.upper > problem.lower
    size = problem.size[free]
    times = np.concatenate([problem.upper[free], problem.lower[free]])
    # A stable order: at one time ends come first.
    live = np.cumsum(np.concatenate([-size, size])[np.argsort(times, kind="stable")])
    alone = int(problem.size[problem.upper > problem.lower].max(initial=0)) if not problem.gaps else 0
    return max(int(live.max(initial=0)), alone)
