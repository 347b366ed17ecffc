"""Products per expert: one launch of a persistent kernel over all experts that some token reaches.

Each expert's rows are cut into tiles of their own, so that the last tile of every expert is padded: with few rows
per expert the kernel streams weights past tiles that are mostly empty. All tiles of all experts share the
multiprocessors in waves; a tile costs its arithmetic, its fill (a start and the way of its first operands) and at
least the time in which one multiprocessor can take in its operands. How rows spread over experts stands in
sixteenths (:func:`workloads.expert_load.row_quantiles`).

Libraries differ in tiles' efficiency, in the share of the memory's bandwidth that their loads reach, in what a tile
and an expert cost beside (an expert of a CUTLASS group has a descriptor of its own). These are constants per library.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.gpu.power import within_power

__all__ = ["COLUMNS", "CONSTANTS", "RESULTS", "grouped_rows"]

Array = NDArray[np.float64]
COLUMNS: Final = (
    "m", "n", "k", "touched", "a_bytes", "w_bytes", "written", "sms", "clock", "rate", "bandwidth", "l2",
    "l2_bytes_per_clock", "hot", "resident", "scale_block", "vector_rate", "tdp", "idle", "j_flop", "j_byte",
    "widens", "blocked", "rows",
)  # fmt: skip
"""Inputs of a row; its last sixteen columns begin with ``rows``, the rows of a touched expert by sixteenths. ``hot``: 1
where the same weights were read just before, as in a benchmark that repeats a layer. ``resident``: share of the left
operand that no DRAM read brings. ``written``: bytes of the result, those of empty rows too.
``scale_block``: steps of the sums between two scalings on the vector units; 0: none. ``widens``: 1 where weights are
widened in the kernel. ``blocked``: 1 where blocks of each activation row get a scale of their own in 8 bits."""
M, N, K, TOUCHED, EA, EW, WRITTEN, SMS, CLK, RATE, BW, L2, L2CLK, HOT, RES, SCALE, VRATE, TDP, IDLE, JF, JB, WIDE, BLOCKED, ROWS = range(24)  # fmt: skip  # noqa: E501
CONSTANTS: Final = (
    "e0", "feed", "share", "overlap", "tile_us", "expert_us", "take_in", "launch_kcycles", "widening",
    "blocked_us",
)  # fmt: skip
"""``e0``: share of the arithmetic rate of a very large tile; ``feed``: side at which half of it is left, on a
multiprocessor of 1,024 FLOP per cycle; ``share``: of the memory's bandwidth; ``overlap``: exponent that joins
arithmetic and memory; ``tile_us``, ``expert_us``: beside the arithmetic of a tile, and of an expert (one after
another);
``take_in``: bytes per cycle of operands that a multiprocessor takes; ``launch_kcycles``: thousands of cycles;
``widening``: share of the rate that is left where weights are stored narrower than the arithmetic; ``blocked_us``: what
a library's kernels for scales per block of activations take beyond a plain narrow copy."""
E0, FEED, SHARE, OVER, TILE, EXPERT, TAKE, LAUNCH, WIDEN, BLOCKUS = range(10)
FEED_EXPONENT: Final = 0.8
KEPT: Final = 0.9
"""Share of the L2 that keeps what was read before; an assumption."""
L2_STREAM: Final = 0.6
"""Share of the L2's bandwidth that streams of weights reach; an assumption."""
QUANTISATION: Final = 0.7
"""Share of a wave's last tiles that no other work fills, as in plain products."""
THRASH: Final = 3.0
"""How much sooner than all of it a set that is a little too large is gone when it is read in turn; an assumption."""
TURNS: Final = 1.5
"""Weights between two readings of the same: a layer's other products run in between; an assumption."""
COLUMNS_OF_TILE: Final = 128.0
RESULTS: Final = 3


@compiled
def grouped_rows(rows: Array, constants: Array, out: Array) -> None:
    """Price each row (:data:`COLUMNS`) with its own constants; writes (seconds, bound, DRAM bytes).

    Bound: 0 compute, 1 memory, 2 l2, 3 latency. Kernel time without any launch.
    """
    for r in range(rows.shape[0]):
        f, x = rows[r], constants[r]
        m, n, k, touched = f[M], f[N], f[K], f[TOUCHED]
        sms, clk = f[SMS], f[CLK]
        weights = touched * n * k * f[EW]
        read, written = m * k * f[EA], f[WRITTEN]
        miss = 1.0
        if f[HOT] > 0:
            miss = min(1.0, THRASH * max(0.0, TURNS * weights / (f[L2] * KEPT) - 1.0))
        moved = weights * miss + read * (1.0 - f[RES]) + written
        dram = moved / (f[BW] * x[SHARE])
        near = (weights + read + written) / (sms * clk * f[L2CLK] * L2_STREAM)
        memory = max(dram, near)
        joules, budget = 2.0 * m * n * k * f[JF] + moved * f[JB], f[TDP] - f[IDLE]
        best = 1e30
        bn = COLUMNS_OF_TILE
        across = np.ceil(n / bn)
        bm = 16.0
        while bm <= 128.0:
            high = 0.0
            for i in range(16):
                high += np.ceil(f[ROWS + i] / bm)
            tiles = max(1.0, touched * high / 16.0) * across
            h = bm * bn / (bm + bn)
            e = (
                (x[E0] if f[WIDE] == 0 else x[E0] * x[WIDEN])
                * h
                / (h + x[FEED] * (f[RATE] / 1024.0) ** FEED_EXPONENT)
            )
            per = tiles / sms
            waves = QUANTISATION * np.ceil(per) + (1.0 - QUANTISATION) * max(per, 1.0)
            one = 2.0 * bm * bn * k / (f[RATE] * clk * e)
            if f[SCALE] > 0:
                one += bm * bn * np.ceil(k / f[SCALE]) * 2.0 / (f[VRATE] * clk)
            live_m = min(bm, m / touched)
            taken = (min(bn, n) * f[EW] + live_m * f[EA]) * k / (x[TAKE] * clk)
            compute = waves * (max(one, taken) + x[TILE] * 1e-6) + touched * x[EXPERT] * 1e-6
            p = x[OVER]
            total = within_power((compute**p + memory**p) ** (1.0 / p), joules, budget)
            if total < best:
                best = total
                out[r, 1] = 0.0 if compute >= memory else (1.0 if dram >= near else 2.0)
                if compute >= memory and max(one, taken) < x[TILE] * 1e-6:
                    out[r, 1] = 3.0
            bm *= 2.0
        out[r, 0] = best + (x[BLOCKUS] * 1e-6 if f[BLOCKED] > 0 else 0.0)
        out[r, 2] = moved
