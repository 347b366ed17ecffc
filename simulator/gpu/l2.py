"""Operand bytes that a tiled product reads from DRAM: by playing its tiles through the L2, and in closed form.

A product's thread blocks run in waves, in the order of the library's rasterisation: columns of eight rows of tiles.
Every step of the reduction, each running block reads a tile of either operand. Played, these tiles go through the
partitions of the L2 in lines of 4 KiB (:mod:`simulator.gpu_memory`). The closed form says: a wave needs each distinct
panel once; panels stay for the next wave when both operands' panels of a wave fit, and the whole operand stays when it
fits beside the other's panel. :func:`closed_form_error` gives the difference on one shape; docs/gpu-model.md has its
distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulator.gpu_memory.coarse import read_bytes
from workloads.gpu_trace.kernels import SWIZZLE, Launch, generate_kernel

__all__ = ["TileProduct", "closed_form_bytes", "closed_form_error", "simulated_bytes"]

MAX_TILES: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class TileProduct:
    """A product (m x k)(k x n) in tiles bm x bn x bk, ``concurrent`` thread blocks at a time; sizes in elements."""

    m: int
    n: int
    k: int
    bm: int
    bn: int
    bk: int
    concurrent: int
    element_bytes: int = 2

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

    @property
    def tiles_read(self) -> int:
        """Tiles that all blocks read, each time that they do."""
        return 2 * self.rows * self.columns * self.steps

    def tile_bytes(self) -> tuple[int, int]:
        """Bytes of one operand tile: left, right."""
        return self.bm * self.bk * self.element_bytes, self.bn * self.bk * self.element_bytes


def simulated_bytes(product: TileProduct, l2_bytes: float, partitions: int = 1) -> float:
    """Operand bytes read from DRAM, by playing every tile. ``l2_bytes``: of all partitions together.

    Raises ``ValueError`` for a product of more than fifty million tiles.
    """
    p = product
    if p.tiles_read > MAX_TILES:
        raise ValueError("the product has too many tiles to play; take larger ones")
    text = (
        f"matmul:{p.m}:{p.n}:{p.k}:tile_m={p.bm}:tile_n={p.bn}:tile_k={p.bk}:bytes={p.element_bytes}"
        ":order=swizzle:tiled=1:stores=0"
    )
    return float(read_bytes(generate_kernel(text, Launch(p.concurrent)), l2_bytes, partitions))


def closed_form_bytes(product: TileProduct, l2_bytes: float) -> float:
    """The same in closed form, for an L2 of one partition."""
    p = product
    depth = p.steps * p.bk * p.element_bytes
    height = min(SWIZZLE, p.rows)
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
