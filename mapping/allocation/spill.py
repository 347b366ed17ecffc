"""Which buffers to keep out of a memory that is too small, so that the rest fits.

Works only at points of pressure: while the rest has no plan, one buffer is taken from the set that proves it (the
fullest section, or the subset without a plan). Taken is the one that relieves the most overfull sections per byte
moved. The answer comes with a checked plan of the rest; its bytes are a heuristic, not a minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.allocation.problem import AllocationProblem
from mapping.allocation.solving import solve

__all__ = ["SpillPlan", "suggest_spills"]

_NODES_PER_TRY = 20_000


@dataclass(frozen=True, slots=True)
class SpillPlan:
    """``buffers`` leave (indices into the problem); ``offsets`` place the rest, -1 for those that left."""

    buffers: tuple[int, ...]
    bytes: int
    offsets: NDArray[np.int64] | None


def suggest_spills(problem: AllocationProblem, capacity: int, max_nodes: int = _NODES_PER_TRY) -> SpillPlan:
    """Buffers to leave out so that the others fit below the capacity. Pinned buffers stay."""
    kept = np.arange(len(problem))
    spilled: list[int] = []
    while True:
        kept, dropped = _relieve(problem, kept, capacity)
        spilled += dropped
        rest = problem.subset(kept)
        result = solve(rest, capacity, max_nodes=max_nodes)
        if result.status in ("optimal", "feasible") and result.offsets is not None:
            offsets = np.full(len(problem), -1, np.int64)
            offsets[kept] = result.offsets
            break
        # No section is overfull, and still there is no plan, or none was found: one more has to go.
        blamed = range(len(kept)) if result.explanation is None else result.explanation.buffers
        free = [i for i in blamed if rest.fixed[i] < 0] or [i for i in range(len(kept)) if rest.fixed[i] < 0]
        if not free:
            return SpillPlan(tuple(sorted(spilled)), int(problem.size[spilled].sum()), None)
        life = rest.upper - rest.lower
        chosen = max(free, key=lambda i: (float(life[i]), -int(rest.size[i]), -i))
        spilled.append(int(kept[chosen]))
        kept = np.delete(kept, chosen)
    return SpillPlan(tuple(sorted(spilled)), int(problem.size[spilled].sum()), offsets)


def _relieve(
    problem: AllocationProblem, kept: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.int64], list[int]]:
    """Take buffers out until no moment holds more live bytes than the capacity."""
    lower, upper, size = problem.lower, problem.upper, problem.size
    times = np.unique(np.concatenate([lower[kept], upper[kept]]))
    live = np.zeros(len(times), np.int64)
    first = np.searchsorted(times, lower)
    last = np.searchsorted(times, upper)
    for i in kept:
        live[first[i] : last[i]] += size[i]
    over = np.maximum(live - capacity, 0)
    dropped: list[int] = []
    candidates = {int(i) for i in kept if problem.fixed[i] < 0 and size[i] > 0}
    while over.any() and candidates:
        worst = int(over.argmax())
        here = [i for i in candidates if first[i] <= worst < last[i]]
        if not here:
            break

        saved = [float(np.minimum(over[first[i] : last[i]], size[i]).sum()) / float(size[i]) for i in here]
        chosen = max(zip(saved, (-i for i in here), strict=True))[1] * -1
        candidates.discard(chosen)
        dropped.append(chosen)
        live[first[chosen] : last[chosen]] -= size[chosen]
        over = np.maximum(live - capacity, 0)
    gone = set(dropped)
    return np.array([i for i in kept if int(i) not in gone], dtype=np.int64), dropped
