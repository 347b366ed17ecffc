"""What both exact searches keep while they place buffers: floors, sums and least offsets, with an undo trail.

For every section: ``floor``, below which nothing unplaced can start to use bytes, and ``rest``, the bytes that
its unplaced buffers still need. A packing exists only while floor + rest stays below the ceiling everywhere.
For every buffer: ``least``, an offset that it cannot go below, and ``support``, the highest top among the placed
buffers that it must lie above. All of them only rise on the way down, and every rise is written to the trail,
so that going back costs no more than going forward.

Each section watches one unplaced buffer that could start at the floor (the witness). Only when that one is
placed or lifted are the section's members read again, to find a new witness or a higher floor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled

__all__ = ["State", "lift", "new_state", "place", "settle", "undo", "unplace"]

Ints = NDArray[np.int64]
PACES = 4096
"""Parts of a byte that are set aside for what each unplaced byte will waste: ``marks[3]`` of so many."""


class State(NamedTuple):
    """Arrays that change during a search. Floor, least, support and witness are views of ``cells``."""

    floor: Ints  # per section
    witness: Ints  # per section: a position in Instance.member, or -1 when all are placed
    least: Ints  # per buffer
    support: Ints  # per buffer
    cells: Ints
    rest: Ints  # per section
    crossing: Ints  # per section: unplaced buffers alive in it and in the section before
    placed: Ints  # per buffer
    offset: Ints  # per buffer
    trail: Ints  # rows of (cell, old value)
    marks: Ints  # [rows of the trail in use, lowest section touched, highest section touched + 1, pace]


@compiled
def new_state(inst, rows):  # type: ignore[no-untyped-def]
    """The state before anything is placed. ``rows`` is the length of the trail."""
    n = len(inst.size)
    sections = len(inst.member_ptr) - 1
    cells = np.zeros(2 * sections + 2 * n, np.int64)
    st = State(
        cells[:sections],
        cells[sections : 2 * sections],
        cells[2 * sections : 2 * sections + n],
        cells[2 * sections + n :],
        cells,
        np.zeros(sections, np.int64),
        np.zeros(sections + 1, np.int64),
        np.zeros(n, np.int64),
        np.full(n, -1, np.int64),
        np.empty((rows, 2), np.int64),
        np.zeros(4, np.int64),
    )
    for i in range(n):
        st.least[i] = allowed(inst, i, 0)
        for p in range(inst.span_ptr[i], inst.span_ptr[i + 1]):
            for s in range(inst.span_lo[p], inst.span_hi[p]):
                st.rest[s] += inst.window_hi[p] - inst.window_lo[p]
        for s in range(inst.first[i] + 1, inst.last[i]):
            st.crossing[s] += 1
    for s in range(sections):
        st.witness[s] = inst.member_ptr[s]
    return st


@compiled
def allowed(inst, i, offset):  # type: ignore[no-untyped-def]
    """The lowest offset from ``offset`` on that the alignment and the fixed neighbours of a buffer allow."""
    if inst.fixed[i] >= 0:
        return max(offset, inst.fixed[i])
    align = inst.align[i]
    low = offset
    if align > 1:
        low = (low + align - 1) // align * align
    for p in range(inst.barred_ptr[i], inst.barred_ptr[i + 1]):
        if low <= inst.barred_lo[p]:
            break
        if low < inst.barred_hi[p]:
            low = (inst.barred_hi[p] + align - 1) // align * align
    return low


@compiled
def _write(st, cell, value):  # type: ignore[no-untyped-def]
    row = st.marks[0]
    st.trail[row, 0] = cell
    st.trail[row, 1] = st.cells[cell]
    st.marks[0] = row + 1
    st.cells[cell] = value


@compiled
def place(inst, st, highest, j, offset):  # type: ignore[no-untyped-def]
    """Put a buffer at an offset and lift its unplaced neighbours above it; False when one cannot be lifted.

    ``marks[1:]`` then spans the sections that :func:`settle` has to look at.
    """
    sections = len(inst.member_ptr) - 1
    n = len(inst.size)
    st.placed[j] = 1
    st.offset[j] = offset
    for p in range(inst.span_ptr[j], inst.span_ptr[j + 1]):
        top = offset + inst.window_hi[p]
        height = inst.window_hi[p] - inst.window_lo[p]
        for s in range(inst.span_lo[p], inst.span_hi[p]):
            st.rest[s] -= height
            if st.floor[s] < top:
                _write(st, s, top)
    for s in range(inst.first[j] + 1, inst.last[j]):
        st.crossing[s] -= 1
    low = inst.first[j]
    high = inst.last[j]
    good = True
    base = 2 * sections
    for q in range(inst.near_ptr[j], inst.near_ptr[j + 1]):
        k = inst.near[q]
        if st.placed[k]:
            continue
        bound = offset + inst.above[q]
        if st.support[k] < bound:
            _write(st, base + n + k, bound)
        if st.least[k] < bound:
            bound = allowed(inst, k, bound)
            _write(st, base + k, bound)
            if bound > highest[k]:
                good = False
                break
            low = min(low, inst.first[k])
            high = max(high, inst.last[k])
    st.marks[1] = low
    st.marks[2] = high
    return good


@compiled
def lift(inst, st, highest, k, bound):  # type: ignore[no-untyped-def]
    """Raise the least offset of an unplaced buffer; False when it no longer fits."""
    bound = allowed(inst, k, bound)
    _write(st, 2 * (len(inst.member_ptr) - 1) + k, bound)
    st.marks[1] = inst.first[k]
    st.marks[2] = inst.last[k]
    return bound <= highest[k]


@compiled
def settle(inst, st, ceiling, low, high):  # type: ignore[no-untyped-def]
    """Renew witnesses and floors of the sections [low, high); False when one of them cannot hold its rest."""
    sections = len(inst.member_ptr) - 1
    for s in range(low, high):
        w = st.witness[s]
        if w < 0:
            continue
        j = inst.member[w]
        floor = st.floor[s]
        if st.placed[j] or st.least[j] + inst.member_lo[w] > floor:
            best = -1
            least = np.int64(2**62)
            for p in range(inst.member_ptr[s], inst.member_ptr[s + 1]):
                k = inst.member[p]
                if st.placed[k] == 0:
                    start = st.least[k] + inst.member_lo[p]
                    if start < least:
                        least = start
                        best = p
                        if start <= floor:
                            break
            _write(st, sections + s, best)
            if best >= 0 and least > floor:
                _write(st, s, least)
                floor = least
        rest = st.rest[s]
        if st.marks[3] > 0:
            rest += rest // PACES * st.marks[3] + rest % PACES * st.marks[3] // PACES
        if floor + rest > ceiling[s]:
            return False
    return True


@compiled
def undo(st, mark):  # type: ignore[no-untyped-def]
    """Restore all cells written since the trail had ``mark`` rows."""
    for row in range(st.marks[0] - 1, mark - 1, -1):
        st.cells[st.trail[row, 0]] = st.trail[row, 1]
    st.marks[0] = mark


@compiled
def unplace(inst, st, j):  # type: ignore[no-untyped-def]
    """Take a buffer out again; its effects on others are undone by :func:`undo`."""
    st.placed[j] = 0
    st.offset[j] = -1
    for p in range(inst.span_ptr[j], inst.span_ptr[j + 1]):
        height = inst.window_hi[p] - inst.window_lo[p]
        for s in range(inst.span_lo[p], inst.span_hi[p]):
            st.rest[s] += height
    for s in range(inst.first[j] + 1, inst.last[j]):
        st.crossing[s] += 1
