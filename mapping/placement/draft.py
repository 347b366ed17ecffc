"""A placement while it is written: what each segment adds, units one by one.

A *choice* says of one unit who runs it, where its weights live, and, of attention, where the cache lives. Attention
over a cache that lies elsewhere reads it as it was and sends home what it adds. Attention inside drives or PIM memories
is cut over the members of the place, by sequences or, with fewer sequences than members, by heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from hw_configs.device import Pim
from hw_configs.problems import InfeasibleError
from mapping.layout.choose import Choice as PimLayout
from mapping.layout.choose import cache_choices
from mapping.layout.pim import LayoutSettings, bench_of
from mapping.placement.machine import Machine, Place
from mapping.placement.placement_plan import Placement
from mapping.placement.segments import Segment, Unit, saved_activations
from simulator.pim.operators import host_of
from simulator.pim.pricing import Pricer
from simulator.pim.recipes import Kernel, cache_slots
from simulator.plan import Division, ExpertGroups, Pieces, Plan
from simulator.rewrite.divide import part_name
from simulator.rewrite.expert_groups import ExpertBlock, expert_blocks
from workloads.graph import Graph, Operator
from workloads.operators import Attention, GroupedProduct

__all__ = ["Draft", "ExpertPart", "UnitChoice", "pim_layout"]

BUFFER_SHARE: Final = 1 / 16
"""A cache that is fetched comes in pieces of at most this share of the memory that it comes into."""
MOST_PIECES: Final = 256


@dataclass(frozen=True, slots=True)
class ExpertPart:
    """Some experts of a block, the most wanted that are left: how many, who runs them, and where their weights live."""

    experts: int
    rows: float
    """Share of the routed rows that goes to them."""
    place: Place
    weights: str

    @property
    def fetches(self) -> bool:
        """Whether the weights of those that a step wants come from another memory, once the router has run."""
        return self.weights != self.place.memory


@dataclass(frozen=True, slots=True)
class UnitChoice:
    """Who runs a unit, the memory of its weights, and of attention that of the cache.

    ``members``: whether all members of the place take part, each with its part of the cache. ``parts``: of a block of
    experts that is cut by how often they are wanted; the rest of the unit runs on ``place``.
    """

    place: Place
    weights: str
    cache: str = ""
    members: bool = False
    parts: tuple[ExpertPart, ...] = ()

    @property
    def device(self) -> str:
        """The device, or the first of the members."""
        return self.place.device

    @property
    def fetches(self) -> bool:
        """Whether its weights or its cache come from another memory each time."""
        if self.parts:
            return any(part.fetches for part in self.parts)
        at = self.place.memory
        return self.weights != at or (bool(self.cache) and self.cache != at)

    @property
    def settled(self) -> UnitChoice:
        """The same with everything at hand that can be fetched ahead; experts cannot, before their router has run."""
        if self.parts:
            return self
        at = self.place.memory
        return UnitChoice(self.place, at, at if self.cache else "", self.members)


@dataclass
class Draft:
    """Devices, homes and rewrites so far, of one graph on one machine."""

    graph: Graph
    machine: Machine
    devices: dict[str, str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    divisions: dict[str, Division] = field(default_factory=dict)
    pieces: dict[str, Pieces] = field(default_factory=dict)
    appends: list[str] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    experts: dict[str, ExpertGroups] = field(default_factory=dict)
    late: dict[str, str] = field(default_factory=dict)
    parked: dict[str, str] = field(default_factory=dict)

    def add(
        self, segment: Segment, choices: tuple[UnitChoice, ...], member: Mapping[str, str] | None = None,
        parked: str = "",
    ) -> None:  # fmt: skip
        """Place a segment; ``member`` gives devices and memories that stand in for those of the choices.

        ``parked``: the memory in which its activations wait for the backward pass.
        """
        if parked:
            self.parked.update(dict.fromkeys(saved_activations(self.graph, segment), parked))
        own = member or {}
        for unit, choice in zip(segment.units, choices, strict=True):
            if unit.role == "attend":
                self._attend(unit, choice, own)
            elif choice.parts:
                self._experts(unit, choice, own)
            else:
                self._plain(unit, choice, own)

    def placement(self, ahead: int = 2, hand_over_s: float = 0.0) -> Placement:
        """The placement."""
        rewrites = Plan(
            self.graph.name, self.machine.system.name, "", (), {}, divisions=self.divisions, pieces=self.pieces,
            appends=tuple(self.appends), kernels=self.kernels, experts=self.experts,
        )  # fmt: skip
        return Placement(
            self.devices, self.homes, rewrites, ahead, hand_over_s, parked=self.parked, late=self.late
        )

    def _plain(self, unit: Unit, choice: UnitChoice, own: Mapping[str, str]) -> None:
        for op in unit.operators:
            self.devices[op.name] = own.get(choice.device, choice.device)
        for name in (*unit.weights(self.graph), *unit.caches(self.graph)):
            # What two units share lives where the first of them has it.
            self.homes.setdefault(name, own.get(choice.weights, choice.weights))

    def _experts(self, unit: Unit, choice: UnitChoice, own: Mapping[str, str]) -> None:
        """Experts in groups, each with a device and a home of its own; those that are fetched wait for the router."""
        first = next(op.name for op in unit.operators if isinstance(op.work, GroupedProduct))
        block = self.blocks[first]
        self._plain(unit, choice, own)
        counts, shares = (part.experts for part in choice.parts), (part.rows for part in choice.parts)
        self.experts[first] = ExpertGroups(tuple(counts), tuple(shares))
        router = next(
            (self.graph.producer[name] for name in block.chosen_by if name in self.graph.producer), ""
        )
        for name in block.members:
            self.devices.pop(name, None)
        for name in block.weights:
            self.homes.pop(name, None)
        for index, part in enumerate(choice.parts):
            home = own.get(part.weights, part.weights)
            for name in block.members:
                self.devices[part_name(name, index)] = own.get(part.place.device, part.place.device)
            for name in block.weights:
                self.homes[part_name(name, index)] = home
                if part.fetches and router:
                    self.late[part_name(name, index)] = router

    @cached_property
    def blocks(self) -> dict[str, ExpertBlock]:
        """Blocks of experts by their first product."""
        return expert_blocks(self.graph)

    def _attend(self, unit: Unit, choice: UnitChoice, own: Mapping[str, str]) -> None:
        device, at = own.get(choice.device, choice.device), own.get(choice.place.memory, choice.place.memory)
        for name in unit.weights(self.graph):
            self.homes.setdefault(name, own.get(choice.weights, choice.weights))
        for op in unit.operators:
            self.devices[op.name] = device
            if not op.updates:
                continue
            if choice.members:
                self._inside(op, choice.place)
            elif choice.cache == choice.place.memory:
                self.homes.update(dict.fromkeys(op.updates, at))
            else:
                self._away(op, device, at, own.get(choice.cache, choice.cache))

    def _away(self, op: Operator, device: str, at: str, home: str) -> None:
        """The cache comes from its homes, which share it where there are several alike; what is new goes back."""
        self.appends.append(op.name)
        homes = self.machine.alike(home)
        held = sum(self.graph.tensors[name].size_bytes for name in op.updates)
        room = self.machine.space(at).usable_bytes * BUFFER_SHARE
        axis, length = _axis(op, len(homes))
        count = len(homes)
        while count * 2 <= min(length, MOST_PIECES) and held / count > room:
            count *= 2
        if count == 1 or length < count:
            self.homes.update(dict.fromkeys(op.updates, home))
            return
        counts = tuple(length // count + (index < length % count) for index in range(count))
        self._cut(op, (*op.updates, *op.outputs), axis, counts)
        for index in range(count):
            self.devices[part_name(op.name, index)] = device
            for name in op.updates:
                self.homes[part_name(name, index)] = homes[index % len(homes)]

    def _inside(self, op: Operator, place: Place) -> None:
        """Attention in the memories that hold the cache."""
        memories = dict(zip(place.memories, place.devices, strict=True))
        axis, length = _axis(op, len(memories))
        count = min(length, len(memories))
        counts = tuple(length // count + (index < length % count) for index in range(count))
        made = [name for name in op.inputs if name not in op.updates and name in self.graph.producer]
        if count > 1:
            self._cut(op, (*op.updates, *made, *op.outputs), axis, counts)
        for index, (memory, device) in enumerate(list(memories.items())[:count]):
            piece = part_name(op.name, index) if count > 1 else op.name
            self.devices[piece] = device
            for name in op.updates:
                self.homes[part_name(name, index) if count > 1 else name] = memory
            if place.kind == "pim":
                self.kernels[piece] = pim_layout(self.graph, self.machine, op, place, counts[index] / length)[
                    0
                ]

    def _cut(self, op: Operator, tensors: tuple[str, ...], axis: int, counts: tuple[int, ...]) -> None:
        for name in dict.fromkeys(tensors):
            self.divisions[name] = Division(axis, counts, (True,) * len(counts))
        self.pieces[op.name] = Pieces("batch" if axis == 0 else "head", counts)
        self.devices.pop(op.name, None)


def _axis(op: Operator, members: int) -> tuple[int, int]:
    """Along which axis an attention is cut over members, sequences where there are enough, and how long it is."""
    assert isinstance(op.work, Attention)
    return (0, op.work.batch) if op.work.batch >= members else (1, op.work.kv_heads)


def pim_layout(
    graph: Graph, machine: Machine, op: Operator, place: Place, share: float
) -> tuple[dict[str, Any], int]:
    """The best layout of a part of a cache in one PIM memory: its kernel keys, and rows of a bank that it takes."""
    work = op.work
    assert isinstance(work, Attention)
    pairs = max(1, round(work.batch * work.kv_heads * share))
    capacity = cache_slots(work, max(graph.tensors[name].shape[-2] for name in op.updates))
    found = _layouts(
        machine, place, pairs, work.head_dim, work.value_dim, capacity, work.heads // work.kv_heads
    )
    return {**found.kernel, **LayoutSettings().common()}, found.rows


def _layouts(
    machine: Machine, place: Place, pairs: int, width: int, value_width: int, capacity: int, queries: int
) -> PimLayout:
    """A layout, looked for once on a machine."""
    key = (place.memory, pairs, width, value_width, capacity, queries)
    if key not in machine.layouts:
        machine.layouts[key] = _search_layout(machine, place, pairs, width, value_width, capacity, queries)
    return machine.layouts[key]


def _search_layout(
    machine: Machine, place: Place, pairs: int, width: int, value_width: int, capacity: int, queries: int
) -> PimLayout:
    node = machine.system.nodes[place.memory]
    host = host_of(machine.system, node)
    if host is None or not isinstance(node.device, Pim):
        raise InfeasibleError(f"{place.memory!r} has no vector unit for softmax beside it")
    bench = bench_of(Pricer(node.device, honest=False), node, host)
    return cache_choices(pairs, width, value_width, capacity, queries, bench)[0]
