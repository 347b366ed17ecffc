"""Solves scheduling problems: operator order, residency and addresses, with a proof or an honest gap.

The production path decomposes (logic-based Benders): a master decides order and residency by bytes alone, a
subproblem gives addresses to the stays of the master's best plan. The master's optimum bounds every schedule
from below; once addresses fit, it is proved optimal for the whole. Where they do not fit, plans of the same cost
with a lower peak and other orders are tried, then a master with no-good cuts (:mod:`mapping.scheduling.master`).
Heuristic schedules come first: they are the answer to beat, and often already free of traffic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, Literal

import numpy as np

from hw_configs.problems import InputError, PhysicsError, Problem, nearest
from mapping.deadline import Budget, OutOfTimeError, running_budget
from mapping.scheduling.baselines import ARENA, BASELINES, baseline_stays, order_named
from mapping.scheduling.by_ilp import solve_by_ilp
from mapping.scheduling.by_parts import improve_by_parts, raise_bound_by_parts
from mapping.scheduling.check import check
from mapping.scheduling.explain import not_proved, too_small
from mapping.scheduling.in_order import (
    improve_by_orders,
    offer_beams,
    raise_bound_by_cuts,
    raise_bound_by_residency,
    solve_given_order,
)
from mapping.scheduling.instance import build_instance
from mapping.scheduling.kernels import load_kernels
from mapping.scheduling.master import solve_with_cuts
from mapping.scheduling.orders import least_peak
from mapping.scheduling.peak import solve_peak
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.replacement import POLICIES
from mapping.scheduling.result import ScheduleResult, Status
from mapping.scheduling.search import COST_SCALE, LayerSearch
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import (
    Stays,
    assemble,
    fetched_for_each_use,
    find_addresses,
    peak_bytes_of,
    stays_of,
)

__all__ = ["METHODS", "OBJECTIVES", "Method", "Objective", "solve"]

Method = Literal["auto", "ilp", "decompose", "divide", "given-order"]
METHODS: Final = ("auto", "ilp", "decompose", "divide", "given-order")
Objective = Literal["bytes", "peak", "time"]
OBJECTIVES: Final = ("bytes", "peak", "time")

DEFAULT_MAX_STATES: Final = 20_000_000
"""The search ends here when neither a time limit nor a number of states is given."""

_FIRST_WIDTH: Final = 64
_WIDEN: Final = 8
_SECOND_OPINION_S: Final = 10.0
_SECOND_OPINION_STATES: Final = 300_000
_TIE_STATES: Final = 400_000
_TIE_S: Final = 10.0
_OTHER_ORDERS: Final = 8
_LAYERS_UP_TO: Final = 2000
"""Operators up to which states are searched at all; beyond, orders are."""
_BASELINES_SHARE: Final = 0.2
"""Of the time, for the baselines of networks of so many operators that ``auto`` has better ways."""
_DIVIDE_FROM: Final = 150
"""Operators from which ``auto`` looks for orders and divides."""


def solve(
    problem: ScheduleProblem,
    scratchpad_bytes: int,
    *,
    method: Method = "auto",
    objective: Objective = "bytes",
    time_limit_s: float | None = 60.0,
    max_states: int | None = None,
    seed: int = 0,
) -> ScheduleResult:
    """The schedule with the least non-compulsory off-chip bytes in a scratchpad of so many bytes.

    Ties go to fewer transfers, then to the lower peak. ``objective="peak"`` finds the least peak instead, without
    any traffic that is not compulsory. A run that ends by ``max_states`` (search states) instead of the clock
    gives the same answer every time; with neither limit it ends at :data:`DEFAULT_MAX_STATES`. Every schedule
    returned has passed :func:`mapping.scheduling.check.check`.
    Raises ``InputError`` for an unknown method or objective, or a negative size; for ``objective="time"`` see
    :func:`mapping.scheduling.timed.solve_timed`.
    """
    _check_options(scratchpad_bytes, method, objective, time_limit_s)
    if time_limit_s is None and max_states is None:
        max_states = DEFAULT_MAX_STATES
    if scratchpad_bytes >= problem.least_budget and time_limit_s is not None and running_budget() is None:
        load_kernels()
    budget = Budget(time_limit_s, max_states)
    if scratchpad_bytes < problem.least_budget:
        words = too_small(problem, scratchpad_bytes)
        return ScheduleResult(
            "infeasible", method, "least budget", scratchpad_bytes, None, None, 0, None, budget.elapsed, 0, seed,
            objective, explanation=words,
        )  # fmt: skip
    other = solve_peak if objective == "peak" else solve_by_ilp if method == "ilp" else None
    if other is not None:
        found: ScheduleResult | None = None
        with budget.running():
            found = other(problem, scratchpad_bytes, time_limit_s=time_limit_s, seed=seed)
        if found is None:
            raise KeyboardInterrupt
        return found
    run = SolverRun(problem, scratchpad_bytes, budget, seed)
    with budget.running():
        _warm_start(run)
        if run.cost > 0:
            _search(run, method)
        if run.proved:
            _lower_peak(run)
    return _answer(run, method)


def _check_options(capacity: int, method: str, objective: str, time_limit_s: float | None) -> None:
    problems = []
    for value, known, path in ((method, METHODS, "--method"), (objective, OBJECTIVES, "--objective")):
        if value not in known:
            message = f"found {value!r}; expected one of {', '.join(known)}"
            problems.append(Problem(message, path=path, suggestion=nearest(value, known)))
    if objective == "time":
        problems.append(Problem("time needs a machine; call solve_timed with one", path="--objective"))
    if not 0 <= capacity <= 2**60:
        problems.append(Problem(f"found {capacity}; expected 0 to 2**60 bytes", path="--scratchpad"))
    if time_limit_s is not None and not time_limit_s > 0:
        problems.append(Problem(f"found {time_limit_s:g}; expected seconds above zero", path="--time-limit"))
    if method == "ilp" and objective == "peak":
        problems.append(Problem("the least peak is searched exactly; leave --method out", path="--method"))
    if problems:
        raise InputError(problems)


def _warm_start(run: SolverRun) -> None:
    """Every baseline, until one is free of traffic."""
    orders: dict[str, tuple[int, ...]] = {}
    operators = 0 if run.problem is None else len(run.problem.operators)
    if operators >= _DIVIDE_FROM:
        # There in no time, whatever the limit.
        stays, offsets = fetched_for_each_use(run.problem)
        run.offer(stays, "each use", offsets)
    share = _BASELINES_SHARE if operators >= _DIVIDE_FROM else 1.0
    with run.share_of_time(share), contextlib.suppress(OutOfTimeError):
        _offer_baselines(run, orders, operators)


def _offer_baselines(run: SolverRun, orders: dict[str, tuple[int, ...]], operators: int) -> None:
    for name in BASELINES:
        if run.cost == 0 or (run.best is not None and run.budget.spent):
            return
        order_name, _, policy = name.partition("/")
        if policy not in POLICIES:
            order_name, policy = "given", name
        if policy == ARENA and operators >= _DIVIDE_FROM:
            # Its placement looks at every pair of stays again and again; the others are there already.
            continue
        if operators > _LAYERS_UP_TO and (order_name, policy) != ("given", "belady"):
            continue
        if order_name not in orders:
            orders[order_name] = order_named(run.problem, order_name)
        stays, offsets = baseline_stays(run.problem, orders[order_name], policy, run.capacity)
        run.offer(stays, name, offsets)


def _search(run: SolverRun, method: Method) -> None:
    if method == "given-order":
        with contextlib.suppress(OutOfTimeError):
            solve_given_order(run)
        return
    if method == "auto" and len(run.problem.operators) >= _DIVIDE_FROM:
        _search_large(run)
        return
    offer_beams(run)
    raise_bound_by_cuts(run)
    search = LayerSearch(run.problem, run.capacity, run.budget)
    if method == "divide":
        raise_bound_by_parts(run)
        improve_by_parts(run)
    _widen(run, search, _FIRST_WIDTH * _WIDEN if method == "divide" else None)


def _search_large(run: SolverRun) -> None:
    """The ways that are made for many operators in turn, each with a share of the time that is left."""
    steps: list[tuple[float, Callable[[SolverRun], None]]] = [
        (0.6, raise_bound_by_residency),
        (0.3, raise_bound_by_cuts),
        (0.4, improve_by_orders),
        (
            0.2,
            lambda run: _widen(
                run, LayerSearch(run.problem, run.capacity, run.budget), _FIRST_WIDTH * _WIDEN
            ),
        ),
        (0.2, raise_bound_by_parts),
        (0.3, improve_by_parts),
        (0.5, lambda run: _widen(run, LayerSearch(run.problem, run.capacity, run.budget), None)),
        (1.0, improve_by_orders),
    ]
    for share, step in steps if len(run.problem.operators) <= _LAYERS_UP_TO else [*steps[:2], steps[-1]]:
        if run.proved or run.budget.spent:
            return
        with run.share_of_time(share), contextlib.suppress(OutOfTimeError):
            step(run)


def _widths(search: LayerSearch, up_to: int | None) -> Iterator[int]:
    width = _FIRST_WIDTH
    while True:
        yield min(width, search.widest)
        if width >= search.widest or (up_to is not None and width >= up_to):
            return
        width *= _WIDEN


def _widen(run: SolverRun, search: LayerSearch, up_to: int | None) -> None:
    """Wider and wider layers, until nothing is cut any more: then the master is proved."""
    below, asked = run.cost, False
    for width in _widths(search, up_to):
        if run.budget.spent:
            return
        left = 1 << 40 if run.budget.max_nodes is None else run.budget.max_nodes - run.budget.nodes
        answer = search.run(below, width, max_states=left)
        if answer.cost is not None and answer.stays is not None:
            below = answer.cost
            run.offer(answer.stays, f"layers/{width}")
        run.raise_bound(min(answer.bound, below))
        if answer.complete:
            run.ties_proven = run.cost == below
            if run.cost > below:
                _fit_addresses(run, search, below)
            return
        if run.proved and run.budget.nodes > _TIE_STATES:
            return
        search.look_ahead()
        if not asked and up_to is None and _WIDEN * answer.states > _SECOND_OPINION_STATES:
            # Constraint programming closes some small problems sooner than wide layers do, and the reverse.
            asked = True
            solve_with_cuts(run, _SECOND_OPINION_S)
            below = min(below, run.cost)
            if run.proved:
                return


def _fit_addresses(run: SolverRun, search: LayerSearch, optimum: int) -> None:
    """The master's optimum is proved, but its plan found no addresses: other plans, then cuts."""
    rng = np.random.default_rng(run.seed)
    for attempt in range(_OTHER_ORDERS):
        if run.budget.spent:
            return
        # A plan of the same cost in less room leaves space between the stays.
        room = run.capacity - (run.capacity - run.problem.least_budget) * attempt // (2 * _OTHER_ORDERS)
        tighter = LayerSearch(run.problem, room, run.budget, search.instance)
        rank = rng.permutation(len(run.problem.operators))
        answer = tighter.run(run.cost, _FIRST_WIDTH * _WIDEN, rank=rank)
        if (
            answer.stays is not None
            and run.offer(answer.stays, "layers/other orders")
            and run.cost <= optimum
        ):
            run.ties_proven = True
            return
    if not run.proved:
        solve_with_cuts(run, None)


def _lower_peak(run: SolverRun) -> None:
    """Among schedules of the least cost, the lowest peak, with a part of the effort that the cost took.

    Without traffic that is the least peak of any order; otherwise the room in which the cost is reached is bisected.
    """
    assert run.best is not None
    problem = run.problem
    cost, stays, offsets = run.best
    high = peak_bytes_of(problem, assemble(problem, stays, offsets))
    if high > stays.least_peak(problem):
        high = _pack_lower(run, stays, high)
    left = run.budget.seconds_left()
    seconds = None if left is None else min(_TIE_S, left / 4)
    states = _TIE_STATES * 64 // max(64, len(problem.operators))
    if cost == 0:
        found = least_peak(problem, time_limit_s=seconds, max_states=states)
        if found.peak_bytes < high:
            high = _pack_lower(run, stays_of(problem, found.order), high)
        run.ties_proven = high <= max(found.bound_bytes, problem.least_budget)
        return
    with run.share_of_time(1.0 if seconds is None or not left else seconds / left):
        run.ties_proven = _bisect_peak(run, high, states, seconds) and run.ties_proven


def _bisect_peak(run: SolverRun, high: int, states: int, seconds: float | None) -> bool:
    """Lowers the peak at the same cost; True when no lower one is possible."""
    low, proven = run.problem.least_budget, True
    instance = build_instance(run.problem)
    last = run.budget.nodes + states
    end = None if seconds is None else run.budget.elapsed + seconds
    while low < high:
        late = end is not None and run.budget.elapsed > end
        if late or run.budget.spent or run.budget.nodes > last:
            return False
        middle = (low + high - 1) // 2
        search = LayerSearch(run.problem, middle, run.budget, instance)
        answer = search.run(run.cost + 1, _FIRST_WIDTH * _WIDEN, max_states=max(last - run.budget.nodes, 1))
        if answer.stays is not None:
            reached = _pack_lower(run, answer.stays, high, middle)
            if reached <= middle:
                high = reached
                continue
            proven = False
        else:
            proven = proven and answer.complete
        low = middle + 1
    return proven


def _pack_lower(run: SolverRun, stays: Stays, high: int, capacity: int | None = None) -> int:
    """Addresses with a lower peak than ``high`` for stays of the best cost; the peak reached."""
    found = find_addresses(run.problem, stays, capacity, seconds=run.budget.seconds_left(), max_nodes=20_000)
    if found.offsets is None or found.peak_bytes is None or found.peak_bytes >= high:
        return high
    run.best = (run.cost, stays, found.offsets.tolist())
    return found.peak_bytes


def _answer(run: SolverRun, method: Method) -> ScheduleResult:
    if run.best is None:
        return ScheduleResult(
            "unknown", method, run.engine, run.capacity, None, None, run.bound // COST_SCALE, None,
            run.budget.elapsed, run.budget.nodes, run.seed,
            explanation=not_proved(run.problem, None, run.capacity, run.bound // COST_SCALE),
        )  # fmt: skip
    _, stays, offsets = run.best
    schedule = assemble(run.problem, stays, offsets)
    wrong = check(run.problem, schedule, run.capacity)
    if wrong:
        raise PhysicsError(f"the engine {run.engine} made a schedule that does not hold: {wrong[0]}")
    cost = schedule.cost_bytes
    bound = min(run.bound // COST_SCALE, cost)
    status: Status = "optimal" if cost == bound else "feasible"
    words = None if status == "optimal" else not_proved(run.problem, stays, run.capacity, bound)
    return ScheduleResult(
        status, method, run.engine, run.capacity, schedule, cost, bound, peak_bytes_of(run.problem, schedule),
        run.budget.elapsed, run.budget.nodes, run.seed, ties_proven=run.ties_proven and status == "optimal",
        explanation=words, notes=_notes(method),
    )  # fmt: skip


def _notes(method: Method) -> dict[str, str]:
    if method != "given-order":
        return {}
    return {"order": "as the graph lists it; bound and status hold for this order alone"}
