"""Plans again after a small change, and moves as few buffers as it can.

Buffers that the earlier plan knows keep their offsets where these still hold. When the rest does not fit around
them, the ones with the smallest area are set free, half of the kept ones at a time, until a plan is found; with
none kept the problem is solved afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mapping.allocation.check import check
from mapping.allocation.problem import NO_OFFSET, AllocationProblem
from mapping.allocation.result import AllocationResult
from mapping.allocation.solving import lower_bound, solve

__all__ = ["Replan", "replan"]


@dataclass(frozen=True, slots=True)
class Replan:
    """The new plan; ``moved`` are known buffers with another offset than before, ``moved_bytes`` their sizes."""

    result: AllocationResult
    moved: tuple[int, ...]
    moved_bytes: int


def replan(
    problem: AllocationProblem,
    earlier: Mapping[str, int],
    capacity: int | None = None,
    *,
    time_limit_s: float | None = None,
    max_nodes: int | None = None,
    seed: int = 0,
) -> Replan:
    """A plan near an earlier one (offsets by buffer id).

    Without a capacity the earlier plan's height is kept to where possible, and the lower bound where that is
    higher; when no plan keeps it, the least peak is sought. ``result.bound_bytes`` and the status speak of the
    problem itself, not of the one with kept offsets.
    """
    limit = capacity
    bound = lower_bound(problem)
    if limit is None:
        tops = [earlier[str(problem.ids[i])] + int(problem.size[i]) for i in _known(problem, earlier)]
        limit = max([bound, *tops])
    kept = _holding(problem, earlier, limit)
    slice_s = None if time_limit_s is None else time_limit_s / 8
    slice_nodes = None if max_nodes is None else max(max_nodes // 8, 1)
    nodes = 0
    seconds = 0.0
    while kept:
        fixed = problem.fixed.copy()
        for i in kept:
            fixed[i] = earlier[str(problem.ids[i])]
        result = solve(
            problem.pinned_at(fixed),
            limit,
            time_limit_s=slice_s,
            max_nodes=slice_nodes,
            seed=seed,
            explain=False,
        )
        nodes, seconds = nodes + result.nodes, seconds + result.seconds
        if result.status in ("optimal", "feasible"):
            peak = result.peak_bytes
            result = replace(
                result, bound_bytes=bound, status="optimal" if peak == bound else "feasible",
                nodes=nodes, seconds=seconds, capacity_bytes=capacity,
            )  # fmt: skip
            return _report(problem, earlier, result)
        if result.interrupted:
            break
        kept = kept[: len(kept) // 2]
    result = solve(problem, capacity, time_limit_s=time_limit_s, max_nodes=max_nodes, seed=seed)
    return _report(
        problem, earlier, replace(result, nodes=nodes + result.nodes, seconds=seconds + result.seconds)
    )


def _known(problem: AllocationProblem, earlier: Mapping[str, int]) -> list[int]:
    return [i for i in range(len(problem)) if str(problem.ids[i]) in earlier and problem.fixed[i] < 0]


def _holding(problem: AllocationProblem, earlier: Mapping[str, int], limit: int) -> list[int]:
    """Known buffers whose offsets hold together, the largest areas first."""
    area = problem.size.astype(np.float64) * (problem.upper - problem.lower)
    known = sorted(_known(problem, earlier), key=lambda i: (-area[i], i))
    kept: list[int] = []
    pinned = [i for i in range(len(problem)) if problem.fixed[i] >= 0]
    offsets = {i: int(problem.fixed[i]) for i in pinned}
    for i in known:
        at = earlier[str(problem.ids[i])]
        close = [
            k
            for k in (*pinned, *kept)
            if problem.lower[k] < problem.upper[i] and problem.lower[i] < problem.upper[k]
        ]
        trial = problem.subset([*close, i]).pinned_at(np.full(len(close) + 1, NO_OFFSET))
        if at >= 0 and not check(trial, [*(offsets[k] for k in close), at], limit, limit=1):
            kept.append(i)
            offsets[i] = at
    return kept


def _report(problem: AllocationProblem, earlier: Mapping[str, int], result: AllocationResult) -> Replan:
    if result.offsets is None:
        return Replan(result, (), 0)
    moved = tuple(
        i for i in _known(problem, earlier) if int(result.offsets[i]) != earlier[str(problem.ids[i])]
    )
    return Replan(result, moved, int(problem.size[list(moved)].sum()))
