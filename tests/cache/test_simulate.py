"""Levels, reuse distances and curves against plain counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simulator.cache.simulate as engine
from hw_configs.problems import InputError
from simulator.cache.curves import curve_of, lru_curve, point_sizes
from simulator.cache.distances import BUCKETS, Distances, bucket_edges
from simulator.cache.hierarchy import Level
from simulator.cache.optimal_stack import optimal_hits
from simulator.cache.result import CacheResult
from simulator.cache.simulate import Hierarchy, simulate_caches
from tests.cache.slow import SLOW, Slow
from workloads.cache_trace import ArrayCacheTrace, CacheRequests, open_pattern

POLICIES = ("lru", "fifo", "sieve", "lfu")


def one(name: str, size: int) -> Hierarchy:
    return Hierarchy(name, (Level.of("cache", size, name),))


class PlainLevels:
    """Levels of plain policies with the rules of the page: dictionaries, one request at a time."""

    def __init__(self, levels: list[tuple[str, int]]) -> None:
        self.caches: list[Slow] = [SLOW[name](size, seed=1 + at) for at, (name, size) in enumerate(levels)]
        self.dirty: list[dict[int, int]] = [{} for _ in levels]
        self.hits = [0] * len(levels)
        self.asked = [0] * len(levels)
        self.up = [0] * len(levels)
        self.down = [0] * len(levels)

    def request(self, at: int, thing: int, size: int, written: bool, demand: bool = True) -> None:
        if at == len(self.caches):
            return
        self.asked[at] += demand
        cache, dirty = self.caches[at], self.dirty[at]
        hit = cache.request(thing, size)
        self.hits[at] += hit and demand
        if hit and written:
            dirty[thing] = size
        for left in [one for one in dirty if one not in cache.held]:
            self.down[at] += dirty[left]
            self.request(at + 1, left, dirty.pop(left), True, False)
        if hit:
            return
        if written and thing in cache.held:
            dirty[thing] = size
            return
        if written:
            self.down[at] += size
        else:
            self.up[at] += size
        self.request(at + 1, thing, size, written, demand)


@st.composite
def requests(draw: Any, writes: bool = True) -> ArrayCacheTrace:
    count = draw(st.integers(1, 150))
    things = draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(1, 6), min_size=21, max_size=21))
    written = draw(st.lists(st.booleans(), min_size=count, max_size=count)) if writes else [False] * count
    return ArrayCacheTrace(np.array(things), np.array([sizes[t] for t in things]), np.array(written))


@settings(max_examples=80, deadline=None)
@given(trace=requests(), data=st.data())
def test_levels_do_what_plain_levels_do(trace: ArrayCacheTrace, data: Any) -> None:
    # One object is written back at a time here, so that the order in which several leave does not matter: unit sizes.
    trace = ArrayCacheTrace(trace.object, 1, trace.written)
    levels = [
        (data.draw(st.sampled_from(POLICIES)), data.draw(st.integers(1, 12)))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    result = simulate_caches(
        trace, [Hierarchy("x", tuple(Level.of(str(i), s, n) for i, (n, s) in enumerate(levels)))]
    )
    plain = PlainLevels(levels)
    for thing, written in zip(np.asarray(trace.object), np.asarray(trace.written), strict=True):
        plain.request(0, int(thing), 1, bool(written))
    found = result.runs[0].levels
    assert [level.requests for level in found] == plain.asked
    assert [level.hits for level in found] == plain.hits
    assert [level.bytes_up for level in found] == plain.up
    assert [level.bytes_down for level in found] == plain.down
    assert [level.dirty_bytes for level in found] == [sum(dirty.values()) for dirty in plain.dirty]


def test_bytes_written_with_sizes_come_down_once_each() -> None:
    trace = ArrayCacheTrace([1, 2, 3, 1], [4, 4, 8, 4], [True, True, False, False])
    level = simulate_caches(trace, [one("lru", 8)]).runs[0].levels[0]
    assert (level.bytes_up, level.bytes_down, level.dirty_bytes) == (12, 8, 0)


def test_a_write_too_large_for_a_level_goes_by() -> None:
    trace = ArrayCacheTrace([1, 1], [9, 9], [True, False])
    levels = (Level.of("a", 8, "lru"), Level.of("b", 16, "lru"))
    found = simulate_caches(trace, [Hierarchy("x", levels)]).runs[0]
    assert (found.levels[0].bytes_down, found.levels[1].hits, found.misses) == (9, 1, 1)


def distances_of(trace: ArrayCacheTrace, rate: float = 1.0, chunk: int = 7) -> Distances:
    found = Distances(rate)
    for part in trace.chunks(chunk):
        found.run(part.object, part.size)
    return found


@settings(max_examples=60, deadline=None)
@given(trace=requests(writes=False), chunk=st.integers(1, 200))
def test_distances_are_those_of_a_plain_stack(trace: ArrayCacheTrace, chunk: int) -> None:
    stack: list[tuple[int, int]] = []
    counts: dict[int, int] = {}
    for thing, size in zip(np.asarray(trace.object).tolist(), np.asarray(trace.size).tolist(), strict=True):
        if (thing, size) in stack:
            depth = sum(s for _, s in stack[: stack.index((thing, size)) + 1])
            counts[depth] = counts.get(depth, 0) + 1
            stack.remove((thing, size))
        stack.insert(0, (thing, size))
    found = distances_of(trace, chunk=chunk).result().counts
    assert {int(d): int(found[d]) for d in np.flatnonzero(found)} == counts


@settings(max_examples=40, deadline=None)
@given(trace=requests(writes=False), size=st.integers(6, 80))
def test_the_lru_curve_is_what_runs_give(trace: ArrayCacheTrace, size: int) -> None:
    run = simulate_caches(trace, [one("lru", size)]).runs[0]
    found = distances_of(trace).result()
    assert found.miss_ratio(size) == pytest.approx(run.miss_ratio, abs=1e-12)
    assert found.byte_miss_ratio(size) == pytest.approx(run.byte_miss_ratio, abs=1e-12)


def test_a_curve_of_another_policy_is_noticed() -> None:
    trace = ArrayCacheTrace(next(open_pattern("zipf0.8:4000:300").chunks(9999)).object)
    run = simulate_caches(trace, [one("fifo", 40)]).runs[0]
    assert distances_of(trace).result().miss_ratio(40) != pytest.approx(run.miss_ratio, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(trace=requests(writes=False), size=st.integers(1, 22))
def test_belady_in_one_pass_is_what_runs_give(trace: ArrayCacheTrace, size: int) -> None:
    trace = ArrayCacheTrace(trace.object)
    hits = optimal_hits(engine.Objects().nodes_of(np.asarray(trace.object)))
    run = simulate_caches(trace, [one("belady", size)]).runs[0]
    assert run.requests - run.misses == int(hits[: size + 1].sum())


def test_compaction_of_the_tree_changes_nothing() -> None:
    trace = ArrayCacheTrace(next(open_pattern("walk:30000:3000").chunks(10**6)).object)
    found = distances_of(trace, chunk=5000).result()
    for size in (10, 100, 2000):
        assert found.miss_ratio(size) == pytest.approx(
            simulate_caches(trace, [one("lru", size)]).runs[0].miss_ratio
        )


def test_buckets_join_without_gaps() -> None:
    edges = bucket_edges()
    assert len(edges) == BUCKETS
    assert (np.diff(edges) > 0).all()
    assert float((np.diff(edges) / edges[1:])[2048:].max()) < 1 / 1000


@pytest.mark.parametrize("recipe", ["zipf0.8:60000:20000:3", "walk:60000:20000:4"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sampled_curve_is_within_its_error(recipe: str, seed: int) -> None:
    chunk = next(open_pattern(recipe).chunks(10**6))
    exact, sampled = Distances(), Distances(0.1, seed)
    for each in (exact, sampled):
        each.run(chunk.object, chunk.size)
    true, found = exact.result(), sampled.result()
    for size in (200, 1000, 4000, 10000):
        error = abs(found.miss_ratio(size) - true.miss_ratio(size))
        assert error <= max(4 * found.error(size), 0.01)
        assert found.error(size) < 0.05


def test_the_error_of_too_few_objects_is_not_small() -> None:
    chunk = next(open_pattern("zipf1.2:20000:500:3").chunks(10**6))
    few = Distances(0.02)
    few.run(chunk.object, chunk.size)
    assert few.result().error(20) > 0.02


@pytest.mark.parametrize("name", ["lru", "belady", "s3-fifo", "lfu"])
def test_curves_fall_and_meet_runs(name: str) -> None:
    trace = open_pattern("zipf0.9:3000:400")
    distances = Distances()
    base = simulate_caches(trace, [one(name, 40)], distances=distances)
    curve = curve_of(
        trace, Level.of("cache", 40, name), distances.result(), point_sizes(base.distinct_bytes, 4)
    )
    ratios = [point.miss_ratio for point in curve.points]
    assert len(ratios) > 8
    if name != "s3-fifo":
        assert ratios == sorted(ratios, reverse=True)
    for point in curve.points[2::5]:
        assert simulate_caches(trace, [one(name, point.size)]).runs[0].miss_ratio == pytest.approx(
            point.miss_ratio
        )


def test_sampled_curves_state_their_error() -> None:
    chunk = next(open_pattern("zipf0.8:20000:5000").chunks(10**6))
    sampled = Distances(0.2)
    sampled.run(chunk.object, chunk.size)
    curve = lru_curve(sampled.result())
    assert "20 %" in curve.method
    assert max(point.error for point in curve.points) > 0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = open_pattern("scan-mix:5000:300:2:writes=0.3:sizes=hashed")
    hierarchies = [
        Hierarchy(n, (Level.of("a", 900, n), Level.of("b", 3000, "lru"))) for n in ("arc", "lirs", "mq")
    ]

    def figures(result: CacheResult) -> list[Any]:
        return [
            (run.misses, run.miss_bytes, [level.as_json() for level in run.levels]) for run in result.runs
        ]

    whole = figures(simulate_caches(trace, hierarchies))
    monkeypatch.setattr(engine, "CHUNK", 37)
    cut = simulate_caches(trace, hierarchies)
    assert figures(cut) == whole
    windows = cut.runs[0].windows
    assert len(windows) <= engine.MOST_WINDOWS
    assert sum(window.misses for window in windows) == cut.runs[0].misses
    assert windows[-1].requests == 5000
    assert windows[-1].objects == cut.objects
    assert windows[-1].distinct_bytes == cut.distinct_bytes


def test_an_interrupt_leaves_what_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        name, count = "stopped", None

        def chunks(self, size: int) -> Any:
            yield next(open_pattern("loop:100:10").chunks(100))
            raise KeyboardInterrupt

    result = simulate_caches(Stopped(), [one("lru", 10)])
    assert result.interrupted
    assert (result.requests, result.runs[0].misses) == (100, 10)


def test_a_trace_too_long_to_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_KEPT", 99)
    with pytest.raises(InputError, match="more than 99 requests"):
        simulate_caches(open_pattern("loop:100:10"), [one("belady", 10)])


def test_times_are_those_that_levels_state() -> None:
    levels = (
        Level("a", 1, Level.of("a", 1, "lru").policy, Level.of("a", 1, "lru").settings, 1e-6, 1e6),
        Level("b", 9, Level.of("b", 9, "lru").policy, Level.of("b", 9, "lru").settings, 1e-3, None),
    )
    run = simulate_caches(ArrayCacheTrace([1, 1, 2, 1]), [Hierarchy("x", levels)]).runs[0]
    # Four look-ups of a, one hit of a byte at 1 MB/s, three look-ups of b.
    assert run.time_per_request_s == pytest.approx((4e-6 + 1e-6 + 3e-3) / 4)


def test_predictions_of_a_trace_are_taken_as_they_are() -> None:
    things = [1, 2, 3, 1, 2, 3]
    lies = ArrayCacheTrace(things, predicted=[5, 90, 4, 80, 7, 9])
    truth = ArrayCacheTrace(things)
    found = [simulate_caches(t, [one("blind-oracle", 2)]).runs[0].misses for t in (lies, truth)]
    expected = SLOW["blind-oracle"](2)
    assert found[0] == [
        expected.request(t, 1, h) for t, h in zip(things, [5, 90, 4, 80, 7, 9], strict=True)
    ].count(False)
    assert found[1] == simulate_caches(truth, [one("belady", 2)]).runs[0].misses


def test_right_discard_bits_reach_the_optimum() -> None:
    for recipe in ("zipf0.9:3000:300", "walk:3000:300", "phases:3000:300", "loop:3000:21"):
        trace = open_pattern(recipe)
        result = simulate_caches(trace, [one("belady", 20), one("discard-predictions", 20)])
        assert result.runs[0].misses == result.runs[1].misses


def test_memory_of_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(engine, "CHUNK", 64)

    class Counted:
        name, count = "counted", 640

        def chunks(self, size: int) -> Any:
            for chunk in open_pattern("loop:640:10").chunks(size):
                seen.append(len(chunk.object))
                yield CacheRequests._make(chunk)

    simulate_caches(Counted(), [one("lru", 5)])
    assert seen == [64] * 10
