"""ZB-V: two stages a rank in the shape of a V, halves of the backward pass, the memory of 1F1B, no bubble.

Source: Zero Bubble Pipeline Parallelism, arXiv:2401.10241, section 6; order as in PyTorch 2.13. It is written for as
many micro-batches as fill the pipeline, and those beyond the given count are struck out.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule, v_shaped
from mapping.training.schedules.kind import ScheduleKind
from mapping.training.schedules.passes import Passes

__all__ = ["ZB_V"]


def _order(ranks: int, rank: int, micro_batches: int) -> tuple[Action, ...]:
    down, up = rank, 2 * ranks - 1 - rank
    full = max(2 * ranks - 1, micro_batches)
    passes = Passes()
    for _ in range(2 * (ranks - rank) - 1):
        passes.add(down, "F")
    for _ in range(rank):
        passes.add(up, "F")
        passes.add(down, "F")
    for _ in range(ranks - rank):
        passes.add(up, "F")
        _backward(passes, up)
    while passes.count(up, "F") < full:
        if passes.count(down, "F") < full:
            passes.add(down, "F")
        _backward(passes, down)
        passes.add(up, "F")
        _backward(passes, up)
    for _ in range(rank):
        passes.add(down, "I")
        passes.add(up, "I")
    for _ in range(ranks - rank):
        _backward(passes, down)
    for stage in (up, down):
        while passes.count(stage, "W") < passes.count(stage, "I"):
            passes.add(stage, "W")
    return tuple(action for action in passes.order if action.micro_batch < micro_batches)


def _backward(passes: Passes, stage: int) -> None:
    passes.add(stage, "I")
    passes.add(stage, "W")


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    orders = tuple(_order(ranks, rank, micro_batches) for rank in range(ranks))
    return PipelineSchedule("zbv-zero-bubble", micro_batches, v_shaped(ranks), orders)


ZB_V: Final = ScheduleKind(_write, "ZB-V, arXiv:2401.10241", 2)
