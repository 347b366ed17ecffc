"""Cache blocks: who holds them, in which order free ones are taken again, and which of them hold a known prefix.

The order of the free list, the index of prefixes and eviction are those of vLLM 0.32.0 (``vllm/v1/core/block_pool.py``,
``kv_cache_utils.py``, ``single_type_kv_cache_manager.py``), to the number of every block. A key of 128 bits stands for
all tokens from the beginning of a sequence to the end of a block; it chains the runs of streams that the tokens are.

Two managers stand behind the same steps (:func:`fits`, :func:`take`, :func:`release`): paged blocks, which can be
shared, and pages of groups of layers (:class:`simulator.serving.rules.PageGroup`), which are only counted.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numpy import uint64 as u

from hw_configs.compiled import compiled

__all__ = ["demand", "fits", "look_up", "pages_at", "release", "rewind", "take"]


@compiled(_nrt=False)
def _mixed(x):
    """SplitMix64's finaliser (Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> u(30))) * u(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> u(27))) * u(0x94D049BB133111EB)
    return x ^ (x >> u(31))


@compiled(_nrt=False)
def rewind(s, r):
    """Put a request's chain of keys at its first token. Under another adapter all keys are others."""
    q = s.requests[r]
    q.segment = 0
    q.offset = 0
    q.low = _mixed(u(0x243F6A8885A308D3) + u(s.adapter[r]))
    q.high = u(0x13198A2E03707344)


@compiled(_nrt=False)
def _next_key(s, r):
    """Move a request's chain of keys on by one block."""
    q = s.requests[r]
    left = s.engine[0].block
    first = s.segment_begin[r]
    segments = s.segment_begin[r + 1] - first
    while left > 0:
        if q.segment < segments:
            length = s.segment_tokens[first + q.segment] - q.offset
            if length <= 0:
                q.segment += 1
                q.offset = 0
                continue
            stream = s.segment_stream[first + q.segment]
            length = min(length, left)
        else:
            stream = s.output_stream[r]
            length = left
        where = u(q.offset) * u(0x9E3779B97F4A7C15) + u(length)
        q.low = _mixed(_mixed(q.low ^ u(stream)) + where)
        q.high = _mixed(_mixed(q.high + u(stream)) ^ where) + q.low
        q.offset += length
        left -= length


@compiled(_nrt=False)
def _slot(s, low, high):
    """Place of a key in the index, or the empty place where it would go."""
    mask = s.engine[0].mask
    place = np.int64(low & u(mask))
    while True:
        b = s.slots[place]
        if b == 0 or (s.blocks[b].low == low and s.blocks[b].high == high):
            return place
        place = (place + 1) & mask


@compiled(_nrt=False)
def _enter(s, b, low, high):
    """Put a block into the index, behind those that stand under its key already."""
    new = s.blocks[b]
    new.low = low
    new.high = high
    new.indexed = 1
    place = _slot(s, low, high)
    head = s.slots[place]
    if head == 0:
        s.slots[place] = b
        new.same_previous = b
        new.same_next = b
        s.engine[0].keys += 1
        return
    tail = s.blocks[head].same_previous
    new.same_previous = tail
    new.same_next = head
    s.blocks[tail].same_next = b
    s.blocks[head].same_previous = b


@compiled(_nrt=False)
def _leave(s, b):
    """Take a block out of the index."""
    old = s.blocks[b]
    old.indexed = 0
    place = _slot(s, old.low, old.high)
    if old.same_next != b:
        s.blocks[old.same_next].same_previous = old.same_previous
        s.blocks[old.same_previous].same_next = old.same_next
        if s.slots[place] == b:
            s.slots[place] = old.same_next
        return
    e = s.engine[0]
    e.keys -= 1
    hole = place
    while True:
        # Close the gap: what follows moves up unless it would come before its own place.
        place = (place + 1) & e.mask
        follower = s.slots[place]
        if follower == 0:
            break
        home = np.int64(s.blocks[follower].low & u(e.mask))
        if ((place - home) & e.mask) >= ((place - hole) & e.mask):
            s.slots[hole] = follower
            hole = place
    s.slots[hole] = 0


@compiled(_nrt=False)
def _unlink(s, b):
    block = s.blocks[b]
    s.blocks[block.previous].next = block.next
    s.blocks[block.next].previous = block.previous
    s.engine[0].free -= 1


@compiled(_nrt=False)
def _link_behind(s, b, before):
    block = s.blocks[b]
    after = s.blocks[before].next
    block.previous = before
    block.next = after
    s.blocks[before].next = b
    s.blocks[after].previous = b
    s.engine[0].free += 1


@compiled(_nrt=False)
def look_up(s, r):
    """Blocks at the beginning of a request that the index holds; they stand in ``hits`` then.

    The last known token is never among them. Leaves the request's chain of keys behind the last of them.
    """
    e = s.engine[0]
    q = s.requests[r]
    rewind(s, r)
    if e.caching == 0:
        return 0
    found = 0
    # Where the chain stood before the last two keys.
    segment, offset, low, high = q.segment, q.offset, q.low, q.high
    before = (segment, offset, low, high)
    for k in range((q.known - 1) // e.block):
        _next_key(s, r)
        b = s.slots[_slot(s, q.low, q.high)]
        if b == 0:
            break
        s.hits[k] = b
        found += 1
        before = (segment, offset, low, high)
        segment, offset, low, high = q.segment, q.offset, q.low, q.high
    if e.drop_last != 0 and found > 0:
        found -= 1
        segment, offset, low, high = before
    q.segment, q.offset, q.low, q.high = segment, offset, low, high
    return found


@compiled(_nrt=False)
def pages_at(s, base, tokens):
    """Pages that a request holds while tokens ``base`` to ``tokens`` of it are computed."""
    total = 0
    for k in range(len(s.groups)):
        g = s.groups[k]
        if g.tokens == 0:
            total += g.pages
        else:
            gone = max(0, base + 1 - g.window) // g.tokens if g.window > 0 else 0
            total += g.pages * (-(-tokens // g.tokens) - gone)
    return total


@compiled(_nrt=False)
def demand(s, base, tokens):
    """Blocks, or pages, of a request whose tokens ``base`` to ``tokens`` are computed."""
    e = s.engine[0]
    return -(-tokens // e.block) if e.paged != 0 else pages_at(s, base, tokens)


@compiled(_nrt=False)
def _parked(s, hits):
    """Of the blocks found, those that nobody holds."""
    parked = 0
    for k in range(hits):
        if s.blocks[s.hits[k]].holders == 0:
            parked += 1
    return parked


@compiled(_nrt=False)
def fits(s, r, base, tokens, hits, watermark, whole):
    """Whether a request's tokens up to ``tokens`` fit beside ``watermark`` blocks that stay free.

    ``whole``: blocks, hits included, that must fit besides, though they are not taken; 0: none.
    """
    e = s.engine[0]
    aside = watermark
    if hits > 0:
        aside += _parked(s, hits)
    if whole > 0 and whole - hits + aside > e.free:
        return False
    need = demand(s, base, tokens) - s.requests[r].held - hits
    return max(0, need) + aside <= e.free


@compiled(_nrt=False)
def take(s, r, base, tokens, hits, full):
    """Give a request its hits and blocks for tokens up to ``tokens``; enter the blocks that ``full`` tokens fill."""
    e = s.engine[0]
    q = s.requests[r]
    if e.paged == 0:
        need = pages_at(s, base, tokens)
        e.free -= need - q.held
        q.held = need
        return
    row = s.table[q.row]
    for k in range(hits):
        b = s.hits[k]
        if s.blocks[b].holders == 0:
            _unlink(s, b)
        s.blocks[b].holders += 1
        row[k] = b
    if hits > 0:
        q.held = hits
    need = demand(s, base, tokens)
    while q.held < need:
        b = s.blocks[0].next
        _unlink(s, b)
        if s.blocks[b].indexed != 0:
            _leave(s, b)
        s.blocks[b].holders = 1
        row[q.held] = b
        q.held += 1
    if e.caching != 0:
        while (q.entered + 1) * e.block <= full:
            _next_key(s, r)
            _enter(s, row[q.entered], q.low, q.high)
            q.entered += 1


@compiled(_nrt=False)
def release(s, r):
    """Take a request's hold off all its blocks, last first; without a holder they are free."""
    e = s.engine[0]
    q = s.requests[r]
    if e.paged == 0:
        e.free += q.held
        q.held = 0
        return
    row = s.table[q.row]
    # Blocks out of the index become the head of the list, as a group whose first is the last of the table.
    front = 0
    for k in range(q.held - 1, -1, -1):
        b = row[k]
        block = s.blocks[b]
        block.holders -= 1
        if block.holders > 0:
            continue
        if block.indexed != 0:
            _link_behind(s, b, s.blocks[0].previous)
        else:
            _link_behind(s, b, front)
            front = b
    q.held = 0
    q.entered = 0
