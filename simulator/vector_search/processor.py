"""What the work of a query takes on a CPU core or a GPU, from the figures of its device.

A query runs on one core. Its time is the longest of arithmetic, table lookups, and memory traffic; of the memory's
bandwidth it gets an equal share of those at work, and no more than the lines that a core has under way bring. A GPU
takes one query at a time, with its launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.device import Cpu, Gpu
from hw_configs.system import Node, System
from simulator.vector_search.work import LINE, Work

__all__ = ["Processor", "cpu_processor", "gpu_processor"]

FILL_BUFFERS: Final = 10
"""Cache lines that a core waits for at once (line fill buffers, Intel 64 and IA-32 Optimization Reference Manual)."""
STREAM_LINES: Final = 16
"""Cache lines that a core's second cache has under way at once (super queue, ibidem); prefetchers fill it."""
CORE_LOOKUPS: Final = 2
"""Loads of a core per clock (ibidem, Haswell to Ice Lake)."""
GPU_LOOKUPS: Final = 32
"""Words that the banks of a multiprocessor's shared memory give per clock (CUDA C++ Programming Guide)."""


@dataclass(frozen=True, slots=True)
class Processor:
    """``servers`` that work on one query each; the rates are of one server."""

    name: str
    servers: int
    operations_per_s: float
    lookups_per_s: float
    bytes_per_s: float
    lines_per_s: float
    moved_per_s: float = float("inf")
    launch_s: float = 0.0

    def seconds(self, work: Work) -> float:
        """Time of some work; none takes none."""
        if work == Work():
            return 0.0
        memory = work.streamed / self.bytes_per_s + work.lines / self.lines_per_s
        longest = max(work.operations / self.operations_per_s, work.lookups / self.lookups_per_s, memory)
        return self.launch_s + longest + work.moved / self.moved_per_s


def cpu_processor(system: System, element: str, at_work: int) -> Processor | None:
    """All cores of a system's CPUs; ``at_work`` queries are in flight. None where it has no CPU with a memory."""
    nodes = [node for node in system.of_kind("cpu") if node.memory is not None]
    if not nodes:
        return None
    node = nodes[0]
    device = node.device
    assert isinstance(device, Cpu)
    cores = device.cores * len(nodes)
    space = system.memories[str(node.memory)]
    memories = {str(other.memory) for other in nodes}
    bandwidth = sum(system.memories[name].read_bandwidth for name in memories)
    share = bandwidth / min(cores, max(at_work, 1))
    latency = max(space.latency_s, 1e-9)
    lines = min(FILL_BUFFERS / latency, share / LINE)
    stream = min(STREAM_LINES * LINE / latency, share)
    rate = _rate(node, element) / device.cores
    return Processor(device.name, cores, rate, CORE_LOOKUPS * device.clock, stream, lines)


def gpu_processor(system: System, element: str) -> Processor | None:
    """The first GPU of a system; None where it has none with a memory."""
    nodes = [node for node in system.of_kind("gpu") if node.memory is not None]
    if not nodes:
        return None
    node = nodes[0]
    device = node.device
    assert isinstance(device, Gpu)
    space = system.memories[str(node.memory)]
    lookups = GPU_LOOKUPS * device.multiprocessors * device.clock
    # A GPU has enough in flight for its bandwidth even at random lines (a line is two of its 32-byte sectors).
    lines = space.read_bandwidth / LINE
    return Processor(
        device.name, 1, _rate(node, element), lookups, space.read_bandwidth, lines,
        _from_host(system, node.name), device.compute.launch,
    )  # fmt: skip


def _rate(node: Node, element: str) -> float:
    """Vector operations per second in an element type, or in fp32 where the device states none for it."""
    compute = node.compute
    assert compute is not None
    rates = {str(name): rate for name, rate in compute.vector.items()}
    found = rates.get({"uint8": "int8"}.get(element, element)) or rates.get("fp32")
    return found or max([*rates.values(), *compute.matrix.values()])


def _from_host(system: System, gpu: str) -> float:
    """Bytes per second of the narrowest wire from host memory to a GPU."""
    hosts = {str(node.memory) for node in system.of_kind("cpu") if node.memory is not None}
    reachable = [host for host in sorted(hosts) if gpu in system.reachable(host)]
    if not reachable:
        return float("inf")
    route = system.route(reachable[0], gpu)
    return min((system.wires[wire].link.bandwidth for wire, _ in route), default=float("inf"))
