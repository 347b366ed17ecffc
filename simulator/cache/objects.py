"""Numbers of objects become nodes: an open-addressing table that grows, kept between chunks.

Small numbers have a table of their own, read without a hash: traces often count their objects from 0 or 1.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import HEADS

__all__ = ["Objects"]

_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST_SIZE: Final = 1 << 12
DIRECT: Final = 1 << 22
"""Numbers from 0 below this are looked up directly; the system gives memory for what is touched alone."""
MOST_NODES: Final = (1 << 31) - 1


class Objects:
    """Nodes of objects, numbered from ``HEADS`` in order of first request."""

    def __init__(self, direct: int = DIRECT) -> None:
        self._keys = np.zeros(_FIRST_SIZE, np.int64)
        self._nodes = np.zeros(_FIRST_SIZE, np.int32)
        self._direct = np.zeros(direct, np.int32)
        self._hashed = 0
        self.count = HEADS
        """Nodes so far, the heads of lists included."""

    def nodes_of(self, objects: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The node of each request's object; unknown ones get the next numbers."""
        nodes = np.empty(len(objects), np.int32)
        done = 0
        while True:
            tables = self._keys, self._nodes, self._direct
            done, self.count, self._hashed = map(
                int, _look_up(tables, objects, nodes, done, self.count, self._hashed)
            )
            if done == len(objects):
                return nodes
            if self.count >= MOST_NODES:
                raise MemoryError("more than 2^31 objects")
            keys, kept = np.zeros(4 * len(self._keys), np.int64), np.zeros(4 * len(self._keys), np.int32)
            _move(self._keys, self._nodes, keys, kept)
            self._keys, self._nodes = keys, kept


@compiled
def _look_up(
    tables: Any, objects: Any, found: Any, done: int, count: int, hashed: int
) -> tuple[int, int, int]:
    # Node 0 is a free place. It stops where the table is half full, for the caller to grow it.
    keys, nodes, direct = tables
    mask = len(keys) - 1
    shift = np.uint64(64 - _bits(len(keys)))
    for i in range(done, len(objects)):
        thing = objects[i]
        if 0 <= thing < len(direct):
            node = direct[thing]
            if node == 0:
                node = count
                direct[thing] = node
                count += 1
            found[i] = node
            continue
        at = np.int64((np.uint64(thing) * _SPREAD) >> shift)
        while nodes[at] != 0 and keys[at] != thing:
            at = (at + 1) & mask
        if nodes[at] == 0:
            if 2 * hashed >= len(keys):
                return i, count, hashed
            keys[at] = thing
            nodes[at] = count
            count += 1
            hashed += 1
        found[i] = nodes[at]
    return len(objects), count, hashed


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
