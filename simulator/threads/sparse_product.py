"""A product of two sparse matrices on a machine of many threads, three ways.

- ``row-hash``: a row of the result is a sum of rows of the right matrix. Windows of rows are merged in a hash table in
  the scratchpad as the products are made, and written when the window is done (Gustavson 1978; SMASH,
  arXiv:2105.14156).
- ``outer``: a column of the left times a row of the right, each read once; the partial products go to memory, come back
  sorted by row, and are merged as above (OuterSPACE, HPCA 2018).
- ``inner``: for each row of the left, kept in the scratchpad, every column of the right is read and looked up.

Bytes are those of the granules touched. Instructions per step are assumptions, the same for all ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.many_threads import ManyThreads
from hw_configs.problems import bad_input, nearest
from simulator.threads.product_kernels import merge_windows, products_of_rows, spans_of_rows
from simulator.threads.work import COLUMNS, Phase
from workloads.sparse_matrix import SparseMatrix, transposed

__all__ = ["WAYS", "Product", "ProductOptions", "product_phases"]

WAYS: Final = ("row-hash", "outer", "inner")
INDEX: Final = 4
VALUE: Final = 8
PARTIAL: Final = 16
"""Bytes of a partial product in memory: its row, its column, its value."""
SLOT: Final = 16
"""Bytes of a slot: the place and the sum."""
CHUNK: Final = 256
"""Slots of a task that writes a table out."""
MOST_PRODUCTS: Final = 2**28

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Instructions:
    """Instructions of a step (assumptions): a stored value of the left, a product, a probe, a slot written out."""

    stored: int = 6
    product: int = 4
    probe: int = 3
    slot: int = 3


@dataclass(frozen=True, slots=True)
class ProductOptions:
    """How a product is made.

    ``load``: share of a table's slots that its window may fill at most. ``hashing``: a slot by the lowest bits of the
    place or by all of them. ``tasks``: one a row or one a stored value of the left, but by columns in the first phase
    of ``outer`` and by rows for ``inner``. ``dynamic``: a free thread takes the next task.
    """

    way: str = "row-hash"
    load: float = 0.5
    hashing: Literal["low", "mixed"] = "mixed"
    tasks: Literal["row", "value"] = "value"
    dynamic: bool = True
    instructions: Instructions = Instructions()

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise bad_input(f"unknown way {self.way!r}; known: {', '.join(WAYS)}", path="--way",
                            suggestion=nearest(self.way, WAYS))  # fmt: skip
        if not 0 < self.load <= 1:
            raise bad_input(f"found {self.load:g}; expected above 0 up to 1", path="--load")


@dataclass(frozen=True, eq=False)
class Product:
    """The work, the result, and what was counted on the way: ``probes`` of the tables, ``windows`` of rows."""

    phases: tuple[Phase, ...]
    result: SparseMatrix
    multiplications: int
    probes: int
    windows: int


@dataclass(frozen=True, eq=False)
class _Merged:
    """The tables of a product: rows of each window, slots as a power of two, probes and used slots."""

    windows: Longs
    bits: Longs
    probes: Longs
    chunk_entries: Longs
    result: SparseMatrix


def product_phases(
    left: SparseMatrix, right: SparseMatrix, machine: ManyThreads, options: ProductOptions | None = None
) -> Product:
    """Execute a product and write down what each thread has to do for it.

    Raises ``InputError`` where the sides do not match, a row's table does not fit the scratchpad, or there are more
    than :data:`MOST_PRODUCTS` multiplications.
    """
    options = options or ProductOptions()
    if left.columns != right.rows:
        raise bad_input(f"a matrix of {left.columns} columns times one of {right.rows} rows")
    products = products_of_rows(left.offsets, left.indices, right.offsets)
    if int(products.sum()) > MOST_PRODUCTS:
        raise bad_input(f"found {int(products.sum())} multiplications; at most {MOST_PRODUCTS}")
    merged = _merge(left, right, machine, options, products)
    sizes = np.diff(right.offsets)[left.indices]
    if options.way == "inner":
        phases = _inner(left, right, machine, options, np.diff(merged.result.offsets))
    elif options.way == "outer":
        phases = [
            _multiply(left, right, machine, options),
            *_merging(left, merged, machine, options, sizes, None),
        ]
    else:
        phases = _merging(left, merged, machine, options, sizes, right)
    return Product(
        tuple(phases), merged.result, int(products.sum()), int(merged.probes.sum()), merged.windows.size - 1
    )


def _merge(
    left: SparseMatrix, right: SparseMatrix, machine: ManyThreads, options: ProductOptions, products: Longs
) -> _Merged:
    slots = 1 << (int(machine.scratchpad) // SLOT).bit_length() - 1 if machine.scratchpad >= SLOT else 0
    room = int(slots * options.load)
    needed = np.minimum(products, right.columns)
    if needed.max(initial=0) > room:
        row = int(needed.argmax())
        raise bad_input(
            f"row {row} of the result may have {int(needed[row])} values; a table in the scratchpad of "
            f"{machine.name!r} has room for {room}", path="--load",
        )  # fmt: skip
    windows, used = [0], 0
    for row, need in enumerate(needed.tolist()):
        if used + need > room:
            windows.append(row)
            used = 0
        used += need
    windows.append(left.rows)
    filled = [int(needed[a:b].sum()) for a, b in pairwise(windows)]
    bits = np.array([max(0, int(np.ceil(fill / options.load)) - 1).bit_length() for fill in filled], np.int64)
    probes = np.zeros(left.nonzeros, np.int64)
    chunk_entries = np.zeros(int(((1 << bits) // CHUNK + 1).sum()), np.int64)
    most = int(needed.sum())
    offsets, indices, values = np.zeros(left.rows + 1, np.int64), np.zeros(most, np.int32), np.zeros(most)
    chunks = int(merge_windows(
        (left.offsets, left.indices, left.values), (right.offsets, right.indices, right.values),
        (np.array(windows, np.int64), bits, right.columns, options.hashing == "mixed", CHUNK),
        (probes, chunk_entries, offsets, indices, values),
    ))  # fmt: skip
    assert chunks >= 0, "a window's table holds what its rows can have at most"
    result = _in_order(offsets, indices, values, right.columns)
    return _Merged(np.array(windows, np.int64), bits, probes, chunk_entries[:chunks], result)


def _in_order(
    offsets: Longs, indices: npt.NDArray[np.int32], values: npt.NDArray[np.float64], columns: int
) -> SparseMatrix:
    """The result with the columns of each row in order."""
    entries = int(offsets[-1])
    places = np.repeat(np.arange(offsets.size - 1) * columns, np.diff(offsets)) + indices[:entries]
    order = np.argsort(places)
    return SparseMatrix(offsets, indices[:entries][order], values[:entries][order], columns)


def _up(sizes: Longs, granule: int) -> Longs:
    """Sizes rounded up to whole granules."""
    return -(-sizes // granule) * granule


def _segments(count: int, **columns: Longs | int) -> Longs:
    table = np.zeros((count, len(COLUMNS)), np.int64)
    for name, column in columns.items():
        table[:, COLUMNS.index(name)] = column
    return table


def _row_bytes(matrix: SparseMatrix, granule: int) -> Longs:
    """Bytes that reading each row moves: its offsets, its columns, its values."""
    sizes = spans_of_rows(matrix.offsets, INDEX, granule) + spans_of_rows(matrix.offsets, VALUE, granule)
    return np.asarray(sizes + max(granule, 2 * VALUE), np.int64)


def _merging(
    left: SparseMatrix, merged: _Merged, machine: ManyThreads, options: ProductOptions, sizes: Longs,
    right: SparseMatrix | None,
) -> list[Phase]:  # fmt: skip
    """Two phases a window: its products into the table, the table out. ``right`` None: products come from memory."""
    cost, granule = options.instructions, int(machine.granule)
    if right is None:
        read, trips = _up(sizes * PARTIAL, granule), 1
    else:
        read, trips = _row_bytes(right, granule)[left.indices] + INDEX + VALUE, 2
    work = _segments(
        left.nonzeros,
        instructions=cost.stored + cost.product * sizes + cost.probe * merged.probes,
        accesses=merged.probes, atomics=sizes, trips=trips, read_bytes=read,
    )  # fmt: skip
    entries = merged.chunk_entries
    phases, chunk = [], 0
    for number, (first, last, bits) in enumerate(
        zip(merged.windows[:-1].tolist(), merged.windows[1:].tolist(), merged.bits.tolist(), strict=True)
    ):
        begin, end = int(left.offsets[first]), int(left.offsets[last])
        if options.tasks == "row":
            begins = left.offsets[first : last + 1] - begin
        else:
            begins = np.arange(end - begin + 1, dtype=np.int64)
        phases.append(Phase(f"merge {number}", work[begin:end], begins, options.dynamic))
        count = ((1 << bits) + CHUNK - 1) // CHUNK
        size = min(CHUNK, 1 << bits)
        out = _segments(
            count, instructions=cost.slot * size, accesses=1, atomics=size - 1,
            write_bytes=_up(entries[chunk : chunk + count] * (INDEX + VALUE), granule),
        )  # fmt: skip
        phases.append(Phase(f"write {number}", out, np.arange(count + 1, dtype=np.int64)))
        chunk += count
    return phases


def _multiply(
    left: SparseMatrix, right: SparseMatrix, machine: ManyThreads, options: ProductOptions
) -> Phase:
    """Columns of the left times rows of the right; a task keeps its row in the scratchpad."""
    cost, granule = options.instructions, int(machine.granule)
    by_column = transposed(left)
    counts = np.diff(by_column.offsets)
    sizes = np.repeat(np.diff(right.offsets), counts)
    firsts = by_column.offsets[:-1][counts > 0]
    first = np.zeros(left.nonzeros, np.int64)
    first[firsts] = 1
    row = np.repeat(_row_bytes(right, granule), counts)
    work = _segments(
        left.nonzeros, instructions=cost.stored + cost.product * sizes, accesses=np.minimum(sizes, 1),
        atomics=np.maximum(sizes - 1, 0), trips=1 + first, read_bytes=INDEX + VALUE + first * row,
        write_bytes=_up(sizes * PARTIAL, granule),
    )  # fmt: skip
    return Phase("multiply", work, by_column.offsets, options.dynamic)


def _inner(
    left: SparseMatrix, right: SparseMatrix, machine: ManyThreads, options: ProductOptions, entries: Longs
) -> list[Phase]:
    """A task a row of the left: all columns of the right against it."""
    cost, granule = options.instructions, int(machine.granule)
    by_column = transposed(right)
    used = int((np.diff(by_column.offsets) > 0).sum())
    indices = int(spans_of_rows(by_column.offsets, INDEX, granule).sum())
    matches = products_of_rows(left.offsets, left.indices, right.offsets)
    stored = np.diff(left.offsets)
    there = (stored > 0).astype(np.int64)
    work = _segments(
        left.rows,
        instructions=there * (cost.stored * stored + cost.probe * right.nonzeros) + cost.product * matches,
        accesses=there * used, atomics=there * (right.nonzeros - used), trips=there * (1 + used) + entries,
        read_bytes=there * indices + matches * max(granule, VALUE) + _up(stored * (INDEX + VALUE), granule),
        write_bytes=_up(entries * (INDEX + VALUE), granule),
    )  # fmt: skip
    return [Phase("rows", work, np.arange(left.rows + 1, dtype=np.int64), options.dynamic)]
