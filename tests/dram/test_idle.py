"""Idle time is leapt over exactly, and Ctrl-C is heard while the engine runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from simulator.dram import channel_run
from simulator.dram.engine import Memory, RunOptions, simulate_trace
from tests.dram.machines import REFRESH, small
from workloads.memory_trace import ArrayTrace

CASES = [(device, kind) for device, kinds in REFRESH.items() for kind in kinds]


@pytest.mark.parametrize(("device", "kind"), CASES)
@pytest.mark.parametrize("policy", ["open", "timeout"])
def test_a_leap_over_idle_time_equals_stepping_through_it(
    device: str, kind: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_run, "SLICE", 30_000)
    channel = small(device, ranks=2, refresh=kind, row_policy=policy)
    arrival = np.array([0, 3, 9, 500_000, 500_001, 500_030, 1_900_007, 1_900_008], np.int64)
    address = np.arange(8, dtype=np.int64) * 5 * channel.transaction_bytes
    trace = ArrayTrace(address, np.array([0, 1, 0, 0, 1, 0, 0, 1], np.uint8), arrival)
    leapt = simulate_trace(Memory(channel), trace, RunOptions())
    plain = simulate_trace(Memory(channel), trace, RunOptions(commands=lambda batch: None))
    assert leapt.as_json() == plain.as_json()
    assert leapt.occupancy == plain.occupancy


def test_a_year_of_idle_time_takes_no_time() -> None:
    channel = small("ddr4-2400r", refresh="all-bank")
    trace = ArrayTrace(np.zeros(2, np.int64), np.zeros(2, np.uint8), np.array([0, 4 * 10**16], np.int64))
    started = time.process_time()
    result = simulate_trace(Memory(channel), trace)
    assert time.process_time() - started < 5
    assert result.cycles_accept == 4 * 10**16
    # The last refresh may still be one away.
    assert abs(result.commands["REFab"] - 4 * 10**16 // channel.timing["nREFI"]) <= 1


def _later(seconds: float, what: Callable[[], None]) -> None:
    threading.Thread(target=lambda: (time.sleep(seconds), what()), daemon=True).start()


@pytest.mark.parametrize("channels", [1, 2])
def test_ctrl_c_is_heard_between_two_requests(channels: int) -> None:
    """A million requests, far apart, without a chunk's end in sight."""
    channel = replace(small("ddr4-2400r", rows=4096, refresh="all-bank"))
    count = 200_000
    arrival = np.arange(count, dtype=np.int64) * 3_000_000
    trace = ArrayTrace(np.arange(count, dtype=np.int64) % 4096 * 64, np.zeros(count, np.uint8), arrival)
    simulate_trace(Memory(channel), ArrayTrace(np.zeros(1, np.int64), np.zeros(1, np.uint8)))
    _later(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    started = time.monotonic()
    result = simulate_trace(Memory(channel, channels), trace, RunOptions(threads=channels))
    assert result.interrupted
    assert result.requests < count
    assert time.monotonic() - started < 20
