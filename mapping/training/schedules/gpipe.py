"""GPipe: all forwards, then all backwards. Source: arXiv:1811.06965, section 2.3; order as in PyTorch 2.13."""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule, looped
from mapping.training.schedules.kind import ScheduleKind

__all__ = ["GPIPE"]


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    every = range(micro_batches)
    orders = tuple(
        (*(Action(rank, "F", m) for m in every), *(Action(rank, "B", m) for m in every))
        for rank in range(ranks)
    )
    return PipelineSchedule("gpipe", micro_batches, looped(ranks, 1), orders)


GPIPE: Final = ScheduleKind(_write, "GPipe, arXiv:1811.06965")
