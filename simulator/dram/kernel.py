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
from numba import njit

from simulator.dram.bank_lists import apply, close_bank, filter_slot, first, lowest, mark, open_bank, unlink
from simulator.dram.state import (
    ACCEPTED,
    ACTIVE,
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
    PEAK_READS,
    PEND_COUNT,
    PEND_HEAD,
    PRIORITY_COUNT,
    PRIORITY_HEAD,
    PROGRESS,
    READ_HITS,
    READS,
    SERVED_READS,
    SERVED_WRITES,
    STUCK,
    SUM_PRIORITY,
    SUM_READS,
    WRITES,
)  # fmt: skip

__all__ = ["run"]

_ACT, _ACT2, _PREPB, _PREAB, _RD, _WR, _RDA, _WRA, _REFAB, _REFPB, _REFSB, _CASRD, _CASWR, _PRESB = range(14)
_FROM_ACTIVE, _FROM_PRIORITY, _FROM_QUEUE, _OPENING = 0, 1, 2, 3
_FEW = 6


# The kernel allocates nothing and keeps no array, so it does without numba's reference counts: they are atomic
# operations, and took nine tenths of the time.
_kernel = njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]


@_kernel
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
    # The arrays by name.
    ready = s.ready
    history = s.history
    slot_row = s.slot_row
    slot_bank = s.slot_bank
    slot_arrive = s.slot_arrive
    slot_index = s.slot_index
    slot_type = s.slot_type
    slot_address = s.slot_address
    slot_next = s.slot_next
    slot_prev = s.slot_prev
    slot_counted = s.slot_counted
    free_slots = s.free_slots
    bank_state = s.bank_state
    bank_row = s.bank_row
    bank_active = s.bank_active
    bank_columns = s.bank_columns
    bank_injected = s.bank_injected
    bank_last = s.bank_last
    first_waiting = s.first_waiting
    last_waiting = s.last_waiting
    oldest_hit = s.oldest_hit
    oldest_other = s.oldest_other
    hit_banks = s.hit_banks
    other_banks = s.other_banks
    closed_banks = s.closed_banks
    open_banks = s.open_banks
    idle_banks = s.idle_banks
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
    bank_group = p.bank_group
    bank_scope = p.bank_scope
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
        timer = min(timer, timer_next[i])
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
                    arrival = max(arrival, chunk_arrival[v[NEXT]])
                if outstanding > 0:
                    while v[PEND_COUNT] > 0 and in_flight[v[PEND_HEAD]] <= arrival:
                        v[PEND_HEAD] = (v[PEND_HEAD] + 1) % in_flight.size
                        v[PEND_COUNT] -= 1
                        v[OUTSTANDING] -= 1
                    if v[OUTSTANDING] >= outstanding:
                        arrival = max(arrival, in_flight[v[PEND_HEAD]]) if v[PEND_COUNT] > 0 else INF
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
            b = chunk_bank[i]
            transaction = chunk_transaction[i]
            write = chunk_write[i]
            queued = -1
            if written[filter_slot(transaction)] > 0:
                queued = first_waiting[banks + b]
                while queued >= 0 and slot_address[queued] != transaction:
                    queued = slot_next[queued]
            while v[PEND_COUNT] > 0 and in_flight[v[PEND_HEAD]] <= arrival:
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
                        log_latency[first_index + i] = 1
                    if outstanding > 0:
                        v[OUTSTANDING] += 1
                        in_flight[(v[PEND_HEAD] + v[PEND_COUNT]) % in_flight.size] = v[DEPART]
                        v[PEND_COUNT] += 1
            elif v[READS + write] >= (write_queue if write == 1 else read_queue):
                blocked = True
                continue
            else:
                # Occupancy: ticks in a queue are the clock of leaving less the clock of entering.
                v[SUM_READS + write] -= arrival
                v[FREE] -= 1
                slot = free_slots[v[FREE]]
                row = chunk_row[i]
                slot_row[slot] = row
                slot_bank[slot] = b
                slot_arrive[slot] = arrival
                slot_index[slot] = first_index + i
                slot_type[slot] = write
                slot_address[slot] = transaction
                slot_counted[slot] = 0
                slot_next[slot] = -1
                place = write * banks + b
                last = last_waiting[place]
                slot_prev[slot] = last
                last_waiting[place] = slot
                if last >= 0:
                    slot_next[last] = slot
                else:
                    first_waiting[place] = slot
                v[READS + write] += 1
                v[LIVE] += 1
                if v[READS + write] > v[PEAK_READS + write]:
                    v[PEAK_READS + write] = v[READS + write]
                if outstanding > 0:
                    v[OUTSTANDING] += 1
                if write == 1:
                    written[filter_slot(transaction)] += 1
                # The new request may become its bank's oldest hit or oldest other; only then can it matter.
                state = bank_state[b]
                command = -1
                if state == 1 and bank_row[b] == row:
                    if oldest_hit[place] < 0:
                        oldest_hit[place] = slot
                        mark(hit_banks, write * words, b, True)
                        command = _RD + write
                elif oldest_other[place] < 0:
                    oldest_other[place] = slot
                    mark(other_banks, write * words, b, True)
                    if state == 0:
                        command = _ACT
                    elif state == 1:
                        command = _PREPB
                if command >= 0 and v[MODE] == write:
                    allowed = True
                    if command == _PREPB:
                        allowed = bank_active[b] == 0 and not (rowhit == 1 and oldest_hit[place] >= 0)
                    elif command == _ACT:
                        allowed = not (lpddr and v[OPENING] >= 0)
                    if allowed:
                        key = max(
                            ready[command * groups + bank_group[b]], ready[bank_base + command * banks + b]
                        )
                        key = max(key, arrival + 1)
                        if half:
                            if command != _PREPB:
                                key |= 1
                            elif key == v[PAIR_TICK] and bank_scope[b] == v[PAIR_SCOPE]:
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
                log_accept[first_index + i] = arrival
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
                        allowed_tick = max(allowed_tick, paired_allowed[pc * c[29] + v[PAIRED_SID]])
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
                    priority_command[tail] = _REFPB
                    priority_object[tail] = which * c[30] + v[PAIRED_FLAT]
                    v[PRIORITY_COUNT] += 1
                    v[PAIRED_PENDING] -= 1
                    paired_count[which] += 1
                    if paired_count[which] == c[30]:
                        paired_count[which] = 0
                        paired_allowed[which] = now + c[27]
                timer = now + 1 if v[PAIRED_PENDING] > 0 else max(v[PAIRED_NEXT], now + 1)
            else:
                timer = INF
                for i in range(timer_next.size):
                    if timer_next[i] == now:
                        if v[PRIORITY_COUNT] >= priority_queue:
                            status = OVERFLOW
                            break
                        tail = (v[PRIORITY_HEAD] + v[PRIORITY_COUNT]) % priority_queue
                        priority_command[tail] = timer_command[i]
                        priority_object[tail] = timer_object[timer_start[i] + timer_turn[i]]
                        v[PRIORITY_COUNT] += 1
                        timer_next[i] += timer_period[i]
                        timer_turn[i] += 1
                        if timer_start[i] + timer_turn[i] == timer_start[i + 1]:
                            timer_turn[i] = 0
                    timer = min(timer, timer_next[i])
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
                        bank_columns[b] >= cap
                        and bank_injected[b] == 0
                        and v[PRIORITY_COUNT] < priority_queue
                    ):
                        key = max(
                            ready[_PREPB * groups + bank_group[b]], ready[bank_base + _PREPB * banks + b]
                        )
                        if key <= now:
                            tail = (v[PRIORITY_HEAD] + v[PRIORITY_COUNT]) % priority_queue
                            priority_command[tail] = _PREPB
                            priority_object[tail] = b
                            v[PRIORITY_COUNT] += 1
                            bank_injected[b] = 1
                            v[DUE] -= 1
            elif policy == 3:
                for b in range(banks):
                    idle = oldest_hit[b] < 0 and oldest_hit[banks + b] < 0 and bank_active[b] == 0
                    if bank_state[b] == 1 and bank_injected[b] == 0 and idle:
                        key = max(
                            ready[_PREPB * groups + bank_group[b]], ready[bank_base + _PREPB * banks + b]
                        )
                        if max(key, bank_last[b] + timeout) <= now and v[PRIORITY_COUNT] < priority_queue:
                            tail = (v[PRIORITY_HEAD] + v[PRIORITY_COUNT]) % priority_queue
                            priority_command[tail] = _PREPB
                            priority_object[tail] = b
                            v[PRIORITY_COUNT] += 1
                            bank_injected[b] = 1
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
                b = slot_bank[slot]
                key = max(ready[command * groups + bank_group[b]], ready[bank_base + command * banks + b])
                if key > now:
                    continue
            elif v[OPENING] >= 0 and v[DEADLINE] <= now:
                slot, source, command = v[OPENING], _OPENING, _ACT2
            else:
                if bus == 0:
                    if dirty_active or key_active < now:
                        dirty_active, reopening = False, False
                        key_active, best_active, arrive_active = INF, -1, 0
                        for j in range(v[ACTIVE]):
                            candidate = actives[j]
                            b = slot_bank[candidate]
                            state = bank_state[b]
                            if state != 1 or bank_row[b] != slot_row[candidate]:
                                # An auto-precharge closed the row under it.
                                reopening = True
                            if state == 1:
                                if bank_row[b] == slot_row[candidate]:
                                    command = _RD + slot_type[candidate]
                                else:
                                    command = _PREPB
                                    if rowhit == 1:
                                        older = False
                                        for k in range(v[ACTIVE]):
                                            rival = actives[k]
                                            if (
                                                slot_bank[rival] == b
                                                and slot_row[rival] == bank_row[b]
                                                and slot_arrive[rival] <= slot_arrive[candidate]
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
                            key = max(
                                ready[command * groups + bank_group[b]],
                                ready[bank_base + command * banks + b],
                            )
                            key = max(key, now)
                            if half:
                                key |= 1
                            arrive = slot_arrive[candidate]
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
                            wanted = priority_command[v[PRIORITY_HEAD]]
                            target = priority_object[v[PRIORITY_HEAD]]
                            eligible = True
                            if target < banks:
                                command_priority = wanted
                                if wanted != _PREPB and bank_state[target] != 0:
                                    command_priority = _PREPB
                                if command_priority == _PREPB and bank_active[target] > 0:
                                    eligible = False
                                if bank_state[target] == 2:
                                    eligible = False
                                key = max(
                                    ready[command_priority * groups + bank_group[target]],
                                    ready[bank_base + command_priority * banks + target],
                                )
                                scope = bank_scope[target]
                                only = target
                            else:
                                k = target - banks
                                any_open, any_active, opening = False, False, False
                                for j in range(object_start[k], object_start[k + 1]):
                                    b = object_banks[j]
                                    any_open |= bank_state[b] != 0
                                    any_active |= bank_active[b] > 0
                                    opening |= bank_state[b] == 2
                                command_priority = wanted
                                if any_open:
                                    command_priority = _PREAB if wanted == _REFAB else _PRESB
                                    eligible = not any_active
                                eligible = eligible and not opening
                                key = ready[object_base + command_priority * others + k]
                                scope = bank_scope[object_banks[object_start[k]]]
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
                            target = priority_object[v[PRIORITY_HEAD]]
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
                    # A best that could have gone before now may have lost to an older request since.
                    stale_column |= key_column < now
                    stale_open |= key_open < now
                    stale_close |= key_close < now
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
                    at = q * words
                    for w in range(words):
                        one_column, one_row = np.int64(0), np.int64(0)
                        if again_column >> 6 == w:
                            one_column = np.int64(1) << (again_column & 63)
                        if again_row >> 6 == w:
                            one_row = np.int64(1) << (again_row & 63)
                        if look_column:
                            rest = hit_banks[at + w] & (-1 if scan_column else one_column)
                            while rest != 0:
                                b = lowest(rest) + (w << 6)
                                rest &= rest - 1
                                key = max(
                                    ready[column * groups + bank_group[b]],
                                    ready[bank_base + column * banks + b],
                                )
                                key = max(key, now)
                                if half:
                                    key |= 1
                                hit = oldest_hit[q * banks + b]
                                arrive = slot_arrive[hit]
                                if key < key_column or (key == key_column and arrive < arrive_column):
                                    key_column, best_column, arrive_column = key, hit, arrive
                        if look_rows:
                            others_here = other_banks[at + w]
                            rest = others_here & closed_banks[w] & (-1 if scan_open else one_row)
                            if lpddr and v[OPENING] >= 0:
                                rest = np.int64(0)
                            while rest != 0:
                                b = lowest(rest) + (w << 6)
                                rest &= rest - 1
                                key = max(
                                    ready[_ACT * groups + bank_group[b]], ready[bank_base + _ACT * banks + b]
                                )
                                key = max(key, now)
                                if half:
                                    key |= 1
                                candidate = oldest_other[q * banks + b]
                                arrive = slot_arrive[candidate]
                                if key < key_open or (key == key_open and arrive < arrive_open):
                                    key_open, best_open, arrive_open = key, candidate, arrive
                            rest = (
                                others_here & open_banks[w] & idle_banks[w] & (-1 if scan_close else one_row)
                            )
                            while rest != 0:
                                b = lowest(rest) + (w << 6)
                                rest &= rest - 1
                                candidate = oldest_other[q * banks + b]
                                arrive = slot_arrive[candidate]
                                if rowhit == 1:
                                    hit = oldest_hit[q * banks + b]
                                    if hit >= 0 and slot_arrive[hit] <= arrive:
                                        continue
                                key = max(
                                    ready[_PREPB * groups + bank_group[b]],
                                    ready[bank_base + _PREPB * banks + b],
                                )
                                key = max(key, now)
                                if half and key == v[PAIR_TICK] and bank_scope[b] == v[PAIR_SCOPE]:
                                    if v[PAIR_BANK] < 0 or v[PAIR_BANK] == b:
                                        key += 1
                                if key < key_close or (key == key_close and arrive < arrive_close):
                                    key_close, best_close, arrive_close = key, candidate, arrive
                    # Ready now, and of those the oldest.
                    oldest = INF
                    if look_column and key_column <= now:
                        slot, source, command, oldest = best_column, _FROM_QUEUE, column, arrive_column
                    if look_rows:
                        if key_open <= now and arrive_open < oldest:
                            slot, source, command, oldest = best_open, _FROM_QUEUE, _ACT, arrive_open
                        if key_close <= now and arrive_close < oldest:
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
                            b = slot_bank[slot]
                            key = max(ready[cas * groups + bank_group[b]], ready[bank_base + cas * banks + b])
                            if key <= now:
                                v[LOCK], v[LOCK_FROM], v[LOCK_CMD] = slot, source, command
                                if logging:
                                    k = log_used[0]
                                    log_tick[k], log_command[k], log_target[k] = now, cas, b
                                    log_transaction[k], log_row[k] = slot_address[slot], slot_row[slot]
                                    log_used[0] = k + 1
                                counts[cas] += 1
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
                target = slot_bank[slot]
                b = target
                if (command == _RD or command == _WR) and not locked and autoprecharge == 1:
                    upgrade = policy == 1 and bank_columns[b] >= cap
                    if policy == 2:
                        waiting = 0
                        for q in range(2):
                            other = oldest_hit[q * banks + b]
                            if other == slot:
                                other = first(slot_next[slot], bank_row[b], True, slot_row, slot_next)
                            waiting += other >= 0
                        mine = 1 if source == _FROM_ACTIVE else 0
                        upgrade = waiting == 0 and bank_active[b] == mine
                    if upgrade:
                        ahead = command + 2
                        key = max(ready[ahead * groups + bank_group[b]], ready[bank_base + ahead * banks + b])
                        if key <= now:
                            command = ahead
                write = slot_type[slot]
                if slot_counted[slot] == 0:
                    slot_counted[slot] = 1
                    if bank_state[b] != 1:
                        v[MISSES] += 1
                        bank_outcome[3 * b + 1] += 1
                    elif bank_row[b] == slot_row[slot]:
                        v[HITS] += 1
                        v[READ_HITS + write] += 1
                        bank_outcome[3 * b] += 1
                    else:
                        v[CONFLICTS] += 1
                        bank_outcome[3 * b + 2] += 1
            apply(
                update_start, update_index, update_ticks, window_start, window_rule,
                window_index, ready, history, target, command, now,
            )  # fmt: skip
            counts[command] += 1
            if logging:
                k = log_used[0]
                log_tick[k], log_command[k], log_target[k] = now, command, target
                log_transaction[k] = slot_address[slot] if slot >= 0 else -1
                log_row[k] = slot_row[slot] if slot >= 0 else -1
                log_used[0] = k + 1
            if half and bus == 1 and (now & 1) == 1:
                v[PAIR_TICK] = now + (3 if command == _ACT else 1)
                if target < banks:
                    v[PAIR_SCOPE], v[PAIR_BANK] = bank_scope[target], target
                else:
                    v[PAIR_SCOPE] = bank_scope[object_banks[object_start[target - banks]]]
                    v[PAIR_BANK] = -1
            issued = True
            blocked = False
            if slot >= 0:
                v[PROGRESS] = now
            elif v[LIVE] > 0 and now - v[PROGRESS] > PATIENCE:
                status = STUCK
            dirty_priority = True
            reach = affects[command]
            # The active requests wait for column commands; only what moves those, or their banks, matters.
            dirty_active |= (reach & 1) != 0 or source == _FROM_ACTIVE or target >= banks or reopening
            # A few are sooner looked through than kept.
            dirty_active |= v[ACTIVE] < _FEW
            dirty_active |= source == _OPENING or (target < banks and bank_active[target] > 0)
            stale_column |= (reach & 1) != 0
            stale_open |= (reach & 2) != 0
            stale_close |= (reach & 4) != 0
            if target >= banks or (touched_column >= 0 and touched_column != target):
                stale_column = True
            elif best_column >= 0 and slot_bank[best_column] == target:
                stale_column = True
            if target >= banks or (touched_row >= 0 and touched_row != target):
                stale_open, stale_close = True, True
            else:
                stale_open |= best_open >= 0 and slot_bank[best_open] == target
                stale_close |= best_close >= 0 and slot_bank[best_close] == target
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
                        if actives[j] == slot:
                            v[ACTIVE] -= 1
                            actives[j] = actives[v[ACTIVE]]
                            break
                    bank_active[b] -= 1
                    mark(idle_banks, 0, b, bank_active[b] == 0)
                else:
                    unlink(
                        v, slot_row, slot_bank, slot_address, slot_next, slot_prev,
                        bank_state, bank_row, first_waiting, last_waiting, oldest_hit,
                        oldest_other, hit_banks, other_banks, written, write, slot,
                        banks, now,
                    )  # fmt: skip
                bank_last[b] = now
                if command == _RDA or command == _WRA:
                    close_bank(
                        v, bank_state, bank_columns, bank_injected, first_waiting,
                        oldest_hit, oldest_other, hit_banks, other_banks,
                        closed_banks, open_banks, scope_open, scope_since,
                        scope_active, b, banks, bank_scope[b], now, cap, policy,
                    )  # fmt: skip
                else:
                    bank_columns[b] += 1
                    if policy == 1 and bank_columns[b] == cap and bank_injected[b] == 0:
                        v[DUE] += 1
                if write == 0:
                    depart = now + read_latency
                    latency = depart - slot_arrive[slot]
                    v[DEPART] = max(v[DEPART], depart)
                    v[LATENCY_SUM] += latency
                    v[LATENCY_MAX] = max(v[LATENCY_MAX], latency)
                    histogram[min(latency, HISTOGRAM - 1)] += 1
                    v[SERVED_READS] += 1
                    if keep:
                        log_latency[slot_index[slot]] = latency
                    if outstanding > 0:
                        in_flight[(v[PEND_HEAD] + v[PEND_COUNT]) % in_flight.size] = v[DEPART]
                        v[PEND_COUNT] += 1
                else:
                    v[SERVED_WRITES] += 1
                    v[LAST_WRITE] = now
                    if outstanding > 0:
                        v[OUTSTANDING] -= 1
                free_slots[v[FREE]] = slot
                v[FREE] += 1
                v[LIVE] -= 1
                v[LOCK] = -1
                if lpddr and c[17] == 1:
                    expiry = now + (c[18] if write == 0 else c[19])
                    v[EXPIRY] = max(v[EXPIRY], expiry)
            elif command == _ACT:
                scope_open[bank_scope[b]] += 1
                if scope_open[bank_scope[b]] == 1:
                    scope_since[bank_scope[b]] = now
                bank_last[b] = now
                if c[15] == 1:
                    # Split activation: the request waits for its second half in a place of its own.
                    if source == _FROM_QUEUE:
                        unlink(
                            v, slot_row, slot_bank, slot_address, slot_next,
                            slot_prev, bank_state, bank_row, first_waiting,
                            last_waiting, oldest_hit, oldest_other, hit_banks,
                            other_banks, written, write, slot, banks, now,
                        )  # fmt: skip
                    else:
                        for j in range(v[ACTIVE]):
                            if actives[j] == slot:
                                v[ACTIVE] -= 1
                                actives[j] = actives[v[ACTIVE]]
                                break
                    bank_state[b] = 2
                    mark(closed_banks, 0, b, False)
                    v[OPENING] = slot
                    v[DEADLINE] = now + c[16]
                elif v[ACTIVE] < banks:
                    if source == _FROM_QUEUE:
                        unlink(
                            v, slot_row, slot_bank, slot_address, slot_next,
                            slot_prev, bank_state, bank_row, first_waiting,
                            last_waiting, oldest_hit, oldest_other, hit_banks,
                            other_banks, written, write, slot, banks, now,
                        )  # fmt: skip
                        actives[v[ACTIVE]] = slot
                        v[ACTIVE] += 1
                        if not dirty_active:
                            column = _RD + slot_type[slot]
                            key = max(
                                ready[column * groups + bank_group[b]], ready[bank_base + column * banks + b]
                            )
                            key = max(key, now + 1)
                            if half:
                                key |= 1
                            if key < key_active or (key == key_active and slot_arrive[slot] < arrive_active):
                                key_active, best_active, command_active = key, slot, column
                                arrive_active = slot_arrive[slot]
                    bank_active[b] += 1
                    mark(idle_banks, 0, b, False)
                    open_bank(
                        slot_row, slot_next, bank_state, bank_row, first_waiting,
                        oldest_hit, oldest_other, hit_banks, other_banks,
                        closed_banks, open_banks, b, slot_row[slot], banks,
                    )  # fmt: skip
                else:
                    open_bank(
                        slot_row, slot_next, bank_state, bank_row, first_waiting,
                        oldest_hit, oldest_other, hit_banks, other_banks,
                        closed_banks, open_banks, b, slot_row[slot], banks,
                    )  # fmt: skip
            elif command == _ACT2:
                open_bank(
                    slot_row, slot_next, bank_state, bank_row, first_waiting, oldest_hit,
                    oldest_other, hit_banks, other_banks, closed_banks, open_banks, b,
                    slot_row[slot], banks,
                )  # fmt: skip
                actives[v[ACTIVE]] = slot
                v[ACTIVE] += 1
                bank_active[b] += 1
                mark(idle_banks, 0, b, False)
                v[OPENING] = -1
            elif command == _PREPB:
                close_bank(
                    v, bank_state, bank_columns, bank_injected, first_waiting, oldest_hit,
                    oldest_other, hit_banks, other_banks, closed_banks, open_banks,
                    scope_open, scope_since, scope_active, target, banks,
                    bank_scope[target], now, cap, policy,
                )  # fmt: skip
            elif command == _PREAB or command == _PRESB:
                k = target - banks
                for j in range(object_start[k], object_start[k + 1]):
                    b = object_banks[j]
                    close_bank(
                        v, bank_state, bank_columns, bank_injected, first_waiting,
                        oldest_hit, oldest_other, hit_banks, other_banks,
                        closed_banks, open_banks, scope_open, scope_since,
                        scope_active, b, banks, bank_scope[b], now, cap, policy,
                    )  # fmt: skip
            if source == _FROM_PRIORITY and command == priority_command[v[PRIORITY_HEAD]]:
                v[PRIORITY_HEAD] = (v[PRIORITY_HEAD] + 1) % priority_queue
                v[PRIORITY_COUNT] -= 1
                v[SUM_PRIORITY] += now

        v[NOW] = now
        if status == STUCK:
            break
        if policy == 1 and v[DUE] > 0:
            policy_event = INF
            for b in range(banks):
                if bank_columns[b] >= cap and bank_injected[b] == 0:
                    key = max(ready[_PREPB * groups + bank_group[b]], ready[bank_base + _PREPB * banks + b])
                    policy_event = min(policy_event, max(key, now + 1))
        elif policy == 3:
            policy_event = INF
            for b in range(banks):
                idle = oldest_hit[b] < 0 and oldest_hit[banks + b] < 0 and bank_active[b] == 0
                if bank_state[b] == 1 and bank_injected[b] == 0 and idle:
                    key = max(ready[_PREPB * groups + bank_group[b]], ready[bank_base + _PREPB * banks + b])
                    policy_event = min(policy_event, max(max(key, bank_last[b] + timeout), now + 1))
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
            base = q * words
            rows_wanted = np.int64(0)
            for w in range(words):
                rows_wanted |= other_banks[base + w]
            calm = rows_wanted == 0 and (q == 1 or v[WRITES] < enter_write)
            column = _RD + q
            capacity = write_queue if q == 1 else read_queue
            while calm:
                # The queue must not run so low that reading or writing ends.
                if v[READS + q] < 2 or (q == 1 and v[READS] > 0 and v[WRITES] - 1 <= leave_write):
                    break
                key, slot, oldest = INF, -1, INF
                for w in range(words):
                    rest = hit_banks[base + w]
                    while rest != 0:
                        b = lowest(rest) + (w << 6)
                        rest &= rest - 1
                        legal = max(
                            ready[column * groups + bank_group[b]], ready[bank_base + column * banks + b]
                        )
                        legal = max(legal, now + 1)
                        if half:
                            legal |= 1
                        hit = oldest_hit[q * banks + b]
                        arrive = slot_arrive[hit]
                        if legal < key or (legal == key and arrive < oldest):
                            key, slot, oldest = legal, hit, arrive
                # Requests that come before it join, as long as they are row hits of the same kind.
                while True:
                    if v[NEXT] >= n:
                        calm = final
                        break
                    arrival = max(v[OFFER], now)
                    if arrival >= key:
                        break
                    i = v[NEXT]
                    b = chunk_bank[i]
                    row = chunk_row[i]
                    transaction = chunk_transaction[i]
                    if chunk_write[i] != q or written[filter_slot(transaction)] > 0:
                        calm = False
                        break
                    if v[READS + q] >= capacity:
                        break
                    if bank_state[b] != 1 or bank_row[b] != row or arrival >= until:
                        calm = False
                        break
                    v[SUM_READS + q] -= arrival
                    v[FREE] -= 1
                    fresh = free_slots[v[FREE]]
                    slot_row[fresh] = row
                    slot_bank[fresh] = b
                    slot_arrive[fresh] = arrival
                    slot_index[fresh] = first_index + i
                    slot_type[fresh] = q
                    slot_address[fresh] = transaction
                    slot_counted[fresh] = 0
                    slot_next[fresh] = -1
                    place = q * banks + b
                    last = last_waiting[place]
                    slot_prev[fresh] = last
                    last_waiting[place] = fresh
                    if last >= 0:
                        slot_next[last] = fresh
                    else:
                        first_waiting[place] = fresh
                        oldest_hit[place] = fresh
                        mark(hit_banks, base, b, True)
                        legal = max(
                            ready[column * groups + bank_group[b]], ready[bank_base + column * banks + b]
                        )
                        legal = max(legal, arrival + 1)
                        if half:
                            legal |= 1
                        if legal < key:
                            key, slot = legal, fresh
                    v[READS + q] += 1
                    v[LIVE] += 1
                    if v[READS + q] > v[PEAK_READS + q]:
                        v[PEAK_READS + q] = v[READS + q]
                    if q == 1:
                        written[filter_slot(transaction)] += 1
                    if keep:
                        log_accept[first_index + i] = arrival
                    v[LAST_ACCEPT] = arrival
                    # Every tick up to this clock has passed without a command.
                    now = arrival
                    v[OFFER] = arrival + step
                    v[NEXT] = i + 1
                    v[ACCEPTED] += 1
                if not calm or key >= timer or key > until:
                    break
                if lpddr and c[17] == 1 and key >= v[EXPIRY]:
                    break
                if logging and log_used[0] + 3 >= log_tick.size:
                    break
                now = key
                b = slot_bank[slot]
                if slot_counted[slot] == 0:
                    v[HITS] += 1
                    v[READ_HITS + q] += 1
                    bank_outcome[3 * b] += 1
                counts[column] += 1
                if logging:
                    k = log_used[0]
                    log_tick[k], log_command[k], log_target[k] = now, column, b
                    log_transaction[k], log_row[k] = slot_address[slot], slot_row[slot]
                    log_used[0] = k + 1
                apply(
                    update_start, update_index, update_ticks, window_start, window_rule,
                    window_index, ready, history, b, column, now,
                )  # fmt: skip
                unlink(
                    v, slot_row, slot_bank, slot_address, slot_next, slot_prev,
                    bank_state, bank_row, first_waiting, last_waiting, oldest_hit,
                    oldest_other, hit_banks, other_banks, written, q, slot, banks, now,
                )  # fmt: skip
                bank_last[b] = now
                bank_columns[b] += 1
                if q == 0:
                    depart = now + read_latency
                    latency = depart - slot_arrive[slot]
                    v[DEPART] = max(v[DEPART], depart)
                    v[LATENCY_SUM] += latency
                    v[LATENCY_MAX] = max(v[LATENCY_MAX], latency)
                    histogram[min(latency, HISTOGRAM - 1)] += 1
                    v[SERVED_READS] += 1
                    if keep:
                        log_latency[slot_index[slot]] = latency
                else:
                    v[SERVED_WRITES] += 1
                    v[LAST_WRITE] = now
                if lpddr and c[17] == 1:
                    v[EXPIRY] = max(v[EXPIRY], now + (c[18] if q == 0 else c[19]))
                free_slots[v[FREE]] = slot
                v[FREE] += 1
                v[LIVE] -= 1
                v[PROGRESS] = now
                stale_column, stale_open, stale_close = True, True, True
                touched_column, touched_row = -1, -1
            v[NOW] = now
            stale_column = True

        # ---- when can anything happen next?
        if issued or dirty_active or v[OPENING] >= 0 or v[LOCK] >= 0:
            event = now + 1
        else:
            event = key_active if key_active > now else now + 1
            if v[PRIORITY_COUNT] > 0:
                event = min(event, key_priority)
            else:
                event = min(event, min(key_column, min(key_open, key_close)))
                if stale_column or stale_open or stale_close or touched_column >= 0 or touched_row >= 0:
                    event = now + 1
                if enter_write <= leave_write:
                    event = now + 1
            event = min(event, min(timer, policy_event))
            event = max(event, now + 1)
    v[NOW] = now
    return status
