"""The layered search and its bounds against plain oracles, also where layers are cut."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapping.deadline import Budget
from mapping.scheduling import ScheduleProblem
from mapping.scheduling.down_sets import build_down_sets
from mapping.scheduling.instance import build_instance
from mapping.scheduling.search import COST_SCALE, NO_LIMIT, LayerSearch, scaled
from tests.scheduling.brute_force import least_cost_of_bytes, least_peak_of
from tests.scheduling.strategies import problems

MANY = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def budget_of(problem: ScheduleProblem, share: float) -> int:
    low, high = problem.least_budget, least_peak_of(problem)
    return low + round((high - low) * share)


@MANY
@given(problem=problems(most_bytes=5), share=st.floats(0, 1), ahead=st.booleans(), seed=st.integers(0, 5))
def test_bytes_of_the_master_equal_brute_force(
    problem: ScheduleProblem, share: float, ahead: bool, seed: int
) -> None:
    capacity = budget_of(problem, share)
    search = LayerSearch(problem, capacity, Budget(None))
    if ahead:
        assert search.look_ahead()
    rank = np.random.default_rng(seed).permutation(len(problem.operators))
    answer = search.run(NO_LIMIT, 100_000, rank=rank)
    assert answer.complete
    assert answer.cost is not None
    assert answer.stays is not None
    assert answer.cost // COST_SCALE == least_cost_of_bytes(problem, capacity)
    # The search's own cost is that of the stays, counted anew.
    assert answer.cost == scaled(*answer.stays.cost(problem))
    assert answer.stays.least_peak(problem) <= capacity
    # Nothing cheaper is found below the optimum, and nothing is missed either.
    below = search.run(answer.cost, 100_000)
    assert below.stays is None
    assert below.complete


@MANY
@given(problem=problems(most_bytes=5), share=st.floats(0, 1), ahead=st.booleans(), width=st.integers(1, 3))
def test_bound_holds_where_layers_are_cut(
    problem: ScheduleProblem, share: float, ahead: bool, width: int
) -> None:
    capacity = budget_of(problem, share)
    optimum = least_cost_of_bytes(problem, capacity)
    search = LayerSearch(problem, capacity, Budget(None))
    if ahead:
        search.look_ahead()
    answer = search.run(NO_LIMIT, width)
    assert optimum is not None
    assert min(answer.bound, NO_LIMIT if answer.cost is None else answer.cost) // COST_SCALE <= optimum
    if answer.cost is not None:
        assert answer.cost // COST_SCALE >= optimum


@MANY
@given(problem=problems(most_bytes=5))
def test_down_sets_know_the_least_peak(problem: ScheduleProblem) -> None:
    instance = build_instance(problem)
    table = build_down_sets(instance, 1000)
    assert len(table) > 0
    assert int(table.peak_ahead[0]) == least_peak_of(problem)
    assert len(build_down_sets(instance, 0)) == 0
