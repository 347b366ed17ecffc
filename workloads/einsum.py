"""A layer as an extended einsum: loops over dims, and operands indexed by sums of them.

``O[...] += I[...] * W[...]`` over all dims; the index of an operand along each of its axes is a sum of dims times
steps, so that a convolution's input row is ``stride * P + dilation * R``. Outputs are summed over every dim that does
not index them. There is no padding: the input has exactly the rows and columns that are touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final, NamedTuple

from hw_configs.problems import bad_input
from hw_configs.spatial import OPERANDS, Operand
from workloads.density import Density, read_density

__all__ = ["Einsum", "Term", "read_einsum"]

MOST_SIZE: Final = 2**31
MOST_DIMS: Final = 12
_SAID_BY_TENSORS: Final = frozenset({"kind", "stride", "dilation"})
"""Keys that say for people what the axes of the operands already hold."""


class Term(NamedTuple):
    """``step`` times the index of a dim."""

    dim: str
    step: int


@dataclass(frozen=True)
class Einsum:
    """``sizes`` by dim in the order of the file; ``operands`` holds the axes of I, W and O, each a sum of terms.

    ``densities`` are of operands that have zeros, below 1; those of O are of the outputs, not of partial sums.
    """

    name: str
    sizes: Mapping[str, int]
    operands: Mapping[Operand, tuple[tuple[Term, ...], ...]]
    densities: Mapping[Operand, Density] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return prod(self.sizes.values())

    def indexed_by(self, operand: Operand) -> frozenset[str]:
        """Dims that index an operand."""
        return frozenset(term.dim for axis in self.operands[operand] for term in axis)

    def words(self, operand: Operand, extents: Mapping[str, int]) -> int:
        """Words of the bounding box that loops of these extents touch.

        >>> conv = read_einsum({"name": "c", "dims": {"P": 8, "R": 3}, "tensors": {"I": [[["P", 2], ["R", 1]]],
        ...     "W": [[["R", 1]]], "O": [[["P", 1]]]}}, "text")
        >>> conv.words("I", {"P": 4, "R": 3})
        9
        """
        return prod(
            1 + sum(term.step * (extents[term.dim] - 1) for term in axis) for axis in self.operands[operand]
        )

    def has_window(self) -> bool:
        """Whether an axis of the inputs is a sum of several dims larger than one."""
        return any(sum(self.sizes[term.dim] > 1 for term in axis) > 1 for axis in self.operands["I"])


def read_einsum(data: Any, file: str) -> Einsum:
    """A layer from plain data: ``name``, ``dims`` (name: size), ``tensors`` (operand: axes of [dim, step] pairs).

    ``density`` (operand: what :func:`~workloads.density.read_density` takes) where there are zeros.

    Raises ``InputError`` that names the field.
    """
    if not isinstance(data, Mapping):
        raise bad_input(
            f"found {type(data).__name__}; expected a layer with name, dims and tensors", file=file
        )
    unknown = sorted(set(data) - {"name", "dims", "tensors", "density"} - _SAID_BY_TENSORS)
    if unknown:
        raise bad_input("unknown key; expected name, dims, tensors, density", file=file, path=str(unknown[0]))
    sizes = _sizes(data.get("dims"), file)
    tensors = data.get("tensors")
    if not isinstance(tensors, Mapping) or set(tensors) != set(OPERANDS):
        raise bad_input("expected the operands I, W and O", file=file, path="tensors")
    operands = {operand: _axes(tensors[operand], operand, sizes, file) for operand in OPERANDS}
    found = data.get("density", {})
    if not isinstance(found, Mapping) or set(found) - set(OPERANDS):
        raise bad_input("expected densities of I, W, O", file=file, path="density")
    densities = {
        operand: read_density(found[operand], operands[operand], sizes, file, f"density.{operand}")
        for operand in OPERANDS
        if operand in found
    }
    # An operand without zeros is a dense one.
    kept = {operand: density for operand, density in densities.items() if density.share < 1}
    return Einsum(str(data.get("name", "layer")), sizes, operands, kept)


def _sizes(found: Any, file: str) -> dict[str, int]:
    if not isinstance(found, Mapping) or not 1 <= len(found) <= MOST_DIMS:
        raise bad_input(f"expected 1 to {MOST_DIMS} dims with their sizes", file=file, path="dims")
    for dim, size in found.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_SIZE:
            raise bad_input(
                f"found {size!r:.40}; expected a size from 1 to {MOST_SIZE}", file=file, path=f"dims.{dim}"
            )
    return {str(dim): size for dim, size in found.items()}


def _axes(found: Any, operand: str, sizes: Mapping[str, int], file: str) -> tuple[tuple[Term, ...], ...]:
    path = f"tensors.{operand}"
    if not isinstance(found, list):
        raise bad_input("expected a list of axes, each a list of [dim, step]", file=file, path=path)
    axes = []
    for number, axis in enumerate(found):
        terms = []
        for entry in axis if isinstance(axis, list) else [axis]:
            if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[1], int):
                raise bad_input(
                    f"found {entry!r:.60}; expected [dim, step]", file=file, path=f"{path}[{number}]"
                )
            dim, step = str(entry[0]), int(entry[1])
            if dim not in sizes:
                raise bad_input(f"{dim!r} is no dim of the layer", file=file, path=f"{path}[{number}]")
            if step < 1:
                raise bad_input(
                    f"found a step of {step}; expected 1 or more", file=file, path=f"{path}[{number}]"
                )
            terms.append(Term(dim, step))
        axes.append(tuple(terms))
    return tuple(axes)
