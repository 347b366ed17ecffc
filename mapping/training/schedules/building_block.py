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
    # After the last micro-batch has entered, weight halves make way for the others as far as memory allows.
    while _move_late(slots, delay):
        pass
    _fill(slots)
    return slots


def order_of_slots(
    name: str,
    slots: NDArray[np.int64],
    extra: Callable[[int], list[tuple[float, int, Action]]] = lambda _rank: [],
    barriers: int = 0,
) -> PipelineSchedule:
    """The schedule in the order of the slots; ``extra``: a rank's further passes, each before its slot."""
    ranks, _, micro_batches = slots.shape
    orders: list[tuple[Action, ...]] = []
    for rank in range(ranks):
        stages = (rank, 2 * ranks - 1 - rank)
        timed = extra(rank)
        for row, kind in enumerate(_KINDS):
            stage = stages[_STAGE_OF[row]]
            timed += [(slot, 2, Action(stage, kind, m)) for m, slot in enumerate(slots[rank, row].tolist())]
        orders.append(tuple(action for _, _, action in sorted(timed)))
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
def _earliest(slots: Any, delay: Any, rank: Any, row: Any, m: Any) -> Any:
    """The first slot after all that a pass waits for, the micro-batch before it included."""
    ranks = len(slots)
    begin = 0
    if m > 0:
        begin = slots[rank, row, m - 1] + 1
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
    return begin


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
        begin = _earliest(slots, delay, rank, row, m)
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


@compiled
def _most_live(taken: Any) -> Any:
    """Most that a rank holds with weight halves in its first free slots. ``taken``: 0 free, 1 F, 2 an input half."""
    live = most = owed = 0
    for what in taken:
        if what == 1:
            live += 1
        elif what == 2:
            owed += 1
        elif owed > 0:
            owed -= 1
            live -= 1
        most = max(most, live)
    return most


@compiled
def _move_late(slots: Any, delay: Any) -> Any:
    """Like :func:`_move` for forwards and input halves after the last entry, as if weight halves were not there yet."""
    ranks, rows, count = slots.shape
    last = slots.max() + 1
    taken = np.zeros((ranks, last), np.int64)
    for rank in range(ranks):
        for row in range(4):
            for m in range(count):
                taken[rank, slots[rank, row, m]] = 1 if row < 2 else 2
    most = 0
    for rank in range(ranks):
        most = max(most, _most_live(taken[rank]))
    entered = slots[0, 0, count - 1]
    moved = 0
    flat = slots.reshape(-1)
    for place in np.argsort(flat, kind="mergesort"):
        rank, row, m = place // (rows * count), place // count % rows, place % count
        now = flat[place]
        if row >= 4 or now <= entered:
            continue
        for slot in range(max(_earliest(slots, delay, rank, row, m), entered + 1), now):
            if taken[rank, slot] == 0:
                taken[rank, slot], taken[rank, now] = taken[rank, now], 0
                if _most_live(taken[rank]) <= most:
                    flat[place] = slot
                    moved += 1
                    break
                taken[rank, slot], taken[rank, now] = 0, taken[rank, slot]
    return moved
