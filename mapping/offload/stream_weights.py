"""Weights that do not fit are streamed from another memory, a few operators ahead.

The device keeps the weights of as many operators as fit beside caches and activations, and streams the rest
from the largest memory it has a path to. A copy engine prefetches in program order while the device
computes; ``ahead`` bounds how many streamed operators are in flight or waiting, two being a double buffer.
Streamed copies are dropped after use, so that the same plan serves every step.

Of a weight only what its operator touches comes: of experts, those that some token of the step reaches. Such weights
go first, for they free most memory per byte that moves. They can come once it is known which: after the router has
chosen. With ``expert-slots`` or ``expert-frequency`` every layer keeps its most wanted experts
(:mod:`mapping.offload.expert_cache`), and ``prefetch`` says which share of the others a predictor guesses right, a
layer ahead: as many as will be wanted come then, and once the router has chosen those that were not among them.

``access`` says how a GPU gets at what is not in its memory: a copy engine brings it ahead of use; kernels read it in
requests over the link, and no copy is made (zero-copy); or page faults bring it once the kernel before has ended
(unified memory).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from hw_configs.problems import InfeasibleError, InputError, bad_input
from hw_configs.settings import Settings, count, name_of, share, size, word
from hw_configs.system import MemorySpace, Node, System
from mapping.liveness import footprint
from mapping.mapper import MapperOptions
from mapping.offload.expert_cache import ExpertCache, Policy, WantedExperts, most_kept
from mapping.offload.touched_weights import brought_bytes, chosen_by, touched_bytes
from mapping.placement.single_device import candidates, too_large
from simulator.plan import Compute, Home, Plan, PlanNotes, Task, Transfer
from workloads.expert_frequency import fetches, frequency_of
from workloads.graph import Graph, Operator, Role

__all__ = ["MAPPER", "StreamWeights", "choose_streamed", "spread"]

_STEPS: Final = 500
"""Shares of the weights that are tried, least first."""
_GUESSED: Final = 2
"""Products of a layer's experts whose weights come ahead together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWeightsSettings(Settings):
    """Settings of ``stream-weights``."""

    ahead: int = count(2, "streamed operators in flight or waiting", least=1, most=1000, unit="operators")
    device: str | None = name_of("the device to use", absent="the first that computes")
    limit: int | None = size(None, "device memory to use", absent="all")
    access: str = word("copy", "how a GPU gets at weights elsewhere", ("copy", "zero-copy", "unified"))
    expert_slots: int | None = count(
        None, "experts of each layer that stay on the device", most=1 << 16, unit="experts",
        absent="as many as fit where expert-frequency is set",
    )  # fmt: skip
    expert_frequency: str | None = name_of(
        "how often experts are wanted, by which the hottest stay: uniform, zipf:EXPONENT, or a CSV file",
        absent="uniform where expert-slots is set, else layers stay whole",
    )
    expert_policy: str = word("static", "which experts stay: the most wanted, or the last", ("static", "lru"))
    prefetch: float = share(
        0.0, "share of the wanted experts that a predictor guesses a layer ahead", zero=True
    )


@dataclass(frozen=True)
class StreamWeightsNotes(PlanNotes):
    """How much is streamed, from where, how many operators ahead, and how; which experts stay."""

    streamed_bytes: int
    streamed_from: str
    ahead: int
    access: str
    experts_kept: int | None = None
    """Experts of all layers together that stay."""
    hit_rate: float | None = None
    """Share of the experts that a step wants which are on the device."""


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
        if chosen.prefetch and chosen.access != "copy":
            raise bad_input(
                f"found {chosen.prefetch:g}; {chosen.access} brings nothing ahead", path="--set prefetch"
            )
        # Requests over the link need no room; faults bring one operator's weights at a time.
        ahead = {"copy": chosen.ahead, "zero-copy": 0, "unified": 1}[chosen.access]
        way = _Way(node, device_memory.name, store.name, ahead, chosen.access, chosen.prefetch)
        cache = _cache(graph, usable, chosen, way)
        whole = graph
        graph = graph if cache is None else cache.graph
        streamed = choose_streamed(
            graph, usable, ahead, cache.outside if cache else frozenset(), chosen.prefetch
        )
        if streamed is None:
            if usable < device_memory.usable_bytes:
                raise InfeasibleError(f"{graph.name} does not run in {usable} bytes of {device_memory.name}")
            raise too_large(whole, system, [node], footprint(whole))
        held = sum(graph.tensors[w].size_bytes for weights in streamed.values() for w in weights)
        if held > store.usable_bytes:
            raise InfeasibleError(
                f"{graph.name} does not fit: {held} bytes of weights must be streamed, and {store.name} "
                f"has {store.usable_bytes}"
            )
        return _Writer(graph, streamed, way, cache).plan(system)


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


def _cache(graph: Graph, usable: int, chosen: StreamWeightsSettings, way: _Way) -> ExpertCache | None:
    """The experts that stay, where a setting asks for it: as many as told, or as many as fit."""
    if chosen.expert_slots is None and chosen.expert_frequency is None:
        return None
    wanted = WantedExperts.of(graph, frequency_of(chosen.expert_frequency or "uniform"))
    policy = cast(Policy, chosen.expert_policy)
    if chosen.expert_slots is not None:
        return wanted.kept(wanted.alike(chosen.expert_slots), policy)

    def fits(cache: ExpertCache) -> bool:
        """Whether nothing but experts has to be streamed."""
        found = choose_streamed(cache.graph, usable, way.ahead, cache.outside, chosen.prefetch)
        return found is not None and all(cache.outside.intersection(own) for own in found.values())

    return most_kept(wanted, policy, fits)


def choose_streamed(
    graph: Graph, usable: int, ahead: int, always: frozenset[str] = frozenset(), guessed: float = 0.0
) -> dict[str, tuple[str, ...]] | None:
    """Operator -> weights to stream before it: the fewest bytes, spread evenly over the run.

    Weights of which only a part is touched go first. ``always`` are streamed in any case; ``guessed`` is the setting
    ``prefetch``.
    """
    weights = _own_weights(graph)
    forced = [op for op, own in weights.items() if always.intersection(own)]
    need = footprint(graph).bytes
    if need <= usable and not forced:
        return {}
    size = {op: sum(graph.tensors[w].size_bytes for w in own) for op, own in weights.items()}
    moved = {op: _moved(graph, graph.operator_by_name[op], own, guessed) for op, own in weights.items()}
    window = ahead + (_GUESSED if guessed else 0)
    light = {op: size[op] for op in size if op not in forced and 2 * moved[op] < size[op]}
    heavy = {op: size[op] for op in size if op not in forced and op not in light}
    for base, tier in (([], light), (list(light), heavy)):
        for step in range(_STEPS + 1):
            some = {*forced, *base, *spread(tier, step / _STEPS)}
            chosen = [op for op in weights if op in some]
            buffer = _most_at_once([moved[op] for op in chosen], window)
            if need - sum(size[op] for op in chosen) + buffer <= usable:
                return {op: weights[op] for op in chosen}
    return None


def _own_weights(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The weights that one operator alone reads, by operator."""
    weights: dict[str, tuple[str, ...]] = {}
    claimed: set[str] = set()
    for op in graph.operators:
        own = tuple(
            name for name in op.inputs if graph.tensors[name].role is Role.WEIGHT and name not in claimed
        )
        if own and all(graph.consumers[name] == (op.name,) for name in own):
            weights[op.name] = own
        claimed.update(own)
    return weights


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


def _most_at_once(sizes: Sequence[int], window: int) -> int:
    """The most bytes of so many streamed operators in a row."""
    return max(sum(sizes[i : i + window]) for i in range(max(len(sizes) - window + 1, 1)))


def _moved(graph: Graph, operator: Operator, weights: tuple[str, ...], guessed: float) -> int:
    """Bytes that come for an operator: what it touches, and what was guessed wrong."""
    return sum(sum(_parts(graph, operator, weight, guessed)) for weight in weights)


def _parts(graph: Graph, operator: Operator, weight: str, guessed: float) -> tuple[int, int]:
    """Bytes of a weight that come ahead of the choice of what is touched, and after it."""
    brought = brought_bytes(graph, operator, weight)
    if not touched_bytes(graph, operator, weight) or not chosen_by(graph, operator):
        return brought, 0
    parts = fetches(float(brought), guessed)
    ahead = round(parts.ahead)
    return ahead, min(math.ceil(parts.demand), graph.tensors[weight].size_bytes - ahead)


@dataclass(frozen=True, slots=True)
class _Way:
    """What computes, in which memory, and how weights come from the memory ``store``."""

    node: Node
    memory: str
    store: str
    ahead: int
    access: str
    guessed: float


@dataclass
class _Writer:
    """Writes the plan, operator by operator in program order."""

    graph: Graph
    streamed: Mapping[str, tuple[str, ...]]
    way: _Way
    cache: ExpertCache | None
    tasks: list[Task] = field(default_factory=list)
    unguessed: set[str] = field(default_factory=set)
    """Operators of the first layer of experts, for which nothing was there to guess from."""
    users: list[str] = field(default_factory=list)
    """Operators so far whose weights are streamed."""
    moved: int = 0

    def plan(self, system: System) -> Plan:
        """The whole plan."""
        graph, way = self.graph, self.way
        outside = {weight for weights in self.streamed.values() for weight in weights}
        homes = {
            name: (Home(way.store if name in outside else way.memory),)
            for name in graph.tensors
            if name not in graph.producer
        }
        choosers = self._choosers()
        before = chose = ""
        for op in graph.operators:
            if op.name in choosers:
                # What the next choice will be is guessed from what the one before it was made of.
                for user in choosers[op.name] if chose else ():
                    self._bring(graph.operator_by_name[user], (chose,), ahead=True)
                chose = op.name
            if op.name in self.streamed:
                self._demand(op, before)
                self.users.append(op.name)
            self.tasks.append(self._compute(op))
            before = op.name
        cache = self.cache
        notes = StreamWeightsNotes(
            self.moved, way.store, way.ahead, way.access,
            None if cache is None else sum(cache.slots.values()), None if cache is None else cache.hit_rate,
        )  # fmt: skip
        return Plan(
            graph.name, system.name, "stream-weights", tuple(self.tasks), homes, notes=notes,
            experts={} if cache is None else cache.groups,
        )  # fmt: skip

    def _choosers(self) -> dict[str, list[str]]:
        """Operators that choose what is touched -> the streamed operators whose weights they choose from."""
        found: dict[str, list[str]] = {}
        for name, weights in self.streamed.items():
            op = self.graph.operator_by_name[name]
            if any(touched_bytes(self.graph, op, weight) for weight in weights):
                for chooser in chosen_by(self.graph, op):
                    found.setdefault(chooser, []).append(name)
        first = next(iter(found), "")
        self.unguessed = set(found.get(first, ()))
        return found

    def _demand(self, op: Operator, before: str) -> None:
        """What an operator's weights need that did not come ahead."""
        if self.way.access == "zero-copy":
            self.moved += sum(brought_bytes(self.graph, op, weight) for weight in self.streamed[op.name])
            return
        if self.way.access == "unified":
            # A kernel faults on its weights once it runs, after the one before.
            self._bring(op, (before,) if before else (), ahead=False)
            return
        self._bring(op, (), ahead=False)

    def _bring(self, op: Operator, after: tuple[str, ...], *, ahead: bool) -> None:
        """The transfers of an operator's weights, those that are guessed or those that are not."""
        graph, way = self.graph, self.way
        guessed = 0.0 if op.name in self.unguessed else way.guessed
        # The buffer's slot is free once the operator `ahead` streams before this one has run.
        free = (self.users[-way.ahead],) if len(self.users) >= way.ahead else ()
        if way.access == "unified":
            free = ()
        for weight in self.streamed[op.name]:
            touched = touched_bytes(graph, op, weight)
            chosen = chosen_by(graph, op) if touched else ()
            early, late = _parts(graph, op, weight, guessed)
            part = early if ahead else late
            if not chosen:
                part = 0 if ahead else brought_bytes(graph, op, weight)
            if not part:
                continue
            self.moved += part
            waits = dict.fromkeys((*after, *free, *(() if ahead else chosen)))
            self.tasks.append(
                Transfer(
                    f"{'guess' if ahead else 'stream'} {weight}",
                    f"{way.store}->{way.memory}",
                    tensor=weight,
                    source=way.store,
                    target=way.memory,
                    after=tuple(waits),
                    faults=way.access == "unified",
                    touched_bytes=part if touched else 0,
                )
            )

    def _compute(self, operator: Operator) -> Task:
        way, weights = self.way, self.streamed.get(operator.name, ())
        here = way.access == "zero-copy" and bool(weights)
        return Compute(
            operator.name, f"{way.node.name}.compute", operator=operator.name, device=way.node.name,
            streamed=weights if here else (), source=way.store if here else "",
        )  # fmt: skip
