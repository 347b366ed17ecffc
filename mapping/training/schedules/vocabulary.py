"""Vocabulary passes: every rank holds a share of the output layer, whose passes are woven into 1F1B or V-Half.

Source: Vocabulary Parallelism, arXiv:2411.05288. The output layer's two passes, S and T, run on all ranks at once, in
the interval after the last stage's forward and the one after that. Algorithm 1 has two barriers between forward and
backward of the last stage (all S, all T), so a micro-batch lives two intervals longer and a rank holds ranks + 2
micro-batches; Algorithm 2 reduces the input's gradient with S, has one, and holds ranks + 1. The input layer's shares
are small and stay in the first stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mapping.training.schedules.action import Action, Kind, PipelineSchedule, looped
from mapping.training.schedules.building_block import INTERVAL, order_of_slots, repeat
from mapping.training.schedules.kind import ScheduleKind
from mapping.training.schedules.v_half import v_half_blocks

__all__ = ["ONE_FORWARD_1", "ONE_FORWARD_2", "V_HALF_1", "V_HALF_2"]

BACKWARD: Final = 1.75
"""A backward's time over a forward's, by which 1F1B's passes are laid out; where it is 1.5 to 2.4 in truth, the order
costs one or two per cent mostly, and nine at most."""


def _shares(rank: int, last_forward_end: Sequence[float], interval: float) -> list[tuple[float, int, Action]]:
    """S and T of a rank: S of all ranks when the last stage's forward ends, T an interval later; T first, then S."""
    passes: tuple[tuple[float, int, Kind], ...] = ((interval, 0, "T"), (0.0, 1, "S"))
    return [
        (end + later, turn, Action(rank, kind, m))
        for m, end in enumerate(last_forward_end)
        for later, turn, kind in passes
    ]


def _one_forward(name: str, ranks: int, micro_batches: int, barriers: int) -> PipelineSchedule:
    """1F1B: forwards one unit long, backwards ``BACKWARD``, a micro-batch each interval of both."""
    interval = 1.0 + BACKWARD
    ends = [ranks + interval * m for m in range(micro_batches)]
    orders = []
    for rank in range(ranks):
        timed = _shares(rank, ends, interval)
        # Warm-up forwards come as early as 1F1B's own, one after the other, as far as the steady part's memory goes.
        ahead = ranks - rank + barriers
        first_backward = ranks + BACKWARD * (ranks - 1 - rank) + interval * barriers
        for m in range(micro_batches):
            timed.append((rank + m * (1.0 if m < ahead else interval), 2, Action(rank, "F", m)))
            timed.append((first_backward + interval * m, 2, Action(rank, "B", m)))
        orders.append(tuple(action for _, _, action in sorted(timed)))
    return PipelineSchedule(
        name, micro_batches, looped(ranks, 1), tuple(orders), vocabulary_barriers=barriers
    )


def _v_half(name: str, ranks: int, micro_batches: int, barriers: int) -> PipelineSchedule:
    delay = INTERVAL * barriers
    slots = repeat(v_half_blocks(ranks, delay), micro_batches, delay)
    ends = [slot + 1 for slot in slots[0, 1].tolist()]
    return order_of_slots(name, slots, lambda rank: _shares(rank, ends, INTERVAL), barriers)


ONE_FORWARD_1: Final = ScheduleKind(
    lambda ranks, m, _stages: _one_forward("1f1b-vocabulary-1", ranks, m, 2), "Vocab-1, arXiv:2411.05288"
)
ONE_FORWARD_2: Final = ScheduleKind(
    lambda ranks, m, _stages: _one_forward("1f1b-vocabulary-2", ranks, m, 1), "Vocab-2, arXiv:2411.05288"
)
V_HALF_1: Final = ScheduleKind(
    lambda ranks, m, _stages: _v_half("v-half-vocabulary-1", ranks, m, 2), "Vocab-1, arXiv:2411.05288", 2
)
V_HALF_2: Final = ScheduleKind(
    lambda ranks, m, _stages: _v_half("v-half-vocabulary-2", ranks, m, 1), "Vocab-2, arXiv:2411.05288", 2
)
