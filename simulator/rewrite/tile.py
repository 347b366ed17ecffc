"""Operators in strips: an output cut into runs of rows or channels, each made by an operator of its own.

Cutting is a decision per operator: ``parts`` strips of its output, as even as they go. A strip's operator reads
the strips of its inputs that its rows need, neighbours included where a window overlaps them (the halo: such a
neighbour has to stay until then, or be fetched again; nothing is computed twice). What is not cut is read whole,
and weights are read once per strip, which is what cutting rows costs where weights stream. A cut along channels
cuts the weights with it and reads the input once per strip.

In which order strips run is for the schedule: strip after strip of one operator, or depth first through a chain
of operators, which is how fused layers run (Alwani et al., MICRO 2016; Mei et al., DeFiNES, HPCA 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hw_configs.problems import InputError, Problem, bad_input, nearest
from simulator.plan import Tiling
from simulator.rewrite.operands import itemised, of_arithmetic, spread
from simulator.rewrite.tile_rows import channel_axis, reads_rows, row_axis, rows_needed, weight_axis
from workloads.graph import PERSISTENT_ROLES, Graph, Operator, Tensor
from workloads.operators import Convolution, Product, Rows, Work

__all__ = ["cuts_of", "most_parts", "tile_graph"]

Cut = tuple[str, int]
"""Axis and number of strips."""


@dataclass(frozen=True, slots=True)
class _Strip:
    """One run of a cut tensor: rows or channels [first, last)."""

    name: str
    first: int
    last: int


def most_parts(graph: Graph, name: str, axis: str) -> int:
    """The most strips that an operator's output, or a graph input, can be cut into; 1 when it cannot be."""
    if name in graph.operator_by_name:
        op = graph.operator_by_name[name]
        if len(op.outputs) != 1 or op.updates:
            return 1
        tensor = graph.tensors[op.outputs[0]]
        in_rows = row_axis(tensor) if reads_rows(graph, op) else None
        along = channel_axis(graph, op) if axis == "channel" else in_rows
    elif name in graph.tensors and name not in graph.producer and axis == "row":
        tensor = graph.tensors[name]
        along = row_axis(tensor) if tensor.role not in PERSISTENT_ROLES else None
    else:
        return 1
    if along is None or tensor.size_bytes != Tensor("", tensor.shape, tensor.dtype).size_bytes:
        return 1
    return max(1, tensor.shape[along])


def cuts_of(tiles: Mapping[str, Tiling]) -> dict[str, Cut]:
    """The cut of every operator and graph input that a plan names."""
    return {name: (tiling.axis, tiling.parts) for tiling in tiles.values() for name in tiling.operators}


def tile_graph(graph: Graph, tiles: Mapping[str, Tiling]) -> Graph:
    """The graph whose named operators run in strips; ``InputError`` for a cut that cannot be made."""
    cuts = cuts_of(tiles)
    problems = [problem for name, cut in cuts.items() for problem in _wrong(graph, name, cut)]
    if problems:
        raise InputError(problems)
    return _Tiler(graph, cuts).graph()


def _wrong(graph: Graph, name: str, cut: Cut) -> list[Problem]:
    axis, parts = cut
    if name not in graph.operator_by_name and name not in graph.tensors:
        return [
            Problem(
                f"unknown operator {name!r}", path="tiles", suggestion=nearest(name, graph.operator_by_name)
            )
        ]
    most = most_parts(graph, name, axis)
    if parts > most:
        can = f"at most {most}" if most > 1 else "none"
        return [Problem(f"{name!r} cannot be cut into {parts} strips along its {axis}s; {can}", path="tiles")]
    return []


class _Tiler:
    """Rewrites operator by operator, knowing how every tensor before it was cut."""

    def __init__(self, graph: Graph, cuts: Mapping[str, Cut]) -> None:
        self.source, self.cuts = graph, cuts
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.strips: dict[str, tuple[str, list[_Strip]]] = {}
        self.operators: list[Operator] = []

    def graph(self) -> Graph:
        source = self.source
        for name, (axis, parts) in self.cuts.items():
            if name in source.tensors and name not in source.operator_by_name:
                self._cut(source.tensors[name], axis, parts, row_axis(source.tensors[name]))
        for op in source.operators:
            cut = self.cuts.get(op.name)
            if cut is None:
                self.operators.append(self._over_strips(op))
            elif cut[0] == "row":
                self._in_rows(op, cut[1])
            else:
                self._in_channels(op, cut[1])
        used = {t for op in self.operators for t in (*op.inputs, *op.outputs, *op.updates)}
        outputs = self._whole(source.outputs)
        kept = {
            name: tensor
            for name, tensor in self.tensors.items()
            if name not in self.strips or name in used or name in outputs
        }
        return Graph(source.name, kept, tuple(self.operators), outputs, source.structure, source.metadata)

    def _whole(self, names: Iterable[str]) -> tuple[str, ...]:
        """The tensors, with every strip in place of what was cut."""
        found: list[str] = []
        for name in names:
            found += [strip.name for strip in self.strips[name][1]] if name in self.strips else [name]
        return tuple(found)

    def _over_strips(self, op: Operator) -> Operator:
        """An operator that is not cut, with every strip in place of what was cut."""
        if not any(name in self.strips for name in (*op.inputs, *op.updates)):
            return op
        op = itemised(op, self.source.tensors)
        reads = [
            (strip, count)
            for name, size in zip((*op.inputs, *op.updates), op.reads, strict=True)
            for strip, count in self._spread(name, size)
        ]
        made = op.writes[: len(op.outputs)]
        return replace(
            op,
            inputs=self._whole(op.inputs),
            updates=self._whole(op.updates),
            reads=tuple(count for _, count in reads),
            writes=(*made, *self._whole_writes(op)),
        )

    def _whole_writes(self, op: Operator) -> list[int]:
        updated = zip(op.updates, op.writes[len(op.outputs) :], strict=True)
        return [count for name, size in updated for _, count in self._spread(name, size)]

    def _spread(self, name: str, size: int) -> list[tuple[str, int]]:
        """Bytes of a tensor over the strips that stand for it."""
        strips = self._whole((name,))
        counts = spread(size, [self.tensors[strip].size_bytes for strip in strips])
        return list(zip(strips, counts, strict=True))

    def _cut(self, tensor: Tensor, axis: str, parts: int, along: int | None) -> list[_Strip]:
        if along is None:
            raise bad_input(f"{tensor.name!r} has no {axis}s to cut", path="tiles")
        side = tensor.shape[along]
        strips = []
        for index in range(parts):
            first, last = index * side // parts, (index + 1) * side // parts
            shape = (*tensor.shape[:along], last - first, *tensor.shape[along + 1 :])
            name = f"{tensor.name}.{axis}{index}"
            self.tensors[name] = Tensor(name, shape, tensor.dtype, tensor.role)
            strips.append(_Strip(name, first, last))
        self.strips[tensor.name] = (axis, strips)
        return strips

    def _in_rows(self, op: Operator, parts: int) -> None:
        op = itemised(op, self.source.tensors)
        output = self.source.tensors[op.outputs[0]]
        along = row_axis(output)
        strips = self._cut(output, "row", parts, along)
        assert along is not None
        side = output.shape[along]
        for index, strip in enumerate(strips):
            reads: dict[str, int] = {}
            height = 0
            for name, size in zip(op.inputs, op.reads, strict=False):
                span = rows_needed(self.source, op, name, strip.first, strip.last)
                if span is None:
                    reads.update(self._spread(name, size))
                    continue
                height = max(height, span[1] - span[0])
                reads.update(self._rows_read(op, name, size, span))
            rows = strip.last - strip.first
            work = _of_strip(op.work, rows, side, height)
            self._emit(op, f"row{index}", reads, strip.name, work, rows / side)

    def _rows_read(self, op: Operator, name: str, size: int, span: tuple[int, int]) -> dict[str, int]:
        """Bytes of the strips of an input that rows [low, high) of it touch."""
        tensor = self.source.tensors[name]
        axis = row_axis(tensor) or 0
        rows = max(1, tensor.shape[axis])
        if size < tensor.size_bytes:
            # The whole operator leaves part of every row that it needs unread: a crop.
            low, high = rows_needed(self.source, op, name, 0, self._side(op)) or (0, rows)
            rows = high - low
        if name not in self.strips:
            return {name: size * (span[1] - span[0]) // rows}
        cut, strips = self.strips[name]
        if cut != "row":
            return dict(self._spread(name, size * (span[1] - span[0]) // rows))
        found = {}
        for strip in strips:
            low, high = max(strip.first, span[0]), min(strip.last, span[1])
            if low < high:
                found[strip.name] = size * (high - low) // rows
        return found

    def _side(self, op: Operator) -> int:
        """Rows of an operator's output."""
        output = self.source.tensors[op.outputs[0]]
        return output.shape[row_axis(output) or 0]

    def _in_channels(self, op: Operator, parts: int) -> None:
        source = self.source
        op = itemised(op, source.tensors)
        output = source.tensors[op.outputs[0]]
        along = channel_axis(source, op)
        strips = self._cut(output, "channel", parts, along)
        assert along is not None
        side = output.shape[along]
        weights = [name for name in op.inputs if source.tensors[name].role in PERSISTENT_ROLES]
        sliced = {
            name: self._cut(
                source.tensors[name], "channel", parts, weight_axis(op, source.tensors[name], side)
            )
            for name in weights
            if len(source.consumers[name]) == 1
        }
        for index, strip in enumerate(strips):
            width = strip.last - strip.first
            reads: dict[str, int] = {}
            for name, size in zip(op.inputs, op.reads, strict=False):
                if name in sliced:
                    shares = spread(size, [self.tensors[part.name].size_bytes for part in sliced[name]])
                    reads[sliced[name][index].name] = shares[index]
                else:
                    reads.update(self._spread(name, size))
            work = op.work
            assert isinstance(work, Convolution | Product)
            narrow = {"n": width} if isinstance(work, Product) else {"out_channels": width}
            work = of_arithmetic(work.with_fields(narrow), work, width / side)
            self._emit(op, f"channel{index}", reads, strip.name, work, width / side)

    def _emit(
        self, op: Operator, suffix: str, reads: Mapping[str, int], output: str, work: Work, share: float
    ) -> None:
        written = self.tensors[output].size_bytes
        whole = self.source.tensors[op.outputs[0]].size_bytes
        self.operators.append(
            replace(
                op,
                name=f"{op.name}.{suffix}",
                work=work,
                inputs=tuple(reads),
                outputs=(output,),
                reads=tuple(reads.values()),
                writes=(written if op.writes[0] == whole else round(op.writes[0] * share),),
                beside_read=round(op.beside_read * share),
                beside_written=round(op.beside_written * share),
            )
        )


def _of_strip(work: Work, rows: int, side: int, height: int) -> Work:
    """The work with the sizes of one strip of rows, so that it is priced by its own shape."""
    sizes: dict[str, Any] = {}
    if isinstance(work, Convolution):
        sizes = {"out_height": rows, "height": height}
    elif isinstance(work, Product | Rows):
        sizes = {"m": max(1, work.m * rows // side)}
    return of_arithmetic(work.with_fields(sizes), work, rows / side)
