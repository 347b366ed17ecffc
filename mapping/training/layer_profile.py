"""What each kind of layer takes of a rank's step: its passes piece by piece, its states and bytes.

A setup's degrees of tensor, Ulysses, context and expert parallelism and its micro-batch decide what a layer costs; how
many layers a stage has, and how states are shared, only how often. So a model is priced on a copy cut to one layer of
each kind, with the first and the last of its own (they meet embedding and head): the pieces are those that the executed
step is made of (:mod:`mapping.training.stage_passes`), and a stage's pass takes the sum of its layers'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mapping.training.layer_states import LayerStates, states_by_layer
from mapping.training.pricing import Prices
from mapping.training.rank_graph import decoder_of, rank_graph
from mapping.training.rank_step import plain_step
from mapping.training.setup import TrainingSetup
from mapping.training.stage_messages import handed_bytes
from mapping.training.stage_passes import Exchanged, Piece, passes_of
from workloads.graph import Graph, Operator

__all__ = ["LayerPasses", "RankProfile", "picked_layers", "rank_profile", "seconds_of", "with_recomputation"]

WAYS = ("none", "pointwise", "selective", "full")
"""Kinds of recomputation that a profile has."""


@dataclass(frozen=True)
class LayerPasses:
    """One layer's pieces by the kind of action; bytes that its forward pass leaves, and most in each pass above before.

    ``between_bytes``: what is there between the two halves of a backward pass.
    """

    pieces: Mapping[str, tuple[Piece, ...]]
    kept_bytes: int
    between_bytes: int
    forward_peak: int
    backward_peak: int


@dataclass(frozen=True)
class RankProfile:
    """A rank's step by kind of layer: ``kind_of`` has one entry per layer of the model, embedding first, head last."""

    setup: TrainingSetup
    kind_of: tuple[int, ...]
    passes: Mapping[str, tuple[LayerPasses, ...]]
    """By way of recomputation, then by kind."""
    states: tuple[LayerStates, ...]
    optimizer_s: tuple[float, ...]
    handed_bytes: int
    flops: float
    """Of a rank's forward and backward pass over one micro-batch, all layers."""
    graph: Graph

    @property
    def layers(self) -> int:
        """Layers between embedding and head."""
        return len(self.kind_of) - 2


def picked_layers(model: str, dtype: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Layers that stand for all, and which of them stands for each; None for a model that is no plain decoder."""
    decoder = decoder_of(model, dtype)
    if decoder is None or len(decoder.layers) < 1:
        return None
    layers = decoder.layers
    count = len(layers)
    kinds: list[object] = []
    first: list[int] = []
    for number in range(1, count - 1):
        if layers[number] not in kinds:
            kinds.append(layers[number])
            first.append(number)
    picked = (0, *first, count - 1) if count > 1 else (0,)
    stands = tuple(
        0 if number == 0 else len(picked) - 1 if number == count - 1 else 1 + kinds.index(layers[number])
        for number in range(count)
    )
    return picked, stands


def rank_profile(
    setup: TrainingSetup, prices: Prices, picked: tuple[tuple[int, ...], tuple[int, ...]]
) -> RankProfile:
    """The profile of a setup's degrees and micro-batch; ``InputError`` where the model cannot be divided so."""
    layers, stands = picked
    graph = rank_graph(setup, layers)
    head = len(layers)
    states = states_by_layer(graph)
    optimizer = dict.fromkeys(range(-1, head + 1), 0.0)
    flops = dict.fromkeys(range(-1, head + 1), 0.0)
    for op in graph.operators:
        layer = -1 if op.place.layer is None else op.place.layer
        if op.place.training_pass == "optimizer":
            optimizer[layer] += prices.operator(op)
        elif op.place.training_pass in ("forward", "backward"):
            flops[layer] += op.flops
    kind_of = (0, *(number + 1 for number in stands), head + 1)
    passes = {"none": _passes(graph, setup, prices, head, "none")}
    whole = sum(flops[kind - 1] for kind in kind_of)
    by_kind = tuple(states.get(number, LayerStates()) for number in range(-1, head + 1))
    seconds = tuple(optimizer[number] for number in range(-1, head + 1))
    return RankProfile(setup, kind_of, passes, by_kind, seconds, handed_bytes(graph), whole, graph)


def with_recomputation(profile: RankProfile, prices: Prices) -> RankProfile:
    """The same with the passes of every way to recompute."""
    head = len(profile.states) - 2
    passes = {
        way: profile.passes.get(way) or _passes(profile.graph, profile.setup, prices, head, way)
        for way in WAYS
    }
    return replace(profile, passes=passes)


def _passes(
    graph: Graph, setup: TrainingSetup, prices: Prices, head: int, way: str
) -> tuple[LayerPasses, ...]:
    step = plain_step(graph, replace(setup, recompute=way))  # type: ignore[arg-type]
    pieces = passes_of(step, prices, _first_stage, 1, halves=True)[0].pieces
    return tuple(_layer(pieces, number) for number in range(-1, head + 1))


def _first_stage(_: Operator) -> int:
    """A model that is not cut into stages."""
    return 0


def _layer(pieces: Mapping[str, Sequence[Piece]], layer: int) -> LayerPasses:
    """A layer's own pieces, their waits counted from its first."""
    own: dict[str, tuple[Piece, ...]] = {}
    for kind, whole in pieces.items():
        places = [place for place, piece in enumerate(whole) if piece.layer == layer]
        known = {place: number for number, place in enumerate(places)}
        own[kind] = tuple(
            replace(whole[place], waits=tuple(known[w] for w in whole[place].waits if w in known))
            for place in places
        )
    kept, forward = _bytes(own["F"])
    _, backward = _bytes(own["B"])
    more, _ = _bytes(own["I"])
    return LayerPasses(own, kept, kept + more, forward, backward)


def _bytes(pieces: Sequence[Piece]) -> tuple[int, int]:
    """What pieces leave, and the most they take meanwhile."""
    live = most = 0
    for piece in pieces:
        most = max(most, live + piece.take)
        live += piece.take + piece.give
    return live, most


def seconds_of(pieces: Sequence[Piece], exchange: Callable[[Exchanged], float]) -> float:
    """How long a layer's pass takes with all wires to itself: pieces on the streams of their degree, as they wait."""
    free: dict[str, float] = {}
    ends: list[float] = []
    for piece in pieces:
        lane = "" if piece.exchanged is None else piece.exchanged.family
        taken = piece.seconds if piece.exchanged is None else exchange(piece.exchanged)
        begin = max([free.get(lane, 0.0), *(ends[place] for place in piece.waits)])
        free[lane] = begin + taken
        ends.append(free[lane])
    return max(ends, default=0.0)
