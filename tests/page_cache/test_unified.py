"""Unified memory against a plain oracle, and closed forms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.page_cache.unified import BLOCK
from simulator.page_cache.unified_engine import UnifiedMemory, UnifiedResult, simulate_unified
from workloads.block_trace import ArrayBlocks
from workloads.block_trace.file_patterns import generate_file_pattern

CHUNK = 32 * BLOCK


class Oracle:
    """Chunks on the GPU, the one that moved last at the end; blocks as sets."""

    def __init__(self, memory: UnifiedMemory) -> None:
        self.memory = memory
        self.chunks: dict[int, set[int]] = {}
        self.written: set[int] = set()
        self.ahead: set[int] = set()
        self.gone: set[int] = set()
        self.returns: Counter[int] = Counter()
        self.away: set[int] = set()
        self.count: Counter[str] = Counter()

    def here(self, block: int) -> bool:
        return block in self.chunks.get(block // 32, ())

    def move(self, block: int, ahead: bool) -> None:
        self.chunks[block // 32].add(block)
        self.count["ahead_blocks" if ahead else "moved_blocks"] += 1
        if ahead:
            self.ahead.add(block)

    def evict(self) -> None:
        chunk = next(iter(self.chunks))
        blocks = self.chunks.pop(chunk)
        self.count["evicted_chunks"] += 1
        self.gone.add(chunk)
        self.count["moved_back_blocks"] += len(blocks & self.written if self.memory.read_mostly else blocks)
        self.count["useless_blocks"] += len(blocks & self.ahead)
        self.written -= blocks
        self.ahead -= blocks

    def serve(self, block: int) -> None:
        chunk = block // 32
        if self.here(block) or chunk in self.away:
            return
        if chunk not in self.chunks:
            if chunk in self.gone:
                self.gone.discard(chunk)
                self.returns[chunk] += 1
                self.count["returned_chunks"] += 1
                if self.memory.pin_after and self.returns[chunk] >= self.memory.pin_after:
                    self.away.add(chunk)
                    self.count["pinned_chunks"] += 1
                    return
            if len(self.chunks) == self.memory.memory_bytes // CHUNK:
                self.evict()
            self.chunks[chunk] = set()
        self.chunks[chunk] = self.chunks.pop(chunk)
        self.move(block, False)
        wanted = {block}
        for level in range(1, 6):
            size = 2**level
            run = set(range(block // size * size, block // size * size + size))
            if self.memory.prefetch and len(run & self.chunks[chunk]) > size * self.memory.threshold / 100:
                wanted = run
        for other in sorted(wanted - self.chunks[chunk]):
            self.move(other, True)

    def run(self, touches: list[tuple[int, int, bool]]) -> None:
        side = min(self.memory.group, self.memory.memory_bytes // BLOCK)
        for start in range(0, len(touches), side):
            group = touches[start : start + side]
            faults: dict[int, None] = {}
            for block, _, _ in group:
                self.count["touches"] += 1
                if self.here(block):
                    self.count["hits"] += 1
                elif block // 32 not in self.away:
                    faults[block] = None
            self.count["faults"] += len(faults)
            self.count["batches"] += -(-len(faults) // self.memory.batch)
            for block in faults:
                self.serve(block)
            for block, size, write in group:
                if block // 32 in self.away:
                    self.count["remote_touches"] += 1
                    self.count["remote_bytes"] += size
                    continue
                self.count["local_bytes"] += size
                if block in self.ahead:
                    self.ahead.discard(block)
                    self.count["useful_blocks"] += 1
                if write and self.here(block):
                    self.written.add(block)


def counted(result: UnifiedResult) -> dict[str, int]:
    return {name: n for name, n in result.as_json().items() if isinstance(n, int) and n and hasattr(result, name)
            and name not in ("moved_bytes",)}  # fmt: skip


def gpu(chunks: int, **more: Any) -> UnifiedMemory:
    return UnifiedMemory("gpu", chunks * CHUNK, 1e12, 1e10, **more)


def trace_of(seed: int, count: int, chunks: int, writes: float) -> ArrayBlocks:
    random = np.random.default_rng(seed)
    start = np.where(
        random.random(count) < 0.5, np.arange(count) % (chunks * 32), random.integers(0, chunks * 32, count)
    )
    size = random.choice([100, BLOCK, 3 * BLOCK], count)
    address = np.minimum(start * BLOCK + random.choice([0, 50], count), chunks * CHUNK - size)
    return ArrayBlocks((random.random(count) < writes).astype(int), address, size)


def touches_of(trace: ArrayBlocks) -> list[tuple[int, int, bool]]:
    found = []
    for part in trace.chunks(10**6):
        for write, address, size in zip(*(column.tolist() for column in part[:3]), strict=True):
            for block in range(address // BLOCK, (address + size - 1) // BLOCK + 1):
                first, last = max(address, block * BLOCK), min(address + size, (block + 1) * BLOCK)
                found.append((block, last - first, bool(write)))
    return found


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32), count=st.integers(1, 300), chunks=st.integers(1, 8), capacity=st.integers(1, 6),
    group=st.integers(1, 50), batch=st.integers(1, 8), pin=st.integers(0, 3), mostly=st.booleans(),
    prefetch=st.booleans(), threshold=st.sampled_from((1, 25, 51, 90)),
)  # fmt: skip
def test_the_engine_counts_what_the_oracle_counts(
    seed: int, count: int, chunks: int, capacity: int, group: int, batch: int, pin: int, mostly: bool, prefetch: bool,
    threshold: int,
) -> None:  # fmt: skip
    memory = gpu(
        capacity,
        group=group,
        batch=batch,
        pin_after=pin,
        read_mostly=mostly,
        prefetch=prefetch,
        threshold=threshold,
    )
    trace, oracle = trace_of(seed, count, chunks, 0.3), Oracle(memory)
    oracle.run(touches_of(trace))
    result = simulate_unified(memory, trace)
    assert counted(result) == {name: n for name, n in oracle.count.items() if n}


class _Fifo(Oracle):
    def serve(self, block: int) -> None:
        order = list(self.chunks)
        super().serve(block)
        kept = [chunk for chunk in order if chunk in self.chunks]
        self.chunks = {chunk: self.chunks[chunk] for chunk in [*kept, *(set(self.chunks) - set(kept))]}


class _NeverAway(Oracle):
    def serve(self, block: int) -> None:
        self.returns.clear()
        super().serve(block)


class _NoTree(Oracle):
    def move(self, block: int, ahead: bool) -> None:
        if not ahead:
            super().move(block, ahead)


@pytest.mark.parametrize("wrong", [_Fifo, _NeverAway, _NoTree])
def test_a_wrong_rule_does_not_count_the_same(wrong: type[Oracle]) -> None:
    memory, trace = gpu(4, group=20, pin_after=3), trace_of(2, 900, 8, 0.3)
    result = counted(simulate_unified(memory, trace))
    for oracle, same in ((Oracle(memory), True), (wrong(memory), False)):
        oracle.run(touches_of(trace))
        assert (result == {name: n for name, n in oracle.count.items() if n}) is same


def test_what_fits_moves_once_and_a_loop_that_does_not_moves_again_each_round() -> None:
    fits, over = (
        simulate_unified(gpu(n, group=32), generate_file_pattern("loop:32MiB:3", BLOCK)) for n in (16, 15)
    )
    assert fits.moved_bytes == 32 * 2**20
    assert (fits.evicted_chunks, fits.moved_back_blocks) == (0, 0)
    assert over.moved_bytes == 3 * 32 * 2**20
    assert over.evicted_chunks == 3 * 16 - 15
    mostly = simulate_unified(
        gpu(15, group=32, read_mostly=True), generate_file_pattern("loop:32MiB:3", BLOCK)
    )
    assert mostly.moved_back_blocks == 0


def test_the_tree_halves_what_is_left_of_a_chunk_with_each_fault() -> None:
    """Blocks in order, one at a time: 2 brings 3, 4 brings 5 to 7: faults at 0, 1, 2, 4, 8, 16."""
    result = simulate_unified(gpu(4, group=1), generate_file_pattern("sequential:2MiB", BLOCK))
    assert result.faults == 6
    assert result.moved_blocks + result.ahead_blocks == 32
    assert result.useful_blocks == 26
    bare = simulate_unified(gpu(4, group=1, prefetch=False), generate_file_pattern("sequential:2MiB", BLOCK))
    assert (bare.faults, bare.batches) == (32, 32)


def test_time_is_batches_moves_and_touches() -> None:
    memory = gpu(4, group=16, batch=8, prefetch=False, batch_s=1e-3)
    result = simulate_unified(memory, generate_file_pattern("sequential:2MiB", BLOCK))
    assert result.batches == 4
    assert result.time_s == pytest.approx(4e-3 + 2 * 2**20 / 1e10 + 2 * 2**20 / 1e12)
    away = simulate_unified(gpu(1, group=4, pin_after=1), generate_file_pattern("loop:4MiB:6", BLOCK))
    assert away.pinned_chunks == 1
    assert away.remote_bytes > 0 < away.remote_s
    with pytest.raises(InputError, match="no chunk"):
        simulate_unified(UnifiedMemory("gpu", 1000, 1e12, 1e10), generate_file_pattern("sequential:2MiB"))
