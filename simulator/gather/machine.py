"""The parts of a system that rows go through: GPUs, the CPU, host memory, drives, and who shares which wire."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from hw_configs.device import ComputationalStorage, Cpu, Flash, Gpu
from hw_configs.dram import DramDevice
from hw_configs.link import Pcie
from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace, Node, System

__all__ = ["CACHE_LINE", "LINES_IN_FLIGHT", "GatherMachine", "machine_of"]

LINES_IN_FLIGHT: Final = 10
"""Cache lines that one core waits for at a time: the line fill buffers of a core since Nehalem (Intel 64 and IA-32
Optimization Reference Manual); cores of other makers have about as many (assumption)."""
CACHE_LINE: Final = 64


@dataclass(frozen=True)
class GatherMachine:
    """One GPU's view of a system. ``sharers``: GPUs that gather at the same time, this one included.

    ``link``: the narrowest wire between host and GPU; ``link_share``: the part of it that this GPU gets.
    """

    system: System
    gpu: Node
    cpu: Node | None
    host: Node | None
    drive: Node | None
    link: Pcie | None
    link_share: float
    sharers: int
    host_row_bandwidth: float

    @property
    def gpu_memory(self) -> MemorySpace:
        """The memory that the GPU works in."""
        return self.system.memories[str(self.gpu.memory)]

    @property
    def host_memory(self) -> MemorySpace:
        """Host memory; ``InputError`` where there is none."""
        if self.host is None:
            raise bad_input(f"{self.system.name!r} has no host memory to keep rows in", path="--hw")
        return self.system.memories[self.host.name]

    @property
    def pcie(self) -> Pcie:
        """The wire to the GPU; ``InputError`` where it is no PCIe."""
        if self.link is None:
            raise bad_input(f"{self.system.name!r} has no PCIe link between host memory and GPU", path="--hw")
        return self.link

    @property
    def processor(self) -> Cpu:
        """The CPU; ``InputError`` where there is none."""
        if self.cpu is None or not isinstance(self.cpu.device, Cpu):
            raise bad_input(f"{self.system.name!r} has no CPU to gather rows", path="--hw")
        return self.cpu.device

    @property
    def flash(self) -> Flash | ComputationalStorage:
        """The drive; ``InputError`` where there is none."""
        if self.drive is None or not isinstance(self.drive.device, Flash | ComputationalStorage):
            raise bad_input(f"{self.system.name!r} has no drive to keep rows on", path="--hw")
        return self.drive.device

    @property
    def core_bandwidth(self) -> float:
        """Bytes per second that one core reads from memory: lines in flight over the latency (Little)."""
        return LINES_IN_FLIGHT * CACHE_LINE / self.host_memory.latency_s

    @property
    def round_trip_s(self) -> float:
        """From a GPU's request to host memory's answer: the wires both ways, and the memory's latency."""
        if self.host is None:
            return 0.0
        path = self.system.route(self.gpu.name, self.host.name)
        return 2 * sum(self.system.wires[w].link.latency for w, _ in path) + self.host_memory.latency_s


def machine_of(system: System, *, gpus: int = 1, row_bytes: int = 512) -> GatherMachine:
    """The parts of a system for ``gpus`` that train at the same time; ``InputError`` where something lacks.

    A wire that several GPUs' paths use is shared evenly.
    """
    all_gpus = [node for node in system.nodes.values() if isinstance(node.device, Gpu)]
    if not all_gpus:
        raise bad_input(f"{system.name!r} has no GPU", path="--hw")
    if not 1 <= gpus <= len(all_gpus):
        raise bad_input(f"found {gpus}; {system.name!r} has {len(all_gpus)} GPUs", path="--gpus")
    cpu = next((n for n in system.nodes.values() if isinstance(n.device, Cpu) and n.memory is not None), None)
    host = system.nodes[str(cpu.memory)] if cpu is not None else None
    drives = system.of_kind("flash") or system.of_kind("csd")
    link, share = (
        (None, 1.0) if host is None else _narrowest(system, [g.name for g in all_gpus[:gpus]], host.name)
    )
    return GatherMachine(
        system, all_gpus[0], cpu, host, drives[0] if drives else None, link, share, gpus,
        _random_rows(host, row_bytes) if host is not None else 0.0,
    )  # fmt: skip


def _narrowest(system: System, gpus: list[str], host: str) -> tuple[Pcie | None, float]:
    """The PCIe wire that gives the first GPU least, and its share of it."""
    users = Counter(wire for gpu in gpus for wire, _ in system.route(host, gpu))
    worst: tuple[float, Pcie | None, float] = (float("inf"), None, 1.0)
    for wire, _ in system.route(host, gpus[0]):
        found = system.wires[wire].link
        if isinstance(found, Pcie) and found.bandwidth / users[wire] < worst[0]:
            worst = (found.bandwidth / users[wire], found, 1 / users[wire])
    return worst[1], worst[2]


def _random_rows(host: Node, row_bytes: int) -> float:
    """Bytes per second that host memory gives to rows at random places, by the DRAM engine where it can.

    A memory whose channels are no power of two, or that is no DRAM device, gives what its data sheet says.
    """
    device = host.device
    if not isinstance(device, DramDevice):
        memory = getattr(device, "memory", None)
        return float(memory.bandwidth) if memory is not None else 0.0
    from simulator.dram.build import memory_of
    from simulator.dram.patterns import AccessPattern, pattern_bandwidth

    channels = memory_of(device).channels
    if channels & (channels - 1):
        return float(device.bandwidth_bytes_per_s)
    pattern = AccessPattern("gather", max(CACHE_LINE, row_bytes))
    return float(pattern_bandwidth(device, pattern, requests=4096).bandwidth_bytes_per_s)
