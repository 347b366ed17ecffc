"""Solves an allocation problem: below a capacity, or with the least peak; with a proof or an honest gap.

The order of work: lower bounds (most live bytes), a greedy portfolio as upper bound, then the exact engines in
rounds with doubling node limits. When minimising, every round asks for the lower bound first, which nearly every
real instance reaches, and then bisects between bound and best plan. Only a proof raises the bound; a probe that
ran out of nodes proves nothing. The answer of a run that ends by ``max_nodes`` depends on problem and seed only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import PhysicsError, bad_input, nearest
from mapping.allocation.bounds import most_live
from mapping.allocation.check import check, peak_of
from mapping.allocation.engines import FOUND, NONE, Prober
from mapping.allocation.explain import clashing_pins, explain_section, explain_subset
from mapping.allocation.greedy import (
    SPARSE_FROM,
    compact,
    greedy_orders,
    improve,
    pack_by_start,
    peak_units,
    place_in_order,
)
from mapping.allocation.instance import Component, build_components
from mapping.allocation.joining import can_join, join, offsets_of
from mapping.allocation.kernels import load_kernels
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import AllocationResult, Explanation, Status
from mapping.deadline import Budget, running_budget

__all__ = ["DEFAULT_MAX_NODES", "ENGINES", "Engine", "lower_bound", "solve"]

Ints = NDArray[np.int64]
Engine = Literal["auto", "greedy", "search", "mip"]
ENGINES: Final = ("auto", "greedy", "search", "mip")

DEFAULT_MAX_NODES: Final = 2_000_000
"""The search ends here when neither a time limit nor a node budget is given."""

_LOCAL_SEARCH_BUFFERS: Final = 4000
_CHECK_S: Final = 8e-6
"""Seconds that the check of a plan takes for one buffer (measured on 10^5 and 10^6 buffers; only plans time by it)."""
_LAST_S: Final = 0.5
"""Seconds that the plan by start gets when the clock has run out before it; a million buffers take about as long."""
_JOINS: Final = 4
"""Joins per round, of which the one with the fewest blocks is searched."""
_JOINED_SHARE: Final = 0.9
"""Blocks that are more than this share of the buffers are not worth a search of their own."""
_STEPS: Final = 16
"""A round of bisection stops once it has cut the open range into this many parts."""


@dataclass(slots=True)
class _Part:
    """One component on the way: its proven bound and its best plan so far."""

    component: Component
    prober: Prober
    lower: int
    offsets: Ints
    peak: int
    engine: str
    order: Ints


def solve(
    problem: AllocationProblem,
    capacity: int | None = None,
    *,
    time_limit_s: float | None = None,
    max_nodes: int | None = None,
    engine: Engine = "auto",
    seed: int = 0,
    explain: bool = True,
    move_cost: float = 0.0,
) -> AllocationResult:
    """A plan that keeps below ``capacity`` bytes, or with the least peak when ``capacity`` is None.

    Stops at ``time_limit_s`` seconds, at ``max_nodes`` search nodes, or on Ctrl-C, with the best plan so far;
    with neither limit, at :data:`DEFAULT_MAX_NODES`. Every plan returned has passed
    :func:`mapping.allocation.check.check`. ``move_cost``: what a byte costs that a problem's rules let move, in bytes
    of peak. Raises ``InputError`` for an unknown engine or a negative capacity.
    """
    if engine not in ENGINES:
        raise bad_input(f"found {engine!r}; expected one of {', '.join(ENGINES)}", path="--engine",
                        suggestion=nearest(engine, ENGINES))  # fmt: skip
    if capacity is not None and capacity < 0:
        raise bad_input(f"found {capacity}; expected a capacity of at least 0 bytes", path="--capacity")
    if time_limit_s is None and max_nodes is None:
        max_nodes = DEFAULT_MAX_NODES
    if time_limit_s is not None and running_budget() is None:
        many = len(problem) > SPARSE_FROM
        load_kernels(windowed=bool(problem.gaps), many=many, ruled=bool(problem.rules))
    # The plan is checked after the search, and the answer is due by the limit.
    checking = _CHECK_S * len(problem) if len(problem) > SPARSE_FROM else 0.0
    seconds = None if time_limit_s is None else max(time_limit_s - checking, time_limit_s / 2)
    budget = Budget(seconds, max_nodes)
    if problem.rules:
        from mapping.allocation.constrained import solve_with_rules

        return solve_with_rules(problem, capacity, engine, budget, seed, move_cost)
    pins = clashing_pins(problem, capacity)
    if pins is not None:
        return AllocationResult("infeasible", None, 0, None, "pins", 0, budget.elapsed, seed, capacity, pins)
    if engine == "mip":
        from mapping.allocation.mip import solve_by_mip

        return solve_by_mip(problem, capacity, time_limit_s=time_limit_s or 60.0, seed=seed)
    parts: list[_Part] | None = None
    explanation: Explanation | None = None
    with budget.running():
        parts = [_start(component, budget, seed) for component in build_components(problem)]
        floor = max((part.lower for part in parts), default=0)
        goal = floor if capacity is None else capacity
        if capacity is None or floor <= capacity:
            _report(parts, budget)
            for part in parts:
                _greedy(part, goal if capacity is not None else max(goal, part.lower), budget)
                _report(parts, budget)
            if engine in ("auto", "search"):
                _deepen(parts, capacity, budget, seed)
        if explain and capacity is not None and max((part.lower for part in parts), default=0) > capacity:
            explanation = _explain(problem, parts, capacity, budget)
    return _answer(problem, parts, capacity, budget, seed, explanation)


def lower_bound(problem: AllocationProblem) -> int:
    """A proven lower bound on the peak in bytes: the most live bytes at one time, with alignment and pins."""
    if problem.rules:
        from mapping.allocation.constrained import least_peak_bound

        return least_peak_bound(problem)
    return max((most_live(component) for component in build_components(problem)), default=0)


def _report(parts: Sequence[_Part], budget: Budget) -> None:
    """The bound and the best plan of the whole problem, to who watches."""
    budget.report(
        max((part.lower for part in parts), default=0), max((part.peak for part in parts), default=None)
    )


def _start(component: Component, budget: Budget, seed: int) -> _Part:
    inst = component.instance
    if len(inst.size) > SPARSE_FROM and not component.windowed and not (inst.fixed >= 0).any():
        # The orders by size look at more buffers than fit into every limit; this one is there in any case.
        args = (inst.first, inst.last, inst.size, inst.align, True)
        if budget.stop[0] and not budget.interrupted:
            # Late already, as after long preparation: a moment more is the difference between a plan and a stack.
            with Budget(_LAST_S, outer=None, watch=None).running() as last:
                offsets = last.call(pack_by_start, *args, last.stop, long=True)
        else:
            offsets = budget.call(pack_by_start, *args, budget.stop, long=True)
        return _Part(
            component, Prober(component, budget, seed), most_live(component), offsets,
            peak_units(component, offsets), "greedy/by start", np.arange(len(inst.size)),
        )  # fmt: skip
    name, order = next(greedy_orders(component.instance))
    offsets = _placed(component, order, False, budget)
    peak = peak_units(component, offsets)
    return _Part(
        component,
        Prober(component, budget, seed),
        most_live(component),
        offsets,
        peak,
        f"greedy/{name}",
        order,
    )


def _placed(component: Component, order: Ints, best_fit: bool, budget: Budget) -> Ints:
    if len(order) <= SPARSE_FROM:
        return place_in_order(component, order, best_fit)
    placed: Ints = budget.call(place_in_order, component, order, best_fit, budget.stop, long=True)
    return placed


def _greedy(part: _Part, goal: int, budget: Budget) -> None:
    for name, order in greedy_orders(part.component.instance):
        for best_fit in (False, True):
            if part.peak <= goal or budget.spent:
                return
            if part.component.windowed and best_fit:
                continue
            offsets = _placed(part.component, order, best_fit, budget)
            if _keep(part, offsets, f"greedy/{name}{'/best-fit' if best_fit else ''}"):
                part.order = order


def _keep(part: _Part, offsets: Ints, engine: str) -> bool:
    """Take a plan that is lower than the best one."""
    peak = peak_units(part.component, offsets)
    if peak >= part.peak:
        return False
    part.offsets, part.peak, part.engine = offsets, peak, engine
    return True


def _deepen(parts: Sequence[_Part], capacity: int | None, budget: Budget, seed: int) -> None:
    """Rounds of probes with doubling node limits, until every part is done or the budget is spent."""
    turn = 0
    while not budget.spent:
        floor = max((part.lower for part in parts), default=0)
        if capacity is not None and floor > capacity:
            return
        goal = floor if capacity is None else capacity
        open_parts = [part for part in parts if part.peak > goal and part.component.searchable]
        rough_parts = [part for part in parts if part.peak > goal and not part.component.searchable]
        if not open_parts and not rough_parts:
            return
        for part in open_parts:
            nodes = max(64, 4 * part.prober.size) << min(turn, 40)
            _joined(part, max(goal, part.lower), nodes, turn, budget, seed)
            if capacity is None:
                _round_down(part, goal, nodes, turn, budget)
            else:
                _round_below(part, capacity, nodes, turn)
            _local_search(part, goal, nodes, turn, budget, seed)
            _report(parts, budget)
        if not open_parts:
            return
        turn += 1


def _round_below(part: _Part, capacity: int, nodes: int, turn: int) -> None:
    """One round for a capacity. The lower bound is asked for as well: a tighter question can be easier."""
    if _ask(part, capacity, nodes, turn) or part.lower > capacity:
        return
    if part.lower < capacity:
        _ask(part, part.lower, nodes, turn)


def _round_down(part: _Part, goal: int, nodes: int, turn: int, budget: Budget) -> None:
    """One round for the least peak: the goal first, then a bisection up to the best plan."""
    if _ask(part, max(goal, part.lower), nodes, turn):
        return
    # The bound deserves most of the effort; plans between it and the best one get a part of it at each step.
    low = max(goal, part.lower)
    step = max((part.peak - low) // _STEPS, part.component.unit)
    while part.peak - low > step and not budget.spent:
        middle = (low + part.peak) // 2
        if not _ask(part, middle, max(3 * part.prober.size, nodes // 4), turn):
            low = middle


def _joined(part: _Part, capacity: int, nodes: int, turn: int, budget: Budget, seed: int) -> None:
    """One round for the smaller problem of buffers joined into blocks, whose plans are plans of the part."""
    component, inst = part.component, part.component.instance
    if part.peak <= capacity or budget.spent or not can_join(component):
        return
    tries = [join(inst, seed + turn * _JOINS + k, budget.stop) for k in range(_JOINS)]
    blocks = min(tries, key=len)
    if budget.stop[0] or len(blocks) > _JOINED_SHARE * len(inst.size):
        return
    problem = AllocationProblem.from_arrays(
        [block.begin for block in blocks], [block.end for block in blocks], [block.size for block in blocks]
    )
    bases = np.zeros(len(blocks), np.int64)
    least = -(-capacity // component.unit)
    for piece in build_components(problem):
        child = _start(piece, budget, seed)
        goal = max(least, child.lower)
        _greedy(child, goal, budget)
        if child.peak > goal and piece.searchable:
            _round_down(child, goal, nodes, turn, budget)
        bases[piece.index] = child.offsets * piece.unit
    plan = offsets_of(blocks, bases.tolist(), len(inst.size))
    if _keep(part, compact(component, plan), "joined"):
        part.order = np.lexsort((np.arange(len(part.offsets)), part.offsets))


def _ask(part: _Part, capacity: int, nodes: int, turn: int) -> bool:
    """Probe a part; True when a plan at or below the capacity is known now. A proof raises the bound."""
    if part.peak <= capacity:
        return True
    answer = part.prober.probe(capacity, nodes, turn)
    if answer.offsets is not None and _keep(part, compact(part.component, answer.offsets), answer.engine):
        part.order = np.lexsort((np.arange(len(part.offsets)), part.offsets))
    if answer.status == FOUND:
        return part.peak <= capacity
    if answer.status == NONE:
        part.lower = max(part.lower, _next_peak(part.component, capacity))
    return False


def _next_peak(component: Component, capacity: int) -> int:
    """The least peak above a capacity: tops lie at a multiple of the unit plus a buffer's size."""
    sizes = np.unique(component.true_size)
    steps = np.maximum((capacity - sizes) // component.unit + 1, 0)
    return int((steps * component.unit + sizes).min())


def _local_search(part: _Part, goal: int, nodes: int, turn: int, budget: Budget, seed: int) -> None:
    component, inst = part.component, part.component.instance
    n = part.prober.size
    if component.windowed or n > _LOCAL_SEARCH_BUFFERS or part.peak <= max(goal, part.lower) or budget.spent:
        return
    rounds = budget.allow(min(max(16, nodes // max(8, n // 8)), 1 << 14))
    order, offsets, _ = budget.call(
        improve, inst, component.unit, component.true_size, part.order, max(goal, part.lower), rounds, seed + turn,
        budget.stop, long=True,
    )  # fmt: skip
    budget.nodes += rounds
    part.order = order
    _keep(part, offsets, "local search")


def _explain(
    problem: AllocationProblem, parts: Sequence[_Part], capacity: int, budget: Budget
) -> Explanation:
    section = explain_section(problem, capacity)
    if section is not None:
        return section
    part = max(parts, key=lambda item: item.lower)
    return explain_subset(problem, part.component.index, capacity, budget)


def _answer(
    problem: AllocationProblem,
    parts: Sequence[_Part] | None,
    capacity: int | None,
    budget: Budget,
    seed: int,
    explanation: Explanation | None,
) -> AllocationResult:
    if parts is None:
        return AllocationResult(
            "unknown", None, 0, None, "none", 0, budget.elapsed, seed, capacity, None, budget.interrupted
        )
    offsets = np.where(problem.fixed >= 0, problem.fixed, 0)
    for part in parts:
        offsets[part.component.index] = part.offsets * part.component.unit
    bound = max((part.lower for part in parts), default=0)
    leader = max(parts, key=lambda part: part.peak, default=None)
    engine = leader.engine if leader is not None else "none"
    wrong = check(problem, offsets.tolist())
    if wrong:
        raise PhysicsError(f"the allocation engine {engine} made a plan that does not hold: {wrong[0]}")
    peak = peak_of(problem, offsets.tolist())
    bound = min(bound, peak)
    status: Status = "unknown"
    if capacity is not None and bound > capacity:
        status = "infeasible"
    elif capacity is None or peak <= capacity:
        status = "optimal" if peak == bound else "feasible"
    return AllocationResult(
        status, peak, bound, offsets, engine, budget.nodes, budget.elapsed, seed, capacity,
        explanation, budget.interrupted,
    )  # fmt: skip
