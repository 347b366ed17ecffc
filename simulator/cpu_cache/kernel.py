"""Accesses of programs through the caches, one after another.

An access is translated (a miss of all buffers walks the page table through the data caches), looked up level by level,
and its line brought in from where it was found: the rule of each step stands at its function. Prefetchers
see the demand accesses of their level once the access is over. Write-backs from a nearer level are no use of a line.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, call-arg, var-annotated"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy import uint64 as u

from hw_configs.compiled import compiled
from hw_configs.kernel_addresses import addresses_of
from simulator.cpu_cache.lines import drop, find, put, use
from simulator.cpu_cache.machine import (
    ACCESS_CLOCKS,
    AHEAD,
    AHEAD_OF_USE,
    CACHES,
    CORES,
    COUNTS,
    DATA,
    DATA_TLB,
    DIRTY,
    EVICTED,
    EVICTED_DIRTY,
    EXCLUSIVE,
    FETCH,
    FETCH_TLB,
    FETCHED,
    HITS,
    INCLUSIVE,
    INVALIDATED,
    ISSUED,
    LATE,
    LINE_SHIFT,
    MEMORY,
    MEMORY_THROUGH,
    MEMORY_WRITES,
    MISSES,
    NEXT_LINE,
    NODE_CORES,
    OUTSTANDING,
    PAGE_SHIFT,
    PER_INSTRUCTION,
    RECORDS,
    REMOTE,
    REMOTE_READS,
    STORE,
    STREAM,
    TABLES,
    TAKEN_BACK,
    TICKS,
    USEFUL,
    USELESS,
    WALK,
    WALK_CLOCKS,
    WALK_LEVELS,
    WALKS,
    WRITTEN_MISSED,
    WRITTEN_TO,
    Machine,
    State,
)
from simulator.cpu_cache.step import small, step

__all__ = ["MARGIN", "Out", "Stretch", "run", "survey"]

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
    shared = m.row[u(row)].shared
    first = core // shared * shared
    last = min(first + shared, m.rule[CORES])
    for near in range(m.rule[CACHES]):
        below = m.row[u(near)].next
        while below >= 0 and below != row:
            below = m.row[u(below)].next
        if below == row:
            for user in range(first, last, m.row[u(near)].shared):
                place = find(m, s, near, user, line)
                if place >= 0:
                    s.counts[near * COUNTS + TAKEN_BACK] += 1
                    if s.flag[place] & AHEAD_OF_USE:
                        s.counts[near * COUNTS + USELESS] += 1
                    dirty |= s.flag[place] & DIRTY
                    drop(s, place)
    return dirty


@step
def _gone(m: Machine, s: State, row, core, line, flag):
    """Count a line that gave way at a row; whether it is dirty, nearer copies included."""
    s.counts[row * COUNTS + EVICTED] += 1
    if flag & AHEAD_OF_USE:
        s.counts[row * COUNTS + USELESS] += 1
    dirty = flag & DIRTY
    if m.row[u(row)].inclusion == INCLUSIVE:
        dirty |= _recall(m, s, row, core, line)
    if dirty:
        s.counts[row * COUNTS + EVICTED_DIRTY] += 1
    return dirty


@step
def _put_down(m: Machine, s: State, out: Out, core, row, line, dirty):
    """A line that gave way arrives at the row behind, then what gives way there at the next one.

    An exclusive level takes every victim; the others take dirty ones: where they have the line it becomes dirty, else
    it is placed without a look behind, since all its bytes are there. A write-through level passes it on.
    """
    while row >= 0:
        exclusive = m.row[u(row)].inclusion == EXCLUSIVE
        if not dirty and not exclusive:
            return
        place = find(m, s, row, core, line)
        if dirty:
            s.counts[row * COUNTS + WRITTEN_TO] += 1
            if place < 0:
                s.counts[row * COUNTS + WRITTEN_MISSED] += 1
        stays = dirty if m.row[u(row)].write_back else 0
        if place >= 0:
            s.flag[place] |= stays
            if stays or not dirty:
                return
        elif stays or exclusive:
            _, old, old_flag = put(m, s, row, core, line, stays)
            if dirty and not stays:
                _put_through(m, s, out, core, m.row[u(row)].next, line)
            if old < 0:
                return
            line, dirty = old, _gone(m, s, row, core, old, old_flag)
        row = m.row[u(row)].next
    if dirty:
        s.total[MEMORY_WRITES] += 1
        _to_memory(m, s, out, core, line, 1)


@step
def _put_through(m: Machine, s: State, out: Out, core, row, line):
    """A dirty line passes a write-through level: the first write-back level that has it takes it, else memory."""
    while row >= 0:
        place = find(m, s, row, core, line)
        s.counts[row * COUNTS + WRITTEN_TO] += 1
        if place < 0:
            s.counts[row * COUNTS + WRITTEN_MISSED] += 1
        elif m.row[u(row)].write_back:
            s.flag[place] |= DIRTY
            return
        row = m.row[u(row)].next
    s.total[MEMORY_WRITES] += 1
    _to_memory(m, s, out, core, line, 1)


@step
def _place(m: Machine, s: State, out: Out, core, row, line, flag):
    """Put a line into a row that misses it, and down what gives way; its place."""
    place, old, old_flag = put(m, s, row, core, line, flag)
    if old >= 0:
        dirty = _gone(m, s, row, core, old, old_flag)
        _put_down(m, s, out, core, m.row[u(row)].next, old, dirty)
    return place


@small
def _hit(m: Machine, s: State, row, core, place, cause):
    """Count a hit and use the line; clocks until its data is there."""
    s.counts[row * COUNTS + HITS + cause] += 1
    clocks = m.row[u(row)].latency
    if cause != AHEAD:
        found = 1
        if s.flag[place] & AHEAD_OF_USE:
            s.flag[place] &= ~AHEAD_OF_USE
            found = 3
            s.counts[row * COUNTS + USEFUL] += 1
            waiting = (s.ready[place] - s.now[core] + TICKS - 1) // TICKS
            if waiting > clocks:
                s.counts[row * COUNTS + LATE] += 1
                clocks = waiting
        if cause != WALK:
            s.seen[row] = found
    use(m, s, row, place)
    return clocks


@step
def _bring(m: Machine, s: State, out: Out, core, row, line, cause, home):
    """Bring a line that ``row`` misses from the nearest level behind it, or memory; its place and clocks.

    Every level on the way that is not exclusive keeps a copy. A line found in an exclusive level leaves it, and its
    dirtiness goes to the first level that it is placed in.
    """
    found = m.row[u(row)].next
    dirty = clocks = remote = 0
    while found >= 0:
        place = find(m, s, found, core, line)
        if place >= 0:
            clocks = _hit(m, s, found, core, place, cause)
            if m.row[u(found)].inclusion == EXCLUSIVE:
                dirty = s.flag[place] & DIRTY
                drop(s, place)
            break
        s.counts[found * COUNTS + MISSES + cause] += 1
        if cause != AHEAD and cause != WALK:
            s.seen[found] = 2
        found = m.row[u(found)].next
    if found < 0:
        s.total[cause] += 1
        node = core // m.rule[NODE_CORES] if core >= m.rule[NODE_CORES] else 0
        remote = 1 if home != node else 0
        s.total[REMOTE_READS] += remote
        clocks = m.rule[REMOTE] if remote else m.rule[MEMORY]
        _to_memory(m, s, out, core, line, 0)
    # Deepest first.
    while True:
        deepest = row
        while m.row[u(deepest)].next != found:
            deepest = m.row[u(deepest)].next
        if deepest == row or m.row[u(deepest)].inclusion != EXCLUSIVE:
            flag = dirty if m.row[u(deepest)].write_back else 0
            place = _place(m, s, out, core, deepest, line, flag)
            if dirty and not flag:
                _put_through(m, s, out, core, m.row[u(deepest)].next, line)
            dirty = 0
            if deepest == row:
                return place, clocks
        found = deepest


@small
def _read(m: Machine, s: State, out: Out, core, row, line, cause, home):
    """A load, fetch or step of a walk; its clocks."""
    place = find(m, s, row, core, line)
    if place >= 0:
        return _hit(m, s, row, core, place, cause)
    s.counts[row * COUNTS + MISSES + cause] += 1
    if cause != WALK:
        s.seen[row] = 2
    return _bring(m, s, out, core, row, line, cause, home)[1]


@step
def _disown(m: Machine, s: State, core, line):
    """A store takes the line from every cache that the storing core doesn't use."""
    for row in range(m.rule[CACHES]):
        shared = m.row[u(row)].shared
        for user in range(0, m.rule[CORES], shared):
            if not user <= core < user + shared:
                place = find(m, s, row, user, line)
                if place >= 0:
                    s.counts[row * COUNTS + INVALIDATED] += 1
                    if s.flag[place] & AHEAD_OF_USE:
                        s.counts[row * COUNTS + USELESS] += 1
                    drop(s, place)


@step
def _write(m: Machine, s: State, out: Out, core, line, home):
    """A store: the first write-back level that has the line, or brings it in, takes it; memory where none does."""
    row, clocks = m.first[DATA], 0
    while row >= 0:
        waited = 0
        place = find(m, s, row, core, line)
        if place >= 0:
            waited = _hit(m, s, row, core, place, STORE)
        else:
            s.counts[row * COUNTS + MISSES + STORE] += 1
            s.seen[row] = 2
            if m.row[u(row)].allocate:
                place, waited = _bring(m, s, out, core, row, line, STORE, home)
        if clocks == 0:
            clocks = waited
        if place >= 0 and m.row[u(row)].write_back:
            s.flag[place] |= DIRTY
            break
        row = m.row[u(row)].next
    if row < 0:
        s.total[MEMORY_THROUGH] += 1
        _to_memory(m, s, out, core, line, 1)
    return max(clocks, m.row[u(m.first[DATA])].latency)


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
            s.counts[found * COUNTS + HITS + cause] += 1
            use(m, s, found, place)
            break
        s.counts[found * COUNTS + MISSES + cause] += 1
        found = m.row[u(found)].next
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
        row = m.row[u(row)].next
    return clocks


@step
def _ask_ahead(m: Machine, s: State, out: Out, core, row, line, home):
    """Bring a line into a row before it is asked for, unless it is there."""
    if find(m, s, row, core, line) >= 0:
        return
    s.counts[row * COUNTS + ISSUED] += 1
    place, clocks = _bring(m, s, out, core, row, line, AHEAD, home)
    s.flag[place] |= AHEAD_OF_USE
    s.ready[place] = s.now[core] + clocks * TICKS


@step
def _step_of(m: Machine, s: State, row, core, line, pc):
    """The step that a row's stride or stream prefetcher expects, 0 while it is not sure.

    A stride is kept in the entry that its key falls on; a stream (lines of one page in one direction) in the entry
    used longest ago. Both are sure after two equal steps.
    """
    r = m.row[u(row)]
    key = line >> (12 - m.rule[LINE_SHIFT]) if r.by_page or r.rule == STREAM else pc
    start = r.table + core // r.shared * r.entries
    at = start + key % r.entries
    if r.rule == STREAM:
        at = start
        for k in range(start, start + r.entries):
            if s.table[u(k)].key == key:
                at = k
                break
            if s.table[u(k)].age < s.table[u(at)].age:
                at = k
        s.clock[0] += 1
        s.table[u(at)].age = s.clock[0]
    entry = s.table[u(at)]
    if entry.key != key:
        entry.key, entry.line, entry.moved, entry.times = key, line, 0, 0
        return 0
    moved = line - entry.line
    if r.rule == STREAM and moved:
        moved = 1 if moved > 0 else -1
    if moved:
        entry.times = min(entry.times + 1, 3) if moved == entry.moved else 1
        entry.line, entry.moved = line, moved
    return entry.moved if entry.times >= 2 else 0


@step
def _look_ahead(m: Machine, s: State, out: Out, core, row, line, pc, home):
    """What a row's prefetcher does after a demand access that it saw."""
    moved = 1 if s.seen[row] > 1 else 0
    if m.row[u(row)].rule != NEXT_LINE:
        moved = _step_of(m, s, row, core, line, pc)
    if moved:
        shift = 12 - m.rule[LINE_SHIFT]
        for k in range(1, m.row[u(row)].degree + 1):
            ahead = line + k * moved
            if ahead >= 0 and ahead >> shift == line >> shift:
                _ask_ahead(m, s, out, core, row, ahead, home)


@small
def _noted(m: Machine, s: State, core, row, line):
    """The place where a line was found last, if it is there still and its use is no more than a new age; else -1."""
    place = s.hint[m.hints[row * m.rule[CORES] + core] + (line & m.row[u(row)].mask)]
    there = s.tag[place] == line and (s.flag[place] & AHEAD_OF_USE) == 0 and m.row[u(row)].slow == 0
    return np.int64(place) if there else -1


@small
def _count(s: State, row, place, cause):
    """Count a hit and age the line."""
    s.counts[row * COUNTS + HITS + cause] += 1
    s.clock[0] += 1
    s.age[place] = s.clock[0]


@small
def _quick(m: Machine, s: State, core, address, kind):
    """A load or store that finds its page and its line where they were last; False where there is more to do."""
    buffer, row = m.first[DATA_TLB], m.first[DATA]
    page = 0
    if buffer >= 0:
        page = _noted(m, s, core, buffer, address >> m.rule[PAGE_SHIFT])
    place = _noted(m, s, core, row, address >> m.rule[LINE_SHIFT])
    if page < 0 or place < 0:
        return False
    if kind == STORE:
        if m.rule[CORES] > 1 or m.row[u(row)].write_back == 0:
            return False
        s.flag[place] |= DIRTY
    if buffer >= 0:
        _count(s, buffer, page, 0)
    _count(s, row, place, kind)
    s.total[ACCESS_CLOCKS] += m.row[u(row)].latency
    return True


@compiled(_nrt=False)
def survey(address, size, instructions, core, shift):
    """Of accesses, in one pass: how many end in another line than they begin in, instructions, the largest core."""
    cut = total = most = 0
    for n in range(address.size):
        cut += (((address[n] + size[n] - 1) ^ address[n]) >> shift) != 0
        total += instructions[n]
        most = max(most, core[n])
    return cut, total, most


@step
def _access(m: Machine, s: State, x: Stretch, n, out: Out):
    """One access that is no quick hit."""
    core, kind, line, home = x.core[n], x.kind[n], x.address[n] >> m.rule[LINE_SHIFT], x.home[n]
    for row in range(m.rule[CACHES]):
        s.seen[row] = 0
    fetch = kind == FETCH
    first = m.first[FETCHED] if fetch else m.first[DATA]
    clocks = _translate(m, s, out, core, x.address[n], fetch)
    if kind == STORE:
        if m.rule[CORES] > 1:
            _disown(m, s, core, line)
        clocks += _write(m, s, out, core, line, home)
    else:
        clocks += _read(m, s, out, core, first, line, kind, home)
    s.total[ACCESS_CLOCKS] += clocks
    more = clocks - m.row[u(first)].latency
    if more:
        s.now[core] += more * TICKS // m.rule[OUTSTANDING]
    row = first
    while row >= 0:
        if m.row[u(row)].rule and s.seen[row]:
            _look_ahead(m, s, out, core, row, line, x.pc[n], home)
        row = m.row[u(row)].next


@compiled(error_model="numpy", no_rewrites=True, _nrt=False)
def run(machine, state, stretch, start, requests):
    """Take accesses from ``start`` on until they end or ``requests`` have no room for more; where it stopped."""
    m, s, x, out = addresses_of(machine), addresses_of(state), addresses_of(stretch), addresses_of(requests)
    for n in range(start, stretch.kind.size):
        if m.rule[RECORDS] and out.filled[0] + MARGIN > requests.address.size:
            return n
        core, kind = x.core[n], x.kind[n]
        work = x.instructions[n] * m.rule[PER_INSTRUCTION]
        s.now[core] += work
        s.program[core] += work
        if kind == FETCH or not _quick(m, s, core, x.address[n], kind):
            _access(m, s, x, n, out)
    return stretch.kind.size
