"""Looped BFS: every stage of a rank runs all its micro-batches before the next stage does; backwards in reverse.

Source: Breadth-First Pipeline Parallelism, arXiv:2211.05953; order as in PyTorch 2.13.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule, looped
from mapping.training.schedules.kind import ScheduleKind

__all__ = ["LOOPED_BFS"]


def _write(ranks: int, micro_batches: int, stages_per_rank: int) -> PipelineSchedule:
    def order(rank: int) -> tuple[Action, ...]:
        forwards = [
            Action(stage, "F", m)
            for stage in range(rank, ranks * stages_per_rank, ranks)
            for m in range(micro_batches)
        ]
        return (*forwards, *(Action(a.stage, "B", a.micro_batch) for a in reversed(forwards)))

    layout = looped(ranks, stages_per_rank)
    return PipelineSchedule("looped-bfs", micro_batches, layout, tuple(map(order, range(ranks))))


LOOPED_BFS: Final = ScheduleKind(
    _write, "Breadth-First Pipeline Parallelism, arXiv:2211.05953", 2, fixed=False
)
