"""One set of a cache: which way holds a line, what a use changes, and which way gives way (the five policies).

A way that holds nothing is taken first, lowest first. Random ways come from a linear congruential sequence (Knuth's
MMIX constants), drawn only when every way is taken. SRRIP keeps two bits (Jaleel et al., ISCA 2010: hit priority).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from simulator.cpu_cache.machine import (
    BASE,
    FIFO,
    FOLD,
    HASHED,
    HINT,
    LRU,
    POLICY,
    RANDOM,
    SET_BASE,
    SETS,
    SRRIP,
    TREE,
    WAYS,
    Machine,
    State,
)
from simulator.cpu_cache.step import small, step

__all__ = ["drop", "find", "put", "set_of", "use"]


@small
def set_of(m: Machine, row, line):
    """The set of a line in each copy of a row."""
    folded = line
    if m.row[row, HASHED]:
        rest = line >> m.row[row, FOLD]
        while rest:
            folded ^= rest
            rest >>= m.row[row, FOLD]
    sets = m.row[row, SETS]
    if sets & (sets - 1):
        return folded % sets
    return folded & (sets - 1)


@small
def find(m: Machine, s: State, row, copy, line):
    """The place of a line in the arrays, -1 where it is not. Where a line was found last is looked at first."""
    hint = m.row[row, HINT] + copy
    held = s.hint[hint]
    if s.tag[held] == line:
        return held
    ways = m.row[row, WAYS]
    first = m.row[row, BASE] + (copy * m.row[row, SETS] + set_of(m, row, line)) * ways
    for place in range(first, first + ways):
        if s.tag[place] == line:
            s.hint[hint] = place
            return place
    return -1


@step
def _point_away(m: Machine, s: State, row, place):
    """Turn the tree's bits on the way to a place away from it."""
    ways = m.row[row, WAYS]
    inside = (place - m.row[row, BASE]) % ways
    group = m.row[row, SET_BASE] + (place - m.row[row, BASE]) // ways
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
    policy = m.row[row, POLICY]
    if policy == LRU:
        s.clock[0] += 1
        s.age[place] = s.clock[0]
    elif policy == TREE:
        _point_away(m, s, row, place)
    elif policy == SRRIP:
        s.age[place] = 0


@step
def _victim(m: Machine, s: State, row, first):
    """The place of a set that gives way."""
    ways, policy = m.row[row, WAYS], m.row[row, POLICY]
    for place in range(first, first + ways):
        if s.tag[place] == -1:
            return place
    if policy == TREE:
        bits = s.tree[m.row[row, SET_BASE] + (first - m.row[row, BASE]) // ways]
        node = 1
        while node < ways:
            node = 2 * node + ((bits >> node) & 1)
        return first + node - ways
    if policy == RANDOM:
        s.clock[1] = s.clock[1] * 6364136223846793005 + 1442695040888963407
        return first + ((s.clock[1] >> 33) & 0x3FFFFFFF) % ways
    if policy == SRRIP:
        while True:
            for place in range(first, first + ways):
                if s.age[place] >= 3:
                    return place
            for place in range(first, first + ways):
                s.age[place] += 1
    oldest = first
    for place in range(first, first + ways):
        if s.age[place] < s.age[oldest]:
            oldest = place
    return oldest


@step
def put(m: Machine, s: State, row, copy, line, flag):
    """Place a line that is not there; the place, and in ``chain`` the line that gave way (-1: none) and its flags."""
    ways = m.row[row, WAYS]
    first = m.row[row, BASE] + (copy * m.row[row, SETS] + set_of(m, row, line)) * ways
    place = _victim(m, s, row, first)
    old, old_flag = s.tag[place], s.flag[place]
    s.tag[place], s.flag[place], s.ready[place] = line, flag, 0
    policy = m.row[row, POLICY]
    if policy in (LRU, FIFO):
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
