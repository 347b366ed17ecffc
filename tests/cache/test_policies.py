"""Every policy against its plain twin: unit and varied sizes, borders of chunks, small and large caches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.cache.hints import NEVER, discard_bits, next_uses
from simulator.cache.objects import Objects
from simulator.cache.replacement.nodes import ADMITTED, HIT, Events
from simulator.cache.replacement.policy import POLICIES
from simulator.cache.running import RunningCache
from tests.cache.slow import SLOW, Robust, Slow
from workloads.cache_trace import open_pattern

NAMES = sorted(POLICIES)
BUILTIN = [name for name in NAMES if name in SLOW]
SETTINGS: dict[str, dict[str, Any]] = {
    "clock": {"bits": 2}, "lru-k": {"k": 3}, "mq": {"lifetime": 7, "queues": 3, "ghost": 0.5}, "slru": {"segments": 2},
    "2q": {"a_in": 0.6, "a_out": 0.3}, "s3-fifo": {"small": 0.3, "ghost": 0.4, "threshold": 1}, "lirs": {"hir": 0.3},
    "belady-size": {"samples": 3}, "robust-discard": {"trust": 1.0},
}  # fmt: skip


def test_every_policy_has_a_twin() -> None:
    assert set(SLOW) == set(POLICIES.builtin)


def run_kernel(name: str, capacity: int, trace: Any, borders: list[int], **changed: Any) -> Events:
    """The events of a whole trace, run in chunks."""
    things, sizes, hints = (np.asarray(part, np.int64) for part in trace)
    policy = POLICIES.get(name)
    cache = RunningCache(policy, capacity, policy.settings(**changed), seed=5)
    objects = Objects()
    what, left, left_at = [], [], []
    for start, end in zip([0, *borders], [*borders, len(things)], strict=True):
        nodes = objects.nodes_of(things[start:end])
        events = cache.run(nodes, sizes[start:end], objects.count, hints[start:end])
        what.append(events.what)
        left.append(events.left)
        left_at.append(events.left_at + start)
    return Events(*(np.concatenate(part) for part in (what, left, left_at)), np.array([sum(map(len, left))]))


def run_slow(name: str, capacity: int, trace: Any, **changed: Any) -> list[bool]:
    twin: Slow = SLOW[name](capacity, seed=5, **changed)
    return [twin.request(*request) for request in zip(*trace, strict=True)]


@st.composite
def traces(draw: Any, varied: bool) -> Any:
    count = draw(st.integers(1, 120))
    things = draw(st.lists(st.integers(0, draw(st.integers(1, 25))), min_size=count, max_size=count))
    most = 9 if varied else 1
    # An object keeps its size: what a cache does when it changes is told by a test of its own.
    size_of = draw(st.lists(st.integers(1, most), min_size=26, max_size=26))
    return things, [size_of[thing] for thing in things]


def hints_of(name: str, things: list[int], draw: Any) -> list[int]:
    hint = POLICIES.get(name).hint
    if hint == "nothing":
        return [0] * len(things)
    if hint == "next use" and POLICIES.get(name).exact:
        return next_uses(Objects().nodes_of(np.array(things, np.int64))).tolist()  # type: ignore[no-any-return]
    values = st.integers(0, 1) if "bit" in hint else st.sampled_from([*range(0, 200, 7), NEVER])
    return draw(st.lists(values, min_size=len(things), max_size=len(things)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("varied", [False, True], ids=["unit", "sizes"])
@pytest.mark.parametrize("name", BUILTIN)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_kernel_does_what_its_twin_does(name: str, varied: bool, data: Any) -> None:
    things, sizes = data.draw(traces(varied))
    trace = things, sizes, hints_of(name, things, data.draw)
    capacity = data.draw(st.integers(10 if name == "s3-fifo" else 4, 70 if varied else 20))
    changed = data.draw(st.sampled_from([{}, SETTINGS.get(name, {})]))
    border = data.draw(st.integers(0, len(things)))
    events = run_kernel(name, capacity, trace, [border], **changed)
    assert (events.what == HIT).tolist() == run_slow(name, capacity, trace, **changed)
    check_events(events, things, sizes, capacity, exact=name != "lirs")


@pytest.mark.parametrize("name", [n for n in BUILTIN if n != "fifo"])
def test_a_wrong_twin_is_noticed(name: str) -> None:
    things = next(open_pattern("zipf0.9:1500:120:3").chunks(1500)).object.tolist()
    hints = next_uses(Objects().nodes_of(np.array(things, np.int64))).tolist()
    if "bit" in POLICIES.get(name).hint:
        hints = [hint % 2 for hint in hints]
    trace = things, [1] * len(things), hints
    events = run_kernel(name, 20, trace, [])
    assert (events.what == HIT).tolist() == run_slow(name, 20, trace)
    assert (events.what == HIT).tolist() != run_slow("fifo", 20, trace)


def check_events(
    events: Events, things: list[int], sizes: list[int], capacity: int, exact: bool = True
) -> None:
    """What a cache must not do: hit what it does not hold, drop what it does not hold, hold more than it can."""
    nodes = Objects().nodes_of(np.array(things, np.int64)).tolist()
    held: dict[int, int] = {}
    out = list(zip(events.left_at.tolist(), events.left.tolist(), strict=True))
    for i, (node, size) in enumerate(zip(nodes, sizes, strict=True)):
        what = events.what[i]
        assert (what == HIT) == (node in held)
        while out and out[0][0] == i:
            assert held.pop(out.pop(0)[1])
        if what == ADMITTED:
            held[node] = size
        assert not exact or sum(held.values()) <= capacity
    assert not out


@pytest.mark.parametrize("broken", ["drops", "overfull", "hit"])
def test_the_checker_notices(broken: str) -> None:
    things, sizes = [1, 2, 3, 1, 2, 3], [1] * 6
    events = run_kernel("lru", 2, (things, sizes, [0] * 6), [])
    if broken == "drops":
        events = events._replace(left=events.left[::-1].copy())
    elif broken == "overfull":
        events = events._replace(left=events.left[:0], left_at=events.left_at[:0])
    else:
        events.what[3] = HIT
    with pytest.raises((AssertionError, KeyError)):
        check_events(events, things, sizes, 2)


@pytest.mark.parametrize("name", [n for n in BUILTIN if n not in ("belady", "belady-size")])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_nothing_beats_belady(name: str, data: Any) -> None:
    things, sizes = data.draw(traces(False))
    capacity = data.draw(st.integers(10, 20))
    trace = things, sizes, hints_of(name, things, data.draw)
    best = things, sizes, hints_of("belady", things, data.draw)
    misses = [
        int((run_kernel(n, capacity, t, []).what != HIT).sum()) for n, t in ((name, trace), ("belady", best))
    ]
    # LIRS, as libCacheSim has it, can hold an object more than its size.
    assert misses[0] >= misses[1] or name == "lirs"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_robust_discard_stays_near_the_better_of_its_two(data: Any) -> None:
    things = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=200))
    hints = hints_of("robust-discard", things, data.draw)
    capacity, trust = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1.0, 1.5, 3.0]))
    twin = Robust(capacity, trust=trust)
    misses = sum(not twin.request(thing, 1, hint) for thing, hint in zip(things, hints, strict=True))
    assert misses <= (1 + trust) * min(twin.misses) + capacity * (twin.changes + 1)
    if not twin.changes:
        assert misses == twin.misses[0]


@pytest.mark.parametrize("name", ["flush-predictions", "discard-predictions"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_right_discard_bits_reach_the_optimum_and_a_wrong_one_costs_little(name: str, data: Any) -> None:
    things = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=120))
    nodes, ones = Objects().nodes_of(np.array(things, np.int64)), np.ones(len(things), np.int64)
    capacity = data.draw(st.integers(2, 6))
    true = discard_bits(nodes, ones, capacity)
    wrong = np.array(data.draw(st.lists(st.booleans(), min_size=len(things), max_size=len(things))))
    fewest = int((run_kernel("belady", capacity, (things, ones, next_uses(nodes)), []).what != HIT).sum())
    assert int((run_kernel(name, capacity, (things, ones, true), []).what != HIT).sum()) == fewest
    if name == "flush-predictions":
        told = np.where(wrong, 1 - true, true)
        misses = int((run_kernel(name, capacity, (things, ones, told), []).what != HIT).sum())
        kept, dropped = int((wrong & (true == 1)).sum()), int((wrong & (true == 0)).sum())
        assert misses <= fewest + (capacity - 1) * kept + dropped


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_belady_misses_are_the_fewest_of_all_choices(data: Any) -> None:
    things = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))
    trace = things, [1] * len(things), hints_of("belady", things, data.draw)
    capacity = data.draw(st.integers(1, 3))

    def fewest(i: int, held: frozenset[int]) -> int:
        if i == len(things):
            return 0
        if things[i] in held:
            return fewest(i + 1, held)
        room = [held] if len(held) < capacity else [held - {gone} for gone in held]
        return 1 + min(fewest(i + 1, kept | {things[i]}) for kept in room)

    assert int((run_kernel("belady", capacity, trace, []).what != HIT).sum()) == fewest(0, frozenset())


@pytest.mark.parametrize("name", [n for n in BUILTIN if POLICIES.get(n).stack])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_larger_cache_hits_what_a_smaller_one_does(name: str, data: Any) -> None:
    things, sizes = data.draw(traces(False))
    trace = things, sizes, hints_of(name, things, data.draw)
    small, large = (
        run_kernel(name, capacity, trace, []).what == HIT for capacity in (data.draw(st.integers(1, 10)), 11)
    )
    assert not (small & ~large).any()


def test_fifo_is_no_stack_policy() -> None:
    things = [1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5]
    small, large = (run_kernel("fifo", c, (things, [1] * 12, [0] * 12), []).what == HIT for c in (3, 4))
    assert (small & ~large).any(), "Belady's anomaly"


def test_an_object_keeps_the_size_it_entered_with() -> None:
    trace = [1, 2, 1, 3, 1], [2, 2, 4, 2, 2], [0] * 5
    assert (run_kernel("lru", 4, trace, []).what == HIT).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize(("name", "capacity"), [("s3-fifo", 9), ("slru", 3), ("lru", 0), ("lru", 1 << 61)])
def test_a_capacity_that_cannot_work_is_refused(name: str, capacity: int) -> None:
    with pytest.raises(InputError, match="--size"):
        RunningCache(POLICIES.get(name), capacity)


def test_more_objects_than_the_table_begins_with() -> None:
    objects = Objects()
    things = np.arange(50000, dtype=np.int64) * 7919 - 10**9
    assert (np.diff(objects.nodes_of(things)) == 1).all()
    assert np.array_equal(objects.nodes_of(things[::-1]), objects.nodes_of(things)[::-1])


def test_policies_are_frozen_and_say_their_source() -> None:
    for name in POLICIES:
        policy = POLICIES.get(name)
        assert policy.name == name
        assert policy.source
        assert policy.description
        with pytest.raises(dataclasses.FrozenInstanceError):
            policy.name = "x"  # type: ignore[misc]
