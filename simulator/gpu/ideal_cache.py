"""What a fully associative cache moves on a trace of accesses: under LRU, and under optimal replacement.

The two ends between which a real cache lies. Optimal replacement drops the line whose next use is farthest
(Belady, IBM Systems Journal 5(2), 1966), which is least for loads; a line that was written goes back to memory
when it is dropped, and at the end. The I/O complexity of an algorithm is stated in such loads and stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled

__all__ = ["Traffic", "lru_traffic", "optimal_traffic"]

Trace = NDArray[np.int64]
Writes = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Lines loaded from memory and stored to it."""

    loads: int
    stores: int

    @property
    def total(self) -> int:
        """Loads and stores."""
        return self.loads + self.stores


def lru_traffic(trace: Trace, writes: Writes, lines: int) -> Traffic:
    """Traffic of a cache of ``lines`` lines that drops the line used longest ago.

    ``trace`` holds line numbers from 0, ``writes`` says which accesses write. A line that is first touched by a
    write is made, not loaded. Raises ``ValueError`` for fewer than one line.
    """
    _insist(lines)
    return Traffic(*map(int, _lru(trace, writes, lines, _count(trace))))


def optimal_traffic(trace: Trace, writes: Writes, lines: int) -> Traffic:
    """The same with the line dropped whose next use is farthest; see :func:`lru_traffic`."""
    _insist(lines)
    return Traffic(*map(int, _optimal(trace, writes, lines, _count(trace))))


def _insist(lines: int) -> None:
    if lines < 1:
        raise ValueError(f"a cache has at least one line; found {lines}")


def _count(trace: Trace) -> int:
    return int(trace.max()) + 1 if len(trace) else 0


@compiled
def _lru(trace: Any, writes: Any, lines: int, count: int) -> tuple[int, int]:
    # A doubly linked list over line numbers; entry ``count`` is its head: after it the newest, before it the oldest.
    after = np.full(count + 1, -1, dtype=np.int64)
    before = np.full(count + 1, -1, dtype=np.int64)
    after[count] = before[count] = count
    dirty = np.zeros(count, dtype=np.bool_)
    made = np.zeros(count, dtype=np.bool_)
    held = loads = stores = 0
    for i in range(len(trace)):
        line = trace[i]
        if after[line] >= 0:
            after[before[line]], before[after[line]] = after[line], before[line]
        else:
            if held == lines:
                old = before[count]
                after[before[old]], before[count] = count, before[old]
                after[old] = -1
                stores += dirty[old]
                dirty[old] = False
            else:
                held += 1
            loads += made[line] or not writes[i]
            made[line] = True
        first = after[count]
        after[line], before[line] = first, count
        before[first] = after[count] = line
        dirty[line] |= writes[i]
    for line in range(count):
        stores += dirty[line]
    return loads, stores


@compiled
def _optimal(trace: Any, writes: Any, lines: int, count: int) -> tuple[int, int]:
    n = len(trace)
    following = np.empty(n, dtype=np.int64)
    seen = np.full(count, n, dtype=np.int64)
    for i in range(n - 1, -1, -1):
        following[i] = seen[trace[i]]
        seen[trace[i]] = i
    # A heap of (next use, line), farthest on top; entries that a later access made stale are passed over.
    uses = np.empty(n + 1, dtype=np.int64)
    whose = np.empty(n + 1, dtype=np.int64)
    size = 0
    due = np.full(count, -1, dtype=np.int64)
    dirty = np.zeros(count, dtype=np.bool_)
    made = np.zeros(count, dtype=np.bool_)
    held = loads = stores = 0
    for i in range(n):
        line = trace[i]
        if due[line] < 0:
            if held == lines:
                while due[whose[0]] != uses[0]:
                    size = _pop(uses, whose, size)
                old = whose[0]
                size = _pop(uses, whose, size)
                due[old] = -1
                stores += dirty[old]
                dirty[old] = False
            else:
                held += 1
            loads += made[line] or not writes[i]
            made[line] = True
        due[line] = following[i]
        dirty[line] |= writes[i]
        size = _push(uses, whose, size, following[i], line)
    for line in range(count):
        stores += dirty[line]
    return loads, stores


@compiled
def _push(uses: Any, whose: Any, size: int, use: int, line: int) -> int:
    at = size
    while at > 0 and uses[(at - 1) // 2] < use:
        uses[at], whose[at] = uses[(at - 1) // 2], whose[(at - 1) // 2]
        at = (at - 1) // 2
    uses[at], whose[at] = use, line
    return size + 1


@compiled
def _pop(uses: Any, whose: Any, size: int) -> int:
    size -= 1
    use, line = uses[size], whose[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and uses[child + 1] > uses[child]:
            child += 1
        if uses[child] <= use:
            break
        uses[at], whose[at] = uses[child], whose[child]
        at = child
    uses[at], whose[at] = use, line
    return size
