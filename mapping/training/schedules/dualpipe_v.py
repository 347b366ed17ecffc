"""DualPipeV: DualPipe folded into a V, so that each stage is held once.

Source: DeepSeek's DualPipe, its V form; order as in PyTorch 2.13.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import PipelineSchedule, v_shaped
from mapping.training.schedules.kind import ScheduleKind, insist
from mapping.training.schedules.two_ways import two_ways_order

__all__ = ["DUALPIPE_V"]


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    stages = 2 * ranks
    insist(micro_batches >= stages, "dualpipe-v", f"at least {stages} micro-batches, as many as stages",
           str(micro_batches))  # fmt: skip
    found = (two_ways_order(ranks, rank, micro_batches, rank, stages - 1 - rank) for rank in range(ranks))
    orders, pairs = zip(*found, strict=True)
    return PipelineSchedule("dualpipe-v", micro_batches, v_shaped(ranks), orders, pairs=pairs)


DUALPIPE_V: Final = ScheduleKind(_write, "DualPipeV, arXiv:2412.19437", 2)
