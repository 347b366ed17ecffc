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
GROUPS: Final = 16
"""Parts of the sampled objects, whose differences tell the error."""
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
    """Requests by reuse distance. ``counts`` and ``bytes_`` by bucket; first uses are in no bucket.

    ``rate``: share of the objects that were looked at, whose distances are scaled up; rows of ``groups`` hold the
    counts of a sixteenth of them each, then requests of each.
    """

    requests: int
    total_bytes: int
    counts: Ints = field(repr=False)
    bytes_: Ints = field(repr=False)
    rate: float
    objects: int
    groups: Ints = field(repr=False)
    group_requests: Ints = field(repr=False)

    def miss_ratio(self, capacity: float) -> float:
        """Share of the requests that miss in an LRU cache of so many bytes; exact at the edge of a bucket."""
        return self._ratio(self.counts, self.requests, capacity)

    def byte_miss_ratio(self, capacity: float) -> float:
        """Share of the bytes asked for that miss."""
        return self._ratio(self.bytes_, self.total_bytes, capacity)

    def _ratio(self, counts: Ints, total: int, capacity: float) -> float:
        within = int(np.searchsorted(bucket_edges(), np.int64(capacity * self.rate), side="right"))
        return 1.0 - float(counts[:within].sum()) / total if total else 0.0

    def error(self, capacity: float) -> float:
        """Standard error of a sampled miss ratio, from how the groups of objects differ; 0 where nothing was sampled.

        With few objects expect twice as much or more: the groups do not tell of the distances' own error.
        """
        seen = int(self.group_requests.sum())
        if self.rate >= 1 or not seen:
            return 0.0
        within = int(np.searchsorted(bucket_edges(), np.int64(capacity * self.rate), side="right"))
        missed = self.group_requests - self.groups[:, :within].sum(axis=1)
        ratio = missed.sum() / seen
        spread = float(((missed - ratio * self.group_requests) ** 2).sum())
        return float(np.sqrt(spread * GROUPS / (GROUPS - 1)) / seen)

    def edges(self, points: int = 64) -> Ints:
        """Capacities, bytes, at which the curve is exact: up to ``points``, from the least distance to the most."""
        filled = np.flatnonzero(self.counts)
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


class Distances:
    """Counts reuse distances of a trace, chunk by chunk. Raises ``InputError`` for a rate outside 0 to 1."""

    def __init__(self, rate: float = 1.0, seed: int = 1) -> None:
        if not 0 < rate <= 1:
            raise bad_input(f"found {rate:g}; expected a rate above 0, at most 1", path="--sample")
        self._below = max(round(rate * (1 << _BITS)), 1)
        self.rate = self._below / (1 << _BITS)
        self._seed = np.uint64(seed)
        self._objects = Objects()
        self._tree = np.zeros(1 << 12, np.int64)
        self._owner = np.zeros(1 << 12, np.int32)
        self._last = np.zeros(HEADS, np.int64)
        self._size = np.zeros(HEADS, np.int64)
        self._counts, self._bytes = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.int64)
        groups = GROUPS if self.rate < 1 else 0
        self._groups, self._asked = np.zeros((groups, BUCKETS), np.int64), np.zeros(groups, np.int64)
        self._next = 1
        self._requests = self._total = self._sampled = 0

    def run(self, objects: Ints, sizes: Ints) -> None:
        """The next requests."""
        self._requests += len(objects)
        self._total += int(sizes.sum())
        groups = np.zeros(0, np.int8)
        if self.rate < 1:
            mixed = (objects.view(np.uint64) ^ (self._seed * _GOLDEN)) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(32))) * _GOLDEN
            kept = (mixed >> np.uint64(64 - _BITS)) < self._below
            objects, sizes = objects[kept], sizes[kept]
            groups = ((mixed[kept] >> np.uint64(8)) % np.uint64(GROUPS)).astype(np.int8)
        self._sampled += len(objects)
        nodes = self._objects.nodes_of(objects)
        self._make_room(self._objects.count)
        done = 0
        while done < len(nodes):
            done, self._next = map(
                int,
                _count(
                    (self._tree, self._owner, self._last, self._size), (nodes, sizes, groups),
                    (self._counts, self._bytes, self._groups, self._asked), done, self._next,
                ),
            )  # fmt: skip
            if done < len(nodes):
                self._compact()

    def _make_room(self, count: int) -> None:
        if count > len(self._last):
            for name in ("_last", "_size"):
                old = getattr(self, name)
                longer = np.zeros(2 * count, np.int64)
                longer[: len(old)] = old
                setattr(self, name, longer)

    def _compact(self) -> None:
        size = len(self._tree)
        while size < 4 * self._objects.count:
            size *= 2
        tree, owner = np.zeros(size, np.int64), np.zeros(size, np.int32)
        self._next = int(_move(self._owner, self._next, self._last, self._size, tree, owner))
        self._tree, self._owner = tree, owner

    def result(self) -> ReuseDistances:
        """What was counted so far, scaled to all requests where sampled."""
        counts, bytes_ = self._counts, self._bytes
        if self.rate < 1:
            # What was sampled more or less often than expected is charged to the shortest distances (SHARDS-adj).
            expected = self._requests * self.rate
            scaled = np.round(counts / self.rate).astype(np.int64)
            if self._sampled:
                scaled[0] += round((expected - self._sampled) / self.rate)
            counts, bytes_ = scaled, np.round(bytes_ / self.rate).astype(np.int64)
        return ReuseDistances(
            self._requests, self._total, counts.copy(), bytes_.copy(), self.rate, self._objects.count - HEADS,
            self._groups.copy(), self._asked.copy(),
        )  # fmt: skip


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
def _count(state: Any, chunk: Any, found: Any, done: int, next_: int) -> tuple[int, int]:
    # Places of last uses grow from 1; the tree holds each object's bytes at its place.
    tree, owner, last, size_of = state
    nodes, sizes, groups = chunk
    counts, bytes_, by_group, asked = found
    total = _sum(tree, next_ - 1)
    for i in range(done, len(nodes)):
        if next_ >= len(tree):
            return i, next_
        node, size = nodes[i], sizes[i]
        if len(groups):
            asked[groups[i]] += 1
        before = last[node]
        if before:
            distance = total - _sum(tree, before - 1)
            at = _bucket(distance)
            counts[at] += 1
            bytes_[at] += size
            if len(groups):
                by_group[groups[i], at] += 1
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
