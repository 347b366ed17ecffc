"""The engine against the plain Python model: the same latency for every request, to the nanosecond."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.flash.engine import DriveRun, RunOptions, simulate_drive
from tests.flash.drives import PAGE, geometries
from tests.flash.oracle import Oracle
from workloads.block_trace import ArrayBlocks


@st.composite
def cases(draw):
    drive = draw(geometries())
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    reads = draw(st.sampled_from([0.0, 0.5, 1.0]))
    pages = rng.integers(1, 5, count)
    first = rng.integers(0, max(drive.logical_pages - 5, 1), count)
    pages = np.minimum(pages, drive.logical_pages - first)
    if draw(st.booleans()):
        # Parts of pages, in read-only runs: a write of a part would read the rest first.
        offset, reads = rng.integers(0, PAGE, count) // 512 * 512, 1.0
        address, size = first * PAGE + offset, np.maximum(pages * PAGE - 512 - offset, 512)
    else:
        address, size = first * PAGE, pages * PAGE
    operation = (rng.random(count) >= reads).astype(np.int64)
    return drive, ArrayBlocks(operation, address, size), draw(st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_latency_is_the_oracles(case):
    drive, trace, outstanding = case
    options = RunOptions(outstanding=outstanding, record=True, partial=False)
    run = DriveRun.begin(drive, options, int(np.max(trace.size)))
    run.latencies = np.full(trace.count, -1, np.int64)
    (chunk,) = trace.chunks(trace.count)
    run.feed(chunk, True)
    oracle = Oracle(drive, list(zip(*(c.tolist() for c in chunk[:3]), strict=True)), outstanding)
    found = oracle.run()
    assert run.latencies.tolist() == [found[i] for i in range(trace.count)]


def test_a_lone_read_takes_what_its_steps_take():
    from tests.flash.drives import blocks, drive

    d = drive(read_ns=(75_000,))
    result = simulate_drive(d, blocks([0], [0]), RunOptions(outstanding=1))
    steps = 8 + 8 + 25 + 290 + 75_000 + 20 + 3 * PAGE + 1248 + 11
    assert result.latency.mean_ns == steps
