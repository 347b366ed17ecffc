"""A static arena as TFLite lays it out: every tensor has one address for its whole life, the largest placed first.

Tensors that find no place in the scratchpad live off-chip: each operator that uses one fetches it for its own
step alone. Those short stays take part in the placement. When one finds no place, the tensor of the longest life
beside it moves off-chip too; at the end every stay may be short, which fits at M_R. Layout: the greedy-by-size
planner of TensorFlow Lite (Pisarchyk and Lee, arXiv:2001.03288).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.stays import Stays, allocation_of, spread, stays_of

__all__ = ["static_arena"]


def static_arena(problem: ScheduleProblem, order: Sequence[int], capacity: int) -> tuple[Stays, list[int]]:
    """Stays and offsets of an order; the capacity must be at least the problem's least budget."""
    step_of = {o: step for step, o in enumerate(order)}
    uses = [
        sorted({step_of[o] for o in ((tensor.producer,) if tensor.producer >= 0 else ()) + tensor.consumers})
        for tensor in problem.tensors
    ]
    outside: set[int] = set()
    while True:
        drops: dict[int, list[int]] = {}
        for t in outside:
            for step in uses[t][1:]:
                drops.setdefault(step, []).append(t)
        stays = stays_of(problem, order, drops)
        offsets, failed = _place(problem, stays, capacity)
        if failed is None:
            return stays, spread(problem, stays, np.array(offsets, np.int64)).tolist()
        start, end = failed
        beside = [
            (b - a, t)
            for t, a, b in stays.spans
            if t not in outside and a < end and start < b and len(uses[t]) > 1
        ]
        assert beside, "stays of one step always fit side by side at M_R"
        outside.add(max(beside)[1])


def _place(problem: ScheduleProblem, stays: Stays, capacity: int) -> tuple[list[int], tuple[int, int] | None]:
    """First fit, the largest first; the span of the first one that finds no place."""
    buffers = allocation_of(problem, stays)
    rows = list(zip(buffers.lower.tolist(), buffers.upper.tolist(), buffers.size.tolist(), strict=True))
    offsets = [0] * len(rows)
    done: list[tuple[int, int, int, int]] = []
    for i in sorted(range(len(rows)), key=lambda i: (-rows[i][2], i)):
        low, high, size = rows[i]
        at = 0
        for offset, end in sorted((o, e) for a, b, o, e in done if a < high and low < b and e > o):
            if offset - at >= size:
                break
            at = max(at, end)
        if at + size > capacity:
            return offsets, (low, high)
        offsets[i] = at
        done.append((low, high, at, at + size))
    return offsets, None
