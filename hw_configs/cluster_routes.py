"""Routes of a cluster, put together from those inside a machine and the switches between machines.

Inside a machine a route is the machine's own. Between machines bytes leave through the port nearest to their device
and come in through the port nearest to the other; ports on one leaf meet there, others over the spine. Machines on
unlike networks meet at the core, to which each is joined at one device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hw_configs.system import System

__all__ = ["Cluster", "Machine", "Route"]

Route = tuple[tuple[str, bool], ...]
"""Wires in order, each with whether it is taken from its first end to its second."""


@dataclass(frozen=True)
class Machine:
    """One machine of a cluster: the system it is a copy of, and what its devices and wires are called here.

    ``fabric`` says which network it is on, ``ports`` which of its groups are the ports to it.
    """

    model: System
    names: Mapping[str, str]
    wires: Mapping[str, str]
    fabric: int
    ports: str


@dataclass(frozen=True)
class Cluster:
    """The machines of a cluster by number, and the switches between them.

    ``leaf_of`` has leaf and wire of a port, ``spine_wire`` the wire from a leaf to its spine (none where one leaf
    serves all); ``core_wires`` that of each machine to the core, from the device of its own name ``joined_at``.
    ``recipe`` is what it was made from, for its digest.
    """

    machines: tuple[Machine, ...]
    leaf_of: Mapping[str, tuple[str, str]]
    spine_wire: Mapping[str, str]
    core_wires: tuple[tuple[str, str], ...]
    recipe: object

    @cached_property
    def places(self) -> dict[str, tuple[int, str]]:
        """Number of the machine and name in it, of every device but leaves, spines and the core."""
        return {
            name: (number, own)
            for number, machine in enumerate(self.machines)
            for own, name in machine.names.items()
        }

    @cached_property
    def _ports(self) -> dict[tuple[int, str], dict[str, str]]:
        return {}

    def joins(self, source: str, target: str) -> bool:
        """Whether both are devices of machines."""
        return source in self.places and target in self.places

    def port_of(self, device: str) -> str:
        """The network port that a device's bytes leave by: the nearest, devices of a group dealt out over equals."""
        number, own = self.places[device]
        machine = self.machines[number]
        known = self._ports.setdefault((id(machine.model), machine.ports), {})
        if own not in known:
            known.update(_nearest_ports(machine.model, machine.ports, machine.model.nodes[own].group))
        return machine.names[known[own]]

    def route(self, source: str, target: str) -> Route:
        """Wires from one device of a machine to another; see the module's first lines."""
        (one, here), (other, there) = self.places[source], self.places[target]
        first, last = self.machines[one], self.machines[other]
        if one == other:
            return _inside(first, here, there)
        if first.fabric != last.fabric:
            (out, out_wire), (into, in_wire) = self.core_wires[one], self.core_wires[other]
            return (
                *_inside(first, here, out), (out_wire, True), (in_wire, False), *_inside(last, into, there),
            )  # fmt: skip
        port, end = self.port_of(source), self.port_of(target)
        (leaf, wire), (end_leaf, end_wire) = self.leaf_of[port], self.leaf_of[end]
        over: Route = ()
        if leaf != end_leaf:
            over = ((self.spine_wire[leaf], True), (self.spine_wire[end_leaf], False))
        return (
            *_inside(first, here, self.places[port][1]), (wire, True), *over, (end_wire, False),
            *_inside(last, self.places[end][1], there),
        )  # fmt: skip


def _nearest_ports(model: System, ports: str, group: str) -> dict[str, str]:
    """The port of every device of a group."""
    candidates = [node.name for node in model.nodes.values() if node.group == ports]
    found, turns = dict[str, str](), dict[tuple[str, ...], int]()
    for node in model.nodes.values():
        if node.group != group:
            continue
        reached = model.reachable(node.name)
        hops = {port: len(model.route(node.name, port)) for port in candidates if port in reached}
        near = tuple(port for port in hops if hops[port] == min(hops.values()))
        turn = turns.get(near, 0)
        turns[near] = turn + 1
        found[node.name] = near[turn % len(near)]
    return found


def _inside(machine: Machine, here: str, there: str) -> Route:
    """A machine's own route, with its wires as they are called here."""
    return tuple((machine.wires[wire], forward) for wire, forward in machine.model.route(here, there))
