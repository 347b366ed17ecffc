"""What must hold on any drive, whatever it is asked to do: found by drawing drives, requests and moments."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.flash import layout as at
from simulator.flash.aging import History
from simulator.flash.checker import violations
from simulator.flash.engine import DriveRun, RunOptions
from simulator.flash.kernel import DONE, STOPPED
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
    used = int(run.state.m[at.LOGGED])
    assert used <= LOG
    return run.state.records(at.AT_LOG, at.L_SIZE, used)


def check_maps(run):
    state, made = run.state, run.drive
    forward, back = state.to_physical.astype(int) - 1, state.to_logical.astype(int) - 1
    mapped = np.flatnonzero(forward >= 0)
    assert np.unique(forward[mapped]).size == mapped.size
    assert np.array_equal(back[forward[mapped]], mapped)
    written = state.blocks[:, at.B_WRITTEN]
    invalid = state.blocks[:, at.B_INVALID]
    valid = np.bincount(forward[mapped] // made.pages_per_block, minlength=written.size)
    assert np.array_equal(valid, written - invalid)
    free = made.pages_per_block - written
    assert free.sum() + valid.sum() + invalid.sum() == made.physical_pages
    empty = (state.blocks[:, at.B_STATE] == at.FREE).reshape(made.planes, -1).sum(axis=1)
    assert np.array_equal(empty, state.planes[:, at.P_FREE])


@settings(max_examples=120, deadline=None)
@given(cases())
def test_every_request_completes_and_every_page_has_its_place(case):
    made, trace, outstanding = case
    run, chunk = begin(made, trace, outstanding)
    assert run.feed(chunk, True) == DONE
    m = run.state.m
    assert m[at.N_READ] + m[at.N_WRITE] + m[at.N_TRIM] == trace.count
    assert not run.state.planes[:, [at.P_NEED, at.P_RUNNING, at.P_WAIT, at.P_BARRIER]].any()
    for field in (at.B_READS, at.B_WRITES, at.B_SUPERSEDED):
        assert not run.state.blocks[:, field].any()
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
    rows = rows_of(run)
    numbers, found = write_numbers(run.state), recovered_map(run.state)
    done = set(rows[(rows[:, at.L_OP] == at.LOG_DONE) & (rows[:, at.L_UNIT] == 1), at.L_STAMP].tolist())
    trimmed = {
        page
        for address, size in rows[(rows[:, at.L_OP] == at.LOG_DONE) & (rows[:, at.L_UNIT] == 3)][
            :, [at.L_PPN, at.L_LPN]
        ]
        for page in range(address // PAGE, (address + size) // PAGE + 1)
    }
    placed = rows[rows[:, at.L_OP] == at.LOG_PLACED]
    checked = 0
    for index, page, number in placed[:, [at.L_UNIT, at.L_LPN, at.L_STAMP]].tolist():
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
    assert run.state.m[at.GC_RUNS] > 100
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
    m = run.state.m
    assert m[at.N_READ] + m[at.N_WRITE] == count
    assert m[at.MAP_MISSES] > count / 10
    assert not run.state.planes[:, [at.P_NEED, at.P_RUNNING, at.P_WAIT, at.P_BARRIER]].any()
    assert not (run.state.auxiliary >> 16).any()
    check_maps(run)
    assert violations(made, rows_of(run), before=held) == []
