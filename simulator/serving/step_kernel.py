"""The price of one step from tables and the attention kernel, in one compiled function."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.gpu import attention
from simulator.gpu.attention import attention_rows
from simulator.serving.price_tables import OWN, PriceTables

__all__ = ["PRICE_COLUMNS", "interpolate", "price_step"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
PRICE_COLUMNS: Final = ("device_s", "exchange_s", "joules", "kernels", "requests", "chunk_tokens")
B, HQ, D, DV, Q, KV, WIN, DECODE = (
    attention.COLUMNS.index(name)
    for name in ("batch", "heads", "head_dim", "v_head_dim", "q_len", "kv_len", "window", "decode")
)
HK, LATENT, CB = (attention.COLUMNS.index(name) for name in ("kv_heads", "latent", "cache_bytes"))
LIMIT, OWN_CHUNK, TIMES, LAUNCH, PEAK, RATE, JFLOP, JBYTE = range(8)
_WIDTH: Final = len(attention.COLUMNS)


@compiled
def interpolate(points: Array, table: Array, at: float, out: Array) -> None:
    """Add a table's columns at a number between its points (from 0 to any; nothing at 0) to ``out``."""
    if at <= 0.0:
        return
    n = len(points)
    if at <= points[0]:
        for c in range(table.shape[1]):
            out[c] += table[0, c]
        return
    low = 0
    high = n - 1
    if at >= points[high]:
        low = high - 1
    else:
        while high - low > 1:
            middle = (low + high) // 2
            if points[middle] <= at:
                low = middle
            else:
                high = middle
    share = (at - points[low]) / (points[low + 1] - points[low])
    for c in range(table.shape[1]):
        out[c] += table[low, c] + share * (table[low + 1, c] - table[low, c])


@compiled
def _place(points: Array, at: float) -> float:
    """Place of a number among ascending points (infinite where there are no more), by its logarithm."""
    if at <= points[0]:
        return 0.0
    last = 0
    while last + 1 < len(points) and points[last + 1] < 1e300:
        last += 1
    low = 0
    while low + 1 < last and points[low + 1] <= at:
        low += 1
    return float(low + np.log(at / points[low]) / np.log(points[low + 1] / points[low]))


@compiled
def _moving(points: Array, table: Array, count: float, context: float, out: Array) -> None:
    """Add a two-sided table's columns, linear in the logarithm of each side of the logarithm of the figure."""
    x, y = _place(points[0], count), _place(points[1], context)
    i = min(int(x), table.shape[0] - 2)
    j = min(int(y), table.shape[1] - 2)
    u, v = x - i, y - j
    for c in range(table.shape[2]):
        if table[i, j, c] <= 0.0:
            continue
        low = (1 - v) * np.log(table[i, j, c]) + v * np.log(table[i, j + 1, c])
        high = (1 - v) * np.log(table[i + 1, j, c]) + v * np.log(table[i + 1, j + 1, c])
        out[c] += np.exp((1 - u) * low + u * high)


@compiled
def _attend(row: Array, own: Array, constants: Array, row_out: Array, pairs: float, keys: float) -> float:
    """Seconds of one attention kernel with its row filled in, never below the data sheet's roofs."""
    attention_rows(row, constants, row_out)
    f = row[0]
    flops = 2.0 * pairs * f[HQ] * (f[D] + f[DV])
    width = f[D] if f[LATENT] > 0 else f[D] + f[DV]
    moved = keys * f[HK] * width * f[CB]
    row_out[0, 1] = flops * own[JFLOP]
    return float(max(row_out[0, 0], max(flops / own[PEAK], moved / own[RATE])) + own[LAUNCH])


@compiled
def _decodes(t: PriceTables, tokens: Ints, context: Ints, drafts: Ints, share: float, out: Array) -> None:
    """Attention of the requests that decode, dealt out to groups: the mean's kernel, or the longest's alone."""
    row, found = np.zeros((1, _WIDTH)), np.zeros((1, 5))
    for a in range(t.decode_rows.shape[0]):
        own = t.decode_own[a]
        count, queries, total, longest = 0.0, 0.0, 0.0, 0.0
        for i in range(len(tokens)):
            if tokens[i] != 1 + drafts[i] or context[i] == 0:
                continue
            keys = float(context[i] + tokens[i])
            if own[OWN_CHUNK] > 0 and keys > own[OWN_CHUNK]:
                keys = (keys - 1) % own[OWN_CHUNK] + 1
            if own[LIMIT] > 0:
                keys = min(keys, own[LIMIT] + tokens[i] - 1)
            count += 1.0
            queries += tokens[i]
            total += keys
            longest = max(longest, keys)
        if count == 0.0:
            return
        queries /= count
        here = max(1.0, count * share)
        row[0] = t.decode_rows[a]
        row[0, DECODE] = 1.0
        row[0, WIN] = 0.0
        row[0, Q] = queries
        row[0, B], row[0, KV] = here, total / count
        seconds = _attend(
            row, own, t.decode_constants[a], found, here * queries * total / count, here * total / count
        )
        joules = found[0, 1] + found[0, 2] * own[JBYTE] + t.layout[6] * seconds
        if longest > total / count:
            row[0, B], row[0, KV] = 1.0, longest
            seconds = max(
                seconds, _attend(row, own, t.decode_constants[a], found, queries * longest, longest)
            )
        out[0] += own[TIMES] * seconds
        out[2] += own[TIMES] * joules
        out[3] += own[TIMES]


@compiled
def _chunks(t: PriceTables, tokens: Ints, context: Ints, drafts: Ints, share: float, out: Array) -> None:
    """Attention of prefill chunks: as equal chunks with as many tokens and pairs, or the largest alone."""
    count, total, pairs, worst, which = 0.0, 0.0, 0.0, -1.0, 0
    for i in range(len(tokens)):
        if tokens[i] == 1 + drafts[i] and context[i] > 0:
            continue
        n = float(tokens[i])
        own_pairs = n * context[i] + n * (n + 1) / 2
        count += 1.0
        total += n
        pairs += own_pairs
        if own_pairs > worst:
            worst, which = own_pairs, i
    if count == 0.0:
        return
    largest, end = float(tokens[which]), float(tokens[which] + context[which])
    mean = total / count
    reach = pairs / total + (mean - 1) / 2
    here = max(1.0, count * share)
    rows, figures, fitted = t.prefill_rows, t.prefill_own, t.prefill_constants
    if t.layout[7] > 0 and reach > t.layout[7]:
        rows, figures = t.sparse[:, :_WIDTH], t.sparse[:, _WIDTH : _WIDTH + OWN]
        fitted = t.sparse[:, _WIDTH + OWN :]
    row, found = np.zeros((1, _WIDTH)), np.zeros((1, 5))
    for a in range(rows.shape[0]):
        own = figures[a]
        seconds = 0.0
        joules = 0.0
        for attempt in range(2):
            batch, n, keys = (here, mean, reach) if attempt == 0 else (1.0, largest, end)
            row[0] = rows[a]
            row[0, DECODE] = 0.0
            if own[OWN_CHUNK] > 0 and own[OWN_CHUNK] < keys:
                if n > own[OWN_CHUNK]:
                    batch *= n / own[OWN_CHUNK]
                    n = own[OWN_CHUNK]
                    keys = n
                else:
                    keys = min(keys, own[OWN_CHUNK])
            row[0, B], row[0, Q], row[0, KV] = batch, n, keys
            row[0, WIN] = own[LIMIT] if 0 < own[LIMIT] < keys else 0.0
            seen = n * max(keys - (n - 1) / 2, 1.0)
            if row[0, WIN] > 0:
                seen = min(seen, n * row[0, WIN])
            read = min(keys, own[LIMIT] + n - 1) if row[0, WIN] > 0 else keys
            took = _attend(row, own, fitted[a], found, batch * seen, batch * read)
            if attempt == 0:
                joules = found[0, 1] + found[0, 2] * own[JBYTE] + t.layout[6] * took
            seconds = max(seconds, took)
        out[0] += own[TIMES] * seconds
        out[2] += own[TIMES] * joules
        out[3] += own[TIMES]
    if t.moving_points.shape[0] > 0:
        part = np.zeros(4)
        _moving(t.moving_points, t.moving_prefill, mean, reach, part)
        for c in range(4):
            out[c] += here * part[c]


@compiled
def price_step(t: PriceTables, tokens: Ints, context: Ints, drafts: Ints, sampled: float, out: Array) -> None:
    """Device seconds and the rest of :data:`PRICE_COLUMNS` of a step to ``out``.

    A request decodes where its tokens are one and its drafts; else its tokens are a chunk of a prefill. Requests lie
    evenly on the groups of attention and, with several stages, on as many micro-batches as there are stages.
    """
    decodes, queries, decode_keys = 0.0, 0.0, 0.0
    chunks, chunk_tokens, positions, largest, deepest = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(tokens)):
        if tokens[i] == 1 + drafts[i] and context[i] > 0:
            decodes += 1.0
            queries += tokens[i]
            decode_keys += context[i] + tokens[i]
        else:
            chunks += 1.0
            chunk_tokens += tokens[i]
            positions += context[i] + tokens[i]
            largest = max(largest, float(tokens[i]))
            deepest = max(deepest, float(context[i] + tokens[i]))
    groups = t.layout[0] * min(t.layout[1], max(1.0, decodes + chunks))
    share = 1.0 / groups
    mine = max(chunk_tokens * share, largest)
    place = max(positions * share, deepest)
    total = queries * share + mine
    for c in range(len(out)):
        out[c] = 0.0
    one = np.zeros(4)
    interpolate(t.points, t.tables[0], total, one)
    if decodes > 0:
        # Operators that decodes alone have run once for each token, drafts included.
        interpolate(t.points, t.tables[1], max(1.0, queries * share), one)
        _decodes(t, tokens, context, drafts, share, one)
        if t.moving_points.shape[0] > 0:
            _moving(t.moving_points, t.moving_decode, max(1.0, decodes * share), decode_keys / decodes, one)
    if chunks > 0:
        absorbed = t.layout[7] > 0 and place / max(1.0, chunks * share) > t.layout[7]
        if absorbed:
            interpolate(t.points, t.tables[1], mine, one)
        else:
            interpolate(t.points, t.tables[2], mine, one)
            interpolate(t.points, t.tables[3], place, one)
        _chunks(t, tokens, context, drafts, share, one)
    interpolate(t.points, t.tables[4], sampled * share if sampled * share >= 1.0 else min(1.0, sampled), one)
    send = t.layout[2] * total + t.layout[3]
    seconds = one[0] + send
    out[0], out[1] = seconds, one[1] + send
    busy = t.layout[5] / (t.layout[1] if t.layout[1] > 1.0 else 1.0)
    # Each device does its share of the layers for every micro-batch.
    out[2] = (
        one[2] * busy * min(t.layout[1], max(1.0, decodes + chunks)) + t.layout[4] * t.layout[5] * seconds
    )
    out[3] = one[3]
    out[4] = decodes + chunks
    out[5] = chunk_tokens
