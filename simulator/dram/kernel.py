"""The engine: one channel's controller and device, leaping from event to event.

The order of work in a tick is the reference controller's: the front end offers a request at clock c; then the
tick of clock c + 1 sends refreshes, lets the row policy act, and issues one command (HBM: one on each bus).
Between two events no queue, row or timing entry changes, so the kernel never visits those ticks: it keeps the
best candidate of the active requests and of the queue in use, each with the first tick at which it may go,
and looks again only after something has changed.

Requests of one bank and queue wait in one list in order of arrival. Only two of them can be chosen: the
oldest one that hits the open row and the oldest one that does not. Rules: CMU-SAFARI Ramulator 2.1 (MIT
licence), whose behaviour this engine reproduces command by command; the code shares nothing with it.
"""

# A kernel reads as the specification does, rule by rule; its conditions stay apart on purpose.
# ruff: noqa: SIM102, SIM109, SIM114
# mypy: disable-error-code="no-untyped-def, call-arg"
from __future__ import annotations

import numpy as np
from numpy import uint64 as u

from hw_configs.compiled import compiled
from simulator.dram.bank_lists import (
    apply,
    close_bank,
    enqueue,
    filter_slot,
    first,
    legal,
    lowest,
    mark,
    of,
    open_bank,
    own,
    unlink,
)  # fmt: skip
from simulator.dram.state import (
    ACCEPTED,
    ACTIVE,
    B_ACTIVE,
    B_COLUMNS,
    B_FIRST,
    B_HIT,
    B_INJECTED,
    B_LAST,
    B_OTHER,
    B_ROW,
    B_SCOPE,
    B_STATE,
    COALESCED,
    CONFLICTS,
    DEADLINE,
    DEPART,
    DONE,
    DUE,
    EXPIRY,
    FORWARDED,
    FREE,
    FULL,
    HISTOGRAM,
    HITS,
    INF,
    LAST_ACCEPT,
    LAST_WRITE,
    LATENCY_MAX,
    LATENCY_SUM,
    LIVE,
    LOCK,
    LOCK_CMD,
    LOCK_FROM,
    M_CLOSED,
    M_HIT,
    M_IDLE,
    M_OPEN,
    M_OTHER,
    MISSES,
    MODE,
    NEED,
    NEXT,
    NOW,
    OFFER,
    OPENING,
    OUTSTANDING,
    OVERFLOW,
    PAIR_BANK,
    PAIR_SCOPE,
    PAIR_TICK,
    PAIRED_BANK,
    PAIRED_FLAT,
    PAIRED_NEXT,
    PAIRED_PENDING,
    PAIRED_SET,
    PAIRED_SID,
    PATIENCE,
    PAUSED,
    PEND_COUNT,
    PEND_HEAD,
    PRIORITY_COUNT,
    PRIORITY_HEAD,
    PROGRESS,
    R_ADDRESS,
    R_ARRIVE,
    R_BANK,
    R_COUNTED,
    R_INDEX,
    R_NEXT,
    R_ROW,
    R_WRITE,
    READ_HITS,
    READS,
    SERVED_READS,
    SERVED_WRITES,
    STUCK,
    SUM_PRIORITY,
    WRITES,
)  # fmt: skip

__all__ = ["run"]

_ACT, _ACT2, _PREPB, _PREAB, _RD, _WR, _RDA, _WRA, _REFAB, _REFPB, _REFSB, _CASRD, _CASWR, _PRESB = range(14)
_FROM_ACTIVE, _FROM_PRIORITY, _FROM_QUEUE, _OPENING = 0, 1, 2, 3
AGE = 33
"""Bits of an age in a rank: ticks until a command may go, then the age of its request (2^33 ticks at most)."""
FAR = 1 << 62


@compiled(_nrt=False)
def run(p, s, chunk, log, final, gap, outstanding, until):
    """Run until the chunk is used up, the log is full, everything is served, or tick ``until`` has passed.

    ``final``: no chunk follows. ``gap``: least ticks between two accepted requests. Returns DONE, NEED (the
    next chunk), FULL (empty the log), PAUSED (``until`` reached), STUCK (a request can never go) or OVERFLOW
    (the refresh queue is full).
    """
    v = s.scalar
    c = p.config
    banks, groups, others, kind, rowhit, policy = c[0], c[1], c[2], c[4], c[5], c[6]
    cap, timeout, read_queue, write_queue, priority_queue = c[7], c[8], c[9], c[10], c[11]
    enter_write, leave_write, read_latency = c[12], c[13], c[14]
    bank_base, object_base, autoprecharge, paired = c[20], c[21], c[24], c[25]
    shift, channel_base = c[31], c[32]
    # The arrays by name.
    ready = s.ready
    request = s.request
    bank = s.bank
    sets = s.sets
    history = s.history
    free_slots = s.free_slots
    actives = s.actives
    priority_command = s.priority_command
    priority_object = s.priority_object
    timer_next = s.timer_next
    timer_turn = s.timer_turn
    scope_open = s.scope_open
    scope_since = s.scope_since
    written = s.written
    in_flight = s.in_flight
    counts = s.counts
    bank_outcome = s.bank_outcome
    histogram = s.histogram
    paired_count = s.paired_count
    paired_allowed = s.paired_allowed
    scope_active = s.scope_active
    object_start = p.object_start
    object_banks = p.object_banks
    timer_period = p.timer_period
    timer_start = p.timer_start
    timer_object = p.timer_object
    timer_command = p.timer_command
    update_start = p.update_start
    update_index = p.update_index
    update_ticks = p.update_ticks
    window_start = p.window_start
    window_rule = p.window_rule
    window_index = p.window_index
    affects = p.affects
    chunk_transaction = chunk.transaction
    chunk_bank = chunk.bank
    chunk_row = chunk.row
    chunk_write = chunk.write
    chunk_arrival = chunk.arrival
    log_tick = log.tick
    log_command = log.command
    log_target = log.target
    log_transaction = log.transaction
    log_row = log.row
    log_accept = log.accept
    log_latency = log.latency
    log_used = log.used
    lpddr, hbm, half = kind == 1, kind >= 2, kind == 3
    # Nothing closes a row that an activated request waits for.
    steady = policy == 0 or policy == 3
    step = gap if gap > 1 else 1
    timed = chunk_arrival.size > 0
    logging = log_tick.size > 0
    keep = log_accept.size > 0
    n = chunk_transaction.size
    slots = 2 if hbm else 1
    words = (banks + 63) >> 6
    first_index = v[ACCEPTED] - v[NEXT]

    dirty_active, dirty_priority, reopening = True, True, False
    key_active, best_active, arrive_active, command_active = INF, -1, 0, 0
    # The queue in use has three kinds of candidates; each kind keeps its best until something touches it.
    stale_column, stale_open, stale_close = True, True, True
    key_column, best_column, arrive_column = INF, -1, 0
    key_open, best_open, arrive_open = INF, -1, 0
    key_close, best_close, arrive_close = INF, -1, 0
    touched_column, touched_row = -1, -1
    key_priority, command_priority = INF, 0
    event = v[NOW] + 1
    timer = INF
    for i in range(timer_next.size):
        timer = min(timer, timer_next[u(i)])
    if paired == 1:
        timer = v[PAIRED_NEXT] if v[PAIRED_PENDING] == 0 else v[NOW] + 1
    policy_event = v[NOW] + 1 if policy == 1 or policy == 3 else INF
    blocked = False
    now = v[NOW]
    status = DONE

    while True:
        # ---- the front end: when is the next request offered?
        arrival = INF
        if v[NEXT] < n:
            if not blocked:
                arrival = max(v[OFFER], now)
                if timed:
                    arrival = max(arrival, chunk_arrival[u(v[NEXT])])
                if outstanding > 0:
                    while v[PEND_COUNT] > 0 and in_flight[u(v[PEND_HEAD])] <= arrival:
                        v[PEND_HEAD] = (v[PEND_HEAD] + 1) % in_flight.size
                        v[PEND_COUNT] -= 1
                        v[OUTSTANDING] -= 1
                    if v[OUTSTANDING] >= outstanding:
                        arrival = max(arrival, in_flight[u(v[PEND_HEAD])]) if v[PEND_COUNT] > 0 else INF
        elif not final:
            status = NEED
            break
        elif v[LIVE] == 0:
            drained = max(v[DEPART], max(v[LAST_WRITE], v[LAST_ACCEPT] + 1))
            if event > drained:
                status = DONE
                break
        if arrival < event:
            if arrival >= until:
                status = PAUSED
                break
            i = v[NEXT]
            b = chunk_bank[u(i)]
            transaction = chunk_transaction[u(i)]
            write = chunk_write[u(i)]
            queued = -1
            if written[u(filter_slot(transaction))] > 0:
                queued = bank[of(b, B_FIRST + 1)]
                while queued >= 0 and request[of(queued, R_ADDRESS)] != transaction:
                    queued = request[of(queued, R_NEXT)]
            while v[PEND_COUNT] > 0 and in_flight[u(v[PEND_HEAD])] <= arrival:
                v[PEND_HEAD] = (v[PEND_HEAD] + 1) % in_flight.size
                v[PEND_COUNT] -= 1
                v[OUTSTANDING] -= 1
            if queued >= 0:
                if write == 1:
                    v[COALESCED] += 1
                else:
                    v[FORWARDED] += 1
                    v[DEPART] = max(v[DEPART], arrival + 1)
                    v[LATENCY_SUM] += 1
                    v[LATENCY_MAX] = max(v[LATENCY_MAX], 1)
                    histogram[1] += 1
                    if keep:
                        log_latency[u(first_index + i)] = 1
                    if outstanding > 0:
                        v[OUTSTANDING] += 1
                        in_flight[u((v[PEND_HEAD] + v[PEND_COUNT]) % in_flight.size)] = v[DEPART]
                        v[PEND_COUNT] += 1
            elif v[u(READS + write)] >= (write_queue if write == 1 else read_queue):
                blocked = True
                continue
            else:
                row = chunk_row[u(i)]
                slot, became = enqueue(
                    v, request, bank, sets, free_slots, written, b, row, transaction, write, arrival,
                    first_index + i,
                )  # fmt: skip
                if outstanding > 0:
                    v[OUTSTANDING] += 1
                # Only a bank's oldest hit and oldest other one can be chosen next.
                state = bank[of(b, B_STATE)]
                command = -1
                if became == 1:
                    command = _RD + write
                elif became == 2 and state < 2:
                    command = _ACT if state == 0 else _PREPB
                if command >= 0 and v[MODE] == write:
                    allowed = True
                    if command == _PREPB:
                        allowed = bank[of(b, B_ACTIVE)] == 0 and not (
                            rowhit == 1 and bank[of(b, B_HIT + write)] >= 0
                        )
                    elif command == _ACT:
                        allowed = not (lpddr and v[OPENING] >= 0)
                    if allowed:
                        key = legal(ready, command, b, groups, banks, shift, bank_base, channel_base)
                        key = max(key, arrival + 1)
                        if half:
                            if command != _PREPB:
                                key |= 1
                            elif key == v[PAIR_TICK] and bank[of(b, B_SCOPE)] == v[PAIR_SCOPE]:
                                if v[PAIR_BANK] < 0 or v[PAIR_BANK] == b:
                                    key += 1
                        # The newest request wins only by being ready earlier.
                        if command == _ACT:
                            if key < key_open:
                                key_open, best_open, arrive_open = key, slot, arrival
                        elif command == _PREPB:
                            if key < key_close:
                                key_close, best_close, arrive_close = key, slot, arrival
                        elif key < key_column:
                            key_column, best_column, arrive_column = key, slot, arrival
            if keep:
                log_accept[u(first_index + i)] = arrival
            v[LAST_ACCEPT] = arrival
            v[PROGRESS] = arrival
            v[OFFER] = arrival + step
            v[NEXT] = i + 1
            v[ACCEPTED] += 1
            now = arrival + 1
        else:
            now = event
            if now >= INF:
                status = STUCK
                break
            if now > until:
                now = v[NOW]
                status = PAUSED
                break
        if logging and log_used[0] + 3 >= log_tick.size:
            # Come back to this very tick with an empty log.
            event = now
            now = now - 1
            status = FULL
            break

        # ---- the tick of clock `now`: refresh first
        if now >= timer:
            arrived = v[PRIORITY_COUNT]
            if paired == 1:
                if v[PAIRED_PENDING] == 0 and now >= v[PAIRED_NEXT]:
                    allowed_tick = now
                    for pc in range(c[28]):
                        allowed_tick = max(allowed_tick, paired_allowed[u(pc * c[29] + v[PAIRED_SID])])
                    if allowed_tick > now:
                        v[PAIRED_NEXT] = allowed_tick
                    else:
                        v[PAIRED_FLAT] = v[PAIRED_BANK]
                        v[PAIRED_SET] = v[PAIRED_SID]
                        v[PAIRED_PENDING] = c[28]
                        v[PAIRED_BANK] += 1
                        if v[PAIRED_BANK] == c[30]:
                            v[PAIRED_BANK] = 0
                            v[PAIRED_SID] = (v[PAIRED_SID] + 1) % c[29]
                        v[PAIRED_NEXT] += c[26]
                if v[PAIRED_PENDING] > 0 and v[PRIORITY_COUNT] < priority_queue:
                    pc = c[28] - v[PAIRED_PENDING]
                    which = pc * c[29] + v[PAIRED_SET]
                    tail = (v[PRIORITY_HEAD] + v[PRIORITY_COUNT]) % priority_queue
                    priority_command[u(tail)] = _REFPB
                    priority_object[u(tail)] = which * c[30] + v[PAIRED_FLAT]
                    v[PRIORITY_COUNT] += 1
                    v[PAIRED_PENDING] -= 1
                    paired_count[u(which)] += 1
                    if paired_count[u(which)] == c[30]:
                        paired_count[u(which)] = 0
                        paired_allowed[u(which)] = now + c[27]
                timer = now + 1 if v[PAIRED_PENDING] > 0 else max(v[PAIRED_NEXT], now + 1)
            else:
                timer = INF
                for i in range(timer_next.size):
                    if timer_next[u(i)] == now:
                        if v[PRIORITY_COUNT] >= priority_queue:
                            status = OVERFLOW
                            break
                        tail = (v[PRIORITY_HEAD] + v[PRIORITY_COUNT]) % priority_queue
                        priority_command[u(tail)] = timer_command[u(i)]
                        priority_object[u(tail)] = timer_object[u(timer_start[u(i)] + timer_turn[u(i)])]
                        v[PRIORITY_COUNT] += 1
                        timer_next[u(i)] += timer_period[u(i)]
                        timer_turn[u(i)] += 1
                        if timer_start[u(i)] + timer_turn[u(i)] == timer_start[u(i + 1)]:
                            timer_turn[u(i)] = 0
                    timer = min(timer, timer_next[u(i)])
                if status == OVERFLOW:
                    break
            if arrived == 0:
                dirty_priority = True
            v[SUM_PRIORITY] -= (v[PRIORITY_COUNT] - arrived) * now

        # ---- then the row policy, which may ask for a precharge
        if now >= policy_event:
            before = v[PRIORITY_COUNT]
            if policy == 1 and v[DUE] > 0:
                for b in range(banks):
                    if (
                        bank[of(b, B_COLUMNS)] >= cap
                        and bank[of(b, B_INJECTED)] == 0
                        and v[PRIORITY_COUNT] < priority_queue
                    ):
                        key = legal(ready, _PREPB, b, groups, banks, shift, bank_base, channel_base)
                        if key <= now:
                            tail = (v[PRIORITY_HEAD] + v[PRIORITY_COUNT]) % priority_queue
                            priority_command[u(tail)] = _PREPB
                            priority_object[u(tail)] = b
                            v[PRIORITY_COUNT] += 1
                            bank[of(b, B_INJECTED)] = 1
                            v[DUE] -= 1
            elif policy == 3:
                for b in range(banks):
                    idle = (
                        bank[of(b, B_HIT)] < 0 and bank[of(b, B_HIT + 1)] < 0 and bank[of(b, B_ACTIVE)] == 0
                    )
                    if bank[of(b, B_STATE)] == 1 and bank[of(b, B_INJECTED)] == 0 and idle:
                        key = legal(ready, _PREPB, b, groups, banks, shift, bank_base, channel_base)
                        if (
                            max(key, bank[of(b, B_LAST)] + timeout) <= now
                            and v[PRIORITY_COUNT] < priority_queue
                        ):
                            tail = (v[PRIORITY_HEAD] + v[PRIORITY_COUNT]) % priority_queue
                            priority_command[u(tail)] = _PREPB
                            priority_object[u(tail)] = b
                            v[PRIORITY_COUNT] += 1
                            bank[of(b, B_INJECTED)] = 1
            if before == 0:
                dirty_priority = True
            v[SUM_PRIORITY] -= (v[PRIORITY_COUNT] - before) * now
            policy_event = INF

        # ---- then at most one command per command bus
        issued = False
        for bus in range(slots):
            if half and bus == 0 and (now & 1) == 0:
                continue
            source, slot, command, target = -1, -1, 0, 0
            if v[LOCK] >= 0:
                # LPDDR5: the clock is in step; the access that asked for it follows.
                slot, source, command = v[LOCK], v[LOCK_FROM], v[LOCK_CMD]
                b = request[of(slot, R_BANK)]
                key = legal(ready, command, b, groups, banks, shift, bank_base, channel_base)
                if key > now:
                    continue
            elif v[OPENING] >= 0 and v[DEADLINE] <= now:
                slot, source, command = v[OPENING], _OPENING, _ACT2
            else:
                if bus == 0:
                    if dirty_active or key_active < now:
                        dirty_active, reopening = False, False
                        key_active, best_active, arrive_active = INF, -1, 0
                        if steady:
                            soonest, winner = FAR, -1
                            gate_read = max(ready[u(channel_base + _RD)], now)
                            gate_write = max(ready[u(channel_base + _WR)], now)
                            for j in range(v[ACTIVE]):
                                candidate = actives[u(j)]
                                write = request[of(candidate, R_WRITE)]
                                b = request[of(candidate, R_BANK)]
                                key = own(ready, _RD + write, b, groups, banks, shift, bank_base)
                                key = max(key, gate_write if write == 1 else gate_read)
                                if half:
                                    key |= 1
                                rank = ((key - now) << AGE) + (request[of(candidate, R_ARRIVE)] - now)
                                if rank < soonest:
                                    soonest, winner = rank, candidate
                            if winner >= 0:
                                key_active, best_active = now - ((-soonest) >> AGE), winner
                                arrive_active = request[of(winner, R_ARRIVE)]
                                command_active = _RD + request[of(winner, R_WRITE)]
                        for j in range(0 if steady else v[ACTIVE]):
                            candidate = actives[u(j)]
                            b = request[of(candidate, R_BANK)]
                            state = bank[of(b, B_STATE)]
                            if state != 1 or bank[of(b, B_ROW)] != request[of(candidate, R_ROW)]:
                                # An auto-precharge closed the row under it.
                                reopening = True
                            if state == 1:
                                if bank[of(b, B_ROW)] == request[of(candidate, R_ROW)]:
                                    command = _RD + request[of(candidate, R_WRITE)]
                                else:
                                    command = _PREPB
                                    if rowhit == 1:
                                        older = False
                                        for k in range(v[ACTIVE]):
                                            rival = actives[u(k)]
                                            if (
                                                request[of(rival, R_BANK)] == b
                                                and request[of(rival, R_ROW)] == bank[of(b, B_ROW)]
                                                and request[of(rival, R_ARRIVE)]
                                                <= request[of(candidate, R_ARRIVE)]
                                            ):
                                                older = True
                                        if older:
                                            continue
                            elif state == 0:
                                command = _ACT
                                if lpddr and v[OPENING] >= 0:
                                    continue
                            else:
                                continue
                            if hbm and command != _RD and command != _WR:
                                continue
                            key = legal(ready, command, b, groups, banks, shift, bank_base, channel_base)
                            key = max(key, now)
                            if half:
                                key |= 1
                            arrive = request[of(candidate, R_ARRIVE)]
                            if key < key_active or (key == key_active and arrive < arrive_active):
                                key_active, best_active, command_active = key, candidate, command
                                arrive_active = arrive
                    if key_active <= now:
                        slot, source, command = best_active, _FROM_ACTIVE, command_active
                if source < 0 and v[PRIORITY_COUNT] > 0:
                    if not (hbm and bus == 0):
                        if dirty_priority:
                            dirty_priority = False
                            key_priority = INF
                            wanted = priority_command[u(v[PRIORITY_HEAD])]
                            target = priority_object[u(v[PRIORITY_HEAD])]
                            eligible = True
                            if target < banks:
                                command_priority = wanted
                                if wanted != _PREPB and bank[of(target, B_STATE)] != 0:
                                    command_priority = _PREPB
                                if command_priority == _PREPB and bank[of(target, B_ACTIVE)] > 0:
                                    eligible = False
                                if bank[of(target, B_STATE)] == 2:
                                    eligible = False
                                key = legal(
                                    ready,
                                    command_priority,
                                    target,
                                    groups,
                                    banks,
                                    shift,
                                    bank_base,
                                    channel_base,
                                )
                                scope = bank[of(target, B_SCOPE)]
                                only = target
                            else:
                                k = target - banks
                                any_open, any_active, opening = False, False, False
                                for j in range(object_start[u(k)], object_start[u(k + 1)]):
                                    b = object_banks[u(j)]
                                    any_open |= bank[of(b, B_STATE)] != 0
                                    any_active |= bank[of(b, B_ACTIVE)] > 0
                                    opening |= bank[of(b, B_STATE)] == 2
                                command_priority = wanted
                                if any_open:
                                    command_priority = _PREAB if wanted == _REFAB else _PRESB
                                    eligible = not any_active
                                eligible = eligible and not opening
                                key = ready[u(object_base + command_priority * others + k)]
                                key = max(key, ready[u(channel_base + command_priority)])
                                scope = bank[of(object_banks[u(object_start[u(k)])], B_SCOPE)]
                                only = -1
                            if eligible:
                                key = max(key, now)
                                if half:
                                    if command_priority == _PREPB or command_priority == _PREAB:
                                        if key == v[PAIR_TICK] and scope == v[PAIR_SCOPE]:
                                            if only < 0 or v[PAIR_BANK] < 0 or v[PAIR_BANK] == only:
                                                key += 1
                                    else:
                                        key |= 1
                                key_priority = key
                        if key_priority <= now:
                            source, command = _FROM_PRIORITY, command_priority
                            target = priority_object[u(v[PRIORITY_HEAD])]
                elif source < 0:
                    if v[MODE] == 0:
                        if v[WRITES] >= enter_write or v[READS] == 0:
                            v[MODE] = 1
                            stale_column, stale_open, stale_close = True, True, True
                    elif v[WRITES] <= leave_write and v[READS] != 0:
                        v[MODE] = 0
                        stale_column, stale_open, stale_close = True, True, True
                    q = v[MODE]
                    column = _RD + q
                    look_column, look_rows = not (hbm and bus == 1), not (hbm and bus == 0)
                    # A key may have been made before the whole channel was made to wait; that comes on top.
                    gate_column = ready[u(channel_base + column)]
                    gate_open = ready[u(channel_base + _ACT)]
                    gate_close = ready[u(channel_base + _PREPB)]
                    # A best that could have gone before now may have lost to an older request since.
                    stale_column |= key_column < now and gate_column <= now
                    stale_open |= key_open < now and gate_open <= now
                    stale_close |= key_close < now and gate_close <= now
                    scan_column, scan_open, scan_close = False, False, False
                    again_column, again_row = -1, -1
                    if look_column:
                        scan_column, again_column, touched_column = stale_column, touched_column, -1
                        if stale_column:
                            key_column, best_column, stale_column = INF, -1, False
                    if look_rows:
                        scan_open, scan_close, again_row, touched_row = (
                            stale_open,
                            stale_close,
                            touched_row,
                            -1,
                        )
                        if stale_open:
                            key_open, best_open, stale_open = INF, -1, False
                        if stale_close:
                            key_close, best_close, stale_close = INF, -1, False
                    # A bank that a command touched is put in again where its kind is not looked through
                    # anyway.
                    if look_column and (scan_column or again_column >= 0):
                        soonest, winner, floor = FAR, -1, max(now, gate_column)
                        for w in range(words):
                            rest = sets[u((w << 3) + M_HIT + q)]
                            if not scan_column:
                                rest &= np.int64(1) << (again_column & 63) if again_column >> 6 == w else 0
                            while rest != 0:
                                b = lowest(rest) + (w << 6)
                                rest &= rest - 1
                                key = max(own(ready, column, b, groups, banks, shift, bank_base), floor)
                                if half:
                                    key |= 1
                                hit = bank[of(b, B_HIT + q)]
                                rank = ((key - now) << AGE) + (request[of(hit, R_ARRIVE)] - now)
                                if rank < soonest:
                                    soonest, winner = rank, hit
                        if winner >= 0:
                            key, arrive = now - ((-soonest) >> AGE), request[of(winner, R_ARRIVE)]
                            if key < key_column or (key == key_column and arrive < arrive_column):
                                key_column, best_column, arrive_column = key, winner, arrive
                    if look_rows and (scan_open or again_row >= 0) and not (lpddr and v[OPENING] >= 0):
                        soonest, winner, floor = FAR, -1, max(now, gate_open)
                        for w in range(words):
                            rest = sets[u((w << 3) + M_OTHER + q)] & sets[u((w << 3) + M_CLOSED)]
                            if not scan_open:
                                rest &= np.int64(1) << (again_row & 63) if again_row >> 6 == w else 0
                            while rest != 0:
                                b = lowest(rest) + (w << 6)
                                rest &= rest - 1
                                key = max(own(ready, _ACT, b, groups, banks, shift, bank_base), floor)
                                if half:
                                    key |= 1
                                candidate = bank[of(b, B_OTHER + q)]
                                rank = ((key - now) << AGE) + (request[of(candidate, R_ARRIVE)] - now)
                                if rank < soonest:
                                    soonest, winner = rank, candidate
                        if winner >= 0:
                            key, arrive = now - ((-soonest) >> AGE), request[of(winner, R_ARRIVE)]
                            if key < key_open or (key == key_open and arrive < arrive_open):
                                key_open, best_open, arrive_open = key, winner, arrive
                    if look_rows and (scan_close or again_row >= 0):
                        soonest, winner, floor = FAR, -1, max(now, gate_close)
                        for w in range(words):
                            rest = (
                                sets[u((w << 3) + M_OTHER + q)]
                                & sets[u((w << 3) + M_OPEN)]
                                & sets[u((w << 3) + M_IDLE)]
                            )
                            if not scan_close:
                                rest &= np.int64(1) << (again_row & 63) if again_row >> 6 == w else 0
                            while rest != 0:
                                b = lowest(rest) + (w << 6)
                                rest &= rest - 1
                                candidate = bank[of(b, B_OTHER + q)]
                                arrive = request[of(candidate, R_ARRIVE)]
                                if rowhit == 1:
                                    hit = bank[of(b, B_HIT + q)]
                                    if hit >= 0 and request[of(hit, R_ARRIVE)] <= arrive:
                                        continue
                                key = max(own(ready, _PREPB, b, groups, banks, shift, bank_base), floor)
                                if half and key == v[PAIR_TICK] and bank[of(b, B_SCOPE)] == v[PAIR_SCOPE]:
                                    if v[PAIR_BANK] < 0 or v[PAIR_BANK] == b:
                                        key += 1
                                rank = ((key - now) << AGE) + (arrive - now)
                                if rank < soonest:
                                    soonest, winner = rank, candidate
                        if winner >= 0:
                            key, arrive = now - ((-soonest) >> AGE), request[of(winner, R_ARRIVE)]
                            if key < key_close or (key == key_close and arrive < arrive_close):
                                key_close, best_close, arrive_close = key, winner, arrive
                    # Ready now, and of those the oldest.
                    oldest = INF
                    if half:
                        gate_open |= 1
                    if look_column and max(key_column, gate_column) <= now:
                        slot, source, command, oldest = best_column, _FROM_QUEUE, column, arrive_column
                    if look_rows:
                        if max(key_open, gate_open) <= now and arrive_open < oldest:
                            slot, source, command, oldest = best_open, _FROM_QUEUE, _ACT, arrive_open
                        if max(key_close, gate_close) <= now and arrive_close < oldest:
                            slot, source, command, oldest = best_close, _FROM_QUEUE, _PREPB, arrive_close
                if lpddr:
                    if source < 0:
                        if v[OPENING] < 0:
                            continue
                        slot, source, command = v[OPENING], _OPENING, _ACT2
                    elif c[17] == 1 and (command == _RD or command == _WR) and now >= v[EXPIRY]:
                        if v[OPENING] >= 0 and v[DEADLINE] <= now + 1:
                            slot, source, command = v[OPENING], _OPENING, _ACT2
                        else:
                            # Start the data clock; nothing but the access itself may follow.
                            cas = _CASRD if command == _RD else _CASWR
                            b = request[of(slot, R_BANK)]
                            key = legal(ready, cas, b, groups, banks, shift, bank_base, channel_base)
                            if key <= now:
                                v[LOCK], v[LOCK_FROM], v[LOCK_CMD] = slot, source, command
                                if logging:
                                    k = log_used[0]
                                    log_tick[u(k)], log_command[u(k)], log_target[u(k)] = now, cas, b
                                    log_transaction[u(k)], log_row[u(k)] = (
                                        request[of(slot, R_ADDRESS)],
                                        request[of(slot, R_ROW)],
                                    )
                                    log_used[0] = k + 1
                                counts[u(cas)] += 1
                                apply(
                                    update_start, update_index,
                                    update_ticks, window_start,
                                    window_rule, window_index, ready,
                                    history, b, cas, now,
                                )  # fmt: skip
                                dirty_active, dirty_priority = True, True
                                stale_column, stale_open, stale_close = True, True, True
                                issued = True
                            continue
                if source < 0:
                    continue

            # ---- issue `command`
            locked = v[LOCK] >= 0
            if slot >= 0:
                target = request[of(slot, R_BANK)]
                b = target
                if (command == _RD or command == _WR) and not locked and autoprecharge == 1:
                    upgrade = policy == 1 and bank[of(b, B_COLUMNS)] >= cap
                    if policy == 2:
                        waiting = 0
                        for q in range(2):
                            other = bank[of(b, B_HIT + q)]
                            if other == slot:
                                other = first(request[of(slot, R_NEXT)], bank[of(b, B_ROW)], True, request)
                            waiting += other >= 0
                        mine = 1 if source == _FROM_ACTIVE else 0
                        upgrade = waiting == 0 and bank[of(b, B_ACTIVE)] == mine
                    if upgrade:
                        ahead = command + 2
                        key = legal(ready, ahead, b, groups, banks, shift, bank_base, channel_base)
                        if key <= now:
                            command = ahead
                write = request[of(slot, R_WRITE)]
                if request[of(slot, R_COUNTED)] == 0:
                    request[of(slot, R_COUNTED)] = 1
                    if bank[of(b, B_STATE)] != 1:
                        v[MISSES] += 1
                        bank_outcome[u(3 * b + 1)] += 1
                    elif bank[of(b, B_ROW)] == request[of(slot, R_ROW)]:
                        v[HITS] += 1
                        v[u(READ_HITS + write)] += 1
                        bank_outcome[u(3 * b)] += 1
                    else:
                        v[CONFLICTS] += 1
                        bank_outcome[u(3 * b + 2)] += 1
            apply(
                update_start, update_index, update_ticks, window_start, window_rule,
                window_index, ready, history, target, command, now,
            )  # fmt: skip
            counts[u(command)] += 1
            if logging:
                k = log_used[0]
                log_tick[u(k)], log_command[u(k)], log_target[u(k)] = now, command, target
                log_transaction[u(k)] = request[of(slot, R_ADDRESS)] if slot >= 0 else -1
                log_row[u(k)] = request[of(slot, R_ROW)] if slot >= 0 else -1
                log_used[0] = k + 1
            if half and bus == 1 and (now & 1) == 1:
                v[PAIR_TICK] = now + (3 if command == _ACT else 1)
                if target < banks:
                    v[PAIR_SCOPE], v[PAIR_BANK] = bank[of(target, B_SCOPE)], target
                else:
                    v[PAIR_SCOPE] = bank[of(object_banks[u(object_start[u(target - banks)])], B_SCOPE)]
                    v[PAIR_BANK] = -1
            issued = True
            blocked = False
            if slot >= 0:
                v[PROGRESS] = now
            elif v[LIVE] > 0 and now - v[PROGRESS] > PATIENCE:
                status = STUCK
            dirty_priority = True
            reach = affects[u(command)]
            # The active requests wait for column commands; only what moves those, or their banks, matters.
            dirty_active |= (reach & 8) != 0 or source == _FROM_ACTIVE or target >= banks or reopening
            dirty_active |= source == _OPENING or (target < banks and bank[of(target, B_ACTIVE)] > 0)
            stale_column |= (reach & 1) != 0
            stale_open |= (reach & 2) != 0
            stale_close |= (reach & 4) != 0
            if target >= banks or (touched_column >= 0 and touched_column != target):
                stale_column = True
            elif best_column >= 0 and request[of(best_column, R_BANK)] == target:
                stale_column = True
            if target >= banks or (touched_row >= 0 and touched_row != target):
                stale_open, stale_close = True, True
            else:
                stale_open |= best_open >= 0 and request[of(best_open, R_BANK)] == target
                stale_close |= best_close >= 0 and request[of(best_close, R_BANK)] == target
            touched_column, touched_row = -1, -1
            if target < banks:
                touched_column, touched_row = target, target
            if lpddr and (command == _ACT or command == _ACT2):
                stale_open = True
            if half:
                stale_close = True
            if policy == 1 or policy == 3:
                policy_event = now + 1

            if command == _RD or command == _WR or command == _RDA or command == _WRA:
                # The request is served: it leaves, and a read's data arrives later.
                if source == _FROM_ACTIVE:
                    for j in range(v[ACTIVE]):
                        if actives[u(j)] == slot:
                            v[ACTIVE] -= 1
                            actives[u(j)] = actives[u(v[ACTIVE])]
                            break
                    bank[of(b, B_ACTIVE)] -= 1
                    mark(sets, M_IDLE, b, bank[of(b, B_ACTIVE)] == 0)
                else:
                    unlink(v, request, bank, sets, written, write, slot, now)
                bank[of(b, B_LAST)] = now
                if command == _RDA or command == _WRA:
                    close_bank(v, bank, sets, scope_open, scope_since, scope_active, b, now, cap, policy)
                else:
                    bank[of(b, B_COLUMNS)] += 1
                    if policy == 1 and bank[of(b, B_COLUMNS)] == cap and bank[of(b, B_INJECTED)] == 0:
                        v[DUE] += 1
                if write == 0:
                    depart = now + read_latency
                    latency = depart - request[of(slot, R_ARRIVE)]
                    v[DEPART] = max(v[DEPART], depart)
                    v[LATENCY_SUM] += latency
                    v[LATENCY_MAX] = max(v[LATENCY_MAX], latency)
                    histogram[u(min(latency, HISTOGRAM - 1))] += 1
                    v[SERVED_READS] += 1
                    if keep:
                        log_latency[u(request[of(slot, R_INDEX)])] = latency
                    if outstanding > 0:
                        in_flight[u((v[PEND_HEAD] + v[PEND_COUNT]) % in_flight.size)] = v[DEPART]
                        v[PEND_COUNT] += 1
                else:
                    v[SERVED_WRITES] += 1
                    v[LAST_WRITE] = now
                    if outstanding > 0:
                        v[OUTSTANDING] -= 1
                free_slots[u(v[FREE])] = slot
                v[FREE] += 1
                v[LIVE] -= 1
                v[LOCK] = -1
                if lpddr and c[17] == 1:
                    expiry = now + (c[18] if write == 0 else c[19])
                    v[EXPIRY] = max(v[EXPIRY], expiry)
            elif command == _ACT:
                scope_open[u(bank[of(b, B_SCOPE)])] += 1
                if scope_open[u(bank[of(b, B_SCOPE)])] == 1:
                    scope_since[u(bank[of(b, B_SCOPE)])] = now
                bank[of(b, B_LAST)] = now
                if c[15] == 1:
                    # Split activation: the request waits for its second half in a place of its own.
                    if source == _FROM_QUEUE:
                        unlink(v, request, bank, sets, written, write, slot, now)
                    else:
                        for j in range(v[ACTIVE]):
                            if actives[u(j)] == slot:
                                v[ACTIVE] -= 1
                                actives[u(j)] = actives[u(v[ACTIVE])]
                                break
                    bank[of(b, B_STATE)] = 2
                    mark(sets, M_CLOSED, b, False)
                    v[OPENING] = slot
                    v[DEADLINE] = now + c[16]
                elif v[ACTIVE] < banks:
                    if source == _FROM_QUEUE:
                        unlink(v, request, bank, sets, written, write, slot, now)
                        actives[u(v[ACTIVE])] = slot
                        v[ACTIVE] += 1
                        if not dirty_active:
                            column = _RD + request[of(slot, R_WRITE)]
                            key = legal(ready, column, b, groups, banks, shift, bank_base, channel_base)
                            key = max(key, now + 1)
                            if half:
                                key |= 1
                            if key < key_active or (
                                key == key_active and request[of(slot, R_ARRIVE)] < arrive_active
                            ):
                                key_active, best_active, command_active = key, slot, column
                                arrive_active = request[of(slot, R_ARRIVE)]
                    bank[of(b, B_ACTIVE)] += 1
                    mark(sets, M_IDLE, b, False)
                    open_bank(request, bank, sets, b, request[of(slot, R_ROW)])
                else:
                    open_bank(request, bank, sets, b, request[of(slot, R_ROW)])
            elif command == _ACT2:
                open_bank(request, bank, sets, b, request[of(slot, R_ROW)])
                actives[u(v[ACTIVE])] = slot
                v[ACTIVE] += 1
                bank[of(b, B_ACTIVE)] += 1
                mark(sets, M_IDLE, b, False)
                v[OPENING] = -1
            elif command == _PREPB:
                close_bank(v, bank, sets, scope_open, scope_since, scope_active, target, now, cap, policy)
            elif command == _PREAB or command == _PRESB:
                k = target - banks
                for j in range(object_start[u(k)], object_start[u(k + 1)]):
                    b = object_banks[u(j)]
                    close_bank(v, bank, sets, scope_open, scope_since, scope_active, b, now, cap, policy)
            if source == _FROM_PRIORITY and command == priority_command[u(v[PRIORITY_HEAD])]:
                v[PRIORITY_HEAD] = (v[PRIORITY_HEAD] + 1) % priority_queue
                v[PRIORITY_COUNT] -= 1
                v[SUM_PRIORITY] += now

        v[NOW] = now
        if status == STUCK:
            break
        if policy == 1 and v[DUE] > 0:
            policy_event = INF
            for b in range(banks):
                if bank[of(b, B_COLUMNS)] >= cap and bank[of(b, B_INJECTED)] == 0:
                    key = legal(ready, _PREPB, b, groups, banks, shift, bank_base, channel_base)
                    policy_event = min(policy_event, max(key, now + 1))
        elif policy == 3:
            policy_event = INF
            for b in range(banks):
                idle = bank[of(b, B_HIT)] < 0 and bank[of(b, B_HIT + 1)] < 0 and bank[of(b, B_ACTIVE)] == 0
                if bank[of(b, B_STATE)] == 1 and bank[of(b, B_INJECTED)] == 0 and idle:
                    key = legal(ready, _PREPB, b, groups, banks, shift, bank_base, channel_base)
                    policy_event = min(policy_event, max(max(key, bank[of(b, B_LAST)] + timeout), now + 1))
        # ---- a streak of row hits: nothing but column commands can go, so only they are looked at
        calm = issued and policy == 0 and v[ACTIVE] == 0 and v[PRIORITY_COUNT] == 0
        if (
            calm
            and outstanding == 0
            and not timed
            and v[OPENING] < 0
            and v[LOCK] < 0
            and enter_write > leave_write
        ):
            q = v[MODE]
            rows_wanted = np.int64(0)
            for w in range(words):
                rows_wanted |= sets[u((w << 3) + M_OTHER + q)]
            calm = rows_wanted == 0 and (q == 1 or v[WRITES] < enter_write)
            column = _RD + q
            looked = False
            while calm:
                # The queue must not run so low that reading or writing ends.
                looked = False
                if v[u(READS + q)] < 2 or (q == 1 and v[READS] > 0 and v[WRITES] - 1 <= leave_write):
                    break
                looked = True
                soonest, slot, floor = FAR, -1, max(now + 1, ready[u(channel_base + column)])
                for w in range(words):
                    rest = sets[u((w << 3) + M_HIT + q)]
                    while rest != 0:
                        b = lowest(rest) + (w << 6)
                        rest &= rest - 1
                        key = max(own(ready, column, b, groups, banks, shift, bank_base), floor)
                        if half:
                            key |= 1
                        hit = bank[of(b, B_HIT + q)]
                        rank = ((key - now) << AGE) + (request[of(hit, R_ARRIVE)] - now)
                        if rank < soonest:
                            soonest, slot = rank, hit
                key = now - ((-soonest) >> AGE)
                # Requests that come before it join. Those of its kind must be row hits.
                while True:
                    if v[NEXT] >= n:
                        calm = final
                        break
                    arrival = max(v[OFFER], now)
                    if arrival >= min(key, timer):
                        break
                    i = v[NEXT]
                    b = chunk_bank[u(i)]
                    row = chunk_row[u(i)]
                    transaction = chunk_transaction[u(i)]
                    write = chunk_write[u(i)]
                    if written[u(filter_slot(transaction))] > 0:
                        calm = False
                        break
                    if v[u(READS + write)] >= (write_queue if write == 1 else read_queue):
                        break
                    hits = bank[of(b, B_STATE)] == 1 and bank[of(b, B_ROW)] == row
                    if (write == q and not hits) or arrival >= until:
                        calm = False
                        break
                    fresh, became = enqueue(
                        v, request, bank, sets, free_slots, written, b, row, transaction, write, arrival,
                        first_index + i,
                    )  # fmt: skip
                    if became == 1 and write == q:
                        sooner = legal(ready, column, b, groups, banks, shift, bank_base, channel_base)
                        sooner = max(sooner, arrival + 1)
                        if half:
                            sooner |= 1
                        if sooner < key:
                            key, slot = sooner, fresh
                    if keep:
                        log_accept[u(first_index + i)] = arrival
                    v[LAST_ACCEPT] = arrival
                    # Every tick up to this clock has passed without a command.
                    now = arrival
                    v[OFFER] = arrival + step
                    v[NEXT] = i + 1
                    v[ACCEPTED] += 1
                    if v[WRITES] >= enter_write if q == 0 else write == 0 and v[WRITES] <= leave_write:
                        calm = False
                        break
                if not calm or key >= timer or key > until:
                    break
                if lpddr and c[17] == 1 and key >= v[EXPIRY]:
                    break
                if logging and log_used[0] + 3 >= log_tick.size:
                    break
                now = key
                b = request[of(slot, R_BANK)]
                if request[of(slot, R_COUNTED)] == 0:
                    v[HITS] += 1
                    v[u(READ_HITS + q)] += 1
                    bank_outcome[u(3 * b)] += 1
                counts[u(column)] += 1
                if logging:
                    k = log_used[0]
                    log_tick[u(k)], log_command[u(k)], log_target[u(k)] = now, column, b
                    log_transaction[u(k)], log_row[u(k)] = (
                        request[of(slot, R_ADDRESS)],
                        request[of(slot, R_ROW)],
                    )
                    log_used[0] = k + 1
                apply(
                    update_start, update_index, update_ticks, window_start, window_rule,
                    window_index, ready, history, b, column, now,
                )  # fmt: skip
                unlink(v, request, bank, sets, written, q, slot, now)
                bank[of(b, B_LAST)] = now
                bank[of(b, B_COLUMNS)] += 1
                if q == 0:
                    depart = now + read_latency
                    latency = depart - request[of(slot, R_ARRIVE)]
                    v[DEPART] = max(v[DEPART], depart)
                    v[LATENCY_SUM] += latency
                    v[LATENCY_MAX] = max(v[LATENCY_MAX], latency)
                    histogram[u(min(latency, HISTOGRAM - 1))] += 1
                    v[SERVED_READS] += 1
                    if keep:
                        log_latency[u(request[of(slot, R_INDEX)])] = latency
                else:
                    v[SERVED_WRITES] += 1
                    v[LAST_WRITE] = now
                if lpddr and c[17] == 1:
                    v[EXPIRY] = max(v[EXPIRY], now + (c[18] if q == 0 else c[19]))
                free_slots[u(v[FREE])] = slot
                v[FREE] += 1
                v[LIVE] -= 1
                v[PROGRESS] = now
                stale_column, stale_open, stale_close = True, True, True
                touched_column, touched_row = -1, -1
            v[NOW] = now
            if looked:
                key_column, best_column, arrive_column = key, slot, request[of(slot, R_ARRIVE)]
                stale_column, touched_column = False, -1

        # ---- when can anything happen next?
        if issued or dirty_active or v[OPENING] >= 0 or v[LOCK] >= 0:
            event = now + 1
        else:
            event = key_active if key_active > now else now + 1
            if v[PRIORITY_COUNT] > 0:
                event = min(event, key_priority)
            else:
                gate_column = max(key_column, ready[u(channel_base + _RD + v[MODE])])
                gate_open = max(key_open, ready[u(channel_base + _ACT)])
                gate_close = max(key_close, ready[u(channel_base + _PREPB)])
                event = min(event, min(gate_column, min(gate_open, gate_close)))
                if stale_column or stale_open or stale_close or touched_column >= 0 or touched_row >= 0:
                    event = now + 1
                if enter_write <= leave_write:
                    event = now + 1
            event = min(event, min(timer, policy_event))
            event = max(event, now + 1)
    v[NOW] = now
    return status
