"""A schedule from one micro-batch's passes, repeated at a fixed interval and moved up into free slots.

Source: Pipeline Parallelism with Controllable Memory, arXiv:2405.15362: the passes of one micro-batch, a *building
block* of slots all equally long, repeat every interval; how long a micro-batch lives over the interval is the memory of
all. Two stages a rank in the shape of a V; weight halves go where a rank has nothing else to do. Before the first
micro-batch is through and after the last has entered, passes move to earlier slots as far as the block's memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.training.schedules.action import Action, Kind, PipelineSchedule, v_shaped

__all__ = ["INTERVAL", "VBlock", "order_of_slots", "repeat"]

INTERVAL: Final = 6
"""Slots between micro-batches: two stages of a rank with a forward and two halves of a backward each."""

_KINDS: Final[tuple[Kind, ...]] = ("F", "F", "I", "I", "W", "W")
_DOWN, _UP = 0, 1
_STAGE_OF: Final = (_DOWN, _UP, _UP, _DOWN, _UP, _DOWN)
"""Which of a rank's stages a row of slots is of: forwards down and up, then backwards from the last stage on."""


@dataclass(frozen=True, slots=True)
class VBlock:
    """Slots of the first micro-batch on a rank: forwards down and up, input halves up and down."""

    forward_down: int
    forward_up: int
    input_up: int
    input_down: int


def repeat(blocks: Sequence[VBlock], micro_batches: int, delay: int = 0) -> NDArray[np.int64]:
    """Slots by rank, row (two F, two I, two W) and micro-batch, after all moves.

    ``delay``: slots that stay between the last stage's forward and its backward.
    """
    first = np.array([[b.forward_down, b.forward_up, b.input_up, b.input_down] for b in blocks], np.int64)
    slots = np.full((len(blocks), 6, micro_batches), -1, np.int64)
    slots[:, :4] = first[:, :, None] + INTERVAL * np.arange(micro_batches)
    _fill(slots)
    while _move(slots, delay):
        pass
    return slots


def order_of_slots(
    name: str,
    slots: NDArray[np.int64],
    extra: Callable[[int], list[tuple[float, Action]]] = lambda _rank: [],
    barriers: int = 0,
) -> PipelineSchedule:
    """The schedule in the order of the slots; ``extra``: a rank's further passes, each with its place among them."""
    ranks, _, micro_batches = slots.shape
    orders: list[tuple[Action, ...]] = []
    for rank in range(ranks):
        stages = (rank, 2 * ranks - 1 - rank)
        timed = extra(rank)
        for row, kind in enumerate(_KINDS):
            stage = stages[_STAGE_OF[row]]
            timed += [(slot, Action(stage, kind, m)) for m, slot in enumerate(slots[rank, row].tolist())]
        orders.append(tuple(action for _, action in sorted(timed)))
    return PipelineSchedule(name, micro_batches, v_shaped(ranks), tuple(orders), vocabulary_barriers=barriers)


@compiled
def _fill(slots: Any) -> None:
    """Weight halves: the oldest input half first, each in the rank's first free slot after it."""
    ranks, _, count = slots.shape
    for rank in range(ranks):
        last = 0
        for row in range(4):
            last = max(last, slots[rank, row, count - 1])
        # What a slot holds: 1 a pass, 2 or 3 an input half (up, down), 0 nothing.
        held = np.zeros(last + 4 * count + 4, np.int64)
        for row in range(4):
            for m in range(count):
                held[slots[rank, row, m]] = 1 if row < 2 else row
        queue = np.zeros(2 * count, np.int64)
        begin = end = 0
        done = np.zeros(2, np.int64)
        slot = 0
        while begin < 2 * count:
            if held[slot] >= 2:
                queue[end] = held[slot] - 2
                end += 1
            elif held[slot] == 0 and begin < end:
                which = queue[begin]
                slots[rank, 4 + which, done[which]] = slot
                done[which] += 1
                begin += 1
            slot += 1


@compiled
def _move(slots: Any, delay: Any) -> Any:
    """One walk over all passes in time, each to the first free slot that its inputs and the memory allow; how many."""
    ranks, rows, count = slots.shape
    last = slots.max() + 1
    free = np.ones((ranks, last), np.bool_)
    live = np.zeros((ranks, last + 1), np.int64)
    for rank in range(ranks):
        for row in range(rows):
            for m in range(count):
                slot = slots[rank, row, m]
                free[rank, slot] = False
                if row < 2:
                    live[rank, slot] += 1
                elif row >= 4:
                    live[rank, slot + 1] -= 1
        for slot in range(1, last + 1):
            live[rank, slot] += live[rank, slot - 1]
    most = live.max()
    moved = 0
    flat = slots.reshape(-1)
    for place in np.argsort(flat, kind="mergesort"):
        rank, row, m = place // (rows * count), place // count % rows, place % count
        now = flat[place]
        begin = 0
        if m > 0:
            begin = max(begin, slots[rank, row, m - 1] + 1)
        if 0 < row < 4:
            begin = max(begin, slots[rank, row - 1, m] + 1)
        elif row >= 4:
            begin = max(begin, slots[rank, row - 2, m] + 1)
        if row == 2 and rank == 0:
            begin = max(begin, slots[rank, 1, m] + 1 + delay)
        if (row == 0 or row == 2) and rank > 0:
            begin = max(begin, slots[rank - 1, row, m] + 1)
        if (row == 1 or row == 3) and rank + 1 < ranks:
            begin = max(begin, slots[rank + 1, row, m] + 1)
        target = now
        # From its slot backwards: a forward can go as far as the memory between has room for one more.
        for slot in range(now - 1, begin - 1, -1):
            if row < 2 and live[rank, slot] >= most:
                break
            if free[rank, slot]:
                target = slot
        if target < now:
            moved += 1
            flat[place] = target
            free[rank, target], free[rank, now] = False, True
            if row < 2:
                for slot in range(target, now):
                    live[rank, slot] += 1
            elif row >= 4:
                for slot in range(target + 1, now + 1):
                    live[rank, slot] -= 1
    return moved
