"""Searches over layouts: what they make holds, costs what they say, and is the best where every plan can be tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.deadline import Budget
from mapping.scheduling import ScheduleProblem, check, layouts, solve
from mapping.scheduling.address_search import Effort, improve_layouts, search_layouts
from mapping.scheduling.by_layout import (
    LayoutSearch,
    address_tables,
    layouts_of_stays,
    most_blocks,
    stays_of_layouts,
    unit_of,
)
from mapping.scheduling.layouts import AddressTables
from mapping.scheduling.orders import given_order
from mapping.scheduling.replacement import replace_in_order
from mapping.scheduling.residency_runs import plan_of_runs, price_room, runs_of_order, solve_runs
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stay_search import close_gaps
from mapping.scheduling.stays import assemble
from tests.scheduling.brute_force import least_cost
from tests.scheduling.generated import made
from tests.scheduling.strategies import problems
from tests.scheduling.test_residency import an_order, least_in_order

GO = np.zeros(1, np.int64)
PLAIN = np.zeros(3)


def tables_of(problem: ScheduleProblem, order: Sequence[int], capacity: int) -> AddressTables:
    runs = runs_of_order(problem, order, capacity)
    _, _, prices = price_room(runs, order, None)
    assert prices is not None
    tables = address_tables(runs, prices, order)
    assert tables is not None
    return tables


def insist(
    problem: ScheduleProblem,
    order: Sequence[int],
    tables: AddressTables,
    capacity: int,
    cost: int,
    plan: tuple[np.ndarray, np.ndarray],
) -> int:
    """The plan holds and costs what was said; its bytes."""
    stays, offsets = stays_of_layouts(problem, order, tables, *plan)
    assert check(problem, assemble(problem, stays, offsets), capacity) == []
    assert stays.cost(problem)[0] == cost * unit_of(problem)
    return stays.cost(problem)[0]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(problems(7), st.integers(0, 3), st.integers(0, 99), st.sampled_from([1, 3, 40]))
def test_plans_hold_and_cost_what_is_said(
    problem: ScheduleProblem, extra: int, seed: int, width: int
) -> None:
    capacity, order = problem.least_budget + extra, an_order(problem, seed)
    tables, unit = tables_of(problem, order, capacity), unit_of(problem)
    room, most = capacity // unit, most_blocks(tables, capacity // unit)
    cost, at, kept = search_layouts(tables, room, width, 6, most, PLAIN, seed, GO)
    first = insist(problem, order, tables, capacity, cost, (at, kept))
    assert first >= least_in_order(problem, order, capacity)
    cost, _ = improve_layouts(tables, room, Effort(8, 6, most, 4, 30), at, kept, seed, GO)
    second = insist(problem, order, tables, capacity, cost, (at, kept))
    gaps = np.flatnonzero(tables.next_use < len(order))
    cost, _ = close_gaps(tables, room, gaps, 30, at, kept, seed, GO)
    third = insist(problem, order, tables, capacity, cost, (at, kept))
    assert third <= second <= first
    stays, offsets = stays_of_layouts(problem, order, tables, at, kept)
    again = layouts_of_stays(problem, tables, stays, offsets)
    assert again[0].tolist() == at.tolist()
    assert again[1].tolist() == kept.tolist()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(problems(6, in_place=True), st.integers(0, 3))
def test_what_is_written_in_place_holds(problem: ScheduleProblem, extra: int) -> None:
    capacity, order = problem.least_budget + extra, given_order(problem)
    tables, unit = tables_of(problem, order, capacity), unit_of(problem)
    room = capacity // unit
    cost, at, kept = search_layouts(tables, room, 20, 6, most_blocks(tables, room), PLAIN, 0, GO)
    if cost >= 0:
        insist(problem, order, tables, capacity, cost, (at, kept))


def test_wide_beams_find_the_best_plan_of_an_order() -> None:
    """Against every layout and every replacement of small problems whose order is fixed by waits."""
    equal, cases = 0, 0
    for seed in range(60):
        free = made("chain", 6, seed)
        sizes = np.random.default_rng(seed).integers(1, 5, len(free.tensors)).tolist()
        operators = tuple(replace(op, after=(o - 1,) if o else ()) for o, op in enumerate(free.operators))
        tensors = tuple(replace(t, size_bytes=size) for t, size in zip(free.tensors, sizes, strict=True))
        problem = ScheduleProblem("fixed", operators, tensors)
        capacity, order = problem.least_budget + seed % 3, given_order(problem)
        tables, unit = tables_of(problem, order, capacity), unit_of(problem)
        room = capacity // unit
        cost, at, kept = search_layouts(tables, room, 500, 20, most_blocks(tables, room), PLAIN, 0, GO)
        least = least_cost(problem, capacity)
        assert least is not None
        assert insist(problem, order, tables, capacity, cost, (at, kept)) >= least
        equal += cost * unit == least
        cases += 1
    assert equal >= 0.95 * cases


@pytest.mark.parametrize("family", ["random", "chain", "unet", "grid"])
def test_a_plan_over_layouts_beats_one_placed_step_by_step(family: str) -> None:
    problem = made(family, 160, 3)
    order, capacity = given_order(problem), int(problem.least_budget * 1.1)
    tables, room = tables_of(problem, order, capacity), capacity // unit_of(problem)
    runs = runs_of_order(problem, order, capacity)
    _, out = solve_runs(runs, None)
    assert out is not None
    stays, offsets = replace_in_order(problem, order, capacity, "greedy-ilp", plan_of_runs(runs, order, out))
    at, kept = layouts_of_stays(problem, tables, stays, offsets)
    before = stays.cost(problem)[0]
    cost, _ = improve_layouts(tables, room, Effort(32, 8, most_blocks(tables, room), 30, 60), at, kept, 0, GO)
    assert insist(problem, order, tables, capacity, cost, (at, kept)) <= before
    alone, at, kept = search_layouts(tables, room, 64, 8, most_blocks(tables, room), PLAIN, 0, GO)
    assert insist(problem, order, tables, capacity, alone, (at, kept)) <= before
    assert min(alone, cost) * unit_of(problem) < before or before == 0 or family == "unet"


def test_prices_of_room_are_a_bound() -> None:
    """Whatever is out or in, prices of room and the shares of writes never say more than the programme's optimum."""
    problem = made("random", 80, 5)
    order, capacity = given_order(problem), problem.least_budget + 4096
    runs = runs_of_order(problem, order, capacity)
    bound, _, prices = price_room(runs, order, None)
    assert prices is not None
    step = {o: s for s, o in enumerate(order)}
    begin = np.array([step[int(o)] for o in runs.operator])
    fall = prices.potential[:-1] - prices.potential[1:]
    assert (fall > -1e-9).all()
    unit = unit_of(problem)
    need = -(-runs.excess // unit) * unit
    total = float((fall[begin] * need).sum())
    sizes = np.array([problem.tensors[int(t)].size_bytes for t in runs.gap_tensor])
    room = np.zeros(len(sizes))
    for k in range(len(runs.begin)):
        room[runs.low[k]] += fall[begin[runs.begin[k] : runs.end[k] + 1]].sum()
    total += float(np.minimum(sizes * (1 + prices.written - room), 0).sum())
    for t in set(runs.gap_tensor.tolist()):
        # A tensor is written once, whatever its gaps would bear.
        total += min(
            problem.tensors[t].size_bytes * (1 - float(prices.written[runs.gap_tensor == t].sum())), 0
        )
    assert total == pytest.approx(bound, rel=1e-3)


def test_the_same_seed_gives_the_same_plan_and_a_stop_is_obeyed() -> None:
    problem = made("random", 200, 1)
    capacity, order = problem.least_budget + 6000, given_order(problem)
    runs = []
    for _ in range(2):
        run = SolverRun(problem, capacity, Budget(None, 10**9), 3)
        search = LayoutSearch(run, order)
        search.beams(1.0)
        search.improve(1.0)
        assert run.best is not None
        runs.append(run.best)
    assert runs[0] == runs[1]
    tables = tables_of(problem, order, capacity)
    stopped, *_ = search_layouts(
        tables, capacity // unit_of(problem), 4, 4, 64, PLAIN, 0, np.ones(1, np.int64)
    )
    assert stopped == -1


def test_a_block_that_is_not_seen_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that overlap never leave the solver: a plan that was shifted fails the check."""
    problem = made("random", 200, 1)
    capacity, order = problem.least_budget + 6000, given_order(problem)
    tables, room = tables_of(problem, order, capacity), capacity // unit_of(problem)
    _, at, kept = search_layouts(tables, room, 8, 6, most_blocks(tables, room), PLAIN, 0, GO)
    stays, offsets = stays_of_layouts(problem, order, tables, np.maximum(at - 1, 0), kept)
    assert check(problem, assemble(problem, stays, offsets), capacity) != []


def test_operators_with_too_many_pieces_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made("bipartite", 160, 0)
    order, capacity = given_order(problem), problem.least_budget + 10
    assert tables_of(problem, order, capacity) is not None
    monkeypatch.setattr("mapping.scheduling.by_layout.MOST_NEEDED", 20)
    runs = runs_of_order(problem, order, capacity)
    _, _, prices = price_room(runs, order, None)
    assert prices is not None
    assert address_tables(runs, prices, order) is None
    assert layouts.MOST_NEEDED < 63


def test_random_wiring_comes_near_its_own_programme() -> None:
    problem = made("random", 300, 2)
    capacity = int(problem.least_budget * 1.3)
    result = solve(problem, capacity, method="given-order", time_limit_s=15)
    runs = runs_of_order(problem, given_order(problem), capacity)
    whole, _ = solve_runs(runs, 5.0, whole=True)
    assert result.cost_bytes is not None
    assert result.cost_bytes <= 1.06 * whole


def test_a_step_whose_pieces_never_fit_ends_the_beam() -> None:
    """What is written over keeps all of its bytes here, so the least room of the problem can be too little."""
    problem = made("in-place", 300, 2)
    order, room = given_order(problem), problem.least_budget // unit_of(problem)
    tables = tables_of(problem, order, problem.least_budget)
    for width in (8, 64):
        cost, _, kept = search_layouts(tables, room, width, 8, most_blocks(tables, room), PLAIN, 0, GO)
        assert (cost, kept.any()) == (-1, False)
