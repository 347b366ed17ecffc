"""V-Half: half the activation memory of 1F1B at about half its bubble.

Source: arXiv:2405.15362, section 3; the block's slots as in the public implementation of its authors.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.building_block import VBlock, order_of_slots, repeat
from mapping.training.schedules.kind import ScheduleKind

__all__ = ["V_HALF", "v_half_blocks"]


def v_half_blocks(ranks: int, delay: int = 0) -> list[VBlock]:
    """The building block by rank; ``delay``: slots between the last forward and the first backward beyond its own."""
    # An even number of ranks needs a gap of half an interval, or passes of both directions meet in a slot.
    gap = (3 if ranks % 2 == 0 else 0) + delay
    return [
        VBlock(2 * rank, 3 * ranks - rank - 2, 3 * ranks + gap + 2 * rank - 1, 6 * ranks + gap - rank - 2)
        for rank in range(ranks)
    ]


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    slots: NDArray[np.int64] = repeat(v_half_blocks(ranks), micro_batches)
    return order_of_slots("v-half", slots)


V_HALF: Final = ScheduleKind(_write, "V-Half, arXiv:2405.15362", 2)
