"""Interleaved zero bubble: looped stages, backward passes in halves, the weights' half where a rank would wait.

Source: Zero Bubble Pipeline Parallelism, arXiv:2401.10241 (ZB1P, several stages a rank); order as in PyTorch 2.13: half
the warm-up of interleaved 1F1B, and rank ``r`` is ``r`` weight halves behind.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule, looped
from mapping.training.schedules.interleaving import Rounds, rounds_of
from mapping.training.schedules.kind import ScheduleKind

__all__ = ["INTERLEAVED_ZERO_BUBBLE"]


def _order(rounds: Rounds, rank: int) -> tuple[Action, ...]:
    warm_up = rounds.warm_up(rank, per_hop=1)
    order = [rounds.action(rank, "F", number) for number in range(warm_up)]
    for backward in range(rounds.passes):
        if backward + warm_up < rounds.passes:
            order.append(rounds.action(rank, "F", backward + warm_up))
        order.append(rounds.action(rank, "I", backward))
        if backward >= rank:
            order.append(rounds.action(rank, "W", backward - rank))
    behind = max(0, rounds.passes - rank)
    order += [rounds.action(rank, "W", number) for number in range(behind, rounds.passes)]
    return tuple(order)


def _write(ranks: int, micro_batches: int, stages_per_rank: int) -> PipelineSchedule:
    rounds = rounds_of("interleaved-zero-bubble", ranks, micro_batches, stages_per_rank)
    orders = tuple(_order(rounds, rank) for rank in range(ranks))
    return PipelineSchedule("interleaved-zero-bubble", micro_batches, looped(ranks, stages_per_rank), orders)


INTERLEAVED_ZERO_BUBBLE: Final = ScheduleKind(
    _write, "Zero Bubble Pipeline Parallelism, arXiv:2401.10241", 2, fixed=False
)
