"""Stores serve every row from where it is, read what they must, and the fewest where they know the future."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.gather.kernels import belady_window
from simulator.gather.reads import CHUNK, DriveReads, chunks_of, no_reads, read_time
from simulator.gather.stores import StoreOptions, hottest, page_misses, plan_store
from simulator.gather.table import PAGE, FeatureTable
from tests.gather import oracle
from workloads.graph_data.batches import BatchTrace

STORES = ("host", "four-level", "belady-window", "page-cache")
SIZES = st.just(0) | st.integers(1, 3) | st.integers(4, 15)


def trace_of(batches: list[list[int]], nodes: int) -> BatchTrace:
    return BatchTrace.from_rows(batches, nodes)


@settings(max_examples=120, deadline=None)
@given(
    oracle.traces(),
    st.sampled_from(STORES),
    SIZES,
    SIZES,
    st.none() | SIZES,
    st.sampled_from([100, 512, 5000]),
)
def test_every_plan_keeps_its_rules(
    made, store: str, gpu: int, cpu: int, disk: int | None, row_bytes: int
) -> None:
    trace, _ = made
    table = FeatureTable(trace.nodes, row_bytes, base=0)
    options = StoreOptions(
        store, gpu * row_bytes, cpu * (PAGE if store == "page-cache" else row_bytes),
        None if disk is None else disk * row_bytes, superbatch=3,
    )  # fmt: skip
    plan = plan_store(trace, table, options)
    assert oracle.plan_violations(trace, table, plan, options) == []
    assert plan.by_level().sum() == trace.rows.size
    if cpu * row_bytes >= table.bytes and store == "four-level":
        assert plan.read_bytes == 0
    if gpu >= trace.nodes:
        assert plan.by_level()[0] == trace.rows.size
        assert plan.read_bytes == 0


def test_the_checker_sees_a_broken_plan() -> None:
    trace, table = trace_of([[0, 1, 2], [2, 3]], 4), FeatureTable(4, 512)
    options = StoreOptions("belady-window")
    plan = plan_store(trace, table, options)
    assert oracle.plan_violations(trace, table, plan, options) == []
    fewer = DriveReads(*(part[:0] for part in (plan.pages.address, plan.pages.size, plan.pages.batch)))
    assert "batch 0 reads too little" in oracle.plan_violations(
        trace, table, replace(plan, pages=fewer), options
    )
    none = replace(plan, level=np.ones(5, np.int8))
    assert "batch 0 reads in vain" in oracle.plan_violations(trace, table, none, options)
    gpu = replace(plan, level=np.zeros(5, np.int8), pages=fewer)
    assert oracle.plan_violations(trace, table, gpu, options) == ["the GPU's cache is over its size"]
    odd = replace(plan, pages=replace(plan.pages, address=plan.pages.address + 1))
    assert "a read is not aligned" in oracle.plan_violations(trace, table, odd, options)


@settings(max_examples=150, deadline=None)
@given(oracle.traces(), st.integers(1, 8), st.integers(0, 8))
def test_belady_misses_are_the_oracles(made, window: int, capacity: int) -> None:
    trace, batches = made
    miss = np.zeros(trace.rows.size, np.bool_)
    belady_window(trace.offsets, trace.rows, window, capacity, trace.nodes, miss)
    assert int(miss.sum()) == oracle.belady(batches, window, capacity)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), unique=True, max_size=3), min_size=1, max_size=5), st.integers(0, 3)
)
def test_no_policy_misses_fewer(batches: list[list[int]], capacity: int) -> None:
    trace = trace_of(batches, 5)
    miss = np.zeros(trace.rows.size, np.bool_)
    belady_window(trace.offsets, trace.rows, len(batches), capacity, 5, miss)
    assert int(miss.sum()) == oracle.best_misses(batches, capacity)


def test_a_longer_window_misses_no_more_and_a_lesser_policy_more() -> None:
    rng = np.random.default_rng(3)
    batches = [rng.choice(60, 12, replace=False).tolist() for _ in range(30)]
    found = []
    for window in (5, 15, 30):
        trace = trace_of(batches, 60)
        miss = np.zeros(trace.rows.size, np.bool_)
        belady_window(trace.offsets, trace.rows, window, 20, 60, miss)
        found.append(int(miss.sum()))
    assert found == sorted(found, reverse=True)
    pages = oracle.lru([(row, b) for b, rows in enumerate(batches) for row in rows], 20)
    assert found[-1] < len(pages)


@settings(max_examples=100, deadline=None)
@given(oracle.traces(), st.integers(0, 6), st.sampled_from([300, 2000, 9000]), st.integers(0, 5000))
def test_pages_of_a_mapped_table_are_the_oracles(made, capacity: int, row_bytes: int, base: int) -> None:
    trace, batches = made
    table = FeatureTable(trace.nodes, row_bytes, base)
    batch = np.repeat(np.arange(trace.batches), np.diff(trace.offsets))
    found = page_misses(trace.rows, batch, table, capacity, trace.batches)
    asked = [(p, b) for b, rows in enumerate(batches) for row in rows for p in oracle.pages(table, row)]
    expected = oracle.lru(asked, capacity)
    assert list(zip(found.page.tolist(), found.batch.tolist(), strict=True)) == expected
    assert found.by_batch.tolist() == [sum(b == n for _, b in expected) for n in range(trace.batches)]


@settings(max_examples=60, deadline=None)
@given(oracle.traces(), st.integers(0, 14))
def test_the_hottest_are_asked_for_most(made, count: int) -> None:
    trace, batches = made
    chosen = hottest(trace, count).tolist()
    often = {n: sum(n in rows for rows in batches) for n in range(trace.nodes)}
    rest = [often[n] for n in range(trace.nodes) if n not in chosen]
    assert len(chosen) == min(count, sum(v > 0 for v in often.values()))
    assert not chosen or not rest or min(often[n] for n in chosen) >= max(rest)


def test_packing_removes_the_amplification() -> None:
    rng = np.random.default_rng(1)
    batches = [rng.choice(4000, 800, replace=False).tolist() for _ in range(12)]
    trace, table = trace_of(batches, 4000), FeatureTable(4000, 512)
    packed = plan_store(trace, table, StoreOptions("four-level"))
    single = plan_store(trace, table, StoreOptions("belady-window"))
    assert packed.amplification(table) == 1.0
    assert packed.disk_bytes == 12 * 800 * 512
    assert single.amplification(table) == 8.0
    # Without any room for copies the disk cache reads whole pages, fewer than one a row since neighbours share them.
    ordered = plan_store(trace, table, StoreOptions("four-level", disk_bytes=0))
    assert 1.0 < ordered.amplification(table) < 8.0
    assert ordered.disk_bytes == np.unique(trace.rows).size * 512


def test_the_order_by_min_hash_brings_together_what_batches_share() -> None:
    # Four groups of rows, each wanted by its own batches, mixed up in the table.
    rng = np.random.default_rng(2)
    rows = rng.permutation(512)
    batches = [rows[group * 128 : group * 128 + 128].tolist() for group in (0, 1, 2, 3) * 3]
    trace, table = trace_of(batches, 512), FeatureTable(512, 512)
    ordered = plan_store(trace, table, StoreOptions("four-level", disk_bytes=0))
    # A group of 64 KiB fills 16 pages of its own: nothing else is read.
    assert ordered.read_bytes == 12 * 128 * 512
    mapped = plan_store(trace, table, StoreOptions("page-cache"))
    assert mapped.read_bytes > 3 * ordered.read_bytes


def test_the_inspector_writes_what_it_found() -> None:
    trace, table = trace_of([[0, 1], [0, 2]], 3), FeatureTable(3, 512)
    plan = plan_store(trace, table, StoreOptions("belady-window", cpu_cache=512))
    # Four numbers of rows, no edges, and one row that enters the cache and leaves it.
    assert plan.preparation.written_bytes == 8 * (4 + 2)
    assert plan.preparation.every_epoch


@given(st.lists(st.integers(1, 10**6), max_size=5))
def test_long_reads_are_cut_into_chunks(sizes: list[int]) -> None:
    begins = np.cumsum([0, *sizes])[:-1].astype(np.int64)
    reads = chunks_of(begins, np.array(sizes, np.int64), np.arange(len(sizes)))
    assert reads.bytes == sum(sizes)
    assert reads.bytes_by_batch(len(sizes)).tolist() == sizes
    assert not reads.count or (reads.size.max() <= CHUNK and reads.size.min() >= 1)
    assert (reads.address[1:] == (reads.address + reads.size)[:-1]).all()


def test_the_drive_serves_reads_by_its_engine_at_a_queue_depth() -> None:
    drive = oracle.machine().flash
    rng = np.random.default_rng(4)
    address = rng.integers(0, 10**5, 3000) * PAGE
    reads = DriveReads(address, np.full(3000, PAGE), np.zeros(3000, np.int64))
    one, many = read_time(drive, reads, 1), read_time(drive, reads, 64)
    assert one.source == "engine"
    assert one.iops == pytest.approx(22_000, rel=0.05)
    assert many.bandwidth > 15 * one.bandwidth
    assert many.bandwidth <= drive.store.read_bandwidth
    assert read_time(drive, no_reads(), 1).source == "none"
    sheet = oracle.machine("t4-server").flash
    assert read_time(sheet, reads, 1).source == "data sheet"
    with pytest.raises(InputError, match="--queue-depth"):
        read_time(drive, reads, 0)
    far = DriveReads(address + int(drive.store.capacity), reads.size, reads.batch)
    with pytest.raises(InputError, match="holds"):
        read_time(drive, far, 1)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: StoreOptions("fivelevel"), "did you mean"),
        (lambda: StoreOptions(gpu_cache=-1), "0 bytes or more"),
        (lambda: StoreOptions(superbatch=0), "--superbatch"),
        (lambda: StoreOptions(partitions=4, buffer=5), "--partitions"),
        (lambda: StoreOptions(cover="all"), "--cover"),
        (lambda: plan_store(trace_of([[0]], 1), FeatureTable(2, 4), StoreOptions()), "table has 2"),
        (
            lambda: plan_store(trace_of([[0]], 1), FeatureTable(1, 4), StoreOptions("partition-buffer")),
            "partitions",
        ),
    ],
)
def test_what_is_refused(call, told: str) -> None:
    with pytest.raises(InputError, match=told):
        call()


def test_the_strategies_reach_every_level() -> None:
    seen: Counter[int] = Counter()

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(oracle.traces(), SIZES, SIZES, st.none() | SIZES)
    def count(made, gpu: int, cpu: int, disk: int | None) -> None:
        trace, _ = made
        room = None if disk is None else disk * 512
        plan = plan_store(
            trace, FeatureTable(trace.nodes, 512), StoreOptions("four-level", gpu * 512, cpu * 512, room)
        )
        seen.update(set(plan.level.tolist()))

    count()
    assert min(seen[level] for level in range(4)) >= 15


def test_rows_asked_for_least_are_packed_and_the_caches_hold_the_others() -> None:
    # Frequencies 5, 4, 3, 2, 1 of rows 0 to 4; copies of rows 4 and 3 take three places, row 2 three more.
    batches = [[0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2], [0, 1], [0]]
    trace, table = trace_of(batches, 5), FeatureTable(5, 512)
    plan = plan_store(trace, table, StoreOptions("four-level", 512, 512, disk_bytes=5 * 512))
    assert [set(plan.level[trace.rows == row].tolist()) for row in range(5)] == [{0}, {1}, {2}, {3}, {3}]
    assert plan.by_level().tolist() == [5, 4, 3, 3]
    # Two batches pack two rows and one: a page each; the cache on disk is one row, read by its page in three batches.
    assert (plan.long.bytes, plan.pages.bytes) == (2 * PAGE, 3 * PAGE)
    assert plan.preparation.written_bytes == 2 * PAGE + 512
    assert plan.preparation.read_bytes == table.bytes


def test_hypothesis_reaches_full_caches() -> None:
    """The strategies above make traces on which the cache matters: some such trace misses more with less room."""

    @settings(max_examples=200, deadline=None, database=None)
    @given(oracle.traces())
    def differs(made) -> None:
        _, batches = made
        assume(oracle.belady(batches, 9, 1) != oracle.belady(batches, 9, 3))

    differs()
