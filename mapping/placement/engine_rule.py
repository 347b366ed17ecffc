"""The mapper ``like-engine``: who computes what and what lives where as inference engines decide it, by rule.

What people run decides by rules, not by a search: whole layers on the GPU and the first ones on the CPU, experts on the
CPU and everything else on the GPU, all weights brought to the GPU anew in every step, modules in order over GPU, host
and drive. Each rule gives every unit of a graph its choice; plans are written and priced as ``co-place`` writes and
prices its own, so that the two differ in what was decided alone.

``llama.cpp``
    The first layers and the input table on the CPU, the last ``layers`` on the GPU, where the output counts as one
    (llama.cpp, src/llama-model.cpp: ``i_gpu_start``); of the first ``cpu-experts`` layers the experts on the CPU
    (pull request 15077). A layer's cache and its attention are where the layer is.
``ktransformers``
    Routed experts on the CPU, everything else on the GPU (KTransformers, tutorial of DeepSeek-V3).
``zero-inference``
    The GPU computes; all weights lie in ``store`` and are fetched ahead, layer by layer (DeepSpeed, ZeRO-Inference).
``accelerate``
    Layers in order fill the GPU, then the host, then a drive; the GPU computes all of them. What it lacks comes when
    its turn has come, from memory that is not pinned, a drive's first through a mapped file (Hugging Face Accelerate,
    big model inference).
``flexgen``
    The GPU computes products, attention is where its cache is; how many layers' weights and caches lie where is
    searched, as FlexGen's own program does (by shares there, by layers here).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.settings import Settings, count, name_of, seconds, word
from hw_configs.system import System
from mapping.liveness import footprint
from mapping.mapper import MapperOptions
from mapping.offload.mapper_policy import answer_by_plan
from mapping.offload.policy import OffloadAnswer, OffloadRequest
from mapping.placement.co_place import CoPlaceSettings, co_place
from mapping.placement.draft import Draft, UnitChoice
from mapping.placement.machine import Machine, Place
from mapping.placement.placement_plan import write_placement
from mapping.placement.segments import Segment, Unit, segment_classes
from mapping.placement.single_device import refuse_communication
from simulator.plan import Plan, PlanNotes, Task, Transfer
from workloads.graph import Graph

__all__ = ["ENGINES", "MAPPER", "LikeEngine", "LikeEngineNotes", "LikeEngineSettings"]

ENGINES: Final = ("llama.cpp", "ktransformers", "zero-inference", "accelerate", "flexgen")
ALL: Final = 1 << 20
AHEAD: Final = 4
"""Operators whose weights ZeRO-Inference has in flight or waiting: about a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LikeEngineSettings(Settings):
    """Settings of ``like-engine``."""

    engine: str = word("llama.cpp", "whose rule", ENGINES)
    layers: int | None = count(
        None, "llama.cpp: last layers on the GPU, the output counts as one (-ngl)", most=ALL, unit="layers",
        absent="as many as fit",
    )  # fmt: skip
    cpu_experts: int = count(
        0, "llama.cpp: first layers whose experts stay on the CPU (--n-cpu-moe)", most=ALL, unit="layers"
    )
    store: str | None = name_of(
        "zero-inference: the group that holds all weights", absent="the host's memory"
    )
    caches: str | None = name_of("zero-inference: the group that holds the caches", absent="the GPU")
    hand_over: float = seconds(
        138e-6,
        "software at each hand-over of an activation between devices; 276 us a layer were measured",
        zero=True,
    )


@dataclass(frozen=True)
class LikeEngineNotes(PlanNotes):
    """Whose rule it was, and bytes of weights and caches by where they lie."""

    engine: str
    layers: int | None
    """Of llama.cpp: what ``-ngl`` was, or what of it fits."""
    held_bytes: Mapping[str, int]


@dataclass(frozen=True)
class _Job:
    """A graph cut into segments, and the devices that rules speak of."""

    graph: Graph
    machine: Machine
    gpu: Place
    host: Place | None
    segments: tuple[Segment, ...]
    held: Mapping[str, int] = field(default_factory=dict)

    @property
    def cpu(self) -> Place:
        """The host's processor; ``InputError`` where there is none."""
        if self.host is None:
            raise bad_input(
                f"system {self.machine.system.name!r} has no CPU that works in a memory", path="--hw"
            )
        return self.host

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return sum(_is_layer(self.graph, segment) for segment in self.segments)


Rule = Callable[[Segment, Unit], UnitChoice]


class LikeEngine:
    """The mapper ``like-engine``; see the module's first lines."""

    DESCRIPTION = "as engines place by rule: llama.cpp, KTransformers, ZeRO-Inference, Accelerate, FlexGen"
    SETTINGS = LikeEngineSettings
    PHASES: tuple[str, ...] = ("decode", "prefill")

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan of an engine; ``InfeasibleError`` where what it puts somewhere does not fit."""
        refuse_communication(graph)
        return plan_like(graph, Machine(system), options.of(LikeEngineSettings))

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The plan of one step with where its bytes lie."""
        return answer_by_plan("like-engine", self, request, "by the rule of {engine}, not by a search")


MAPPER: Final = LikeEngine()


def plan_like(graph: Graph, machine: Machine, settings: LikeEngineSettings) -> Plan:
    """The plan of a graph by an engine's rule."""
    if settings.engine == "flexgen":
        return _flexgen(graph, machine, settings)
    job = _job(graph, machine)
    if settings.engine == "zero-inference":
        return _written(job, settings, _streaming(job, settings), AHEAD)
    if settings.engine == "accelerate":
        plan = _written(job, settings, _in_order(job), 1)
        return replace(plan, tasks=tuple(_unpinned(plan.tasks, job)))
    if settings.engine == "ktransformers":
        return _written(job, settings, _by_layers(job, ALL, ALL), 1)
    if settings.layers is not None:
        return _written(
            job, settings, _by_layers(job, settings.layers, settings.cpu_experts), 1, settings.layers
        )
    return _as_many_as_fit(job, settings)


def _job(graph: Graph, machine: Machine) -> _Job:
    place = {op.name: index for index, op in enumerate(graph.operators)}
    members = [member for found in segment_classes(graph) for member in found.members]
    segments = tuple(sorted(members, key=lambda segment: place[next(segment.operators).name]))
    gpu = next((p for p in machine.general if p.kind == "gpu"), None)
    if gpu is None:
        raise bad_input(f"system {machine.system.name!r} has no GPU", path="--hw")
    return _Job(graph, machine, gpu, next((p for p in machine.general if p.kind == "cpu"), None), segments)


def _layer(segment: Segment) -> int:
    layer = next(segment.operators).place.layer
    return -1 if layer is None else layer


def _at(place: Place, unit: Unit, weights: str = "", cache: str = "") -> UnitChoice:
    """A unit on a device, its weights and its cache there as well or elsewhere."""
    own = place.memory
    return UnitChoice(place, weights or own, (cache or own) if unit.role == "attend" else "")


def _by_layers(job: _Job, layers: int, cpu_experts: int) -> Rule:
    """Layers of the CPU first, then those of the GPU; the input on the CPU unless the output shares its table."""
    first = max(job.layers + 1 - layers, 0)
    start = next((i for i, segment in enumerate(job.segments) if _is_layer(job.graph, segment)), 0)
    output = {id(segment) for segment in job.segments[start:] if not _is_layer(job.graph, segment)}
    tables = _read(job, lambda segment: id(segment) in output)

    def rule(segment: Segment, unit: Unit) -> UnitChoice:
        if not _is_layer(job.graph, segment):
            on_gpu = id(segment) in output or not tables.isdisjoint(unit.read)
            return _at(job.gpu if layers and on_gpu else job.cpu, unit)
        layer = _layer(segment)
        on_cpu = layer < first or (unit.role == "experts" and layer < cpu_experts)
        return _at(job.cpu if on_cpu else job.gpu, unit)

    return rule


def _is_layer(graph: Graph, segment: Segment) -> bool:
    """Whether a segment is a layer, which has a cache; input and output have none."""
    return any(unit.caches(graph) for unit in segment.units)


def _read(job: _Job, among: Callable[[Segment], bool]) -> set[str]:
    return {
        name
        for segment in job.segments
        if among(segment)
        for unit in segment.units
        for name in unit.weights(job.graph)
    }


def _streaming(job: _Job, settings: LikeEngineSettings) -> Rule:
    """The GPU computes, all weights come from one memory."""
    store = _memory_of(job, settings.store, "store") if settings.store else job.cpu.memory
    cache = _memory_of(job, settings.caches, "caches") if settings.caches else ""
    return lambda _, unit: _at(job.gpu, unit, store, cache)


def _memory_of(job: _Job, group: str, setting: str) -> str:
    found = [m for m in job.machine.stores if group in (m, job.machine.system.nodes[m].group)]
    if not found:
        known = ", ".join(job.machine.system.nodes[m].group for m in job.machine.stores)
        raise bad_input(f"found {group!r}; expected a memory: {known}", path=f"--set {setting}")
    return found[0]


def _in_order(job: _Job) -> Rule:
    """Homes of whole segments in order: the GPU as long as it has room, then the host, then a drive.

    Room for what is live, the caches and the largest segment that comes from elsewhere is left on the GPU.
    """
    graph, machine = job.graph, job.machine
    sizes = [_weight_bytes(graph, segment) for segment in job.segments]
    caches = sum(t.size_bytes for t in graph.tensors.values() if t.is_cache)
    live = footprint(graph).transient_peak_bytes
    drives = [m for m in machine.stores if machine.system.nodes[m].device.kind in ("flash", "csd")]
    levels = [job.gpu.memory, job.cpu.memory, *drives[:1]]
    room = [float(machine.usable(m)) for m in levels]
    room[0] -= caches + live + 2 * max(sizes)
    # What comes from a drive passes through the host's memory.
    room[1] -= 2 * max(sizes)
    homes: dict[int, str] = {}
    level = 0
    for segment, size in zip(job.segments, sizes, strict=True):
        while level < len(levels) and size > room[level]:
            level += 1
        if level == len(levels):
            raise InfeasibleError(
                f"{graph.name} does not fit {machine.system.name!r}: {', '.join(levels)} are full"
            )
        room[level] -= size
        homes[id(segment)] = levels[level]
    return lambda segment, unit: _at(job.gpu, unit, homes[id(segment)])


def _weight_bytes(graph: Graph, segment: Segment) -> int:
    names = {name for unit in segment.units for name in unit.weights(graph)}
    return sum(graph.tensors[name].size_bytes for name in names)


def _unpinned(tasks: tuple[Task, ...], job: _Job) -> Iterator[Task]:
    """Copies as host software makes them: pageable, and out of a drive's file first into the host's memory."""
    gpu, host = job.gpu.memory, job.cpu.memory
    for task in tasks:
        if not isinstance(task, Transfer) or task.target != gpu:
            yield task
        elif task.source == host:
            yield replace(task, pageable=True)
        elif job.machine.system.nodes[task.source].device.kind in ("flash", "csd"):
            read = f"read {task.tensor} for {task.name}"
            yield replace(task, name=read, target=host, mapped=True)
            yield replace(
                task, source=host, after=(read,), frees=((task.tensor, host),), pageable=True, wait_s=0.0
            )
        else:
            yield task


def _written(
    job: _Job, settings: LikeEngineSettings, rule: Rule, ahead: int, layers: int | None = None
) -> Plan:
    """The plan of a rule, with what each memory has to hold checked first."""
    draft = Draft(job.graph, job.machine)
    for segment in job.segments:
        draft.add(segment, tuple(rule(segment, unit) for unit in segment.units))
    held: dict[str, int] = {}
    for name, memory in draft.homes.items():
        held[memory] = held.get(memory, 0) + job.graph.tensors[name].size_bytes
    for memory, size in held.items():
        usable = job.machine.usable(memory)
        if size > usable:
            raise InfeasibleError(
                f"{job.graph.name} does not fit as {settings.engine} places it: {size} bytes of weights and caches "
                f"in {memory}, which has {usable}"
            )
    notes = LikeEngineNotes(settings.engine, layers, held)
    placement = draft.placement(ahead, settings.hand_over)
    return write_placement(job.graph, job.machine.system, placement, "like-engine", notes)


def _as_many_as_fit(job: _Job, settings: LikeEngineSettings) -> Plan:
    """The most layers that fit beside what is live on the GPU."""
    live = footprint(job.graph).transient_peak_bytes
    for layers in range(job.layers + 1, -1, -1):
        try:
            plan = _written(job, settings, _by_layers(job, layers, settings.cpu_experts), 1, layers)
        except InfeasibleError:
            if layers == 0:
                raise
            continue
        assert isinstance(plan.notes, LikeEngineNotes)
        if plan.notes.held_bytes.get(job.gpu.memory, 0) + live <= job.machine.usable(job.gpu.memory):
            return plan
    raise InfeasibleError(f"{job.graph.name} does not fit {job.machine.system.name!r}")


def _flexgen(graph: Graph, machine: Machine, settings: LikeEngineSettings) -> Plan:
    """``co-place`` with products on the GPU alone, and attention there or on the CPU."""
    kinds = {place.kind: machine.system.nodes[place.device].group for place in machine.general}
    if "gpu" not in kinds:
        raise bad_input(f"system {machine.system.name!r} has no GPU", path="--hw")
    both = "+".join(kinds[kind] for kind in ("gpu", "cpu") if kind in kinds)
    asked = CoPlaceSettings(
        products=kinds["gpu"],
        experts_on=kinds["gpu"],
        attention=both,
        hand_over=settings.hand_over,
        compare=False,
    )
    found = co_place(graph, machine, asked)
    notes = LikeEngineNotes("flexgen", None, dict(found.notes.held_bytes))
    return replace(found.plan, mapper="like-engine", notes=notes)
