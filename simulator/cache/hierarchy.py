"""Levels of caches one behind another: what misses in one asks the next, what was written goes down when it leaves.

A read that misses is fetched from the next level and enters this one if the policy admits it; the next level keeps
its copy (neither inclusive nor exclusive). A write writes the whole object: admitted, it stays here as written and asks
nobody; not admitted, it goes on to the next level. A written object that leaves is written to the next level, which
takes it as a write. Behind the last level is memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.settings import Settings
from simulator.cache.hints import hints_for
from simulator.cache.replacement.nodes import Events
from simulator.cache.replacement.policy import POLICIES, Policy
from simulator.cache.running import RunningCache

__all__ = ["Level", "RunningLevel", "Stream"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Level:
    """One cache: ``size`` bytes under a policy; ``latency_s`` of a look-up, ``bandwidth`` in bytes/s."""

    name: str
    size: int
    policy: Policy
    settings: Settings
    latency_s: float | None = None
    bandwidth: float | None = None

    @classmethod
    def of(cls, name: str, size: int, policy: str, settings: Settings | None = None) -> Level:
        """A level by the name of its policy, with the policy's own settings unless others are given."""
        found = POLICIES.get(policy)
        return cls(name, size, found, settings if settings is not None else found.settings())


class Stream(NamedTuple):
    """Requests that reach a level; ``demand``: asked for from above, not written back."""

    nodes: npt.NDArray[np.int32]
    sizes: Ints
    written: npt.NDArray[np.bool_]
    demand: npt.NDArray[np.bool_]


class RunningLevel:
    """A level while requests pass through it, and its figures."""

    def __init__(self, level: Level, seed: int) -> None:
        self.level, self._seed = level, seed
        self._cache = RunningCache(level.policy, level.size, level.settings, seed)
        self._dirty = np.zeros(0, np.int64)
        self._any_dirty = False
        self.requests = self.hits = self.request_bytes = self.hit_bytes = 0
        self.admitted = self.evicted = self.bytes_up = self.bytes_down = 0

    @property
    def dirty_bytes(self) -> int:
        """Bytes that were written and are still only here."""
        return int(self._dirty.sum())

    def run(self, stream: Stream, count: int, predicted: Ints, last: bool) -> tuple[Events, Stream | None]:
        """What became of the requests, and what reaches the next level (None behind the last)."""
        chosen = self.level
        hints = hints_for(
            chosen.policy, chosen.settings, stream.nodes, stream.sizes, chosen.size, predicted, self._seed
        )
        events = self._cache.run(stream.nodes, stream.sizes, count, hints)
        asked, hits, asked_bytes, hit_bytes, admitted, written, passed = map(int, _tally(stream, events.what))
        self.requests += asked
        self.hits += hits
        self.request_bytes += asked_bytes
        self.hit_bytes += hit_bytes
        self.admitted += admitted
        self.evicted += len(events.left)
        if last and not self._any_dirty and not written:
            self.bytes_up += passed
            return events, None
        return events, self._below(stream, events, count)

    def _below(self, stream: Stream, events: Events, count: int) -> Stream:
        self._any_dirty = True
        if count > len(self._dirty):
            longer = np.zeros(2 * count, np.int64)
            longer[: len(self._dirty)] = self._dirty
            self._dirty = longer
        room = len(stream.nodes) + len(events.left)
        below = Stream(
            np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room, np.bool_), np.empty(room, np.bool_)
        )  # fmt: skip
        n, up, down = map(int, _pass_down(stream, events, self._dirty, below))
        self.bytes_up += up
        self.bytes_down += down
        return Stream(below.nodes[:n], below.sizes[:n], below.written[:n], below.demand[:n])


@compiled
def _tally(stream: Any, what: Any) -> tuple[int, int, int, int, int, int, int]:
    # Requests, hits, their bytes (of what was asked for from above), admitted, written, bytes of all misses.
    asked = hits = asked_bytes = hit_bytes = admitted = written = passed = 0
    for i in range(len(what)):
        size = stream.sizes[i]
        hit = what[i] == 2
        if stream.demand[i]:
            asked += 1
            asked_bytes += size
            if hit:
                hits += 1
                hit_bytes += size
        admitted += what[i] == 1
        written += stream.written[i]
        if not hit:
            passed += size
    return asked, hits, asked_bytes, hit_bytes, admitted, written, passed


@compiled
def _pass_down(stream: Any, events: Any, dirty: Any, below: Any) -> tuple[int, int, int]:
    n = up = down = at = 0
    for i in range(len(stream.nodes)):
        node, size, what = stream.nodes[i], stream.sizes[i], events.what[i]
        # A use that pushes out the object itself comes first; otherwise room is made before an object enters.
        if stream.written[i] and what == 2:
            dirty[node] = size
        while at < len(events.left) and events.left_at[at] == i:
            left = events.left[at]
            if dirty[left] > 0:
                below.nodes[n], below.sizes[n] = left, dirty[left]
                below.written[n], below.demand[n] = True, False
                n += 1
                down += dirty[left]
                dirty[left] = 0
            at += 1
        if what == 2:
            continue
        if stream.written[i] and what == 1:
            dirty[node] = size
            continue
        below.nodes[n], below.sizes[n] = node, size
        below.written[n], below.demand[n] = stream.written[i], stream.demand[i]
        n += 1
        if stream.written[i]:
            down += size
        else:
            up += size
    return n, up, down
