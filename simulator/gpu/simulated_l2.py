"""DRAM traffic of GPU kernels played through the L2, in place of closed forms: cycle fidelity on GPUs.

The closed form chooses a product's tile and split; the tiles are then played through the L2, and the product is priced
again with the bytes that DRAM gave more than once. Attention over prompts is played tile by tile, lookups row by row in
sectors; they last at least as long as DRAM takes for the bytes that it gave. What is too large to play, or has operands
of two widths, keeps the closed form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from simulator.gpu import attention, gemm
from simulator.gpu.attention_lines import attention_line
from simulator.gpu.constants import Constants
from simulator.gpu.l2 import MAX_TILES, TileProduct, simulated_bytes
from simulator.gpu.request import Prediction, Request, family_of
from simulator.gpu.rows import gemm_line
from simulator.gpu_memory.coarse import read_bytes
from workloads.gpu_trace.kernels import Launch, generate_kernel
from workloads.operators import Attention, Embedding, Gather

__all__ = ["reread_bytes", "with_simulated_l2"]

STEP: Final = 64
"""Elements of the reduction that a pipeline stage takes: 128 bytes of 16-bit elements."""
MAX_ROWS: Final = 2_000_000
SECTOR: Final = 32
SPARSE: Final = 8
"""Rows of a table for one that is looked up: the table's size is not known, and repeats are rare in a large one."""


def with_simulated_l2(request: Request, constants: Constants, found: Prediction) -> Prediction:
    """A prediction with DRAM's bytes by simulation; as it was where the closed form has to stand."""
    work = request.operator.work
    if found.choice:
        return _product(request, constants, found)
    if isinstance(work, Attention) and work.q_len > 1:
        moved = _attention_bytes(request, constants, work)
    elif isinstance(work, Embedding | Gather) and 0 < work.m <= MAX_ROWS:
        moved = _lookup_bytes(request, work)
    else:
        return found
    if moved <= found.dram_bytes:
        return found
    rate = request.sheet.bandwidth * constants.memory_share(request.sheet.memory)
    return replace(found, kernel_s=max(found.kernel_s, moved / rate), dram_bytes=moved)


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
    if product.tiles_read > MAX_TILES:
        return -1.0
    l2_bytes = line[gemm.L2] * float(constants.data[family]["l2_share"])
    left, right = product.tile_bytes()
    once = product.steps * (product.rows * left + product.columns * right)
    again = max(0.0, simulated_bytes(product, l2_bytes) - once)
    return again * split * line[gemm.B]


def _product(request: Request, constants: Constants, found: Prediction) -> Prediction:
    """A product with the tile and split that were chosen ("128x128/1")."""
    tile_text, _, split_text = found.choice.partition("/")
    if not split_text:
        return found  # on the vector units each weight is read once
    tile = tuple(int(part) for part in tile_text.split("x"))
    family = family_of(request.operator, request.sheet)
    line = gemm_line(request, constants)
    line[gemm.REREAD] = reread_bytes(line, constants, family, (tile[0], tile[1]), int(split_text))
    if line[gemm.REREAD] < 0:
        return found
    out = np.zeros((1, gemm.RESULTS))
    gemm.gemm_rows(
        np.array([line]), constants.array(family, gemm.CONSTANTS), np.array([tile], dtype=np.float64),
        np.array([float(split_text)]), out,
    )  # fmt: skip
    return replace(
        found, kernel_s=float(out[0, 0]) * request.operator.work.share, dram_bytes=float(out[0, 2])
    )


def _attention_bytes(request: Request, constants: Constants, work: Attention) -> float:
    """Queries, keys, values and outputs of a prompt; 0 where a mask or the size keeps it from being played."""
    line = attention_line(request, constants)
    tile, keys = int(line[attention.QTILE]), int(line[attention.KEYS])
    tiles = work.batch * work.heads * -(-work.q_len // tile) * -(-work.kv_len // keys)
    if work.window or work.chunk or work.latent or line[attention.CB] < 1 or tiles > MAX_TILES:
        return 0.0
    text = (
        f"attention:{work.batch}:{work.heads}:{work.kv_heads}:{work.q_len}:{work.kv_len}:{work.head_dim}"
        f":tile_q={tile}:tile_k={keys}:bytes={int(line[attention.CB])}:causal={int(work.causal)}:tiled=1"
    )
    at_once = max(1, int(line[attention.SMS] * line[attention.ATONCE]))
    read = read_bytes(generate_kernel(text, Launch(at_once)), line[attention.L2])
    return read + float(request.operator.write_bytes)


def _lookup_bytes(request: Request, work: Embedding | Gather) -> float:
    """Rows of a table in whole sectors, and what is written of them."""
    operator, sheet = request.operator, request.sheet
    row = max(1, int(operator.write_bytes // work.m))
    trace = generate_kernel(f"gather:{SPARSE * work.m}:{row}:{work.m}:stores=0", Launch(int(sheet.sms)))
    return read_bytes(trace, sheet.l2_bytes, line_bytes=SECTOR) + float(operator.write_bytes)
