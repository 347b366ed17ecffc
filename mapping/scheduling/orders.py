"""Operator orders to start from: as given, depth first with an eye on memory, and of the least peak.

The least peak over all orders without a drop (M_P) is found by raising a threshold: a search over sets of
operators done asks whether an order keeps below it, and where none does, the least overflow seen is a proven
next threshold. Orders of least peak for irregular networks: HMCOS (Wang et al., DAC 2022) and Serenity (Ahn et
al., arXiv:2003.02369), whose search over down-sets this is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.deadline import Budget
from mapping.scheduling.by_layer import NO_LIMIT, Limits, Question, search_by_layer
from mapping.scheduling.down_sets import no_down_sets
from mapping.scheduling.instance import Instance, Pressure, build_instance, build_pressure
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import PeakResult, Status

__all__ = ["depth_first_order", "given_order", "greedy_order", "least_peak", "peak_of_order"]

_WIDTHS: Final = (64, 1000, 16_000, 250_000)
_MAX_STATES: Final = 20_000_000
_SURE_UP_TO: Final = 2000
"""Operators up to which the tensors certainly alive beside each one are looked up."""
_RISES: Final = 8
"""So often the threshold is raised by the least overflow alone; then it is bisected."""


def given_order(problem: ScheduleProblem) -> tuple[int, ...]:
    """The operators as the graph lists them."""
    return tuple(range(len(problem.operators)))


def peak_of_order(problem: ScheduleProblem, order: tuple[int, ...]) -> int:
    """Most bytes needed at one step when nothing is dropped before its last use."""
    left = [len(tensor.consumers) for tensor in problem.tensors]
    held: set[int] = set()
    now = most = 0
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
        most = max(most, now + op.workspace_bytes - in_place)
        for t in (*op.inputs, *op.outputs):
            if left[t] == 0:
                held.discard(t)
                now -= problem.tensors[t].size_bytes
    return most


def depth_first_order(problem: ScheduleProblem) -> tuple[int, ...]:
    """Always goes on with the tensor made last; among its readers, the one that adds the fewest bytes."""
    return _list_order(problem, newest_first=True)


def greedy_order(problem: ScheduleProblem) -> tuple[int, ...]:
    """Always runs the ready operator after which the fewest bytes are alive; the one that needs least of equals."""
    return _list_order(problem, newest_first=False)


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
    instance = build_instance(problem)
    candidates = (given_order(problem), depth_first_order(problem), greedy_order(problem))
    best = min(candidates, key=lambda order: peak_of_order(problem, order))
    peak = peak_of_order(problem, best)
    bound = problem.least_budget
    if instance.operators <= _SURE_UP_TO:
        bound = max(bound, sure_peak(instance))
    states = 0

    def spent() -> bool:
        return states >= max_states or budget.spent

    for width in _WIDTHS:
        failed, rises, goal = bound - 1, 0, bound
        while goal < peak and not spent():
            found, order, missed, more, overflow = _probe(instance, goal, width, max_states - states, budget)
            states += more
            if found:
                best = tuple(int(o) for o in order)
                peak = peak_of_order(problem, best)
            elif missed >= NO_LIMIT:
                # Nothing was cut: every order needs at least the least overflow more.
                bound = min(goal + overflow, peak)
                rises += 1
                failed = bound - 1
            else:
                failed = goal
            if failed < bound and rises <= _RISES:
                goal = bound
            elif peak - max(failed, bound) <= max(instance.unit, peak >> 12) and failed >= bound:
                break
            else:
                goal = (max(failed, bound) + peak) // 2
        if bound >= peak or spent():
            break
    status: Status = "optimal" if bound >= peak else "feasible"
    return PeakResult(status, peak, min(bound, peak), best, budget.elapsed, states)


def sure_peak(instance: Instance) -> int:
    """A lower bound on every order's peak: an operator's need and the tensors certainly alive beside it."""
    pressure = build_pressure(instance, -1)
    most = 0
    for c, o in enumerate(pressure.operators.tolist()):
        part = slice(int(pressure.at[c]), int(pressure.at[c + 1]))
        beside = pressure.tensor[part][pressure.sure[part] != 0]
        most = max(most, int(instance.least[o] + instance.size[beside].sum()))
    return most


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
