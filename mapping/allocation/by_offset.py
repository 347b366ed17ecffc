"""Exact search that places buffers by rising offset.

Depth-first: at each node some unplaced buffer is put at its least offset, and offsets never fall along a branch
(ties follow a static rank). Every packing can be pushed down to such a canonical one, so none is lost as long as
the distance between neighbours is positive. Cut off are: sections whose floor plus rest exceeds the ceiling,
where the floor is at least the current offset; buffers that would start above the top that another unplaced
buffer could reach at least (dominance); alternatives to a buffer with no unplaced neighbour. When placing a
buffer leaves a time that no unplaced life crosses, the parts are solved one after the other.

Source: M. D. Moffitt, "MiniMalloc", ASPLOS 2023 vol. 4, doi:10.1145/3623278.3624752.
"""

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled
from mapping.allocation.state import new_state, place, settle, undo, unplace

__all__ = ["FOUND", "LIMIT", "NONE", "search_by_offset"]

FOUND, NONE, LIMIT = 1, 0, -1

# Columns of a frame. A frame is one node of the search, or a list of independent parts.
_KIND, _S0, _S1, _B0, _B1, _OFFSET, _RANK, _TOP, _CHOSEN, _MARK, _PART, _LOW = range(12)
_NODE, _PARTS = 0, 1


@compiled
def _next_candidate(inst, st, rank, order, frame):  # type: ignore[no-untyped-def]
    """The unplaced buffer next in (least offset, rank) after the one tried last, or -1."""
    best = -1
    best_offset = frame[_TOP]
    best_rank = np.int64(2**62)
    for b in range(frame[_B0], frame[_B1]):
        j = order[b]
        offset = st.least[j]
        if offset > best_offset or (offset == best_offset and rank[j] >= best_rank):
            continue
        if offset >= frame[_TOP]:
            continue
        if offset < frame[_OFFSET] or (offset == frame[_OFFSET] and rank[j] <= frame[_RANK]):
            continue
        if inst.twin[j] >= 0 and st.placed[inst.twin[j]] == 0:
            continue
        best = j
        best_offset = offset
        best_rank = rank[j]
    return best


@compiled
def _lowest_top(inst, st, order, b0, b1):  # type: ignore[no-untyped-def]
    top = np.int64(2**62)
    for b in range(b0, b1):
        j = order[b]
        top = min(top, st.least[j] + inst.size[j])
    return top


@compiled
def search_by_offset(inst, highest, ceiling, rank, node_limit, rows, stop):  # type: ignore[no-untyped-def]
    """Search one component for offsets with offset <= highest; returns (status, nodes, offsets).

    ``status`` is FOUND, NONE (no canonical packing exists) or LIMIT (``node_limit`` was reached or the trail
    of ``rows`` rows was too short, or ``stop[0]`` was set; then ``nodes`` is below the limit).
    """
    n = len(inst.size)
    sections = len(ceiling)
    st = new_state(inst, rows)
    order = np.arange(n)
    frames = np.zeros((2 * n + 4, 12), np.int64)
    nodes = 0
    reserve = 4 * sections + 2 * n + 8
    for j in range(n):
        if st.least[j] > highest[j]:
            return NONE, nodes, st.offset
    if not settle(inst, st, ceiling, 0, sections):
        return NONE, nodes, st.offset
    d = 0
    root = frames[0]
    root[_S1] = sections
    root[_B1] = n
    root[_RANK] = -1
    root[_TOP] = _lowest_top(inst, st, order, 0, n)
    root[_CHOSEN] = -1
    # verdict: 0 go on with the frame on top, 1 the frame on top succeeded, -1 it failed
    verdict = 0
    while True:
        frame = frames[d]
        if verdict == 0 and frame[_KIND] == _PARTS:
            verdict = 1 if frame[_LOW] >= frame[_B1] else 0
            if verdict == 0:
                # Open the next part: the run of buffers whose part number is the next one.
                b0 = frame[_LOW]
                b1 = b0
                high = inst.last[order[b0]]
                low = inst.first[order[b0]]
                while b1 < frame[_B1] and (b1 == b0 or inst.first[order[b1]] < high):
                    high = max(high, inst.last[order[b1]])
                    low = min(low, inst.first[order[b1]])
                    b1 += 1
                frame[_LOW] = b1
                d += 1
                child = frames[d]
                child[_KIND] = _NODE
                child[_S0] = low
                child[_S1] = high
                child[_B0] = b0
                child[_B1] = b1
                child[_OFFSET] = frame[_OFFSET]
                child[_RANK] = frame[_RANK]
                child[_TOP] = _lowest_top(inst, st, order, b0, b1)
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
        # A node. First take back what was tried before.
        if frame[_CHOSEN] >= 0:
            j = frame[_CHOSEN]
            # Parts below may have left buffers placed that the trail knows nothing of.
            for b in range(frame[_B0], frame[_B1]):
                if st.placed[order[b]]:
                    unplace(inst, st, order[b])
            undo(st, frame[_MARK])
            frame[_CHOSEN] = -1
        j = _next_candidate(inst, st, rank, order, frame)
        if j < 0:
            verdict = -1
            continue
        if nodes >= node_limit or stop[0] or st.marks[0] + reserve > rows:
            return LIMIT, nodes, st.offset
        nodes += 1
        offset = st.least[j]
        frame[_OFFSET] = offset
        frame[_RANK] = rank[j]
        frame[_CHOSEN] = j
        frame[_MARK] = st.marks[0]
        if not place(inst, st, highest, j, offset):
            continue
        if not settle(inst, st, ceiling, st.marks[1], st.marks[2]):
            continue
        good = True
        for s in range(frame[_S0], frame[_S1]):
            if st.rest[s] > 0 and max(st.floor[s], offset) + st.rest[s] > ceiling[s]:
                good = False
                break
        if not good:
            continue
        # Open the child: the chosen buffer goes to the end of the run.
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
        child[_OFFSET] = offset
        child[_RANK] = rank[j]
        child[_CHOSEN] = -1
        if cut:
            # Rows are numbered by first section, so sorting the run groups it by part.
            run = order[frame[_B0] : b1]
            run.sort()
            child[_LOW] = frame[_B0]
        else:
            child[_TOP] = _lowest_top(inst, st, order, frame[_B0], b1)
