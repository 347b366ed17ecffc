"""Unified memory of a GPU (UVM): blocks of 64 KiB that move on faults, a density prefetcher, eviction of 2 MiB.

As NVIDIA's open driver states its rules (uvm_perf_prefetch.c, uvm_perf_thrashing.c) and Ganguly et al. (ISCA 2019) and
Allen and Ge (SC 2021) measured them: touches run side by side, faults are served in batches, and a chunk of 2 MiB is
the least recently used when nothing moved into it for longest (the driver sees faults, no touches).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.page_cache.step import step

__all__ = ["BLOCK", "CHUNK_BLOCKS", "UnifiedState", "new_unified", "run_unified"]

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

BLOCK: Final = 65536
"""Bytes that one fault moves."""
CHUNK_BLOCKS: Final = 32
"""Blocks of a chunk of 2 MiB."""
CAPACITY, GROUP, BATCH, THRESHOLD, COMINGS_BACK, READ_MOSTLY = range(6)
"""Parameters: chunks, touches side by side, faults of a batch, per cent, times, 0 or 1."""
HERE, WRITTEN, AHEAD, ASKED = 1, 2, 4, 8
(TOUCHES, HITS, FAULTS, BATCHES, MOVED, MOVED_AHEAD, USEFUL, USELESS, EVICTED, BACK, REMOTE, REMOTE_BYTES, LOCAL_BYTES,
 PINNED, RETURNS) = range(15)  # fmt: skip
"""Places in ``counts``: blocks, batches, chunks, bytes; BACK: blocks moved back to the host; PINNED: chunks."""


class UnifiedState(NamedTuple):
    """Of blocks: flags. Of chunks: blocks here, links by last move, times that it came back, whether it stays away."""

    flag: Bytes
    held: Ints
    before: Ints
    after: Ints
    returns: Ints
    away: Bytes
    gone: Bytes
    word: Ints
    """Youngest chunk, oldest chunk, chunks here."""
    counts: Ints
    queue: Ints


def new_unified(chunks: int, group: int) -> UnifiedState:
    """Nothing has moved to the GPU."""
    return UnifiedState(
        np.zeros(chunks * CHUNK_BLOCKS, np.uint8), np.zeros(chunks, np.int64), np.zeros(chunks, np.int64),
        np.zeros(chunks, np.int64), np.zeros(chunks, np.int64), np.zeros(chunks, np.uint8), np.zeros(chunks, np.uint8),
        np.array([-1, -1, 0], np.int64), np.zeros(15, np.int64), np.zeros(group, np.int64),
    )  # fmt: skip


@step
def _detach(s: UnifiedState, chunk):
    before, after = s.before[chunk], s.after[chunk]
    if before >= 0:
        s.after[before] = after
    else:
        s.word[0] = after
    if after >= 0:
        s.before[after] = before
    else:
        s.word[1] = before


@step
def _youngest(s: UnifiedState, chunk):
    s.before[chunk], s.after[chunk] = -1, s.word[0]
    if s.word[0] >= 0:
        s.before[s.word[0]] = chunk
    else:
        s.word[1] = chunk
    s.word[0] = chunk


@step
def _evict(p: Ints, s: UnifiedState, chunk):
    """A chunk leaves: its blocks move back, or written ones alone where the host kept a copy."""
    _detach(s, chunk)
    s.word[2] -= 1
    s.counts[EVICTED] += 1
    s.gone[chunk] = 1
    s.held[chunk] = 0
    for block in range(chunk * CHUNK_BLOCKS, (chunk + 1) * CHUNK_BLOCKS):
        flag = s.flag[block]
        if flag & HERE:
            if flag & WRITTEN or not p[READ_MOSTLY]:
                s.counts[BACK] += 1
            if flag & AHEAD:
                s.counts[USELESS] += 1
            s.flag[block] = flag & ASKED


@step
def _move(s: UnifiedState, block, ahead):
    s.flag[block] |= HERE | (AHEAD if ahead else 0)
    s.held[block // CHUNK_BLOCKS] += 1
    s.counts[MOVED_AHEAD if ahead else MOVED] += 1


@step
def _grow(p: Ints, s: UnifiedState, block):
    """The tree: the largest aligned run around a block of which more than a share is here comes as a whole."""
    size, first, whole = 2, block, 1
    while size <= CHUNK_BLOCKS:
        start = block // size * size
        here = 0
        for k in range(start, start + size):
            here += s.flag[k] & HERE
        if here * 100 > size * p[THRESHOLD]:
            first, whole = start, size
        size *= 2
    for k in range(first, first + whole):
        if not s.flag[k] & HERE:
            _move(s, k, True)


@step
def _serve(p: Ints, s: UnifiedState, block):
    """Bring the block of a fault, unless a prefetch has, or its chunk came back so often that it stays on the host."""
    chunk = block // CHUNK_BLOCKS
    if s.flag[block] & HERE or s.away[chunk]:
        return
    if s.held[chunk] == 0:
        if s.gone[chunk]:
            s.gone[chunk] = 0
            s.returns[chunk] += 1
            s.counts[RETURNS] += 1
            if p[COMINGS_BACK] and s.returns[chunk] >= p[COMINGS_BACK]:
                s.away[chunk] = 1
                s.counts[PINNED] += 1
                return
        if s.word[2] >= p[CAPACITY]:
            _evict(p, s, s.word[1])
        s.word[2] += 1
    else:
        _detach(s, chunk)
    _youngest(s, chunk)
    _move(s, block, False)
    _grow(p, s, block)


@step
def run_unified(p: Ints, s: UnifiedState, block: Ints, size: Ints, write: Ints):
    """Take touches of blocks (bytes each), ``GROUP`` side by side: their faults are served, then all go on."""
    for start in range(0, block.size, p[GROUP]):
        end = min(start + p[GROUP], block.size)
        asked = 0
        for n in range(start, end):
            flag = s.flag[block[n]]
            s.counts[TOUCHES] += 1
            if flag & HERE:
                s.counts[HITS] += 1
            elif not flag & ASKED and not s.away[block[n] // CHUNK_BLOCKS]:
                s.flag[block[n]] |= ASKED
                s.queue[asked] = block[n]
                asked += 1
        s.counts[FAULTS] += asked
        s.counts[BATCHES] += (asked + p[BATCH] - 1) // p[BATCH]
        for k in range(asked):
            s.flag[s.queue[k]] &= ~ASKED
            _serve(p, s, s.queue[k])
        for n in range(start, end):
            if s.away[block[n] // CHUNK_BLOCKS]:
                s.counts[REMOTE] += 1
                s.counts[REMOTE_BYTES] += size[n]
                continue
            s.counts[LOCAL_BYTES] += size[n]
            if s.flag[block[n]] & AHEAD:
                s.flag[block[n]] &= ~AHEAD
                s.counts[USEFUL] += 1
            if write[n] and s.flag[block[n]] & HERE:
                s.flag[block[n]] |= WRITTEN
