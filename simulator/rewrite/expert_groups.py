"""The experts of a layer cut into groups, so that each group can be placed, computed and moved on its own.

Experts are not wanted alike, and a device that cannot hold them all should hold those that are wanted most. A plan
names a block of experts by its first product and cuts it by frequency: group 0 holds the ``counts[0]`` experts that
are wanted most, and so on; ``shares`` says which share of the routed rows goes to each group. Every operator between
the router and the sum of a token's experts runs once per group: operator ``o`` as ``o/0``, ``o/1``, ..., tensor ``t``
of rows as ``t/0``, ``t/1``, ..., a weight ``w`` over the experts as ``w/0``, ``w/1``, ... Whoever joins the rows reads
all of them.

Figures are expectations over the tokens of a step. A group has its share of the rows, of the arithmetic and of the
bytes of rows, so that each adds up to what the whole block has; rows need not be whole, and ``share`` and
``extra_flops`` of the work hold what whole rows cannot say. Of its weights a group reads what some token reaches. A
token that goes to k experts reaches one of c even experts, to which a share s of the rows goes, with the chance k s /
c, and t tokens, each on its own, reach c (1 - (1 - k s / c)^t) of them: exact for any way of drawing k different
experts, for only that chance counts. t follows from the experts that the whole block reaches, so that even groups
read together what it reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hw_configs.problems import InputError, Problem, nearest
from simulator.plan import ExpertGroups
from simulator.rewrite.divide import part_name
from simulator.rewrite.operands import itemised, spread
from workloads.graph import Graph, Operator, Tensor
from workloads.operators import Activation, Elementwise, GroupedProduct, Norm, Quantize, Work

__all__ = ["ExpertBlock", "expert_blocks", "group_experts", "reached"]

_BY_ROWS: Final = (Activation, Elementwise, Norm, Quantize)
"""Kinds that make a row of their output from that row of their inputs."""
_UNITS: Final = 1 << 40
"""Parts into which a share is cut, so that whole bytes are dealt out in whole numbers."""
_FINE: Final = 1 << 20
"""Parts of a byte, by which bytes are dealt out."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ExpertBlock:
    """The experts of one layer in a graph: what runs on routed rows, over which weights, and who joins the rows."""

    name: str
    """Its first product, by which plans name it."""
    experts: int
    active: int
    """Experts that a token goes to."""
    rows: int
    draws: float
    """Tokens that choose on their own; infinite where all experts are reached."""
    members: tuple[str, ...]
    """Operators that run once per group, in program order; the products among them read ``weights``."""
    products: tuple[str, ...]
    weights: tuple[str, ...]
    """Weights and biases whose first axis runs over the experts."""
    chosen_by: tuple[str, ...]
    """Tensors of indices that say which experts a step wants."""
    joins: tuple[str, ...]
    """Operators outside the block that read its rows."""


def expert_blocks(graph: Graph) -> dict[str, ExpertBlock]:
    """Every block of experts in a graph by the name of its first product, in program order."""
    found: dict[str, ExpertBlock] = {}
    taken: set[str] = set()
    for op in graph.operators:
        if isinstance(op.work, GroupedProduct) and op.name not in taken:
            block = _block(graph, op, op.work)
            taken.update(block.members)
            found[block.name] = block
    return found


def reached(block: ExpertBlock, groups: ExpertGroups) -> tuple[float, ...]:
    """Experts of each group that some token of the step reaches, on average."""
    if groups.touched:
        return groups.touched
    return tuple(
        _reached(count, block.active * share / count, block.draws)
        for count, share in zip(groups.counts, groups.shares, strict=True)
    )


def group_experts(graph: Graph, experts: Mapping[str, ExpertGroups]) -> Graph:
    """The graph with the named blocks cut into groups; ``InputError`` where groups do not fit a block."""
    blocks = expert_blocks(graph)
    problems = [p for name, groups in experts.items() for p in _misfits(graph, blocks, name, groups)]
    if problems:
        raise InputError(problems)
    return _Cutter(graph, {name: blocks[name] for name in experts}, experts).run()


def _reached(count: int, chance: float, draws: float) -> float:
    if chance <= 0:
        return 0.0
    return (
        float(count) if math.isinf(draws) or chance >= 1 else -count * math.expm1(draws * math.log1p(-chance))
    )


def _block(graph: Graph, first: Operator, work: GroupedProduct) -> ExpertBlock:
    members = _members(graph, first, work)
    names = {op.name for op in members}
    products = [op for op in members if isinstance(op.work, GroupedProduct)]
    weights, chosen = dict[str, None](), dict[str, None]()
    for op in members:
        for name in op.inputs:
            tensor = graph.tensors[name]
            if tensor.is_weight and tensor.shape[:1] == (work.groups,):
                weights[name] = None
            elif not tensor.is_weight and _is_index(tensor):
                chosen[name] = None
    made = {name for op in members for name in op.outputs}
    readers = {reader for name in made for reader in graph.consumers[name]} - names
    active = min(max(1, work.active), work.groups)
    return ExpertBlock(
        first.name, work.groups, active, work.m, _draws(work.touched, work.groups, active),
        tuple(op.name for op in members), tuple(op.name for op in products), tuple(weights), tuple(chosen),
        tuple(op.name for op in graph.operators if op.name in readers),
    )  # fmt: skip


def _members(graph: Graph, first: Operator, work: GroupedProduct) -> list[Operator]:
    """Operators on the routed rows of a product: those that follow row by row, and products beside it."""
    found = {first.name}
    pending = [first]
    while pending:
        op = pending.pop()
        near = [(reader, False) for name in op.outputs for reader in graph.consumers[name]]
        near += [(graph.producer[name], True) for name in op.inputs if name in graph.producer]
        for name, before in near:
            other = graph.operator_by_name[name]
            if name not in found and _is_member(graph, other, work, before=before):
                found.add(name)
                pending.append(other)
    return [op for op in graph.operators if op.name in found]


def _is_member(graph: Graph, op: Operator, work: GroupedProduct, *, before: bool) -> bool:
    """Whether an operator next to a block's works on the same rows.

    Before a member only products do: what else comes before has made the rows that all groups read.
    """
    if isinstance(op.work, GroupedProduct):
        return (op.work.groups, op.work.m) == (work.groups, work.m)
    if before or not isinstance(op.work, _BY_ROWS) or op.work.m != work.m:
        return False
    return all(graph.tensors[name].shape[:1] == (work.m,) for name in op.outputs)


def _is_index(tensor: Tensor) -> bool:
    return tensor.dtype in ("int32", "int64")


def _draws(touched: float, experts: int, active: int) -> float:
    """Tokens that, choosing evenly and each on its own, reach so many experts."""
    missed = 1.0 - touched / experts
    if missed <= 0 or active >= experts:
        return math.inf
    return math.log(missed) / math.log1p(-active / experts)


def _misfits(
    graph: Graph, blocks: Mapping[str, ExpertBlock], name: str, groups: ExpertGroups
) -> Iterator[Problem]:
    where = f"experts.{name}"
    block = blocks.get(name)
    if block is None:
        expected = "the first product of a block of experts"
        yield Problem(f"found {name!r}; expected {expected}", path=where, suggestion=nearest(name, blocks))
        return
    if not (len(groups.counts) == len(groups.shares) and len(groups.touched) in (0, len(groups.counts))):
        yield Problem("counts, shares and touched are not of one length", path=where)
        return
    if min(groups.counts, default=0) < 1 or sum(groups.counts) != block.experts:
        yield Problem(
            f"found counts {list(groups.counts)}; expected {block.experts} experts in groups of 1 or more",
            path=where,
        )
        return
    if min(groups.shares) < 0 or abs(sum(groups.shares) - 1) > 1e-6:
        yield Problem(f"found shares that add up to {sum(groups.shares):g}; expected 1", path=where)
    for index, (count, share) in enumerate(zip(groups.counts, groups.shares, strict=True)):
        if block.active * share > count * (1 + 1e-6):
            yield Problem(
                f"found a share of {share:g} for {count} experts; a token goes to {block.active} different ones, so "
                f"at most {count / block.active:g} of the rows go there", path=f"{where}.shares.{index}",
            )  # fmt: skip
        most = min(float(count), share * max(block.rows, block.active))
        if groups.touched and not 0 <= groups.touched[index] <= most * (1 + 1e-6):
            yield Problem(
                f"found {groups.touched[index]:g} experts touched; expected 0 to {most:g}",
                path=f"{where}.touched.{index}",
            )
    for weight in block.weights:
        others = [reader for reader in graph.consumers[weight] if reader not in block.members]
        if others:
            yield Problem(f"{weight!r} is also used by {others[0]!r}, which runs on all experts", path=where)
    for member in block.members:
        if graph.operator_by_name[member].updates:
            yield Problem(f"{member!r} updates tensors; a group of experts only reads them", path=where)


@dataclass(frozen=True, slots=True)
class _Cut:
    """One block and its groups: experts in each, whole units of rows, experts reached."""

    block: ExpertBlock
    counts: tuple[int, ...]
    units: tuple[int, ...]
    reached: tuple[float, ...]

    def share(self, index: int) -> float:
        return self.units[index] / sum(self.units)


class _Cutter:
    def __init__(
        self, graph: Graph, blocks: Mapping[str, ExpertBlock], experts: Mapping[str, ExpertGroups]
    ) -> None:
        self.graph = graph
        self.tensors = dict(graph.tensors)
        self.cut_of: dict[str, _Cut] = {}
        """Operators that run once per group."""
        self.parts: dict[str, tuple[str, ...]] = {}
        """Tensors that are cut, and their parts."""
        for name, block in blocks.items():
            groups = experts[name]
            units = tuple(round(_UNITS * share) for share in groups.shares)
            cut = _Cut(block, groups.counts, units, reached(block, groups))
            self.cut_of.update((member, cut) for member in block.members)
            self._cut_tensors(block, cut)

    def _cut_tensors(self, block: ExpertBlock, cut: _Cut) -> None:
        for name in block.weights:
            tensor = self.graph.tensors[name]
            sizes = spread(tensor.size_bytes, cut.counts)
            shapes = [(count, *tensor.shape[1:]) for count in cut.counts]
            self._replace(tensor, shapes, sizes)
        for member in block.members:
            for name in self.graph.operator_by_name[member].outputs:
                tensor = self.graph.tensors[name]
                sizes = spread(tensor.size_bytes, cut.units)
                rows = [math.ceil(tensor.shape[0] * cut.share(i) - _ROUNDING) for i in range(len(cut.counts))]
                self._replace(tensor, [(count, *tensor.shape[1:]) for count in rows], sizes)

    def _replace(self, tensor: Tensor, shapes: list[tuple[int, ...]], sizes: tuple[int, ...]) -> None:
        names = tuple(part_name(tensor.name, index) for index in range(len(sizes)))
        self.parts[tensor.name] = names
        del self.tensors[tensor.name]
        for name, shape, size in zip(names, shapes, sizes, strict=True):
            self.tensors[name] = replace(tensor, name=name, shape=shape, size_bytes=size)

    def run(self) -> Graph:
        operators: list[Operator] = []
        for op in self.graph.operators:
            cut = self.cut_of.get(op.name)
            if cut is not None:
                operators += self._groups(itemised(op, self.graph.tensors), cut)
            elif any(name in self.parts for name in (*op.inputs, *op.updates)):
                operators.append(self._join(itemised(op, self.graph.tensors)))
            else:
                operators.append(op)
        whole = self.graph
        outputs = tuple(part for name in whole.outputs for part in self.parts.get(name, (name,)))
        return Graph(whole.name, self.tensors, tuple(operators), outputs, whole.structure, whole.metadata)

    def _groups(self, op: Operator, cut: _Cut) -> list[Operator]:
        """An operator once per group, each with its share of rows and the weights that its own rows reach."""
        reads = [self._dealt(op, name, count, cut) for name, count in zip(op.inputs, op.reads, strict=True)]
        writes = [spread(count, cut.units) for count in op.writes]
        beside = spread(op.beside_read, cut.units), spread(op.beside_written, cut.units)
        room = spread(op.workspace_bytes, cut.units)

        def here(names: tuple[str, ...], index: int) -> tuple[str, ...]:
            return tuple(self.parts[name][index] if name in self.parts else name for name in names)

        return [
            replace(
                op,
                name=part_name(op.name, index),
                work=_work_of_group(op.work, cut, index),
                inputs=here(op.inputs, index),
                outputs=here(op.outputs, index),
                reads=tuple(dealt[index] for dealt in reads),
                writes=tuple(dealt[index] for dealt in writes),
                beside_read=beside[0][index],
                beside_written=beside[1][index],
                workspace_bytes=room[index],
                measured_s=None if op.measured_s is None else op.measured_s * cut.share(index),
                in_place=tuple((here((made,), index)[0], here(over, index)) for made, over in op.in_place),
            )
            for index in range(len(cut.counts))
        ]

    def _dealt(self, op: Operator, name: str, count: int, cut: _Cut) -> tuple[int, ...]:
        """Bytes of an operand over the groups: of weights by experts reached, of all else by rows."""
        if name not in cut.block.weights:
            return spread(count, cut.units)
        assert isinstance(op.work, GroupedProduct)
        whole, all_reached = op.work.touched, sum(cut.reached)
        total = (
            count if math.isclose(all_reached, whole, rel_tol=1e-9) else round(count * all_reached / whole)
        )
        sizes = [self.tensors[part].size_bytes for part in self.parts[name]]
        by_bytes = [
            round(size * own / experts * _FINE)
            for size, own, experts in zip(sizes, cut.reached, cut.counts, strict=True)
        ]
        return _within(spread(total, by_bytes), sizes)

    def _join(self, op: Operator) -> Operator:
        """An operator that reads the rows of all groups."""
        count = len(op.inputs)
        inputs, reads = list[str](), list[int]()
        for name, size in zip(op.inputs, op.reads[:count], strict=True):
            parts = self.parts.get(name, (name,))
            inputs += parts
            reads += spread(size, [self.tensors[part].size_bytes for part in parts])
        return replace(
            op,
            inputs=tuple(inputs),
            reads=(*reads, *op.reads[count:]),
            in_place=tuple(
                (made, tuple(n for n in over if n not in self.parts))
                for made, over in op.in_place
                if any(n not in self.parts for n in over)
            ),
        )


def _within(dealt: tuple[int, ...], sizes: list[int]) -> tuple[int, ...]:
    """Bytes dealt out, none more than its part has: the byte that rounding puts too many goes to another part."""
    found = [min(own, size) for own, size in zip(dealt, sizes, strict=True)]
    left = sum(dealt) - sum(found)
    for index, size in enumerate(sizes):
        more = min(left, size - found[index])
        found[index] += more
        left -= more
    return tuple(found)


def _work_of_group(work: Work, cut: _Cut, index: int) -> Work:
    """The work of one group, as a kernel meets it.

    A group of which less than one expert is reached runs in that share of the steps (``share``), with all of its rows
    then. Rows are whole; what they are more or less than expected is taken off the arithmetic.
    """
    share, at_times = cut.share(index), min(1.0, max(cut.reached[index], 1e-12))
    sizes: dict[str, Any] = {"share": work.share * at_times}
    rows = getattr(work, "m", 0)
    if rows:
        sizes["m"] = max(1, round(rows * share / at_times))
    if isinstance(work, GroupedProduct):
        count = cut.counts[index]
        # A token goes to so many of this group's experts; what tells how many tokens the rows are.
        sizes["active"] = work.active and min(count, max(1, round(work.active * share)))
        # A figure of 0 would mean all of them.
        sizes |= {"groups": count, "expected_groups": min(max(cut.reached[index], 1e-12), float(count))}
    changed = work.with_fields(sizes | {"extra_flops": 0.0})
    return changed.with_fields({"extra_flops": work.flops * share - changed.flops})
