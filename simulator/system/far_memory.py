"""How fast a GPU reads memory beyond its own: in requests while it computes, or page by page on faults.

Zero-copy: each line of 128 bytes that a warp reads is one request over PCIe, whose answer has a header of its own;
requests in flight are bounded by the link's tags (:mod:`simulator.gather.packets`). Unified memory: a fault brings a
block of 64 KiB, faults are served in batches (:mod:`simulator.page_cache.unified`); the rate is what that engine does on
a range that is read in order.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from hw_configs.link import Pcie
from hw_configs.system import System

__all__ = ["faulted_bytes_per_s", "zero_copy_bytes_per_s"]

LINE: Final = 128
RANGE_BYTES: Final = 1 << 28
TOUCH_BYTES: Final = 4096


def zero_copy_bytes_per_s(system: System, source: str, device: str) -> float | None:
    """Payload that requests of whole lines bring from a memory to a GPU; None where no PCIe link lies between."""
    from simulator.gather.packets import Packets, zero_copy_rate

    route = system.route(source, device)
    links = [system.wires[wire].link for wire, _ in route]
    trip = 2 * sum(link.latency for link in links) + system.memories[source].latency_s
    rates = [zero_copy_rate(link, Packets(1.0, LINE), trip)[0] for link in links if isinstance(link, Pcie)]
    return min(rates) if rates else None


def faulted_bytes_per_s(system: System, source: str, target: str) -> float | None:
    """What faults bring of a range read in order from a memory to a GPU's; None where no PCIe link lies between."""
    links = [system.wires[wire].link for wire, _ in system.route(source, target)]
    bandwidths = [link.bandwidth for link in links if isinstance(link, Pcie)]
    return _in_order(min(bandwidths)) if bandwidths else None


@cache
def _in_order(link_bytes_per_s: float) -> float:
    from simulator.page_cache.unified_engine import UnifiedMemory, simulate_unified
    from workloads.block_trace.file_patterns import generate_file_pattern

    memory = UnifiedMemory("gpu", 2 * RANGE_BYTES, float("inf"), link_bytes_per_s)
    found = simulate_unified(memory, generate_file_pattern(f"sequential:{RANGE_BYTES}B", TOUCH_BYTES))
    return RANGE_BYTES / (found.batch_s + found.move_s)
