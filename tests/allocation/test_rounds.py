"""What the search asks for, in which order and with how many nodes, and how budgets end it; clocks are injected."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping import deadline as deadline_module
from mapping.allocation import AllocationProblem, Buffer, Gap, check, solve, solving
from mapping.allocation import engines as engines_module
from mapping.allocation.by_valley import FITTING, LOWEST, TIGHTEST
from mapping.allocation.engines import FOUND, LIMIT, NONE, Answer, Prober
from mapping.allocation.greedy import peak_units
from mapping.allocation.instance import build_components
from mapping.allocation.solving import _answer, _ask, _deepen, _local_search, _next_peak, _Part, _start
from mapping.deadline import Budget

CROWD = AllocationProblem.of([Buffer(f"b{i}", 0, 4, 10 + i) for i in range(20)])
FIVE = AllocationProblem.of([Buffer("a", 0, 4, 8), Buffer("b", 2, 6, 12), Buffer("c", 5, 9, 4)])


class Script:
    """A prober that answers from a list, and after it that nothing was found."""

    def __init__(self, size: int, *answers: Answer) -> None:
        self.size, self.answers = size, list(answers)
        self.asked: list[tuple[int, int, int]] = []

    def probe(self, capacity: int, nodes: int, turn: int) -> Answer:
        self.asked.append((capacity, nodes, turn))
        return self.answers.pop(0) if self.answers else Answer(LIMIT)


def part_of(problem: AllocationProblem, lower: int, peak: int, *answers: Answer, size: int = 20) -> _Part:
    (component,) = build_components(problem)
    part = _start(component, Budget(), 0)
    part.lower, part.peak = lower, peak
    part.prober = Script(size, *answers)  # type: ignore[assignment]
    return part


def turns(monkeypatch: pytest.MonkeyPatch, count: int) -> Budget:
    """A budget that is spent after so many turns; the local search is left out."""
    monkeypatch.setattr(solving, "_LOCAL_SEARCH_BUFFERS", 0)
    budget = Budget(None, 1 << 40)
    left = itertools.count()
    monkeypatch.setattr(
        solving, "_local_search", lambda *_: budget.stop.__setitem__(0, int(next(left) + 1 >= count))
    )
    return budget


def test_a_round_for_the_least_peak_asks_for_the_goal_and_then_halves_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = part_of(CROWD, 100, 228)
    _deepen([part], None, turns(monkeypatch, 2), 0)
    # 128 bytes are open: the goal with all nodes, then middles with a part of them, until 8 are left.
    middles = [164, 196, 212, 220]
    assert part.prober.asked == [  # type: ignore[attr-defined]
        (100, 80, 0), *((middle, 60, 0) for middle in middles),
        (100, 160, 1), *((middle, 60, 1) for middle in middles),
    ]  # fmt: skip
    wide = part_of(CROWD, 100, 228, size=3)
    budget = turns(monkeypatch, 7)
    _deepen([wide], None, budget, 0)
    goals = [ask for ask in wide.prober.asked if ask[0] == 100]  # type: ignore[attr-defined]
    assert goals == [(100, 64 << turn, turn) for turn in range(7)]
    others = [ask[1:] for ask in wide.prober.asked if ask[0] == 164]  # type: ignore[attr-defined]
    assert others == [((64 << turn) // 4, turn) for turn in range(7)]


def test_rounds_stop_doubling_at_two_to_the_forty(monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of(CROWD, 100, 101, size=1)
    _deepen([part], None, turns(monkeypatch, 43), 0)
    assert [nodes >> 6 for _, nodes, _ in part.prober.asked] == [  # type: ignore[attr-defined]
        1 << min(turn, 40) for turn in range(43)
    ]


def test_a_round_for_a_capacity_asks_for_the_bound_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of(CROWD, 100, 228)
    _deepen([part], 200, turns(monkeypatch, 2), 0)
    assert part.prober.asked == [(200, 80, 0), (100, 80, 0), (200, 160, 1), (100, 160, 1)]  # type: ignore[attr-defined]
    level = part_of(CROWD, 200, 228)
    _deepen([level], 200, turns(monkeypatch, 1), 0)
    assert level.prober.asked == [(200, 80, 0)]  # type: ignore[attr-defined]
    # A proof that there is none ends it: the bound is above the capacity.
    proved = part_of(CROWD, 100, 228, Answer(NONE))
    _deepen([proved], 200, turns(monkeypatch, 9), 0)
    assert proved.prober.asked == [(200, 80, 0)]  # type: ignore[attr-defined]
    assert proved.lower > 200


def test_parts_below_the_goal_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    done, open_part = part_of(CROWD, 90, 100), part_of(CROWD, 100, 101)
    _deepen([done, open_part], None, turns(monkeypatch, 1), 0)
    assert done.prober.asked == []  # type: ignore[attr-defined]
    # One byte open is the least step: only the goal is asked for.
    assert open_part.prober.asked == [(100, 80, 0)]  # type: ignore[attr-defined]
    for capacity, peaks in ((None, (100, 90)), (100, (100, 100))):
        parts = [part_of(CROWD, 100, peaks[0]), part_of(CROWD, 90, peaks[1])]
        _deepen(parts, capacity, Budget(None, 1 << 40), 0)
        assert [part.prober.asked for part in parts] == [[], []]  # type: ignore[attr-defined]


def test_a_found_plan_lowers_the_peak_and_the_rest_is_halved_anew() -> None:
    problem = AllocationProblem.of([Buffer("a", 0, 4, 8), Buffer("b", 0, 4, 12)])
    part = part_of(problem, 20, 84, Answer(FOUND, np.array([3, 0]), "valley/X"))
    assert part.component.unit == 4
    assert _ask(part, 60, 7, 3)
    assert (part.peak, part.engine, part.lower) == (20, "valley/X", 20)
    # The plan is pushed down, and its order is that of the offsets: 'b' first.
    assert part.offsets.tolist() == [3, 0]
    assert part.order.tolist() == [1, 0]
    assert part.prober.asked == [(60, 7, 3)]  # type: ignore[attr-defined]
    # What is known needs no probe.
    assert _ask(part, 20, 7, 3)
    assert len(part.prober.asked) == 1  # type: ignore[attr-defined]
    rough = part_of(problem, 20, 84, Answer(LIMIT, np.array([9, 0]), "rough"))
    assert not _ask(rough, 19, 7, 3)
    assert (rough.peak, rough.engine) == (20, "rough")
    worse = part_of(problem, 12, 16, Answer(LIMIT, np.array([9, 0]), "rough"))
    assert not _ask(worse, 14, 7, 3)
    assert (worse.peak, worse.engine) == (16, "greedy/size")


def test_a_proof_raises_the_bound_to_the_next_peak_that_can_be() -> None:
    mixed = AllocationProblem.of(
        [Buffer("a", 0, 4, 5, 4), Buffer("b", 0, 4, 10, 4), Buffer("c", 0, 4, 12, 4)]
    )
    (component,) = build_components(mixed)
    assert component.unit == 4
    # Tops lie at a multiple of four plus 5, 10 or 12 bytes.
    peaks = sorted({4 * k + size for k in range(9) for size in (5, 10, 12)})
    for capacity in range(30):
        assert _next_peak(component, capacity) == next(peak for peak in peaks if peak > capacity)
    part = part_of(mixed, 12, 99, Answer(NONE), Answer(NONE))
    assert not _ask(part, 12, 1, 0)
    assert part.lower == 13
    part.lower = 40
    assert not _ask(part, 14, 1, 0)
    assert part.lower == 40


def test_the_local_search_takes_a_share_of_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, int]] = []

    def improve(
        inst: Any, unit: int, sizes: Any, order: Any, target: int, rounds: int, seed: int, stop: Any
    ) -> Any:
        calls.append((target, rounds, seed))
        return order[::-1].copy(), np.arange(len(order)) * 40, 0

    monkeypatch.setattr(solving, "improve", improve)
    for size, nodes, rounds in ((20, 80, 16), (20, 800, 100), (160, 800, 40), (20, 1 << 30, 1 << 14)):
        part, budget = part_of(CROWD, 100, 10**6, size=size), Budget(None, 1 << 40)
        _local_search(part, 120, nodes, 3, budget, 5)
        assert calls.pop() == (120, rounds, 8)
        assert budget.nodes == rounds
        assert (part.engine, part.peak) == ("local search", 19 * 40 + 29)
        assert part.order.tolist() == _start(part.component, budget, 0).order[::-1].tolist()
    few = Budget(None, 10)
    _local_search(part_of(CROWD, 130, 10**6), 120, 800, 0, few, 0)
    assert calls.pop() == (130, 10, 0)
    # Not at the goal or the bound, not of too many buffers, not when the budget is spent.
    _local_search(part_of(CROWD, 100, 120), 120, 800, 0, Budget(), 0)
    _local_search(part_of(CROWD, 130, 130), 120, 800, 0, Budget(), 0)
    _local_search(part_of(CROWD, 100, 200), 120, 800, 0, few, 0)
    _local_search(part_of(CROWD, 100, 200, size=4001), 120, 800, 0, Budget(), 0)
    assert calls == []
    _local_search(part_of(CROWD, 100, 200, size=4000), 120, 800, 0, Budget(), 0)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("capacity", "lower", "peak", "status"),
    [
        (None, 20, 20, "optimal"), (None, 19, 20, "feasible"), (20, 20, 20, "optimal"), (20, 10, 20, "feasible"),
        (19, 10, 20, "unknown"), (19, 19, 20, "unknown"), (19, 20, 20, "infeasible"), (25, 10, 20, "feasible"),
    ],
)  # fmt: skip
def test_the_answer_says_what_was_proved(capacity: int | None, lower: int, peak: int, status: str) -> None:
    part = part_of(FIVE, lower, peak)
    budget = Budget(None, 9)
    budget.nodes = 7
    result = _answer(FIVE, [part], capacity, budget, 4, None)
    assert (result.status, result.peak_bytes, result.bound_bytes) == (status, 20, min(lower, 20))
    assert (result.engine, result.nodes, result.seed, result.capacity_bytes) == (
        "greedy/size",
        7,
        4,
        capacity,
    )
    assert result.offsets is not None
    assert result.offsets.tolist() == [12, 0, 12]


def test_without_parts_nothing_is_known_or_nothing_is_needed() -> None:
    unknown = _answer(FIVE, None, 5, Budget(), 4, None)
    assert (unknown.status, unknown.peak_bytes, unknown.bound_bytes, unknown.engine) == (
        "unknown",
        None,
        0,
        "none",
    )
    assert (unknown.nodes, unknown.capacity_bytes, unknown.interrupted, unknown.seed) == (0, 5, False, 4)
    idle = AllocationProblem.of([Buffer("pin", 3, 3, 4, offset=7), Buffer("free", 3, 3, 4)])
    nothing = _answer(idle, [], None, Budget(), 0, None)
    assert (nothing.status, nothing.peak_bytes, nothing.bound_bytes, nothing.engine) == (
        "optimal",
        0,
        0,
        "none",
    )
    assert nothing.offsets is not None
    assert nothing.offsets.tolist() == [7, 0]


def prober(problem: AllocationProblem, budget: Budget | None = None) -> Prober:
    (component,) = build_components(problem)
    return Prober(component, budget or Budget(), 3)


def test_the_engines_take_turns() -> None:
    plain = prober(CROWD)
    deterministic = [
        ("valley", "WAT", FITTING, 640), ("valley", "TAW", FITTING, 640), ("valley", "WAT", 0, 640),
        ("valley", "TAW", FITTING + LOWEST, 640), ("valley", "TAW", TIGHTEST, 640),
    ]  # fmt: skip
    offsets = [("offset", rank, 0, 640) for rank in ("TWA", "TAW", "WAT")]
    assert [row[:4] for row in plain._line_up(640, 0)] == deterministic + offsets
    styles = (FITTING, TIGHTEST, FITTING, 0) * 2
    draws = [("valley", f"random{16 + i}", style, 80) for i, style in enumerate(styles)]
    assert [row[:4] for row in plain._line_up(640, 2)] == deterministic + draws + offsets
    assert [row.pace > 0 for row in plain._line_up(640, 2)] == [False] * 5 + [False, True] * 4 + [False] * 3
    assert [row[3] for row in plain._line_up(1600, 1) if row[1].startswith("random")] == [200] * 8
    # Other alignments, or windows, are for placing by offset alone.
    aligned = AllocationProblem.of([Buffer("a", 0, 4, 8, 4), Buffer("b", 0, 4, 12, 8)])
    assert [row[:4] for row in prober(aligned)._line_up(640, 2)] == offsets


def test_ranks_follow_fullest_moment_area_and_life() -> None:
    """Lives 2, 1, 2, 1 sections; areas 6, 9, 10, 5; fullest sections 17, 17, 17, 13 bytes."""
    problem = AllocationProblem.of(
        [Buffer("a", 0, 9, 3), Buffer("b", 2, 4, 9), Buffer("c", 3, 8, 5), Buffer("d", 6, 7, 5)]
    )
    one = prober(problem)

    def order(name: str) -> str:
        rank = one._rank(name)
        return "".join(str(problem.ids[i]) for i in one.component.index[np.argsort(rank)])

    assert {name: order(name) for name in ("TWA", "TAW", "WAT", "A", "W", "T")} == {
        "TWA": "cabd", "TAW": "cbad", "WAT": "cabd", "A": "cbad", "W": "acbd", "T": "bacd",
    }  # fmt: skip
    draws = [one._rank(f"random{k}").tolist() for k in range(12)]
    assert all(sorted(rank) == [0, 1, 2, 3] for rank in draws)
    assert len({tuple(rank) for rank in draws}) > 1
    again = prober(problem)
    assert [again._rank(f"random{k}").tolist() for k in range(12)] == draws
    assert one._rank("random3") is one._rank("random3")
    assert one.size == 4


def test_a_probe_ends_with_its_budget_and_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    (component,) = build_components(FIVE)
    for capacity in (19, 20):
        assert prober(FIVE).probe(capacity, 100, 0).status == (FOUND if capacity == 20 else NONE)
    assert prober(FIVE).probe(11, 100, 0) == Answer(NONE)
    assert prober(FIVE).probe(12, 100, 0).status == NONE
    pinned = AllocationProblem.of([Buffer("a", 0, 4, 4, offset=8), Buffer("b", 0, 4, 4)])
    assert prober(pinned).probe(11, 100, 0) == Answer(NONE)
    found = prober(pinned).probe(12, 100, 0)
    assert found.status == FOUND
    assert found.offsets is not None
    assert sorted(found.offsets.tolist()) in ([0, 2], [1, 2])
    spent = Budget(None, 5)
    spent.nodes = 5
    assert Prober(component, spent, 0).probe(20, 100, 0) == Answer(LIMIT)
    few = Budget(None, 3)
    answer = Prober(build_components(CROWD)[0], few, 0).probe(390, 100, 0)
    assert (answer.status, few.nodes) == (LIMIT, 3)
    # A partial packing is filled up greedily: a plan of all twenty buffers, above the capacity or not.
    assert answer.offsets is not None
    assert sorted(answer.offsets.tolist()) == sorted(
        int(at) for at in itertools.accumulate([0, *sorted_sizes(answer.offsets)[:-1]])
    )
    assert answer.engine.endswith("/greedy")


def sorted_sizes(offsets: Any) -> list[int]:
    size = build_components(CROWD)[0].instance.size
    return [int(size[i]) for i in np.argsort(offsets)]


def test_pairs_are_searched_in_a_thread_where_offsets_may_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool]] = []
    real = Budget.call

    def call(budget: Budget, kernel: Any, *args: Any, long: bool) -> Any:
        calls.append((kernel.__name__, long))
        return real(budget, kernel, *args, long=long)

    monkeypatch.setattr(Budget, "call", call)
    gaps = (Gap(0, 4, (0, 2)),)
    problem = AllocationProblem.of(
        [Buffer("a", 0, 4, 8, gaps=gaps), Buffer("b", 0, 4, 9, gaps=(Gap(0, 4, (5, 9)),))]
    )
    one = prober(problem)
    assert not one.component.complete_by_offset
    assert one.probe(8, 100, 0).status == NONE
    assert one.probe(9, 100, 0).status == FOUND
    calls.clear()
    monkeypatch.setattr(engines_module, "search_by_offset", lambda *args: (NONE, 3, np.zeros(2)))
    found = one.probe(9, 5000, 0)
    assert (found.status, found.engine) == (FOUND, "pairs")
    assert found.offsets is not None
    assert (
        check(problem, (found.offsets * one.component.unit)[np.argsort(one.component.index)].tolist(), 9)
        == []
    )
    # A proof of the search by offset proves nothing here, and it is not asked again.
    assert calls == [("<lambda>", True), ("search_by_pairs", True)]
    calls.clear()
    one.probe(9, 4000, 0)
    assert calls == [("<lambda>", False), ("search_by_pairs", True)]


def test_a_short_trail_is_made_longer_and_the_search_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "_TRAIL_ROWS", 16)
    rows: list[tuple[int, int]] = []

    def kernel(limit: int, length: int, stop: Any) -> tuple[int, int, Any]:
        rows.append((limit, length))
        return LIMIT, 2, np.zeros(1)

    one = prober(FIVE)
    one._call(kernel, (), 9, False, one._budget.stop)
    assert rows == [(9, 16 << 3 * k) for k in range(9)]
    assert one._budget.nodes == 18
    for limit, stop in ((2, 0), (9, 1)):
        rows.clear()
        one._budget.stop[0] = stop
        one._call(kernel, (), limit, False, one._budget.stop)
        assert len(rows) == 1


def clock(monkeypatch: pytest.MonkeyPatch, start: float = 0.0) -> list[float]:
    now = [start]
    monkeypatch.setattr(deadline_module.time, "perf_counter", lambda: now[0])
    return now


def test_a_budget_counts_seconds_and_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch, 100.0)
    budget, endless = Budget(8.0, 10, _start=100.0), Budget(_start=100.0)
    now[0] = 103.0
    assert (budget.seconds_left(), budget.elapsed, budget.spent) == (5.0, 3.0, False)
    assert (endless.seconds_left(), endless.elapsed, endless.spent) == (None, 3.0, False)
    now[0] = 108.0
    assert (budget.seconds_left(), budget.spent, endless.spent) == (0.0, True, False)
    assert [budget.allow(nodes) for nodes in (0, 4, 10, 11)] == [0, 4, 10, 10]
    budget.nodes = 12
    assert (budget.allow(4), endless.allow(4)) == (0, 4)
    endless.stop[0] = 1
    assert endless.spent


def test_the_alarm_is_set_for_what_is_left_and_put_off_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[tuple[float, bool]] = []
    cancelled: list[bool] = []

    class Alarm:
        daemon = False

        def __init__(self, seconds: float, ring: Any) -> None:
            self.seconds, self.ring = seconds, ring

        def start(self) -> None:
            alarms.append((self.seconds, self.daemon))

        def cancel(self) -> None:
            cancelled.append(True)
            self.ring()

    now = clock(monkeypatch, 2.0)
    monkeypatch.setattr(deadline_module.threading, "Timer", Alarm)
    budget, late = Budget(5.0, _start=0.0), Budget(1.0, _start=0.0)
    with budget.running() as same:
        assert same is budget
        assert budget.call(threading.current_thread, long=False) is threading.main_thread()
        assert budget.call(threading.current_thread, long=True) is not threading.main_thread()
        assert budget.call(lambda a, b: a - b, 7, 5, long=True) == 2
        pool = budget._pool
        assert budget.call(lambda: budget._pool, long=True) is pool
    assert pool is not None
    assert budget._pool is None
    with late.running():
        pass
    assert alarms == [(3.0, True), (0.0, True)]
    assert cancelled == [True, True]
    assert (int(budget.stop[0]), budget.interrupted) == (1, False)
    endless = Budget()
    with endless.running():
        raise KeyboardInterrupt
    assert (endless.interrupted, int(endless.stop[0]), len(alarms), now) == (True, 1, 2, [2.0])


def test_an_interrupt_of_a_long_call_stops_the_kernel_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget()
    results: list[str] = []

    class Future:
        def result(self) -> str:
            results.append("asked")
            if len(results) == 1:
                raise KeyboardInterrupt
            return "done"

    class Pool:
        def submit(self, kernel: Any, *args: Any) -> Future:
            return Future()

    budget._pool = Pool()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        budget.call(len, [], long=True)
    assert (budget.interrupted, int(budget.stop[0]), len(results)) == (True, 1, 2)


def test_an_interrupted_solve_gives_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(solving, "_deepen", interrupt)
    result = solve(FIVE, 10**6)
    assert (result.status, result.interrupted, result.peak_bytes) == (
        "feasible" if result.bound_bytes < 20 else "optimal",
        True,
        20,
    )
    monkeypatch.setattr(solving, "build_components", interrupt)
    assert (solve(FIVE).status, solve(FIVE).interrupted) == ("unknown", True)


def test_greedy_orders_are_tried_until_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[tuple[int, ...], bool]] = []
    real = solving.place_in_order

    def place(component: Any, order: Any, best_fit: bool = False) -> Any:
        tried.append((tuple(order.tolist()), best_fit))
        return real(component, order, best_fit)

    monkeypatch.setattr(solving, "place_in_order", place)
    part = part_of(FIVE, 10, 50)
    tried.clear()
    solving._greedy(part, 10, Budget())
    assert [fit for _, fit in tried] == [False, True] * 6
    assert (part.peak, part.engine) == (20, "greedy/size")
    part.peak = 21
    tried.clear()
    solving._greedy(part, 20, Budget())
    assert len(tried) == 1
    solving._greedy(part, 20, Budget())
    spent = Budget()
    spent.stop[0] = 1
    solving._greedy(part, 10, spent)
    assert len(tried) == 1
    monkeypatch.setattr(
        solving,
        "place_in_order",
        lambda c, o, best_fit=False: np.array([12, 0, 12]) // c.unit + 9 * (not best_fit),
    )
    part.peak = 40
    solving._greedy(part, 20, Budget())
    assert part.engine == "greedy/size/best-fit"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 5), st.integers(1, 6)), min_size=3, max_size=12))
def test_two_tries_at_a_time_answer_what_one_does(rows: list[tuple[int, int, int]]) -> None:
    problem = AllocationProblem.from_arrays(
        [row[0] for row in rows], [row[0] + row[1] for row in rows], [row[2] for row in rows]
    )
    for component in build_components(problem):
        for capacity in range(6, 30, 4):
            alone = Prober(component, Budget(), 0).probe(capacity, 5000, 1)
            with Budget(60.0).running() as budget, pytest.MonkeyPatch.context() as patch:
                patch.setattr(engines_module, "_processors", lambda: 2)
                both = Prober(component, budget, 0).probe(capacity, 5000, 1)
            assert alone.status == both.status
            if both.offsets is not None and both.status == FOUND:
                assert peak_units(component, both.offsets) <= capacity
