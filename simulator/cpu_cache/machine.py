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

ROW: Final = np.dtype([
    (name, np.int64) for name in (
        "sets", "ways", "base", "set_base", "policy", "hashed", "fold", "inclusion", "write_back", "allocate",
        "latency", "next", "shared", "rule", "degree", "by_page", "entries", "table", "mask", "slow",
    )
])  # fmt: skip
"""A kind of cache. ``mask``: of the places noted for each copy; ``slow``: a hit takes more than counting a use."""
ENTRY: Final = np.dtype([(name, np.int64) for name in ("key", "line", "moved", "times", "age")])
"""Of a prefetcher: what it is kept by, last line, step, times seen."""
NOTED: Final = 1 << 16
"""Places noted for one copy of a cache, at most."""
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
_FIELDS: Final = ROW.names or ()
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
    """Rows of caches, then of translation buffers; where paths begin; rules of the whole.

    ``begin`` and ``hints``: the first line, and the first noted place, of the copy that a core uses (row x cores).
    """

    row: npt.NDArray[np.void]
    first: Ints
    rule: Ints
    begin: Ints
    hints: Ints


class State(NamedTuple):
    """What changes: lines with flags, ages and the tick they arrive; clocks of cores; prefetchers; counters."""

    tag: Ints
    flag: npt.NDArray[np.uint8]
    age: Ints
    ready: Ints
    tree: Ints
    clock: Ints
    """Uses so far (ages), then the random number."""
    now: Ints
    """Tick of each core."""
    program: Ints
    """Tick of each core if nothing ever missed."""
    table: npt.NDArray[np.void]
    """Entries of prefetchers."""
    seen: Ints
    """What the access at hand found at each row: 0 nothing, 1 hit, 2 miss, 3 first use of a prefetched line."""
    hint: npt.NDArray[np.int32]
    """Where each copy of each row found or placed a line last, by the line's lowest bits."""
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
    noted: int
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
    rows: dict[str, dict[str, int]] = {}
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
    table = np.array([tuple(row.values()) for row in rows.values()], ROW)
    machine = Machine(table, np.array(first, np.int64), np.array(rule, np.int64), *_copies(table, cores))
    return Built(machine, names, sizes[0], sizes[1], sizes[2], sizes[3], options.seed)


def _cache_row(device: CpuCache, level: CacheLevel, prefetch: bool) -> dict[str, int]:
    row = dict.fromkeys(_FIELDS, 0)
    sets = device.sets(level)
    row["sets"], row["ways"], row["policy"] = sets, level.ways, _POLICIES[level.policy]
    row["hashed"], row["fold"] = int(level.index == "hashed"), max((sets - 1).bit_length(), 1)
    row["inclusion"], row["write_back"] = _INCLUSIONS[level.inclusion], int(level.write == "back")
    row["allocate"], row["latency"], row["next"] = int(level.write_allocate), level.latency, -1
    row["shared"] = level.shared_by
    row["slow"] = int(level.policy != "lru")
    ahead = level.prefetch
    if ahead is not None and prefetch:
        row["rule"], row["degree"], row["entries"] = _RULES[ahead.rule], ahead.degree, ahead.entries
        row["by_page"], row["slow"] = int(ahead.by == "page"), 1
    return row


def _tlb_row(buffer: TlbLevel, huge: bool) -> dict[str, int]:
    row = dict.fromkeys(_FIELDS, 0)
    own = huge and buffer.huge_entries is not None
    entries = buffer.huge_entries if own and buffer.huge_entries is not None else buffer.entries
    ways = (buffer.huge_ways or entries) if own else buffer.ways
    row["sets"], row["ways"], row["policy"], row["fold"] = entries // ways, ways, LRU, 1
    row["next"], row["shared"], row["write_back"] = -1, 1, 1
    return row


def _chain(rows: dict[str, dict[str, int]], names: tuple[str, ...], device: CpuCache) -> None:
    """Where each row's misses go."""
    at = {name: index for index, name in enumerate(names)}
    following = {"l1i": "l2", "l1d": "l2", "l2": "l3", "dtlb": "l2_tlb", "itlb": "l2_itlb"}
    for name, after in following.items():
        if after == "l2_itlb" and device.l2_itlb is None:
            after = "l2_tlb"
        if name in rows:
            rows[name]["next"] = at.get(after, -1)


def _place(rows: dict[str, dict[str, int]], cores: int) -> list[int]:
    """Give each row its part of the state; lines, sets, entries of prefetchers and copies of all rows."""
    lines = sets = tables = held = 0
    for name, row in rows.items():
        copies = -(-cores // row["shared"])
        row["base"], row["set_base"], row["table"] = lines, sets, tables
        # Behind the first level most looks are misses, for which the whole set is read anyhow.
        nearest = name in ("l1i", "l1d", "itlb", "dtlb")
        row["mask"] = min(1 << (row["sets"] * row["ways"]).bit_length(), NOTED) - 1 if nearest else 0
        lines += copies * row["sets"] * row["ways"]
        sets += copies * row["sets"]
        tables += copies * row["entries"]
        held += copies * (row["mask"] + 1)
    return [lines, sets, tables, held]


def _copies(row: npt.NDArray[np.void], cores: int) -> tuple[Ints, Ints]:
    """For each row and core where the lines and the noted places of the core's copy begin."""
    copy = np.arange(cores) // row["shared"][:, None]
    noted = (-(-cores // row["shared"])) * (row["mask"] + 1)
    begin: Ints = row["base"][:, None] + copy * (row["sets"] * row["ways"])[:, None]
    hints: Ints = (np.cumsum(noted) - noted)[:, None] + copy * (row["mask"] + 1)[:, None]
    return begin.reshape(-1), hints.reshape(-1)


def new_state(built: Built) -> State:
    """Empty caches at tick 0."""
    rows, cores = len(built.names), int(built.machine.rule[CORES])
    table = np.zeros(max(built.tables, 1), ENTRY)
    table["key"] = -1
    return State(
        np.full(built.lines, -1, np.int64), np.zeros(built.lines, np.uint8), np.full(built.lines, -1, np.int64),
        np.zeros(built.lines, np.int64), np.zeros(built.sets, np.int64), np.array([0, built.seed], np.int64),
        np.zeros(cores, np.int64), np.zeros(cores, np.int64), table, np.zeros(rows, np.int64), _first_places(built),
        np.zeros((rows, COUNTS), np.int64), np.zeros(TOTALS, np.int64),
    )  # fmt: skip


def _first_places(built: Built) -> npt.NDArray[np.int32]:
    """Where each copy of each row begins, for each place that it notes."""
    held = np.zeros(built.noted, np.int32)
    machine = built.machine
    cores = int(machine.rule[CORES])
    for at, (begin, hint) in enumerate(zip(machine.begin.tolist(), machine.hints.tolist(), strict=True)):
        held[hint : hint + int(machine.row["mask"][at // cores]) + 1] = begin
    return held
