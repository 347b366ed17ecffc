"""DualPipe: micro-batches enter at both ends of the pipeline, and every rank holds two stages of the model.

Source: DeepSeek-V3, arXiv:2412.19437, section 3.2.1. The model is there twice, once in each direction; half the
micro-batches go through each, the first half through the first.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule
from mapping.training.schedules.kind import ScheduleKind, insist
from mapping.training.schedules.two_ways import two_ways_order

__all__ = ["DUALPIPE"]


def _order(ranks: int, rank: int, micro_batches: int) -> tuple[tuple[Action, ...], frozenset[int]]:
    down, up = rank, ranks + (ranks - 1 - rank)
    near, far = (down, up) if rank < ranks // 2 else (up, down)
    each = micro_batches // 2
    order, pairs = two_ways_order(ranks // 2, min(rank, ranks - 1 - rank), each, near, far)
    own = tuple(a if a.stage < ranks else Action(a.stage, a.kind, a.micro_batch + each) for a in order)
    return own, pairs


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    insist(ranks % 2 == 0, "dualpipe", "an even number of ranks", str(ranks))
    insist(micro_batches % 2 == 0 and micro_batches >= 2 * ranks, "dualpipe",
           f"an even number of at least {2 * ranks} micro-batches, twice the ranks", str(micro_batches))  # fmt: skip
    layout = (*range(ranks), *reversed(range(ranks)))
    orders, pairs = zip(*(_order(ranks, rank, micro_batches) for rank in range(ranks)), strict=True)
    return PipelineSchedule("dualpipe", micro_batches, layout, orders, replicas=2, pairs=pairs)


DUALPIPE: Final = ScheduleKind(_write, "DualPipe, arXiv:2412.19437")
