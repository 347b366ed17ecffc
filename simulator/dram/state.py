"""What a channel's run consists of between two ticks: every array of the engine, and a name for every scalar.

The kernel takes these arrays, changes them in place and can stop at any tick, so a run goes on with the next
chunk of the trace, empties a full log, or is moved ahead by a leap.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.dram.program import Program

__all__ = ["Chunk", "Log", "State", "filter_place", "new_state", "rebuild_filter"]

Ints = npt.NDArray[np.int64]

HISTOGRAM: Final = 1 << 16
"""Latencies up to this many ticks are counted exactly; longer ones share the last bin."""

DONE, NEED, FULL, STUCK, OVERFLOW, PAUSED = 0, 1, 2, 3, 4, 5
INF: Final = 1 << 60
NCMD: Final = 14
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


def new_state(program: Program, outstanding: int = 0) -> State:
    """The state before the first tick. ``outstanding``: requests in flight at most, 0 for no bound."""
    c = program.config
    banks, others = int(c[0]), int(c[2])
    reads, writes, priority = int(c[9]), int(c[10]), int(c[11])
    slots = reads + writes + 2 * banks + 8
    scalar = np.zeros(SCALARS, np.int64)
    scalar[FREE] = slots
    scalar[[LOCK, OPENING, PAIR_TICK, PAIR_SCOPE, LAST_ACCEPT]] = -1
    scalar[PAIRED_NEXT] = c[26]
    history = np.full(max(int(c[23]), 1), -1, np.int64)
    for base, *_ in program.window_rule:
        history[base] = 0

    def zeros(n: int) -> Ints:
        return np.zeros(n, np.int64)

    def none(n: int) -> Ints:
        return np.full(n, -1, np.int64)

    pcs, sids = int(c[28]), int(c[29])
    request = none(RECORD * slots)
    bank = zeros(RECORD * banks)
    bank[B_ROW::RECORD] = -1
    bank[B_SCOPE::RECORD] = program.bank_scope
    for place in range(B_FIRST, B_OTHER + 2):
        bank[place::RECORD] = -1
    sets = zeros(8 * ((banks + 63) // 64))
    for kind in (M_CLOSED, M_IDLE):
        sets[kind::8] = -1
    return State(
        scalar, zeros(int(c[22])), history, request, bank, sets, np.arange(slots - 1, -1, -1, dtype=np.int64),
        zeros(banks), zeros(priority), zeros(priority), program.timer_first.copy(),
        zeros(program.timer_first.size), zeros(others), zeros(others), zeros(others), zeros(FILTER),
        zeros(max(outstanding, 1) + 1), zeros(NCMD), zeros(3 * banks), zeros(HISTOGRAM), zeros(pcs * sids),
        zeros(pcs * sids),
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
