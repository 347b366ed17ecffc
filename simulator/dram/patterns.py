"""What a memory gives to an access pattern, measured on the cycle-accurate engine.

The system level asks: at what bandwidth does this device stream weights, gather rows of an embedding table,
or read a KV cache page by page? The answer is a run of the engine on that pattern, long enough to have
settled, kept by pattern and device, so that asking again costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np

from hw_configs.dram import DramDevice
from hw_configs.problems import bad_input
from simulator.dram.build import memory_of
from simulator.dram.engine import RunOptions, simulate_trace
from workloads.memory_trace import ArrayTrace, Geometry
from workloads.memory_trace.generators import splitmix64

__all__ = ["AccessPattern", "PatternResult", "geometry_of", "pattern_bandwidth"]

SETTLED: Final = 24_576
"""Requests of one channel that a measurement takes: several refresh intervals of every standard."""

CHUNK_BYTES: Final = 4096
"""Where ``stride_bytes`` is not given, a strided pattern leaves a page between its blocks."""


@dataclass(frozen=True, slots=True)
class AccessPattern:
    """How bytes are touched.

    ``stream``: in order. ``gather``: blocks of ``block_bytes`` (a row of an embedding table, a KV page) at
    random places. ``strided``: blocks of ``block_bytes`` every ``stride_bytes`` (one head of a KV cache).
    ``random``: single transactions. ``write_share`` of the requests are writes, spread evenly.
    """

    kind: Literal["stream", "gather", "strided", "random"] = "stream"
    block_bytes: int = 64
    stride_bytes: int = 0
    write_share: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("stream", "gather", "strided", "random"):
            raise bad_input(f"unknown access pattern {self.kind!r}; known: stream, gather, strided, random")
        if self.block_bytes < 1 or self.stride_bytes < 0 or not 0 <= self.write_share <= 1:
            raise bad_input("a pattern needs block_bytes >= 1, stride_bytes >= 0 and write_share from 0 to 1")


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
    the length of the measurement per channel. One channel of the device is simulated, since channels
    interleave by transaction and are alike; its bandwidth is multiplied by their number.
    """
    wanted = AccessPattern(pattern) if isinstance(pattern, str) else pattern  # type: ignore[arg-type]
    return _measured(device.model_dump_json(), wanted, outstanding, requests, seed)


@lru_cache(maxsize=512)
def _measured(
    device_json: str, pattern: AccessPattern, outstanding: int, requests: int, seed: int
) -> PatternResult:
    device = DramDevice.model_validate_json(device_json)
    memory = memory_of(device)
    alone = type(memory)(memory.channel, 1, memory.currents, memory.name)
    trace = _trace(
        alone.channel.transaction_bytes,
        alone.channel.capacity_bytes,
        device.channels,
        pattern,
        requests,
        seed,
    )
    result = simulate_trace(alone, trace, RunOptions(outstanding=outstanding, leap=False))
    used = min(pattern.block_bytes, device.transaction_bytes) if pattern.kind in ("gather", "strided") else 0
    # A block smaller than a transaction wastes the rest of it.
    useful = used / device.transaction_bytes if used else 1.0
    energy = (
        result.energy.total / result.bytes_moved / useful
        if result.energy is not None
        else device.energy_per_byte_j
    )
    return PatternResult(
        bandwidth_bytes_per_s=result.bandwidth_bytes_per_s * device.channels * useful,
        latency_s=result.read_latency_mean * result.tick_s + device.path_latency,
        idle_latency_s=device.latency_s,
        energy_per_byte_j=energy,
        row_hit_rate=result.row_hit_rate,
        utilisation=result.utilisation,
    )


def _trace(
    transaction: int, capacity: int, channels: int, pattern: AccessPattern, requests: int, seed: int
) -> ArrayTrace:
    """One channel's share of the pattern: neighbouring transactions go to neighbouring channels."""
    index = np.arange(requests, dtype=np.int64)
    total = capacity // transaction
    if pattern.kind == "stream":
        number = index % total
    elif pattern.kind == "random":
        number = (splitmix64(seed, 0, requests) % np.uint64(total)).astype(np.int64)
    else:
        block = max(-(-pattern.block_bytes // (transaction * channels)), 1)
        which, within = index // block, index % block
        if pattern.kind == "gather":
            places = splitmix64(seed, 0, int(which[-1]) + 1) % np.uint64(max(total // block, 1))
            number = places.astype(np.int64)[which] * block + within
        else:
            stride = pattern.stride_bytes or pattern.block_bytes + CHUNK_BYTES
            number = (which * max(-(-stride // (transaction * channels)), block) + within) % total
    write = np.zeros(requests, np.uint8)
    if pattern.write_share > 0:
        steps = np.floor((index + 1) * pattern.write_share) - np.floor(index * pattern.write_share)
        write = (steps > 0).astype(np.uint8)
    return ArrayTrace(number * transaction, write, name=pattern.kind)
