"""Requests, pages, caches and pipelines in plain Python: bytes one by one, lists and dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from simulator.gather.stores import StoreOptions, StorePlan
from simulator.gather.table import PAGE, FeatureTable
from workloads.graph_data.batches import BatchTrace


def packets(table: FeatureTable, rows: list[int], request: int, element: int, shift: bool) -> tuple[int, int]:
    """(Requests, payload bytes): each warp's lanes touch bytes; lines and sectors of those, once a warp."""
    requests, payload = 0, 0
    for row in rows:
        start = table.base + row * table.row_bytes
        warp: dict[int, set[int]] = {}
        for byte in range(table.row_bytes):
            number = 0 if shift else byte // (32 * element)
            warp.setdefault(number, set()).add(start + byte)
        for touched in warp.values():
            requests += len({b // request for b in touched})
            payload += 32 * len({b // 32 for b in touched})
    return requests, payload


def pages(table: FeatureTable, row: int) -> list[int]:
    start = table.base + row * table.row_bytes
    return sorted({b // PAGE for b in range(start, start + table.row_bytes)})


def lru(asked: list[tuple[int, int]], capacity: int) -> list[tuple[int, int]]:
    """(Page, batch) of each miss of an LRU cache over (page, batch)."""
    held: list[int] = []
    misses = []
    for page, batch in asked:
        if page in held:
            held.remove(page)
        else:
            misses.append((page, batch))
            if len(held) == capacity and held:
                held.pop(0)
        if capacity:
            held.append(page)
    return misses


def belady(batches: list[list[int]], window: int, capacity: int) -> int:
    """Misses of keeping, after each batch, the rows of the window with the nearest next use."""
    misses = 0
    for first in range(0, len(batches), window):
        part, held = batches[first : first + window], set()
        for number, rows in enumerate(part):
            misses += sum(row not in held for row in rows)

            def use(row: int, number: int = number, part: list[list[int]] = part) -> int:
                return next((n for n in range(number + 1, len(part)) if row in part[n]), len(part))

            ahead = sorted((use(row), row) for row in held | set(rows))
            held = {row for when, row in ahead[:capacity] if when < len(part)}
    return misses


def best_misses(batches: list[list[int]], capacity: int) -> int:
    """The fewest misses of any policy that may keep any of what it saw, by trying all of them."""
    from itertools import combinations

    states = {frozenset[int](): 0}
    for rows in batches:
        following: dict[frozenset[int], int] = {}
        for held, misses in states.items():
            now = misses + sum(row not in held for row in rows)
            pool = sorted(held | set(rows))
            for kept in combinations(pool, min(capacity, len(pool))):
                key = frozenset(kept)
                following[key] = min(now, following.get(key, now))
        states = following
    return min(states.values())


def plan_violations(
    trace: BatchTrace, table: FeatureTable, plan: StorePlan, options: StoreOptions
) -> list[str]:
    """What is wrong with a plan by the rules: capacities, and reads that bring every byte wanted of the drive."""
    told = []
    in_gpu = {int(r) for r, level in zip(trace.rows, plan.level, strict=True) if level == 0}
    if len(in_gpu) * table.row_bytes > options.gpu_cache:
        told.append("the GPU's cache is over its size")
    for batch in range(trace.batches):
        span = slice(int(trace.offsets[batch]), int(trace.offsets[batch + 1]))
        level = plan.level[span]
        wanted = int((level > 1).sum()) * table.row_bytes
        brought = sum(int(r.size[r.batch == batch].sum()) for r in (plan.pages, plan.long))
        if plan.name != "page-cache" and brought < wanted:
            told.append(f"batch {batch} reads too little")
        if not wanted and brought:
            told.append(f"batch {batch} reads in vain")
    for reads in (plan.pages, plan.long):
        if reads.count and (reads.size.min() < 1 or (reads.address % 512).any()):
            told.append("a read is not aligned")
    return told


@st.composite
def traces(draw: st.DrawFn) -> tuple[BatchTrace, list[list[int]]]:
    nodes = draw(st.integers(1, 3) | st.integers(8, 14))
    row = st.integers(0, nodes - 1)
    rows = st.lists(row, unique=True, max_size=6) | st.lists(
        row, unique=True, min_size=nodes // 2, max_size=nodes
    )
    batches = draw(st.lists(rows, min_size=1, max_size=7))
    return BatchTrace.from_rows(batches, nodes), batches


def machine(name: str = "gnn-workstation", **more: Any) -> Any:
    from hw_configs.library import load_system
    from simulator.gather.machine import machine_of

    return machine_of(load_system(name), **more)


def whole(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count)
