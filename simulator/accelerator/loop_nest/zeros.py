"""What zeros in the operands save: bytes of compressed words, reads that meet only zeros, products that are zero.

The model is Sparseloop's (Wu et al., MICRO 2022, doi:10.1109/MICRO56248.2022.00096): first the words of a dense run,
then their expected share. Three things save, each where the machine says so:

- *Formats* of a level: an operand is stored and moved as its nonzero words and their metadata, in the mean over all of
  its tiles. Partial sums are stored with their zeros; outputs are compressed when they leave for the last time.
- *Reads* of an input that a level cuts (``zero_reads``): the tile that a read hands to one child, or to a group that it
  serves together, is read and taken only if the other input has a nonzero word among those that the tile meets before
  it is replaced. Gating saves the energy, skipping the bytes over the ports too.
- *Products* (``zero_products``): a multiply-accumulate with a zero is not done, nor its sum added. A sum over several
  lanes is added unless all of their products are spared, as if each were zero by itself. The first sum of a word reads
  nothing, whichever it is. Skipping shortens the steps of the units, as if work were spread evenly.

An operand without a density has no zeros and is as in a dense run. Means are exact for words that are zero by
themselves; those of N of M and of bands are exact but for sums over several lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import comb, lcm, prod
from typing import Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import MemoryLevel, Operand
from simulator.accelerator.loop_nest.counts import Traffic
from simulator.accelerator.loop_nest.formats import moved_share
from simulator.accelerator.loop_nest.nest import Loop, LoopNest, inner_extents
from workloads.density import Band, Density, NofM
from workloads.einsum import Einsum

__all__ = [
    "OTHER", "Lanes", "all_dense", "check_zeros", "cut_share", "cuts_reads", "empty_shares", "lanes_of", "some_nonzero",
    "some_product", "spared_products", "words_left",
]  # fmt: skip

OTHER: Final[Mapping[Operand, Operand]] = {"I": "W", "W": "I"}
"""The input that an input is multiplied with."""


def check_zeros(device: SpatialAccelerator, layer: Einsum, nest: LoopNest | None = None) -> None:
    """Whether what the machine saves can be counted for this layer (in this mapping).

    Raises ``InputError`` that says why not.
    """
    leaders = {
        OTHER[o] for memory in device.levels for o in memory.zero_reads or {} if OTHER[o] in layer.densities
    }
    if not leaders and spared_products(device, layer, timed=False) == 1:
        return
    bare = sorted(set(layer.sizes) - layer.indexed_by("I") - layer.indexed_by("W"))
    if leaders and bare:
        raise bad_input(
            f"zeros spare reads only where each dim indexes an input; {bare[0]} indexes none", path="dims"
        )
    if nest is not None:
        covered = nest.covered()
        ragged = [dim for dim, size in layer.sizes.items() if covered.get(dim, 1) != size]
        if ragged:
            raise bad_input(
                f"spared reads and products need factors of {ragged[0]} that multiply to its size",
                path="mapping",
            )
    for leader in sorted(leaders):
        density = layer.densities[leader]
        if isinstance(density, Band):
            raise bad_input(
                f"reads of {OTHER[leader]} cannot be cut by a banded {leader} (zero_reads)",
                path=f"density.{leader}",
            )
        follower = layer.indexed_by(OTHER[leader])
        if isinstance(density, NofM) and density.along not in follower:
            raise bad_input(
                f"expected a dim that indexes {OTHER[leader]} too; {density.along} does not",
                path=f"density.{leader}.along",
            )


def spared_products(device: SpatialAccelerator, layer: Einsum, *, timed: bool) -> float:
    """The share of multiply-accumulates that are done (with ``timed``: that take a step)."""
    return prod(
        layer.densities[operand].share
        for operand, saving in (device.zero_products or {}).items()
        if operand in layer.densities and (saving == "skipping" or not timed)
    )


def some_product(share: float, lanes: float) -> float:
    """The chance that one of ``lanes`` products is done, of which each is with the chance ``share``."""
    return 1.0 if share == 1.0 else 1.0 - (1.0 - share) ** lanes


def cuts_reads(memory: MemoryLevel, operand: Operand, layer: Einsum, *, timed: bool) -> bool:
    """Whether a level spares reads of an operand whose partners are zero (with ``timed``: their time)."""
    saving = (memory.zero_reads or {}).get(operand) if operand != "O" else None
    return saving is not None and OTHER[operand] in layer.densities and (saving == "skipping" or not timed)


def some_nonzero(density: Density, layer: Einsum, words: float, along: int, times: float) -> float:
    """The chance that a tile, ``times`` over, has a nonzero word; ``along`` is its extent in the dim of N of M."""
    if isinstance(density, NofM):
        empty = empty_shares(density, along, layer.sizes[density.along])
        rest = words / along * times
        return float(1.0 - sum(chance * share**rest for share, chance in empty))
    return float(1.0 - (1.0 - density.share) ** (words * times))


@cache
def empty_shares(density: NofM, extent: int, size: int) -> tuple[tuple[float, float], ...]:
    """Chances that a row of a tile is empty, each with the share of the tiles' places that have it.

    >>> empty_shares(NofM(2, 4, "K"), 2, 8)
    ((0.16666666666666666, 1.0),)
    """
    found: dict[float, float] = {}
    starts = range(0, min(size, lcm(extent, density.of)), extent)
    for start in starts:
        empty = 1.0
        for group in range(start // density.of, (start + extent - 1) // density.of + 1):
            low, high = max(start, group * density.of), min(start + extent, (group + 1) * density.of)
            empty *= comb(density.of - (high - low), density.n) / comb(density.of, density.n)
        found[empty] = found.get(empty, 0.0) + 1 / len(starts)
    return tuple(found.items())


@dataclass(frozen=True, slots=True)
class Lanes:
    """What loops do to a tile of an operand that a level hands to its children, for exact factors.

    ``stays``: steps of the loops outside for which a tile stays; ``together``: children that one read or sum serves.
    """

    stays: int
    together: int


def lanes_of(
    loops: tuple[Loop, ...],
    device: SpatialAccelerator,
    layer: Einsum,
    operand: Operand,
    pair: tuple[int, int],
) -> Lanes:
    """Of a parent and a child level; the child beyond the last level is the units, which keep nothing."""
    parent, child = pair
    indexed = layer.indexed_by(operand)
    axes = {axis.axis: axis for memory in device.levels for axis in memory.fanout}
    together = prod(
        loop.count for loop in loops
        if loop.axis and parent <= loop.level < child and loop.dim not in indexed
        and operand in (*axes[loop.axis].multicast, *axes[loop.axis].reduce)
    )  # fmt: skip
    stays = 1
    if child < len(device.levels):
        for loop in reversed([loop for loop in loops if not loop.axis and loop.level < child]):
            if loop.dim in indexed:
                break
            stays *= loop.count
    return Lanes(stays, together)


def cut_share(
    nest: LoopNest,
    device: SpatialAccelerator,
    layer: Einsum,
    operand: Operand,
    pair: tuple[int, int],
    *,
    timed: bool,
) -> tuple[float, float]:
    """Shares that are left of a parent's reads of an input and of what its children take."""
    parent, child = pair
    if not cuts_reads(device.levels[parent], operand, layer, timed=timed):
        return 1.0, 1.0
    loops = nest.loops()
    leader = OTHER[operand]
    density = layer.densities[leader]
    extents = inner_extents(loops, child, layer)
    words = layer.words(leader, extents)
    along = extents[density.along] if isinstance(density, NofM) else 1
    lanes = lanes_of(loops, device, layer, operand, pair)
    group, own = (
        some_nonzero(density, layer, words, along, times)
        for times in (lanes.stays * lanes.together, lanes.stays)
    )
    return group, own


def all_dense(device: SpatialAccelerator, layer: Einsum) -> bool:
    """Whether no zero of the layer saves anything on the device."""
    if not layer.densities:
        return True
    saves = any(memory.formats or memory.zero_reads for memory in device.levels) or device.zero_products
    return not saves


def words_left(
    nest: LoopNest, device: SpatialAccelerator, layer: Einsum, place: tuple[int, Operand], *, timed: bool
) -> Callable[[Traffic], tuple[float, float]]:
    """What zeros leave of the words that a level reads and writes of an operand, in words of full width.

    Raises ``InputError`` for ragged factors where reads or products are spared.
    """
    level, operand = place
    holders = [number for number, memory in enumerate(device.levels) if operand in memory.holds]
    at = holders.index(level)
    parent = holders[at - 1] if at else None
    child = holders[at + 1] if at + 1 < len(holders) else len(device.levels)
    moved = moved_share(device, layer, level, operand)
    if operand != "O":
        down = cut_share(nest, device, layer, operand, (level, child), timed=timed)[0]
        filled = (
            1.0
            if parent is None
            else cut_share(nest, device, layer, operand, (parent, level), timed=timed)[1]
        )
        return lambda words: (words.reads_down * moved * down, words.fills * moved * filled)
    share = spared_products(device, layer, timed=timed)
    lanes = lanes_of(nest.loops(), device, layer, operand, (level, child)).together

    def of_sums(words: Traffic) -> tuple[float, float]:
        final = words.reads_up - words.fills
        read, written = final * moved + words.fills, float(words.fills)
        if child < len(device.levels):
            last = words.updates - words.reads_down
            return read + words.reads_down, written + last * moved + words.reads_down
        begun = words.updates - words.reads_down
        added = words.updates * some_product(share, lanes)
        spared = begun * some_product(share, words.updates * lanes / begun) if begun else 0.0
        return read + added - spared, written + added

    return of_sums
