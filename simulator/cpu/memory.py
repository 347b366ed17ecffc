"""What cores draw of a memory: a share of its pins, and no more than misses in flight, chiplets and socket links allow.

Four bounds, and the least of them counts. The pins: STREAM reaches 378 of 460.8 GB/s on twelve channels of DDR5-4800
and 189 of 204.8 on eight of DDR4-3200 (Micron's figures of one EPYC socket, November 2022), Grace at least 410 of its
512 GB/s of LPDDR5X (NVIDIA, Grace performance tuning guide), and two channels of DDR4-3200 read at 46 of 51.2
(guru3d.com, AIDA64 of a G.Skill kit). The cores: each has only so many misses in flight. The chiplets: each has a path
of its own to the controllers; one of a Ryzen reads 64 GB/s of the 96 of DDR5-6000 (llama.cpp pull request 13435). The
links between sockets: with pages by turns, of S sockets each finds all but 1/S of its bytes elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.device import Cpu
from hw_configs.system import MemorySpace

__all__ = [
    "CACHE_BYTES_PER_CLOCK",
    "Reach",
    "cache_bytes_per_s",
    "core_bytes_per_s",
    "reach",
    "stays_in_cache",
]

STREAM_SHARE: Final = {"DDR4": 0.9, "DDR5": 0.82, "LPDDR": 0.8}
"""Of the pins by technology, for a stream that is mostly read."""
ANY_SHARE: Final = 0.8
"""Of technologies that no figure was found for; an assumption."""
CORE_BYTES_PER_S: Final = {"avx2": 20e9, "avx-vnni": 30e9, "avx512": 12e9, "avx512-vnni": 15e9, "amx": 13e9,
                           "neon": 25e9, "sve": 25e9, "apple": 60e9}  # fmt: skip
"""Of one core whose file states none: 48 lines or so in flight over the latency of the class; assumptions. A Zen 4
desktop core reads 49 GB/s, as one thread does of q6_k weights (ik_llama.cpp, pull request 130)."""
CACHE_BYTES_PER_CLOCK: Final = 12.0
"""Of a core from the last-level cache, where the file states no bandwidth; an assumption below the 32 of its port."""
CACHE_SHARE: Final = 0.5
"""Of the last-level cache that activations may fill, before weights that stream past push them out; an assumption."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Bytes per second that cores draw, reading and writing."""

    read: float
    write: float

    def seconds(self, read_bytes: float, written_bytes: float, ports: int) -> float:
        """Of a stream; on one port reads and writes take turns."""
        reading, writing = read_bytes / self.read, written_bytes / self.write
        return reading + writing if ports == 1 else max(reading, writing)


def core_bytes_per_s(cpu: Cpu) -> float:
    """What one core sustains of a stream from DRAM."""
    return cpu.core_bandwidth or CORE_BYTES_PER_S[cpu.isa]


def reach(cpu: Cpu, memory: MemorySpace, cores: int) -> Reach:
    """What so many cores draw of a memory, spread over chiplets and sockets.

    >>> from hw_configs.library import load_system
    >>> desktop = load_system("workstation")
    >>> cpu, memory = desktop.nodes["cpu"].device, desktop.memories["host"]
    >>> [round(reach(cpu, memory, cores).read / 1e9) for cores in (1, 4, 32)]
    [22, 88, 184]
    """
    drawn = cores * core_bytes_per_s(cpu)
    if cpu.dies is not None:
        drawn = min(drawn, min(cores, cpu.dies.count) * cpu.dies.bandwidth)
    share = _share(memory.technology)
    if cpu.sockets > 1:
        assert cpu.socket_link is not None
        count = cpu.sockets
        if cpu.placement == "interleaved":
            drawn = min(drawn, cpu.socket_link * count * count / (count - 1))
        elif cpu.placement == "one-socket":
            drawn = min(drawn, cpu.socket_link * count / (count - 1))
            share /= count
    return Reach(min(share * memory.read_bandwidth, drawn), min(share * memory.write_bandwidth, drawn))


def cache_bytes_per_s(cpu: Cpu, cores: int) -> float:
    """From the last-level cache to so many cores."""
    if cpu.last_level_cache.bandwidth is not None:
        return cpu.last_level_cache.bandwidth * cores / cpu.cores
    return CACHE_BYTES_PER_CLOCK * cpu.clock * cores


def stays_in_cache(cpu: Cpu, size: float) -> bool:
    """Whether bytes that were just written are still on the chip when they are read."""
    return size <= CACHE_SHARE * cpu.last_level_cache.size


def _share(technology: str) -> float:
    return next((share for name, share in STREAM_SHARE.items() if technology.startswith(name)), ANY_SHARE)
