"""The drive engine: one loop from event to event over NVMe queues, the wire, the map, dies and buses.

Events come from three places: the two directions of the wire, whose messages arrive in the order they were
sent, and a heap with at most one event per bus and per unit. A request goes doorbell, fetch, entry, (write: pull
and data,) pages, (read: data,) completion. Everything that a request or a page waits for is a line from which
the event that ends the wait takes it; nothing is looked at in vain.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM102
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, arg-type, var-annotated"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.flash.ftl import (
    block_of,
    collect,
    drop,
    first_page,
    gc_page,
    give_back_block,
    invalidate,
    level_wear,
    may_write,
    new_transaction,
    place,
    plane_of,
    try_erase,
    user_page,
)
from simulator.flash.pointer import (
    block_at,
    channel_at,
    drive_in,
    histogram_at,
    link_at,
    message_at,
    place_of,
    plane_at,
    pointer_to,
    queue_at,
    request_at,
    slot_at,
    txn_at,
    unit_at,
    word_at,
)
from simulator.flash.records import (
    BIN_BITS,
    BINS,
    CHANNEL,
    GC,
    HISTOGRAM,
    HOLDING,
    IDLE,
    LOG_DONE,
    LOG_ERASED,
    LOG_INSTANT,
    LOG_PLACED,
    LOG_PROGRAMMED,
    MAP,
    MERGE,
    MESSAGE,
    QUEUE,
    READ,
    READING,
    REQUEST,
    SLOT,
    TRIM,
    UNIT,
    USER,
    VICTIM,
    WAITING,
    WRITE,
    WRITING,
    Flash,
    words,
)
from simulator.flash.scheduler import (
    append,
    enqueue,
    kick,
    log_row,
    next_on_channel,
    offer_out,
    pop_event,
    push,
    release,
    serve,
    start,
)
from simulator.flash.step import step

__all__ = [
    "DONE", "GROW", "NEED", "STOPPED", "STUCK", "Chunk", "Limits", "count_request", "message_ns", "run",
]  # fmt: skip

NEED, DONE, GROW, STOPPED, STUCK = range(5)
"""Why ``run`` came back: it wants the next chunk; all is done; transactions ran out; asked to; nothing moves."""

NOBODY, DOORBELL, ENTRY, DATA, FETCH, PULL, COMPLETION = range(7)
"""Kinds of messages on the wire; nobody waits for the first."""
FOREVER = 1 << 62
_CHANNEL, _UNIT, _REQUEST, _QUEUE = words(CHANNEL), words(UNIT), words(REQUEST), words(QUEUE)
_SLOT, _MESSAGE, _HISTOGRAM = words(SLOT), words(MESSAGE), words(HISTOGRAM)
_HELD_ONCE = 0x10000
"""One write of a page that the controller still holds, in ``Flash.held``."""
_WRITTEN = 0xFFFF
"""The sixteenths of a page that were written, in ``Flash.held``."""

Ints = npt.NDArray[np.int64]


class Chunk(NamedTuple):
    """A stretch of the trace: operation, byte address, bytes and, for an open loop, arrival in ns (else empty)."""

    op: Ints
    address: Ints
    size: Ints
    arrival: Ints


class Limits(NamedTuple):
    """How far a call goes: ``closed`` requests are kept in flight (0: open loop), ``final``: no chunk follows.

    It ends after ``stop`` events since the start (0: no limit), or when an event finds fewer than ``margin``
    transactions free. It leaves events later than ``horizon`` ns for the next call (below 0: no limit), and ends at
    the first completion with ``single``.
    """

    closed: int
    final: bool
    stop: int
    margin: int
    horizon: int
    single: bool


# --- the wire -----------------------------------------------------------------------------------------------


@step
def _send(d, wire, now, took, kind, payload):
    """Put a message on a direction of the wire, behind those already on it."""
    arrives = (wire.free if wire.free > now else now) + took
    wire.free = arrives
    wire.busy_ns += took
    if kind != NOBODY:
        message = message_at(d, wire.begin + _MESSAGE * (wire.tail & (d.ring_size - 1)))
        message.arrives = arrives
        message.kind = kind
        message.payload = payload
        wire.tail += 1


@step
def _next_message(d, wire):
    """The message that arrives first; there is one."""
    return message_at(d, wire.begin + _MESSAGE * (wire.head & (d.ring_size - 1)))


@step
def message_ns(d, size):
    """Time of data on the wire."""
    if d.internal != 0:
        return 0
    if size == d.last_size:
        return d.last_ns
    raw = size + (size + d.payload - 1) // d.payload * d.overhead
    padded = (raw + d.lanes - 1) // d.lanes * d.lanes
    d.last_size = size
    d.last_ns = ((padded << 20) + d.wire_rate - 1) // d.wire_rate
    return d.last_ns


@step
def _submit(d, now, since, op, address, size, index):
    """The host puts a request into a submission queue and rings the doorbell; it counts from ``since``."""
    taken = d.free_request
    request = request_at(d, taken)
    d.free_request = request.next
    d.in_flight += 1
    request.op = op
    request.address = address
    request.bytes = size
    request.since = since
    request.index = index
    if d.internal != 0:
        _send(d, d.to_drive, now, 0, DATA, taken)
        return
    number = d.next_queue
    d.next_queue = 0 if number + 1 == d.queue_pairs else number + 1
    request.queue = d.first_queue + number * _QUEUE
    append(d, queue_at(d, request.queue).entries, taken)
    _send(d, d.to_drive, now, d.doorbell_ns, DOORBELL, request.queue)


@step
def _fetch(d, queue, now):
    """Ask for the next entry of a queue, if the drive may hold one more of its requests."""
    if queue.waiting > 0 and queue.held < d.fetch:
        queue.waiting -= 1
        queue.held += 1
        _send(d, d.to_host, now, d.request_ns, FETCH, place_of(d, queue))


@step
def _finish(d, request, now):
    """All pages of a request are done: data and completion go to the host."""
    done = place_of(d, request)
    if d.internal != 0:
        _send(d, d.to_host, now, 0, COMPLETION, done)
        return
    queue = queue_at(d, request.queue)
    queue.held -= 1
    _fetch(d, queue, now)
    if request.op == READ:
        _send(d, d.to_host, now, message_ns(d, request.bytes), NOBODY, 0)
    _send(d, d.to_host, now, d.completion_ns, COMPLETION, done)


@step
def _page_done(d, request, now):
    """A page of a request is done; ``request``: its place, 0 where nobody waits for the page."""
    if request != 0:
        waiting = request_at(d, request)
        waiting.left -= 1
        if waiting.left == 0:
            _finish(d, waiting, now)


# --- latencies ----------------------------------------------------------------------------------------------


@step
def _bin(value):
    """The histogram bin of a latency: its leading bits."""
    shift = 0
    small = value
    while small >= (2 << BIN_BITS):
        small >>= 1
        shift += 1
    return (shift << BIN_BITS) + small


@step
def count_request(d, request, now, latencies, kept):
    """Count a request that is done at ``now``; its latency is kept where the array of ``kept`` reaches."""
    took = now - request.since
    row = 0
    if request.op == READ:
        d.reads += 1
        d.bytes_read += request.bytes
    elif request.op == WRITE:
        row = 1
        d.writes += 1
        d.bytes_written += request.bytes
    else:
        row = 2
        d.trims += 1
    at = d.histograms + row * (_HISTOGRAM + BINS)
    word_at(d, at + _HISTOGRAM + _bin(took)).value += 1
    histogram = histogram_at(d, at)
    if histogram.count == 0 or took < histogram.least_ns:
        histogram.least_ns = took
    histogram.most_ns = max(histogram.most_ns, took)
    histogram.total_ns += took
    histogram.count += 1
    if request.index < kept:
        latencies[request.index] = took
    if d.log_size != 0:
        note = log_row(d, now, now, LOG_DONE)
        note.unit = request.op
        note.ppn = request.address
        note.lpn = request.bytes
        note.stamp = request.index


@step
def _complete(d, request, now, latencies, kept):
    """The host has a completion: the request is counted, and its record free again."""
    count_request(d, request, now, latencies, kept)
    d.last_done = now
    request.next = d.free_request
    d.free_request = place_of(d, request)
    d.in_flight -= 1
    if d.internal == 0:
        _send(d, d.to_drive, now, d.doorbell_ns, NOBODY, 0)


# --- the cached map -----------------------------------------------------------------------------------------


@step
def _to_front(d, slot):
    """A slot was used: it is the last to be given up."""
    used = place_of(d, slot)
    if d.slots.head == used:
        return
    before, after = slot.previous, slot.next
    if before != 0:
        slot_at(d, before).next = after
    if after != 0:
        slot_at(d, after).previous = before
    if d.slots.tail == used:
        d.slots.tail = before
    head = d.slots.head
    slot.previous = 0
    slot.next = head
    if head != 0:
        slot_at(d, head).previous = used
    else:
        d.slots.tail = used
    d.slots.head = used


@step
def _free_slot(d):
    """The place of a slot that was never used, or of the one used longest ago that is not being loaded; or 0."""
    if d.slots_used < d.map_slots:
        d.slots_used += 1
        return d.first_slot + (d.slots_used - 1) * _SLOT
    found = d.slots.tail
    while found != 0 and slot_at(d, found).loading != 0:
        found = slot_at(d, found).previous
    return found


@step
def _mapped(f, txn, now):
    """Whether the map entry of a transaction is in DRAM; if not, it is fetched and the transaction waits."""
    d = f.drive
    page = txn.lpn // d.map_reach
    held = word_at(d, d.mapped + page).value
    changes = txn.kind == WRITE
    if held != 0 and slot_at(d, held).loading == 0:
        d.map_hits += 1
        slot = slot_at(d, held)
        slot.dirty |= changes
        _to_front(d, slot)
        return True
    fresh = d.slots_used < d.map_slots
    found = 0 if held != 0 else _free_slot(d)
    if found == 0:
        append(d, d.parked, place_of(d, txn))
        return False
    slot = slot_at(d, found)
    evicted = -1
    if not fresh:
        word_at(d, d.mapped + slot.page).value = 0
        if slot.dirty != 0:
            evicted = slot.page
    d.map_misses += 1
    slot.page = page
    slot.dirty = changes
    word_at(d, d.mapped + page).value = found
    _to_front(d, slot)
    known = f.to_physical[d.logical + page] != 0
    if d.partial != 0 and (f.held[d.logical + page] >> 16) != 0:
        known = False
    slot.loading = known
    if evicted >= 0:
        d.map_writes += 1
        if d.partial != 0:
            f.held[d.logical + evicted] += _HELD_ONCE
        _send_map_page(f, WRITE, evicted, now)
    if not known:
        return True
    d.map_reads += 1
    append(d, d.parked, place_of(d, txn))
    _send_map_page(f, READ, page, now)
    return False


@step
def _send_map_page(f, kind, page, now):
    """Read or write a page of the map itself."""
    d = f.drive
    _queue_page(f, new_transaction(d, kind, MAP, d.logical + page, 0, d.page_bytes), now)


@step
def _map_loaded(f, page, now):
    """A translation page came in: whoever waited for it, or for a slot, is tried again."""
    d = f.drive
    held = word_at(d, d.mapped + page).value
    if held != 0:
        slot_at(d, held).loading = 0
    last = d.parked.tail
    while d.parked.head != 0:
        waiting = d.parked.head
        txn = txn_at(d, waiting)
        d.parked.head = txn.next
        if d.map_slots == 0 or txn.source == MAP or _mapped(f, txn, now):
            _queue_page(f, txn, now)
        if waiting == last:
            break


# --- pages --------------------------------------------------------------------------------------------------


@step
def _queue_page(f, txn, now):
    """Find the place of a page, put it into its unit's queue, and look at the bus."""
    if _place_page(f, txn, now):
        kick(f.drive, channel_at(f.drive, txn.channel), now)


@step
def _mask(d, first, size):
    """Which sixteenths of a page some of its bytes cover."""
    low = first // d.granule
    high = min((first + size + d.granule - 1) // d.granule, 16)
    return ((1 << high) - 1) & ~((1 << low) - 1)


@step
def _part_bytes(d, mask):
    """Bytes of the sixteenths that a mask names."""
    count = 0
    while mask != 0:
        mask &= mask - 1
        count += 1
    return min(count * d.granule, d.page_bytes)


@step
def _place_page(f, txn, now):
    """Give a page its place and put it into its unit's queue. False: it waits, or was done without flash."""
    d = f.drive
    ppn = f.to_physical[txn.lpn] - 1
    plane = plane_of(d, txn.lpn)
    if ppn >= 0 and block_of(d, ppn).state == VICTIM:
        # The page is being moved; what comes after the move sees its new place.
        d.barriers += 1
        append(d, plane.barrier, place_of(d, txn))
        return False
    if txn.kind == READ:
        return _place_read(f, txn, plane, ppn, now)
    if d.partial != 0 and txn.source == USER and ppn >= 0:
        if _merge_first(f, txn, plane, ppn):
            return True
    if not may_write(f, plane, now):
        d.stalls += 1
        append(d, plane.waiting, place_of(d, txn))
        return False
    _place_write(f, txn, plane, now)
    return True


@step
def _queue_read(d, txn, plane, ppn):
    """Queue the read of a physical page; its block is not erased before."""
    place(d, txn, plane, ppn)
    block_at(d, txn.block).reads += 1
    enqueue(d, txn)


@step
def _place_read(f, txn, plane, ppn, now):
    """A read goes to the page's place, unless the controller holds its data."""
    d = f.drive
    if d.partial != 0 and (f.held[txn.lpn] >> 16) != 0 and txn.source == USER:
        d.buffer_hits += 1
        request = txn.request
        release(d, txn)
        _page_done(d, request, now)
        return False
    if ppn < 0:
        # Data that nobody wrote in this run: taken to have been there, in the order they are met.
        if plane.user_block == 0 and not may_write(f, plane, now):
            d.stalls += 1
            append(d, plane.waiting, place_of(d, txn))
            return False
        ppn = _appear(f, txn.lpn, plane, now)
    _queue_read(d, txn, plane, ppn)
    return True


@step
def _appear(f, lpn, plane, now):
    """Give a page that was there from before its place; the physical page."""
    d = f.drive
    ppn = user_page(d, plane)
    f.to_physical[lpn] = ppn + 1
    f.to_logical[ppn] = lpn + 1
    if d.partial != 0:
        f.held[lpn] |= _WRITTEN
    if d.spare != 0:
        word_at(d, d.spare_areas + ppn).value = 1
    if d.log_size != 0:
        row = log_row(d, now, now, LOG_INSTANT)
        row.ppn = ppn
        row.lpn = lpn
    if plane.free < d.gc_threshold and ppn % d.pages == d.pages - 1:
        collect(f, plane, now)
    return ppn


@step
def _merge_first(f, txn, plane, ppn):
    """Where part of a page stays, it is read first and written together with the new part; True if so."""
    d = f.drive
    left = (f.held[txn.lpn] & _WRITTEN) & ~txn.sequence
    if (f.held[txn.lpn] >> 16) >= 2 or left == 0:
        return False
    d.merge_reads += 1
    txn.kind = READ
    txn.source = MERGE
    txn.bytes = _part_bytes(d, left)
    _queue_read(d, txn, plane, ppn)
    return True


@step
def _place_write(f, txn, plane, now):
    """Take the next page of the frontier for a write; the old copy is worth nothing from now on."""
    d = f.drive
    lpn = txn.lpn
    old = f.to_physical[lpn] - 1
    ppn = user_page(d, plane)
    if old >= 0:
        invalidate(d, old)
        block = block_of(d, old)
        block.superseded += 1
        txn.old = place_of(d, block)
    if d.partial != 0:
        f.held[lpn] |= (txn.sequence & _WRITTEN) if txn.source == USER else _WRITTEN
    d.write_sequence += 1
    txn.sequence = d.write_sequence
    f.to_physical[lpn] = ppn + 1
    f.to_logical[ppn] = lpn + 1
    place(d, txn, plane, ppn)
    block_at(d, txn.block).writes += 1
    if d.log_size != 0:
        row = log_row(d, now, now, LOG_PLACED)
        row.unit = request_at(d, txn.request).index if txn.request != 0 else -1
        row.ppn = ppn
        row.lpn = lpn
        row.source = txn.source
        row.stamp = d.write_sequence
    enqueue(d, txn)
    if ppn % d.pages == d.pages - 1:
        collect(f, plane, now)


@step
def _wake(f, plane, lpn, now):
    """The move of a page ended: what waited for it goes on."""
    d = f.drive
    last = plane.barrier.tail
    while plane.barrier.head != 0:
        waiting = plane.barrier.head
        txn = txn_at(d, waiting)
        plane.barrier.head = txn.next
        if txn.lpn != lpn:
            append(d, plane.barrier, waiting)
        elif txn.kind == TRIM:
            request = txn.request
            _forget(f, lpn, now)
            release(d, txn)
            _page_done(d, request, now)
        else:
            _queue_page(f, txn, now)
        if waiting == last:
            break


@step
def _serve_waiting(f, plane, now):
    """Writes that waited for room in a plane go on while there is some."""
    while plane.waiting.head != 0 and may_write(f, plane, now):
        txn = txn_at(f.drive, plane.waiting.head)
        plane.waiting.head = txn.next
        _queue_page(f, txn, now)


# --- ends of flash operations -------------------------------------------------------------------------------


@step
def _moved_out(f, txn, now):
    """Collection has read a page: it is written to collection's frontier."""
    d = f.drive
    plane = plane_at(d, txn.plane)
    old, lpn = txn.ppn, txn.lpn
    if f.to_physical[lpn] != old + 1:
        d.fault = 1
    txn.kind = WRITE
    txn.old = old
    ppn = gc_page(d, plane)
    invalidate(d, old)
    f.to_logical[ppn] = lpn + 1
    place(d, txn, plane, ppn)
    block_at(d, txn.block).writes += 1
    if d.spare != 0:
        txn.sequence = word_at(d, d.spare_areas + old).value
    enqueue(d, txn)
    kick(d, channel_at(d, txn.channel), now)
    if ppn % d.pages == d.pages - 1:
        collect(f, plane, now)


@step
def _read_done(f, txn, now):
    """A page that was read has left the bus."""
    d = f.drive
    if txn.source == GC:
        _moved_out(f, txn, now)
        return
    block = block_at(d, txn.block)
    block.reads -= 1
    if txn.source == MERGE:
        txn.kind = WRITE
        txn.source = USER
        txn.sequence |= f.held[txn.lpn] & _WRITTEN
        txn.bytes = _part_bytes(d, txn.sequence)
        _queue_page(f, txn, now)
        try_erase(d, block, now)
        return
    source, lpn, request = txn.source, txn.lpn, txn.request
    release(d, txn)
    try_erase(d, block, now)
    if source == MAP:
        _map_loaded(f, lpn - d.logical, now)
    else:
        _page_done(d, request, now)


@step
def _write_spare_area(d, txn):
    """The page's spare area holds the number of its write."""
    spare = word_at(d, d.spare_areas + txn.ppn)
    if spare.value != 0:
        d.fault = 3
    spare.value = txn.sequence


@step
def _program_done(f, txn, now):
    """A page is on flash."""
    d = f.drive
    block, plane = block_at(d, txn.block), plane_at(d, txn.plane)
    if txn.page < block.programmed:
        d.fault = 2
    block.programmed = txn.page + 1
    block.writes -= 1
    if d.spare != 0:
        _write_spare_area(d, txn)
    if d.log_size != 0:
        row = log_row(d, now, now, LOG_PROGRAMMED)
        row.ppn = txn.ppn
        row.lpn = txn.lpn
        row.source = txn.source
    lpn, old, ppn, source, request = txn.lpn, txn.old, txn.ppn, txn.source, txn.request
    release(d, txn)
    if source == GC:
        if f.to_physical[lpn] != old + 1:
            d.fault = 4
        f.to_physical[lpn] = ppn + 1
        victim = block_of(d, old)
        victim.moves -= 1
        if plane.barrier.head != 0:
            _wake(f, plane, lpn, now)
        try_erase(d, victim, now)
        return
    if old >= 0:
        replaced = block_at(d, old)
        replaced.superseded -= 1
        try_erase(d, replaced, now)
    if d.partial != 0:
        f.held[lpn] -= _HELD_ONCE
    if d.buffer != 0 and source == USER:
        d.buffered -= 1
        _admit(f, now)
    elif request != 0:
        _page_done(d, request, now)
    if plane.waiting.head != 0 and plane.running == 0:
        _serve_waiting(f, plane, now)


@step
def _erase_done(f, txn, now):
    """A block is empty."""
    d = f.drive
    plane, block = plane_at(d, txn.plane), block_at(d, txn.block)
    if d.log_size != 0:
        row = log_row(d, now, now, LOG_ERASED)
        row.ppn = txn.ppn
        row.lpn = -1
        row.source = GC
    if d.spare != 0:
        first = d.spare_areas + first_page(d, block)
        for page in range(d.pages):
            word_at(d, first + page).value = 0
    release(d, txn)
    plane.running -= 1
    give_back_block(d, plane, block)
    level_wear(f, plane, now)
    _serve_waiting(f, plane, now)
    if plane.free < d.gc_reserve:
        collect(f, plane, now)


# --- requests -----------------------------------------------------------------------------------------------


@step
def _start(f, request, now):
    """A request is in the drive with its data: cut it into pages, queue all of them, then look at the buses."""
    d = f.drive
    op, address, size = request.op, request.address, request.bytes
    first, last = address // d.page_bytes, (address + size - 1) // d.page_bytes
    request.left = last - first + 1
    waiting = 0 if op == WRITE and d.buffer != 0 else place_of(d, request)
    queued = 0
    for lpn in range(first, last + 1):
        begin = max(address - lpn * d.page_bytes, 0)
        end = min(address + size - lpn * d.page_bytes, d.page_bytes)
        if op == TRIM:
            _trim(f, waiting, lpn, end - begin, now)
            continue
        txn = new_transaction(d, op, USER, lpn, waiting, end - begin)
        if op == WRITE:
            d.host_pages_written += 1
            if d.partial != 0:
                txn.sequence = _mask(d, begin, end - begin)
                # The controller holds these data until they are on flash; reads of them need no flash.
                f.held[lpn] += _HELD_ONCE
        else:
            d.host_pages_read += 1
        if d.map_slots != 0:
            if not _mapped(f, txn, now):
                continue
        if _place_page(f, txn, now):
            queued += 1
    if queued == 0:
        return
    if first == last:
        kick(d, channel_at(d, plane_of(d, first).channel), now)
        return
    for number in range(d.channels):
        kick(d, channel_at(d, d.first_channel + number * _CHANNEL), now)


@step
def _forget(f, lpn, now):
    """Drop a logical page, and what is known of its parts."""
    drop(f, lpn, now)
    if f.drive.partial != 0:
        f.held[lpn] &= 0xFFFF0000


@step
def _trim(f, request, lpn, size, now):
    """Forget a page that a trim covers whole; one being moved when the move has ended."""
    d = f.drive
    ppn = f.to_physical[lpn] - 1
    if size == d.page_bytes and ppn >= 0:
        if block_of(d, ppn).state == VICTIM:
            txn = new_transaction(d, TRIM, USER, lpn, request, 0)
            append(d, plane_of(d, lpn).barrier, place_of(d, txn))
            return
        _forget(f, lpn, now)
    _page_done(d, request, now)


@step
def _admit(f, now):
    """Writes whose data wait outside the buffer enter while it has room, and are acknowledged."""
    d = f.drive
    while d.unbuffered.head != 0:
        request = request_at(d, d.unbuffered.head)
        first = request.address // d.page_bytes
        pages = (request.address + request.bytes - 1) // d.page_bytes - first + 1
        # A request larger than the buffer enters an empty one.
        if d.buffered + pages > d.buffer and d.buffered > 0:
            return
        d.unbuffered.head = request.next
        d.buffered += pages
        d.buffer_peak = max(d.buffer_peak, d.buffered)
        _start(f, request, now)
        _finish(d, request, now)


@step
def _arrive(f, request, now):
    """A request with all it needs reaches the translation layer."""
    d = f.drive
    if request.op == WRITE and d.buffer != 0:
        append(d, d.unbuffered, place_of(d, request))
        _admit(f, now)
    else:
        _start(f, request, now)


@step
def _accept(f, request, now):
    """An entry reached the drive: firmware takes its time, then the request starts."""
    d = f.drive
    begin = now
    if d.command_ns != 0:
        d.firmware_free = max(d.firmware_free, now) + d.command_ns
        begin = d.firmware_free
    begin += d.read_overhead_ns if request.op == READ else (d.write_overhead_ns if request.op == WRITE else 0)
    if begin > now:
        number = (place_of(d, request) - d.first_request) // _REQUEST
        push(d, begin, d.channels + d.units + number)
    else:
        _accepted(f, request, now)


@step
def _accepted(f, request, now):
    """Firmware is done with an entry: data of a write are pulled, anything else starts."""
    d = f.drive
    if request.op == WRITE:
        _send(d, d.to_host, now, d.request_ns, PULL, place_of(d, request))
    else:
        _arrive(f, request, now)


# --- events -------------------------------------------------------------------------------------------------


@step
def _unit_event(f, unit, now):
    """The array of a unit is done."""
    d = f.drive
    state = unit.state
    place = unit.active
    unit.active = 0
    if state == READING:
        if unit.out != 0:
            unit.hold = place
            unit.state = HOLDING
        else:
            _offer(d, unit, place, now)
    else:
        unit.state = IDLE
        if unit.pending != 0:
            pending = unit.pending
            unit.pending = 0
            start(d, unit, pending, WRITE, max(now, unit.pending_ready), unit.pending_ns)
        while place != 0:
            txn = txn_at(d, place)
            place = txn.next
            if state == WRITING:
                _program_done(f, txn, now)
            else:
                _erase_done(f, txn, now)
    kick(d, channel_at(d, unit.channel), now)


@step
def _offer(d, unit, first, now):
    """Pages that were read are ready for the bus. With a cache register the next read is sent first."""
    place = first
    while place != 0:
        unit.out += 1
        place = link_at(d, place).next
    unit.state = WAITING
    if d.cache != 0:
        unit.state = IDLE
        if channel_at(d, unit.channel).busy == 0:
            serve(d, unit, now)
    place = first
    while place != 0:
        txn = txn_at(d, place)
        place = txn.next
        offer_out(d, txn, now)


@step
def _channel_event(f, channel, now):
    """A bus is free again; if it carried a page that was read, the page is done."""
    d = f.drive
    if channel.busy == 2:
        txn = txn_at(d, channel.txn)
        unit = unit_at(d, txn.unit)
        _read_done(f, txn, now)
        unit.out -= 1
        if unit.out == 0:
            if unit.state == HOLDING:
                held = unit.hold
                unit.hold = 0
                _offer(d, unit, held, now)
            elif unit.state == WAITING:
                unit.state = IDLE
    next_on_channel(d, channel, now)


@step
def _heap_event(f, now):
    """The first event of the heap: of a bus, a unit, or a request that firmware worked on."""
    d = f.drive
    stamp = pop_event(d)
    source = stamp & 0xFFFFF
    if source < d.channels:
        _channel_event(f, channel_at(d, d.first_channel + source * _CHANNEL), now)
    elif source < d.channels + d.units:
        unit = unit_at(d, d.first_unit + (source - d.channels) * _UNIT)
        # The event of an operation that was suspended has lost its meaning.
        if unit.stamp == stamp:
            _unit_event(f, unit, now)
    else:
        number = source - d.channels - d.units
        _accepted(f, request_at(d, d.first_request + number * _REQUEST), now)


@step
def _drive_hears(f, now):
    """A message reached the drive."""
    d = f.drive
    message = _next_message(d, d.to_drive)
    kind, payload = message.kind, message.payload
    d.to_drive.head += 1
    if kind == DOORBELL:
        queue = queue_at(d, payload)
        queue.waiting += 1
        _fetch(d, queue, now)
    elif kind == ENTRY:
        _accept(f, request_at(d, payload), now)
    else:
        _arrive(f, request_at(d, payload), now)


@step
def _host_hears(d, now, latencies, kept):
    """A message reached the host."""
    message = _next_message(d, d.to_host)
    kind, payload = message.kind, message.payload
    d.to_host.head += 1
    if kind == FETCH:
        entries = queue_at(d, payload).entries
        entry = entries.head
        entries.head = link_at(d, entry).next
        _send(d, d.to_drive, now, d.entry_ns, ENTRY, entry)
    elif kind == PULL:
        size = request_at(d, payload).bytes
        _send(d, d.to_drive, now, message_ns(d, size), DATA, payload)
    else:
        _complete(d, request_at(d, payload), now, latencies, kept)


@compiled
def run(memory, chunk, latencies, limits):
    """Run until the chunk is used up, everything is done, or a limit is met; the reason.

    ``memory``: :class:`Memory`; ``chunk``: :class:`Chunk`; ``limits``: :class:`Limits`. Latencies go to
    ``latencies`` by request number as far as it reaches.
    """
    d = drive_in(memory.m)
    f = Flash(d, pointer_to(memory.to_physical), pointer_to(memory.to_logical), pointer_to(memory.held))
    recorded, kept = pointer_to(latencies), latencies.size
    count = chunk.op.size
    base, taken = d.cursor, 0
    completed = d.reads + d.writes + d.trims
    most = limits.closed if limits.closed > 0 else d.requests
    open_loop = limits.closed == 0 and chunk.arrival.size > 0
    while True:
        # The host offers what it may at this moment; an event may have made room.
        while taken < count and d.in_flight < most and d.free_request != 0:
            if open_loop and chunk.arrival[taken] > d.now:
                break
            # A request that waited in the host for a free entry counts from its arrival.
            since = chunk.arrival[taken] if open_loop else d.now
            _submit(d, d.now, since, chunk.op[taken], chunk.address[taken], chunk.size[taken], base + taken)
            taken += 1
        d.cursor = base + taken
        if limits.single and d.reads + d.writes + d.trims > completed:
            return STOPPED
        if taken == count and not limits.final and d.in_flight < most:
            return NEED
        if d.free_txns < limits.margin:
            return GROW
        # The next event: from the wire to the drive, the wire to the host, or the heap.
        to_drive = to_host = FOREVER
        if d.to_drive.head != d.to_drive.tail:
            to_drive = _next_message(d, d.to_drive).arrives
        if d.to_host.head != d.to_host.tail:
            to_host = _next_message(d, d.to_host).arrives
        on_heap = word_at(d, d.heap).value if d.heap_count > 0 else FOREVER
        on_wire = min(to_drive, to_host)
        if open_loop and taken < count and d.in_flight < most and d.free_request != 0:
            if chunk.arrival[taken] <= min(on_wire, on_heap):
                d.now = chunk.arrival[taken]
                continue
        if on_heap == FOREVER and on_wire == FOREVER:
            return DONE if d.in_flight == 0 and taken == count else STUCK
        if limits.stop > 0 and d.events == limits.stop:
            return STOPPED
        if limits.horizon >= 0 and min(on_heap, on_wire) > limits.horizon:
            return STOPPED
        d.events += 1
        d.now = min(on_heap, on_wire)
        if on_heap < on_wire:
            _heap_event(f, d.now)
        elif to_drive <= to_host:
            _drive_hears(f, d.now)
        else:
            _host_hears(d, d.now, recorded, kept)
