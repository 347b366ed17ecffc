"""A system: devices and the links between them, composed by reference to device and link files.

In the file, ``devices`` names groups (``gpu: {use: a100-80gb, count: 8}``) and ``links`` says which groups a
link connects. A group with ``count`` has members ``gpu0``, ``gpu1``, ...; without, the member bears the
group's name. Either end may be one member (``cpu1``).
A link between two groups makes one wire per pair: a group with itself gives a full mesh; a
group and a single device a star; two groups of n and m members are dealt out in order (members 0..n/m-1 to
the first).

:class:`System` is the resolved form that mappers and the simulator use: nodes, memories, wires, routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from pydantic import Field

from hw_configs.cluster_routes import Cluster, Route
from hw_configs.config import Config, Count, PriceRate
from hw_configs.cpu_cache import CpuCache
from hw_configs.device import (
    Accelerator,
    ComputationalStorage,
    Compute,
    Cpu,
    Device,
    Flash,
    Gpu,
    Nic,
    ObjectCache,
    Pim,
    SpatialAccelerator,
    Switch,
)
from hw_configs.digest import NO_RESULT, digest
from hw_configs.dram import DramDevice
from hw_configs.link import Link, NvLink, OnChip, Pcie, Rdma
from hw_configs.many_threads import ManyThreads
from hw_configs.network import Network, NetworkSpec
from hw_configs.problems import bad_input, nearest
from hw_configs.processor import Placement
from hw_configs.spatial import HOME
from hw_configs.window_pipeline import WindowPipeline
from hw_configs.yaml_file import Provenance

__all__ = [
    "Cluster", "DeviceGroup", "MemorySpace", "Node", "Route", "System", "SystemFile", "Wire", "WireSpec",
]  # fmt: skip

AnyDevice = (
    Gpu
    | Cpu
    | CpuCache
    | DramDevice
    | Pim
    | Flash
    | ComputationalStorage
    | Accelerator
    | Nic
    | Switch
    | ObjectCache
    | SpatialAccelerator
    | ManyThreads
    | WindowPipeline
)
AnyLink = Pcie | NvLink | Rdma | OnChip


class DeviceGroup(Config):
    """Members of one kind in a system: ``use`` names a device file, or ``device`` holds one in place."""

    use: str | None = None
    device: Device | None = None
    count: Annotated[int, Field(ge=1, le=65536)] | None = None
    memory: str | None = None
    """The group whose memory these members work in, for devices without their own (CPU, unified GPU).
    ``scratchpad`` for accelerators that work in their own scratchpad; their DRAM is then a group beside them."""
    threads: Count | None = None
    """Of each CPU: threads that work on an operator; left out, as its file says (one per core)."""
    sockets: Annotated[int, Field(ge=1, le=16)] | None = None
    """Of a CPU's file: so many sockets work as one device."""
    placement: Placement | None = None
    """In whose memory several sockets find their bytes; left out, interleaved."""


class WireSpec(Config):
    """Which groups a link connects."""

    use: str | None = None
    link: Link | None = None
    between: Annotated[list[str], Field(min_length=2, max_length=2)]
    """Two groups, or single members of groups (`gpu3`) where the order of a group is not that of the wires."""
    shared: bool = False
    """One wire for all pairs (a bus, a root-port uplink) instead of one per pair."""
    islands: Annotated[int, Field(ge=1, le=65536)] = 1
    """Cut both groups into so many equal runs and link only inside each (the machines of a cluster)."""


class SystemFile(Config):
    """The file of a system."""

    kind: str = Field(default="system", pattern="^system$")
    name: str
    description: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()
    """Other names under which it is found."""
    devices: Annotated[dict[str, DeviceGroup], Field(min_length=1)]
    links: list[WireSpec] = Field(default_factory=list)
    network: NetworkSpec | None = None
    """How several such machines are joined into a cluster."""
    price_rate: PriceRate | None = None
    """Rent of the whole machine, with a source or assumption and the date at which it held."""


@dataclass(frozen=True, slots=True)
class _Hop:
    """One way out of a node."""

    there: str
    wire: str
    forward: bool
    bandwidth: float
    on_chip: bool


@dataclass(frozen=True)
class Node:
    """One device of a system. ``memory`` names the node in whose memory it works, often itself."""

    name: str
    group: str
    device: AnyDevice
    memory: str | None
    scratchpad: bool = False
    """Whether the memory it works in is its scratchpad, which a plan fills."""

    @property
    def compute(self) -> Compute | None:
        """The device's compute rates, if it computes."""
        return getattr(self.device, "compute", None)


@dataclass(frozen=True)
class MemorySpace:
    """A memory that tensors can live in; it bears the name of its node.

    ``ports`` is 1 where reads and writes share one data path and 2 where each direction has its own.
    """

    name: str
    technology: str
    capacity_bytes: int
    usable_bytes: int
    read_bandwidth: float
    write_bandwidth: float
    latency_s: float
    energy_per_byte_read_j: float
    energy_per_byte_written_j: float
    ports: int = 1

    def traffic_seconds(self, read_bytes: float, written_bytes: float) -> float:
        """Least time in which bytes can be read and written.

        On one port a byte read takes 1 / read bandwidth of its time and a byte written 1 / write bandwidth,
        so the two add up. Two ports work beside each other.

        >>> from dataclasses import replace
        >>> flash = MemorySpace("ssd", "flash", 10, 10, 4.0, 2.0, 0.0, 0.0, 0.0, ports=2)
        >>> flash.traffic_seconds(8, 6), replace(flash, ports=1).traffic_seconds(8, 6)
        (3.0, 5.0)
        """
        reading, writing = read_bytes / self.read_bandwidth, written_bytes / self.write_bandwidth
        return reading + writing if self.ports == 1 else max(reading, writing)


@dataclass(frozen=True)
class Wire:
    """One physical link instance. A shared wire joins more than two nodes."""

    name: str
    link: AnyLink
    ends: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class System:
    """Nodes, memories and wires of a machine; immutable, hashable by :attr:`digest`."""

    name: str
    nodes: Mapping[str, Node]
    wires: Mapping[str, Wire]
    description: str = ""
    price_rate: float | None = None
    provenance: Mapping[str, Provenance] = field(default_factory=dict, metadata=NO_RESULT)
    network: Network | None = field(default=None, metadata=NO_RESULT)
    """How several such machines would be joined."""
    cluster: Cluster | None = field(default=None, metadata=NO_RESULT)
    """The machines that it consists of, where it is a cluster."""

    @cached_property
    def memories(self) -> dict[str, MemorySpace]:
        """Every memory by the name of its node."""
        found = {}
        for node in self.nodes.values():
            space = _memory_space(node)
            if space is not None:
                found[node.name] = space
        return found

    def node(self, name: str) -> Node:
        """A node by name; an unknown name raises an ``InputError`` with the nearest."""
        if name not in self.nodes:
            raise bad_input(
                f"system {self.name!r} has no device {name!r}; it has {', '.join(self.nodes)}",
                suggestion=nearest(name, self.nodes),
            )
        return self.nodes[name]

    def of_kind(self, *kinds: str) -> list[Node]:
        """Nodes whose device is of one of these kinds, in the file's order."""
        return [node for node in self.nodes.values() if node.device.kind in kinds]

    def workers(self) -> list[Node]:
        """Nodes that compute and have a memory to work in."""
        return [node for node in self.nodes.values() if node.compute is not None and node.memory is not None]

    def route(self, source: str, target: str) -> Route:
        """Wires from one node to another as (wire, forward); fewest hops, then most bandwidth.

        ``forward`` tells the direction on the wire. CPUs, switches and NICs pass bytes on; another device
        that computes passes them only to or from what hangs on its own on-chip paths; a memory never does.
        Raises ``InputError`` when no path exists.
        """
        key = (source, target)
        if key not in self._routes:
            self._routes[key] = self._find_route(source, target)
        return self._routes[key]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that the machine is, in hexadecimal; not over the files it was read from."""
        return digest(self if self.cluster is None else (self.name, self.cluster.recipe))

    @cached_property
    def _routes(self) -> dict[tuple[str, str], Route]:
        return {}

    def reachable(self, source: str) -> set[str]:
        """Every node that a route leads to, the source included."""
        return set(self._paths(source, None))

    @cached_property
    def _neighbours(self) -> dict[str, list[_Hop]]:
        table: dict[str, list[_Hop]] = {name: [] for name in self.nodes}
        for wire in self.wires.values():
            on_chip = wire.link.kind == "onchip"
            for one, other in wire.ends:
                table[one].append(_Hop(other, wire.name, True, wire.link.bandwidth, on_chip))
                table[other].append(_Hop(one, wire.name, False, wire.link.bandwidth, on_chip))
        return table

    def _find_route(self, source: str, target: str) -> Route:
        self.node(source), self.node(target)
        if self.cluster is not None and self.cluster.joins(source, target):
            return self.cluster.route(source, target)
        paths = self._paths(source, target)
        if target not in paths:
            raise bad_input(f"system {self.name!r} has no link path from {source!r} to {target!r}")
        return paths[target]

    def _paths(self, source: str, target: str | None) -> dict[str, Route]:
        """Best paths from a node to others, breadth first, until the target (or everything) is found.

        A node is met apart for arrival on chip and from outside, since that decides where it passes on to.
        Among equally short paths the one with the widest narrowest wire wins.
        """
        found: dict[str, Route] = {source: ()}
        seen = {(source, True), (source, False)}
        frontier: dict[tuple[str, bool], tuple[float, Route]] = {(source, True): (float("inf"), ())}
        while frontier and target not in found:
            reached: dict[tuple[str, bool], tuple[float, Route]] = {}
            for (here, arrived_on_chip), (width, path) in frontier.items():
                kind = self.nodes[here].device.kind
                for hop in self._neighbours[here]:
                    state = (hop.there, hop.on_chip)
                    if state in seen or (path and not _passes(kind, arrived_on_chip or hop.on_chip)):
                        continue
                    narrowest = min(width, hop.bandwidth)
                    if state not in reached or narrowest > reached[state][0]:
                        reached[state] = (narrowest, (*path, (hop.wire, hop.forward)))
            seen.update(reached)
            for (there, _), (_, path) in sorted(reached.items(), key=lambda item: -item[1][0]):
                found.setdefault(there, path)
            frontier = reached
        return found


def _passes(kind: str, on_chip: bool) -> bool:
    """Whether a device passes bytes on that come from one of its wires and leave by another."""
    return kind in ("cpu", "switch", "nic") or (on_chip and kind in ("gpu", "accelerator", "pim", "csd"))


def _memory_space(node: Node) -> MemorySpace | None:
    device = node.device
    if node.scratchpad and isinstance(device, Accelerator):
        pad = device.scratchpad
        rate = pad.bandwidth_at(device.clock) or 0.0
        return MemorySpace(
            node.name, "scratchpad", int(pad.size), int(pad.size), rate, rate, pad.latency,
            pad.energy_per_byte, pad.energy_per_byte, pad.ports,
        )  # fmt: skip
    if isinstance(device, SpatialAccelerator):
        return _level_space(node, device)
    if isinstance(device, DramDevice):
        return MemorySpace(
            node.name, device.technology, int(device.capacity_bytes), int(device.capacity_bytes),
            device.bandwidth_bytes_per_s, device.bandwidth_bytes_per_s, device.latency_s,
            device.energy_per_byte_j, device.energy_per_byte_j, device.ports,
        )  # fmt: skip
    if isinstance(device, Flash | ComputationalStorage):
        store = device.store
        technology = f"{store.geometry.cell} flash" if store.geometry is not None else "flash"
        return MemorySpace(
            node.name, technology, int(store.capacity), int(store.capacity),
            store.read_bandwidth, store.write_bandwidth, store.read_latency,
            store.energy_per_byte_read, store.energy_per_byte_written, store.ports,
        )  # fmt: skip
    memory = getattr(device, "memory", None)
    if memory is None:
        return None
    return MemorySpace(
        node.name, memory.technology, int(memory.capacity), memory.usable_bytes,
        memory.bandwidth, memory.bandwidth, memory.latency, memory.energy_per_byte, memory.energy_per_byte,
        memory.ports,
    )  # fmt: skip


_UNBOUNDED: int = 1 << 50
"""Bytes of a spatial device's outermost level, which has no bound."""


def _level_space(node: Node, device: SpatialAccelerator) -> MemorySpace:
    """The outermost level of a spatial device, or that on chip in which a plan puts tensors."""
    level = device.levels[HOME if node.scratchpad else 0]
    size = int(level.capacity) if level.capacity is not None else _UNBOUNDED
    return MemorySpace(
        node.name, level.name, size, size, level.read_width * device.clock, level.write_width * device.clock, 0.0,
        level.read_energy, level.write_energy, 1 if level.one_port else 2,
    )  # fmt: skip
