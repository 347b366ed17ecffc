"""Bit sets, orders, stays and replacement against plain counting on small problems, and by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapping import deadline as deadline_module
from mapping.scheduling import ScheduleOperator, ScheduleProblem, ScheduleTensor, Transfer, check, least_peak
from mapping.scheduling import orders as orders_module
from mapping.scheduling.baselines import order_named
from mapping.scheduling.instance import WORD_BITS, build_instance, build_pressure
from mapping.scheduling.orders import depth_first_order, given_order, greedy_order, peak_of_order
from mapping.scheduling.replacement import (
    POLICIES,
    _cheapest_cover,
    _cheapest_window,
    _make_room,
    _one_victim,
    _Space,
    replace_by_bytes,
    replace_in_order,
)
from mapping.scheduling.static_arena import static_arena
from mapping.scheduling.stays import Stays, allocation_of, assemble, peak_bytes_of, stays_of
from tests.scheduling.brute_force import _live, least_peak_of
from tests.scheduling.build import chain_of
from tests.scheduling.strategies import problems

SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def long_chain(count: int = 130) -> ScheduleProblem:
    """More operators than two words hold; every fourth also waits for the first."""
    operators = {"o0": (3, ["s"])} | {
        f"o{i}": (2 + i % 5, [f"o{i - 1}", *(["o0"] if i % 4 == 0 and i > 1 else [])])
        for i in range(1, count)
    }
    return chain_of(operators, {"s": 1})


def bits(row: np.ndarray) -> set[int]:
    return {
        word * WORD_BITS + bit
        for word, value in enumerate(row.tolist())
        for bit in range(62)
        if value >> bit & 1
    }


def closure(problem: ScheduleProblem) -> list[set[int]]:
    before: list[set[int]] = []
    for waits in problem.predecessors:
        before.append(set(waits).union(*(before[w] for w in waits)))
    return before


def hold_instance(problem: ScheduleProblem) -> None:
    instance, before = build_instance(problem), closure(problem)
    tracked = [
        t for t, tensor in enumerate(problem.tensors)
        if tensor.size_bytes and len(tensor.consumers) >= (2 if tensor.producer < 0 else 1)
    ]  # fmt: skip
    assert instance.tracked.tolist() == tracked
    assert instance.need.tolist() == list(problem.need_bytes)
    assert instance.operators == len(problem.operators)
    assert instance.unit == (math.gcd(*(problem.tensors[t].size_bytes for t in tracked)) if tracked else 1)
    for o, op in enumerate(problem.operators):
        assert bits(instance.before[o]) == set(problem.predecessors[o])
        assert bits(instance.ancestors[o]) == before[o]
        assert bits(instance.descendants[o]) == {d for d, known in enumerate(before) if o in known}
        for at, listed, own in (
            (instance.input_at, instance.inputs, op.inputs), (instance.output_at, instance.outputs, op.outputs),
        ):  # fmt: skip
            assert [tracked[i] for i in listed[at[o] : at[o + 1]]] == [t for t in own if t in tracked]
    for i, t in enumerate(tracked):
        tensor = problem.tensors[t]
        assert bits(instance.readers[i]) == set(tensor.consumers)
        assert (instance.size[i], instance.producer[i], instance.copy_free[i]) == (
            tensor.size_bytes, tensor.producer, tensor.copy_free,
        )  # fmt: skip
    assert instance.tables.ancestors is instance.ancestors
    for capacity in {-1, problem.least_budget, problem.least_budget + 3}:
        hold_pressure(problem, capacity, before, tracked)


def hold_pressure(
    problem: ScheduleProblem, capacity: int, before: list[set[int]], tracked: list[int]
) -> None:
    """Beside an operator may be what it does not touch, what is read after it and can be there before that."""
    expected = []
    for o, op in enumerate(problem.operators):
        after = {d for d, known in enumerate(before) if o in known}
        beside = []
        for i, t in enumerate(tracked):
            tensor = problem.tensors[t]
            there = (
                tensor.producer not in after if tensor.producer >= 0 else bool(set(tensor.consumers) - after)
            )
            if t not in (*op.inputs, *op.outputs) and after & set(tensor.consumers) and there:
                made = {tensor.producer} if tensor.producer >= 0 else set(tensor.consumers)
                beside.append((i, int(bool(made & before[o]))))
        if problem.need_bytes[o] + sum(problem.tensors[tracked[i]].size_bytes for i, _ in beside) > capacity:
            expected.append((o, beside))
    found = build_pressure(build_instance(problem), capacity)
    rows = list(zip(found.tensor.tolist(), found.sure.tolist(), strict=True))
    parts = itertools.pairwise(found.at.tolist())
    assert [
        (o, rows[a:b]) for o, (a, b) in zip(found.operators.tolist(), parts, strict=True)
    ] == expected  # fmt: skip


@SOME
@given(problem=problems())
def test_bit_sets_and_pressure_are_those_of_plain_counting(problem: ScheduleProblem) -> None:
    hold_instance(problem)


def test_bit_sets_go_over_words_and_an_empty_problem_has_none() -> None:
    hold_instance(long_chain())
    hold_instance(long_chain(62))
    assert build_instance(long_chain(62)).before.shape == (62, 1)
    assert build_instance(long_chain(63)).before.shape == (63, 2)
    empty = build_instance(ScheduleProblem("empty", (), ()))
    assert (empty.before.shape, empty.unit, empty.input_at.tolist()) == ((0, 1), 1, [0])


def plain_peak(problem: ScheduleProblem, order: tuple[int, ...]) -> int:
    """Bytes at each step: what is used at or before it, and at or after it."""
    step = {o: s for s, o in enumerate(order)}
    uses = [[step[o] for o in (t.producer, *t.consumers) if o >= 0] for t in problem.tensors]
    return max(
        problem.operators[o].workspace_bytes
        + sum(problem.tensors[t].size_bytes for t, steps in enumerate(uses) if steps and min(steps) <= s <= max(steps))
        for s, o in enumerate(order)
    )  # fmt: skip


def plain_list_order(problem: ScheduleProblem, newest_first: bool) -> tuple[int, ...]:
    """By the rule: of what can run, by the step of its newest input where asked, then by the bytes alive after it."""
    order: list[int] = []
    while len(order) < len(problem.operators):
        done = sum(1 << o for o in order)
        alive = [_live(problem, done, t) for t in range(len(problem.tensors))]

        def key(o: int, done: int = done, alive: list[bool] = alive) -> tuple[int, ...]:
            after = [_live(problem, done | 1 << o, t) for t in range(len(problem.tensors))]
            grows = sum(
                tensor.size_bytes * (now - was)
                for tensor, was, now in zip(problem.tensors, alive, after, strict=True)
            )
            born = [
                order.index(problem.tensors[t].producer) if problem.tensors[t].producer >= 0
                else min((order.index(c) for c in problem.tensors[t].consumers if c in order), default=-1)
                for t in problem.operators[o].inputs
            ]  # fmt: skip
            newest = (-max(born, default=-1),) if newest_first else ()
            return *newest, grows, problem.need_bytes[o], o

        ready = [
            o for o in range(len(problem.operators))
            if o not in order and all(w in order for w in problem.predecessors[o])
        ]  # fmt: skip
        order.append(min(ready, key=key))
    return tuple(order)


@SOME
@given(problem=problems(most_bytes=6))
def test_orders_and_their_peaks_follow_their_rule(problem: ScheduleProblem) -> None:
    assert given_order(problem) == tuple(range(len(problem.operators)))
    assert depth_first_order(problem) == plain_list_order(problem, newest_first=True)
    assert greedy_order(problem) == plain_list_order(problem, newest_first=False)
    for order in (given_order(problem), depth_first_order(problem), greedy_order(problem)):
        assert (
            peak_of_order(problem, order)
            == plain_peak(problem, order)
            == stays_of(problem, order).least_peak(problem)
        )
    least = least_peak_of(problem)
    found = least_peak(problem, time_limit_s=None)
    assert (found.status, found.peak_bytes, found.bound_bytes) == ("optimal", least, least)
    assert plain_peak(problem, found.order) == least
    cut = least_peak(problem, time_limit_s=None, max_states=0)
    assert cut.bound_bytes <= least <= cut.peak_bytes
    assert cut.nodes == 0
    assert (cut.status == "optimal") == (cut.bound_bytes == cut.peak_bytes)


def branches() -> ScheduleProblem:
    """Two branches of which the shorter one should go first: a 9 bytes, b 8, a thin end each."""
    return chain_of(
        {"x": (2, ""), "a": (9, "x"), "c": (1, "a"), "b": (8, "x"), "d": (3, "b"), "e": (1, "cd")}
    )


def test_a_search_for_the_least_peak_keeps_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(deadline_module.time, "perf_counter", lambda: now[0])
    problem = branches()
    found = least_peak(problem, time_limit_s=5.0)
    assert (found.status, found.peak_bytes, found.seconds) == ("optimal", least_peak_of(problem), 0.0)
    assert least_peak(problem, time_limit_s=0.0).nodes == 0
    probes: list[tuple[int, int, int]] = []

    def probe(answers: list[tuple[bool, int, int]]) -> Callable[..., object]:
        def ask(instance: object, goal: int, width: int, most: int, stop: object) -> tuple[object, ...]:
            probes.append((goal, width, most))
            found, missed, overflow = answers.pop(0) if answers else (False, 0, 0)
            return found, np.arange(6), missed, 10, overflow

        return ask

    # The bound rises by the least overflow while nothing is cut.
    # Beams and cuts are left out: they prove this one without a probe.
    monkeypatch.setattr(orders_module, "beam_of_orders", lambda instance, aim, budget: None)
    monkeypatch.setattr(orders_module, "beam_states", lambda instance, width: 0)
    monkeypatch.setattr(orders_module, "highest_cut", lambda cuts, needs, bound, budget: bound)
    start = problem.least_budget
    peak = min(
        peak_of_order(problem, o)
        for o in (given_order(problem), depth_first_order(problem), greedy_order(problem))
    )
    monkeypatch.setattr(orders_module, "_probe", probe([(False, orders_module.NO_LIMIT, 1)] * 99))
    raised = least_peak(problem, time_limit_s=None, max_states=1000)
    assert [goal for goal, _, _ in probes] == list(range(start, peak))
    assert (raised.status, raised.bound_bytes, raised.nodes) == ("optimal", peak, 10 * (peak - start))
    assert [most for _, _, most in probes] == [1000 - 10 * i for i in range(peak - start)]
    probes.clear()
    monkeypatch.setattr(orders_module, "_probe", probe([]))
    cut = least_peak(problem, time_limit_s=None, max_states=25)
    assert (cut.status, cut.bound_bytes, cut.peak_bytes) == (
        "feasible" if start < peak else "optimal",
        start,
        peak,
    )


def held() -> ScheduleProblem:
    """'s' and 'w' from off-chip, 'c' with a workspace, 'b' an output that is read once more, 'z' without bytes."""
    names = {"s": 4, "w": 2, "a": 3, "b": 5, "c": 1, "z": 0, "d": 6}
    tensors = (
        ScheduleTensor("s", 4, -1, (0, 3), True), ScheduleTensor("w", 2, -1, (1,), True),
        ScheduleTensor("a", 3, 0, (1, 3), False), ScheduleTensor("b", 5, 1, (2, 3), True, True),
        ScheduleTensor("c", 1, 2, (3,), False), ScheduleTensor("z", 0, 2, (3,), False),
        ScheduleTensor("d", 6, 3, (), True, True), ScheduleTensor("unused", 9, -1, (), True),
    )  # fmt: skip
    assert [t.size_bytes for t in tensors[:-1]] == list(names.values())
    operators = (
        ScheduleOperator("A", (0,), (2,)), ScheduleOperator("B", (1, 2), (3,)),
        ScheduleOperator("C", (3,), (4, 5), 7), ScheduleOperator("D", (0, 2, 3, 4, 5), (6,)),
    )  # fmt: skip
    return ScheduleProblem("held", operators, tensors)


def test_stays_end_at_a_drop_and_begin_at_the_next_use() -> None:
    problem, order = held(), (0, 1, 2, 3)
    whole = stays_of(problem, order)
    assert whole.spans == (
        (0, 0, 4), (2, 0, 4), (1, 1, 2), (3, 1, 4), (4, 2, 4), (5, 2, 4), (6, 3, 4),
    )  # fmt: skip
    assert whole.cost(problem) == (0, 0)
    # s and a while A runs; 's', 'a', 'w', 'b'; workspace 7 beside s, a, b, c; all but w.
    assert whole.least_peak(problem) == max(7, 14, 20, 19)
    dropped = stays_of(problem, order, {1: [0], 2: [2, 3], 3: [3, 5]})
    # A drop before the step of a use moves a tensor: 'b' leaves before C and before D, and is there for both.
    assert dropped.spans == (
        (0, 0, 1), (2, 0, 2), (1, 1, 2), (3, 1, 2), (3, 2, 3), (4, 2, 4), (5, 2, 3), (0, 3, 4), (2, 3, 4), (3, 3, 4),
        (5, 3, 4), (6, 3, 4),
    )  # fmt: skip
    # 's' comes again; 'a' is written and comes again; 'b', an output, comes twice; 'z' has no bytes.
    assert dropped.cost(problem) == (4 + 2 * 3 + 2 * 5, 1 + 2 + 2)
    assert dropped.least_peak(problem) == max(7, 10, 13, 19)
    assert stays_of(problem, order, {0: [0], 4: [0]}).spans == whole.spans


def test_a_schedule_is_put_together_from_its_stays() -> None:
    problem, order = held(), (0, 1, 2, 3)
    stays = stays_of(problem, order, {1: [0], 2: [2], 3: [3, 5]})
    buffers = allocation_of(problem, stays)
    assert list(zip(buffers.lower.tolist(), buffers.upper.tolist(), buffers.size.tolist(), strict=True)) == [
        (0, 1, 4), (0, 2, 3), (1, 2, 2), (1, 3, 5), (2, 4, 1), (2, 3, 0), (3, 4, 4), (3, 4, 3), (3, 4, 5), (3, 4, 0),
        (3, 4, 6), (2, 3, 7),
    ]  # fmt: skip
    offsets = [3, 0, 8, 10, 0, 30, 1, 5, 8, 31, 13, 1]
    schedule = assemble(problem, stays, offsets)
    assert (schedule.order, dict(schedule.workspaces)) == (("A", "B", "C", "D"), {"C": 1})
    assert [(s.tensor, s.start, s.end, s.offset, s.size_bytes) for s in schedule.residences] == [
        ("s", 0, 1, 3, 4), ("a", 0, 2, 0, 3), ("w", 1, 2, 8, 2), ("b", 1, 3, 10, 5), ("c", 2, 4, 0, 1),
        ("z", 2, 3, 30, 0), ("s", 3, 4, 1, 4), ("a", 3, 4, 5, 3), ("b", 3, 4, 8, 5), ("z", 3, 4, 31, 0),
        ("d", 3, 4, 13, 6),
    ]  # fmt: skip
    assert schedule.transfers == (
        Transfer("s", 0, 4, "load"), Transfer("w", 1, 2, "load"), Transfer("a", 2, 3, "spill"),
        Transfer("b", 3, 5, "store"), Transfer("z", 3, 0, "spill"), Transfer("s", 3, 4, "retrieve"),
        Transfer("a", 3, 3, "retrieve"), Transfer("b", 3, 5, "retrieve"), Transfer("z", 3, 0, "retrieve"),
        Transfer("d", 4, 6, "store"),
    )  # fmt: skip
    assert (schedule.cost_bytes, schedule.transfer_count, schedule.compulsory_bytes) == (15, 6, 17)
    assert peak_bytes_of(problem, schedule) == 19
    assert peak_bytes_of(problem, assemble(problem, stays, [*offsets[:-1], 13])) == 20
    assert check(problem, schedule, 19) == []
    assert peak_bytes_of(problem, assemble(problem, Stays((), ()), [])) == 0


def plain_replacement(problem: ScheduleProblem, order: tuple[int, ...], capacity: int, policy: str) -> Stays:
    """Drops by the rule alone, with everything counted anew at each step."""
    step = {o: s for s, o in enumerate(order)}
    held: set[int] = set()
    written: set[int] = set()
    drops: dict[int, list[int]] = {}

    def size(t: int) -> int:
        return problem.tensors[t].size_bytes

    for s, o in enumerate(order):
        op = problem.operators[o]
        others = held - {*op.inputs, *op.outputs}
        excess = problem.need_bytes[o] + sum(map(size, others)) - capacity
        gone: list[int] = []
        if excess > 0:

            def rank(t: int, s: int = s) -> tuple[int, int]:
                uses = sorted(step[c] for c in problem.tensors[t].consumers)
                if policy == "belady":
                    return -min(u for u in uses if u >= s), t
                touched = [
                    step[c] for c in (problem.tensors[t].producer, *problem.tensors[t].consumers) if c >= 0
                ]
                return max(u for u in touched if u < s), t

            for t in sorted(others, key=rank):
                if excess > 0 and size(t):
                    gone.append(t)
                    excess -= size(t)
        drops[s] = gone
        held = (held - set(gone)) | {*op.inputs, *op.outputs}
        written |= set(gone)
        held = {t for t in held if any(step[c] > s for c in problem.tensors[t].consumers)}
    return stays_of(problem, order, drops)


@SOME
@given(problem=problems(most_bytes=6), share=st.floats(0, 1), policy=st.sampled_from(["belady", "lru"]))
def test_drops_follow_their_policy(problem: ScheduleProblem, share: float, policy: str) -> None:
    order = depth_first_order(problem)
    capacity = problem.least_budget + int(share * (peak_of_order(problem, order) - problem.least_budget))
    stays = replace_by_bytes(problem, order, capacity, policy)
    assert stays == plain_replacement(problem, order, capacity, policy)
    assert stays.least_peak(problem) <= capacity


def test_a_dearer_cover_seen_later_does_not_replace_the_cheapest() -> None:
    sizes, prices = [2, 2, 2, 3, 5, 5, 5], [2, 2, 2, 3, 5, 10, 10]
    # All five cheap ones hold 14 bytes; 15 take a dear one, and 3 + 2 + 5 of the cheap.
    assert sum(prices[i] for i in _cheapest_cover(sizes, prices, 15)) == 20


@SOME
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 2)), min_size=1, max_size=7),
    share=st.floats(0.01, 1),
)
def test_the_cheapest_cover_is_the_cheapest_of_all(rows: list[tuple[int, int]], share: float) -> None:
    sizes, prices = [size for size, _ in rows], [size * times for size, times in rows]
    excess = math.ceil(share * sum(sizes))
    found = _cheapest_cover(sizes, prices, excess)
    assert found == sorted(set(found))
    assert sum(sizes[i] for i in found) >= excess
    covers = [c for k in range(len(rows) + 1) for c in itertools.combinations(range(len(rows)), k)]
    assert sum(prices[i] for i in found) == min(
        sum(prices[i] for i in c) for c in covers if sum(sizes[i] for i in c) >= excess
    )


def space(capacity: int, policy: str = "lru", **blocks: tuple[int, int]) -> _Space:
    problem = held()
    made = _Space(problem, capacity, [[], [], [], [], [], [], [], []], policy)
    made.blocks = {problem.tensor_index[name]: place for name, place in blocks.items()}
    made.since = dict.fromkeys(made.blocks, 1)
    return made


def test_holes_prices_and_next_uses() -> None:
    one = space(20, s=(4, 8), a=(10, 13), z=(9, 9))
    assert one.holes([]) == [(0, 4), (8, 10), (13, 20)]
    assert one.holes([(0, 4), (18, 20)]) == [(8, 10), (13, 18)]
    assert one.holes([(2, 12)]) == [(0, 2), (13, 20)]
    assert space(3).holes([(0, 3)]) == []
    # 's' lies off-chip, 'a' has to be written first, unless it was.
    assert (one.price(0), one.price(2)) == (4, 6)
    one.drop(2, 5)
    assert (one.spans, one.written, one.price(2), sorted(one.blocks)) == ([(2, 1, 5, 10)], {2}, 3, [0, 5])
    one.uses[0] = [2, 5]
    assert [one.next_use(0, step) for step in (0, 2, 3, 5, 6)] == [2, 2, 5, 5, 1 << 60]


def test_victims_go_by_policy_and_room_is_the_tightest_hole() -> None:
    blocks = {"s": (0, 4), "a": (4, 7), "b": (7, 12), "z": (12, 12)}
    lru, belady = space(12, "lru", **blocks), space(12, "belady", **blocks)
    for one in (lru, belady):
        one.last_used = {0: 3, 2: 1, 3: 2}
        one.uses[0], one.uses[2], one.uses[3] = [6], [7], [9]
    assert (_one_victim(lru, set(), 4), _one_victim(lru, {2}, 4)) == ([2], [3])
    assert (_one_victim(belady, set(), 4), _one_victim(belady, {3}, 4)) == ([3], [2])
    assert _one_victim(lru, {0, 2, 3}, 4) == []
    assert _make_room(lru, 0, [], set(), 4) == 0
    assert _make_room(lru, 5, [], {0}, 4) == 4
    assert sorted(lru.blocks) == [0, 5]
    assert lru.spans == [(2, 1, 4, 4), (3, 1, 4, 7)]
    tight = space(30, "lru", s=(4, 8), a=(11, 14))
    assert [_make_room(tight, size, [], set(), 4) for size in (2, 3, 4, 5, 16)] == [8, 8, 0, 14, 14]
    assert _make_room(space(6, "lru", s=(0, 4)), 4, [], {0}, 4) is None
    assert _make_room(space(6, "greedy-ilp", s=(0, 4)), 4, [], {0}, 4) is None


@SOME
@given(
    order=st.permutations(["s", "w", "a", "b"]), gaps=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    size=st.integers(1, 9), needed=st.sets(st.integers(0, 3), max_size=2), written=st.booleans(),
)  # fmt: skip
def test_the_cheapest_window_is_the_cheapest_of_all(
    order: list[str], gaps: list[int], size: int, needed: set[int], written: bool
) -> None:
    at, blocks = 0, {}
    for name, gap in zip(order, gaps, strict=False):
        blocks[name] = (at + gap, at + gap + held().size_of(name))
        at = blocks[name][1]
    one = space(at + gaps[4], "greedy-ilp", **blocks)
    one.written = {2} if written else set()
    taken = [(0, 1)] if gaps[0] else []

    def inside(low: int) -> list[int]:
        return [t for t, (a, b) in one.blocks.items() if a < low + size and low < b]

    ranks = [
        (sum(one.price(t) for t in inside(low)), len(inside(low)), low, sorted(inside(low)))
        for low in range(one.capacity - size + 1)
        if not needed & set(inside(low)) and not any(a < low + size and low < b for a, b in taken)
    ]
    found = _cheapest_window(one, size, taken, needed)
    assert found == (min(ranks)[3] if ranks else [])


@SOME
@given(problem=problems(most_bytes=6), share=st.floats(0, 1), policy=st.sampled_from(POLICIES))
def test_an_order_runs_at_the_least_budget_under_every_policy(
    problem: ScheduleProblem, share: float, policy: str
) -> None:
    order = given_order(problem)
    capacity = problem.least_budget + int(share * (peak_of_order(problem, order) - problem.least_budget))
    for stays, offsets in (
        replace_in_order(problem, order, capacity, policy), static_arena(problem, order, capacity),
    ):  # fmt: skip
        schedule = assemble(problem, stays, offsets)
        assert check(problem, schedule, capacity) == []
        assert list(stays.spans) == sorted(stays.spans, key=lambda span: (span[1], span[0]))


def test_what_is_too_scattered_is_moved() -> None:
    """'p' lies in the middle between holes of three and three; 'q' of five needs it moved aside."""
    problem = chain_of({"l": (3, ""), "p": (2, ["l"]), "r": (3, ["p"]), "q": (5, ["p", "r"])})
    order = (0, 1, 2, 3)
    stays, offsets = replace_in_order(problem, order, problem.least_budget, "lru")
    schedule = assemble(problem, stays, offsets)
    assert check(problem, schedule, 10) == []
    assert list(zip(stays.spans, offsets, strict=True)) == [
        ((0, 0, 2), 0), ((1, 1, 4), 3), ((2, 2, 4), 0), ((3, 3, 4), 5),
    ]  # fmt: skip
    assert schedule.cost_bytes == 0


def test_an_arena_keeps_addresses_and_moves_the_longest_life_out() -> None:
    operators = {"a": (4, ["x"]), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}
    problem = chain_of(operators, {"x": 2})
    whole, places = static_arena(problem, (0, 1, 2, 3, 4), 12)
    # The largest first: c at 0 and a above it, then x and e of two bytes, then b and d of one.
    assert list(zip(whole.spans, places, strict=True)) == [
        ((0, 0, 1), 0), ((1, 0, 5), 6), ((2, 1, 3), 10), ((3, 2, 4), 0), ((4, 3, 5), 10), ((5, 4, 5), 0),
    ]  # fmt: skip
    tight, _ = static_arena(problem, (0, 1, 2, 3, 4), 8)
    # Off-chip, 'a' is written once and fetched for each of its two readers.
    assert tight.cost(problem) == (12, 3)
    assert [span for span in tight.spans if span[0] == 1] == [(1, 0, 1), (1, 1, 2), (1, 4, 5)]


def test_only_what_lies_beside_moves_out_of_an_arena() -> None:
    """'l' lives longest, but is over before 'r' finds no place beside 'm' and 'p'."""
    operators = {
        "l": (3, ""), "b": (1, "l"), "c": (1, "b"), "d": (1, "c"), "e": (1, "ld"), "r": (3, "e"), "m": (4, "r"),
        "p": (5, "m"), "q": (1, "rp"),
    }  # fmt: skip
    problem = chain_of(operators)
    stays, offsets = static_arena(problem, range(9), 10)
    assert [span for span in stays.spans if span[0] == 0] == [(0, 0, 5)]
    assert [span for span in stays.spans if span[0] == 5] == [(5, 5, 6), (5, 6, 7), (5, 8, 9)]
    assert stays.cost(problem) == (9, 3)
    assert check(problem, assemble(problem, stays, offsets), 10) == []


def test_the_threshold_is_raised_by_what_is_missed_and_halved_where_layers_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orders_module, "beam_of_orders", lambda instance, aim, budget: None)
    monkeypatch.setattr(orders_module, "beam_states", lambda instance, width: 0)
    monkeypatch.setattr(orders_module, "highest_cut", lambda cuts, needs, bound, budget: 100)
    monkeypatch.setattr(orders_module, "peak_of_order", lambda problem, order: 200)
    goals: list[tuple[int, int]] = []
    missed = 0

    def probe(instance: object, goal: int, width: int, most: int, stop: object) -> tuple[object, ...]:
        goals.append((goal, width))
        return False, np.arange(6), missed, 1, 1

    monkeypatch.setattr(orders_module, "_probe", probe)
    cut = least_peak(branches(), time_limit_s=None)
    halves = [100, 150, 175, 187, 193, 196, 198, 199]
    assert goals == [(goal, width) for width in (64, 1000, 16_000, 250_000) for goal in halves]
    assert (cut.status, cut.bound_bytes, cut.peak_bytes, cut.nodes) == ("feasible", 100, 200, 32)
    goals.clear()
    missed = orders_module.NO_LIMIT
    proved = least_peak(branches(), time_limit_s=None)
    # Nine rises by the least overflow of one byte, then halves of what is left.
    assert [goal for goal, _ in goals] == [*range(100, 109), 154, 177, 189, 195, 198, 199]
    assert {width for _, width in goals} == {64}
    assert (proved.status, proved.bound_bytes) == ("optimal", 200)


def test_orders_have_names() -> None:
    problem = branches()
    assert order_named(problem, "given") == given_order(problem) == (0, 1, 2, 3, 4, 5)
    assert order_named(problem, "depth-first") == depth_first_order(problem)
    assert order_named(problem, "min-peak") == least_peak(problem, time_limit_s=None).order
    twisted = chain_of({"a": (1, ""), "b": (9, "a"), "c": (8, "a"), "d": (1, "c"), "e": (1, "bd")})
    assert order_named(twisted, "given") == (0, 1, 2, 3, 4)
    assert plain_peak(twisted, order_named(twisted, "min-peak")) < plain_peak(twisted, (0, 1, 2, 3, 4))


def test_what_comes_from_off_chip_for_one_reader_frees_nothing() -> None:
    problem = chain_of({"p": (2, ["s"]), "q": (1, ""), "r": (1, "pq")}, {"s": 5})
    assert greedy_order(problem) == depth_first_order(problem) == (1, 0, 2)
    # What a later reader needs as well stays: three bytes of 's' count for the first of them.
    shared = chain_of({"p": (1, ["s"]), "q": (2, ""), "r": (1, ["s", "p", "q"])}, {"s": 3})
    assert greedy_order(shared) == (1, 0, 2)
