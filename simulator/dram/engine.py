"""Runs a memory trace through the channels of a device and reports what happened.

The trace is taken in chunks; addresses are decoded, requests are dealt to their channels, and every channel
runs the kernel until it needs the next chunk (channels in threads: the kernel holds no lock). Nothing grows
with the length of the trace. Each channel has a front end of its own: a full queue holds up that channel
alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hw_configs.problems import bad_input
from simulator.dram import state as at
from simulator.dram.channel_run import (
    ChannelRun,
    Commands,
    Memory,
    Recording,
    RunOptions,
    start_channel,
)
from simulator.dram.dealing import Dealer, Tally
from simulator.dram.energy import EnergyBreakdown, RankStates, idd_energy
from simulator.dram.leap import leap_over
from simulator.dram.machine import COMMANDS, Channel
from simulator.dram.result import DramResult, QueueOccupancy
from simulator.dram.state import Chunk, State
from workloads.memory_trace.trace import MemoryTrace, Requests

__all__ = ["Commands", "Memory", "Recording", "RunOptions", "simulate_trace"]


def simulate_trace(memory: Memory, trace: MemoryTrace, options: RunOptions | None = None) -> DramResult:
    """Run a trace to the end of its last request.

    Raises ``InputError`` for addresses beyond the capacity (said once, with their number, unless ``wrap``)
    and whatever the trace's reader raises; ``NoAnswerError`` when the controller locks up. Ctrl-C returns
    what was found so far, marked ``interrupted``.
    """
    result, _ = run_recorded(memory, trace, options or RunOptions())
    return result


def run_recorded(
    memory: Memory, trace: MemoryTrace, options: RunOptions
) -> tuple[DramResult, list[ChannelRun]]:
    """:func:`simulate_trace`, and the channels after the run (with their recordings, if asked for)."""
    if options.record and (trace.count is None or memory.channels != 1):
        raise bad_input("recording needs a trace of known length on one channel")
    dealer = Dealer(memory, options, trace.name)
    recorded = (trace.count or 0) if options.record else 0
    runs = [start_channel(memory, number, options, dealer.map, recorded) for number in range(memory.channels)]
    tally = Tally()
    leap = options.leap and not options.record and options.commands is None
    done = leap_over(memory, dealer, runs, trace, options, tally) if leap else False
    if not done:
        _run_plainly(dealer, runs, _checked(trace, dealer, options, tally), options, tally)
    result = collect(memory, trace.name, runs, tally)
    result.check()
    return result, runs


def _checked(trace: MemoryTrace, dealer: Dealer, options: RunOptions, tally: Tally) -> Iterator[Requests]:
    """The trace's chunks, with addresses beyond the capacity refused or counted."""
    chunks = trace.chunks(options.chunk)
    for requests in chunks:
        outside = dealer.outside(requests)
        if outside:
            tally.largest = max(tally.largest, int(requests.address.max()))
            if not options.wrap:
                rest = sum(dealer.outside(following) for following in chunks)
                found = f"{outside + rest} addresses lie" if outside + rest > 1 else "1 address lies"
                raise bad_input(
                    f"{found} beyond the capacity of {dealer.capacity} bytes "
                    f"(the largest: {tally.largest:#x}); --wrap lets such wrap around",
                    file=trace.name,
                )
            tally.outside += outside
        yield requests


def _run_plainly(
    dealer: Dealer, runs: list[ChannelRun], chunks: Iterator[Requests], options: RunOptions, tally: Tally
) -> None:
    workers = options.threads or min(len(runs), os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers) if workers > 1 and len(runs) > 1 else None

    def feed(dealt: list[Chunk], final: bool) -> None:
        if pool is None:
            for run, chunk in zip(runs, dealt, strict=True):
                run.feed(chunk, final)
        else:
            for future in [pool.submit(r.feed, c, final) for r, c in zip(runs, dealt, strict=True)]:
                future.result()

    try:
        held: list[Chunk] | None = None
        for requests in chunks:
            dealt = dealer.deal(requests)
            if held is not None:
                feed(held, False)
                if options.progress is not None:
                    options.progress(tally.requests)
            held = dealt
            tally.requests += int(requests.address.size)
            tally.writes += int(np.count_nonzero(requests.write))
        if held is not None:
            feed(held, True)
            if options.progress is not None:
                options.progress(tally.requests)
    except KeyboardInterrupt:
        tally.interrupted = True
        for run in runs:
            run.stopped = True
    finally:
        if pool is not None:
            pool.shutdown()


def collect(memory: Memory, trace: str, runs: list[ChannelRun], tally: Tally) -> DramResult:
    """Sum the channels up."""
    channel = memory.channel
    scalars = np.array([run.state.scalar for run in runs])

    def total(entry: int) -> int:
        return int(scalars[:, entry].sum())

    if tally.interrupted:
        # Count what the channels have taken, not what was read ahead.
        tally.requests = total(at.ACCEPTED)
        tally.writes = total(at.SERVED_WRITES) + total(at.WRITES) + total(at.COALESCED)
    ends = [_drained(run.state) for run in runs]
    drain = max(ends)
    counts = sum((run.state.counts for run in runs), np.zeros(len(COMMANDS), np.int64))
    names = runs[0].names
    commands = {names[code]: int(n) for code, n in enumerate(counts) if n}
    mean = [
        sum(_occupied(run.state, entry, size, end) for run, end in zip(runs, ends, strict=True))
        / max(drain * len(runs), 1)
        for entry, size in (
            (at.SUM_READS, at.READS),
            (at.SUM_WRITES, at.WRITES),
            (at.SUM_PRIORITY, at.PRIORITY_COUNT),
        )
    ]
    peaks = int(scalars[:, at.PEAK_READS].max()), int(scalars[:, at.PEAK_WRITES].max())
    occupancy = QueueOccupancy(mean[0], mean[1], mean[2], *peaks)
    moved = tally.requests * channel.transaction_bytes
    served = total(at.SERVED_READS) + total(at.SERVED_WRITES)
    return DramResult(
        device=memory.name or channel.standard,
        trace=trace,
        channels=len(runs),
        requests=tally.requests,
        reads=tally.requests - tally.writes,
        writes=tally.writes,
        bytes_moved=moved,
        tick_s=channel.tick_s,
        cycles_accept=int(scalars[:, at.LAST_ACCEPT].max()),
        cycles_drain=drain,
        row_hits=total(at.HITS),
        row_misses=total(at.MISSES),
        row_conflicts=total(at.CONFLICTS),
        read_row_hits=total(at.READ_HITS),
        write_row_hits=total(at.WRITE_HITS),
        reads_forwarded=total(at.FORWARDED),
        writes_coalesced=total(at.COALESCED),
        latency_sum=total(at.LATENCY_SUM),
        latency_max=int(scalars[:, at.LATENCY_MAX].max()),
        histogram=sum((run.state.histogram for run in runs), np.zeros(at.HISTOGRAM, np.int64)),
        commands=commands,
        bank_outcomes=np.concatenate([run.state.bank_outcome.reshape(-1, 3) for run in runs]),
        occupancy=occupancy,
        refresh_share=_refresh_share(channel, commands, drain * len(runs)),
        peak_bytes_per_s=channel.peak_bytes_per_s * len(runs),
        idle_latency=channel.read_latency,
        energy=_energy(memory, runs, commands, served * channel.transaction_bytes * 8, drain),
        interrupted=tally.interrupted,
        addresses_wrapped=tally.outside,
        leapt_requests=tally.leapt,
    )


def _drained(state: State) -> int:
    v = state.scalar
    if v[at.ACCEPTED] == 0:
        return 0
    return int(max(v[at.DEPART], v[at.LAST_WRITE], v[at.LAST_ACCEPT] + 1))


def _occupied(state: State, entry: int, size: int, end: int) -> int:
    """Queue length summed over ticks, up to the end of the run."""
    v = state.scalar
    return int(v[entry] + v[size] * end)


def _refresh_share(channel: Channel, commands: dict[str, int], ticks: int) -> float:
    """Share of bank time that refresh takes."""
    if ticks == 0:
        return 0.0
    targets, scopes = channel.targets
    per_scope = channel.banks // scopes
    t = channel.timing
    busy = commands.get("REFab", 0) * per_scope * t.get("nRFC", t.get("nRFCab", 0))
    busy += commands.get("REFpb", 0) * (2 if channel.pairwise else 1) * t.get("nRFCpb", 0)
    if commands.get("REFsb"):
        busy += commands["REFsb"] * len(targets[-1].banks) * t.get("nRFCsb", 0)
    return min(busy / (ticks * channel.banks), 1.0)


def _energy(
    memory: Memory, runs: list[ChannelRun], commands: dict[str, int], bits: int, drain: int
) -> EnergyBreakdown | None:
    if memory.currents is None:
        return None
    _, scopes = memory.channel.targets
    active = banks = 0
    for run in runs:
        s = run.state
        open_now = s.scope_open[:scopes] > 0
        active += int(s.scope_active[:scopes].sum())
        active += int(np.where(open_now, np.maximum(drain - s.scope_since[:scopes], 0), 0).sum())
        banks += int(np.maximum(s.bank_ticks[:scopes] + s.scope_open[:scopes] * drain, 0).sum())
    tick = memory.channel.tick_s
    whole = drain * scopes * len(runs)
    states = RankStates(active * tick, max(whole - active, 0) * tick, open_bank_s=banks * tick)
    return idd_energy(commands, states, memory.currents, bits)
