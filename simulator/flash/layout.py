"""The state of a drive: records of whole numbers in one array, so that a kernel passes one argument around.

A record is a run of places in ``m`` and its handle is the first of them: ``m[txn + T_LPN]``. Scalars and
configuration stand at the front, tables and records behind, transactions last so that their number can grow.
Maps of pages (logical to physical and back) are arrays of their own; both hold numbers plus one, so that the
zeros of untouched memory mean "nowhere" and a drive of a terabyte is built at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from simulator.flash.drive import GC_POLICIES, Drive, page_types

__all__ = ["DriveState", "new_state", "plane_order"]

Ints = npt.NDArray[np.int64]

# --- configuration, by place in m -------------------------------------------------------------------------
(
    CHANNELS, UNITS_PER_CHANNEL, UNITS, PLANES_PER_DIE, PLANES, BLOCKS, PAGES, PAGE_BYTES, LOGICAL,
    BUS_NUM, BUS_DEN, BUS_PAGE, READY, ERASE_NS, MULTI_PLANE, CACHE, SUSPEND_P, SUSPEND_E, SUSPEND_NS,
    RESUME_NS, SUSPENDS_MAX, GC_POLICY, GC_CHOICES, GC_THRESHOLD, GC_RESERVE, GC_PREEMPT, GC_HARD, WL_GAP,
    RETRY_FRESH, RETRY_WORN, RETRIES, RATED, NS_DOORBELL, NS_ENTRY, NS_REQUEST, NS_COMPLETION, PAYLOAD,
    OVERHEAD, LANES, WIRE_RATE, READ_OVERHEAD, WRITE_OVERHEAD, COMMAND_NS, FETCH, QUEUE_PAIRS, BUFFER,
    MAP_SLOTS, MAP_PAGES, MAP_REACH, INTERNAL, PARTIAL, SPARE, GRANULE,
    # where the tables and records begin
    AT_BUS, AT_READ, AT_PROGRAM, AT_ORDER, AT_CHANNEL, AT_UNIT, AT_PLANE, AT_BLOCK, AT_HEAP, AT_RING,
    AT_REQUEST, AT_HISTOGRAM, AT_SLOT, AT_MAPPED, AT_SPARE, AT_QUEUE, AT_LOG, AT_TXN,
    RING_SIZE, HEAP_SIZE, REQUESTS, LOG_SIZE,
    # --- running values
    NOW, SEQUENCE, HEAP_COUNT, FREE_TXN, FREE_TXNS, FREE_REQUEST, IN_FLIGHT, CURSOR, RING_HEAD, RING_HEAD_1,
    RING_TAIL, RING_TAIL_1, WIRE_FREE, WIRE_FREE_1, WIRE_BUSY, WIRE_BUSY_1, FIRMWARE_FREE, RANDOM,
    WRITE_SEQUENCE, BLOCK_SEQUENCE, BUFFERED, BUFFER_HEAD, BUFFER_TAIL, BUFFER_PEAK, LAST_SIZE, LAST_NS,
    SLOT_HEAD, SLOT_TAIL, SLOTS_USED, PARKED_HEAD, PARKED_TAIL, LOGGED, EVENTS, FAULT, NEXT_QUEUE,
    # --- counters
    N_READ, N_WRITE, N_TRIM, BYTES_READ, BYTES_WRITTEN, HOST_PAGES_READ, HOST_PAGES_WRITTEN, READ_COMMANDS,
    READ_MULTI, PROGRAM_COMMANDS, PROGRAM_MULTI, ERASE_COMMANDS, READ_PAGES, PROGRAM_PAGES, ERASE_BLOCKS,
    GC_RUNS, GC_MOVES, WL_RUNS, WL_MOVES, MAP_READS, MAP_WRITES, MAP_HITS, MAP_MISSES, MERGE_READS,
    BUFFER_HITS, RETRIED, SUSPENDED, LAST_DONE, BUS_BYTES, TRIMMED, BARRIERS, STALLS, CACHED_COMMANDS,
) = range(143)  # fmt: skip
HEADER: Final = 192

# --- records ------------------------------------------------------------------------------------------------
(C_BUSY, C_TXN, C_TURN, C_BUSY_NS, C_OUT, C_OUT_1, C_OUT_2, C_OUT_TAIL, C_OUT_TAIL_1, C_OUT_TAIL_2, C_FIRST,
 C_INDEX) = range(12)  # fmt: skip
C_SIZE: Final = 16
(U_STATE, U_CHANNEL, U_ACTIVE, U_END, U_STAMP, U_OUT, U_HOLD, U_PENDING, U_PENDING_READY, U_PENDING_NS,
 U_ASIDE, U_ASIDE_NS, U_ASIDE_STATE, U_SUSPENDS, U_COUNT, U_BUSY_NS, U_INDEX, U_PLANE, U_PLANES,
 U_HEAD) = range(20)  # fmt: skip
U_TAIL: Final = 26
U_SIZE: Final = 32
(P_UNIT, P_DIE, P_BIT, P_CHANNEL, P_FREE, P_FREE_HEAD, P_FREE_TAIL, P_USER, P_GC, P_RUNNING, P_NEED, P_WAIT,
 P_WAIT_TAIL, P_BARRIER, P_BARRIER_TAIL, P_BLOCKS, P_MAX_ERASE, P_MIN_ERASE, P_INDEX) = range(19)  # fmt: skip
P_SIZE: Final = 20
(B_STATE, B_WRITTEN, B_INVALID, B_ERASES, B_READS, B_WRITES, B_SUPERSEDED, B_MOVES, B_NEXT, B_PREV, B_AGE,
 B_PROGRAMMED) = range(12)  # fmt: skip
B_SIZE: Final = 12
(T_NEXT, T_KIND, T_SOURCE, T_UNIT, T_DIE, T_BIT, T_PLANE, T_PAGE, T_PPN, T_LPN, T_REQUEST, T_BYTES, T_OLD,
 T_SEQUENCE, T_CHANNEL, T_BLOCK) = range(16)  # fmt: skip
T_SIZE: Final = 16
(R_NEXT, R_OP, R_ADDRESS, R_BYTES, R_SUBMIT, R_LEFT, R_QUEUE, R_INDEX) = range(8)
R_SIZE: Final = 8
(Q_WAITING, Q_HELD, Q_HEAD, Q_TAIL) = range(4)
Q_SIZE: Final = 4
(S_PAGE, S_DIRTY, S_PREV, S_NEXT, S_LOADING) = range(5)
S_SIZE: Final = 5
(L_TIME, L_END, L_OP, L_UNIT, L_PPN, L_LPN, L_SOURCE, L_STAMP) = range(8)
L_SIZE: Final = 8

IDLE, READING, WAITING, HOLDING, WRITING, ERASING = range(6)
"""States of a unit: nothing; array read; data wait in the register; finished behind data that wait; ..."""
FREE, OPEN_USER, OPEN_GC, FULL, VICTIM = range(5)
READ, WRITE, ERASE, TRIM = range(4)
USER, GC, MAP, MERGE = range(4)
Q_MAP_READ, Q_USER_READ, Q_GC_READ, Q_USER_WRITE, Q_GC_WRITE, Q_ERASE = range(6)
K_NONE, K_DOORBELL, K_ENTRY, K_DATA, K_FETCH, K_PULL, K_DONE = range(7)
BIN_BITS: Final = 7
BINS: Final = 64 << BIN_BITS
"""Latencies are counted in bins at most 1/128 wide."""

(LOG_READ, LOG_PROGRAM, LOG_ERASE, LOG_OUT, LOG_DONE, LOG_INSTANT, LOG_PLACED, LOG_PROGRAMMED, LOG_ERASED,
 LOG_TRIMMED) = range(10)  # fmt: skip
"""What a row of the log tells: a command sent; data moved out; a request done; a page there from before; a write
given its place; a program or an erase ended; a logical page forgotten."""


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

    def records(self, at: int, size: int, count: int) -> Ints:
        """A view of records: one row each."""
        start = int(self.m[at])
        return self.m[start : start + size * count].reshape(count, size)

    @property
    def blocks(self) -> Ints:
        """All blocks, plane by plane."""
        return self.records(AT_BLOCK, B_SIZE, self.drive.planes * self.drive.blocks_per_plane)

    @property
    def planes(self) -> Ints:
        """All planes."""
        return self.records(AT_PLANE, P_SIZE, self.drive.planes)

    @property
    def units(self) -> Ints:
        """Dies, or chips where dies do not interleave."""
        return self.records(AT_UNIT, U_SIZE, int(self.m[UNITS]))

    @property
    def channels(self) -> Ints:
        """All channels."""
        return self.records(AT_CHANNEL, C_SIZE, self.drive.channels)

    @property
    def histograms(self) -> Ints:
        """Latency counts of reads, writes and trims."""
        return self.records(AT_HISTOGRAM, BINS + 4, 3)

    def grow(self, wanted: int) -> None:
        """Make room for at least so many free transactions."""
        count = (self.m.size - int(self.m[AT_TXN])) // T_SIZE
        more = max(count, wanted)
        old = self.m.size
        self.m = np.concatenate([self.m, np.zeros(more * T_SIZE, np.int64)])
        _chain(self.m, old, more)


def _chain(m: Ints, start: int, count: int) -> None:
    """Put ``count`` new transactions on the list of free ones."""
    handles = start + T_SIZE * np.arange(count, dtype=np.int64)
    m[handles + T_NEXT] = np.append(handles[1:], m[FREE_TXN])
    m[FREE_TXN] = start
    m[FREE_TXNS] += count


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
        AT_BUS: 3 * 17, AT_READ: d.pages_per_block, AT_PROGRAM: d.pages_per_block, AT_ORDER: d.planes,
        AT_CHANNEL: d.channels * C_SIZE, AT_UNIT: units * U_SIZE, AT_PLANE: d.planes * P_SIZE,
        AT_BLOCK: d.planes * d.blocks_per_plane * B_SIZE, AT_HEAP: 2 * heap, AT_RING: 4 * ring,
        AT_REQUEST: requests * R_SIZE, AT_HISTOGRAM: 3 * (BINS + 4), AT_SLOT: d.mapping_cache_pages * S_SIZE,
        AT_MAPPED: map_pages, AT_SPARE: d.physical_pages if spare else 0, AT_QUEUE: d.host.queue_pairs * Q_SIZE,
        AT_LOG: log * L_SIZE,
    }  # fmt: skip
    pages = -(-largest_bytes // d.page_bytes) + 1
    txns = 2 * transaction_margin(drive, pages) + requests * pages
    places, at = {}, HEADER
    for name, size in sizes.items():
        places[name], at = at, at + size
    m = np.zeros(at + txns * T_SIZE, np.int64)
    for name, place in places.items():
        m[name] = place
    m[AT_TXN] = at
    m[[RING_SIZE, HEAP_SIZE, REQUESTS, LOG_SIZE]] = ring, heap, requests, log
    _configure(m, d, units, map_pages, internal, partial, spare)
    m[RANDOM] = (seed * 0x9E3779B97F4A7C15 + 0x1234567) & (2**63 - 1)
    types = page_types(d.pages_per_block, bits)
    m[places[AT_READ] : places[AT_READ] + d.pages_per_block] = np.array(d.read_ns)[types]
    m[places[AT_PROGRAM] : places[AT_PROGRAM] + d.pages_per_block] = np.array(d.program_ns)[types]
    table = d.commands.table(min(d.planes_per_die, 16))
    for row in range(3):
        begin = places[AT_BUS] + 17 * row
        m[begin : begin + table.shape[1]] = table[row]
    m[places[AT_ORDER] : places[AT_ORDER] + d.planes] = (
        places[AT_PLANE] + plane_order(d) * P_SIZE
    )  # handles, not numbers
    _chain(m, at, txns)
    state = DriveState(
        d, m,
        np.zeros(d.logical_pages + map_pages, np.int32), np.zeros(d.physical_pages, np.int32),
        np.zeros(d.logical_pages + map_pages if partial else 1, np.uint32),
    )  # fmt: skip
    _wire(state, units, per_unit)
    return state


def transaction_margin(drive: Drive, pages: int) -> int:
    """Transactions that one event may ask for: a request's pages, and a collection in each plane it fills."""
    return pages + (min(pages, drive.planes) + 4) * drive.pages_per_block + 16


def _configure(
    m: Ints, d: Drive, units: int, map_pages: int, internal: bool, partial: bool, spare: bool
) -> None:
    h = d.host
    f = d.bus_ns_per_byte
    scale = float(2**40)
    values = {
        CHANNELS: d.channels, UNITS_PER_CHANNEL: units // d.channels, UNITS: units,
        PLANES_PER_DIE: d.planes_per_die, PLANES: d.planes, BLOCKS: d.blocks_per_plane,
        PAGES: d.pages_per_block, PAGE_BYTES: d.page_bytes, LOGICAL: d.logical_pages,
        BUS_NUM: f.numerator, BUS_DEN: f.denominator, BUS_PAGE: d.transfer_ns(d.page_bytes),
        READY: d.commands.ready_delay_read, ERASE_NS: d.erase_ns, MULTI_PLANE: d.multi_plane,
        CACHE: d.cache_commands, SUSPEND_P: d.suspend_program, SUSPEND_E: d.suspend_erase,
        SUSPEND_NS: d.suspend_ns, RESUME_NS: d.resume_ns, SUSPENDS_MAX: d.suspends_per_operation,
        GC_POLICY: GC_POLICIES.index(d.gc_policy), GC_CHOICES: d.gc_choices,
        GC_THRESHOLD: d.gc_threshold_blocks, GC_RESERVE: d.gc_reserve_blocks, GC_PREEMPT: d.gc_preemptible,
        GC_HARD: d.gc_hard_blocks, WL_GAP: d.wear_levelling_gap,
        RETRY_FRESH: int(d.retry_probability * scale), RETRY_WORN: int(d.retry_probability_worn * scale),
        RETRIES: d.retries, RATED: max(d.rated_cycles, 1), NS_DOORBELL: h.time_ns(2, 1),
        NS_ENTRY: h.time_ns(h.submission_entry, 1), NS_REQUEST: h.time_ns(4, 1),
        NS_COMPLETION: h.time_ns(h.completion_entry, 1), PAYLOAD: h.payload, OVERHEAD: h.overhead,
        LANES: h.lanes, WIRE_RATE: round(h.bytes_per_ns * 2**20), READ_OVERHEAD: h.read_overhead_ns,
        WRITE_OVERHEAD: h.write_overhead_ns, COMMAND_NS: h.command_ns, FETCH: h.fetch_size,
        QUEUE_PAIRS: h.queue_pairs, BUFFER: d.write_buffer_pages, MAP_SLOTS: d.mapping_cache_pages,
        MAP_PAGES: map_pages, MAP_REACH: d.page_bytes // 8, INTERNAL: internal, PARTIAL: partial, SPARE: spare,
        GRANULE: max(d.page_bytes // 16, 1),
    }  # fmt: skip
    for place, value in values.items():
        m[place] = int(value)


def _wire(state: DriveState, units: int, per_unit: int) -> None:
    """Fill in the records that never change, and the lists of free blocks and requests."""
    d, m = state.drive, state.m
    number = np.arange(d.planes)
    per_channel = units // d.channels
    unit = number // per_unit
    unit_at = m[AT_UNIT] + unit * U_SIZE
    planes = state.planes
    planes[:, P_UNIT] = unit_at
    planes[:, P_DIE] = number % per_unit // d.planes_per_die
    planes[:, P_BIT] = 1 << (number % d.planes_per_die)
    planes[:, P_CHANNEL] = m[AT_CHANNEL] + unit // per_channel * C_SIZE
    planes[:, P_INDEX] = number
    first = m[AT_BLOCK] + number * d.blocks_per_plane * B_SIZE
    planes[:, P_BLOCKS] = planes[:, P_FREE_HEAD] = first
    planes[:, P_FREE_TAIL] = first + (d.blocks_per_plane - 1) * B_SIZE
    planes[:, P_FREE] = d.blocks_per_plane
    blocks = state.blocks
    handle = m[AT_BLOCK] + np.arange(len(blocks)) * B_SIZE
    blocks[:, B_NEXT] = handle + B_SIZE
    blocks[:, B_PREV] = handle - B_SIZE
    blocks[d.blocks_per_plane - 1 :: d.blocks_per_plane, B_NEXT] = 0
    blocks[:: d.blocks_per_plane, B_PREV] = 0
    units_ = state.units
    units_[:, U_CHANNEL] = m[AT_CHANNEL] + np.arange(units) // per_channel * C_SIZE
    units_[:, U_INDEX] = np.arange(units)
    units_[:, U_PLANE] = m[AT_PLANE] + np.arange(units) * per_unit * P_SIZE
    units_[:, U_PLANES] = per_unit
    channels = state.channels
    channels[:, C_FIRST] = m[AT_UNIT] + np.arange(d.channels) * per_channel * U_SIZE
    channels[:, C_INDEX] = np.arange(d.channels)
    if d.translation_frontier:
        last = planes[:, P_FREE_TAIL].copy()
        index = (last - m[AT_BLOCK]) // B_SIZE
        planes[:, P_FREE_TAIL] = blocks[index, B_PREV]
        blocks[index - 1, B_NEXT] = 0
        blocks[index, B_PREV] = 0
        blocks[index, B_STATE] = OPEN_GC
        planes[:, P_FREE] -= 1
    rows = state.records(AT_REQUEST, R_SIZE, int(m[REQUESTS]))
    handles = m[AT_REQUEST] + np.arange(len(rows)) * R_SIZE
    rows[:, R_NEXT] = np.append(handles[1:], 0)
    m[FREE_REQUEST] = handles[0]
