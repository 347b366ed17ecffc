"""Matrix products: which tile and split a library takes, and how long that lasts.

Every candidate (tile of the output x split of the reduction) is priced; the cheapest stands, as cuBLAS's
heuristics aim for. A candidate's time is a soft maximum of

- arithmetic: tiles per multiprocessor, rounded up in part (wave quantisation), at a rate that falls with the
  operand traffic of a small tile: e = e0 h / (h + c r^x), h = bm bn / (bm + bn), r = FLOPs per cycle / 1024;
- L2 and shared-memory feed: operand bytes per multiprocessor over min(its path from the L2, bytes in flight / latency)
  (Little's law: stages x tile rows in flight);
- DRAM: compulsory bytes that the L2 does not hold, operands that a wave's panels re-read when they exceed
  the L2, over the memory technology's share of its bandwidth;

(arithmetic on the matrix units and, on the vector units beside it, the widening of narrow weights and the scaled
additions of block scales, as a soft maximum of their own)

plus a latency per wave (fill, drain), the part of the output's write-back that a lone thread block per
multiprocessor cannot hide, and for a split the partial sums' way through the L2. A candidate lasts at least its
energy over what the board's limit leaves (:mod:`simulator.gpu.power`), and is chosen under that limit: more of
anything never makes a product slower. For the same reason a tile less than half full, and a part of a split of
less than 256 steps, are padded rather than left out.

The form follows NVIDIA's "Matrix Multiplication Background" guide (tile and wave quantisation) and CUTLASS.
The rows of the kernel are arrays, so that tables of operators cost microseconds each.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.gpu.power import within_power

__all__ = ["COLUMNS", "CONSTANTS", "SPLITS", "TILES", "dram_bytes", "gemm_rows", "residency"]

Array = NDArray[np.float64]

COLUMNS: Final = (
    "m", "n", "k", "batch", "a_bytes", "w_bytes", "o_bytes", "sms", "clock", "rate", "bandwidth", "l2",
    "shared", "sharing", "rotation", "library", "splits", "tdp", "idle", "j_flop", "j_byte", "k_padding",
    "resident", "reread_bytes", "tile_sms", "accumulators", "l2_bytes_per_clock",
    "scale_block", "converted", "vector_rate", "asynchronous",
    "least_rows", "narrow_pins", "few_rows", "folds", "shared_bytes_per_clock",
)  # fmt: skip
"""Inputs of a row. ``rotation``: weight tensors that a benchmark cycles through one activation (0: cold). ``library``:
share of the arithmetic rate that the library generation reaches. ``splits``: whether the reduction may be split.
``resident``: share of the left operand that no DRAM read brings. ``reread_bytes``: operand bytes that DRAM gives more
than once, where a simulation of the L2 knows them; below zero the closed form says. ``tile_sms``: multiprocessors
that work on a tile of 128 rows and more together. ``accumulators``: bytes of accumulators that a multiprocessor
holds. ``scale_block``: steps of the reduction between two scalings of the sums, a multiply-add per element of the
tile on the vector units; 0: none. ``converted``: where weights are stored narrower than the arithmetic and each
thread block widens its own in registers, by how many times the least instructions. ``vector_rate``: FLOPs per cycle
of the vector units. ``asynchronous``: 1 where a kernel's loads, products and stores run beside one another
(warp-specialised kernels of clusters), 0 where a thread block stores its tile before the next begins. ``least_rows``:
1 where the library takes its tile by the rows alone: as many as there are, to 128. ``narrow_pins``: 1 for GDDR, whose
few fast pins turn round between reads and writes, which a kernel that stores in bursts waits for. ``few_rows``: most
rows that the library takes to its vector units (:mod:`simulator.gpu.few_rows`); 0: none. ``folds``: sums that are one
element of the output: each is put into shared memory, taken out, scaled and added on the vector units, before the tile
is written; 1: none. ``shared_bytes_per_clock``: what a multiprocessor puts into or takes out of its shared memory."""
M, N, K, B, EA, EW, EO, SMS, CLK, RATE, BW, L2, SHARED, SHARING, ROT, LIB, MAXS, TDP, IDLE, JF, JB, KPAD, RES, REREAD, TILESMS, ACC, L2CLK, SCALE, CONV, VRATE, ASYNC, LEASTROWS, PINS, FEWROWS, FOLDS, SHAREDCLK = range(36)  # fmt: skip  # noqa: E501
CONSTANTS: Final = (
    "e0", "feed", "feed_exponent", "overlap", "wave_cycles", "latency_us", "l2_share", "reduce_cycles",
    "quantisation", "epilogue", "memory_overlap", "access", "l2_rate", "store",
    "promote", "convert", "vector_overlap", "wave_cycles_async", "epilogue_async", "store_async",
    "epilogue_pins", "kept", "thrash",
)  # fmt: skip
E0, FEED, FEEDX, OVER, WAVE, LAT, L2SHARE, REDUCE, QUANT, EPI, MEMOVER, ACCESS, L2RATE, STORE, PROMOTE, CONVERT, VOVER, WAVEA, EPIA, STOREA, EPIP, KEPT, THRASH = range(23)  # fmt: skip  # noqa: E501
TILES: Final = np.array(
    [[256, 128], [128, 256], [128, 128], [128, 64], [64, 128], [64, 64], [32, 64], [64, 32], [16, 64], [16, 128]],
    dtype=np.float64,
)  # fmt: skip
SPLITS: Final = np.array([1, 2, 3, 4, 6, 8, 12, 16, 32], dtype=np.float64)
LEAST_DEPTH: Final = 256.0
"""Steps of the reduction that a part of a split takes at least."""
SUM_BYTES: Final = 4
"""Of a sum in an accumulator."""
RESULTS: Final = 4
"""Columns of the result: seconds, bound (index), DRAM bytes, tile x 100 + split."""


@compiled
def residency(bm: float, bn: float, shared: float, accumulators: float) -> tuple[float, float]:
    """Stages of a tile's pipeline, and thread blocks per multiprocessor; none where the tile does not fit."""
    stages = 4.0
    used = (bm + bn) * 128.0 * stages
    while used > shared * 0.95 and stages > 2:
        stages -= 1
        used = (bm + bn) * 128.0 * stages
    if used > shared:
        return stages, 0.0
    fits = min(np.floor(shared / used), np.floor(accumulators / (bm * bn * 4.0)))
    return stages, max(1.0, min(fits, 6.0))


@compiled
def fetched_again(f: Array, l2: float, strip: float, strips: float, steps: float) -> float:
    """Operand bytes that DRAM gives more than once, where waves walk down ``strips`` of columns in ``steps`` each.

    The next strip needs the left operand again, of which the L2 holds so much; the strip's own panel of the right
    operand (``strip`` bytes) stays while the wave walks, as far as it fits.
    """
    left, right = f[B] * f[M] * f[K] * f[EA], f[B] * f[K] * f[N] * f[EW]
    again: float = (strips - 1.0) * left * min(1.0, max(0.0, left / f[B] / l2 - 1.0))
    if steps > 1:
        again += (steps - 1.0) * right * min(1.0, max(0.0, strip / l2 - 1.0))
    return again


@compiled
def dram_bytes(f: Array, x: Array) -> tuple[float, float, float]:
    """Bytes of left operand, weights and output that cross the DRAM's pins, each once."""
    a_total, w_total = f[B] * f[M] * f[K] * f[EA], f[B] * f[K] * f[N] * f[EW]
    o_total = f[B] * f[M] * f[N] * f[EO]
    if f[ROT] <= 0:
        return a_total * (1 - f[RES]), w_total, o_total
    # What is read in turn is gone soon after it does not fit: the next is always the one evicted last.
    footprint = f[ROT] * w_total + a_total + o_total
    miss = min(1.0, max(0.0, x[THRASH] * (footprint / (f[L2] * x[KEPT]) - 1.0)))
    a_dram = a_total * min(1.0, max(0.0, (a_total + o_total) / (f[L2] * x[L2SHARE]) - 1.0))
    return a_dram, w_total * miss, o_total * miss


@compiled
def gemm_rows(rows: Array, constants: Array, tiles: Array, splits: Array, out: Array) -> None:
    """Price each row (:data:`COLUMNS`) and write (seconds, bound, DRAM bytes, choice) to ``out``.

    Bound: 0 compute, 1 memory, 2 l2, 3 latency. Seconds are kernel time without any launch.
    """
    x = constants
    for r in range(rows.shape[0]):
        f = rows[r]
        m, n, k, b = f[M], f[N], f[K], f[B]
        sms, clk = f[SMS], f[CLK]
        rate = f[RATE] * clk * f[LIB]
        l2 = f[L2] * x[L2SHARE]
        a_dram, w_dram, o_dram = dram_bytes(f, x)
        dram_rate = f[BW] * x[ACCESS]
        l2_rate = sms * clk * f[L2CLK] * x[L2RATE]
        joule, budget = 2 * m * n * k * b * f[JF], f[TDP] - f[IDLE]
        # How much of its fill, drain and store a kernel hides is the way it is written.
        wave_cycles, epilogue, store = x[WAVE], x[EPIP] if f[PINS] > 0 else x[EPI], x[STORE]
        if f[ASYNC] > 0:
            wave_cycles, epilogue, store = x[WAVEA], x[EPIA], x[STOREA]
        best = 1e30
        for t in range(tiles.shape[0]):
            bm, bn = tiles[t, 0], tiles[t, 1]
            # A library keeps no tile of more than 32 rows half empty; one that is holds what half of it would.
            held = max(m, bm / 2) if bm > 32 else m
            rows_m, rows_n = np.ceil(m / bm), np.ceil(n / bn)
            if f[LEASTROWS] > 0 and bm < min(m, 128.0):
                continue
            stages, occupancy = residency(bm, bn, f[SHARED], f[ACC])
            if occupancy == 0:
                continue
            shared_fetch = 1.0
            if f[SHARING] > 1 and bm >= 128 and bn >= 128:
                shared_fetch = 0.5 + 0.5 / f[SHARING]
            height = bm * f[TILESMS] if bm >= 128 else bm
            h = height * bn / (height + bn)
            e = x[E0] * h / (h + x[FEED] * (f[RATE] / 1024.0) ** x[FEEDX])
            live_m, live_n = min(bm, held), min(bn, n)
            for i in range(splits.shape[0]):
                s = splits[i]
                if s > f[MAXS]:
                    break
                # A part of a split is at least 256 deep; what the reduction lacks of it is padding.
                depth = np.ceil((k if s == 1 else max(k / s, LEAST_DEPTH)) / f[KPAD]) * f[KPAD]
                blocks = rows_m * rows_n * s * b
                if s > 1 and blocks > 4 * sms * occupancy:
                    break
                per = blocks / sms
                turns = np.ceil(per)
                share = x[QUANT] * turns + (1 - x[QUANT]) * max(per, 1.0)
                compute = share * 2 * bm * bn * depth / (rate * e)
                # Instructions per lane: a scaled addition per sum and block of scales, a conversion per weight.
                beside = f[CONV] * x[CONVERT] * live_n * depth
                if f[SCALE] > 0:
                    beside += x[PROMOTE] * live_m * live_n * np.ceil(depth / f[SCALE])
                if f[FOLDS] > 1:
                    beside += x[PROMOTE] * live_m * live_n
                if beside > 0:
                    p = x[VOVER]
                    compute = (compute**p + (share * beside * 2.0 / (f[VRATE] * clk)) ** p) ** (1 / p)
                column = live_m * f[EA] + live_n * f[EW]
                fetched = column * depth * shared_fetch
                # The pipeline has room for whole tiles; of it, the rows that are there are in flight.
                room = stages * (bm + bn) * 128.0 * column / (bm * f[EA] + bn * f[EW])
                in_flight = min(occupancy, turns) * room
                feed_rate = min(f[L2CLK] * clk, in_flight / (x[LAT] * 1e-6))
                feed = max(turns * fetched / feed_rate, blocks * fetched / l2_rate)
                output = o_dram / dram_rate
                waves = np.ceil(blocks / (sms * occupancy))
                fixed = waves * wave_cycles / clk + epilogue * output / occupancy
                # The last tile's store has no further arithmetic to hide behind.
                fixed += live_m * live_n * f[EO] / (store * clk) * (1.0 + 0.5 * (waves - 1.0)) / s
                if f[FOLDS] > 1:
                    # What thread blocks beside it have to multiply hides a tile's way through shared memory.
                    passed = share * live_m * live_n * 2 * SUM_BYTES / (f[SHAREDCLK] * clk)
                    fixed += passed / occupancy
                if s > 1:
                    fixed += x[REDUCE] / clk + 2 * s * m * n * SUM_BYTES / f[FOLDS] * b / l2_rate
                # Soft maxima are never less than what they join, so that most candidates are known to be dearer here.
                if max(compute, feed, (a_dram + w_dram) / dram_rate + output) + fixed >= best:
                    continue
                # A wave is a column of tiles, or near a square of operand bytes; the cheaper walk stands.
                concurrent = min(blocks, sms * occupancy)
                again = 0.0
                if f[REREAD] >= 0:
                    again = f[REREAD]
                elif per > 1:
                    again = 1e30
                    side = np.sqrt(concurrent * bn * f[EW] / (bm * f[EA]))
                    for down in (min(rows_m, concurrent), max(1.0, min(rows_m, concurrent, np.floor(side)))):
                        across = max(1.0, min(rows_n, np.floor(concurrent / down)))
                        strip = across * bn * f[EW] * depth
                        walked = fetched_again(f, l2, strip, np.ceil(rows_n / across), np.ceil(rows_m / down))
                        again = min(again, walked)
                inputs = (a_dram + w_dram + again) / dram_rate
                p = x[MEMOVER]
                memory = ((inputs + output) ** p + feed**p) ** (1 / p)
                p = x[OVER]
                moved = a_dram + w_dram + again + o_dram
                total = within_power(
                    (compute**p + memory**p) ** (1 / p) + fixed, joule + moved * f[JB], budget
                )
                if total < best:
                    best = total
                    out[r, 1] = 0.0 if compute >= memory else (1.0 if inputs + output >= feed else 2.0)
                    if fixed > max(compute, memory):
                        out[r, 1] = 3.0
                    out[r, 2] = moved
                    out[r, 3] = t * 100 + s
        out[r, 0] = best
