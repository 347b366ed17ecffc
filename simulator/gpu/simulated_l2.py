"""Products with their L2 traffic simulated access by access, in place of its closed form: cycle fidelity on GPUs.

The closed form chooses tile and split; the product that was chosen is then played tile by tile through the
set-associative L2 (:mod:`simulator.gpu.l2`), and priced again with the bytes that DRAM gave more than once. What is too
large to play, or has operands of two widths, keeps the closed form.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from simulator.gpu import gemm
from simulator.gpu.constants import Constants
from simulator.gpu.l2 import MAX_ACCESSES, TileProduct, simulated_bytes
from simulator.gpu.rows import Request, family_of, gemm_line

__all__ = ["reread_bytes", "with_simulated_l2"]

STEP: Final = 64
"""Elements of the reduction that a pipeline stage takes: 128 bytes of 16-bit elements."""


def reread_bytes(
    line: list[float], constants: Constants, family: str, tile: tuple[int, int], split: int
) -> float:
    """Operand bytes that the L2 lets DRAM give more than once, over all of a batch; -1 where it can't be played.

    ``line`` are the inputs of :func:`simulator.gpu.gemm.gemm_rows`.
    """
    if line[gemm.EA] != line[gemm.EW] or line[gemm.EA] < 1:
        return -1.0
    held = gemm.residency(float(tile[0]), float(tile[1]), line[gemm.SHARED], line[gemm.ACC])[1]
    blocks_at_once = line[gemm.SMS] * held
    product = TileProduct(
        int(line[gemm.M]), int(line[gemm.N]), max(1, int(line[gemm.K]) // split), tile[0], tile[1], STEP,
        max(1, int(blocks_at_once)), int(line[gemm.EA]),
    )  # fmt: skip
    if product.rows * product.columns * product.steps * 2 > MAX_ACCESSES:
        return -1.0
    l2_bytes = line[gemm.L2] * float(constants.data[family]["l2_share"])
    left, right = product.tile_bytes()
    once = product.steps * (product.rows * left + product.columns * right)
    again = max(0.0, simulated_bytes(product, l2_bytes) - once)
    return again * split * line[gemm.B]


def with_simulated_l2(request: Request, constants: Constants, choice: str) -> tuple[float, float] | None:
    """Kernel seconds and DRAM bytes of a product with the tile and split of ``choice`` ("128x128/1").

    None where the closed form has to stand.
    """
    tile_text, _, split_text = choice.partition("/")
    tile = tuple(int(part) for part in tile_text.split("x"))
    family = family_of(request.operator, request.sheet)
    line = gemm_line(request, constants)
    line[gemm.REREAD] = reread_bytes(line, constants, family, (tile[0], tile[1]), int(split_text))
    if line[gemm.REREAD] < 0:
        return None
    out = np.zeros((1, gemm.RESULTS))
    gemm.gemm_rows(
        np.array([line]), constants.array(family, gemm.CONSTANTS), np.array([tile], dtype=np.float64),
        np.array([float(split_text)]), out,
    )  # fmt: skip
    return float(out[0, 0]), float(out[0, 2])
