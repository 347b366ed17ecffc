"""Attention of decode steps in PIM memories, everything else on the GPU, sub-batches interleaved.

The KV cache lives in the PIM memories, cut by sequences (or by heads when there are fewer sequences than
memories). A decode step sends queries, keys and values of the new token there and gets the attention's result
back; the GPU keeps projections and feed-forward layers, as AttAcc (Park et al., ASPLOS 2024) and NeuPIMs (Heo
et al., ASPLOS 2024) divide the work. In prefill the GPU attends and stores the new keys and values.

With ``--microbatches 2`` the two halves of the batch take turns: while one attends in the memories, the GPU
computes for the other (NeuPIMs' sub-batch interleaving, AttAcc's pipelining of feed-forward layers). The plan's
order is what does it: the graph is cut after each attention, and the sub-batches' pieces alternate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hw_configs.device import Pim
from hw_configs.problems import InfeasibleError, InputError, bad_input
from hw_configs.system import Node, System
from hw_configs.units import format_quantity
from mapping.layout.choose import Choice, cache_choices
from mapping.layout.pim import LayoutSettings, bench_of
from mapping.liveness import footprint
from mapping.mapper import MapperOptions
from mapping.placement.kv_store import attention_of
from mapping.placement.single_device import candidates, refuse_communication, too_large
from simulator.pim.operators import host_of
from simulator.pim.pricing import Pricer
from simulator.pim.recipes import Kernel, cache_slots, refused_attention, stored_otherwise
from simulator.plan import Compute, Division, Home, Pieces, Plan, PlanNotes, Task, Transfer
from simulator.rewrite.divide import append_name, part_name
from workloads.graph import Graph, Operator

__all__ = ["MAPPER", "PimAttention"]


@dataclass(frozen=True)
class PimAttentionNotes(PlanNotes):
    """The memories that hold the cache, the rows used in each, and the layout of each shape of attention."""

    memories: tuple[str, ...]
    rows_used: Mapping[str, int]
    layouts: Mapping[str, Mapping[str, Any]]


class PimAttention:
    """The mapper ``pim-attention``; see the module's first lines."""

    DESCRIPTION = "KV cache and decode attention in PIM memories, the rest on the GPU; sub-batches take turns"
    SETTINGS = LayoutSettings

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan; ``InfeasibleError`` when weights do not fit the GPU or the cache not the memories."""
        refuse_communication(graph)
        chosen = options.of(LayoutSettings)
        gpu = candidates(system)[0]
        memories = [node for node in system.of_kind("pim") if host_of(system, node) is not None]
        if gpu.device.kind == "pim" or not memories:
            raise bad_input(
                f"system {system.name!r} needs a GPU and PIM memories with a vector unit each (see 'gpu-pim')",
                path="--mapper pim-attention",
            )
        attends = [op for op in graph.operators if op.kind == "attention" and op.updates]
        if not attends:
            raise InfeasibleError(f"{graph.name} has no attention that keeps a cache (is it --unfused?)")
        for op in attends:
            if attention_of(op).q_len == 1 and (reason := refused_attention(attention_of(op))):
                raise InfeasibleError(f"operator {op.name!r} cannot run in a PIM memory: {reason}")
        assert isinstance(memories[0].device, Pim)
        steps = [op for op in attends if attention_of(op).q_len == 1]
        if others := list(stored_otherwise(graph, steps, memories[0].device)):
            raise InputError(others[:1])
        memory = gpu.memory or gpu.name
        cached = {name for op in attends for name in op.updates}
        need = footprint(graph)
        caches = sum(graph.tensors[name].size_bytes for name in cached)
        if need.bytes - caches > system.memories[memory].usable_bytes:
            raise too_large(graph, system, [gpu], need)
        room = sum(system.memories[node.name].usable_bytes for node in memories)
        if caches > room:
            raise InfeasibleError(
                f"{graph.name} does not fit: keys and values of {format_quantity(caches, 'size')} are more than the "
                f"{format_quantity(room, 'size')} of {len(memories)} PIM memories; fewer sequences or tokens"
            )
        return _Writer(graph, system, gpu, memories, chosen).plan(attends)


MAPPER: Final = PimAttention()


@dataclass
class _Writer:
    graph: Graph
    system: System
    gpu: Node
    memories: list[Node]
    options: LayoutSettings
    tasks: list[Task] = field(default_factory=list)
    homes: dict[str, tuple[Home, ...]] = field(default_factory=dict)
    divisions: dict[str, Division] = field(default_factory=dict)
    pieces: dict[str, Pieces] = field(default_factory=dict)
    appends: list[str] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def plan(self, attends: list[Operator]) -> Plan:
        """The whole plan, sub-batches' segments in turn."""
        at_gpu = self.gpu.memory or self.gpu.name
        caches = {name for op in attends for name in op.updates}
        for name in self.graph.tensors:
            if name not in self.graph.producer and name not in caches:
                self.homes[name] = (Home(at_gpu),)
        device = self.memories[0].device
        assert isinstance(device, Pim)
        host = host_of(self.system, self.memories[0])
        assert host is not None
        self.pricer = Pricer(device, honest=self.options.honest)
        self.bench = bench_of(self.pricer, self.memories[0], host)
        names = {op.name for op in attends}
        for op in _interleaved(self.graph, names):
            if op.name not in names:
                self._compute(op.name, self.gpu)
            elif attention_of(op).q_len != 1:
                self._prefill(op, at_gpu)
            else:
                self._attend(op, at_gpu)
        rows = self.pricer.lowering.geometry.rows
        for memory, used in self.rows.items():
            if used > rows:
                raise InfeasibleError(
                    f"{self.graph.name} does not fit: keys and values need {used} rows of every bank of "
                    f"{memory!r}, which has {rows}; fewer sequences or tokens, or more PIM memories"
                )
        notes = PimAttentionNotes(
            tuple(node.name for node in self.memories),
            dict(self.rows),
            {shape: {"seconds": c.seconds, "rows": c.rows, **c.kernel} for shape, c in self.choices.items()},
        )
        return Plan(
            self.graph.name, self.system.name, "pim-attention", tuple(self.tasks), self.homes, notes=notes,
            divisions=self.divisions, pieces=self.pieces, appends=tuple(self.appends), kernels=self.kernels,
        )  # fmt: skip

    def _cut(self, op: Operator, tensors: tuple[str, ...]) -> list[tuple[str | None, Node, int]]:
        """Cut an operator and tensors over the memories; returns piece, memory and its share of the axis."""
        batch, heads = attention_of(op).batch, attention_of(op).kv_heads
        axis, length = (0, batch) if batch >= len(self.memories) else (1, heads)
        count = min(length, len(self.memories))
        if count == 1:
            return [(None, self.memories[0], length)]
        counts = tuple(length // count + (index < length % count) for index in range(count))
        for tensor in dict.fromkeys(tensors):
            self.divisions[tensor] = Division(axis, counts, (True,) * count)
        self.pieces[op.name] = Pieces("batch" if axis == 0 else "head", counts)
        return [(str(index), self.memories[index], own) for index, own in enumerate(counts)]

    def _attend(self, op: Operator, at_gpu: str) -> None:
        """Queries and the new token's keys and values go to the memories, results come back."""
        made = tuple(name for name in op.inputs if name not in op.updates and name in self.graph.producer)
        parts = self._cut(op, (*op.updates, *made, *op.outputs))
        # Logits of sinks and the like stand beside every memory's softmax unit.
        for tensor in op.inputs:
            if tensor not in op.updates and tensor not in self.graph.producer:
                beside = (Home(node.name) for _, node, _ in parts)
                self.homes[tensor] = tuple(dict.fromkeys((*self.homes.get(tensor, ()), *beside)))
        batch, heads = attention_of(op).batch, attention_of(op).kv_heads
        queries = attention_of(op).heads // heads
        whole = batch if batch >= len(self.memories) else heads
        for piece, node, own in parts:
            for cache in op.updates:
                self.homes[_named(cache, piece)] = (Home(node.name),)
            for tensor in made:
                self._move("send", _named(tensor, piece), at_gpu, node.name)
            choice = self._choice(op, batch * heads * own // whole, queries)
            self.rows[node.name] = self.rows.get(node.name, 0) + choice.rows
            self.kernels[_named(op.name, piece)] = {**choice.kernel, **self.options.common()}
        for piece, node, _ in parts:
            self._compute(_named(op.name, piece), node)
        for piece, node, _ in parts:
            for tensor in op.outputs:
                self._move("fetch", _named(tensor, piece), node.name, at_gpu)

    def _prefill(self, op: Operator, at_gpu: str) -> None:
        """The GPU attends; what it adds to the cache leaves for its home."""
        self.appends.append(op.name)
        for piece, node, _ in self._cut(op, (*op.updates, *op.outputs)):
            self._compute(_named(op.name, piece), self.gpu)
            for cache in op.updates:
                part = _named(cache, piece)
                self.homes[part] = (Home(node.name),)
                self._move("store", append_name(part), at_gpu, node.name)

    def _choice(self, op: Operator, heads: int, queries: int) -> Choice:
        work = attention_of(op)
        slots = cache_slots(work, max(self.graph.tensors[name].shape[-2] for name in op.updates))
        sizes = (
            f"{work.head_dim}" if work.value_dim == work.head_dim else f"{work.head_dim} and {work.value_dim}"
        )
        shape = f"{heads} heads of {sizes}, {slots} tokens, {queries} queries each"
        if shape not in self.choices:
            found = cache_choices(
                heads, work.head_dim, work.value_dim, slots, queries, self.bench,
                self.options.objective, self.options.published,
            )  # fmt: skip
            self.choices[shape] = found[0]
        return self.choices[shape]

    def _compute(self, operator: str, node: Node) -> None:
        self.tasks.append(Compute(operator, f"{node.name}.compute", operator=operator, device=node.name))

    def _move(self, verb: str, tensor: str, source: str, target: str) -> None:
        there = target if verb != "fetch" else source
        name = f"{verb} {tensor} {'from' if verb == 'fetch' else 'to'} {there}"
        self.tasks.append(Transfer(name, f"{source}->{target}", tensor=tensor, source=source, target=target))


def _named(name: str, piece: str | None) -> str:
    return name if piece is None else part_name(name, int(piece))


def _interleaved(graph: Graph, attends: set[str]) -> Iterator[Operator]:
    """The operators, sub-batches in turn: each up to and with its next attention."""
    lanes: dict[object, list[list[Operator]]] = {}
    for op in graph.operators:
        segments = lanes.setdefault(op.place.microbatch, [[]])
        segments[-1].append(op)
        if op.name in attends:
            segments.append([])
    for place in range(max(len(segments) for segments in lanes.values())):
        for segments in lanes.values():
            if place < len(segments):
                yield from segments[place]
