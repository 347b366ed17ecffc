"""The engine: one channel's controller and device, leaping from event to event.

The order of work in a tick is the reference controller's: the front end offers a request at clock c; then the
tick of clock c + 1 sends refreshes, lets the row policy act, and issues one command (HBM: one on each bus).
Between two events no queue, row or timing entry changes, so the kernel never visits those ticks: it keeps the
best candidate of the active requests and of the queue in use, each with the first tick at which it may go,
and looks again only after something has changed.

In all steps ``m`` is the channel (:class:`~simulator.dram.state.Machine`), ``v`` its controller and ``w`` the outlook,
``o`` what is offered. Rules: CMU-SAFARI Ramulator 2.1 (MIT licence), whose behaviour this engine reproduces command
by command; the code shares nothing with it.
"""

# A kernel reads as the specification does, rule by rule; its conditions stay apart on purpose.
# ruff: noqa: SIM102, SIM109, SIM114
# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"

from __future__ import annotations

import numpy as np
from numpy import uint64 as u

from hw_configs.compiled import compiled, inlined
from hw_configs.kernel_addresses import addresses_of
from simulator.dram.bank_lists import (
    apply,
    close_bank,
    enqueue,
    filter_slot,
    first,
    legal,
    mark,
    open_bank,
    unlink,
)  # fmt: skip
from simulator.dram.candidates import (
    beside_pair,
    consider,
    forget,
    look_at_active,
    look_at_priority,
    look_through,
    touch_all,
)  # fmt: skip
from simulator.dram.channel_tables import CAPPED, CLOSED, TIMEOUT
from simulator.dram.machine import ACT, ACT2, CAS_RD, PREAB, PREPB, PRESB, RD, RDA, WR, WRA
from simulator.dram.maintenance import (
    close_rows,
    first_timer,
    plan_row_policy,
    send_refreshes,
    wants_to_close,
)
from simulator.dram.state import (
    ACTIVATED,
    CLOSE,
    COLUMN,
    DONE,
    FROM_ACTIVE,
    FROM_OPENING,
    FROM_PRIORITY,
    FROM_QUEUE,
    FULL,
    HISTOGRAM,
    INF,
    M_CLOSED,
    M_IDLE,
    M_OTHER,
    NEED,
    OPEN,
    OVERFLOW,
    PATIENCE,
    PAUSED,
    STUCK,
)  # fmt: skip

__all__ = ["run"]


@compiled(_nrt=False)
def run(machine, o):
    """Run until the chunk is used up, the log is full, everything is served, or tick ``until`` has passed.

    Returns DONE, NEED (the next chunk), FULL (empty the log), PAUSED (``until`` reached), STUCK (a request can
    never go) or OVERFLOW (the refresh queue is full). Allocates nothing and keeps no array, so it does without
    numba's reference counts, which took nine tenths of its time.
    """
    m = addresses_of(machine)
    c, v, w = m.settings, m.controller[u(0)], m.outlook[u(0)]
    _look_ahead(m, v, w, o)
    now = v.now
    while True:
        # ---- the front end: when is the next request offered?
        if v.next >= o.chunk.transaction.size:
            if not o.final:
                status = NEED
                break
            if v.live == 0 and w.event > max(v.depart, max(v.last_write, v.last_accept + 1)):
                status = DONE
                break
        arrival = _next_offer(m, v, w, o, now)
        if arrival < w.event:
            if arrival >= o.until:
                status = PAUSED
                break
            if not _offer(m, v, w, o, arrival):
                continue
            now = arrival + 1
        elif w.event >= INF:
            now = w.event
            status = STUCK
            break
        elif w.event > o.until:
            now = v.now
            status = PAUSED
            break
        else:
            now = w.event
        if _log_is_full(o):
            # Come back to this very tick with an empty log.
            now = now - 1
            status = FULL
            break

        # ---- the tick of clock `now`: refresh first, then the row policy
        if now >= w.timer:
            if not send_refreshes(c, v, w, m.upkeep, now):
                status = OVERFLOW
                break
        if now >= w.policy_event:
            w.policy_event = INF
            if wants_to_close(c, v):
                close_rows(c, v, w, m.timing, m.queues, m.upkeep, now)

        # ---- then at most one command per command bus
        w.issued = False
        stuck = False
        for bus in range(1 + c.hbm):
            if c.half == 1 and bus == 0 and (now & 1) == 0:
                continue
            if _choose(m, v, w, o, bus, now):
                _issue(m, v, w, o, bus, now)
                stuck |= w.slot < 0 and v.live > 0 and now - v.progress > PATIENCE
        v.now = now
        if stuck:
            status = STUCK
            break
        if wants_to_close(c, v):
            plan_row_policy(c, v, w, m.timing, m.queues, now)
        if w.issued and _only_hits_can_go(m, v, o):
            now = _stream_hits(m, v, w, o, now)
            v.now = now
        w.event = _next_event(m, v, w, now)
    v.now = now
    return status


@inlined
def _look_ahead(m, v, w, o):
    """Nothing is known yet of the ticks to come."""
    q = m.queues
    touch_all(q)
    q.best[u(ACTIVATED)].stale = True
    for kind in range(ACTIVATED + 1):
        forget(q.best[u(kind)])
    w.reopening = False
    w.active_command = 0
    w.priority_dirty = True
    w.priority_key = INF
    w.priority_command = 0
    w.touched_column = -1
    w.touched_row = -1
    w.blocked = False
    w.event = v.now + 1
    w.timer = first_timer(m.settings, v, m.upkeep, v.now)
    w.policy_event = v.now + 1 if m.settings.policy == CAPPED or m.settings.policy == TIMEOUT else INF
    w.first_index = v.accepted - v.next
    w.step = o.gap if o.gap > 1 else 1


# ---- the front end


@inlined
def _land(v, q, o, clock):
    """Closed loop: requests whose data have come by a clock are no longer outstanding."""
    while v.flight_count > 0 and q.in_flight[u(v.flight_head)] <= clock:
        v.flight_head = (v.flight_head + 1) % (o.outstanding + 1)
        v.flight_count -= 1
        v.outstanding -= 1


@inlined
def _take_off(v, q, o, depart):
    """Closed loop: the data of a request come at ``depart``."""
    q.in_flight[u((v.flight_head + v.flight_count) % (o.outstanding + 1))] = depart
    v.flight_count += 1


@inlined
def _next_offer(m, v, w, o, now):
    """The clock at which the next request is offered; INF: not before something else happens."""
    q = m.queues
    if w.blocked or v.next >= o.chunk.transaction.size:
        return INF
    arrival = max(v.offer, now)
    if o.chunk.arrival.size > 0:
        arrival = max(arrival, o.chunk.arrival[u(v.next)])
    if o.outstanding > 0:
        _land(v, q, o, arrival)
        if v.outstanding >= o.outstanding:
            arrival = max(arrival, q.in_flight[u(v.flight_head)]) if v.flight_count > 0 else INF
    return arrival


@inlined
def _offer(m, v, w, o, arrival):
    """The front end offers a request. False: its queue is full, and it waits for a command to go."""
    c, q = m.settings, m.queues
    i = v.next
    write = np.int64(o.chunk.write[u(i)])
    _land(v, q, o, arrival)
    if _is_queued_write(q, o, i):
        _merge(m, v, w, o, write, arrival)
    elif v.waiting[u(write)] >= (c.write_queue if write == 1 else c.read_queue):
        w.blocked = True
        return False
    else:
        if o.outstanding > 0:
            v.outstanding += 1
        slot, became = _enqueue_offered(v, w, q, o, write, arrival)
        if became > 0 and v.mode == write:
            _consider_new(m, v, slot, became, arrival)
    _note_accepted(v, w, o, arrival)
    return True


@inlined
def _is_queued_write(q, o, i):
    """Whether a queued write holds the data of the i-th request of the chunk."""
    transaction = o.chunk.transaction[u(i)]
    if q.written[u(filter_slot(transaction))] == 0:
        return False
    queued = q.bank[u(np.int64(o.chunk.bank[u(i)]))].first[u(1)]
    while queued >= 0 and q.request[u(queued)].address != transaction:
        queued = q.request[u(queued)].following
    return queued >= 0


@inlined
def _merge(m, v, w, o, write, arrival):
    """A queued write takes up a later one, and gives its data to a read in one tick."""
    if write == 1:
        v.coalesced += 1
    else:
        v.forwarded += 1
        v.depart = max(v.depart, arrival + 1)
        _note_latency(m, v, o, 1, w.first_index + v.next)
        if o.outstanding > 0:
            v.outstanding += 1
            _take_off(v, m.queues, o, v.depart)


@inlined
def _enqueue_offered(v, w, q, o, write, arrival):
    """Put the offered request into its queue; see ``enqueue``."""
    i = u(v.next)
    b, row = np.int64(o.chunk.bank[i]), np.int64(o.chunk.row[i])
    return enqueue(v, q, b, row, o.chunk.transaction[i], write, arrival, w.first_index + v.next)


@inlined
def _note_accepted(v, w, o, arrival):
    if o.log.accept.size > 0:
        o.log.accept[u(w.first_index + v.next)] = arrival
    v.last_accept = arrival
    v.progress = arrival
    v.offer = arrival + w.step
    v.next += 1
    v.accepted += 1


@inlined
def _consider_new(m, v, slot, became, arrival):
    """A new request may be the best of its kind, if it is its bank's oldest hit or oldest other one."""
    c, q = m.settings, m.queues
    b = q.request[u(slot)].bank
    bank = q.bank[u(b)]
    mode = v.mode
    kind, command = COLUMN, RD + mode
    if became == 2:
        if bank.state == 0 and not (c.lpddr == 1 and v.opening >= 0):
            kind, command = OPEN, ACT
        elif bank.state == 1 and bank.active == 0 and not (c.rowhit == 1 and bank.hit[u(mode)] >= 0):
            kind, command = CLOSE, PREPB
        else:
            return
    key = max(legal(c, m.timing, command, b), arrival + 1)
    if kind == CLOSE:
        key = beside_pair(c, v, key, bank.scope, b)
    else:
        key |= c.half
    # The newest request wins only by being ready earlier.
    if key < q.best[u(kind)].key:
        consider(q.best[u(kind)], key, slot, arrival)


# ---- the choice of a command


@inlined
def _choose(m, v, w, o, bus, now):
    """Choose the command of this tick on a bus: ``w.command`` for request ``w.slot``, or at ``w.target``."""
    c, q = m.settings, m.queues
    w.source, w.slot, w.command, w.target = -1, -1, 0, -1
    if v.lock >= 0:
        # LPDDR5: the clock is in step; the access that asked for it follows.
        w.slot, w.source, w.command = v.lock, v.lock_from, v.lock_command
        return legal(c, m.timing, w.command, q.request[u(w.slot)].bank) <= now
    if v.opening >= 0 and v.deadline <= now:
        w.slot, w.source, w.command = v.opening, FROM_OPENING, ACT2
        return True
    if bus == 0:
        best = q.best[u(ACTIVATED)]
        if best.stale or best.key < now:
            look_at_active(m, v, w, now)
        if best.key <= now:
            w.slot, w.source, w.command = best.slot, FROM_ACTIVE, w.active_command
    if w.source < 0:
        if v.priority_count > 0:
            if c.hbm == 0 or bus == 1:
                if w.priority_dirty:
                    look_at_priority(m, v, w, now)
                if w.priority_key <= now:
                    w.source, w.command = FROM_PRIORITY, w.priority_command
                    w.target = w.priority_target
        else:
            _choose_mode(c, v, q)
            _look_at_queue(m, v, w, c.hbm == 0 or bus == 0, c.hbm == 0 or bus == 1, now)
    if c.lpddr == 1:
        return _keep_clock(m, v, w, o, now)
    return w.source >= 0


@inlined
def _choose_mode(c, v, q):
    """Reads go first until writes are many or nothing else is there; then writes, until they are few."""
    reads, writes = v.waiting[u(0)], v.waiting[u(1)]
    if v.mode == 0:
        if writes >= c.enter_write or reads == 0:
            v.mode = 1
            touch_all(q)
    elif writes <= c.leave_write and reads != 0:
        v.mode = 0
        touch_all(q)


@inlined
def _look_at_queue(m, v, w, columns, rows, now):
    """Choose among column commands (``columns``) and row commands (``rows``) for the queue in use.

    A kind is looked through when it is stale; otherwise a bank that a command touched is put in again.
    """
    c, t, q = m.settings, m.timing, m.queues
    # A key may have been made before the whole channel was made to wait; that comes on top.
    gate_column = t.ready[u(c.channel_base + RD + v.mode)]
    gate_open = t.ready[u(c.channel_base + ACT)] | c.half
    gate_close = t.ready[u(c.channel_base + PREPB)]
    oldest = INF
    if columns:
        best = q.best[u(COLUMN)]
        _refresh_kind(m, v, COLUMN, gate_column, w.touched_column, now)
        w.touched_column = -1
        if max(best.key, gate_column) <= now:
            w.slot, w.source, w.command, oldest = best.slot, FROM_QUEUE, RD + v.mode, best.arrive
    else:
        q.best[u(COLUMN)].stale |= q.best[u(COLUMN)].key < now and gate_column <= now
    if rows:
        best = q.best[u(OPEN)]
        if c.lpddr == 1 and v.opening >= 0:
            if best.stale or (best.key < now and t.ready[u(c.channel_base + ACT)] <= now):
                forget(best)
                best.stale = False
        else:
            _refresh_kind(m, v, OPEN, t.ready[u(c.channel_base + ACT)], w.touched_row, now)
        if max(best.key, gate_open) <= now and best.arrive < oldest:
            w.slot, w.source, w.command, oldest = best.slot, FROM_QUEUE, ACT, best.arrive
        best = q.best[u(CLOSE)]
        _refresh_kind(m, v, CLOSE, gate_close, w.touched_row, now)
        w.touched_row = -1
        if max(best.key, gate_close) <= now and best.arrive < oldest:
            w.slot, w.source, w.command, oldest = best.slot, FROM_QUEUE, PREPB, best.arrive
    else:
        q.best[u(OPEN)].stale |= q.best[u(OPEN)].key < now and t.ready[u(c.channel_base + ACT)] <= now
        q.best[u(CLOSE)].stale |= q.best[u(CLOSE)].key < now and gate_close <= now


@inlined
def _refresh_kind(m, v, kind, gate, touched, now):
    """Bring the best candidate of a kind up to date."""
    best = m.queues.best[u(kind)]
    # A best that could have gone before now may have lost to an older request since.
    if best.stale or (best.key < now and gate <= now):
        best.stale = False
        forget(best)
        look_through(m, v, kind, -1, now)
    elif touched >= 0:
        look_through(m, v, kind, touched, now)


@inlined
def _keep_clock(m, v, w, o, now):
    """LPDDR5: the second half of an activation fills idle ticks; an access may need the data clock started."""
    c, q = m.settings, m.queues
    if w.source < 0:
        w.slot, w.source, w.command = v.opening, FROM_OPENING, ACT2
        return v.opening >= 0
    if c.clock_sync == 1 and (w.command == RD or w.command == WR) and now >= v.expiry:
        if v.opening >= 0 and v.deadline <= now + 1:
            w.slot, w.source, w.command = v.opening, FROM_OPENING, ACT2
            return True
        # Start the data clock; nothing but the access itself may follow.
        start = CAS_RD + (w.command - RD)
        b = q.request[u(w.slot)].bank
        if legal(c, m.timing, start, b) <= now:
            v.lock, v.lock_from, v.lock_command = w.slot, w.source, w.command
            _send(m, q, o, start, b, w.slot, now)
            q.best[u(ACTIVATED)].stale = True
            w.priority_dirty = True
            touch_all(q)
            w.issued = True
        return False
    return True


# ---- the issue of a command


@inlined
def _issue(m, v, w, o, bus, now):
    """Issue the chosen command: count and log it, let others wait for it, and change banks and queues."""
    c, q, n = m.settings, m.queues, m.tallies
    slot, source = w.slot, w.source
    if slot >= 0:
        w.target = q.request[u(slot)].bank
        _precharge_along(m, v, w, now)
        _count_outcome(v, q, n, slot)
        v.progress = now
    command, target = w.command, w.target
    _send(m, q, o, command, target, slot, now)
    if c.half == 1 and bus == 1 and (now & 1) == 1:
        _note_pair(m, v, command, target, now)
    w.issued = True
    w.blocked = False
    _touch(m, w, source, now)
    if command == RD or command == WR or command == RDA or command == WRA:
        if source == FROM_ACTIVE:
            _leave_actives(v, q, slot)
            bank = q.bank[u(target)]
            bank.active -= 1
            mark(q.sets, M_IDLE, target, bank.active == 0)
        else:
            unlink(v, q, slot, now)
        _serve(m, v, o, slot, now)
        if command == RDA or command == WRA:
            close_bank(c, v, q, n, target, now)
        else:
            _count_column(c, v, q, target)
    elif command == ACT:
        _activate(m, v, w, source, slot, now)
    elif command == ACT2:
        open_bank(q, target, q.request[u(slot)].row)
        _join_actives(v, q, slot)
        v.opening = -1
    elif command == PREPB:
        close_bank(c, v, q, n, target, now)
    elif command == PREAB or command == PRESB:
        k = m.upkeep
        for j in range(k.object_start[u(target - c.banks)], k.object_start[u(target - c.banks + 1)]):
            close_bank(c, v, q, n, k.object_banks[u(j)], now)
    if source == FROM_PRIORITY and command == m.upkeep.priority_command[u(v.priority_head)]:
        v.priority_head = (v.priority_head + 1) % c.priority_queue
        v.priority_count -= 1
        v.priority_occupied += now


@inlined
def _precharge_along(m, v, w, now):
    """The last column command to a row closes it as well, where the row policy wants that."""
    c, q = m.settings, m.queues
    if (w.command != RD and w.command != WR) or v.lock >= 0 or c.autoprecharge == 0:
        return
    bank = q.bank[u(w.target)]
    wanted = c.policy == CAPPED and bank.columns >= c.cap
    if c.policy == CLOSED:
        waiting = 0
        for write in range(2):
            hit = bank.hit[u(write)]
            if hit == w.slot:
                hit = first(q.request, q.request[u(hit)].following, bank.row, True)
            waiting += hit >= 0
        wanted = waiting == 0 and bank.active == (1 if w.source == FROM_ACTIVE else 0)
    if wanted and legal(c, m.timing, w.command + (RDA - RD), w.target) <= now:
        w.command += RDA - RD


@inlined
def _count_outcome(v, q, n, slot):
    """Count a request once, by what its first command finds: its row open, no row, or another one."""
    request = q.request[u(slot)]
    if request.counted == 0:
        request.counted = 1
        bank = q.bank[u(request.bank)]
        outcome = 2
        if bank.state != 1:
            v.misses += 1
            outcome = 1
        elif bank.row == request.row:
            v.hits += 1
            v.hits_of[u(request.write)] += 1
            outcome = 0
        else:
            v.conflicts += 1
        n.bank_outcome[u(3 * request.bank + outcome)] += 1


@inlined
def _send(m, q, o, command, target, slot, now):
    """Put a command on the bus: others wait for it; it is counted and logged."""
    apply(m.timing, target, command, now)
    m.tallies.counts[u(command)] += 1
    if o.log.tick.size > 0:
        place = u(o.log.used[0])
        o.log.tick[place] = now
        o.log.command[place] = command
        o.log.target[place] = target
        o.log.transaction[place] = q.request[u(slot)].address if slot >= 0 else -1
        o.log.row[place] = q.request[u(slot)].row if slot >= 0 else -1
        o.log.used[0] += 1


@inlined
def _log_is_full(o):
    """A tick may need three places."""
    return o.log.tick.size > 0 and o.log.used[0] + 3 >= o.log.tick.size


@inlined
def _note_pair(m, v, command, target, now):
    """HBM3: what a precharge in the other half of this clock must not meet."""
    v.pair_tick = now + (3 if command == ACT else 1)
    if target < m.settings.banks:
        v.pair_scope, v.pair_bank = m.queues.bank[u(target)].scope, target
    else:
        k = m.upkeep
        one = k.object_banks[u(k.object_start[u(target - m.settings.banks)])]
        v.pair_scope, v.pair_bank = m.queues.bank[u(one)].scope, -1


@inlined
def _touch(m, w, source, now):
    """Which candidates a command has moved, and must be looked for again."""
    c, q = m.settings, m.queues
    command, target = w.command, w.target
    column, opening, closing = q.best[u(COLUMN)], q.best[u(OPEN)], q.best[u(CLOSE)]
    reach = m.tallies.affects[u(command)]
    one = target < c.banks
    w.priority_dirty = True
    # The active requests wait for column commands; only what moves those, or their banks, matters.
    if (reach & 8) != 0 or source == FROM_ACTIVE or source == FROM_OPENING or not one or w.reopening:
        q.best[u(ACTIVATED)].stale = True
    elif q.bank[u(target)].active > 0:
        q.best[u(ACTIVATED)].stale = True
    column.stale |= (reach & 1) != 0
    opening.stale |= (reach & 2) != 0
    closing.stale |= (reach & 4) != 0
    if not one or (w.touched_column >= 0 and w.touched_column != target):
        column.stale = True
    elif column.slot >= 0 and q.request[u(column.slot)].bank == target:
        column.stale = True
    if not one or (w.touched_row >= 0 and w.touched_row != target):
        opening.stale = True
        closing.stale = True
    else:
        opening.stale |= opening.slot >= 0 and q.request[u(opening.slot)].bank == target
        closing.stale |= closing.slot >= 0 and q.request[u(closing.slot)].bank == target
    w.touched_column = target if one else -1
    w.touched_row = target if one else -1
    if c.lpddr == 1 and (command == ACT or command == ACT2):
        opening.stale = True
    if c.half == 1:
        closing.stale = True
    if c.policy == CAPPED or c.policy == TIMEOUT:
        w.policy_event = now + 1


@inlined
def _leave_actives(v, q, slot):
    for j in range(v.active):
        if q.actives[u(j)] == slot:
            v.active -= 1
            q.actives[u(j)] = q.actives[u(v.active)]
            return


@inlined
def _join_actives(v, q, slot):
    q.actives[u(v.active)] = slot
    v.active += 1
    b = q.request[u(slot)].bank
    q.bank[u(b)].active += 1
    mark(q.sets, M_IDLE, b, False)


@inlined
def _count_column(c, v, q, b):
    """A row was used once more; the capped policy closes it after so many times."""
    bank = q.bank[u(b)]
    bank.columns += 1
    if c.policy == CAPPED and bank.columns == c.cap and bank.injected == 0:
        v.due += 1


@inlined
def _note_latency(m, v, o, latency, index):
    v.latency_sum += latency
    v.latency_max = max(v.latency_max, latency)
    m.tallies.histogram[u(min(latency, HISTOGRAM - 1))] += 1
    if o.log.latency.size > 0:
        o.log.latency[u(index)] = latency


@inlined
def _serve(m, v, o, slot, now):
    """The request is served: its place is free, and a read's data come later."""
    c, q = m.settings, m.queues
    request = q.request[u(slot)]
    q.bank[u(request.bank)].last = now
    v.served[u(request.write)] += 1
    if request.write == 0:
        depart = now + c.read_latency
        v.depart = max(v.depart, depart)
        _note_latency(m, v, o, depart - request.arrive, request.index)
        if o.outstanding > 0:
            _take_off(v, q, o, v.depart)
    else:
        v.last_write = now
        if o.outstanding > 0:
            v.outstanding -= 1
    q.free_slots[u(v.free)] = slot
    v.free += 1
    v.live -= 1
    v.lock = -1
    if c.lpddr == 1 and c.clock_sync == 1:
        v.expiry = max(v.expiry, now + (c.expiry_read if request.write == 0 else c.expiry_write))


@inlined
def _activate(m, v, w, source, slot, now):
    """A row is opened for a request, which goes before the queues from now on while there is place."""
    c, q, n = m.settings, m.queues, m.tallies
    request = q.request[u(slot)]
    bank = q.bank[u(request.bank)]
    scope = u(bank.scope)
    n.scope_open[scope] += 1
    n.bank_ticks[scope] -= now
    if n.scope_open[scope] == 1:
        n.scope_since[scope] = now
    bank.last = now
    if c.split == 1:
        # Split activation: the request waits for its second half in a place of its own.
        if source == FROM_QUEUE:
            unlink(v, q, slot, now)
        else:
            _leave_actives(v, q, slot)
        bank.state = 2
        mark(q.sets, M_CLOSED, request.bank, False)
        v.opening = slot
        v.deadline = now + c.deadline
        return
    if v.active < c.banks:
        if source == FROM_QUEUE:
            unlink(v, q, slot, now)
            q.actives[u(v.active)] = slot
            v.active += 1
            best = q.best[u(ACTIVATED)]
            if not best.stale:
                command = RD + request.write
                key = max(legal(c, m.timing, command, request.bank), now + 1) | c.half
                if key < best.key or (key == best.key and request.arrive < best.arrive):
                    w.active_command = command
                    consider(best, key, slot, request.arrive)
        bank.active += 1
        mark(q.sets, M_IDLE, request.bank, False)
    open_bank(q, request.bank, request.row)


# ---- a streak of row hits


@inlined
def _only_hits_can_go(m, v, o):
    """Whether nothing but column commands of the queue in use can go until it changes."""
    c, q = m.settings, m.queues
    if c.policy != 0 or v.active != 0 or v.priority_count != 0 or v.opening >= 0 or v.lock >= 0:
        return False
    if o.outstanding != 0 or o.chunk.arrival.size > 0 or c.enter_write <= c.leave_write:
        return False
    rows_wanted = np.int64(0)
    for w in range(c.words):
        rows_wanted |= q.sets[u((w << 3) + M_OTHER + v.mode)]
    return rows_wanted == 0 and (v.mode == 1 or v.waiting[u(1)] < c.enter_write)


@inlined
def _stream_hits(m, v, w, o, now):
    """Issue one column command after another, as long as only they can go. Returns the last tick looked at."""
    c, q = m.settings, m.queues
    mode = v.mode
    best = q.best[u(COLUMN)]
    w.looked = False
    while True:
        # The queue must not run so low that reading or writing ends.
        few = mode == 1 and v.waiting[u(0)] > 0 and v.waiting[u(1)] - 1 <= c.leave_write
        if v.waiting[u(mode)] < 2 or few:
            break
        w.looked = True
        forget(best)
        look_through(m, v, COLUMN, -1, now + 1)
        now, calm = _join_hits(m, v, w, o, now)
        key = best.key
        if not calm or key >= w.timer or key > o.until or _log_is_full(o):
            break
        if c.lpddr == 1 and c.clock_sync == 1 and key >= v.expiry:
            break
        now = key
        w.looked = False
        slot = best.slot
        b = q.request[u(slot)].bank
        _count_outcome(v, q, m.tallies, slot)
        _send(m, q, o, RD + mode, b, slot, now)
        unlink(v, q, slot, now)
        _serve(m, v, o, slot, now)
        _count_column(c, v, q, b)
        v.progress = now
        touch_all(q)
        w.touched_column = -1
        w.touched_row = -1
    if w.looked:
        best.stale = False
        w.touched_column = -1
    return now


@inlined
def _join_hits(m, v, w, o, now):
    """Requests that come before the next column command join. Those of its kind must be row hits.

    Returns the last clock looked at, and whether still nothing but column commands can go.
    """
    c, q = m.settings, m.queues
    mode = v.mode
    best = q.best[u(COLUMN)]
    while v.next < o.chunk.transaction.size:
        arrival = max(v.offer, now)
        if arrival >= min(best.key, w.timer):
            return now, True
        i = u(v.next)
        write = np.int64(o.chunk.write[i])
        if q.written[u(filter_slot(o.chunk.transaction[i]))] > 0:
            return now, False
        if v.waiting[u(write)] >= (c.write_queue if write == 1 else c.read_queue):
            return now, True
        bank = q.bank[u(np.int64(o.chunk.bank[i]))]
        hits = bank.state == 1 and bank.row == o.chunk.row[i]
        if (write == mode and not hits) or arrival >= o.until:
            return now, False
        slot, became = _enqueue_offered(v, w, q, o, write, arrival)
        if became == 1 and write == mode:
            _consider_new(m, v, slot, became, arrival)
        _note_accepted(v, w, o, arrival)
        # Every tick up to this clock has passed without a command.
        now = arrival
        writes = v.waiting[u(1)]
        if (mode == 0 and writes >= c.enter_write) or (mode == 1 and write == 0 and writes <= c.leave_write):
            return now, False
    return now, o.final


# ---- the next event


@inlined
def _next_event(m, v, w, now):
    """The next tick at which anything can happen; the front end's next offer comes on top."""
    c, t, q = m.settings, m.timing, m.queues
    column, opening, closing = q.best[u(COLUMN)], q.best[u(OPEN)], q.best[u(CLOSE)]
    active = q.best[u(ACTIVATED)]
    if w.issued or active.stale or v.opening >= 0 or v.lock >= 0:
        return now + 1
    event = active.key if active.key > now else now + 1
    if v.priority_count > 0:
        event = min(event, w.priority_key)
    else:
        if column.stale or opening.stale or closing.stale or w.touched_column >= 0 or w.touched_row >= 0:
            return now + 1
        if c.enter_write <= c.leave_write:
            return now + 1
        gate_column = max(column.key, t.ready[u(c.channel_base + RD + v.mode)])
        gate_open = max(opening.key, t.ready[u(c.channel_base + ACT)])
        gate_close = max(closing.key, t.ready[u(c.channel_base + PREPB)])
        event = min(event, min(gate_column, min(gate_open, gate_close)))
    return max(min(event, min(w.timer, w.policy_event)), now + 1)
