"""One graph over several devices: operators divided along an axis, with the collectives that this needs.

After Megatron-LM (Shoeybi et al., arXiv:1909.08053, section 3): a ``column`` product divides its weight over
the outputs and leaves a divided result; a ``row`` product takes divided inputs and leaves partial sums,
which an all-reduce completes; ``head`` and ``split`` work on what is already divided; ``vocab`` divides an
embedding table or a language-model head over the vocabulary; ``sum`` operators (a weighted sum of experts, an
addition) work on partial sums as well as on whole ones, so that what only they read is completed after the last of
them, once; ``replicated`` operators run whole on every device. A divided tensor that someone
needs whole is gathered first.

A collective that stands in the graph itself, as in an execution trace of one of many equal ranks, becomes one
operator in which all ranks meet.

Rank k of operator ``o`` is named ``o@k``, its part of tensor ``t`` is ``t@k``. Ranks keep whole copies of key
and value heads when there are fewer of them than ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from simulator.cost.collective import COLLECTIVE_KINDS
from simulator.plan import Split
from simulator.rewrite.operands import divided_fields, heads_of, in_proportion, itemised, reduced
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import (
    AllGather,
    AllReduce,
    Attention,
    CollectiveWork,
    Embedding,
    Message,
    Product,
    Receive,
    Send,
    Work,
)

__all__ = ["split_graph"]

_NEEDS_WHOLE: Final = frozenset({"column", "vocab", "sum", "replicated"})
"""Axes whose activations must be whole on every rank."""
_ON_DIVIDED: Final = frozenset({"row", "head", "split"})
"""Axes whose operators work on what is already divided, and read only their slice of a tensor that is whole."""


def split_graph(graph: Graph, splits: Mapping[str, Split]) -> Graph:
    """The graph with the named operators divided; operators without a split stay as they are.

    Raises ``InputError`` for an operator that the graph does not have, when heads cannot be divided or when
    a split tensor meets another number of ranks.
    """
    unknown = [name for name in splits if name not in graph.operator_by_name]
    if unknown:
        raise InputError(
            Problem(
                "unknown operator", path=f"splits.{name}", suggestion=nearest(name, graph.operator_by_name)
            )
            for name in unknown
        )
    return _Splitter(graph, splits).run()


class _Splitter:
    def __init__(self, graph: Graph, splits: Mapping[str, Split]) -> None:
        self.graph, self.splits = graph, splits
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.divided: dict[str, bool] = {}
        """Tensors of the graph that exist in ranks: True when divided, False when whole on each."""
        self.ranks: dict[str, int] = {}
        self.gathered: set[str] = set()
        self.partial: set[str] = set()
        """Tensors whose ranks hold partial sums that nobody needs complete."""

    def run(self) -> Graph:
        for operator in self.graph.operators:
            split = self.splits.get(operator.name)
            if split is None:
                self._keep(operator)
            elif operator.kind in COLLECTIVE_KINDS or operator.kind == "receive":
                self._communicate(operator, len(split.devices))
            else:
                self._divide(operator, split)
        outputs: list[str] = []
        for name in self.graph.outputs:
            if name not in self.ranks:
                self._plain(name)
                outputs.append(name)
                continue
            if self.divided[name]:
                self._gather(name, self.ranks[name])
            whole = f"{name}.whole" if self.divided[name] else name
            outputs += [f"{whole}@{rank}" for rank in range(self.ranks[name])]
        source = self.graph
        return Graph(
            source.name,
            self.tensors,
            tuple(self.operators),
            tuple(outputs),
            source.structure,
            source.metadata,
        )

    def _keep(self, operator: Operator) -> None:
        for name in (*operator.inputs, *operator.outputs, *operator.updates):
            if name in self.ranks:
                raise bad_input(
                    f"operator {operator.name!r} is not divided, but its tensor {name!r} is", path="splits"
                )
            self._plain(name)
        self.operators.append(operator)

    def _communicate(self, operator: Operator, ranks: int) -> None:
        """A collective that stands in the graph: one operator in which all ranks meet."""
        for name in operator.inputs:
            if name not in self.ranks:
                self._declare(name, name, ranks, divided=False)
                self.ranks[name], self.divided[name] = ranks, False
        for name in operator.outputs:
            self._declare(name, name, ranks, divided=False)
            self.ranks[name], self.divided[name] = ranks, False
        work = operator.work
        assert isinstance(work, CollectiveWork | Message)
        if isinstance(work, Receive):
            work = Send(bytes=work.bytes, peer=work.peer)
        self.operators.append(
            replace(
                operator,
                work=replace(work, group=ranks),
                inputs=tuple(f"{name}@{rank}" for rank in range(ranks) for name in operator.inputs),
                outputs=tuple(f"{name}@{rank}" for rank in range(ranks) for name in operator.outputs),
                reads=ranks * operator.reads,
                writes=ranks * operator.writes,
            )
        )

    def _plain(self, name: str) -> None:
        self.tensors[name] = self.graph.tensors[name]

    def _divide(self, operator: Operator, split: Split) -> None:
        ranks = len(split.devices)
        self._check_heads(operator, split)
        inputs = {name: self._operand(name, operator, split) for name in operator.inputs}
        for name in operator.updates:
            self._place(name, operator, split)
        partial = split.axis == "row" or (split.axis == "vocab" and isinstance(operator.work, Embedding))
        partial = partial or (split.axis == "sum" and any(name in self.partial for name in operator.inputs))
        whole = partial or split.axis in ("replicated", "sum")
        share = _rank_share(operator, split)
        for name in operator.outputs:
            part = f"{name}.partial" if partial else name
            self._declare(part, name, ranks, divided=not whole, share=share)
        for name in operator.outputs:
            self.ranks[name], self.divided[name] = ranks, not whole
        mine = self._of_a_rank(operator, inputs, partial, split)
        for rank in range(ranks):
            outputs = [f"{n}.partial@{rank}" if partial else f"{n}@{rank}" for n in operator.outputs]
            self.operators.append(
                replace(
                    mine,
                    name=f"{operator.name}@{rank}",
                    inputs=tuple(f"{inputs[name]}@{rank}" for name in operator.inputs),
                    outputs=tuple(outputs),
                    updates=tuple(f"{name}@{rank}" for name in operator.updates),
                )
            )
        if partial:
            for name in operator.outputs:
                if self._stays_partial(name):
                    self.partial.add(name)
                else:
                    self._reduce(name, ranks)

    def _stays_partial(self, name: str) -> bool:
        """Whether all that read a tensor do as well with partial sums."""
        readers = self.graph.consumers[name]
        axes = {self.splits[reader].axis for reader in readers if reader in self.splits}
        return bool(readers) and axes == {"sum"} and name not in self.graph.outputs and all(
            reader in self.splits for reader in readers
        )  # fmt: skip

    def _check_heads(self, operator: Operator, split: Split) -> None:
        heads, kv_heads = heads_of(operator.work)
        ranks = len(split.devices)
        if split.axis == "head" and heads % ranks:
            raise bad_input(
                f"operator {operator.name!r} has {heads} heads, which {ranks} devices cannot share evenly",
                path="splits",
            )
        if split.axis in ("head", "column") and kv_heads and kv_heads % ranks and ranks % kv_heads:
            raise bad_input(
                f"operator {operator.name!r} has {kv_heads} key and value heads, which {ranks} devices "
                "cannot share evenly",
                path="splits",
            )

    def _operand(self, name: str, operator: Operator, split: Split) -> str:
        """The tensor's name (without rank) in the layout that the operator needs."""
        ranks = len(split.devices)
        if name not in self.ranks:
            self._place(name, operator, split)
        if self.ranks[name] != ranks:
            raise bad_input(
                f"tensor {name!r} lives on {self.ranks[name]} ranks, operator {operator.name!r} on {ranks}",
                path="splits",
            )
        if name in self.partial:
            return f"{name}.partial"
        persistent = self.graph.tensors[name].role is not Role.ACTIVATION
        if self.divided[name] and split.axis in _NEEDS_WHOLE and not persistent:
            self._gather(name, ranks)
            return f"{name}.whole"
        return name

    def _place(self, name: str, operator: Operator, split: Split) -> None:
        """Lay out a tensor that nobody has made: a weight, a cache or an input of the graph."""
        if name in self.ranks:
            return
        activation = self.graph.tensors[name].role is Role.ACTIVATION
        divided = split.axis not in ("replicated", "sum") and not (activation and split.axis in _NEEDS_WHOLE)
        if activation and not divided:
            self._declare(name, name, len(split.devices), divided=False)
        else:
            share = self._share_of(name, operator, split) if divided else 1.0
            self._declare(name, name, len(split.devices), divided=divided, share=share)
        self.ranks[name], self.divided[name] = len(split.devices), divided

    def _share_of(self, name: str, operator: Operator, split: Split) -> float:
        ranks, kv_heads = len(split.devices), heads_of(operator.work)[1]
        if _is_latent(self.graph.tensors[name], operator.work):
            return 1.0
        if self.graph.tensors[name].role is Role.KV_CACHE and kv_heads:
            return max(1.0, kv_heads / ranks) / kv_heads
        return _rank_share(operator, split)

    def _declare(
        self, name: str, original: str, ranks: int, *, divided: bool, share: float | None = None
    ) -> None:
        tensor = self.graph.tensors[original]
        part = (share if share is not None else 1.0 / ranks) if divided else 1.0
        size = -int(-tensor.size_bytes * part // 1)
        for rank in range(ranks):
            shape = _divided_shape(tensor.shape, ranks) if part == 1.0 / ranks else tensor.shape
            self.tensors[f"{name}@{rank}"] = Tensor(f"{name}@{rank}", shape, tensor.dtype, tensor.role, size)

    def _reduce(self, name: str, ranks: int) -> None:
        self._declare(name, name, ranks, divided=False)
        self._collective(AllReduce, name, f"{name}.partial", name, ranks)

    def _gather(self, name: str, ranks: int) -> None:
        if name not in self.gathered:
            self.gathered.add(name)
            self._declare(f"{name}.whole", name, ranks, divided=False)
            self._collective(AllGather, name, name, f"{name}.whole", ranks)

    def _collective(
        self, kind: type[CollectiveWork], name: str, source: str, target: str, ranks: int
    ) -> None:
        tensor = self.graph.tensors[name]
        self.operators.append(
            Operator(
                f"{name}.{kind.kind}",
                kind(bytes=tensor.size_bytes, group=ranks),
                tuple(f"{source}@{rank}" for rank in range(ranks)),
                tuple(f"{target}@{rank}" for rank in range(ranks)),
                dtype=tensor.dtype,
            )
        )

    def _of_a_rank(
        self, operator: Operator, inputs: Mapping[str, str], partial: bool, split: Split
    ) -> Operator:
        """The operator with what one rank computes, reads and writes, its tensors still named as in the graph."""
        operator = itemised(operator, self.graph.tensors)
        ranks, share = len(split.devices), _rank_share(operator, split)

        def laid(name: str, count: int, part: str, slices: bool = False) -> int:
            mine = in_proportion(
                count, self.tensors[f"{part}@0"].size_bytes, self.graph.tensors[name].size_bytes
            )
            # An operator on divided data reads only its slice of a tensor that is whole on every rank.
            return mine // ranks if slices and not self.divided[name] and split.axis in _ON_DIVIDED else mine

        read = zip((*operator.inputs, *operator.updates), operator.reads, strict=True)
        written = zip((*operator.outputs, *operator.updates), operator.writes, strict=True)
        own = set(operator.inputs)
        made = set(operator.outputs) if partial else set()
        return replace(
            operator,
            work=_work_of_a_rank(operator.work, split, share),
            reads=tuple(laid(name, count, inputs.get(name, name), name in own) for name, count in read),
            writes=tuple(
                laid(name, count, f"{name}.partial" if name in made else name) for name, count in written
            ),
            beside_read=round(operator.beside_read * share),
            beside_written=round(operator.beside_written * share),
        )


def _is_latent(tensor: Tensor, work: Work) -> bool:
    """Whether a cache holds latents, which all heads share, so that every rank keeps them whole: no side is of heads.

    (batch, tokens, width), read by attention or by the product that expands it.
    """
    return tensor.is_cache and len(tensor.shape) == 3 and isinstance(work, Attention | Product)


def _work_of_a_rank(work: Work, split: Split, share: float) -> Work:
    """The work with the sizes of one rank's part."""
    ranks = len(split.devices)
    heads, kv_heads = heads_of(work)
    counts: dict[str, int] = {}
    if split.axis in ("head", "column"):
        counts |= {"heads": max(1, heads // ranks)} if heads else {}
        # With fewer key and value heads than ranks, every rank has one of them whole.
        counts |= {"kv_heads": max(1, kv_heads // ranks)} if kv_heads else {}
    return reduced(work, share, divided_fields(work, split.axis), counts)


def _rank_share(operator: Operator, split: Split) -> float:
    """The part of an operator's work, weight and result that one rank has.

    A projection to query, key and value heads gives a rank its query heads and whole key and value heads, of
    which there may be fewer than ranks; each such head is then computed on several ranks.
    """
    ranks = len(split.devices)
    if split.axis in ("replicated", "sum"):
        return 1.0
    heads, kv_heads = heads_of(operator.work)
    if split.axis != "column" or not 0 < kv_heads < ranks:
        return 1.0 / ranks
    return (heads / ranks + 2.0) / (heads + 2.0 * kv_heads)


def _divided_shape(shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    """The shape with its first divisible side divided; flat when none is."""
    for index, side in enumerate(shape):
        if side % ranks == 0 and side:
            return (*shape[:index], side // ranks, *shape[index + 1 :])
    total = 1
    for side in shape:
        total *= side
    return (-(-total // ranks),)
