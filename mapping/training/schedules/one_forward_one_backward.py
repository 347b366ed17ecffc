"""1F1B: forwards until a micro-batch comes back, then one backward and one forward in turn.

Source: PipeDream-Flush, arXiv:2006.09503, section 3.2; the usual form of Megatron-LM, arXiv:2104.04473, figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule, looped
from mapping.training.schedules.kind import ScheduleKind

__all__ = ["ONE_FORWARD_ONE_BACKWARD", "one_forward_one_backward"]


def one_forward_one_backward(name: str, micro_batches: int, warm_up: Sequence[int]) -> PipelineSchedule:
    """1F1B in which rank ``r`` begins with ``warm_up[r]`` forwards."""
    return PipelineSchedule(
        name,
        micro_batches,
        looped(len(warm_up), 1),
        tuple(_order(rank, micro_batches, first) for rank, first in enumerate(warm_up)),
    )


def _order(rank: int, micro_batches: int, warm_up: int) -> tuple[Action, ...]:
    order = [Action(rank, "F", m) for m in range(min(warm_up, micro_batches))]
    for backward in range(micro_batches):
        order.append(Action(rank, "B", backward))
        if backward + warm_up < micro_batches:
            order.append(Action(rank, "F", backward + warm_up))
    return tuple(order)


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    return one_forward_one_backward("1f1b", micro_batches, [ranks - rank for rank in range(ranks)])


ONE_FORWARD_ONE_BACKWARD: Final = ScheduleKind(_write, "PipeDream-Flush, arXiv:2006.09503")
