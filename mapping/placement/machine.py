"""The places of a machine: who computes and in which memory, what memories there are, what a move between them takes.

Every mapper that decides where bytes live asks the same questions, and this answers them from the machine's parts
alone: operators are priced by the cost models, moves by the narrowest part of their route. Devices that are alike (the
GPUs of a box, the drives below one switch) are one *place* with several members, so that a decision speaks of the
kind and counts members afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from hw_configs.device import Pim
from hw_configs.problems import InputError, bad_input
from hw_configs.system import MemorySpace, Node, System
from mapping.layout.choose import Choice
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL, OperatorCost
from simulator.link.flows import Load
from simulator.system.costs import CostTable
from workloads.graph import Operator

if TYPE_CHECKING:
    from simulator.pim.operators import PimCosts
    from simulator.pim.recipes import Kernel

__all__ = ["Machine", "Move", "Place"]

ATTEND_ONLY: Final = ("csd", "pim")
"""Kinds of devices that are given attention over a cache in their own memory, and nothing else."""


@dataclass(frozen=True, slots=True)
class Place:
    """Devices that are alike and the memories they work in; ``devices[i]`` works in ``memories[i]``."""

    kind: str
    devices: tuple[str, ...]
    memories: tuple[str, ...]

    @property
    def device(self) -> str:
        """The member that stands for all of them."""
        return self.devices[0]

    @property
    def memory(self) -> str:
        """The memory in which that member works."""
        return self.memories[0]

    @property
    def count(self) -> int:
        """How many memories of this kind there are."""
        return len(set(self.memories))


@dataclass(frozen=True, slots=True)
class Move:
    """A way between two memories: bytes on each resource per byte moved, seconds before the first, bytes a second."""

    load: Load
    latency_s: float
    bytes_per_s: float

    def seconds(self, size_bytes: float) -> float:
        """Time of a copy that has the way to itself."""
        return self.latency_s + size_bytes / self.bytes_per_s


class Machine:
    """A system as places and moves; ``cost_model`` prices operators."""

    def __init__(self, system: System, cost_model: str = DEFAULT_COST_MODEL) -> None:
        self.system = system
        self.costs = CostTable(system, COST_MODELS.get(cost_model))
        self.layouts: dict[tuple[object, ...], Choice] = {}
        """Layouts of caches in PIM memories that were looked for."""
        self._moves: dict[tuple[str, str], Move | None] = {}
        self._pim_costs: PimCosts | None = None

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Devices that compute, alike ones together, in the order of the system's file."""
        groups: dict[tuple[str, str], list[Node]] = {}
        for node in self.system.workers():
            key = (node.group, node.device.kind)
            groups.setdefault(key, []).append(node)
        return tuple(
            Place(kind, tuple(node.name for node in nodes), tuple(node.memory or node.name for node in nodes))
            for (_, kind), nodes in groups.items()
        )

    @cached_property
    def general(self) -> tuple[Place, ...]:
        """Places that any operator may be given to."""
        found = tuple(
            place for place in self.places if place.kind not in ATTEND_ONLY and not self.in_pim(place)
        )
        return found or self.places

    def in_pim(self, place: Place) -> bool:
        """Whether a place is the host chip of a PIM memory."""
        memory = self.system.nodes[place.memory].device.kind
        return place.kind != "pim" and memory == "pim"

    @cached_property
    def stores(self) -> tuple[str, ...]:
        """Memories that hold tensors, fastest first, one of each kind of place or group."""
        seen: dict[tuple[str, str], str] = {}
        for memory in self.system.memories.values():
            node = self.system.nodes[memory.name]
            seen.setdefault((node.group, node.device.kind), memory.name)
        return tuple(sorted(seen.values(), key=lambda m: -self.space(m).read_bandwidth))

    def alike(self, memory: str) -> tuple[str, ...]:
        """The memories of the same group as one."""
        node = self.system.nodes[memory]
        return tuple(
            name
            for name in self.system.memories
            if (self.system.nodes[name].group, self.system.nodes[name].device.kind)
            == (node.group, node.device.kind)
        )

    def space(self, memory: str) -> MemorySpace:
        """A memory by name."""
        return self.system.memories[memory]

    def usable(self, memory: str) -> int:
        """Bytes that all memories of a group hold together."""
        return sum(self.space(name).usable_bytes for name in self.alike(memory))

    def memory_of(self, device: str) -> str:
        """The memory in which a device works."""
        return self.system.nodes[device].memory or device

    def cost(self, operator: Operator, device: str) -> OperatorCost | None:
        """The price of an operator on a device; None where it cannot run there."""
        try:
            return self.costs.operator(operator, device)
        except InputError:
            return None

    def move(self, source: str, target: str) -> Move | None:
        """The way from one memory to another; None where no link joins them."""
        key = (source, target)
        if key not in self._moves:
            try:
                path = self.costs.path(source, target)
            except InputError:
                self._moves[key] = None
            else:
                rate = min(self.costs.capacity[name] / weight for name, weight in path.load.items())
                self._moves[key] = Move(path.load, path.latency_s, rate)
        return self._moves[key]

    def need_move(self, source: str, target: str) -> Move:
        """The way from one memory to another; ``InputError`` where no link joins them."""
        found = self.move(source, target)
        if found is None:
            raise bad_input(f"system {self.system.name!r} has no link path from {source!r} to {target!r}")
        return found

    def lay_out(self, kernels: Mapping[str, Kernel]) -> None:
        """Price these operators by their layout in a PIM memory from here on, in a run that begins at time zero."""
        if kernels and self._pim_costs is None:
            from simulator.pim.operators import PimCosts

            self._pim_costs = PimCosts(self.system, exact=False)
        elif kernels and self._pim_costs is not None:
            self._pim_costs.restart()
        self.costs.lay_out(kernels, self._pim_costs if kernels else None)

    def transfer_joules(self, source: str, target: str, size_bytes: float) -> float:
        """Energy of a copy: read, carried over every wire, written."""
        joules = self.costs.joules_per_byte(source, written=False) + self.costs.joules_per_byte(
            target, written=True
        )
        for wire, _ in self.system.route(source, target):
            joules += getattr(self.system.wires[wire].link, "energy_per_byte", 0.0) or 0.0
        return joules * size_bytes

    @cached_property
    def idle_w(self) -> float:
        """Power of all devices at rest, which runs on as long as a step."""
        powers = (getattr(node.device, "power", None) for node in self.system.nodes.values())
        return float(sum(power.idle for power in powers if power is not None))

    @cached_property
    def pim_rows(self) -> int:
        """Rows of a bank in the PIM memories, of the smallest of them; 0 where there are none."""
        from simulator.pim.pricing import Pricer

        pims = [node.device for node in self.system.of_kind("pim")]
        rows = (Pricer(pim, honest=False).lowering.geometry.rows for pim in pims if isinstance(pim, Pim))
        return min(rows, default=0)

    def own_to_member(self, resource: str, memory: str) -> bool:
        """Whether a wire or port belongs to one member of a memory's group alone."""
        others = {name for name in self.alike(memory) if name != memory}
        touched = self.nodes_of(resource)
        return bool(others) and memory in touched and not others & touched

    def own_to_place(self, resource: str, place: Place) -> bool:
        """Whether the first member of a place has a device, wire or port for itself alone."""
        mine, touched = {place.device, place.memory}, self.nodes_of(resource)
        others = {*place.devices, *place.memories} - mine
        return bool(mine & touched) and not others & touched

    def nodes_of(self, resource: str) -> set[str]:
        """The nodes at the ends of a wire, of a memory's port, or of a device's turn (``run NAME``)."""
        if resource.startswith("run "):
            return {resource.removeprefix("run ")}
        wire = self.system.wires.get(resource.rstrip("<>"))
        if wire is not None:
            return {end for pair in wire.ends for end in pair}
        return {resource.partition(":")[0]}

    def seconds_on(self, load: Mapping[str, float]) -> dict[str, float]:
        """What bytes on resources take of each resource's time."""
        return {name: size / self.costs.capacity[name] for name, size in load.items()}
