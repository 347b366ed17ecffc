"""Drives that answer as they go: reads are handed in at a time, and completions come out in the order of time.

Each drive is a run of the drive engine. It is never taken past a moment at which a read could still be handed in, so
that rounds of a query which depend on one another meet the drives exactly when they would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import PhysicsError, bad_input
from simulator.flash.aging import History
from simulator.flash.drive import Drive, smaller
from simulator.flash.engine import DriveRun, RunOptions, collect_result
from simulator.flash.records import DRIVE, MESSAGE, WIRE, words
from simulator.flash.result import DriveResult
from workloads.block_trace.trace import READ, BlockRequests

__all__ = ["FILLED", "FOREVER", "Completion", "DriveArray", "Submission", "sized_down"]

Ints = npt.NDArray[np.int64]
FOREVER: Final = 1 << 62
FEWEST_BLOCKS: Final = 48
FEWEST_PAGES: Final = 192
"""Per block: few enough to be filled in a moment, many enough that the kinds of pages come in their shares."""
FILLED: Final = History(overwrites=0.0)
"""A drive that was written once from end to end: an index is written before it is read."""
_MESSAGE: Final = words(MESSAGE)


def _word(record: np.dtype[np.void], field: str) -> int:
    """The word at which a field of a record begins."""
    fields = record.fields
    assert fields is not None
    return int(fields[field][1]) // 8


_NOW: Final = _word(DRIVE, "now")
_CURSOR: Final = _word(DRIVE, "cursor")
_HEAP: Final = _word(DRIVE, "heap")
_HEAP_COUNT: Final = _word(DRIVE, "heap_count")
_RING_SIZE: Final = _word(DRIVE, "ring_size")
_REQUESTS: Final = _word(DRIVE, "requests")
_WIRES: Final = (_word(DRIVE, "to_drive"), _word(DRIVE, "to_host"))
_WIRE_BEGIN: Final = _word(WIRE, "begin")
_WIRE_HEAD: Final = _word(WIRE, "head")
_WIRE_TAIL: Final = _word(WIRE, "tail")
_NONE: Final = BlockRequests(*(np.zeros(0, np.int64),) * 4)


@dataclass(frozen=True, slots=True)
class Submission:
    """Reads handed in at once, at ``now`` ns; ``owner`` is told by their completions. Addresses of each drive."""

    now: int
    owner: int
    drive: Ints
    address: Ints
    size: Ints


@dataclass(frozen=True, slots=True)
class Completion:
    """A read is back at ``now`` ns."""

    now: int
    owner: int


def sized_down(drive: Drive) -> Drive:
    """The drive with few blocks per plane and few pages per block, so that it is quickly filled.

    Reads at random places meet the same dies, buses and kinds of pages. A drive that caches its map keeps its size.
    """
    if drive.mapping_cache_pages:
        return drive
    blocks = min(FEWEST_BLOCKS, drive.blocks_per_plane)
    return smaller(drive, blocks, min(FEWEST_PAGES, drive.pages_per_block))


@dataclass
class _Running:
    """One drive on its way."""

    run: DriveRun
    open: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Numbers of the reads it holds."""
    following: int = FOREVER
    """When it next does something."""

    def submit(self, asked: Submission, mine: npt.NDArray[np.bool_]) -> Ints:
        """Hand reads in; their numbers."""
        count = int(np.count_nonzero(mine))
        # One entry stays free: a full drive would go on by itself.
        most = int(self.run.state.m[_REQUESTS]) - 1
        if self.open.size + count > most:
            raise bad_input(
                f"{self.open.size + count} reads at once are more than the {most} that a drive holds; "
                "fewer queries in flight, or more drives", path="--in-flight",
            )  # fmt: skip
        first = int(self.run.state.m[_CURSOR])
        if first + count > self.run.latencies.size:
            more = np.full(max(first + count, 2 * self.run.latencies.size), -1, np.int64)
            more[: self.run.latencies.size] = self.run.latencies
            self.run.latencies = more
        columns = np.full(count, READ, np.int64), asked.address[mine], asked.size[mine]
        self.run.feed(BlockRequests(*columns, np.full(count, asked.now, np.int64)), final=False)
        numbers = np.arange(first, first + count)
        self.open = np.concatenate((self.open, numbers))
        self.look_ahead()
        return numbers

    def advance(self, horizon: int) -> Ints:
        """Run to the first completion, at most to a time; the numbers of reads that came back, perhaps none."""
        self.run.feed(_NONE, final=True, horizon=horizon, single=True)
        back = self.run.latencies[self.open] >= 0
        done = self.open[back]
        if done.size:
            self.open = self.open[~back]
        self.look_ahead()
        return done

    @property
    def now(self) -> int:
        """The time that the engine has come to."""
        return int(self.run.state.m[_NOW])

    def look_ahead(self) -> None:
        """Note when the engine's next event is: on its heap or on one direction of its wire."""
        m = self.run.state.m
        following = int(m[m[_HEAP]]) if m[_HEAP_COUNT] > 0 else FOREVER
        for wire in _WIRES:
            head = int(m[wire + _WIRE_HEAD])
            if head != m[wire + _WIRE_TAIL]:
                place = int(m[wire + _WIRE_BEGIN]) + _MESSAGE * (head & (int(m[_RING_SIZE]) - 1))
                following = min(following, int(m[place]))
        self.following = following


class DriveArray:
    """Drives of one kind, with addresses of their own each."""

    def __init__(self, drive: Drive, count: int, largest: int, seed: int) -> None:
        self.drive = drive
        self._drives = []
        self._owner: list[dict[int, int]] = []
        for number in range(count):
            run = DriveRun.begin(
                drive, RunOptions(outstanding=0, history=FILLED, seed=seed + number), largest
            )
            run.latencies = np.full(4096, -1, np.int64)
            self._drives.append(_Running(run))
            self._owner.append({})

    def submit(self, asked: Submission) -> None:
        """Hand reads in. Times never go back: not before what any drive has done."""
        for number in np.unique(asked.drive).tolist():
            running = self._drives[number]
            if running.now > asked.now:
                raise PhysicsError(f"a read at {asked.now} ns reaches a drive that is at {running.now} ns")
            for read in running.submit(asked, asked.drive == number).tolist():
                self._owner[number][read] = asked.owner

    def completions(self, horizon: int) -> list[Completion]:
        """The completions of the first moment that has any, at most up to ``horizon`` ns; empty if none has."""
        while True:
            number, first = min(enumerate(self._drives), key=lambda item: item[1].following)
            if first.following > horizon or first.following == FOREVER:
                return []
            others = min((d.following for d in self._drives if d is not first), default=FOREVER)
            done = first.advance(min(horizon, others))
            if done.size:
                owners = self._owner[number]
                return [Completion(first.now, owners.pop(read)) for read in done.tolist()]

    @property
    def pending(self) -> bool:
        """Whether any drive still holds a read."""
        return any(running.open.size for running in self._drives)

    def results(self) -> list[DriveResult]:
        """What each drive did; a drive that was asked nothing is left out."""
        asked = [running.run for running in self._drives if running.run.state.record.reads > 0]
        return [collect_result(run, "search") for run in asked]
