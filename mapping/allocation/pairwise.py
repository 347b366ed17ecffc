"""Exact search over pairs: for each conflicting pair, which of the two lies below.

Needed only where buffers have gaps with windows such that one may start below another and still lie above it in
all the bytes that count; placing by rising offset does not reach such packings. A depth-first search decides the
pair that is violated most by the present least offsets, and lifts offsets along the decided order until nothing
moves. A set of decisions is dead when an offset exceeds its highest value. Exponential in the number of pairs,
hence for small problems.
"""

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled
from mapping.allocation.by_offset import FOUND, LIMIT, NONE
from mapping.allocation.state import allowed

__all__ = ["search_by_pairs"]


@compiled
def _propagate(inst, highest, below, least):  # type: ignore[no-untyped-def]
    """Lift offsets along decided pairs to a fixed point; False when one exceeds its highest offset."""
    moved = True
    while moved:
        moved = False
        for i in range(len(inst.size)):
            for q in range(inst.near_ptr[i], inst.near_ptr[i + 1]):
                if below[q] != 1:
                    continue
                k = inst.near[q]
                bound = least[i] + inst.above[q]
                if least[k] < bound:
                    least[k] = allowed(inst, k, bound)
                    if least[k] > highest[k]:
                        return False
                    moved = True
    return True


@compiled
def search_by_pairs(inst, highest, node_limit, stop):  # type: ignore[no-untyped-def]
    """Search for offsets with offset <= highest; returns (status, nodes, offsets)."""
    n = len(inst.size)
    pairs = len(inst.near)
    mirror = np.empty(pairs, np.int64)
    for i in range(n):
        for q in range(inst.near_ptr[i], inst.near_ptr[i + 1]):
            for r in range(inst.near_ptr[inst.near[q]], inst.near_ptr[inst.near[q] + 1]):
                if inst.near[r] == i:
                    mirror[q] = r
    depth_most = pairs // 2 + 2
    least = np.zeros((depth_most, n), np.int64)
    below = np.zeros(pairs, np.int64)
    chosen = np.full(depth_most, -1, np.int64)
    tried = np.zeros(depth_most, np.int64)
    nodes = 0
    for i in range(n):
        least[0, i] = allowed(inst, i, 0)
        if least[0, i] > highest[i]:
            return NONE, nodes, least[0]
    d = 0
    while d >= 0:
        if chosen[d] < 0:
            # The worst violated pair; none means that the least offsets are a packing.
            worst = -1
            most = np.int64(0)
            for i in range(n):
                for q in range(inst.near_ptr[i], inst.near_ptr[i + 1]):
                    k = inst.near[q]
                    if k < i or below[q] != 0:
                        continue
                    over = min(
                        least[d, i] + inst.above[q] - least[d, k],
                        least[d, k] + inst.above[mirror[q]] - least[d, i],
                    )
                    if over > most:
                        most = over
                        worst = q
            if worst < 0:
                return FOUND, nodes, least[d]
            chosen[d] = worst
            tried[d] = 0
        q = chosen[d]
        r = mirror[q]
        below[q] = 0
        below[r] = 0
        if tried[d] == 2:
            chosen[d] = -1
            d -= 1
            continue
        if nodes >= node_limit or stop[0]:
            return LIMIT, nodes, least[d]
        nodes += 1
        i = inst.near[r]
        k = inst.near[q]
        first = least[d, i] + inst.above[q] - least[d, k] <= least[d, k] + inst.above[r] - least[d, i]
        if first == (tried[d] == 0):
            below[q], below[r] = 1, 2
        else:
            below[q], below[r] = 2, 1
        tried[d] += 1
        least[d + 1] = least[d]
        if _propagate(inst, highest, below, least[d + 1]):
            d += 1
            chosen[d] = -1
    return NONE, nodes, least[0]
