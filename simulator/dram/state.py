"""What a channel's run consists of between two ticks: every array of the engine, and a name for every scalar.

The kernel takes these arrays, changes them in place and can stop at any tick, so a run goes on with the next
chunk of the trace, empties a full log, or is moved ahead by a leap.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.dram.channel_tables import NCMD, ChannelTables, Settings

__all__ = ["Chunk", "Log", "State", "filter_place", "new_state", "rebuild_filter"]

Ints = npt.NDArray[np.int64]

HISTOGRAM: Final = 1 << 16
"""Latencies up to this many ticks are counted exactly; longer ones share the last bin."""

DONE, NEED, FULL, STUCK, OVERFLOW, PAUSED = 0, 1, 2, 3, 4, 5
INF: Final = 1 << 60
FILTER: Final = 1024
PATIENCE: Final = 2_000_000
"""Ticks without a command for a waiting request after which the controller is taken to be locked up."""


# Scalars that live across calls, by their place in State.scalar.
(
    NOW, NEXT, OFFER, MODE, READS, WRITES, ACTIVE, PRIORITY_HEAD, PRIORITY_COUNT, LIVE, DEPART, ACCEPTED,
    FREE, LOCK, LOCK_FROM, LOCK_CMD, OPENING, DEADLINE, EXPIRY, PAIR_TICK, PAIR_SCOPE, PAIR_BANK, OUTSTANDING,
    PEND_HEAD, PEND_COUNT, SUM_READS, SUM_WRITES, SUM_PRIORITY, HITS, MISSES, CONFLICTS, READ_HITS,
    WRITE_HITS, FORWARDED, COALESCED, LATENCY_SUM, LATENCY_MAX, SERVED_READS, SERVED_WRITES, LAST_ACCEPT,
    PAIRED_SID, PAIRED_BANK, PAIRED_NEXT, PAIRED_PENDING, PAIRED_FLAT, PAIRED_SET, LAST_WRITE, PEAK_READS,
    PEAK_WRITES, DUE, PROGRESS,
) = range(51)  # fmt: skip
SCALARS: Final = 64

# What is kept of a request, and of a bank, by its place in a record. Records keep what is used together close
# together, and leave the kernel few arrays to point at.
RECORD: Final = 16
R_ROW, R_BANK, R_ARRIVE, R_INDEX, R_WRITE, R_ADDRESS, R_NEXT, R_PREV, R_COUNTED = range(9)
B_STATE, B_ROW, B_ACTIVE, B_COLUMNS, B_INJECTED, B_LAST, B_SCOPE = range(7)
# For reads, then for writes: a bank's list of requests, its oldest hit of the open row, its oldest other one.
B_FIRST, B_TAIL, B_HIT, B_OTHER = range(7, 15, 2)
# Sets of banks as bits, eight words for every 64 banks.
M_HIT, M_OTHER, M_CLOSED, M_OPEN, M_IDLE = 0, 2, 4, 5, 6


class State(NamedTuple):
    """Everything that changes, in arrays, so that a run can stop and go on with the next chunk."""

    scalar: Ints
    ready: Ints
    history: Ints
    request: Ints
    bank: Ints
    sets: Ints
    free_slots: Ints
    actives: Ints
    priority_command: Ints
    priority_object: Ints
    timer_next: Ints
    timer_turn: Ints
    scope_open: Ints
    scope_since: Ints
    scope_active: Ints
    bank_ticks: Ints
    written: Ints
    in_flight: Ints
    counts: Ints
    bank_outcome: Ints
    histogram: Ints
    paired_count: Ints
    paired_allowed: Ints

    @property
    def slot_row(self) -> Ints:
        """Row of each request."""
        return self.request[R_ROW::RECORD]

    @property
    def slot_bank(self) -> Ints:
        """Flat bank number of each request."""
        return self.request[R_BANK::RECORD]

    @property
    def slot_arrive(self) -> Ints:
        """Clock at which each request was accepted."""
        return self.request[R_ARRIVE::RECORD]

    @property
    def slot_index(self) -> Ints:
        """Place of each request in the trace."""
        return self.request[R_INDEX::RECORD]

    @property
    def slot_type(self) -> Ints:
        """1 for writes."""
        return self.request[R_WRITE::RECORD]

    @property
    def slot_address(self) -> Ints:
        """Transaction number of each request."""
        return self.request[R_ADDRESS::RECORD]

    @property
    def slot_counted(self) -> Ints:
        """Whether each request is counted as hit, miss or conflict."""
        return self.request[R_COUNTED::RECORD]

    @property
    def bank_state(self) -> Ints:
        """Per bank: 0 closed, 1 open, 2 half open."""
        return self.bank[B_STATE::RECORD]

    @property
    def bank_row(self) -> Ints:
        """Row that each bank holds, or held last."""
        return self.bank[B_ROW::RECORD]

    @property
    def bank_active(self) -> Ints:
        """Activated requests of each bank."""
        return self.bank[B_ACTIVE::RECORD]

    @property
    def bank_columns(self) -> Ints:
        """Column accesses since each bank was opened."""
        return self.bank[B_COLUMNS::RECORD]

    @property
    def bank_injected(self) -> Ints:
        """Whether the row policy has asked for a precharge."""
        return self.bank[B_INJECTED::RECORD]

    @property
    def bank_last(self) -> Ints:
        """Tick of the last activation or column access."""
        return self.bank[B_LAST::RECORD]


class Chunk(NamedTuple):
    """A stretch of the request stream: transaction numbers, decoded banks and rows, writes, arrivals."""

    transaction: Ints
    bank: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    write: npt.NDArray[np.uint8]
    arrival: Ints
    """Earliest clock at which a request is offered; empty when requests follow each other by a fixed gap."""


class Log(NamedTuple):
    """What is written down on request: commands, accept ticks, read latencies. Empty arrays: not."""

    tick: Ints
    command: npt.NDArray[np.int8]
    target: npt.NDArray[np.int32]
    transaction: Ints
    row: npt.NDArray[np.int32]
    accept: Ints
    latency: Ints
    used: Ints


def new_state(tables: ChannelTables, outstanding: int = 0) -> State:
    """The state before the first tick. ``outstanding``: requests in flight at most, 0 for no bound."""
    c = tables.settings
    banks, others, priority = c.banks, c.others, c.priority_queue
    slots = c.read_queue + c.write_queue + 2 * banks + 8
    scalar = np.zeros(SCALARS, np.int64)
    scalar[FREE] = slots
    scalar[[LOCK, OPENING, PAIR_TICK, PAIR_SCOPE, LAST_ACCEPT]] = -1
    scalar[PAIRED_NEXT] = c.paired_period
    history = np.full(max(c.history, 1), -1, np.int64)
    history[tables.window_rule["ring"]] = 0

    def zeros(n: int) -> Ints:
        return np.zeros(n, np.int64)

    def none(n: int) -> Ints:
        return np.full(n, -1, np.int64)

    pairs = c.paired_pcs * c.paired_sids
    request = none(RECORD * slots)
    bank = zeros(RECORD * banks)
    bank[B_ROW::RECORD] = -1
    bank[B_SCOPE::RECORD] = tables.bank_scope
    for place in range(B_FIRST, B_OTHER + 2):
        bank[place::RECORD] = -1
    sets = zeros(8 * c.words)
    for kind in (M_CLOSED, M_IDLE):
        sets[kind::8] = -1
    return State(
        scalar, zeros(c.ready), history, request, bank, sets, np.arange(slots - 1, -1, -1, dtype=np.int64),
        zeros(banks), zeros(priority), zeros(priority), tables.timer_first.copy(),
        zeros(tables.timer_first.size), zeros(others), zeros(others), zeros(others), zeros(others), zeros(FILTER),
        zeros(max(outstanding, 1) + 1), zeros(NCMD), zeros(3 * banks), zeros(HISTOGRAM), zeros(pairs),
        zeros(pairs),
    )  # fmt: skip


def _record(size: int, *fields: tuple[str, int] | tuple[str, int, int]) -> np.dtype[np.void]:
    """A view of ``size`` whole numbers by name: fields are (name, place), or (name, place, how many)."""
    return np.dtype(
        {
            "names": [name for name, *_ in fields],
            "formats": [np.dtype((np.int64, tuple(count))) if count else np.int64 for _, _, *count in fields],
            "offsets": [8 * place for _, place, *_ in fields],
            "itemsize": 8 * size,
        }
    )


CONTROLLER: Final = _record(
    SCALARS, ("now", NOW), ("next", NEXT), ("offer", OFFER), ("mode", MODE), ("waiting", READS, 2), ("active", ACTIVE),
    ("priority_head", PRIORITY_HEAD), ("priority_count", PRIORITY_COUNT), ("live", LIVE), ("depart", DEPART),
    ("accepted", ACCEPTED), ("free", FREE), ("lock", LOCK), ("lock_from", LOCK_FROM), ("lock_command", LOCK_CMD),
    ("opening", OPENING), ("deadline", DEADLINE), ("expiry", EXPIRY), ("pair_tick", PAIR_TICK),
    ("pair_scope", PAIR_SCOPE), ("pair_bank", PAIR_BANK), ("outstanding", OUTSTANDING), ("flight_head", PEND_HEAD),
    ("flight_count", PEND_COUNT), ("occupied", SUM_READS, 2), ("priority_occupied", SUM_PRIORITY), ("hits", HITS),
    ("misses", MISSES), ("conflicts", CONFLICTS), ("hits_of", READ_HITS, 2), ("forwarded", FORWARDED),
    ("coalesced", COALESCED), ("latency_sum", LATENCY_SUM), ("latency_max", LATENCY_MAX), ("served", SERVED_READS, 2),
    ("last_accept", LAST_ACCEPT), ("paired_sid", PAIRED_SID), ("paired_bank", PAIRED_BANK),
    ("paired_next", PAIRED_NEXT), ("paired_pending", PAIRED_PENDING), ("paired_flat", PAIRED_FLAT),
    ("paired_set", PAIRED_SET), ("last_write", LAST_WRITE), ("peak", PEAK_READS, 2), ("due", DUE),
    ("progress", PROGRESS),
)  # fmt: skip
"""``State.scalar`` by name. Pairs are reads and writes."""
REQUEST: Final = _record(
    RECORD, ("row", R_ROW), ("bank", R_BANK), ("arrive", R_ARRIVE), ("index", R_INDEX), ("write", R_WRITE),
    ("address", R_ADDRESS), ("following", R_NEXT), ("before", R_PREV), ("counted", R_COUNTED),
)  # fmt: skip
BANK: Final = _record(
    RECORD, ("state", B_STATE), ("row", B_ROW), ("active", B_ACTIVE), ("columns", B_COLUMNS),
    ("injected", B_INJECTED), ("last", B_LAST), ("scope", B_SCOPE), ("first", B_FIRST, 2), ("tail", B_TAIL, 2),
    ("hit", B_HIT, 2), ("other", B_OTHER, 2),
)  # fmt: skip

BEST: Final = np.dtype(
    [("key", np.int64), ("slot", np.int64), ("arrive", np.int64), ("stale", np.bool_)], align=True
)
"""The best candidate of a kind: the tick at which it may go, its request, since when that waits, and whether
the kind must be looked through again."""
COLUMN, OPEN, CLOSE, ACTIVATED, KINDS = range(5)
"""Kinds of candidates: hits of the queue in use; others at closed banks, at open banks; activated requests."""
FROM_ACTIVE, FROM_PRIORITY, FROM_QUEUE, FROM_OPENING = range(4)
"""Where the request of a command comes from; -1: there is no command."""

OUTLOOK: Final = np.dtype(
    [
        *((name, np.int64) for name in (
            "event", "timer", "policy_event", "active_command", "priority_key", "priority_command", "priority_target",
            "touched_column",
            "touched_row", "source", "slot", "command", "target", "first_index", "step",
        )),
        *((name, np.bool_) for name in ("blocked", "reopening", "priority_dirty", "issued", "looked")),
    ],
    align=True,
)  # fmt: skip
"""What is known of the ticks to come, and the command chosen in this one; made anew when a run goes on.

``event``: the next tick to look at. ``timer``, ``policy_event``: when a refresh is due, when the row policy may act.
``touched``: the bank whose candidates must be looked at again. ``first_index``: of the chunk's first request in the
trace. ``step``: ticks between two requests."""


class Timing(NamedTuple):
    """The earliest legal ticks, and what raises them."""

    ready: Ints
    history: Ints
    update_start: Ints
    update_index: Ints
    update_ticks: Ints
    window_start: Ints
    window_rule: npt.NDArray[np.void]
    window_index: Ints


class Queues(NamedTuple):
    """Requests and banks as records, and where they wait."""

    request: npt.NDArray[np.void]
    bank: npt.NDArray[np.void]
    best: npt.NDArray[np.void]
    sets: Ints
    free_slots: Ints
    actives: Ints
    written: Ints
    in_flight: Ints


class Upkeep(NamedTuple):
    """Refreshes and precharges that go before requests, and the timers that send them."""

    priority_command: Ints
    priority_object: Ints
    timer_next: Ints
    timer_turn: Ints
    timer_period: Ints
    timer_start: Ints
    timer_object: Ints
    timer_command: Ints
    paired_count: Ints
    paired_allowed: Ints
    object_start: Ints
    object_banks: Ints


class Tallies(NamedTuple):
    """What is counted as commands are issued."""

    counts: Ints
    bank_outcome: Ints
    histogram: Ints
    scope_open: Ints
    scope_since: Ints
    scope_active: Ints
    bank_ticks: Ints
    affects: Ints


class Machine(NamedTuple):
    """A channel and its state as the kernel takes them: the same arrays, as records with names."""

    settings: Settings
    timing: Timing
    queues: Queues
    upkeep: Upkeep
    tallies: Tallies
    controller: npt.NDArray[np.void]
    outlook: npt.NDArray[np.void]


class Offered(NamedTuple):
    """What a call of the kernel runs on: a chunk, where to write, and how requests come.

    ``final``: no chunk follows. ``gap``: least ticks between two requests. ``outstanding``: requests in flight at
    most, 0 for no bound. ``until``: the tick at which to stop.
    """

    chunk: Chunk
    log: Log
    final: bool
    gap: int
    outstanding: int
    until: int


def machine_of(tables: ChannelTables, state: State) -> Machine:
    """The kernel's view of a channel; it shares the memory of ``state``."""
    return Machine(
        tables.settings,
        Timing(
            state.ready, state.history, tables.update_start, tables.update_index, tables.update_ticks,
            tables.window_start, tables.window_rule, tables.window_index,
        ),
        Queues(
            state.request.view(REQUEST), state.bank.view(BANK), np.zeros(KINDS, BEST), state.sets, state.free_slots,
            state.actives, state.written, state.in_flight,
        ),
        Upkeep(
            state.priority_command, state.priority_object, state.timer_next, state.timer_turn, tables.timer_period,
            tables.timer_start, tables.timer_object, tables.timer_command, state.paired_count,
            state.paired_allowed, tables.object_start, tables.object_banks,
        ),
        Tallies(
            state.counts, state.bank_outcome, state.histogram, state.scope_open, state.scope_since,
            state.scope_active, state.bank_ticks, tables.affects,
        ),
        state.scalar.view(CONTROLLER),
        np.zeros(1, OUTLOOK),
    )  # fmt: skip


def rebuild_filter(state: State) -> None:
    """Count the queued writes into the filter again, after their addresses were moved."""
    free = set(state.free_slots[: state.scalar[FREE]].tolist())
    actives = set(state.actives[: state.scalar[ACTIVE]].tolist())
    state.written[:] = 0
    for slot in range(state.slot_type.size):
        waiting = slot not in free and slot not in actives and slot != state.scalar[OPENING]
        if waiting and state.slot_type[slot] == 1:
            state.written[filter_place(int(state.slot_address[slot]))] += 1


def filter_place(transaction: int) -> int:
    """The kernel's ``filter_slot`` in plain Python, with the machine's wrapping product."""
    product = (transaction * 0x2545F4914F6CDD1D) & (2**64 - 1)
    return (product >> 40) & (FILTER - 1)
