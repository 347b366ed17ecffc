"""Leaping over the steady state of a stream must change nothing but the time it takes."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from hw_configs.problems import NoAnswerError
from simulator.dram.energy import Currents
from simulator.dram.engine import Memory, RunOptions, simulate_trace
from simulator.dram.machine import Channel
from tests.dram.machines import DEVICES, channels, small
from workloads.memory_trace import Geometry, generate

STREAMS = ("seq_read", "stride_row", "stride_bank", "bg_spread", "mix21_stream")


def geometry(channel: Channel, channels: int = 1) -> Geometry:
    levels = dict(channel.levels)
    above = channel.banks // (levels.get("BankGroup", 1) * levels["Bank"])
    return Geometry(
        channel.transaction_bytes, channel.columns * channels, above, levels.get("BankGroup", 1),
        levels["Bank"], channel.rows,
    )  # fmt: skip


CURRENTS = Currents(
    1.1, 0.103, 0.092, 0.142, 0.318, 0.345, 0.277, 0, 0, 0, 4, 3e-8, 5e-8, 3e-9, 3e-7, rho=0.2, banks=16
)
"""Standby by the open bank, so that the ticks of each count."""


def both(memory: Memory, pattern: str, count: int, gap: int):
    memory = replace(memory, currents=CURRENTS)
    trace = generate(pattern, count, 5, geometry(memory.channel, memory.channels))
    leapt = simulate_trace(memory, trace, RunOptions(gap=gap))
    plain = simulate_trace(memory, trace, RunOptions(gap=gap, leap=False))
    return leapt, plain


def assert_equal(leapt, plain) -> None:
    for item in fields(plain):
        if item.name != "leapt_requests":
            a, b = getattr(leapt, item.name), getattr(plain, item.name)
            assert np.array_equal(a, b) if isinstance(b, np.ndarray) else a == b, f"{item.name}: {a!r} {b!r}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pattern", ["stride_bank", "stride_row"])
def test_leap_equals_plain_run(device: str, pattern: str) -> None:
    memory = Memory(replace(small(device, rows=64), columns=8))
    leapt, plain = both(memory, pattern, 200_003, 0)
    assert leapt.leapt_requests > 0
    assert_equal(leapt, plain)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_leap_equals_plain_run_for_any_controller(data: st.DataObject) -> None:
    channel = replace(data.draw(channels()), columns=8, mapping="RoBaRaCoCh")
    if channel.controller.row_policy == "capped":
        channel = replace(channel, controller=replace(channel.controller, row_policy="open"))
    memory = Memory(channel, data.draw(st.sampled_from((1, 2))))
    pattern = data.draw(st.sampled_from(STREAMS))
    count, idle = data.draw(st.integers(1, 30_000)), data.draw(st.sampled_from((0, 3, 20)))
    try:
        leapt, plain = both(memory, pattern, count, idle)
    except NoAnswerError as error:
        # Some timings leave no time for as many refreshes as so many ranks need.
        if "refreshes cannot keep up" not in str(error):
            raise
        reject()
    assert_equal(leapt, plain)
