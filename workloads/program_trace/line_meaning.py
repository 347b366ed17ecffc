"""What the fields of ordinary lines say, many lines at a time: each becomes no, one or two accesses.

A line whose values are out of bounds is not ordinary: it and what follows it go back to be taken one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from workloads.program_trace.line_parser import SHAPES
from workloads.program_trace.trace import ADDRESS_BITS, FETCH, LOAD, MAX_ACCESS, STORE

__all__ = ["MEANINGS", "Columns", "shapes_of"]

Ints = npt.NDArray[np.int64]
Columns = list[Ints]
"""Kind, address, size, pc and instructions of accesses, and the line of each."""
_MASK: Final = 2**ADDRESS_BITS - 1
_WORD: Final = 8
WIDTH: Final = 7
"""Columns of a parsed line: the number of fields, then at most six values."""


def shapes_of(format: str) -> Ints:
    """The ordinary lines of a format, as the parser takes them."""
    shapes = SHAPES[format]
    table = np.zeros((len(shapes), 2 * WIDTH - 1), np.int64)
    for row, shape in zip(table, shapes, strict=True):
        row[0] = len(shape)
        row[1 : 1 + 2 * len(shape)] = np.array(shape).reshape(-1)
    return table


def _columns(kind: Ints, address: Ints, size: Ints, pc: Ints, work: Ints, line: Ints) -> Columns:
    order = np.argsort(line, kind="stable")
    return [part[order] for part in (kind, address & _MASK, size, pc, work, line)]


def _two(first: Columns, second: Columns) -> Columns:
    """Accesses of two kinds, by line, the first kind first."""
    return _columns(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def _ramulator(rows: Ints) -> Columns:
    line = np.arange(rows.shape[0], dtype=np.int64)
    zero, word = np.zeros(line.size, np.int64), np.full(line.size, _WORD, np.int64)
    load = [zero + LOAD, rows[:, 2], word, zero, rows[:, 1] + 1, line]
    stores = rows[:, 0] == 3
    none = zero[stores]
    store = [none + STORE, rows[stores, 3], word[stores], none, none, line[stores]]
    return _two(load, store)


def _letters(letter: Ints, meanings: dict[str, int]) -> Ints:
    """The kind that each letter means, -1 for one that means nothing."""
    table = np.full(256, -1, np.int64)
    for name, kind in meanings.items():
        table[ord(name)] = kind
    return table[letter]


def _pin(rows: Ints) -> Columns:
    line = np.arange(rows.shape[0], dtype=np.int64)
    kind = _letters(
        rows[:, 2],
        {"R": LOAD, "r": LOAD, "L": LOAD, "l": LOAD, "W": STORE, "w": STORE, "S": STORE, "s": STORE},
    )
    size = np.where(rows[:, 0] == 4, rows[:, 4], _WORD)
    return [kind, rows[:, 3] & _MASK, size, rows[:, 1], np.ones(line.size, np.int64), line]


def _lackey(rows: Ints) -> Columns:
    line = np.arange(rows.shape[0], dtype=np.int64)
    kind = _letters(rows[:, 1], {"I": FETCH, "L": LOAD, "S": STORE, "M": LOAD})
    fetch = kind == FETCH
    address, size = rows[:, 2] & _MASK, rows[:, 3]
    first = [kind, address, size, np.where(fetch, address, 0), fetch.astype(np.int64), line]
    both = rows[:, 1] == ord("M")
    none = np.zeros(int(both.sum()), np.int64)
    return _two(first, [none + STORE, address[both], size[both], none, none, line[both]])


def _gem5(rows: Ints) -> Columns:
    line = np.arange(rows.shape[0], dtype=np.int64)
    kind = _letters(rows[:, 1], {"r": LOAD, "w": STORE, "u": FETCH})
    pc = np.where(rows[:, 0] == 6, rows[:, 6], 0)
    parts = [kind, rows[:, 2] & _MASK, rows[:, 3], pc, np.ones(line.size, np.int64), line]
    kept = kind != FETCH
    # What is passed over must make sense too.
    bad = ~kept & ((rows[:, 3] < 1) | (rows[:, 3] > MAX_ACCESS))
    parts[0] = np.where(bad, -1, kind)
    return [part[kept | bad] for part in parts]


def _ordinary(columns: Columns) -> int | None:
    """The first line whose values are out of bounds; None where there is none."""
    kind, _, size, _, work, line = columns
    wrong = (kind < 0) | (size < 1) | (size > MAX_ACCESS) | (work > 2**40)
    return int(line[np.argmax(wrong)]) if wrong.any() else None


def meant(rows: Ints, meaning: Callable[[Ints], Columns]) -> tuple[Columns, int]:
    """The accesses of lines up to the first that is not ordinary, and how many lines that are."""
    columns = meaning(rows)
    first = _ordinary(columns)
    if first is None:
        return columns, rows.shape[0]
    return [part[columns[5] < first] for part in columns], first


MEANINGS: Final[dict[str, Callable[[Ints], Columns]]] = {
    "ramulator": _ramulator, "pin": _pin, "lackey": _lackey, "gem5": _gem5,
}  # fmt: skip
