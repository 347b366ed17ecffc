"""Chimera: two copies of the model, one pipeline down the ranks and one up, whose 1F1B orders fit into each other.

Source: arXiv:2107.06925, section 3. As many micro-batches as ranks make a unit, half of them in each direction; units
follow each other so that the next one's forwards fill the gaps of the one before (direct concatenation), which leaves
ranks - 2 idle slots a rank.
"""

from __future__ import annotations

from typing import Final

from mapping.training.schedules.action import Action, PipelineSchedule
from mapping.training.schedules.kind import ScheduleKind, insist

__all__ = ["CHIMERA"]


def _slots(ranks: int, stage: int, number: int) -> tuple[int, int]:
    """Slots of forward and backward of a unit's ``number``-th micro-batch in one pipeline, all passes one slot long.

    A rank's two stages use slots of unlike parity, and units ``2 ranks`` slots apart use each slot once.
    """
    return stage + 2 * number, 2 * ranks - 1 - stage + 2 * number


def _write(ranks: int, micro_batches: int, _stages: int) -> PipelineSchedule:
    insist(ranks % 2 == 0, "chimera", "an even number of ranks", str(ranks))
    insist(micro_batches % 2 == 0, "chimera", "an even number of micro-batches", str(micro_batches))
    each = micro_batches // 2
    timed: list[list[tuple[int, Action]]] = [[] for _ in range(ranks)]
    for number in range(each):
        unit, within = divmod(number, ranks // 2)
        for stage in range(ranks):
            forward, backward = _slots(ranks, stage, within)
            begin = 2 * ranks * unit
            for rank, copy, micro_batch in (
                (stage, stage, number),
                (ranks - 1 - stage, ranks + stage, each + number),
            ):
                timed[rank].append((begin + forward, Action(copy, "F", micro_batch)))
                timed[rank].append((begin + backward, Action(copy, "B", micro_batch)))
    orders = tuple(tuple(action for _, action in sorted(actions)) for actions in timed)
    layout = (*range(ranks), *reversed(range(ranks)))
    return PipelineSchedule("chimera", micro_batches, layout, orders, replicas=2)


CHIMERA: Final = ScheduleKind(_write, "Chimera, arXiv:2107.06925")
