"""What many mappings of one layer cost, millions of them a second, for searches that sample.

The rules are those of :mod:`simulator.accelerator.loop_nest.counts`, for exact factors: every dim's counts multiply to
its size, so that all instances of a level do the same and each count is a quotient of products. Ragged mappings are
not legal here; :func:`~simulator.accelerator.loop_nest.evaluate.evaluate` prices those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled, inlined
from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import OPERANDS
from simulator.accelerator.loop_nest.nest import LoopNest, axis_allows
from simulator.accelerator.loop_nest.zeros import all_dense
from workloads.einsum import Einsum

__all__ = ["MappingTable", "Prices", "prices", "tabled"]

Counts = NDArray[np.int32]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_O: Final = 2
"""Index of the outputs among the operands."""
_UNBOUNDED: Final = np.inf


@dataclass(frozen=True, slots=True)
class MappingTable:
    """N mappings of a layer with D dims on L levels with A axes in all, in the order of the device and the layer.

    ``temporal`` (N, L, D): counts. ``order`` (N, L, D): the dims of each level, outer to inner. ``spatial`` (N, A, D):
    counts along each axis.
    """

    temporal: Counts
    order: Counts
    spatial: Counts


@dataclass(frozen=True, slots=True)
class Prices:
    """By mapping: joules, unrounded cycles (infinite where not legal), and whether it is legal."""

    energy_j: Floats
    latency_cycles: Floats
    legal: Flags


class _Machine(NamedTuple):
    """A device and a layer as arrays."""

    size: Integers
    """(D,)."""
    free: Flags
    """(3, D): whether a dim leaves an operand's index alone."""
    term: Integers
    """(T, 2): dim and step of each term of an operand's axes."""
    axis_end: Integers
    """(X,): past the last term of each operand axis."""
    operand_end: Integers
    """(3,): past the last axis of each operand."""
    holds: Flags
    """(L, 3)."""
    capacity: Floats
    """(L, 4): bytes of I, W, O and of all together."""
    energy: Floats
    """(L, 3, 2): joules per word read and written."""
    width: Floats
    """(L, 2): bytes per clock read and written."""
    one_port: Flags
    """(L,): whether reads and writes take turns."""
    single: Flags
    """(L,): whether a level is filled between runs of its children."""
    word_bytes: Floats
    level: Integers
    """(A,): above whose children an axis lies."""
    along: Integers
    """(A,): children along it."""
    allowed: Flags
    """(A, D)."""
    shares: Flags
    """(A, 3): whether children share a read or a sum."""
    arithmetic_j: float


class _Room(NamedTuple):
    """Scratch of one mapping."""

    extent: Floats
    """(L + 1, D): how far the loops of a level and inside reach."""
    spread: Floats
    """(L, 4): what a level's spread shares of each operand, and its children at work."""
    sums: Floats
    """(L,): spatial iterations of a level over dims that outputs are summed over."""
    port: Floats
    """(L, 2): bytes read and written, all instances."""
    instances: Floats
    """(L + 1,)."""


def prices(device: SpatialAccelerator, layer: Einsum, table: MappingTable) -> Prices:
    """The cost of every mapping of a table; those that break a rule are not legal.

    Raises ``InputError`` for arrays of other shapes.
    """
    if not all_dense(device, layer):
        raise bad_input("many mappings at once are priced of operands without zeros", path="density")
    levels, dims = len(device.levels), len(layer.sizes)
    axes = sum(len(memory.fanout) for memory in device.levels)
    count = len(table.temporal)
    expected = ((count, levels, dims), (count, levels, dims), (count, axes, dims))
    for name, shape in zip(("temporal", "order", "spatial"), expected, strict=True):
        found = getattr(table, name).shape
        if found != shape:
            raise bad_input(f"found an array of {found}; expected {shape}", path=name)
    if not (np.sort(table.order, axis=2) == np.arange(dims)).all():
        raise bad_input("expected every dim once at each level", path="order")
    machine = _machine(device, layer)
    found_energy, cycles = np.full(count, np.inf), np.full(count, np.inf)
    _price(
        machine,
        *(np.ascontiguousarray(part, np.int32) for part in (table.temporal, table.order, table.spatial)),
        found_energy,
        cycles,
    )
    return Prices(found_energy, cycles, np.isfinite(cycles))


def tabled(nests: Sequence[LoopNest], device: SpatialAccelerator, layer: Einsum) -> MappingTable:
    """Mappings as a table. A dim that has several temporal loops at one level is refused: ``InputError``."""
    dims = {dim: number for number, dim in enumerate(layer.sizes)}
    axes = [axis.axis for memory in device.levels for axis in memory.fanout]
    shape = (len(nests), len(device.levels), len(dims))
    temporal, order = np.ones(shape, np.int32), np.zeros(shape, np.int32)
    spatial = np.ones((len(nests), len(axes), len(dims)), np.int32)
    for row, nest in enumerate(nests):
        for number, level in enumerate(nest.levels):
            own = [(dims[dim], count) for dim, count in level.temporal if count > 1]
            first = [d for d, _ in own]
            if len(set(first)) < len(first):
                raise bad_input("found several loops over one dim at a level", path=f"mappings[{row}]")
            for d, count in own:
                temporal[row, number, d] = count
            order[row, number] = first + [d for d in range(len(dims)) if d not in first]
            for spread in level.spatial:
                spatial[row, axes.index(spread.axis), dims[spread.dim]] *= spread.count
    return MappingTable(temporal, order, spatial)


def _machine(device: SpatialAccelerator, layer: Einsum) -> _Machine:
    dims = list(layer.sizes)
    term, axis_end, operand_end = [], [], []
    for operand in OPERANDS:
        for axis in layer.operands[operand]:
            term += [(dims.index(found.dim), found.step) for found in axis]
            axis_end.append(len(term))
        operand_end.append(len(axis_end))
    width = np.array([device.word_bits.bytes_of(operand) for operand in OPERANDS])
    capacity = np.full((len(device.levels), 4), _UNBOUNDED)
    for number, memory in enumerate(device.levels):
        for operand, size in (memory.capacities or {}).items():
            capacity[number, OPERANDS.index(operand)] = size / memory.tile_copies
        if memory.capacity is not None:
            capacity[number, 3] = memory.capacity / memory.tile_copies
    axes = [(number, axis) for number, memory in enumerate(device.levels) for axis in memory.fanout]
    indexed = [layer.indexed_by(operand) for operand in OPERANDS]
    return _Machine(
        np.array([layer.sizes[dim] for dim in dims]),
        np.array([[dim not in own for dim in dims] for own in indexed]),
        np.array(term or [(0, 0)], np.int64), np.array(axis_end, np.int64), np.array(operand_end, np.int64),
        np.array([[operand in memory.holds for operand in OPERANDS] for memory in device.levels]),
        capacity,
        np.array([[[m.read_energy * w, m.write_energy * w] for w in width] for m in device.levels]),
        np.array([[memory.read_width, memory.write_width] for memory in device.levels]),
        np.array([memory.one_port for memory in device.levels]),
        np.array([bool(n) and memory.buffering == "single" for n, memory in enumerate(device.levels)]),
        width,
        np.array([number for number, _ in axes], np.int64), np.array([axis.size for _, axis in axes], np.int64),
        np.array([[axis_allows(axis, dim, layer) for dim in dims] for _, axis in axes]).reshape(len(axes), len(dims)),
        np.array([[o in (*axis.multicast, *axis.reduce) for o in OPERANDS] for _, axis in axes]).reshape(len(axes), 3),
        layer.macs * device.mac_energy,
    )  # fmt: skip


@compiled
def _price(
    machine: _Machine, temporal: Counts, order: Counts, spatial: Counts, energy: Floats, cycles: Floats
) -> None:
    """Fills ``energy`` and ``cycles``; what is not legal stays as it is."""
    levels, dims = temporal.shape[1], temporal.shape[2]
    room = _Room(
        np.ones((levels + 1, dims)), np.ones((levels, 4)), np.ones(levels), np.zeros((levels, 2)),
        np.ones(levels + 1),
    )  # fmt: skip
    for row in range(len(temporal)):
        if not _spread_out(machine, spatial[row], room) or not _fits(machine, temporal[row], room):
            continue
        energy[row] = machine.arithmetic_j + _moved(machine, temporal[row], order[row], room)
        compute = 1.0
        for d in range(dims):
            for level in range(levels):
                compute *= temporal[row, level, d]
        total = longest = 0.0
        for level in range(levels):
            out = room.port[level, 0] / room.instances[level] / machine.width[level, 0]
            into = room.port[level, 1] / room.instances[level] / machine.width[level, 1]
            if machine.single[level]:
                total, longest = total + longest, 0.0
            longest = max(longest, out + into if machine.one_port[level] else max(out, into))
        cycles[row] = total + max(longest, compute)


@inlined
def _spread_out(machine: _Machine, spatial: Counts, room: _Room) -> bool:
    """What lies along the axes, by level; False where it may not or does not fit."""
    levels = len(room.sums)
    for level in range(levels):
        room.sums[level] = 1.0
        for what in range(4):
            room.spread[level, what] = 1.0
        for d in range(len(machine.size)):
            room.extent[level, d] = 1.0
    for axis in range(len(machine.along)):
        level = machine.level[axis]
        children = 1
        for d in range(len(machine.size)):
            count = spatial[axis, d]
            if count == 1:
                continue
            if count < 1 or not machine.allowed[axis, d]:
                return False
            children *= count
            room.extent[level, d] *= count
            room.spread[level, 3] *= count
            if machine.free[_O, d]:
                room.sums[level] *= count
            for operand in range(3):
                if machine.free[operand, d] and machine.shares[axis, operand]:
                    room.spread[level, operand] *= count
        if children > machine.along[axis]:
            return False
    room.instances[0] = 1.0
    for level in range(levels):
        room.instances[level + 1] = room.instances[level] * room.spread[level, 3]
    return True


@inlined
def _words(machine: _Machine, extent: Floats, operand: int) -> float:
    """Words of an operand's tile."""
    words = 1.0
    first = 0 if operand == 0 else machine.operand_end[operand - 1]
    for axis in range(first, machine.operand_end[operand]):
        along = 1.0
        for term in range(0 if axis == 0 else machine.axis_end[axis - 1], machine.axis_end[axis]):
            along += machine.term[term, 1] * (extent[machine.term[term, 0]] - 1.0)
        words *= along
    return words


@inlined
def _fits(machine: _Machine, temporal: Counts, room: _Room) -> bool:
    """The extents of every level; False where counts do not multiply to the sizes or tiles exceed a capacity."""
    levels, dims = len(room.sums), len(machine.size)
    for level in range(levels - 1, -1, -1):
        for d in range(dims):
            room.extent[level, d] *= temporal[level, d] * room.extent[level + 1, d]
    for d in range(dims):
        if room.extent[0, d] != machine.size[d]:
            return False
    for level in range(1, levels):
        held = 0.0
        for operand in range(3):
            if machine.holds[level, operand]:
                own = _words(machine, room.extent[level], operand) * machine.word_bytes[operand]
                if own > machine.capacity[level, operand]:
                    return False
                held += own
        if held > machine.capacity[level, 3]:
            return False
    return True


@inlined
def _stays(machine: _Machine, temporal: Counts, order: Counts, level: int, operand: int) -> float:
    """Iterations at the inner end of the loops outside a level that leave an operand's tile in place."""
    stays = 1.0
    for outer in range(level - 1, -1, -1):
        for position in range(len(machine.size) - 1, -1, -1):
            d = order[outer, position]
            count = temporal[outer, d]
            if count == 1:
                continue
            if not machine.free[operand, d]:
                return stays
            stays *= count
    return stays


@inlined
def _moved(machine: _Machine, temporal: Counts, order: Counts, room: _Room) -> float:
    """Joules of all words; bytes go to the ports."""
    levels, dims = len(room.sums), len(machine.size)
    for level in range(levels):
        room.port[level, 0] = room.port[level, 1] = 0.0
    whole = 1.0
    for d in range(dims):
        whole *= machine.size[d]
    energy = 0.0
    for operand in range(3):
        parent, shared = 0, 1.0
        sums = 1.0
        size = machine.word_bytes[operand]
        for level in range(1, levels + 1):
            shared *= room.spread[level - 1, operand]
            sums *= room.sums[level - 1]
            if level < levels and not machine.holds[level, operand]:
                continue
            if level == levels:
                # Units: one word each, from the innermost holder.
                taken, new = whole, 1.0
                for d in range(dims):
                    if not machine.free[operand, d]:
                        new *= machine.size[d]
                for inner in range(parent):
                    new *= room.sums[inner]
                read = taken / shared
                of_parent = new
            else:
                outside, bound = 1.0, 1.0
                for d in range(dims):
                    times = machine.size[d] / room.extent[level, d]
                    outside *= times
                    if not machine.free[operand, d]:
                        bound *= times
                words = _words(machine, room.extent[level], operand)
                taken = outside * words / _stays(machine, temporal, order, level, operand)
                new = bound * words * sums
                read, of_parent = taken / shared, new / shared
                down, up = taken, 0.0
                if operand == _O:
                    down, up = taken - new, taken
                energy += down * machine.energy[level, operand, 1] + up * machine.energy[level, operand, 0]
                room.port[level, 1] += down * size
                room.port[level, 0] += up * size
            down, up = read, 0.0
            if operand == _O:
                down, up = read - of_parent, read
            energy += down * machine.energy[parent, operand, 0] + up * machine.energy[parent, operand, 1]
            room.port[parent, 0] += down * size
            room.port[parent, 1] += up * size
            parent, shared = level, 1.0
    return energy
