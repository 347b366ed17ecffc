"""Every schedule by name, and the one function that writes them.

Another package adds its own through the entry points ``offchip.pipeline_schedules``: a
:class:`~mapping.training.schedules.kind.ScheduleKind` each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hw_configs.problems import bad_input
from hw_configs.registry import Registry
from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.kind import ScheduleKind
from mapping.training.schedules.run import PackedSchedule, pack

__all__ = ["MOST_ACTIONS", "SCHEDULES", "packed_schedule", "write_schedule"]

_HERE: Final = "mapping.training.schedules"

SCHEDULES: Final[Registry[ScheduleKind]] = Registry(
    "pipeline schedule",
    "offchip.pipeline_schedules",
    {
        "gpipe": f"{_HERE}.gpipe:GPIPE",
        "1f1b": f"{_HERE}.one_forward_one_backward:ONE_FORWARD_ONE_BACKWARD",
        "eager-1f1b": f"{_HERE}.eager_1f1b:EAGER",
        "interleaved-1f1b": f"{_HERE}.interleaved_1f1b:INTERLEAVED",
        "looped-bfs": f"{_HERE}.looped_bfs:LOOPED_BFS",
        "interleaved-zero-bubble": f"{_HERE}.interleaved_zero_bubble:INTERLEAVED_ZERO_BUBBLE",
        "zb-h1": f"{_HERE}.zb_h1:ZB_H1",
        "zb-h2": f"{_HERE}.zb_h2:ZB_H2",
        "zbv-zero-bubble": f"{_HERE}.zb_v:ZB_V",
        "v-half": f"{_HERE}.v_half:V_HALF",
        "v-min": f"{_HERE}.v_min:V_MIN",
        "dualpipe": f"{_HERE}.dualpipe:DUALPIPE",
        "dualpipe-v": f"{_HERE}.dualpipe_v:DUALPIPE_V",
        "chimera": f"{_HERE}.chimera:CHIMERA",
        "1f1b-vocabulary-1": f"{_HERE}.vocabulary:ONE_FORWARD_1",
        "1f1b-vocabulary-2": f"{_HERE}.vocabulary:ONE_FORWARD_2",
        "v-half-vocabulary-1": f"{_HERE}.vocabulary:V_HALF_1",
        "v-half-vocabulary-2": f"{_HERE}.vocabulary:V_HALF_2",
    },
)

MOST_ACTIONS: Final = 20_000_000
"""A schedule of more actions is refused: it would be written for minutes and fill the memory."""


def write_schedule(
    name: str, ranks: int, micro_batches: int, stages_per_rank: int | None = None
) -> PipelineSchedule:
    """The schedule of that name; ``stages_per_rank`` None takes its usual count.

    Raises ``InputError`` of one line for an unknown name and for counts that the schedule cannot take.

    >>> print(write_schedule("1f1b", 2, 3).text())
    0: 0F0 0F1 0B0 0F2 0B1 0B2
    1: 1F0 1B0 1F1 1B1 1F2 1B2
    """
    kind = SCHEDULES.get(name)
    stages = kind.stages_per_rank if stages_per_rank is None else stages_per_rank
    for what, count in (("ranks", ranks), ("micro-batches", micro_batches), ("stages per rank", stages)):
        if count < 1:
            raise bad_input(f"found {count}; expected at least 1", path=what)
    if kind.fixed and stages != kind.stages_per_rank:
        raise bad_input(f"{name} has {kind.stages_per_rank}; found {stages}", path="stages per rank")
    if ranks * micro_batches * stages > MOST_ACTIONS // 3:
        raise bad_input(
            f"{ranks} ranks, {micro_batches} micro-batches and {stages} stages per rank are over "
            f"{MOST_ACTIONS} actions",
            path="pipeline schedule",
        )
    return kind.write(ranks, micro_batches, stages)


@lru_cache(maxsize=64)
def packed_schedule(
    name: str, ranks: int, micro_batches: int, stages_per_rank: int | None = None
) -> PackedSchedule:
    """The same, packed for :func:`~mapping.training.schedules.run.run_schedule`; the last few are kept."""
    return pack(write_schedule(name, ranks, micro_batches, stages_per_rank))
