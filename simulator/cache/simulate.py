"""A trace through caches: one pass, chunk by chunk, for all policies that are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.problems import bad_input
from simulator.cache.distances import Distances
from simulator.cache.hierarchy import Level, RunningLevel, Stream
from simulator.cache.objects import Objects
from simulator.cache.replacement.nodes import HEADS
from simulator.cache.result import CacheResult, LevelResult, PolicyResult, Window
from workloads.cache_trace.trace import CacheRequests, CacheTrace

__all__ = ["CHUNK", "Hierarchy", "simulate_caches", "whole_trace"]

Ints = npt.NDArray[np.int64]
CHUNK: Final = 1 << 18
"""Requests at a time: what interrupts and progress wait for."""
MOST_KEPT: Final = 1 << 28
"""Requests of a trace that is kept whole, as policies that are told of the future need it."""
MOST_WINDOWS: Final = 128


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Levels from the nearest to the farthest, under a name for tables."""

    label: str
    levels: tuple[Level, ...]

    @property
    def needs_future(self) -> bool:
        """Whether a policy must be told of requests to come."""
        return any(level.policy.hint != "nothing" for level in self.levels)


class _Footprint:
    """Distinct objects and their bytes so far, each with the size of its first request."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.bytes_ = 0
        self._known = HEADS

    def nodes_of(self, chunk: CacheRequests) -> npt.NDArray[np.int32]:
        nodes = self.objects.nodes_of(chunk.object)
        if self.objects.count > self._known:
            self.bytes_ += int(_new_bytes(nodes, chunk.size, self._known, self.objects.count))
            self._known = self.objects.count
        return nodes


@compiled
def _new_bytes(nodes: Any, sizes: Any, known: int, count: int) -> int:
    total = i = 0
    while known < count:
        if nodes[i] == known:
            total += sizes[i]
            known += 1
        i += 1
    return total


class _Run:
    """One hierarchy while the trace passes through it."""

    def __init__(self, hierarchy: Hierarchy, seed: int) -> None:
        self.hierarchy = hierarchy
        self.levels = [RunningLevel(level, seed + at) for at, level in enumerate(hierarchy.levels)]
        self.windows: list[Window] = []
        self._misses_told = 0

    def run(self, stream: Stream, count: int, predicted: Ints) -> None:
        for at, level in enumerate(self.levels):
            last = at == len(self.levels) - 1
            _, below = level.run(stream, count, predicted if at == 0 else predicted[:0], last)
            if below is None or last:
                break
            stream = below

    @property
    def misses(self) -> int:
        return self.levels[0].requests - sum(level.hits for level in self.levels)

    def tell(self, footprint: _Footprint) -> None:
        misses = self.misses
        done = self.levels[0].requests
        window = Window(done, misses - self._misses_told, footprint.objects.count - HEADS, footprint.bytes_)
        self.windows.append(window)
        self._misses_told = misses
        if len(self.windows) > MOST_WINDOWS:
            pairs = zip(self.windows[::2], self.windows[1::2], strict=False)
            merged = [Window(b.requests, a.misses + b.misses, b.objects, b.distinct_bytes) for a, b in pairs]
            self.windows = merged + ([self.windows[-1]] if len(self.windows) % 2 else [])

    def result(self) -> PolicyResult:
        levels = tuple(map(_level_result, self.levels))
        first = self.levels[0]
        missed_bytes = first.request_bytes - sum(level.hit_bytes for level in self.levels)
        return PolicyResult(
            self.hierarchy.label, first.requests, first.request_bytes, self.misses, missed_bytes, levels,
            tuple(self.windows),
        )  # fmt: skip


def _level_result(running: RunningLevel) -> LevelResult:
    level = running.level
    time = None
    if level.latency_s is not None or level.bandwidth is not None:
        time = running.requests * (level.latency_s or 0.0)
        time += running.hit_bytes / level.bandwidth if level.bandwidth else 0.0
    return LevelResult(
        level.name, level.policy.name, level.size, running.requests, running.hits, running.request_bytes,
        running.hit_bytes, running.admitted, running.evicted, running.bytes_up, running.bytes_down,
        running.dirty_bytes, time,
    )  # fmt: skip


def whole_trace(
    trace: CacheTrace, progress: Callable[[int], None] = lambda _: None
) -> Iterator[CacheRequests]:
    """The trace as a single chunk. Raises ``InputError`` for one too long to keep."""
    parts: list[CacheRequests] = []
    kept = 0
    for chunk in trace.chunks(CHUNK):
        parts.append(CacheRequests._make(np.array(part) for part in chunk))
        kept += len(chunk.object)
        progress(kept)
        if kept > MOST_KEPT:
            raise bad_input(
                f"has more than {MOST_KEPT} requests, the most that a policy told of the future takes",
                file=trace.name,
            )
    if parts:
        yield CacheRequests._make(np.concatenate(part) for part in zip(*parts, strict=True))


def simulate_caches(
    trace: CacheTrace,
    hierarchies: Sequence[Hierarchy],
    *,
    distances: Distances | None = None,
    seed: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> CacheResult:
    """Run a trace through hierarchies of caches, each from empty.

    ``distances`` is filled with the trace's reuse distances. Memory is that of the distinct objects, except for
    policies that are told of the future: those keep the trace. An interrupt ends it with what is done so far. Raises
    ``InputError`` for a trace that cannot be read, or a cache that cannot work.
    """
    runs = [_Run(hierarchy, seed) for hierarchy in hierarchies]
    footprint = _Footprint()
    done = written = 0
    interrupted = False
    future = any(hierarchy.needs_future for hierarchy in hierarchies)
    try:
        for given in whole_trace(trace, progress) if future else trace.chunks(CHUNK):
            # Kernels are made for arrays of one kind: whole and writable.
            chunk = CacheRequests._make(np.require(part, requirements=("C", "W")) for part in given)
            nodes = footprint.nodes_of(chunk)
            stream = Stream(nodes, chunk.size, chunk.written, np.ones(len(nodes), np.bool_))
            for run in runs:
                run.run(stream, footprint.objects.count, chunk.predicted)
                run.tell(footprint)
            if distances is not None:
                distances.run(chunk.object, chunk.size)
            done += len(nodes)
            written += int(np.count_nonzero(chunk.written))
            progress(done)
    except KeyboardInterrupt:
        interrupted = True
    return CacheResult(
        trace.name, done, footprint.objects.count - HEADS, footprint.bytes_, written,
        tuple(run.result() for run in runs), distances.result() if distances is not None else None,
        interrupted=interrupted,
    )  # fmt: skip
