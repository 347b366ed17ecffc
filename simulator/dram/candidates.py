"""Who may go next: the best candidate of each kind, with the first tick at which it may go.

Requests of one bank and queue wait in one list in order of arrival. Only two of them can be chosen: the oldest one
that hits the open row and the oldest one that does not. Among candidates that are ready, the oldest goes.
"""

# A kernel reads as the specification does, rule by rule; its conditions stay apart on purpose.
# ruff: noqa: SIM102, SIM109
# mypy: disable-error-code="no-untyped-def, call-arg"

from __future__ import annotations

import numpy as np
from numpy import uint64 as u

from hw_configs.compiled import inlined
from simulator.dram.bank_lists import legal, lowest, own
from simulator.dram.channel_tables import TIMEOUT
from simulator.dram.machine import ACT, PREAB, PREPB, PRESB, RD, REFAB, WR
from simulator.dram.state import (
    ACTIVATED,
    CLOSE,
    COLUMN,
    INF,
    M_CLOSED,
    M_HIT,
    M_IDLE,
    M_OPEN,
    M_OTHER,
    OPEN,
)

__all__ = [
    "beside_pair", "consider", "forget", "look_at_active", "look_at_priority", "look_through", "touch_all",
]  # fmt: skip

AGE = 33
"""Bits of an age in a rank: ticks until a command may go, then the age of its request (2^33 ticks at most)."""
FAR = 1 << 62


@inlined
def forget(best):
    """There is no candidate of this kind."""
    best.key = INF
    best.slot = -1
    best.arrive = 0


@inlined
def consider(best, key, slot, arrive):
    """A candidate wins when it may go earlier, or as early and is older."""
    if key < best.key or (key == best.key and arrive < best.arrive):
        best.key = key
        best.slot = slot
        best.arrive = arrive


@inlined
def touch_all(q):
    """Every kind of the queue in use must be looked through again."""
    for kind in range(ACTIVATED):
        q.best[u(kind)].stale = True


@inlined
def beside_pair(c, v, key, scope, b):
    """HBM3: a precharge may not share its clock with a command of the other half for the same rank and bank.

    ``b`` -1: all banks.
    """
    if c.half == 1 and key == v.pair_tick and scope == v.pair_scope:
        if b < 0 or v.pair_bank < 0 or v.pair_bank == b:
            return key + 1
    return key


@inlined
def look_through(m, v, kind, only, earliest):
    """Put the candidates of a kind in the queue in use before its best one: all, or that of one bank.

    A rank holds a tick and an age in one word, so that one comparison decides.
    """
    c, t, q = m.settings, m.timing, m.queues
    mode = v.mode
    command = RD + mode if kind == COLUMN else (ACT if kind == OPEN else PREPB)
    floor = max(earliest, t.ready[u(c.channel_base + command)])
    soonest, winner = FAR, -1
    for w in range(c.words):
        place = w << 3
        if kind == COLUMN:
            rest = q.sets[u(place + M_HIT + mode)]
        elif kind == OPEN:
            rest = q.sets[u(place + M_OTHER + mode)] & q.sets[u(place + M_CLOSED)]
        else:
            rest = q.sets[u(place + M_OTHER + mode)] & q.sets[u(place + M_OPEN)] & q.sets[u(place + M_IDLE)]
        if only >= 0:
            rest &= np.int64(1) << (only & 63) if only >> 6 == w else 0
        while rest != 0:
            b = lowest(rest) + (w << 6)
            rest &= rest - 1
            bank = q.bank[u(b)]
            candidate = bank.hit[u(mode)] if kind == COLUMN else bank.other[u(mode)]
            arrive = q.request[u(candidate)].arrive
            key = max(own(c, t, command, b), floor)
            if kind == CLOSE:
                if c.rowhit == 1:
                    hit = bank.hit[u(mode)]
                    if hit >= 0 and q.request[u(hit)].arrive <= arrive:
                        continue
                key = beside_pair(c, v, key, bank.scope, b)
            else:
                key |= c.half
            rank = ((key - earliest) << AGE) + (arrive - earliest)
            if rank < soonest:
                soonest, winner = rank, candidate
    if winner >= 0:
        consider(q.best[u(kind)], earliest - ((-soonest) >> AGE), winner, q.request[u(winner)].arrive)


@inlined
def look_at_active(m, v, w, now):
    """Find the best of the requests whose rows were opened for them; they go before all others."""
    best = m.queues.best[u(ACTIVATED)]
    best.stale = False
    w.reopening = False
    forget(best)
    # Nothing closes a row that an activated request waits for, but a policy that closes rows by itself.
    if m.settings.policy == 0 or m.settings.policy == TIMEOUT:
        _look_at_open(m, v, w, best, now)
    else:
        _look_at_closable(m, v, w, best, now)


@inlined
def _look_at_open(m, v, w, best, now):
    """Where every activated request needs nothing but its column command; ranks as in ``look_through``."""
    c, t, q = m.settings, m.timing, m.queues
    gate_read = max(t.ready[u(c.channel_base + RD)], now)
    gate_write = max(t.ready[u(c.channel_base + WR)], now)
    half = c.half
    soonest, winner = FAR, -1
    for j in range(v.active):
        slot = q.actives[u(j)]
        request = q.request[u(slot)]
        write = request.write
        key = max(own(c, t, RD + write, request.bank), gate_write if write == 1 else gate_read) | half
        rank = ((key - now) << AGE) + (request.arrive - now)
        if rank < soonest:
            soonest, winner = rank, slot
    if winner >= 0:
        consider(best, now - ((-soonest) >> AGE), winner, q.request[u(winner)].arrive)
        w.active_command = RD + q.request[u(winner)].write


@inlined
def _look_at_closable(m, v, w, best, now):
    """Where the row policy may have closed a row that an activated request waits for."""
    c, q = m.settings, m.queues
    soonest, winner, oldest, chosen = INF, -1, 0, 0
    for j in range(v.active):
        slot = q.actives[u(j)]
        request = q.request[u(slot)]
        command = _reopened(m, v, w, slot)
        if command < 0 or (c.hbm == 1 and command != RD and command != WR):
            continue
        key = max(legal(c, m.timing, command, request.bank), now) | c.half
        if key < soonest or (key == soonest and request.arrive < oldest):
            soonest, winner, oldest, chosen = key, slot, request.arrive, command
    if winner >= 0:
        consider(best, soonest, winner, oldest)
        w.active_command = chosen


@inlined
def _reopened(m, v, w, slot):
    """What an activated request needs whose row may have been closed under it; -1: it must wait."""
    c, q = m.settings, m.queues
    request = q.request[u(slot)]
    bank = q.bank[u(request.bank)]
    command = -1
    if bank.state != 1 or bank.row != request.row:
        w.reopening = True
    if bank.state == 1:
        command = RD + request.write
        if bank.row != request.row:
            command = PREPB
            if c.rowhit == 1:
                for k in range(v.active):
                    rival = q.request[u(q.actives[u(k)])]
                    if (
                        rival.bank == request.bank
                        and rival.row == bank.row
                        and rival.arrive <= request.arrive
                    ):
                        command = -1
    elif bank.state == 0:
        if not (c.lpddr == 1 and v.opening >= 0):
            command = ACT
    return command


@inlined
def look_at_priority(m, v, w, now):
    """Find when the first refresh or precharge in the priority queue may go, and what must go before it."""
    c, t, q, k = m.settings, m.timing, m.queues, m.upkeep
    w.priority_dirty = False
    w.priority_key = INF
    wanted = k.priority_command[u(v.priority_head)]
    target = k.priority_object[u(v.priority_head)]
    command, only = wanted, target
    if target < c.banks:
        bank = q.bank[u(target)]
        if wanted != PREPB and bank.state != 0:
            command = PREPB
        eligible = bank.state != 2 and not (command == PREPB and bank.active > 0)
        key = legal(c, t, command, target)
        scope = bank.scope
    else:
        place, only = target - c.banks, -1
        any_open, any_active, opening, closing = False, False, False, -1
        for j in range(k.object_start[u(place)], k.object_start[u(place + 1)]):
            bank = q.bank[u(k.object_banks[u(j)])]
            any_open |= bank.state != 0
            any_active |= bank.active > 0
            opening |= bank.state == 2
            if bank.state == 1 and closing < 0:
                closing = k.object_banks[u(j)]
        if any_open:
            command = PREAB if wanted == REFAB else PRESB
        eligible = not opening and not (any_open and any_active)
        key = max(
            t.ready[u(c.object_base + command * c.others + place)], t.ready[u(c.channel_base + command)]
        )
        scope = q.bank[u(k.object_banks[u(k.object_start[u(place)])])].scope
        if c.singly == 1 and any_open and wanted != REFAB:
            command, target = PREPB, max(closing, 0)
            key = legal(c, t, command, target)
    w.priority_command = command
    w.priority_target = target
    if eligible:
        key = max(key, now)
        if command == PREPB or command == PREAB:
            w.priority_key = beside_pair(c, v, key, scope, only)
        else:
            w.priority_key = key | c.half
