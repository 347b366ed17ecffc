"""Says in words why there is no schedule, or why none was proved best, and what could help."""

from __future__ import annotations

import itertools
from typing import Final

from hw_configs.units import format_quantity
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.stays import Stays, stays_of

__all__ = ["not_proved", "too_small"]

LEVERS: Final = "a larger scratchpad (--scratchpad), the operator split into tiles"
_SHOWN: Final = 6


def too_small(problem: ScheduleProblem, capacity: int) -> str:
    """Names the operator of the largest need, its tensors, what is there and what could help."""
    o = max(range(len(problem.operators)), key=lambda i: (problem.need_bytes[i], -i))
    op = problem.operators[o]
    parts = [(problem.tensors[t].size_bytes, problem.tensors[t].name) for t in (*op.inputs, *op.outputs)]
    if op.workspace_bytes:
        parts.append((op.workspace_bytes, "workspace"))
    parts.sort(key=lambda part: (-part[0], part[1]))
    shown = ", ".join(f"{name} {size}" for size, name in parts[:_SHOWN])
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    others = sum(need > capacity for need in problem.need_bytes) - 1
    also = f"; {others} more operators do not fit either" if others > 0 else ""
    weights = ", weights streamed (--weights stream)" if problem.weights == "resident" else ""
    return (
        f"operator {op.name!r} needs {_bytes(problem.need_bytes[o])} in the scratchpad at once ({shown}{more}), "
        f"and {_bytes(capacity)} are there{also}; what could help: {LEVERS}{weights}"
    )


def not_proved(problem: ScheduleProblem, stays: Stays | None, capacity: int, bound: int) -> str:
    """For a search that ran out of time: where the pressure is highest, and what could help."""
    levers = "more time (--time-limit), a larger scratchpad (--scratchpad)"
    if problem.weights == "resident":
        levers += ", weights streamed (--weights stream)"
    if stays is None:
        o = max(range(len(problem.operators)), key=lambda i: (problem.need_bytes[i], -i))
        name, need = problem.operators[o].name, problem.need_bytes[o]
        return (
            f"no schedule was found in the time; the tightest operator is {name!r}: {_bytes(need)} of "
            f"{_bytes(capacity)}; what could help: {levers}"
        )
    step, live, first, last = _section(problem, stays)
    return (
        f"not proved optimal: at least {_bytes(bound)} must move; most bytes are wanted around step {step} "
        f"({first!r} to {last!r}): {_bytes(live)} would be alive at once without a drop, and "
        f"{_bytes(capacity)} are there; what could help: {levers}"
    )


def _section(problem: ScheduleProblem, stays: Stays) -> tuple[int, int, str, str]:
    """The step of most live bytes when nothing is dropped, and the operators at the ends of its section."""
    whole = stays_of(problem, stays.order)
    change = [0] * (len(stays.order) + 1)
    for t, start, end in whole.spans:
        change[start] += problem.tensors[t].size_bytes
        change[end] -= problem.tensors[t].size_bytes
    work = [problem.operators[o].workspace_bytes for o in stays.order]
    live = [now + more for now, more in zip(itertools.accumulate(change), work, strict=False)]
    at = max(range(len(live)), key=live.__getitem__)
    low = high = at
    while low > 0 and live[low - 1] >= live[at] * 0.9:
        low -= 1
    while high + 1 < len(live) and live[high + 1] >= live[at] * 0.9:
        high += 1
    names = [problem.operators[o].name for o in stays.order]
    return at, live[at], names[low], names[high]


def _bytes(count: int) -> str:
    return f"{count} bytes ({format_quantity(count, 'size')})"
