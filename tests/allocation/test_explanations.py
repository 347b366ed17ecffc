"""What is said of plans that cannot be, what spills, what moves, and what the checker tells, to the last word."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.brute_force import fits
from allocation.strategies import problems
from hw_configs.problems import InputError, PhysicsError
from mapping.allocation import (
    AllocationProblem,
    AllocationResult,
    Buffer,
    Explanation,
    Gap,
    check,
    peak_of,
    solve,
    solving,
)
from mapping.allocation import explain as explain_module
from mapping.allocation.engines import FOUND, LIMIT, NONE, Answer
from mapping.allocation.explain import clashing_pins, explain_section, explain_subset
from mapping.allocation.replan import replan
from mapping.allocation.spill import suggest_spills
from mapping.deadline import Budget


def test_pins_that_clash_are_told_with_their_places() -> None:
    buffers = [
        Buffer("free", 0, 9, 4), Buffer("low", 0, 4, 4, offset=2), Buffer("none", 3, 3, 9, offset=0),
        Buffer("empty", 0, 4, 0, offset=3), Buffer("high", 3, 5, 4, offset=5),
    ]  # fmt: skip
    problem = AllocationProblem.of(buffers)
    assert clashing_pins(problem, None) == Explanation(
        "pins", (1, 4), "pinned buffers 'low' and 'high' share the bytes 5 to 6 at time 3", minimal=True
    )
    apart = problem.subset([0, 1, 2, 3])
    assert clashing_pins(apart, None) is None
    assert clashing_pins(apart, 6) is None
    assert clashing_pins(apart, 5) == Explanation(
        "pins", (1,), "pinned buffer 'low' ends at 6, above the capacity 5", minimal=True
    )
    assert clashing_pins(problem.subset([0]), 0) is None
    result = solve(problem, 20, seed=3)
    assert (result.status, result.engine, result.peak_bytes, result.bound_bytes) == (
        "infeasible",
        "pins",
        None,
        0,
    )
    assert (result.nodes, result.seed, result.capacity_bytes, result.gap) == (0, 3, 20, None)


def test_the_fullest_moment_is_told_with_what_lives_then() -> None:
    problem = AllocationProblem.of(
        [
            Buffer("a", 0, 4, 5),
            Buffer("b", 2, 6, 7),
            Buffer("c", 4, 9, 6, gaps=(Gap(5, 7, (0, 1)), Gap(7, 8))),
        ]
    )
    # Live: 5 from 0, 12 from 2, 13 from 4, 8 from 5, 1 from 6, none from 7, 6 from 8.
    assert explain_section(problem, 13) is None
    assert explain_section(problem, 12) == Explanation(
        "section", (1, 2), "from time 4 to 5, 2 buffers hold 13 bytes, 1 more than the capacity of 12",
        minimal=False, lower=4, upper=5, live_bytes=13,
    )  # fmt: skip
    # Of moments alike the first; it lasts until the next change.
    twice = AllocationProblem.of([Buffer("a", 1, 3, 5), Buffer("b", 6, 9, 5), Buffer("c", 0, 12, 1)])
    found = explain_section(twice, 0)
    assert found is not None
    assert (found.buffers, found.lower, found.upper, found.live_bytes) == ((0, 2), 1, 3, 6)
    assert explain_section(AllocationProblem.of([]), 0) is None


def walls() -> AllocationProblem:
    """Four bytes free below a pin and four above: 'wide' of five bytes fits nowhere; 'a' and 'b' do not matter."""
    return AllocationProblem.of(
        [
            Buffer("a", 0, 9, 1),
            Buffer("pin", 0, 9, 2, offset=4),
            Buffer("wide", 0, 9, 5),
            Buffer("b", 2, 3, 1),
        ]
    )


def test_a_subset_without_a_plan_is_as_small_as_can_be() -> None:
    problem = walls()
    index = np.arange(4)
    assert explain_subset(problem, index, 10, Budget()) == Explanation(
        "subset", (1, 2),
        "these 2 buffers alone have no plan below 10 bytes (none of them can be left out): 'pin', 'wide'",
        minimal=True,
    )  # fmt: skip
    result = solve(problem, 10)
    assert result.explanation == explain_subset(problem, index, 10, Budget())
    assert solve(problem, 10, explain=False).explanation is None
    assert solve(problem, 11).status == "optimal"


def test_without_budget_a_subset_is_not_called_minimal() -> None:
    budget = Budget(None, 5)
    budget.nodes = 5
    many = AllocationProblem.of([Buffer(f"b{i}", 0, 9, 1) for i in range(9)])
    found = explain_subset(many, np.array([8, 0, 1, 2, 3, 4, 5, 6, 7]), 3, budget)
    assert (found.buffers, found.minimal) == (tuple(range(9)), False)
    named = ", ".join(f"'b{i}'" for i in range(8))
    assert found.message == (
        f"these 9 buffers alone have no plan below 3 bytes (not proven minimal): {named}, ..."
    )
    eight = explain_subset(many, np.arange(8), 3, budget)
    assert eight.message.endswith(f": {named}")


def test_a_proof_is_asked_for_in_six_rounds_of_doubling_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    class Undecided:
        size = 20

        def __init__(self, component: Any, budget: Budget, seed: int) -> None:
            assert seed == 0

        def probe(self, capacity: int, nodes: int, turn: int) -> Answer:
            asked.append((capacity, nodes, turn))
            return Answer(answers[min(len(asked), len(answers)) - 1])

    monkeypatch.setattr(explain_module, "Prober", Undecided)
    problem = AllocationProblem.of([Buffer("a", 0, 1, 2), Buffer("b", 0, 1, 2)])
    search = explain_module._Xplain(problem, 4, Budget())
    answers = [LIMIT]
    assert not search._impossible([0, 1])
    assert not search.proved
    assert asked == [(4, 80 << turn, turn) for turn in range(6)]
    for status, impossible in ((FOUND, False), (NONE, True)):
        search = explain_module._Xplain(problem, 4, Budget())
        asked.clear()
        answers = [LIMIT, status]
        assert search._impossible([0, 1]) == impossible
        assert search.proved
        assert len(asked) == 2
    Undecided.size = 3
    asked.clear()
    answers = [NONE]
    assert search._impossible([0, 1])
    assert asked == [(4, 64, 0)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(pinned=True, gapped=True), st.integers(3, 9))
def test_spills_relieve_and_the_rest_is_packed(problem: AllocationProblem, capacity: int) -> None:
    plan = suggest_spills(problem, capacity)
    assert list(plan.buffers) == sorted(set(plan.buffers))
    assert plan.bytes == sum(int(problem.size[i]) for i in plan.buffers)
    assert all(problem.fixed[i] < 0 for i in plan.buffers)
    if plan.offsets is None:
        assert not fits(problem.subset(np.flatnonzero(problem.fixed >= 0)), capacity)
        return
    kept = [i for i in range(len(problem)) if i not in plan.buffers]
    assert [int(plan.offsets[i]) for i in plan.buffers] == [-1] * len(plan.buffers)
    assert check(problem.subset(kept), plan.offsets[kept].tolist(), capacity) == []
    assert bool(plan.buffers) == (not fits(problem, capacity))


@pytest.mark.parametrize(
    ("buffers", "capacity", "gone"),
    [
        # Overfull by 4 throughout: the one that relieves most of the moments per byte goes, of equals the first.
        ([Buffer("a", 0, 8, 4), Buffer("b", 0, 8, 4), Buffer("c", 0, 8, 4)], 8, (0,)),
        ([Buffer("a", 0, 4, 4), Buffer("b", 0, 8, 4), Buffer("c", 0, 8, 4), Buffer("d", 4, 8, 4)], 8, (1,)),
        # 'large' relieves the same four bytes as 'small' does, and costs eight.
        ([Buffer("large", 0, 8, 8), Buffer("small", 0, 8, 4)], 8, (1,)),
        # One byte too many at one moment: of the three there, 'tiny' is the cheapest byte.
        ([Buffer("a", 0, 9, 6), Buffer("b", 2, 5, 2), Buffer("tiny", 4, 5, 1)], 8, (2,)),
        # A pin stays, whatever it would relieve; a buffer of no bytes relieves nothing.
        ([Buffer("pin", 0, 8, 6, offset=0), Buffer("zero", 0, 8, 0), Buffer("a", 0, 8, 4)], 8, (2,)),
        # Two moments are overfull, apart from each other.
        ([Buffer("a", 0, 2, 5), Buffer("b", 1, 2, 5), Buffer("c", 4, 6, 5), Buffer("d", 5, 7, 4)], 8, (0, 3)),
        # While 'a' rests, 'b' lies there; only the moment after is overfull.
        ([Buffer("a", 0, 9, 6, gaps=(Gap(2, 5),)), Buffer("b", 2, 5, 6)], 8, ()),
        ([Buffer("a", 0, 9, 6, gaps=(Gap(2, 5),)), Buffer("b", 2, 6, 5)], 8, (1,)),
    ],
)  # fmt: skip
def test_who_spills(buffers: list[Buffer], capacity: int, gone: tuple[int, ...]) -> None:
    problem = AllocationProblem.of(buffers)
    plan = suggest_spills(problem, capacity)
    assert plan.buffers == gone
    assert plan.bytes == sum(buffers[i].size for i in gone)
    assert suggest_spills(problem, 100).buffers == ()


def test_a_spill_without_a_proof_takes_the_longest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    spill_module = importlib.import_module("mapping.allocation.spill")
    asked: list[tuple[int, int | None, int | None]] = []

    def solved(problem: AllocationProblem, capacity: int, *, max_nodes: int) -> AllocationResult:
        asked.append((len(problem), capacity, max_nodes))
        status: Any = "unknown" if len(asked) < 3 else "feasible"
        return AllocationResult(status, 9, 0, np.arange(len(problem)), "x", 0, 0.0, 0)

    monkeypatch.setattr(spill_module, "solve", solved)
    problem = AllocationProblem.of(
        [
            Buffer("pin", 0, 9, 1, offset=0),
            Buffer("short", 2, 3, 1),
            Buffer("large", 0, 8, 2),
            Buffer("long", 1, 9, 1),
        ]
    )
    plan = suggest_spills(problem, 9)
    assert asked == [(4, 9, 20_000), (3, 9, 20_000), (2, 9, 20_000)]
    assert (plan.buffers, plan.bytes) == ((2, 3), 3)
    assert plan.offsets is not None
    assert plan.offsets.tolist() == [0, 1, -1, -1]


def test_planning_again_frees_the_smaller_half_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("mapping.allocation.replan")
    asked: list[dict[str, Any]] = []

    def solved(problem: AllocationProblem, capacity: int | None, **options: Any) -> AllocationResult:
        asked.append({"fixed": problem.fixed.tolist(), "capacity": capacity, **options})
        return AllocationResult("unknown", None, 0, None, "x", 2 ** len(asked), 1.0, 0)

    monkeypatch.setattr(module, "solve", solved)
    sizes = [(1, 2), (4, 3), (2, 5), (3, 3), (9, 1)]
    problem = AllocationProblem.of(
        [Buffer(f"b{i}", 0, life, size) for i, (life, size) in enumerate(sizes)]
        + [Buffer("pin", 0, 1, 1, offset=50), Buffer("new", 0, 1, 1)]
    )
    earlier = {"b0": 0, "b1": 2, "b2": 5, "b3": 10, "b4": -1, "pin": 3, "other": 7}
    again = replan(problem, earlier, 60, time_limit_s=16.0, max_nodes=83, seed=5)
    # Areas 2, 12, 10, 9: the largest are kept longest. b4 has no place of its own.
    common = {"capacity": 60, "seed": 5}
    part = common | {"time_limit_s": 2.0, "max_nodes": 10, "explain": False}
    assert asked == [
        part | {"fixed": [0, 2, 5, 10, -1, 50, -1]},
        part | {"fixed": [-1, 2, 5, -1, -1, 50, -1]},
        part | {"fixed": [-1, 2, -1, -1, -1, 50, -1]},
        common | {"time_limit_s": 16.0, "max_nodes": 83, "fixed": [-1] * 5 + [50, -1]},
    ]
    assert (again.moved, again.moved_bytes) == ((), 0)
    assert (again.result.nodes, again.result.seconds) == (2 + 4 + 8 + 16, 4.0)
    asked.clear()
    replan(problem, {"b1": 2}, max_nodes=1)
    # Without a capacity the earlier height holds, or the least bound: a pin ends at 51.
    assert [(call["capacity"], call["max_nodes"], call["time_limit_s"]) for call in asked] == [
        (51, 1, None), (None, 1, None),
    ]  # fmt: skip
    asked.clear()
    replan(problem, {"b1": 80})
    assert asked[0]["seed"] == 0
    assert [(call["capacity"], call["max_nodes"]) for call in asked] == [(83, None), (None, None)]


def test_an_interrupt_ends_the_planning_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("mapping.allocation.replan")
    asked = []

    def solved(problem: AllocationProblem, capacity: int | None, **options: Any) -> AllocationResult:
        asked.append(problem.fixed.tolist())
        return AllocationResult("unknown", None, 0, None, "x", 0, 0.0, 0, interrupted=True)

    monkeypatch.setattr(module, "solve", solved)
    replan(AllocationProblem.of([Buffer(f"b{i}", 0, 1, 1) for i in range(4)]), {f"b{i}": i for i in range(4)})
    assert asked == [[0, 1, 2, 3], [-1] * 4]


def test_kept_offsets_hold_together_and_others_are_moved() -> None:
    problem = AllocationProblem.of(
        [Buffer("big", 0, 4, 8), Buffer("mid", 0, 4, 6), Buffer("later", 4, 6, 6), Buffer("odd", 0, 4, 2, 4)]
    )
    again = replan(problem, {"big": 0, "mid": 4, "later": 2, "odd": 9}, 20)
    assert again.result.offsets is not None
    # 'mid' overlaps 'big', 'odd' is not aligned; 'later' lives after both.
    assert again.result.offsets[[0, 2]].tolist() == [0, 2]
    assert (again.moved, again.moved_bytes) == ((1, 3), 8)
    assert again.result.capacity_bytes == 20


def result_of(peak: int | None, bound: int) -> AllocationResult:
    return AllocationResult("feasible", peak, bound, None, "x", 0, 0.0, 0)


def test_a_gap_is_the_share_of_the_peak_that_is_open() -> None:
    assert [result_of(*pair).gap for pair in ((None, 0), (0, 0), (8, 6), (8, 8), (1, 0))] == [
        None,
        0,
        0.25,
        0,
        1,
    ]


def told(
    problem: AllocationProblem, *offsets: int, capacity: int | None = None, limit: int = 20
) -> list[str]:
    return [str(violation) for violation in check(problem, offsets, capacity, limit)]


def test_the_checker_says_what_is_broken_and_where() -> None:
    problem = AllocationProblem.of(
        [Buffer("a", 0, 4, 4), Buffer("b", 2, 6, 4, 4), Buffer("c", 0, 6, 2, 4, 5), Buffer("z", 3, 3, 99)]
    )
    assert told(problem, 8, 0, 5, 1000) == []
    assert told(problem, 8, 0, 5, 1000, capacity=12) == []
    assert peak_of(problem, [8, 0, 5, 1000]) == 12
    assert told(problem, 8, 0, 5, 1000, capacity=11) == ["buffer 'a' ends at 12, above the capacity 11"]
    assert told(problem, 8, 0) == ["the plan has 2 offsets for 4 buffers"]
    assert told(problem, -4, 2, 4, -1) == [
        "buffer 'a' has the offset -4",
        "buffer 'b' at 2 is not aligned to 4",
        "buffer 'c' is pinned at 5 but lies at 4",
        "buffer 'z' has the offset -1",
        "buffers 'c' and 'b' share the bytes 4 to 6 at time 2",
    ]
    assert told(problem, 7, 8, 5, 0, limit=1) == ["buffers 'a' and 'b' share the bytes 8 to 11 at time 2"]
    assert [v.buffers for v in check(problem, [5, 4, 5, 0])] == [(2, 0), (2, 1)]


def test_a_gap_frees_its_bytes_for_as_long_as_it_lasts() -> None:
    problem = AllocationProblem.of(
        [Buffer("a", 0, 9, 8, gaps=(Gap(3, 6, (0, 2)),)), Buffer("b", 3, 6, 6), Buffer("c", 2, 6, 1)]
    )
    assert told(problem, 0, 2, 8) == []
    assert told(problem, 0, 1, 8) == ["buffers 'a' and 'b' share the bytes 1 to 2 at time 3"]
    assert told(problem, 0, 2, 7) == [
        "buffers 'a' and 'c' share the bytes 7 to 8 at time 2",
        "buffers 'c' and 'b' share the bytes 7 to 8 at time 3",
    ]


def test_wrong_options_of_a_solve_are_told() -> None:
    problem = walls()
    for capacity, engine, words in (
        (-1, "auto", "--capacity: found -1; expected a capacity of at least 0 bytes"),
        (
            1,
            "serch",
            "--engine: found 'serch'; expected one of auto, greedy, search, mip (did you mean 'search'?)",
        ),
    ):
        with pytest.raises(InputError) as error:
            solve(problem, capacity, engine=engine)  # type: ignore[arg-type]
        assert str(error.value) == words
    assert solve(AllocationProblem.of([]), 0).status == "optimal"


def test_a_plan_that_does_not_hold_is_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = AllocationProblem.of([Buffer("a", 0, 2, 4), Buffer("b", 0, 2, 4)])
    monkeypatch.setattr(
        solving, "place_in_order", lambda component, order, best_fit=False: np.zeros(2, np.int64)
    )
    with pytest.raises(PhysicsError) as error:
        solve(problem, engine="greedy")
    assert str(error.value) == (
        "the allocation engine greedy/size made a plan that does not hold: "
        "buffers 'a' and 'b' share the bytes 0 to 4 at time 0"
    )
