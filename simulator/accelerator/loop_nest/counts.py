"""Words that a mapping moves, by level and operand, in closed form and exactly, ragged edges included.

*Tile*: the bounding box of the words that the loops at a level and inside touch, the loops further out being fixed.
*Label*: the indices of the loops outside over dims that index the operand; same label, same tile. All units run in
lockstep. At each step of the temporal loops outside a level:

- An instance whose label differs from what it holds takes the whole new tile of I or W: ``fills``. Its parent, the
  next level outwards that holds the operand, reads it once per *group* (``reads_down``): the instances under one
  parent that differ only along multicast axes, and only in loops over dims that do not index the operand. A tile
  stays across such loops, also when they belong to levels further out than the parent.
- O goes up when its label changes and at the end: ``reads_up``, and ``updates`` of the parent once per group along
  reducing axes. A tile that comes back brings its partial sums down: ``reads_down`` and ``fills``; the first visit
  is free.
- A unit reads I and W from the innermost holder at every multiply-accumulate and adds its product there, once per
  group; the first sum of a word reads nothing.

An instance without work in a step keeps what it holds. Instead of running the steps, their number is counted dim by
dim: the loops of a dim are digits of its index, and of the prefixes of digits only the last one (equal to the prefix
of size - 1) can be cut short. So a few states per loop suffice, whatever the counts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from math import prod
from typing import Final, Literal, NamedTuple

from hw_configs.device import SpatialAccelerator
from hw_configs.spatial import OPERANDS, Operand
from simulator.accelerator.loop_nest.nest import Loop, LoopNest
from workloads.einsum import Einsum

__all__ = ["Counts", "Traffic", "active_steps", "count_words", "instances_used"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Words of one operand at one level, over all its instances, or of one instance."""

    reads_down: int = 0
    fills: int = 0
    updates: int = 0
    reads_up: int = 0

    @property
    def reads(self) -> int:
        """Words that the level hands out."""
        return self.reads_down + self.reads_up

    @property
    def writes(self) -> int:
        """Words that the level takes in."""
        return self.fills + self.updates

    def plus(self, **words: int) -> Traffic:
        """The same with some added."""
        names = ("reads_down", "fills", "updates", "reads_up")
        return Traffic(**{name: getattr(self, name) + words.get(name, 0) for name in names})


Counts = Mapping[tuple[int, Operand], Traffic]
"""By level and operand, for the operands that a level holds."""

Side = Literal["<", "=", ">"]
"""Where a spatial digit stands against that of size - 1."""


class _Visits(NamedTuple):
    """What the loops from some point inwards do to an instance's tile.

    ``taken`` words in all tiles taken one after another, ``distinct`` words in different tiles, ``single`` whether it
    is one tile throughout; ``active`` whether there is work at all.
    """

    taken: int
    distinct: int
    single: bool
    active: bool


_IDLE: Final = _Visits(0, 0, True, False)


@dataclass(frozen=True)
class _Nest:
    """A mapping's loops with the digits of size - 1 in each, and the dims that are cut short somewhere."""

    loops: tuple[Loop, ...]
    last: tuple[int, ...]
    ragged: frozenset[str]
    layer: Einsum
    device: SpatialAccelerator

    def shared(self, operand: Operand, first: int, beyond: int) -> frozenset[int]:
        """Spatial loops of levels from ``first`` up to ``beyond`` whose children take part in one read or sum."""
        indexed = self.layer.indexed_by(operand)
        axes = {axis.axis: axis for memory in self.device.levels for axis in memory.fanout}
        return frozenset(
            index
            for index, loop in enumerate(self.loops)
            if loop.axis and first <= loop.level < beyond and loop.dim not in indexed
            and operand in (axes[loop.axis].reduce if operand == "O" else axes[loop.axis].multicast)
        )  # fmt: skip

    def outside(self, level: int) -> frozenset[int]:
        """Spatial loops outside a level: those that tell its instances apart."""
        return frozenset(i for i, loop in enumerate(self.loops) if loop.axis and loop.level < level)


def count_words(
    nest: LoopNest, device: SpatialAccelerator, layer: Einsum, *, busiest: bool = False
) -> Counts:
    """The words of every level and operand; with ``busiest`` those of one instance, the one that has most to do.

    That is the first one: no other instance has work in a step in which the first has none. The mapping has to cover
    the layer (:func:`~simulator.accelerator.loop_nest.nest.breach`).
    """
    written = _written(nest, device, layer)
    found: dict[tuple[int, Operand], Traffic] = {}
    for operand in OPERANDS:
        holders = [level for level, memory in enumerate(device.levels) if operand in memory.holds]
        for level in holders:
            found[level, operand] = Traffic()
        for parent, child in pairwise(holders):
            shared = written.shared(operand, parent, child)
            own = _tiles(written, operand, child, written.outside(child) if busiest else frozenset())
            group = _tiles(
                written, operand, child, shared | (written.outside(parent) if busiest else frozenset())
            )
            up, down = found[parent, operand], found[child, operand]
            if operand == "O":
                up = up.plus(updates=group.taken, reads_down=group.taken - group.distinct)
                down = down.plus(reads_up=own.taken, fills=own.taken - own.distinct)
            else:
                up, down = up.plus(reads_down=group.taken), down.plus(fills=own.taken)
            found[parent, operand], found[child, operand] = up, down
        inner = holders[-1]
        shared = written.shared(operand, inner, len(device.levels))
        still = shared | (written.outside(inner) if busiest else frozenset())
        accesses = prod(_values(written, dim, still) for dim in layer.sizes)
        if operand == "O":
            first = _first_sums(written, inner, still, busiest)
            found[inner, operand] = found[inner, operand].plus(updates=accesses, reads_down=accesses - first)
        else:
            found[inner, operand] = found[inner, operand].plus(reads_down=accesses)
    return found


def active_steps(nest: LoopNest, device: SpatialAccelerator, layer: Einsum) -> int:
    """Steps of all temporal loops in which at least one unit works: those of the first unit."""
    written = _written(nest, device, layer)
    everywhere = written.outside(len(device.levels))
    return prod(_values(written, dim, everywhere) for dim in layer.sizes)


def instances_used(nest: LoopNest, device: SpatialAccelerator, layer: Einsum) -> list[int]:
    """Instances of each level that ever have work, from the outermost level to the units."""
    written = _written(nest, device, layer)
    everywhere = written.outside(len(device.levels))
    return [
        prod(_instances(written, dim, everywhere - written.outside(level)) for dim in layer.sizes)
        for level in range(len(device.levels) + 1)
    ]


def _written(nest: LoopNest, device: SpatialAccelerator, layer: Einsum) -> _Nest:
    loops = nest.loops()
    steps = [0] * len(loops)
    covered = dict.fromkeys(layer.sizes, 1)
    for index in range(len(loops) - 1, -1, -1):
        steps[index] = covered[loops[index].dim]
        covered[loops[index].dim] *= loops[index].count
    rest = {dim: size - 1 for dim, size in layer.sizes.items()}
    last = []
    for loop, step in zip(loops, steps, strict=True):
        digit, rest[loop.dim] = divmod(rest[loop.dim], step)
        last.append(digit)
    ragged = frozenset(dim for dim, size in layer.sizes.items() if covered[dim] != size)
    return _Nest(loops, tuple(last), ragged, layer, device)


def _tiles(nest: _Nest, operand: Operand, level: int, still: frozenset[int]) -> _Visits:
    """Words taken and distinct words, summed over the instances of a level.

    ``still`` are spatial loops of which only the first iteration counts. Instances are summed by classes: those
    whose digits stand alike against the last index run alike.
    """
    outside = [index for index, loop in enumerate(nest.loops) if loop.level < level]
    spatial = [index for index in outside if nest.loops[index].axis]
    alike = prod(
        nest.loops[index].count for index in spatial
        if index not in still and nest.loops[index].dim not in nest.ragged
    )  # fmt: skip
    if not nest.ragged:
        return _alike(nest, operand, level, outside, alike)
    ragged = sorted(nest.ragged)
    classes = [
        list(_classes(nest, [i for i in spatial if nest.loops[i].dim == dim], still)) for dim in ragged
    ]
    words = _tile_words(nest, operand, level)
    taken = distinct = 0
    for chosen in product(*classes):
        sides: dict[int, Side] = {}
        weight = alike
        for some, count in chosen:
            sides |= some
            weight *= count
        visits = _visits(nest, outside, sides, nest.layer.indexed_by(operand), words)
        taken += weight * visits.taken
        distinct += weight * visits.distinct
    return _Visits(taken, distinct, False, True)


def _alike(nest: _Nest, operand: Operand, level: int, outside: Sequence[int], instances: int) -> _Visits:
    """The same where no tile is cut short: every loop of time outside takes the tile anew, but for those innermost."""
    indexed = nest.layer.indexed_by(operand)
    taken = distinct = _tile_words(nest, operand, level)(frozenset()) * instances
    stays = True
    for index in reversed(outside):
        loop = nest.loops[index]
        if loop.axis:
            continue
        if loop.dim in indexed:
            stays = False
            distinct *= loop.count
        if not stays:
            taken *= loop.count
    return _Visits(taken, distinct, False, True)


def _classes(
    nest: _Nest, spatial: Sequence[int], still: frozenset[int]
) -> Iterator[tuple[dict[int, Side], int]]:
    """How the spatial digits of a dim can stand against its last index, and how many combinations do.

    Only the first digit that differs matters: after it nothing is cut short (below) or nothing is left (above).
    """
    equal: dict[int, Side] = {}
    for number, index in enumerate(spatial):
        rest = prod(nest.loops[i].count for i in spatial[number + 1 :] if i not in still)
        below = min(nest.last[index], 1) if index in still else nest.last[index]
        above = 0 if index in still else nest.loops[index].count - 1 - nest.last[index]
        if below:
            yield {**equal, index: "<"}, below * rest
        if above:
            yield {**equal, index: ">"}, above * rest
        if index in still and nest.last[index]:
            return
        equal[index] = "="
    yield equal, 1


def _tile_words(nest: _Nest, operand: Operand, level: int) -> Callable[[frozenset[str]], int]:
    """Words of a tile, given the dims in which it is the last one and so perhaps cut short."""
    inside = dict.fromkeys(nest.layer.sizes, 1)
    for loop in nest.loops:
        if loop.level >= level:
            inside[loop.dim] *= loop.count

    def words(at_end: frozenset[str]) -> int:
        return nest.layer.words(
            operand,
            {
                dim: (size - 1) % inside[dim] + 1 if dim in at_end else min(inside[dim], size)
                for dim, size in nest.layer.sizes.items()
            },
        )

    return words


def _visits(
    nest: _Nest,
    outside: Sequence[int],
    sides: Mapping[int, Side],
    indexed: frozenset[str],
    words: Callable[[frozenset[str]], int],
) -> _Visits:
    """The tiles of one instance over the loops outside it, from the innermost loop outwards."""

    @cache
    def inwards(position: int, at_end: frozenset[str]) -> _Visits:
        if position == len(outside):
            tile = words(at_end)
            return _Visits(tile, tile, True, True)
        index = outside[position]
        loop, last = nest.loops[index], nest.last[index]
        if loop.axis:
            side = sides.get(index) if loop.dim in at_end else None
            if side == ">":
                return _IDLE
            return inwards(position + 1, at_end - {loop.dim} if side == "<" else at_end)
        if loop.dim in at_end:
            parts = [(1, inwards(position + 1, at_end))]
            if last:
                parts.insert(0, (last, inwards(position + 1, at_end - {loop.dim})))
        else:
            parts = [(loop.count, inwards(position + 1, at_end))]
        return _in_turn([part for part in parts if part[1].active], loop.dim in indexed)

    return inwards(0, nest.ragged)


def _in_turn(parts: Sequence[tuple[int, _Visits]], new_label: bool) -> _Visits:
    """Iterations of a loop one after another; between two of them a tile stays if nothing changed its label."""
    if not parts:
        return _IDLE
    iterations = sum(count for count, _ in parts)
    taken = sum(count * visits.taken for count, visits in parts)
    first = parts[0][1]
    if new_label:
        distinct = sum(count * visits.distinct for count, visits in parts)
        return _Visits(taken, distinct, iterations == 1 and first.single, True)
    if first.single:
        taken -= (iterations - 1) * first.taken
    return _Visits(taken, first.distinct, first.single, True)


def _values(nest: _Nest, dim: str, still: frozenset[int]) -> int:
    """Valid indices of a dim in which the spatial loops ``still`` are at their first iteration."""
    mine = [index for index, loop in enumerate(nest.loops) if loop.dim == dim]
    count = 0
    for number, index in enumerate(mine):
        rest = prod(nest.loops[i].count for i in mine[number + 1 :] if i not in still)
        if index in still and nest.last[index]:
            return count + rest
        if index not in still:
            count += nest.last[index] * rest
    return count + 1


def _first_sums(nest: _Nest, level: int, still: frozenset[int], busiest: bool) -> int:
    """Words that a holder of O starts a sum of: those of each dim that indexes O, and over the others its instances.

    For the busiest instance alone, the words of the dims that its own loops and those of time reach.
    """
    indexed = nest.layer.indexed_by("O")
    first = 1
    for dim, size in nest.layer.sizes.items():
        if dim in indexed:
            first *= _values(nest, dim, nest.outside(level)) if busiest else size
        else:
            first *= _instances(nest, dim, still)
    return first


def _instances(nest: _Nest, dim: str, still: frozenset[int]) -> int:
    """Combinations of a dim's spatial digits, ``still`` ones aside, with which some index is valid."""
    mine = [index for index, loop in enumerate(nest.loops) if loop.dim == dim]
    apart = {index for index in mine if nest.loops[index].axis and index not in still}
    count = 0
    for number, index in enumerate(mine):
        rest = prod(nest.loops[i].count for i in mine[number + 1 :] if i in apart)
        if index not in apart and nest.last[index]:
            return count + rest
        if index in apart:
            count += nest.last[index] * rest
    return count + 1
