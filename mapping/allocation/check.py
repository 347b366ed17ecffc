"""The independent checker: does a plan keep every promise? Shares no code with any engine.

Plain Python that sweeps over time and holds the byte ranges in use in order of address.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from mapping.allocation.check_rules import overlaps_under_rules, rule_breaches
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import Move
from mapping.allocation.violation import Violation

__all__ = ["Violation", "check", "peak_of"]


def peak_of(problem: AllocationProblem, offsets: Sequence[int], moves: Sequence[Move] = ()) -> int:
    """The highest end of any buffer, moved ones included. Buffers that are never in use do not count."""
    if moves:
        return max(
            peak_of(problem, offsets), *(move.offset + int(problem.size[move.buffer]) for move in moves)
        )
    if problem.gaps:
        tops = [int(offsets[i]) + int(problem.size[i]) for i in range(len(problem)) if problem.spans(i)]
        return max(tops, default=0)
    rows = zip(offsets, problem.size.tolist(), problem.lower.tolist(), problem.upper.tolist(), strict=True)
    return max((int(at) + size for at, size, low, high in rows if size > 0 and high > low), default=0)


def check(
    problem: AllocationProblem,
    offsets: Sequence[int],
    capacity: int | None = None,
    limit: int = 20,
    moves: Sequence[Move] = (),
) -> list[Violation]:
    """Everything that is wrong with a plan, at most ``limit`` items; an empty list means that it holds.

    Checks: one offset per buffer, none negative, alignment (of buffers that are not pinned), pins, the capacity,
    that no byte is used by two buffers at one time, and the problem's rules of places. ``moves`` are the copies that
    the plan makes.
    """
    n = len(problem)
    if len(offsets) != n:
        return [Violation("count", (), f"the plan has {len(offsets)} offsets for {n} buffers")]
    found: list[Violation] = []
    columns = zip(problem.fixed.tolist(), problem.alignment.tolist(), strict=True)
    for i, (fixed, alignment) in enumerate(columns):
        offset = int(offsets[i])
        if offset >= 0 and (offset == fixed if fixed >= 0 else offset % alignment == 0):
            continue
        name = problem.ids[i]
        if offset < 0:
            found.append(Violation("negative", (i,), f"buffer {name!r} has the offset {offset}"))
        elif fixed >= 0 and offset != fixed:
            found.append(Violation("pin", (i,), f"buffer {name!r} is pinned at {fixed} but lies at {offset}"))
        elif fixed < 0 and offset % int(problem.alignment[i]):
            wanted = int(problem.alignment[i])
            found.append(
                Violation("alignment", (i,), f"buffer {name!r} at {offset} is not aligned to {wanted}")
            )
    if capacity is not None and peak_of(problem, offsets, moves) > capacity:
        found += [
            Violation(
                "capacity", (move.buffer,), f"buffer {problem.ids[move.buffer]!r} moves above {capacity}"
            )
            for move in moves
            if move.offset + int(problem.size[move.buffer]) > capacity
        ]
        for i in range(n):
            top = int(offsets[i]) + int(problem.size[i])
            if top > capacity and problem.spans(i):
                message = f"buffer {problem.ids[i]!r} ends at {top}, above the capacity {capacity}"
                found.append(Violation("capacity", (i,), message))
    if problem.rules or moves:
        found += rule_breaches(problem, offsets, moves)
        return (found + overlaps_under_rules(problem, offsets, moves, limit))[:limit]
    return (found + _overlaps(problem, offsets, limit))[:limit]


def _overlaps(problem: AllocationProblem, offsets: Sequence[int], limit: int) -> list[Violation]:
    # An end comes before a start of the same time: half-open lives that touch do not conflict.
    events: list[tuple[int, int, int, int, int]] = []
    rows = zip(problem.lower.tolist(), problem.upper.tolist(), problem.size.tolist(), strict=True)
    for i, (begin, end, size) in enumerate(rows):
        if i not in problem.gaps:
            if size > 0 and end > begin:
                at = int(offsets[i])
                events.append((end, 0, at, at + size, i))
                events.append((begin, 1, at, at + size, i))
            continue
        for span in problem.spans(i):
            low = int(offsets[i]) + span.window_lower
            high = int(offsets[i]) + span.window_upper
            events.append((span.upper, 0, low, high, i))
            events.append((span.lower, 1, low, high, i))
    events.sort()
    found: list[Violation] = []
    active: list[tuple[int, int, int]] = []
    for time, kind, low, high, i in events:
        at = bisect_left(active, (low, high, i))
        if kind == 0:
            del active[at]
            continue
        # While nothing overlaps, the ranges are disjoint and only the two at the place can meet the new one.
        for other in active[max(at - 1, 0) : at + 1]:
            if other[0] < high and low < other[1]:
                names = f"{problem.ids[other[2]]!r} and {problem.ids[i]!r}"
                low_end, high_end = max(low, other[0]), min(high, other[1])
                message = f"buffers {names} share the bytes {low_end} to {high_end} at time {time}"
                found.append(Violation("overlap", (other[2], i), message))
                if len(found) >= limit:
                    return found
        active.insert(at, (low, high, i))
    return found
