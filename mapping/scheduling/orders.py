"""Operator orders to start from: as given, depth first with an eye on memory, and of the least peak.

The least peak over all orders without a drop (M_P) lies between the best order of a beam and the highest minimum cut
(:mod:`mapping.scheduling.live_cut`). What is left between them is closed by raising a threshold: a search over sets of
operators done asks whether an order keeps below it, and where none does, the least overflow seen is a proven
next threshold. Orders of least peak for irregular networks: HMCOS (Wang et al., DAC 2022) and Serenity (Ahn et
al., arXiv:2003.02369), whose search over down-sets this is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.deadline import Budget
from mapping.scheduling.by_layer import NO_LIMIT, Limits, Question, search_by_layer
from mapping.scheduling.down_sets import no_down_sets
from mapping.scheduling.instance import Instance, Pressure, build_instance
from mapping.scheduling.live_cut import LiveCuts, highest_cut
from mapping.scheduling.order_beam import Aim, beam_order, links_of
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import PeakResult, Status

__all__ = [
    "beam_of_orders", "beam_states", "depth_first_order", "given_order", "greedy_order", "least_peak",
    "needs_of_order", "peak_of_order",
]  # fmt: skip

_WIDTHS: Final = (64, 1000, 16_000, 250_000)
_BEAM_ENTRIES: Final = 1 << 24
"""A beam's width times operators; that many operators ready are held at most."""
_CHILDREN_PER_STATE: Final = 16
"""So many children of a beam are about the work of one state of a search."""
_BEAM_LIVE_WEIGHT: Final = 0.3
_MAX_STATES: Final = 20_000_000
_RISES: Final = 8
"""So often the threshold is raised by the least overflow alone; then it is bisected."""


def given_order(problem: ScheduleProblem) -> tuple[int, ...]:
    """The operators as the graph lists them."""
    return tuple(range(len(problem.operators)))


def peak_of_order(problem: ScheduleProblem, order: tuple[int, ...]) -> int:
    """Most bytes needed at one step when nothing is dropped before its last use."""
    return max(needs_of_order(problem, order), default=0)


def needs_of_order(problem: ScheduleProblem, order: Sequence[int]) -> list[int]:
    """Bytes needed at each step when nothing is dropped before its last use."""
    left = [len(tensor.consumers) for tensor in problem.tensors]
    held: set[int] = set()
    now, needs = 0, list[int]()
    for o in order:
        op = problem.operators[o]
        new = [t for t in (*op.inputs, *op.outputs) if t not in held]
        now += sum(problem.tensors[t].size_bytes for t in new)
        held.update(new)
        for t in op.inputs:
            left[t] -= 1
        in_place = sum(
            problem.tensors[pair.output].size_bytes
            for pair in op.in_place
            if any(left[t] == 0 for t in pair.inputs)
        )
        needs.append(now + op.workspace_bytes - in_place)
        for t in (*op.inputs, *op.outputs):
            if left[t] == 0:
                held.discard(t)
                now -= problem.tensors[t].size_bytes
    return needs


def depth_first_order(problem: ScheduleProblem) -> tuple[int, ...]:
    """Always goes on with the tensor made last; among its readers, the one that adds the fewest bytes."""
    return _list_order(problem, newest_first=True)


def greedy_order(problem: ScheduleProblem) -> tuple[int, ...]:
    """Always runs the ready operator after which the fewest bytes are alive; the one that needs least of equals."""
    return _list_order(problem, newest_first=False)


def beam_of_orders(instance: Instance, aim: Aim, budget: Budget) -> tuple[int, ...] | None:
    """The order that a beam finds for an aim, no wider than memory lets it; None where the time ends first."""
    aim = aim._replace(width=min(aim.width, _widest(instance)))
    order = budget.call(beam_order, instance.tables, links_of(instance), aim, budget.stop, long=True)
    return tuple(int(o) for o in order) if len(order) == instance.operators else None


def beam_states(instance: Instance, width: int) -> int:
    """What a beam counts among the states of a search; it looks at one in much less time."""
    return max(min(width, _widest(instance)) * instance.operators // _CHILDREN_PER_STATE, 1)


def _widest(instance: Instance) -> int:
    return max(_BEAM_ENTRIES // max(instance.operators, 1), 1)


def _list_order(problem: ScheduleProblem, newest_first: bool) -> tuple[int, ...]:
    size = [tensor.size_bytes for tensor in problem.tensors]
    waits = [len(before) for before in problem.predecessors]
    followers: list[list[int]] = [[] for _ in problem.operators]
    for o, before in enumerate(problem.predecessors):
        for w in before:
            followers[w].append(o)
    left = [len(tensor.consumers) for tensor in problem.tensors]
    made_at = [-1] * len(size)
    ready = [o for o, count in enumerate(waits) if count == 0]
    order: list[int] = []
    while ready:
        step = len(order)

        def key(o: int) -> tuple[int, ...]:
            op = problem.operators[o]
            grows = sum(size[t] for t in op.outputs if left[t])
            grows += sum(size[t] for t in op.inputs if made_at[t] < 0 and left[t] > 1)
            frees = sum(size[t] for t in op.inputs if made_at[t] >= 0 and left[t] == 1)
            newest = max((made_at[t] for t in op.inputs), default=-1)
            if newest_first:
                return -newest, grows - frees, problem.need_bytes[o], o
            return grows - frees, problem.need_bytes[o], o

        chosen = min(ready, key=key)
        ready.remove(chosen)
        op = problem.operators[chosen]
        for t in (*op.inputs, *op.outputs):
            if made_at[t] < 0 or t in op.outputs:
                made_at[t] = step
        for t in op.inputs:
            left[t] -= 1
        for follower in followers[chosen]:
            waits[follower] -= 1
            if waits[follower] == 0:
                ready.append(follower)
        order.append(chosen)
    return tuple(order)


def least_peak(
    problem: ScheduleProblem, *, time_limit_s: float | None = 60.0, max_states: int = _MAX_STATES
) -> PeakResult:
    """M_P: the least peak of bytes over all orders in which nothing is dropped before its last use.

    "optimal" when proved; otherwise ``bound_bytes`` is a proven lower bound and the order the best one found.
    """
    budget = Budget(time_limit_s)
    with budget.running():
        return _least_peak(problem, budget, max_states)


def _least_peak(problem: ScheduleProblem, budget: Budget, max_states: int) -> PeakResult:
    candidates = (given_order(problem), depth_first_order(problem), greedy_order(problem))
    best = min(candidates, key=lambda order: peak_of_order(problem, order))
    search = _PeakSearch(
        problem,
        build_instance(problem),
        budget,
        max_states,
        best,
        peak_of_order(problem, best),
        problem.least_budget,
    )
    for width in _WIDTHS:
        search.look_for_orders(width)
        if width == _WIDTHS[0]:
            search.cut()
        search.raise_threshold(width)
        if search.ended:
            break
    status: Status = "optimal" if search.bound >= search.peak else "feasible"
    bound = min(search.bound, search.peak)
    return PeakResult(status, search.peak, bound, search.best, budget.elapsed, search.states)


@dataclass
class _PeakSearch:
    """The best order on the way, its peak, and the proven bound; states of search used up."""

    problem: ScheduleProblem
    instance: Instance
    budget: Budget
    max_states: int
    best: tuple[int, ...]
    peak: int
    bound: int
    states: int = 0

    @property
    def ended(self) -> bool:
        """Proved, or out of time or states."""
        return self.bound >= self.peak or self.states >= self.max_states or self.budget.spent

    def offer(self, order: Sequence[int]) -> None:
        """Take an order if its peak is lower."""
        peak = peak_of_order(self.problem, tuple(order))
        if peak < self.peak:
            self.best, self.peak = tuple(order), peak

    def look_for_orders(self, width: int) -> None:
        """A beam of so many sets."""
        if self.ended:
            return
        found = beam_of_orders(
            self.instance, Aim(self.bound, width, False, _BEAM_LIVE_WEIGHT, 0), self.budget
        )
        self.states += beam_states(self.instance, width)
        if found is not None:
            self.offer(found)

    def cut(self) -> None:
        """Raise the bound to the highest minimum cut; what the best order needs at an operator is above its cut."""
        if self.ended:
            return
        needs = zip(self.best, needs_of_order(self.problem, self.best), strict=True)
        self.bound = max(self.bound, highest_cut(LiveCuts.of(self.instance), needs, self.bound, self.budget))

    def raise_threshold(self, width: int) -> None:
        """Ask for orders below a threshold between bound and peak, with searches of so many states a layer."""
        failed, rises, goal = self.bound - 1, 0, self.bound
        while goal < self.peak and not self.ended:
            holds, order, missed, states, overflow = _probe(
                self.instance, goal, width, self.max_states - self.states, self.budget
            )
            self.states += states
            if holds:
                self.offer([int(o) for o in order])
            elif missed >= NO_LIMIT:
                # Nothing was cut: every order needs at least the least overflow more.
                self.bound = min(goal + overflow, self.peak)
                rises += 1
                failed = self.bound - 1
            else:
                failed = goal
            if failed < self.bound and rises <= _RISES:
                goal = self.bound
            elif (
                self.peak - max(failed, self.bound) <= max(self.instance.unit, self.peak >> 12)
                and failed >= self.bound
            ):
                break
            else:
                goal = (max(failed, self.bound) + self.peak) // 2


def _probe(
    instance: Instance, capacity: int, width: int, max_states: int, budget: Budget
) -> tuple[bool, NDArray[np.int64], int, int, int]:
    none = np.zeros(0, np.int64)
    question = Question(
        # What is never dropped needs no copy.
        instance.tables._replace(copy_free=np.ones_like(instance.size)),
        Pressure(none, np.zeros(1, np.int64), none, none),
        no_down_sets(instance).tables,
        Limits(capacity, instance.unit, NO_LIMIT, width, False, max_states, 16 * width + 4096),
        np.arange(instance.operators),
    )
    cost, order, _, missed, states, overflow = budget.call(search_by_layer, question, budget.stop, long=True)
    return cost >= 0, order, int(missed), int(states), int(overflow)
