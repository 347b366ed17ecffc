"""ZB-H2: twice the memory of 1F1B, and no bubble where the three passes take the same time.

Source: Zero Bubble Pipeline Parallelism, arXiv:2401.10241, section 2.2 and table 2: the bubble, from a rank's first
pass to its last, is (ranks - 1) (F + I - 2 W).
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.kind import ScheduleKind
from mapping.training.schedules.split_backward import split_backward

__all__ = ["ZB_H2"]


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    warm_up = [2 * (ranks - 1 - rank) + 1 for rank in range(ranks)]
    return split_backward("zb-h2", micro_batches, warm_up, 2 * ranks - 1)


ZB_H2: Final = ScheduleKind(_write, "ZB-H2, arXiv:2401.10241")
