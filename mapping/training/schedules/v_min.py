"""V-Min: the least activation memory of its family, a third of 1F1B's; its bubble grows when passes differ in time.

Source: arXiv:2405.15362, section 3; the block's slots as in the public implementation of its authors.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.building_block import VBlock, order_of_slots, repeat
from mapping.training.schedules.kind import ScheduleKind

__all__ = ["V_MIN"]


def _blocks(ranks: int) -> list[VBlock]:
    # Where three divides the ranks, the two directions would meet in a slot.
    gap = 2 if ranks % 3 == 0 else 0
    return [
        VBlock(rank, 2 * ranks - rank - 1, 2 * ranks + gap + rank, 4 * ranks + gap - rank - 1)
        for rank in range(ranks)
    ]


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    return order_of_slots("v-min", repeat(_blocks(ranks), micro_batches))


V_MIN: Final = ScheduleKind(_write, "V-Min, arXiv:2405.15362", 2)
