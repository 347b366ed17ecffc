"""The engines against plain oracles on random problems of up to seven operators, addresses included."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapping.scheduling import BASELINES, ScheduleProblem, check, least_peak, solve
from tests.scheduling.brute_force import least_cost, least_cost_of_bytes, least_peak_of
from tests.scheduling.strategies import problems

MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
EFFORT = {"time_limit_s": None, "max_states": 200_000}


def budget_of(problem: ScheduleProblem, share: float) -> int:
    """Between the largest need of one operator and a little above the least peak."""
    low, high = problem.least_budget, least_peak_of(problem)
    return low + round((high - low) * share)


@MANY
@given(problem=problems(most_bytes=4), share=st.floats(0, 1))
def test_optimum_equals_brute_force(problem: ScheduleProblem, share: float) -> None:
    capacity = budget_of(problem, share)
    result = solve(problem, capacity, **EFFORT)
    assert result.status == "optimal"
    assert result.schedule is not None
    assert check(problem, result.schedule, capacity) == []
    assert result.cost_bytes == result.bound_bytes
    if result.cost_bytes != least_cost_of_bytes(problem, capacity):
        # Bytes alone bound it from below; where they do not meet it, addresses must be the reason.
        assert result.cost_bytes == least_cost(problem, capacity)


@QUICK
@given(problem=problems(most_operators=4), share=st.floats(0, 1))
def test_optimum_equals_brute_force_over_addresses(problem: ScheduleProblem, share: float) -> None:
    capacity = budget_of(problem, share)
    assert solve(problem, capacity, **EFFORT).cost_bytes == least_cost(problem, capacity)


@QUICK
@given(problem=problems())
def test_least_peak_equals_brute_force(problem: ScheduleProblem) -> None:
    found = least_peak(problem)
    assert found.status == "optimal"
    assert found.peak_bytes == found.bound_bytes == least_peak_of(problem)


@QUICK
@given(problem=problems(), share=st.floats(0, 1))
def test_never_above_any_baseline(problem: ScheduleProblem, share: float) -> None:
    capacity = budget_of(problem, share)
    best = solve(problem, capacity, **EFFORT)
    for name, run in BASELINES.items():
        other = run(problem, capacity)
        assert other.schedule is not None
        assert check(problem, other.schedule, capacity) == [], name
        assert best.cost_bytes is not None
        assert other.cost_bytes is not None
        assert best.cost_bytes <= other.cost_bytes, name


@QUICK
@given(problem=problems())
def test_cost_falls_as_the_budget_grows_and_is_zero_at_the_least_peak(problem: ScheduleProblem) -> None:
    low, high = problem.least_budget, least_peak_of(problem)
    costs = [solve(problem, capacity, **EFFORT).cost_bytes for capacity in range(low, high + 1)]
    assert all(cost is not None for cost in costs)
    assert costs == sorted(costs, reverse=True)  # type: ignore[type-var]
    # With addresses the least peak of bytes need not be reachable; at a whole tensor more it is on these sizes.
    packed = solve(problem, 4 * high, objective="peak").peak_bytes
    assert packed is not None
    assert solve(problem, packed, **EFFORT).cost_bytes == 0


@QUICK
@given(problem=problems(most_bytes=9))
def test_infeasible_exactly_below_the_largest_operator(problem: ScheduleProblem) -> None:
    below = solve(problem, max(problem.least_budget - 1, 0), **EFFORT)
    assert problem.least_budget > 0
    assert below.status == "infeasible"
    assert below.schedule is None
    largest = max(problem.operators, key=lambda op: problem.need_bytes[problem.operator_index[op.name]])
    assert below.explanation is not None
    assert repr(largest.name) in below.explanation
    assert f"{problem.least_budget} bytes" in below.explanation
    at = solve(problem, problem.least_budget, **EFFORT)
    assert at.status in ("optimal", "feasible")


@FEW
@given(problem=problems(most_operators=4), share=st.floats(0, 1))
def test_integer_programme_agrees(problem: ScheduleProblem, share: float) -> None:
    capacity = budget_of(problem, share)
    exact = solve(problem, capacity, **EFFORT)
    ilp = solve(problem, capacity, method="ilp", time_limit_s=20)
    assert ilp.schedule is not None
    assert check(problem, ilp.schedule, capacity) == []
    assert ilp.cost_bytes is not None
    assert exact.cost_bytes is not None
    assert ilp.cost_bytes >= exact.cost_bytes
    # The published programme cannot move a tensor between adjacent steps; elsewhere both optima are equal.
    if not _moves(exact):
        assert ilp.cost_bytes == exact.cost_bytes


def _moves(result: object) -> bool:
    stays = sorted((s.tensor, s.start, s.end) for s in result.residences)  # type: ignore[attr-defined]
    return any(a[0] == b[0] and a[2] == b[1] for a, b in itertools.pairwise(stays))


@FEW
@given(problem=problems(), share=st.floats(0, 1))
def test_divide_and_master_stay_between_bound_and_baselines(problem: ScheduleProblem, share: float) -> None:
    pytest.importorskip("ortools")
    from mapping.deadline import Budget
    from mapping.scheduling.master import solve_with_cuts
    from mapping.scheduling.solver_run import SolverRun

    capacity = budget_of(problem, share)
    optimum = solve(problem, capacity, **EFFORT).cost_bytes
    assert optimum is not None
    divided = solve(problem, capacity, method="divide", **EFFORT)
    assert divided.cost_bytes is not None
    assert divided.bound_bytes <= optimum <= divided.cost_bytes
    run = SolverRun(problem, capacity, Budget(None, 100_000), 0)
    solve_with_cuts(run, None)
    assert run.proved
    assert run.cost >> 20 == optimum == run.bound >> 20
