"""The drive engine: one loop from event to event over NVMe queues, the wire, the map, dies and buses.

Events come from three places: the two directions of the wire, whose messages arrive in the order they were
sent, and a heap with at most one event per bus and per unit. A request goes doorbell, fetch, entry, (write: pull
and data,) pages, (read: data,) completion. Everything that a request or a page waits for is a list from which
the event that ends the wait takes it; nothing is looked at in vain.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM102
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"

from __future__ import annotations

from hw_configs.compiled import compiled
from simulator.flash.ftl import (
    block_of,
    collect,
    drop,
    gc_page,
    give_back_block,
    invalidate,
    level_wear,
    may_write,
    new_transaction,
    place,
    try_erase,
    user_page,
)
from simulator.flash.layout import (
    AT_BLOCK,
    AT_CHANNEL,
    AT_HEAP,
    AT_HISTOGRAM,
    AT_MAPPED,
    AT_ORDER,
    AT_QUEUE,
    AT_REQUEST,
    AT_RING,
    AT_SLOT,
    AT_SPARE,
    AT_UNIT,
    B_MOVES,
    B_PROGRAMMED,
    B_READS,
    B_SIZE,
    B_STATE,
    B_SUPERSEDED,
    B_WRITES,
    BARRIERS,
    BIN_BITS,
    BINS,
    BUFFER,
    BUFFER_HEAD,
    BUFFER_HITS,
    BUFFER_PEAK,
    BUFFER_TAIL,
    BUFFERED,
    BYTES_READ,
    BYTES_WRITTEN,
    C_BUSY,
    C_SIZE,
    C_TXN,
    CACHE,
    CHANNELS,
    COMMAND_NS,
    CURSOR,
    EVENTS,
    FAULT,
    FETCH,
    FIRMWARE_FREE,
    FREE_REQUEST,
    FREE_TXNS,
    GC,
    GC_RESERVE,
    GC_THRESHOLD,
    GRANULE,
    HEAP_COUNT,
    HOLDING,
    HOST_PAGES_READ,
    HOST_PAGES_WRITTEN,
    IDLE,
    IN_FLIGHT,
    INTERNAL,
    K_DATA,
    K_DONE,
    K_DOORBELL,
    K_ENTRY,
    K_FETCH,
    K_NONE,
    K_PULL,
    LANES,
    LAST_DONE,
    LAST_NS,
    LAST_SIZE,
    LOG_DONE,
    LOG_ERASED,
    LOG_INSTANT,
    LOG_PLACED,
    LOG_PROGRAMMED,
    LOG_SIZE,
    LOGICAL,
    MAP,
    MAP_HITS,
    MAP_MISSES,
    MAP_REACH,
    MAP_READS,
    MAP_SLOTS,
    MAP_WRITES,
    MERGE,
    MERGE_READS,
    N_READ,
    N_TRIM,
    N_WRITE,
    NEXT_QUEUE,
    NOW,
    NS_COMPLETION,
    NS_DOORBELL,
    NS_ENTRY,
    NS_REQUEST,
    OVERHEAD,
    P_BARRIER,
    P_BARRIER_TAIL,
    P_CHANNEL,
    P_FREE,
    P_RUNNING,
    P_USER,
    P_WAIT,
    P_WAIT_TAIL,
    PAGE_BYTES,
    PAGES,
    PARKED_HEAD,
    PARKED_TAIL,
    PARTIAL,
    PAYLOAD,
    PLANES,
    Q_HEAD,
    Q_HELD,
    Q_SIZE,
    Q_TAIL,
    Q_WAITING,
    QUEUE_PAIRS,
    R_ADDRESS,
    R_BYTES,
    R_INDEX,
    R_LEFT,
    R_NEXT,
    R_OP,
    R_QUEUE,
    R_SIZE,
    R_SUBMIT,
    READ,
    READ_OVERHEAD,
    READING,
    REQUESTS,
    RING_HEAD,
    RING_HEAD_1,
    RING_SIZE,
    RING_TAIL,
    RING_TAIL_1,
    S_DIRTY,
    S_LOADING,
    S_NEXT,
    S_PAGE,
    S_PREV,
    S_SIZE,
    SLOT_HEAD,
    SLOT_TAIL,
    SLOTS_USED,
    SPARE,
    STALLS,
    T_BLOCK,
    T_BYTES,
    T_CHANNEL,
    T_KIND,
    T_LPN,
    T_NEXT,
    T_OLD,
    T_PAGE,
    T_PLANE,
    T_PPN,
    T_REQUEST,
    T_SEQUENCE,
    T_SOURCE,
    T_UNIT,
    TRIM,
    U_ACTIVE,
    U_CHANNEL,
    U_HOLD,
    U_OUT,
    U_PENDING,
    U_PENDING_NS,
    U_PENDING_READY,
    U_SIZE,
    U_STAMP,
    U_STATE,
    UNITS,
    USER,
    VICTIM,
    WAITING,
    WIRE_BUSY,
    WIRE_FREE,
    WIRE_RATE,
    WRITE,
    WRITE_OVERHEAD,
    WRITE_SEQUENCE,
    WRITING,
)
from simulator.flash.pointer import pointer_to
from simulator.flash.scheduler import (
    enqueue,
    kick,
    log,
    next_on_channel,
    offer_out,
    pop_event,
    push,
    release,
    serve,
    start,
)

__all__ = ["DONE", "GROW", "NEED", "STOPPED", "STUCK", "count_request", "message_ns", "run"]

NEED, DONE, GROW, STOPPED, STUCK = range(5)
"""Why ``run`` came back: it wants the next chunk; all is done; transactions ran out; asked to; nothing moves."""

FOREVER = 1 << 62


@compiled
def _send(m, to_host, now, took, kind, payload):
    """Put a message on the wire behind those already on it."""
    free = m[WIRE_FREE + to_host]
    arrives = (free if free > now else now) + took
    m[WIRE_FREE + to_host] = arrives
    m[WIRE_BUSY + to_host] += took
    if kind != K_NONE:
        size = m[RING_SIZE]
        at = m[AT_RING] + 2 * (to_host * size + (m[RING_TAIL + to_host] & (size - 1)))
        m[at] = arrives
        m[at + 1] = (payload << 3) | kind
        m[RING_TAIL + to_host] += 1


@compiled
def message_ns(m, size):
    """Time of data on the wire."""
    if m[INTERNAL] != 0:
        return 0
    if size == m[LAST_SIZE]:
        return m[LAST_NS]
    raw = size + (size + m[PAYLOAD] - 1) // m[PAYLOAD] * m[OVERHEAD]
    padded = (raw + m[LANES] - 1) // m[LANES] * m[LANES]
    m[LAST_SIZE] = size
    m[LAST_NS] = ((padded << 20) + m[WIRE_RATE] - 1) // m[WIRE_RATE]
    return m[LAST_NS]


@compiled
def _append(m, holder, head, tail, record, link):
    """Put a record at the end of a list whose ends stand in ``holder``."""
    m[record + link] = 0
    if m[holder + head] == 0:
        m[holder + head] = record
    else:
        m[m[holder + tail] + link] = record
    m[holder + tail] = record


@compiled
def _submit(m, now, since, op, address, size, index):
    """The host puts a request into a submission queue and rings the doorbell; it counts from ``since``."""
    request = m[FREE_REQUEST]
    m[FREE_REQUEST] = m[request + R_NEXT]
    m[IN_FLIGHT] += 1
    m[request + R_OP] = op
    m[request + R_ADDRESS] = address
    m[request + R_BYTES] = size
    m[request + R_SUBMIT] = since
    m[request + R_INDEX] = index
    if m[INTERNAL] != 0:
        _send(m, 0, now, 0, K_DATA, request)
        return
    number = m[NEXT_QUEUE]
    m[NEXT_QUEUE] = 0 if number + 1 == m[QUEUE_PAIRS] else number + 1
    m[request + R_QUEUE] = number
    queue = m[AT_QUEUE] + number * Q_SIZE
    _append(m, queue, Q_HEAD, Q_TAIL, request, R_NEXT)
    _send(m, 0, now, m[NS_DOORBELL], K_DOORBELL, queue)


@compiled
def _fetch(m, queue, now):
    """Ask for the next entry of a queue, if the drive may hold one more of its requests."""
    if m[queue + Q_WAITING] > 0 and m[queue + Q_HELD] < m[FETCH]:
        m[queue + Q_WAITING] -= 1
        m[queue + Q_HELD] += 1
        _send(m, 1, now, m[NS_REQUEST], K_FETCH, queue)


@compiled
def _finish(m, request, now):
    """All pages of a request are done: data and completion go to the host."""
    if m[INTERNAL] != 0:
        _send(m, 1, now, 0, K_DONE, request)
        return
    queue = m[AT_QUEUE] + m[request + R_QUEUE] * Q_SIZE
    m[queue + Q_HELD] -= 1
    _fetch(m, queue, now)
    if m[request + R_OP] == READ:
        _send(m, 1, now, message_ns(m, m[request + R_BYTES]), K_NONE, 0)
    _send(m, 1, now, m[NS_COMPLETION], K_DONE, request)


@compiled
def _page_done(m, request, now):
    if request != 0:
        m[request + R_LEFT] -= 1
        if m[request + R_LEFT] == 0:
            _finish(m, request, now)


@compiled
def _bin(value):
    """The histogram bin of a latency: its leading bits."""
    shift = 0
    small = value
    while small >= (2 << BIN_BITS):
        small >>= 1
        shift += 1
    return (shift << BIN_BITS) + small


@compiled
def count_request(m, request, now, latencies, kept):
    """Book a completed request."""
    op, size = m[request + R_OP], m[request + R_BYTES]
    took = now - m[request + R_SUBMIT]
    row = 0 if op == READ else (1 if op == WRITE else 2)
    if row == 0:
        m[N_READ] += 1
        m[BYTES_READ] += size
    elif row == 1:
        m[N_WRITE] += 1
        m[BYTES_WRITTEN] += size
    else:
        m[N_TRIM] += 1
    at = m[AT_HISTOGRAM] + row * (BINS + 4)
    m[at + _bin(took)] += 1
    at += BINS
    if m[at + 3] == 0 or took < m[at]:
        m[at] = took
    m[at + 1] = max(m[at + 1], took)
    m[at + 2] += took
    m[at + 3] += 1
    m[LAST_DONE] = now
    if m[request + R_INDEX] < kept:
        latencies[m[request + R_INDEX]] = took
    if m[LOG_SIZE] != 0:
        log(m, now, now, LOG_DONE, op, m[request + R_ADDRESS], size, 0, m[request + R_INDEX])
    m[request + R_NEXT] = m[FREE_REQUEST]
    m[FREE_REQUEST] = request
    m[IN_FLIGHT] -= 1


# --- the cached map -----------------------------------------------------------------------------------------


@compiled
def _to_front(m, slot):
    """A slot was used: it is the last to be given up."""
    if m[SLOT_HEAD] == slot:
        return
    before, after = m[slot + S_PREV], m[slot + S_NEXT]
    if before != 0:
        m[before + S_NEXT] = after
    if after != 0:
        m[after + S_PREV] = before
    if m[SLOT_TAIL] == slot:
        m[SLOT_TAIL] = before
    head = m[SLOT_HEAD]
    m[slot + S_PREV] = 0
    m[slot + S_NEXT] = head
    if head != 0:
        m[head + S_PREV] = slot
    else:
        m[SLOT_TAIL] = slot
    m[SLOT_HEAD] = slot


@compiled
def _mapped(m, l2p, p2l, aux, txn, now):
    """Whether the map entry of a transaction is in DRAM; if not, it is fetched and the transaction waits."""
    page = m[txn + T_LPN] // m[MAP_REACH]
    slot = m[m[AT_MAPPED] + page]
    changes = m[txn + T_KIND] == WRITE
    if slot != 0 and m[slot + S_LOADING] == 0:
        m[MAP_HITS] += 1
        m[slot + S_DIRTY] |= changes
        _to_front(m, slot)
        return True
    if slot != 0:
        _append(m, 0, PARKED_HEAD, PARKED_TAIL, txn, T_NEXT)
        return False
    evicted = -1
    if m[SLOTS_USED] < m[MAP_SLOTS]:
        slot = m[AT_SLOT] + m[SLOTS_USED] * S_SIZE
        m[SLOTS_USED] += 1
    else:
        slot = m[SLOT_TAIL]
        while slot != 0 and m[slot + S_LOADING] != 0:
            slot = m[slot + S_PREV]
        if slot == 0:
            _append(m, 0, PARKED_HEAD, PARKED_TAIL, txn, T_NEXT)
            return False
        m[m[AT_MAPPED] + m[slot + S_PAGE]] = 0
        if m[slot + S_DIRTY] != 0:
            evicted = m[slot + S_PAGE]
    m[MAP_MISSES] += 1
    m[slot + S_PAGE] = page
    m[slot + S_DIRTY] = changes
    m[m[AT_MAPPED] + page] = slot
    _to_front(m, slot)
    known = l2p[m[LOGICAL] + page] != 0
    if m[PARTIAL] != 0 and (aux[m[LOGICAL] + page] >> 16) != 0:
        known = False
    m[slot + S_LOADING] = known
    if evicted >= 0:
        m[MAP_WRITES] += 1
        if m[PARTIAL] != 0:
            aux[m[LOGICAL] + evicted] += 0x10000
        _send_map_page(m, l2p, p2l, aux, WRITE, evicted, now)
    if not known:
        return True
    m[MAP_READS] += 1
    _append(m, 0, PARKED_HEAD, PARKED_TAIL, txn, T_NEXT)
    _send_map_page(m, l2p, p2l, aux, READ, page, now)
    return False


@compiled
def _send_map_page(m, l2p, p2l, aux, kind, page, now):
    """Read or write a page of the map itself."""
    txn = new_transaction(m, kind, MAP, m[LOGICAL] + page, 0, m[PAGE_BYTES])
    if _place_page(m, l2p, p2l, aux, txn, now):
        _kick(m, txn, now)


@compiled
def _map_loaded(m, l2p, p2l, aux, page, now):
    """A translation page came in: whoever waited for it, or for a slot, is tried again."""
    slot = m[m[AT_MAPPED] + page]
    if slot != 0:
        m[slot + S_LOADING] = 0
    last = m[PARKED_TAIL]
    while m[PARKED_HEAD] != 0:
        txn = m[PARKED_HEAD]
        m[PARKED_HEAD] = m[txn + T_NEXT]
        _translate(m, l2p, p2l, aux, txn, now)
        if txn == last:
            break


# --- pages --------------------------------------------------------------------------------------------------


@compiled
def _kick(m, txn, now):
    channel = m[txn + T_CHANNEL]
    if m[channel + C_BUSY] == 0:
        kick(m, channel, now)


@compiled
def _translate(m, l2p, p2l, aux, txn, now):
    """Find the place of a page, and queue it there at once (all of a request together: see ``_start``)."""
    if m[MAP_SLOTS] != 0 and m[txn + T_SOURCE] != MAP:
        if not _mapped(m, l2p, p2l, aux, txn, now):
            return
    if _place_page(m, l2p, p2l, aux, txn, now):
        _kick(m, txn, now)


@compiled
def _mask(m, first, size):
    """Which sixteenths of a page some of its bytes cover."""
    low = first // m[GRANULE]
    high = min((first + size + m[GRANULE] - 1) // m[GRANULE], 16)
    return ((1 << high) - 1) & ~((1 << low) - 1)


@compiled
def _ones(mask):
    """How many parts of a page a mask names."""
    count = 0
    while mask != 0:
        mask &= mask - 1
        count += 1
    return count


@compiled
def _place_page(m, l2p, p2l, aux, txn, now):
    """Give a page its place and put it into its unit's queue. False: it waits, or was done without flash."""
    lpn, kind = m[txn + T_LPN], m[txn + T_KIND]
    ppn = l2p[lpn] - 1
    plane = m[m[AT_ORDER] + lpn % m[PLANES]]
    if ppn >= 0 and m[block_of(m, ppn) + B_STATE] == VICTIM:
        m[BARRIERS] += 1
        _append(m, plane, P_BARRIER, P_BARRIER_TAIL, txn, T_NEXT)
        return False
    if kind == READ:
        if m[PARTIAL] != 0 and (aux[lpn] >> 16) != 0 and m[txn + T_SOURCE] == USER:
            m[BUFFER_HITS] += 1
            request = m[txn + T_REQUEST]
            release(m, txn)
            _page_done(m, request, now)
            return False
        if ppn < 0:
            # Data that nobody wrote in this run: taken to have been there, in the order they are met.
            if m[plane + P_USER] == 0 and not may_write(m, l2p, p2l, plane, now):
                m[STALLS] += 1
                _append(m, plane, P_WAIT, P_WAIT_TAIL, txn, T_NEXT)
                return False
            ppn = user_page(m, plane)
            l2p[lpn] = ppn + 1
            p2l[ppn] = lpn + 1
            if m[PARTIAL] != 0:
                aux[lpn] |= 0xFFFF
            if m[SPARE] != 0:
                m[m[AT_SPARE] + ppn] = 1
            if m[LOG_SIZE] != 0:
                log(m, now, now, LOG_INSTANT, 0, ppn, lpn, USER, 0)
            if m[plane + P_FREE] < m[GC_THRESHOLD] and ppn % m[PAGES] == m[PAGES] - 1:
                collect(m, l2p, p2l, plane, now)
        place(m, txn, plane, ppn)
        m[m[txn + T_BLOCK] + B_READS] += 1
        enqueue(m, txn)
        return True
    if m[PARTIAL] != 0 and m[txn + T_SOURCE] == USER and ppn >= 0:
        held = aux[lpn] & 0xFFFF
        alone = (aux[lpn] >> 16) < 2
        if alone and held & ~m[txn + T_SEQUENCE] != 0:
            # Part of the page stays: it is read first and written together with the new part.
            m[MERGE_READS] += 1
            m[txn + T_KIND] = READ
            m[txn + T_SOURCE] = MERGE
            m[txn + T_BYTES] = min(_ones(held & ~m[txn + T_SEQUENCE]) * m[GRANULE], m[PAGE_BYTES])
            place(m, txn, plane, ppn)
            m[m[txn + T_BLOCK] + B_READS] += 1
            enqueue(m, txn)
            return True
    if not may_write(m, l2p, p2l, plane, now):
        m[STALLS] += 1
        _append(m, plane, P_WAIT, P_WAIT_TAIL, txn, T_NEXT)
        return False
    _place_write(m, l2p, p2l, aux, txn, plane, now)
    return True


@compiled
def _place_write(m, l2p, p2l, aux, txn, plane, now):
    """Take the next page of the frontier for a write; the old copy is worth nothing from now on."""
    lpn = m[txn + T_LPN]
    old = l2p[lpn] - 1
    ppn = user_page(m, plane)
    if old >= 0:
        invalidate(m, old)
        m[block_of(m, old) + B_SUPERSEDED] += 1
        m[txn + T_OLD] = block_of(m, old)
    if m[PARTIAL] != 0:
        aux[lpn] |= (m[txn + T_SEQUENCE] & 0xFFFF) if m[txn + T_SOURCE] == USER else 0xFFFF
    m[WRITE_SEQUENCE] += 1
    m[txn + T_SEQUENCE] = m[WRITE_SEQUENCE]
    l2p[lpn] = ppn + 1
    p2l[ppn] = lpn + 1
    place(m, txn, plane, ppn)
    m[m[txn + T_BLOCK] + B_WRITES] += 1
    if m[LOG_SIZE] != 0:
        request = m[txn + T_REQUEST]
        index = m[request + R_INDEX] if request != 0 else -1
        log(m, now, now, LOG_PLACED, index, ppn, lpn, m[txn + T_SOURCE], m[WRITE_SEQUENCE])
    enqueue(m, txn)
    if ppn % m[PAGES] == m[PAGES] - 1:
        collect(m, l2p, p2l, plane, now)


@compiled
def _wake(m, l2p, p2l, aux, plane, lpn, now):
    """The move of a page ended: what waited for it goes on."""
    last = m[plane + P_BARRIER_TAIL]
    while m[plane + P_BARRIER] != 0:
        txn = m[plane + P_BARRIER]
        m[plane + P_BARRIER] = m[txn + T_NEXT]
        end = txn == last
        if m[txn + T_LPN] != lpn:
            _append(m, plane, P_BARRIER, P_BARRIER_TAIL, txn, T_NEXT)
        elif m[txn + T_KIND] == TRIM:
            request = m[txn + T_REQUEST]
            drop(m, l2p, lpn, now)
            if m[PARTIAL] != 0:
                aux[lpn] &= 0xFFFF0000
            release(m, txn)
            _page_done(m, request, now)
        else:
            if _place_page(m, l2p, p2l, aux, txn, now):
                _kick(m, txn, now)
        if end:
            break


@compiled
def _serve_waiting(m, l2p, p2l, aux, plane, now):
    """Writes that waited for room in a plane go on while there is some."""
    while m[plane + P_WAIT] != 0 and may_write(m, l2p, p2l, plane, now):
        txn = m[plane + P_WAIT]
        m[plane + P_WAIT] = m[txn + T_NEXT]
        if _place_page(m, l2p, p2l, aux, txn, now):
            _kick(m, txn, now)


# --- ends of flash operations ---------------------------------------------------------------------------------


@compiled
def _read_done(m, l2p, p2l, aux, txn, now):
    source = m[txn + T_SOURCE]
    if source == GC:
        plane, old, lpn = m[txn + T_PLANE], m[txn + T_PPN], m[txn + T_LPN]
        if l2p[lpn] != old + 1:
            m[FAULT] = 1
        m[txn + T_KIND] = WRITE
        m[txn + T_OLD] = old
        ppn = gc_page(m, plane)
        invalidate(m, old)
        p2l[ppn] = lpn + 1
        place(m, txn, plane, ppn)
        m[m[txn + T_BLOCK] + B_WRITES] += 1
        if m[SPARE] != 0:
            m[txn + T_SEQUENCE] = m[m[AT_SPARE] + old]
        enqueue(m, txn)
        _kick(m, txn, now)
        if ppn % m[PAGES] == m[PAGES] - 1:
            collect(m, l2p, p2l, plane, now)
        return
    block = m[txn + T_BLOCK]
    m[block + B_READS] -= 1
    lpn, request = m[txn + T_LPN], m[txn + T_REQUEST]
    if source == MERGE:
        m[txn + T_KIND] = WRITE
        m[txn + T_SOURCE] = USER
        m[txn + T_SEQUENCE] |= aux[lpn] & 0xFFFF
        m[txn + T_BYTES] = min(_ones(m[txn + T_SEQUENCE]) * m[GRANULE], m[PAGE_BYTES])
        if _place_page(m, l2p, p2l, aux, txn, now):
            _kick(m, txn, now)
        try_erase(m, block, now)
        return
    release(m, txn)
    try_erase(m, block, now)
    if source == MAP:
        _map_loaded(m, l2p, p2l, aux, lpn - m[LOGICAL], now)
    else:
        _page_done(m, request, now)


@compiled
def _program_done(m, l2p, p2l, aux, txn, now):
    block, lpn, plane = m[txn + T_BLOCK], m[txn + T_LPN], m[txn + T_PLANE]
    ppn, request, source = m[txn + T_PPN], m[txn + T_REQUEST], m[txn + T_SOURCE]
    if m[txn + T_PAGE] < m[block + B_PROGRAMMED]:
        m[FAULT] = 2
    m[block + B_PROGRAMMED] = m[txn + T_PAGE] + 1
    m[block + B_WRITES] -= 1
    if m[SPARE] != 0:
        at = m[AT_SPARE] + ppn
        if m[at] != 0:
            m[FAULT] = 3
        m[at] = m[txn + T_SEQUENCE]
    if m[LOG_SIZE] != 0:
        log(m, now, now, LOG_PROGRAMMED, 0, ppn, lpn, source, 0)
    old = m[txn + T_OLD]
    release(m, txn)
    if source == GC:
        if l2p[lpn] != old + 1:
            m[FAULT] = 4
        l2p[lpn] = ppn + 1
        victim = block_of(m, old)
        m[victim + B_MOVES] -= 1
        if m[plane + P_BARRIER] != 0:
            _wake(m, l2p, p2l, aux, plane, lpn, now)
        try_erase(m, victim, now)
        return
    if old >= 0:
        m[old + B_SUPERSEDED] -= 1
        try_erase(m, old, now)
    if m[PARTIAL] != 0:
        aux[lpn] -= 0x10000
    if m[BUFFER] != 0 and source == USER:
        m[BUFFERED] -= 1
        _admit(m, l2p, p2l, aux, now)
    elif request != 0:
        _page_done(m, request, now)
    if m[plane + P_WAIT] != 0 and m[plane + P_RUNNING] == 0:
        _serve_waiting(m, l2p, p2l, aux, plane, now)


@compiled
def _erase_done(m, l2p, p2l, aux, txn, now):
    plane, block = m[txn + T_PLANE], m[txn + T_BLOCK]
    if m[LOG_SIZE] != 0:
        log(m, now, now, LOG_ERASED, 0, m[txn + T_PPN], -1, GC, 0)
    if m[SPARE] != 0:
        first = m[AT_SPARE] + (block - m[AT_BLOCK]) // B_SIZE * m[PAGES]
        for page in range(m[PAGES]):
            m[first + page] = 0
    release(m, txn)
    m[plane + P_RUNNING] -= 1
    give_back_block(m, plane, block)
    level_wear(m, l2p, p2l, plane, now)
    _serve_waiting(m, l2p, p2l, aux, plane, now)
    if m[plane + P_FREE] < m[GC_RESERVE]:
        collect(m, l2p, p2l, plane, now)


# --- requests -----------------------------------------------------------------------------------------------


@compiled
def _start(m, l2p, p2l, aux, request, now):
    """A request is in the drive with its data: cut it into pages, queue all of them, then look at the buses."""
    op, address, size = m[request + R_OP], m[request + R_ADDRESS], m[request + R_BYTES]
    page_bytes = m[PAGE_BYTES]
    first, last = address // page_bytes, (address + size - 1) // page_bytes
    m[request + R_LEFT] = last - first + 1
    buffered = op == WRITE and m[BUFFER] != 0
    queued = 0
    for lpn in range(first, last + 1):
        begin = max(address - lpn * page_bytes, 0)
        end = min(address + size - lpn * page_bytes, page_bytes)
        if op == TRIM:
            _trim(m, l2p, aux, request, lpn, end - begin, now)
            continue
        txn = new_transaction(m, op, USER, lpn, 0 if buffered else request, end - begin)
        if op == WRITE:
            m[HOST_PAGES_WRITTEN] += 1
            if m[PARTIAL] != 0:
                m[txn + T_SEQUENCE] = _mask(m, begin, end - begin)
                # The controller holds these data until they are on flash; reads of them need no flash.
                aux[lpn] += 0x10000
        else:
            m[HOST_PAGES_READ] += 1
        if m[MAP_SLOTS] != 0:
            if not _mapped(m, l2p, p2l, aux, txn, now):
                continue
        if _place_page(m, l2p, p2l, aux, txn, now):
            queued += 1
    if queued == 0:
        return
    if first == last:
        channel = m[m[m[AT_ORDER] + first % m[PLANES]] + P_CHANNEL]
        if m[channel + C_BUSY] == 0:
            kick(m, channel, now)
        return
    for number in range(m[CHANNELS]):
        channel = m[AT_CHANNEL] + number * C_SIZE
        if m[channel + C_BUSY] == 0:
            kick(m, channel, now)


@compiled
def _trim(m, l2p, aux, request, lpn, size, now):
    """Forget a page that a trim covers whole; one being moved when the move has ended."""
    ppn = l2p[lpn] - 1
    if size == m[PAGE_BYTES] and ppn >= 0:
        if m[block_of(m, ppn) + B_STATE] == VICTIM:
            txn = new_transaction(m, TRIM, USER, lpn, request, 0)
            plane = m[m[AT_ORDER] + lpn % m[PLANES]]
            _append(m, plane, P_BARRIER, P_BARRIER_TAIL, txn, T_NEXT)
            return
        drop(m, l2p, lpn, now)
        if m[PARTIAL] != 0:
            aux[lpn] &= 0xFFFF0000
    _page_done(m, request, now)


@compiled
def _admit(m, l2p, p2l, aux, now):
    """Writes whose data wait outside the buffer enter while it has room, and are acknowledged."""
    while m[BUFFER_HEAD] != 0:
        request = m[BUFFER_HEAD]
        size = m[request + R_BYTES]
        first = m[request + R_ADDRESS] // m[PAGE_BYTES]
        pages = (m[request + R_ADDRESS] + size - 1) // m[PAGE_BYTES] - first + 1
        # A request larger than the buffer enters an empty one.
        if m[BUFFERED] + pages > m[BUFFER] and m[BUFFERED] > 0:
            return
        m[BUFFER_HEAD] = m[request + R_NEXT]
        m[BUFFERED] += pages
        m[BUFFER_PEAK] = max(m[BUFFER_PEAK], m[BUFFERED])
        _start(m, l2p, p2l, aux, request, now)
        _finish(m, request, now)


@compiled
def _arrive(m, l2p, p2l, aux, request, now):
    """A request with all it needs reaches the translation layer."""
    if m[request + R_OP] == WRITE and m[BUFFER] != 0:
        _append(m, 0, BUFFER_HEAD, BUFFER_TAIL, request, R_NEXT)
        _admit(m, l2p, p2l, aux, now)
    else:
        _start(m, l2p, p2l, aux, request, now)


@compiled
def _accept(m, l2p, p2l, aux, request, now):
    """An entry reached the drive: firmware takes its time, then the request starts."""
    begin = now
    if m[COMMAND_NS] != 0:
        m[FIRMWARE_FREE] = max(m[FIRMWARE_FREE], now) + m[COMMAND_NS]
        begin = m[FIRMWARE_FREE]
    op = m[request + R_OP]
    begin += m[READ_OVERHEAD] if op == READ else (m[WRITE_OVERHEAD] if op == WRITE else 0)
    if begin > now:
        number = (request - m[AT_REQUEST]) // R_SIZE
        push(m, begin, m[CHANNELS] + m[UNITS] + number)
    else:
        _accepted(m, l2p, p2l, aux, request, now)


@compiled
def _accepted(m, l2p, p2l, aux, request, now):
    if m[request + R_OP] == WRITE:
        _send(m, 1, now, m[NS_REQUEST], K_PULL, request)
    else:
        _arrive(m, l2p, p2l, aux, request, now)


@compiled
def _unit_event(m, l2p, p2l, aux, unit, now):
    """The array of a unit is done."""
    state = m[unit + U_STATE]
    channel = m[unit + U_CHANNEL]
    txn = m[unit + U_ACTIVE]
    m[unit + U_ACTIVE] = 0
    if state == READING:
        if m[unit + U_OUT] != 0:
            m[unit + U_HOLD] = txn
            m[unit + U_STATE] = HOLDING
        else:
            _offer(m, unit, txn, now)
    else:
        m[unit + U_STATE] = IDLE
        pending = m[unit + U_PENDING]
        if pending != 0:
            m[unit + U_PENDING] = 0
            begin = max(now, m[unit + U_PENDING_READY])
            start(m, unit, pending, WRITE, begin, m[unit + U_PENDING_NS])
        while txn != 0:
            following = m[txn + T_NEXT]
            if state == WRITING:
                _program_done(m, l2p, p2l, aux, txn, now)
            else:
                _erase_done(m, l2p, p2l, aux, txn, now)
            txn = following
    if m[channel + C_BUSY] == 0:
        kick(m, channel, now)


@compiled
def _offer(m, unit, txn, now):
    """Pages that were read are ready for the bus. With a cache register the next read is sent first."""
    one = txn
    while one != 0:
        m[unit + U_OUT] += 1
        one = m[one + T_NEXT]
    m[unit + U_STATE] = WAITING
    if m[CACHE] != 0:
        m[unit + U_STATE] = IDLE
        if m[m[unit + U_CHANNEL] + C_BUSY] == 0:
            serve(m, unit, now)
    while txn != 0:
        following = m[txn + T_NEXT]
        offer_out(m, txn, now)
        txn = following


@compiled
def _channel_event(m, l2p, p2l, aux, channel, now):
    """A bus is free again; if it carried a page that was read, the page is done."""
    if m[channel + C_BUSY] == 2:
        txn = m[channel + C_TXN]
        unit = m[txn + T_UNIT]
        _read_done(m, l2p, p2l, aux, txn, now)
        m[unit + U_OUT] -= 1
        if m[unit + U_OUT] == 0:
            if m[unit + U_STATE] == HOLDING:
                held = m[unit + U_HOLD]
                m[unit + U_HOLD] = 0
                _offer(m, unit, held, now)
            elif m[unit + U_STATE] == WAITING:
                m[unit + U_STATE] = IDLE
    next_on_channel(m, channel, now)


@compiled
def run(
    state, l2p_map, p2l_map, auxiliary, op, address, size, arrival, latencies, closed, final, stop, margin
):
    """Run until the chunk is used up, everything is done, or ``stop`` events have passed (0: no limit).

    The chunk's arrays are operation, byte address, bytes and, for an open loop, arrival in ns (else empty).
    ``closed``: requests kept in flight, 0 for an open loop. ``margin``: transactions that must be free before
    an event. Latencies go to ``latencies`` by request number as far as it reaches.
    """
    m, l2p, p2l, aux = pointer_to(state), pointer_to(l2p_map), pointer_to(p2l_map), pointer_to(auxiliary)
    recorded, kept = pointer_to(latencies), latencies.size
    count = op.size
    base = m[CURSOR]
    size_of_ring = m[RING_SIZE]
    most = closed if closed > 0 else m[REQUESTS]
    open_loop = closed == 0 and arrival.size > 0
    taken = 0
    units_from, requests_from = m[CHANNELS], m[CHANNELS] + m[UNITS]
    while True:
        now = m[NOW]
        # The host offers what it may at this moment; an event may have made room.
        while taken < count and m[IN_FLIGHT] < most and m[FREE_REQUEST] != 0:
            if open_loop and arrival[taken] > now:
                break
            # A request that waited in the host for a free entry counts from its arrival.
            since = arrival[taken] if open_loop else now
            _submit(m, now, since, op[taken], address[taken], size[taken], base + taken)
            taken += 1
        if taken == count and not final and m[IN_FLIGHT] < most:
            m[CURSOR] = base + taken
            return NEED
        if m[FREE_TXNS] < margin:
            m[CURSOR] = base + taken
            return GROW
        # The next event: from the wire to the drive, the wire to the host, or the heap.
        to_drive = to_host = FOREVER
        if m[RING_HEAD] != m[RING_TAIL]:
            to_drive = m[m[AT_RING] + 2 * (m[RING_HEAD] & (size_of_ring - 1))]
        if m[RING_HEAD_1] != m[RING_TAIL_1]:
            to_host = m[m[AT_RING] + 2 * (size_of_ring + (m[RING_HEAD_1] & (size_of_ring - 1)))]
        time = m[m[AT_HEAP]] if m[HEAP_COUNT] > 0 else FOREVER
        first = min(to_drive, to_host)
        if open_loop and taken < count and m[IN_FLIGHT] < most and m[FREE_REQUEST] != 0:
            if arrival[taken] <= min(first, time):
                m[NOW] = arrival[taken]
                continue
        if time == FOREVER and first == FOREVER:
            m[CURSOR] = base + taken
            return DONE if m[IN_FLIGHT] == 0 and taken == count else STUCK
        m[EVENTS] += 1
        if stop > 0 and m[EVENTS] > stop:
            m[EVENTS] -= 1
            m[CURSOR] = base + taken
            return STOPPED
        if time < first:
            m[NOW] = time
            stamp = pop_event(m)
            source = stamp & 0xFFFFF
            if source < units_from:
                _channel_event(m, l2p, p2l, aux, m[AT_CHANNEL] + source * C_SIZE, time)
            elif source < requests_from:
                unit = m[AT_UNIT] + (source - units_from) * U_SIZE
                if m[unit + U_STAMP] == stamp:
                    _unit_event(m, l2p, p2l, aux, unit, time)
            else:
                request = m[AT_REQUEST] + (source - requests_from) * R_SIZE
                _accepted(m, l2p, p2l, aux, request, time)
            continue
        m[NOW] = first
        if to_drive <= to_host:
            at = m[AT_RING] + 2 * (m[RING_HEAD] & (size_of_ring - 1))
            m[RING_HEAD] += 1
            kind, payload = m[at + 1] & 7, m[at + 1] >> 3
            if kind == K_DOORBELL:
                m[payload + Q_WAITING] += 1
                _fetch(m, payload, first)
            elif kind == K_ENTRY:
                _accept(m, l2p, p2l, aux, payload, first)
            else:
                _arrive(m, l2p, p2l, aux, payload, first)
        else:
            at = m[AT_RING] + 2 * (size_of_ring + (m[RING_HEAD_1] & (size_of_ring - 1)))
            m[RING_HEAD_1] += 1
            kind, payload = m[at + 1] & 7, m[at + 1] >> 3
            if kind == K_FETCH:
                request = m[payload + Q_HEAD]
                m[payload + Q_HEAD] = m[request + R_NEXT]
                _send(m, 0, first, m[NS_ENTRY], K_ENTRY, request)
            elif kind == K_PULL:
                _send(m, 0, first, message_ns(m, m[payload + R_BYTES]), K_DATA, payload)
            else:
                count_request(m, payload, first, recorded, kept)
                if m[INTERNAL] == 0:
                    _send(m, 0, first, m[NS_DOORBELL], K_NONE, 0)
