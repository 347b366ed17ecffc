"""Machines of several pools as one system: each machine's ports go into one switch between them.

The ports are the machine's network cards where it has some, else its GPUs. So the links of a machine, its cards and the
network are shared by all transfers that cross them, and the narrowest decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hw_configs.files import load_device
from hw_configs.system import AnyLink, Node, System, Wire
from simulator.serving.exchange_time import gpus_of

__all__ = ["Machine", "joined"]

SWITCH: Final = "network"


@dataclass(frozen=True)
class Machine:
    """One machine and the link from each of its ports to the switch."""

    name: str
    system: System
    link: AnyLink

    @property
    def gpus(self) -> list[str]:
        """Names of its GPUs in the joined system."""
        return [f"{self.name}/{node.name}" for node in gpus_of(self.system)]


def joined(name: str, machines: Sequence[Machine]) -> System:
    """One system of all machines; names of nodes and wires begin with the machine's."""
    nodes: dict[str, Node] = {}
    wires: dict[str, Wire] = {}
    for machine in machines:
        prefix = f"{machine.name}/"
        for node in machine.system.nodes.values():
            memory = None if node.memory is None else prefix + node.memory
            nodes[prefix + node.name] = replace(node, name=prefix + node.name, memory=memory)
        for wire in machine.system.wires.values():
            ends = tuple((prefix + one, prefix + other) for one, other in wire.ends)
            wires[prefix + wire.name] = Wire(prefix + wire.name, wire.link, ends)
        ports = [node.name for node in machine.system.of_kind("nic")]
        for port in ports or [node.name for node in gpus_of(machine.system)]:
            wire_name = f"{machine.link.kind}:{prefix}{port}-{SWITCH}"
            wires[wire_name] = Wire(wire_name, machine.link, ((prefix + port, SWITCH),))
    nodes[SWITCH] = Node(SWITCH, SWITCH, load_device("ib-switch"), None)
    return System(name, nodes, wires)
