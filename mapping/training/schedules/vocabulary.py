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

_BETWEEN: Final = 0.5
"""S and T stand between two slots, at the same time on all ranks."""


def _shares(rank: int, last_forward: Sequence[int], interval: int) -> list[tuple[float, Action]]:
    """S and T of a rank: S behind the slot of the last stage's forward, T an interval later."""
    passes: tuple[tuple[int, Kind], ...] = ((0, "S"), (interval, "T"))
    return [
        (slot + later + _BETWEEN, Action(rank, kind, m))
        for m, slot in enumerate(last_forward)
        for later, kind in passes
    ]


def _one_forward(name: str, ranks: int, micro_batches: int, barriers: int) -> PipelineSchedule:
    """1F1B: forwards and backwards one slot each, two slots an interval."""
    orders = []
    for rank in range(ranks):
        timed = _shares(rank, range(ranks - 1, ranks - 1 + 2 * micro_batches, 2), 2)
        # Warm-up forwards come as early as 1F1B's own, one a slot, as far as the memory of the steady part goes.
        ahead = ranks - rank + barriers
        for m in range(micro_batches):
            timed.append((rank + (m if m < ahead else 2 * m), Action(rank, "F", m)))
            timed.append((2 * ranks - 1 - rank + 2 * (m + barriers), Action(rank, "B", m)))
        orders.append(tuple(action for _, action in sorted(timed)))
    return PipelineSchedule(
        name, micro_batches, looped(ranks, 1), tuple(orders), vocabulary_barriers=barriers
    )


def _v_half(name: str, ranks: int, micro_batches: int, barriers: int) -> PipelineSchedule:
    delay = INTERVAL * barriers
    slots = repeat(v_half_blocks(ranks, delay), micro_batches, delay)
    last_forward = slots[0, 1].tolist()
    return order_of_slots(name, slots, lambda rank: _shares(rank, last_forward, INTERVAL), barriers)


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
