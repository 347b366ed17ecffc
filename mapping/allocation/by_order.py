"""Exact search over the order of storages: for each pair that may meet, which of the two lies below.

The least offsets under a set of decisions are a fixed point: each is lifted until every decided distance, every slack,
the alignment and the boundaries hold. All of these only ever lift, so the fixed point is the lowest plan in every
storage at once; a storage above its highest offset refutes the decisions, and where no undecided pair overlaps the
fixed point is a plan. A depth-first search decides the pair that overlaps most. Exponential, hence for some hundred
pairs; larger problems are placed greedily by the same rules.
"""

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled
from mapping.allocation.by_offset import FOUND, LIMIT, NONE

__all__ = ["place_greedily", "search_by_order"]


@compiled
def _raised(s, at, high, align, fixed, step, step_ptr):  # type: ignore[no-untyped-def]
    """The least allowed offset of a storage at or above ``at``; some offset above ``high`` where none is below."""
    if fixed[s] >= 0 and at > fixed[s]:
        return np.int64(1) << 61
    if fixed[s] >= 0:
        at = fixed[s]
        for r in range(step_ptr[s], step_ptr[s + 1]):
            if at // step[r, 2] != (at + step[r, 1] - 1) // step[r, 2]:
                return np.int64(1) << 61
        return at
    moved = True
    while moved and at <= high:
        moved = False
        at = -(-at // align[s]) * align[s]
        for r in range(step_ptr[s], step_ptr[s + 1]):
            if at // step[r, 2] != (at + step[r, 1] - 1) // step[r, 2]:
                at = (at // step[r, 2] + 1) * step[r, 2]
                moved = True
    return at


@compiled
def _lift(least, highest, align, fixed, pair, slack, step, step_ptr, below):  # type: ignore[no-untyped-def]
    """Lift offsets to the fixed point of the decisions; False when one exceeds its highest."""
    moved = True
    while moved:
        moved = False
        for q in range(len(pair)):
            if below[q] == 0:
                continue
            a, b, reach = pair[q, 0], pair[q, 1], pair[q, 2]
            if below[q] == 2:
                a, b, reach = pair[q, 1], pair[q, 0], pair[q, 3]
            if least[b] < least[a] + reach:
                least[b] = _raised(b, least[a] + reach, highest[b], align, fixed, step, step_ptr)
                if least[b] > highest[b]:
                    return False
                moved = True
        for r in range(len(slack)):
            inner, outer = slack[r, 0], slack[r, 1]
            if least[inner] < least[outer] + slack[r, 2]:
                least[inner] = _raised(inner, least[outer] + slack[r, 2], highest[inner], align, fixed, step, step_ptr)
                if least[inner] > highest[inner]:
                    return False
                moved = True
            if least[outer] < least[inner] - slack[r, 3]:
                least[outer] = _raised(outer, least[inner] - slack[r, 3], highest[outer], align, fixed, step, step_ptr)
                if least[outer] > highest[outer]:
                    return False
                moved = True
    return True


@compiled
def search_by_order(highest, align, fixed, pair, slack, step, step_ptr, node_limit, stop):  # type: ignore[no-untyped-def]
    """Search for offsets with offset <= highest; returns (status, nodes, offsets).

    ``step[step_ptr[s]:step_ptr[s + 1]]`` are the boundaries of storage ``s``.
    """
    n, pairs = len(highest), len(pair)
    least = np.zeros((pairs + 2, n), np.int64)
    below = np.zeros(pairs, np.int64)
    chosen = np.full(pairs + 2, -1, np.int64)
    tried = np.zeros(pairs + 2, np.int64)
    nodes = 0
    for s in range(n):
        least[0, s] = _raised(s, np.int64(0), highest[s], align, fixed, step, step_ptr)
        if least[0, s] > highest[s]:
            return NONE, nodes, least[0]
    if not _lift(least[0], highest, align, fixed, pair, slack, step, step_ptr, below):
        return NONE, nodes, least[0]
    d = 0
    while d >= 0:
        if chosen[d] < 0:
            worst = -1
            most = np.int64(0)
            for q in range(pairs):
                if below[q] != 0:
                    continue
                a, b = pair[q, 0], pair[q, 1]
                over = min(least[d, a] + pair[q, 2] - least[d, b], least[d, b] + pair[q, 3] - least[d, a])
                if over > most:
                    most = over
                    worst = q
            if worst < 0:
                return FOUND, nodes, least[d]
            chosen[d] = worst
            tried[d] = 0
        q = chosen[d]
        below[q] = 0
        if tried[d] == 2:
            chosen[d] = -1
            d -= 1
            continue
        if nodes >= node_limit or stop[0]:
            return LIMIT, nodes, least[d]
        nodes += 1
        a, b = pair[q, 0], pair[q, 1]
        first = least[d, a] + pair[q, 2] - least[d, b] <= least[d, b] + pair[q, 3] - least[d, a]
        below[q] = 1 if first == (tried[d] == 0) else 2
        tried[d] += 1
        least[d + 1] = least[d]
        if _lift(least[d + 1], highest, align, fixed, pair, slack, step, step_ptr, below):
            d += 1
            chosen[d] = -1
    return NONE, nodes, least[0]


@compiled
def place_greedily(order, align, fixed, pair, near_ptr, near, slack, step, step_ptr):  # type: ignore[no-untyped-def]
    """Place storages in an order, each as low as it goes; returns (whether all found a place, offsets).

    ``near[near_ptr[s]:near_ptr[s + 1]]`` are the rows of ``pair`` with storage ``s``.
    """
    n = len(align)
    at = np.full(n, -1, np.int64)
    for s in range(n):
        if fixed[s] >= 0:
            at[s] = fixed[s]
    for turn in range(n):
        s = order[turn]
        if at[s] >= 0:
            continue
        low = np.int64(0)
        high = np.int64(1) << 60
        for r in range(len(slack)):
            if slack[r, 0] == s and at[slack[r, 1]] >= 0:
                low = max(low, at[slack[r, 1]] + slack[r, 2])
                high = min(high, at[slack[r, 1]] + slack[r, 3])
            if slack[r, 1] == s and at[slack[r, 0]] >= 0:
                low = max(low, at[slack[r, 0]] - slack[r, 3])
                high = min(high, at[slack[r, 0]] - slack[r, 2])
        here = _raised(s, low, high, align, fixed, step, step_ptr)
        moved = True
        while moved and here <= high:
            moved = False
            for p in range(near_ptr[s], near_ptr[s + 1]):
                q = near[p]
                other = pair[q, 1] if pair[q, 0] == s else pair[q, 0]
                if at[other] < 0:
                    continue
                over = pair[q, 2] if pair[q, 0] == s else pair[q, 3]
                under = pair[q, 3] if pair[q, 0] == s else pair[q, 2]
                # ``over``: distance when this one lies below the other; ``under``: when it lies above.
                if here + over > at[other] and here < at[other] + under:
                    here = _raised(s, at[other] + under, high, align, fixed, step, step_ptr)
                    moved = True
        if here > high:
            return False, at
        at[s] = here
    return True, at
