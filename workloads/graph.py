"""The operator graph: what has to run, and which bytes it touches.

A :class:`Graph` is a list of operators in a valid program order over named tensors. An operator names its
inputs, its outputs and the persistent tensors it ``updates`` in place (a KV cache that grows, a weight under
an optimizer). FLOPs and traffic are stated per operator, because they are not the sum of the tensors' sizes:
an embedding reads a few rows of its table, a sliding window reads the end of a cache.

Persistent tensors (weights, KV cache, optimizer state) have no producer and outlive the graph; graph inputs
are activations without a producer. :meth:`Graph.digraph` is a ``networkx.DiGraph`` of the operators, whose
edges carry the tensors that cause them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import InputError, Problem, nearest
from workloads.dtypes import size_bytes
from workloads.operators import KINDS, Work
from workloads.operators.traffic import NO_PARTS, traffic

if TYPE_CHECKING:
    import networkx

__all__ = [
    "KINDS",
    "NOWHERE",
    "PERSISTENT_ROLES",
    "Attribute",
    "Graph",
    "Operator",
    "Place",
    "Role",
    "Tensor",
    "check_graph",
    "make_operator",
]

Attribute = int | float | str | bool


class Role(StrEnum):
    """What a tensor is to the model, which decides how long it lives and who may move it."""

    WEIGHT = "weight"
    ACTIVATION = "activation"
    KV_CACHE = "kv_cache"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"


PERSISTENT_ROLES: Final = frozenset({Role.WEIGHT, Role.KV_CACHE, Role.OPTIMIZER_STATE})
"""Roles whose tensors are resident before the first operator and after the last."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array. ``size_bytes`` follows from shape and dtype unless given (padding, block formats)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role = Role.ACTIVATION
    size_bytes: int = -1

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            object.__setattr__(self, "size_bytes", size_bytes(prod(self.shape), self.dtype))

    @property
    def is_weight(self) -> bool:
        """Whether it is a weight of the model."""
        return self.role is Role.WEIGHT

    @property
    def is_cache(self) -> bool:
        """Whether it holds keys, values or a state between steps."""
        return self.role is Role.KV_CACHE


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a model an operator stands, for plans; no price depends on it.

    ``layer`` is -1 before and after the layers. ``training_pass`` is forward, backward, recompute or optimizer in a
    training step. ``axis`` says how tensor parallelism divides the operator (:mod:`simulator.rewrite.split`).
    ``ranks`` are those of a recorded trace that ran it, each on its ``stream``.
    """

    layer: int | None = None
    training_pass: str = ""
    microbatch: int | None = None
    axis: str = ""
    ranks: tuple[int, ...] = ()
    stream: str = ""


NOWHERE: Final = Place()


@dataclass(frozen=True, slots=True)
class Operator:
    """One unit of work: what it does (``work``), on which tensors, and which bytes of them it touches.

    ``reads`` are bytes read of each input and then of each update, ``writes`` bytes written of each output and then
    of each update: the compulsory traffic between the operator and the memory that holds its tensors.
    ``beside_read`` and ``beside_written`` are bytes of no named tensor (an index table, a workspace that a kernel
    fills and reads back). ``dtype`` is the precision of the arithmetic. ``residency`` says where inputs stand before
    it runs: cold, hot, or just written by the operator before (previous); empty: as the setup of a run says.
    ``workspace_bytes`` are held while it runs. ``measured_s`` is what it took where a trace was recorded. ``source``
    names what it was imported from. ``in_place`` pairs an output with the inputs whose bytes it may take once nobody
    else wants them (:mod:`workloads.in_place`).
    """

    name: str
    work: Work
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    updates: tuple[str, ...] = ()
    dtype: str = "fp16"
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    beside_read: int = 0
    beside_written: int = 0
    place: Place = NOWHERE
    residency: str = ""
    workspace_bytes: int = 0
    measured_s: float | None = None
    source: str = ""
    in_place: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return self.work.kind

    @property
    def flops(self) -> float:
        """FLOP, a multiply-add counted as two."""
        return self.work.flops

    @property
    def read_bytes(self) -> int:
        """Bytes read."""
        return sum(self.reads) + self.beside_read

    @property
    def write_bytes(self) -> int:
        """Bytes written."""
        return sum(self.writes) + self.beside_written


def make_operator(
    name: str,
    work: Work,
    inputs: Iterable[str],
    outputs: Iterable[str],
    tensors: Mapping[str, Tensor],
    *,
    updates: Iterable[str] = (),
    touched: Mapping[str, int] = NO_PARTS,
    written: Mapping[str, int] = NO_PARTS,
    **more: Any,
) -> Operator:
    """An operator over tensors of a graph, with its traffic by the rule of :mod:`workloads.operators.traffic`.

    ``more`` are further fields of :class:`Operator` (dtype, place, source, ...).
    """
    read, made, changed = tuple(inputs), tuple(outputs), tuple(updates)
    moved = traffic(
        work,
        [tensors[tensor] for tensor in read],
        [tensors[tensor] for tensor in made],
        [tensors[tensor] for tensor in changed],
        touched,
        written,
    )
    return Operator(name, work, read, made, changed, reads=moved.reads, writes=moved.writes, **more)


@dataclass(frozen=True)
class Graph:
    """Operators in program order over named tensors; see the module's first lines.

    ``outputs`` are the tensors that must exist at the end. ``structure`` names graphs that differ only in
    sizes (the decode steps of one generation): equal names mean equal operator and tensor names and wiring.
    Build one with trusted parts directly, and one from a file through :func:`check_graph`.
    """

    name: str
    tensors: Mapping[str, Tensor]
    operators: tuple[Operator, ...]
    outputs: tuple[str, ...] = ()
    structure: str = ""
    metadata: Mapping[str, Attribute] = field(default_factory=dict)

    @cached_property
    def operator_by_name(self) -> dict[str, Operator]:
        """Operators by name."""
        return {operator.name: operator for operator in self.operators}

    @cached_property
    def producer(self) -> dict[str, str]:
        """The operator that makes each tensor; persistent tensors and graph inputs have none."""
        return {tensor: op.name for op in self.operators for tensor in op.outputs}

    @cached_property
    def consumers(self) -> dict[str, tuple[str, ...]]:
        """The operators that read or update each tensor, in program order."""
        found: dict[str, list[str]] = {name: [] for name in self.tensors}
        for op in self.operators:
            for tensor in dict.fromkeys((*op.inputs, *op.updates)):
                found[tensor].append(op.name)
        return {tensor: tuple(names) for tensor, names in found.items()}

    @cached_property
    def dependencies(self) -> dict[str, tuple[str, ...]]:
        """The operators each operator must wait for.

        A reader waits for the producer; where a tensor is updated in place, program order decides: later
        readers wait for the update, and the update waits for earlier readers.
        """
        producer = self.producer
        last_update: dict[str, str] = {}
        readers_since: dict[str, list[str]] = {}
        updated = {tensor for op in self.operators for tensor in op.updates}
        result: dict[str, tuple[str, ...]] = {}
        for op in self.operators:
            waits: dict[str, None] = {}
            for tensor in op.inputs:
                if tensor in producer:
                    waits[producer[tensor]] = None
                if tensor in updated:
                    if tensor in last_update:
                        waits[last_update[tensor]] = None
                    readers_since.setdefault(tensor, []).append(op.name)
            for tensor in op.updates:
                if tensor in producer:
                    waits[producer[tensor]] = None
                if tensor in last_update:
                    waits[last_update[tensor]] = None
                for reader in readers_since.pop(tensor, ()):
                    waits[reader] = None
                last_update[tensor] = op.name
            waits.pop(op.name, None)
            result[op.name] = tuple(waits)
        return result

    def digraph(self) -> networkx.DiGraph:
        """The operators as a ``networkx.DiGraph``; nodes carry ``operator``, edges carry ``tensors``."""
        import networkx

        graph = networkx.DiGraph(name=self.name)
        graph.add_nodes_from((op.name, {"operator": op}) for op in self.operators)
        for op in self.operators:
            touched = {*op.inputs, *op.updates}
            for before in self.dependencies[op.name]:
                source = self.operator_by_name[before]
                carried = tuple(t for t in (*source.outputs, *source.updates) if t in touched)
                graph.add_edge(before, op.name, tensors=carried)
        return graph

    def bytes_by_role(self) -> dict[Role, int]:
        """Bytes of all tensors of each role (not what is live at once)."""
        totals = dict.fromkeys(Role, 0)
        for tensor in self.tensors.values():
            totals[tensor.role] += tensor.size_bytes
        return totals

    @property
    def flops(self) -> float:
        """FLOPs of the whole graph."""
        return sum(op.flops for op in self.operators)

    def parameters(self) -> int:
        """Elements of all weight tensors."""
        return sum(prod(t.shape) for t in self.tensors.values() if t.role is Role.WEIGHT)


def check_graph(graph: Graph, file: str | None = None, lines: Mapping[str, int] | None = None) -> Graph:
    """The graph with its operators in a valid order, or an ``InputError`` with everything that is wrong.

    Checks names, kinds, producers, negative counts and order. Operators that stand out of order are sorted
    (stable); a cycle is an error that spells it out. ``lines`` maps operator and tensor names to file lines.
    """
    problems = list(_local_problems(graph, file, lines or {}))
    if problems:
        raise InputError(problems)
    if _is_ordered(graph):
        return graph
    return _sorted_graph(graph, file, lines or {})


def _local_problems(graph: Graph, file: str | None, lines: Mapping[str, int]) -> Iterable[Problem]:
    def problem(name: str, message: str, suggestion: str | None = None) -> Problem:
        return Problem(message, file, lines.get(name), name, suggestion)

    seen: set[str] = set()
    made: dict[str, str] = {}
    for tensor in graph.tensors.values():
        if any(side < 0 for side in tensor.shape):
            yield problem(tensor.name, f"found shape {list(tensor.shape)}; expected sides of at least 0")
    for op in graph.operators:
        if op.name in seen:
            yield problem(op.name, "two operators have this name")
        seen.add(op.name)
        if op.kind not in KINDS:
            yield problem(op.name, f"unknown operator kind {op.kind!r}", nearest(op.kind, KINDS))
        for label, count in (
            ("flops", op.flops),
            ("read_bytes", op.read_bytes),
            ("write_bytes", op.write_bytes),
        ):
            if not count >= 0:
                yield problem(op.name, f"found {label} {count}; expected at least 0")
        for tensor_name in (*op.inputs, *op.outputs, *op.updates):
            if tensor_name not in graph.tensors:
                yield problem(op.name, f"unknown tensor {tensor_name!r}", nearest(tensor_name, graph.tensors))
        for tensor_name in op.outputs:
            if tensor_name in made:
                yield problem(op.name, f"tensor {tensor_name!r} is already made by {made[tensor_name]!r}")
            elif tensor_name in graph.tensors and graph.tensors[tensor_name].role in PERSISTENT_ROLES:
                role = graph.tensors[tensor_name].role
                yield problem(op.name, f"makes {tensor_name!r}, a {role}; list it under updates instead")
            made[tensor_name] = op.name
    for name in graph.outputs:
        if name not in graph.tensors:
            yield problem("outputs", f"unknown tensor {name!r}", nearest(name, graph.tensors))


def _is_ordered(graph: Graph) -> bool:
    position = {op.name: index for index, op in enumerate(graph.operators)}
    return all(
        position[graph.producer[tensor]] < index
        for index, op in enumerate(graph.operators)
        for tensor in (*op.inputs, *op.updates)
        if tensor in graph.producer
    )


def _sorted_graph(graph: Graph, file: str | None, lines: Mapping[str, int]) -> Graph:
    import networkx

    data_flow = networkx.DiGraph()
    data_flow.add_nodes_from(op.name for op in graph.operators)
    data_flow.add_edges_from(
        (graph.producer[tensor], op.name)
        for op in graph.operators
        for tensor in (*op.inputs, *op.updates)
        if tensor in graph.producer
    )
    try:
        position = {op.name: index for index, op in enumerate(graph.operators)}
        order = networkx.lexicographical_topological_sort(data_flow, key=position.__getitem__)
        operators = tuple(graph.operator_by_name[name] for name in order)
    except networkx.NetworkXUnfeasible:
        cycle = [edge[0] for edge in networkx.find_cycle(data_flow)]
        shown = " -> ".join([*cycle[:6], *(["..."] if len(cycle) > 6 else []), cycle[0]])
        raise InputError(
            [Problem(f"the graph has a cycle: {shown}", file, lines.get(cycle[0]), cycle[0])]
        ) from None
    return Graph(graph.name, graph.tensors, operators, graph.outputs, graph.structure, graph.metadata)
