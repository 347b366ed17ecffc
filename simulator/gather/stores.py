"""Where the rows of a table are kept between a GPU and a drive: four designs, each with its reads counted exactly.

* ``four-level`` (DiskGNN, arXiv:2405.05231): all batches of an epoch are sampled beforehand. The rows asked for most
  are in the GPU, the next in host memory; of the rest, those asked for least are packed, batch by batch, side by
  side, and the others stay in a disk cache ordered by the MinHash of the batches that want them.
* ``belady-window`` (Ginex, arXiv:2208.09151): batches of a superbatch are sampled first, then rows are cached in host
  memory by their next use; a row that is missing is read by the pages that it touches.
* ``page-cache``: the table is mapped; 4 KiB pages are replaced by least recent use.
* ``partition-buffer`` has a module of its own (:mod:`simulator.gather.partitions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input, nearest
from simulator.gather.reads import DriveReads, chunks_of, no_reads
from simulator.gather.table import PAGE, FeatureTable
from workloads.graph_data.batches import BatchTrace
from workloads.memory_trace.generators import splitmix64

__all__ = ["STORES", "Preparation", "StoreOptions", "StorePlan", "hottest", "page_misses", "plan_store"]

Longs = npt.NDArray[np.int64]
Store = Literal["host", "four-level", "belady-window", "partition-buffer", "page-cache"]
STORES: Final = get_args(Store)
ID_BYTES: Final = 8
"""Of a node's number as these systems write it to disk."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes in bytes, as they apply to the table given. ``disk_bytes``: of the packed copies, None packs all.

    ``superbatch``: batches of a window. ``partitions``, ``buffer``: of the table, and of those in memory at a time.
    ``cover``: ``training`` keeps the partitions of the training nodes and some others, ``pairs`` brings every two
    partitions together.
    """

    store: Store = "host"
    gpu_cache: int = 0
    cpu_cache: int = 0
    disk_bytes: int | None = None
    superbatch: int = 1000
    partitions: int = 32
    buffer: int = 8
    cover: Literal["training", "pairs"] = "training"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.store not in STORES:
            near = nearest(self.store, STORES)
            raise bad_input(
                f"found {self.store!r}; known: {', '.join(STORES)}", path="--store", suggestion=near
            )
        if min(self.gpu_cache, self.cpu_cache, self.disk_bytes or 0) < 0:
            raise bad_input("a cache has 0 bytes or more", path="--cpu-cache")
        if not 1 <= self.superbatch <= 2**24:
            raise bad_input(f"found {self.superbatch}; expected 1 to {2**24}", path="--superbatch")
        if not 2 <= self.partitions <= 4096 or not 2 <= self.buffer <= self.partitions:
            raise bad_input(
                "expected 2 to 4096 partitions, and 2 to all of them in the buffer", path="--partitions"
            )
        if self.cover not in ("training", "pairs"):
            raise bad_input(f"found {self.cover!r}; known: training, pairs", path="--cover")


@dataclass(frozen=True, slots=True)
class Preparation:
    """Bytes read and written beside the epoch's rows; ``every_epoch``: in each epoch, else once before the first."""

    read_bytes: int = 0
    written_bytes: int = 0
    every_epoch: bool = False


@dataclass(frozen=True, eq=False)
class StorePlan:
    """Which level each request of a trace is served from, and the reads that follow.

    ``level``: for each row of the trace 0 GPU cache, 1 host memory, 2 drive by pages, 3 drive packed. ``pages``: reads
    of single pages or short runs; ``long``: of whole chunks and partitions.
    """

    name: str
    level: npt.NDArray[np.int8]
    pages: DriveReads
    long: DriveReads
    preparation: Preparation
    disk_bytes: int

    def by_level(self) -> Longs:
        """Requests by level."""
        return np.bincount(self.level, minlength=4)

    @property
    def read_bytes(self) -> int:
        """Bytes read of the drive in the epoch."""
        return self.pages.bytes + self.long.bytes

    def amplification(self, table: FeatureTable) -> float:
        """Bytes read over bytes of the rows that were wanted from the drive; 0 where none were."""
        wanted = int(self.by_level()[2:].sum()) * table.row_bytes
        return self.read_bytes / wanted if wanted else 0.0


def plan_store(trace: BatchTrace, table: FeatureTable, options: StoreOptions) -> StorePlan:
    """The plan of a store for the batches of an epoch."""
    if trace.nodes != table.rows:
        raise bad_input(f"the batches are of {trace.nodes} rows, the table has {table.rows}")
    if options.store == "host":
        return _in_memory(trace, table, options)
    if options.store == "four-level":
        return _four_level(trace, table, options)
    if options.store == "belady-window":
        return _belady(trace, table, options)
    if options.store == "page-cache":
        return _page_cache(trace, table, options)
    raise bad_input(
        "a partition buffer decides what is sampled: simulator.gather.partitions plans it", path="--store"
    )


def hottest(trace: BatchTrace, count: int) -> Longs:
    """The ``count`` rows that most batches ask for, the first of equals by number; none that is never asked for."""
    frequency = trace.frequency()
    order = np.argsort(-frequency, kind="stable")[:count]
    return order[frequency[order] > 0]


def _batch_of(trace: BatchTrace) -> Longs:
    return np.repeat(np.arange(trace.batches), np.diff(trace.offsets))


def _gpu_marks(trace: BatchTrace, table: FeatureTable, options: StoreOptions) -> npt.NDArray[np.int8]:
    """Level of each row of the table before anything but the GPU's cache: 0 there, 1 elsewhere."""
    mark = np.ones(trace.nodes, np.int8)
    mark[hottest(trace, options.gpu_cache // table.row_bytes)] = 0
    return mark


def _in_memory(trace: BatchTrace, table: FeatureTable, options: StoreOptions) -> StorePlan:
    level = _gpu_marks(trace, table, options)[trace.rows]
    return StorePlan("host", level, no_reads(), no_reads(), Preparation(), 0)


def _four_level(trace: BatchTrace, table: FeatureTable, options: StoreOptions) -> StorePlan:
    frequency, row_bytes = trace.frequency(), table.row_bytes
    order = hottest(trace, trace.nodes)
    in_gpu, in_host = options.gpu_cache // row_bytes, options.cpu_cache // row_bytes
    mark = np.full(trace.nodes, 2, np.int8)
    mark[order[:in_gpu]] = 0
    mark[order[in_gpu : in_gpu + in_host]] = 1
    rest = order[in_gpu + in_host :][::-1]
    # Rows asked for least cost fewest copies: they are packed while the copies have room.
    copies = np.cumsum(frequency[rest]) * row_bytes
    packed = rest if options.disk_bytes is None else rest[copies <= options.disk_bytes]
    mark[packed] = 3
    cached = rest[packed.size :]
    level = mark[trace.rows]
    pages = _ordered_reads(trace, table, level, cached, options.seed)
    counts = np.bincount(_batch_of(trace)[level == 3], minlength=trace.batches) * row_bytes
    wanted = np.flatnonzero(counts)
    sizes = -(-counts[wanted] // PAGE) * PAGE
    begins = _pages_up(cached.size * row_bytes) + np.cumsum(sizes) - sizes
    long = chunks_of(begins, sizes, wanted)
    written = int(sizes.sum()) + int(cached.size) * row_bytes
    # The table is read once from end to end and dealt out to the batches' files.
    made = Preparation(read_bytes=table.bytes if rest.size else 0, written_bytes=written)
    return StorePlan("four-level", level, pages, long, made, written)


def _pages_up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _ordered_reads(
    trace: BatchTrace, table: FeatureTable, level: npt.NDArray[np.int8], cached: Longs, seed: int
) -> DriveReads:
    """Pages of the disk cache, each once a batch: its rows stand in the order of their MinHash."""
    from simulator.gather.kernels import least_hash

    if not cached.size:
        return no_reads()
    words = splitmix64(seed, 0, trace.batches)
    least = np.full(trace.nodes, np.iinfo(np.uint64).max, np.uint64)
    least_hash(trace.offsets, trace.rows, words, least)
    second = np.full(trace.nodes, np.iinfo(np.uint64).max, np.uint64)
    least_hash(trace.offsets, trace.rows, splitmix64(seed + 1, 0, trace.batches), second)
    place = np.empty(trace.nodes, np.int64)
    place[cached[np.lexsort((cached, second[cached], least[cached]))]] = np.arange(cached.size)
    chosen = level == 2
    rows, batch = place[trace.rows[chosen]], _batch_of(trace)[chosen]
    moved = FeatureTable(int(cached.size), table.row_bytes)
    first, last = moved.first_page(rows), moved.last_page(rows)
    return _page_reads(first, last, batch)


def _page_reads(first: Longs, last: Longs, batch: Longs) -> DriveReads:
    """One read for each page and batch, pages in rising order within a batch."""
    counts = last - first + 1
    number = np.repeat(np.arange(first.size), counts)
    page = first[number] + np.arange(number.size) - np.repeat(np.cumsum(counts) - counts, counts)
    owner = batch[number]
    order = np.lexsort((page, owner))
    page, owner = page[order], owner[order]
    new = np.ones(page.size, np.bool_)
    new[1:] = (page[1:] != page[:-1]) | (owner[1:] != owner[:-1])
    page, owner = page[new], owner[new]
    return DriveReads(page * PAGE, np.full(page.size, PAGE, np.int64), owner)


def _belady(trace: BatchTrace, table: FeatureTable, options: StoreOptions) -> StorePlan:
    from simulator.gather.kernels import belady_window

    marks = _gpu_marks(trace, table, options)[trace.rows]
    beyond = marks > 0
    asked, batch = trace.rows[beyond], _batch_of(trace)[beyond]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(batch, minlength=trace.batches))])
    miss = np.zeros(asked.size, np.bool_)
    capacity = options.cpu_cache // table.row_bytes
    entered = belady_window(offsets, asked, options.superbatch, capacity, trace.nodes, miss)
    marks[beyond] = np.where(miss, 2, 1)
    missing = asked[miss]
    reads = DriveReads(table.first_page(missing) * PAGE, table.pages_of(missing) * PAGE, batch[miss])
    # The inspector writes each batch's nodes and edges, and what enters and leaves the cache, and reads them back.
    edges = sum(layer.edges for layers in trace.layers for layer in layers)
    noted = ID_BYTES * (trace.rows.size + 2 * edges + 2 * int(entered))
    made = Preparation(read_bytes=noted, written_bytes=noted, every_epoch=True)
    return StorePlan("belady-window", marks, reads, no_reads(), made, table.bytes)


@dataclass(frozen=True, eq=False)
class PageMisses:
    """Pages that a cache did not hold: by batch, each in order with its batch, and which requests lacked any."""

    by_batch: Longs
    page: Longs
    batch: Longs
    lacking: npt.NDArray[np.bool_]


def page_misses(rows: Longs, batch: Longs, table: FeatureTable, capacity: int, batches: int) -> PageMisses:
    """LRU over the 4 KiB pages of requests for rows; ``capacity`` in pages."""
    from simulator.gather.kernels import lru_pages

    first, last = table.first_page(rows), table.last_page(rows)
    least = int(first.min()) if first.size else 0
    pages = int(last.max()) - least + 1 if last.size else 0
    asked = int((last - first + 1).sum())
    counts, found, when = np.zeros(batches, np.int64), np.empty(asked, np.int64), np.empty(asked, np.int64)
    lacking = np.zeros(rows.size, np.bool_)
    misses = lru_pages(first - least, last - least, batch, pages, capacity, (counts, found, when, lacking))
    return PageMisses(counts, found[:misses] + least, when[:misses], lacking)


def _page_cache(trace: BatchTrace, table: FeatureTable, options: StoreOptions) -> StorePlan:
    marks = _gpu_marks(trace, table, options)[trace.rows]
    beyond = marks > 0
    rows, batch = trace.rows[beyond], _batch_of(trace)[beyond]
    found = page_misses(rows, batch, table, options.cpu_cache // PAGE, trace.batches)
    marks[beyond] = np.where(found.lacking, 2, 1)
    reads = DriveReads(found.page * PAGE, np.full(found.page.size, PAGE, np.int64), found.batch)
    return StorePlan("page-cache", marks, reads, no_reads(), Preparation(), table.bytes)
