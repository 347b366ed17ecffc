"""Branch and bound over mappings, from the outermost memory level inwards.

Once the loops outside a level are chosen, what enters the level is known exactly: how often each tile is taken depends
on the loops outside alone. So a partial mapping has an exact part, of the levels that are decided, and a floor of the
rest: for each tile the least that anything inside it can cost, found beforehand from the inside out over the lattice
of tiles (:func:`floors`). A branch whose floor is no better than the best mapping found is left; what remains in the
end is optimal. The rules of counting are those of :mod:`simulator.accelerator.loop_nest.counts` for exact factors.

Floors of energy take the reuse of every operand at its best, but only of operands that the innermost loop leaves
alone. Floors of time take the busiest level: bytes that have crossed it, and those that at least still have to.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled, inlined
from mapping.loop_nest.space import Space

__all__ = ["EDP", "ENERGY", "LATENCY", "Floors", "Found", "floors", "search"]

ENERGY: Final = 0
LATENCY: Final = 1
EDP: Final = 2
_O: Final = 2
"""Index of the outputs among the operands."""
_SLACK: Final = 1.0 - 1e-12
"""Branches within rounding of the best are not looked into."""

_PROBES: Final = ((100, 5_000),)
"""Before the proof: partial mappings looked at below one outermost tile, and in all; enough for many layers."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Floors(NamedTuple):
    """By level and tile; infinite where nothing fits inside."""

    inside: Floats
    """(L, P): joules of everything inside a tile, and of units' accesses to holders at this level or inside."""
    cycles: Floats
    """(L, P): clocks per multiply-accumulate and instance of the level."""
    crossing: Floats
    """(L, 3, P): words that still have to leave an operand's holder, the level or one outside it, downwards."""
    unit_reads: Floats
    """(P,): bytes that units read of an instance of the innermost level, per tile."""
    unit_writes: Floats
    reach: Floats
    """(L, 4, P): by what lies between two tiles, the most that a spread of the level there can share of I, W and O, and
    the most children that it can cover."""


class Found(NamedTuple):
    """The best mappings: ``value`` rising; ``choice`` (kept, L, 3) holds by level the tile inside it, the spread and
    the order. ``bound``: no mapping is better. ``nodes``: partial mappings looked at.
    """

    value: Floats
    choice: Integers
    bound: float
    nodes: int


class _State(NamedTuple):
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
def _objective(metric: int, energy: float, cycles: float) -> float:
    """What is minimised: joules, clocks, or their product."""
    if metric == ENERGY:
        return energy
    if metric == LATENCY:
        return cycles
    return energy * cycles


@inlined
def _clocks(space: Space, level: int, read: float, written: float) -> float:
    """Clocks that an instance takes to hand out and take in so many bytes."""
    out: float = read / space.read_width[level]
    into: float = written / space.write_width[level]
    return out + into if space.one_port[level] else max(out, into)


@inlined
def _fits_in(space: Space, tile: int, inner: int) -> bool:
    """Whether a tile divides another."""
    for d in range(space.place.shape[1]):  # noqa: SIM110
        if space.quotient[d, space.place[tile, d], space.place[inner, d]] < 0:
            return False
    return True


@inlined
def _between(space: Space, tile: int, inner: int) -> int:
    """The node that a tile is over one that divides it."""
    node: int = 0
    for d in range(space.place.shape[1]):
        node += space.quotient[d, space.place[tile, d], space.place[inner, d]] * space.stride[d]
    return node


@inlined
def _holder(space: Space, level: int, operand: int) -> int:
    """The innermost level, from one outwards, that holds an operand."""
    while not space.holds[level, operand]:
        level -= 1
    return level


@inlined
def _free_share(space: Space, operand: int, tile: int, inner: int) -> float:
    """Iterations between two tiles over dims that leave an operand alone."""
    share = 1.0
    for d in range(space.extent.shape[1]):
        if space.free[operand, d]:
            share *= space.extent[tile, d] / space.extent[inner, d]
    return share


@inlined
def _bound_share(space: Space, operand: int, tile: int, inner: int) -> float:
    """Iterations between two tiles over dims that index an operand."""
    share = 1.0
    for d in range(space.extent.shape[1]):
        if not space.free[operand, d]:
            share *= space.extent[tile, d] / space.extent[inner, d]
    return share


@inlined
def _entering(
    space: Space,
    operand: int,
    levels: tuple[int, int],
    taken: float,
    read: float,
    distinct: tuple[float, float],
) -> float:
    """Joules of the words that enter a level: ``taken`` by it, ``read`` of its parent; of O so many are new.

    ``levels`` are parent and child; ``distinct`` the new words as the child and as the parent counts them.
    """
    parent, child = levels
    if operand == _O:
        energy: float = taken * space.read_j[child, operand] + read * space.write_j[parent, operand]
        energy += max(0.0, taken - distinct[0]) * space.write_j[child, operand]
        energy += max(0.0, read - distinct[1]) * space.read_j[parent, operand]
        return energy
    entering: float = taken * space.write_j[child, operand] + read * space.read_j[parent, operand]
    return entering


@compiled
def floors(space: Space) -> Floors:
    """The least that the inside of every tile can cost."""
    levels, tiles = space.fits.shape
    inside = np.full((levels, tiles), np.inf)
    cycles = np.full((levels, tiles), np.inf)
    unit_reads = np.zeros(tiles)
    unit_writes = np.zeros(tiles)
    _unit_floors(space, inside, cycles, unit_reads, unit_writes)
    value = np.empty(tiles)
    clocks = np.empty(tiles)
    least = Floors(inside, cycles, _crossing(space), unit_reads, unit_writes, _reach(space))
    bare = np.empty(tiles)
    load = np.zeros((levels, 2))
    for level in range(levels - 2, -1, -1):
        for tile in range(tiles):
            value[tile] = np.inf
            clocks[tile] = np.inf
            bare[tile] = cycles[level + 1, tile]
            if space.fits[level + 1, tile] and inside[level + 1, tile] < np.inf:
                energy, clocks[tile] = _entry_floor(space, least, level + 1, tile, load)
                value[tile] = energy + inside[level + 1, tile]
        _least_of_divisors(space, value)
        _least_of_divisors(space, clocks)
        _least_of_divisors(space, bare)
        for tile in range(tiles):
            inside[level, tile] = value[tile] + _accesses_floor(space, level, tile)
            cycles[level, tile] = max(clocks[tile], bare[tile] / least.reach[level, 3, tile])
    return least


@compiled
def _unit_floors(
    space: Space, inside: Floats, cycles: Floats, unit_reads: Floats, unit_writes: Floats
) -> None:
    """Floors of the innermost level: the best spread of each tile over the units."""
    levels, tiles = space.fits.shape
    level = levels - 1
    whole = space.size[tiles - 1]
    for tile in range(tiles):
        if not space.fits[level, tile]:
            continue
        size = space.size[tile]
        least_reads = least_writes = np.inf
        for s in range(space.spreads[level]):
            node = space.spread[level, s]
            if not _fits_in(space, tile, node):
                continue
            energy, read, written = 0.0, 0.0, 0.0
            for operand in range(3):
                if space.innermost[operand] != level:
                    continue
                accesses = whole / space.shared[level, s, operand]
                own = size / space.shared[level, s, operand] * space.word_bytes[operand]
                read += own
                if operand == _O:
                    # What is not read for a first sum is read once more when the tile goes up.
                    written += own
                    energy += accesses * space.write_j[level, operand]
                    energy += max(0.0, accesses - _most_first_sums(space)) * space.read_j[level, operand]
                    if level == 0:
                        read -= own
                else:
                    energy += accesses * space.read_j[level, operand]
            clocks = max(size / space.size[node], _clocks(space, level, read, written))
            inside[level, tile] = min(inside[level, tile], energy)
            cycles[level, tile] = min(cycles[level, tile], clocks / size)
            least_reads = min(least_reads, read)
            least_writes = min(least_writes, written)
        unit_reads[tile] = least_reads
        unit_writes[tile] = least_writes


@inlined
def _most_first_sums(space: Space) -> float:
    """Words of which a sum can begin at the holder of O: all of them at each instance that sums apart."""
    last = space.fits.shape[1] - 1
    first: float = _bound_share(space, _O, last, 0)
    for level in range(space.innermost[_O]):
        first *= space.most_shared[level, _O]
    return first


@inlined
def _read_after_all(space: Space, operand: int, level: int, tile: int, taken: float) -> float:
    """Joules of reads of O that floors leave out because as many sums as possible may begin at its innermost holder.

    A sum that begins there goes up from there: as many reads, of which ``taken`` are counted where the tile enters.
    """
    if operand != _O or space.innermost[_O] != level:
        return 0.0
    accesses = space.size[len(space.size) - 1] / _most_sharing(space, _O, level, tile)
    left_out: float = max(0.0, min(accesses, _most_first_sums(space)) - taken)
    return float(left_out * space.read_j[level, _O])


@inlined
def _accesses_floor(space: Space, level: int, tile: int) -> float:
    """Joules of units' accesses to operands whose innermost holder is this level, which is not the last."""
    last = space.fits.shape[1] - 1
    total = 0.0
    for operand in range(3):
        if space.innermost[operand] != level:
            continue
        accesses = space.size[last] / _most_sharing(space, operand, level, tile)
        if operand == _O:
            total += accesses * space.write_j[level, operand]
            total += max(0.0, accesses - _most_first_sums(space)) * space.read_j[level, operand]
        else:
            total += accesses * space.read_j[level, operand]
    return total


@inlined
def _most_sharing(space: Space, operand: int, level: int, tile: int) -> float:
    """The most units that one access can serve, by what lies in the tile and by the axes from a level inwards."""
    along: float = 1.0
    for inner in range(level, space.fits.shape[0]):
        along *= space.most_shared[inner, operand]
    return float(min(along, _free_share(space, operand, tile, 0)))


@inlined
def _entry_floor(space: Space, least: Floors, level: int, tile: int, load: Floats) -> tuple[float, float]:
    """Of what enters a level with this tile, whatever is chosen outside.

    Joules, and clocks per multiply-accumulate and instance of the level outside it, of ports and of the inside. Least
    over the spreads that no other beats in what they share and cover, and over what the innermost temporal loop is.
    ``load`` is room for the bytes of each level's ports.
    """
    last, outer = space.fits.shape[1] - 1, level - 1
    dims = space.extent.shape[1]
    whole = space.size[last]
    iterations = whole / space.size[tile]
    least_energy = least_clocks = np.inf
    seen = 0
    for d in range(dims + 1):
        if d < dims:
            if space.extent[last, d] == space.extent[tile, d] or seen >> space.pattern[d] & 1:
                continue
            seen |= 1 << space.pattern[d]
        elif seen:
            break
        for s in range(space.best_spreads[outer]):
            energy = 0.0
            covered = space.best_spread[outer, s, 3]
            for busy in range(level + 1):
                load[busy, 0] = load[busy, 1] = 0.0
            if level == space.fits.shape[0] - 1:
                load[level, 0] = least.unit_reads[tile] * iterations / covered
                load[level, 1] = least.unit_writes[tile] * iterations / covered
            for operand in range(3):
                if not space.holds[level, operand]:
                    continue
                parent = _holder(space, outer, operand)
                free = _free_share(space, operand, last, tile)
                own = space.best_spread[outer, s, operand]
                together = own
                for further in range(parent, outer):
                    together *= space.most_shared[further, operand]
                stays = free if d < dims and space.free[operand, d] else 1.0
                all_words = iterations * space.words[operand, tile]
                new = _bound_share(space, operand, last, tile) * space.words[operand, tile]
                if operand == _O:
                    apart = own
                    for further in range(outer):
                        apart *= space.most_shared[further, operand]
                    new *= min(apart, free)
                taken = all_words / stays
                read = all_words / min(free, stays * together)
                energy += _entering(space, operand, (parent, level), taken, read, (new, new))
                energy += _read_after_all(space, operand, level, tile, taken)
                width = space.word_bytes[operand]
                # Instances outside per one of the parent are no fewer than those that share a read.
                own_read = all_words / min(free, stays * own) * width
                if operand == _O:
                    load[parent, 1] += own_read
                    load[level, 1] += max(0.0, taken - new) * width / covered
                    if level < space.fits.shape[0] - 1 or space.innermost[_O] < level:
                        load[level, 0] += taken * width / covered
                else:
                    load[parent, 0] += own_read
                    load[level, 1] += taken * width / covered
            clocks = least.cycles[level, tile] / covered
            for busy in range(level + 1):
                clocks = max(clocks, _clocks(space, busy, load[busy, 0], load[busy, 1]) / whole)
            least_energy = min(least_energy, energy)
            least_clocks = min(least_clocks, clocks)
    return least_energy, least_clocks


@compiled
def _least_of_divisors(space: Space, value: Floats) -> None:
    """Every tile's value becomes the least of all tiles that divide it."""
    tiles, dims = space.place.shape
    for d in range(dims):
        for tile in range(tiles - 1, -1, -1):
            index = space.place[tile, d]
            least = value[tile]
            for lower in range(index):
                if space.quotient[d, index, lower] >= 0:
                    least = min(least, value[tile - (index - lower) * space.stride[d]])
            value[tile] = least


@compiled
def _reach(space: Space) -> Floats:
    """What the spreads of each level share and cover at most, by the tile that they have to divide."""
    levels, tiles = space.fits.shape
    reach = np.ones((levels, 4, tiles))
    for level in range(levels):
        for what in range(4):
            if space.spreads[level] == 1:
                node = space.spread[level, 0]
                if space.size[node] == 1.0:
                    continue
            for s in range(space.spreads[level]):
                node = space.spread[level, s]
                found = space.size[node] if what == 3 else space.shared[level, s, what]
                reach[level, what, node] = min(reach[level, what, node], -found)
            _least_of_divisors(space, reach[level, what])
            for tile in range(tiles):
                reach[level, what, tile] = max(1.0, -reach[level, what, tile])
    return reach


@compiled
def _crossing(space: Space) -> Floats:
    """Words that have to cross from an operand's holder downwards once a level's tile is chosen."""
    levels, tiles = space.fits.shape
    last = tiles - 1
    found = np.zeros((levels, 3, tiles))
    for level in range(levels):
        for operand in range(3):
            if space.innermost[operand] <= level:
                if level < levels - 1 or space.innermost[operand] < level:
                    for tile in range(tiles):
                        sharing = _most_sharing(space, operand, level, tile)
                        found[level, operand, tile] = space.size[last] / sharing
                continue
            child = level + 1
            while not space.holds[child, operand]:
                child += 1
            for tile in range(tiles):
                # Each word is taken at least once.
                once = space.words[operand, tile] * _bound_share(space, operand, last, tile)
                found[level, operand, tile] = once if space.fits[child, tile] else np.inf
            _least_of_divisors(space, found[level, operand])
    return found


@inlined
def _outer_accesses(space: Space, state: _State, level: int, tile: int, shared: Floats) -> float:
    """Joules at least of units' accesses to holders outside a level, given what their spreads share so far."""
    last = space.fits.shape[1] - 1
    total = 0.0
    for operand in range(3):
        holder = space.innermost[operand]
        if holder >= level:
            continue
        accesses = space.size[last] / (shared[operand] * _most_sharing(space, operand, level, tile))
        if operand == _O:
            first = _bound_share(space, operand, last, 0) * state.sums[holder]
            total += accesses * space.write_j[holder, operand]
            total += max(0.0, accesses - first) * space.read_j[holder, operand]
        else:
            total += accesses * space.read_j[holder, operand]
    return total


@compiled
def _candidate_floor(
    space: Space, least: Floors, state: _State, level: int, inner: int, metric: int, limit: float
) -> float:
    """No better than this is anything with ``inner`` as the tile of the next level.

    First without regard to how the next level's tile is taken; if that may beat ``limit``, by the least over what the
    spread shares and covers (of those that no other beats) and over what the innermost loop is.
    """
    last, tile = space.fits.shape[1] - 1, state.tile[level]
    energy = cycles = 0.0
    quotient = _between(space, tile, inner)
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
        for busy in range(level + 1):
            cycles = max(cycles, _clocks(space, busy, state.load[busy, 0], state.load[busy, 1]))
    value: float = _objective(metric, energy, cycles)
    if value >= limit * _SLACK:
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
            if some >= limit * _SLACK:
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
def _about_to_enter(space: Space, least: Floors, state: _State, level: int, inner: int) -> None:
    """What :func:`_entry_between` asks of each operand whatever the spread."""
    last, tile = space.fits.shape[1] - 1, state.tile[level]
    iterations = space.size[last] / space.size[inner]
    quotient = _between(space, tile, inner)
    for operand in range(3):
        state.entry[operand, 0] = iterations * space.words[operand, inner]
        state.entry[operand, 1] = _free_share(space, operand, tile, inner)
        state.entry[operand, 2] = space.size[tile] / space.size[inner] / state.entry[operand, 1]
        new = _bound_share(space, operand, last, inner) * space.words[operand, inner]
        state.entry[operand, 3] = new * state.sums[level]
        state.entry[operand, 4] = least.reach[level, operand, quotient]


@inlined
def _crossing_loads(space: Space, least: Floors, state: _State, level: int, inner: int) -> None:
    """Bytes over the ports of the levels outside: those decided, and what at least passes the next level by."""
    for busy in range(level + 2):
        state.load[busy, 0], state.load[busy, 1] = state.read[level, busy], state.written[level, busy]
    for operand in range(3):
        if space.holds[level + 1, operand]:
            continue
        holder = _holder(space, level, operand)
        words = least.crossing[level + 1, operand, inner] / state.holders[level, operand]
        words *= space.word_bytes[operand] / (
            state.shared[level, operand] * space.most_shared[level, operand]
        )
        state.load[holder, 1 if operand == _O else 0] += words


@inlined
def _entry_between(
    space: Space,
    least: Floors,
    state: _State,
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
        parent = _holder(space, level, operand)
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
        taken = words / stays
        read = words / (min(stays * together, free * before) * shared)
        new = state.entry[operand, 3]
        of_parent = new / shared
        if operand == _O:
            new *= together
        if metric != LATENCY:
            energy += _entering(space, operand, (parent, below), taken, read, (new, of_parent))
            energy += _read_after_all(space, operand, below, inner, taken)
        if metric != ENERGY:
            width = space.word_bytes[operand]
            up = width / state.holders[level, operand]
            if operand == _O:
                state.load[parent, 1] += read * up
                state.load[parent, 0] += max(0.0, read - of_parent) * up
                state.load[below, 1] += max(0.0, taken - new) * width / instances
                if below < space.fits.shape[0] - 1:
                    state.load[below, 0] += taken * width / instances
            else:
                state.load[parent, 0] += read * up
                state.load[below, 1] += taken * width / instances
    cycles = 0.0
    if metric != ENERGY:
        cycles = least.cycles[below, inner] * space.size[last] / instances
        for busy in range(below + 1):
            cycles = max(cycles, _clocks(space, busy, state.load[busy, 0], state.load[busy, 1]))
    return float(_objective(metric, energy, cycles))


@compiled
def _expand(
    space: Space,
    least: Floors,
    state: _State,
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
            value = _candidate_floor(space, least, state, level, inner, metric, limit)
            if value < limit * _SLACK:
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


@inlined
def _spread_floor(
    space: Space, least: Floors, state: _State, level: int, inner: int, spread: int, metric: int
) -> float:
    """No better than this is anything with a tile and as many children at work as a spread covers."""
    children = state.instances[level] * space.size[space.spread[level, spread]]
    cycles = least.cycles[level + 1, inner] * space.size[len(space.size) - 1] / children
    return float(_objective(metric, state.energy[level] + least.inside[level + 1, inner], cycles))


@inlined
def _spread_loops(space: Space, state: _State, level: int, inner: int, spread: int, loops: Integers) -> bool:
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
def _stays(space: Space, state: _State, level: int, operand: int, order: int, loops: Integers) -> float:
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
def _worth_trying(space: Space, state: _State, level: int, loops: Integers) -> int:
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
def _enter(
    space: Space, state: _State, level: int, inner: int, choice: tuple[int, int], loops: Integers
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
        if space.free[_O, d]:
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
        parent = _holder(space, level, operand)
        taken = iterations * space.words[operand, inner] / state.stays[below, operand]
        new = _bound_share(space, operand, last, inner) * space.words[operand, inner] * state.sums[below]
        levels, distinct = (parent, below), (new, new / shared)
        state.energy[below] += _entering(space, operand, levels, taken, taken / shared, distinct)
        own = space.word_bytes[operand] / state.instances[below]
        up = space.word_bytes[operand] / state.holders[level, operand] / shared
        if operand == _O:
            state.read[below, below] += taken * own
            state.written[below, below] += (taken - new) * own
            state.written[below, parent] += taken * up
            state.read[below, parent] += (taken - new) * up
        else:
            state.written[below, below] += taken * own
            state.read[below, parent] += taken * up
        state.shared[below, operand] = 1.0
        state.holders[below, operand] = state.instances[below]


@inlined
def _state_floor(space: Space, least: Floors, state: _State, level: int, metric: int) -> float:
    """No better than this is anything with these decisions outside a level."""
    levels, tiles = space.fits.shape
    tile, last = state.tile[level], tiles - 1
    energy = cycles = 0.0
    if metric != LATENCY:
        energy = state.energy[level] + least.inside[level, tile]
        energy += _outer_accesses(space, state, level, tile, state.shared[level])
        if space.innermost[_O] == level:
            # How many sums begin here is known by now.
            accesses = space.size[last] / _most_sharing(space, _O, level, tile)
            first = _bound_share(space, _O, last, 0) * state.sums[level]
            again = max(0.0, accesses - first) - max(0.0, accesses - _most_first_sums(space))
            energy += again * space.read_j[level, _O]
    if metric != ENERGY:
        cycles = least.cycles[level, tile] * space.size[last] / state.instances[level]
        executions = space.size[last] / space.size[tile] / state.instances[level]
        for busy in range(levels):
            read, written = state.read[level, busy], state.written[level, busy]
            for operand in range(3):
                if _holder(space, level, operand) != busy:
                    continue
                words = least.crossing[level, operand, tile] / state.shared[level, operand]
                words *= space.word_bytes[operand] / state.holders[level, operand]
                if operand == _O:
                    written += words
                else:
                    read += words
            if level == levels - 1 and busy == level:
                read += least.unit_reads[tile] * executions
                written += least.unit_writes[tile] * executions
                if space.innermost[_O] == busy and busy > 0:
                    first = _bound_share(space, _O, last, 0) * state.sums[level] / state.instances[level]
                    read -= first * space.word_bytes[_O]
            cycles = max(cycles, _clocks(space, busy, read, written))
    value: float = _objective(metric, energy, cycles)
    return value


@compiled
def _finish(
    space: Space,
    state: _State,
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
        least = _objective(metric, state.energy[level], compute)
        if metric != ENERGY and least >= value[-1] * _SLACK:
            break
        if not _spread_loops(space, state, level, 0, spread, loops):
            continue
        tried += 1
        energy, cycles = state.energy[level], compute
        for busy in range(levels):
            read[busy] = state.read[level, busy]
            written[busy] = state.written[level, busy]
        for operand in range(3):
            holder = space.innermost[operand]
            accesses = whole / (state.shared[level, operand] * space.shared[level, spread, operand])
            own = space.word_bytes[operand] / state.holders[level, operand]
            if operand == _O:
                again = accesses - _bound_share(space, operand, last, 0) * state.sums[holder]
                energy += accesses * space.write_j[holder, operand] + again * space.read_j[holder, operand]
                written[holder] += accesses * own
                read[holder] += again * own
            else:
                energy += accesses * space.read_j[holder, operand]
                read[holder] += accesses * own
        for busy in range(levels):
            cycles = max(cycles, _clocks(space, busy, read[busy], written[busy]))
        picks[level, 0], picks[level, 1], picks[level, 2] = 0, spread, 0
        _keep(_objective(metric, energy, cycles), picks, value, choice)
    return tried


@inlined
def _keep(found: float, picks: Integers, value: Floats, choice: Integers) -> None:
    """Puts a mapping among the best, once: the look before the proof may have seen it."""
    if found >= value[-1] * _SLACK:
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
    state = _State(
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
        spent, all_seen = nodes, True
        at[0, :] = 0
        while level >= 0:
            if stop[0]:
                return Found(value, choice, min(value[0], opened), nodes)
            tile, spread, order = at[level]
            if tile >= count[level] or floor[level, tile] >= value[-1] * _SLACK:
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
                lower = _spread_floor(space, least, state, level, inner[level, tile], spread, metric)
                if lower >= value[-1] * _SLACK:
                    # The spreads that follow cover no more.
                    at[level, 0], at[level, 1] = tile + 1, 0
                    continue
            divides = _spread_loops(space, state, level, inner[level, tile], spread, loops)
            if order == 0:
                worth[level] = _worth_trying(space, state, level, loops) if divides else 0
            if worth[level] >> order == 0:
                _next(at[level], space.spreads[level], 0)
                continue
            if worth[level] >> order & 1 == 0:
                at[level, 2] += 1
                continue
            nodes += 1
            _enter(space, state, level, inner[level, tile], (spread, order), loops)
            _next(at[level], space.spreads[level], space.orders[level])
            if _state_floor(space, least, state, level + 1, metric) >= value[-1] * _SLACK:
                continue
            picks[level, 0], picks[level, 1], picks[level, 2] = inner[level, tile], spread, order
            if level == levels - 2:
                nodes += _finish(space, state, metric, loops, picks, value, choice)
                continue
            level += 1
            at[level, :] = 0
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
