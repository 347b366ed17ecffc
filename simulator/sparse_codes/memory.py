"""An associative memory of sparse codes that learns an item at once, with every access counted.

A code has one winner in each of ``modules`` groups of ``units`` binary units. Every unit has a binary weight from every
input. To choose a code, each unit adds up its weights from the active inputs; how familiar the item is follows from the
largest sums. A new item gets winners nearly at random, a familiar one those with the largest sums, so that like items
get like codes (Rinkus and Leveille, arXiv:1710.07829, abstract, and what is recalled of the algorithm; the form of the
curve between both is an assumption). Learning sets the weights from the active inputs to the winners; recall
takes the largest sums. Both look at the same weights however many items there are.

Beside it stands a memory apart: items lie in a list, a recall brings all of them over the bus and takes the one that
shares most inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem, bad_input

__all__ = [
    "Accesses",
    "CodeMemory",
    "ListMemory",
    "MemoryShape",
    "apart_accesses",
    "code_accesses",
    "overlap",
]

Longs = npt.NDArray[np.int64]
MOST_WEIGHTS: Final = 100_000_000
GAIN: Final = 1000.0
"""Of the likeliest unit over the others for an item that is known: an assumption, as is the steepness below."""
STEEP: Final = 20.0
"""Slope of the curve from a unit's share of set weights to its likelihood, whose middle is at a half."""


@dataclass(frozen=True, slots=True)
class MemoryShape:
    """Inputs of which items are made, and the groups and units of a code."""

    inputs: int
    modules: int
    units: int

    def __post_init__(self) -> None:
        found = [
            Problem(f"found {getattr(self, name)}; expected 1 or more", path=name)
            for name in ("inputs", "modules", "units")
            if getattr(self, name) < 1
        ]
        if not found and self.weights > MOST_WEIGHTS:
            found = [Problem(f"found {self.weights} weights; expected up to {MOST_WEIGHTS}")]
        if found:
            raise InputError(found)

    @property
    def weights(self) -> int:
        """Bits of the memory."""
        return self.inputs * self.modules * self.units


@dataclass(frozen=True, slots=True)
class Accesses:
    """Bits read and written where they are stored, and bits over the bus between memory and processor."""

    read_bits: int
    written_bits: int
    bus_bits: int


def code_accesses(shape: MemoryShape, active: int, learns: bool) -> Accesses:
    """Of one item with so many active inputs; over the bus go the inputs' numbers and the winners'."""
    number = (shape.inputs - 1).bit_length() * active + (shape.units - 1).bit_length() * shape.modules
    return Accesses(active * shape.modules * shape.units, active * shape.modules if learns else 0, number)


def apart_accesses(shape: MemoryShape, stored: int, learns: bool) -> Accesses:
    """Of one item of a list of so many: an item written, or all of them read and brought to the processor."""
    bits = shape.inputs * (1 if learns else stored)
    return Accesses(0 if learns else bits, bits if learns else 0, bits)


@dataclass(eq=False)
class CodeMemory:
    """The memory as it runs; ``seed`` draws the winners of new items."""

    shape: MemoryShape
    seed: int = 1
    read_bits: int = 0
    written_bits: int = 0
    _weights: npt.NDArray[np.bool_] = field(init=False, repr=False)
    _draws: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._weights = np.zeros((self.shape.inputs, self.shape.modules, self.shape.units), np.bool_)
        self._draws = np.random.default_rng(self.seed)

    def learn(self, active: Sequence[int]) -> Longs:
        """The code that an item gets, by module; its weights are set."""
        shares, rows = self._shares(active)
        draws = self._draws.random(self.shape.modules)
        familiar = float(shares.max(axis=1).mean())
        if familiar == 1.0:
            code = _winners(shares)
        else:
            likely = 1 + GAIN * familiar**2 / (1 + np.exp(-STEEP * (shares - 0.5)))
            passed = np.cumsum(likely, axis=1)
            below = (passed <= draws[:, None] * passed[:, -1:]).sum(axis=1)
            code = np.minimum(below, self.shape.units - 1).astype(np.int64)
        self._weights[rows[:, None], np.arange(self.shape.modules), code] = True
        self.written_bits += rows.size * self.shape.modules
        return code

    def recall(self, active: Sequence[int]) -> Longs:
        """The code with the largest sums, by module; the first of equals."""
        return _winners(self._shares(active)[0])

    def _shares(self, active: Sequence[int]) -> tuple[npt.NDArray[np.float64], Longs]:
        """Set weights of each unit over the active inputs."""
        rows = _checked(active, self.shape.inputs)
        self.read_bits += rows.size * self.shape.modules * self.shape.units
        return self._weights[rows].sum(axis=0) / rows.size, rows


@dataclass(eq=False)
class ListMemory:
    """Items in a list; a recall compares all of them."""

    shape: MemoryShape
    bus_bits: int = 0
    _items: list[npt.NDArray[np.bool_]] = field(default_factory=list, repr=False)

    def learn(self, active: Sequence[int]) -> int:
        """Append an item; returns its number."""
        self._items.append(self._bits(active))
        self.bus_bits += self.shape.inputs
        return len(self._items) - 1

    def recall(self, active: Sequence[int]) -> int:
        """Number of the item that shares most active inputs, the first of equals. Raises ``InputError`` if empty."""
        if not self._items:
            raise bad_input("found no items; expected 1 or more", path="items")
        bits = self._bits(active)
        self.bus_bits += self.shape.inputs * len(self._items)
        return int(np.argmax([(item & bits).sum() for item in self._items]))

    def _bits(self, active: Sequence[int]) -> npt.NDArray[np.bool_]:
        bits = np.zeros(self.shape.inputs, np.bool_)
        bits[_checked(active, self.shape.inputs)] = True
        return bits


def overlap(one: Longs, other: Longs) -> float:
    """Share of the modules in which two codes have the same winner."""
    return float((one == other).mean())


def _winners(shares: npt.NDArray[np.float64]) -> Longs:
    """The unit with the largest sum in each module, the first of equals."""
    return np.asarray(np.argmax(shares, axis=1), np.int64)


def _checked(active: Sequence[int], inputs: int) -> Longs:
    rows = np.asarray(active, np.int64)
    if not rows.size or rows.min() < 0 or rows.max() >= inputs or np.unique(rows).size < rows.size:
        raise bad_input(
            f"found {rows.tolist()[:8]}; expected different inputs of 0 to {inputs - 1}", path="active"
        )
    return rows
