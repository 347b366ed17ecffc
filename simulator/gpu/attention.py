"""Attention in one kernel: FlashAttention-2 and -3, Blackwell's kernels, split-KV decoding, paged and latent caches.

A thread block takes a tile of query rows and walks over the keys in blocks. One block of keys costs two products
on the matrix unit, operand reads of shared memory, and the exponentials of the scores (16 per cycle and
multiprocessor on most GPUs; the rest of softmax is a multiple of them, fitted). How far products and exponentials
run beside one another is the kernel's own (Shah et al., FlashAttention-3, arXiv:2407.08608). To it comes a
latency per block of keys, and a fixed one per tile (fill, normalise, store): few or short tiles are bound by
those, not by any rate. As many thread blocks work on a multiprocessor as its shared memory holds tiles.

Prefill: tiles of one head and sequence; a causal tile walks only to its diagonal. Time is the largest of the
total work spread over multiprocessors, the longest tile alone, and the waves. Decode: all query heads of a
KV head share one tile; the keys are split into the number of parts that is quickest (at most 32, the limit that
serving engines set under CUDA graphs; parts may stay empty), and a second kernel combines them. FlashAttention-2 splits
only where query heads share a KV head, and then copies queries and outputs into that order: there alone more query
heads can be quicker than as many as KV heads. Where the layer has a window, however long, it does neither, and every
query head is a tile of its own (flash_api.cpp, ``seqlenq_ngroups_swapped``). Kernels of serving engines also write the
new keys and values into the paged cache first. An operator lasts at least its energy over what the limit leaves.

Latent attention is the same kernel with constants of its own: absorbed, one KV head of 576 elements whose first 512
are the values; expanded, as many KV heads as query heads, of 192 and 128.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.gpu.power import within_power

__all__ = ["COLUMNS", "CONSTANTS", "KERNELS", "attention_rows"]

Array = NDArray[np.float64]
KERNELS: Final = ("fa2", "fa2_dense", "fa3", "blackwell", "flashinfer", "triton")
"""Kernels under whose names latencies are fitted (``calibrated_as`` of an architecture's attention kernels)."""
COLUMNS: Final = (
    "batch", "heads", "kv_heads", "head_dim", "v_head_dim", "q_len", "kv_len", "causal", "window", "bytes",
    "sms", "clock", "rate", "bandwidth", "l2", "split_kv", "cache_write", "warm", "decode", "tdp", "idle",
    "j_flop", "j_byte", "page", "latent", "calibration", "query_tile", "grouped_query_tile", "key_block",
    "instruction_rows", "blocks_at_once", "splits_only_groups", "exponentials_per_clock",
    "l2_bytes_per_clock", "shared_bytes_per_clock", "cache_bytes", "windowed", "splits_keys", "shared_bytes",
    "quantises", "packs_groups", "sink",
)  # fmt: skip
"""Inputs of a row. ``cache_write``: whether new keys and values are written to a paged cache. ``warm``:
whether the same cache was read just before (a benchmark's repetitions). ``window``: keys a query sees at most,
0 for all. ``page``: tokens per page of the cache, 0 for a contiguous one. ``latent``: whether values are a
part of the cached keys (absorbed multi-head latent attention), which are then read once. ``calibration``: place of
the kernel's fitted latencies among :data:`KERNELS`. From ``query_tile`` on, figures of the
architecture and its kernel (:mod:`hw_configs.gpu_architecture`); ``blocks_at_once`` is per multiprocessor.
``bytes`` are those of an element that is computed with, ``cache_bytes`` of one in the cache, which is widened on
its way to the matrix unit. ``windowed``: whether the layer has a window, longer than the keys or not. ``splits_keys``:
whether decoding divides the keys of a sequence. ``quantises``: whether new queries, keys and values are first made
narrow, by kernels of their own. ``packs_groups``: whether query heads of a KV head share tiles in prefill too.
``sink``: whether a learned logit per head joins each query's sum."""
B, HQ, HK, D, DV, Q, KV, CAUSAL, WIN, EB, SMS, CLK, RATE, BW, L2, SPLIT, WRITE, WARM, DECODE, TDP, IDLE, JF, JB, PAGE, LATENT, CALIBRATION, QTILE, GQTILE, KEYS, IROWS, ATONCE, GROUPED, EXP, L2RATE, SHARED, CB, WINDOWED, SPLITS, SMEM, QUANTISES, PACKS, SINK = range(42)  # fmt: skip  # noqa: E501
_PER_KERNEL: Final = ("tile_cycles", "block_cycles", "softmax", "energy", "overlap")
CONSTANTS: Final = (
    *(f"{name}_{kernel}" for name in _PER_KERNEL for kernel in KERNELS),
    "matrix_share", "feed", "combine_cycles", "reorder_cycles", "swap_cycles",
    "memory_overlap", "l2_share", "access", "quantise_cycles", "quantise_elements",
    "token_cycles",
)  # fmt: skip
TILE, BLOCK, SOFTMAX, ENERGY, OVERLAP = (len(KERNELS) * place for place in range(5))
_SHARED: Final = len(KERNELS) * len(_PER_KERNEL)
MATRIX, FEED, COMBINE, REORDER, SWAP, MEMOVER = range(_SHARED, _SHARED + 6)
L2SHARE, ACCESS, QUANTISE, QUANTUM, TOKEN = range(_SHARED + 6, _SHARED + 11)
MAX_SPLITS: Final = 32.0
RESULTS: Final = 4
PAGE_LOOKUP_CYCLES: Final = 8.0
"""Reading one entry of the block table, overlapped with the loads of the page before: assumption."""


@compiled
def causal_blocks(
    before: float, blocks: float, turns: float, keys: float, rows: float, group: float
) -> float:
    """Blocks of keys that all tiles of a head walk over: each up to its last query's own key.

    ``before``: keys before the first query; a tile has so many ``rows``, ``group`` to a query. Counted
    block by block: the tiles that reach it are those whose last query stands behind its first key.
    """
    whole = np.floor(before / keys)
    total = whole * turns
    for j in range(int(whole), int(blocks)):
        total += turns - min(max(np.floor((j * keys - before) * group / rows), 0.0), turns - 1)
    return float(total)


@compiled
def attention_rows(rows: Array, constants: Array, out: Array) -> None:
    """Price each row (:data:`COLUMNS`); write (seconds, bound, DRAM bytes, splits) to ``out``.

    Bound: 0 compute, 1 memory, 2 exp units, 3 latency. Seconds are kernel time without any launch.
    """
    x = constants
    for r in range(rows.shape[0]):
        f = rows[r]
        own = int(f[CALIBRATION])
        b, hq, hk, d, dv, q, eb, cb = f[B], f[HQ], f[HK], f[D], f[DV], f[Q], f[EB], f[CB]
        kv = f[KV]
        decode = f[DECODE] > 0
        if decode and f[WIN] > 0:
            kv = min(kv, f[WIN] + q - 1)
        sms, clk = f[SMS], f[CLK]
        fill = x[TILE + own] / clk
        per_block = x[BLOCK + own] / clk
        keys = f[KEYS]
        if f[PAGE] > 0 and f[PAGE] < keys:
            per_block += PAGE_LOOKUP_CYCLES * (keys / f[PAGE] - 1) / clk
        query_tile = f[QTILE]
        l2_rate = sms * clk * f[L2RATE]
        group = hq / hk
        # A kernel that copies queries into the order of their KV heads does not do so under a window.
        together = decode and f[SPLIT] > 0 and (f[GROUPED] == 0 or f[WINDOWED] == 0)
        heads, query_rows, rows_of_query = hq, q, 1.0
        if together:
            heads, query_rows, query_tile = hk, q * group, f[GQTILE]
        elif f[PACKS] > 0:
            heads, query_rows, rows_of_query = hk, q * group, group
        width = d if f[LATENT] > 0 else d + dv
        held = query_tile * d * eb + keys * width * cb
        occupancy = min(f[ATONCE], max(1.0, np.floor(f[SMEM] / held)))
        tiles = b * heads * np.ceil(query_rows / query_tile)
        matrix = 2 * query_tile * keys * (d + dv) / (f[RATE] * x[MATRIX])
        feed = query_tile / f[IROWS] * keys * (d + dv) * eb / f[SHARED] * x[FEED]
        exponent = query_tile * keys / f[EXP] * x[SOFTMAX + own]
        p = x[OVERLAP + own]
        work = ((matrix + feed) ** p + exponent**p) ** (1 / p) / clk
        if f[SINK] > 0:
            # One exponential more for every query of a tile, when its keys are done.
            fill += query_tile / f[EXP] * x[SOFTMAX + own] / clk
        blocks = np.ceil(kv / keys)
        mean = blocks
        turns = np.ceil(query_rows / query_tile)
        if f[CAUSAL] > 0 and q > 1 and not together:
            mean = causal_blocks(kv - q, blocks, turns, keys, query_tile, rows_of_query) / turns
        if f[WIN] > 0 and not decode:
            inside = np.ceil((f[WIN] + query_tile / rows_of_query) / keys)
            mean = min(mean, inside)
            blocks = min(blocks, inside)
        rate = f[BW] * x[ACCESS]
        cache_bytes = b * hk * kv * width * cb
        query_bytes = b * hq * q * (d + dv) * eb
        extra = 0.0
        if f[QUANTISES] > 0:
            extra += x[QUANTISE] / clk
            if f[WRITE] == 0:
                # Queries, keys and values are made narrow before the kernel, not on their way into a cache.
                extra += b * q * (hq * d + hk * (d + dv)) / (sms * clk * x[QUANTUM])
        if f[WRITE] > 0:
            # One thread block per token; converting to narrow elements costs it arithmetic.
            token = x[TOKEN] + (hk * width / x[QUANTUM] if f[QUANTISES] > 0 else 0.0)
            extra += max(2 * b * hk * q * width * cb / rate, b * q * token / (sms * clk))
        hit = 0.0
        if f[WARM] > 0:
            l2 = f[L2] * x[L2SHARE]
            hit = 1 - min(1.0, max(0.0, (cache_bytes + query_bytes) / l2 - 1.0))
        moved = cache_bytes + query_bytes
        memory = max(moved * (1 - hit) / rate, moved / l2_rate)
        o = x[MEMOVER]
        splits = 1.0
        if together:
            cap = MAX_SPLITS
            if f[SPLITS] == 0 or (f[GROUPED] > 0 and group <= 1):
                cap = 1.0
            if f[GROUPED] > 0 and group > 1:
                extra += x[SWAP] / clk
                if b > 1 and hk > 1:
                    extra += 2 * x[REORDER] / clk + 2 * query_bytes / rate
            seconds = 1e30
            busy = 0.0
            s = 1.0
            while s <= cap:
                n = tiles * s
                length = np.ceil(blocks / s)
                chain = np.ceil(n / (sms * occupancy)) * (fill + length * per_block)
                load = length * keys * width * cb / (f[L2RATE] * clk)
                spread = np.ceil(n / sms) * max(length * work, load)
                total = (chain**o + spread**o + memory**o) ** (1 / o)
                if s > 1:
                    partial = s * b * hq * q * dv * 4.0
                    total += x[COMBINE] / clk + 2 * partial / (l2_rate / 2)
                if total < seconds:
                    seconds, splits, busy = total, s, chain
                s *= 2.0
            compute = tiles * blocks * work / sms
        else:
            compute = tiles * (mean * work + fill / occupancy) / sms
            busy = max(
                fill + blocks * (work + per_block),
                np.ceil(tiles / (sms * occupancy)) * (fill + mean * per_block),
            )
            seconds = (max(compute, busy) ** o + memory**o) ** (1 / o)
        flops = 2 * b * hq * q * mean * keys * (d + dv)
        written = moved * (1 - hit) + (2 * b * hk * q * width * cb if f[WRITE] > 0 else 0.0)
        out[r, 0] = (
            within_power(seconds, flops * f[JF] * x[ENERGY + own] + written * f[JB], f[TDP] - f[IDLE]) + extra
        )
        bound = 3.0
        if memory >= max(compute, busy):
            bound = 1.0
        elif compute >= busy:
            bound = 0.0 if matrix + feed >= exponent else 2.0
        out[r, 1] = bound
        out[r, 2] = written
        out[r, 3] = splits
