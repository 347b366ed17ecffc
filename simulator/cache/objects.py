"""Numbers of objects become nodes: an open-addressing table that grows, kept between chunks."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import HEADS

__all__ = ["Objects"]

_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST_SIZE: Final = 1 << 12
MOST_NODES: Final = (1 << 31) - 1


class Objects:
    """Nodes of objects, numbered from ``HEADS`` in order of first request."""

    def __init__(self) -> None:
        self._keys = np.zeros(_FIRST_SIZE, np.int64)
        self._nodes = np.zeros(_FIRST_SIZE, np.int32)
        self.count = HEADS
        """Nodes so far, the heads of lists included."""

    def nodes_of(self, objects: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The node of each request's object; unknown ones get the next numbers."""
        nodes = np.empty(len(objects), np.int32)
        done = 0
        while True:
            done, self.count = map(int, _look_up(self._keys, self._nodes, objects, nodes, done, self.count))
            if done == len(objects):
                return nodes
            if self.count >= MOST_NODES:
                raise MemoryError("more than 2^31 objects")
            keys, kept = np.zeros(4 * len(self._keys), np.int64), np.zeros(4 * len(self._keys), np.int32)
            _move(self._keys, self._nodes, keys, kept)
            self._keys, self._nodes = keys, kept


@compiled
def _look_up(keys: Any, nodes: Any, objects: Any, found: Any, done: int, count: int) -> tuple[int, int]:
    # Node 0 is a free place. It stops where the table is more than half full, for the caller to grow it.
    mask = len(keys) - 1
    shift = np.uint64(64 - _bits(len(keys)))
    room = len(keys) // 2 + HEADS
    for i in range(done, len(objects)):
        thing = objects[i]
        at = np.int64((np.uint64(thing) * _SPREAD) >> shift)
        while nodes[at] != 0 and keys[at] != thing:
            at = (at + 1) & mask
        if nodes[at] == 0:
            if count >= room:
                return i, count
            keys[at] = thing
            nodes[at] = count
            count += 1
        found[i] = nodes[at]
    return len(objects), count


@compiled
def _move(keys: Any, nodes: Any, new_keys: Any, new_nodes: Any) -> None:
    mask = len(new_keys) - 1
    shift = np.uint64(64 - _bits(len(new_keys)))
    for i in range(len(keys)):
        if nodes[i] != 0:
            at = np.int64((np.uint64(keys[i]) * _SPREAD) >> shift)
            while new_nodes[at] != 0:
                at = (at + 1) & mask
            new_keys[at] = keys[i]
            new_nodes[at] = nodes[i]


@compiled
def _bits(size: int) -> int:
    bits = 0
    while size > 1:
        size >>= 1
        bits += 1
    return bits
