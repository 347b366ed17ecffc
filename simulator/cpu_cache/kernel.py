"""Accesses of programs through the caches, one after another.

An access is translated (a miss of all buffers walks the page table through the data caches), looked up level by level,
and its line brought in from where it was found: the rule of each step stands at its function. Prefetchers
see the demand accesses of their level once the access is over. Write-backs from a nearer level are no use of a line.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.cpu_cache.lines import drop, find, put, use
from simulator.cpu_cache.machine import (
    ACCESS_CLOCKS,
    AHEAD,
    AHEAD_OF_USE,
    ALLOCATE,
    BY_PAGE,
    CACHES,
    CORES,
    DATA,
    DATA_TLB,
    DEGREE,
    DIRTY,
    ENTRIES,
    EVICTED,
    EVICTED_DIRTY,
    EXCLUSIVE,
    FETCH,
    FETCH_TLB,
    FETCHED,
    HITS,
    INCLUSION,
    INCLUSIVE,
    INVALIDATED,
    ISSUED,
    LATE,
    LATENCY,
    LINE_SHIFT,
    MEMORY,
    MEMORY_THROUGH,
    MEMORY_WRITES,
    MISSES,
    NEXT,
    NEXT_LINE,
    NODE_CORES,
    OUTSTANDING,
    PAGE_SHIFT,
    PER_INSTRUCTION,
    RECORDS,
    REMOTE,
    REMOTE_READS,
    RULE,
    SHARED,
    STORE,
    STREAM,
    TABLE,
    TABLES,
    TAKEN_BACK,
    TICKS,
    USEFUL,
    USELESS,
    WALK,
    WALK_CLOCKS,
    WALK_LEVELS,
    WALKS,
    WRITE_BACK,
    WRITTEN_MISSED,
    WRITTEN_TO,
    Machine,
    State,
)
from simulator.cpu_cache.step import small, step

__all__ = ["MARGIN", "Out", "Stretch", "run"]

Ints = npt.NDArray[np.int64]
MARGIN = 1024
"""Requests to memory that one access can make, at most: every walk and prefetch with all that gives way."""


class Stretch(NamedTuple):
    """Accesses, one line each. ``home``: the node of the line's page."""

    kind: Ints
    address: Ints
    pc: Ints
    instructions: Ints
    core: Ints
    home: Ints


class Out(NamedTuple):
    """Requests to memory: byte address, write, tick of the program; ``filled`` says how many."""

    address: Ints
    write: npt.NDArray[np.uint8]
    tick: Ints
    filled: Ints


@small
def _to_memory(m: Machine, s: State, out: Out, core, line, write):
    """Write a request out."""
    if m.rule[RECORDS]:
        n = out.filled[0]
        out.address[n], out.write[n] = line << m.rule[LINE_SHIFT], write
        out.tick[n] = s.program[core]
        out.filled[0] = n + 1


@step
def _recall(m: Machine, s: State, row, core, line):
    """Take a line back from all nearer caches of the cores that share a copy of ``row``; whether one was dirty."""
    dirty = 0
    shared = m.row[row, SHARED]
    first = core // shared * shared
    for near in range(m.rule[CACHES]):
        below = m.row[near, NEXT]
        while below >= 0 and below != row:
            below = m.row[below, NEXT]
        if below == row:
            last = min(first + shared, m.rule[CORES]) - 1
            for copy in range(first // m.row[near, SHARED], last // m.row[near, SHARED] + 1):
                place = find(m, s, near, copy, line)
                if place >= 0:
                    s.counts[near, TAKEN_BACK] += 1
                    if s.flag[place] & AHEAD_OF_USE:
                        s.counts[near, USELESS] += 1
                    dirty |= s.flag[place] & DIRTY
                    drop(s, place)
    return dirty


@step
def _gone(m: Machine, s: State, row, core, line, flag):
    """Count a line that gave way at a row; whether it is dirty, nearer copies included."""
    s.counts[row, EVICTED] += 1
    if flag & AHEAD_OF_USE:
        s.counts[row, USELESS] += 1
    dirty = flag & DIRTY
    if m.row[row, INCLUSION] == INCLUSIVE:
        dirty |= _recall(m, s, row, core, line)
    if dirty:
        s.counts[row, EVICTED_DIRTY] += 1
    return dirty


@step
def _put_down(m: Machine, s: State, out: Out, core, row, line, dirty):
    """A line that gave way arrives at the row behind, then what gives way there at the next one.

    An exclusive level takes every victim; the others take dirty ones: where they have the line it becomes dirty, else
    it is placed without a look behind, since all its bytes are there. A write-through level passes it on.
    """
    while row >= 0:
        exclusive = m.row[row, INCLUSION] == EXCLUSIVE
        if not dirty and not exclusive:
            return
        copy = core // m.row[row, SHARED]
        place = find(m, s, row, copy, line)
        if dirty:
            s.counts[row, WRITTEN_TO] += 1
            if place < 0:
                s.counts[row, WRITTEN_MISSED] += 1
        stays = dirty if m.row[row, WRITE_BACK] else 0
        if place >= 0:
            s.flag[place] |= stays
            if stays or not dirty:
                return
        elif stays or exclusive:
            _, old, old_flag = put(m, s, row, copy, line, stays)
            if dirty and not stays:
                _put_through(m, s, out, core, m.row[row, NEXT], line)
            if old < 0:
                return
            line, dirty = old, _gone(m, s, row, core, old, old_flag)
        row = m.row[row, NEXT]
    if dirty:
        s.total[MEMORY_WRITES] += 1
        _to_memory(m, s, out, core, line, 1)


@step
def _put_through(m: Machine, s: State, out: Out, core, row, line):
    """A dirty line passes a write-through level: the first write-back level that has it takes it, else memory."""
    while row >= 0:
        place = find(m, s, row, core // m.row[row, SHARED], line)
        s.counts[row, WRITTEN_TO] += 1
        if place < 0:
            s.counts[row, WRITTEN_MISSED] += 1
        elif m.row[row, WRITE_BACK]:
            s.flag[place] |= DIRTY
            return
        row = m.row[row, NEXT]
    s.total[MEMORY_WRITES] += 1
    _to_memory(m, s, out, core, line, 1)


@step
def _place(m: Machine, s: State, out: Out, core, row, line, flag):
    """Put a line into a row that misses it, and down what gives way; its place."""
    place, old, old_flag = put(m, s, row, core // m.row[row, SHARED], line, flag)
    if old >= 0:
        dirty = _gone(m, s, row, core, old, old_flag)
        _put_down(m, s, out, core, m.row[row, NEXT], old, dirty)
    return place


@small
def _hit(m: Machine, s: State, row, core, place, cause):
    """Count a hit and use the line; clocks until its data is there."""
    s.counts[row, HITS + cause] += 1
    clocks = m.row[row, LATENCY]
    if cause != AHEAD:
        found = 1
        if s.flag[place] & AHEAD_OF_USE:
            s.flag[place] &= ~AHEAD_OF_USE
            found = 3
            s.counts[row, USEFUL] += 1
            waiting = (s.ready[place] - s.now[core] + TICKS - 1) // TICKS
            if waiting > clocks:
                s.counts[row, LATE] += 1
                clocks = waiting
        if cause != WALK:
            s.seen[row] = found
    use(m, s, row, place)
    return clocks


@step
def _bring(m: Machine, s: State, out: Out, core, row, line, cause, home):
    """Bring a line that ``row`` misses from the nearest level behind it, or memory; its place, and in ``chain`` clocks.

    Every level on the way that is not exclusive keeps a copy. A line found in an exclusive level leaves it, and its
    dirtiness goes to the first level that it is placed in.
    """
    found = m.row[row, NEXT]
    dirty = clocks = remote = 0
    while found >= 0:
        place = find(m, s, found, core // m.row[found, SHARED], line)
        if place >= 0:
            clocks = _hit(m, s, found, core, place, cause)
            if m.row[found, INCLUSION] == EXCLUSIVE:
                dirty = s.flag[place] & DIRTY
                drop(s, place)
            break
        s.counts[found, MISSES + cause] += 1
        if cause != AHEAD and cause != WALK:
            s.seen[found] = 2
        found = m.row[found, NEXT]
    if found < 0:
        s.total[cause] += 1
        remote = 1 if home != core // m.rule[NODE_CORES] else 0
        s.total[REMOTE_READS] += remote
        clocks = m.rule[REMOTE] if remote else m.rule[MEMORY]
        _to_memory(m, s, out, core, line, 0)
    s.chain[2] = clocks
    # Deepest first.
    while True:
        deepest = row
        while m.row[deepest, NEXT] != found:
            deepest = m.row[deepest, NEXT]
        if deepest == row or m.row[deepest, INCLUSION] != EXCLUSIVE:
            flag = dirty if m.row[deepest, WRITE_BACK] else 0
            place = _place(m, s, out, core, deepest, line, flag)
            if dirty and not flag:
                _put_through(m, s, out, core, m.row[deepest, NEXT], line)
            dirty = 0
            if deepest == row:
                return place
        found = deepest


@small
def _read(m: Machine, s: State, out: Out, core, row, line, cause, home):
    """A load, fetch or step of a walk; its clocks."""
    place = find(m, s, row, core // m.row[row, SHARED], line)
    if place >= 0:
        return _hit(m, s, row, core, place, cause)
    s.counts[row, MISSES + cause] += 1
    if cause != WALK:
        s.seen[row] = 2
    _bring(m, s, out, core, row, line, cause, home)
    return s.chain[2]


@step
def _disown(m: Machine, s: State, core, line):
    """A store takes the line from every cache that the storing core doesn't use."""
    for row in range(m.rule[CACHES]):
        own = core // m.row[row, SHARED]
        for copy in range((m.rule[CORES] - 1) // m.row[row, SHARED] + 1):
            if copy != own:
                place = find(m, s, row, copy, line)
                if place >= 0:
                    s.counts[row, INVALIDATED] += 1
                    if s.flag[place] & AHEAD_OF_USE:
                        s.counts[row, USELESS] += 1
                    drop(s, place)


@step
def _write(m: Machine, s: State, out: Out, core, line, home):
    """A store: the first write-back level that has the line, or brings it in, takes it; memory where none does."""
    row, clocks = m.first[DATA], 0
    while row >= 0:
        waited = 0
        place = find(m, s, row, core // m.row[row, SHARED], line)
        if place >= 0:
            waited = _hit(m, s, row, core, place, STORE)
        else:
            s.counts[row, MISSES + STORE] += 1
            s.seen[row] = 2
            if m.row[row, ALLOCATE]:
                place = _bring(m, s, out, core, row, line, STORE, home)
                waited = s.chain[2]
        if clocks == 0:
            clocks = waited
        if place >= 0 and m.row[row, WRITE_BACK]:
            s.flag[place] |= DIRTY
            break
        row = m.row[row, NEXT]
    if row < 0:
        s.total[MEMORY_THROUGH] += 1
        _to_memory(m, s, out, core, line, 1)
    return max(clocks, m.row[m.first[DATA], LATENCY])


@small
def _translate(m: Machine, s: State, out: Out, core, address, fetch):
    """Look a page up; a miss of all buffers reads one entry of each level of the page table. Clocks of the walk."""
    first = m.first[FETCH_TLB] if fetch else m.first[DATA_TLB]
    if first < 0:
        return 0
    page = address >> m.rule[PAGE_SHIFT]
    cause = FETCH if fetch else 0
    found = first
    while found >= 0:
        place = find(m, s, found, core, page)
        if place >= 0:
            s.counts[found, HITS + cause] += 1
            use(m, s, found, place)
            break
        s.counts[found, MISSES + cause] += 1
        found = m.row[found, NEXT]
    clocks = 0
    if found < 0:
        s.total[WALKS] += 1
        home = core // m.rule[NODE_CORES]
        for level in range(m.rule[WALK_LEVELS] - 1, -1, -1):
            entry = TABLES + (level << 58) + (page >> (9 * level)) * 8
            clocks += _read(m, s, out, core, m.first[DATA], entry >> m.rule[LINE_SHIFT], WALK, home)
        s.total[WALK_CLOCKS] += clocks
    row = first
    while row != found:
        put(m, s, row, core, page, 0)
        row = m.row[row, NEXT]
    return clocks


@step
def _ask_ahead(m: Machine, s: State, out: Out, core, row, line, home):
    """Bring a line into a row before it is asked for, unless it is there."""
    if find(m, s, row, core // m.row[row, SHARED], line) >= 0:
        return
    s.counts[row, ISSUED] += 1
    place = _bring(m, s, out, core, row, line, AHEAD, home)
    s.flag[place] |= AHEAD_OF_USE
    s.ready[place] = s.now[core] + s.chain[2] * TICKS


@step
def _step_of(m: Machine, s: State, row, core, line, pc):
    """The step that a row's stride or stream prefetcher expects, 0 while it is not sure.

    A stride is kept in the entry that its key falls on; a stream (lines of one page in one direction) in the entry
    used longest ago. Both are sure after two equal steps.
    """
    page = line >> (12 - m.rule[LINE_SHIFT])
    key = page if m.row[row, BY_PAGE] or m.row[row, RULE] == STREAM else pc
    entries = m.row[row, ENTRIES]
    start = m.row[row, TABLE] + core // m.row[row, SHARED] * entries
    at = start + key % entries
    if m.row[row, RULE] == STREAM:
        at = start
        for k in range(start, start + entries):
            if s.table[k, 0] == key:
                at = k
                break
            if s.table[k, 4] < s.table[at, 4]:
                at = k
        s.clock[0] += 1
        s.table[at, 4] = s.clock[0]
    if s.table[at, 0] != key:
        s.table[at, 0], s.table[at, 1], s.table[at, 2], s.table[at, 3] = key, line, 0, 0
        return 0
    moved = line - s.table[at, 1]
    if m.row[row, RULE] == STREAM and moved:
        moved = 1 if moved > 0 else -1
    if moved:
        s.table[at, 3] = min(s.table[at, 3] + 1, 3) if moved == s.table[at, 2] else 1
        s.table[at, 1], s.table[at, 2] = line, moved
    return s.table[at, 2] if s.table[at, 3] >= 2 else 0


@step
def _look_ahead(m: Machine, s: State, out: Out, core, row, line, pc, home):
    """What a row's prefetcher does after a demand access that it saw."""
    moved = 1 if s.seen[row] > 1 else 0
    if m.row[row, RULE] != NEXT_LINE:
        moved = _step_of(m, s, row, core, line, pc)
    if moved:
        shift = 12 - m.rule[LINE_SHIFT]
        for k in range(1, m.row[row, DEGREE] + 1):
            ahead = line + k * moved
            if ahead >= 0 and ahead >> shift == line >> shift:
                _ask_ahead(m, s, out, core, row, ahead, home)


@step
def run(m: Machine, s: State, x: Stretch, start, out: Out):
    """Take accesses from ``start`` on until they end or ``out`` has no room for another; where it stopped."""
    ahead = False
    for row in range(m.rule[CACHES]):
        ahead = ahead or m.row[row, RULE] != 0
    for n in range(start, x.kind.size):
        if m.rule[RECORDS] and out.filled[0] + MARGIN > out.address.size:
            return n
        core, kind, line, home = x.core[n], x.kind[n], x.address[n] >> m.rule[LINE_SHIFT], x.home[n]
        work = x.instructions[n] * m.rule[PER_INSTRUCTION]
        s.now[core] += work
        s.program[core] += work
        if ahead:
            for row in range(m.rule[CACHES]):
                s.seen[row] = 0
        first = m.first[FETCHED] if kind == FETCH else m.first[DATA]
        clocks = _translate(m, s, out, core, x.address[n], kind == FETCH)
        if kind == STORE:
            if m.rule[CORES] > 1:
                _disown(m, s, core, line)
            clocks += _write(m, s, out, core, line, home)
        else:
            clocks += _read(m, s, out, core, first, line, kind, home)
        s.total[ACCESS_CLOCKS] += clocks
        s.now[core] += (clocks - m.row[first, LATENCY]) * TICKS // m.rule[OUTSTANDING]
        if ahead:
            row = first
            while row >= 0:
                if m.row[row, RULE] and s.seen[row]:
                    _look_ahead(m, s, out, core, row, line, x.pc[n], home)
                row = m.row[row, NEXT]
    return x.kind.size
