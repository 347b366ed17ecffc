"""Programs by rule: blocked matrix products, streams, strides, stencils, chases and random accesses.

A pattern is ``NAME:NUMBERS[:SEED]``; elements are doubles of 8 bytes, each access one instruction (and one to work on
it for the arithmetic kernels). Any stretch can be made without the rest. Arrays stand one behind another, each on a
page of its own. A chase follows one cycle through all elements: an affine rule modulo a power of two (Hull and
Dobell, 1962), so that no table is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input, nearest
from hw_configs.whole_number import integer
from workloads.memory_trace.generators import splitmix64
from workloads.program_trace.trace import LOAD, STORE, Accesses

__all__ = ["PATTERNS", "SyntheticProgram", "generate_program"]

Ints = npt.NDArray[np.int64]

ELEMENT: Final = 8
PAGE: Final = 4096
MOST: Final = 2**48
"""Accesses of one program at most."""


@dataclass(frozen=True, slots=True)
class _Program:
    """Numbers of a pattern, and which accesses are wanted."""

    numbers: tuple[int, ...]
    seed: int
    index: Ints

    def base(self, array: int, elements: int) -> int:
        """Where an array begins, behind arrays of as many elements."""
        return PAGE + array * (-(-elements * ELEMENT // PAGE) * PAGE)


@dataclass(frozen=True, slots=True)
class _Made:
    """Addresses, kinds, and a number for the instruction of each access."""

    address: Ints
    kind: Ints
    slot: Ints


def _all_loads(address: Ints) -> _Made:
    zero = np.zeros(address.size, np.int64)
    return _Made(address, zero, zero)


def _matmul(p: _Program) -> _Made:
    """C += A B of n x n in tiles: tile by tile (i, j, k), inside rows, then k, then columns; A once a row of B."""
    n, tile = p.numbers
    tiles, per = n // tile, tile * tile * (1 + 3 * tile)
    block, inside = p.index // per, p.index % per
    bi, bj, bk = block // (tiles * tiles), block // tiles % tiles, block % tiles
    step, part = inside // (1 + 3 * tile), inside % (1 + 3 * tile)
    i, k = step // tile, step % tile
    j, which = (part - 1) // 3, np.where(part == 0, 0, 1 + (part - 1) % 3)
    row, depth, column = bi * tile + i, bk * tile + k, bj * tile + j
    bases = [p.base(array, n * n) for array in range(3)]
    a = bases[0] + (row * n + depth) * ELEMENT
    b = bases[1] + (depth * n + column) * ELEMENT
    c = bases[2] + (row * n + column) * ELEMENT
    address = np.select([which == 0, which == 1], [a, b], c)
    return _Made(address, np.where(which == 3, STORE, LOAD).astype(np.int64), which)


def _stream(p: _Program, loads: int) -> _Made:
    """Element after element: so many arrays read, one written."""
    (n,) = p.numbers
    which, element = p.index % (loads + 1), p.index // (loads + 1)
    size = -(-n * ELEMENT // PAGE) * PAGE
    address = PAGE + which * size + element * ELEMENT
    return _Made(address, np.where(which == loads, STORE, LOAD).astype(np.int64), which)


def _copy(p: _Program) -> _Made:
    return _stream(p, 1)


def _triad(p: _Program) -> _Made:
    return _stream(p, 2)


def _read(p: _Program) -> _Made:
    """Element after element of one array."""
    return _all_loads(PAGE + p.index * ELEMENT)


def _strided(p: _Program) -> _Made:
    """Every so many bytes of a range, again and again."""
    count, stride, _ = p.numbers
    return _all_loads(PAGE + p.index % count * stride)


def _chase(p: _Program) -> _Made:
    """One cycle through all nodes of 64 bytes: x = 5 x + c modulo their number, which is a power of two."""
    nodes, _ = p.numbers
    odd = 2 * int(splitmix64(p.seed, 0, 1)[0] % np.uint64(max(nodes // 2, 1))) + 1
    position = 0
    result = np.empty(p.index.size, np.int64)
    if p.index.size:
        multiplier, constant = _jump(int(p.index[0]) % nodes, odd, nodes)
        position = constant
    # Doubling: a stretch of known positions gives the next one of the same length.
    filled = min(1, p.index.size)
    result[:filled] = position
    while filled < p.index.size:
        multiplier, constant = _jump(filled, odd, nodes)
        more = min(filled, p.index.size - filled)
        known = result[:more].astype(np.uint64)
        moved = known * np.uint64(multiplier) + np.uint64(constant)
        result[filled : filled + more] = (moved % np.uint64(nodes)).astype(np.int64)
        filled += more
    return _all_loads(PAGE + result * 64)


def _jump(steps: int, constant: int, modulus: int) -> tuple[int, int]:
    """``steps`` times x = 5 x + constant, as one multiplier and one constant."""
    multiplier, added, square, extra = 1, 0, 5, constant
    while steps:
        if steps & 1:
            multiplier, added = multiplier * square % modulus, (added * square + extra) % modulus
        square, extra = square * square % modulus, (extra * square + extra) % modulus
        steps >>= 1
    return multiplier, added


def _stencil(p: _Program) -> _Made:
    """Five points of an n x n grid into another, row by row, sweep after sweep."""
    n, _ = p.numbers
    inner = n - 2
    which, point = p.index % 6, p.index // 6 % (inner * inner)
    row, column = point // inner + 1, point % inner + 1
    moves = np.array([[0, 0], [0, -1], [0, 1], [-1, 0], [1, 0], [0, 0]], np.int64)[which]
    element = (row + moves[:, 0]) * n + column + moves[:, 1]
    address = np.where(which == 5, p.base(1, n * n), p.base(0, n * n)) + element * ELEMENT
    return _Made(address, np.where(which == 5, STORE, LOAD).astype(np.int64), which)


def _random(p: _Program) -> _Made:
    """Elements of a range drawn alike."""
    elements, _ = p.numbers
    drawn = splitmix64(p.seed, int(p.index[0]) if p.index.size else 0, p.index.size)
    return _all_loads(PAGE + (drawn % np.uint64(elements)).astype(np.int64) * ELEMENT)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """The names of a pattern's numbers, its accesses, how many there are, and instructions of each."""

    numbers: str
    make: Callable[[_Program], _Made]
    count: Callable[[tuple[int, ...]], int]
    work: int = 1


PATTERNS: Final[dict[str, _Pattern]] = {
    "matmul": _Pattern("N:TILE", _matmul, lambda n: (n[0] // n[1]) ** 3 * n[1] ** 2 * (1 + 3 * n[1]), 2),
    "read": _Pattern("ELEMENTS", _read, lambda n: n[0]),
    "copy": _Pattern("ELEMENTS", _copy, lambda n: 2 * n[0]),
    "triad": _Pattern("ELEMENTS", _triad, lambda n: 3 * n[0], 2),
    "stride": _Pattern("ACCESSES:BYTES:ROUNDS", _strided, lambda n: n[0] * n[2]),
    "chase": _Pattern("NODES:STEPS", _chase, lambda n: n[1]),
    "stencil": _Pattern("N:SWEEPS", _stencil, lambda n: 6 * (n[0] - 2) ** 2 * n[1], 2),
    "random": _Pattern("ELEMENTS:ACCESSES", _random, lambda n: n[1]),
}
"""The patterns by name."""


@dataclass(frozen=True)
class SyntheticProgram:
    """A pattern with its numbers and seed."""

    name: str
    pattern: str
    numbers: tuple[int, ...]
    seed: int
    count: int | None

    @property
    def cores(self) -> int:
        """One."""
        return 1

    def accesses(self, start: int, count: int) -> Accesses:
        """Any stretch; the same for the same arguments."""
        rule = PATTERNS[self.pattern]
        made = rule.make(_Program(self.numbers, self.seed, np.arange(start, start + count, dtype=np.int64)))
        zero = np.zeros(count, np.int64)
        pc = 0x400000 + 4 * made.slot
        return Accesses(made.kind, made.address, zero + ELEMENT, pc, zero + rule.work, zero)

    def chunks(self, size: int) -> Iterator[Accesses]:
        """The accesses from the beginning, at most ``size`` at a time."""
        for start in range(0, self.count or 0, size):
            yield self.accesses(start, min(size, (self.count or 0) - start))


def generate_program(text: str) -> SyntheticProgram:
    """The program of ``NAME:NUMBERS[:SEED]``. Raises ``InputError`` for what makes no sense.

    >>> program = generate_program("matmul:8:4")
    >>> program.count, next(program.chunks(3)).kind.tolist()
    (1664, [0, 0, 0])
    """
    name, *rest = text.split(":")
    if name not in PATTERNS:
        known = ", ".join(PATTERNS)
        raise bad_input(f"unknown pattern {name[:40]!r}; known: {known}", suggestion=nearest(name, PATTERNS))
    rule = PATTERNS[name]
    names = rule.numbers.split(":")
    values = [integer(part.replace("_", ""), 0, MOST) for part in rest]
    if len(values) not in (len(names), len(names) + 1) or None in values:
        raise bad_input(f"found {text[:80]!r}; expected {name}:{rule.numbers}[:SEED] in whole numbers")
    numbers = tuple(value for value in values if value is not None)
    numbers, seed = numbers[: len(names)], numbers[len(names)] if len(numbers) > len(names) else 1
    if min(numbers) < 1:
        raise bad_input(f"found {text[:80]!r}; expected numbers of 1 or more")
    if name == "matmul" and numbers[0] % numbers[1]:
        raise bad_input(f"found {text[:80]!r}; the tile divides N")
    if name == "chase" and (numbers[0] & (numbers[0] - 1) or numbers[0] > 2**30):
        raise bad_input(f"found {text[:80]!r}; nodes are a power of two up to 2^30")
    if name == "stencil" and numbers[0] < 3:
        raise bad_input(f"found {text[:80]!r}; a grid has 3 points a side or more")
    count, span = rule.count(numbers), _span(name, numbers)
    if count > MOST or span > 2**44:
        raise bad_input(f"found {text[:80]!r}; expected at most 2^48 accesses to 16 TiB")
    return SyntheticProgram(text, name, numbers, seed, count)


def _span(name: str, numbers: tuple[int, ...]) -> int:
    """Bytes that a pattern spans, about."""
    if name in ("matmul", "stencil"):
        return 3 * numbers[0] ** 2 * ELEMENT
    if name == "stride":
        return numbers[0] * numbers[1]
    return numbers[0] * (64 if name == "chase" else 3 * ELEMENT)
