"""What collectives among groups of ranks take and which wires they load, on real paths of a system.

A **party** is a set of equal groups that exchange at the same time: the tensor groups of all replicas, say. Among GPUs
the library says how long an exchange takes (:mod:`simulator.system.gpu_library`); elsewhere, and never less than it,
the bytes of a ring over its narrowest wire do. Between machines a ring runs per network port that the group has in a
machine (NVIDIA/nccl issue 601), each at the library's share of the port: eight ports of 400 Gb/s give 310 GB/s, where
two such machines were seen to reach 360 (NVIDIA/nccl issue 1277). The wires carry a ring's bytes: inside a machine from
each rank to the next; between machines a ring enters and leaves each machine once, spread over the ports of all ranks
it has there. An all-to-all sends each pair's bytes over that pair's path.

:func:`add_routes` puts wires that carry the same bytes of the same parties into one resource, the narrowest of them:
what is equal for all ranks of a class by symmetry is looked at once, and nothing is lost where it is not.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeVar

from hw_configs.problems import bad_input
from hw_configs.system import System
from simulator.cost.collective import schedule
from simulator.system.costs import CostTable
from simulator.system.gpu_library import GpuLibrary, network_share, wires_between
from simulator.training.program import ProgramBuilder

__all__ = ["Exchange", "Load", "Party", "Wiring", "add_routes"]

Load = dict[str, float]
"""Resource (a direction of a wire, a memory's port) -> bytes on it per byte that each rank sends."""
Key = TypeVar("Key", bound=Hashable)

_DIGITS: Final = 12
"""Weights that differ by less are equal: they were added up in another order."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective of a party: seconds with the wires to itself, bytes that each rank sends, and by which pattern."""

    seconds: float
    bytes: float
    pattern: str


@dataclass(eq=False)
class Party:
    """Groups of ranks, all of one size, that do the same exchanges at the same time."""

    groups: tuple[tuple[int, ...], ...]
    loads: dict[str, Load] = field(default_factory=dict, repr=False)
    alike: list[tuple[str, ...]] | None = field(default=None, repr=False)
    """Devices of one group for every kind of wires among the groups."""

    @property
    def size(self) -> int:
        """Ranks of a group."""
        return len(self.groups[0])


@dataclass
class Wiring:
    """Exchanges among ranks, rank ``r`` on ``devices[r]``; prices and loads are remembered."""

    system: System
    devices: Sequence[str]
    table: CostTable
    library: GpuLibrary | None = None
    _seconds: dict[tuple[str, int, tuple[str, ...]], float] = field(default_factory=dict, repr=False)

    def exchange(self, party: Party, kind: str, size_bytes: int) -> Exchange:
        """A collective of ``size_bytes`` (the whole buffer) in every group of a party, all at once.

        ``pass``: every rank of a group sends so many bytes to the next one; ``send``: the first to the second.
        """
        n = party.size
        if n < 2 or size_bytes <= 0:
            return Exchange(0.0, 0.0, "ring")
        seconds, multicast = 0.0, False
        for devices in self._alike(party):
            known = self.library.time(_priced(kind), size_bytes, devices) if self.library else None
            if known is None:
                seconds = max(seconds, self._bare(kind, size_bytes, devices))
                continue
            multicast = multicast or known.multicast
            alone = known.seconds
            ports = self._ports(devices)
            if ports > 1 and kind in ("all_reduce", "all_gather", "reduce_scatter"):
                alone = min(alone, self._over_ports(kind, size_bytes, devices, ports))
            seconds = max(seconds, alone)
        sent = size_bytes + -(-size_bytes // n) if multicast else _sent(kind, n, size_bytes)
        pattern = {"all_to_all": "pairs", "send": "line", "pass": "round"}.get(kind, "ring")
        return Exchange(seconds, float(sent), pattern)

    def load(self, party: Party, pattern: str) -> Load:
        """What all groups together put on wires per byte that each rank sends."""
        if pattern not in party.loads:
            found: Load = {}
            for group in party.groups:
                for one, other, share in self._edges(group, pattern):
                    for name in self._path(one, other):
                        found[name] = found.get(name, 0.0) + share
            party.loads[pattern] = found
        return party.loads[pattern]

    def copies(self, ranks: Sequence[int], to_host: bool, host_of: Mapping[str, str]) -> tuple[Load, float]:
        """What ranks that copy to their host memories (or back) load per byte of each, and the latency."""
        found: Load = {}
        latency = 0.0
        for rank in ranks:
            device = self.devices[rank]
            memory = self.system.nodes[device].memory or device
            ends = (memory, host_of[device]) if to_host else (host_of[device], memory)
            path = self.table.path(*ends)
            latency = max(latency, path.latency_s)
            for name, weight in path.load.items():
                found[name] = found.get(name, 0.0) + weight
        return found, latency

    def capacity(self, resource: str) -> float:
        """Bytes per second of a resource."""
        return self.table.capacity[resource]

    def links(self, load: Load) -> dict[str, float]:
        """The bytes of a load by the name of the link that carries them; ports of memories are no links."""
        found: dict[str, float] = {}
        for resource, weight in load.items():
            wire = self.system.wires.get(resource.rstrip("<>"))
            if wire is not None:
                found[wire.link.name] = found.get(wire.link.name, 0.0) + weight
        return found

    def _edges(self, group: tuple[int, ...], pattern: str) -> Iterator[tuple[int, int, float]]:
        """Who sends to whom, and which share of the bytes that each rank sends."""
        if pattern in ("line", "round"):
            whole = group if pattern == "line" else (*group, group[0])
            yield from ((one, other, 1.0) for one, other in pairwise(whole))
            return
        if pattern == "pairs":
            share = 1 / (len(group) - 1)
            yield from ((one, other, share) for one in group for other in group if one != other)
            return
        machines = self._by_machine(group)
        for place, own in enumerate(machines):
            count = len(own)
            if len(machines) == 1:
                yield from ((rank, own[(i + 1) % count], 1.0) for i, rank in enumerate(own))
                return
            following = machines[(place + 1) % len(machines)]
            for i, rank in enumerate(own):
                if count > 1:
                    yield rank, own[(i + 1) % count], (count - 1) / count
                yield rank, following[i % len(following)], 1 / count

    def _by_machine(self, group: tuple[int, ...]) -> list[list[int]]:
        cluster = self.system.cluster
        found: dict[int, list[int]] = {}
        for rank in group:
            found.setdefault(cluster.places[self.devices[rank]][0] if cluster else 0, []).append(rank)
        return list(found.values())

    def _path(self, one: int, other: int) -> list[str]:
        ends = [self.system.nodes[self.devices[rank]].memory or self.devices[rank] for rank in (one, other)]
        wires = self.system.wires
        return [
            name if wires[name].link.duplex == "half" else name + (">" if forward else "<")
            for name, forward in self.system.route(ends[0], ends[1])
        ]

    def _ports(self, devices: tuple[str, ...]) -> int:
        """Network ports of a group's fewest in any machine, where it spans several; else 0."""
        cluster = self.system.cluster
        if cluster is None:
            return 0
        found: dict[int, set[str]] = {}
        for name in devices:
            found.setdefault(cluster.places[name][0], set()).add(cluster.port_of(name))
        fabrics = {cluster.machines[number].fabric for number in found}
        return min(len(ports) for ports in found.values()) if len(found) > 1 and len(fabrics) == 1 else 0

    def _over_ports(self, kind: str, size: int, devices: tuple[str, ...], ports: int) -> float:
        """Seconds of a ring per port: the library's latencies, and the bytes over all ports."""
        assert self.library is not None
        cluster = self.system.cluster
        assert cluster is not None
        least = self.library.time(kind, 1, devices)
        assert least is not None
        wire = cluster.leaf_of[cluster.port_of(devices[0])][1]
        rate = ports * self.system.wires[wire].link.bandwidth * network_share()
        return least.seconds + _sent(kind, len(devices), size) / rate

    def _alike(self, party: Party) -> list[tuple[str, ...]]:
        if party.alike is None:
            found: dict[object, tuple[str, ...]] = {}
            for group in party.groups:
                devices = tuple(self.devices[rank] for rank in group)
                nodes = [self.system.nodes[name] for name in devices]
                wires = wires_between(self.system, nodes) if self.library else None
                found.setdefault(wires or self._narrowest(group), devices)
            party.alike = list(found.values())
        return party.alike

    def _narrowest(self, group: tuple[int, ...]) -> tuple[float, int]:
        paths = [self._path(one, other) for one, other in pairwise(group)]
        return min(self.capacity(name) for path in paths for name in path), max(len(path) for path in paths)

    def _bare(self, kind: str, size: int, devices: tuple[str, ...]) -> float:
        """Seconds of a ring on bare wires: a latency per step, and the bytes over the fullest wire."""
        key = (kind, size, devices)
        if key not in self._seconds:
            ranks = {name: rank for rank, name in enumerate(self.devices)}
            group = tuple(ranks[name] for name in devices)
            form = schedule(_priced(kind), "ring", len(group), size)
            pattern = {"all_to_all": "pairs", "send": "line", "pass": "round"}.get(kind, "ring")
            load: Load = {}
            latency = 0.0
            for one, other, share in self._edges(group, pattern):
                path = self._path(one, other)
                latency = max(
                    latency, sum(self.system.wires[name.rstrip("<>")].link.latency for name in path)
                )
                for name in path:
                    load[name] = load.get(name, 0.0) + share
            moved = max(weight / self.capacity(name) for name, weight in load.items()) * _sent(
                kind, len(group), size
            )
            steps = 1 if kind == "all_to_all" else form.steps
            self._seconds[key] = steps * latency + moved
        return self._seconds[key]


def _priced(kind: str) -> str:
    """The library's call behind an exchange."""
    return "send" if kind == "pass" else kind


def _sent(kind: str, ranks: int, size: int) -> float:
    """Bytes that each rank sends in a ring (to each other rank, in an all-to-all)."""
    if kind in ("send", "pass"):
        return float(size)
    if kind not in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        raise bad_input(f"no training step does a {kind!r}")
    return (2 if kind == "all_reduce" else 1) * size * (ranks - 1) / ranks


def add_routes(
    builder: ProgramBuilder,
    loads: Mapping[Key, Load],
    wiring: Wiring,
    others: Mapping[str, float] | None = None,
) -> dict[Key, int]:
    """A route of the program for every load, on as few resources as tell all loads apart.

    ``others``: capacities of resources that are no wires.
    """
    more = others or {}
    carried: dict[str, list[tuple[int, float]]] = {}
    for number, load in enumerate(loads.values()):
        for resource, weight in load.items():
            carried.setdefault(resource, []).append((number, round(weight, _DIGITS)))
    narrowest: dict[tuple[tuple[int, float], ...], float] = {}
    for resource, entries in carried.items():
        signature = tuple(entries)
        own = more[resource] if resource in more else wiring.capacity(resource)
        narrowest[signature] = min(narrowest.get(signature, float("inf")), own)
    routes: list[dict[int, float]] = [{} for _ in loads]
    for signature, capacity in narrowest.items():
        resource_number = builder.resource(capacity)
        for number, weight in signature:
            routes[number][resource_number] = weight
    return {
        key: builder.route(route, wiring.links(load))
        for (key, load), route in zip(loads.items(), routes, strict=True)
    }
