"""Kernel: all sets of operators that can be done together (down-sets), and the least peak still to come from each.

From a down-set, every way to the end passes some step at which at least so many bytes are alive, dropped or not:
the bottleneck of the best path. From the empty set that is M_P. In a search at a smaller capacity it bounds what
must be off-chip at that step, whatever the order. The number of down-sets grows with the network's parallelism
(some hundreds for a chain of blocks, millions for random wiring); beyond a limit there is no table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.scheduling.instance import WORD_BITS, Instance

__all__ = ["DownSetTables", "DownSets", "build_down_sets", "find_down_set", "no_down_sets"]

Ints = NDArray[np.int64]


class DownSetTables(NamedTuple):
    """What kernels read of :class:`DownSets`."""

    done: Ints
    peak_ahead: Ints
    table: Ints


@dataclass(frozen=True, eq=False)
class DownSets:
    """Bit sets of operators done, the least peak in bytes still to come, and a hash table of rows."""

    done: Ints
    peak_ahead: Ints
    table: Ints

    def __len__(self) -> int:
        return len(self.peak_ahead)

    @property
    def tables(self) -> DownSetTables:
        """The arrays that kernels take."""
        return DownSetTables(self.done, self.peak_ahead, self.table)


def no_down_sets(instance: Instance) -> DownSets:
    """An empty table, in which nothing is found."""
    return DownSets(np.zeros((0, instance.before.shape[1]), np.int64), np.zeros(0, np.int64), np.full(1, -1))


def build_down_sets(instance: Instance, limit: int, stop: Ints | None = None) -> DownSets:
    """The table of an instance, or an empty one when there are more than ``limit`` down-sets."""
    done, peak, table = _enumerate(instance.tables, limit, np.zeros(1, np.int64) if stop is None else stop)
    return DownSets(done, peak, table) if len(peak) else no_down_sets(instance)


@compiled(inline="always")
def _slot(done: Any, words: int, mask: int) -> Any:
    h = np.int64(1469598103934665603)
    for w in range(words):
        h = (h ^ done[w]) * np.int64(1099511628211)
        h ^= (h >> np.int64(29)) & np.int64(0x7FFFFFFFF)
    return h & mask


@compiled
def find_down_set(done: Any, rows: Any, table: Any) -> Any:
    """The row of a bit set, -1 when it is not in the table."""
    words = rows.shape[1]
    mask = len(table) - 1
    at = _slot(done, words, mask)
    while table[at] >= 0:
        row = table[at]
        same = True
        for w in range(words):
            if rows[row, w] != done[w]:
                same = False
                break
        if same:
            return row
        at = (at + 1) & mask
    return -1


@compiled
def _enumerate(g: Any, limit: int, stop: Any) -> Any:
    """Bit sets, least peaks ahead and hash table of all down-sets; empty when there are more than ``limit``."""
    size, before, producer, readers = g.size, g.before, g.producer, g.readers
    input_at, inputs, output_at, outputs = g.input_at, g.inputs, g.output_at, g.outputs
    n, words = before.shape
    slots = 256
    while slots < 2 * (limit + 2):
        slots *= 2
    table = np.full(slots, -1, np.int64)
    rows = np.zeros((1024, words), np.int64)
    live = np.zeros(1024, np.int64)
    count = 1
    table[_slot(rows[0], words, slots - 1)] = 0
    child = np.zeros(words, np.int64)
    s = 0
    none = (np.zeros((0, words), np.int64), np.zeros(0, np.int64), np.full(1, -1, np.int64))
    while s < count:
        if count > limit or ((s & 255) == 0 and stop[0] != 0):
            return none
        for o in range(n):
            if not _is_ready(rows[s], o, before):
                continue
            for w in range(words):
                child[w] = rows[s, w]
            child[o // WORD_BITS] |= 1 << (o % WORD_BITS)
            if find_down_set(child, rows, table) >= 0:
                continue
            if count == len(live):
                wider = np.zeros((2 * count, words), np.int64)
                wider[:count] = rows
                rows = wider
                longer = np.zeros(2 * count, np.int64)
                longer[:count] = live
                live = longer
            rows[count] = child
            after = live[s]
            for i in range(input_at[o], input_at[o + 1]):
                t = inputs[i]
                exists = _exists(t, rows[s], producer, readers)
                ends = True
                for w in range(words):
                    if readers[t, w] & ~child[w] != 0:
                        ends = False
                if exists and ends:
                    after -= size[t]
                elif not exists and not ends:
                    after += size[t]
            for k in range(output_at[o], output_at[o + 1]):
                after += size[outputs[k]]
            live[count] = after
            at = _slot(child, words, slots - 1)
            while table[at] >= 0:
                at = (at + 1) & (slots - 1)
            table[at] = count
            count += 1
        s += 1
    # Children have one operator more and stand later: go backwards.
    peak = np.zeros(count, np.int64)
    for s in range(count - 1, -1, -1):
        if (s & 255) == 0 and stop[0] != 0:
            return none
        best = np.int64(1) << 62
        for o in range(n):
            if not _is_ready(rows[s], o, before):
                continue
            for w in range(words):
                child[w] = rows[s, w]
            child[o // WORD_BITS] |= 1 << (o % WORD_BITS)
            during = live[s] + g.least[o]
            for i in range(input_at[o], input_at[o + 1]):
                if _exists(inputs[i], rows[s], producer, readers):
                    during -= size[inputs[i]]
            best = min(best, max(during, peak[find_down_set(child, rows, table)]))
        peak[s] = best if best < np.int64(1) << 62 else 0
    return rows[:count].copy(), peak, table


@compiled
def _is_ready(done: Any, o: int, before: Any) -> bool:
    if (done[o // WORD_BITS] >> (o % WORD_BITS)) & 1 != 0:
        return False
    for w in range(before.shape[1]):  # noqa: SIM110 (numba)
        if before[o, w] & ~done[w] != 0:
            return False
    return True


@compiled
def _exists(t: int, done: Any, producer: Any, readers: Any) -> Any:
    """Whether a tensor that is still wanted has been made, or brought in by its first reader."""
    if producer[t] >= 0:
        return (done[producer[t] // WORD_BITS] >> (producer[t] % WORD_BITS)) & 1 != 0
    for w in range(readers.shape[1]):  # noqa: SIM110 (numba)
        if readers[t, w] & done[w] != 0:
            return True
    return False
