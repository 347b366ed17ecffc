"""Recomputation written into a training graph: dropped activations are made again before their layer's backward.

A skeletal tensor of which a share of tokens is kept becomes two: the kept part bears its name, the rest
(``.dropped``) dies in the forward pass. Before the backward pass of its layer, copies of the forward operators
(of the pass ``recompute``) make the dropped part again (``.again``) from what is kept; a norm reads the sum
it left behind instead of the addends. Copies cost the dropped share of tokens. The result is an ordinary graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, prod

from simulator.rewrite.operands import in_proportion, itemised, reduced
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import Attention, Norm, Work

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
            if op.place.training_pass == "forward":
                self.by_place.setdefault(_place(op), []).append(op)
        self.tensors = dict(graph.tensors)
        self.again: dict[tuple[int, int], list[Operator]] = {}

    def _leaves(self, name: str) -> bool:
        """Whether another layer's backward pass reads a tensor, before its own layer can make it again."""
        graph = self.graph
        home = _place(graph.operator_by_name[graph.producer[name]])
        readers = (graph.operator_by_name[reader] for reader in graph.consumers[name])
        return any(op.place.training_pass == "backward" and _place(op) != home for op in readers)

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
            which, place = op.place.training_pass, _place(op)
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
        if self._reads_sum(op, need):
            weights = [name for name in op.inputs if self.graph.tensors[name].role is Role.WEIGHT]
            return (op.outputs[1], *weights)
        return op.inputs

    @staticmethod
    def _reads_sum(op: Operator, need: Mapping[str, float]) -> bool:
        """Whether a copy of a norm finds the sum that the norm left behind."""
        return isinstance(op.work, Norm) and len(op.outputs) > 1 and op.outputs[1] not in need

    def _is_whole(self, name: str) -> bool:
        """Whether a forward tensor is still there, whole, in the backward pass."""
        if name in self.share:
            return False
        maker = self.graph.producer.get(name)
        if maker is None:
            return True
        readers = self.graph.consumers[name]
        return any(self.graph.operator_by_name[r].place.training_pass == "backward" for r in readers)

    def _copies(self, place: tuple[int, int], need: Mapping[str, float]) -> list[Operator]:
        copies = []
        for op in self.by_place[place]:
            outputs = tuple(name for name in op.outputs if name in need)
            updates = tuple(name for name in op.updates if name in need)
            if not outputs and not updates:
                continue
            for name in outputs:
                self._declare(f"{name}.again", name, need[name])
            copies.append(self._copy(itemised(op, self.graph.tensors), need, outputs, updates))
        return copies

    def _copy(
        self, op: Operator, need: Mapping[str, float], outputs: tuple[str, ...], updates: tuple[str, ...]
    ) -> Operator:
        """An operator again, for the share of tokens that is needed of what it makes."""
        sizes = self.graph.tensors
        share = max(need[name] for name in (*outputs, *updates))
        once = dict(zip(op.inputs, op.reads, strict=False))
        again_read = dict(zip(op.updates, op.reads[len(op.inputs) :], strict=True))
        made = dict(zip((*op.outputs, *op.updates), op.writes, strict=True))
        attends = isinstance(op.work, Attention)
        reads: dict[str, int] = {}
        for name in self._sources(op, need):
            # The sum that a norm left behind is read in place of its addends.
            count = once.get(name, sizes[name].size_bytes)
            if name in need:
                again = f"{name}.again"
                reads[again] = in_proportion(count, self.tensors[again].size_bytes, sizes[name].size_bytes)
            else:
                whole = attends or sizes[name].role in _STORED
                reads[name] = count if whole else round(count * share)
            # Attention needs the keys and values of all tokens, so the kept part as well.
            if name in need and attends and self.share.get(name, 0.0) > 0:
                reads[name] = round(count * self.share[name])
        work = _share_of(op.work, share)
        if isinstance(work, Norm) and self._reads_sum(op, need):
            work = replace(work, adds=0)
        return replace(
            op,
            name=f"{op.name}.again",
            work=work,
            inputs=tuple(reads),
            outputs=tuple(f"{name}.again" for name in outputs),
            updates=tuple(f"{name}.again" for name in updates),
            reads=(*reads.values(), *(round(again_read[name] * share) for name in updates)),
            writes=tuple(
                in_proportion(made[name], self.tensors[f"{name}.again"].size_bytes, sizes[name].size_bytes)
                for name in outputs
            )
            + tuple(round(made[name] * share) for name in updates),
            beside_read=round(op.beside_read * share),
            beside_written=round(op.beside_written * share),
            place=replace(op.place, training_pass="recompute"),
        )

    def _divide(self, name: str, share: float) -> None:
        if share > 0.0:
            self._declare(f"{name}.dropped", name, 1.0 - share)
            self._declare(name, name, share)

    def _declare(self, name: str, original: str, share: float) -> None:
        """A part of a tensor: whole elements, so that the kept ones and the others are all of it."""
        tensor = self.graph.tensors[original]
        if share == 1.0:
            self.tensors[name] = replace(tensor, name=name)
            return
        elements = max(prod(tensor.shape), 1)
        part = ceil(elements * share)
        if name != original and share == 1.0 - self.share.get(original, 0.0):
            part = elements - ceil(elements * self.share[original])
        # Whole elements have whole bytes, or the parts of packed ones add up to a byte more.
        size = ceil(tensor.size_bytes * part / elements)
        self.tensors[name] = Tensor(name, (part,), tensor.dtype, tensor.role, size)

    def _rewired(self, op: Operator, which: str) -> Operator:
        names = (*op.inputs, *op.outputs, *op.updates)
        if not any(name in self.share for name in names):
            return op
        backward = which == "backward"
        op = itemised(op, self.graph.tensors)
        reads, writes = len(op.inputs), len(op.outputs)
        inputs = self._parts(op.inputs, op.reads[:reads], backward)
        outputs = self._parts(op.outputs, op.writes[:writes], False)
        updates = self._parts(op.updates, op.reads[reads:], backward)
        written = self._parts(op.updates, op.writes[writes:], backward)
        return replace(
            op,
            inputs=tuple(name for name, _ in inputs),
            outputs=tuple(name for name, _ in outputs),
            updates=tuple(name for name, _ in updates),
            reads=tuple(count for _, count in (*inputs, *updates)),
            writes=tuple(count for _, count in (*outputs, *written)),
        )

    def _parts(
        self, names: tuple[str, ...], counts: tuple[int, ...], backward: bool
    ) -> list[tuple[str, int]]:
        """The parts that a pass sees, with their bytes of a whole tensor's.

        Kept and dropped in the forward, kept and made again in the backward pass.
        """
        found: list[tuple[str, int]] = []
        for name, count in zip(names, counts, strict=True):
            share = self.share.get(name)
            if share is None:
                found.append((name, count))
                continue
            other = f"{name}.again" if backward else f"{name}.dropped"
            if share > 0.0:
                whole, part = self.graph.tensors[name].size_bytes, self.tensors[name].size_bytes
                kept = in_proportion(count, part, whole)
                found += [(name, kept), (other, count - kept)]
            else:
                found.append((other if backward else name, count))
        return found


def _share_of(work: Work, share: float) -> Work:
    """The work for a share of the tokens: fewer rows or bytes where a field counts them."""
    return work if share == 1.0 else reduced(work, share, ("m", "bytes"))


def _place(op: Operator) -> tuple[int, int]:
    layer, microbatch = op.place.layer, op.place.microbatch
    return -1 if layer is None else layer, microbatch or 0
