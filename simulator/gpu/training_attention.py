"""Attention of a training step in one kernel, forward and backward, by the library that runs it.

A backward kernel does five products for the forward pass's two (Dao, FlashAttention-2, arXiv:2307.08691, section 3.1)
and is no slower copy of the forward one: it walks over blocks of queries for a tile of keys, keeps two sums in
registers, adds the third up in memory, and starts from a kernel that sums rows of the output times its gradient. So
both have constants of their own, fitted to published tables by ``calibration/fit_training_attention.py``:

- a share of the matrix units' rate. Kernels of warp-wide instructions (FlashAttention-2) reach :data:`WARP_RATE` of the
  units of a chip that has warp-group instructions, whatever they do;
- how often the exponentials of a score stand beside the products unhidden;
- cycles of a tile beside its pairs (fill, drain, epilogue), and, of one thread block alone, cycles of a pair of blocks;
- backward, bytes of its helpers: the rows' sums, and the queries' gradient in fp32, cleared, read and made narrow.

Time is that of all tiles over all multiprocessors and half of the longest tile, for the last to finish; no less than
its bytes take, nor than its energy over what the board's limit leaves.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.gpu.power import within_power

__all__ = ["COLUMNS", "CONSTANTS", "LIBRARIES", "training_attention_rows"]

Array = NDArray[np.float64]
LIBRARIES: Final = ("fa2", "fa3", "cudnn", "fa4")
"""Kernels with published tables: FlashAttention-2 and -3, cuDNN's fused attention on Hopper, FlashAttention-4."""
COLUMNS: Final = (
    "batch", "heads", "kv_heads", "head_dim", "v_head_dim", "q_len", "kv_len", "pairs", "causal", "backward",
    "library", "bytes", "sms", "clock", "rate", "warp_rate", "exponentials_per_clock", "bandwidth", "tdp", "idle",
    "j_flop", "j_byte",
)  # fmt: skip
"""Inputs of a row. ``pairs``: (query, key) pairs of one sequence and head that the mask leaves. ``library``: place
among :data:`LIBRARIES`. ``warp_rate``: share of the matrix rate that warp-wide instructions reach on the chip."""
B, HQ, HK, D, DV, Q, KV, PAIRS, CAUSAL, BACK, LIB, EB, SMS, CLK, RATE, WARP, EXP, BW, TDP, IDLE, JF, JB = (
    range(22)
)
_EACH: Final = ("share", "exponentials", "tile_cycles")
CONSTANTS: Final = tuple(
    f"{name}_{way}_{library}" for way in ("forward", "backward") for name in _EACH for library in LIBRARIES
)
TILE: Final = 128.0
"""Rows of a tile: queries forward, keys backward (flash_fwd_launch_template.h and its backward twin)."""
BLOCK: Final = 64.0
"""Rows of a block that a tile walks over; the mask's diagonal is computed in whole blocks."""
TAIL: Final = 0.5
"""Longest tiles that the multiprocessors wait for at the end: assumption."""
WARP_RATE: Final = 0.62
"""Share of Hopper's matrix rate that warp-wide (mma) instructions reach: 62 % (Luo et al., arXiv:2402.13499)."""
RESULTS: Final = 3


@compiled
def training_attention_rows(rows: Array, constants: Array, out: Array) -> None:
    """Price each row (:data:`COLUMNS`); write (seconds, bound, DRAM bytes). Bound: 0 compute, 1 memory, 2 exp units."""
    libraries = 4
    for r in range(rows.shape[0]):
        f = rows[r]
        place = int(f[LIB]) + (3 * libraries if f[BACK] > 0 else 0)
        share, beside = constants[place], constants[place + libraries]
        fixed = constants[place + 2 * libraries]
        d, dv, eb = f[D], f[DV], f[EB]
        width = d + dv
        products = width
        walked, tiled = f[KV], f[Q]
        if f[BACK] > 0:
            # Scores again, the weights' and values' gradients, then those of queries and keys.
            products = 3 * d + 2 * dv
            walked, tiled = f[Q], f[KV]
        tiles = f[B] * f[HQ] * np.ceil(tiled / TILE)
        # Blocks on the diagonal are computed whole: half of their pairs are masked.
        masked = 0.5 * min(f[Q], f[KV]) * (BLOCK + TILE) if f[CAUSAL] > 0 else 0.0
        pairs = f[B] * f[HQ] * min(f[PAIRS] + masked, f[Q] * f[KV])
        rate = f[RATE] * share * (f[WARP] if int(f[LIB]) == 0 else 1.0)
        matrix = 2 * products / rate
        exponent = beside / f[EXP]
        total = (pairs * (matrix + exponent) + tiles * fixed) / (f[SMS] * f[CLK])
        longest = (min(walked, f[KV]) * TILE * (matrix + exponent) + fixed) / f[CLK]
        compute = total + TAIL * longest
        tokens = f[B] * (f[HQ] * f[Q] * width + f[HK] * f[KV] * width)
        moved = tokens * eb
        extra = 0.0
        if f[BACK] > 0:
            moved += f[B] * f[HQ] * f[Q] * (2 * dv + d) * eb + f[B] * f[HK] * f[KV] * width * eb
            extra = f[B] * f[HQ] * f[Q] * (2 * dv * eb + d * (8.0 + eb)) / f[BW]
            if f[HK] < f[HQ]:
                # A gradient of keys and values per query head first, then their sum.
                extra += f[B] * (f[HQ] + f[HK]) * f[KV] * width * eb / f[BW]
        seconds = max(compute, moved / f[BW])
        flops = 2 * pairs * products
        joules = flops * f[JF] + moved * f[JB]
        out[r, 0] = within_power(seconds, joules, f[TDP] - f[IDLE]) + extra
        out[r, 1] = 1.0 if moved / f[BW] > compute else (0.0 if matrix >= exponent else 2.0)
        out[r, 2] = moved + extra * f[BW]
