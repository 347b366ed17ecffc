"""Kernels that count: PCIe requests, pages, hits of caches over the rows that batches ask for."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled, inlined

__all__ = ["belady_window", "least_hash", "lru_pages", "packets_of_rows"]

SECTOR = 32


@compiled
def packets_of_rows(rows, base, row_bytes, step, request):
    """(Requests, payload bytes): runs of ``step`` bytes of each row, cut at lines of ``request`` bytes.

    Each piece brings whole sectors of 32 bytes.
    """
    requests, payload = 0, 0
    for row in rows:
        start = base + row * row_bytes
        end = start + row_bytes
        while start < end:
            stop = min(start + step, end)
            requests += (stop - 1) // request - start // request + 1
            payload += ((stop - 1) // SECTOR - start // SECTOR + 1) * SECTOR
            start = stop
    return requests, payload


@inlined
def unlink(before, after, item):
    """Take an item out of its ring."""
    after[before[item]] = after[item]
    before[after[item]] = before[item]


@inlined
def put_behind(before, after, head, item):
    """Put an item right behind the head of a ring."""
    before[item], after[item] = head, after[head]
    before[after[item]] = item
    after[head] = item


@compiled
def lru_pages(first, last, batch_of, pages, capacity, missed):
    """LRU over pages: requests for pages ``first`` to ``last`` each; counts misses by batch, lists them in order.

    ``missed``: (count per batch, page of each miss, its batch, whether a request missed); returns how many.
    A ring from the page used last to the one used first; place ``pages`` is its head.
    """
    counts, found, when, lacking = missed
    before, after = np.empty(pages + 1, np.int64), np.empty(pages + 1, np.int64)
    before[pages], after[pages] = pages, pages
    held = np.zeros(pages, np.bool_)
    size, misses = 0, 0
    for request in range(first.size):
        for page in range(first[request], last[request] + 1):
            if held[page]:
                unlink(before, after, page)
            else:
                counts[batch_of[request]] += 1
                lacking[request] = True
                found[misses], when[misses] = page, batch_of[request]
                misses += 1
                if capacity == 0:
                    continue
                if size == capacity:
                    oldest = before[pages]
                    unlink(before, after, oldest)
                    held[oldest] = False
                else:
                    size += 1
                held[page] = True
            put_behind(before, after, pages, page)
    return misses


@compiled
def next_uses(offsets, rows, first, last, following, nodes):
    """For each request of the window of batches, the batch of the window that asks for its row next, or ``last``."""
    soonest = np.full(nodes, last, np.int64)
    for batch in range(last - 1, first - 1, -1):
        for place in range(offsets[batch], offsets[batch + 1]):
            following[place] = soonest[rows[place]]
            soonest[rows[place]] = batch


@inlined
def farthest(after, nodes, top, bottom):
    """The last batch down from ``top`` whose ring is not empty."""
    while top > bottom and after[nodes + top] == nodes + top:
        top -= 1
    return top


@compiled
def belady_window(offsets, rows, window, capacity, nodes, miss):
    """Belady over windows of batches whose requests are all known; marks in ``miss`` each row that is not held.

    A row is kept after its batch only if the window asks for it again, and the one asked for latest goes first. Each
    window begins with what was kept for it, nothing. Rings by next use: place ``nodes + b`` heads batch b's.
    Returns the number of rows that entered the cache.
    """
    batches = offsets.size - 1
    before, after = np.empty(nodes + batches + 1, np.int64), np.empty(nodes + batches + 1, np.int64)
    held = np.zeros(nodes, np.bool_)
    following = np.empty(rows.size, np.int64)
    entered = 0
    for first in range(0, batches, window):
        last = min(first + window, batches)
        next_uses(offsets, rows, first, last, following, nodes)
        for head in range(nodes + first, nodes + last + 1):
            before[head], after[head] = head, head
        size, top = 0, first
        for batch in range(first, last):
            for place in range(offsets[batch], offsets[batch + 1]):
                row = rows[place]
                miss[place] = not held[row]
                if held[row]:
                    unlink(before, after, row)
                    held[row] = False
                    size -= 1
            for place in range(offsets[batch], offsets[batch + 1]):
                row, use = rows[place], following[place]
                if use == last or capacity == 0:
                    continue
                if size == capacity:
                    top = farthest(after, nodes, top, batch)
                    if top <= use:
                        continue
                    victim = after[nodes + top]
                    unlink(before, after, victim)
                    held[victim] = False
                    size -= 1
                held[row] = True
                entered += miss[place]
                put_behind(before, after, nodes + use, row)
                top = max(top, use)
                size += 1
    return entered


@compiled
def least_hash(offsets, rows, words, out):
    """MinHash of the set of batches that ask for each row: the least of the batches' words."""
    for batch in range(offsets.size - 1):
        for place in range(offsets[batch], offsets[batch + 1]):
            if words[batch] < out[rows[place]]:
                out[rows[place]] = words[batch]
