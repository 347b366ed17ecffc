"""Weights that do not fit are streamed from another memory, a few operators ahead.

The device keeps the weights of as many operators as fit beside caches and activations, and streams the rest
from the largest memory it has a path to. A copy engine prefetches in program order while the device
computes; ``ahead`` bounds how many streamed operators are in flight or waiting, two being a double buffer.
Streamed copies are dropped after use, so that the same plan serves every step.

``access`` says how a GPU gets at what is not in its memory: a copy engine brings it ahead of use; kernels read it in
requests over the link, and no copy is made (zero-copy); or page faults bring it once the kernel before has ended
(unified memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.problems import InfeasibleError, InputError, bad_input
from hw_configs.settings import Settings, count, name_of, size, word
from hw_configs.system import MemorySpace, Node, System
from mapping.liveness import footprint
from mapping.mapper import MapperOptions
from mapping.placement.single_device import candidates, too_large
from simulator.plan import Compute, Home, Plan, PlanNotes, Task, Transfer
from workloads.graph import Graph, Operator, Role

__all__ = ["MAPPER", "StreamWeights", "choose_streamed", "spread"]

_STEPS: Final = 500
"""Shares of the weights that are tried, least first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWeightsSettings(Settings):
    """Settings of ``stream-weights``."""

    ahead: int = count(2, "streamed operators in flight or waiting", least=1, most=1000, unit="operators")
    device: str | None = name_of("the device to use", absent="the first that computes")
    limit: int | None = size(None, "device memory to use", absent="all")
    access: str = word("copy", "how a GPU gets at weights elsewhere", ("copy", "zero-copy", "unified"))


@dataclass(frozen=True)
class StreamWeightsNotes(PlanNotes):
    """How much is streamed, from where, how many operators ahead, and how."""

    streamed_bytes: int
    streamed_from: str
    ahead: int
    access: str


class StreamWeights:
    """The mapper ``stream-weights``."""

    DESCRIPTION = "keeps what fits, streams the other weights from host memory with prefetch"
    SETTINGS = StreamWeightsSettings

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """A plan that streams as few bytes as capacity allows; ``InfeasibleError`` if even that won't fit."""
        chosen = options.of(StreamWeightsSettings)
        node = candidates(system)[0] if chosen.device is None else system.node(chosen.device)
        device_memory = system.memories[node.memory or node.name]
        store = _store(system, node, device_memory)
        usable = min(device_memory.usable_bytes, chosen.limit or device_memory.usable_bytes)
        if chosen.access != "copy" and node.device.kind != "gpu":
            found = f"{node.name!r} is no GPU, and copies what it streams"
            raise bad_input(found, path="--set access")
        # Requests over the link need no room; faults bring one operator's weights at a time.
        ahead = {"copy": chosen.ahead, "zero-copy": 0, "unified": 1}[chosen.access]
        streamed = choose_streamed(graph, usable, ahead)
        if streamed is None:
            if usable < device_memory.usable_bytes:
                raise InfeasibleError(f"{graph.name} does not run in {usable} bytes of {device_memory.name}")
            raise too_large(graph, system, [node], footprint(graph))
        moved = sum(graph.tensors[w].size_bytes for weights in streamed.values() for w in weights)
        if moved > store.usable_bytes:
            raise InfeasibleError(
                f"{graph.name} does not fit: {moved} bytes of weights must be streamed, and {store.name} "
                f"has {store.usable_bytes}"
            )
        way = _Way(node, device_memory.name, store.name, ahead, chosen.access)
        return _write(graph, system, streamed, way)


MAPPER: Final = StreamWeights()


def _store(system: System, node: Node, device_memory: MemorySpace) -> MemorySpace:
    """The largest memory other than the device's own that a link path joins to it."""
    reachable = []
    for memory in system.memories.values():
        if memory.name == device_memory.name or system.nodes[memory.name].device.kind == "gpu":
            continue
        try:
            system.route(memory.name, device_memory.name)
        except InputError:
            continue
        reachable.append(memory)
    if not reachable:
        raise bad_input(f"system {system.name!r} has no other memory that {node.name!r} can stream from")
    # Host DRAM before flash: the fastest route wins, the larger memory among equals.
    return max(reachable, key=lambda m: (m.read_bandwidth, m.usable_bytes))


def choose_streamed(graph: Graph, usable: int, ahead: int) -> dict[str, tuple[str, ...]] | None:
    """Operator -> weights to stream before it: the fewest bytes, spread evenly over the run."""
    need = footprint(graph)
    weights: dict[str, tuple[str, ...]] = {}
    claimed: set[str] = set()
    for op in graph.operators:
        own = tuple(
            name for name in op.inputs if graph.tensors[name].role is Role.WEIGHT and name not in claimed
        )
        if own and all(graph.consumers[name] == (op.name,) for name in own):
            weights[op.name] = own
        claimed.update(own)
    if need.bytes <= usable:
        return {}
    size = {op: sum(graph.tensors[w].size_bytes for w in own) for op, own in weights.items()}
    for share in range(1, _STEPS + 1):
        chosen = spread(size, share / _STEPS)
        freed = sum(size[name] for name in chosen)
        windows = [chosen[i : i + ahead] for i in range(max(len(chosen) - ahead + 1, 1))]
        buffer = max(sum(size[name] for name in window) for window in windows)
        if need.bytes - freed + buffer <= usable:
            return {name: weights[name] for name in chosen}
    return None


def spread(size: dict[str, int], share: float) -> list[str]:
    """Operators that hold a share of all bytes, evenly spread, so that transfers find work to hide behind."""
    chosen: list[str] = []
    due = 0.0
    for name, bytes_here in size.items():
        due += share * bytes_here
        if due >= bytes_here / 2:
            chosen.append(name)
            due -= bytes_here
    return chosen


@dataclass(frozen=True, slots=True)
class _Way:
    """What computes, in which memory, and how weights come from the memory ``store``."""

    node: Node
    memory: str
    store: str
    ahead: int
    access: str


def _write(graph: Graph, system: System, streamed: dict[str, tuple[str, ...]], way: _Way) -> Plan:
    outside = {weight for weights in streamed.values() for weight in weights}
    homes = {
        name: (Home(way.store if name in outside else way.memory),)
        for name in graph.tensors
        if name not in graph.producer
    }
    tasks: list[Task] = []
    users: list[str] = []
    before = ""
    for op in graph.operators:
        weights = streamed.get(op.name, ())
        if way.access != "zero-copy":
            # The buffer's slot is free once the operator `ahead` streams before this one has run.
            after = (users[-way.ahead],) if len(users) >= way.ahead else ()
            if way.access == "unified" and before:
                after = (before,)
            tasks += [_transfer(weight, way, after) for weight in weights]
        if weights:
            users.append(op.name)
        tasks.append(_compute(op, way, weights))
        before = op.name
    moved = sum(graph.tensors[w].size_bytes for w in outside)
    notes = StreamWeightsNotes(moved, way.store, way.ahead, way.access)
    return Plan(graph.name, system.name, "stream-weights", tuple(tasks), homes, notes=notes)


def _transfer(weight: str, way: _Way, after: tuple[str, ...]) -> Task:
    return Transfer(
        f"stream {weight}", f"{way.store}->{way.memory}", tensor=weight, source=way.store, target=way.memory,
        after=after, faults=way.access == "unified",
    )  # fmt: skip


def _compute(operator: Operator, way: _Way, weights: tuple[str, ...]) -> Task:
    here = way.access == "zero-copy" and bool(weights)
    return Compute(
        operator.name, f"{way.node.name}.compute", operator=operator.name, device=way.node.name,
        streamed=weights if here else (), source=way.store if here else "",
    )  # fmt: skip
