"""Minimum cuts against every set of operators done; what they cost against every schedule."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from mapping.deadline import Budget
from mapping.scheduling import ScheduleProblem
from mapping.scheduling.instance import build_instance
from mapping.scheduling.live_cut import LiveCuts, highest_cut, path_of_cuts
from mapping.scheduling.order_beam import Aim
from mapping.scheduling.orders import beam_of_orders, given_order, needs_of_order, peak_of_order
from tests.scheduling.brute_force import _live, _ready, least_cost_of_bytes, least_peak_of
from tests.scheduling.build import chain_of
from tests.scheduling.strategies import problems


def sets_done(problem: ScheduleProblem) -> Iterator[int]:
    """Every set of operators that can be done together."""
    seen, front = {0}, [0]
    while front:
        done = front.pop()
        yield done
        for o in _ready(problem, done):
            if done | 1 << o not in seen:
                seen.add(done | 1 << o)
                front.append(done | 1 << o)


def alive_beside(problem: ScheduleProblem, operator: int) -> int:
    """The fewest bytes of tensors that an operator does not touch, alive when it can run."""
    op = problem.operators[operator]
    touched = {*op.inputs, *op.outputs}
    return min(
        sum(
            tensor.size_bytes
            for t, tensor in enumerate(problem.tensors)
            if t not in touched and _live(problem, done, t)
        )
        for done in sets_done(problem)
        if operator in _ready(problem, done)
    )


@settings(max_examples=150, deadline=None)
@given(problems(most_operators=8, most_bytes=9))
def test_the_least_alive_is_that_of_every_set(problem: ScheduleProblem) -> None:
    cuts = LiveCuts.of(build_instance(problem))
    for operator in range(len(problem.operators)):
        assert cuts.least_alive(operator) == alive_beside(problem, operator)


@settings(max_examples=150, deadline=None)
@given(problems(most_operators=8, most_bytes=9, in_place=True))
def test_no_order_has_a_lower_peak_than_the_highest_cut(problem: ScheduleProblem) -> None:
    order = given_order(problem)
    needs = needs_of_order(problem, order)
    cuts = LiveCuts.of(build_instance(problem))
    bound = highest_cut(cuts, zip(order, needs, strict=True), 0, Budget())
    assert bound == max(map(cuts.least_need, order)), "operators are left out where they need less, not more"
    assert bound <= least_peak_of(problem)


@settings(max_examples=150, deadline=None)
@given(problems(most_operators=7, most_bytes=5))
def test_no_schedule_moves_less_than_a_path_of_cuts(problem: ScheduleProblem) -> None:
    order = given_order(problem)
    cuts = LiveCuts.of(build_instance(problem))
    needs = list(zip(order, needs_of_order(problem, order), strict=True))
    for capacity in range(problem.least_budget, least_peak_of(problem) + 1):
        assert path_of_cuts(cuts, capacity, needs, Budget()) <= (least_cost_of_bytes(problem, capacity) or 0)


@settings(max_examples=100, deadline=None)
@given(problems(most_operators=8, most_bytes=9, in_place=True))
def test_a_beam_finds_an_order_and_a_wide_one_the_least_peak(problem: ScheduleProblem) -> None:
    instance = build_instance(problem)
    for summed in (False, True):
        order = beam_of_orders(instance, Aim(0, 1 << 12, summed, 0.0, 1), Budget())
        assert order is not None
        assert sorted(order) == list(range(len(problem.operators)))
        at = {o: step for step, o in enumerate(order)}
        assert all(at[w] < at[o] for o, before in enumerate(problem.predecessors) for w in before)
        if not summed:
            assert peak_of_order(problem, order) == least_peak_of(problem), "every set was kept"


def test_a_sum_along_a_path_is_more_than_its_highest_cut(chain_of_diamonds: ScheduleProblem) -> None:
    order = given_order(chain_of_diamonds)
    instance = build_instance(chain_of_diamonds)
    needs = list(zip(order, needs_of_order(chain_of_diamonds, order), strict=True))
    cuts = LiveCuts.of(instance)
    capacity = chain_of_diamonds.least_budget
    one = 2 * (highest_cut(cuts, needs, 0, Budget()) - capacity)
    assert path_of_cuts(cuts, capacity, needs, Budget()) == 3 * one > 0


@pytest.fixture
def chain_of_diamonds() -> ScheduleProblem:
    """Three times: a tensor is kept while two others, made and read one after another, fill the scratchpad."""
    rows: dict[str, tuple[int, str]] = {"a": (2, "")}
    last = "a"
    for kept, first, second, end in ("bcde", "fghi", "jklm"):
        rows[kept] = (5, last)
        rows[first] = (6, kept)
        rows[second] = (6, first)
        rows[end] = (1, kept + second)
        last = end
    return chain_of(rows)


def test_what_stays_away_is_paid_once() -> None:
    rows = {"k": (5, ""), "b": (6, "k"), "c": (6, "b"), "d": (6, "c"), "e": (6, "d"), "f": (1, "ke")}
    problem = chain_of(rows)  # type: ignore[arg-type]
    order = given_order(problem)
    needs = list(zip(order, needs_of_order(problem, order), strict=True))
    found = path_of_cuts(LiveCuts.of(build_instance(problem)), 12, needs, Budget())
    assert found == least_cost_of_bytes(problem, 12) == 10


def test_the_time_ends_a_beam_and_cuts() -> None:
    problem = chain_of({"a": (2, ""), "b": (3, "a"), "c": (1, "ab")})
    stopped = Budget()
    stopped.stop[0] = 1
    assert beam_of_orders(build_instance(problem), Aim(0, 4, True, 0.1, 0), stopped) is None
    late = Budget(0.0)
    assert highest_cut(LiveCuts.of(build_instance(problem)), [(0, 9)], 3, late) == 3
