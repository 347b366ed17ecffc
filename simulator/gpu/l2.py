"""The L2 under a tiled product: a set-associative simulator of tile accesses, and its closed form.

A product's thread blocks run in waves, in the order of the library's rasterisation: columns of ``swizzle``
tiles. Every k-step, each running block reads a tile of either operand. The simulator plays that trace, at the
grain of operand tiles, against a set-associative cache with LRU replacement and counts the tiles that miss.
The closed form says: a wave needs each distinct panel once; panels stay for the next wave when both operands'
panels of a wave fit, and the whole operand stays when it fits beside the other's panel.
:func:`closed_form_error` gives the difference on one shape; docs/gpu-model.md has its distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled

__all__ = ["TileProduct", "closed_form_bytes", "closed_form_error", "lru_misses", "simulated_bytes"]

Ints = NDArray[np.int64]
WAYS: Final = 16
MAX_ACCESSES: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class TileProduct:
    """A product (m x k)(k x n) in tiles bm x bn x bk, ``concurrent`` thread blocks at a time.

    ``swizzle`` is how many tile rows one column of the rasterisation spans; sizes in elements.
    """

    m: int
    n: int
    k: int
    bm: int
    bn: int
    bk: int
    concurrent: int
    element_bytes: int = 2
    swizzle: int = 8

    @property
    def rows(self) -> int:
        """Tile rows of the output."""
        return -(-self.m // self.bm)

    @property
    def columns(self) -> int:
        """Tile columns of the output."""
        return -(-self.n // self.bn)

    @property
    def steps(self) -> int:
        """Steps of the reduction."""
        return -(-self.k // self.bk)

    def tile_bytes(self) -> tuple[int, int]:
        """Bytes of one operand tile: left, right."""
        return self.bm * self.bk * self.element_bytes, self.bn * self.bk * self.element_bytes


@compiled
def _place(block: int, rows: int, columns: int, swizzle: int) -> tuple[int, int]:
    """Tile row and column of a thread block: columns of ``swizzle`` rows, walked row by row."""
    band = block // (swizzle * columns)
    height = min(swizzle, rows - band * swizzle)
    inside = block - band * swizzle * columns
    return band * swizzle + inside % height, inside // height


@compiled
def _touch(key: int, sets: int, ways: int, tags: Ints, ages: Ints, clock: int) -> bool:
    """Access a tile; True when it misses. Sets are chosen by a multiplicative hash, replacement is LRU."""
    base = ((key * 0x9E3779B1) & 0x7FFFFFFF) % sets * ways
    oldest = base
    for way in range(base, base + ways):
        if tags[way] == key:
            ages[way] = clock
            return False
        if ages[way] < ages[oldest]:
            oldest = way
    tags[oldest] = key
    ages[oldest] = clock
    return True


@compiled
def _play(
    rows: int, columns: int, steps: int, concurrent: int, swizzle: int, sets: int, ways: int
) -> tuple[int, int]:
    tags = np.full(sets * ways, -1, dtype=np.int64)
    ages = np.zeros(sets * ways, dtype=np.int64)
    left = right = clock = 0
    total = rows * columns
    for start in range(0, total, concurrent):
        for step in range(steps):
            for block in range(start, min(start + concurrent, total)):
                row, column = _place(block, rows, columns, swizzle)
                clock += 1
                if _touch((row * steps + step) * 2, sets, ways, tags, ages, clock):
                    left += 1
                if _touch((column * steps + step) * 2 + 1, sets, ways, tags, ages, clock):
                    right += 1
    return left, right


@compiled
def lru_misses(trace: Ints, sets: int, ways: int) -> int:
    """Misses of a trace of block numbers (at least 0) in a set-associative LRU cache."""
    tags = np.full(sets * ways, -1, dtype=np.int64)
    ages = np.zeros(sets * ways, dtype=np.int64)
    misses = 0
    for i in range(len(trace)):
        if _touch(trace[i], sets, ways, tags, ages, i + 1):
            misses += 1
    return misses


def simulated_bytes(product: TileProduct, l2_bytes: float) -> float:
    """Operand bytes read from DRAM, by simulation of every tile access.

    Raises ``ValueError`` for a product of more than 200 million accesses.
    """
    left, right = product.tile_bytes()
    if product.rows * product.columns * product.steps * 2 > MAX_ACCESSES:
        raise ValueError("the product has too many tile accesses to simulate; take larger tiles")
    grain = (left + right) / 2
    sets = max(1, int(l2_bytes / grain / WAYS))
    missed = _play(
        product.rows, product.columns, product.steps, product.concurrent, product.swizzle, sets, WAYS
    )
    return float(missed[0] * left + missed[1] * right)


def closed_form_bytes(product: TileProduct, l2_bytes: float) -> float:
    """The same in closed form."""
    p = product
    depth = p.steps * p.bk * p.element_bytes
    height = min(p.swizzle, p.rows)
    wide = max(1, min(p.columns, p.concurrent // height))
    a_panel, b_panel = height * p.bm * depth, wide * p.bn * depth
    bands = -(-p.rows // height)
    waves_across = -(-p.columns // wide)
    a_bytes, b_bytes = p.rows * p.bm * depth, p.columns * p.bn * depth
    if a_bytes + b_bytes <= l2_bytes:
        return float(a_bytes + b_bytes)
    # The left panels of a band serve all its waves when they survive a wave's traffic.
    left_again = 1.0 if a_panel + b_panel <= l2_bytes else float(waves_across)
    # The right operand serves all bands when it survives a band.
    right_again = 1.0 if b_bytes + a_panel <= l2_bytes else float(bands)
    return a_bytes * left_again + b_bytes * right_again


def closed_form_error(product: TileProduct, l2_bytes: float) -> float:
    """Closed form over simulation, less one."""
    return closed_form_bytes(product, l2_bytes) / simulated_bytes(product, l2_bytes) - 1
