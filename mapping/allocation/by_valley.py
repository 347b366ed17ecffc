"""Exact search that fills the lowest places of the skyline, the most constrained one first.

The floors of the sections form a skyline. Take a valley: a run of sections with one floor f and higher ground on
both sides. Whatever uses a section of the valley at f lives inside the valley, for the walls lift everything that
reaches beyond it. So for a section of a valley there are few candidates, and either one of them lies at f, or all
of them lie higher and the bytes between are wasted. The search takes the section with the fewest choices and
splits on one candidate: *at f*, or *above f*.

"Above f" is turned into a number. In a packing pushed down as far as it goes, a buffer lies at 0 or on the top of
another one. One that is not at f must therefore lie on a buffer that is still unplaced, and cannot be lower than
the lowest top which such a neighbour can have. The floors rise, and a section without the slack for it closes the
branch. With zero slack everywhere, as in a rectangle cut into pieces, nothing is ever wasted and the search is an
exact cover of the skyline.

All buffers need one alignment (it is the unit then) and full windows; :mod:`mapping.allocation.by_offset` takes
the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.allocation.by_offset import FOUND, LIMIT, NONE
from mapping.allocation.state import allowed, lift, new_state, place, settle, undo, unplace

__all__ = ["FITTING", "LOWEST", "TIGHTEST", "search_by_valley"]

Ints = NDArray[np.int64]
FITTING, LOWEST, TIGHTEST = 1, 2, 4
"""Styles of the search, to be added: prefer buffers that close a step of the skyline; lowest valleys only; among
sections with as few choices, the one with the least slack instead of the lowest floor."""


class Bounds(NamedTuple):
    """What the search was asked for: highest offset of each buffer and top of each section, rank and style."""

    highest: Ints
    ceiling: Ints
    rank: Ints
    style: int


class _Work(NamedTuple):
    """The order of the buffers, those of a node together; and for its sections the valley and candidates of each."""

    order: Ints
    valley: Ints
    counts: Ints


_KIND, _S0, _S1, _B0, _B1, _CHOSEN, _MARK, _LOW = range(8)
_NODE, _PARTS = 0, 1
_FAR = np.int64(2**62)


@compiled
def _lowest_support(inst, st, j):  # type: ignore[no-untyped-def]
    """The lowest top that an unplaced neighbour of a buffer can have."""
    best = _FAR
    for q in range(inst.near_ptr[j], inst.near_ptr[j + 1]):
        k = inst.near[q]
        if st.placed[k] == 0:
            best = min(best, st.least[k] + inst.size[k])
    return best


@compiled
def _is_forced(inst, st, j):  # type: ignore[no-untyped-def]
    """Whether no unplaced neighbour can come to lie below the top of a buffer at its least offset."""
    top = st.least[j] + inst.size[j]
    for q in range(inst.near_ptr[j], inst.near_ptr[j + 1]):
        k = inst.near[q]
        if st.placed[k] == 0 and st.least[k] < top:
            return False
    return True


@compiled
def _mark_valleys(st, s0, s1, valley):  # type: ignore[no-untyped-def]
    """Number the valleys of the sections [s0, s1); -1 elsewhere. Sections without unplaced buffers are walls."""
    count = 0
    s = s0
    left = _FAR
    while s < s1:
        if st.witness[s] < 0:
            valley[s] = -1
            left = _FAR
            s += 1
            continue
        floor = st.floor[s]
        e = s + 1
        while e < s1 and st.witness[e] >= 0 and st.floor[e] == floor:
            e += 1
        right = _FAR
        if e < s1 and st.witness[e] >= 0:
            right = st.floor[e]
        if left > floor and right > floor:
            for t in range(s, e):
                valley[t] = count
            count += 1
        else:
            for t in range(s, e):
                valley[t] = -1
        left = floor
        s = e
    return count


@compiled
def _choose(inst, st, bounds, frame, work):  # type: ignore[no-untyped-def]
    """The candidate to split on, or -1 when the node is dead."""
    s0, s1, b0, b1 = frame[_S0], frame[_S1], frame[_B0], frame[_B1]
    highest, ceiling, rank, style = bounds.highest, bounds.ceiling, bounds.rank, bounds.style
    order, valley, counts = work.order, work.valley, work.counts
    while True:
        _mark_valleys(st, s0, s1, valley)
        for s in range(s0, s1 + 1):
            counts[s] = 0
        lifted = False
        for b in range(b0, b1):
            j = order[b]
            low = inst.first[j]
            if valley[low] < 0 or valley[low] != valley[inst.last[j] - 1]:
                continue
            least = st.least[j]
            if least != st.floor[low]:
                continue
            bound = least
            twin = inst.twin[j]
            if twin >= 0 and st.placed[twin] == 0:
                bound = st.least[twin] + inst.size[twin]
            elif least != allowed(inst, j, st.support[j]):
                bound = _lowest_support(inst, st, j)
            if bound > least:
                if not lift(inst, st, highest, j, bound):
                    return -1
                if not settle(inst, st, ceiling, st.marks[1], st.marks[2]):
                    return -1
                lifted = True
                break
            counts[low] += 1
            counts[inst.last[j]] -= 1
        if not lifted:
            break
    best_section = -1
    best_cost = _FAR
    best_tie = _FAR
    running = 0
    lowest = _FAR
    for s in range(s0, s1):
        if valley[s] >= 0:
            lowest = min(lowest, st.floor[s])
    for s in range(s0, s1):
        running += counts[s]
        if valley[s] < 0:
            continue
        cost = running
        if st.floor[s] + st.rest[s] < ceiling[s]:
            cost += 1
        if style & LOWEST and st.floor[s] > lowest:
            continue
        tie = st.floor[s]
        if style & TIGHTEST:
            tie = ceiling[s] - st.floor[s] - st.rest[s]
        if cost < best_cost or (cost == best_cost and tie < best_tie):
            best_cost = cost
            best_tie = tie
            best_section = s
    s = best_section
    best = -1
    best_rank = _FAR
    for p in range(inst.member_ptr[s], inst.member_ptr[s + 1]):
        j = inst.member[p]
        if st.placed[j] or st.least[j] != st.floor[s]:
            continue
        if inst.twin[j] >= 0 and st.placed[inst.twin[j]] == 0:
            continue
        value = rank[j]
        if style & FITTING:
            # Prefer what closes a step of the skyline exactly.
            top = st.least[j] + inst.size[j]
            low, high = inst.first[j], inst.last[j]
            n = len(inst.size)
            if low > s0 and st.floor[low - 1] == top:
                value -= n
            if high < s1 and st.floor[high] == top:
                value -= n
        if value < best_rank:
            best_rank = value
            best = j
    return best


@compiled
def search_by_valley(inst, bounds, pace, node_limit, rows, stop):  # type: ignore[no-untyped-def]
    """Search one component for offsets within ``bounds`` (:class:`Bounds`); returns (status, nodes, offsets).

    ``pace`` (in parts of :data:`~mapping.allocation.state.PACES`) sets bytes aside for every byte unplaced, so that
    the slack is not all wasted at the bottom; above zero the status NONE proves nothing.
    With the status LIMIT the offsets are those of the fullest partial packing seen, -1 for what it lacks.
    """
    n = len(inst.size)
    highest, ceiling = bounds.highest, bounds.ceiling
    sections = len(ceiling)
    st = new_state(inst, rows)
    st.marks[3] = pace
    order = np.arange(n)
    valley = np.empty(sections, np.int64)
    counts = np.empty(sections + 1, np.int64)
    work = _Work(order, valley, counts)
    frames = np.zeros((2 * n + 4, 8), np.int64)
    fullest = np.full(n, -1, np.int64)
    filled = 0
    most_filled = 0
    nodes = 0
    reserve = 8 * sections + 4 * n + 8
    for j in range(n):
        if st.least[j] > highest[j]:
            return NONE, nodes, st.offset
    if not settle(inst, st, ceiling, 0, sections):
        return NONE, nodes, st.offset
    d = 0
    root = frames[0]
    root[_S1] = sections
    root[_B1] = n
    root[_CHOSEN] = -1
    verdict = 0
    while True:
        frame = frames[d]
        if verdict == 0 and frame[_KIND] == _PARTS:
            if frame[_LOW] >= frame[_B1]:
                verdict = 1
            else:
                b0 = frame[_LOW]
                b1 = b0
                low = inst.first[order[b0]]
                high = inst.last[order[b0]]
                while b1 < frame[_B1] and (b1 == b0 or inst.first[order[b1]] < high):
                    high = max(high, inst.last[order[b1]])
                    b1 += 1
                frame[_LOW] = b1
                d += 1
                child = frames[d]
                child[_KIND] = _NODE
                child[_S0] = low
                child[_S1] = high
                child[_B0] = b0
                child[_B1] = b1
                child[_CHOSEN] = -1
                continue
        if verdict == 1:
            if d == 0:
                return FOUND, nodes, st.offset
            d -= 1
            verdict = 0 if frames[d][_KIND] == _PARTS else 1
            continue
        if verdict == -1:
            if d == 0:
                return NONE, nodes, st.offset
            d -= 1
            verdict = -1 if frames[d][_KIND] == _PARTS else 0
            continue
        if frame[_CHOSEN] >= 0:
            # The buffer is not at its least offset: take it out, and lift it to where it can lie instead.
            j = frame[_CHOSEN]
            for b in range(frame[_B0], frame[_B1]):
                if st.placed[order[b]]:
                    unplace(inst, st, order[b])
                    filled -= 1
            undo(st, frame[_MARK])
            frame[_CHOSEN] = -1
            if st.marks[0] + reserve > rows:
                return LIMIT, nodes, fullest
            if _is_forced(inst, st, j) or not lift(inst, st, highest, j, _lowest_support(inst, st, j)):
                verdict = -1
                continue
            if not settle(inst, st, ceiling, st.marks[1], st.marks[2]):
                verdict = -1
                continue
        if nodes >= node_limit or stop[0] or st.marks[0] + reserve > rows:
            return LIMIT, nodes, fullest
        nodes += 1
        j = _choose(inst, st, bounds, frame, work)
        if j < 0:
            verdict = -1
            continue
        frame[_CHOSEN] = j
        frame[_MARK] = st.marks[0]
        filled += 1
        if not place(inst, st, highest, j, st.least[j]):
            continue
        if not settle(inst, st, ceiling, st.marks[1], st.marks[2]):
            continue
        if filled > most_filled:
            most_filled = filled
            fullest[:] = st.offset
        b1 = frame[_B1] - 1
        for b in range(frame[_B0], b1):
            if order[b] == j:
                order[b] = order[b1]
                order[b1] = j
                break
        if frame[_B0] == b1:
            verdict = 1
            continue
        cut = False
        for s in range(inst.first[j] + 1, inst.last[j]):
            if st.crossing[s] == 0:
                cut = True
                break
        d += 1
        child = frames[d]
        child[_KIND] = _PARTS if cut else _NODE
        child[_S0] = frame[_S0]
        child[_S1] = frame[_S1]
        child[_B0] = frame[_B0]
        child[_B1] = b1
        child[_CHOSEN] = -1
        if cut:
            run = order[frame[_B0] : b1]
            run.sort()
            child[_LOW] = frame[_B0]
