"""A mapping as a nest of loops: at each memory level temporal loops, then spatial ones over its children.

The whole nest reads level 0 temporal, level 0 spatial, level 1 temporal, and so on. The loops of one dim, in nest
order, are digits of a mixed-radix number: the step of a loop is the product of the counts of that dim's loops inside
it. An iteration whose index reaches the dim's size is skipped, so counts may multiply to more than the size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input, nearest
from hw_configs.spatial import Operand, SpatialAxis
from simulator.accelerator.loop_nest.formats import most_held_bytes
from workloads.einsum import Einsum

__all__ = ["Loop", "LoopNest", "NestLevel", "Spread", "axis_allows", "breach", "read_nest"]

MOST_COUNT: Final = 2**31


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop in the whole nest: ``axis`` is "" for a temporal one."""

    dim: str
    count: int
    level: int
    axis: str


@dataclass(frozen=True, slots=True)
class Spread:
    """A spatial loop: ``count`` parts of a dim along an axis."""

    dim: str
    axis: str
    count: int


@dataclass(frozen=True, slots=True)
class NestLevel:
    """The loops of one level: ``temporal`` pairs of dim and count, outer to inner, and what is spread below it."""

    temporal: tuple[tuple[str, int], ...] = ()
    spatial: tuple[Spread, ...] = ()


@dataclass(frozen=True, slots=True)
class LoopNest:
    """A mapping: one :class:`NestLevel` per memory level of the accelerator, in its order."""

    levels: tuple[NestLevel, ...]

    def loops(self) -> tuple[Loop, ...]:
        """Every loop with a count above one, outermost first."""
        found = []
        for number, level in enumerate(self.levels):
            found += [Loop(dim, count, number, "") for dim, count in level.temporal if count > 1]
            found += [Loop(s.dim, s.count, number, s.axis) for s in level.spatial if s.count > 1]
        return tuple(found)

    def covered(self) -> dict[str, int]:
        """Product of the counts of each dim that has loops."""
        counts: dict[str, int] = {}
        for loop in self.loops():
            counts[loop.dim] = counts.get(loop.dim, 1) * loop.count
        return counts

    def to_json(self, device: SpatialAccelerator) -> dict[str, Any]:
        """Plain data, as :func:`read_nest` takes it."""
        return {
            "levels": [
                {
                    "name": memory.name,
                    "temporal": [[dim, count] for dim, count in level.temporal],
                    "spatial": [[s.dim, s.axis, s.count] for s in level.spatial],
                }
                for memory, level in zip(device.levels, self.levels, strict=True)
            ]
        }

    def text(self, device: SpatialAccelerator) -> str:
        """The nest as people draw it, one loop a line.

        Spatial loops read ``for k in 8 along X``.
        """
        lines, depth = [], 0
        for memory, level in zip(device.levels, self.levels, strict=True):
            lines.append(f"{'  ' * depth}{memory.name} [{' '.join(memory.holds)}]")
            for dim, count in level.temporal:
                if count > 1:
                    depth += 1
                    lines.append(f"{'  ' * depth}for {dim.lower()} in {count}")
            for spread in level.spatial:
                if spread.count > 1:
                    depth += 1
                    lines.append(
                        f"{'  ' * depth}for {spread.dim.lower()} in {spread.count} along {spread.axis}"
                    )
        lines.append(f"{'  ' * (depth + 1)}O += I * W")
        return "\n".join(lines)

    def short(self, device: SpatialAccelerator) -> str:
        """The nest on one line: ``DRAM K8 C4 | GB N2 X:M16 | RF``."""
        parts = []
        for memory, level in zip(device.levels, self.levels, strict=True):
            words = [f"{dim}{count}" for dim, count in level.temporal if count > 1]
            words += [
                f"{spread.axis}:{spread.dim}{spread.count}" for spread in level.spatial if spread.count > 1
            ]
            parts.append(" ".join((memory.name, *words)))
        return " | ".join(parts)


def read_nest(data: Any, device: SpatialAccelerator, layer: Einsum, file: str) -> LoopNest:
    """A mapping from plain data; levels and dims that do not exist are refused by field.

    Whether it is legal on the machine is :func:`breach`'s to say.
    """
    levels = data.get("levels") if isinstance(data, Mapping) else None
    names = [memory.name for memory in device.levels]
    if not isinstance(levels, list) or len(levels) != len(names):
        raise bad_input(f"expected one entry per level: {', '.join(names)}", file=file, path="levels")
    found = []
    for number, (name, entry) in enumerate(zip(names, levels, strict=True)):
        path = f"levels[{number}]"
        if not isinstance(entry, Mapping) or set(entry) - {"name", "temporal", "spatial"}:
            raise bad_input("expected name, temporal, spatial", file=file, path=path)
        if entry.get("name", name) != name:
            wrong = str(entry["name"])
            raise bad_input(
                f"found {wrong!r}; expected {name!r}",
                file=file,
                path=f"{path}.name",
                suggestion=nearest(wrong, names),
            )
        temporal = tuple(
            (_dim(dim, layer, file, path), _count(count, file, path))
            for dim, count in _entries(entry.get("temporal", []), 2, file, f"{path}.temporal")
        )
        axes = {axis.axis for axis in device.levels[number].fanout}
        spatial = tuple(
            Spread(
                _dim(dim, layer, file, path), _axis(axis, axes, name, file, path), _count(count, file, path)
            )
            for dim, axis, count in _entries(entry.get("spatial", []), 3, file, f"{path}.spatial")
        )
        found.append(NestLevel(temporal, spatial))
    return LoopNest(tuple(found))


def _entries(found: Any, length: int, file: str, path: str) -> Iterator[Sequence[Any]]:
    if not isinstance(found, list):
        raise bad_input("expected a list of loops", file=file, path=path)
    for entry in found:
        if not isinstance(entry, list | tuple) or len(entry) != length:
            expected = "[dim, count]" if length == 2 else "[dim, axis, count]"
            raise bad_input(f"found {entry!r:.60}; expected {expected}", file=file, path=path)
        yield entry


def _dim(found: Any, layer: Einsum, file: str, path: str) -> str:
    if found not in layer.sizes:
        near = nearest(str(found), layer.sizes)
        raise bad_input(f"{found!r:.40} is no dim of {layer.name!r}", file=file, path=path, suggestion=near)
    return str(found)


def _axis(found: Any, axes: set[str], level: str, file: str, path: str) -> str:
    if found not in axes:
        near = nearest(str(found), axes)
        raise bad_input(f"{found!r:.40} is no axis below {level!r}", file=file, path=path, suggestion=near)
    return str(found)


def _count(found: Any, file: str, path: str) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= MOST_COUNT:
        raise bad_input(f"found {found!r:.40}; expected a count of 1 or more", file=file, path=path)
    return found


def axis_allows(axis: SpatialAxis, dim: str, layer: Einsum) -> bool:
    """Whether a loop over a dim may run along an axis.

    A dim over which outputs are summed needs an axis that reduces them, whatever its rule says.
    """
    sums = dim not in layer.indexed_by("O")
    if sums and "O" not in axis.reduce:
        return False
    if isinstance(axis.dims, tuple):
        return dim in axis.dims
    return {
        "any": True,
        "out": not sums,
        "red": sums,
        "channel": sums and not _in_window(dim, layer),
        "not_I": dim not in layer.indexed_by("I"),
        "not_W": dim not in layer.indexed_by("W"),
    }[axis.dims]


def _in_window(dim: str, layer: Einsum) -> bool:
    """Whether a dim shares an axis of the inputs with another one."""
    return any(len(axis) > 1 and dim in {term.dim for term in axis} for axis in layer.operands["I"])


def breach(nest: LoopNest, device: SpatialAccelerator, layer: Einsum) -> str:
    """The first rule that a mapping breaks, "" for a legal one.

    ``cover:DIM`` counts that do not cover the dim, ``dim:DIM@AXIS`` a loop that may not run along its axis,
    ``axis:AXIS`` more than the axis has, ``capacity:LEVEL`` tiles that do not fit.
    """
    covered = nest.covered()
    for dim, size in layer.sizes.items():
        if covered.get(dim, 1) < size:
            return f"cover:{dim}"
    for memory, level in zip(device.levels, nest.levels, strict=True):
        for axis in memory.fanout:
            along = [spread for spread in level.spatial if spread.axis == axis.axis and spread.count > 1]
            for spread in along:
                if not axis_allows(axis, spread.dim, layer):
                    return f"dim:{spread.dim}@{axis.axis}"
            if prod(spread.count for spread in along) > axis.size:
                return f"axis:{axis.axis}"
    loops = nest.loops()
    for number, memory in enumerate(device.levels):
        if memory.overflow(held_bytes(loops, number, device, layer)):
            return f"capacity:{memory.name}"
    return ""


def held_bytes(
    loops: Sequence[Loop], level: int, device: SpatialAccelerator, layer: Einsum
) -> dict[Operand, float]:
    """Bytes of the largest tiles that an instance of a level holds, by operand."""
    extents = inner_extents(loops, level, layer)
    if layer.densities and device.levels[level].formats:
        reach = {dim: np.array(float(extent)) for dim, extent in extents.items()}
        return {
            operand: float(
                most_held_bytes(
                    device, layer, level, operand, np.array(float(layer.words(operand, extents))), reach
                )
            )
            for operand in device.levels[level].holds
        }
    return {
        operand: layer.words(operand, extents) * device.word_bits.bytes_of(operand)
        for operand in device.levels[level].holds
    }


def inner_extents(loops: Sequence[Loop], level: int, layer: Einsum) -> dict[str, int]:
    """How far each dim reaches in the loops at a level and inside, at most its size."""
    extents = dict.fromkeys(layer.sizes, 1)
    for loop in loops:
        if loop.level >= level:
            extents[loop.dim] *= loop.count
    return {dim: min(extent, layer.sizes[dim]) for dim, extent in extents.items()}
