"""Exact search over the order of storages: for each pair that may meet, which of the two lies below.

The least offsets under a set of decisions are a fixed point: each is lifted until every decided distance, every slack,
the alignment and the boundaries hold. All of these only ever lift, so the fixed point is the lowest plan in every
storage at once; a storage above its highest offset refutes the decisions, and where no undecided pair overlaps the
fixed point is a plan. A depth-first search decides the pair that overlaps most. Exponential, hence for some hundred
pairs; larger problems are placed greedily by the same rules.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.allocation.by_offset import FOUND, LIMIT, NONE

__all__ = ["Places", "place_greedily", "search_by_order"]

Ints = NDArray[np.int64]


class Places(NamedTuple):
    """What the kernels ask of storages; columns as in :class:`mapping.allocation.storage_model.StorageModel`.

    ``step[step_ptr[s]:step_ptr[s + 1]]`` are the boundaries of storage ``s``, ``near[near_ptr[s]:near_ptr[s + 1]]`` the
    rows of ``pair`` with it.
    """

    align: Ints
    fixed: Ints
    pair: Ints
    slack: Ints
    step: Ints
    step_ptr: Ints
    near: Ints
    near_ptr: Ints


@compiled
def _raised(places, s, at, high):  # type: ignore[no-untyped-def]
    """The least allowed offset of a storage at or above ``at``; some offset above ``high`` where none is below."""
    if places.fixed[s] >= 0 and at > places.fixed[s]:
        return np.int64(1) << 61
    if places.fixed[s] >= 0:
        at = places.fixed[s]
        for r in range(places.step_ptr[s], places.step_ptr[s + 1]):
            if at // places.step[r, 2] != (at + places.step[r, 1] - 1) // places.step[r, 2]:
                return np.int64(1) << 61
        return at
    moved = True
    while moved and at <= high:
        moved = False
        at = -(-at // places.align[s]) * places.align[s]
        for r in range(places.step_ptr[s], places.step_ptr[s + 1]):
            if at // places.step[r, 2] != (at + places.step[r, 1] - 1) // places.step[r, 2]:
                at = (at // places.step[r, 2] + 1) * places.step[r, 2]
                moved = True
    return at


@compiled
def _lift(places, least, highest, below):  # type: ignore[no-untyped-def]
    """Lift offsets to the fixed point of the decisions; False when one exceeds its highest."""
    moved = True
    while moved:
        moved = False
        for q in range(len(places.pair)):
            if below[q] == 0:
                continue
            a, b, reach = places.pair[q, 0], places.pair[q, 1], places.pair[q, 2]
            if below[q] == 2:
                a, b, reach = places.pair[q, 1], places.pair[q, 0], places.pair[q, 3]
            if least[b] < least[a] + reach:
                least[b] = _raised(places, b, least[a] + reach, highest[b])
                if least[b] > highest[b]:
                    return False
                moved = True
        for r in range(len(places.slack)):
            inner, outer = places.slack[r, 0], places.slack[r, 1]
            if least[inner] < least[outer] + places.slack[r, 2]:
                least[inner] = _raised(places, inner, least[outer] + places.slack[r, 2], highest[inner])
                if least[inner] > highest[inner]:
                    return False
                moved = True
            if least[outer] < least[inner] - places.slack[r, 3]:
                least[outer] = _raised(places, outer, least[inner] - places.slack[r, 3], highest[outer])
                if least[outer] > highest[outer]:
                    return False
                moved = True
    return True


@compiled
def search_by_order(places, highest, node_limit, stop):  # type: ignore[no-untyped-def]
    """Search for offsets with offset <= highest; returns (status, nodes, offsets)."""
    n, pairs = len(highest), len(places.pair)
    least = np.zeros((pairs + 2, n), np.int64)
    below = np.zeros(pairs, np.int64)
    chosen = np.full(pairs + 2, -1, np.int64)
    tried = np.zeros(pairs + 2, np.int64)
    nodes = 0
    for s in range(n):
        least[0, s] = _raised(places, s, np.int64(0), highest[s])
        if least[0, s] > highest[s]:
            return NONE, nodes, least[0]
    if not _lift(places, least[0], highest, below):
        return NONE, nodes, least[0]
    d = 0
    while d >= 0:
        if chosen[d] < 0:
            worst = -1
            most = np.int64(0)
            for q in range(pairs):
                if below[q] != 0:
                    continue
                a, b = places.pair[q, 0], places.pair[q, 1]
                over = min(
                    least[d, a] + places.pair[q, 2] - least[d, b],
                    least[d, b] + places.pair[q, 3] - least[d, a],
                )
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
        a, b = places.pair[q, 0], places.pair[q, 1]
        first = least[d, a] + places.pair[q, 2] - least[d, b] <= least[d, b] + places.pair[q, 3] - least[d, a]
        below[q] = 1 if first == (tried[d] == 0) else 2
        tried[d] += 1
        least[d + 1] = least[d]
        if _lift(places, least[d + 1], highest, below):
            d += 1
            chosen[d] = -1
    return NONE, nodes, least[0]


@compiled
def place_greedily(places, order):  # type: ignore[no-untyped-def]
    """Place storages in an order, each as low as it goes; returns (whether all found a place, offsets)."""
    n = len(places.align)
    at = np.full(n, -1, np.int64)
    for s in range(n):
        if places.fixed[s] >= 0:
            at[s] = places.fixed[s]
    for turn in range(n):
        s = order[turn]
        if at[s] >= 0:
            continue
        low = np.int64(0)
        high = np.int64(1) << 60
        for r in range(len(places.slack)):
            if places.slack[r, 0] == s and at[places.slack[r, 1]] >= 0:
                low = max(low, at[places.slack[r, 1]] + places.slack[r, 2])
                high = min(high, at[places.slack[r, 1]] + places.slack[r, 3])
            if places.slack[r, 1] == s and at[places.slack[r, 0]] >= 0:
                low = max(low, at[places.slack[r, 0]] - places.slack[r, 3])
                high = min(high, at[places.slack[r, 0]] - places.slack[r, 2])
        here = _raised(places, s, low, high)
        moved = True
        while moved and here <= high:
            moved = False
            for p in range(places.near_ptr[s], places.near_ptr[s + 1]):
                q = places.near[p]
                other = places.pair[q, 1] if places.pair[q, 0] == s else places.pair[q, 0]
                if at[other] < 0:
                    continue
                over = places.pair[q, 2] if places.pair[q, 0] == s else places.pair[q, 3]
                under = places.pair[q, 3] if places.pair[q, 0] == s else places.pair[q, 2]
                # ``over``: distance when this one lies below the other; ``under``: when it lies above.
                if here + over > at[other] and here < at[other] + under:
                    here = _raised(places, s, at[other] + under, high)
                    moved = True
        if here > high:
            return False, at
        at[s] = here
    return True, at
