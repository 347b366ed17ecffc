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
from typing import TYPE_CHECKING, Final

from hw_configs.problems import InputError, Problem, nearest
from workloads.dtypes import size_bytes

if TYPE_CHECKING:
    import networkx

__all__ = ["KINDS", "PERSISTENT_ROLES", "Attribute", "Graph", "Operator", "Role", "Tensor", "check_graph"]

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

KINDS: Final[dict[str, str]] = {
    "matmul": "dense product; attributes m, n, k, batch (independent products), weight_dtype",
    "grouped_matmul": "one product per expert; attributes m (tokens over all experts), n, k, groups, active",
    "attention": "scores, softmax and weighted sum in one; attributes batch, heads, kv_heads, head_dim, "
    "v_head_dim, q_len, kv_len, causal, window",
    "conv": "convolution; attributes batch, in_channels, out_channels, height, width, kernel_h, kernel_w, "
    "stride_h, stride_w, groups, out_height, out_width",
    "norm": "layer, RMS, batch or group norm; attributes m (rows), n (columns)",
    "softmax": "softmax; attributes m, n",
    "activation": "pointwise non-linearity, gated or not; attributes m, n",
    "elementwise": "pointwise arithmetic; attributes m, n",
    "rotary": "rotary position embedding; attributes m, n",
    "embedding": "row lookup; attributes m (rows read), n (columns)",
    "gather": "indexed read; attributes m, n",
    "scatter": "indexed write; attributes m, n",
    "topk": "selection of k of n; attributes m, n, k",
    "pool": "window or global pooling",
    "reduce": "reduction over axes",
    "resize": "up- or downsampling",
    "copy": "data movement within a memory: transpose, concatenation, slice, pad",
    "view": "no data movement at all: reshape, identity",
    "recurrent": "LSTM, GRU or RNN over a sequence; attributes batch, sequence, hidden, input_size",
    "loss": "loss function",
    "optimizer": "parameter update; attributes parameters, states",
    "all_reduce": "collective; attributes bytes, group",
    "all_gather": "collective; attributes bytes, group",
    "reduce_scatter": "collective; attributes bytes, group",
    "all_to_all": "collective; attributes bytes, group",
    "broadcast": "collective; attributes bytes, group",
    "send": "point-to-point communication; attributes bytes, peer",
    "receive": "point-to-point communication; attributes bytes, peer",
    "custom": "an operator Offchip has no cost rule for; counted by its bytes and reported by name "
    "(attribute source_type)",
}
"""Every operator kind, with the attributes its cost rules read. Names follow the field's operator tables."""


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


@dataclass(frozen=True, slots=True)
class Operator:
    """One unit of work.

    ``flops`` counts a multiply-add as two. ``read_bytes`` and ``write_bytes`` are the compulsory traffic
    between the operator and the memory that holds its tensors. ``dtype`` is the precision of the arithmetic.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flops: float = 0.0
    read_bytes: int = 0
    write_bytes: int = 0
    dtype: str = "fp16"
    updates: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


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
