"""A systolic array: how many clocks a product of matrices takes, by dataflow and shape.

One operand is held in the cells (the outputs, the weights or the inputs), tile by tile; a tile and what streams
past it is a *fold*. Data enter skewed by one clock per row and column, so a fold of r x c cells and T streamed
vectors is busy for T + r + c - 2 clocks, and filling the cells, or draining outputs from them, takes r clocks
more (Samajdar et al., SCALE-Sim, ISPASS 2020, section III). Cells that hold a second set of operands
(``prefetch``) fill it while the first is used, and the next fold's stream follows without a gap; then only the
first filling and the last skew remain beside the streams.

Shapes: inputs m x k times weights k x n. In the cells lie: ``weight`` k by n, m streams; ``output`` m by n, k
streams; ``input`` k by m, n streams. Several arrays share the folds across the columns, or the stream, or the
independent products, whichever takes least.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Final

__all__ = [
    "DATAFLOWS",
    "ArrayShape",
    "Product",
    "array_clocks",
    "fold_clocks",
    "streamed_elements",
    "utilisation",
]

DATAFLOWS: Final = ("output", "weight", "input")


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """``arrays`` arrays of ``rows`` x ``columns`` multiply-accumulate cells under one dataflow."""

    rows: int
    columns: int
    arrays: int = 1
    dataflow: str = "weight"
    prefetch: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """``count`` independent products of m x k by k x n."""

    m: int
    k: int
    n: int
    count: int = 1

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all of them."""
        return prod((self.m, self.k, self.n, self.count))


def fold_clocks(rows: int, columns: int, streamed: int) -> int:
    """Clocks of one fold by itself: filling or draining, the stream, and the skew of the cells it uses.

    >>> fold_clocks(128, 128, 1000)
    1382
    """
    return rows + streamed + rows + columns - 2


def array_clocks(product: Product, shape: ArrayShape) -> int:
    """Clocks until the last output has left the arrays; 0 for a product without elements."""
    if product.multiply_adds == 0:
        return 0
    return _array_clocks(product, shape)


@lru_cache(maxsize=65536)
def _array_clocks(product: Product, shape: ArrayShape) -> int:
    down, across, streamed = _held(product, shape.dataflow)
    arrays = shape.arrays
    alone = -(-product.count // arrays) * _one_array(down, across, streamed, shape)
    if arrays == 1 or product.count % arrays == 0:
        return alone
    # Fewer products than arrays, or a rest: all arrays work on one product at a time.
    by_columns = _one_array(down, _widest_share(across, shape), streamed, shape)
    by_stream = _one_array(down, across, -(-streamed // arrays), shape)
    return min(alone, product.count * by_columns, product.count * by_stream)


def _widest_share(across: int, shape: ArrayShape) -> int:
    """Columns of the array that has most when tiles of columns are dealt out in turn."""
    tiles = -(-across // shape.columns)
    most = -(-tiles // shape.arrays)
    if tiles % shape.arrays == 1:
        # Only the first array has that many, and its last tile is the narrow one.
        return (most - 1) * shape.columns + across - (tiles - 1) * shape.columns
    return most * shape.columns


def _held(product: Product, dataflow: str) -> tuple[int, int, int]:
    """What lies in the cells (down, across) and how many vectors stream by."""
    if dataflow == "weight":
        return product.k, product.n, product.m
    if dataflow == "output":
        return product.m, product.n, product.k
    return product.k, product.m, product.n


def _one_array(down: int, across: int, streamed: int, shape: ArrayShape) -> int:
    """One product on one array: whole tiles, and those at the lower and right edge."""
    tall, short = divmod(down, shape.rows)
    wide, narrow = divmod(across, shape.columns)
    heights = ([(shape.rows, tall)] if tall else []) + ([(short, 1)] if short else [])
    widths = ([(shape.columns, wide)] if wide else []) + ([(narrow, 1)] if narrow else [])
    if not shape.prefetch:
        return sum(fold_clocks(r, c, streamed) * i * j for r, i in heights for c, j in widths)
    return _overlapped(heights, widths, streamed, shape.dataflow == "output")


def _overlapped(
    heights: list[tuple[int, int]], widths: list[tuple[int, int]], streamed: int, drains: bool
) -> int:
    """Clocks when each fold's filling (or draining) hides behind the stream of another.

    Folds of one column of tiles follow one another down, then comes the next column. A narrow fold at an edge may
    end before a full one that began earlier, so the end is the latest of those that can be last.
    """
    tall, count = heights[0]
    period = sum(max(streamed, r) * i for r, i in heights)
    column = (count - 1) * max(streamed, tall) + _fold_end(tall, streamed, drains)
    if len(heights) > 1:
        short = heights[1][0]
        begin = (count - 1) * max(streamed, tall) + max(streamed, tall if drains else short)
        column = max(column, begin + _fold_end(short, streamed, drains))
    filled = 0 if drains else tall
    done, end = 0, 0
    for wide, number in widths:
        done += number
        end = max(end, filled + (done - 1) * period + column + wide)
    return end


def _fold_end(rows: int, streamed: int, drains: bool) -> int:
    """From the beginning of a fold's stream to its last output, but for its columns."""
    return streamed + rows - 2 + (rows if drains else 0)


def utilisation(product: Product, shape: ArrayShape) -> float:
    """Share of all cells' clocks that do a multiply-add; 0 to 1."""
    clocks = array_clocks(product, shape)
    cells = shape.rows * shape.columns * shape.arrays
    return product.multiply_adds / (cells * clocks) if clocks else 0.0


def streamed_elements(product: Product, shape: ArrayShape) -> tuple[int, int, int]:
    """Elements that cross the scratchpad's ports: inputs read, weights read, outputs written.

    An operand is read again for every fold it streams past; partial sums stay in the accumulators.
    """
    m, k, n, count = product.m, product.k, product.n, product.count
    if shape.dataflow == "weight":
        return m * k * -(-n // shape.columns) * count, k * n * count, m * n * count
    if shape.dataflow == "output":
        return (
            m * k * -(-n // shape.columns) * count,
            k * n * -(-m // shape.rows) * count,
            m * n * count,
        )
    return m * k * count, k * n * -(-m // shape.columns) * count, m * n * count
