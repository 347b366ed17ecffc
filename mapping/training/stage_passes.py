"""The passes of a pipeline stage over one micro-batch, piece by piece: computation, exchanges, and the bytes they hold.

A pass is cut where a layer ends and where an exchange stands in the way of computation. The ring of context parallelism
is cut step by step: while attention works on one block of keys, the next one is on its way (Ring Attention,
arXiv:2310.01889); the first block is the rank's own. A backward pass can be had whole or as its two halves, the
gradients of the stage's input and those of its weights (arXiv:2401.10241); what only weights' gradients read, such
as a gathered input, belongs to them.

Bytes are those of :mod:`mapping.training.requests`: a piece takes at its start the most that lives inside it beyond
what lived before, and gives back at its end what does not live on, so that forward and backward pass together leave
nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mapping.training.pricing import Prices
from mapping.training.rank_step import RankStep
from mapping.training.requests import GRANULE_BYTES, held_names, workspace_bytes
from mapping.training.setup import TrainingSetup
from simulator.training.program import TaskKind
from workloads.graph import Graph, Operator
from workloads.operators import Attention, CollectiveWork, Norm

__all__ = ["Exchanged", "Piece", "StagePasses", "passes_of", "vocabulary_names", "vocabulary_passes"]

_KIND: Final = {
    "forward": TaskKind.FORWARD, "backward": TaskKind.BACKWARD, "recompute": TaskKind.RECOMPUTE,
}  # fmt: skip
_FAMILY_KIND: Final = {
    "tensor": TaskKind.TENSOR, "context": TaskKind.SEQUENCE, "ulysses": TaskKind.SEQUENCE, "expert": TaskKind.EXPERT,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A collective of a rank's group: the degree whose group it is, its kind, the bytes of its whole buffer."""

    family: str
    kind: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Computation of so many seconds, or an exchange; ``waits`` are earlier pieces of the same pass."""

    kind: TaskKind
    seconds: float
    exchanged: Exchanged | None
    layer: int
    waits: tuple[int, ...] = ()
    take: int = 0
    give: int = 0
    stores: int = 0
    """Bytes of swapped tensors that can leave at its end."""


@dataclass(frozen=True, slots=True)
class StagePasses:
    """One stage's passes by the kind of action, F with B or F with I and W, and seconds of its whole optimizer."""

    pieces: dict[str, tuple[Piece, ...]]
    optimizer_s: float


def passes_of(
    step: RankStep,
    prices: Prices,
    stage: Callable[[Operator], int],
    stages: int,
    *,
    halves: bool,
    without: frozenset[str] = frozenset(),
) -> list[StagePasses]:
    """The passes of every stage; ``halves`` adds I and W, the two halves of the backward pass.

    ``without`` names operators that belong to no stage.
    """
    graph = step.graph
    forward: list[list[Operator]] = [[] for _ in range(stages)]
    backward: list[list[Operator]] = [[] for _ in range(stages)]
    optimizer = [0.0] * stages
    for op in graph.operators:
        which, number = op.place.training_pass, stage(op)
        if op.name in without:
            continue
        if which == "optimizer":
            optimizer[number] += prices.operator(op)
        else:
            (forward if which == "forward" else backward)[number].append(op)
    forward, backward = ([_with_rings_at_attention(ops) for ops in part] for part in (forward, backward))
    held = held_names(graph) | step.elsewhere
    weight_halves = _weight_halves(graph, held_names(graph)) if halves else frozenset()
    found = []
    for number in range(stages):
        parts = {"F": forward[number], "B": backward[number]}
        pieces = _pieces(step, prices, parts, held)
        if halves:
            parts = {
                "F": forward[number],
                "I": [op for op in backward[number] if op.name not in weight_halves],
                "W": [op for op in backward[number] if op.name in weight_halves],
            }
            pieces |= _pieces(step, prices, parts, held)
        found.append(StagePasses(pieces, optimizer[number]))
    return found


def vocabulary_passes(step: RankStep, prices: Prices, ranks: int) -> dict[str, tuple[Piece, ...]]:
    """S and T of a rank that holds a share of the output layer (Vocabulary Parallelism, arXiv:2411.05288).

    S is everything between the last norm and its backward pass that the forward pass does, T what the backward pass
    does; a rank computes and holds its share, but the layer's input whole.
    """
    graph, own = step.graph, vocabulary_names(step.graph)
    parts = {
        kind: [op for op in graph.operators if op.name in own and op.place.training_pass == which]
        for kind, which in (("S", "forward"), ("T", "backward"))
    }
    pieces = _pieces(step, prices, parts, held_names(graph) | step.elsewhere)
    return {kind: tuple(_share(whole, ranks)) for kind, whole in pieces.items()}


def vocabulary_names(graph: Graph) -> frozenset[str]:
    """Operators of the output layer: those of the head behind its norm, and before that norm's backward pass."""
    head = max((op.place.layer for op in graph.operators if op.place.layer is not None), default=0)
    own = [
        op
        for op in graph.operators
        if op.place.layer == head and op.place.training_pass in ("forward", "backward")
    ]
    norms = [place for place, op in enumerate(own) if isinstance(op.work, Norm)]
    forward = [place for place in norms if own[place].place.training_pass == "forward"]
    backward = [place for place in norms if own[place].place.training_pass == "backward"]
    return frozenset(op.name for op in own[max(forward, default=-1) + 1 : min(backward, default=len(own))])


def _share(pieces: Sequence[Piece], ranks: int) -> Iterator[Piece]:
    """Pieces of one of so many equal ranks: bytes are rounded so that they still add up."""
    live = 0
    for piece in pieces:
        before, most, after = live, live + piece.take, live + piece.take + piece.give
        live = after
        take, give = most // ranks - before // ranks, after // ranks - most // ranks
        yield replace(piece, seconds=piece.seconds / ranks, take=take, give=give)


def _weight_halves(graph: Graph, held: frozenset[str]) -> frozenset[str]:
    """Operators of backward passes that nothing but gradients of weights comes from."""
    found: set[str] = set()
    for op in reversed(graph.operators):
        if op.place.training_pass != "backward" or not op.outputs:
            continue
        gradients = all(name in held for name in op.outputs)
        readers = {reader for name in op.outputs for reader in graph.consumers[name]}
        if gradients or (readers and readers <= found):
            found.add(op.name)
    return frozenset(found)


def _pieces(
    step: RankStep, prices: Prices, parts: dict[str, list[Operator]], held: frozenset[str]
) -> dict[str, tuple[Piece, ...]]:
    """All passes of a stage, their bytes counted over the passes in order."""
    order = [op for operators in parts.values() for op in operators]
    live = _Live(step.graph, order, held)
    stored = _stored(step, parts.get("F", ()))
    found: dict[str, tuple[Piece, ...]] = {}
    for kind, operators in parts.items():
        pieces: list[Piece] = []
        for run in _runs(operators, stored):
            before = live.bytes
            most = before
            for op in run:
                most = max(most, live.run(op))
            made = list(_written(run, step.setup, prices, len(pieces)))
            made[0] = replace(made[0], take=most - before)
            made[-1] = replace(made[-1], give=live.bytes - most, stores=stored.get(run[-1].name, 0))
            pieces += made
        found[kind] = tuple(pieces)
    return found


def _stored(step: RankStep, forward: Sequence[Operator]) -> dict[str, int]:
    """Bytes of swapped tensors by the operator that writes them last in the forward pass: they leave right then."""
    last: dict[str, str] = {}
    for op in forward:
        for name in (*op.outputs, *op.updates):
            if name in step.elsewhere:
                last[name] = op.name
    found: dict[str, int] = {}
    for name, maker in last.items():
        found[maker] = found.get(maker, 0) + step.graph.tensors[name].size_bytes
    return found


class _Live:
    """Bytes that live after each operator of a stage, walked in order."""

    def __init__(self, graph: Graph, order: Sequence[Operator], held: frozenset[str]) -> None:
        self.graph, self.held, self.bytes = graph, held, 0
        self.last: dict[str, int] = {}
        self.known: set[str] = set()
        self.place = 0
        for index, op in enumerate(order):
            for name in (*op.inputs, *op.updates, *op.outputs):
                self.last[name] = index

    def run(self, op: Operator) -> int:
        """The most that lives while an operator runs."""
        touched = dict.fromkeys((*op.inputs, *op.updates, *op.outputs))
        for name in touched:
            if name not in self.held and name not in self.known:
                self.known.add(name)
                self.bytes += self._size(name)
        scratch = workspace_bytes(op)
        most = self.bytes + (-(-scratch // GRANULE_BYTES) * GRANULE_BYTES if scratch else 0)
        for name in touched:
            if name in self.known and self.last[name] == self.place:
                self.bytes -= self._size(name)
        self.place += 1
        return most

    def _size(self, name: str) -> int:
        return max(-(-self.graph.tensors[name].size_bytes // GRANULE_BYTES), 1) * GRANULE_BYTES


def _runs(operators: Sequence[Operator], stored: Container[str]) -> Iterator[list[Operator]]:
    """Operators that become one piece, an exchange each by itself, and a ring's exchange with its attention.

    A piece ends with an operator in ``stored``.
    """
    run: list[Operator] = []
    for op in operators:
        place, which = op.place.layer, op.place.training_pass
        elsewhere = bool(run) and (run[-1].place.layer, run[-1].place.training_pass) != (place, which)
        ringed = bool(run) and _is_ring(run[0])
        if run and not ringed and (elsewhere or _exchanges(op) or _exchanges(run[0])):
            yield run
            run = []
        run.append(op)
        if ringed or (op.name in stored and op.place.training_pass == "forward"):
            yield run
            run = []
    if run:
        yield run


def _with_rings_at_attention(operators: Sequence[Operator]) -> list[Operator]:
    """The operators in order, but a ring's exchange right before the attention that works beside it."""
    found: list[Operator] = []
    waiting: list[Operator] = []
    for op in operators:
        if _is_ring(op):
            waiting.append(op)
            continue
        if waiting and isinstance(op.work, Attention):
            found.append(waiting.pop(0))
        found.append(op)
    return found + waiting


def _exchanges(op: Operator) -> bool:
    return isinstance(op.work, CollectiveWork) and bool(op.work.parallel)


def _is_ring(op: Operator) -> bool:
    return isinstance(op.work, CollectiveWork) and op.work.parallel == "context"


def _written(run: list[Operator], setup: TrainingSetup, prices: Prices, first: int) -> Iterator[Piece]:
    """The pieces of a run; ``first`` is the number of its first piece in its pass."""
    lead = run[0]
    layer = -1 if lead.place.layer is None else lead.place.layer
    before = (first - 1,) if first else ()
    if _is_ring(lead):
        yield from _ring(run, setup, prices, first)
        return
    if _exchanges(lead):
        assert isinstance(lead.work, CollectiveWork)
        family = lead.work.parallel
        exchanged = Exchanged(family, lead.kind, lead.work.bytes)
        yield Piece(_FAMILY_KIND[family], 0.0, exchanged, layer, before)
        return
    seconds = sum(prices.operator(op) for op in run)
    yield Piece(_KIND[lead.place.training_pass], seconds, None, layer, before)


def _ring(run: list[Operator], setup: TrainingSetup, prices: Prices, first: int) -> Iterator[Piece]:
    """Attention over all blocks of keys, with the way that they come by."""
    lead, others = run[0], run[1:]
    assert isinstance(lead.work, CollectiveWork)
    layer = -1 if lead.place.layer is None else lead.place.layer
    kind, count, size = _KIND[lead.place.training_pass], setup.context, lead.work.bytes
    seconds = sum(prices.operator(op) for op in others)
    before = (first - 1,) if first else ()
    backward = kind is TaskKind.BACKWARD
    if setup.context_exchange == "all-gather":
        # Keys and values come at once; their gradients are summed at the end.
        part = size // 2 if backward else size
        yield Piece(TaskKind.SEQUENCE, 0.0, Exchanged("context", "all_gather", part), layer, before)
        yield Piece(kind, seconds, None, layer, (first,))
        if backward:
            yield Piece(
                TaskKind.SEQUENCE, 0.0, Exchanged("context", "reduce_scatter", part), layer, (first + 1,)
            )
        return
    block = size // count
    yield Piece(kind, seconds / count, None, layer, before)
    for turn in range(1, count):
        # A block may come while the one before it is worked on, into the buffer of the one before that.
        sent, worked = first + 2 * turn - 1, first + 2 * turn
        waits = (worked - 4,) if turn > 1 else before
        yield Piece(TaskKind.SEQUENCE, 0.0, Exchanged("context", "pass", block), layer, waits)
        yield Piece(kind, seconds / count, None, layer, (sent, worked - 2))
