"""Pareto fronts: which points no other point beats in every objective.

A point dominates another when it is at least as good everywhere and better somewhere. Equal points do not
dominate one another, so all of them are on the front. Every objective is minimised here; callers turn signs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offchip.sweep.dominance import FULL_SORT, beaten_by_divide, beaten_by_tree

__all__ = ["front", "ranking", "ranks"]

BLOCK: Final = 512


def front(objectives: ArrayLike) -> NDArray[np.bool_]:
    """Which rows of an (n, objectives) table no other row dominates.

    Up to four objectives the work is n log n (two, three) or n log^2 n (four), however many rows are on the
    front; beyond, it is n times the size of the front.
    """
    table = _table(objectives)
    unique, inverse = np.unique(table, axis=0, return_inverse=True)
    # np.unique sorts by columns: a row can be dominated only by one that stands before it.
    columns = unique.shape[1]
    if columns <= 2:
        last = unique[:, -1] if columns == 2 else np.zeros(len(unique))
        best = np.minimum.accumulate(np.concatenate(([np.inf], last[:-1])))
        keep = last < best if len(unique) else np.zeros(0, dtype=bool)
    elif columns <= 4 and len(unique) > FULL_SORT:
        ranked = np.stack([np.unique(column, return_inverse=True)[1] for column in unique.T[1:]])
        keep = ~(beaten_by_tree(*ranked) if columns == 3 else beaten_by_divide(*ranked))
    else:
        keep = _front_in_blocks(unique)
    return np.asarray(keep[inverse.reshape(-1)])


def _front_in_blocks(unique: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Distinct rows, sorted: a block is held against the front so far, then against itself."""
    keep = np.zeros(len(unique), dtype=bool)
    kept = np.empty((0, unique.shape[1]))
    for begin in range(0, len(unique), BLOCK):
        block = unique[begin : begin + BLOCK]
        alive = ~_beaten(block, kept)
        rest = block[alive]
        # Distinct rows: a row that is nowhere worse dominates.
        among = np.all(rest[:, None, :] <= rest[None, :, :], axis=2)
        np.fill_diagonal(among, False)
        new = ~among.any(axis=0)
        keep[begin + np.flatnonzero(alive)[new]] = True
        kept = np.concatenate((kept, rest[new]))
    return keep


def _beaten(block: NDArray[np.float64], kept: NDArray[np.float64]) -> NDArray[np.bool_]:
    beaten = np.zeros(len(block), dtype=bool)
    for begin in range(0, len(kept), 4 * BLOCK):
        left = np.flatnonzero(~beaten)
        if not len(left):
            break
        part = kept[begin : begin + 4 * BLOCK]
        nowhere_worse = np.ones((len(left), len(part)), dtype=bool)
        for column in range(block.shape[1]):
            nowhere_worse &= part[None, :, column] <= block[left, None, column]
        beaten[left] = nowhere_worse.any(axis=1)
    return beaten


def ranks(objectives: ArrayLike, enough: int | None = None) -> NDArray[np.int64]:
    """The front each row is on: 0 for the Pareto front, 1 for that of the rest, and so on.

    With ``enough``, rows are ranked until so many have a rank; the others share the next one.
    """
    table = _table(objectives)
    result = np.zeros(len(table), dtype=np.int64)
    left = np.arange(len(table))
    rank = 0
    while len(left):
        if enough is not None and len(table) - len(left) >= enough:
            result[left] = rank
            break
        on = front(table[left])
        result[left[on]] = rank
        left = left[~on]
        rank += 1
    return result


def ranking(objectives: ArrayLike, enough: int | None = None) -> NDArray[np.int64]:
    """Rows from best to worst: by front, then by crowding distance (Deb 2002), then as they stand."""
    table = _table(objectives)
    rank = ranks(table, enough)
    crowding = np.zeros(len(table))
    for value in np.unique(rank):
        rows = np.flatnonzero(rank == value)
        crowding[rows] = _crowding(table[rows])
    return np.lexsort((np.arange(len(table)), -crowding, rank))


def _crowding(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far apart a row's neighbours are, summed over objectives; infinite at the ends."""
    total = np.zeros(len(table))
    for column in table.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        if span <= 0:
            continue
        total[order[0]] = total[order[-1]] = np.inf
        total[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return total


def _table(objectives: ArrayLike) -> NDArray[np.float64]:
    table: NDArray[Any] = np.asarray(objectives, dtype=np.float64)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"expected a table of rows and objectives, found shape {table.shape}")
    if np.isnan(table).any():
        raise ValueError("an objective is not a number")
    return table
