"""A graph as segments that repeat, and each segment as units that are placed as one.

A language model is a few layers, each many times: what holds for one holds for all of its class, and a decision is how
many of a class go where. Operators outside of layers are segments of their own. Inside a segment a *unit* is a run of
operators that share a device: attention over a cache by itself, a block of experts by itself, and else a chain from
where the run takes something from outside to where the next one does (norm, projections, rotary; norm, gate and up,
activation, down).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from workloads.graph import PERSISTENT_ROLES, Graph, Operator
from workloads.operators import Attention, GroupedProduct

__all__ = [
    "Segment",
    "SegmentClass",
    "Unit",
    "apart",
    "one_after_another",
    "saved_activations",
    "segment_classes",
    "waits",
]


@dataclass(frozen=True)
class Unit:
    """Operators that share a device. ``role``: attend, experts or products."""

    role: str
    operators: tuple[Operator, ...]

    @cached_property
    def read(self) -> tuple[str, ...]:
        """Names of all that its operators read or update, in order."""
        seen: dict[str, None] = {}
        for op in self.operators:
            seen.update(dict.fromkeys((*op.inputs, *op.updates)))
        return tuple(seen)

    def weights(self, graph: Graph) -> tuple[str, ...]:
        """Persistent tensors whose place is this unit's to say, caches left out.

        One that several units read (a table for embedding and head) belongs to the unit that reads most of it.
        """
        names = {op.name for op in self.operators}
        return tuple(
            name
            for name in self.read
            if graph.tensors[name].role in PERSISTENT_ROLES
            and not graph.tensors[name].is_cache
            and (set(graph.consumers[name]) <= names or _reads_most(graph, name) in names)
        )

    def caches(self, graph: Graph) -> tuple[str, ...]:
        """Caches that its operators read or update."""
        return tuple(name for name in self.read if graph.tensors[name].is_cache)


@dataclass(frozen=True)
class Segment:
    """One layer, or one operator outside of layers."""

    units: tuple[Unit, ...]

    @property
    def operators(self) -> Iterator[Operator]:
        """Its operators in program order."""
        for unit in self.units:
            yield from unit.operators


@dataclass(frozen=True)
class SegmentClass:
    """Segments that differ in names alone, in program order."""

    members: tuple[Segment, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.members)

    @property
    def example(self) -> Segment:
        """The first, which stands for all."""
        return self.members[0]


def segment_classes(graph: Graph) -> tuple[SegmentClass, ...]:
    """The classes of a graph's segments, by first appearance.

    Segments are alike when their operators do the same work on tensors of the same sizes and roles.
    """
    found: dict[object, list[Segment]] = {}
    for operators in _runs(graph):
        segment = Segment(tuple(_joined(graph, list(_units(graph, operators)))))
        found.setdefault(_signature(graph, operators), []).append(segment)
    return tuple(SegmentClass(tuple(members)) for members in found.values())


def _reads_most(graph: Graph, name: str) -> str:
    """The operator that reads or changes most of a tensor, the last of equals."""

    def read(consumer: str) -> int:
        op = graph.operator_by_name[consumer]
        names = (*op.inputs, *op.updates)
        return sum(size for own, size in zip(names, op.reads, strict=False) if own == name)

    return max(reversed(graph.consumers[name]), key=read)


def saved_activations(graph: Graph, segment: Segment) -> tuple[str, ...]:
    """What a segment of the forward pass makes and the backward pass reads."""
    return tuple(
        name
        for op in segment.operators
        if op.place.training_pass == "forward"
        for name in op.outputs
        if any(graph.operator_by_name[r].place.training_pass == "backward" for r in graph.consumers[name])
    )


def one_after_another(graph: Graph, classes: tuple[SegmentClass, ...]) -> bool:
    """Whether every segment can only begin once the one before it has ended.

    So it is where everything in the next one depends on every operator that is the last of its kin in this one.
    """
    segments = _in_order(graph, classes)
    for before, after in itertools.pairwise(segments):
        inside = {op.name for op in before.operators}
        last = {
            op.name
            for op in before.operators
            if not any(reader in inside for name in op.outputs for reader in graph.consumers[name])
        }
        depends = {name: {name} for name in last}
        for op in after.operators:
            depends[op.name] = set[str]().union(
                *(depends.get(name, set()) for name in graph.dependencies[op.name])
            )
            if depends[op.name] != last:
                return False
    return True


def apart(classes: tuple[SegmentClass, ...]) -> tuple[SegmentClass, ...]:
    """Every segment as a class of its own, in the order of their classes."""
    return tuple(SegmentClass((member,)) for found in classes for member in found.members)


def waits(graph: Graph, classes: tuple[SegmentClass, ...]) -> tuple[tuple[int, ...], ...]:
    """Of classes of one segment each: the classes whose segments each one waits for."""
    owner = {op.name: index for index, found in enumerate(classes) for op in found.example.operators}
    return tuple(
        tuple(
            sorted(
                {owner[name] for op in found.example.operators for name in graph.dependencies[op.name]}
                - {index}
            )
        )
        for index, found in enumerate(classes)
    )


def _in_order(graph: Graph, classes: tuple[SegmentClass, ...]) -> list[Segment]:
    place = {op.name: index for index, op in enumerate(graph.operators)}
    members = [member for found in classes for member in found.members]
    return sorted(members, key=lambda segment: place[segment.units[0].operators[0].name])


def _runs(graph: Graph) -> Iterator[list[Operator]]:
    """Operators of one layer together; others one by one, those before the layers that wait for no other together."""
    run: list[Operator] = []
    layered = any(op.place.layer is not None and op.place.layer >= 0 for op in graph.operators)
    for op in graph.operators:
        layer = op.place.layer
        inside = layer is not None and layer >= 0
        same = (
            run
            and inside
            and (run[-1].place.layer, run[-1].place.training_pass)
            == (
                layer,
                op.place.training_pass,
            )
        )
        beside = run and layered and not inside and not _follows(graph, op, run)
        if run and not same and not beside:
            yield run
            run = []
        run.append(op)
        if not inside and not layered:
            yield run
            run = []
    if run:
        yield run


def _follows(graph: Graph, op: Operator, run: list[Operator]) -> bool:
    """Whether an operator waits for one of a run, or the run is of a layer."""
    inside = {before.name for before in run}
    layer = run[-1].place.layer
    return (layer is not None and layer >= 0) or any(name in inside for name in graph.dependencies[op.name])


def _signature(graph: Graph, operators: list[Operator]) -> object:
    tensors = graph.tensors
    return tuple(
        (
            op.work,
            op.dtype,
            op.reads,
            op.writes,
            tuple((tensors[name].role, tensors[name].size_bytes) for name in (*op.inputs, *op.updates)),
        )
        for op in operators
    )


def _units(graph: Graph, operators: list[Operator]) -> Iterator[Unit]:
    """Cut where the first lines of this module say."""
    run: list[Operator] = []
    role = "products"
    for op in operators:
        kind = _role(op)
        ends = role == "attend" or kind == "attend"
        ends = ends or (kind == "experts" and role != "experts")
        ends = ends or (role != "experts" and _heavy(graph, run) and _from_outside(graph, op, run))
        if run and ends:
            yield Unit(role, tuple(run))
            run, role = [], "products"
        run.append(op)
        if kind != "products":
            role = kind
        if kind == "products" and role == "experts" and _leaves_experts(graph, op, run):
            run.pop()
            yield Unit(role, tuple(run))
            run, role = [op], "products"
    if run:
        yield Unit(role, tuple(run))


def _joined(graph: Graph, units: list[Unit]) -> Iterator[Unit]:
    """Units without a matrix go with the one before them, the first with the next."""
    found: list[Unit] = []
    for unit in units:
        before = found[-1] if found else None
        plain = before is not None and before.role == unit.role == "products"
        if (
            before is not None
            and plain
            and not (_heavy(graph, unit.operators) and _heavy(graph, before.operators))
        ):
            found[-1] = Unit("products", (*before.operators, *unit.operators))
        else:
            found.append(unit)
    yield from found


def _role(op: Operator) -> str:
    if isinstance(op.work, Attention) and op.updates:
        return "attend"
    return "experts" if isinstance(op.work, GroupedProduct) else "products"


def _heavy(graph: Graph, run: Sequence[Operator]) -> bool:
    """Whether a run has an operator with a matrix; small ones before it belong to it."""
    return any(
        graph.tensors[name].is_weight and len(graph.tensors[name].shape) > 1
        for op in run
        for name in op.inputs
    )


def _from_outside(graph: Graph, op: Operator, run: list[Operator]) -> bool:
    """Whether an operator reads an activation that none of the run makes."""
    made = {name for before in run for name in before.outputs}
    return any(
        name not in made and graph.tensors[name].role not in PERSISTENT_ROLES and name in graph.producer
        for name in op.inputs
    )


def _leaves_experts(graph: Graph, op: Operator, run: list[Operator]) -> bool:
    """Whether an operator after experts takes nothing of them: the next block has begun."""
    made = {name for before in run[:-1] for name in before.outputs}
    own = [name for name in op.inputs if name in made]
    return not own or any(
        graph.tensors[name].is_weight and len(graph.tensors[name].shape) > 1 for name in op.inputs
    )
