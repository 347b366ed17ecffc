"""The memory of a drive: all its records in one array of words, built from its description.

The drive's own record and the tables stand at the front, records behind, transactions last so that their number can
grow. Maps of pages (logical to physical and back) are arrays of their own; both hold numbers plus one, so that the
zeros of untouched memory mean "nowhere" and a drive of a terabyte is built at once.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulator.flash.drive import GC_POLICIES, Drive, page_types
from simulator.flash.records import (
    BINS,
    BLOCK,
    BUS_TIMES,
    CHANNEL,
    DRIVE,
    HISTOGRAM,
    LOG_ROW,
    MESSAGE,
    OPEN_GC,
    PLANE,
    QUEUE,
    REQUEST,
    SLOT,
    TXN,
    UNIT,
    words,
)

__all__ = ["DriveState", "new_state", "plane_order", "transaction_margin"]

Ints = npt.NDArray[np.int64]
Records = npt.NDArray[Any]
HEADER: Final = 192
"""Words kept for the drive's own record."""


def plane_order(drive: Drive) -> Ints:
    """The plane that each of the first ``drive.planes`` logical pages goes to; it repeats from there.

    The letters of the placement say which of channel, way, die and plane turns fastest.
    """
    sizes = {
        "C": drive.channels, "W": drive.chips_per_channel, "D": drive.dies_per_chip,
        "P": drive.planes_per_die,
    }  # fmt: skip
    rest = np.arange(drive.planes, dtype=np.int64)
    part = {}
    for letter in drive.placement:
        part[letter] = rest % sizes[letter]
        rest = rest // sizes[letter]
    chip = part["C"] * sizes["W"] + part["W"]
    return np.asarray((chip * sizes["D"] + part["D"]) * sizes["P"] + part["P"], np.int64)


@dataclass
class DriveState:
    """The arrays of a drive. ``auxiliary`` holds written parts of a page and copies in the write buffer."""

    drive: Drive
    m: Ints
    to_physical: npt.NDArray[np.int32]
    to_logical: npt.NDArray[np.int32]
    auxiliary: npt.NDArray[np.uint32]

    @property
    def arrays(self) -> tuple[Ints, npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.uint32]]:
        """What a kernel takes."""
        return self.m, self.to_physical, self.to_logical, self.auxiliary

    @property
    def record(self) -> Any:
        """The drive's own record: what it is, where its other records are, what changes and what is counted."""
        return self.m[: words(DRIVE)].view(np.recarray).view(np.dtype((np.record, DRIVE)))[0]

    def _table(self, begin: int, kind: np.dtype[np.void], count: int) -> Records:
        """A view of records of one kind."""
        return self.m[begin : begin + words(kind) * count].view(kind)

    @property
    def blocks(self) -> Records:
        """All blocks, plane by plane."""
        return self._table(self.record.first_block, BLOCK, self.drive.planes * self.drive.blocks_per_plane)

    @property
    def planes(self) -> Records:
        """All planes."""
        return self._table(self.record.first_plane, PLANE, self.drive.planes)

    @property
    def units(self) -> Records:
        """Dies, or chips where dies do not interleave."""
        return self._table(self.record.first_unit, UNIT, int(self.record.units))

    @property
    def channels(self) -> Records:
        """All channels."""
        return self._table(self.record.first_channel, CHANNEL, self.drive.channels)

    @property
    def requests(self) -> Records:
        """Room for the requests in flight."""
        return self._table(self.record.first_request, REQUEST, int(self.record.requests))

    @property
    def log_rows(self) -> Ints:
        """The rows of the log that were written, one column for each field of a row."""
        begin, columns = int(self.record.log), words(LOG_ROW)
        count = min(int(self.record.logged), int(self.record.log_size))
        return self.m[begin : begin + columns * count].reshape(count, columns)

    @property
    def spare_areas(self) -> Ints:
        """The number of the write that made each physical page, 0 where none is programmed."""
        begin = int(self.record.spare_areas)
        return self.m[begin : begin + self.drive.physical_pages]

    @property
    def histograms(self) -> Ints:
        """Latencies of reads, writes and trims: least, most, sum and count, then the counts of the bins."""
        columns = words(HISTOGRAM) + BINS
        begin = int(self.record.histograms)
        return self.m[begin : begin + 3 * columns].reshape(3, columns)

    def grow(self, wanted: int) -> None:
        """Make room for at least so many free transactions."""
        count = (self.m.size - int(self.record.first_txn)) // words(TXN)
        more = max(count, wanted)
        old = self.m.size
        self.m = np.concatenate([self.m, np.zeros(more * words(TXN), np.int64)])
        _chain(self, old, more)


def _chain(state: DriveState, start: int, count: int) -> None:
    """Put ``count`` new transactions on the list of free ones."""
    head = state.record
    new = state.m[start : start + words(TXN) * count].view(TXN)
    places = start + words(TXN) * np.arange(count, dtype=np.int64)
    new["next"] = np.append(places[1:], head.free_txn)
    head.free_txn = start
    head.free_txns += count


def _sparse(count: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros of which a run may touch a few here and there: each costs the system one small page, not a large one."""
    return np.frombuffer(mmap.mmap(-1, max(count * np.dtype(kind).itemsize, 1)), kind, count)


def new_state(
    drive: Drive,
    *,
    requests: int,
    largest_bytes: int,
    seed: int = 1,
    internal: bool = False,
    partial: bool = True,
    spare: bool = False,
    log: int = 0,
) -> DriveState:
    """An empty drive. ``requests`` may be in flight at once, of at most ``largest_bytes`` each.

    ``partial``: keep which parts of a page were written, and which pages the controller still holds.
    ``spare``: keep the spare area of every page (for recovery); ``log``: commands that a log has room for.
    """
    d = drive
    bits = len(d.read_ns)
    partial = partial or d.write_buffer_pages > 0
    per_unit = d.planes_per_die * (1 if d.die_interleaving else d.dies_per_chip)
    units = d.planes // per_unit
    map_pages = -(-d.logical_pages * 8 // d.page_bytes) if d.mapping_cache_pages else 0
    ring = 1 << int(np.ceil(np.log2(4 * requests + 16)))
    # A suspended operation leaves its old event on the heap until that one's time has come.
    suspends = d.suspends_per_operation if d.suspend_program or d.suspend_erase else 0
    heap = d.channels + units * (2 + suspends) + requests + 64
    sizes = {
        "bus_times": 3 * BUS_TIMES, "read_times": d.pages_per_block, "program_times": d.pages_per_block,
        "plane_order": d.planes, "first_channel": d.channels * words(CHANNEL), "first_unit": units * words(UNIT),
        "first_plane": d.planes * words(PLANE), "first_block": d.planes * d.blocks_per_plane * words(BLOCK),
        "heap": 2 * heap, "rings": 2 * ring * words(MESSAGE), "first_request": requests * words(REQUEST),
        "histograms": 3 * (words(HISTOGRAM) + BINS), "first_slot": d.mapping_cache_pages * words(SLOT),
        "mapped": map_pages, "spare_areas": d.physical_pages if spare else 0,
        "first_queue": d.host.queue_pairs * words(QUEUE), "log": (log + 1) * words(LOG_ROW),
        "drawn": d.gc_choices,
    }  # fmt: skip
    pages = -(-largest_bytes // d.page_bytes) + 1
    txns = 2 * transaction_margin(drive, pages) + requests * pages
    places, at = {}, HEADER
    for name, size in sizes.items():
        places[name], at = at, at + size
    state = DriveState(
        d, np.zeros(at + txns * words(TXN), np.int64),
        _sparse(d.logical_pages + map_pages, np.int32), _sparse(d.physical_pages, np.int32),
        _sparse(d.logical_pages + map_pages if partial else 1, np.uint32),
    )  # fmt: skip
    m, head = state.m, state.record
    known = {
        "first_txn": at, "ring_size": ring, "heap_size": heap, "requests": requests, "log_size": log,
        "map_pages": map_pages, "internal": internal, "partial": partial, "spare": spare, "units": units,
        "random": (seed * 0x9E3779B97F4A7C15 + 0x1234567) & (2**63 - 1),
    }  # fmt: skip
    for name, value in (places | known | _configuration(d, units)).items():
        head[name] = int(value)
    head.to_drive.begin, head.to_host.begin = places["rings"], places["rings"] + ring * words(MESSAGE)
    types = page_types(d.pages_per_block, bits)
    m[places["read_times"] : places["read_times"] + d.pages_per_block] = np.array(d.read_ns)[types]
    m[places["program_times"] : places["program_times"] + d.pages_per_block] = np.array(d.program_ns)[types]
    table = d.commands.table(min(d.planes_per_die, BUS_TIMES - 1))
    for row in range(3):
        begin = places["bus_times"] + BUS_TIMES * row
        m[begin : begin + table.shape[1]] = table[row]
    order = places["first_plane"] + plane_order(d) * words(PLANE)
    m[places["plane_order"] : places["plane_order"] + d.planes] = order
    _chain(state, at, txns)
    _wire(state, units, per_unit)
    return state


def transaction_margin(drive: Drive, pages: int) -> int:
    """Transactions that one event may ask for: a request's pages, and a collection in each plane it fills."""
    return pages + (min(pages, drive.planes) + 4) * drive.pages_per_block + 16


def _configuration(d: Drive, units: int) -> dict[str, int]:
    """What the drive's own record takes from its description."""
    h = d.host
    f = d.bus_ns_per_byte
    scale = float(2**40)
    return {
        "channels": d.channels, "units_per_channel": units // d.channels, "planes_per_die": d.planes_per_die,
        "planes": d.planes, "blocks": d.blocks_per_plane, "pages": d.pages_per_block, "page_bytes": d.page_bytes,
        "logical": d.logical_pages, "bus_numerator": f.numerator, "bus_denominator": f.denominator,
        "bus_page_ns": d.transfer_ns(d.page_bytes), "ready_ns": d.commands.ready_delay_read,
        "erase_ns": d.erase_ns, "multi_plane": d.multi_plane, "cache": d.cache_commands,
        "suspend_program": d.suspend_program, "suspend_erase": d.suspend_erase, "suspend_ns": d.suspend_ns,
        "resume_ns": d.resume_ns, "suspends_most": d.suspends_per_operation,
        "gc_policy": GC_POLICIES.index(d.gc_policy), "gc_choices": d.gc_choices,
        "gc_threshold": d.gc_threshold_blocks, "gc_reserve": d.gc_reserve_blocks, "gc_preempt": d.gc_preemptible,
        "gc_hard": d.gc_hard_blocks, "wear_gap": d.wear_levelling_gap,
        "retry_fresh": int(d.retry_probability * scale), "retry_worn": int(d.retry_probability_worn * scale),
        "retries": d.retries, "rated": max(d.rated_cycles, 1), "doorbell_ns": h.time_ns(2, 1),
        "entry_ns": h.time_ns(h.submission_entry, 1), "request_ns": h.time_ns(4, 1),
        "completion_ns": h.time_ns(h.completion_entry, 1), "payload": h.payload, "overhead": h.overhead,
        "lanes": h.lanes, "wire_rate": round(h.bytes_per_ns * 2**20), "read_overhead_ns": h.read_overhead_ns,
        "write_overhead_ns": h.write_overhead_ns, "command_ns": h.command_ns, "fetch": h.fetch_size,
        "queue_pairs": h.queue_pairs, "buffer": d.write_buffer_pages, "map_slots": d.mapping_cache_pages,
        "map_reach": d.page_bytes // 8, "granule": max(d.page_bytes // 16, 1),
    }  # fmt: skip


def _wire(state: DriveState, units: int, per_unit: int) -> None:
    """Fill in the records that never change, and the lists of free blocks and requests."""
    d, head = state.drive, state.record
    number = np.arange(d.planes)
    per_channel = units // d.channels
    unit = number // per_unit
    planes, blocks = state.planes, state.blocks
    planes["unit"] = head.first_unit + unit * words(UNIT)
    planes["die"] = number % per_unit // d.planes_per_die
    planes["bit"] = 1 << (number % d.planes_per_die)
    planes["channel"] = head.first_channel + unit // per_channel * words(CHANNEL)
    planes["index"] = number
    first = head.first_block + number * d.blocks_per_plane * words(BLOCK)
    planes["first_block"] = planes["free_blocks"]["head"] = first
    planes["free_blocks"]["tail"] = first + (d.blocks_per_plane - 1) * words(BLOCK)
    planes["free"] = d.blocks_per_plane
    place = head.first_block + np.arange(len(blocks)) * words(BLOCK)
    blocks["next"] = place + words(BLOCK)
    blocks["previous"] = place - words(BLOCK)
    blocks["next"][d.blocks_per_plane - 1 :: d.blocks_per_plane] = 0
    blocks["previous"][:: d.blocks_per_plane] = 0
    all_units, channels = state.units, state.channels
    index = np.arange(units)
    all_units["channel"] = head.first_channel + index // per_channel * words(CHANNEL)
    all_units["index"] = index
    all_units["first_plane"] = head.first_plane + index * per_unit * words(PLANE)
    all_units["planes"] = per_unit
    all_units["lines"] = head.first_unit + index * words(UNIT) + _word(UNIT, "map_reads")
    index = np.arange(d.channels)
    channels["first_unit"] = head.first_unit + index * per_channel * words(UNIT)
    channels["index"] = index
    channels["lines"] = head.first_channel + index * words(CHANNEL) + _word(CHANNEL, "map_out")
    if d.translation_frontier:
        last = (planes["free_blocks"]["tail"] - head.first_block) // words(BLOCK)
        planes["free_blocks"]["tail"] = blocks["previous"][last]
        blocks["next"][last - 1] = 0
        blocks["previous"][last] = 0
        blocks["state"][last] = OPEN_GC
        planes["free"] -= 1
    requests = state.requests
    places = head.first_request + np.arange(len(requests)) * words(REQUEST)
    requests["next"] = np.append(places[1:], 0)
    head.free_request = places[0]


def _word(kind: np.dtype[np.void], field: str) -> int:
    """The place of a field in its record."""
    assert kind.fields is not None
    return kind.fields[field][1] // 8
