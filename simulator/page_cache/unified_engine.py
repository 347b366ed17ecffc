"""Runs a trace through unified memory: what moves over the link, how often faults are served, and what that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hw_configs.problems import PhysicsError, bad_input
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.page_cache.engine import extent_of
from simulator.page_cache.unified import (
    BACK,
    BATCHES,
    BLOCK,
    CHUNK_BLOCKS,
    EVICTED,
    FAULTS,
    HITS,
    LOCAL_BYTES,
    MOVED,
    MOVED_AHEAD,
    PINNED,
    REMOTE,
    REMOTE_BYTES,
    RETURNS,
    TOUCHES,
    USEFUL,
    USELESS,
    new_unified,
    run_unified,
)
from workloads.block_trace.trace import TRIM, WRITE, BlockTrace
from workloads.cache_trace.trace import split_ranges

__all__ = ["UnifiedMemory", "UnifiedResult", "simulate_unified"]

CHUNK = 1 << 12
MOST_CHUNKS = 1 << 22


@dataclass(frozen=True, slots=True)
class UnifiedMemory:
    """A GPU's memory and its link to the host.

    ``group``: touches side by side, at most as many as blocks fit; ``batch``: faults served together (256 in
    NVIDIA's driver), each batch in ``batch_s`` beside what it moves (Allen and Ge, SC 2021: tens of microseconds).
    ``prefetch``: the density prefetcher, at more than ``threshold`` per cent. ``pin_after``: a chunk that came back
    so often stays on the host and is read over the link (0: never). ``read_mostly``: the host keeps copies, so that
    only written blocks move back.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    link_bytes_per_s: float
    group: int = 2048
    batch: int = 256
    batch_s: float = 30e-6
    prefetch: bool = True
    threshold: int = 51
    pin_after: int = 0
    read_mostly: bool = False


@dataclass(frozen=True)
class UnifiedResult(Shown):
    """One run; blocks are of 64 KiB, chunks of 2 MiB. Batches, moves and touches follow one another in time."""

    device: str
    trace: str
    touches: int
    hits: int
    faults: int
    batches: int
    moved_blocks: int
    ahead_blocks: int
    useful_blocks: int
    useless_blocks: int
    evicted_chunks: int
    moved_back_blocks: int
    returned_chunks: int
    pinned_chunks: int
    remote_touches: int
    remote_bytes: int
    local_bytes: int
    batch_s: float
    move_s: float
    touch_s: float
    remote_s: float

    @property
    def time_s(self) -> float:
        """Seconds of the run."""
        return self.batch_s + self.move_s + self.touch_s + self.remote_s

    @property
    def moved_bytes(self) -> int:
        """Bytes moved to the GPU."""
        return (self.moved_blocks + self.ahead_blocks) * BLOCK

    @property
    def amplification(self) -> float:
        """Blocks moved over blocks moved that were touched."""
        wanted = self.moved_blocks + self.useful_blocks
        return (self.moved_blocks + self.ahead_blocks) / wanted if wanted else 0.0

    def check(self) -> None:
        """Hold the counts against what no memory can do; raises ``PhysicsError``."""
        if self.useful_blocks + self.useless_blocks > self.ahead_blocks:
            raise PhysicsError("more blocks moved ahead were used or dropped than moved")
        if self.moved_blocks > self.faults or self.hits > self.touches:
            raise PhysicsError("more blocks moved than faulted, or more touches hit than were made")

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        return {
            **asdict(self), "time_s": self.time_s, "moved_bytes": self.moved_bytes, "amplification": self.amplification,
            "moved_back_bytes": self.moved_back_blocks * BLOCK,
            "hit_rate": self.hits / self.touches if self.touches else 0.0,
        }  # fmt: skip

    def shown_tables(self) -> tuple[Table, ...]:
        """The run as a table."""
        r = self
        back = format_quantity(r.moved_back_blocks * BLOCK, "size")
        rows: list[tuple[object, ...]] = [
            ("blocks touched", f"{r.touches:,}", f"{r.hits / max(r.touches, 1):.2%} were there"),
            ("faults", f"{r.faults:,}", f"in {r.batches:,} batches, {format_quantity(r.batch_s, 'time')}"),
            ("moved to the GPU", format_quantity(r.moved_bytes, "size"), f"{r.ahead_blocks:,} blocks ahead of use"),
            ("ahead of use", f"{r.useful_blocks:,} used", f"{r.useless_blocks:,} left unused"),
            ("moved back", back, f"{r.evicted_chunks:,} chunks given up, {r.returned_chunks:,} came back"),
            ("used over the link", format_quantity(r.remote_bytes, "size"), f"{r.pinned_chunks:,} chunks stay away"),
            ("moving", format_quantity(r.move_s, "time"), ""),
            ("touching", format_quantity(r.touch_s + r.remote_s, "time"), ""),
            ("time", format_quantity(r.time_s, "time"), ""),
            ("amplification", f"{r.amplification:.3f}", "blocks moved over those of them touched"),
        ]  # fmt: skip
        return (Table(f"{r.trace} on {r.device}", ("", "value", ""), tuple(rows)),)


def simulate_unified(
    memory: UnifiedMemory, trace: BlockTrace, *, progress: Callable[[int], None] | None = None
) -> UnifiedResult:
    """Run a trace to its end. Raises ``InputError`` for a memory that cannot be, and what reading the trace raises."""
    capacity = memory.memory_bytes // (BLOCK * CHUNK_BLOCKS)
    if capacity < 1:
        raise bad_input(f"{memory.memory_bytes} bytes hold no chunk of 2 MiB", path="--memory")
    if not (
        1 <= memory.batch <= 2**20
        and 1 <= memory.group <= 2**24
        and memory.pin_after >= 0
        and memory.batch_s >= 0
    ):
        raise bad_input("expected a batch and a group of 1 or more, and times of 0 or more", path="--batch")
    threshold = memory.threshold if memory.prefetch else 100
    group = min(memory.group, capacity * CHUNK_BLOCKS)
    given = np.array(
        [capacity, group, memory.batch, threshold, memory.pin_after, memory.read_mostly], np.int64
    )
    chunks = -(-extent_of(trace) // (BLOCK * CHUNK_BLOCKS))
    if chunks > MOST_CHUNKS:
        raise bad_input("the trace reaches over more than 8 TiB", file=trace.name)
    state = new_unified(chunks, group)
    held: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    for requests in trace.chunks(CHUNK):
        kept = requests.operation != TRIM
        address, size = requests.address[kept], requests.size[kept]
        block, which = split_ranges(address, size, BLOCK)
        begin = np.maximum(block * BLOCK, address[which])
        length = np.minimum((block + 1) * BLOCK, (address + size)[which]) - begin
        write = (requests.operation[kept][which] == WRITE).astype(np.int64)
        held.append(np.stack([block, length, write]))
        # Groups do not end where chunks of the trace do.
        waiting = np.concatenate(held, axis=1)
        whole = waiting.shape[1] // group * group
        run_unified(given, state, *np.ascontiguousarray(waiting[:, :whole]))
        held = [waiting[:, whole:]]
        if progress is not None:
            progress(int(state.counts[TOUCHES]))
    if held:
        run_unified(given, state, *np.ascontiguousarray(held[0]))
    result = _collect(memory, trace.name, state.counts.tolist())
    result.check()
    return result


def _collect(memory: UnifiedMemory, trace: str, c: list[int]) -> UnifiedResult:
    """Sum a run up, in time too."""
    moved = (c[MOVED] + c[MOVED_AHEAD] + c[BACK]) * BLOCK
    return UnifiedResult(
        device=memory.name, trace=trace, touches=c[TOUCHES], hits=c[HITS], faults=c[FAULTS], batches=c[BATCHES],
        moved_blocks=c[MOVED], ahead_blocks=c[MOVED_AHEAD], useful_blocks=c[USEFUL], useless_blocks=c[USELESS],
        evicted_chunks=c[EVICTED], moved_back_blocks=c[BACK], returned_chunks=c[RETURNS], pinned_chunks=c[PINNED],
        remote_touches=c[REMOTE], remote_bytes=c[REMOTE_BYTES], local_bytes=c[LOCAL_BYTES],
        batch_s=c[BATCHES] * memory.batch_s, move_s=moved / memory.link_bytes_per_s,
        touch_s=c[LOCAL_BYTES] / memory.bandwidth_bytes_per_s, remote_s=c[REMOTE_BYTES] / memory.link_bytes_per_s,
    )  # fmt: skip
