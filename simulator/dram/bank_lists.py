"""Small steps of the kernel: requests in lists per bank, sets of banks as bits, and raising of legal ticks.

Each is compiled into the kernel where it is used.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from llvmlite.ir import Constant, IntType  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy import uint64 as u

from hw_configs.compiled import inlined
from simulator.dram.state import (
    B_COLUMNS,
    B_FIRST,
    B_HIT,
    B_INJECTED,
    B_OTHER,
    B_ROW,
    B_SCOPE,
    B_STATE,
    B_TAIL,
    DUE,
    FILTER,
    FREE,
    LIVE,
    M_CLOSED,
    M_HIT,
    M_OPEN,
    M_OTHER,
    NCMD,
    PEAK_READS,
    R_ADDRESS,
    R_ARRIVE,
    R_BANK,
    R_COUNTED,
    R_INDEX,
    R_NEXT,
    R_PREV,
    R_ROW,
    R_WRITE,
    READS,
    SUM_READS,
)

__all__ = [
    "apply", "close_bank", "enqueue", "filter_slot", "first", "legal", "lowest", "mark", "of", "open_bank", "own",
    "unlink",
]  # fmt: skip


@inlined
def of(record, field):
    """Where a field of a record stands. As an unsigned number it cannot count from an array's end, so that
    the machine need not check for it; so do the plain indices in ``u(...)``.
    """
    return u((record << 4) + field)


@inlined
def filter_slot(transaction):
    """Place of a transaction in the counting filter of queued writes."""
    return ((transaction * 0x2545F4914F6CDD1D) >> 40) & (FILTER - 1)


@inlined
def first(slot, row, same, request):
    """The first request from a list position on whose row is (``same``) or is not the given one."""
    while slot >= 0 and (request[of(slot, R_ROW)] == row) != same:
        slot = request[of(slot, R_NEXT)]
    return slot


@inlined
def own(ready, command, b, groups, banks, shift, bank_base):
    """The first tick at which a bank may take a command, but for what its whole channel waits for."""
    group = ready[u(command * groups + (b >> shift))]
    return max(group, ready[u(bank_base + command * banks + b)])


@inlined
def legal(ready, command, b, groups, banks, shift, bank_base, channel_base):
    """The first tick at which a bank may take a command."""
    key = own(ready, command, b, groups, banks, shift, bank_base)
    return max(key, ready[u(channel_base + command)])


@intrinsic
def lowest(typing_context, bits):  # noqa: ARG001
    """Place of the lowest set bit of a word."""

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        return builder.cttz(arguments[0], Constant(IntType(1), 1))

    return types.int64(types.int64), generate


@inlined
def mark(sets, kind, b, on):
    """Set or clear the bit of bank ``b`` in the set of a kind (eight kinds of 64 banks stand together)."""
    place = u(((b >> 6) << 3) + kind)
    bit = np.int64(1) << (b & 63)
    sets[place] = (sets[place] & ~bit) | (bit if on else 0)


@inlined
def enqueue(v, request, bank, sets, free_slots, written, b, row, transaction, write, arrival, index):
    """Put a request at the end of its bank's list. Returns its place, and what it became: the bank's oldest
    hit (1), the oldest that is none (2), or neither (0).
    """
    # Occupancy: ticks in a queue are the clock of leaving less the clock of entering.
    v[u(SUM_READS + write)] -= arrival
    v[FREE] -= 1
    slot = free_slots[u(v[FREE])]
    request[of(slot, R_ROW)] = row
    request[of(slot, R_BANK)] = b
    request[of(slot, R_ARRIVE)] = arrival
    request[of(slot, R_INDEX)] = index
    request[of(slot, R_WRITE)] = write
    request[of(slot, R_ADDRESS)] = transaction
    request[of(slot, R_COUNTED)] = 0
    request[of(slot, R_NEXT)] = -1
    last = bank[of(b, B_TAIL + write)]
    request[of(slot, R_PREV)] = last
    bank[of(b, B_TAIL + write)] = slot
    if last >= 0:
        request[of(last, R_NEXT)] = slot
    else:
        bank[of(b, B_FIRST + write)] = slot
    became = 0
    if bank[of(b, B_STATE)] == 1 and bank[of(b, B_ROW)] == row:
        if bank[of(b, B_HIT + write)] < 0:
            bank[of(b, B_HIT + write)] = slot
            mark(sets, M_HIT + write, b, True)
            became = 1
    elif bank[of(b, B_OTHER + write)] < 0:
        bank[of(b, B_OTHER + write)] = slot
        mark(sets, M_OTHER + write, b, True)
        became = 2
    v[u(READS + write)] += 1
    v[LIVE] += 1
    v[u(PEAK_READS + write)] = max(v[u(PEAK_READS + write)], v[u(READS + write)])
    if write == 1:
        written[u(filter_slot(transaction))] += 1
    return slot, became


@inlined
def unlink(v, request, bank, sets, written, q, slot, now):
    """Take a request out of its queue; the oldest hit and the oldest other move on."""
    b = request[of(slot, R_BANK)]
    before, after = request[of(slot, R_PREV)], request[of(slot, R_NEXT)]
    row = bank[of(b, B_ROW)]
    if bank[of(b, B_HIT + q)] == slot:
        following = first(after, row, True, request)
        bank[of(b, B_HIT + q)] = following
        mark(sets, M_HIT + q, b, following >= 0)
    if bank[of(b, B_OTHER + q)] == slot:
        following = after
        if bank[of(b, B_STATE)] == 1:
            following = first(after, row, False, request)
        bank[of(b, B_OTHER + q)] = following
        mark(sets, M_OTHER + q, b, following >= 0)
    if before >= 0:
        request[of(before, R_NEXT)] = after
    else:
        bank[of(b, B_FIRST + q)] = after
    if after >= 0:
        request[of(after, R_PREV)] = before
    else:
        bank[of(b, B_TAIL + q)] = before
    v[u(READS + q)] -= 1
    v[u(SUM_READS + q)] += now
    if q == 1:
        written[u(filter_slot(request[of(slot, R_ADDRESS)]))] -= 1


@inlined
def close_bank(v, bank, sets, scope_open, scope_since, scope_active, b, now, cap, policy):
    """The bank is precharged: nothing hits any more; counters of the row policy start again."""
    if bank[of(b, B_STATE)] != 0:
        bank[of(b, B_STATE)] = 0
        scope = bank[of(b, B_SCOPE)]
        scope_open[u(scope)] -= 1
        if scope_open[u(scope)] == 0:
            scope_active[u(scope)] += now - scope_since[u(scope)]
        mark(sets, M_CLOSED, b, True)
        mark(sets, M_OPEN, b, False)
        for q in range(2):
            oldest = bank[of(b, B_FIRST + q)]
            bank[of(b, B_HIT + q)] = -1
            bank[of(b, B_OTHER + q)] = oldest
            mark(sets, M_HIT + q, b, False)
            mark(sets, M_OTHER + q, b, oldest >= 0)
    if policy == 1 and bank[of(b, B_COLUMNS)] >= cap and bank[of(b, B_INJECTED)] == 0:
        v[DUE] -= 1
    bank[of(b, B_COLUMNS)] = 0
    bank[of(b, B_INJECTED)] = 0


@inlined
def open_bank(request, bank, sets, b, row):
    """The bank holds a row: sort the waiting requests of both queues into hits and others."""
    bank[of(b, B_STATE)] = 1
    bank[of(b, B_ROW)] = row
    mark(sets, M_CLOSED, b, False)
    mark(sets, M_OPEN, b, True)
    for q in range(2):
        oldest = bank[of(b, B_FIRST + q)]
        hit = first(oldest, row, True, request)
        other = first(oldest, row, False, request)
        bank[of(b, B_HIT + q)] = hit
        bank[of(b, B_OTHER + q)] = other
        mark(sets, M_HIT + q, b, hit >= 0)
        mark(sets, M_OTHER + q, b, other >= 0)


@inlined
def apply(
    update_start, update_index, update_ticks, window_start, window_rule, window_index, ready, history, target,
    command, now,
):  # fmt: skip
    """Raise the earliest legal ticks of everything that must wait for this command."""
    entry = target * NCMD + command
    for j in range(update_start[u(entry)], update_start[u(entry + 1)]):
        i = update_index[u(j)]
        ready[u(i)] = max(ready[u(i)], now + update_ticks[u(j)])
    for j in range(window_start[u(entry)], window_start[u(entry + 1)]):
        base = window_rule[u(j), 0]
        depth = window_rule[u(j), 1]
        if window_rule[u(j), 6] == 1:
            position = history[u(base)]
            history[u(base + 1 + position)] = now
            history[u(base)] = position + 1 if position + 1 < depth else 0
        # The ring's position names the oldest issue; the n-th most recent stands depth - n further on.
        position = history[u(base)] + depth - window_rule[u(j), 2]
        if position >= depth:
            position -= depth
        past = history[u(base + 1 + position)]
        if past >= 0:
            tick = past + window_rule[u(j), 3]
            for k in range(window_rule[u(j), 4], window_rule[u(j), 5]):
                i = window_index[u(k)]
                ready[u(i)] = max(ready[u(i)], tick)
