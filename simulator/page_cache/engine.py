"""Runs the touches of a file through a page cache, and its requests through a drive, and says what that took.

What is read and written does not depend on how fast the drive is, so the cache runs first. Its requests then go
through the flash engine in order, so many in flight, and the latency of each says when the reader goes on. Memory
grows with the number of requests (some 60 bytes each) and the pages that are touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from simulator.flash.drive import Drive
from simulator.flash.engine import DriveRun, RunOptions, collect_result
from simulator.flash.result import DriveResult
from simulator.page_cache.kernel import Touches, run_pages
from simulator.page_cache.result import PageCacheResult, collect_pages
from simulator.page_cache.state import (
    LARGEST_WINDOW,
    MARGIN,
    READ,
    READ_AHEAD,
    REQUESTS,
    TOUCHES,
    WAIT,
    CachePolicy,
    Events,
    PageState,
    new_page_state,
    parameters,
)
from simulator.page_cache.timing import play_times
from workloads.block_trace.trace import TRIM, WRITE, BlockRequests, BlockTrace

__all__ = ["PageRun", "extent_of", "simulate_page_cache"]

Ints = npt.NDArray[np.int64]
CHUNK = 1 << 12
ROOM = 1 << 16
MOST_REQUESTS = 1 << 28


def extent_of(trace: BlockTrace) -> int:
    """Bytes up to the end of the last request; reads the trace once."""
    stated = getattr(trace, "file_bytes", None)
    if isinstance(stated, int):
        return stated
    end = 0
    for requests in trace.chunks(1 << 17):
        if requests.address.size:
            end = max(end, int((requests.address + requests.size).max()))
    if end == 0:
        raise bad_input("the trace holds no requests", file=trace.name)
    return end


def touches_of(requests: BlockRequests, page_bytes: int) -> Touches:
    """Byte ranges as runs of pages; trims touch nothing."""
    kept = requests.operation != TRIM
    address, size = requests.address[kept], requests.size[kept]
    first, end = address // page_bytes, address + size
    pages = (end - 1) // page_bytes - first + 1
    partial = (address % page_bytes > 0) * 1 + (end % page_bytes > 0) * 2
    arrival = requests.arrival[kept] if requests.arrival.size else requests.arrival
    write = (requests.operation[kept] == WRITE).astype(np.int64)
    return Touches(first, pages, partial.astype(np.int64), write, arrival)


@dataclass
class PageRun:
    """A page cache on its way through a file's touches; events are kept as they come."""

    policy: CachePolicy
    given: Ints
    state: PageState
    kept: list[Events]
    asked_bytes: int = 0

    @classmethod
    def begin(cls, policy: CachePolicy, file_bytes: int, mapped: bool) -> PageRun:
        """An empty cache."""
        given = parameters(policy, file_bytes, mapped)
        return cls(policy, given, new_page_state(given), [])

    def feed(self, requests: BlockRequests) -> None:
        """Take requests in order."""
        touches = touches_of(requests, self.policy.page_bytes)
        self.asked_bytes += int(requests.size.sum())
        at = np.zeros(2, np.int64)
        while at[0] < touches.page.size:
            room = ROOM + MARGIN
            events = Events(
                np.zeros(room, np.uint8), np.zeros(room, np.int64), np.zeros(room, np.int64),
                np.zeros(room, np.int64), np.zeros(1, np.int64),
            )  # fmt: skip
            run_pages(self.given, self.state, events, touches, at)
            filled = int(events.filled[0])
            if filled:
                self.kept.append(_cut(events, filled))
            if int(self.state.word[REQUESTS]) > MOST_REQUESTS:
                raise bad_input(f"more than {MOST_REQUESTS} requests to the drive; take a shorter trace")

    def events(self) -> Events:
        """All events so far."""
        if not self.kept:
            none = np.zeros(0, np.int64)
            return Events(np.zeros(0, np.uint8), none, none, none, np.zeros(1, np.int64))
        columns = [np.concatenate(column) for column in list(zip(*self.kept, strict=True))[:4]]
        return Events(columns[0], columns[1], columns[2], columns[3], np.array([columns[0].size]))


def _cut(events: Events, filled: int) -> Events:
    """The events that are there, without the room behind them."""
    kind, page, pages, touch, counted = events
    return Events(
        kind[:filled].copy(), page[:filled].copy(), pages[:filled].copy(), touch[:filled].copy(), counted
    )


@dataclass(frozen=True)
class _ToDrive:
    """The requests of events, as the drive takes them."""

    events: Events
    page_bytes: int
    capacity: int

    def chunks(self) -> Iterator[BlockRequests]:
        """Requests in order; the end of the file's last page may lie beyond the drive."""
        asked = self.events.kind != WAIT
        kind, page, pages = self.events.kind[asked], self.events.page[asked], self.events.pages[asked]
        for start in range(0, kind.size, 1 << 16):
            part = slice(start, start + (1 << 16))
            address = page[part] * self.page_bytes
            size = np.minimum(pages[part] * self.page_bytes, self.capacity - address)
            operation = np.where((kind[part] == READ) | (kind[part] == READ_AHEAD), 0, WRITE).astype(np.int64)
            yield BlockRequests(operation, address, size, np.zeros(0, np.int64))


def _served(drive: Drive, to_drive: _ToDrive, outstanding: int, seed: int) -> tuple[Ints, DriveResult]:
    """The latency of each request (ns), and the drive's result."""
    chunks = list(to_drive.chunks())
    largest = LARGEST_WINDOW * to_drive.page_bytes
    run = DriveRun.begin(drive, RunOptions(outstanding=outstanding, seed=seed), largest)
    run.latencies = np.zeros(sum(chunk.size.size for chunk in chunks), np.int64)
    for number, chunk in enumerate(chunks):
        run.feed(chunk, number == len(chunks) - 1)
    result = collect_result(run, "pages")
    result.check()
    return run.latencies, result


def simulate_page_cache(
    policy: CachePolicy,
    drive: Drive,
    trace: BlockTrace,
    *,
    outstanding: int = 0,
    seed: int = 1,
    progress: Callable[[int], None] | None = None,
) -> PageCacheResult:
    """Run a trace to its end.

    ``outstanding``: requests in flight at the drive; 0: two where pages are read ahead (the one waited for and the next
    window), else one. Raises ``InputError`` for a file that the drive cannot hold, and what reading the trace raises.
    """
    extent = extent_of(trace)
    if extent > drive.capacity_bytes:
        raise bad_input(
            f"{extent} bytes are more than the {drive.capacity_bytes} of {drive.name}", path="--drive"
        )
    mapped = bool(getattr(trace, "mapped", False))
    run = PageRun.begin(policy, extent, mapped)
    for requests in trace.chunks(CHUNK):
        run.feed(requests)
        if progress is not None:
            progress(int(run.state.counts[TOUCHES]))
    events = run.events()
    flight = outstanding or (2 if np.any(events.kind == READ_AHEAD) else 1)
    to_drive = _ToDrive(events, policy.page_bytes, drive.capacity_bytes)
    times = np.zeros(5, np.int64)
    served = None
    if np.any(events.kind != WAIT):
        took, served = _served(drive, to_drive, flight, seed)
        play_times(events.kind, events.page, events.touch, took, policy.touch_ns, times)
    times[0] += (
        int(run.state.counts[TOUCHES]) - (int(events.touch[-1]) if events.touch.size else 0)
    ) * policy.touch_ns
    result = collect_pages(run.state, policy, (drive.name, trace.name), times, served)
    result.check()
    return result
