"""Accesses of warps through a GPU's caches, one after another, in the order of the trace.

An access is cut into lines of the cache, and its sectors looked up: in the L1 of its multiprocessor, in the partition
of the L2 next to it, in the partition that the line's memory belongs to, in memory. A line has one tag and a bit for
each sector that is there; the least recently used line of a set gives way. What each part was asked for is counted in
the window, from which :mod:`simulator.gpu_memory.timing` makes a time: the order of accesses of different
multiprocessors is that of the trace, so that times decide no hit.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, call-arg, assignment"

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.gpu_memory.machine import (
    ATOMICS,
    BYTES_ASKED,
    DIRTY_SHIFT,
    FAR_HIT_SECTORS,
    FILLED,
    HOST,
    HOST_BYTES,
    HOST_REQUESTS,
    HOST_WRITES,
    KEPT,
    L1_EVICTED,
    L1_HIT_LINES,
    L1_HIT_SECTORS,
    L1_LATENCY,
    L1_LOAD_LINES,
    L1_LOAD_SECTORS,
    L1_SETS,
    L1_WAYS,
    L2_EVICTED,
    L2_HIT_SECTORS,
    L2_LATENCY,
    L2_READ_SECTORS,
    L2_REQUESTS,
    L2_SETS,
    L2_WAYS,
    L2_WRITE_HITS,
    L2_WRITE_SECTORS,
    LINE_SHIFT,
    LINES,
    LOADS,
    MEMORY_LATENCY,
    PAGE_SHIFT,
    PARTITIONS,
    PERSIST_FIRST,
    PERSIST_LAST,
    PERSIST_WAYS,
    PERSISTING_HITS,
    READ_SECTORS,
    RECORDS,
    SECTOR_SHIFT,
    SECTORS,
    SLICES,
    STORED_SECTORS,
    STORES,
    TAG_SHIFT,
    TLB2_MISSES,
    TLB2_SETS,
    TLB2_WAYS,
    TLB_ENTRIES,
    TLB_LATENCY,
    TLB_LOOKS,
    TLB_MISSES,
    VALID,
    WALK_LATENCY,
    WRITE_BACK,
    WRITTEN_SECTORS,
    Machine,
    State,
    Window,
)
from simulator.gpu_memory.step import small
from workloads.gpu_trace.trace import LOAD, STORE, GpuAccesses

__all__ = ["MARGIN", "PIECE_LINES", "Out", "bits", "flush", "home_of", "run", "set_of"]

Ints = npt.NDArray[np.int64]
PIECE_LINES: Final = 8
"""Lines of an access that are taken at a time; a longer access is taken in pieces."""
USUAL_WAYS: Final = 16
"""Ways for which the looks at a set are compiled apart."""
RECENT: Final = 4
"""Of them, those that are looked at one by one: most hits are there."""
MARGIN: Final = PIECE_LINES * 5 * 4
"""Requests to memory that a piece can make, at most: lines that give way in three caches, a fill, a read."""


class Out(NamedTuple):
    """Requests to memory, a sector each: byte address and whether it is a write; ``filled`` says how many."""

    address: Ints
    write: npt.NDArray[np.uint8]
    filled: Ints


@small
def _turned(number):
    """A hash of a run of lines (the finaliser of MurmurHash3), 31 bits."""
    h = number & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return (h ^ (h >> 16)) >> 1


@small
def _over(m: Machine, number, divisor):
    """``number`` over the figure at ``divisor``, and what is left, below 2^49: a product with the inverse."""
    by = m.figure[divisor]
    quotient = np.int64(np.float64(number) * m.inverse[divisor])
    rest = number - quotient * by
    if rest < 0:
        return quotient - 1, rest + by
    if rest >= by:
        return quotient + 1, rest - by
    return quotient, rest


@small
def set_of(m: Machine, line, sets):
    """The set of a line in a cache whose sets stand in the figure at ``sets``.

    Runs of as many lines fill each set once, every run turned by a hash of its number.
    """
    number, rest = _over(m, line, sets)
    rest += _turned(number) * m.figure[sets] >> 31
    return rest - m.figure[sets] if rest >= m.figure[sets] else rest


@small
def home_of(m: Machine, line):
    """The partition whose memory holds a line: pages of 4 KiB are dealt out by hash."""
    if m.figure[PARTITIONS] == 1:
        return np.int64(0)
    return _turned(line << m.figure[LINE_SHIFT] >> 12) * m.figure[PARTITIONS] >> 31


@small
def bits(mask):
    """How many of at most four sectors a mask has."""
    return (mask & 1) + (mask >> 1 & 1) + (mask >> 2 & 1) + (mask >> 3 & 1)


@small
def _find(cache: Ints, first, ways, line):
    """The place of a line among the ways of its set, -1 where it is not."""
    if ways == USUAL_WAYS:
        for place in range(first, first + RECENT):
            if cache[place] >> TAG_SHIFT == line:
                return place
        # The others at once: a loop of fixed length without a way out becomes a few vector instructions.
        found = 0
        for k in range(RECENT, USUAL_WAYS):
            found |= k + 1 if cache[first + k] >> TAG_SHIFT == line else 0
        return first + found - 1 if found else np.int64(-1)
    for place in range(first, first + ways):
        if cache[place] >> TAG_SHIFT == line:
            return place
    return np.int64(-1)


@small
def _to_front(cache: Ints, first, ways, place, entry):
    """Put an entry first in its set; those before ``place`` step back."""
    if place > first:
        if ways == USUAL_WAYS and place >= first + RECENT:
            last = place - first
            for k in range(USUAL_WAYS - 1, 0, -1):
                cache[first + k] = cache[first + k - 1] if k <= last else cache[first + k]
        else:
            for k in range(place, first, -1):
                cache[k] = cache[k - 1]
    cache[first] = entry


@small
def _least_kept(m: Machine, s: State, first, ways, kept):
    """The way that gives way where lines persist: others before them, unless persisting ones hold their share."""
    held = 0
    oldest, oldest_kept = np.int64(-1), np.int64(-1)
    for place in range(first, first + ways):
        entry = s.behind[place]
        if entry < 0:
            return place
        if entry & KEPT:
            held += 1
            oldest_kept = place
        else:
            oldest = place
    if oldest < 0 or (kept and held >= m.figure[PERSIST_WAYS]):
        return oldest_kept
    return oldest


@small
def _translate(m: Machine, s: State, sm, address):
    """Clocks that translation adds."""
    f = m.figure
    page = address >> f[PAGE_SHIFT]
    s.counts[TLB_LOOKS] += 1
    first = sm * f[TLB_ENTRIES]
    if s.page[first] == page:
        return np.int64(0)
    for place in range(first + 1, first + f[TLB_ENTRIES]):
        if s.page[place] == page:
            _to_front(s.page, first, f[TLB_ENTRIES], place, page)
            return np.int64(0)
    s.counts[TLB_MISSES] += 1
    _to_front(s.page, first, f[TLB_ENTRIES], first + f[TLB_ENTRIES] - 1, page)
    first = set_of(m, page, TLB2_SETS) * f[TLB2_WAYS]
    for place in range(first, first + f[TLB2_WAYS]):
        if s.page2[place] == page:
            _to_front(s.page2, first, f[TLB2_WAYS], place, page)
            return f[TLB_LATENCY]
    s.counts[TLB2_MISSES] += 1
    _to_front(s.page2, first, f[TLB2_WAYS], first + f[TLB2_WAYS] - 1, page)
    return f[WALK_LATENCY]


@small
def _to_memory(m: Machine, s: State, w: Window, out: Out, line, mask, write):
    """Sectors read from memory, or written to it; as requests where they are recorded."""
    f = m.figure
    count = bits(mask)
    s.counts[WRITTEN_SECTORS if write else READ_SECTORS] += count
    w.memory[1 if write else 0] += count << f[SECTOR_SHIFT]
    if f[RECORDS]:
        n = out.filled[0]
        for sector in range(f[SECTORS]):
            if mask >> sector & 1:
                out.address[n] = (line << f[LINE_SHIFT]) + (sector << f[SECTOR_SHIFT])
                out.write[n] = write
                n += 1
        out.filled[0] = n


@small
def _l2_entry(m: Machine, s: State, w: Window, out: Out, partition, line, index):
    """A line in its set of a partition, put first; what gives way writes its dirty sectors. Its place and entry."""
    f = m.figure
    first = (partition * f[L2_SETS] + index) * f[L2_WAYS]
    place = _find(s.behind, first, f[L2_WAYS], line)
    if place >= 0:
        entry = s.behind[place]
        _to_front(s.behind, first, f[L2_WAYS], place, entry)
        return first, entry
    kept = KEPT if f[PERSIST_FIRST] <= line <= f[PERSIST_LAST] else 0
    place = first + f[L2_WAYS] - 1
    if f[PERSIST_LAST] >= f[PERSIST_FIRST]:
        place = _least_kept(m, s, first, f[L2_WAYS], kept)
    gone = s.behind[place]
    if gone >= 0:
        s.counts[L2_EVICTED] += 1
        if gone >> DIRTY_SHIFT & VALID:
            _to_memory(m, s, w, out, gone >> TAG_SHIFT, gone >> DIRTY_SHIFT & VALID, 1)
    entry = line << TAG_SHIFT | kept
    _to_front(s.behind, first, f[L2_WAYS], place, entry)
    return first, entry


@small
def _port(m: Machine, w: Window, partition, index, count):
    """Count sectors at the port of a set's slice."""
    f = m.figure
    w.slice_bytes[partition * f[SLICES] + _over(m, index, SLICES)[1]] += count << f[SECTOR_SHIFT]


@small
def _read_l2(m: Machine, s: State, w: Window, out: Out, sm, line, mask):
    """Sectors from the L2, or through it from memory; clocks until the last of them is there."""
    f = m.figure
    home = home_of(m, line)
    near = sm % f[PARTITIONS]
    index = set_of(m, line, L2_SETS)
    count = bits(mask)
    s.counts[L2_REQUESTS] += 1
    s.counts[L2_READ_SECTORS] += count
    w.path_bytes[sm] += count << f[SECTOR_SHIFT]
    _port(m, w, near, index, count)
    place, entry = _l2_entry(m, s, w, out, near, line, index)
    here = mask & entry
    s.counts[L2_HIT_SECTORS] += bits(here)
    if entry & KEPT:
        s.counts[PERSISTING_HITS] += bits(here)
    s.behind[place] = entry | mask
    missing = mask & ~here
    if not missing:
        return f[L2_LATENCY]
    if near != home:
        _port(m, w, home, index, bits(missing))
        place, entry = _l2_entry(m, s, w, out, home, line, index)
        there = missing & entry
        s.counts[FAR_HIT_SECTORS] += bits(there)
        s.behind[place] = entry | missing
        missing &= ~there
        if not missing:
            return f[L2_LATENCY]
    _to_memory(m, s, w, out, line, missing, 0)
    return f[MEMORY_LATENCY]


@small
def _write_l2(m: Machine, s: State, w: Window, out: Out, sm, line, mask, whole):
    """Sectors to the partition that the line belongs to; copies in others go. ``whole``: those all of whose bytes come.

    A sector of which a part is written is read first. Clocks until it is there.
    """
    f = m.figure
    home = home_of(m, line)
    index = set_of(m, line, L2_SETS)
    count = bits(mask)
    s.counts[L2_REQUESTS] += 1
    s.counts[L2_WRITE_SECTORS] += count
    w.path_bytes[sm] += count << f[SECTOR_SHIFT]
    _port(m, w, home, index, count)
    for partition in range(f[PARTITIONS]):
        if partition != home:
            other = _find(s.behind, (partition * f[L2_SETS] + index) * f[L2_WAYS], f[L2_WAYS], line)
            if other >= 0:
                s.behind[other] &= ~mask
    place, entry = _l2_entry(m, s, w, out, home, line, index)
    s.counts[L2_WRITE_HITS] += bits(mask & entry)
    fill = mask & ~whole & ~entry
    s.behind[place] = entry | mask | mask << DIRTY_SHIFT
    if not fill:
        return f[L2_LATENCY]
    s.counts[FILLED] += bits(fill)
    _to_memory(m, s, w, out, line, fill, 0)
    return f[MEMORY_LATENCY]


@small
def _over_link(m: Machine, s: State, w: Window, sm, mask, write):
    """Sectors of host memory: one request of the link, which the L2 does not keep."""
    count = bits(mask)
    w.path_bytes[sm] += count << m.figure[SECTOR_SHIFT]
    s.counts[HOST_WRITES if write else HOST_REQUESTS] += 1
    s.counts[HOST_BYTES] += count << m.figure[SECTOR_SHIFT]
    return m.figure[MEMORY_LATENCY]


@small
def _store_down(m: Machine, s: State, w: Window, out: Out, sm, line, mask, whole):
    if m.figure[HOST]:
        return _over_link(m, s, w, sm, mask, 1)
    return _write_l2(m, s, w, out, sm, line, mask, whole)


@small
def _load(m: Machine, s: State, w: Window, out: Out, sm, line, mask):
    """Sectors of a line for a warp; clocks that the sectors wait in all."""
    f = m.figure
    count = bits(mask)
    s.counts[L1_LOAD_SECTORS] += count
    s.counts[L1_LOAD_LINES] += 1
    if f[L1_SETS]:
        first = (sm * f[L1_SETS] + set_of(m, line, L1_SETS)) * f[L1_WAYS]
        place = _find(s.near, first, f[L1_WAYS], line)
        if place >= 0:
            entry = s.near[place]
        else:
            place = first + f[L1_WAYS] - 1
            gone = s.near[place]
            if gone >= 0:
                s.counts[L1_EVICTED] += 1
                dirty = gone >> DIRTY_SHIFT & VALID
                if dirty:
                    _store_down(m, s, w, out, sm, gone >> TAG_SHIFT, dirty, dirty)
            entry = line << TAG_SHIFT
        _to_front(s.near, first, f[L1_WAYS], place, entry | mask)
        mask &= ~entry
        s.counts[L1_HIT_SECTORS] += count - bits(mask)
        if not mask:
            s.counts[L1_HIT_LINES] += 1
            return count * f[L1_LATENCY]
    clocks = _over_link(m, s, w, sm, mask, 0) if f[HOST] else _read_l2(m, s, w, out, sm, line, mask)
    return bits(mask) * clocks


@small
def _store(m: Machine, s: State, w: Window, out: Out, sm, line, mask, whole):
    """Sectors of a line from a warp; no line comes into the L1 for it. It waits for nothing but what has to be read."""
    f = m.figure
    s.counts[STORED_SECTORS] += bits(mask)
    if f[L1_SETS]:
        first = (sm * f[L1_SETS] + set_of(m, line, L1_SETS)) * f[L1_WAYS]
        place = _find(s.near, first, f[L1_WAYS], line)
        if place >= 0:
            entry = s.near[place]
            # What is written in part stays valid only where the rest of the sector is there.
            held = mask & (whole | entry)
            if f[WRITE_BACK] and held == mask:
                _to_front(s.near, first, f[L1_WAYS], place, entry | mask | mask << DIRTY_SHIFT)
                return np.int64(0)
            _to_front(s.near, first, f[L1_WAYS], place, (entry | held) & ~(mask << DIRTY_SHIFT))
    clocks = _store_down(m, s, w, out, sm, line, mask, whole)
    return bits(mask) * (clocks - f[L2_LATENCY]) if not f[HOST] else np.int64(0)


@small
def _atomic(m: Machine, s: State, w: Window, out: Out, sm, line, mask):
    """Sectors read and written at the L2; a copy in the L1 goes."""
    f = m.figure
    s.counts[STORED_SECTORS] += bits(mask)
    if f[L1_SETS]:
        first = (sm * f[L1_SETS] + set_of(m, line, L1_SETS)) * f[L1_WAYS]
        place = _find(s.near, first, f[L1_WAYS], line)
        if place >= 0:
            entry = s.near[place]
            dirty = entry >> DIRTY_SHIFT & mask
            s.near[place] = entry & ~(mask | mask << DIRTY_SHIFT)
            if dirty:
                _store_down(m, s, w, out, sm, line, dirty, dirty)
    clocks = _store_down(m, s, w, out, sm, line, mask, np.int64(0))
    return bits(mask) * clocks


@small
def _masks(m: Machine, line, start, end):
    """The sectors of a line that bytes ``start`` to ``end`` touch, and those that they cover."""
    f = m.figure
    base = line << f[LINE_SHIFT]
    low, high = max(start - base, 0), min(end - base, np.int64(1) << f[LINE_SHIFT])
    first, last = low >> f[SECTOR_SHIFT], (high - 1) >> f[SECTOR_SHIFT]
    mask = (np.int64(2) << last) - (np.int64(1) << first)
    size = (np.int64(1) << f[SECTOR_SHIFT]) - 1
    first, last = (low + size) >> f[SECTOR_SHIFT], high >> f[SECTOR_SHIFT]
    return mask, (np.int64(1) << last) - (np.int64(1) << first) if last > first else np.int64(0)


@compiled(error_model="numpy", no_rewrites=True, _nrt=False)
def run(m: Machine, s: State, w: Window, asked: GpuAccesses, start, out: Out):
    """Take accesses from ``start`` until all are done or ``out`` is nearly full; the first one not taken."""
    f = m.figure
    room = out.address.size - MARGIN
    kind, address, size = asked.kind, asked.address, asked.size
    for n in range(start, kind.size):
        if f[RECORDS] and out.filled[0] > room:
            return n
        what, who, first, end = kind[n], asked.sm[n], address[n], address[n] + size[n]
        s.counts[LOADS if what == LOAD else STORES if what == STORE else ATOMICS] += 1
        s.counts[BYTES_ASKED] += size[n]
        w.l1_bytes[who] += size[n]
        waited = _translate(m, s, who, first)
        if end - 1 >> f[PAGE_SHIFT] != first >> f[PAGE_SHIFT]:
            waited = max(waited, _translate(m, s, who, end - 1))
        for line in range(first >> f[LINE_SHIFT], (end - 1 >> f[LINE_SHIFT]) + 1):
            s.counts[LINES] += 1
            mask, whole = _masks(m, line, first, end)
            if what == LOAD:
                waited += _load(m, s, w, out, who, line, mask)
            elif what == STORE:
                waited += _store(m, s, w, out, who, line, mask, whole)
            else:
                waited += _atomic(m, s, w, out, who, line, mask)
        w.wait[who] += waited
    return kind.size


@compiled(error_model="numpy", no_rewrites=True, _nrt=False)
def flush(cache: Ints):
    """Sectors of a cache that are still dirty; nothing changes."""
    found = 0
    for place in range(cache.size):
        if cache[place] >= 0:
            found += bits(cache[place] >> DIRTY_SHIFT & VALID)
    return found
