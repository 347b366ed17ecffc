"""The search for a product's tile and split once more, in plain Python, written from the description alone.

One function per mechanism; nothing is shared with the kernel but the names of constants and columns.
"""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace

TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (128, 64),
    (64, 128),
    (64, 64),
    (32, 64),
    (64, 32),
    (16, 64),
    (16, 128),
)
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 32)


def p_norm(a: float, b: float, p: float) -> float:
    return (a**p + b**p) ** (1 / p)


def dram_parts(g: SimpleNamespace, c: SimpleNamespace) -> tuple[float, float, float]:
    """Bytes of left operand, right operand and output that cross the pins."""
    left = g.batch * g.m * g.k * g.a_bytes
    right = g.batch * g.k * g.n * g.w_bytes
    output = g.batch * g.m * g.n * g.o_bytes
    if g.rotation <= 0:
        return left * (1 - g.resident), right, output
    cache = g.l2 * c.l2_share

    def missing(footprint: float) -> float:
        return min(1.0, max(0.0, (footprint - cache) / cache))

    everything = g.rotation * right + left + output
    return left * missing(left + output), right * missing(everything), output * missing(everything)


def resident_blocks(g: SimpleNamespace, bm: int, bn: int) -> tuple[int, int] | None:
    """Thread blocks per multiprocessor and pipeline stages; None when the tile does not fit."""
    for stages in (4, 3, 2):
        used = (bm + bn) * 128 * stages
        if used <= 0.95 * g.shared or stages == 2:
            break
    if used > g.shared:
        return None
    by_memory = int(g.shared // used)
    by_registers = int(g.accumulators // (bm * bn * 4))
    return max(1, min(by_memory, by_registers, 6)), stages


def tile_efficiency(g: SimpleNamespace, c: SimpleNamespace, bm: int, bn: int) -> float:
    width = g.tile_sms * bm if bm >= 128 else bm
    h = width * bn / (width + bn)
    return c.e0 * h / (h + c.feed * (g.rate / 1024) ** c.feed_exponent)


def price(g: SimpleNamespace, c: SimpleNamespace, bm: int, bn: int, split: int) -> float | None:
    """Seconds of one candidate, or None when the library would not offer it."""
    if split > g.splits:
        return None
    fit = resident_blocks(g, bm, bn)
    if fit is None:
        return None
    occupancy, stages = fit
    part = g.k if split == 1 else max(256, g.k / split)
    depth = math.ceil(part / g.k_padding) * g.k_padding
    tile_rows, tile_columns = math.ceil(g.m / bm), math.ceil(g.n / bn)
    blocks = tile_rows * tile_columns * split * g.batch
    if split > 1 and blocks > 4 * g.sms * occupancy:
        return None
    per = blocks / g.sms
    turns = math.ceil(per)
    live_m, live_n = min(bm, g.m if bm <= 32 else max(g.m, bm / 2)), min(bn, g.n)
    rounds = c.quantisation * turns + (1 - c.quantisation) * max(per, 1)
    compute = rounds * 2 * bm * bn * depth / (g.rate * g.clock * g.library * tile_efficiency(g, c, bm, bn))
    if g.scale_block:
        # One multiply-add per sum and block of scales: vector_rate / 2 of them a cycle.
        compute += turns * bm * bn * math.ceil(depth / g.scale_block) / (g.vector_rate / 2) / g.clock
    shared_fetch = 0.5 + 0.5 / g.sharing if g.sharing > 1 and min(bm, bn) >= 128 else 1.0
    fetched = (live_m * g.a_bytes + live_n * g.w_bytes) * depth * shared_fetch
    filled = (live_m * g.a_bytes + live_n * g.w_bytes) / (bm * g.a_bytes + bn * g.w_bytes)
    in_flight = min(occupancy, turns) * stages * (bm + bn) * 128 * filled
    l2_rate = g.sms * g.clock * g.l2_bytes_per_clock * c.l2_rate
    own_rate = min(g.l2_bytes_per_clock * g.clock, in_flight / (c.latency_us * 1e-6))
    feed = max(turns * fetched / own_rate, blocks * fetched / l2_rate)
    left, right, output = dram_parts(g, c)
    concurrent = min(blocks, g.sms * occupancy)
    down = min(tile_rows, concurrent)
    across = max(1.0, concurrent / down)
    panels = (down * bm * g.a_bytes + across * bn * g.w_bytes) * depth
    cache = g.l2 * c.l2_share
    if panels > cache and per > 1:
        whole = g.batch * g.m * g.k * g.a_bytes
        left += (math.ceil(tile_columns / across) - 1) * whole * min(1.0, panels / cache - 1)
    rate = g.bandwidth * c.access
    memory = p_norm((left + right + output) / rate, feed, c.memory_overlap)
    waves = math.ceil(blocks / (g.sms * occupancy))
    fixed = waves * c.wave_cycles / g.clock + c.epilogue * output / rate / occupancy
    fixed += live_m * live_n * g.o_bytes / (c.store * g.clock) * (1 + 0.5 * (waves - 1)) / split
    if split > 1:
        fixed += c.reduce_cycles / g.clock + 8 * split * g.m * g.n * g.batch / l2_rate
    joules = 2 * g.m * g.n * g.k * g.batch * g.j_flop + (left + right + output) * g.j_byte
    return max(p_norm(compute, memory, c.overlap) + fixed, joules / (g.tdp - g.idle))


def best_seconds(g: SimpleNamespace, c: SimpleNamespace) -> float:
    """The cheapest candidate, without what runs before."""
    prices = (price(g, c, bm, bn, split) for (bm, bn), split in product(TILES, SPLITS))
    return min(value for value in prices if value is not None)
