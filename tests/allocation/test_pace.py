"""Tries that set bytes aside for waste to come find plans that hold, and never prove anything."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.allocation import AllocationProblem, check
from mapping.allocation.by_offset import FOUND, NONE
from mapping.allocation.by_valley import Bounds, search_by_valley
from mapping.allocation.engines import Prober
from mapping.allocation.instance import build_components, highest_offsets, section_ceilings
from mapping.allocation.state import PACES
from mapping.deadline import Budget
from tests.allocation.brute_force import fits
from tests.allocation.strategies import problems

GO = np.zeros(1, np.int64)


def by_valley(problem: AllocationProblem, capacity: int, pace: int) -> tuple[int, list[int]]:
    (component,) = build_components(problem)
    highest = highest_offsets(component, capacity)
    rank = np.arange(len(component.index))
    ceiling = section_ceilings(component.instance, highest)
    status, _, offsets = search_by_valley(
        component.instance, Bounds(highest, ceiling, rank, 0), pace, 9999, 1 << 16, GO
    )
    plan = np.zeros(len(problem), np.int64)
    plan[component.index] = offsets * component.unit
    return int(status), plan.tolist()


def test_bytes_set_aside_shut_out_plans() -> None:
    full = AllocationProblem.from_arrays([0, 0, 0], [2, 2, 2], [3, 3, 4])
    assert by_valley(full, 10, 0)[0] == FOUND
    assert by_valley(full, 10, PACES // 4)[0] == NONE
    status, plan = by_valley(full, 13, PACES // 4)
    assert status == FOUND
    assert check(full, plan, 13) == []


@settings(max_examples=120, deadline=None)
@given(problems(most=6), st.integers(0, 3))
def test_a_round_with_paced_tries_proves_only_what_brute_force_does(
    problem: AllocationProblem, more: int
) -> None:
    for component in build_components(problem):
        part = problem.subset(component.index)
        bound = int(component.true_size.max())
        for capacity in range(bound, bound + 3 + more):
            answer = Prober(component, Budget(None, 1 << 30), 0).probe(capacity, 4000, 1)
            assert (answer.status == FOUND) == fits(part, capacity)
            assert (answer.status == NONE) != fits(part, capacity)
