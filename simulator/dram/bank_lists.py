"""Small steps of the kernel: requests in lists per bank, sets of banks as bits, and raising of legal ticks.

Each is compiled into the kernel where it is used. Plain indices stand in ``u(...)``: an unsigned number cannot count
from an array's end, so that the machine need not check for it.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from llvmlite.ir import Constant, IntType  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy import uint64 as u

from hw_configs.compiled import inlined
from simulator.dram.channel_tables import CAPPED, NCMD
from simulator.dram.state import FILTER, M_CLOSED, M_HIT, M_OPEN, M_OTHER

__all__ = [
    "apply", "close_bank", "enqueue", "filter_slot", "first", "legal", "lowest", "mark", "open_bank", "own", "unlink",
]  # fmt: skip


@inlined
def filter_slot(transaction):
    """Place of a transaction in the counting filter of queued writes."""
    return ((transaction * 0x2545F4914F6CDD1D) >> 40) & (FILTER - 1)


@inlined
def first(request, slot, row, same):
    """The first request from a list position on whose row is (``same``) or is not the given one."""
    while slot >= 0 and (request[u(slot)].row == row) != same:
        slot = request[u(slot)].following
    return slot


@inlined
def own(c, t, command, b):
    """The first tick at which a bank may take a command, but for what its whole channel waits for."""
    group = t.ready[u(command * c.groups + (b >> c.group_shift))]
    return max(group, t.ready[u(c.bank_base + command * c.banks + b)])


@inlined
def legal(c, t, command, b):
    """The first tick at which a bank may take a command."""
    return max(own(c, t, command, b), t.ready[u(c.channel_base + command)])


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
def enqueue(v, q, b, row, transaction, write, arrival, index):
    """Put a request at the end of its bank's list. Returns its place, and what it became: the bank's oldest
    hit (1), the oldest that is none (2), or neither (0).
    """
    # Occupancy: ticks in a queue are the clock of leaving less the clock of entering.
    v.occupied[u(write)] -= arrival
    v.free -= 1
    slot = q.free_slots[u(v.free)]
    bank, new = q.bank[u(b)], q.request[u(slot)]
    new.row = row
    new.bank = b
    new.arrive = arrival
    new.index = index
    new.write = write
    new.address = transaction
    new.counted = 0
    new.following = -1
    last = bank.tail[u(write)]
    new.before = last
    bank.tail[u(write)] = slot
    if last >= 0:
        q.request[u(last)].following = slot
    else:
        bank.first[u(write)] = slot
    became = 0
    if bank.state == 1 and bank.row == row:
        if bank.hit[u(write)] < 0:
            bank.hit[u(write)] = slot
            mark(q.sets, M_HIT + write, b, True)
            became = 1
    elif bank.other[u(write)] < 0:
        bank.other[u(write)] = slot
        mark(q.sets, M_OTHER + write, b, True)
        became = 2
    v.waiting[u(write)] += 1
    v.live += 1
    v.peak[u(write)] = max(v.peak[u(write)], v.waiting[u(write)])
    if write == 1:
        q.written[u(filter_slot(transaction))] += 1
    return slot, became


@inlined
def unlink(v, q, slot, now):
    """Take a request out of its queue; the oldest hit and the oldest other move on."""
    gone = q.request[u(slot)]
    b, write = gone.bank, u(gone.write)
    bank = q.bank[u(b)]
    before, after = gone.before, gone.following
    if bank.hit[write] == slot:
        following = first(q.request, after, bank.row, True)
        bank.hit[write] = following
        mark(q.sets, M_HIT + gone.write, b, following >= 0)
    if bank.other[write] == slot:
        following = after
        if bank.state == 1:
            following = first(q.request, after, bank.row, False)
        bank.other[write] = following
        mark(q.sets, M_OTHER + gone.write, b, following >= 0)
    if before >= 0:
        q.request[u(before)].following = after
    else:
        bank.first[write] = after
    if after >= 0:
        q.request[u(after)].before = before
    else:
        bank.tail[write] = before
    v.waiting[write] -= 1
    v.occupied[write] += now
    if gone.write == 1:
        q.written[u(filter_slot(gone.address))] -= 1


@inlined
def close_bank(c, v, q, n, b, now):
    """The bank is precharged: nothing hits any more; counters of the row policy start again."""
    bank = q.bank[u(b)]
    if bank.state != 0:
        bank.state = 0
        scope = u(bank.scope)
        n.scope_open[scope] -= 1
        n.bank_ticks[scope] += now
        if n.scope_open[scope] == 0:
            n.scope_active[scope] += now - n.scope_since[scope]
        mark(q.sets, M_CLOSED, b, True)
        mark(q.sets, M_OPEN, b, False)
        for write in range(2):
            oldest = bank.first[u(write)]
            bank.hit[u(write)] = -1
            bank.other[u(write)] = oldest
            mark(q.sets, M_HIT + write, b, False)
            mark(q.sets, M_OTHER + write, b, oldest >= 0)
    if c.policy == CAPPED and bank.columns >= c.cap and bank.injected == 0:
        v.due -= 1
    bank.columns = 0
    bank.injected = 0


@inlined
def open_bank(q, b, row):
    """The bank holds a row: sort the waiting requests of both queues into hits and others."""
    bank = q.bank[u(b)]
    bank.state = 1
    bank.row = row
    mark(q.sets, M_CLOSED, b, False)
    mark(q.sets, M_OPEN, b, True)
    for write in range(2):
        oldest = bank.first[u(write)]
        hit = first(q.request, oldest, row, True)
        other = first(q.request, oldest, row, False)
        bank.hit[u(write)] = hit
        bank.other[u(write)] = other
        mark(q.sets, M_HIT + write, b, hit >= 0)
        mark(q.sets, M_OTHER + write, b, other >= 0)


@inlined
def apply(t, target, command, now):
    """Raise the earliest legal ticks of everything that must wait for this command."""
    entry = target * NCMD + command
    for j in range(t.update_start[u(entry)], t.update_start[u(entry + 1)]):
        i = u(t.update_index[u(j)])
        t.ready[i] = max(t.ready[i], now + t.update_ticks[u(j)])
    for j in range(t.window_start[u(entry)], t.window_start[u(entry + 1)]):
        rule = t.window_rule[u(j)]
        if rule.records == 1:
            position = t.history[u(rule.ring)]
            t.history[u(rule.ring + 1 + position)] = now
            t.history[u(rule.ring)] = position + 1 if position + 1 < rule.depth else 0
        # The ring's position names the oldest issue; the n-th most recent stands depth - n further on.
        position = t.history[u(rule.ring)] + rule.depth - rule.window
        if position >= rule.depth:
            position -= rule.depth
        past = t.history[u(rule.ring + 1 + position)]
        if past >= 0:
            tick = past + rule.ticks
            for k in range(rule.start, rule.end):
                i = u(t.window_index[u(k)])
                t.ready[i] = max(t.ready[i], tick)
