"""Products of few rows on the vector units: each weight is streamed once, and nothing is padded to a tile.

Beside their tiles for matrix units (:mod:`simulator.gpu.gemm`) libraries have kernels for a handful of rows, as one
sequence's decode step is (cuBLAS' gemv, TensorRT-LLM's batched GEMV of weight-only plug-ins, llama.cpp's
``mul_mat_vec`` up to 8 columns). A warp walks along the reduction of an output, 256 weights a step, eight warps
together. A product lasts the soft maximum of

- the memory: weights, rows and output over the share of the DRAM's bandwidth, and what a multiprocessor takes in of
  them over the least of its path from the L2 and bytes in flight / latency;
- the vector lanes: one instruction to widen a weight (or what the library takes), one multiply-add per weight and row,
  two per row and block of scales

and, after it, the latency of an output's steps. The form follows llama.cpp's and FasterTransformer's public
descriptions of such kernels; latency and bytes in flight are fitted by ``calibration/fit_few_rows.py``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.gpu import gemm
from simulator.gpu.power import within_power

__all__ = ["CHOICE", "CONSTANTS", "LIMIT", "few_rows"]

Array = NDArray[np.float64]

LIMIT: Final = 8.0
"""Most rows that such a kernel takes: llama.cpp's limit, MMVQ_MAX_BATCH_SIZE."""
CHOICE: Final = -1.0
"""What stands in place of a tile and split."""
CHUNK: Final = 256.0
"""Weights that a warp loads at once: 8 per lane."""
WARPS: Final = 8.0
"""Warps that walk along one output together."""
CONSTANTS: Final = ("in_flight_kib", "latency_us", "step_us", "overlap")
INFLIGHT, LATENCY, STEP, OVER = range(4)


@compiled
def few_rows(rows: Array, products: Array, constants: Array, out: Array) -> None:
    """Take this kernel for each row of :data:`simulator.gpu.gemm.COLUMNS` for which it is quicker than ``out`` says.

    ``products`` are the family's constants (:data:`simulator.gpu.gemm.CONSTANTS`), of which those of memory hold here.
    """
    x, y = products, constants
    for r in range(rows.shape[0]):
        f = rows[r]
        m, n, k, b = f[gemm.M], f[gemm.N], f[gemm.K], f[gemm.B]
        if m > f[gemm.FEWROWS]:
            continue
        a_dram, w_dram, o_dram = gemm.dram_bytes(f, x)
        dram_rate = f[gemm.BW] * x[gemm.ACCESS]
        clk = f[gemm.CLK]
        # Outputs are dealt out by steps, so that one multiprocessor has at most one step more than another.
        weights = np.ceil(np.ceil(k / CHUNK) * n * b / f[gemm.SMS]) * CHUNK
        instructions = max(1.0, f[gemm.CONV]) + m
        if f[gemm.SCALE] > 0:
            instructions += 2.0 * m / f[gemm.SCALE]
        lanes = min(f[gemm.VRATE], f[gemm.RATE]) / 2.0
        compute = weights * instructions / (lanes * clk)
        taken = weights * f[gemm.EW] + m * k * f[gemm.EA] * min(1.0, n * b / f[gemm.SMS])
        own_rate = min(f[gemm.L2CLK] * clk, y[INFLIGHT] * 1024.0 / (y[LATENCY] * 1e-6))
        l2_rate = f[gemm.SMS] * clk * f[gemm.L2CLK] * x[gemm.L2RATE]
        feed = max(taken / own_rate, b * k * n * f[gemm.EW] / l2_rate)
        dram = (a_dram + w_dram + o_dram) / dram_rate
        p = x[gemm.MEMOVER]
        memory = (dram**p + feed**p) ** (1 / p)
        p = y[OVER]
        fixed = y[LATENCY] * 1e-6 + y[STEP] * 1e-6 * np.ceil(k / (CHUNK * WARPS))
        moved = a_dram + w_dram + o_dram
        joule = 2 * m * n * k * b * f[gemm.JF] + moved * f[gemm.JB]
        total = within_power((compute**p + memory**p) ** (1 / p) + fixed, joule, f[gemm.TDP] - f[gemm.IDLE])
        if total < out[r, 0]:
            out[r, 0] = total
            out[r, 1] = 0.0 if compute >= memory else (1.0 if dram >= feed else 2.0)
            if fixed > max(compute, memory):
                out[r, 1] = 3.0
            out[r, 2] = moved
            out[r, 3] = CHOICE
