"""Branch and bound over mappings, from the outermost memory level inwards.

A partial mapping (:mod:`mapping.loop_nest.partial_mapping`) whose floor is no better than the best mapping found is
left, and so is one that a sibling equals or beats whatever follows (where one mapping is asked for); what remains in
the end is optimal.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled, inlined
from mapping.loop_nest.floors import Floors
from mapping.loop_nest.partial_mapping import (
    MOST_RIVALS,
    Partial,
    beaten_by_sibling,
    candidate_floor,
    enter,
    spread_floor,
    spread_loops,
    state_floor,
    worth_trying,
)
from mapping.loop_nest.shares import (
    ENERGY,
    OUTPUTS,
    SLACK,
    begun,
    bound_share,
    by_units,
    objective,
    port_clocks,
)
from mapping.loop_nest.space import Space

__all__ = [
    "Found",
    "search",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_PROBES: Final = ((100, 5_000),)
"""Before the proof: partial mappings looked at below one outermost tile, and in all; enough for many layers."""


class Found(NamedTuple):
    """The best mappings: ``value`` rising; ``choice`` (kept, L, 3) holds by level the tile inside it, the spread and
    the order. ``bound``: no mapping is better. ``nodes``: partial mappings looked at.
    """

    value: Floats
    choice: Integers
    bound: float
    nodes: int


@compiled
def _expand(
    space: Space,
    least: Floors,
    state: Partial,
    level: int,
    metric: int,
    limit: float,
    tiles: Integers,
    values: Floats,
) -> int:
    """The tiles of the next level that may lead to something better than ``limit``, most promising first."""
    outer = state.tile[level]
    dims = space.extent.shape[1]
    count = 0
    inner = outer
    while True:
        if space.fits[level + 1, inner] and least.inside[level + 1, inner] < np.inf:
            value = candidate_floor(space, least, state, level, inner, metric, limit)
            if value < limit * SLACK:
                tiles[count] = inner
                values[count] = value
                count += 1
        d = dims - 1
        while d >= 0:
            index = space.place[inner, d]
            lower = index - 1
            while lower >= 0 and space.quotient[d, space.place[outer, d], lower] < 0:
                lower -= 1
            if lower >= 0:
                inner -= (index - lower) * space.stride[d]
                break
            inner += (space.place[outer, d] - index) * space.stride[d]
            d -= 1
        if d < 0:
            break
    order = np.argsort(values[:count], kind="mergesort")
    tiles[:count] = tiles[:count][order]
    values[:count] = values[:count][order]
    return count


@compiled
def _finish(
    space: Space,
    state: Partial,
    metric: int,
    loops: Integers,
    picks: Integers,
    value: Floats,
    choice: Integers,
) -> int:
    """Every spread of the innermost tile over the units; keeps the best. Returns how many there were."""
    levels, tiles = space.fits.shape
    level, last = levels - 1, tiles - 1
    whole = space.size[last]
    read = np.empty(levels)
    written = np.empty(levels)
    tried = 0
    for spread in range(space.spreads[level]):
        compute = whole / (state.instances[level] * space.size[space.spread[level, spread]])
        compute *= space.zeros.products[1]
        least = objective(metric, state.energy[level], compute)
        if metric != ENERGY and least >= value[-1] * SLACK:
            break
        if not spread_loops(space, state, level, 0, spread, loops):
            continue
        tried += 1
        energy = state.energy[level]
        for busy in range(levels):
            read[busy] = state.read[level, busy]
            written[busy] = state.written[level, busy]
        for operand in range(3):
            holder = space.innermost[operand]
            lanes = state.shared[level, operand] * space.shared[level, spread, operand]
            accesses = whole / lanes * by_units(space, 0, operand, lanes)
            timed = whole / lanes * by_units(space, 1, operand, lanes)
            own = space.word_bytes[holder, operand] / state.holders[level, operand]
            if operand == OUTPUTS:
                first = bound_share(space, operand, last, 0) * state.sums[holder]
                again = accesses - begun(space, 0, first)
                energy += accesses * space.write_j[holder, operand] + again * space.read_j[holder, operand]
                written[holder] += timed * own
                read[holder] += (timed - begun(space, 1, first)) * own
            else:
                energy += accesses * space.read_j[holder, operand]
                read[holder] += timed * own
        outside = longest = 0.0
        for busy in range(levels):
            if space.single[busy]:
                outside, longest = outside + longest, 0.0
            longest = max(longest, port_clocks(space, busy, read[busy], written[busy]))
        cycles = outside + max(longest, compute)
        picks[level, 0], picks[level, 1], picks[level, 2] = 0, spread, 0
        _keep(objective(metric, energy, cycles), picks, value, choice)
    return tried


@inlined
def _keep(found: float, picks: Integers, value: Floats, choice: Integers) -> None:
    """Puts a mapping among the best, once: the look before the proof may have seen it."""
    if found >= value[-1] * SLACK:
        return
    for place in range(len(value)):
        same = value[place] == found
        for level in range(len(picks)):
            for what in range(3):
                same = same and choice[place, level, what] == picks[level, what]
        if same:
            return
    place = len(value) - 1
    while place > 0 and value[place - 1] > found:
        value[place] = value[place - 1]
        for level in range(len(picks)):
            for what in range(3):
                choice[place, level, what] = choice[place - 1, level, what]
        place -= 1
    value[place] = found
    for level in range(len(picks)):
        for what in range(3):
            choice[place, level, what] = picks[level, what]


@compiled
def search(space: Space, least: Floors, arithmetic_j: float, metric: int, kept: int, stop: Integers) -> Found:
    """The ``kept`` best mappings; ends early when ``stop[0]`` is set, then with a bound of what was not looked at."""
    levels, tiles = space.fits.shape
    dims = space.extent.shape[1]
    state = Partial(
        np.zeros(levels, np.int64), np.ones(levels), np.zeros(levels), np.ones((levels, 3)), np.ones((levels, 3)),
        np.ones((levels, 3)), np.ones(levels), np.zeros((levels, levels)), np.zeros((levels, levels)),
        np.zeros((levels + 1, 2)), np.ones(3), np.ones((3, 5)),
    )  # fmt: skip
    state.tile[0] = tiles - 1
    state.energy[0] = arithmetic_j
    value = np.full(kept, np.inf)
    choice = np.zeros((kept, levels, 3), np.int64)
    picks = np.zeros((levels, 3), np.int64)
    loops = np.ones(dims, np.int64)
    inner = np.zeros((levels, tiles), np.int64)
    floor = np.zeros((levels, tiles))
    count = np.zeros(levels, np.int64)
    at = np.zeros((levels, 3), np.int64)
    worth = np.zeros(levels, np.int64)
    rivals = np.zeros((levels, MOST_RIVALS, 12 + 2 * levels))
    of_tile = np.full(levels, -1)
    siblings = np.zeros(levels, np.int64)
    nodes, level, opened = 0, 0, 0.0
    if stop[0]:
        return Found(value, choice, 0.0, nodes)
    if levels == 1:
        nodes += _finish(space, state, metric, loops, picks, value, choice)
        return Found(value, choice, value[0], nodes)
    count[0] = _expand(space, least, state, 0, metric, value[-1], inner[0], floor[0])
    for most in range(len(_PROBES) + 1):
        proves = most == len(_PROBES)
        allowance, total = _PROBES[most] if not proves else (0, 0)
        begun, level = nodes, 0
        of_tile[0] = -1
        spent, all_seen = nodes, True
        at[0, :] = 0
        while level >= 0:
            if stop[0]:
                return Found(value, choice, min(value[0], opened), nodes)
            tile, spread, order = at[level]
            if tile >= count[level] or floor[level, tile] >= value[-1] * SLACK:
                level -= 1
                continue
            if not proves and level > 0 and nodes - spent > allowance:
                # Enough of this outermost tile; the others first.
                level, all_seen = 0, False
                at[0, 0], at[0, 1], at[0, 2] = at[0, 0] + 1, 0, 0
                continue
            if level == 0 and spread == 0 and order == 0:
                opened = floor[0, tile if proves else 0]
                spent = nodes
                if not proves and nodes - begun > total:
                    all_seen = False
                    break
            if order == 0 and metric != ENERGY:
                lower = spread_floor(space, least, state, level, inner[level, tile], spread, metric)
                if lower >= value[-1] * SLACK:
                    # The spreads that follow cover no more.
                    at[level, 0], at[level, 1] = tile + 1, 0
                    continue
            divides = spread_loops(space, state, level, inner[level, tile], spread, loops)
            if order == 0:
                worth[level] = worth_trying(space, state, level, loops) if divides else 0
            if worth[level] >> order == 0:
                _next(at[level], space.spreads[level], 0)
                continue
            if worth[level] >> order & 1 == 0:
                at[level, 2] += 1
                continue
            nodes += 1
            enter(space, state, level, inner[level, tile], (spread, order), loops)
            _next(at[level], space.spreads[level], space.orders[level])
            if state_floor(space, least, state, level + 1, metric) >= value[-1] * SLACK:
                continue
            picks[level, 0], picks[level, 1], picks[level, 2] = inner[level, tile], spread, order
            if level == levels - 2:
                nodes += _finish(space, state, metric, loops, picks, value, choice)
                continue
            if kept == 1:
                if of_tile[level] != tile:
                    of_tile[level], siblings[level] = tile, 0
                if beaten_by_sibling(state, level + 1, metric, rivals[level], siblings[level]):
                    continue
                siblings[level] = min(siblings[level] + 1, MOST_RIVALS)
            level += 1
            at[level, :], of_tile[level] = 0, -1
            count[level] = _expand(space, least, state, level, metric, value[-1], inner[level], floor[level])
        if all_seen:
            break
    return Found(value, choice, value[0], nodes)


@inlined
def _next(at: Integers, spreads: int, orders: int) -> None:
    """The next order, else the next spread, else the next tile; with no orders the next spread."""
    at[2] += 1
    if at[2] < orders:
        return
    at[2] = 0
    at[1] += 1
    if at[1] == spreads:
        at[1] = 0
        at[0] += 1
