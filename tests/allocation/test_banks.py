"""Several memories: what a bank is written like, what the master is told, and which assignment is the cheapest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, AllocationResult, Buffer, Explanation, Gap
from mapping.allocation import banks as banks_module
from mapping.allocation.banks import Bank, BankPlan, parse_bank, solve_banks
from mapping.allocation.spill import SpillPlan

BANKS = [Bank("near", 8, 0.0), Bank("far", 1024, 2.0)]


@pytest.mark.parametrize(
    ("text", "bank"),
    [
        ("sram=512KiB@0", Bank("sram", 524288)),
        (" a = 7 @.5", Bank("a", 7, 0.5)),
        ("a=0", Bank("a", 0)),
        (f"a={2**60}", Bank("a", 2**60)),
        ("a=1@1e17", Bank("a", 1, 1e17)),
    ],
)  # fmt: skip
def test_a_bank_is_read(text: str, bank: Bank) -> None:
    assert parse_bank(text) == bank


FORM = "expected NAME=BYTES or NAME=BYTES@COST"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", f"--bank: found 'a'; {FORM}"),
        ("a=x", f"--bank: found 'a=x'; {FORM}"),
        ("a=1@x", f"--bank: found 'a=1@x'; {FORM}"),
        (f"a={2**60 + 1}", f"--bank: found 'a={2**60 + 1}'; {FORM}"),
        ("=4", "--bank: found '=4'; expected a name, and a cost of at least 0"),
        ("a=4@-1", "--bank: found 'a=4@-1'; expected a name, and a cost of at least 0"),
        ("a=4@1e18", "--bank: found 'a=4@1e18'; expected a name, and a cost of at least 0"),
        ("b" * 90, f"--bank: found '{'b' * 80}'; {FORM}"),
        (f"a=1@{'x' * 90}", f"--bank: found 'a=1@{'x' * 76}'; {FORM}"),
    ],
)
def test_a_wrong_bank_is_told(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_bank(text)
    assert str(error.value) == words


@pytest.mark.parametrize("banks", [[], [Bank("a", 1), Bank("b", 2), Bank("a", 3)]])
def test_banks_need_names_of_their_own(banks: list[Bank]) -> None:
    with pytest.raises(InputError) as error:
        solve_banks(AllocationProblem.of([]), banks)
    assert str(error.value) == "--bank: expected at least one bank, each with a name of its own"


def three() -> AllocationProblem:
    return AllocationProblem.of([Buffer("wide", 0, 4, 6), Buffer("one", 0, 4, 4), Buffer("two", 0, 4, 4)])


def test_the_cheapest_assignment_with_its_places() -> None:
    plan = solve_banks(three(), BANKS)
    assert plan is not None
    assert (plan.status, plan.bank, plan.cost, plan.bound) == ("optimal", (1, 0, 0), 12.0, 12.0)
    assert sorted(plan.offsets.tolist()) == [0, 0, 4]
    assert plan.peak_bytes == (8, 6)
    assert plan.peaks(BANKS) == [(BANKS[0], 8), (BANKS[1], 6)]
    assert solve_banks(three(), [Bank("a", 5), Bank("b", 4), Bank("c", 3)]) is None
    assert solve_banks(three(), [Bank("a", 8)], pinned={0: 0, 1: 0, 2: 0}) is None


def test_a_pinned_buffer_counts_in_its_bank() -> None:
    plan = solve_banks(three(), BANKS, pinned={0: 0})
    assert plan is not None
    assert (plan.bank, plan.cost, plan.status) == ((0, 1, 1), 16.0, "optimal")
    plan = solve_banks(three(), BANKS, pinned={1: 1})
    assert plan is not None
    assert (plan.bank, plan.cost) == ((0, 1, 1), 16.0)


def test_what_lives_never_or_apart_takes_no_room() -> None:
    problem = AllocationProblem.of(
        [
            Buffer("never", 3, 3, 99),
            Buffer("a", 0, 4, 8),
            Buffer("b", 4, 6, 8),
            Buffer("c", 6, 9, 8, gaps=(Gap(6, 9, (0, 3)),)),
        ]
    )
    plan = solve_banks(problem, BANKS)
    assert plan is not None
    assert (plan.cost, plan.bank) == (0.0, (0, 0, 0, 0))


def test_where_the_window_alone_counts_two_share_a_bank() -> None:
    """Five bytes of each are in use at one time, and eight are there: the windows must lie apart."""
    problem = AllocationProblem.of(
        [Buffer("a", 0, 4, 5, gaps=(Gap(0, 4, (0, 3)),)), Buffer("b", 0, 4, 5, gaps=(Gap(0, 4, (0, 5)),))]
    )
    plan = solve_banks(problem, BANKS)
    assert plan is not None
    assert (plan.cost, plan.status) == (0.0, "optimal")
    tight = solve_banks(problem, [Bank("near", 7), Bank("far", 1024, 2.0)])
    assert tight is not None
    assert (tight.cost, tight.status) == (10.0, "optimal")


def test_of_rounded_sizes_the_topmost_counts_as_it_is() -> None:
    problem = AllocationProblem.of([Buffer("a", 0, 2, 5, 4), Buffer("b", 0, 2, 6, 4)])
    for capacity, cost in ((13, 0.0), (12, 10.0)):
        plan = solve_banks(problem, [Bank("near", capacity), Bank("far", 1024, 2.0)])
        assert plan is not None
        assert (plan.cost, plan.status) == (cost, "optimal")


class Desk:
    """The parts of a solve by hand: what the greedy finds, the master says, and the addresses come to."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, greedy: float | None, bounds: list[Any], places: list[Any]
    ):
        self.asked: list[Any] = []
        self.bounds, self.places = bounds, places
        self.now = 0.0
        first = None if greedy is None else plan_of(greedy)
        monkeypatch.setattr(banks_module, "_spill_down", lambda *given: self.note(given[3], given[4], first))
        monkeypatch.setattr(banks_module, "_Master", lambda *given: self)
        monkeypatch.setattr(
            banks_module, "_place", lambda p, b, assignment, nodes, seed: self.place(assignment, nodes)
        )
        monkeypatch.setattr(banks_module.time, "perf_counter", lambda: self.now)
        self.exact = True

    def note(self, nodes: int, seed: int, answer: Any) -> Any:
        self.asked.append(("greedy", nodes, seed))
        return answer

    def solve(self, seconds: float, seed: int) -> tuple[Any, float]:
        self.asked.append(("master", seconds, seed))
        self.now += 10.0
        return self.bounds.pop(0)

    def place(self, assignment: Any, nodes: int) -> Any:
        self.asked.append(("place", assignment, nodes))
        return self.places.pop(0)

    def forbid(self, bank: int, members: list[int]) -> None:
        self.asked.append(("forbid", bank, members))


def plan_of(cost: float) -> BankPlan:
    return BankPlan("feasible", (0, 0, 0), np.zeros(3, np.int64), cost, 0.0, (0,))


def test_cuts_are_added_until_a_plan_or_the_bound_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = (None, [(0, [1, 2]), (1, [0])], True)
    desk = Desk(monkeypatch, 20.0, [([0], 3.0), ([1], 5.0)], [cut, (plan_of(5.0), [], True)])
    plan = solve_banks(three(), BANKS, max_nodes=77, seed=9)
    assert desk.asked == [
        ("greedy", 77, 9), ("master", 60.0, 9), ("place", [0], 77), ("forbid", 0, [1, 2]), ("forbid", 1, [0]),
        ("master", 50.0, 9), ("place", [1], 77),
    ]  # fmt: skip
    assert plan is not None
    assert (plan.status, plan.cost, plan.bound) == ("optimal", 5.0, 5.0)


@pytest.mark.parametrize(
    ("greedy", "bounds", "places", "expected"),
    [
        # The bound of the master meets the greedy plan: nothing is placed.
        (5.0, [([0], 5.0)], [], ("optimal", 5.0, 5.0)),
        (5.0, [([0], 7.0)], [], ("optimal", 5.0, 5.0)),
        # A dearer plan does not replace it, and still ends the search.
        (5.0, [([0], 3.0)], [(plan_of(6.0), [], True)], ("feasible", 5.0, 3.0)),
        (5.0, [([0], 3.0)], [(plan_of(4.0), [], True)], ("feasible", 4.0, 3.0)),
        (None, [([0], 3.0)], [(plan_of(4.0), [], True)], ("feasible", 4.0, 3.0)),
        # The master finds nothing in the time.
        (5.0, [(None, 2.0)], [], ("feasible", 5.0, 2.0)),
        (None, [(None, 2.0)], [], None),
        # A cut without proof: later bounds prove nothing, the best one before holds.
        (5.0, [([0], 3.0), ([0], 5.0), (None, 5.0)], [(None, [(0, [0])], False), (None, [], True)],
         ("feasible", 5.0, 3.0)),
        # A bound that falls is no bound lost.
        (9.0, [([0], 3.0), (None, 2.0)], [(None, [(0, [0])], True)], ("feasible", 9.0, 3.0)),
        (0.0, [([0], 0.0)], [], ("optimal", 0.0, 0.0)),
    ],
)  # fmt: skip
def test_what_a_round_proves(
    greedy: float | None, bounds: list[Any], places: list[Any], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(monkeypatch, greedy, list(bounds), list(places))
    plan = solve_banks(three(), BANKS)
    assert (plan if plan is None else (plan.status, plan.cost, plan.bound)) == expected
    assert (desk.bounds, desk.places) == ([], [])
    assert desk.asked[0] == ("greedy", 100_000, 0)


def test_time_and_rounds_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = (None, [(0, [0])], True)
    desk = Desk(monkeypatch, 20.0, [([0], 1.0)] * 9, [forever] * 9)
    assert solve_banks(three(), BANKS, time_limit_s=30.0) is not None
    assert [ask[1] for ask in desk.asked if ask[0] == "master"] == [30.0, 20.0, 10.0]
    desk = Desk(monkeypatch, 20.0, [([0], 1.0)] * 60, [forever] * 60)
    assert solve_banks(three(), BANKS, time_limit_s=10**6) is not None
    assert sum(ask[0] == "master" for ask in desk.asked) == 50
    for most, asked in ((6, True), (5, False)):
        desk = Desk(monkeypatch, 20.0, [(None, 1.0)], [])
        monkeypatch.setattr(banks_module, "_MOST_BINARIES", most)
        plan = solve_banks(three(), BANKS)
        assert plan is not None
        assert ("master" in [ask[0] for ask in desk.asked]) == asked
        assert plan.status == "feasible"


@pytest.mark.parametrize(
    ("result", "members", "exact"),
    [
        ("infeasible", [2], True), ("infeasible", None, True), ("unknown", None, False), ("unknown", [2], False),
        ("feasible", None, False),
    ],
)  # fmt: skip
def test_a_bank_without_a_plan_sends_back_who_is_to_blame(
    result: Any, members: list[int] | None, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def solved(problem: AllocationProblem, capacity: int, *, max_nodes: int, seed: int) -> AllocationResult:
        asked.append((list(problem.ids), capacity, max_nodes, seed))
        explanation = None if members is None else Explanation("subset", tuple(members), "", minimal=True)
        if capacity == 8:
            return AllocationResult(result, None, 0, None, "x", 0, 0.0, 0, explanation=explanation)
        return AllocationResult("optimal", 4, 4, np.array([3]), "x", 0, 0.0, 0)

    monkeypatch.setattr(banks_module, "solve", solved)
    problem = AllocationProblem.of([Buffer(name, 0, 1, 4) for name in "abcd"])
    plan, cuts, proved = banks_module._place(problem, BANKS, [0, 1, 0, 0], 7, 5)
    assert plan is None
    blamed = [3] if members and result == "infeasible" else [0, 2, 3]
    assert (cuts, proved) == ([(0, blamed)], exact)
    assert asked == [(["a", "c", "d"], 8, 7, 5), (["b"], 1024, 7, 5)]


def test_what_does_not_fit_the_cheapest_bank_moves_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], int, int]] = []

    def spilled(problem: AllocationProblem, capacity: int, max_nodes: int) -> SpillPlan:
        asked.append((list(problem.ids), capacity, max_nodes))
        gone = tuple(i for i in range(len(problem)) if problem.ids[i] in leaving.get(capacity, ""))
        return SpillPlan(gone, 0, None if capacity in failing else np.zeros(len(problem), np.int64))

    monkeypatch.setattr(banks_module, "suggest_spills", spilled)
    monkeypatch.setattr(
        banks_module, "_place", lambda p, b, assignment, nodes, seed: (tuple(assignment), nodes, seed)
    )
    problem = AllocationProblem.of([Buffer(name, 0, 1, 4) for name in "abcd"])
    banks = [Bank("dear", 3, 5.0), Bank("cheap", 1, 1.0), Bank("cheap too", 2, 1.0)]
    leaving, failing = {1: "acd", 2: "a"}, set[int]()
    assert banks_module._spill_down(problem, banks, {3: 2}, 20_000, 5) == (0, 1, 2, 2)
    assert asked == [(["a", "b", "c"], 1, 2000), (["d", "a", "c"], 2, 2000), (["a"], 3, 2000)]
    banks_module._spill_down(problem, banks, {}, 9_990, 5)
    assert asked[-1][2] == 1000
    leaving[3] = "a"
    assert banks_module._spill_down(problem, banks, {3: 2}, 20_000, 5) is None
    leaving = {1: "acd", 2: "ad"}
    assert banks_module._spill_down(problem, banks, {3: 2}, 20_000, 5) is None
    leaving, failing = {}, {2}
    assert banks_module._spill_down(problem, banks, {}, 20_000, 5) is None
