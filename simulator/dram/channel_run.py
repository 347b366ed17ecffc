"""One channel on its way through a trace: what it runs, how requests meet it, and what it records.

A run takes chunks of requests and feeds them to the kernel until each is used up; commands that the kernel logs go to
the caller in batches, so that nothing grows with the length of the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hw_configs.problems import NoAnswerError, bad_input
from simulator.dram import state as at
from simulator.dram.address import AddressMap
from simulator.dram.channel_tables import ChannelTables, compile_tables
from simulator.dram.energy import Currents
from simulator.dram.idle import pass_idle
from simulator.dram.kernel import run as run_kernel
from simulator.dram.machine import COMMANDS, Channel, Target
from simulator.dram.state import Chunk, Log, State

__all__ = ["ChannelRun", "Commands", "Memory", "Recording", "RunOptions", "start_channel"]

CHUNK = 1 << 18
SLICE = 1 << 22
"""Ticks that the kernel runs without a pause: seconds at the very most."""
LOG_ROWS = 1 << 16

CommandSink = Callable[["Commands"], None]


@dataclass(frozen=True)
class Memory:
    """What the engine runs: equal channels, and what the energy model needs (None: no energy)."""

    channel: Channel
    channels: int = 1
    currents: Currents | None = None
    name: str = ""

    @cached_property
    def tables(self) -> ChannelTables:
        """What the kernel runs of a channel, compiled when first asked for."""
        return compile_tables(self.channel)


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
    tables: ChannelTables
    state: State
    map: AddressMap
    targets: tuple[Target, ...]
    options: RunOptions
    log: Log
    recording: Recording | None = None
    names: tuple[str, ...] = field(default_factory=tuple)
    stopped: bool = False
    """Set from outside (Ctrl-C): the run ends at the next pause."""

    def feed(self, chunk: Chunk, final: bool, until: int = at.INF) -> int:
        """Run a chunk to its end. Returns the kernel's status: NEED, DONE or PAUSED.

        The kernel pauses now and then, so that Ctrl-C is heard, and idle time is leapt over.
        """
        reached = int(self.state.scalar[at.NOW])
        while True:
            stop = min(until, reached + SLICE)
            status = self._step(chunk, final, stop)
            if status != at.PAUSED or stop == until or self.stopped:
                break
            reached = self._pass_idle(chunk, final, stop, until)
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

    def _step(self, chunk: Chunk, final: bool, until: int) -> int:
        """Run up to a tick, emptying the log as often as it is full."""
        while True:
            offered = at.Offered(chunk, self.log, final, self.options.gap, self.options.outstanding, until)
            status = int(run_kernel(at.machine_of(self.tables, self.state), offered))
            if self.log.used[0]:
                self._empty_log()
            if status != at.FULL:
                return status

    def _pass_idle(self, chunk: Chunk, final: bool, reached: int, until: int) -> int:
        """Leap over idle time up to the next request; see ``idle.py``. Returns the tick that the run has come to."""
        following = int(self.state.scalar[at.NEXT])
        if self.log.tick.size or following >= chunk.arrival.size:
            return reached
        arrival = min(int(chunk.arrival[following]), until)
        return pass_idle(
            self.tables, self.state, reached, arrival, lambda tick: self._step(chunk, final, tick)
        )

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
    state = at.new_state(memory.tables, options.outstanding)
    return ChannelRun(
        number, memory.channel, memory.tables, state, addresses, targets, options, log, recording, names
    )
