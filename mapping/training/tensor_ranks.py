"""Tensor parallelism: one rank's part of a training graph, with the collectives it takes part in.

Layouts follow the axis of each operator's place through the graph (Megatron-LM, arXiv:1909.08053): a tensor is whole,
divided over the hidden dimension or, between the products under sequence parallelism, divided over tokens. An
operator that needs another layout gets an all-gather before it; a partial sum is completed by an all-reduce, or by
a reduce-scatter under sequence parallelism (Korthikanti et al., arXiv:2205.05198, section 4.2.2). Gathered copies
are not kept for the backward pass but gathered again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import Final

from hw_configs.problems import bad_input
from simulator.rewrite.operands import divided_fields, heads_of, in_proportion, itemised, reduced
from workloads.graph import Graph, Operator, Place, Role, Tensor
from workloads.operators import (
    AllGather,
    AllReduce,
    AllToAll,
    Attention,
    CollectiveWork,
    Elementwise,
    Embedding,
    Optimizer,
    ReduceScatter,
)

__all__ = ["beside", "shard"]

_MODEL_ROLES: Final = frozenset({Role.WEIGHT, Role.OPTIMIZER_STATE})


def shard(graph: Graph, ranks: int, sequence_parallel: bool = True) -> Graph:
    """One rank's part of a training graph under tensor parallelism, collectives included."""
    sharder = _Sharder(graph, ranks, sequence_parallel)
    for op in graph.operators:
        sharder.add(op)
    return replace(
        graph, tensors=sharder.tensors, operators=tuple(sharder.operators), outputs=tuple(graph.outputs)
    )


@dataclass
class _Sharder:
    graph: Graph
    ranks: int
    sequence: bool
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    layout: dict[str, str] = field(default_factory=dict)
    """``whole``, ``divided`` over the hidden dimension or heads, or ``tokens``."""
    gathered: dict[tuple[str, Place], str] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    """Tensors of which the rank holds a partial sum that nobody needs complete."""

    def add(self, op: Operator) -> None:
        """One operator's part, with the collectives around it."""
        axis = op.place.axis or "replicated"
        work = op.work
        if isinstance(work, AllGather | AllToAll) and work.parallel:
            self._exchange(op, work)
        elif axis == "sum":
            self._sum(op)
        elif isinstance(work, Elementwise) and axis != "replicated":
            self._follow(op)
        elif axis == "replicated":
            self._replicated(op)
        else:
            self._divided(op, axis)

    def _exchange(self, op: Operator, work: CollectiveWork) -> None:
        """An exchange among context or Ulysses ranks moves this rank's part."""
        lead = self.layout.get(op.inputs[0], "whole") if op.inputs else "divided"
        share = 1 / self.ranks if lead != "whole" else 1.0
        for name in op.outputs:
            self._declare(name, lead, share)
        self.operators.append(replace(op, work=replace(work, bytes=ceil(work.bytes * share))))

    def _follow(self, op: Operator) -> None:
        """Additions work on whatever layout their operands have."""
        for name in op.inputs:
            self._settle(name, "divided")
        layouts = {self.layout[name] for name in op.inputs}
        target = "tokens" if "tokens" in layouts else "divided" if "divided" in layouts else "whole"
        share = 1.0 if target == "whole" else 1 / self.ranks
        for name in op.outputs:
            self._declare(name, target, share)
        self._emit(op, op.inputs, op.outputs, share, ("n",) if target == "divided" else ("m",))

    def _sum(self, op: Operator) -> None:
        """A weighted sum of partial sums is one itself; of whole operands it is like any other operator."""
        if not any(name in self.partial for name in op.inputs):
            self._replicated(op)
            return
        inputs = []
        for name in op.inputs:
            if name in self.partial:
                inputs.append(f"{name}.partial")
                continue
            self._settle(name, "replicated")
            inputs.append(name if self.layout[name] == "whole" else self._whole(name, op))
        outputs = [f"{name}.partial" for name in op.outputs]
        for name, part in zip(op.outputs, outputs, strict=True):
            self._declare(part, "whole", 1.0, name)
        self._emit(op, tuple(inputs), tuple(outputs), 1.0, ())
        self._finish(op, outputs)

    def _finish(self, op: Operator, parts: list[str]) -> None:
        """Complete partial sums, but those that only sums read."""
        for name, part in zip(op.outputs, parts, strict=True):
            readers = self.graph.consumers[name]
            if readers and all(self.graph.operator_by_name[reader].place.axis == "sum" for reader in readers):
                self.partial.add(name)
            else:
                self._complete(name, part, op)

    def _replicated(self, op: Operator) -> None:
        """Whole on every rank, or on its share of tokens under sequence parallelism."""
        inputs = []
        for name in op.inputs:
            self._settle(name, "replicated")
            inputs.append(self._whole(name, op) if self.layout[name] == "divided" else name)
        for name in op.updates:
            self._settle(name, "replicated")
        by_tokens = self.sequence and any(self.layout.get(name) == "tokens" for name in inputs)
        target, share = ("tokens", 1 / self.ranks) if by_tokens else ("whole", 1.0)
        for name in op.outputs:
            # Gradients of weights keep their size: each rank has a part of the sum.
            own = self._is_weight_gradient(name)
            self._declare(name, "whole" if own else target, 1.0 if own else share)
        self._emit(op, tuple(inputs), op.outputs, share, ("m", "parameters"))

    def _divided(self, op: Operator, axis: str) -> None:
        """One rank's part of a divided operator."""
        self._check_heads(op)
        partial = axis == "row" or (axis == "vocab" and isinstance(op.work, Embedding))
        inputs = []
        for name in op.inputs:
            self._settle(name, axis)
            inputs.append(self._whole(name, op) if self.layout[name] == "tokens" else name)
        for name in op.updates:
            self._settle(name, axis)
        outputs = [f"{name}.partial" if partial else name for name in op.outputs]
        share = 1 / self.ranks
        for name, part in zip(op.outputs, outputs, strict=True):
            scalar = self.graph.tensors[name].size_bytes < self.ranks * 8
            whole = partial or scalar
            self._declare(part, "whole" if whole else "divided", 1.0 if whole else share, name)
        self._emit(op, tuple(inputs), tuple(outputs), share, divided_fields(op.work, axis))
        if partial:
            self._finish(op, outputs)

    def _emit(
        self,
        op: Operator,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        share: float,
        divided: tuple[str, ...],
    ) -> None:
        """The operator's part: the fields named ``divided`` by share, bytes as its tensors' parts have them."""
        op = itemised(op, self.graph.tensors)
        read = zip((*op.inputs, *op.updates), (*inputs, *op.updates), op.reads, strict=True)
        written = zip((*op.outputs, *op.updates), (*outputs, *op.updates), op.writes, strict=True)
        self.operators.append(
            replace(
                op,
                work=reduced(op.work, share, divided),
                inputs=inputs,
                outputs=outputs,
                reads=tuple(self._part(*operand) for operand in read),
                writes=tuple(self._part(*operand) for operand in written),
                beside_read=round(op.beside_read * share),
                beside_written=round(op.beside_written * share),
            )
        )

    def _part(self, whole: str, part: str, count: int) -> int:
        return in_proportion(count, self.tensors[part].size_bytes, self.graph.tensors[whole].size_bytes)

    def _check_heads(self, op: Operator) -> None:
        if not isinstance(op.work, Attention):
            return
        for label, count in zip(("heads", "kv heads"), heads_of(op.work), strict=True):
            if count % self.ranks:
                raise bad_input(f"{count} {label} cannot be divided over {self.ranks} ranks", path="tensor")

    def _settle(self, name: str, axis: str) -> None:
        """Lay out a tensor that no operator has made: weights and their state, inputs of the graph."""
        if name in self.layout:
            return
        model = self.graph.tensors[name].role in _MODEL_ROLES
        divided = model and axis != "replicated"
        self._declare(name, "divided" if divided else "whole", 1 / self.ranks if divided else 1.0)

    def _declare(self, name: str, layout: str, share: float, original: str | None = None) -> None:
        tensor = self.graph.tensors[original or name]
        size = ceil(tensor.size_bytes * share)
        shape = tensor.shape if share == 1.0 else (ceil(prod(tensor.shape) * share),)
        self.tensors[name] = Tensor(name, shape, tensor.dtype, tensor.role, size)
        self.layout[name] = layout

    def _whole(self, name: str, op: Operator) -> str:
        """The gathered copy of a tensor, made once per layer and pass."""
        key = (name, beside(op))
        if key not in self.gathered:
            again = sum(1 for known, _ in self.gathered if known == name)
            target = f"{name}.whole" + (f".{again}" if again else "")
            tensor = self.graph.tensors[name]
            self.tensors[target] = replace(tensor, name=target, role=tensor.role)
            self.layout[target] = "whole"
            self._collective(AllGather, name, target, tensor.size_bytes, op)
            self.gathered[key] = target
        return self.gathered[key]

    def _complete(self, name: str, part: str, op: Operator) -> None:
        size = self.graph.tensors[name].size_bytes
        if self.sequence:
            self._declare(name, "tokens", 1 / self.ranks)
            self._collective(ReduceScatter, part, name, size, op)
        else:
            self._declare(name, "whole", 1.0)
            self._collective(AllReduce, part, name, size, op)

    def _collective(
        self, kind: type[CollectiveWork], source: str, target: str, size: int, op: Operator
    ) -> None:
        self.operators.append(
            Operator(
                f"{target}.{kind.kind}",
                kind(bytes=size, group=self.ranks, parallel="tensor"),
                (source,),
                (target,),
                dtype=self.tensors[target].dtype,
                place=beside(op),
            )
        )

    def _is_weight_gradient(self, name: str) -> bool:
        return self.graph.tensors[name].role is Role.GRADIENT and any(
            isinstance(self.graph.operator_by_name[reader].work, Optimizer)
            for reader in self.graph.consumers[name]
        )


def beside(op: Operator) -> Place:
    """The place of what is added beside an operator: its layer, pass and micro-batch; no axis divides it."""
    return replace(op.place, axis="")
