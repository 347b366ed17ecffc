"""A chain of layers run depth first: tile by tile of the last layer's output, what lies between stays on chip.

For each tile of the last output every layer of the group makes, in turn, the part of its own output that is still
needed; the tiles between two layers live whole in the outermost level on chip, and never cross to the level outside it.
Along an axis with windows, neighbouring tiles need the same rows (the *halo*): they are *kept* on chip, as a line
buffer, or made again. Weights are *resident*, or come again for every tile, whole or in slices of output channels.
A tile of a layer is a layer itself, with the home of all its operands in that level: its loop nest inside is free.

Axes are independent of one another: what a layer makes of an axis does not depend on the tile of another axis. So
words are products of sums along the axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import HOME, OPERANDS, Operand
from simulator.accelerator.loop_nest.evaluate import Evaluation
from workloads.einsum import Einsum

__all__ = [
    "Chain",
    "ChainLayer",
    "FusedCost",
    "FusedProgram",
    "FusedTiling",
    "Side",
    "fused_cost",
    "fused_program",
    "inner_device",
    "least_outside_bytes",
]

Lengths = tuple[int, ...]


class Side(NamedTuple):
    """An axis of a layer's output that tiles cut.

    Output ``x`` needs ``reach`` inputs from ``step * x - before`` on; each is ``pool`` neighbours of what the layer
    before makes (a pool whose windows do not overlap).
    """

    dim: str
    size: int
    step: int = 1
    reach: int = 1
    before: int = 0
    pool: int = 1


@dataclass(frozen=True)
class ChainLayer:
    """A layer of a chain, and its sides along the axes of the chain."""

    layer: Einsum
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class Chain:
    """Layers of which each reads what the one before it makes as its I; axes from the outermost loop inwards."""

    layers: tuple[ChainLayer, ...]

    def part(self, first: int, beyond: int) -> Chain:
        """The chain of some of its layers."""
        return Chain(self.layers[first:beyond])


@dataclass(frozen=True, slots=True)
class FusedTiling:
    """How a group runs: the tile of the last output and whether halos are kept, by axis; by layer whether weights are
    resident, and in how many slices they come otherwise.
    """

    tile: tuple[int, ...]
    keeps: tuple[bool, ...]
    resident: tuple[bool, ...]
    slices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Along:
    """What a group does along one axis; ``made`` and the like by buffer: the group's input, and each layer's output."""

    lengths: tuple[Mapping[int, int], ...]
    """By layer: how often it makes a stretch of a length."""
    made: tuple[int, ...]
    widest_made: tuple[int, ...]
    needed: tuple[int, ...]
    """The longest stretch that a reader wants at once."""
    kept: tuple[int, ...]
    """The longest stretch that is wanted again by a later tile, and kept."""
    whole: tuple[int, ...]
    """All that is ever wanted."""


@lru_cache(maxsize=65536)
def _along(sides: tuple[Side, ...], tile: int, keep: bool) -> _Along:
    count = len(sides)
    lengths: list[Counter[int]] = [Counter() for _ in sides]
    total, widest = [0] * (count + 1), [0] * (count + 1)
    needed, kept = [0] * count, [0] * count
    low: list[int | None] = [None] * count
    end: list[int | None] = [None] * (count + 1)
    for start in range(0, sides[-1].size, tile):
        made = (start, min(start + tile, sides[-1].size))
        for number in range(count - 1, -1, -1):
            length = made[1] - made[0]
            lengths[number][length] += 1
            total[number + 1] += length
            widest[number + 1] = max(widest[number + 1], length)
            wanted = _wanted(sides, number, made)
            done = end[number]
            needed[number] = max(needed[number], wanted[1] - wanted[0])
            if low[number] is None:
                low[number] = wanted[0]
            begin = wanted[0]
            if keep and done is not None:
                kept[number] = max(kept[number], min(done, wanted[1]) - begin)
                begin = max(begin, done)
            end[number] = max(wanted[1], done) if done is not None else wanted[1]
            if begin >= wanted[1]:
                break
            pool = sides[number].pool if number else 1
            made = (begin * pool, wanted[1] * pool)
        else:
            total[0] += made[1] - made[0]
            widest[0] = max(widest[0], made[1] - made[0])
    whole = tuple((end[b] or 0) - (low[b] or 0) for b in range(count))
    return _Along(
        tuple(lengths), tuple(total), tuple(widest), tuple(needed), tuple(max(0, k) for k in kept), whole
    )


def _wanted(sides: Sequence[Side], number: int, made: tuple[int, int]) -> tuple[int, int]:
    """What a layer reads to make a stretch; of a layer before it no more than that layer makes."""
    side = sides[number]
    begin, beyond = made[0] * side.step - side.before, (made[1] - 1) * side.step - side.before + side.reach
    if number:
        begin, beyond = max(begin, 0), min(beyond, sides[number - 1].size // side.pool)
    return begin, max(begin, beyond)


@dataclass(frozen=True)
class FusedProgram:
    """What a group moves and holds under a tiling, whatever runs inside the level that it lives in.

    ``pieces``: by layer, the tiles that it makes as layers of their own, and how often each. ``weights``: words that
    come from outside by layer. ``between``: words of each intermediate that its layer makes. ``held``: bytes in the
    level by layer at work, of I, W and O. ``macs``: multiply-accumulates, those done again included.
    """

    chain: Chain
    tiling: FusedTiling
    pieces: tuple[tuple[tuple[Einsum, int], ...], ...]
    inputs: int
    outputs: int
    weights: tuple[int, ...]
    between: tuple[int, ...]
    held: tuple[Mapping[Operand, float], ...]
    macs: int


def fused_program(chain: Chain, tiling: FusedTiling, device: SpatialAccelerator) -> FusedProgram:
    """The program of a group of layers; ``InputError`` for a tiling of another number of axes or layers."""
    layers, axes = len(chain.layers), len(chain.layers[0].sides)
    if (len(tiling.tile), len(tiling.keeps)) != (axes, axes) or (
        len(tiling.resident), len(tiling.slices)
    ) != (layers, layers):  # fmt: skip
        raise bad_input(f"expected {axes} axes and {layers} layers", path="tiling")
    if any(n > 1 and not slice_dim(item.layer) for n, item in zip(tiling.slices, chain.layers, strict=True)):
        raise bad_input("found slices of weights without output channels", path="tiling")
    runs = tuple(
        _along(tuple(item.sides[axis] for item in chain.layers), tiling.tile[axis], tiling.keeps[axis])
        for axis in range(axes)
    )
    pieces, weights, between, macs = [], [], [], 0
    for number, item in enumerate(chain.layers):
        shapes = [run.lengths[number].items() for run in runs]
        own, loaded = [], 0
        for chosen in product(*shapes):
            times = prod(count for _, count in chosen)
            whole = _cut(item, tuple(length for length, _ in chosen))
            slices = 1 if tiling.resident[number] else tiling.slices[number]
            own.append((_sliced(whole, slices), times * slices))
            loaded += times * whole.words("W", whole.sizes)
            macs += times * whole.macs
        pieces.append(tuple(own))
        weights.append(item.layer.words("W", item.layer.sizes) if tiling.resident[number] else loaded)
        between.append(_apart(item, "O") * prod(run.made[number + 1] for run in runs))
    return FusedProgram(
        chain, tiling, tuple(pieces), _apart(chain.layers[0], "I") * prod(run.made[0] for run in runs),
        between[-1], tuple(weights), tuple(between[:-1]), _held(chain, tiling, runs, device), macs,
    )  # fmt: skip


def _cut(item: ChainLayer, lengths: Lengths) -> Einsum:
    cut = {side.dim: length for side, length in zip(item.sides, lengths, strict=True)}
    return replace(item.layer, sizes={**item.layer.sizes, **cut})


def slice_dim(layer: Einsum) -> str:
    """The dim of output channels, in which weights can come in slices: one that indexes W and O and not I; or ""."""
    found = layer.indexed_by("W") & layer.indexed_by("O") - layer.indexed_by("I")
    return next((dim for dim in layer.sizes if dim in found), "")


def _sliced(layer: Einsum, slices: int) -> Einsum:
    dim = slice_dim(layer)
    if slices == 1:
        return layer
    return replace(layer, sizes={**layer.sizes, dim: layer.sizes[dim] // slices})


def _apart(item: ChainLayer, operand: Operand) -> int:
    """Words of an operand per place of the tiled axes."""
    tiled = {side.dim for side in item.sides}
    return prod(
        1 + sum(term.step * (item.layer.sizes[term.dim] - 1) for term in axis)
        for axis in item.layer.operands[operand]
        if not tiled & {term.dim for term in axis}
    )


def _held(
    chain: Chain, tiling: FusedTiling, runs: Sequence[_Along], device: SpatialAccelerator
) -> tuple[Mapping[Operand, float], ...]:
    """Bytes in the level while each layer is at work.

    The tile that it reads, with the halo; of all other tiles what is kept for later; its own new output; the resident
    weights, and a slice of its own where they are not.
    """
    width = device.word_bits
    buffers = range(len(chain.layers))
    resting = [_apart(chain.layers[b], "I") * _places(runs, b, False) for b in buffers]
    stays = [
        item.layer.words("W", _cut(item, tuple(run.widest_made[n + 1] for run in runs)).sizes)
        for n, item in enumerate(chain.layers)
    ]
    always = sum(words for words, resident in zip(stays, tiling.resident, strict=True) if resident)
    held = []
    for number, item in enumerate(chain.layers):
        inputs = sum(resting) - resting[number] + _apart(item, "I") * _places(runs, number, True)
        made = _apart(item, "O") * prod(run.widest_made[number + 1] for run in runs)
        passing = 0 if tiling.resident[number] else stays[number] // tiling.slices[number]
        sizes: dict[Operand, int] = {"I": inputs, "W": always + passing, "O": made}
        held.append({operand: sizes[operand] * width.bytes_of(operand) for operand in OPERANDS})
    return tuple(held)


def _places(runs: Sequence[_Along], buffer: int, at_work: bool) -> int:
    """Places along the axes that a buffer holds: lines kept over the inner axes' whole length, and inside the rest."""
    places = 1 if at_work else 0
    beyond = 1
    for run in reversed(runs):
        kept, needed = run.kept[buffer], run.needed[buffer]
        places = kept * beyond + (needed - kept) * places
        beyond *= run.whole[buffer]
    return places


def least_outside_bytes(chain: Chain, device: SpatialAccelerator) -> float:
    """Bytes that cross from and to the outermost level at least: what of the input is wanted, the output, and all
    weights, once each.
    """
    width = device.word_bits
    first, last = chain.layers[0], chain.layers[-1]
    places = 1
    for axis in range(len(first.sides)):
        sides = [item.sides[axis] for item in chain.layers]
        wanted = set(range(sides[-1].size))
        for number in range(len(sides) - 1, -1, -1):
            wanted = {x for made in wanted for x in range(*_wanted(sides, number, (made, made + 1)))}
            if number:
                pool = sides[number].pool
                wanted = {x * pool + tap for x in wanted for tap in range(pool)}
        places *= len(wanted)
    weights = sum(item.layer.words("W", item.layer.sizes) for item in chain.layers)
    return (
        places * _apart(first, "I") * width.bytes_of("I")
        + weights * width.bytes_of("W")
        + last.layer.words("O", last.layer.sizes) * width.bytes_of("O")
    )


def inner_device(device: SpatialAccelerator) -> SpatialAccelerator:
    """The device from the level inwards in which tiles between layers live, as the home of all operands."""
    home = device.levels[HOME].model_copy(update={"capacity": None, "capacities": None})
    return device.model_copy(update={"levels": (home, *device.levels[HOME + 1 :])})


@dataclass(frozen=True, slots=True)
class FusedCost:
    """What a group costs: joules, unrounded cycles, and bytes that cross to and from the outermost level."""

    energy_j: float
    latency_cycles: float
    outside_bytes: float

    def times(self, count: int) -> FusedCost:
        """So often."""
        return FusedCost(count * self.energy_j, count * self.latency_cycles, count * self.outside_bytes)

    def plus(self, other: FusedCost) -> FusedCost:
        """One after the other."""
        return FusedCost(
            self.energy_j + other.energy_j, self.latency_cycles + other.latency_cycles,
            self.outside_bytes + other.outside_bytes,
        )  # fmt: skip


def moved_cost(
    program: FusedProgram, device: SpatialAccelerator
) -> tuple[float, FusedCost, tuple[float, float]]:
    """What a group costs but for its pieces: joules; the same with the cycles of both levels' ports, whichever are
    more; and bytes that the level on chip hands out and takes in.
    """
    outside, home, width = device.levels[0], device.levels[HOME], device.word_bits
    into = program.inputs * width.bytes_of("I") + sum(program.weights) * width.bytes_of("W")
    out = program.outputs * width.bytes_of("O")
    energy = into * (outside.read_energy + home.write_energy) + out * (
        home.read_energy + outside.write_energy
    )
    read, written = out, into
    if home.capacity is None:
        # From the file of outputs into that of inputs.
        read += sum(program.between) * width.bytes_of("O")
        written += sum(program.between) * width.bytes_of("I")
        energy += sum(program.between) * (
            width.bytes_of("O") * home.read_energy + width.bytes_of("I") * home.write_energy
        )
    cycles = max(outside.clocks(into, out), home.clocks(read, written))
    return energy, FusedCost(energy, cycles, into + out), (read, written)


def fused_cost(
    program: FusedProgram, device: SpatialAccelerator, inside: Sequence[Sequence[Evaluation]]
) -> FusedCost:
    """The cost of a group whose pieces run as given.

    ``inside``: by layer and piece, its cost on :func:`inner_device`. Layers run one after another on the same units;
    what crosses from and to the outside does so meanwhile, so that the group lasts as long as the pieces in a row, or
    the ports of the outermost level, or those of the level on chip. Raises ``InputError`` where tiles do not fit.
    """
    for number, held in enumerate(program.held):
        overflow = device.levels[HOME].overflow(held)
        if overflow:
            raise bad_input(f"{program.chain.layers[number].layer.name}: {overflow}", path="tiling")
    energy, moved, (read, written) = moved_cost(program, device)
    cycles = 0.0
    for own, costs in zip(program.pieces, inside, strict=True):
        for (_, times), cost in zip(own, costs, strict=True):
            energy += times * cost.energy_j
            cycles += times * cost.latency_cycles
            read += times * cost.levels[0].busiest_read_bytes
            written += times * cost.levels[0].busiest_write_bytes
    ports = max(cycles, device.levels[HOME].clocks(read, written))
    if device.levels[HOME].buffering == "single":
        return FusedCost(energy, moved.latency_cycles + ports, moved.outside_bytes)
    return FusedCost(energy, max(moved.latency_cycles, ports), moved.outside_bytes)
