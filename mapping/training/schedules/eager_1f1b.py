"""Eager 1F1B: 1F1B with about twice the forwards ahead, so that a transfer between stages hides behind a pass.

Source: arXiv:2211.05322, section 4: two transfers between neighbours are in flight where 1F1B waits for one, so the
warm-up grows by two forwards a stage from the last one on, instead of by one.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.kind import ScheduleKind
from mapping.training.schedules.one_forward_one_backward import one_forward_one_backward

__all__ = ["EAGER"]


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    warm_up = [2 * (ranks - 1 - rank) + 1 for rank in range(ranks)]
    return one_forward_one_backward("eager-1f1b", micro_batches, warm_up)


EAGER: Final = ScheduleKind(_write, "Alpa's eager-1F1B, arXiv:2211.05322")
