"""Where pages go: placement, write frontiers, free blocks, collection, wear levelling, and the cached map.

The translation layer works page by page. The old copy of a page stays on flash until the new one is
programmed: a block is erased only when nothing reads it, nothing of it has still to be moved, and every write
that replaced one of its pages is on flash. So a cut of power at any moment leaves the last acknowledged copy.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM102
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"

from __future__ import annotations

from simulator.flash.pointer import block_at, channel_at, place_of, plane_at, txn_at, word_at
from simulator.flash.records import (
    BLOCK,
    ERASE,
    FREE,
    FULL,
    GC,
    LOG_TRIMMED,
    OPEN_GC,
    OPEN_USER,
    PLANE,
    READ,
    VICTIM,
    words,
)
from simulator.flash.scheduler import enqueue, kick, log_row, random_below
from simulator.flash.step import step

__all__ = [
    "block_of", "collect", "drop", "first_page", "gc_page", "give_back_block", "invalidate", "level_wear", "may_write",
    "new_transaction", "new_user_frontier", "place", "plane_of", "room", "take_block", "try_erase", "user_page",
    "victim_of",
]  # fmt: skip

GREEDY, D_CHOICES, _, RANDOM_FULL, RANDOM_INVALID, FIFO = range(6)
"""Policies of collection, in the order of ``drive.GC_POLICIES``; the one without a name draws any block."""
_BLOCK, _PLANE = words(BLOCK), words(PLANE)


@step
def block_of(d, ppn):
    """The block of a physical page."""
    return block_at(d, d.first_block + ppn // d.pages * _BLOCK)


@step
def first_page(d, block):
    """The first physical page of a block."""
    return (place_of(d, block) - d.first_block) // _BLOCK * d.pages


@step
def plane_of(d, lpn):
    """The plane that a logical page is written to."""
    return plane_at(d, word_at(d, d.plane_order + lpn % d.planes).value)


@step
def new_transaction(d, kind, source, lpn, request, size):
    """A transaction without a place yet; ``request``: the place of its request, or 0."""
    txn = txn_at(d, d.free_txn)
    d.free_txn = txn.next
    d.free_txns -= 1
    txn.next = 0
    txn.kind = kind
    txn.source = source
    txn.lpn = lpn
    txn.request = request
    txn.bytes = size
    txn.ppn = -1
    txn.old = -1
    txn.sequence = 0
    return txn


@step
def place(d, txn, plane, ppn):
    """Note the physical page of a transaction."""
    txn.unit = plane.unit
    txn.die = plane.die
    txn.bit = plane.bit
    txn.channel = plane.channel
    txn.plane = place_of(d, plane)
    txn.ppn = ppn
    txn.page = ppn % d.pages
    txn.block = d.first_block + ppn // d.pages * _BLOCK


@step
def take_block(d, plane, state):
    """The place of the free block with the fewest erases, the longest free among those; 0 when there is none."""
    taken = plane.free_blocks.head
    if taken == 0:
        return 0
    block = block_at(d, taken)
    following = block.next
    plane.free_blocks.head = following
    if following == 0:
        plane.free_blocks.tail = 0
    else:
        block_at(d, following).previous = 0
    plane.free -= 1
    block.state = state
    d.block_sequence += 1
    block.age = d.block_sequence
    return taken


@step
def give_back_block(d, plane, block):
    """An erased block goes behind all free ones that were erased no more often."""
    block.state = FREE
    block.written = 0
    block.invalid = 0
    block.programmed = 0
    block.erases += 1
    plane.most_erases = max(plane.most_erases, block.erases)
    before = plane.free_blocks.tail
    while before != 0 and block_at(d, before).erases > block.erases:
        before = block_at(d, before).previous
    following = plane.free_blocks.head if before == 0 else block_at(d, before).next
    block.previous = before
    block.next = following
    given = place_of(d, block)
    if before == 0:
        plane.free_blocks.head = given
    else:
        block_at(d, before).next = given
    if following == 0:
        plane.free_blocks.tail = given
    else:
        block_at(d, following).previous = given
    plane.free += 1


@step
def room(d, plane):
    """Pages that collection can still write: those of its frontier and of all free blocks."""
    left = d.pages - block_at(d, plane.gc_block).written if plane.gc_block != 0 else 0
    return left + plane.free * d.pages


@step
def new_user_frontier(d, plane):
    """Open a block for the host, unless collection could then no longer finish one victim."""
    if plane.gc_block == 0 and plane.free > 1:
        plane.gc_block = take_block(d, plane, OPEN_GC)
    if room(d, plane) - d.pages >= plane.need + d.pages:
        plane.user_block = take_block(d, plane, OPEN_USER)
    else:
        plane.user_block = 0


@step
def user_page(d, plane):
    """The next page of the host's frontier; the frontier exists. A full one is followed by a new one."""
    block = block_at(d, plane.user_block)
    page = block.written
    block.written = page + 1
    if page + 1 == d.pages:
        block.state = FULL
        new_user_frontier(d, plane)
    return first_page(d, block) + page


@step
def gc_page(d, plane):
    """The next page of collection's frontier."""
    if plane.gc_block == 0:
        plane.gc_block = take_block(d, plane, OPEN_GC)
    block = block_at(d, plane.gc_block)
    page = block.written
    block.written = page + 1
    plane.need -= 1
    if page + 1 == d.pages:
        block.state = FULL
        plane.gc_block = take_block(d, plane, OPEN_GC)
    return first_page(d, block) + page


@step
def invalidate(d, ppn):
    """A page holds an old copy from now on."""
    block_of(d, ppn).invalid += 1


@step
def _collectable(block):
    """Whether a block is full and no program to it is on its way."""
    return block.state == FULL and block.writes == 0


@step
def _drawable(block):
    """Whether a block may be drawn: no frontier, none being collected, no program on its way."""
    return (block.state == FULL or block.state == FREE) and block.writes == 0


@step
def _fullest_of_invalid(d, plane):
    """The block with the most invalid pages, the first among those."""
    best, most = 0, 0
    for i in range(d.blocks):
        block = block_at(d, plane.first_block + i * _BLOCK)
        if block.invalid > most and _collectable(block):
            best, most = place_of(d, block), block.invalid
    return best


@step
def _oldest(d, plane):
    """The block with invalid pages that was opened first."""
    best, age = 0, 0
    for i in range(d.blocks):
        block = block_at(d, plane.first_block + i * _BLOCK)
        if _collectable(block) and block.invalid > 0:
            if best == 0 or block.age < age:
                best, age = place_of(d, block), block.age
    return best


@step
def _best_of_some(d, plane):
    """The best of some distinct random blocks, free ones among the draw."""
    best = count = tries = most = 0
    while count < d.gc_choices and tries < 8 * d.blocks:
        tries += 1
        drawn = plane.first_block + random_below(d, d.blocks) * _BLOCK
        block = block_at(d, drawn)
        seen = not _drawable(block)
        for i in range(count):
            seen = seen or word_at(d, d.drawn + i).value == drawn
        if not seen:
            word_at(d, d.drawn + count).value = drawn
            count += 1
            if block.state == FULL and (best == 0 or block.invalid > most):
                best, most = drawn, block.invalid
    return best


@step
def _drawn(d, plane):
    """The first random block that the policy takes; 0 when that is a free one, or none was met."""
    for _ in range(d.blocks + 1):
        drawn = plane.first_block + random_below(d, d.blocks) * _BLOCK
        block = block_at(d, drawn)
        fits = _drawable(block)
        if d.gc_policy >= RANDOM_FULL:
            fits = fits and block.written == d.pages
        if d.gc_policy == RANDOM_INVALID:
            fits = fits and block.invalid >= max(d.gc_choices, 1)
        if fits:
            return drawn if block.state == FULL else 0
    return 0


@step
def victim_of(d, plane, pressed):
    """The place of the block to collect in a plane by the drive's policy; 0 when it finds none worth it.

    ``pressed``: nothing else can go on, so a policy that drew a bad block must not have the last word; the
    fullest of invalid pages is taken.
    """
    policy = GREEDY if pressed else d.gc_policy
    if policy == GREEDY:
        best = _fullest_of_invalid(d, plane)
    elif policy == D_CHOICES:
        best = _best_of_some(d, plane)
    elif policy == FIFO:
        best = _oldest(d, plane)
    else:
        best = _drawn(d, plane)
    return best if best != 0 and block_at(d, best).invalid > 0 else 0


@step
def try_erase(d, block, now):
    """Queue the erase of a victim once nothing on it is wanted any more."""
    if block.state != VICTIM or block.moves != 0:
        return
    if block.reads != 0 or block.superseded != 0:
        return
    block.moves = -1
    number = (place_of(d, block) - d.first_block) // _BLOCK
    plane = plane_at(d, d.first_plane + number // d.blocks * _PLANE)
    txn = new_transaction(d, ERASE, GC, -1, 0, 0)
    place(d, txn, plane, number * d.pages)
    enqueue(d, txn)
    kick(d, channel_at(d, plane.channel), now)


@step
def _move(f, plane, block, now):
    """Make a block a victim: read every valid page of it; how many those are."""
    d = f.drive
    valid = d.pages - block.invalid
    block.state = VICTIM
    block.moves = valid
    plane.running += 1
    plane.need += valid
    first = first_page(d, block)
    for ppn in range(first, first + d.pages):
        lpn = f.to_logical[ppn] - 1
        if lpn >= 0 and f.to_physical[lpn] == ppn + 1:
            txn = new_transaction(d, READ, GC, lpn, 0, d.page_bytes)
            place(d, txn, plane, ppn)
            enqueue(d, txn)
    kick(d, channel_at(d, plane.channel), now)
    try_erase(d, block, now)
    return valid


@step
def collect(f, plane, now):
    """Collect one block of a plane, if it is short of free ones and the policy has one worth it."""
    d = f.drive
    if plane.free < d.gc_threshold and plane.running < d.gc_reserve:
        _collect(f, plane, victim_of(d, plane, False), now)


@step
def _collect(f, plane, victim, now):
    d = f.drive
    if victim == 0:
        return
    block = block_at(d, victim)
    if plane.need + d.pages - block.invalid > room(d, plane):
        return
    d.gc_runs += 1
    d.gc_moves += _move(f, plane, block, now)


@step
def level_wear(f, plane, now):
    """Move the coldest block of a plane when erases have drifted too far apart."""
    d = f.drive
    if d.wear_gap == 0 or plane.most_erases - plane.least_erases < d.wear_gap:
        return
    coldest, least = 0, plane.most_erases
    lowest = least
    for i in range(d.blocks):
        block = block_at(d, plane.first_block + i * _BLOCK)
        lowest = min(lowest, block.erases)
        if block.erases < least and _collectable(block):
            coldest, least = place_of(d, block), block.erases
    plane.least_erases = lowest
    if coldest == 0 or plane.most_erases - least < d.wear_gap or plane.running >= d.gc_reserve:
        return
    cold = block_at(d, coldest)
    if plane.need + d.pages - cold.invalid > room(d, plane) - d.pages:
        return
    d.wear_runs += 1
    d.wear_moves += _move(f, plane, cold, now)


@step
def may_write(f, plane, now):
    """Whether the host may write to a plane now, or must wait for an erase there."""
    d = f.drive
    if plane.free < d.gc_reserve:
        if plane.running == 0:
            collect(f, plane, now)
        if plane.running > 0:
            return False
    if plane.user_block == 0:
        new_user_frontier(d, plane)
    if plane.user_block == 0 and plane.running == 0:
        _collect(f, plane, victim_of(d, plane, True), now)
    return plane.user_block != 0


@step
def drop(f, lpn, now):
    """Forget a logical page (TRIM); the copy on flash is worth nothing from now on."""
    d = f.drive
    ppn = f.to_physical[lpn] - 1
    if ppn >= 0:
        invalidate(d, ppn)
        f.to_physical[lpn] = 0
        d.trimmed += 1
        if d.log_size != 0:
            row = log_row(d, now, now, LOG_TRIMMED)
            row.ppn = ppn
            row.lpn = lpn
