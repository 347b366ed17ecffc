"""Which storages are in use at one moment, how far apart they then lie, and the most bytes that no two of them share.

One sweep over spans in order of their begin, compiled, for problems of many thousands of buffers: the pairs of a model
under rules are listed here, and its bound is found. Both look at the solve's flag and end with
:class:`mapping.deadline.OutOfTimeError` once it is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.deadline import OutOfTimeError

__all__ = ["Spans", "distances", "most_apart"]

Ints = NDArray[np.int64]
_ROWS = 1 << 16


class Spans(NamedTuple):
    """Columns of spans, ``lower`` rising: life, window of bytes, the storage and the buffer that each belongs to.

    ``free_buffers``, ``free_storages``: pairs that may share bytes, as sorted numbers a * 2**31 + b, both ways round;
    ``special``: whether a span's buffer or storage is in any of them.
    """

    lower: Ints
    upper: Ints
    window_lower: Ints
    window_upper: Ints
    storage: Ints
    buffer: Ints
    free_buffers: Ints
    free_storages: Ints
    special: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        rows: Iterable[tuple[int, int, int, int, int, int]],
        free_buffers: Iterable[tuple[int, int]],
        free_storages: Iterable[tuple[int, int]],
    ) -> Spans:
        """Spans from rows in the order of the columns; pairs may be given one way round."""
        table = np.array(sorted(rows), np.int64).reshape(-1, 6)
        buffers, storages = list(free_buffers), list(free_storages)
        special = np.isin(table[:, 5], np.array(buffers, np.int64).ravel())
        special |= np.isin(table[:, 4], np.array(storages, np.int64).ravel())
        lower, upper, low, high, storage, buffer = (np.ascontiguousarray(column) for column in table.T)
        return cls(
            lower, upper, low, high, storage, buffer, _numbers(buffers), _numbers(storages), special
        )  # fmt: skip


def _numbers(pairs: list[tuple[int, int]]) -> Ints:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    one, two = table.T
    return np.unique(np.concatenate([one << 31 | two, two << 31 | one]))


@compiled
def _is_listed(numbers, a, b):  # type: ignore[no-untyped-def]
    """Whether a pair is one of the sorted numbers."""
    wanted = (a << 31) | b
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < len(numbers) and numbers[low] == wanted


@compiled
def _may_share(spans, p, q):  # type: ignore[no-untyped-def]
    """Whether two spans may share bytes."""
    if spans.storage[p] == spans.storage[q]:
        return True
    if not (spans.special[p] and spans.special[q]):
        return False
    return _is_listed(spans.free_buffers, spans.buffer[p], spans.buffer[q]) or _is_listed(
        spans.free_storages, spans.storage[p], spans.storage[q]
    )


@compiled
def _meet(spans, most, stop):  # type: ignore[no-untyped-def]
    """Rows (a, b, up, down) of spans that meet and may not share, and how the sweep ended.

    0: whole, 1: more than ``most`` rows, 2: stopped.
    """
    n = len(spans.lower)
    rows = np.empty((_ROWS, 4), np.int64)
    alive = np.empty(n, np.int64)
    count = 0
    found = 0
    for p in range(n):
        if stop[0] != 0:
            return rows[:found], 2
        kept = 0
        for k in range(count):
            q = alive[k]
            if spans.upper[q] <= spans.lower[p]:
                continue
            alive[kept] = q
            kept += 1
            if _may_share(spans, p, q):
                continue
            if found == most:
                return rows[:found], 1
            if found == len(rows):
                longer = np.empty((2 * found, 4), np.int64)
                longer[:found] = rows
                rows = longer
            a, b = (p, q) if spans.storage[p] < spans.storage[q] else (q, p)
            rows[found, 0] = spans.storage[a]
            rows[found, 1] = spans.storage[b]
            rows[found, 2] = spans.window_upper[a] - spans.window_lower[b]
            rows[found, 3] = spans.window_upper[b] - spans.window_lower[a]
            found += 1
        alive[kept] = p
        count = kept + 1
    return rows[:found], 0


@compiled
def _most(spans, stop):  # type: ignore[no-untyped-def]
    """Most bytes at the begin of a span of which no two may share any, the tallest first; -1 where stopped."""
    n = len(spans.lower)
    alive = np.empty(n, np.int64)
    chosen = np.empty(n, np.int64)
    taken_at = np.full(spans.storage.max() + 1 if n > 0 else 0, np.int64(-1))
    height = spans.window_upper - spans.window_lower
    count = 0
    most = np.int64(0)
    for p in range(n):
        if stop[0] != 0:
            return np.int64(-1)
        kept = 0
        place = 0
        for k in range(count):
            q = alive[k]
            if spans.upper[q] <= spans.lower[p]:
                continue
            alive[kept] = q
            kept += 1
            if height[q] > height[p] or (height[q] == height[p] and spans.storage[q] <= spans.storage[p]):
                place = kept
        for k in range(kept, place, -1):
            alive[k] = alive[k - 1]
        alive[place] = p
        count = kept + 1
        if p + 1 < n and spans.lower[p + 1] == spans.lower[p]:
            continue
        total = np.int64(0)
        picked = 0
        for k in range(count):
            q = alive[k]
            if taken_at[spans.storage[q]] == p:
                continue
            free = True
            if spans.special[q]:
                for c in range(picked):
                    if _may_share(spans, q, chosen[c]):
                        free = False
                        break
            if not free:
                continue
            taken_at[spans.storage[q]] = p
            total += height[q]
            if spans.special[q]:
                chosen[picked] = q
                picked += 1
        most = max(most, total)
    return most


def distances(spans: Spans, extra: Ints, most: int, stop: Ints) -> Ints | None:
    """Rows (a, b, up, down), a < b and rising, of storages that meet; None for more than ``most`` meetings.

    ``up`` is the least distance of offsets where a lies below b, ``down`` where it lies above, each the largest over
    all their spans. ``extra``: such rows that hold beside. Raises ``OutOfTimeError``.
    """
    met, end = _meet(spans, most, stop)
    if end == 2:
        raise OutOfTimeError
    if end == 1:
        return None
    rows = np.concatenate([met, extra.reshape(-1, 4)])
    rows = rows[np.argsort(rows[:, 0] << 31 | rows[:, 1], kind="stable")]
    if not len(rows):
        return rows
    begins = np.flatnonzero(np.r_[True, (rows[1:, :2] != rows[:-1, :2]).any(axis=1)])
    whole: Ints = np.column_stack([rows[begins, :2], np.maximum.reduceat(rows[:, 2:], begins, axis=0)])
    return whole


def most_apart(spans: Spans, stop: Ints) -> int:
    """Most bytes at one moment of spans of which no two may share any, the tallest first: no plan is lower.

    Raises ``OutOfTimeError``.
    """
    most = int(_most(spans, stop))
    if most < 0:
        raise OutOfTimeError
    return most
