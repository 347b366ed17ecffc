"""Which command goes to which die when: the event heap, the queues of a die, the bus, and what runs on it.

A unit is what can hold one command: a die, or a whole chip where dies do not interleave. Data that wait in a
register go before new commands on a bus; among idle units of a channel turns go round; at a unit reads go
before writes and writes before erases, collection before the host when it is urgent. Companions join a
multi-plane command from anywhere in the queue when die and page number agree. Rules: MQSim (MIT licence, Tavakkol
et al., FAST 2018) as described in docs/flash.md; the code shares nothing with it.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM109, SIM110
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"

from __future__ import annotations

from simulator.flash.pointer import (
    block_at,
    channel_at,
    line_at,
    link_at,
    log_row_at,
    place_of,
    plane_at,
    txn_at,
    unit_at,
    word_at,
)
from simulator.flash.records import (
    BUS_TIMES,
    ERASE,
    ERASING,
    GC,
    IDLE,
    LOG_OUT,
    LOG_ROW,
    MAP,
    PLANE,
    READ,
    READING,
    UNIT,
    WRITE,
    WRITING,
    words,
)
from simulator.flash.step import step

__all__ = [
    "append", "bus_ns", "enqueue", "kick", "log_row", "next_on_channel", "offer_out", "pop_event", "push",
    "random_below", "release", "serve", "start",
]  # fmt: skip

LOOK = 256
"""How far into a queue a multi-plane command looks for companions."""
MAP_READS, USER_READS, GC_READS, USER_WRITES, GC_WRITES, ERASES = range(6)
"""The queues of a unit, in the order of its lines."""
NO_QUEUE = 7
_PLANE, _UNIT, _LOG_ROW = words(PLANE), words(UNIT), words(LOG_ROW)


@step
def push(d, time, source):
    """Put an event on the heap; equal times keep the order in which they were put."""
    d.sequence += 1
    stamp = (d.sequence << 20) | source
    base = d.heap
    i = d.heap_count
    d.heap_count = i + 1
    while i > 0:
        up = (i - 1) >> 1
        at = base + 2 * up
        above = word_at(d, at).value
        if above < time or (above == time and word_at(d, at + 1).value < stamp):
            break
        word_at(d, base + 2 * i).value = above
        word_at(d, base + 2 * i + 1).value = word_at(d, at + 1).value
        i = up
    word_at(d, base + 2 * i).value = time
    word_at(d, base + 2 * i + 1).value = stamp
    return stamp


@step
def pop_event(d):
    """Take the first event off the heap; its stamp. Its time is read before."""
    base = d.heap
    stamp = word_at(d, base + 1).value
    count = d.heap_count - 1
    d.heap_count = count
    time, last = word_at(d, base + 2 * count).value, word_at(d, base + 2 * count + 1).value
    i = 0
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        at = base + 2 * child
        if child + 1 < count:
            one, other = word_at(d, at).value, word_at(d, at + 2).value
            if other < one or (other == one and word_at(d, at + 3).value < word_at(d, at + 1).value):
                at += 2
                child += 1
        least = word_at(d, at).value
        if time < least or (time == least and last < word_at(d, at + 1).value):
            break
        word_at(d, base + 2 * i).value = least
        word_at(d, base + 2 * i + 1).value = word_at(d, at + 1).value
        i = child
    word_at(d, base + 2 * i).value = time
    word_at(d, base + 2 * i + 1).value = last
    return stamp


@step
def random_below(d, bound):
    """The next number of the drive's own stream (xorshift), below ``bound``."""
    x = d.random
    x ^= (x << 13) & 0x7FFFFFFFFFFFFFFF
    x ^= x >> 7
    x ^= (x << 17) & 0x7FFFFFFFFFFFFFFF
    d.random = x
    return (x >> 11) % bound


@step
def bus_ns(d, size):
    """Bus time of data."""
    if size == d.page_bytes:
        return d.bus_page_ns
    return (size * d.bus_numerator + d.bus_denominator - 1) // d.bus_denominator


@step
def log_row(d, time, end, what):
    """The next row of the log, for the caller to fill in; past the last one, a row that nobody reads."""
    row = log_row_at(d, d.log + min(d.logged, d.log_size) * _LOG_ROW)
    d.logged += 1
    row.time = time
    row.end = end
    row.what = what
    row.unit = 0
    row.source = 0
    row.stamp = 0
    return row


@step
def _log_command(d, time, end, what, unit, txn):
    """Write the page of a command down."""
    row = log_row(d, time, end, what)
    row.unit = unit.index
    row.ppn = txn.ppn
    row.lpn = txn.lpn
    row.source = txn.source
    row.stamp = txn.page


@step
def append(d, line, place):
    """Put a transaction or request at the end of a line."""
    link_at(d, place).next = 0
    if line.head == 0:
        line.head = place
    else:
        link_at(d, line.tail).next = place
    line.tail = place


@step
def release(d, txn):
    """Give a transaction back."""
    txn.next = d.free_txn
    d.free_txn = place_of(d, txn)
    d.free_txns += 1


@step
def enqueue(d, txn):
    """Put a transaction whose place is known at the end of its unit's queue."""
    if txn.kind == READ:
        queue = GC_READS if txn.source == GC else (MAP_READS if txn.source == MAP else USER_READS)
    elif txn.kind == WRITE:
        queue = GC_WRITES if txn.source == GC else USER_WRITES
    else:
        queue = ERASES
    unit = unit_at(d, txn.unit)
    append(d, line_at(d, unit.lines + 2 * queue), place_of(d, txn))
    unit.count += 1


@step
def _urgent(d, unit):
    """Whether collection goes before the host at this unit."""
    if d.gc_preempt == 0:
        return True
    for i in range(unit.planes):
        if plane_at(d, unit.first_plane + i * _PLANE).free < d.gc_hard:
            return True
    return False


@step
def _reads_first(d, unit):
    """The queues from which a read may come: the first and the second, packed as first * 8 + second; -1: none."""
    user, collection = unit.user_reads.head != 0, unit.gc_reads.head != 0
    behind = USER_READS if user else NO_QUEUE
    if unit.map_reads.head != 0:
        return MAP_READS * 8 + (GC_READS if collection and _urgent(d, unit) else behind)
    if not user and not collection:
        return -1
    if _urgent(d, unit):
        if collection:
            return GC_READS * 8 + behind
        if unit.gc_writes.head != 0 or unit.erases.head != 0:
            return -1
        return USER_READS * 8 + NO_QUEUE
    if user:
        return USER_READS * 8 + (GC_READS if collection else NO_QUEUE)
    return GC_READS * 8 + NO_QUEUE if unit.user_writes.head == 0 else -1


@step
def _writes_first(d, unit):
    """As :func:`_reads_first`, for programs."""
    user, collection = unit.user_writes.head != 0, unit.gc_writes.head != 0
    if not user and not collection:
        return -1
    if _urgent(d, unit):
        if collection:
            return GC_WRITES * 8 + (USER_WRITES if user else NO_QUEUE)
        return -1 if unit.erases.head != 0 else USER_WRITES * 8 + NO_QUEUE
    if user:
        return USER_WRITES * 8 + (GC_WRITES if collection else NO_QUEUE)
    return GC_WRITES * 8 + NO_QUEUE


@step
def _companions(d, unit, queue, kind, lead, taken, last):
    """Move what may join the command of ``lead`` from a queue to the end of its list; the planes then taken.

    Programs of one plane keep their order: one that cannot join keeps those behind it back as well. The look
    ends when all planes are taken, or after :data:`LOOK` transactions. ``last``: the end of the list, a place.
    """
    line = line_at(d, unit.lines + 2 * queue)
    before = looked = 0
    whole = (1 << d.planes_per_die) - 1
    place = line.head
    kept = taken
    while place != 0 and kept != whole and looked < LOOK:
        looked += 1
        txn = txn_at(d, place)
        following = txn.next
        same_die = txn.die == lead.die
        if same_die and (kept & txn.bit) == 0 and (kind == ERASE or txn.page == lead.page):
            if before == 0:
                line.head = following
            else:
                link_at(d, before).next = following
            if line.tail == place:
                line.tail = before
            unit.count -= 1
            txn.next = 0
            link_at(d, last).next = place
            last = place
            taken |= txn.bit
            kept |= txn.bit
        else:
            if kind == WRITE and same_die:
                kept |= txn.bit
            before = place
        place = following
    return taken, last


@step
def _retry_ns(d, txn, array_ns):
    """What retries add to the array time of a read, and to its command's."""
    worn = min(block_at(d, txn.block).erases, d.rated)
    chance = d.retry_fresh + (d.retry_worn - d.retry_fresh) * worn // d.rated
    if random_below(d, 1 << 40) >= chance:
        return 0
    d.retried += 1
    return array_ns * d.retries


@step
def _take_command(d, unit, kind, packed):
    """Take the head of the first queue and its companions off their queues; the place of the first."""
    first, second = packed >> 3, packed & 7
    line = line_at(d, unit.lines + 2 * first)
    lead = txn_at(d, line.head)
    place, following = line.head, lead.next
    line.head = following
    unit.count -= 1
    lead.next = 0
    if d.multi_plane != 0 and d.planes_per_die > 1:
        taken, last = lead.bit, place
        if following != 0:
            taken, last = _companions(d, unit, first, kind, lead, taken, last)
        if second != NO_QUEUE:
            _companions(d, unit, second, kind, lead, taken, last)
    return place


@step
def _count_command(d, kind, pages):
    if kind == READ:
        d.read_commands += pages == 1
        d.read_multi += pages > 1
        d.read_pages += pages
    elif kind == WRITE:
        d.program_commands += pages == 1
        d.program_multi += pages > 1
        d.program_pages += pages
    else:
        d.erase_commands += 1
        d.erase_blocks += pages


@step
def _issue(d, unit, now, kind, packed, extra, pending):
    """Send a command: take the head of the first queue and its companions, and hold the bus.

    ``extra`` ns pass before the array starts (a suspension); ``pending``: the array still programs, and this
    program waits in the register (cache program).
    """
    first = _take_command(d, unit, kind, packed)
    page = txn_at(d, first).page
    array_ns = d.erase_ns
    if kind != ERASE:
        array_ns = word_at(d, (d.read_times if kind == READ else d.program_times) + page).value
    pages, data_ns, retry_ns = 0, 0, 0
    place = first
    while place != 0:
        txn = txn_at(d, place)
        pages += 1
        if kind == WRITE:
            data_ns += bus_ns(d, txn.bytes)
            d.bus_bytes += txn.bytes
        elif kind == READ and d.retry_fresh + d.retry_worn != 0:
            retry_ns = max(retry_ns, _retry_ns(d, txn, array_ns))
        place = txn.next
    _count_command(d, kind, pages)
    took = word_at(d, d.bus_times + BUS_TIMES * kind + pages).value + data_ns
    free = now + took
    channel = channel_at(d, unit.channel)
    channel.busy = 1
    channel.txn = 0
    channel.busy_ns += took
    push(d, free, channel.index)
    if d.log_size != 0:
        place = first
        while place != 0:
            _log_command(d, now, free, kind, unit, txn_at(d, place))
            place = link_at(d, place).next
    if pending:
        unit.pending = first
        unit.pending_ready = free
        unit.pending_ns = array_ns
        d.cached_commands += 1
        return
    start(d, unit, first, kind, free + extra, array_ns + retry_ns)


@step
def start(d, unit, first, kind, begin, array_ns):
    """Let the array work from ``begin``; the controller notices the end of a read a little later."""
    unit.busy_ns += array_ns
    unit.active = first
    unit.state = READING if kind == READ else (WRITING if kind == WRITE else ERASING)
    unit.end = begin + array_ns + (d.ready_ns if kind == READ else 0)
    unit.stamp = push(d, unit.end, d.channels + unit.index)


@step
def _suspend(d, unit, now):
    """Set the running program or erase aside; what it still needs is remembered."""
    unit.aside = unit.active
    unit.aside_state = unit.state
    unit.aside_ns = unit.end - now
    unit.busy_ns -= unit.aside_ns
    unit.state = IDLE
    unit.stamp = 0
    unit.suspends += 1
    d.suspended += 1


@step
def _resume(d, unit, now):
    first = unit.aside
    unit.aside = 0
    start(d, unit, first, WRITE if unit.aside_state == WRITING else ERASE, now, unit.aside_ns + d.resume_ns)


@step
def _worth_suspending(d, unit, now):
    """Whether a read may stop what the unit does, and gains by it."""
    allowed = d.suspend_program if unit.state == WRITING else d.suspend_erase
    register_free = unit.pending == 0 and unit.out == 0
    worth = unit.end - now > d.suspend_ns + d.resume_ns
    return allowed != 0 and register_free and worth and unit.suspends < d.suspends_most and unit.aside == 0


@step
def serve(d, unit, now):
    """Give a unit its next command, if it can take one. Its channel is idle."""
    if unit.count == 0 and unit.aside == 0:
        return
    kind, packed, extra = -1, -1, 0
    state = unit.state
    if state == IDLE:
        # With a cache register the array may read on while data wait; nothing else may.
        waiting = unit.out != 0
        if waiting and (d.cache == 0 or unit.aside != 0):
            return
        packed = _reads_first(d, unit)
        if packed >= 0:
            kind = READ
        elif unit.aside != 0:
            _resume(d, unit, now)
        elif not waiting:
            packed = _writes_first(d, unit)
            if packed >= 0:
                kind = WRITE
            elif unit.erases.head != 0:
                kind, packed = ERASE, ERASES * 8 + NO_QUEUE
            if kind >= 0:
                unit.suspends = 0
    elif state == WRITING or state == ERASING:
        packed = _reads_first(d, unit)
        if packed >= 0:
            if _worth_suspending(d, unit, now):
                _suspend(d, unit, now)
                kind, extra = READ, d.suspend_ns
        elif state == WRITING and d.cache != 0 and unit.pending == 0:
            packed = _writes_first(d, unit)
            if packed >= 0:
                kind = WRITE
    if kind >= 0:
        _issue(d, unit, now, kind, packed, extra, state == WRITING and kind == WRITE)


@step
def kick(d, channel, now):
    """Look for a command for a channel, if it is idle."""
    if channel.busy == 0:
        _look_round(d, channel, now)


@step
def _look_round(d, channel, now):
    """One turn over the units of an idle channel, from where the last look ended, until one takes a command."""
    count = d.units_per_channel
    turn = channel.turn
    for _ in range(count):
        if channel.busy != 0:
            break
        unit = unit_at(d, channel.first_unit + turn * _UNIT)
        turn += 1
        if turn == count:
            turn = 0
        serve(d, unit, now)
    channel.turn = turn


@step
def _send_out(d, channel, txn, now):
    """Move a page that was read over the bus."""
    took = bus_ns(d, txn.bytes)
    d.bus_bytes += txn.bytes
    channel.busy = 2
    channel.txn = place_of(d, txn)
    channel.busy_ns += took
    push(d, now + took, channel.index)
    if d.log_size != 0:
        _log_command(d, now, now + took, LOG_OUT, unit_at(d, txn.unit), txn)


@step
def offer_out(d, txn, now):
    """A page waits in a register: over the bus at once, or into the channel's queue of its kind."""
    channel = channel_at(d, txn.channel)
    txn.next = 0
    if channel.busy == 0:
        _send_out(d, channel, txn, now)
        return
    line = 0 if txn.source == MAP else (2 if txn.source == GC else 1)
    append(d, line_at(d, channel.lines + 2 * line), place_of(d, txn))


@step
def next_on_channel(d, channel, now):
    """A bus got free: waiting data first, mapping before host before collection, then new commands."""
    channel.busy = 0
    for number in range(3):
        line = line_at(d, channel.lines + 2 * number)
        if line.head != 0:
            txn = txn_at(d, line.head)
            unit = unit_at(d, txn.unit)
            if d.cache != 0 and unit.state == IDLE and unit.count != 0:
                # The die may read on while its last page crosses the bus: its command first.
                serve(d, unit, now)
                if channel.busy != 0:
                    return
            line.head = txn.next
            _send_out(d, channel, txn, now)
            return
    kick(d, channel, now)
