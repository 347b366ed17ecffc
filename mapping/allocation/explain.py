"""Why no plan exists: a moment with too many live bytes, pins that clash, or an irreducible set of buffers.

The irreducible set is found by QuickXplain (U. Junker, "QUICKXPLAIN: Preferred Explanations and Relaxations for
Over-Constrained Problems", AAAI 2004): halves of the buffers are left out as long as the rest stays without a
plan. Every step needs a proof, so a step that ran out of its budget keeps the buffers and costs the mark
"minimal".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mapping.allocation.bounds import most_live
from mapping.allocation.engines import FOUND, NONE, Prober
from mapping.allocation.instance import build_components
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import Explanation
from mapping.deadline import Budget

__all__ = ["clashing_pins", "explain_section", "explain_subset"]

Ints = NDArray[np.int64]
_PROBE_ROUNDS = 6


def clashing_pins(problem: AllocationProblem, capacity: int | None) -> Explanation | None:
    """Pinned buffers that overlap each other or exceed the capacity; no plan can repair that."""
    from mapping.allocation.check import check

    pinned = np.flatnonzero((problem.fixed >= 0) & (problem.size > 0) & (problem.upper > problem.lower))
    if not len(pinned):
        return None
    wrong = check(problem.subset(pinned), problem.fixed[pinned].tolist(), capacity, limit=1)
    if not wrong:
        return None
    buffers = tuple(int(pinned[i]) for i in wrong[0].buffers)
    return Explanation("pins", buffers, f"pinned {wrong[0].message}", minimal=True)


def explain_section(problem: AllocationProblem, capacity: int) -> Explanation | None:
    """The time with the most live bytes, when they alone exceed the capacity."""
    rows = [(span, i) for i in range(len(problem)) for span in problem.spans(i)]
    change: dict[int, int] = {}
    for span, _ in rows:
        height = span.window_upper - span.window_lower
        change[span.lower] = change.get(span.lower, 0) + height
        change[span.upper] = change.get(span.upper, 0) - height
    live, most, when, until = 0, 0, 0, 0
    times = sorted(change)
    for time, end in zip(times, times[1:] + times[-1:], strict=True):
        live += change[time]
        if live > most:
            most, when, until = live, time, end
    if most <= capacity:
        return None
    members = tuple(i for span, i in rows if span.lower <= when < span.upper)
    message = (
        f"from time {when} to {until}, {len(members)} buffers hold {most} bytes, "
        f"{most - capacity} more than the capacity of {capacity}"
    )
    return Explanation("section", members, message, minimal=False, lower=when, upper=until, live_bytes=most)


def explain_subset(problem: AllocationProblem, index: Ints, capacity: int, budget: Budget) -> Explanation:
    """An irreducible subset of a component that was proved to have no plan."""
    search = _Xplain(problem, capacity, budget)
    found = sorted(search.run([int(i) for i in index]))
    named = ", ".join(repr(str(problem.ids[i])) for i in found[:8]) + (", ..." if len(found) > 8 else "")
    quality = "none of them can be left out" if search.proved else "not proven minimal"
    message = f"these {len(found)} buffers alone have no plan below {capacity} bytes ({quality}): {named}"
    return Explanation("subset", tuple(found), message, minimal=search.proved)


class _Xplain:
    """One run of QuickXplain; ``proved`` stays True while every step ended with a proof or a plan."""

    def __init__(self, problem: AllocationProblem, capacity: int, budget: Budget) -> None:
        self._problem, self._capacity, self._budget = problem, capacity, budget
        self.proved = True

    def run(self, buffers: list[int]) -> list[int]:
        return self._split([], False, buffers)

    def _split(self, kept: list[int], grew: bool, rest: list[int]) -> list[int]:
        if grew and self._impossible(kept):
            return []
        if len(rest) == 1:
            return rest
        half = len(rest) // 2
        left, right = rest[:half], rest[half:]
        second = self._split(kept + left, True, right)
        first = self._split(kept + second, bool(second), left)
        return first + second

    def _impossible(self, buffers: Sequence[int]) -> bool:
        """Whether these buffers provably have no plan."""
        if self._budget.spent:
            self.proved = False
            return False
        for component in build_components(self._problem.subset(buffers)):
            if most_live(component) > self._capacity:
                return True
            if not component.searchable:
                self.proved = False
                continue
            prober = Prober(component, self._budget, 0)
            for turn in range(_PROBE_ROUNDS):
                answer = prober.probe(self._capacity, max(64, 4 * prober.size) << turn, turn)
                if answer.status == NONE:
                    return True
                if answer.status == FOUND:
                    break
            else:
                self.proved = False
        return False
