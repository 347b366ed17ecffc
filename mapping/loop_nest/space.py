"""The mappings that a search chooses from, as arrays: tiles, spatial splits and loop orders.

A tile is a divisor of each dim's size, so the tiles of a layer are the nodes of a lattice; its place in the arrays is
the mixed-radix number of its divisors' indices. A mapping is a chain of nodes from the whole layer inwards, one per
memory level, each dividing the one before; between two of them stands a *spread*, the node that the level's axes cover
together, and the rest is temporal. Of the orders of temporal loops only those matter that put the loops which leave an
operand alone innermost, for one operand first, then for another among them, and so on: each other order moves as much
or more (a tile stays across the innermost loops that do not index it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from math import prod
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InfeasibleError, bad_input, nearest
from hw_configs.spatial import OPERANDS, SpatialAxis, units_below
from simulator.accelerator.loop_nest.formats import most_held_bytes, moved_share
from simulator.accelerator.loop_nest.nest import axis_allows
from simulator.accelerator.loop_nest.zeros import (
    all_dense,
    check_zeros,
    cuts_reads,
    empty_shares,
    spared_products,
)
from workloads.density import NofM
from workloads.einsum import Einsum

__all__ = ["Fixed", "Space", "Spreads", "Zeros", "divisors", "map_space"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MOST_TILES: Final = 2_000_000
MOST_SPREADS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a user has decided already.

    ``temporal``: count of a dim's loop at a level, by (level, dim). ``spatial``: count along an axis, by (axis, dim).
    ``order``: the dims of a level's temporal loops, outer to inner, by level.
    """

    temporal: Mapping[tuple[str, str], int] = field(default_factory=dict)
    spatial: Mapping[tuple[str, str], int] = field(default_factory=dict)
    order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Space(NamedTuple):
    """Arrays of the search. L levels, D dims, P tiles, S spreads at most; operands are I, W, O.

    ``shared`` is how many children one read of an operand serves, or one sum takes in, under a spread; ``most_shared``
    and ``most_spread`` are the largest of a level. ``temporal`` is 0 where the count is free.
    """

    extent: Integers
    """(P, D): how far a tile reaches in each dim."""
    place: Integers
    """(P, D): which divisor that is."""
    stride: Integers
    divisor: Integers
    """(D, most divisors)."""
    quotient: Integers
    """(D, i, j): which divisor the i-th over the j-th is, -1 where it is none."""
    size: Floats
    """(P,): multiply-accumulates of a tile."""
    words: Floats
    """(3, P): words of a tile of each operand."""
    free: Flags
    """(3, D): whether a dim leaves an operand's index alone."""
    holds: Flags
    """(L, 3)."""
    fits: Flags
    """(L, P): whether an instance of a level holds the tiles."""
    read_j: Floats
    """(L, 3): joules per word read, in the level's format."""
    write_j: Floats
    word_bytes: Floats
    """(L, 3)."""
    read_width: Floats
    write_width: Floats
    one_port: Flags
    """(L,): whether reads and writes take turns."""
    single: Flags
    """(L,): whether a level is filled between runs of its children."""
    first_single: int
    """The outermost such level; the number of levels without one."""
    least_clocks: float
    """Of all units at work."""
    spread: Integers
    """(L, S): the node that a level's axes cover, largest first."""
    shared: Floats
    """(L, S, 3)."""
    spreads: Integers
    """(L,): how many there are."""
    most_shared: Floats
    most_spread: Floats
    best_spread: Floats
    """(L, B, 4): of spreads that no other beats in all four, what each operand shares and how many children work."""
    best_spreads: Integers
    pattern: Integers
    """(D,): the operands that a dim leaves alone, as bits."""
    order: Integers
    """(L, orders, D): dims of temporal loops, innermost first."""
    orders: Integers
    innermost: Integers
    """(3,): the innermost level that holds an operand."""
    temporal: Integers
    """(L, D)."""
    zeros: Zeros


class Zeros(NamedTuple):
    """What zeros spare; the first index of pairs is 0 for energy, 1 for time."""

    cuts: Flags
    """(2, L, 2): whether a level spares reads of I and W whose partners are zero."""
    share: Floats
    """(2,): nonzero words of I and W."""
    along: Integers
    """(2,): the dim of N of M, -1 where words are zero by themselves."""
    empty: Floats
    """(2, divisors, n, 2): by the tile's divisor in that dim, chances that a row is empty and how often they hold."""
    products: Floats
    """(2,): multiply-accumulates that are done."""
    final_bytes: Floats
    """(L,): bytes that an output saves that leaves for the last time."""
    final_read_j: Floats
    final_write_j: Floats


@dataclass(frozen=True)
class Spreads:
    """What the arrays of :class:`Space` stand for: names of dims, and each spread axis by axis."""

    dims: tuple[str, ...]
    axes: tuple[tuple[Integers, ...], ...]
    """By level and axis: the node along it, for each of the level's spreads."""


def map_space(device: SpatialAccelerator, layer: Einsum, fixed: Fixed) -> tuple[Space, Spreads]:
    """The space of a layer on an accelerator.

    Raises ``InputError`` for fixed names that do not exist or counts that do not divide, ``InfeasibleError`` where no
    tile fits a level or the space is larger than can be searched.
    """
    dims = tuple(dim for dim, size in layer.sizes.items() if size > 1) or tuple(layer.sizes)[:1]
    _check_fixed(device, layer, fixed)
    lattice = _Lattice(layer, dims)
    levels = len(device.levels)
    free = np.array([[dim not in layer.indexed_by(operand) for dim in dims] for operand in OPERANDS])
    words = _tile_words(layer, lattice)
    width = np.array([device.word_bits.bytes_of(operand) for operand in OPERANDS])
    holds = np.array([[operand in memory.holds for operand in OPERANDS] for memory in device.levels])
    fits = np.ones((levels, lattice.count), np.bool_)
    for number, memory in enumerate(device.levels):
        if not memory.bounded:
            fits[number] = False
            fits[number, -1] = True
            continue
        held = _held(device, layer, number, words, lattice)
        if memory.capacity is not None:
            fits[number] = held[holds[number]].sum(axis=0) * memory.tile_copies <= memory.capacity
        for operand, size in (memory.capacities or {}).items():
            fits[number] &= held[OPERANDS.index(operand)] * memory.tile_copies <= size
        if not fits[number, 0]:
            least = ", ".join(f"{o} {device.word_bits.bytes_of(o):g} B" for o in memory.holds)
            raise InfeasibleError(
                f"{memory.name!r} ({memory.text_capacity()}) cannot hold one word of each: {least}"
            )
    split = [_spreads(tuple(memory.fanout), layer, lattice, free, fixed.spatial) for memory in device.levels]
    most = max(len(item.node) for item in split)
    spread, shared = np.zeros((levels, most), np.int64), np.ones((levels, most, 3))
    for number, item in enumerate(split):
        spread[number, : len(item.node)] = item.node
        shared[number, : len(item.node)] = item.shared
    order, orders = _orders(device, dims, free, fixed)
    temporal = np.zeros((levels, len(dims)), np.int64)
    for (level, dim), count in fixed.temporal.items():
        if dim in dims:
            number = [memory.name for memory in device.levels].index(level)
            temporal[number, dims.index(dim)] = count
    moved, zeros = _zeros(device, layer, lattice)
    single = np.array([bool(n) and memory.buffering == "single" for n, memory in enumerate(device.levels)])
    word_bytes = moved * width
    space = Space(
        lattice.extent, lattice.place, lattice.stride, lattice.divisor, lattice.quotient,
        lattice.extent.prod(axis=1).astype(float), words, free, holds, fits,
        np.array([memory.read_energy for memory in device.levels])[:, None] * word_bytes,
        np.array([memory.write_energy for memory in device.levels])[:, None] * word_bytes,
        word_bytes,
        np.array([memory.read_width for memory in device.levels]),
        np.array([memory.write_width for memory in device.levels]),
        np.array([memory.one_port for memory in device.levels]),
        single, int(single.argmax()) if single.any() else levels,
        layer.macs / units_below(device.levels) * float(zeros.products[1]),
        spread, shared, np.array([len(item.node) for item in split]),
        np.array([item.shared.max(axis=0) for item in split]),
        np.array([lattice.extent[item.node].prod(axis=1).max() for item in split]).astype(float),
        *_best_spreads(split, lattice), free.T @ np.array([1, 2, 4]),
        order, orders, np.array([int(np.nonzero(holds[:, o])[0][-1]) for o in range(3)]), temporal, zeros,
    )  # fmt: skip
    return space, Spreads(dims, tuple(item.axes for item in split))


class _Lattice:
    """The tiles of a layer: every choice of one divisor per dim."""

    def __init__(self, layer: Einsum, dims: tuple[str, ...]) -> None:
        self.dims = dims
        lists = [divisors(layer.sizes[dim]) for dim in dims]
        lengths = np.array([len(found) for found in lists])
        self.count = prod(len(found) for found in lists)
        if self.count > MOST_TILES:
            raise InfeasibleError(
                f"{layer.name} has {self.count} tile sizes; up to {MOST_TILES} are searched"
            )
        most = int(lengths.max())
        self.divisor = np.ones((len(dims), most), np.int64)
        self.quotient = np.full((len(dims), most, most), -1, np.int64)
        for number, found in enumerate(lists):
            self.divisor[number, : len(found)] = found
            where = {value: index for index, value in enumerate(found)}
            for i, upper in enumerate(found):
                for j, lower in enumerate(found[: i + 1]):
                    if upper % lower == 0:
                        self.quotient[number, i, j] = where[upper // lower]
        self.lengths = lengths
        self.stride = np.append(np.cumprod(lengths[:0:-1])[::-1], 1).astype(np.int64)
        every = np.arange(self.count)
        self.place = np.stack([(every // s) % n for s, n in zip(self.stride, lengths, strict=True)], axis=1)
        self.extent = np.stack([self.divisor[d][self.place[:, d]] for d in range(len(dims))], axis=1)

    def nodes(self, extents: Integers) -> tuple[Integers, Flags]:
        """The nodes of rows of extents (n, D), and which rows are nodes at all."""
        node = np.zeros(len(extents), np.int64)
        good = np.ones(len(extents), np.bool_)
        for d in range(len(self.dims)):
            own = self.divisor[d, : self.lengths[d]]
            index = np.minimum(np.searchsorted(own, extents[:, d]), len(own) - 1)
            good &= own[index] == extents[:, d]
            node += index * self.stride[d]
        return node, good


def divisors(size: int) -> list[int]:
    """The divisors of a size, rising."""
    low = [d for d in range(1, int(size**0.5) + 1) if size % d == 0]
    return sorted({*low, *(size // d for d in low)})


def _tile_words(layer: Einsum, lattice: _Lattice) -> Floats:
    words = np.ones((3, lattice.count))
    for number, operand in enumerate(OPERANDS):
        for axis in layer.operands[operand]:
            along = np.ones(lattice.count)
            for term in axis:
                if term.dim in lattice.dims:
                    along += term.step * (lattice.extent[:, lattice.dims.index(term.dim)] - 1)
            words[number] *= along
    return words


def _held(device: SpatialAccelerator, layer: Einsum, level: int, words: Floats, lattice: _Lattice) -> Floats:
    """Bytes that tiles take in a level, by operand."""
    extents = {dim: np.ones(lattice.count) for dim in layer.sizes}
    extents |= {dim: lattice.extent[:, number].astype(float) for number, dim in enumerate(lattice.dims)}
    return np.array(
        [
            most_held_bytes(device, layer, level, o, words[number], extents)
            for number, o in enumerate(OPERANDS)
        ]
    )


def _zeros(device: SpatialAccelerator, layer: Einsum, lattice: _Lattice) -> tuple[Floats, Zeros]:
    """The share of their width that words of I, W and partial sums take in each level; what zeros spare."""
    levels = len(device.levels)
    moved, final = np.ones((levels, 3)), np.zeros(levels)
    cuts, share = np.zeros((2, levels, 2), np.bool_), np.ones(2)
    along, empty = np.full(2, -1), np.zeros((2, lattice.divisor.shape[1], 1, 2))
    products = np.ones(2)
    if not all_dense(device, layer):
        check_zeros(device, layer)
        products[:] = [spared_products(device, layer, timed=timed) for timed in (False, True)]
        for number, memory in enumerate(device.levels):
            moved[number, :2] = [moved_share(device, layer, number, o) for o in OPERANDS[:2]]
            final[number] = device.word_bits.bytes_of("O") * (1 - moved_share(device, layer, number, "O"))
            for timed, place in ((False, 0), (True, 1)):
                cuts[place, number] = [cuts_reads(memory, o, layer, timed=timed) for o in OPERANDS[:2]]
        for number, operand in enumerate(OPERANDS[:2]):
            density = layer.densities.get(operand)
            share[number] = 1.0 if density is None else density.share
            if isinstance(density, NofM) and density.along in lattice.dims:
                along[number] = lattice.dims.index(density.along)
                own = lattice.divisor[along[number], : lattice.lengths[along[number]]]
                found = [empty_shares(density, int(extent), layer.sizes[density.along]) for extent in own]
                most = max(empty.shape[2], *(len(shares) for shares in found))
                empty = np.concatenate(
                    [empty, np.zeros((*empty.shape[:2], most - empty.shape[2], 2))], axis=2
                )
                for place, shares in enumerate(found):
                    empty[number, place, : len(shares)] = shares
    read, write = (
        np.array([getattr(memory, key) for memory in device.levels]) * final
        for key in ("read_energy", "write_energy")
    )
    return moved, Zeros(cuts, share, along, empty, products, final, read, write)


class _LevelSpreads(NamedTuple):
    node: Integers
    shared: Floats
    axes: tuple[Integers, ...]


def _spreads(
    axes: tuple[SpatialAxis, ...],
    layer: Einsum,
    lattice: _Lattice,
    free: Flags,
    fixed: Mapping[tuple[str, str], int],
) -> _LevelSpreads:
    """Every way to lay dims along the axes of a level; of equal ones (same node, same sharing) the first."""
    node, shared = np.zeros(1, np.int64), np.ones((1, 3))
    by_axis: list[Integers] = []
    for axis in axes:
        own = _along(axis, layer, lattice, fixed)
        own_shared = np.ones((len(own), 3))
        for number, operand in enumerate(OPERANDS):
            if operand in (*axis.multicast, *axis.reduce):
                own_shared[:, number] = np.where(free[number][None, :], lattice.extent[own], 1).prod(axis=1)
        if len(node) * len(own) > MOST_SPREADS:
            raise InfeasibleError(f"{layer.name} can be laid along {axis.axis!r} in too many ways to search")
        extents = lattice.extent[node][:, None, :] * lattice.extent[own][None, :, :]
        joined, good = lattice.nodes(extents.reshape(-1, extents.shape[2]))
        old, new = (index.ravel()[good] for index in np.indices((len(node), len(own))))
        table = np.column_stack([joined[good], shared[old] * own_shared[new]])
        table, first = np.unique(table, axis=0, return_index=True)
        node, shared = table[:, 0].astype(np.int64), table[:, 1:]
        by_axis = [nodes[old[first]] for nodes in by_axis] + [own[new[first]]]
    largest = np.argsort(-lattice.extent[node].prod(axis=1), kind="stable")
    return _LevelSpreads(node[largest], shared[largest], tuple(nodes[largest] for nodes in by_axis))


def _best_spreads(split: list[_LevelSpreads], lattice: _Lattice) -> tuple[Floats, Integers]:
    """By level the spreads' sharing and size that no other spread of it beats in all, padded, and their number."""
    found = []
    for item in split:
        size = lattice.extent[item.node].prod(axis=1).astype(float)
        every = np.unique(np.column_stack([item.shared, size]), axis=0)[::-1]
        kept = every[:0]
        for row in every:
            if not (kept >= row).all(axis=1).any():
                kept = np.vstack([kept, row])
        found.append(kept)
    table = np.ones((len(split), max(len(kept) for kept in found), 4))
    for number, kept in enumerate(found):
        table[number, : len(kept)] = kept
    return table, np.array([len(kept) for kept in found])


def _along(
    axis: SpatialAxis, layer: Einsum, lattice: _Lattice, fixed: Mapping[tuple[str, str], int]
) -> Integers:
    """Nodes that may run along one axis."""
    allowed = lattice.extent.prod(axis=1) <= axis.size
    for number, dim in enumerate(lattice.dims):
        if not axis_allows(axis, dim, layer):
            allowed &= lattice.place[:, number] == 0
        if (axis.axis, dim) in fixed:
            allowed &= lattice.extent[:, number] == fixed[axis.axis, dim]
    found = np.nonzero(allowed)[0]
    if not len(found):
        raise InfeasibleError(
            f"what is fixed along the axis {axis.axis!r} cannot run there or exceeds its {axis.size}"
        )
    return found


def _orders(
    device: SpatialAccelerator, dims: tuple[str, ...], free: Flags, fixed: Fixed
) -> tuple[Integers, Integers]:
    """Orders of temporal loops that are worth a look, innermost first, by level."""
    every: dict[tuple[int, ...], None] = {}
    for first in permutations(range(3)):
        every[tuple(sorted(range(len(dims)), key=lambda d: tuple(not free[o, d] for o in first)))] = None
    usual = [list(order) for order in every]
    table = np.zeros((len(device.levels), len(usual), len(dims)), np.int64)
    counts = np.full(len(device.levels), len(usual))
    for number, memory in enumerate(device.levels):
        own = usual
        if memory.name in fixed.order:
            said = [dims.index(dim) for dim in reversed(fixed.order[memory.name]) if dim in dims]
            own = [said + [d for d in range(len(dims)) if d not in said]]
            counts[number] = 1
        table[number, : len(own)] = own
    return table, counts


def _check_fixed(device: SpatialAccelerator, layer: Einsum, fixed: Fixed) -> None:
    levels = [memory.name for memory in device.levels]
    axes = [axis.axis for memory in device.levels for axis in memory.fanout]
    named: list[tuple[str, list[str], str, tuple[str, ...]]] = []
    named += [("level", levels, name, (dim,)) for name, dim in fixed.temporal]
    named += [("axis", axes, name, (dim,)) for name, dim in fixed.spatial]
    named += [("level", levels, name, order) for name, order in fixed.order.items()]
    for what, known, name, mentioned in named:
        if name not in known:
            raise bad_input(
                f"{device.name} has no {what} {name!r}", path="--fix", suggestion=nearest(name, known)
            )
        for dim in mentioned:
            if dim not in layer.sizes:
                near = nearest(dim, layer.sizes)
                raise bad_input(f"{dim!r} is no dim of {layer.name}", path="--fix", suggestion=near)
    for (name, dim), count in (*fixed.temporal.items(), *fixed.spatial.items()):
        if count < 1 or layer.sizes[dim] % count:
            raise bad_input(f"{count} does not divide {dim} = {layer.sizes[dim]}", path=f"--fix {name}.{dim}")
