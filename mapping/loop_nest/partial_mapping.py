"""A mapping decided from the outermost level down to some level: what is known of it, what it costs at least.

Once the loops outside a level are chosen, what enters the level is known exactly: how often each tile is taken depends
on the loops outside alone. So a partial mapping has an exact part, of the levels that are decided, and a floor of the
rest (:mod:`mapping.loop_nest.floors`). The rules of counting are those of
:mod:`simulator.accelerator.loop_nest.counts` for exact factors.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled, inlined
from mapping.loop_nest.floors import Floors, final_load, goes_up_whole, read_after_all
from mapping.loop_nest.shares import (
    ENERGY,
    LATENCY,
    OUTPUTS,
    SLACK,
    begun,
    bound_share,
    by_units,
    entering,
    finals,
    free_share,
    holder_of,
    left,
    most_first_sums,
    most_sharing,
    node_between,
    objective,
    port_clocks,
    run_floor,
)
from mapping.loop_nest.space import Space

__all__ = [
    "MOST_RIVALS",
    "Partial",
    "beaten_by_sibling",
    "candidate_floor",
    "enter",
    "spread_floor",
    "spread_loops",
    "state_floor",
    "worth_trying",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


MOST_RIVALS: Final = 512
"""Siblings that a decision is compared with; more are looked into as they are."""


class Partial(NamedTuple):
    """What the levels outside one have decided; the first index is that level."""

    tile: Integers
    instances: Floats
    energy: Floats
    stays: Floats
    """How many iterations at the inner end of the loops outside leave an operand's tile in place."""
    shared: Floats
    """Children per read of an operand, in the spreads since its holder."""
    holders: Floats
    """Instances of an operand's holder."""
    sums: Floats
    """Spatial iterations outside over dims that outputs are summed over."""
    read: Floats
    """(L + 1, L): bytes that an instance of each level has handed out."""
    written: Floats
    load: Floats
    """(L, 2): room for bytes read and written."""
    together: Floats
    """(3,): room for what is shared."""
    entry: Floats
    """(3, 5): room for what is about to enter: words in all iterations, those since the tile outside that leave the
    operand alone and that do not, new words, and the most children that can share."""


@inlined
def _outer_accesses(space: Space, state: Partial, level: int, tile: int, shared: Floats) -> float:
    """Joules at least of units' accesses to holders outside a level, given what their spreads share so far."""
    last = space.fits.shape[1] - 1
    total = 0.0
    for operand in range(3):
        holder = space.innermost[operand]
        if holder >= level:
            continue
        lanes = shared[operand] * most_sharing(space, operand, level, tile)
        accesses = space.size[last] / lanes * by_units(space, 0, operand, lanes)
        if operand == OUTPUTS:
            first = begun(space, 0, bound_share(space, operand, last, 0) * state.sums[holder])
            total += accesses * space.write_j[holder, operand]
            total += max(0.0, accesses - first) * space.read_j[holder, operand]
        else:
            total += accesses * space.read_j[holder, operand]
    return total


@compiled
def candidate_floor(
    space: Space, least: Floors, state: Partial, level: int, inner: int, metric: int, limit: float
) -> float:
    """No better than this is anything with ``inner`` as the tile of the next level.

    First without regard to how the next level's tile is taken; if that may beat ``limit``, by the least over what the
    spread shares and covers (of those that no other beats) and over what the innermost loop is.
    """
    last, tile = space.fits.shape[1] - 1, state.tile[level]
    energy = cycles = 0.0
    quotient = node_between(space, tile, inner)
    most = least.reach[level, 3, quotient]
    if metric != LATENCY:
        energy = state.energy[level] + least.inside[level + 1, inner]
        if energy >= limit and metric == ENERGY:
            return float(energy)
        for operand in range(3):
            state.together[operand] = state.shared[level, operand] * least.reach[level, operand, quotient]
        energy += _outer_accesses(space, state, level + 1, inner, state.together)
    if metric != ENERGY:
        cycles = least.cycles[level + 1, inner] * space.size[last] / (state.instances[level] * most)
        _crossing_loads(space, least, state, level, inner)
        cycles = run_floor(space, state.load, cycles, level + 1)
    value: float = objective(metric, energy, cycles)
    if value >= limit * SLACK:
        return value
    _about_to_enter(space, least, state, level, inner)
    best: float = np.inf
    dims = space.extent.shape[1]
    between = space.size[tile] / space.size[inner]
    seen = 0
    for d in range(dims + 1):
        # The innermost temporal loop is over d; without any (d beyond the dims) the tiles stay as they did.
        if d < dims:
            if space.place[tile, d] == space.place[inner, d] or seen >> space.pattern[d] & 1:
                continue
            seen |= 1 << space.pattern[d]
        elif between > most:
            continue
        if space.best_spreads[level] > 1:
            # Were every operand shared at its best at once.
            some = _entry_between(space, least, state, level, inner, (d, -1, metric), (energy, most))
            if some >= limit * SLACK:
                best = min(best, some)
                continue
        for s in range(space.best_spreads[level]):
            covered = min(space.best_spread[level, s, 3], most)
            if d == dims and covered < between:
                continue
            some = _entry_between(space, least, state, level, inner, (d, s, metric), (energy, covered))
            best = min(best, some)
    return max(value, best)


@inlined
def _about_to_enter(space: Space, least: Floors, state: Partial, level: int, inner: int) -> None:
    """What :func:`_entry_between` asks of each operand whatever the spread."""
    last, tile = space.fits.shape[1] - 1, state.tile[level]
    iterations = space.size[last] / space.size[inner]
    quotient = node_between(space, tile, inner)
    for operand in range(3):
        state.entry[operand, 0] = iterations * space.words[operand, inner]
        state.entry[operand, 1] = free_share(space, operand, tile, inner)
        state.entry[operand, 2] = space.size[tile] / space.size[inner] / state.entry[operand, 1]
        new = bound_share(space, operand, last, inner) * space.words[operand, inner]
        state.entry[operand, 3] = new * state.sums[level]
        state.entry[operand, 4] = least.reach[level, operand, quotient]


@inlined
def _crossing_loads(space: Space, least: Floors, state: Partial, level: int, inner: int) -> None:
    """Bytes over the ports of the levels outside: those decided, and what at least passes the next level by."""
    for busy in range(level + 2):
        state.load[busy, 0], state.load[busy, 1] = state.read[level, busy], state.written[level, busy]
    for operand in range(3):
        if space.holds[level + 1, operand]:
            continue
        holder = holder_of(space, level, operand)
        words = least.crossing[level + 1, operand, inner] / state.holders[level, operand]
        words /= state.shared[level, operand] * space.most_shared[level, operand]
        if operand == OUTPUTS:
            state.load[holder, 1] += final_load(space, holder, words, words)
        else:
            state.load[holder, 0] += words * space.word_bytes[holder, operand]


@inlined
def _entry_between(
    space: Space,
    least: Floors,
    state: Partial,
    level: int,
    inner: int,
    choice: tuple[int, int, int],
    known: tuple[float, float],
) -> float:
    """The objective at least, when the next level's tile is taken under a spread's sharing and an innermost loop.

    ``choice``: dim of the innermost loop, spread (of :attr:`Space.best_spread`), metric; ``known``: joules without what
    enters, and how many children work at most.
    """
    last, below = space.fits.shape[1] - 1, level + 1
    d, s, metric = choice
    energy, covered = known
    none = d == space.extent.shape[1]
    iterations = space.size[last] / space.size[inner]
    instances = state.instances[level] * covered
    if metric != ENERGY:
        _crossing_loads(space, least, state, level, inner)
        state.load[below, 0] = state.load[below, 1] = 0.0
        if below == space.fits.shape[0] - 1:
            state.load[below, 0] = least.unit_reads[inner] * iterations / instances
            state.load[below, 1] = least.unit_writes[inner] * iterations / instances
    for operand in range(3):
        if not space.holds[below, operand]:
            continue
        parent = holder_of(space, level, operand)
        before, shared = state.stays[level, operand], state.shared[level, operand]
        words, free, through = state.entry[operand, 0], state.entry[operand, 1], state.entry[operand, 2]
        stays = 1.0
        if none:
            stays = before
        elif space.free[operand, d]:
            stays = free * before if through <= covered else free
        together = state.entry[operand, 4]
        if s >= 0:
            together = min(together, space.best_spread[level, s, operand])
        served = min(stays * together, free * before) * shared
        taken, read = words / stays, words / served
        new = state.entry[operand, 3]
        of_parent = new / shared
        if operand == OUTPUTS:
            new *= together
        if metric != LATENCY:
            energy += entering(
                space, operand, (parent, below), taken * left(space, 0, parent, operand, inner, stays),
                read * left(space, 0, parent, operand, inner, served), (new, of_parent),
            )  # fmt: skip
            energy += read_after_all(space, operand, below, inner, taken)
            if operand == OUTPUTS:
                energy -= finals(space, (parent, below), taken, read, (new, of_parent), False)
        if metric != ENERGY:
            into = space.word_bytes[below, operand] / instances
            out = space.word_bytes[parent, operand] / state.holders[level, operand]
            if operand == OUTPUTS:
                holders = state.holders[level, operand]
                state.load[parent, 1] += final_load(space, parent, read, of_parent) / holders
                state.load[parent, 0] += max(0.0, read - of_parent) * out
                state.load[below, 1] += max(0.0, taken - new) * into
                if below < space.fits.shape[0] - 1:
                    state.load[below, 0] += final_load(space, below, taken, new) / instances
            else:
                state.load[parent, 0] += read * out * left(space, 1, parent, operand, inner, served)
                state.load[below, 1] += taken * into * left(space, 1, parent, operand, inner, stays)
    cycles = 0.0
    if metric != ENERGY:
        cycles = least.cycles[below, inner] * space.size[last] / instances
        cycles = run_floor(space, state.load, cycles, below + 1)
    return float(objective(metric, energy, cycles))


@inlined
def spread_floor(
    space: Space, least: Floors, state: Partial, level: int, inner: int, spread: int, metric: int
) -> float:
    """No better than this is anything with a tile and as many children at work as a spread covers."""
    children = state.instances[level] * space.size[space.spread[level, spread]]
    cycles = least.cycles[level + 1, inner] * space.size[len(space.size) - 1] / children
    return float(objective(metric, state.energy[level] + least.inside[level + 1, inner], cycles))


@inlined
def spread_loops(space: Space, state: Partial, level: int, inner: int, spread: int, loops: Integers) -> bool:
    """The temporal loops left between two tiles under a spread; False where it cannot be or others are fixed."""
    outer, node = state.tile[level], space.spread[level, spread]
    for d in range(space.extent.shape[1]):
        between = space.quotient[d, space.place[outer, d], space.place[inner, d]]
        left = space.quotient[d, between, space.place[node, d]]
        if left < 0:
            return False
        loops[d] = space.divisor[d, left]
        if space.temporal[level, d] > 0 and loops[d] != space.temporal[level, d]:
            return False
    return True


@inlined
def _stays(space: Space, state: Partial, level: int, operand: int, order: int, loops: Integers) -> float:
    """Iterations at the inner end of all loops outside the next level that leave an operand's tile in place."""
    stays: float = 1.0
    for position in range(len(loops)):
        d = space.order[level, order, position]
        if loops[d] == 1:
            continue
        if not space.free[operand, d]:
            return stays
        stays *= loops[d]
    stays *= state.stays[level, operand]
    return stays


@inlined
def worth_trying(space: Space, state: Partial, level: int, loops: Integers) -> int:
    """The orders of a level's loops, as bits, but for those that keep no tile longer than another order does."""
    kept = 0
    for order in range(space.orders[level]):
        better = True
        for other in range(space.orders[level]):
            if other == order or (other > order and not better):
                continue
            as_long, longer = True, False
            for operand in range(3):
                own = _stays(space, state, level, operand, order, loops)
                others = _stays(space, state, level, operand, other, loops)
                as_long = as_long and others >= own
                longer = longer or others > own
            if as_long and (longer or other < order):
                better = False
        if better:
            kept |= 1 << order
    return kept


@inlined
def enter(
    space: Space, state: Partial, level: int, inner: int, choice: tuple[int, int], loops: Integers
) -> None:
    """Decide a level: its spread and order of loops; the next level's state follows."""
    spread, order = choice
    below = level + 1
    dims, last = space.extent.shape[1], space.fits.shape[1] - 1
    node = space.spread[level, spread]
    state.tile[below] = inner
    state.instances[below] = state.instances[level] * space.size[node]
    sums = 1.0
    for d in range(dims):
        if space.free[OUTPUTS, d]:
            sums *= space.extent[node, d]
    state.sums[below] = state.sums[level] * sums
    state.energy[below] = state.energy[level]
    for busy in range(space.fits.shape[0]):
        state.read[below, busy] = state.read[level, busy]
        state.written[below, busy] = state.written[level, busy]
    iterations = space.size[last] / space.size[inner]
    for operand in range(3):
        state.stays[below, operand] = _stays(space, state, level, operand, order, loops)
        shared = state.shared[level, operand] * space.shared[level, spread, operand]
        if not space.holds[below, operand]:
            state.shared[below, operand] = shared
            state.holders[below, operand] = state.holders[level, operand]
            continue
        parent = holder_of(space, level, operand)
        taken = iterations * space.words[operand, inner] / state.stays[below, operand]
        new = bound_share(space, operand, last, inner) * space.words[operand, inner] * state.sums[below]
        levels, distinct = (parent, below), (new, new / shared)
        stays = state.stays[below, operand]
        state.energy[below] += entering(
            space, operand, levels, taken * left(space, 0, parent, operand, inner, stays),
            taken / shared * left(space, 0, parent, operand, inner, stays * shared), distinct,
        )  # fmt: skip
        own = space.word_bytes[below, operand] / state.instances[below]
        up = space.word_bytes[parent, operand] / state.holders[level, operand] / shared
        if operand == OUTPUTS:
            state.energy[below] -= finals(space, levels, taken, taken / shared, distinct, True)
            saved, saved_up = space.zeros.final_bytes[below], space.zeros.final_bytes[parent]
            state.read[below, below] += taken * own - new * saved / state.instances[below]
            state.written[below, below] += (taken - new) * own
            state.written[below, parent] += (
                taken * up - new * saved_up / state.holders[level, operand] / shared
            )
            state.read[below, parent] += (taken - new) * up
        else:
            state.written[below, below] += taken * own * left(space, 1, parent, operand, inner, stays)
            state.read[below, parent] += taken * up * left(space, 1, parent, operand, inner, stays * shared)
        state.shared[below, operand] = 1.0
        state.holders[below, operand] = state.instances[below]


@inlined
def beaten_by_sibling(state: Partial, level: int, metric: int, rivals: Floats, count: int) -> bool:
    """Whether another spread or order of the same tile in the same outer loops is at least as good whatever follows.

    What follows costs less the longer tiles stay, the more children share, the more instances work, and, since the
    words of partial sums count apart, only among spreads that sum over as many. One that is not beaten is put at
    ``rivals[count]``, if there is room.
    """
    levels = state.read.shape[1]
    places = 12 + 2 * levels if metric != ENERGY else 8
    if count == len(rivals):
        return False
    row = rivals[count]
    row[0] = state.sums[level]
    row[1] = state.energy[level] if metric != LATENCY else 0.0
    for operand in range(3):
        row[2 + operand] = -state.stays[level, operand]
        row[5 + operand] = -state.shared[level, operand]
        row[9 + operand] = -state.holders[level, operand]
    row[8] = -state.instances[level]
    for busy in range(levels):
        row[12 + busy] = state.read[level, busy]
        row[12 + levels + busy] = state.written[level, busy]
    for other in range(count):
        beaten = rivals[other, 0] == row[0]
        place = 1
        while beaten and place < places:
            beaten = rivals[other, place] <= row[place]
            place += 1
        if beaten:
            return True
    return False


@inlined
def state_floor(space: Space, least: Floors, state: Partial, level: int, metric: int) -> float:
    """No better than this is anything with these decisions outside a level."""
    levels, tiles = space.fits.shape
    tile, last = state.tile[level], tiles - 1
    energy = cycles = 0.0
    if metric != LATENCY:
        energy = state.energy[level] + least.inside[level, tile]
        energy += _outer_accesses(space, state, level, tile, state.shared[level])
        if space.innermost[OUTPUTS] == level:
            # How many sums begin here is known by now.
            lanes = most_sharing(space, OUTPUTS, level, tile)
            accesses = space.size[last] / lanes * by_units(space, 0, OUTPUTS, lanes)
            first = begun(space, 0, bound_share(space, OUTPUTS, last, 0) * state.sums[level])
            again = max(0.0, accesses - first) - max(0.0, accesses - begun(space, 0, most_first_sums(space)))
            energy += again * space.read_j[level, OUTPUTS]
    if metric != ENERGY:
        cycles = least.cycles[level, tile] * space.size[last] / state.instances[level]
        executions = space.size[last] / space.size[tile] / state.instances[level]
        outside = 0.0
        for busy in range(levels):
            read, written = state.read[level, busy], state.written[level, busy]
            for operand in range(3):
                if holder_of(space, level, operand) != busy:
                    continue
                words = least.crossing[level, operand, tile] / state.shared[level, operand]
                words /= state.holders[level, operand]
                if operand == OUTPUTS:
                    written += final_load(space, busy, words, words)
                else:
                    read += words * space.word_bytes[busy, operand]
            if level == levels - 1 and busy == level:
                read += least.unit_reads[tile] * executions
                written += least.unit_writes[tile] * executions
                if space.innermost[OUTPUTS] == busy and goes_up_whole(space, busy):
                    first = begun(space, 1, bound_share(space, OUTPUTS, last, 0) * state.sums[level])
                    read -= first / state.instances[level] * space.word_bytes[busy, OUTPUTS]
            clocks = port_clocks(space, busy, read, written)
            cycles = max(cycles, clocks)
            if busy < space.first_single:
                outside = max(outside, clocks)
        if space.first_single < levels:
            cycles = max(cycles, outside + space.least_clocks)
    value: float = objective(metric, energy, cycles)
    return value
