"""Plans for operators in one order, for graphs of hundreds to thousands: residency, addresses, and other orders.

For an order, the programme of residency gives the least bytes that any plan in it moves. The plan gets addresses from
the allocation engine, which sees all stays; where they are too many for the room, the order is run over real
addresses after the plan, in several styles, and a plan made for a little less room leaves space between the stays.
The best order is looked for by beams and annealing. The same programme over what is certain in every order bounds the
whole, and so do minimum cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mapping.scheduling.by_layout import LayoutSearch
from mapping.scheduling.instance import Instance, build_instance, lists_of
from mapping.scheduling.live_cut import LiveCuts, path_of_cuts
from mapping.scheduling.order_beam import Aim
from mapping.scheduling.order_search import improve_order
from mapping.scheduling.orders import (
    beam_of_orders,
    beam_states,
    given_order,
    greedy_order,
    needs_of_order,
)
from mapping.scheduling.replacement import replace_by_bytes, replace_in_order
from mapping.scheduling.residency import residency_of_order, solve_residency, stays_with
from mapping.scheduling.residency_runs import plan_of_runs, runs_of, runs_of_order, solve_runs
from mapping.scheduling.search import COST_SCALE
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import Stays

__all__ = [
    "improve_by_orders", "offer_beams", "plan_in_order", "raise_bound_by_cuts", "raise_bound_by_residency",
    "solve_given_order",
]  # fmt: skip

_ROOMS: Final = (1.0, 0.985, 0.96, 0.93, 0.89, 0.85)
"""Shares of the scratchpad that plans are made for."""
_ROOM_TRIES: Final = 3
_STYLES: Final = tuple((short, power) for power in (0.5, 0.0, 1.0) for short in (16, 4, 60))
_TERM_BY_TERM: Final = 150
"""Operators up to which the programme of an order is stated term by term, and exact with every choice in place."""
_BEAM_WIDTHS: Final = (64, 256, 1024, 4096)
_LIVE_WEIGHTS: Final = (0.3, 0.1, 1.0, 3.0)
_BEAMS_SHARE: Final = 0.15
_STARTS: Final = 4
"""Orders of so many kinds are annealed before the best one is again."""
_FIRST_ROUNDS: Final = 400
_ROUNDS_WITHOUT_CLOCK: Final = 40_000
_ROUNDS_PER_STATE: Final = 64
_SHARE: Final = 0.12
"""One order search takes this share of the time that is left, one programme of residency half of it."""
_PROGRAMME_S: Final = 20.0
"""A programme of residency takes no longer than this, with or without a clock."""
_BEAMS_UP_TO: Final = 2000
"""Operators up to which whole plans are searched over layouts."""
_PLACED_ROOM: Final = 0.93
_LAYOUTS_SHARE: Final = 0.12
"""Of the time that is left, for layouts of a new order, and again for those of the best one."""


def raise_bound_by_residency(run: SolverRun) -> None:
    """A proven bound for every order, from what is certain in all of them."""
    runs = runs_of(run.problem, run.capacity)
    if len(runs.excess) == 0:
        return
    for whole in (False, True):
        if run.budget.spent or run.proved:
            return
        bound, _ = solve_runs(runs, _seconds(run) if whole else None, whole=whole, seed=run.seed)
        run.raise_bound(bound * COST_SCALE)


def plan_in_order(
    run: SolverRun, order: Sequence[int], room: float = 1.0, *, styles: Sequence[tuple[int, float]] = _STYLES
) -> int:
    """Offer plans of one order, made for a share of the room; the bytes that every plan of the order moves.

    With less than the whole room that bound does not hold for the scratchpad itself, and is 0. ``styles``: in which the
    order is run over real addresses where the allocation engine finds none.
    """
    capacity = max(int(run.capacity * room), run.problem.least_budget)
    bound, planned = _least_bytes(run, order, capacity)
    if not planned:
        planned = [replace_by_bytes(run.problem, order, capacity, "belady")]
    stays = min(planned, key=lambda stays: stays.cost(run.problem))
    bound = bound if capacity == run.capacity else 0
    if run.offer(stays, f"in order/{room:g}", seconds=_seconds(run)):
        return bound
    for style in styles:
        if run.budget.spent:
            break
        placed, offsets = replace_in_order(run.problem, order, run.capacity, "greedy-ilp", stays, style)
        run.offer(placed, f"in order/{room:g}/placed", offsets)
    return bound


def _least_bytes(run: SolverRun, order: Sequence[int], capacity: int) -> tuple[int, list[Stays]]:
    """The bytes that every plan of an order moves, and plans near it."""
    problem = run.problem
    if len(order) <= _TERM_BY_TERM:
        programme = residency_of_order(problem, order, capacity)
        answer = solve_residency(programme, run.budget, seconds=_seconds(run), seed=run.seed)
        return answer.bound, [stays_with(programme, order, answer.gaps)] if programme.whole else []
    runs = runs_of_order(problem, order, capacity)
    most, plans = 0, list[Stays]()
    for whole in (False, True):
        left = run.budget.seconds_left()
        late = run.budget.spent or any(plan.cost(problem)[0] <= most for plan in plans)
        if late or (whole and left is not None and left < 1):
            break
        seconds = _seconds(run) if whole or left is None else 0.5 * left
        bound, out = solve_runs(runs, seconds, whole=whole, seed=run.seed)
        most = max(most, bound if runs.exact else 0)
        if out is not None:
            plans.append(plan_of_runs(runs, order, out))
    return most, plans


def _seconds(run: SolverRun) -> float:
    left = run.budget.seconds_left()
    return _PROGRAMME_S if left is None else min(_PROGRAMME_S, 0.5 * _SHARE * max(left, 0.0))


def solve_given_order(run: SolverRun) -> None:
    """The best plan of the order in which the graph lists its operators; the bound holds for that order alone."""
    order = given_order(run.problem)
    if len(order) > _TERM_BY_TERM:
        # What bounds every order bounds this one, also where its own programme leaves a choice out.
        raise_bound_by_residency(run)
    for room in _ROOMS:
        if run.budget.spent or run.proved:
            return
        bound = plan_in_order(run, order, room)
        run.raise_bound(bound * COST_SCALE)
    if run.budget.spent or run.proved:
        return
    search = LayoutSearch(run, order)
    search.beams(_LAYOUTS_SHARE)
    while not run.budget.spent and not run.proved and run.best is not None and run.best[1].order == order:
        if not search.improve(_LAYOUTS_SHARE) and run.budget.seconds_left() is None:
            return


def improve_by_orders(run: SolverRun) -> None:
    """Orders by annealing, for the whole room and for less of it, each with its plan; until the time is over."""
    instance = build_instance(run.problem)
    starts = [greedy_order(run.problem), given_order(run.problem)]
    if run.best is not None:
        starts.append(run.best[1].order)
    with run.share_of_time(_BEAMS_SHARE):
        starts += _beams(run, instance)
    starts = sorted(starts, key=lambda order: _judged(run, instance, order))[:_STARTS]
    first = starts[0]
    large = len(first) > _BEAMS_UP_TO
    _fit_room(run, first, 1 if large else _ROOM_TRIES)
    turn = 0
    layouts = _layouts(run, first, None)
    while not run.budget.spent and not run.proved:
        before = run.cost
        tried: set[int] = set()
        for room in _ROOMS:
            capacity = max(int(run.capacity * room), run.problem.least_budget)
            if capacity in tried:
                continue
            tried.add(capacity)
            while large and layouts is not None and layouts.improve(0.5):
                # As long as stays can be put better, orders wait.
                pass
            if run.budget.spent or run.proved:
                return
            start = (
                starts[turn % len(starts)] if turn < len(starts) or run.best is None else run.best[1].order
            )
            order = _annealed(run, instance, start, room, turn)
            turn += 1
            # Layouts do better than what is placed step by step, where they may be used for all.
            styles = _STYLES if run.problem.has_in_place or turn == 1 else ()
            plan_in_order(run, order, room, styles=styles)
            layouts = _layouts(run, order, layouts)
        if run.cost >= before and run.budget.seconds_left() is None:
            return


def _fit_room(run: SolverRun, order: tuple[int, ...], tries: int) -> None:
    """Plans of an order for the whole room, then for the most of it for which addresses are found, by bisection."""
    low, high, room = _ROOMS[-1], 1.0, 1.0
    for _ in range(tries):
        if run.budget.spent or run.proved:
            return
        before = run.cost
        plan_in_order(run, order, room, styles=())
        if run.cost < before:
            if room == 1.0:
                return
            low = room
        else:
            high = room
        room = (low + high) / 2


def offer_beams(run: SolverRun) -> None:
    """Orders of narrow beams, what does not fit dropped by Belady's rule: small problems are often solved by one."""
    instance = build_instance(run.problem)
    for aim in _aims(run, _BEAM_WIDTHS[0]):
        order = beam_of_orders(instance, aim, run.budget)
        if order is None or run.cost == 0:
            return
        run.offer(replace_by_bytes(run.problem, order, run.capacity, "belady"), "beam/belady")


def _aims(run: SolverRun, width: int) -> list[Aim]:
    """What beams of one width look for: little above the scratchpad in all, and at the highest step."""
    found = [Aim(run.capacity, width, True, weight, run.seed) for weight in _LIVE_WEIGHTS]
    return [*found, Aim(run.capacity, width, False, _LIVE_WEIGHTS[0], run.seed)]


def _beams(run: SolverRun, instance: Instance) -> list[tuple[int, ...]]:
    """Orders that wider and wider beams find in a share of the time; without a clock, up to the second width."""
    found = list[tuple[int, ...]]()
    for width in _BEAM_WIDTHS if run.budget.seconds_left() is not None else _BEAM_WIDTHS[:2]:
        for aim in _aims(run, width):
            order = None if run.budget.spent else beam_of_orders(instance, aim, run.budget)
            if order is None:
                return found
            run.budget.nodes += beam_states(instance, width)
            found.append(order)
    return found


def raise_bound_by_cuts(run: SolverRun) -> None:
    """A proven bound for every order from what is alive beside operators in all of them."""
    instance = build_instance(run.problem)
    order = beam_of_orders(instance, _aims(run, _BEAM_WIDTHS[0])[-1], run.budget)
    if order is not None:
        needs = zip(order, needs_of_order(run.problem, order), strict=True)
        run.raise_bound(path_of_cuts(LiveCuts.of(instance), run.capacity, needs, run.budget) * COST_SCALE)


def _layouts(run: SolverRun, order: tuple[int, ...], best: LayoutSearch | None) -> LayoutSearch | None:
    """Plans over layouts of a new order, then a better one of the best order; the search of that, to go on with."""
    if run.budget.spent or run.proved:
        return best
    if len(order) > _BEAMS_UP_TO:
        # Many stays that are long: better put down in turn after a plan for less room, and then improved.
        plan_in_order(run, order, _PLACED_ROOM, styles=_STYLES[:2])
    fresh = LayoutSearch(run, order)
    if len(order) <= _BEAMS_UP_TO:
        fresh.beams(_LAYOUTS_SHARE)
    if run.budget.spent or run.proved or run.best is None:
        return best
    known = [search for search in (fresh, best) if search is not None and search.order == run.best[1].order]
    best = known[0] if known else LayoutSearch(run, run.best[1].order)
    best.improve(2 * _LAYOUTS_SHARE)
    return best


def _judged(run: SolverRun, instance: Instance, order: Sequence[int]) -> int:
    """Bytes that Belady's rule moves in an order."""
    none = np.zeros(1, np.int64)
    waits = (np.zeros(len(order) + 1, np.int64), none)
    _, cost, _ = run.budget.call(
        improve_order, instance.tables, np.array(order, np.int64), *waits, run.capacity, 0, run.seed, none, long=True
    )  # fmt: skip
    return int(cost)


def _annealed(
    run: SolverRun, instance: Instance, start: Sequence[int], room: float, turn: int
) -> tuple[int, ...]:
    """A better order by Belady's rule in a share of the room, in a share of the time that is left."""
    capacity = max(int(run.capacity * room), run.problem.least_budget)
    wait_at, waits = lists_of([list(before) for before in run.problem.predecessors])
    order = np.array(start, np.int64)
    rounds, took = _FIRST_ROUNDS, run.budget.elapsed
    left = run.budget.seconds_left()
    for again in (False, True):
        order, _, made = run.budget.call(
            improve_order, instance.tables, order, wait_at, waits, capacity, rounds, run.seed + 2 * turn + again,
            run.budget.stop, long=True,
        )  # fmt: skip
        run.budget.nodes += int(made) // _ROUNDS_PER_STATE
        seconds = max(run.budget.elapsed - took, 1e-4)
        rounds = _ROUNDS_WITHOUT_CLOCK if left is None else int(_FIRST_ROUNDS * _SHARE * left / seconds) + 1
    return tuple(int(o) for o in order)
