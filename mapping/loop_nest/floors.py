"""The least that the inside of a tile can cost, found from the inside out over the lattice of tiles.

Floors of energy take the reuse of every operand at its best, but only of operands that the innermost loop leaves
alone. Floors of time take the busiest level: bytes that at least have to cross it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled, inlined
from mapping.loop_nest.shares import (
    OUTPUTS,
    begun,
    bound_share,
    by_units,
    entering,
    finals,
    fits_in,
    free_share,
    holder_of,
    left,
    most_first_sums,
    most_sharing,
    port_clocks,
)
from mapping.loop_nest.space import Space

__all__ = [
    "Floors",
    "final_load",
    "floors",
    "goes_up_whole",
    "read_after_all",
]

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
            if not fits_in(space, tile, node):
                continue
            energy, read, written = 0.0, 0.0, 0.0
            for operand in range(3):
                if space.innermost[operand] != level:
                    continue
                lanes = space.shared[level, s, operand]
                accesses = whole / lanes * by_units(space, 0, operand, lanes)
                own = size / lanes * space.word_bytes[level, operand] * by_units(space, 1, operand, lanes)
                read += own
                if operand == OUTPUTS:
                    # What is not read for a first sum is read once more when the tile goes up.
                    written += own
                    energy += accesses * space.write_j[level, operand]
                    first = begun(space, 0, most_first_sums(space))
                    energy += max(0.0, accesses - first) * space.read_j[level, operand]
                    if not goes_up_whole(space, level):
                        read -= own
                else:
                    energy += accesses * space.read_j[level, operand]
            clocks = max(
                size / space.size[node] * space.zeros.products[1], port_clocks(space, level, read, written)
            )
            inside[level, tile] = min(inside[level, tile], energy)
            cycles[level, tile] = min(cycles[level, tile], clocks / size)
            least_reads = min(least_reads, read)
            least_writes = min(least_writes, written)
        unit_reads[tile] = least_reads
        unit_writes[tile] = least_writes


@inlined
def goes_up_whole(space: Space, level: int) -> bool:
    """Whether every word of O that leaves an instance of a level does so in its full width."""
    return bool(level > 0 and space.zeros.final_bytes[level] == 0.0)


@inlined
def final_load(space: Space, level: int, words: float, new: float) -> float:
    """Bytes at least of words of O that leave for or from a level, at most ``new`` of them for the last time."""
    saved = max(0.0, space.zeros.final_bytes[level])
    return float(words * space.word_bytes[level, OUTPUTS] - min(words, new) * saved)


@inlined
def read_after_all(space: Space, operand: int, level: int, tile: int, taken: float) -> float:
    """Joules of reads of O that floors leave out because as many sums as possible may begin at its innermost holder.

    A sum that begins there goes up from there: as many reads, of which ``taken`` are counted where the tile enters.
    """
    if operand != OUTPUTS or space.innermost[OUTPUTS] != level or not goes_up_whole(space, level):
        return 0.0
    lanes = most_sharing(space, OUTPUTS, level, tile)
    accesses = space.size[len(space.size) - 1] / lanes * by_units(space, 0, OUTPUTS, lanes)
    left_out: float = max(0.0, min(accesses, begun(space, 0, most_first_sums(space))) - taken)
    return float(left_out * space.read_j[level, OUTPUTS])


@inlined
def _accesses_floor(space: Space, level: int, tile: int) -> float:
    """Joules of units' accesses to operands whose innermost holder is this level, which is not the last."""
    last = space.fits.shape[1] - 1
    total = 0.0
    for operand in range(3):
        if space.innermost[operand] != level:
            continue
        lanes = most_sharing(space, operand, level, tile)
        accesses = space.size[last] / lanes * by_units(space, 0, operand, lanes)
        if operand == OUTPUTS:
            total += accesses * space.write_j[level, operand]
            first = begun(space, 0, most_first_sums(space))
            total += max(0.0, accesses - first) * space.read_j[level, operand]
        else:
            total += accesses * space.read_j[level, operand]
    return total


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
                parent = holder_of(space, outer, operand)
                free = free_share(space, operand, last, tile)
                own = space.best_spread[outer, s, operand]
                together = own
                for further in range(parent, outer):
                    together *= space.most_shared[further, operand]
                stays = free if d < dims and space.free[operand, d] else 1.0
                all_words = iterations * space.words[operand, tile]
                new = bound_share(space, operand, last, tile) * space.words[operand, tile]
                if operand == OUTPUTS:
                    apart = own
                    for further in range(outer):
                        apart *= space.most_shared[further, operand]
                    new *= min(apart, free)
                taken = all_words / stays
                served = min(free, stays * together)
                read = all_words / served
                energy += entering(
                    space, operand, (parent, level), taken * left(space, 0, parent, operand, tile, stays),
                    read * left(space, 0, parent, operand, tile, served), (new, new),
                )  # fmt: skip
                energy += read_after_all(space, operand, level, tile, taken)
                out, into = space.word_bytes[parent, operand], space.word_bytes[level, operand]
                # Instances outside per one of the parent are no fewer than those that share a read.
                served = min(free, stays * own)
                own_read = all_words / served
                if operand == OUTPUTS:
                    energy -= finals(space, (parent, level), taken, read, (new, new), False)
                    load[parent, 1] += final_load(space, parent, own_read, new)
                    load[level, 1] += max(0.0, taken - new) * into / covered
                    if level < space.fits.shape[0] - 1 or space.innermost[OUTPUTS] < level:
                        load[level, 0] += final_load(space, level, taken, new) / covered
                else:
                    load[parent, 0] += own_read * out * left(space, 1, parent, operand, tile, served)
                    load[level, 1] += taken * into * left(space, 1, parent, operand, tile, stays) / covered
            clocks = least.cycles[level, tile] / covered
            for busy in range(level + 1):
                clocks = max(clocks, port_clocks(space, busy, load[busy, 0], load[busy, 1]) / whole)
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
                        sharing = most_sharing(space, operand, level, tile)
                        found[level, operand, tile] = (
                            space.size[last] / sharing * by_units(space, 1, operand, sharing)
                        )
                continue
            parent = holder_of(space, level, operand)
            child = level + 1
            while not space.holds[child, operand]:
                child += 1
            for tile in range(tiles):
                # Each word is taken at least once.
                once = space.words[operand, tile] * bound_share(space, operand, last, tile)
                once *= left(space, 1, parent, operand, tile, 1.0)
                found[level, operand, tile] = once if space.fits[child, tile] else np.inf
            _least_of_divisors(space, found[level, operand])
    return found
