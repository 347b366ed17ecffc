"""What a kind of schedule is to the rest: a writer, its usual stages per rank, and what it asks of the counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hw_configs.problems import bad_input
from mapping.training.schedules.action import PipelineSchedule

__all__ = ["ScheduleKind", "insist"]


@dataclass(frozen=True, slots=True)
class ScheduleKind:
    """``write(ranks, micro_batches, stages_per_rank)`` gives the schedule, or raises ``InputError``.

    ``stages_per_rank``: the usual count; ``fixed`` where the schedule knows no other. ``source``: who published it.
    """

    write: Callable[[int, int, int], PipelineSchedule]
    source: str
    stages_per_rank: int = 1
    fixed: bool = True


def insist(holds: bool, name: str, needs: str, found: str) -> None:
    """``InputError`` of one line unless the counts are such that the schedule can take them."""
    if not holds:
        raise bad_input(f"{name} takes {needs}; found {found}", path="pipeline schedule")
