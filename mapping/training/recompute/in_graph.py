"""Recomputation written into a training graph: dropped activations are made again before their layer's backward.

A skeletal tensor of which a share of tokens is kept becomes two: the kept part bears its name, the rest
(``.dropped``) dies in the forward pass. Before the backward pass of its layer, copies of the forward operators
(attribute ``pass``: recompute) make the dropped part again (``.again``) from what is kept; a norm reads the sum
it left behind instead of the addends. Copies cost the dropped share of tokens. The result is an ordinary graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

from workloads.graph import Graph, Operator, Role, Tensor, legacy_replace

__all__ = ["drop_and_recompute"]

_STORED = frozenset({Role.WEIGHT, Role.OPTIMIZER_STATE, Role.KV_CACHE})


def drop_and_recompute(graph: Graph, kept: Mapping[str, float]) -> Graph:
    """The graph in which of each tensor in ``kept`` only that share of tokens outlives the forward pass.

    Tensors not named are kept whole. What a layer needs of another layer is kept whole too.
    """
    writer = _Writer(graph, {name: share for name, share in kept.items() if share < 1.0})
    return writer.run()


class _Writer:
    def __init__(self, graph: Graph, share: dict[str, float]) -> None:
        self.graph = graph
        self.share = {name: part for name, part in share.items() if not self._leaves(name)}
        self.by_place: dict[tuple[int, int], list[Operator]] = {}
        for op in graph.operators:
            if op.attributes.get("pass") == "forward":
                self.by_place.setdefault(_place(op), []).append(op)
        self.tensors = dict(graph.tensors)
        self.again: dict[tuple[int, int], list[Operator]] = {}

    def _leaves(self, name: str) -> bool:
        """Whether another layer's backward pass reads a tensor, before its own layer can make it again."""
        graph = self.graph
        home = _place(graph.operator_by_name[graph.producer[name]])
        readers = (graph.operator_by_name[reader] for reader in graph.consumers[name])
        return any(op.attributes.get("pass") == "backward" and _place(op) != home for op in readers)

    def run(self) -> Graph:
        while True:
            needs = {place: self._needs(place) for place in self.by_place}
            foreign = {name for need in needs.values() for name in need[1] if name in self.share}
            if not foreign:
                break
            for name in foreign:
                del self.share[name]
        for place, (need, _) in needs.items():
            self.again[place] = self._copies(place, need)
        for name, share in self.share.items():
            self._divide(name, share)
        operators: list[Operator] = []
        for op in self.graph.operators:
            which, place = op.attributes.get("pass"), _place(op)
            if which == "backward":
                operators += self.again.pop(place, [])
            operators.append(self._rewired(op, which))
        return replace(self.graph, tensors=self.tensors, operators=tuple(operators))

    def _needs(self, place: tuple[int, int]) -> tuple[dict[str, float], set[str]]:
        """Tensor -> share of tokens to make again in a layer, and tensors wanted from other layers."""
        made = {name for op in self.by_place[place] for name in op.outputs}
        need = {name: 1.0 - self.share[name] for name in made if name in self.share}
        foreign: set[str] = set()
        for op in reversed(self.by_place[place]):
            wanted = [need[name] for name in (*op.outputs, *op.updates) if name in need]
            if not wanted:
                continue
            for name in self._sources(op, need):
                if self.graph.tensors[name].role in _STORED or self._is_whole(name):
                    continue
                if name in made:
                    need[name] = max(need.get(name, 0.0), *wanted)
                else:
                    foreign.add(name)
        return need, foreign

    def _sources(self, op: Operator, need: Mapping[str, float]) -> tuple[str, ...]:
        """What a copy of an operator reads: for a norm whose sum is there, the sum."""
        if op.kind == "norm" and len(op.outputs) > 1 and op.outputs[1] not in need:
            weights = [name for name in op.inputs if self.graph.tensors[name].role is Role.WEIGHT]
            return (op.outputs[1], *weights)
        return op.inputs

    def _is_whole(self, name: str) -> bool:
        """Whether a forward tensor is still there, whole, in the backward pass."""
        if name in self.share:
            return False
        maker = self.graph.producer.get(name)
        if maker is None:
            return True
        readers = self.graph.consumers[name]
        return any(self.graph.operator_by_name[r].attributes.get("pass") == "backward" for r in readers)

    def _copies(self, place: tuple[int, int], need: Mapping[str, float]) -> list[Operator]:
        copies = []
        for op in self.by_place[place]:
            outputs = tuple(name for name in op.outputs if name in need)
            updates = tuple(name for name in op.updates if name in need)
            if not outputs and not updates:
                continue
            share = max(need[name] for name in (*outputs, *updates))
            for name in outputs:
                self._declare(f"{name}.again", name, need[name])
            inputs: dict[str, None] = {}
            for name in self._sources(op, need):
                if name in need:
                    inputs[f"{name}.again"] = None
                # Attention needs the keys and values of all tokens, so the kept part as well.
                if name not in need or (op.kind == "attention" and self.share.get(name, 0.0) > 0):
                    inputs[name] = None
            attributes = {**op.attributes, "pass": "recompute"}
            rows = attributes.get("m")
            if isinstance(rows, int) and share < 1.0:
                attributes["m"] = max(1, ceil(rows * share))
            size = attributes.get("bytes")
            if isinstance(size, int) and share < 1.0:
                attributes["bytes"] = ceil(size * share)
            copies.append(
                legacy_replace(
                    op, name=f"{op.name}.again", inputs=tuple(inputs),
                    outputs=tuple(f"{name}.again" for name in outputs),
                    updates=tuple(f"{name}.again" for name in updates),
                    flops=op.flops * share, read_bytes=round(op.read_bytes * share),
                    write_bytes=round(op.write_bytes * share), attributes=attributes,
                )
            )  # fmt: skip
        return copies

    def _divide(self, name: str, share: float) -> None:
        if share > 0.0:
            self._declare(f"{name}.dropped", name, 1.0 - share)
            self._declare(name, name, share)

    def _declare(self, name: str, original: str, share: float) -> None:
        tensor = self.graph.tensors[original]
        size = ceil(tensor.size_bytes * share)
        shape = tensor.shape if share == 1.0 else (size,)
        dtype = tensor.dtype if share == 1.0 else "uint8"
        self.tensors[name] = Tensor(name, shape, dtype, tensor.role, size)

    def _rewired(self, op: Operator, which: object) -> Operator:
        names = (*op.inputs, *op.outputs, *op.updates)
        if not any(name in self.share for name in names):
            return op
        backward = which == "backward"
        return replace(
            op,
            inputs=self._parts(op.inputs, backward),
            outputs=self._parts(op.outputs, False),
            updates=self._parts(op.updates, backward),
        )

    def _parts(self, names: tuple[str, ...], backward: bool) -> tuple[str, ...]:
        """The parts that a pass sees: kept and dropped in the forward, kept and made again in the backward."""
        found: list[str] = []
        for name in names:
            share = self.share.get(name)
            if share is None:
                found.append(name)
            elif backward:
                found += [f"{name}.again"] if share == 0.0 else [name, f"{name}.again"]
            else:
                found += [name] if share == 0.0 else [name, f"{name}.dropped"]
        return tuple(found)


def _place(op: Operator) -> tuple[int, int]:
    return int(op.attributes.get("layer", -1)), int(op.attributes.get("microbatch", 0))
