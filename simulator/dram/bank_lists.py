"""Small steps of the kernel: requests in lists per bank, sets of banks as bits, and raising of legal ticks.

Each is compiled into the kernel where it is used, and takes the arrays it needs one by one. numba keeps the
compiled kernel by the date of ``kernel.py`` alone: touch that file after a change here or in ``state.py``.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from llvmlite.ir import Constant, IntType  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from simulator.dram.state import DUE, FILTER, NCMD, READS, SUM_READS

__all__ = ["apply", "close_bank", "filter_slot", "first", "lowest", "mark", "open_bank", "unlink"]

_step = njit(forceinline=True, _nrt=False)  # type: ignore[call-overload]
"""Compiled into its caller, without reference counts (see the kernel)."""


@_step
def filter_slot(transaction):
    """Place of a transaction in the counting filter of queued writes."""
    return ((transaction * 0x2545F4914F6CDD1D) >> 40) & (FILTER - 1)


@_step
def first(slot, row, same, slot_row, slot_next):
    """The first request from a list position on whose row is (``same``) or is not the given one."""
    while slot >= 0 and (slot_row[slot] == row) != same:
        slot = slot_next[slot]
    return slot


@intrinsic
def lowest(typing_context, bits):  # noqa: ARG001
    """Place of the lowest set bit of a word."""

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        return builder.cttz(arguments[0], Constant(IntType(1), 1))

    return types.int64(types.int64), generate


@_step
def mark(masks, place, b, on):
    """Set or clear the bit of bank ``b`` in the set that starts at word ``place``."""
    word = place + (b >> 6)
    bit = np.int64(1) << (b & 63)
    masks[word] = (masks[word] & ~bit) | (bit if on else 0)


@_step
def unlink(
    v,
    slot_row,
    slot_bank,
    slot_address,
    slot_next,
    slot_prev,
    bank_state,
    bank_row,
    first_waiting,
    last_waiting,
    oldest_hit,
    oldest_other,
    hit_banks,
    other_banks,
    written,
    q,
    slot,
    banks,
    now,
):
    """Take a request out of its queue; the oldest hit and the oldest other move on."""
    b = slot_bank[slot]
    place = q * banks + b
    before, after = slot_prev[slot], slot_next[slot]
    if oldest_hit[place] == slot:
        oldest_hit[place] = first(after, bank_row[b], True, slot_row, slot_next)
    if oldest_other[place] == slot:
        if bank_state[b] == 1:
            oldest_other[place] = first(after, bank_row[b], False, slot_row, slot_next)
        else:
            oldest_other[place] = after
    if before >= 0:
        slot_next[before] = after
    else:
        first_waiting[place] = after
    if after >= 0:
        slot_prev[after] = before
    else:
        last_waiting[place] = before
    words = q * ((banks + 63) >> 6)
    mark(hit_banks, words, b, oldest_hit[place] >= 0)
    mark(other_banks, words, b, oldest_other[place] >= 0)
    v[READS + q] -= 1
    v[SUM_READS + q] += now
    if q == 1:
        written[filter_slot(slot_address[slot])] -= 1


@_step
def close_bank(
    v,
    bank_state,
    bank_columns,
    bank_injected,
    first_waiting,
    oldest_hit,
    oldest_other,
    hit_banks,
    other_banks,
    closed_banks,
    open_banks,
    scope_open,
    scope_since,
    scope_active,
    b,
    banks,
    scope,
    now,
    cap,
    policy,
):
    """The bank is precharged: nothing hits any more; counters of the row policy start again."""
    if bank_state[b] != 0:
        bank_state[b] = 0
        scope_open[scope] -= 1
        if scope_open[scope] == 0:
            scope_active[scope] += now - scope_since[scope]
        oldest_hit[b] = -1
        oldest_hit[banks + b] = -1
        oldest_other[b] = first_waiting[b]
        oldest_other[banks + b] = first_waiting[banks + b]
        mark(closed_banks, 0, b, True)
        mark(open_banks, 0, b, False)
        words = (banks + 63) >> 6
        mark(hit_banks, 0, b, False)
        mark(hit_banks, words, b, False)
        mark(other_banks, 0, b, oldest_other[b] >= 0)
        mark(other_banks, words, b, oldest_other[banks + b] >= 0)
    if policy == 1 and bank_columns[b] >= cap and bank_injected[b] == 0:
        v[DUE] -= 1
    bank_columns[b] = 0
    bank_injected[b] = 0


@_step
def open_bank(
    slot_row,
    slot_next,
    bank_state,
    bank_row,
    first_waiting,
    oldest_hit,
    oldest_other,
    hit_banks,
    other_banks,
    closed_banks,
    open_banks,
    b,
    row,
    banks,
):
    """The bank holds a row: sort the waiting requests of both queues into hits and others."""
    bank_state[b] = 1
    bank_row[b] = row
    mark(closed_banks, 0, b, False)
    mark(open_banks, 0, b, True)
    words = (banks + 63) >> 6
    for q in range(2):
        place = q * banks + b
        oldest_hit[place] = first(first_waiting[place], row, True, slot_row, slot_next)
        oldest_other[place] = first(first_waiting[place], row, False, slot_row, slot_next)
        mark(hit_banks, q * words, b, oldest_hit[place] >= 0)
        mark(other_banks, q * words, b, oldest_other[place] >= 0)


@_step
def apply(
    update_start,
    update_index,
    update_ticks,
    window_start,
    window_rule,
    window_index,
    ready,
    history,
    target,
    command,
    now,
):
    """Raise the earliest legal ticks of everything that must wait for this command."""
    entry = target * NCMD + command
    for j in range(update_start[entry], update_start[entry + 1]):
        i = update_index[j]
        tick = now + update_ticks[j]
        if ready[i] < tick:
            ready[i] = tick
    for j in range(window_start[entry], window_start[entry + 1]):
        base = window_rule[j, 0]
        depth = window_rule[j, 1]
        if window_rule[j, 6] == 1:
            position = history[base]
            history[base + 1 + position] = now
            history[base] = position + 1 if position + 1 < depth else 0
        # The ring's position names the oldest issue; the n-th most recent stands depth - n further on.
        past = history[base + 1 + (history[base] + depth - window_rule[j, 2]) % depth]
        if past >= 0:
            tick = past + window_rule[j, 3]
            for k in range(window_rule[j, 4], window_rule[j, 5]):
                i = window_index[k]
                if ready[i] < tick:
                    ready[i] = tick
