"""Kernel: a plan with addresses made better stay by stay, where tensors stay long and many lie side by side.

A gap between two uses in which a tensor is out is closed where the two stays, made one, find a free place. Where they
find none they take one, and what lay there is put elsewhere, in parts if need be; what has cost more than it brought
is taken back. Gaps are first closed in the order of the room that they take, the least first: so much is saved for it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from hw_configs.compiled import compiled, inlined
from mapping.scheduling.address_search import cost_of_layouts

__all__ = ["close_gaps"]

_TRIES: Final = 12
"""Places looked at for a stay that finds none that is free."""
_MOST_DISPLACED: Final = 24


class _Board(NamedTuple):
    """Per entry of the tables: its step, the entry before and after of the same tensor (-1: none), whether it is kept
    until the next; and of an entry with which a stay begins, its offset and the step after the stay (else 0).
    ``reach``: no stay is longer.

    ``log`` and ``logged``: what was changed since the last decision, to take it back.
    """

    step: Any
    before: Any
    after: Any
    kept: Any
    at: Any
    end: Any
    reach: Any
    log: Any
    logged: Any


@compiled
def _board(g, at, kept):  # type: ignore[no-untyped-def]
    n, entries = len(g.need_at) - 1, len(g.need)
    step, before = np.zeros(entries, np.int64), np.full(entries, -1)
    after, end = np.full(entries, -1), np.zeros(entries, np.int64)
    last = np.full(len(g.size), -1)
    for s in range(n):
        for j in range(g.need_at[s], g.need_at[s + 1]):
            step[j] = s
            before[j] = last[g.need[j]]
            if before[j] >= 0:
                after[before[j]] = j
            last[g.need[j]] = j
    for j in range(entries - 1, -1, -1):
        end[j] = end[after[j]] if kept[j] != 0 else step[j] + 1
        if kept[j] != 0:
            end[after[j]] = 0
    reach = np.full(1, max(np.int64(1), (end - step).max()))
    return _Board(
        step, before, after, kept.astype(np.int64), at.astype(np.int64), end, reach, np.zeros((1 << 12, 4), np.int64),
        np.zeros(1, np.int64),
    )  # fmt: skip


@inlined
def _save(x, j):  # type: ignore[no-untyped-def]
    k = x.logged[0]
    x.log[k, 0] = j
    x.log[k, 1] = x.kept[j]
    x.log[k, 2] = x.at[j]
    x.log[k, 3] = x.end[j]
    x.logged[0] = k + 1


@compiled
def _take_back(x, mark):  # type: ignore[no-untyped-def]
    for k in range(x.logged[0] - 1, mark - 1, -1):
        j = x.log[k, 0]
        x.kept[j] = x.log[k, 1]
        x.at[j] = x.log[k, 2]
        x.end[j] = x.log[k, 3]
    x.logged[0] = mark


@compiled
def _beside(g, x, begin, end, near, low):  # type: ignore[no-untyped-def]
    """Stays that share a step with [begin, end), by offset in ``near``; their number."""
    found = 0
    for j in range(g.need_at[max(begin - x.reach[0], 0)], g.need_at[end]):
        if x.end[j] > begin and x.at[j] >= 0:
            near[found] = j
            low[found] = x.at[j]
            found += 1
    order = np.argsort(low[:found])
    near[:found] = near[:found][order]
    return found


@compiled
def _free_place(g, x, near, found, size, capacity):  # type: ignore[no-untyped-def]
    """The lowest free offset beside stays in order of offset, or -1."""
    top = np.int64(0)
    for k in range(found):
        j = near[k]
        if x.at[j] - top >= size:
            return top
        top = max(top, x.at[j] + g.size[g.need[j]])
    return top if capacity - top >= size else np.int64(-1)


@compiled
def _settle(g, x, j, capacity, near, low, queue):  # type: ignore[no-untyped-def]
    """Place a stay that lies nowhere, in parts if need be; False when some use of it finds no place."""
    waiting = 1
    queue[0] = j
    while waiting > 0:
        waiting -= 1
        j = queue[waiting]
        found = _beside(g, x, x.step[j], x.end[j], near, low)
        place = _free_place(g, x, near, found, g.size[g.need[j]], capacity)
        if place >= 0:
            x.at[j] = place
            continue
        longest, cut, e = 0, -1, j
        while x.kept[e] != 0:
            length = x.step[x.after[e]] - x.step[e]
            if length > longest:
                longest, cut = length, e
            e = x.after[e]
        if cut < 0 or x.logged[0] + 4 > len(x.log) or waiting + 2 > len(queue):
            return False
        second = x.after[cut]
        _save(x, cut)
        _save(x, second)
        _save(x, j)
        x.end[second] = x.end[j]
        x.at[second] = -1
        x.end[j] = x.step[cut] + 1
        x.kept[cut] = 0
        queue[waiting] = second
        queue[waiting + 1] = j
        waiting += 2
    return True


@compiled
def _close(g, x, j, capacity, push, scratch):  # type: ignore[no-untyped-def]
    """Close the gap after entry ``j``; False when there is no place. ``push``: others may be put elsewhere."""
    near, low, moved, queue = scratch
    second = x.after[j]
    first = j
    while x.before[first] >= 0 and x.kept[x.before[first]] != 0:
        first = x.before[first]
    _save(x, first)
    _save(x, second)
    _save(x, j)
    x.end[first] = x.end[second]
    x.end[second] = 0
    x.kept[j] = 1
    x.at[first] = -1
    x.reach[0] = max(x.reach[0], x.end[first] - x.step[first])
    begin, end, size = x.step[first], x.end[first], g.size[g.need[j]]
    found = _beside(g, x, begin, end, near, low)
    place = _free_place(g, x, near, found, size, capacity)
    if place >= 0 or not push:
        x.at[first] = place
        return place >= 0
    least = 1e300
    for _ in range(_TRIES):
        k = np.random.randint(0, found)
        try_at = x.at[near[k]] + (g.size[g.need[near[k]]] if np.random.random() < 0.5 else 0)
        if np.random.random() < 0.25:
            try_at -= size
        try_at = min(max(try_at, 0), capacity - size)
        area, many = 0.0, 0
        for q in range(found):
            i = near[q]
            if x.at[i] < try_at + size and try_at < x.at[i] + g.size[g.need[i]]:
                area += g.size[g.need[i]] * (x.end[i] - x.step[i])
                many += 1
        if many <= _MOST_DISPLACED and area * (0.5 + np.random.random()) < least:
            least, place = area, try_at
    if place < 0:
        return False
    count = 0
    for q in range(found):
        i = near[q]
        if x.at[i] < place + size and place < x.at[i] + g.size[g.need[i]]:
            _save(x, i)
            x.at[i] = -1
            moved[count] = i
            count += 1
    x.at[first] = place
    # Short stays have the least choice of time: the longest goes first, as it needs the most luck.
    weight = np.empty(count, np.int64)
    for q in range(count):
        weight[q] = -(x.end[moved[q]] - x.step[moved[q]]) * g.size[g.need[moved[q]]]
    for q in np.argsort(weight):  # noqa: SIM110 (compiled)
        if not _settle(g, x, moved[q], capacity, near, low, queue):
            return False
    return True


@compiled
def _gain(g, x):  # type: ignore[no-untyped-def]
    """Units that the changes since the last decision save."""
    gain = 0
    for k in range(x.logged[0]):
        e = x.log[k, 0]
        t, fresh = g.need[e], True
        for q in range(k):
            fresh = fresh and g.need[x.log[q, 0]] != t
        if not fresh:
            continue
        while x.before[e] >= 0:
            e = x.before[e]
        now, earlier = 0, 0
        while x.after[e] >= 0:
            was = x.kept[e]
            for q in range(x.logged[0]):
                if x.log[q, 0] == e:
                    was = x.log[q, 1]
                    break
            now += 1 - x.kept[e]
            earlier += 1 - was
            e = x.after[e]
        written = 1 - g.copy_free[t]
        gain += g.size[t] * (earlier - now + written * ((earlier > 0) - (now > 0)))
    return gain


@compiled
def close_gaps(g, capacity, first_pass, rounds, at, kept, seed, stop):  # type: ignore[no-untyped-def]
    """Improve a plan in place; (its cost, rounds made). Nothing may be written in place. Ends once ``stop`` is set.

    ``first_pass``: entries whose gaps are closed first where a place is free, in this order; then come ``rounds`` gaps
    by chance.
    """
    np.random.seed(seed)
    x = _board(g, at, kept)
    entries = len(g.need)
    near, low = np.zeros(entries, np.int64), np.zeros(entries, np.int64)
    scratch = (near, low, np.zeros(_MOST_DISPLACED, np.int64), np.zeros(256, np.int64))
    for j in first_pass:
        if stop[0] != 0:
            break
        if x.kept[j] == 0 and x.after[j] >= 0 and not _close(g, x, j, capacity, False, scratch):
            _take_back(x, 0)
        x.logged[0] = 0
    longest = 1
    for j in range(entries):
        if x.kept[j] != 0:
            longest = max(longest, x.step[x.after[j]] - x.step[j])
    open_gaps = np.zeros(entries, np.int64)
    made = 0
    while made < rounds and stop[0] == 0:
        count = 0
        for j in range(entries):
            if x.after[j] >= 0 and x.kept[j] == 0 and x.step[x.after[j]] - x.step[j] <= longest:
                open_gaps[count] = j
                count += 1
        if count == 0:
            break
        for _ in range(min(count, rounds - made)):
            if stop[0] != 0:
                break
            made += 1
            j = open_gaps[np.random.randint(0, count)]
            for _ in range(2):
                # Of several, the one that takes the least time.
                k = open_gaps[np.random.randint(0, count)]
                if x.step[x.after[k]] - x.step[k] < x.step[x.after[j]] - x.step[j]:
                    j = k
            if x.kept[j] != 0:
                continue
            x.logged[0] = 0
            done = _close(g, x, j, capacity, True, scratch)
            if not done or _gain(g, x) < 0:
                _take_back(x, 0)
    for j in range(entries):
        kept[j] = x.kept[j]
        if x.end[j] > 0:
            e = j
            at[e] = x.at[j]
            while x.kept[e] != 0:
                e = x.after[e]
                at[e] = x.at[j]
    return cost_of_layouts(g, kept), made
