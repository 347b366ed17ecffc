"""What must hold on any drive, whatever it is asked to do: found by drawing drives, requests and moments."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.flash.aging import History
from simulator.flash.checker import violations
from simulator.flash.engine import DriveRun, RunOptions
from simulator.flash.kernel import DONE, STOPPED
from simulator.flash.records import FREE, LOG_DONE, LOG_PLACED, LOG_ROW, TRIM, WRITE
from simulator.flash.recovery import recovered_map, write_numbers
from tests.flash.drives import PAGE, drive, geometries
from workloads.block_trace import ArrayBlocks

POLICIES = ("greedy", "d-choices", "random", "random-full", "random-invalid", "fifo")
LOG = 60_000


@st.composite
def drives(draw):
    return replace(
        draw(geometries(collecting=True)),
        gc_policy=draw(st.sampled_from(POLICIES)),
        gc_choices=draw(st.integers(1, 4)),
        gc_preemptible=draw(st.booleans()),
        cache_commands=draw(st.booleans()),
        suspend_program=draw(st.booleans()),
        suspend_erase=draw(st.booleans()),
        suspend_ns=draw(st.integers(0, 20_000)),
        resume_ns=draw(st.integers(0, 10_000)),
        wear_levelling_gap=draw(st.sampled_from([0, 2, 100])),
        write_buffer_pages=draw(st.sampled_from([0, 0, 3])),
        retry_probability=draw(st.sampled_from([0.0, 0.2])),
    )


@st.composite
def traces(draw, drive):
    count = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    span = draw(st.sampled_from([1.0, 0.3]))
    most = max(int(drive.logical_pages * span), 1)
    first = rng.integers(0, most, count)
    pages = np.minimum(rng.integers(1, 4, count), drive.logical_pages - first)
    shares = draw(st.sampled_from([(0.0, 1.0), (0.3, 1.0), (0.2, 0.9)]))
    draws = rng.random(count)
    operation = np.where(draws < shares[0], 0, np.where(draws < shares[1], 1, 3))
    size = pages * PAGE
    if draw(st.booleans()):
        size = np.maximum(size - rng.integers(0, 2, count) * 512, 512)
    return ArrayBlocks(operation, first * PAGE, size)


@st.composite
def cases(draw):
    made = draw(drives())
    return made, draw(traces(made)), draw(st.sampled_from([1, 2, 8, 32]))


def begin(made, trace, outstanding, **options):
    chosen = RunOptions(outstanding=outstanding, log=LOG, spare=True, **options)
    run = DriveRun.begin(made, chosen, int(np.max(trace.size)))
    (chunk,) = trace.chunks(trace.count)
    return run, chunk


def rows_of(run):
    assert run.state.record.logged <= LOG
    return run.state.log_rows


def check_idle(run):
    planes = run.state.planes
    for waiting in (planes["need"], planes["running"], planes["waiting"]["head"], planes["barrier"]["head"]):
        assert not waiting.any()
    for field in ("reads", "writes", "superseded"):
        assert not run.state.blocks[field].any()


def check_maps(run):
    state, made = run.state, run.drive
    forward, back = state.to_physical.astype(int) - 1, state.to_logical.astype(int) - 1
    mapped = np.flatnonzero(forward >= 0)
    assert np.unique(forward[mapped]).size == mapped.size
    assert np.array_equal(back[forward[mapped]], mapped)
    written = state.blocks["written"]
    invalid = state.blocks["invalid"]
    valid = np.bincount(forward[mapped] // made.pages_per_block, minlength=written.size)
    assert np.array_equal(valid, written - invalid)
    free = made.pages_per_block - written
    assert free.sum() + valid.sum() + invalid.sum() == made.physical_pages
    empty = (state.blocks["state"] == FREE).reshape(made.planes, -1).sum(axis=1)
    assert np.array_equal(empty, state.planes["free"])


@settings(max_examples=120, deadline=None)
@given(cases())
def test_every_request_completes_and_every_page_has_its_place(case):
    made, trace, outstanding = case
    run, chunk = begin(made, trace, outstanding)
    assert run.feed(chunk, True) == DONE
    counted = run.state.record
    assert counted.reads + counted.writes + counted.trims == trace.count
    check_idle(run)
    assert not (run.state.auxiliary >> 16).any()
    check_maps(run)
    assert violations(made, rows_of(run)) == []


@settings(max_examples=120, deadline=None)
@given(cases(), st.integers(1, 4000))
def test_a_cut_of_power_loses_no_acknowledged_write(case, moment):
    made, trace, outstanding = case
    made = replace(made, write_buffer_pages=0)
    run, chunk = begin(made, trace, outstanding)
    status = run.feed(chunk, True, stop=moment)
    assert status in (DONE, STOPPED)
    rows = rows_of(run).view(LOG_ROW)[:, 0]
    numbers, found = write_numbers(run.state), recovered_map(run.state)
    done, trimmed = set(), set()
    for row in rows:
        if row["what"] == LOG_DONE and row["unit"] == WRITE:
            done.add(int(row["stamp"]))
        elif row["what"] == LOG_DONE and row["unit"] == TRIM:
            address, size = int(row["ppn"]), int(row["lpn"])
            trimmed.update(range(address // PAGE, (address + size) // PAGE + 1))
    placed = rows[rows["what"] == LOG_PLACED]
    checked = 0
    for index, page, number in placed[["unit", "lpn", "stamp"]].tolist():
        if index in done and page not in trimmed:
            assert found[page] >= 0, f"page {page} is lost"
            assert numbers[found[page]] >= number
            checked += 1
    if status == DONE and not trimmed:
        forward = run.state.to_physical.astype(int) - 1
        assert np.array_equal(found >= 0, forward >= 0)
        assert checked or not (np.asarray(trace.operation) == 1).any()


@pytest.mark.parametrize("policy", POLICIES)
def test_one_free_block_is_enough(policy):
    """The fullest drive that is allowed, one outstanding request, and a reserve of one block."""
    made = drive(
        channels=1, chips_per_channel=1, planes_per_die=1, blocks_per_plane=6, pages_per_block=4,
        logical_pages=12, gc_reserve_blocks=1, gc_threshold_blocks=1, gc_policy=policy, gc_choices=3,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    trace = ArrayBlocks(np.ones(2000), rng.integers(0, 12, 2000) * PAGE, np.full(2000, PAGE))
    run, chunk = begin(made, trace, 1)
    assert run.feed(chunk, True) == DONE
    assert run.state.record.gc_runs > 100
    check_maps(run)
    assert violations(made, rows_of(run)) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 4, 24]), st.integers(2, 4), st.sampled_from([0, 6]))
def test_a_map_that_does_not_fit_keeps_every_rule(seed, outstanding, slots, buffer):
    """Eight pages of map and a cache of a few of them: loads, evictions and collection of map pages."""
    made = drive(
        channels=1, chips_per_channel=2, planes_per_die=1, blocks_per_plane=40, pages_per_block=64,
        logical_pages=4096, mapping_cache_pages=slots, write_buffer_pages=buffer, gc_reserve_blocks=2,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    count = 2500
    operation = np.where(rng.random(count) < 0.3, 0, 1)
    trace = ArrayBlocks(operation, rng.integers(0, 4096, count) * PAGE, np.full(count, PAGE))
    run, chunk = begin(made, trace, outstanding, history=History(overwrites=0.2))
    held = {int(page): logical for logical, page in enumerate(run.state.to_physical - 1) if page >= 0}
    assert run.feed(chunk, True) == DONE
    counted = run.state.record
    assert counted.reads + counted.writes == count
    assert counted.map_misses > count / 10
    check_idle(run)
    assert not (run.state.auxiliary >> 16).any()
    check_maps(run)
    assert violations(made, rows_of(run), before=held) == []
