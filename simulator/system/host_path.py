"""How host software moves bytes: pageable memory through a bounce buffer, a drive's file through page faults.

Pageable. A driver copies what is not pinned into a pinned buffer of its own, piece by piece, and the copy engine takes
it from there (NVIDIA's CUDA C++ best practices guide, section 10.1.1). One core copies: it reads and writes, so it
moves half of what it can stream (:func:`simulator.cpu.memory.core_bytes_per_s`; an assumption), while the memory's port
carries every byte three times. Both steps overlap. A GTX 1660 Ti copies pageable bytes at 11.8 of PCIe 3.0's 15.8 GB/s
so (github.com/vetter/shoc, issue 79). Where no PCIe link lies between (a coherent link), pageable memory is read in
place.

Mapped. A model's file lies on a drive and is mapped; cores touch its pages in order, and what is not in memory is read
by the fault with read-ahead. :mod:`simulator.page_cache` says how fast one reader goes and how much of a file that is
scanned again and again still is in memory: all of it where it fits, nothing where it is larger.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from hw_configs.device import ComputationalStorage, Cpu, Flash
from hw_configs.link import Pcie
from hw_configs.system import System
from simulator.cpu.memory import core_bytes_per_s
from simulator.plan import Transfer

__all__ = ["MappedScan", "bounce_bytes_per_s", "bounced_memory", "mapped_scan", "processor_of"]

SCAN_BYTES: Final = 1 << 26
"""Of the file that stands for a larger one in the same proportion to its cache."""
PAGE: Final = 4096
TOUCH_NS: Final = 25
"""Of a page that is in memory: one fault of some 400 ns maps the 16 pages around it (Linux's fault_around_bytes)."""
STEPS: Final = 64
"""Parts of the file's size to which the cache is rounded."""


@dataclass(frozen=True, slots=True)
class MappedScan:
    """What a reader of a mapped file meets: the share of its bytes that the drive brings, and how fast; touches."""

    miss_share: float
    bytes_per_s: float
    """Of missed bytes, one reader."""
    touch_s_per_byte: float


def processor_of(system: System, memory: str) -> Cpu | None:
    """The first CPU that works in a memory."""
    for node in system.of_kind("cpu"):
        if node.memory == memory and isinstance(node.device, Cpu):
            return node.device
    return None


def bounced_memory(system: System, task: Transfer) -> str | None:
    """The memory whose bytes a pageable copy moves through a bounce buffer; None where it needs none."""
    if not task.pageable:
        return None
    links = [system.wires[wire].link for wire, _ in system.route(task.source, task.target)]
    if not any(isinstance(link, Pcie) for link in links):
        return None
    ends = (task.source, task.target)
    return next((memory for memory in ends if processor_of(system, memory) is not None), None)


def bounce_bytes_per_s(system: System, memory: str) -> float:
    """What one core of a memory's CPU copies to another place there."""
    cpu = processor_of(system, memory)
    assert cpu is not None
    return core_bytes_per_s(cpu) / 2


def mapped_scan(device: Flash | ComputationalStorage, file_bytes: int, cache_bytes: int) -> MappedScan:
    """How a file is scanned again and again through a page cache; by its data sheet a drive of unknown inside."""
    steps = min(STEPS * cache_bytes // max(file_bytes, 1), STEPS)
    if device.store.geometry is None or device.store.timing is None:
        # Two requests in flight: the window waited for and the next one.
        window = 128 * 1024
        alone = 2 * window / (device.store.read_latency + window / device.store.read_bandwidth)
        rate = min(alone, device.store.read_bandwidth)
        return MappedScan(0.0 if steps >= STEPS else 1.0, rate, TOUCH_NS * 1e-9 / PAGE)
    return _scanned(device, steps)


@cache
def _scanned(device: Flash | ComputationalStorage, steps: int) -> MappedScan:
    from simulator.flash.drive import drive_of
    from simulator.page_cache.engine import simulate_page_cache
    from simulator.page_cache.state import CachePolicy
    from workloads.block_trace.file_patterns import generate_file_pattern

    room = SCAN_BYTES * steps // STEPS if steps < STEPS else 2 * SCAN_BYTES
    policy = CachePolicy(max(room, 1 << 20), touch_ns=TOUCH_NS)
    drive, rounds = drive_of(device), []
    for count in (1, 3):
        pattern = replace(generate_file_pattern(f"loop:{SCAN_BYTES}B:{count}", PAGE), mapped=True)
        rounds.append(simulate_page_cache(policy, drive, pattern))
    first, third = rounds
    missed = (third.read_bytes - first.read_bytes) / (2 * SCAN_BYTES)
    waits = first.time_s - first.touches * TOUCH_NS * 1e-9
    return MappedScan(missed, first.read_bytes / waits, TOUCH_NS * 1e-9 / PAGE)
