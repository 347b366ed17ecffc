"""A pass of a stage as a block of tasks that comes again with every micro-batch, and the layers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mapping.training.layer_states import LayerStates
from mapping.training.schedules.action import Action
from mapping.training.stage_passes import Exchanged, Piece
from simulator.training.program import Block, TaskKind

__all__ = ["PassLayer", "Turn", "WrittenPass", "as_block", "layers_of", "piece_label", "with_updates"]

BlockRow = tuple[int, int, float, float, int, int, int, int, int]
"""Stream, kind, seconds, bytes, route, bytes taken and given, whether it slows computation, and label of a task."""


@dataclass(frozen=True)
class PassLayer:
    """A layer in a pass: its number, its first piece, the last before the pass goes on, and the last of all."""

    number: int
    first: int
    visited: int
    last: int


@dataclass(frozen=True)
class WrittenPass:
    """A pass as a block, with its layers in the order in which it comes to them."""

    block: Block
    layers: tuple[PassLayer, ...]
    exchanged: tuple[Exchanged | None, ...]


def layers_of(pieces: Sequence[Piece]) -> tuple[PassLayer, ...]:
    """Layers of a pass in the order in which it comes to them."""
    found: dict[int, PassLayer] = {}
    for place, piece in enumerate(pieces):
        known = found.get(piece.layer)
        if known is None:
            found[piece.layer] = PassLayer(piece.layer, place, place, place)
        else:
            # Tied weights bring a pass back to a layer for a moment; what it reads there is not gathered again.
            unbroken = known.visited == place - 1
            found[piece.layer] = replace(known, visited=place if unbroken else known.visited, last=place)
    return tuple(found.values())


def piece_label(piece: Piece) -> str:
    """What a timeline calls a piece."""
    what = piece.exchanged.kind if piece.exchanged is not None else piece.kind.name.lower()
    return f"{what}, layer {piece.layer}"


def as_block(rows: Sequence[BlockRow], pieces: Sequence[Piece]) -> Block:
    """Tasks, with the waits of the pieces that they are of."""
    pairs = [(before, after) for after, piece in enumerate(pieces) for before in piece.waits]
    whole = np.array([(row[0], row[1], *row[4:]) for row in rows], np.int64).reshape(-1, 7)
    exact = np.array([row[2:4] for row in rows], np.float64).reshape(-1, 2)
    order = np.array(pairs, np.int64).reshape(-1, 2)
    return Block(
        whole[:, 0], whole[:, 1], exact[:, 0], exact[:, 1], whole[:, 2], whole[:, 3], whole[:, 4], whole[:, 5],
        whole[:, 6], order[:, 0], order[:, 1],
    )  # fmt: skip


def with_updates(
    pieces: Sequence[Piece], states: Mapping[int, LayerStates], optimizer_s: float
) -> tuple[Piece, ...]:
    """A backward pass in which every layer is updated when its gradients are there.

    ``optimizer_s``: seconds of the whole stage's update.
    """
    whole = sum(own.dense.optimizer + own.experts.optimizer for own in states.values())
    last = {piece.layer: place for place, piece in enumerate(pieces)}
    found: list[Piece] = []
    moved: list[int] = []
    for place, piece in enumerate(pieces):
        found.append(replace(piece, waits=tuple(moved[before] for before in piece.waits)))
        own = states.get(piece.layer)
        if last[piece.layer] == place and own is not None:
            share = (own.dense.optimizer + own.experts.optimizer) / max(whole, 1)
            seconds = optimizer_s * share
            found.append(Piece(TaskKind.OPTIMIZER, seconds, None, piece.layer, (len(found) - 1,)))
        moved.append(len(found) - 1)
    return tuple(found)


@dataclass(frozen=True)
class Turn:
    """An action of a rank with its pass; ``final``: the last that makes gradients of its stage."""

    action: Action
    written: WrittenPass
    final: bool
