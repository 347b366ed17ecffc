"""Where pages go: placement, write frontiers, free blocks, collection, wear levelling, and the cached map.

The translation layer works page by page. The old copy of a page stays on flash until the new one is
programmed: a block is erased only when nothing reads it, nothing of it has still to be moved, and every write
that replaced one of its pages is on flash. So a cut of power at any moment leaves the last acknowledged copy.
"""

# A kernel reads as the rules do, one by one; its conditions stay apart on purpose.
# ruff: noqa: SIM102, SIM109
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"

from __future__ import annotations

import numpy as np

from hw_configs.compiled import compiled
from simulator.flash.layout import (
    AT_BLOCK,
    AT_PLANE,
    B_AGE,
    B_ERASES,
    B_INVALID,
    B_MOVES,
    B_NEXT,
    B_PREV,
    B_PROGRAMMED,
    B_READS,
    B_SIZE,
    B_STATE,
    B_SUPERSEDED,
    B_WRITES,
    B_WRITTEN,
    BLOCK_SEQUENCE,
    BLOCKS,
    C_BUSY,
    ERASE,
    FREE,
    FREE_TXN,
    FREE_TXNS,
    FULL,
    GC,
    GC_CHOICES,
    GC_MOVES,
    GC_POLICY,
    GC_RESERVE,
    GC_RUNS,
    GC_THRESHOLD,
    LOG_SIZE,
    LOG_TRIMMED,
    OPEN_GC,
    OPEN_USER,
    P_BIT,
    P_BLOCKS,
    P_CHANNEL,
    P_DIE,
    P_FREE,
    P_FREE_HEAD,
    P_FREE_TAIL,
    P_GC,
    P_MAX_ERASE,
    P_MIN_ERASE,
    P_NEED,
    P_RUNNING,
    P_SIZE,
    P_UNIT,
    P_USER,
    PAGE_BYTES,
    PAGES,
    READ,
    T_BIT,
    T_BLOCK,
    T_BYTES,
    T_CHANNEL,
    T_DIE,
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
    TRIMMED,
    VICTIM,
    WL_GAP,
    WL_MOVES,
    WL_RUNS,
)
from simulator.flash.scheduler import enqueue, kick, log, random_below

__all__ = [
    "block_of",
    "collect",
    "drop",
    "gc_page",
    "give_back_block",
    "invalidate",
    "may_write",
    "new_transaction",
    "place",
    "take_block",
    "try_erase",
    "user_page",
    "victim_of",
]  # fmt: skip


@compiled
def block_of(m, ppn):
    """The block of a physical page."""
    return m[AT_BLOCK] + ppn // m[PAGES] * B_SIZE


@compiled
def new_transaction(m, kind, source, lpn, request, size):
    """A transaction without a place yet."""
    txn = m[FREE_TXN]
    m[FREE_TXN] = m[txn + T_NEXT]
    m[FREE_TXNS] -= 1
    m[txn + T_NEXT] = 0
    m[txn + T_KIND] = kind
    m[txn + T_SOURCE] = source
    m[txn + T_LPN] = lpn
    m[txn + T_REQUEST] = request
    m[txn + T_BYTES] = size
    m[txn + T_PPN] = -1
    m[txn + T_OLD] = -1
    m[txn + T_SEQUENCE] = 0
    return txn


@compiled
def place(m, txn, plane, ppn):
    """Note the physical page of a transaction."""
    m[txn + T_UNIT] = m[plane + P_UNIT]
    m[txn + T_DIE] = m[plane + P_DIE]
    m[txn + T_BIT] = m[plane + P_BIT]
    m[txn + T_CHANNEL] = m[plane + P_CHANNEL]
    m[txn + T_PLANE] = plane
    m[txn + T_PPN] = ppn
    m[txn + T_PAGE] = ppn % m[PAGES]
    m[txn + T_BLOCK] = block_of(m, ppn)


@compiled
def take_block(m, plane, state):
    """The free block with the fewest erases, the longest free among those; 0 when there is none."""
    block = m[plane + P_FREE_HEAD]
    if block == 0:
        return 0
    following = m[block + B_NEXT]
    m[plane + P_FREE_HEAD] = following
    if following == 0:
        m[plane + P_FREE_TAIL] = 0
    else:
        m[following + B_PREV] = 0
    m[plane + P_FREE] -= 1
    m[block + B_STATE] = state
    m[BLOCK_SEQUENCE] += 1
    m[block + B_AGE] = m[BLOCK_SEQUENCE]
    return block


@compiled
def give_back_block(m, plane, block):
    """An erased block goes behind all free ones that were erased no more often."""
    m[block + B_STATE] = FREE
    m[block + B_WRITTEN] = 0
    m[block + B_INVALID] = 0
    m[block + B_PROGRAMMED] = 0
    m[block + B_ERASES] += 1
    erases = m[block + B_ERASES]
    m[plane + P_MAX_ERASE] = max(m[plane + P_MAX_ERASE], erases)
    before = m[plane + P_FREE_TAIL]
    while before != 0 and m[before + B_ERASES] > erases:
        before = m[before + B_PREV]
    following = m[plane + P_FREE_HEAD] if before == 0 else m[before + B_NEXT]
    m[block + B_PREV] = before
    m[block + B_NEXT] = following
    if before == 0:
        m[plane + P_FREE_HEAD] = block
    else:
        m[before + B_NEXT] = block
    if following == 0:
        m[plane + P_FREE_TAIL] = block
    else:
        m[following + B_PREV] = block
    m[plane + P_FREE] += 1


@compiled
def room(m, plane):
    """Pages that collection can still write: those of its frontier and of all free blocks."""
    frontier = m[plane + P_GC]
    left = m[PAGES] - m[frontier + B_WRITTEN] if frontier != 0 else 0
    return left + m[plane + P_FREE] * m[PAGES]


@compiled
def new_user_frontier(m, plane):
    """Open a block for the host, unless collection could then no longer finish one victim."""
    if m[plane + P_GC] == 0 and m[plane + P_FREE] > 1:
        m[plane + P_GC] = take_block(m, plane, OPEN_GC)
    if room(m, plane) - m[PAGES] >= m[plane + P_NEED] + m[PAGES]:
        m[plane + P_USER] = take_block(m, plane, OPEN_USER)
    else:
        m[plane + P_USER] = 0


@compiled
def user_page(m, plane):
    """The next page of the host's frontier; the frontier exists. A full one is followed by a new one."""
    block = m[plane + P_USER]
    page = m[block + B_WRITTEN]
    m[block + B_WRITTEN] = page + 1
    if page + 1 == m[PAGES]:
        m[block + B_STATE] = FULL
        new_user_frontier(m, plane)
    return (block - m[AT_BLOCK]) // B_SIZE * m[PAGES] + page


@compiled
def gc_page(m, plane):
    """The next page of collection's frontier."""
    block = m[plane + P_GC]
    if block == 0:
        block = take_block(m, plane, OPEN_GC)
        m[plane + P_GC] = block
    page = m[block + B_WRITTEN]
    m[block + B_WRITTEN] = page + 1
    m[plane + P_NEED] -= 1
    if page + 1 == m[PAGES]:
        m[block + B_STATE] = FULL
        m[plane + P_GC] = take_block(m, plane, OPEN_GC)
    return (block - m[AT_BLOCK]) // B_SIZE * m[PAGES] + page


@compiled
def invalidate(m, ppn):
    """A page holds an old copy from now on."""
    m[block_of(m, ppn) + B_INVALID] += 1


@compiled
def _safe(m, block):
    """Whether a block may be a victim: no frontier, none being collected, no program on its way."""
    state = m[block + B_STATE]
    return (state == FULL or state == FREE) and m[block + B_WRITES] == 0


@compiled
def victim_of(m, plane, pressed):
    """The block to collect in a plane by the drive's policy; 0 when the policy finds none worth it.

    ``pressed``: nothing else can go on, so a policy that drew a bad block must not have the last word; the
    fullest of invalid pages is taken.
    """
    first, blocks, pages = m[plane + P_BLOCKS], m[BLOCKS], m[PAGES]
    policy = 0 if pressed else m[GC_POLICY]
    best = 0
    if policy == 0:
        most = 0
        for i in range(blocks):
            block = first + i * B_SIZE
            if m[block + B_INVALID] > most and m[block + B_STATE] == FULL and m[block + B_WRITES] == 0:
                best, most = block, m[block + B_INVALID]
    elif policy == 1:
        # The best of some distinct random blocks, free ones among the draw.
        drawn = np.zeros(m[GC_CHOICES], np.int64)
        count = tries = 0
        while count < m[GC_CHOICES] and tries < 8 * blocks:
            tries += 1
            block = first + random_below(m, blocks) * B_SIZE
            seen = not _safe(m, block)
            for i in range(count):
                seen = seen or drawn[i] == block
            if not seen:
                drawn[count] = block
                count += 1
                full = m[block + B_STATE] == FULL
                if full and (best == 0 or m[block + B_INVALID] > m[best + B_INVALID]):
                    best = block
    elif policy == 5:
        for i in range(blocks):
            block = first + i * B_SIZE
            if m[block + B_STATE] == FULL and m[block + B_WRITES] == 0 and m[block + B_INVALID] > 0:
                if best == 0 or m[block + B_AGE] < m[best + B_AGE]:
                    best = block
    else:
        for _ in range(blocks + 1):
            block = first + random_below(m, blocks) * B_SIZE
            fits = _safe(m, block)
            if policy >= 3:
                fits = fits and m[block + B_WRITTEN] == pages
            if policy == 4:
                fits = fits and m[block + B_INVALID] >= max(m[GC_CHOICES], 1)
            if fits:
                best = block if m[block + B_STATE] == FULL else 0
                break
    return best if best != 0 and m[best + B_INVALID] > 0 else 0


@compiled
def try_erase(m, block, now):
    """Queue the erase of a victim once nothing on it is wanted any more."""
    if m[block + B_STATE] != VICTIM or m[block + B_MOVES] != 0:
        return
    if m[block + B_READS] != 0 or m[block + B_SUPERSEDED] != 0:
        return
    m[block + B_MOVES] = -1
    number = (block - m[AT_BLOCK]) // B_SIZE
    plane = m[AT_PLANE] + number // m[BLOCKS] * P_SIZE
    txn = new_transaction(m, ERASE, GC, -1, 0, 0)
    place(m, txn, plane, number * m[PAGES])
    enqueue(m, txn)
    channel = m[plane + P_CHANNEL]
    if m[channel + C_BUSY] == 0:
        kick(m, channel, now)


@compiled
def _move(m, l2p, p2l, plane, block, now):
    """Make a block a victim: read every valid page of it."""
    valid = m[PAGES] - m[block + B_INVALID]
    m[block + B_STATE] = VICTIM
    m[block + B_MOVES] = valid
    m[plane + P_RUNNING] += 1
    m[plane + P_NEED] += valid
    first = (block - m[AT_BLOCK]) // B_SIZE * m[PAGES]
    for page in range(m[PAGES]):
        lpn = p2l[first + page] - 1
        if lpn >= 0 and l2p[lpn] == first + page + 1:
            txn = new_transaction(m, READ, GC, lpn, 0, m[PAGE_BYTES])
            place(m, txn, plane, first + page)
            enqueue(m, txn)
    channel = m[plane + P_CHANNEL]
    if m[channel + C_BUSY] == 0:
        kick(m, channel, now)
    try_erase(m, block, now)
    return valid


@compiled
def collect(m, l2p, p2l, plane, now):
    """Collect one block of a plane, if it is short of free ones and the policy has one worth it."""
    if m[plane + P_FREE] < m[GC_THRESHOLD] and m[plane + P_RUNNING] < m[GC_RESERVE]:
        _collect(m, l2p, p2l, plane, victim_of(m, plane, False), now)


@compiled
def _collect(m, l2p, p2l, plane, block, now):
    if block == 0 or m[plane + P_NEED] + m[PAGES] - m[block + B_INVALID] > room(m, plane):
        return
    m[GC_RUNS] += 1
    m[GC_MOVES] += _move(m, l2p, p2l, plane, block, now)


@compiled
def level_wear(m, l2p, p2l, plane, now):
    """Move the coldest block of a plane when erases have drifted too far apart."""
    gap = m[WL_GAP]
    if gap == 0 or m[plane + P_MAX_ERASE] - m[plane + P_MIN_ERASE] < gap:
        return
    first = m[plane + P_BLOCKS]
    coldest, least = 0, m[plane + P_MAX_ERASE]
    lowest = least
    for i in range(m[BLOCKS]):
        block = first + i * B_SIZE
        erases = m[block + B_ERASES]
        lowest = min(lowest, erases)
        if erases < least and m[block + B_STATE] == FULL and m[block + B_WRITES] == 0:
            coldest, least = block, erases
    m[plane + P_MIN_ERASE] = lowest
    if coldest == 0 or m[plane + P_MAX_ERASE] - least < gap or m[plane + P_RUNNING] >= m[GC_RESERVE]:
        return
    if m[plane + P_NEED] + m[PAGES] - m[coldest + B_INVALID] > room(m, plane) - m[PAGES]:
        return
    m[WL_RUNS] += 1
    m[WL_MOVES] += _move(m, l2p, p2l, plane, coldest, now)


@compiled
def may_write(m, l2p, p2l, plane, now):
    """Whether the host may write to a plane now, or must wait for an erase there."""
    if m[plane + P_FREE] < m[GC_RESERVE]:
        if m[plane + P_RUNNING] == 0:
            collect(m, l2p, p2l, plane, now)
        if m[plane + P_RUNNING] > 0:
            return False
    if m[plane + P_USER] == 0:
        new_user_frontier(m, plane)
    if m[plane + P_USER] == 0 and m[plane + P_RUNNING] == 0:
        _collect(m, l2p, p2l, plane, victim_of(m, plane, True), now)
    return m[plane + P_USER] != 0


@compiled
def drop(m, l2p, lpn, now):
    """Forget a logical page (TRIM); the copy on flash is worth nothing from now on."""
    ppn = l2p[lpn] - 1
    if ppn >= 0:
        invalidate(m, ppn)
        if m[LOG_SIZE] != 0:
            log(m, now, now, LOG_TRIMMED, 0, ppn, lpn, 0, 0)
        l2p[lpn] = 0
        m[TRIMMED] += 1
