"""Clusters: copies of machines, joined by their networks, as one flat system.

``dgx-h100*64`` (or ``64xdgx-h100``, which no shell touches) is 64 of a shipped or own machine; a file of kind
``cluster`` mixes machines and networks. Members are numbered on through the machines, ``gpu8`` is the first GPU of the
second. Routes are put together from those inside one machine, the port nearest to each end, and the leaf and spine
between, so that neither loading nor a route looks at every device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hw_configs.cluster_routes import Cluster, Machine
from hw_configs.device import Switch
from hw_configs.files import load_device, load_link
from hw_configs.link import Rdma
from hw_configs.network import MAX_MACHINES, ClusterFile, Network, NetworkSpec
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.system import Node, System, Wire
from hw_configs.yaml_file import Document, Provenance

__all__ = ["cluster_of", "compose_cluster", "counted_name", "read_network"]

MAX_NODES: Final = 200_000
_COUNTED: Final = (
    re.compile(r"(?P<name>.+)\*(?P<count>\d{1,9})"),
    re.compile(r"(?P<count>\d{1,9})x(?P<name>.+)"),
)


def counted_name(source: str | Path) -> tuple[str, int] | None:
    """Name and count of a text such as ``dgx-h100*64`` or ``64xdgx-h100``; None for any other."""
    text = str(source)
    if Path(text).is_file():
        return None
    for pattern in _COUNTED:
        found = pattern.fullmatch(text)
        if found:
            count = int(found["count"])
            if not 1 <= count <= MAX_MACHINES:
                raise bad_input(f"found {count} machines; expected 1 to {MAX_MACHINES}", path="--hw")
            return found["name"], count
    return None


def read_network(
    spec: NetworkSpec, groups: Mapping[str, int], where: Mapping[str, Any], folder: Path
) -> Network:
    """A network with its link and switch; ``InputError`` for what is unknown. ``groups``: members by group."""
    problems: list[Problem] = []

    def at(name: str) -> dict[str, Any]:
        return {**where, "path": f"{where.get('path') or 'network'}.{name}"}

    link: Rdma | None = None
    switch: Any = None
    try:
        found = load_link(spec.use, folder)
        if isinstance(found, Rdma):
            link = found
        else:
            problems.append(Problem(f"found a {found.kind} link; expected an rdma link", **at("use")))
    except InputError as error:
        problems += [
            p if p.file else Problem(p.message, suggestion=p.suggestion, **at("use")) for p in error.problems
        ]
    try:
        switch = load_device(spec.switch, folder)
        if not isinstance(switch, Switch):
            problems.append(Problem(f"found a {switch.kind}; expected a switch", **at("switch")))
    except InputError as error:
        problems += [
            p if p.file else Problem(p.message, suggestion=p.suggestion, **at("switch"))
            for p in error.problems
        ]
    if spec.ports not in groups:
        message = f"unknown device group {spec.ports!r}"
        problems.append(Problem(message, suggestion=nearest(spec.ports, groups), **at("ports")))
    if problems:
        raise InputError(problems)
    assert link is not None
    return Network(spec.ports, link, switch, spec.rails, spec.machines_per_leaf, spec.oversubscription)


@dataclass(frozen=True)
class _Part:
    """Equal machines: their system, how many, and what joins them."""

    machine: System
    count: int
    network: Network


@dataclass(frozen=True)
class _Uplink:
    link: Rdma
    at: str
    switch: Switch


def cluster_of(machine: System, count: int, shown: str) -> System:
    """``count`` equal machines on the network that their file names; one is the machine itself."""
    if count == 1:
        return machine
    if machine.network is None:
        raise bad_input(
            f"{machine.name!r} names no network to join several by; add 'network: {{use: LINK, ports: GROUP}}' to its "
            "file, or write a file of kind 'cluster'",
            path="--hw",
        )
    builder = _Builder(shown, (_Part(machine, count, machine.network),), None)
    return builder.system(f"{count} x {machine.description or machine.name}", {"path": "--hw"})


def compose_cluster(file: ClusterFile, document: Document, load: Any) -> System:
    """The system of a cluster's file. ``load`` gives the system of one machine by name and folder."""
    folder = Path(document.file).parent
    problems: list[Problem] = []
    parts: list[_Part] = []
    for index in range(len(file.machines)):
        try:
            parts.append(_part(file, index, document, load))
        except InputError as error:
            where = _at(document, "machines", index, "use")
            problems += [
                p if p.file else Problem(p.message, suggestion=p.suggestion, **where) for p in error.problems
            ]
    if problems:
        raise InputError(problems)
    uplink = _uplink(file, parts, document, folder)
    if len({_key(part.network) for part in parts}) > 1 and uplink is None:
        raise bad_input(
            "the machines' networks differ, so that no path joins them; state 'between', or one 'network' for all",
            file=document.file,
            line=document.line_of(("machines",)),
            path="machines",
        )
    return _Builder(file.name, tuple(parts), uplink).system(file.description, _at(document, "machines"))


def _part(file: ClusterFile, index: int, document: Document, load: Any) -> _Part:
    spec, folder = file.machines[index], Path(document.file).parent
    machine: System = load(spec.use, folder)
    if machine.cluster is not None:
        raise bad_input(f"{spec.use!r} is a cluster itself; expected one machine")
    own = spec.network or file.network
    if own is None:
        if machine.network is None:
            raise bad_input(f"{spec.use!r} names no network; state one here under 'network'")
        return _Part(machine, spec.count, machine.network)
    path: tuple[str | int, ...] = ("machines", index, "network") if spec.network else ("network",)
    groups: dict[str, int] = {}
    for node in machine.nodes.values():
        groups[node.group] = groups.get(node.group, 0) + 1
    return _Part(machine, spec.count, read_network(own, groups, _at(document, *path), folder))


def _uplink(file: ClusterFile, parts: list[_Part], document: Document, folder: Path) -> _Uplink | None:
    spec = file.between
    if spec is None:
        return None
    groups = set.intersection(*({node.group for node in part.machine.nodes.values()} for part in parts))
    network = read_network(
        NetworkSpec(use=spec.use, ports=spec.at, switch=spec.switch),
        dict.fromkeys(groups, 1),
        _at(document, "between"),
        folder,
    )
    return _Uplink(network.link, spec.at, network.switch)


def _at(document: Document, *path: str | int) -> dict[str, Any]:
    return {
        "file": document.file,
        "line": document.line_of(path),
        "path": ".".join(str(part) for part in path),
    }


def _key(network: Network) -> tuple[object, ...]:
    """What makes two networks one fabric: kind and rate of their ports, and how they are switched."""
    return (
        network.link.name, network.rails, network.machines_per_leaf, network.oversubscription, network.switch.name,
    )  # fmt: skip


@dataclass
class _Builder:
    """Writes the flat system of a cluster."""

    name: str
    parts: tuple[_Part, ...]
    uplink: _Uplink | None
    nodes: dict[str, Node] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)
    leaf_of: dict[str, tuple[str, str]] = field(default_factory=dict)
    spine_wire: dict[str, str] = field(default_factory=dict)
    core_wires: list[tuple[str, str]] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)

    def system(self, description: str, where: Mapping[str, Any]) -> System:
        """All machines, then leaves and spines."""
        total = sum(len(part.machine.nodes) * part.count for part in self.parts)
        if total > MAX_NODES:
            raise bad_input(f"{total} devices; expected at most {MAX_NODES}", **where)
        fabrics: dict[tuple[object, ...], int] = {}
        provenance: dict[str, Provenance] = {}
        for part in self.parts:
            fabric = fabrics.setdefault(_key(part.network), len(fabrics))
            provenance.update(part.machine.provenance)
            for _ in range(part.count):
                self._machine(part, fabric)
        for key, fabric in fabrics.items():
            network = next(part.network for part in self.parts if _key(part.network) == key)
            self._fabric(fabric, network, f"{fabric}-" if len(fabrics) > 1 else "")
        if self.uplink is not None:
            self._join(self.uplink)
        rents = [part.machine.price_rate for part in self.parts]
        price = None
        if all(rent is not None for rent in rents):
            price = sum((rent or 0.0) * part.count for rent, part in zip(rents, self.parts, strict=True))
        recipe = [(part.machine.digest, part.count, part.network) for part in self.parts]
        uplink = None if self.uplink is None else (self.uplink.link, self.uplink.at)
        cluster = Cluster(
            tuple(self.machines), self.leaf_of, self.spine_wire, tuple(self.core_wires), (recipe, uplink)
        )
        return System(self.name, self.nodes, self.wires, description, price, provenance, cluster=cluster)

    def _machine(self, part: _Part, fabric: int) -> None:
        model, number = part.machine, len(self.machines)
        names: dict[str, str] = {}
        counted: dict[str, int] = {}
        for node in model.nodes.values():
            index = counted.get(node.group, self.offsets.get(node.group, 0))
            counted[node.group] = index + 1
            names[node.name] = f"{node.group}{index}"
        self.offsets.update(counted)
        for node in model.nodes.values():
            name = names[node.name]
            if name in self.nodes:
                raise bad_input(f"two devices would be called {name!r}; rename a group of {model.name!r}")
            memory = None if node.memory is None else names[node.memory]
            self.nodes[name] = Node(name, node.group, node.device, memory, node.scratchpad)
        wires: dict[str, str] = {}
        for wire in model.wires.values():
            ends = tuple((names[one], names[other]) for one, other in wire.ends)
            name = f"{wire.link.kind}:{ends[0][0]}-{ends[0][1]}"
            name = name if len(ends) == 1 and name not in self.wires else f"{wire.name}@{number}"
            self.wires[name] = Wire(name, wire.link, ends)
            wires[wire.name] = name
        self.machines.append(Machine(model, names, wires, fabric, part.network.ports))

    def _fabric(self, fabric: int, network: Network, word: str) -> None:
        """Leaves of a network's machines, and the spine where there are several leaves."""
        served: dict[str, list[str]] = {}
        own = [machine for machine in self.machines if machine.fabric == fabric]
        for place, machine in enumerate(own):
            pod = place // network.machines_per_leaf
            ports = [
                machine.names[node.name]
                for node in machine.model.nodes.values()
                if node.group == network.ports
            ]
            for rail, port in enumerate(ports):
                number = pod * len(ports) + rail if network.rails else pod
                served.setdefault(f"leaf{word}{number}", []).append(port)
        spine = f"spine{word.rstrip('-')}"
        for leaf, ports in served.items():
            self.nodes[leaf] = Node(leaf, "leaf", network.switch, None)
            for port in ports:
                self.leaf_of[port] = (leaf, self._wire(network.link, port, leaf))
            if len(served) > 1:
                rate = len(ports) * network.link.bandwidth / network.oversubscription
                up = Rdma(
                    kind="rdma", name=f"{network.link.name}-spine", latency=network.switch.latency, bandwidth=rate,
                    energy_per_byte=network.link.energy_per_byte, network=network.link.network,
                )  # fmt: skip
                self.nodes.setdefault(spine, Node(spine, "spine", network.switch, None))
                self.spine_wire[leaf] = self._wire(up, leaf, spine)

    def _join(self, uplink: _Uplink) -> None:
        self.nodes["core"] = Node("core", "core", uplink.switch, None)
        for machine in self.machines:
            first = next(n.name for n in machine.model.nodes.values() if n.group == uplink.at)
            self.core_wires.append((first, self._wire(uplink.link, machine.names[first], "core")))

    def _wire(self, link: Rdma, one: str, other: str) -> str:
        name = f"{link.kind}:{one}-{other}"
        self.wires[name] = Wire(name, link, ((one, other),))
        return name
