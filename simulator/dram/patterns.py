"""What a memory gives to an access pattern, measured on the cycle-accurate engine.

The system level asks: at what bandwidth does this device stream weights, gather rows of an embedding table,
or read a KV cache page by page? The answer is a run of the engine on that pattern, long enough to have
settled, kept by pattern and device, so that asking again costs nothing.

Addresses are those of the whole device. Its mapping says which channel takes which of them, so that a stride
which meets few channels is as slow as it would be. Channels are alike and work on their own: the one with the
most to do decides, and it alone is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.dram import DramDevice
from hw_configs.problems import bad_input
from simulator.dram.address import address_map
from simulator.dram.build import memory_of
from simulator.dram.energy import EnergyBreakdown
from simulator.dram.engine import Memory, RunOptions, simulate_trace
from simulator.dram.machine import Channel
from workloads.memory_trace import ArrayTrace, Geometry
from workloads.memory_trace.generators import splitmix64

__all__ = ["AccessPattern", "PatternResult", "channel_grain", "geometry_of", "pattern_bandwidth"]

SETTLED: Final = 24_576
"""Requests of one channel that a measurement takes: several refresh intervals of every standard."""
MAX_REQUESTS: Final = 1 << 20
"""Requests of all channels together that a measurement makes up, at most."""

CHUNK_BYTES: Final = 4096
"""Where ``stride_bytes`` is not given, a strided pattern leaves a page between its blocks."""


@dataclass(frozen=True, slots=True)
class AccessPattern:
    """How bytes are touched.

    ``stream``: in order. ``gather``: blocks of ``block_bytes`` (a row of an embedding table, a KV page) at
    random places. ``strided``: blocks of ``block_bytes`` every ``stride_bytes`` (one head of a KV cache).
    ``random``: single transactions. ``write_share`` of the requests are writes, spread evenly. ``lanes`` readers
    walk a strided pattern side by side, a block apart (all heads of a token).
    """

    kind: Literal["stream", "gather", "strided", "random"] = "stream"
    block_bytes: int = 64
    stride_bytes: int = 0
    write_share: float = 0.0
    lanes: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("stream", "gather", "strided", "random"):
            raise bad_input(f"unknown access pattern {self.kind!r}; known: stream, gather, strided, random")
        if self.block_bytes < 1 or self.stride_bytes < 0 or not 0 <= self.write_share <= 1:
            raise bad_input("a pattern needs block_bytes >= 1, stride_bytes >= 0 and write_share from 0 to 1")
        if self.lanes < 1 or (self.lanes > 1 and self.lanes * self.block_bytes > self.stride_bytes):
            raise bad_input(f"found {self.lanes} lanes; expected 1 or more, all blocks inside one stride")


@dataclass(frozen=True, slots=True)
class PatternResult:
    """What the engine found. ``latency_s`` is the mean of reads under this load, ``idle_latency_s`` without
    load.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    idle_latency_s: float
    energy_per_byte_j: float
    row_hit_rate: float
    utilisation: float


def geometry_of(device: DramDevice) -> Geometry:
    """What trace generators must know of a device, all channels together."""
    memory = memory_of(device)
    channel = memory.channel
    levels = dict(channel.levels)
    above = channel.banks // (levels.get("BankGroup", 1) * levels["Bank"])
    return Geometry(
        channel.transaction_bytes,
        channel.columns * memory.channels,
        above,
        levels.get("BankGroup", 1),
        levels["Bank"],
        channel.rows,
    )


def pattern_bandwidth(
    device: DramDevice,
    pattern: AccessPattern | str = "stream",
    *,
    outstanding: int = 0,
    requests: int = SETTLED,
    seed: int = 1,
) -> PatternResult:
    """Bandwidth, latency, energy per byte and row hits of a pattern on a device.

    ``outstanding`` bounds the requests in flight per channel (0: as many as the queues take). ``requests`` is
    the length of the measurement per channel.
    """
    wanted = AccessPattern(pattern) if isinstance(pattern, str) else pattern  # type: ignore[arg-type]
    return _measured(device.model_dump_json(), wanted, outstanding, requests, seed)


@lru_cache(maxsize=512)
def _measured(
    device_json: str, pattern: AccessPattern, outstanding: int, requests: int, seed: int
) -> PatternResult:
    device = DramDevice.model_validate_json(device_json)
    whole = memory_of(device)
    memory = Memory(whole.channel, 1, whole.currents, whole.name)
    size = memory.channel.transaction_bytes
    count = min(requests * device.channels, MAX_REQUESTS)
    number, write, useful = _transactions(pattern, size, int(device.capacity_bytes) // size, count, seed)
    grain = channel_grain(memory.channel) if device.channels > 1 else 1
    channel = number // grain % device.channels
    busiest = int(np.bincount(channel, minlength=device.channels).argmax())
    mine = np.flatnonzero(channel == busiest)[:requests]
    local = number[mine] // (grain * device.channels) * grain + number[mine] % grain
    trace = ArrayTrace(local * size, write[mine], name=pattern.kind)
    result = simulate_trace(memory, trace, RunOptions(outstanding=outstanding, leap=False))
    # What the whole device has done by the time the busiest channel is done with its part.
    share = mine.size / int(np.count_nonzero(channel == busiest))
    moved = number.size * size * share
    energy = device.energy_per_byte_j
    if result.energy is not None:
        energy = _scaled_energy(result.energy, moved, mine.size * size, device.channels)
    return PatternResult(
        bandwidth_bytes_per_s=moved * useful / result.time_s,
        latency_s=result.read_latency_mean * result.tick_s + device.path_latency,
        idle_latency_s=device.latency_s,
        energy_per_byte_j=energy / useful,
        row_hit_rate=result.row_hit_rate,
        utilisation=moved / result.time_s / device.bandwidth_bytes_per_s,
    )


def _scaled_energy(energy: EnergyBreakdown, moved: float, mine: float, channels: int) -> float:
    """Joules per byte moved by all channels: work goes with the bytes, standby and refresh with the time."""
    idle = energy.background + energy.refresh
    return (energy.total - idle) / mine + idle * channels / moved


def channel_grain(channel: Channel) -> int:
    """Transactions that follow each other in one channel before the next channel's turn."""
    pieces = address_map(channel, 2).pieces
    return 1 << min(piece.shift for piece in pieces if piece.field == 0)


def _transactions(
    pattern: AccessPattern, size: int, total: int, count: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], float]:
    """Transaction numbers on the whole device, which are writes, and the share of their bytes that was wanted."""
    useful = 1.0
    if pattern.kind == "stream":
        number = np.arange(count, dtype=np.int64) % total
    elif pattern.kind == "random":
        number = (splitmix64(seed, 0, count) % np.uint64(total)).astype(np.int64)
    else:
        block = pattern.block_bytes
        blocks = max(count * size // max(block, size), 1)
        if pattern.kind == "gather":
            # Blocks of a table: each at a multiple of its own size.
            places = splitmix64(seed, 0, blocks) % np.uint64(max(total * size // block, 1))
            start = places.astype(np.int64) * block
        else:
            stride = pattern.stride_bytes or block + CHUNK_BYTES
            turn, lane = np.divmod(np.arange(blocks, dtype=np.int64), pattern.lanes)
            start = turn * max(stride, block) + lane * block
        first, last = start // size, (start + block - 1) // size
        length = last - first + 1
        ends = np.cumsum(length)
        within = np.arange(int(ends[-1]), dtype=np.int64) - np.repeat(ends - length, length)
        number = (np.repeat(first, length) + within) % total
        if pattern.lanes > 1:
            # Side by side: each lane's next transaction in turn.
            which = np.repeat(np.arange(blocks) // pattern.lanes, length)
            number = number[np.lexsort((within, which))]
        useful = blocks * block / (number.size * size)
        number = number[:count]
    index = np.arange(number.size)
    steps = np.floor((index + 1) * pattern.write_share) - np.floor(index * pattern.write_share)
    return number, (steps > 0).astype(np.uint8), useful
