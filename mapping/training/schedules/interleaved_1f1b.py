"""Interleaved 1F1B: several looped stages a rank, which cuts the time until the last rank has work.

Source: Megatron-LM, arXiv:2104.04473, section 2.2; order as in PyTorch 2.13, with any count of equal rounds.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule, looped
from mapping.training.schedules.interleaving import Rounds, rounds_of
from mapping.training.schedules.kind import ScheduleKind

__all__ = ["INTERLEAVED"]


def _order(rounds: Rounds, rank: int) -> tuple[Action, ...]:
    warm_up = rounds.warm_up(rank, per_hop=2)
    order = [rounds.action(rank, "F", number) for number in range(warm_up)]
    for backward in range(rounds.passes):
        if backward + warm_up < rounds.passes:
            order.append(rounds.action(rank, "F", backward + warm_up))
        order.append(rounds.action(rank, "B", backward))
    return tuple(order)


def _write(ranks: int, micro_batches: int, stages_per_rank: int) -> PipelineSchedule:
    rounds = rounds_of("interleaved-1f1b", ranks, micro_batches, stages_per_rank)
    orders = tuple(_order(rounds, rank) for rank in range(ranks))
    return PipelineSchedule("interleaved-1f1b", micro_batches, looped(ranks, stages_per_rank), orders)


INTERLEAVED: Final = ScheduleKind(_write, "Megatron-LM, arXiv:2104.04473", 2, fixed=False)
