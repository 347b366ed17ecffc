"""Which command goes to which die when: the event heap, the queues of a die, the bus, and what runs on it.

A unit is what can hold one command: a die, or a whole chip where dies do not interleave. Data that wait in a
register go before new commands on a bus; among idle units of a channel turns go round; at a unit reads go
before writes and writes before erases, collection before the host when it is urgent. Companions join a
multi-plane command from anywhere in the queue when die and page number agree. Rules: MQSim (MIT licence, Tavakkol
et al., FAST 2018) as described in docs/flash.md; the code shares nothing with it.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM102, SIM110
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"

from __future__ import annotations

from hw_configs.compiled import compiled
from simulator.flash.layout import (
    AT_BUS,
    AT_HEAP,
    AT_LOG,
    AT_PROGRAM,
    AT_READ,
    B_ERASES,
    BUS_BYTES,
    BUS_DEN,
    BUS_NUM,
    BUS_PAGE,
    C_BUSY,
    C_BUSY_NS,
    C_FIRST,
    C_INDEX,
    C_OUT,
    C_OUT_TAIL,
    C_TURN,
    C_TXN,
    CACHE,
    CACHED_COMMANDS,
    CHANNELS,
    ERASE,
    ERASE_BLOCKS,
    ERASE_COMMANDS,
    ERASE_NS,
    ERASING,
    FREE_TXN,
    FREE_TXNS,
    GC,
    GC_HARD,
    GC_PREEMPT,
    HEAP_COUNT,
    IDLE,
    L_END,
    L_LPN,
    L_OP,
    L_PPN,
    L_SIZE,
    L_SOURCE,
    L_STAMP,
    L_TIME,
    L_UNIT,
    LOG_OUT,
    LOG_SIZE,
    LOGGED,
    MAP,
    MULTI_PLANE,
    P_FREE,
    P_SIZE,
    PAGE_BYTES,
    PLANES_PER_DIE,
    PROGRAM_COMMANDS,
    PROGRAM_MULTI,
    PROGRAM_PAGES,
    Q_ERASE,
    Q_GC_READ,
    Q_GC_WRITE,
    Q_MAP_READ,
    Q_USER_READ,
    Q_USER_WRITE,
    RANDOM,
    RATED,
    READ,
    READ_COMMANDS,
    READ_MULTI,
    READ_PAGES,
    READING,
    READY,
    RESUME_NS,
    RETRIED,
    RETRIES,
    RETRY_FRESH,
    RETRY_WORN,
    SEQUENCE,
    SUSPEND_E,
    SUSPEND_NS,
    SUSPEND_P,
    SUSPENDED,
    SUSPENDS_MAX,
    T_BIT,
    T_BLOCK,
    T_BYTES,
    T_CHANNEL,
    T_DIE,
    T_KIND,
    T_LPN,
    T_NEXT,
    T_PAGE,
    T_PPN,
    T_SOURCE,
    T_UNIT,
    U_ACTIVE,
    U_ASIDE,
    U_ASIDE_NS,
    U_ASIDE_STATE,
    U_BUSY_NS,
    U_CHANNEL,
    U_COUNT,
    U_END,
    U_HEAD,
    U_INDEX,
    U_OUT,
    U_PENDING,
    U_PENDING_NS,
    U_PENDING_READY,
    U_PLANE,
    U_PLANES,
    U_SIZE,
    U_STAMP,
    U_STATE,
    U_SUSPENDS,
    U_TAIL,
    UNITS_PER_CHANNEL,
    WRITE,
    WRITING,
)

__all__ = [
    "bus_ns",
    "enqueue",
    "kick",
    "log",
    "next_on_channel",
    "pop_event",
    "push",
    "random_below",
    "release",
    "serve",
]

LOOK = 256
"""How far into a queue a multi-plane command looks for companions."""


@compiled
def push(m, time, source):
    """Put an event on the heap; equal times keep the order in which they were put."""
    m[SEQUENCE] += 1
    stamp = (m[SEQUENCE] << 20) | source
    base = m[AT_HEAP]
    i = m[HEAP_COUNT]
    m[HEAP_COUNT] = i + 1
    while i > 0:
        up = (i - 1) >> 1
        at = base + 2 * up
        if m[at] < time or (m[at] == time and m[at + 1] < stamp):
            break
        m[base + 2 * i] = m[at]
        m[base + 2 * i + 1] = m[at + 1]
        i = up
    m[base + 2 * i] = time
    m[base + 2 * i + 1] = stamp
    return stamp


@compiled
def pop_event(m):
    """Take the first event off the heap; its stamp. Its time is read before."""
    base = m[AT_HEAP]
    stamp = m[base + 1]
    count = m[HEAP_COUNT] - 1
    m[HEAP_COUNT] = count
    time, last = m[base + 2 * count], m[base + 2 * count + 1]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        at = base + 2 * child
        if child + 1 < count:
            other = at + 2
            if m[other] < m[at] or (m[other] == m[at] and m[other + 1] < m[at + 1]):
                at = other
                child += 1
        if time < m[at] or (time == m[at] and last < m[at + 1]):
            break
        m[base + 2 * i] = m[at]
        m[base + 2 * i + 1] = m[at + 1]
        i = child
    m[base + 2 * i] = time
    m[base + 2 * i + 1] = last
    return stamp


@compiled
def random_below(m, bound):
    """The next number of the drive's own stream (xorshift), below ``bound``."""
    x = m[RANDOM]
    x ^= (x << 13) & 0x7FFFFFFFFFFFFFFF
    x ^= x >> 7
    x ^= (x << 17) & 0x7FFFFFFFFFFFFFFF
    m[RANDOM] = x
    return (x >> 11) % bound


@compiled
def bus_ns(m, size):
    """Bus time of data."""
    if size == m[PAGE_BYTES]:
        return m[BUS_PAGE]
    return (size * m[BUS_NUM] + m[BUS_DEN] - 1) // m[BUS_DEN]


@compiled
def log(m, time, end, op, unit, ppn, lpn, source, stamp):
    """Write a command down, where a log was asked for."""
    if m[LOGGED] < m[LOG_SIZE]:
        at = m[AT_LOG] + m[LOGGED] * L_SIZE
        m[at + L_TIME] = time
        m[at + L_END] = end
        m[at + L_OP] = op
        m[at + L_UNIT] = unit
        m[at + L_PPN] = ppn
        m[at + L_LPN] = lpn
        m[at + L_SOURCE] = source
        m[at + L_STAMP] = stamp
    m[LOGGED] += 1


@compiled
def release(m, txn):
    """Give a transaction back."""
    m[txn + T_NEXT] = m[FREE_TXN]
    m[FREE_TXN] = txn
    m[FREE_TXNS] += 1


@compiled
def enqueue(m, txn):
    """Put a transaction whose place is known at the end of its unit's queue."""
    kind, source = m[txn + T_KIND], m[txn + T_SOURCE]
    if kind == READ:
        queue = Q_GC_READ if source == GC else (Q_MAP_READ if source == MAP else Q_USER_READ)
    elif kind == WRITE:
        queue = Q_GC_WRITE if source == GC else Q_USER_WRITE
    else:
        queue = Q_ERASE
    unit = m[txn + T_UNIT]
    m[txn + T_NEXT] = 0
    tail = m[unit + U_TAIL + queue]
    if m[unit + U_HEAD + queue] == 0:
        m[unit + U_HEAD + queue] = txn
    else:
        m[tail + T_NEXT] = txn
    m[unit + U_TAIL + queue] = txn
    m[unit + U_COUNT] += 1


@compiled
def _urgent(m, unit):
    """Whether collection goes before the host at this unit."""
    if m[GC_PREEMPT] == 0:
        return True
    for i in range(m[unit + U_PLANES]):
        if m[m[unit + U_PLANE] + i * P_SIZE + P_FREE] < m[GC_HARD]:
            return True
    return False


@compiled
def _reads_first(m, unit):
    """The queues from which a read may come: the first and the second, packed as first * 8 + second; -1: none.

    A second queue of 7 is none.
    """
    h = unit + U_HEAD
    user, collection = m[h + Q_USER_READ] != 0, m[h + Q_GC_READ] != 0
    if m[h + Q_MAP_READ] != 0:
        if collection and _urgent(m, unit):
            return Q_MAP_READ * 8 + Q_GC_READ
        return Q_MAP_READ * 8 + (Q_USER_READ if user else 7)
    if not user and not collection:
        return -1
    if _urgent(m, unit):
        if collection:
            return Q_GC_READ * 8 + (Q_USER_READ if user else 7)
        if m[h + Q_GC_WRITE] != 0 or m[h + Q_ERASE] != 0:
            return -1
        return Q_USER_READ * 8 + 7
    if user:
        return Q_USER_READ * 8 + (Q_GC_READ if collection else 7)
    return Q_GC_READ * 8 + 7 if m[h + Q_USER_WRITE] == 0 else -1


@compiled
def _writes_first(m, unit):
    """As :func:`_reads_first`, for programs."""
    h = unit + U_HEAD
    user, collection = m[h + Q_USER_WRITE] != 0, m[h + Q_GC_WRITE] != 0
    if not user and not collection:
        return -1
    if _urgent(m, unit):
        if collection:
            return Q_GC_WRITE * 8 + (Q_USER_WRITE if user else 7)
        return -1 if m[h + Q_ERASE] != 0 else Q_USER_WRITE * 8 + 7
    if user:
        return Q_USER_WRITE * 8 + (Q_GC_WRITE if collection else 7)
    return Q_GC_WRITE * 8 + 7


@compiled
def _companions(m, unit, queue, kind, die, page, taken, last):
    """Move what may join a multi-plane command from a queue to the end of its list; the planes then taken.

    Programs of one plane keep their order: one that cannot join keeps those behind it back as well. The look
    ends when all planes are taken, or after :data:`LOOK` transactions.
    """
    before = looked = 0
    whole = (1 << m[PLANES_PER_DIE]) - 1
    txn = m[unit + U_HEAD + queue]
    kept = taken
    while txn != 0 and kept != whole and looked < LOOK:
        looked += 1
        following = m[txn + T_NEXT]
        bit = m[txn + T_BIT]
        joins = m[txn + T_DIE] == die and (kept & bit) == 0 and (kind == ERASE or m[txn + T_PAGE] == page)
        if joins:
            if before == 0:
                m[unit + U_HEAD + queue] = following
            else:
                m[before + T_NEXT] = following
            if m[unit + U_TAIL + queue] == txn:
                m[unit + U_TAIL + queue] = before
            m[unit + U_COUNT] -= 1
            m[txn + T_NEXT] = 0
            m[last + T_NEXT] = txn
            last = txn
            taken |= bit
            kept |= bit
        else:
            if kind == WRITE and m[txn + T_DIE] == die:
                kept |= bit
            before = txn
        txn = following
    return taken, last


@compiled
def _retry_ns(m, txn, array):
    """What retries add to the array time of a read, and to its command's."""
    block = m[txn + T_BLOCK]
    worn = min(m[block + B_ERASES], m[RATED])
    chance = m[RETRY_FRESH] + (m[RETRY_WORN] - m[RETRY_FRESH]) * worn // m[RATED]
    if random_below(m, 1 << 40) >= chance:
        return 0
    m[RETRIED] += 1
    return array * m[RETRIES]


@compiled
def _issue(m, unit, now, kind, packed, extra, pending):
    """Send a command: take the head of the first queue and its companions, and hold the bus.

    ``extra`` ns pass before the array starts (a suspension); ``pending``: the array still programs, and this
    program waits in the register (cache program).
    """
    first, second = packed >> 3, packed & 7
    txn = m[unit + U_HEAD + first]
    following = m[txn + T_NEXT]
    m[unit + U_HEAD + first] = following
    m[unit + U_COUNT] -= 1
    m[txn + T_NEXT] = 0
    page = m[txn + T_PAGE]
    if m[MULTI_PLANE] != 0 and m[PLANES_PER_DIE] > 1:
        taken, last = m[txn + T_BIT], txn
        if following != 0:
            taken, last = _companions(m, unit, first, kind, m[txn + T_DIE], page, taken, last)
        if second != 7:
            _companions(m, unit, second, kind, m[txn + T_DIE], page, taken, last)
    count, data, retry = 0, 0, 0
    one = txn
    while one != 0:
        count += 1
        if kind == WRITE:
            data += bus_ns(m, m[one + T_BYTES])
            m[BUS_BYTES] += m[one + T_BYTES]
        elif kind == READ and m[RETRY_FRESH] + m[RETRY_WORN] != 0:
            retry = max(retry, _retry_ns(m, one, m[m[AT_READ] + page]))
        one = m[one + T_NEXT]
    command = m[m[AT_BUS] + 17 * kind + count] + data
    if kind == READ:
        array = m[m[AT_READ] + page] + retry
        m[READ_COMMANDS] += count == 1
        m[READ_MULTI] += count > 1
        m[READ_PAGES] += count
    elif kind == WRITE:
        array = m[m[AT_PROGRAM] + page]
        m[PROGRAM_COMMANDS] += count == 1
        m[PROGRAM_MULTI] += count > 1
        m[PROGRAM_PAGES] += count
    else:
        array = m[ERASE_NS]
        m[ERASE_COMMANDS] += 1
        m[ERASE_BLOCKS] += count
    channel = m[unit + U_CHANNEL]
    free = now + command
    m[channel + C_BUSY] = 1
    m[channel + C_TXN] = 0
    m[channel + C_BUSY_NS] += command
    push(m, free, m[channel + C_INDEX])
    if m[LOG_SIZE] != 0:
        one = txn
        while one != 0:
            log(
                m, now, free, kind, m[unit + U_INDEX], m[one + T_PPN], m[one + T_LPN], m[one + T_SOURCE], page
            )
            one = m[one + T_NEXT]
    if pending:
        m[unit + U_PENDING] = txn
        m[unit + U_PENDING_READY] = free
        m[unit + U_PENDING_NS] = array
        m[CACHED_COMMANDS] += 1
        return
    start(m, unit, txn, kind, free + extra, array)


@compiled
def start(m, unit, txn, kind, begin, array):
    """Let the array work from ``begin``; the controller notices the end of a read a little later."""
    m[unit + U_BUSY_NS] += array
    m[unit + U_ACTIVE] = txn
    m[unit + U_STATE] = READING if kind == READ else (WRITING if kind == WRITE else ERASING)
    m[unit + U_END] = begin + array + (m[READY] if kind == READ else 0)
    m[unit + U_STAMP] = push(m, m[unit + U_END], m[CHANNELS] + m[unit + U_INDEX])


@compiled
def _suspend(m, unit, now):
    """Set the running program or erase aside; what it still needs is remembered."""
    m[unit + U_ASIDE] = m[unit + U_ACTIVE]
    m[unit + U_ASIDE_STATE] = m[unit + U_STATE]
    m[unit + U_ASIDE_NS] = m[unit + U_END] - now
    m[unit + U_BUSY_NS] -= m[unit + U_ASIDE_NS]
    m[unit + U_STATE] = IDLE
    m[unit + U_STAMP] = 0
    m[unit + U_SUSPENDS] += 1
    m[SUSPENDED] += 1


@compiled
def _resume(m, unit, now):
    left = m[unit + U_ASIDE_NS] + m[RESUME_NS]
    kind = WRITE if m[unit + U_ASIDE_STATE] == WRITING else ERASE
    txn = m[unit + U_ASIDE]
    m[unit + U_ASIDE] = 0
    start(m, unit, txn, kind, now, left)


@compiled
def serve(m, unit, now):
    """Give a unit its next command, if it can take one. Its channel is idle."""
    state = m[unit + U_STATE]
    if m[unit + U_COUNT] == 0 and m[unit + U_ASIDE] == 0:
        return
    if state == IDLE:
        waiting = m[unit + U_OUT]
        if m[unit + U_ASIDE] != 0:
            reads = _reads_first(m, unit)
            if reads >= 0 and waiting == 0:
                _issue(m, unit, now, READ, reads, 0, False)
            elif reads < 0 and waiting == 0:
                _resume(m, unit, now)
            return
        # With a cache register the array may read on while data wait; nothing else may.
        if waiting != 0 and m[CACHE] == 0:
            return
        reads = _reads_first(m, unit)
        if reads >= 0:
            _issue(m, unit, now, READ, reads, 0, False)
            return
        if waiting != 0:
            return
        writes = _writes_first(m, unit)
        if writes >= 0:
            m[unit + U_SUSPENDS] = 0
            _issue(m, unit, now, WRITE, writes, 0, False)
        elif m[unit + U_HEAD + Q_ERASE] != 0:
            m[unit + U_SUSPENDS] = 0
            _issue(m, unit, now, ERASE, Q_ERASE * 8 + 7, 0, False)
        return
    if state != WRITING and state != ERASING:
        return
    reads = _reads_first(m, unit)
    if reads >= 0:
        allowed = m[SUSPEND_P] if state == WRITING else m[SUSPEND_E]
        idle_register = m[unit + U_PENDING] == 0 and m[unit + U_OUT] == 0
        worth = m[unit + U_END] - now > m[SUSPEND_NS] + m[RESUME_NS]
        if allowed and idle_register and worth and m[unit + U_SUSPENDS] < m[SUSPENDS_MAX]:
            if m[unit + U_ASIDE] == 0:
                _suspend(m, unit, now)
                _issue(m, unit, now, READ, reads, m[SUSPEND_NS], False)
        return
    if state == WRITING and m[CACHE] != 0 and m[unit + U_PENDING] == 0:
        writes = _writes_first(m, unit)
        if writes >= 0:
            _issue(m, unit, now, WRITE, writes, 0, True)


@compiled
def kick(m, channel, now):
    """Look for a command for an idle channel: one turn over its units from where the last look ended."""
    count = m[UNITS_PER_CHANNEL]
    turn = m[channel + C_TURN]
    for _ in range(count):
        if m[channel + C_BUSY] != 0:
            break
        unit = m[channel + C_FIRST] + turn * U_SIZE
        turn += 1
        if turn == count:
            turn = 0
        serve(m, unit, now)
    m[channel + C_TURN] = turn


@compiled
def send_out(m, channel, txn, now):
    """Move a page that was read over the bus."""
    size = m[txn + T_BYTES]
    took = bus_ns(m, size)
    m[BUS_BYTES] += size
    m[channel + C_BUSY] = 2
    m[channel + C_TXN] = txn
    m[channel + C_BUSY_NS] += took
    push(m, now + took, m[channel + C_INDEX])
    if m[LOG_SIZE] != 0:
        unit = m[m[txn + T_UNIT] + U_INDEX]
        log(
            m,
            now,
            now + took,
            LOG_OUT,
            unit,
            m[txn + T_PPN],
            m[txn + T_LPN],
            m[txn + T_SOURCE],
            m[txn + T_PAGE],
        )


@compiled
def offer_out(m, txn, now):
    """A page waits in a register: over the bus at once, or into the channel's queue of its kind."""
    channel = m[txn + T_CHANNEL]
    m[txn + T_NEXT] = 0
    if m[channel + C_BUSY] == 0:
        send_out(m, channel, txn, now)
        return
    source = m[txn + T_SOURCE]
    queue = 0 if source == MAP else (2 if source == GC else 1)
    if m[channel + C_OUT + queue] == 0:
        m[channel + C_OUT + queue] = txn
    else:
        m[m[channel + C_OUT_TAIL + queue] + T_NEXT] = txn
    m[channel + C_OUT_TAIL + queue] = txn


@compiled
def next_on_channel(m, channel, now):
    """A bus got free: waiting data first, mapping before host before collection, then new commands."""
    m[channel + C_BUSY] = 0
    for queue in range(3):
        txn = m[channel + C_OUT + queue]
        if txn != 0:
            unit = m[txn + T_UNIT]
            if m[CACHE] != 0 and m[unit + U_STATE] == IDLE and m[unit + U_COUNT] != 0:
                # The die may read on while its last page crosses the bus: its command first.
                serve(m, unit, now)
                if m[channel + C_BUSY] != 0:
                    return
            m[channel + C_OUT + queue] = m[txn + T_NEXT]
            send_out(m, channel, txn, now)
            return
    kick(m, channel, now)
