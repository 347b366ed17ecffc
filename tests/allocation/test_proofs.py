"""Nothing is called optimal that is not: a gap of any size is told, by the solvers and by the engines alike."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest

from hw_configs.problems import InputError
from mapping import solver as solver_module
from mapping.allocation import AllocationProblem, Buffer, check, lower_bound, solve, solving
from mapping.allocation import mip as mip_module
from mapping.allocation.banks import parse_bank, solve_banks
from mapping.allocation.check import peak_of
from mapping.allocation.csv_format import parse_csv
from mapping.allocation.mip import solve_by_mip
from mapping.allocation.replan import replan
from mapping.allocation.solving import Engine
from mapping.allocation.spill import suggest_spills
from mapping.deadline import Budget
from mapping.solver import MEET_WITHIN, SolveReport, SolverOptions, solve_model


@pytest.mark.parametrize(
    ("objective", "bound", "status"),
    [
        (100.0, 100.0, "optimal"),
        (100.0, 100.0 - 50 * MEET_WITHIN, "optimal"),
        (100.0, 100.0 - 200 * MEET_WITHIN, "feasible"),
        (100.0, 100.0 + 200 * MEET_WITHIN, "feasible"),
        (100.0, 99.0, "feasible"),
        (100.0, 50.0, "feasible"),
        (-100.0, -101.0, "feasible"),
        # Below one, the distance itself counts.
        (0.01, 0.01 - MEET_WITHIN / 2, "optimal"),
        (0.01, 0.01 - 2 * MEET_WITHIN, "feasible"),
        (0.0, 0.0, "optimal"),
        (5.0, None, "feasible"),
        (None, 5.0, "unknown"),
    ],
)
def test_optimal_is_said_where_objective_and_bound_meet(
    objective: float | None, bound: float | None, status: str
) -> None:
    assert solver_module._status(objective, bound, infeasible=False, unbounded=False) == status
    if objective is not None and bound is not None:
        report = SolveReport(status, objective, bound, 0.0, "highs", "1")  # type: ignore[arg-type]
        assert report.has_solution
        assert report.gap == pytest.approx(abs(objective - bound) / max(1.0, abs(objective)))


def test_without_a_solution_the_reason_is_told() -> None:
    assert solver_module._status(None, None, infeasible=True, unbounded=False) == "infeasible"
    assert solver_module._status(None, None, infeasible=False, unbounded=True) == "unbounded"
    report = SolveReport("unknown", None, 5.0, 0.0, "highs", "1")
    assert not report.has_solution
    assert report.gap is None
    assert SolveReport("feasible", 5.0, float("inf"), 0.0, "highs", "1").gap is None


@pytest.mark.parametrize("backend", ["highs", "cbc"])
def test_a_solve_that_may_stop_early_says_how_far_it_came(backend: str) -> None:
    import pulp

    # An odd number of equal pieces: every plan takes 8 of 15, the relaxation 7.5.
    model = pulp.LpProblem("m", pulp.LpMinimize)
    x = [model.add_variable(f"x{i}", 0, 1, pulp.LpInteger) for i in range(15)]
    model.setObjective(pulp.lpSum(x))
    for i in range(15):
        model += x[i] + x[(i + 1) % 15] >= 1
    report = solve_model(model, SolverOptions(backend=backend, relative_gap=0.5))  # type: ignore[arg-type]
    assert report.has_solution
    assert report.gap is not None
    assert (report.status == "optimal") == (report.gap <= MEET_WITHIN)


# (start, end, size): the greedy orders leave one byte more than the most live bytes; the search does not.
LIVES = [(2, 3, 4), (2, 3, 3), (2, 8, 2), (3, 6, 5), (6, 8, 1), (2, 7, 4), (0, 1, 5), (3, 7, 2), (6, 7, 5), (6, 7, 3),
         (0, 4, 2)]  # fmt: skip


def waste() -> AllocationProblem:
    return AllocationProblem.of([Buffer(f"b{i}", *life) for i, life in enumerate(LIVES)])


def test_a_greedy_plan_above_the_bound_is_feasible_and_the_search_makes_it_optimal() -> None:
    problem = waste()
    greedy, best = solve(problem, engine="greedy"), solve(problem)
    assert (greedy.status, greedy.peak_bytes, greedy.bound_bytes) == ("feasible", 18, 17)
    assert (best.status, best.peak_bytes, best.bound_bytes) == ("optimal", 17, 17)
    assert greedy.offsets is not None
    assert check(problem, greedy.offsets.tolist(), 18) == []


@pytest.mark.parametrize("base", [1, 83, 1_683, 10_000_000])
def test_a_gap_of_one_byte_is_a_gap_however_large_the_plan(base: int) -> None:
    lives = [(f"b{i}", *life) for i, life in enumerate(LIVES)]
    problem = AllocationProblem.of([Buffer(*life) for life in [*lives, ("base", 0, 8, base)]])
    result = solve(problem, engine="greedy")
    assert result.peak_bytes == base + 18
    assert result.bound_bytes == base + 17
    assert result.status == "feasible"


@pytest.mark.parametrize(
    ("engine", "capacity", "status"),
    [
        ("auto", 16, "infeasible"),
        ("auto", 17, "optimal"),
        ("greedy", 16, "infeasible"),
        ("greedy", 17, "unknown"),
        ("greedy", 18, "feasible"),
    ],
)
def test_a_capacity_is_kept_broken_or_open(engine: Engine, capacity: int, status: str) -> None:
    assert solve(waste(), capacity, engine=engine).status == status


def test_of_rounded_sizes_the_topmost_alone_counts_as_it_is() -> None:
    """5 and 6 bytes at multiples of four: 8 and 8, but whoever lies on top ends with its last byte."""
    problem = AllocationProblem.of([Buffer("a", 0, 2, 5, alignment=4), Buffer("b", 1, 3, 6, alignment=4)])
    assert lower_bound(problem) == 13
    result = solve(problem)
    assert (result.status, result.peak_bytes) == ("optimal", 13)
    one = AllocationProblem.of([Buffer("a", 0, 2, 5, alignment=4), Buffer("b", 2, 3, 6, alignment=4)])
    assert lower_bound(one) == 6
    pinned = AllocationProblem.of([Buffer("a", 0, 2, 5, offset=40), Buffer("b", 2, 3, 6, alignment=4)])
    assert lower_bound(pinned) == 45


def test_an_empty_file_is_told_with_its_first_line() -> None:
    with pytest.raises(InputError, match="is empty") as error:
        parse_csv("", file="p.csv")
    assert str(error.value).startswith("p.csv:1: is empty; expected the columns id, lower, upper, size")


@pytest.mark.parametrize(("lower", "fits"), [(-(2**60), True), (-(2**60) - 1, False)])
def test_a_time_goes_down_to_minus_two_to_the_sixty(lower: int, fits: bool) -> None:
    text = f"id,lower,upper,size\na,{lower},9,2\n"
    if fits:
        assert int(parse_csv(text).lower[0]) == lower
        return
    with pytest.raises(InputError, match=r"expected an integer of at most 2\*\*60"):
        parse_csv(text)


@pytest.mark.parametrize("lost", [0.01, 0.5, 1e-12])
def test_the_integer_programme_is_optimal_by_its_own_bound_alone(
    lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound that lies a share below the peak is a gap, whatever the solver calls it."""
    # Pins push the least peak to 300 bytes. Without the count of live bytes the proof must be the solver's.
    problem = AllocationProblem.of(
        [Buffer("a", 0, 2, 100), Buffer("b", 0, 1, 100, offset=100), Buffer("c", 1, 2, 100, offset=0)]
    )
    assert lower_bound(problem) == 300
    monkeypatch.setattr(mip_module, "most_live", lambda component: 0)

    def stopped(model: Any, options: SolverOptions) -> SolveReport:
        report = solve_model(model, options)
        assert report.bound is not None
        return replace(report, bound=report.bound * (1 - lost), status="optimal")

    monkeypatch.setattr(mip_module, "solve_model", stopped)
    result = solve_by_mip(problem)
    assert result.peak_bytes == 300
    assert result.bound_bytes == round(300 * (1 - lost))
    assert result.status == ("optimal" if lost < 1e-9 else "feasible")
    assert solve_by_mip(problem, 250).status == ("infeasible" if result.bound_bytes > 250 else "unknown")


def faults(problem: AllocationProblem, *offsets: int, capacity: int | None = None) -> list[str]:
    return [violation.kind for violation in check(problem, offsets, capacity)]


def test_the_checker_counts_to_the_last_byte() -> None:
    """Two buffers of 4 and 6 bytes that meet for one moment; every neighbouring address is tried."""
    problem = AllocationProblem.of([Buffer("a", 0, 3, 4), Buffer("b", 2, 5, 6)])
    for one in range(14):
        for other in range(14):
            apart = one + 4 <= other or other + 6 <= one
            assert faults(problem, one, other) == ([] if apart else ["overlap"]), (one, other)
    assert peak_of(problem, [0, 4]) == 10
    assert faults(problem, 0, 4, capacity=10) == []
    assert faults(problem, 0, 4, capacity=9) == ["capacity"]
    assert faults(problem, 6, 0, capacity=9) == ["capacity"]
    assert faults(problem, 0, -1) == ["negative", "overlap"]


def test_the_checker_holds_every_byte_of_many_buffers() -> None:
    """Each of eight buffers in a row is moved by one byte either way, and meets its neighbour."""
    problem = AllocationProblem.of([Buffer(f"b{i}", 0, 1, 8) for i in range(8)])
    row = [8 * i for i in range(8)]
    assert faults(problem, *row) == []
    for moved in range(8):
        for step in (-1, 1):
            place = [at + (step if i == moved else 0) for i, at in enumerate(row)]
            touches = 0 <= moved + step < 8
            assert faults(problem, *place) == (
                ["overlap"] if touches else ["negative"] if step < 0 else []
            ), place


def test_lives_that_touch_share_a_byte_and_lives_that_meet_do_not() -> None:
    after = AllocationProblem.of([Buffer("a", 0, 3, 4), Buffer("b", 3, 5, 4)])
    beside = AllocationProblem.of([Buffer("a", 0, 4, 4), Buffer("b", 3, 5, 4)])
    assert faults(after, 0, 0) == []
    assert faults(beside, 0, 0) == ["overlap"]
    (found,) = check(beside, [0, 1])
    assert found.buffers == (0, 1)
    assert str(found) == "buffers 'a' and 'b' share the bytes 1 to 4 at time 3"


def test_the_checker_keeps_its_limit() -> None:
    problem = AllocationProblem.of([Buffer(f"b{i}", 0, 1, 8) for i in range(9)])
    assert len(check(problem, [0] * 9)) == 8
    assert len(check(problem, [0] * 9, limit=3)) == 3


def test_planning_again_keeps_what_it_can_though_a_fresh_plan_lies_elsewhere() -> None:
    """Buffers high up in the memory stay there; the new one goes where it fits, and only what clashes moves."""
    old = [Buffer("a", 0, 4, 10), Buffer("b", 0, 4, 20)]
    problem = AllocationProblem.of([*old, Buffer("new", 1, 2, 5)])
    again = replan(problem, {"a": 300, "b": 200}, 310)
    assert again.moved == ()
    assert again.moved_bytes == 0
    assert again.result.offsets is not None
    assert again.result.offsets[:2].tolist() == [300, 200]
    assert (again.result.status, again.result.peak_bytes, again.result.bound_bytes) == ("feasible", 310, 35)
    assert check(problem, again.result.offsets.tolist(), 310) == []
    clash = replan(problem, {"a": 210, "b": 200}, 310)
    assert clash.result.offsets is not None
    assert clash.result.offsets[1] == 200
    assert (clash.moved, clash.moved_bytes) == ((0,), 10)
    tight = replan(problem, {"a": 300, "b": 200}, 35)
    assert (tight.result.status, tight.result.peak_bytes) == ("optimal", 35)
    assert tight.moved == (0, 1)


@pytest.mark.parametrize(
    ("left", "spent"), [(None, False), (0.5, False), (1e-9, False), (0.0, True), (-1.0, True)]
)
def test_a_budget_is_spent_when_no_time_is_left(
    left: float | None, spent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "seconds_left", lambda self: left)
    assert Budget(None).spent == spent


def test_a_budget_is_spent_at_its_last_node() -> None:
    budget = Budget(None, 10)
    budget.nodes = 9
    assert not budget.spent
    budget.nodes = 10
    assert budget.spent


def test_a_solve_without_limits_ends_after_the_usual_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    class Spy(Budget):
        def __init__(self, time_limit_s: float | None, max_nodes: int | None = None) -> None:
            super().__init__(time_limit_s, max_nodes)
            budgets.append((time_limit_s, max_nodes))

    monkeypatch.setattr(solving, "Budget", Spy)
    problem = AllocationProblem.of([Buffer("a", 0, 2, 4)])
    solve(problem)
    solve(problem, max_nodes=7)
    solve(problem, time_limit_s=9.0)
    assert budgets == [(None, solving.DEFAULT_MAX_NODES), (None, 7), (9.0, None)]


def test_of_buffers_that_are_to_blame_alike_the_smallest_leaves_first() -> None:
    """No moment is overfull, yet around the pinned middle nothing of four bytes fits: the longest-lived must leave."""
    problem = AllocationProblem.of(
        [Buffer("pin", 0, 9, 2, offset=3), Buffer("large", 0, 9, 5), Buffer("small", 0, 9, 4)]
    )
    plan = suggest_spills(problem, 11)
    assert plan.offsets is not None
    assert plan.buffers == (2,)
    assert plan.bytes == 4
    assert suggest_spills(AllocationProblem.of([Buffer("pin", 0, 1, 9, offset=0)]), 4).offsets is None


def test_a_better_plan_of_banks_replaces_the_greedy_one_and_ends_the_search() -> None:
    """Greedy by cost fills the near bank with the wide buffer; the least cost keeps two small ones there."""
    problem = AllocationProblem.of([Buffer("wide", 0, 4, 6), Buffer("one", 0, 4, 4), Buffer("two", 0, 4, 4)])
    plan = solve_banks(problem, [parse_bank("near=8"), parse_bank("far=1KiB@1")])
    assert plan is not None
    assert plan.status == "optimal"
    assert plan.bank == (1, 0, 0)
    assert plan.cost == plan.bound == 6


def test_a_restart_says_the_sum_of_what_its_solves_took() -> None:
    problem = AllocationProblem.of([Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 4)])
    times = [0.25, 0.5]
    with pytest.MonkeyPatch.context() as patch:
        replan_module = importlib.import_module("mapping.allocation.replan")
        real = replan_module.solve

        def timed(*args: Any, **options: Any) -> Any:
            found = real(*args, **options)
            return replace(found, seconds=times.pop(0), status="unknown" if times else found.status)

        patch.setattr(replan_module, "solve", timed)
        again = replan(problem, {"a": 0}, 8)
    assert again.result.seconds == 0.75
