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
    cache, room = g.l2 * c.l2_share, g.l2 * c.kept
    again = min(1.0, max(0.0, (left + output - cache) / cache))
    gone = min(1.0, max(0.0, c.thrash * (g.rotation * right + left + output - room) / room))
    return left * again, right * gone, output * gone


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


def fetched_again(
    g: SimpleNamespace, c: SimpleNamespace, bm: int, bn: int, depth: float, concurrent: float
) -> float:
    """Bytes that DRAM gives again under the better of two walks: whole columns, or waves near a square of bytes."""
    cache = g.l2 * c.l2_share
    tile_rows, tile_columns = math.ceil(g.m / bm), math.ceil(g.n / bn)
    left, right = g.m * g.k * g.a_bytes, g.n * g.k * g.w_bytes

    def overflow(size: float) -> float:
        return min(1.0, max(0.0, (size - cache) / cache))

    found = []
    square = math.floor(math.sqrt(concurrent * bn * g.w_bytes / (bm * g.a_bytes)))
    for high in (min(tile_rows, concurrent), max(1, min(tile_rows, concurrent, square))):
        wide = max(1, min(tile_columns, math.floor(concurrent / high)))
        again = (math.ceil(tile_columns / wide) - 1) * left * overflow(left)
        again += (math.ceil(tile_rows / high) - 1) * right * overflow(wide * bn * g.w_bytes * depth)
        found.append(again * g.batch)
    return min(found)


def price(g: SimpleNamespace, c: SimpleNamespace, bm: int, bn: int, split: int) -> float | None:
    """Seconds of one candidate, or None when the library would not offer it."""
    if split > g.splits:
        return None
    if g.least_rows and bm < min(g.m, 128):
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
    lanes = g.converted * c.convert * live_n * depth
    if g.scale_block:
        lanes += c.promote * live_m * live_n * math.ceil(depth / g.scale_block)
    if g.folds > 1:
        lanes += c.promote * live_m * live_n
    if lanes:
        # One instruction per lane and cycle: vector_rate / 2 of them.
        compute = p_norm(compute, rounds * lanes / (g.vector_rate / 2) / g.clock, c.vector_overlap)
    shared_fetch = 0.5 + 0.5 / g.sharing if g.sharing > 1 and min(bm, bn) >= 128 else 1.0
    fetched = (live_m * g.a_bytes + live_n * g.w_bytes) * depth * shared_fetch
    filled = (live_m * g.a_bytes + live_n * g.w_bytes) / (bm * g.a_bytes + bn * g.w_bytes)
    in_flight = min(occupancy, turns) * stages * (bm + bn) * 128 * filled
    l2_rate = g.sms * g.clock * g.l2_bytes_per_clock * c.l2_rate
    own_rate = min(g.l2_bytes_per_clock * g.clock, in_flight / (c.latency_us * 1e-6))
    feed = max(turns * fetched / own_rate, blocks * fetched / l2_rate)
    left, right, output = dram_parts(g, c)
    if per > 1:
        left += fetched_again(g, c, bm, bn, depth, min(blocks, g.sms * occupancy))
    rate = g.bandwidth * c.access
    memory = p_norm((left + right + output) / rate, feed, c.memory_overlap)
    waves = math.ceil(blocks / (g.sms * occupancy))
    wave_cycles, epilogue, store = c.wave_cycles, c.epilogue, c.store
    if g.narrow_pins:
        epilogue = c.epilogue_pins
    if g.asynchronous:
        wave_cycles, epilogue, store = c.wave_cycles_async, c.epilogue_async, c.store_async
    fixed = waves * wave_cycles / g.clock + epilogue * output / rate / occupancy
    fixed += live_m * live_n * g.o_bytes / (store * g.clock) * (1 + 0.5 * (waves - 1)) / split
    if g.folds > 1:
        # Four bytes of each sum in and out again; blocks that share the multiprocessor hide their part.
        fixed += rounds * 8 * live_m * live_n / g.shared_bytes_per_clock / g.clock / occupancy
    if split > 1:
        fixed += c.reduce_cycles / g.clock + 8 * split * g.m * g.n * g.batch / g.folds / l2_rate
    joules = 2 * g.m * g.n * g.k * g.batch * g.j_flop + (left + right + output) * g.j_byte
    return max(p_norm(compute, memory, c.overlap) + fixed, joules / (g.tdp - g.idle))


def best_seconds(g: SimpleNamespace, c: SimpleNamespace) -> float:
    """The cheapest candidate, without what runs before."""
    prices = (price(g, c, bm, bn, split) for (bm, bn), split in product(TILES, SPLITS))
    return min(value for value in prices if value is not None)
