"""Memory accesses of attention: counted over the loops of an algorithm, as a trace, and in closed form.

Three algorithms for one head of ``n`` queries and keys of ``d`` elements, with ``m`` elements of fast memory:

- *standard*: S = Q K^T, P = softmax(S) and O = P V, each through memory: Theta(n d + n^2) accesses;
- *fused* (FlashAttention; Dao et al., arXiv:2205.14135, algorithm 1): blocks of keys and values stay, queries
  and outputs pass by once per block, no score leaves: Theta(n^2 d^2 / m) for d <= m <= n d;
- *blocked*: both products as blocked matrix products with square tiles, scores through memory:
  Theta(n^2 d / sqrt(m)), better where m < d^2 (Saha and Ye, arXiv:2402.07443, who prove both optimal).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled

__all__ = [
    "Accesses", "Head", "blocked_trace", "fused_accesses", "fused_closed_form", "fused_tiles", "fused_trace",
    "standard_passes",
]  # fmt: skip

TraceOf = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Addresses in elements, and which accesses write."""


@dataclass(frozen=True, slots=True)
class Head:
    """One head: queries and keys, and elements of each."""

    n: int
    d: int


@dataclass(frozen=True, slots=True)
class Accesses:
    """Elements read from and written to memory, by what they belong to."""

    reads: dict[str, int]
    writes: dict[str, int]

    @property
    def total(self) -> int:
        """All reads and writes."""
        return sum(self.reads.values()) + sum(self.writes.values())


def fused_tiles(head: Head, m: int) -> tuple[int, int]:
    """Rows of a block of queries and of keys as algorithm 1 sets them; ``ValueError`` where m < 4 d."""
    if m < 4 * head.d:
        raise ValueError(f"{m} elements of fast memory hold no block of keys of {head.d} elements four times")
    keys = min(-(-m // (4 * head.d)), head.n)
    return min(keys, head.d, head.n), keys


def fused_accesses(head: Head, m: int, backward: bool = False) -> Accesses:
    """Walks the loops of the forward (or backward) algorithm and adds up what each step moves."""
    query_rows, key_rows = fused_tiles(head, m)
    reads: dict[str, int] = {}
    writes: dict[str, int] = {}
    for keys in _blocks(head.n, key_rows):
        _add(reads, keys * head.d, "K", "V")
        if backward:
            _add(writes, keys * head.d, "dK", "dV")
        for queries in _blocks(head.n, query_rows):
            moved = queries * head.d
            if backward:
                _add(reads, moved, "Q", "O", "dO", "dQ")
                _add(writes, moved, "dQ")
                _add(reads, queries, "l", "m")
            else:
                _add(reads, moved, "Q", "O")
                _add(writes, moved, "O")
                _add(reads, queries, "l", "m")
                _add(writes, queries, "l", "m")
    return Accesses(reads, writes)


def fused_closed_form(head: Head, m: int) -> int:
    """The forward count in closed form: 2 n d + ceil(n / keys) (3 n d + 4 n)."""
    _, key_rows = fused_tiles(head, m)
    return 2 * head.n * head.d + -(-head.n // key_rows) * (3 * head.n * head.d + 4 * head.n)


def standard_passes(head: Head, backward: bool = False) -> Accesses:
    """Attention operator by operator: products, mask, softmax and dropout, each a kernel of its own.

    Forward: S is written by the product, read and written by mask, softmax and dropout, and read by the second
    product. Backward: P is read for dV; dP written by its product, then dropout, softmax (which also reads P) and mask
    each read and write it; dS is read for dQ and for dK.
    """
    scores, rows = head.n * head.n, head.n * head.d
    if not backward:
        return Accesses(
            {"Q": rows, "K": rows, "V": rows, "scores": 4 * scores}, {"O": rows, "scores": 4 * scores}
        )
    reads = {"Q": rows, "K": rows, "V": rows, "dO": 2 * rows, "scores": 7 * scores}
    return Accesses(reads, {"dQ": rows, "dK": rows, "dV": rows, "scores": 4 * scores})


def fused_trace(head: Head, query_rows: int, key_rows: int) -> TraceOf:
    """Every element access of the fused algorithm with the keys outside, in blocks of the given rows.

    Scores of a block live in a buffer of their own, outputs in memory.
    """
    n, d = head.n, head.d
    out = np.empty(_fused_length(n, d), dtype=np.int64)
    writes = np.zeros(len(out), dtype=np.bool_)
    used = _fused(n, d, query_rows, key_rows, out, writes)
    return out[:used], writes[:used]


def blocked_trace(head: Head, tile: int) -> TraceOf:
    """Every element access of two blocked products with square tiles and the scores between them in memory."""
    n, d = head.n, head.d
    out = np.empty(6 * n * n * d + 2 * n * n, dtype=np.int64)
    writes = np.zeros(len(out), dtype=np.bool_)
    scores, rows = 4 * n * d, n * d
    # Q is n x d at 0, K at n d, V at 2 n d, O at 3 n d; the scores lie behind them.
    trace = _Trace(out, writes)
    used = _product(
        _Size(n, n, d), _Matrix(0, d, 1), _Matrix(rows, 1, d), _Matrix(scores, n, 1), tile, trace, 0
    )
    for at in range(n * n):
        out[used + 2 * at : used + 2 * at + 2] = scores + at
    writes[used + 1 : used + 2 * n * n : 2] = True
    used += 2 * n * n
    weights, values, result = _Matrix(scores, n, 1), _Matrix(2 * rows, d, 1), _Matrix(3 * rows, d, 1)
    used = _product(_Size(n, d, n), weights, values, result, tile, trace, used)
    return out[:used], writes[:used]


def _blocks(n: int, rows: int) -> Iterator[int]:
    for start in range(0, n, rows):
        yield min(rows, n - start)


def _add(totals: dict[str, int], elements: int, *names: str) -> None:
    for name in names:
        totals[name] = totals.get(name, 0) + elements


def _fused_length(n: int, d: int) -> int:
    return 6 * n * n * d + 2 * n * n


@compiled
def _fused(
    n: int, d: int, query_rows: int, key_rows: int, out: NDArray[np.int64], writes: NDArray[np.bool_]
) -> int:
    k0, v0, o0, s0 = n * d, 2 * n * d, 3 * n * d, 4 * n * d
    at = 0
    for j0 in range(0, n, key_rows):
        j1 = min(j0 + key_rows, n)
        for i0 in range(0, n, query_rows):
            i1 = min(i0 + query_rows, n)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    score = s0 + (i - i0) * key_rows + j - j0
                    for e in range(d):
                        out[at], out[at + 1], out[at + 2] = i * d + e, k0 + j * d + e, score
                        writes[at + 2] = True
                        at += 3
            for i in range(i0, i1):
                for j in range(j0, j1):
                    score = s0 + (i - i0) * key_rows + j - j0
                    out[at] = out[at + 1] = score
                    writes[at + 1] = True
                    at += 2
                    for e in range(d):
                        out[at], out[at + 1], out[at + 2] = score, v0 + j * d + e, o0 + i * d + e
                        writes[at + 2] = True
                        at += 3
    return at


class _Size(NamedTuple):
    """Rows and columns of C, and the depth of the product."""

    rows: int
    columns: int
    depth: int


class _Matrix(NamedTuple):
    """Where a matrix starts in memory, and the steps from row to row and from column to column."""

    start: int
    row: int
    column: int


class _Trace(NamedTuple):
    """Accesses by place: the element, and whether it is written."""

    out: NDArray[np.int64]
    writes: NDArray[np.bool_]


@compiled
def _product(size: _Size, a: _Matrix, b: _Matrix, c: _Matrix, tile: int, trace: _Trace, at: int) -> int:
    """Accesses of C += A B in square tiles of C, the depth in steps of one; returns the next place."""
    out, writes = trace.out, trace.writes
    for i0 in range(0, size.rows, tile):
        for j0 in range(0, size.columns, tile):
            for e in range(size.depth):
                for i in range(i0, min(i0 + tile, size.rows)):
                    for j in range(j0, min(j0 + tile, size.columns)):
                        out[at] = a.start + i * a.row + e * a.column
                        out[at + 1] = b.start + e * b.row + j * b.column
                        out[at + 2] = c.start + i * c.row + j * c.column
                        writes[at + 2] = True
                        at += 3
    return at
