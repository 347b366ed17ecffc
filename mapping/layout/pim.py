"""A whole model on a PIM memory and its host chip: matrices in the banks, everything else on the host.

Products with weights and the two products of attention go to the memory, in layouts that
:mod:`mapping.layout.choose` picks for the least time or energy; norms, softmax, activations and sums go to the
accelerator that works in the memory. The host reads the small parameters of a layer (gains and biases) in one go
before the layer begins. ``overlap`` lets memory and host work at the same time; without it they take turns, as in
the published simulator of PIM-GPT (arXiv:2310.09385).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from hw_configs.device import Accelerator, Pim
from hw_configs.problems import InfeasibleError, InputError, Problem, bad_input
from hw_configs.settings import Settings, flag, word
from hw_configs.system import Node, System
from hw_configs.units import format_quantity
from mapping.layout.choose import Bench, Choice, Objective, cache_choices, fit_rows, weight_choices
from mapping.mapper import MapperOptions
from mapping.placement.single_device import refuse_communication
from simulator.pim.asic import operator_stages
from simulator.pim.operators import host_of
from simulator.pim.pricing import Pricer
from simulator.pim.product_counts import ProductCounts
from simulator.pim.recipes import Kernel, attention_heads, cache_slots, refused_attention, stored_otherwise
from simulator.plan import Compute, Home, Plan, PlanNotes
from workloads.graph import Graph, Operator, Role
from workloads.operators import Attention, GroupedProduct, Product

__all__ = ["MAPPER", "LayoutSettings", "PimMapper", "bench_of", "pim_with_host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSettings(Settings):
    """Settings of mappers that lay matrices out."""

    layout: Literal["best", "published"] = word(
        "best", "best of all candidates, or the published recipe (PIM-GPT)", ("best", "published")
    )
    objective: Objective = word("time", "what best means", ("time", "energy"))
    overlap: bool = flag(False, "memory and host work at once; otherwise they take turns, as published")
    rules: Literal["published", "honest"] = word(
        "published",
        "rules of the PIM memory; honest: activation power and pin timings too",
        ("published", "honest"),
    )

    @property
    def published(self) -> bool:
        """Whether the published recipe is asked for."""
        return self.layout == "published"

    @property
    def honest(self) -> bool:
        """Whether the memory's own rules hold, with activation power and pin timings."""
        return self.rules == "honest"

    def common(self) -> dict[str, int | str | bool]:
        """Keys that every kernel takes from the settings; defaults left out."""
        keys: dict[str, int | str | bool] = {}
        if self.overlap:
            keys["overlap"] = True
        if self.honest:
            keys["rules"] = "honest"
        return keys


@dataclass(frozen=True)
class PimNotes(PlanNotes):
    """What was chosen for each matrix, the rows it takes, and the row hits expected of one token's products."""

    objective: str
    layout: str
    expected_row_hit_rate: float
    rows_used: int
    rows: int
    matrices: Mapping[str, Mapping[str, Any]]
    """By matrix: how many there are, rows, seconds, row hit rate, and the keys of its kernel."""


def pim_with_host(system: System) -> tuple[Node, Node] | None:
    """The first PIM memory in which an accelerator with a vector unit works, and that accelerator."""
    for node in system.of_kind("pim"):
        host = host_of(system, node)
        if host is not None:
            return node, host
    return None


def bench_of(pricer: Pricer, memory: Node, host: Node) -> Bench:
    """What layouts on a memory with its host are tried on."""
    assert isinstance(host.device, Accelerator)
    unit = host.device.vector_unit
    assert unit is not None
    envelopes = [getattr(node.device, "power", None) for node in (memory, host)]
    idle = sum(envelope.idle for envelope in envelopes if envelope is not None)
    return Bench(pricer, unit, host.device.clock, host.device.compute.arithmetic_power or 0.0, idle)


class PimMapper:
    """The mapper ``pim``; see the module's first lines."""

    DESCRIPTION = "matrices in the banks of a PIM memory by an optimised layout, the rest on its host chip"
    SETTINGS = LayoutSettings

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """A plan of one stream (or one for each, with overlap); ``InfeasibleError`` when it does not fit."""
        refuse_communication(graph)
        chosen = options.of(LayoutSettings)
        found = pim_with_host(system)
        if found is None:
            raise bad_input(
                f"system {system.name!r} has no PIM memory in which an accelerator with a vector unit works "
                "(see 'offchip hw show pim-gpt')",
                path="--mapper pim",
            )
        memory, host = found
        layouts = _Layouts(graph, memory, host, chosen)
        homes = {name: (Home(memory.name),) for name in graph.tensors if name not in graph.producer}
        streams = {node.name: node.name if chosen.overlap else memory.name for node in (memory, host)}
        tasks = []
        for op in graph.operators:
            node = host if layouts.kernels.get(op.name, {}).get("kind") in ("vector", None) else memory
            tasks.append(
                Compute(op.name, f"{streams[node.name]}.compute", operator=op.name, device=node.name)
            )
        return Plan(
            graph.name,
            system.name,
            "pim",
            tuple(tasks),
            homes,
            notes=layouts.notes(),
            kernels=layouts.kernels,
        )


MAPPER: Final = PimMapper()


class _Layouts:
    """Kernels for the operators of one graph, and what is expected of them."""

    def __init__(self, graph: Graph, memory: Node, host: Node, options: LayoutSettings) -> None:
        assert isinstance(memory.device, Pim)
        self.graph, self.memory, self.host, self.options = graph, memory, host, options
        self.pricer = Pricer(memory.device, honest=options.rules == "honest")
        self.bench = bench_of(self.pricer, memory, host)
        self.kernels: dict[str, Kernel] = {}
        self.products: dict[str, tuple[str, int]] = {}
        """Operator to what it multiplies, and how many products of one vector it is."""
        self._refuse_unknown()
        self.wanted = self._wanted()
        plain = self._plain_rows()
        rows = self.pricer.lowering.geometry.rows - plain
        try:
            self.chosen = fit_rows(self.wanted, rows, options.objective)
        except InfeasibleError as error:
            kept = [t for t in graph.tensors.values() if t.role in (Role.WEIGHT, Role.KV_CACHE)]
            held = format_quantity(sum(t.size_bytes for t in kept), "size")
            raise InfeasibleError(
                f"{graph.name} does not fit {memory.name!r}: weights and caches of {held}; {error}"
            ) from None
        self._write_kernels()

    def _refuse_unknown(self) -> None:
        assert isinstance(self.host.device, Accelerator)
        unit = self.host.device.vector_unit
        assert unit is not None
        multiplied = [op for op in self.graph.operators if _product_of(op) is not None]
        if others := list(stored_otherwise(self.graph, multiplied, self.pricer.device)):
            raise InputError(others[:1])
        problems = [
            Problem(f"{op.kind} runs neither in {self.memory.name!r} nor on the vector unit of {self.host.name!r}",
                    path=f"operator {op.name}")
            for op in self.graph.operators
            if op.kind != "view" and _product_of(op) is None and operator_stages(op, unit) is None
        ]  # fmt: skip
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InfeasibleError(
                f"{self.graph.name} cannot run on a PIM memory: {problems[0]}{more}; "
                "--mapper single-device prices any model by a roofline over the memory's pins"
            )

    def _wanted(self) -> dict[str, tuple[int, Sequence[Choice]]]:
        """Every distinct matrix: how many there are of it, and its choices."""
        counts: dict[str, int] = {}
        example: dict[str, Operator] = {}
        tables: dict[str, str] = {}
        for op in self.graph.operators:
            kind = _product_of(op)
            if kind is None:
                continue
            name = self._matrix(op, kind)
            self.products[op.name] = (name, 1)
            weight = next((t for t in op.inputs if self.graph.tensors[t].role is Role.WEIGHT), op.name)
            if kind == "weights" and tables.setdefault(weight, name) == name and weight in example:
                continue
            if kind == "weights":
                example[weight] = op
            counts[name] = counts.get(name, 0) + (1 if kind != "values" else 0)
            example.setdefault(name, op)
        found: dict[str, tuple[int, Sequence[Choice]]] = {}
        for name, count in counts.items():
            found[name] = (max(count, 1), self._choices(example[name], str(_product_of(example[name]))))
        return found

    def _matrix(self, op: Operator, kind: str) -> str:
        """A name for all matrices of equal shape."""
        work = op.work
        if isinstance(work, Product | GroupedProduct) and kind == "weights":
            copies = self._copies(op)
            each = "experts" if isinstance(work, GroupedProduct) else "heads"
            return f"weights {work.n} x {work.k}{f' x {copies} {each}' if copies > 1 else ''}"
        heads, queries, width = attention_heads(op, kind)
        return f"keys and values of {heads} heads of {width}, {self._capacity(op)} tokens, {queries} queries each"

    def _copies(self, op: Operator) -> int:
        """Matrices of this size in a weight: one per expert, or per head where each has its own."""
        assert isinstance(op.work, Product | GroupedProduct)
        if isinstance(op.work, GroupedProduct):
            return op.work.groups
        weights = (self.graph.tensors[t] for t in op.inputs if self.graph.tensors[t].role is Role.WEIGHT)
        held = max((math.prod(t.shape) for t in weights), default=0)
        return max(1, min(op.work.batch, held // (op.work.n * op.work.k)))

    def _capacity(self, op: Operator) -> int:
        caches = [self.graph.tensors[t] for t in op.updates if self.graph.tensors[t].role is Role.KV_CACHE]
        if not caches:
            raise InfeasibleError(
                f"operator {op.name!r} keeps no cache, which attention in a PIM memory needs"
            )
        if not isinstance(op.work, Attention):
            return max(t.shape[-2] if len(t.shape) > 2 else 1 for t in caches)
        if reason := refused_attention(op.work):
            raise InfeasibleError(f"operator {op.name!r} cannot run in a PIM memory: {reason}")
        room = max(t.shape[-2] if len(t.shape) > 2 else op.work.kv_len for t in caches)
        return cache_slots(op.work, room)

    def _choices(self, op: Operator, kind: str) -> Sequence[Choice]:
        o, work = self.options, op.work
        if isinstance(work, Product | GroupedProduct) and kind == "weights":
            choices = weight_choices(work.n, work.k, self.bench, o.objective, o.published)
            return [replace(c, rows=c.rows * self._copies(op)) for c in choices]
        heads, queries, width = attention_heads(op, kind)
        value_width = work.value_dim if isinstance(work, Attention) else width
        return cache_choices(
            heads, width, value_width, self._capacity(op), queries, self.bench, o.objective, o.published
        )

    def _plain_rows(self) -> int:
        """Rows of every bank for tensors that no product reads: gains, biases, position tables."""
        laid_out = {
            t for op in self.graph.operators if op.name in self.products for t in (*op.inputs, *op.updates)
            if self.graph.tensors[t].role is Role.KV_CACHE or len(self.graph.tensors[t].shape) > 1
        }  # fmt: skip
        kept = (Role.WEIGHT, Role.KV_CACHE)
        rest = sum(
            t.size_bytes for t in self.graph.tensors.values() if t.role in kept and t.name not in laid_out
        )
        device = self.pricer.device
        return -(-rest // (device.row_bytes * device.channels * device.banks))

    def _write_kernels(self) -> None:
        common = self.options.common()
        fetched: set[object] = set()
        parameters = self._parameters()
        for op in self.graph.operators:
            if op.name in self.products:
                choice = self.chosen[self.products[op.name][0]]
                kernel: dict[str, int | str | bool] = {**choice.kernel, **common}
                if op.kind == "matmul" and kernel["kind"] == "attention":
                    kernel = _half(kernel, str(_product_of(op)))
                self.kernels[op.name] = kernel
            elif op.kind != "view":
                kernel = {"kind": "vector", **common}
                layer = op.place.layer
                if layer not in fetched:
                    fetched.add(layer)
                    if parameters.get(layer):
                        kernel["fetch_bytes"] = parameters[layer]
                self.kernels[op.name] = kernel

    def _parameters(self) -> dict[object, int]:
        """Bytes of gains and biases by layer."""
        found: dict[object, int] = {}
        for op in self.graph.operators:
            inputs = [self.graph.tensors[name] for name in dict.fromkeys(op.inputs)]
            small = sum(t.size_bytes for t in inputs if t.role is Role.WEIGHT and len(t.shape) == 1)
            layer = op.place.layer
            found[layer] = found.get(layer, 0) + small
        return found

    def notes(self) -> PimNotes:
        """See :class:`PimNotes`."""
        total = ProductCounts()
        for name, _ in self.products.values():
            total = total.plus(self.chosen[name].counts)
        used = (
            sum(count * self.chosen[name].rows for name, (count, _) in self.wanted.items())
            + self._plain_rows()
        )
        matrices = {
            name: {
                "count": count,
                "rows": self.chosen[name].rows,
                "seconds": self.chosen[name].seconds,
                "row_hit_rate": round(self.chosen[name].counts.row_hit_rate, 6),
                **self.chosen[name].kernel,
            }
            for name, (count, _) in self.wanted.items()
        }
        rows = self.pricer.lowering.geometry.rows
        rate = round(total.row_hit_rate, 6)
        return PimNotes(self.options.objective, self.options.layout, rate, used, rows, matrices)


def _half(kernel: Mapping[str, int | str | bool], kind: str) -> dict[str, int | str | bool]:
    """The part of an attention kernel that one of its two products needs."""
    other = (
        ("output_parts", "value_parts", "value_tile")
        if kind == "keys"
        else ("token_parts", "head_parts", "heads_per_row")
    )
    return {**{key: value for key, value in kernel.items() if key not in other}, "kind": kind}


def _product_of(op: Operator) -> str | None:
    """The kind of kernel that multiplies an operator's matrix; None for what the host does."""
    if isinstance(op.work, Attention):
        return "attention"
    if isinstance(op.work, GroupedProduct):
        return "weights"
    if not isinstance(op.work, Product):
        return None
    if op.work.kv_heads and op.updates:
        return "keys" if "qk" in op.name else "values"
    return "weights"
