"""Runs a memory trace through the channels of a device and reports what happened.

The trace is taken in chunks; addresses are decoded, requests are dealt to their channels, and every channel
runs the kernel until it needs the next chunk (channels in threads: the kernel holds no lock). Nothing grows
with the length of the trace. Each channel has a front end of its own: a full queue holds up that channel
alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hw_configs.problems import NoAnswerError, bad_input
from simulator.dram import state as at
from simulator.dram.address import AddressMap, address_map, decode
from simulator.dram.energy import Currents, EnergyBreakdown, RankStates, idd_energy
from simulator.dram.kernel import run as run_kernel
from simulator.dram.machine import COMMANDS, Channel
from simulator.dram.program import Program, Target
from simulator.dram.result import DramResult, QueueOccupancy
from simulator.dram.state import Chunk, Log, State
from workloads.memory_trace.trace import MemoryTrace, Requests

__all__ = ["Commands", "Memory", "Recording", "RunOptions", "simulate_trace"]

CHUNK = 1 << 18
LOG_ROWS = 1 << 16

CommandSink = Callable[["Commands"], None]


@dataclass(frozen=True)
class Memory:
    """What the engine runs: equal channels, and what the energy model needs (None: no energy)."""

    channel: Channel
    channels: int = 1
    currents: Currents | None = None
    name: str = ""


@dataclass(frozen=True)
class Commands:
    """A batch of issued commands of one channel, in order of issue.

    ``target`` indexes ``targets`` (banks first, then ranks and same-bank sets); ``row`` and ``column`` are
    those of the request a command serves, -1 for maintenance.
    """

    channel: int
    tick: npt.NDArray[np.int64]
    code: npt.NDArray[np.int8]
    target: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    column: npt.NDArray[np.int64]
    names: tuple[str, ...]
    targets: tuple[Target, ...]

    def lines(self) -> list[str]:
        """One line per command: ``tick,COMMAND,channel:rank:...:row:column``, -1 for all."""
        spots = [":".join(map(str, (self.channel, *t.address[1:]))) for t in self.targets]
        columns = zip(
            self.tick.tolist(), self.code.tolist(), self.target.tolist(), self.row.tolist(),
            self.column.tolist(), strict=True,
        )  # fmt: skip
        return [f"{tick},{self.names[c]},{spots[t]}:{row}:{column}" for tick, c, t, row, column in columns]


@dataclass(frozen=True)
class Recording:
    """Per-request outcomes of one channel: accept tick, and read latency (-1 for writes)."""

    accept: npt.NDArray[np.int64]
    latency: npt.NDArray[np.int64]


@dataclass(frozen=True)
class RunOptions:
    """How a trace meets the memory.

    ``gap``: least ticks between two requests of a channel. ``outstanding``: a closed loop of that many
    requests in flight per channel, 0 for no bound. ``use_arrivals``: offer a request no earlier than the
    trace's cycle. ``wrap``: addresses beyond the capacity wrap around instead of being refused. ``leap``:
    skip whole periods of a periodic stream once its state has come round (the result is the same).
    ``threads``: channels run at once, None for one per core.
    """

    gap: int = 0
    outstanding: int = 0
    use_arrivals: bool = True
    wrap: bool = False
    leap: bool = True
    threads: int | None = None
    commands: CommandSink | None = None
    record: bool = False
    progress: Callable[[int], None] | None = None
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        for name in ("gap", "outstanding"):
            if getattr(self, name) < 0:
                raise bad_input(f"found {getattr(self, name)}; expected 0 or more", path=name)


@dataclass
class ChannelRun:
    """One channel on its way through a trace."""

    number: int
    channel: Channel
    program: Program
    state: State
    map: AddressMap
    targets: tuple[Target, ...]
    options: RunOptions
    log: Log
    recording: Recording | None = None
    names: tuple[str, ...] = field(default_factory=tuple)

    def feed(self, chunk: Chunk, final: bool, until: int = at.INF) -> int:
        """Run a chunk to its end. Returns the kernel's status: NEED, DONE or PAUSED."""
        while True:
            offered = at.Offered(chunk, self.log, final, self.options.gap, self.options.outstanding, until)
            status = run_kernel(at.machine_of(self.program, self.state), offered)
            if self.log.used[0]:
                self._empty_log()
            if status != at.FULL:
                break
        if status == at.STUCK:
            raise NoAnswerError(
                f"channel {self.number}: a request can never be served; the controller is locked up"
            )
        if status == at.OVERFLOW:
            raise NoAnswerError(
                f"channel {self.number}: the maintenance queue is full; refreshes cannot keep up"
            )
        if status != at.PAUSED:
            self.state.scalar[at.NEXT] = 0
        return int(status)

    def _empty_log(self) -> None:
        used = int(self.log.used[0])
        self.log.used[0] = 0
        assert self.options.commands is not None
        transaction = self.log.transaction[:used]
        column = np.zeros(used, np.int64)
        last = len(self.map.fields) - 1
        for piece in self.map.pieces:
            if piece.field == last:
                column ^= ((transaction >> piece.shift) & piece.mask) << piece.to
        column[transaction < 0] = -1
        self.options.commands(
            Commands(
                self.number,
                self.log.tick[:used].copy(),
                self.log.command[:used].copy(),
                self.log.target[:used].copy(),
                self.log.row[:used].copy(),
                column,
                self.names,
                self.targets,
            )
        )


def start_channel(
    memory: Memory,
    number: int,
    options: RunOptions,
    program: Program,
    addresses: AddressMap,
    recorded: int = 0,
) -> ChannelRun:
    """A channel before its first tick. ``recorded``: requests whose accept tick and latency are kept."""
    targets, _ = memory.channel.targets
    rows = LOG_ROWS if options.commands is not None else 0
    recording = Recording(np.full(recorded, -1, np.int64), np.full(recorded, -1, np.int64))
    log = Log(
        np.zeros(rows, np.int64), np.zeros(rows, np.int8), np.zeros(rows, np.int32), np.zeros(rows, np.int64),
        np.zeros(rows, np.int32), recording.accept, recording.latency, np.zeros(1, np.int64),
    )  # fmt: skip
    names = tuple(memory.channel.spell(code) for code in range(len(COMMANDS)))
    state = at.new_state(program, options.outstanding)
    return ChannelRun(
        number, memory.channel, program, state, addresses, targets, options, log, recording, names
    )


class Dealer:
    """Decodes requests and deals them to channels; counts addresses that wrapped."""

    def __init__(self, memory: Memory, options: RunOptions, name: str) -> None:
        self.memory = memory
        self.options = options
        self.map = address_map(memory.channel, memory.channels)
        self.pieces = self.map.table()
        self.name = name
        self.wrapped = 0

    def outside(self, requests: Requests) -> int:
        """Requests of a chunk beyond the capacity."""
        if requests.address.size == 0 or int(requests.address.max()) < self.capacity:
            return 0
        return int(np.count_nonzero(requests.address >= self.capacity))

    @property
    def capacity(self) -> int:
        """Bytes of the device."""
        return self.map.transactions * self.memory.channel.transaction_bytes

    def deal(self, requests: Requests) -> list[Chunk]:
        """The chunk of every channel; addresses beyond the capacity wrap around."""
        address, count = requests.address, requests.address.size
        if count and int(address.max()) >= self.capacity:
            address = address % self.capacity
        transaction = np.empty(count, np.int64)
        unit, bank, row = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int32)
        shift = self.memory.channel.transaction_bytes.bit_length() - 1
        decode(address, shift, self.pieces, transaction, unit, bank, row)
        arrival = requests.arrival if self.options.use_arrivals else requests.arrival[:0]
        if self.memory.channels == 1:
            return [Chunk(transaction, bank, row, requests.write, arrival)]
        # A stable sort of 16-bit numbers takes linear time, whatever the number of channels.
        order = np.argsort(unit.astype(np.uint16), kind="stable")
        ends = np.cumsum(np.bincount(unit, minlength=self.memory.channels))
        chunks = []
        for mine in np.split(order, ends[:-1]):
            when = arrival[mine] if arrival.size else arrival
            chunks.append(Chunk(transaction[mine], bank[mine], row[mine], requests.write[mine], when))
        return chunks


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
    program = memory.channel.program
    recorded = (trace.count or 0) if options.record else 0
    runs = [
        start_channel(memory, number, options, program, dealer.map, recorded)
        for number in range(memory.channels)
    ]
    tally = Tally()
    from simulator.dram.leap import leap_over

    leap = options.leap and not options.record and options.commands is None
    done = leap_over(memory, dealer, runs, trace, options, tally) if leap else False
    if not done:
        _run_plainly(dealer, runs, _checked(trace, dealer, options, tally), options, tally)
    result = collect(memory, trace.name, runs, tally)
    result.check()
    return result, runs


@dataclass
class Tally:
    """What is counted before requests reach a channel."""

    requests: int = 0
    writes: int = 0
    outside: int = 0
    largest: int = 0
    interrupted: bool = False
    leapt: int = 0


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
    busy += commands.get("REFpb", 0) * t.get("nRFCpb", 0)
    if commands.get("REFsb"):
        busy += commands["REFsb"] * len(targets[-1].banks) * t.get("nRFCsb", 0)
    return min(busy / (ticks * channel.banks), 1.0)


def _energy(
    memory: Memory, runs: list[ChannelRun], commands: dict[str, int], bits: int, drain: int
) -> EnergyBreakdown | None:
    if memory.currents is None:
        return None
    _, scopes = memory.channel.targets
    active = 0
    for run in runs:
        s = run.state
        open_now = s.scope_open[:scopes] > 0
        active += int(s.scope_active[:scopes].sum())
        active += int(np.where(open_now, np.maximum(drain - s.scope_since[:scopes], 0), 0).sum())
    tick = memory.channel.tick_s
    whole = drain * scopes * len(runs)
    states = RankStates(active * tick, max(whole - active, 0) * tick)
    return idd_energy(commands, states, memory.currents, bits)
