"""Greedy placing: go through the buffers in some order, put each at the first or the tightest place that fits.

A portfolio of orders and a seeded local search over orders give the upper bound of every solve. Orders follow
what planners in use do: by size (TensorFlow Lite, ExecuTorch), by area, by duration, by start, by breadth.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.allocation.instance import MOST_CELLS, Component, Instance

__all__ = ["ORDERS", "compact", "greedy_orders", "pack", "pack_windowed", "peak_units", "place_in_order"]

Ints = NDArray[np.int64]

SPARSE_FROM = 4000
"""Buffers from which those alive together are looked up by stretches of time."""

_FEW = 256
"""Neighbours up to which sorting by insertion is the quicker way."""

ORDERS = ("size", "area", "duration", "start", "breadth", "section")


@compiled
def pack(first, last, size, align, fixed, order, best_fit, give_up_at):  # type: ignore[no-untyped-def]
    """Offsets of buffers with full windows, placed one by one; fixed ones first.

    Placed buffers are kept in order of address, so that one pass finds all holes between those alive together
    with the new one. Stops with an empty array once a top exceeds ``give_up_at``.
    """
    n = len(order)
    offset = np.full(n, np.int64(-1))
    sorted_low = np.empty(n, np.int64)
    sorted_high = np.empty(n, np.int64)
    sorted_first = np.empty(n, np.int64)
    sorted_last = np.empty(n, np.int64)
    count = 0
    for turn in range(2 * n):
        j = order[turn % n]
        if (fixed[j] >= 0) != (turn < n):
            continue
        at = fixed[j]
        if at < 0:
            low = np.int64(0)
            best = np.int64(-1)
            best_room = np.int64(2**62)
            for p in range(count):
                if sorted_first[p] >= last[j] or sorted_last[p] <= first[j]:
                    continue
                if sorted_low[p] > low:
                    start = (low + align[j] - 1) // align[j] * align[j]
                    room = sorted_low[p] - start
                    if room >= size[j] and room < best_room:
                        best_room = room
                        best = start
                        if not best_fit:
                            break
                low = max(low, sorted_high[p])
            at = best
            if at < 0:
                at = (low + align[j] - 1) // align[j] * align[j]
        if at + size[j] > give_up_at:
            return np.empty(0, np.int64)
        offset[j] = at
        p = count
        while p > 0 and sorted_low[p - 1] > at:
            sorted_low[p] = sorted_low[p - 1]
            sorted_high[p] = sorted_high[p - 1]
            sorted_first[p] = sorted_first[p - 1]
            sorted_last[p] = sorted_last[p - 1]
            p -= 1
        sorted_low[p] = at
        sorted_high[p] = at + size[j]
        sorted_first[p] = first[j]
        sorted_last[p] = last[j]
        count += 1
    return offset


@compiled
def _sort_few(key, item, count):  # type: ignore[no-untyped-def]
    """Sort items by their keys, both in place, equal ones as they stand: by insertion, quick for some dozens."""
    for p in range(1, count):
        low, moved = key[p], item[p]
        at = p
        while at > 0 and key[at - 1] > low:
            key[at] = key[at - 1]
            item[at] = item[at - 1]
            at -= 1
        key[at] = low
        item[at] = moved


@compiled
def pack_sparse(inst, order, best_fit, width, stop):  # type: ignore[no-untyped-def]
    """The offsets of :func:`pack`, for many buffers of which few are alive together.

    Time is cut into stretches of ``width`` sections, and a placed buffer is listed in each one that it touches. Once
    ``stop`` is set, what is left is stacked on top: a plan that holds, of no merit.
    """
    first, last, size, align, fixed = inst.first, inst.last, inst.size, inst.align, inst.fixed
    n = len(order)
    offset = np.full(n, np.int64(-1))
    stretches = np.int64(0)
    links = np.int64(0)
    for j in range(n):
        stretches = max(stretches, (last[j] - 1) // width + 1)
        links += (last[j] - 1) // width - first[j] // width + 1
    ptr = np.zeros(stretches + 1, np.int64)
    for j in range(n):
        for k in range(first[j] // width, (last[j] - 1) // width + 1):
            ptr[k + 1] += 1
    for k in range(stretches):
        ptr[k + 1] += ptr[k]
    fill = ptr[:-1].copy()
    # Side by side, for reading them one by one from all over the memory takes most of the time.
    life = np.empty((links, 2), np.int64)
    bytes_of = np.empty((links, 2), np.int64)
    low_of = np.empty(n, np.int64)
    high_of = np.empty(n, np.int64)
    top = np.int64(0)
    for turn in range(2 * n):
        j = order[turn % n]
        if (fixed[j] >= 0) != (turn < n):
            continue
        at = fixed[j]
        begin, end = first[j] // width, (last[j] - 1) // width
        if at < 0 and stop[0] != 0:
            at = (top + align[j] - 1) // align[j] * align[j]
        elif at < 0:
            found = 0
            for k in range(begin, end + 1):
                for e in range(ptr[k], fill[k]):
                    # Listed in several stretches of both lives, it counts in the first of them.
                    if (
                        life[e, 0] < last[j]
                        and first[j] < life[e, 1]
                        and k == max(begin, life[e, 0] // width)
                    ):
                        low_of[found] = bytes_of[e, 0]
                        high_of[found] = bytes_of[e, 1]
                        found += 1
            if found > _FEW:
                by_low = np.argsort(low_of[:found], kind="mergesort")
                low_of[:found], high_of[:found] = low_of[by_low], high_of[by_low]
            else:
                _sort_few(low_of, high_of, found)
            low = np.int64(0)
            best_room = np.int64(2**62)
            for p in range(found):
                if low_of[p] > low:
                    start = (low + align[j] - 1) // align[j] * align[j]
                    room = low_of[p] - start
                    if room >= size[j] and room < best_room:
                        best_room = room
                        at = start
                        if not best_fit:
                            break
                low = max(low, high_of[p])
            if at < 0:
                at = (low + align[j] - 1) // align[j] * align[j]
        offset[j] = at
        top = max(top, at + size[j])
        for k in range(begin, end + 1):
            life[fill[k], 0] = first[j]
            life[fill[k], 1] = last[j]
            bytes_of[fill[k], 0] = at
            bytes_of[fill[k], 1] = at + size[j]
            fill[k] += 1
    return offset


@compiled
def pack_by_start(first, last, size, align, best_fit, stop):  # type: ignore[no-untyped-def]
    """Offsets of buffers without pins that are placed in the order in which their lives begin.

    ``first`` rises. Only those alive are looked at, so that a million of them take seconds; the peak is often a few
    per cent above that of the orders by size. Once ``stop`` is set, what is left is stacked on top.
    """
    n = len(first)
    offset = np.empty(n, np.int64)
    alive = np.empty(n, np.int64)
    count = 0
    top = np.int64(0)
    for j in range(n):
        if stop[0] != 0:
            offset[j] = (top + align[j] - 1) // align[j] * align[j]
            top = offset[j] + size[j]
            continue
        low = np.int64(0)
        at = np.int64(-1)
        best_room = np.int64(2**62)
        kept = 0
        place = 0
        for p in range(count):
            i = alive[p]
            if last[i] <= first[j]:
                continue
            if offset[i] > low and (at < 0 or best_fit):
                start = (low + align[j] - 1) // align[j] * align[j]
                room = offset[i] - start
                if room >= size[j] and room < best_room:
                    best_room = room
                    at = start
                    place = kept
            low = max(low, offset[i] + size[i])
            alive[kept] = i
            kept += 1
        if at < 0:
            at = (low + align[j] - 1) // align[j] * align[j]
            place = kept
        offset[j] = at
        top = max(top, at + size[j])
        for p in range(kept, place, -1):
            alive[p] = alive[p - 1]
        alive[place] = j
        count = kept + 1
    return offset


@compiled
def pack_windowed(inst, order):  # type: ignore[no-untyped-def]
    """Offsets by first fit for buffers with gaps: each neighbour bars an open interval of offsets."""
    n = len(order)
    offset = np.full(n, np.int64(-1))
    reach = np.empty(n, np.int64)
    lows = np.empty(n, np.int64)
    highs = np.empty(n, np.int64)
    for turn in range(2 * n):
        j = order[turn % n]
        if (inst.fixed[j] >= 0) != (turn < n):
            continue
        if inst.fixed[j] >= 0:
            offset[j] = inst.fixed[j]
            continue
        for q in range(inst.near_ptr[j], inst.near_ptr[j + 1]):
            reach[inst.near[q]] = inst.above[q]
        count = 0
        for k in range(n):
            if offset[k] < 0:
                continue
            for q in range(inst.near_ptr[k], inst.near_ptr[k + 1]):
                if inst.near[q] == j:
                    lows[count] = offset[k] - reach[k]
                    highs[count] = offset[k] + inst.above[q]
                    count += 1
        at = np.int64(0)
        moved = True
        while moved:
            moved = False
            for q in range(count):
                if lows[q] < at < highs[q]:
                    at = (highs[q] + inst.align[j] - 1) // inst.align[j] * inst.align[j]
                    moved = True
        offset[j] = at
    return offset


@compiled
def improve(inst, unit, true_size, order, target, rounds, seed, stop):  # type: ignore[no-untyped-def]
    """Local search over orders: move a buffer at the peak, or any two, and keep what is not worse.

    ``true_size``: bytes of each buffer; ``unit``: bytes of one unit of the instance's sizes. Returns (order, offsets,
    peak in bytes). Stops at ``target`` bytes.
    """
    first, last, size, align, fixed = inst.first, inst.last, inst.size, inst.align, inst.fixed
    np.random.seed(seed)
    n = len(order)
    best = pack(first, last, size, align, fixed, order, False, np.int64(2**62))
    best_peak = (best * unit + true_size).max()
    for _ in range(rounds):
        if best_peak <= target or stop[0]:
            break
        trial = order.copy()
        moves = 1 + np.random.randint(0, 3)
        for _move in range(moves):
            a = np.random.randint(0, n)
            if np.random.random() < 0.5:
                # A buffer that ends near the peak comes earlier.
                tops = best * unit + true_size
                for _try in range(8):
                    if tops[order[a]] * 20 >= best_peak * 19:
                        break
                    a = np.random.randint(0, n)
            b = np.random.randint(0, n)
            low, high = min(a, b), max(a, b)
            moved = trial[high]
            for p in range(high, low, -1):
                trial[p] = trial[p - 1]
            trial[low] = moved
        found = pack(
            first, last, size, align, fixed, trial, np.random.random() < 0.1, (best_peak // unit) + size.max()
        )
        if len(found) == 0:
            continue
        peak = (found * unit + true_size).max()
        if peak <= best_peak:
            best_peak = peak
            best = found
            order = trial
    return order, best, best_peak


def greedy_orders(instance: Instance) -> Iterator[tuple[str, Ints]]:
    """The portfolio's orders, ties broken by area, size and position."""
    size, first, last = instance.size, instance.first, instance.last
    life = last - first
    area = size * life
    totals = section_totals(instance)
    breadth = totals[first]
    if int(life.sum()) <= MOST_CELLS:
        breadth = np.maximum.reduceat(totals[_lives(instance)], np.cumsum(life) - life)
    position = np.arange(len(size))
    near = np.diff(instance.near_ptr) if len(instance.near_ptr) > 1 else position * 0
    keys = {
        "size": (-size, -area),
        "area": (-area, -size),
        "duration": (-life, -size),
        "start": (first, -size),
        "breadth": (-breadth, -size),
        "section": (-near, -size),
    }
    for name in ORDERS:
        major, minor = keys[name]
        yield name, np.lexsort((position, minor, major))


def section_totals(instance: Instance) -> Ints:
    """Bytes in use per section, in units."""
    sections = len(instance.member_ptr) - 1
    change = np.zeros(sections + 1, np.int64)
    height = instance.window_hi - instance.window_lo
    np.add.at(change, instance.span_lo, height)
    np.subtract.at(change, instance.span_hi, height)
    return np.cumsum(change)[:-1]


def _lives(instance: Instance) -> Ints:
    """For every buffer in turn, the numbers of the sections of its life, as one flat column."""
    life = instance.last - instance.first
    ends = np.cumsum(life)
    flat: Ints = np.arange(int(ends[-1])) - np.repeat(ends - life - instance.first, life)
    return flat


def place_in_order(
    component: Component, order: Ints, best_fit: bool = False, stop: Ints | None = None
) -> Ints:
    """Offsets in units of a component's buffers, placed in the given order.

    ``stop`` ends the placing of many buffers: what is left is stacked on top.
    """
    inst = component.instance
    if component.windowed:
        return np.asarray(pack_windowed(inst, order))
    if len(order) > SPARSE_FROM:
        width = max(int((inst.last - inst.first).mean()), 1)
        flag = np.zeros(1, np.int64) if stop is None else stop
        return np.asarray(pack_sparse(inst, order, best_fit, width, flag))
    return np.asarray(pack(inst.first, inst.last, inst.size, inst.align, inst.fixed, order, best_fit, 2**62))


def compact(component: Component, offsets: Ints) -> Ints:
    """A plan pushed down: its buffers placed again by first fit in order of their offsets; never higher."""
    order = np.lexsort((np.arange(len(offsets)), offsets))
    lowered = place_in_order(component, order)
    if peak_units(component, lowered) > peak_units(component, offsets):
        return offsets
    return lowered


def peak_units(component: Component, offsets: Ints) -> int:
    """The peak of a component's plan in bytes."""
    return int((offsets * component.unit + component.true_size).max())
