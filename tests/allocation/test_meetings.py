"""Pairs and bound of a model under rules against a plain Python sweep; and the answer where time ends before them."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.allocation import AllocationProblem, Buffer, check, lower_bound, solve
from mapping.allocation.constrained import solve_with_rules
from mapping.allocation.meetings import Spans, distances, most_apart
from mapping.allocation.rules import Rules
from mapping.allocation.storage_model import groups_of, model_of
from mapping.deadline import Budget, OutOfTimeError

RUN = np.zeros(1, np.int64)
STOPPED = np.ones(1, np.int64)
Row = tuple[int, int, int, int, int, int]


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    listed = []
    for buffer in range(draw(st.integers(0, 7))):
        lower, low = draw(st.integers(0, 5)), draw(st.integers(0, 2))
        upper, high = draw(st.integers(lower + 1, 6)), draw(st.integers(low + 1, 6))
        listed.append((lower, upper, low, high, draw(st.integers(0, 4)), buffer))
    return listed


pairs = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] != pair[1]), max_size=4
)


def may_share(one: Row, two: Row, buffers: list[tuple[int, int]], storages: list[tuple[int, int]]) -> bool:
    return (
        one[4] == two[4]
        or {one[5], two[5]} in [set(pair) for pair in buffers]
        or {one[4], two[4]} in [set(pair) for pair in storages]
    )


@given(rows(), pairs, pairs)
@settings(deadline=None)
def test_meetings_and_bound_are_those_of_looking_at_every_pair(
    listed: list[Row], buffers: list[tuple[int, int]], storages: list[tuple[int, int]]
) -> None:
    right: dict[tuple[int, int], list[int]] = {}
    for one, two in combinations(listed, 2):
        if one[0] < two[1] and two[0] < one[1] and not may_share(one, two, buffers, storages):
            a, b = (one, two) if one[4] < two[4] else (two, one)
            reach = right.setdefault((a[4], b[4]), [a[3] - b[2], b[3] - a[2]])
            reach[:] = [max(reach[0], a[3] - b[2]), max(reach[1], b[3] - a[2])]
    spans = Spans.of(listed, buffers, storages)
    found = distances(spans, np.zeros((0, 4), np.int64), 1000, RUN)
    assert found is not None
    assert found.tolist() == [[*pair, *reach] for pair, reach in sorted(right.items())]
    # The bound is bytes of spans that all meet and none may share; and not below the tallest one alone.
    bound = most_apart(spans, RUN)
    sums = {0}
    for moment in {row[0] for row in listed}:
        alive = [row for row in listed if row[0] <= moment < row[1]]
        for count in range(1, len(alive) + 1):
            for chosen in combinations(alive, count):
                if not any(may_share(a, b, buffers, storages) for a, b in combinations(chosen, 2)):
                    sums.add(sum(row[3] - row[2] for row in chosen))
    assert bound in sums
    assert bound >= max((row[3] - row[2] for row in listed), default=0)
    if not buffers and not storages and len({row[4] for row in listed}) == len(listed):
        assert bound == max(sums)


def test_the_sweeps_look_at_the_flag_and_at_the_number_of_pairs() -> None:
    spans = Spans.of([(0, 2, 0, 3, i, i) for i in range(4)], [], [])
    none = np.zeros((0, 4), np.int64)
    assert distances(spans, none, 5, RUN) is None
    assert distances(spans, none, 6, RUN) is not None
    with pytest.raises(OutOfTimeError):
        distances(spans, none, 6, STOPPED)
    with pytest.raises(OutOfTimeError):
        most_apart(spans, STOPPED)
    problem = AllocationProblem.of([Buffer("a", 0, 1, 1)], rules=Rules(boundary={0: 4}))
    with pytest.raises(OutOfTimeError):
        model_of(problem, groups_of(problem), stop=STOPPED)


CASES = [
    (Rules(boundary={0: 8, 1: 5, 2: 6}), 14, True),
    (Rules(boundary={2: 6}, alias=((0, 1),)), 6, True),
    (Rules(boundary={2: 6}, shared=((0, 1),)), 6, True),
    (Rules(moves={0: (2,)}), 14, True),
    (Rules(inside=((1, 0),)), 6, False),
]


@pytest.mark.parametrize(("rules", "bound", "planned"), CASES)
def test_where_time_ends_before_the_model_a_stack_and_a_true_bound_are_the_answer(
    rules: Rules, bound: int, planned: bool
) -> None:
    buffers = [Buffer("a", 0, 4, 5), Buffer("b", 1, 3, 3, 2), Buffer("c", 0, 4, 6)]
    problem = AllocationProblem.of(buffers, rules=rules)
    budget = Budget(None, 1000)
    budget.stop[0] = 1
    found = solve_with_rules(problem, None, "auto", budget, 0)
    assert found.bound_bytes == bound <= lower_bound(problem)
    assert (found.offsets is not None) == planned
    if found.offsets is not None:
        assert found.status == "feasible"
        assert check(problem, found.offsets.tolist(), found.peak_bytes) == []
    assert (found.status == "unknown") == (not planned)


def test_thousands_of_places_in_place_and_aliases_are_joined_in_little_time() -> None:
    """Chains of outputs in place, and one storage of many lives: quadratic work would take minutes."""
    count = 5_000
    chain = [Buffer(str(i), i, i + 2, 64) for i in range(count)]
    start = time.process_time()
    problem = AllocationProblem.of(chain, rules=Rules(inside=tuple((i + 1, i) for i in range(count - 1))))
    assert set(groups_of(problem)) == {0}
    listed = [Buffer(str(i), 2 * i, 2 * i + 1, 64) for i in range(count)]
    found = solve(AllocationProblem.of(listed, rules=Rules(alias=(tuple(range(count)),))), max_nodes=1000)
    assert (found.status, found.peak_bytes) == ("optimal", 64)
    assert time.process_time() - start < 20
