"""What a placement is asked: a graph cut into segments and priced, on a machine, under settings.

The integer program (:mod:`mapping.placement.column_program`) takes nothing else; variants of a machine ask the same
question again (:mod:`mapping.placement.what_if`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.problems import InfeasibleError, bad_input, nearest
from hw_configs.settings import Settings, count, flag, name_of, seconds, word
from mapping.liveness import footprint
from mapping.placement.column_program import (
    Beside,
    Capacity,
    Crossing,
    Objective,
    Program,
)
from mapping.placement.columns import Column, Scope, columns_of
from mapping.placement.machine import Machine
from mapping.placement.segments import (
    SegmentClass,
    apart,
    one_after_another,
    saved_activations,
    segment_classes,
    waits,
)
from workloads.expert_frequency import frequency_of
from workloads.graph import Graph

__all__ = ["OBJECTIVES", "CoPlaceSettings", "Question", "ask"]

OBJECTIVES: Final = ("time", "energy", "throughput", "dollars")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoPlaceSettings(Settings):
    """Settings of ``co-place``."""

    objective: str = word("time", "what is best", OBJECTIVES)
    latency: float | None = seconds(None, "a step may take no longer", absent="no bound")
    devices: str | None = name_of("groups that may compute, joined by +", absent="all")
    products: str | None = name_of("of those, groups that may compute products", absent="all")
    attention: str | None = name_of("of those, groups that may attend over a cache", absent="all")
    experts_on: str | None = name_of("of those, groups that may compute routed experts", absent="all")
    weights: str | None = name_of("groups that may hold weights, joined by +", absent="all")
    caches: str | None = name_of("groups that may hold caches, joined by +", absent="all")
    ahead: int = count(0, "fetches in flight or waiting; 0: the best of a few", most=64, unit="operators")
    experts: str | None = name_of("how often experts are wanted: zipf:EXPONENT or a CSV file", absent="alike")
    hand_over: float = seconds(0.0, "software at each hand-over of an activation between devices", zero=True)
    compare: bool = flag(True, "also try the plans of the mappers that decide a part of this")
    limit: float = seconds(60.0, "how long the integer program and the tries may take")


@dataclass(frozen=True)
class Question:
    """A graph on a machine, cut and priced: what the integer program is asked."""

    graph: Graph
    machine: Machine
    classes: tuple[SegmentClass, ...]
    program: Program
    capacity: Capacity
    scope: Scope
    settings: CoPlaceSettings = field(default_factory=CoPlaceSettings)


def ask(graph: Graph, machine: Machine, settings: CoPlaceSettings) -> Question:
    """Cut a graph and price its segments; ``InfeasibleError`` for an operator that no device can run."""
    classes = segment_classes(graph)
    chain = one_after_another(graph, classes)
    scope = scope_of(machine, settings)
    columns = []
    for found in classes:
        own = columns_of(graph, machine, found, scope)
        if not own:
            first = next(found.example.operators)
            raise InfeasibleError(
                f"no device of {machine.system.name!r} that may compute can run {first.name!r} and what belongs to it"
            )
        columns.append(own)
    if not chain:
        columns = [own for own, found in zip(columns, classes, strict=True) for _ in found.members]
        classes = apart(classes)
    counts = tuple(found.count for found in classes)
    objective: Objective = "energy" if settings.objective == "energy" else "time"
    entering = _entering(graph, machine, classes, settings.hand_over)
    program = Program(counts, tuple(columns), 1, objective, settings.latency, entering=entering)
    if not chain:
        before = waits(graph, classes)
        program = replace(program, waits=before, crossing=_crossings(graph, machine, classes, before))
    return Question(
        graph, machine, classes, program, _capacity(graph, machine, scope, columns), scope, settings
    )


def _entering(
    graph: Graph, machine: Machine, classes: Sequence[SegmentClass], hand_over_s: float
) -> dict[str, float]:
    """The least that work waits for which goes on in each memory after it was done in another."""
    carried = [
        min(sizes)
        for found in classes
        if (
            sizes := [
                graph.tensors[name].size_bytes
                for name in next(found.example.operators).inputs
                if name in graph.producer
            ]
        )
    ]
    memories = {place.memory for place in machine.general}
    found = {}
    for memory in sorted(memories):
        moves = [move for other in memories - {memory} if (move := machine.move(other, memory)) is not None]
        if moves and carried:
            found[memory] = hand_over_s + min(move.seconds(min(carried)) for move in moves)
    return found


def _crossings(
    graph: Graph, machine: Machine, classes: Sequence[SegmentClass], before: Sequence[Sequence[int]]
) -> dict[tuple[int, int], Crossing]:
    """What activations between segments take from any memory of a place to any other."""
    memories = [place.memory for place in machine.general]
    pairs = [(one, other) for one in memories for other in memories if one != other]
    moves = {pair: move for pair in pairs if (move := machine.move(*pair)) is not None}
    found = {}
    for index, others in enumerate(before):
        read = {name for op in classes[index].example.operators for name in op.inputs}
        for other in others:
            made = {name for op in classes[other].example.operators for name in op.outputs}
            size = sum(graph.tensors[name].size_bytes for name in made & read)
            if size:
                found[other, index] = Crossing({pair: move.seconds(size) for pair, move in moves.items()})
    return found


def _capacity(graph: Graph, machine: Machine, scope: Scope, columns: Sequence[Sequence[Column]]) -> Capacity:
    usable = {memory: float(machine.usable(memory)) for memory in machine.stores}
    # What waits for the backward pass is held by the segments that made it.
    saved = {
        n for found in segment_classes(graph) for s in found.members for n in saved_activations(graph, s)
    }
    waiting = sum(graph.tensors[name].size_bytes for name in saved)
    live = max(0.0, float(footprint(graph).transient_peak_bytes - waiting))
    reserved = {p.memory: live * p.count for p in machine.general if scope.computes(p)}
    resources = {name for own in columns for column in own for name in column.loads}
    members = {
        name: place.count
        for place in machine.general
        for name in resources
        if place.count > 1 and machine.own_to_place(name, place)
    }
    return Capacity(
        usable, reserved, members, machine.pim_rows, idle_w=machine.idle_w, beside=_beside(machine)
    )


def _beside(machine: Machine) -> dict[str, Beside]:
    """Memories in which one device works: what the wires into them can carry beside it."""
    found = {}
    for place in machine.general:
        space = machine.space(place.memory)
        others = [other for other in machine.general if other.memory == place.memory]
        if len(place.devices) > 1 or len(others) > 1:
            continue
        others_than = [memory for memory in machine.system.memories if memory != place.memory]
        moves = [machine.move(place.memory, memory) for memory in others_than]
        moves += [machine.move(memory, place.memory) for memory in others_than]
        rate = sum(move.bytes_per_s for move in moves if move is not None)
        if rate < space.read_bandwidth:
            found[place.memory] = Beside(place.device, rate / space.read_bandwidth)
    return found


def scope_of(machine: Machine, settings: CoPlaceSettings) -> Scope:
    def named(text: str | None, setting: str) -> frozenset[str] | None:
        if text is None:
            return None
        found: set[str] = set()
        groups = {node.group for node in machine.system.nodes.values()}
        for name in text.split("+"):
            members = [node.name for node in machine.system.nodes.values() if name in (node.group, node.name)]
            if not members:
                raise bad_input(
                    f"found {name!r}; expected groups of {machine.system.name!r}: {', '.join(sorted(groups))}",
                    path=f"--set {setting}", suggestion=nearest(name, groups),
                )  # fmt: skip
            found.update(members)
        return frozenset(found)

    roles = {
        "products": named(settings.products, "products"),
        "attend": named(settings.attention, "attention"),
        "experts": named(settings.experts_on, "experts-on"),
    }
    return Scope(
        named(settings.devices, "devices"), named(settings.weights, "weights"), named(settings.caches, "caches"),
        frequency_of(settings.experts or "uniform"),
        {role: members for role, members in roles.items() if members is not None}, settings.hand_over,
    )  # fmt: skip
