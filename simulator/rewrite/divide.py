"""Tensors cut into parts and operators into pieces, so that a plan can place and move less than a whole tensor.

A division cuts a tensor along one of its axes: part ``i`` of ``t`` is the tensor ``t/i``. Whoever read ``t``
reads its parts, except those marked unread: rows of a sparse layer's weight that this step does not touch.
An operator in pieces runs once per share of its sequences or heads: piece ``i`` of ``o`` is the operator
``o/i``, and takes part ``i`` of every tensor that is cut into as many parts. An operator that appends leaves
what a cache held before as it is and makes the tokens it adds as a tensor of their own, ``t/new`` (or
``t/i/new``), so that a write-back moves the new tokens and not the cache; room for later tokens is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from simulator.plan import Division, Pieces, Plan, Sparsity
from workloads.graph import Attribute, Graph, Operator, Role, Tensor, legacy_replace

__all__ = ["append_name", "divide_graph", "part_name", "sparse_operator"]

_COUNTED: Final = {"batch": ("batch", "m"), "head": ("heads", "kv_heads")}
"""Attributes of an operator that count what an axis of pieces divides."""


def part_name(name: str, index: int) -> str:
    """The name of a part of a tensor or of a piece of an operator."""
    return f"{name}/{index}"


def append_name(tensor: str) -> str:
    """The name of what an appending operator adds to a cache."""
    return f"{tensor}/new"


def divide_graph(graph: Graph, plan: Plan) -> Graph:
    """The graph with a plan's divisions, pieces and appends applied; ``InputError`` where they do not fit it."""
    _refuse_unknown(graph, plan)
    return _Divider(graph, plan).run()


def _refuse_unknown(graph: Graph, plan: Plan) -> None:
    problems = []
    for key, names, known in (
        ("divisions", plan.divisions, graph.tensors),
        ("pieces", plan.pieces, graph.operator_by_name),
        ("appends", plan.appends, graph.operator_by_name),
        ("sparsity", plan.sparsity, graph.operator_by_name),
    ):
        kind = "tensor" if key == "divisions" else "operator"
        problems += [
            Problem(f"unknown {kind}", path=f"{key}.{name}", suggestion=nearest(name, known))
            for name in names
            if name not in known
        ]
    for name, division in plan.divisions.items():
        if name in graph.tensors and division.axis >= len(graph.tensors[name].shape):
            shape = list(graph.tensors[name].shape)
            problems.append(Problem(f"found axis {division.axis} of shape {shape}", path=f"divisions.{name}"))
    if problems:
        raise InputError(problems)


class _Divider:
    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph = graph
        self.divisions: Mapping[str, Division] = plan.divisions
        self.pieces: Mapping[str, Pieces] = plan.pieces
        self.appends = set(plan.appends)
        self.sparsity: Mapping[str, Sparsity] = plan.sparsity
        self.tensors: dict[str, Tensor] = {}
        self.added: list[str] = []

    def run(self) -> Graph:
        for tensor in self.graph.tensors.values():
            division = self.divisions.get(tensor.name)
            parts = (tensor,) if division is None else _parts(tensor, division)
            self.tensors.update((part.name, part) for part in parts)
        operators: list[Operator] = []
        for source in self.graph.operators:
            operator = sparse_operator(source, self.sparsity.get(source.name))
            pieces = self.pieces.get(operator.name)
            if pieces is None:
                operators.append(self._append(operator, self._whole(operator)))
            else:
                operators += [self._append(operator, piece) for piece in self._cut(operator, pieces)]
        whole = self.graph
        outputs = (*self._names(whole.outputs), *self.added)
        return Graph(whole.name, self.tensors, tuple(operators), outputs, whole.structure, whole.metadata)

    def _names(self, tensors: tuple[str, ...], index: int | None = None, count: int = 0) -> tuple[str, ...]:
        """Tensors with divided ones replaced: by part ``index`` where they have ``count`` parts, else by all."""
        found: list[str] = []
        for name in tensors:
            division = self.divisions.get(name)
            if division is None:
                found.append(name)
            elif index is not None and len(division.counts) == count:
                found.append(part_name(name, index))
            else:
                found += [part_name(name, i) for i, read in enumerate(division.read) if read]
        return tuple(found)

    def _whole(self, operator: Operator) -> Operator:
        touched = (*operator.inputs, *operator.updates, *operator.outputs)
        if not any(name in self.divisions for name in touched):
            return operator
        for name in (*operator.updates, *operator.outputs):
            if name in self.divisions and not all(self.divisions[name].read):
                raise bad_input(
                    f"{operator.name!r} writes {name!r}, of which a part is unread", path="divisions"
                )
        changed = replace(
            operator,
            inputs=self._names(operator.inputs),
            outputs=self._names(operator.outputs),
            updates=self._names(operator.updates),
        )
        return self._less(operator, changed)

    def _less(self, operator: Operator, changed: Operator) -> Operator:
        """Traffic and arithmetic of an operator that leaves parts of its weights unread."""
        attributes: dict[str, Attribute] = dict(operator.attributes)
        unread, share = 0, 1.0
        for name in operator.inputs:
            division = self.divisions.get(name)
            if division is None or all(division.read):
                continue
            tensor = self.graph.tensors[name]
            kept = sum(c for c, read in zip(division.counts, division.read, strict=True) if read)
            unread += tensor.size_bytes - sum(self.tensors[part].size_bytes for part in self._names((name,)))
            if len(tensor.shape) < 2:
                continue
            share *= kept / sum(division.counts)
            side = "n" if division.axis == 0 else "k"
            if isinstance(attributes.get(side), int):
                attributes[side] = max(1, round(int(attributes[side]) * kept / sum(division.counts)))
        if not unread:
            return changed
        read_bytes = max(0, operator.read_bytes - unread)
        return legacy_replace(
            changed, read_bytes=read_bytes, flops=operator.flops * share, attributes=attributes
        )

    def _cut(self, operator: Operator, pieces: Pieces) -> list[Operator]:
        total, count = sum(pieces.counts), len(pieces.counts)
        cut: list[Operator] = []
        before = 0
        for index, own in enumerate(pieces.counts):
            low, high, before = before, before + own, before + own
            attributes: dict[str, Attribute] = dict(operator.attributes)
            for name in _COUNTED[pieces.axis]:
                if isinstance(attributes.get(name), int):
                    attributes[name] = max(1, round(int(attributes[name]) * own / total))
            cut.append(
                legacy_replace(
                    operator,
                    name=part_name(operator.name, index),
                    inputs=self._names(operator.inputs, index, count),
                    outputs=self._piece_outputs(operator, operator.outputs, index, count),
                    updates=self._piece_outputs(operator, operator.updates, index, count),
                    flops=operator.flops * own / total,
                    read_bytes=operator.read_bytes * high // total - operator.read_bytes * low // total,
                    write_bytes=operator.write_bytes * high // total - operator.write_bytes * low // total,
                    attributes=attributes,
                )
            )
        return cut

    def _piece_outputs(
        self, operator: Operator, names: tuple[str, ...], index: int, count: int
    ) -> tuple[str, ...]:
        for name in names:
            division = self.divisions.get(name)
            if division is None or len(division.counts) != count:
                raise bad_input(
                    f"{operator.name!r} runs in {count} pieces, so {name!r}, which it writes, needs as many parts",
                    path="pieces",
                )
        return self._names(names, index, count)

    def _append(self, source: Operator, operator: Operator) -> Operator:
        if source.name not in self.appends:
            return operator
        new, context = source.attributes.get("q_len"), source.attributes.get("kv_len")
        if not (isinstance(new, int) and isinstance(context, int) and 0 < new <= context):
            raise bad_input(
                f"{source.name!r} states no q_len and kv_len, so nothing says what it adds", path="appends"
            )
        made, before = [], operator.inputs
        for name in operator.updates:
            cache = self.tensors[name]
            # A sliding window's cache holds fewer tokens than the context, one with room for a generation more.
            room = cache.shape[-2] if len(cache.shape) > 1 else context
            held = min(room, context)
            added = min(new, held)
            if added == held:
                # Nothing was there before: the cache is not read.
                before = tuple(other for other in before if other != name)
            rows = cache.size_bytes * added // max(room, 1)
            live = cache.size_bytes * held // max(room, 1)
            self.tensors[name] = replace(cache, size_bytes=live - rows)
            made.append(append_name(name))
            self.tensors[made[-1]] = Tensor(made[-1], (rows,), "uint8", Role.ACTIVATION, rows)
        self.added += made
        return replace(operator, inputs=before, outputs=(*operator.outputs, *made), updates=())


def sparse_operator(operator: Operator, sparsity: Sparsity | None) -> Operator:
    """Decode attention on chosen channels and tokens: scores from some channels, then exact on some tokens.

    Scores over all tokens from a share r of the channels, K and V of a share r of the tokens: of 4 products
    per element, 2r + 4r remain, and of K and V the bytes r K + r K + r V.
    """
    if sparsity is None or sparsity.kept >= 1:
        return operator
    if operator.kind != "attention" or operator.attributes.get("q_len") != 1:
        raise bad_input(
            f"{operator.name!r} is no decode attention, so nothing of it can be left out", path="sparsity"
        )
    attributes: dict[str, Attribute] = {**operator.attributes, "kept": float(sparsity.kept)}
    if sparsity.groups is not None:
        attributes["kept_groups"] = float(sparsity.groups)
    share = min(1.0, 1.5 * sparsity.kept)
    read = round(operator.read_bytes * share)
    return legacy_replace(operator, flops=operator.flops * share, read_bytes=read, attributes=attributes)


def _parts(tensor: Tensor, division: Division) -> tuple[Tensor, ...]:
    total, whole = sum(division.counts), tensor.size_bytes
    parts: list[Tensor] = []
    before = 0
    for index, own in enumerate(division.counts):
        low, high, before = before, before + own, before + own
        shape = list(tensor.shape)
        shape[division.axis] = shape[division.axis] * high // total - shape[division.axis] * low // total
        # Bytes are cut in proportion, so that the parts add up whatever the axis's length is.
        size = whole * high // total - whole * low // total
        parts.append(replace(tensor, name=part_name(tensor.name, index), shape=tuple(shape), size_bytes=size))
    return tuple(parts)
