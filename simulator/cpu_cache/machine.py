"""What the kernel runs of a CPU's caches: one row of integers per kind of cache, and the state behind them.

Caches and translation buffers are rows of one table. A copy of a row serves ``SHARED`` cores in order; its sets stand
one after another in the arrays of the state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.cpu_cache import CacheLevel, CpuCache, TlbLevel
from hw_configs.problems import bad_input

__all__ = ["CAUSES", "COUNTS", "Machine", "Options", "State", "build_machine", "new_state"]

Ints = npt.NDArray[np.int64]

TICKS: Final = 64
"""Of a clock: time inside the kernel is whole ticks."""

(SETS, WAYS, BASE, SET_BASE, POLICY, HASHED, FOLD, INCLUSION, WRITE_BACK, ALLOCATE, LATENCY, NEXT, SHARED, RULE, DEGREE,
 BY_PAGE, ENTRIES, TABLE, HINT) = range(19)  # fmt: skip
"""Columns of a row."""
LRU, TREE, FIFO, RANDOM, SRRIP = range(5)
NEITHER, INCLUSIVE, EXCLUSIVE = range(3)
NO_RULE, NEXT_LINE, STRIDE, STREAM = range(4)
DATA, FETCHED, DATA_TLB, FETCH_TLB = range(4)
"""Entries of ``first``: the rows where data, instructions and their translations begin; -1: none."""
(LINE_SHIFT, PAGE_SHIFT, WALK_LEVELS, MEMORY, REMOTE, PER_INSTRUCTION, OUTSTANDING, NODE_CORES, CORES, CACHES,
 RECORDS) = range(11)  # fmt: skip
"""Entries of ``rule``; latencies in clocks, ``PER_INSTRUCTION`` in ticks, ``RECORDS``: requests are written out."""
LOAD, STORE, FETCH, AHEAD, WALK = range(5)
CAUSES: Final = ("load", "store", "fetch", "prefetch", "walk")
"""Why a line is looked up."""
HITS, MISSES = 0, len(CAUSES)
(WRITTEN_TO, WRITTEN_MISSED, EVICTED, EVICTED_DIRTY, TAKEN_BACK, INVALIDATED, ISSUED, USEFUL, LATE,
 USELESS) = range(2 * len(CAUSES), 2 * len(CAUSES) + 10)  # fmt: skip
COUNTS: Final = 2 * len(CAUSES) + 10
"""Columns of ``counts``: hits and misses by cause, then what the names above say."""
MEMORY_WRITES, MEMORY_THROUGH, REMOTE_READS, WALKS, WALK_CLOCKS, ACCESS_CLOCKS = range(
    len(CAUSES), len(CAUSES) + 6
)
TOTALS: Final = len(CAUSES) + 6
"""Entries of ``total``: lines read from memory by cause, then what the names above say."""
DIRTY, AHEAD_OF_USE = 1, 2
"""Flags of a line."""
TABLES: Final = 1 << 62
"""Byte address where page tables begin; addresses of programs lie below."""
_POLICIES: Final = {"lru": LRU, "tree-plru": TREE, "fifo": FIFO, "random": RANDOM, "srrip": SRRIP}
_INCLUSIONS: Final = {"none": NEITHER, "inclusive": INCLUSIVE, "exclusive": EXCLUSIVE}
_RULES: Final = {"next-line": NEXT_LINE, "stride": STRIDE, "stream": STREAM}


@dataclass(frozen=True, slots=True)
class Options:
    """How a program meets the machine.

    ``page``: base or huge. ``nodes``: NUMA nodes that the cores are dealt out to. ``outstanding``: misses in flight of
    one core, instead of the device's. ``prefetch``: False turns every prefetcher off. ``cores``: how many run (None:
    all), which bounds the state. ``records``: requests to memory are written out.
    """

    page: str = "base"
    nodes: int = 1
    outstanding: int | None = None
    prefetch: bool = True
    cores: int | None = None
    seed: int = 1
    records: bool = False


class Machine(NamedTuple):
    """Rows of caches, then of translation buffers (columns above); where paths begin; rules of the whole."""

    row: Ints
    first: Ints
    rule: Ints


class State(NamedTuple):
    """What changes: lines with flags, ages and the tick they arrive; clocks of cores; prefetchers; counters."""

    tag: Ints
    flag: Ints
    age: Ints
    ready: Ints
    tree: Ints
    clock: Ints
    """Uses so far (ages), then the random number."""
    now: Ints
    """Tick of each core."""
    program: Ints
    """Tick of each core if nothing ever missed."""
    table: Ints
    """Rows of prefetchers: key, last line, step, times seen, age."""
    seen: Ints
    """What the access at hand found at each row: 0 nothing, 1 hit, 2 miss, 3 first use of a prefetched line."""
    chain: Ints
    """The row where a line was found, its dirtiness, the clocks that took, whether it came from another node."""
    hint: Ints
    """Where each copy of each row found a line last."""
    counts: Ints
    total: Ints


@dataclass(frozen=True)
class Built:
    """A machine, the names of its rows, and how much state it has."""

    machine: Machine
    names: tuple[str, ...]
    lines: int
    sets: int
    tables: int
    copies: int
    seed: int


def build_machine(device: CpuCache, options: Options) -> Built:
    """The tables of a device. Raises ``InputError`` for options that the device cannot have."""
    nodes, page = options.nodes, options.page
    if page not in ("base", "huge"):
        raise bad_input(f"found {page!r}; known: base, huge", path="--page")
    if nodes < 1 or device.cores % nodes:
        raise bad_input(f"{device.cores} cores cannot be dealt out to {nodes} nodes", path="--nodes")
    outstanding = options.outstanding or device.outstanding_misses
    if not 1 <= outstanding <= 1024:
        raise bad_input(f"found {outstanding}; expected 1 to 1024", path="--outstanding")
    rows: dict[str, list[int]] = {}
    for name, level in device.caches().items():
        rows[name] = _cache_row(device, level, options.prefetch)
    huge = page == "huge"
    for name, buffer in device.translations().items():
        rows[name] = _tlb_row(buffer, huge)
    names = tuple(rows)
    _chain(rows, names, device)
    cores = device.cores if options.cores is None else options.cores
    sizes = _place(rows, cores)
    rule = [0] * 11
    rule[LINE_SHIFT] = int(device.line).bit_length() - 1
    rule[PAGE_SHIFT] = int(device.huge_page if huge else device.page).bit_length() - 1
    rule[WALK_LEVELS] = device.huge_walk_levels if huge else device.walk_levels
    path = device.main_memory
    rule[MEMORY] = math.ceil(path.latency * device.clock - 1e-6)
    rule[REMOTE] = math.ceil((path.remote_latency or path.latency) * device.clock - 1e-6)
    rule[PER_INSTRUCTION] = max(round(TICKS / device.instructions_per_clock), 1)
    rule[OUTSTANDING], rule[NODE_CORES], rule[CORES] = outstanding, device.cores // nodes, cores
    rule[CACHES], rule[RECORDS] = len(device.caches()), int(options.records)
    at = {name: index for index, name in enumerate(names)}
    first = [at["l1d"], at.get("l1i", at["l1d"]), at.get("dtlb", -1), at.get("itlb", at.get("dtlb", -1))]
    machine = Machine(
        np.array(list(rows.values()), np.int64), np.array(first, np.int64), np.array(rule, np.int64)
    )
    return Built(machine, names, sizes[0], sizes[1], sizes[2], sizes[3], options.seed)


def _cache_row(device: CpuCache, level: CacheLevel, prefetch: bool) -> list[int]:
    row = [0] * 19
    sets = device.sets(level)
    row[SETS], row[WAYS], row[POLICY] = sets, level.ways, _POLICIES[level.policy]
    row[HASHED], row[FOLD] = int(level.index == "hashed"), max((sets - 1).bit_length(), 1)
    row[INCLUSION], row[WRITE_BACK] = _INCLUSIONS[level.inclusion], int(level.write == "back")
    row[ALLOCATE], row[LATENCY], row[NEXT] = int(level.write_allocate), level.latency, -1
    row[SHARED] = level.shared_by
    ahead = level.prefetch
    if ahead is not None and prefetch:
        row[RULE], row[DEGREE], row[ENTRIES] = _RULES[ahead.rule], ahead.degree, ahead.entries
        row[BY_PAGE] = int(ahead.by == "page")
    return row


def _tlb_row(buffer: TlbLevel, huge: bool) -> list[int]:
    row = [0] * 19
    own = huge and buffer.huge_entries is not None
    entries = buffer.huge_entries if own and buffer.huge_entries is not None else buffer.entries
    ways = (buffer.huge_ways or entries) if own else buffer.ways
    row[SETS], row[WAYS], row[POLICY], row[FOLD] = entries // ways, ways, LRU, 1
    row[NEXT], row[SHARED], row[WRITE_BACK] = -1, 1, 1
    return row


def _chain(rows: dict[str, list[int]], names: tuple[str, ...], device: CpuCache) -> None:
    """Where each row's misses go."""
    at = {name: index for index, name in enumerate(names)}
    following = {"l1i": "l2", "l1d": "l2", "l2": "l3", "dtlb": "l2_tlb", "itlb": "l2_itlb"}
    for name, after in following.items():
        if after == "l2_itlb" and device.l2_itlb is None:
            after = "l2_tlb"
        if name in rows:
            rows[name][NEXT] = at.get(after, -1)


def _place(rows: dict[str, list[int]], cores: int) -> list[int]:
    """Give each row its part of the state; lines, sets, entries of prefetchers and copies of all rows."""
    lines = sets = tables = held = 0
    for row in rows.values():
        copies = -(-cores // row[SHARED])
        row[BASE], row[SET_BASE], row[TABLE], row[HINT] = lines, sets, tables, held
        lines += copies * row[SETS] * row[WAYS]
        sets += copies * row[SETS]
        tables += copies * row[ENTRIES]
        held += copies
    return [lines, sets, tables, held]


def new_state(built: Built) -> State:
    """Empty caches at tick 0."""
    rows, cores = len(built.names), int(built.machine.rule[CORES])
    table = np.zeros((max(built.tables, 1), 5), np.int64)
    table[:, 0] = -1
    return State(
        np.full(built.lines, -1, np.int64), np.zeros(built.lines, np.int64), np.full(built.lines, -1, np.int64),
        np.zeros(built.lines, np.int64), np.zeros(built.sets, np.int64), np.array([0, built.seed], np.int64),
        np.zeros(cores, np.int64), np.zeros(cores, np.int64), table, np.zeros(rows, np.int64), np.zeros(4, np.int64),
        _first_places(built), np.zeros((rows, COUNTS), np.int64), np.zeros(TOTALS, np.int64),
    )  # fmt: skip


def _first_places(built: Built) -> Ints:
    """Where each copy of each row begins."""
    held = np.zeros(built.copies, np.int64)
    ends = [*built.machine.row[1:, HINT].tolist(), built.copies]
    for row, end in zip(built.machine.row.tolist(), ends, strict=True):
        copies = np.arange(end - row[HINT], dtype=np.int64)
        held[row[HINT] : end] = row[BASE] + copies * row[SETS] * row[WAYS]
    return held
