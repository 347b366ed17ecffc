"""ZB-H1: no more memory than 1F1B, a third of its bubble.

Source: Zero Bubble Pipeline Parallelism, arXiv:2401.10241, section 2.1 and table 2: with passes of F, I and W seconds
the bubble is (ranks - 1) (F + I - W).
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.kind import ScheduleKind
from mapping.training.schedules.split_backward import split_backward

__all__ = ["ZB_H1"]


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    return split_backward("zb-h1", micro_batches, [ranks - rank for rank in range(ranks)], ranks)


ZB_H1: Final = ScheduleKind(_write, "ZB-H1, arXiv:2401.10241")
