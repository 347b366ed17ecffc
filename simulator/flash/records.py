"""What a drive remembers, record by record: the names that the kernels, the builder and the tests share.

All records lie in one array of words (``DriveState.m``), so that a kernel passes one address around and a link is a
word. A field named after a record holds that record's place in the array, 0 for none; so do ``next`` and the ends of
a line. Fields named ``..._ns`` are times in nanoseconds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt


def _record(*fields: str | tuple[str, np.dtype[np.void]]) -> np.dtype[np.void]:
    return np.dtype([(field, np.int64) if isinstance(field, str) else field for field in fields], align=True)


def words(dtype: np.dtype[np.void]) -> int:
    """Words of a record."""
    return dtype.itemsize // 8


WORD: Final = _record("value")
LINE: Final = _record("head", "tail")
"""Records that wait, first come, first served; each names the ``next``."""
LINK: Final = _record("next")
WIRE: Final = _record("free", "busy_ns", "begin", "head", "tail")
"""One direction of the host link: until when it is taken, and the ring of messages on it."""
MESSAGE: Final = _record("arrives", "kind", "payload")
HISTOGRAM: Final = _record("least_ns", "most_ns", "total_ns", "count")
"""Latencies of one kind of request; the counts of the bins follow it."""

CHANNEL: Final = _record(
    "busy", "txn", "turn", "busy_ns", "first_unit", "index", "lines",
    ("map_out", LINE), ("user_out", LINE), ("gc_out", LINE), "spare_0", "spare_1", "spare_2",
)  # fmt: skip
"""A bus. ``busy``: 0 idle, 1 a command, 2 the page of ``txn``. ``lines``: the place of the first line of pages that
were read and wait for the bus."""

UNIT: Final = _record(
    "state", "channel", "active", "end", "stamp", "out", "hold", "pending", "pending_ready", "pending_ns",
    "aside", "aside_ns", "aside_state", "suspends", "count", "busy_ns", "index", "first_plane", "planes", "lines",
    ("map_reads", LINE), ("user_reads", LINE), ("gc_reads", LINE), ("user_writes", LINE), ("gc_writes", LINE),
    ("erases", LINE),
)  # fmt: skip
"""What holds one command at a time: a die, or a chip where dies do not interleave. ``active``: the transactions in
the array; ``hold``: read, but behind data that wait (``out`` pages); ``pending``: a program in the register;
``aside``: suspended. ``lines``: the place of the first of its queues, of which ``count`` transactions wait."""

PLANE: Final = _record(
    "unit", "die", "bit", "channel", "free", "user_block", "gc_block", "running", "need", "first_block",
    "most_erases", "least_erases", "index", ("free_blocks", LINE), ("waiting", LINE), ("barrier", LINE), "spare_0",
)  # fmt: skip
"""A plane. ``free`` blocks; the frontiers of the host and of collection; ``running`` collections that ``need`` so
many pages; transactions ``waiting`` for room, and for the end of a move (``barrier``)."""

BLOCK: Final = _record(
    "state", "written", "invalid", "erases", "reads", "writes", "superseded", "moves", "next", "previous", "age",
    "programmed",
)  # fmt: skip
"""A block: pages given out and worth nothing; reads and programs under way; writes under way that replace pages of
it (``superseded``); valid pages still to be moved."""

TXN: Final = _record(
    "next", "kind", "source", "unit", "die", "bit", "plane", "page", "ppn", "lpn", "request", "bytes", "old",
    "sequence", "channel", "block",
)  # fmt: skip
"""One page's read, program or block's erase. ``old``: for a write the block of the copy it replaces (-1: none), for
a move the page moved. ``sequence``: which sixteenths it writes, then the number of the write."""

REQUEST: Final = _record("next", "op", "address", "bytes", "since", "left", "queue", "index")
QUEUE: Final = _record("waiting", "held", ("entries", LINE))
"""A submission queue: entries not asked for yet, and requests of it that the drive holds."""
SLOT: Final = _record("page", "dirty", "previous", "next", "loading")
"""A page of the map that is held in DRAM."""
LOG_ROW: Final = _record("time", "end", "what", "unit", "ppn", "lpn", "source", "stamp")

WORK: Final = _record("kind", "start", "end", "planes", "page", "free")
"""In the fast mode, what a unit did last: kind, begin and end of its array's work, planes (bits) and page; and when
the unit is free."""

DRIVE: Final = _record(
    # The drive, as it was described.
    "channels", "units_per_channel", "units", "planes_per_die", "planes", "blocks", "pages", "page_bytes",
    "logical", "bus_numerator", "bus_denominator", "bus_page_ns", "ready_ns", "erase_ns", "multi_plane", "cache",
    "suspend_program", "suspend_erase", "suspend_ns", "resume_ns", "suspends_most", "gc_policy", "gc_choices",
    "gc_threshold", "gc_reserve", "gc_preempt", "gc_hard", "wear_gap", "retry_fresh", "retry_worn", "retries",
    "rated", "doorbell_ns", "entry_ns", "request_ns", "completion_ns", "payload", "overhead", "lanes", "wire_rate",
    "read_overhead_ns", "write_overhead_ns", "command_ns", "fetch", "queue_pairs", "buffer", "map_slots",
    "map_pages", "map_reach", "internal", "partial", "spare", "granule",
    # Where tables and records begin.
    "bus_times", "read_times", "program_times", "plane_order", "first_channel", "first_unit", "first_plane",
    "first_block", "heap", "rings", "first_request", "histograms", "first_slot", "mapped", "spare_areas",
    "first_queue", "log", "drawn", "first_txn",
    "ring_size", "heap_size", "requests", "log_size",
    # What changes as it runs.
    "now", "sequence", "heap_count", "free_txn", "free_txns", "free_request", "in_flight", "cursor",
    ("to_drive", WIRE), ("to_host", WIRE), "firmware_free", "random", "write_sequence", "block_sequence", "buffered",
    ("unbuffered", LINE), "buffer_peak", "last_size", "last_ns", ("slots", LINE), "slots_used", ("parked", LINE),
    "logged", "events", "fault", "next_queue",
    # What is counted.
    "reads", "writes", "trims", "bytes_read", "bytes_written", "host_pages_read", "host_pages_written",
    "read_commands", "read_multi", "program_commands", "program_multi", "erase_commands", "read_pages",
    "program_pages", "erase_blocks", "gc_runs", "gc_moves", "wear_runs", "wear_moves", "map_reads", "map_writes",
    "map_hits", "map_misses", "merge_reads", "buffer_hits", "retried", "suspended", "last_done", "bus_bytes",
    "trimmed", "barriers", "stalls", "cached_commands",
)  # fmt: skip
"""The drive itself. ``unbuffered``: writes that wait for room in the buffer; ``slots``: of the cached map, the last
used first; ``parked``: transactions that wait for their page of the map."""


class Memory(NamedTuple):
    """The arrays of a drive, as ``DriveState`` holds them."""

    m: npt.NDArray[np.int64]
    to_physical: npt.NDArray[np.int32]
    to_logical: npt.NDArray[np.int32]
    held: npt.NDArray[np.uint32]


class Flash(NamedTuple):
    """A drive in a kernel: its record, the maps of pages (numbers plus one; 0: nowhere), and what is held of pages.

    ``held``: which sixteenths of a logical page were written (low 16 bits), and how many writes of it the controller
    still holds (high 16 bits).
    """

    drive: np.record
    to_physical: np.int32
    to_logical: np.int32
    held: np.uint32


IDLE, READING, WAITING, HOLDING, WRITING, ERASING = range(6)
"""States of a unit: nothing; array read; data wait in the register; finished behind data that wait; ..."""
FREE, OPEN_USER, OPEN_GC, FULL, VICTIM = range(5)
"""States of a block."""
READ, WRITE, ERASE, TRIM = range(4)
USER, GC, MAP, MERGE = range(4)
"""Whose a transaction is: the host's, collection's, the map's, or a read of what a write leaves of a page."""
BIN_BITS: Final = 7
BINS: Final = 64 << BIN_BITS
"""Latencies are counted in bins at most 1/128 wide."""
BUS_TIMES: Final = 17
"""Words of a row of bus times: reads, programs, erases; for 1, 2, ... 16 planes."""

(LOG_READ, LOG_PROGRAM, LOG_ERASE, LOG_OUT, LOG_DONE, LOG_INSTANT, LOG_PLACED, LOG_PROGRAMMED, LOG_ERASED,
 LOG_TRIMMED) = range(10)  # fmt: skip
"""What a row of the log tells: a command sent; data moved out; a request done; a page there from before; a write
given its place; a program or an erase ended; a logical page forgotten."""
