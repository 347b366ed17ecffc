"""Reads that a store makes of a drive, and the time that the drive engine takes for them at a queue depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import bad_input
from simulator.flash.drive import drive_of, smaller
from simulator.flash.engine import RunOptions, simulate_drive
from simulator.flash.patterns import DrivePattern, drive_rate
from workloads.block_trace.trace import ArrayBlocks

__all__ = ["CHUNK", "DriveReads", "ReadTime", "chunks_of", "no_reads", "read_time"]

Longs = npt.NDArray[np.int64]
CHUNK: Final = 128 * 1024
"""Bytes of one request of a long read: what the block layer cuts it into (assumption)."""
MOST_SERVED: Final = 60_000
MOST_SERVED_BYTES: Final = 1 << 30
"""Requests, and their bytes, that the engine runs; the rate of the first so many is taken for the others."""
FEWEST_BLOCKS: Final = 48


@dataclass(frozen=True, eq=False)
class DriveReads:
    """Reads in the order they are made: byte address, bytes, and the batch that waits for each."""

    address: Longs
    size: Longs
    batch: Longs

    @property
    def count(self) -> int:
        """Number of requests."""
        return int(self.size.size)

    @property
    def bytes(self) -> int:
        """Bytes of all."""
        return int(self.size.sum())

    def bytes_by_batch(self, batches: int) -> npt.NDArray[np.float64]:
        """Bytes that each batch waits for."""
        return np.bincount(self.batch, weights=self.size, minlength=batches).astype(np.float64)


def no_reads() -> DriveReads:
    """None at all."""
    return DriveReads(*(np.empty(0, np.int64) for _ in range(3)))


def chunks_of(starts: Longs, sizes: Longs, batches: Longs) -> DriveReads:
    """Long reads, one for each batch named, cut into chunks.

    >>> chunks_of(np.array([0]), np.array([200_000]), np.array([7])).size.tolist()
    [131072, 68928]
    """
    counts = -(-sizes // CHUNK)
    number = np.repeat(np.arange(sizes.size), counts)
    step = np.arange(number.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return DriveReads(
        starts[number] + step * CHUNK, np.minimum(CHUNK, sizes[number] - step * CHUNK), batches[number]
    )


@dataclass(frozen=True, slots=True)
class ReadTime:
    """What a drive gave to some reads: bytes per second under load, seconds of one alone, joules a byte, and whence.

    ``source``: engine, or data sheet where the inside of the drive is not published.
    """

    bandwidth: float
    iops: float
    idle_s: float
    energy_per_byte_j: float
    source: str


def read_time(device: Flash | ComputationalStorage, reads: DriveReads, queue_depth: int) -> ReadTime:
    """The rate of these very reads, in their order, ``queue_depth`` at a time."""
    if not 1 <= queue_depth <= 65536:
        raise bad_input(f"found {queue_depth}; expected 1 to 65536", path="--queue-depth")
    if not reads.count:
        return ReadTime(0.0, 0.0, 0.0, 0.0, "none")
    mean = max(512, round(reads.bytes / reads.count))
    rate = drive_rate(device, DrivePattern("read", "random", mean, queue_depth))
    if device.store.geometry is None or device.store.timing is None:
        return ReadTime(
            rate.bandwidth_bytes_per_s, rate.iops, rate.idle_latency_s, rate.energy_per_byte_j, "data sheet"
        )
    served = max(
        1, int(np.searchsorted(np.cumsum(reads.size[:MOST_SERVED]), MOST_SERVED_BYTES, side="right"))
    )
    address, size = reads.address[:served], reads.size[:served]
    whole = drive_of(device)
    need = int((reads.address + reads.size).max())
    if need > whole.capacity_bytes:
        raise bad_input(
            f"the store has {need} bytes; {device.name!r} holds {whole.capacity_bytes}", path="--hw"
        )
    # All planes in use, as in a drive that the full table fills; the blocks that hold nothing are left out.
    share = need / whole.capacity_bytes * 1.1
    blocks = min(whole.blocks_per_plane, max(FEWEST_BLOCKS, int(whole.blocks_per_plane * share) + 1))
    most = whole.host.queue_entries * whole.host.queue_pairs
    found = simulate_drive(
        smaller(whole, blocks), ArrayBlocks(np.zeros(size.size, np.int64), address, size, name="reads of a store"),
        RunOptions(outstanding=min(queue_depth, most)),
    )  # fmt: skip
    # The channels of an assumed inside may carry more than the maker states; the statement holds.
    bandwidth = min(found.bytes_read / found.time_s, device.store.read_bandwidth)
    return ReadTime(bandwidth, found.iops, rate.idle_latency_s, rate.energy_per_byte_j, "engine")
