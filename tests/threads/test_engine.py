"""Threads against a plain executor, and against what no order can undercut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import ManyThreads
from hw_configs.library import load_device
from hw_configs.problems import InputError, PhysicsError
from simulator.threads import engine
from simulator.threads.engine import least_clocks, run_threads
from simulator.threads.sparse_product import ProductOptions
from simulator.threads.work import Phase, totals
from tests.threads import plain


def machine(**changes: object) -> ManyThreads:
    fields = {
        "kind": "threads", "name": "t", "clock": "1 GHz", "pipelines": 2, "threads_per_pipeline": 3,
        "scratchpad": "4 KiB",
        "scratchpad_rate": 2, "scratchpad_latency": 5, "memory_bandwidth": "4 GB/s", "memory_latency": "20 ns",
        "granule": "8 B",
    }  # fmt: skip
    return ManyThreads.model_validate(fields | changes)


def phase(rows: list[list[int]], begins: list[int], dynamic: bool = True) -> Phase:
    return Phase("p", np.array(rows, np.int64).reshape(-1, 6), np.array(begins, np.int64), dynamic)


@st.composite
def phases(draw: st.DrawFn) -> list[Phase]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.lists(st.tuples(*(st.integers(0, 9) for _ in range(6))), max_size=25))
        cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=8)))
        segments = [[a, b, c, d, 8 * e if d else 0, 8 * f] for a, b, c, d, e, f in rows]
        found.append(phase(segments, [0, *cuts, len(rows)], draw(st.booleans())))
    return found


@settings(max_examples=150, deadline=None)
@given(phases(), st.integers(1, 3), st.integers(1, 4))
def test_a_run_is_the_plain_one(work: list[Phase], pipelines: int, each: int) -> None:
    here = machine(pipelines=pipelines, threads_per_pipeline=each)
    run = run_threads(here, work)
    assert run.time_s == pytest.approx(plain.run(work, here), rel=1e-12)
    assert run.time_s >= sum(least_clocks(here, part) for part in work) / here.clock * (1 - 1e-9)
    assert sum(seconds for _, seconds in run.phase_s) == pytest.approx(run.time_s)
    assert all(share <= 1 + 1e-9 for share in run.busy.values())
    assert run.work == totals(work)


def test_one_thread_does_one_thing_after_the_other() -> None:
    here = machine(pipelines=1, threads_per_pipeline=1)
    # Two round trips of 20 behind 16 B at 4 B a clock, 7 instructions, 2 accesses of 5: 4 + 40 + 7 + 10 clocks.
    assert run_threads(here, [phase([[7, 2, 0, 2, 16, 0]], [0, 1])]).time_s == pytest.approx(61e-9)


def test_threads_hide_latency_until_memory_is_busy() -> None:
    work = [phase([[1, 0, 0, 1, 8, 0]] * 240, list(range(241)))]
    times = [run_threads(machine(pipelines=1, threads_per_pipeline=n), work).time_s for n in (1, 2, 4, 8, 64)]
    assert times[0] == pytest.approx(240 * 23e-9)
    assert times[1] == pytest.approx(times[0] / 2, rel=0.02)
    assert times[-1] == pytest.approx(240 * 2e-9 + 21e-9)


def test_tasks_dealt_beforehand_wait_for_the_slowest_thread() -> None:
    heavy = [[100, 0, 0, 0, 0, 0], *[[1, 0, 0, 0, 0, 0]] * 3]
    here = machine(pipelines=2, threads_per_pipeline=1)
    rows, begins = heavy * 2, list(range(9))
    dealt, taken = (run_threads(here, [phase(rows, begins, dynamic)]).time_s for dynamic in (False, True))
    assert dealt == pytest.approx(202e-9)
    assert taken == pytest.approx(103e-9)


def test_a_run_below_its_bound_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "run_phase", lambda *_: 1.0)
    with pytest.raises(PhysicsError, match="phase 'p' took 1 clocks; it cannot take less than 100"):
        run_threads(machine(), [phase([[100, 0, 0, 0, 0, 0]], [0, 1])])


def test_a_granule_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="12 B is not a power of two"):
        machine(granule="12 B")
    with pytest.raises(InputError, match="expected above 0 up to 1"):
        ProductOptions(load=0)
    device = load_device("piuma-like")
    assert isinstance(device, ManyThreads)
    assert device.threads == 64
