"""The engine against a controller that visits every tick, and its commands against the checker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hw_configs.problems import NoAnswerError
from simulator.dram import state as at
from simulator.dram.checker import check_commands, parse_command
from simulator.dram.engine import Commands, Memory, RunOptions, run_recorded
from simulator.dram.machine import Channel
from tests.dram.machines import DEVICES, channels, small, streams
from tests.dram.oracle import LockedUpError, Oracle
from workloads.memory_trace import ArrayTrace

RELAXED = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def run_engine(channel: Channel, number, write, *, gap=0, outstanding=0, arrival=None, chunk=1 << 18):
    batches: list[Commands] = []
    trace = ArrayTrace(number * channel.transaction_bytes, write, arrival)
    options = RunOptions(
        gap=gap, outstanding=outstanding, record=True, commands=batches.append, leap=False, chunk=chunk
    )
    result, (run,) = run_recorded(Memory(channel), trace, options)
    lines = [line for batch in batches for line in batch.lines()]
    return result, run, lines


@RELAXED
@given(st.data())
def test_every_command_accept_and_latency_equals_the_oracles(data: st.DataObject) -> None:
    channel = data.draw(channels())
    number, write = data.draw(streams(channel))
    gap = data.draw(st.sampled_from((0, 0, 1, 5, 40)))
    outstanding = data.draw(st.sampled_from((0, 0, 1, 3, 9)))
    arrival = None
    if data.draw(st.booleans()):
        steps = np.random.default_rng(data.draw(st.integers(0, 1000))).integers(0, 30, number.size)
        arrival = np.cumsum(steps).astype(np.int64)
    chunk = data.draw(st.sampled_from((1 << 18, 7)))
    oracle = Oracle(channel)
    try:
        result, run, lines = run_engine(
            channel, number, write, gap=gap, outstanding=outstanding, arrival=arrival, chunk=chunk
        )
    except NoAnswerError:
        # The reference's capped policy can lock itself up; then the plain controller must be locked up as
        # well.
        with pytest.raises(LockedUpError):
            oracle.run(number, write, gap, outstanding, arrival)
        return
    plain = oracle.run(number, write, gap, outstanding, arrival)
    wanted = [f"{tick},{name},{':'.join(map(str, address))}" for tick, name, address in plain.commands]
    assert lines == wanted
    assert run.recording.accept.tolist() == plain.accept
    assert {i: int(x) for i, x in enumerate(run.recording.latency) if x >= 0} == plain.latency
    found = (
        result.row_hits,
        result.row_misses,
        result.row_conflicts,
        result.reads_forwarded,
        result.writes_coalesced,
    )
    assert found == (plain.hits, plain.misses, plain.conflicts, plain.forwarded, plain.coalesced)
    assert result.cycles_drain == plain.drain
    sums = run.state.scalar
    end = plain.drain
    for entry, size, total in (
        (at.SUM_READS, at.READS, plain.read_queue_sum),
        (at.SUM_WRITES, at.WRITES, plain.write_queue_sum),
        (at.SUM_PRIORITY, at.PRIORITY_COUNT, plain.priority_queue_sum),
    ):
        assert sums[entry] + sums[size] * end == total
    # The plain checker reads the same commands and must find nothing.
    assert check_commands(channel, map(parse_command, lines)) is None


def test_a_row_closed_under_an_opened_request_is_opened_again_by_the_rules() -> None:
    """With a cap of one, an auto-precharge closes a row that another request has just opened for itself."""
    small_queue = small(
        "ddr3-1600k", read_queue=2, write_queue=11, high_watermark=1.0, row_policy="capped", cap=1
    )
    channel = replace(small_queue, mapping="MOP4CLXOR", timing={**small_queue.timing, "nREFI": 900})
    number, write = np.arange(3301, 3312), np.array([1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], np.uint8)
    _, _, lines = run_engine(channel, number, write)
    plain = Oracle(channel).run(number, write)
    assert lines == [f"{tick},{name},{':'.join(map(str, address))}" for tick, name, address in plain.commands]
    assert "72,ACT,0:0:6:0:31" in lines


@pytest.mark.parametrize("device", DEVICES)
def test_long_mixed_run_keeps_every_rule(device: str) -> None:
    channel = small(device, rows=64)
    random = np.random.default_rng(3)
    total = channel.capacity_bytes // channel.transaction_bytes
    number = np.where(random.random(3000) < 0.5, np.arange(3000) % total, random.integers(0, total, 3000))
    write = (random.random(3000) < 0.3).astype(np.uint8)
    _, _, lines = run_engine(channel, number.astype(np.int64), write)
    assert len(lines) > 3000
    assert check_commands(channel, map(parse_command, lines)) is None


@pytest.mark.parametrize("device", DEVICES)
def test_checker_finds_a_command_moved_one_tick_early(device: str) -> None:
    """Every command that the engine issued at its first legal tick breaks a rule one tick (HBM3: one clock)
    sooner."""
    channel = small(device)
    number = np.arange(400, dtype=np.int64) * 7
    _, _, lines = run_engine(channel, number, np.zeros(400, np.uint8))
    commands = [parse_command(line) for line in lines]
    step = channel.ticks_per_clock
    caught = 0
    for index in range(1, min(len(commands), 60)):
        early = commands[index]
        moved = type(early)(early.tick - step, early.name, early.address)
        if check_commands(channel, [*commands[:index], moved]) is not None:
            caught += 1
    # Commands that waited for their request, not for a rule, may move; most here are bound by rules.
    assert caught > 25


def test_checker_names_rule_command_and_cycle() -> None:
    channel = small("ddr4-2400r")
    commands = ["1,ACT,0:0:0:0:3:0", "16,RD,0:0:0:0:3:0"]
    found = check_commands(channel, map(parse_command, commands))
    assert found is not None
    assert (found.index, found.command.tick, found.rule) == (1, 16, "tRCD (Bank, 16 ticks)")
    assert "allows it from 17" in found.message
    wrong_row = check_commands(channel, map(parse_command, ["1,ACT,0:0:0:0:3:0", "40,RD,0:0:0:0:4:0"]))
    assert wrong_row is not None
    assert wrong_row.rule == "bank state"
    fifth = [f"{1 + 6 * i},ACT,0:0:{i % 4}:{i // 4}:3:0" for i in range(5)]
    late = check_commands(channel, map(parse_command, fifth))
    assert late is not None
    assert late.rule.startswith("tFAW")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gap", [0, 5, 9])
def test_streaks_of_row_hits_equal_the_oracle_and_meet_every_refresh(device: str, gap: int) -> None:
    """Reads and writes of a few open rows, where the engine looks at column commands alone for a while."""
    base = small(device)
    timing = {**base.timing, "nREFI": 299 + base.timing.get("nRFC", base.timing.get("nRFCab", 0))}
    channel = replace(base, timing=timing)
    random = np.random.default_rng(gap)
    # One row of each of four banks: all of them hit once they are open.
    number = random.integers(0, 4, 300) * channel.columns + random.integers(0, channel.columns, 300)
    write = (np.arange(300) // 40 % 3 == 1) | (random.random(300) < 0.1)
    result, run, lines = run_engine(channel, number.astype(np.int64), write.astype(np.uint8), gap=gap)
    plain = Oracle(channel).run(number, write.astype(np.uint8), gap)
    assert lines == [f"{tick},{name},{':'.join(map(str, address))}" for tick, name, address in plain.commands]
    assert run.recording.accept.tolist() == plain.accept
    assert result.row_hits > 150
    scopes = dict(base.levels).get("PseudoChannel", 1)
    assert abs(result.commands.get("REFab", 0) - result.cycles_drain // timing["nREFI"] * scopes) <= 2
