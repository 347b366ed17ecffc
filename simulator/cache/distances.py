"""Reuse distances: bytes of distinct objects asked for since an object's last use, itself included; exact or sampled.

An LRU cache in which every object fits holds an object exactly as long as its reuse distance is at most the cache's
size, so that one pass gives the miss ratio of all sizes. A Fenwick tree over last uses answers in O(log n).
Sampled: objects are kept by a hash of their number, and distances divided by the rate (SHARDS, Waldspurger et al.,
FAST 2015, fixed rate, with its correction of the number of sampled requests).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled, inlined
from hw_configs.problems import bad_input
from simulator.cache.objects import Objects
from simulator.cache.replacement.nodes import HEADS

__all__ = ["Distances", "ReuseDistances", "bucket_edges"]

Ints = npt.NDArray[np.int64]
EXACT: Final = 2048
"""Distances below have a bucket each; above, an octave has half as many."""
BUCKETS: Final = EXACT + 50 * (EXACT // 2)
PARTS: Final = 8
"""Of the sampled objects."""
_BITS: Final = 24
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def bucket_edges() -> Ints:
    """The largest distance of each bucket, bytes."""
    half = EXACT // 2
    octave, at = np.divmod(np.arange(50 * half, dtype=np.int64), half)
    return np.concatenate([np.arange(EXACT, dtype=np.int64), ((half + at + 1) << (octave + 1)) - 1])


@dataclass(frozen=True)
class ReuseDistances:
    """Requests by reuse distance: ``counts`` and ``bytes_`` by bucket; first uses are in no bucket.

    ``rate``: share of the objects that were looked at, up to which distances and counts are scaled. ``parts``: the same
    counts from eighths of those objects, each alone, whose differences tell the error.
    """

    requests: int
    total_bytes: int
    counts: Ints = field(repr=False)
    bytes_: Ints = field(repr=False)
    rate: float
    objects: int
    parts: tuple[Ints, ...] = field(default=(), repr=False)

    def miss_ratio(self, capacity: float) -> float:
        """Share of the requests that miss in an LRU cache of so many bytes; exact at the edge of a bucket."""
        return _ratio(self.counts, self.requests, capacity * self.rate)

    def byte_miss_ratio(self, capacity: float) -> float:
        """Share of the bytes asked for that miss."""
        return _ratio(self.bytes_, self.total_bytes, capacity * self.rate)

    def error(self, capacity: float) -> float:
        """Standard error of a sampled miss ratio: how eighths of the sample differ; 0 where nothing was sampled.

        It tells of chance alone, of which objects were looked at and what lies between their uses.
        """
        if not self.parts:
            return 0.0
        share = self.rate / len(self.parts)
        found = [_ratio(part, self.requests, capacity * share) for part in self.parts]
        return float(np.std(found, ddof=1) / np.sqrt(len(found)))

    def edges(self, points: int = 64) -> Ints:
        """Capacities, bytes, at which the curve is exact: up to ``points``, from the least distance to the most."""
        filled = np.flatnonzero(self.counts > 0)
        if not len(filled):
            return np.zeros(0, np.int64)
        edges = bucket_edges()
        low, high = int(edges[filled[0]]), int(edges[filled[-1]])
        wanted = np.geomspace(max(low, 1), max(high, 1), points)
        places = np.unique(np.searchsorted(edges, wanted.astype(np.int64)))
        return np.asarray(np.ceil(edges[np.minimum(places, len(edges) - 1)] / self.rate), np.int64)

    def octaves(self) -> list[tuple[int, int]]:
        """Requests by power of two: the largest distance of each octave in bytes, and how many lie in it."""
        scaled = np.maximum(bucket_edges() / self.rate, 1.0)
        octave = np.ceil(np.log2(scaled) - 1e-12).astype(np.int64)
        sums = np.bincount(octave, weights=self.counts).astype(np.int64)
        return [(1 << int(k), int(sums[k])) for k in np.flatnonzero(sums)]


def _ratio(counts: Ints, total: int, capacity: float) -> float:
    within = int(np.searchsorted(bucket_edges(), np.int64(capacity), side="right"))
    return 1.0 - float(counts[:within].sum()) / total if total else 0.0


class Distances:
    """Counts reuse distances of a trace, chunk by chunk. Raises ``InputError`` for a rate outside 0 to 1."""

    def __init__(self, rate: float = 1.0, seed: int = 1) -> None:
        if not 0 < rate <= 1:
            raise bad_input(f"found {rate:g}; expected a rate above 0, at most 1", path="--sample")
        self._below = max(round(rate * (1 << _BITS)), 1)
        self.rate = self._below / (1 << _BITS)
        self._seed = np.uint64(seed * 0x9E3779B97F4A7C15 % (1 << 64))
        self._all = _Counter()
        self._parts = [_Counter() for _ in range(PARTS)] if self.rate < 1 else []
        self._requests = self._total = 0

    def run(self, objects: Ints, sizes: Ints) -> None:
        """The next requests."""
        self._requests += len(objects)
        self._total += int(sizes.sum())
        if self.rate < 1:
            mixed = (objects.view(np.uint64) ^ self._seed) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(32))) * _GOLDEN
            mixed ^= mixed >> np.uint64(29)
            kept = (mixed >> np.uint64(64 - _BITS)) < self._below
            objects, sizes = objects[kept], sizes[kept]
            which = (mixed[kept] >> np.uint64(8)) % np.uint64(PARTS)
            for number, part in enumerate(self._parts):
                part.run(objects[which == number], sizes[which == number])
        self._all.run(objects, sizes)

    def result(self) -> ReuseDistances:
        """What was counted so far, scaled to all requests where sampled."""
        counts, bytes_ = self._all.counts.copy(), self._all.bytes_.copy()
        parts: tuple[Ints, ...] = ()
        if self.rate < 1:
            counts = _scaled(self._all, self.rate, self._requests)
            bytes_ = np.round(bytes_ / self.rate).astype(np.int64)
            parts = tuple(_scaled(part, self.rate / PARTS, self._requests) for part in self._parts)
        return ReuseDistances(
            self._requests, self._total, counts, bytes_, self.rate, self._all.objects.count - HEADS, parts
        )


def _scaled(counter: _Counter, rate: float, requests: int) -> Ints:
    """Counts of a sample for all requests; what was sampled beyond expectation is taken off the shortest distances."""
    scaled = np.round(counter.counts / rate).astype(np.int64)
    scaled[0] += requests - round(counter.requests / rate)
    return scaled


class _Counter:
    """Distances of the requests that it is given."""

    def __init__(self) -> None:
        self.objects = Objects(direct=0)
        self.counts, self.bytes_ = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.int64)
        self.requests = 0
        self._tree, self._owner = np.zeros(1 << 12, np.int64), np.zeros(1 << 12, np.int32)
        self._last, self._size = np.zeros(HEADS, np.int64), np.zeros(HEADS, np.int64)
        self._next = 1

    def run(self, objects: Ints, sizes: Ints) -> None:
        self.requests += len(objects)
        nodes = self.objects.nodes_of(objects)
        if self.objects.count > len(self._last):
            self._last, self._size = (_longer(a, 2 * self.objects.count) for a in (self._last, self._size))
        done = 0
        while done < len(nodes):
            state = self._tree, self._owner, self._last, self._size
            done, self._next = map(
                int, _count(state, nodes, sizes, self.counts, self.bytes_, done, self._next)
            )
            if done < len(nodes):
                self._compact()

    def _compact(self) -> None:
        size = len(self._tree)
        while size < 4 * self.objects.count:
            size *= 2
        tree, owner = np.zeros(size, np.int64), np.zeros(size, np.int32)
        self._next = int(_move(self._owner, self._next, self._last, self._size, tree, owner))
        self._tree, self._owner = tree, owner


def _longer(array: Ints, count: int) -> Ints:
    found = np.zeros(count, np.int64)
    found[: len(array)] = array
    return found


@inlined
def _bucket(distance: int) -> int:
    octave = 0
    while (distance >> octave) >= 2048:
        octave += 1
    return distance if octave == 0 else 2048 + (octave - 1) * 1024 + ((distance >> octave) - 1024)


@inlined
def _add(tree: Any, at: int, value: int) -> None:
    while at < len(tree):
        tree[at] += value
        at += at & -at


@inlined
def _sum(tree: Any, at: int) -> int:
    total = 0
    while at > 0:
        total += tree[at]
        at -= at & -at
    return total


@compiled
def _count(
    state: Any, nodes: Any, sizes: Any, counts: Any, bytes_: Any, done: int, next_: int
) -> tuple[int, int]:
    # Places of last uses grow from 1; the tree holds each object's bytes at its place.
    tree, owner, last, size_of = state
    total = _sum(tree, next_ - 1)
    for i in range(done, len(nodes)):
        if next_ >= len(tree):
            return i, next_
        node, size = nodes[i], sizes[i]
        before = last[node]
        if before:
            at = _bucket(total - _sum(tree, before - 1))
            counts[at] += 1
            bytes_[at] += size
            _add(tree, before, -size_of[node])
            owner[before] = 0
            total -= size_of[node]
        else:
            size_of[node] = size
        _add(tree, next_, size_of[node])
        total += size_of[node]
        owner[next_] = node
        last[node] = next_
        next_ += 1
    return len(nodes), next_


@compiled
def _move(owner: Any, end: int, last: Any, size_of: Any, tree: Any, new_owner: Any) -> int:
    at = 1
    for place in range(1, end):
        node = owner[place]
        if node:
            new_owner[at] = node
            last[node] = at
            tree[at] += size_of[node]
            at += 1
    for place in range(1, len(tree)):
        above = place + (place & -place)
        if above < len(tree):
            tree[above] += tree[place]
    return at
