"""The programme by runs: what it says is what the one stated term by term says, for orders and for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.deadline import Budget
from mapping.scheduling import ScheduleProblem, residency_runs, solve
from mapping.scheduling.residency import residency_of, residency_of_order, solve_residency
from mapping.scheduling.residency_runs import plan_of_runs, runs_of, runs_of_order, solve_runs
from mapping.sparse_solver import SparseModel, solve_sparse
from tests.scheduling.brute_force import least_cost_of_bytes
from tests.scheduling.generated import made
from tests.scheduling.strategies import problems
from tests.scheduling.test_residency import an_order, least_in_order


@settings(max_examples=80, deadline=None, derandomize=True)
@given(problems(7), st.integers(0, 3), st.integers(0, 99))
def test_one_order(problem: ScheduleProblem, extra: int, seed: int) -> None:
    capacity, order = problem.least_budget + extra, an_order(problem, seed)
    least = least_in_order(problem, order, capacity)
    runs = runs_of_order(problem, order, capacity)
    relaxed, out = solve_runs(runs, None)
    whole, chosen = solve_runs(runs, None, whole=True)
    assert relaxed <= whole == least
    for values in (out, chosen):
        assert values is not None
        stays = plan_of_runs(runs, order, values)
        assert stays.least_peak(problem) <= capacity
        assert stays.cost(problem)[0] >= least
    assert plan_of_runs(runs, order, chosen).cost(problem)[0] == least  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(problems(7), st.integers(0, 3), st.booleans())
def test_all_orders(problem: ScheduleProblem, extra: int, whole: bool) -> None:
    capacity = problem.least_budget + extra
    least = least_cost_of_bytes(problem, capacity)
    bound, _ = solve_runs(runs_of(problem, capacity), None, whole=whole)
    assert least is not None
    assert bound <= least
    if whole:
        # Chains cover every operator of such small problems, so nothing is lost against the other statement.
        assert bound == solve_residency(residency_of(problem, capacity), Budget()).bound


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(6, in_place=True), st.integers(0, 3))
def test_in_place(problem: ScheduleProblem, extra: int) -> None:
    capacity, order = problem.least_budget + extra, range(len(problem.operators))
    least = least_cost_of_bytes(problem, capacity)
    assert least is not None
    assert solve_runs(runs_of(problem, capacity), None, whole=True)[0] <= least
    runs = runs_of_order(problem, order, capacity)
    _, out = solve_runs(runs, None)
    assert out is not None
    stays = plan_of_runs(runs, order, out)
    assert stays.least_peak(problem) <= capacity
    exact = solve_residency(residency_of_order(problem, order, capacity), Budget())
    assert stays.cost(problem)[0] >= exact.bound
    whole, _ = solve_runs(runs, None, whole=True)
    assert whole == exact.bound if runs.exact else whole >= exact.bound


def test_a_lost_entry_is_caught() -> None:
    """A tensor that never leaves its rows again lends its bytes to all that follow: the bound falls."""
    problem = made("chain", 60, 0)
    capacity = problem.least_budget + 640
    right, _ = solve_runs(runs_of_order(problem, range(60), capacity), None)
    assert right > 0
    real = residency_runs.runs_of_order(problem, range(60), capacity)
    longer = replace(real, end=np.full_like(real.end, len(real.operator) - 1))
    assert solve_runs(longer, None)[0] < right


@pytest.mark.parametrize(("family", "share"), [("unet", 0.1), ("training", 0.1)])
def test_hundreds_of_operators_are_proved_or_nearly(family: str, share: float) -> None:
    problem = made(family, 400, 3)
    result = solve(problem, int(problem.least_budget * (1 + 8 * share)), time_limit_s=20)
    assert result.gap is not None
    assert result.gap <= 0.02


def test_an_order_that_breaks_a_wait_is_refused() -> None:
    problem = made("chain", 10, 0)
    with pytest.raises(ValueError, match="before one that it waits for"):
        runs_of_order(problem, range(9, -1, -1), problem.least_budget)


def test_the_sparse_door_solves_adds_up_and_says_what_it_knows() -> None:
    def model(whole: bool) -> SparseModel:
        # Minimise 3 x + 2 y for 2 x + y >= 3 (stated as x + x + y), x, y in [0, 2].
        return SparseModel(
            np.array([3.0, 2.0]), np.zeros(2), np.full(2, 2.0), np.array([3.0]), np.array([np.inf]),
            np.array([0, 0, 0]), np.array([0, 1, 0]), np.ones(3), np.array([whole, whole]) if whole else None,
        )  # fmt: skip

    relaxed, whole = solve_sparse(model(False), seconds=None), solve_sparse(model(True), seconds=None)
    assert relaxed.bound == relaxed.objective == pytest.approx(4.5)
    assert whole.bound == whole.objective == pytest.approx(5.0)
    assert whole.values is not None
    assert whole.values.tolist() == pytest.approx([1.0, 1.0])
