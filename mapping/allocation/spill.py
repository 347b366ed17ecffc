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
    size = problem.size
    spans = {int(i): problem.spans(int(i)) for i in kept}
    times = np.unique(
        [time for parts in spans.values() for part in parts for time in (part.lower, part.upper)]
    )
    live = np.zeros(len(times), np.int64)
    uses = {
        i: [
            (slice(*np.searchsorted(times, (part.lower, part.upper))), part.window_upper - part.window_lower)
            for part in parts
        ]
        for i, parts in spans.items()
    }
    for parts in uses.values():
        for steps, height in parts:
            live[steps] += height
    dropped: list[int] = []
    candidates = {i for i, parts in uses.items() if problem.fixed[i] < 0 and parts}
    while (live > capacity).any():
        over = np.maximum(live - capacity, 0)
        worst = int(over.argmax())
        here = [i for i in candidates if any(steps.start <= worst < steps.stop for steps, _ in uses[i])]
        if not here:
            break
        saved = {i: sum(int(np.minimum(over[s], h).sum()) for s, h in uses[i]) / int(size[i]) for i in here}
        chosen = max(here, key=lambda i: (saved[i], -i))
        candidates.discard(chosen)
        dropped.append(chosen)
        for steps, height in uses[chosen]:
            live[steps] -= height
    gone = set(dropped)
    return np.array([i for i in kept if int(i) not in gone], dtype=np.int64), dropped
