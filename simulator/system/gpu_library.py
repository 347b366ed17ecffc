"""What a GPU library takes for a collective among GPUs of a system: its protocols over the wires between them.

Times are those of :mod:`simulator.gpu.collective`; here stands which wires a group of ranks has. Ranks whose paths
cross a network port exchange over the network. Others have NVLink or its like where every path from the first rank is
faster than a PCIe port, and lie in a PCIe box otherwise, where the narrowest wire between the first rank and any other
is the path that all of them share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from hw_configs.device import Gpu
from hw_configs.system import AnyLink, Node, System
from simulator.cost.by_device import ByDevice
from simulator.cost.model import CostModel
from simulator.gpu import collective
from simulator.gpu.constants import Constants, shipped_constants
from simulator.gpu.model import GPU
from simulator.gpu.sheet import GpuSheet

__all__ = [
    "PCIE_PORT",
    "GpuLibrary",
    "LibraryTime",
    "RankWires",
    "library_of",
    "library_time",
    "network_share",
    "wires_between",
]

PCIE_PORT: Final = 64e9
"""Bytes per second and direction of the fastest PCIe port; GPUs with a faster wire have NVLink or its like."""

RINGS: Final = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
"""Collectives whose channels each take a rail."""


@dataclass(frozen=True, slots=True)
class RankWires:
    """Wires of a group of ranks: their kind, bytes per second and direction of a port, ranks per node.

    ``socket``: bytes per second of the path that ranks of a PCIe box share; 0 where they share none. ``rails``:
    network ports through which a node's ranks leave it; 0 where nobody knows.
    """

    wire: str
    bandwidth: float
    per_node: int
    socket: float = 0.0
    rails: int = 0


@dataclass(frozen=True, slots=True)
class LibraryTime:
    """Seconds of a collective, whether the switch between the ranks adds, and how many rings share its bytes."""

    seconds: float
    multicast: bool = False
    rings: int = 1


def wires_between(system: System, nodes: list[Node]) -> RankWires | None:
    """The wires of ranks on these devices; None unless all are GPUs that links join, two at least."""
    if len(nodes) < 2 or not all(isinstance(node.device, Gpu) for node in nodes):
        return None
    first, *others = (node.memory or node.name for node in nodes)
    if first in others:
        return None
    routes = [[system.wires[name].link for name, _ in system.route(first, other)] for other in others]
    if not all(routes):
        return None
    ports = [link.bandwidth for links in routes for link in links if link.kind == "rdma"]
    if ports:
        near = sum(all(link.kind != "rdma" for link in links) for links in routes)
        return RankWires("network", min(ports), near + 1, rails=_rails(system, [first, *others], routes))
    narrowest = [min(link.bandwidth for link in links) for links in routes]
    if min(narrowest) > PCIE_PORT:
        return RankWires("peer", min(narrowest), len(nodes))
    return RankWires("host", narrowest[0], len(nodes), min(narrowest) if len(nodes) > 2 else 0.0)


def _rails(system: System, memories: list[str], routes: list[list[AnyLink]]) -> int:
    """Network ports by which the ranks of the first one's node reach a rank elsewhere, one a rank at most.

    Where a rank's way out passes a switch with several ports, the library takes them all.
    """
    far = next(i for i, links in enumerate(routes) if any(link.kind == "rdma" for link in links))
    near = [i for i, links in enumerate(routes) if all(link.kind != "rdma" for link in links)]
    sources = [memories[0], *(memories[1 + i] for i in near)]
    ends = [_way_out(system, source, memories[1 + far]) for source in sources]
    ports = {port for before, own in ends for port in _ports_beside(system, before) | {own}}
    return min(len(ports), len(sources))


def _way_out(system: System, source: str, target: str) -> tuple[str, str]:
    """The node before the network port of a route, and the port."""
    before = here = source
    for name, _ in system.route(source, target):
        wire = system.wires[name]
        if wire.link.kind == "rdma":
            break
        pair = next(pair for pair in wire.ends if here in pair)
        before, here = here, pair[1] if pair[0] == here else pair[0]
    return before, here


def _ports_beside(system: System, node: str) -> set[str]:
    """Network ports that hang on a node."""
    found = set()
    for wire in system.wires.values():
        for pair in wire.ends:
            if node in pair:
                found.add(pair[1] if pair[0] == node else pair[0])
    return {name for name in found if system.nodes[name].device.kind == "nic"}


def _port(kind: str, wires: RankWires, sheet: GpuSheet, constants: Constants) -> float:
    """Bytes per second of a network port as the fitted law takes it.

    The law knows one port and lets up to four ranks share it unevenly. Where each rank has a rail, the library rings
    over all of them at once, no faster than the ranks' own wires inside a node carry.
    """
    fitted = constants.data["collective"]
    if wires.wire != "network" or not wires.rails or kind not in RINGS:
        return wires.bandwidth
    inside = sheet.architecture.peer_bandwidth or float("inf")
    together = min(wires.bandwidth * wires.rails, inside * fitted["simple_share"] / fitted["network_share"])
    return float(together / min(wires.per_node, collective.PORTS_AT_MOST) ** fitted["ports"])


def library_time(
    kind: str, ranks: int, size_bytes: float, wires: RankWires, sheet: GpuSheet, own_all_reduce: bool
) -> LibraryTime:
    """Seconds of a collective of ``size_bytes``, the whole buffer.

    ``own_all_reduce``: the ranks run an inference engine, whose all-reduce takes the library's place where it is
    quicker.
    """
    constants = shipped_constants()
    sharp = sheet.architecture.switch_reduces and wires.wire == "peer" and kind == "all_reduce"
    engine = constants.engine_scale(sheet.generation) if own_all_reduce and kind == "all_reduce" else 0.0
    line = [
        float(collective.KINDS.index("send" if kind == "receive" else kind)), float(ranks), float(size_bytes),
        _port(kind, wires, sheet, constants), float(collective.WIRES.index(wires.wire)),
        constants.latency_scale(sheet.generation),
        float(sharp), float(wires.per_node), 0.0, wires.socket, engine,
    ]  # fmt: skip
    point_to_point = [*line]
    point_to_point[collective.SHARP] = 0.0
    out = np.zeros(2)
    fitted = constants.array("collective", collective.CONSTANTS)
    collective.collective_rows(np.array([line, point_to_point]), fitted, out)
    rings = max(wires.rails, 1) if kind in RINGS else 1
    return LibraryTime(float(out[0]), bool(out[0] < out[1]), rings)


class GpuLibrary:
    """Times of collectives among GPUs of a system, remembered."""

    def __init__(self, system: System, own_all_reduce: bool = False) -> None:
        self.system, self.own_all_reduce = system, own_all_reduce
        self._wires: dict[tuple[str, ...], RankWires | None] = {}
        self._times: dict[tuple[str, int, tuple[str, ...]], LibraryTime | None] = {}

    def time(self, kind: str, size_bytes: int, devices: tuple[str, ...]) -> LibraryTime | None:
        """Time of a collective over ranks on these devices; None where no GPU library serves them all."""
        key = (kind, size_bytes, devices)
        if key not in self._times:
            self._times[key] = self._find(*key)
        return self._times[key]

    def _find(self, kind: str, size_bytes: int, devices: tuple[str, ...]) -> LibraryTime | None:
        nodes = [self.system.nodes[name] for name in devices]
        if devices not in self._wires:
            self._wires[devices] = wires_between(self.system, nodes)
        wires = self._wires[devices]
        if wires is None or size_bytes <= 0:
            return None
        # Ranks on unlike GPUs wait for the slowest.
        sheets = {id(node.device): self._sheet(node) for node in nodes}
        times = [
            library_time(kind, len(nodes), size_bytes, wires, sheet, self.own_all_reduce)
            for sheet in sheets.values()
        ]
        return max(times, key=lambda time: time.seconds)

    def _sheet(self, node: Node) -> GpuSheet:
        return GPU.sheet(node, self.system.memories[node.memory or node.name])


def network_share() -> float:
    """What the library gets of a network port's bandwidth."""
    return float(shipped_constants().array("collective", collective.CONSTANTS)[collective.SHNET])


def library_of(system: System, model: CostModel, own_all_reduce: bool = False) -> GpuLibrary | None:
    """The library that goes with a cost model: rooflines and models of others know bare wires alone."""
    return GpuLibrary(system, own_all_reduce) if isinstance(model, ByDevice) else None
