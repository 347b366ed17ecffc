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
from typing import Any

from hw_configs.problems import InputError, Problem, bad_input, nearest
from simulator.plan import Division, Pieces, Plan, Sparsity
from simulator.rewrite.operands import itemised, of_arithmetic, spread
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import Attention, Product, Work

__all__ = ["append_name", "divide_graph", "part_name", "sparse_operator"]


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
            operator = sparse_operator(source, self.sparsity.get(source.name), self.graph.tensors)
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
        operator = itemised(operator, self.graph.tensors)
        count = len(operator.inputs)
        changed = replace(
            operator,
            work=self._without_unread(operator),
            inputs=self._names(operator.inputs),
            outputs=self._names(operator.outputs),
            updates=self._names(operator.updates),
        )
        reads = self._by_part(operator.inputs, operator.reads[:count])
        reads += self._by_part(operator.updates, operator.reads[count:])
        count = len(operator.outputs)
        writes = self._by_part(operator.outputs, operator.writes[:count])
        writes += self._by_part(operator.updates, operator.writes[count:])
        return replace(changed, reads=reads, writes=writes)

    def _by_part(self, names: tuple[str, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
        """Bytes of tensors dealt out over the parts that stand for them; those of unread parts go."""
        found: list[int] = []
        for name, count in zip(names, counts, strict=True):
            division = self.divisions.get(name)
            if division is None:
                found.append(count)
                continue
            parts = [self.tensors[part_name(name, index)].size_bytes for index in range(len(division.read))]
            shares = spread(count, parts)
            found += [own for own, read in zip(shares, division.read, strict=True) if read]
        return tuple(found)

    def _without_unread(self, operator: Operator) -> Work:
        """The work of an operator that leaves parts of its weights unread: fewer columns, or shorter sums."""
        work, share = operator.work, 1.0
        sizes: dict[str, Any] = {}
        for name in operator.inputs:
            division = self.divisions.get(name)
            shape = self.graph.tensors[name].shape
            if division is None or all(division.read) or len(shape) < 2:
                continue
            kept = sum(c for c, read in zip(division.counts, division.read, strict=True) if read)
            part = kept / sum(division.counts)
            share *= part
            side = {len(shape) - 2: "n", len(shape) - 1: "k"}.get(division.axis, "")
            length = sizes.get(side, getattr(work, side, 0) if side else 0)
            if length:
                sizes[side] = max(1, round(length * part))
        return of_arithmetic(work.with_fields(sizes), work, share) if share < 1.0 else work

    def _cut(self, operator: Operator, pieces: Pieces) -> list[Operator]:
        operator = itemised(operator, self.graph.tensors)
        total, count = sum(pieces.counts), len(pieces.counts)
        cut: list[Operator] = []
        before = 0
        for index, own in enumerate(pieces.counts):
            low, before = before, before + own

            def mine(size: int, low: int = low, high: int = before) -> int:
                return size * high // total - size * low // total

            inputs = [self._names((name,), index, count) for name in operator.inputs]
            reads: list[int] = []
            for names, size in zip(inputs, operator.reads, strict=False):
                reads += spread(mine(size), [self.tensors[name].size_bytes for name in names])
            reads += map(mine, operator.reads[len(operator.inputs) :])
            cut.append(
                replace(
                    operator,
                    name=part_name(operator.name, index),
                    work=_of_piece(operator.work, pieces.axis, own / total),
                    inputs=tuple(name for names in inputs for name in names),
                    outputs=self._piece_outputs(operator, operator.outputs, index, count),
                    updates=self._piece_outputs(operator, operator.updates, index, count),
                    reads=tuple(reads),
                    writes=tuple(map(mine, operator.writes)),
                    beside_read=mine(operator.beside_read),
                    beside_written=mine(operator.beside_written),
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
        operator = itemised(operator, self.tensors)
        work = source.work
        if not isinstance(work, Attention) or work.q_len > work.kv_len:
            raise bad_input(
                f"{source.name!r} is no attention over a cache, so nothing says what it adds", path="appends"
            )
        new, context = work.q_len, work.kv_len
        made: list[str] = []
        unread: set[str] = set()
        for name in operator.updates:
            cache = self.tensors[name]
            # A sliding window's cache holds fewer tokens than the context, one with room for a generation more.
            room = cache.shape[-2] if len(cache.shape) > 1 else context
            held = min(room, context)
            added = min(new, held)
            if added == held:
                # Nothing was there before: the cache is not read.
                unread.add(name)
            rows = cache.size_bytes * added // max(room, 1)
            live = cache.size_bytes * held // max(room, 1)
            self.tensors[name] = replace(cache, size_bytes=live - rows)
            made.append(append_name(name))
            self.tensors[made[-1]] = Tensor(made[-1], (rows,), "uint8", Role.ACTIVATION, rows)
        self.added += made
        read = [
            (name, count)
            for name, count in zip(operator.inputs, operator.reads, strict=False)
            if name not in unread
        ]
        # What an update wrote, it writes to the tensor of what was added.
        return replace(
            operator,
            inputs=tuple(name for name, _ in read),
            outputs=(*operator.outputs, *made),
            updates=(),
            reads=tuple(count for _, count in read),
        )


def sparse_operator(operator: Operator, sparsity: Sparsity | None, tensors: Mapping[str, Tensor]) -> Operator:
    """Decode attention on chosen channels and tokens: scores from some channels, then exact on some tokens.

    Scores over all tokens from a share r of the channels, K and V of a share r of the tokens: of 4 products
    per element, 2r + 4r remain, and of K and V the bytes r K + r K + r V. Queries and results stay whole.
    """
    if sparsity is None or sparsity.kept >= 1:
        return operator
    work = operator.work
    if not isinstance(work, Attention) or work.q_len != 1:
        raise bad_input(
            f"{operator.name!r} is no decode attention, so nothing of it can be left out", path="sparsity"
        )
    operator = itemised(operator, tensors)
    sparse = replace(work, kept=float(sparsity.kept), kept_groups=float(sparsity.groups or 0.0))
    share = sparse.sparse_share / work.sparse_share
    reads = tuple(
        round(count * share) if tensors[name].is_cache else count
        for name, count in zip((*operator.inputs, *operator.updates), operator.reads, strict=True)
    )
    return replace(operator, work=replace(sparse, extra_flops=work.extra_flops * share), reads=reads)


def _of_piece(work: Work, axis: str, share: float) -> Work:
    """The work of one piece: its share of the sequences, or of the heads."""
    if axis == "head":
        names = ["heads", "kv_heads"]
        if isinstance(work, Product):
            names.append("batch")
    else:
        names = ["batch" if getattr(work, "batch", 1) > 1 or isinstance(work, Attention) else "m"]
    sizes = {name: max(1, round(count * share)) for name in names if (count := getattr(work, name, 0))}
    return of_arithmetic(work.with_fields(sizes), work, share)


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
