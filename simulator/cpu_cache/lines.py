"""One set of a cache: which way holds a line, what a use changes, and which way gives way (the five policies).

A way that holds nothing is taken first, lowest first. Random ways come from a linear congruential sequence (Knuth's
MMIX constants), drawn only when every way is taken. SRRIP keeps two bits (Jaleel et al., ISCA 2010: hit priority).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import numpy as np
from numpy import uint64 as u

from simulator.cpu_cache.machine import (
    CORES,
    FIFO,
    LRU,
    RANDOM,
    SRRIP,
    TREE,
    Machine,
    State,
)
from simulator.cpu_cache.step import small, step

__all__ = ["drop", "find", "put", "set_of", "use"]


@small
def set_of(m: Machine, row, line):
    """The set of a line in each copy of a row."""
    r = m.row[u(row)]
    folded = line
    if r.hashed:
        rest = line >> r.fold
        while rest:
            folded ^= rest
            rest >>= r.fold
    if r.sets & (r.sets - 1):
        return folded % r.sets
    return folded & (r.sets - 1)


@step
def _search(m: Machine, s: State, row, core, line):
    """Look a line up in its set and note where it is."""
    at = row * m.rule[CORES] + core
    ways = m.row[u(row)].ways
    first = m.begin[at] + set_of(m, row, line) * ways
    found = 0
    for k in range(ways):
        found |= k + 1 if s.tag[first + k] == line else 0
    if found == 0:
        return -1
    place = first + found - 1
    s.hint[m.hints[at] + (line & m.row[u(row)].mask)] = place
    return place


@small
def find(m: Machine, s: State, row, core, line):
    """The place of a line in a core's copy of a row, -1 where it is not. The place noted last is looked at first."""
    place = s.hint[m.hints[row * m.rule[CORES] + core] + (line & m.row[u(row)].mask)]
    if s.tag[place] != line:
        return _search(m, s, row, core, line)
    return np.int64(place)


@step
def _point_away(m: Machine, s: State, row, place):
    """Turn the tree's bits on the way to a place away from it."""
    ways = m.row[u(row)].ways
    inside = (place - m.row[u(row)].base) % ways
    group = m.row[u(row)].set_base + (place - m.row[u(row)].base) // ways
    node, half = 1, ways >> 1
    bits = s.tree[group]
    while half:
        right = (inside & half) != 0
        bits = bits & ~(1 << node) if right else bits | (1 << node)
        node = 2 * node + (1 if right else 0)
        half >>= 1
    s.tree[group] = bits


@small
def use(m: Machine, s: State, row, place):
    """A line was used."""
    policy = m.row[u(row)].policy
    if policy == LRU:
        s.clock[0] += 1
        s.age[place] = s.clock[0]
    elif policy == TREE:
        _point_away(m, s, row, place)
    elif policy == SRRIP:
        s.age[place] = 0


@step
def _oldest(s: State, first, ways):
    """The first of the ways with the least age; that of an empty way is -1."""
    least = s.age[first] << 16
    for k in range(1, ways):
        least = min(least, (s.age[first + k] << 16) | k)
    return first + (least & 0xFFFF)


@step
def _other_victim(m: Machine, s: State, row, first):
    """The place of a set that gives way where not the oldest does."""
    ways, policy = m.row[u(row)].ways, m.row[u(row)].policy
    for place in range(first, first + ways):
        if s.tag[place] == -1:
            return place
    if policy == TREE:
        bits = s.tree[m.row[u(row)].set_base + (first - m.row[u(row)].base) // ways]
        node = 1
        while node < ways:
            node = 2 * node + ((bits >> node) & 1)
        return first + node - ways
    if policy == RANDOM:
        s.clock[1] = s.clock[1] * 6364136223846793005 + 1442695040888963407
        return first + ((s.clock[1] >> 33) & 0x3FFFFFFF) % ways
    while True:
        for place in range(first, first + ways):
            if s.age[place] >= 3:
                return place
        for place in range(first, first + ways):
            s.age[place] += 1


@step
def put(m: Machine, s: State, row, core, line, flag):
    """Place a line that is not there; the place, the line that gave way (-1: none) and its flags."""
    at = row * m.rule[CORES] + core
    ways, policy = m.row[u(row)].ways, m.row[u(row)].policy
    first = m.begin[at] + set_of(m, row, line) * ways
    aged = policy in (LRU, FIFO)
    place = _oldest(s, first, ways) if aged else _other_victim(m, s, row, first)
    old, old_flag = s.tag[place], np.int64(s.flag[place])
    s.tag[place], s.flag[place] = line, flag
    s.hint[m.hints[at] + (line & m.row[u(row)].mask)] = place
    if aged:
        s.clock[0] += 1
        s.age[place] = s.clock[0]
    elif policy == TREE:
        _point_away(m, s, row, place)
    elif policy == SRRIP:
        s.age[place] = 2
    return place, old, old_flag


@small
def drop(s: State, place):
    """Empty a way."""
    s.tag[place], s.flag[place], s.age[place] = -1, 0, -1
