"""Scratchpad scheduling: operator order, residency and addresses with the least off-chip traffic.

``solve`` finds a schedule and says what it proved, ``check`` is the independent judge of any schedule,
``least_peak`` finds M_P and ``BASELINES`` are the schemes to compare with. Heavy parts load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mapping.scheduling.check import Violation, check
from mapping.scheduling.problem import (
    InPlace,
    ScheduleOperator,
    ScheduleProblem,
    ScheduleTensor,
    problem_from_graph,
)
from mapping.scheduling.result import PeakResult, Residence, Schedule, ScheduleResult, Transfer

if TYPE_CHECKING:
    from mapping.scheduling.baselines import BASELINES
    from mapping.scheduling.orders import least_peak
    from mapping.scheduling.schedule_file import read_schedule, write_schedule
    from mapping.scheduling.solving import solve

__all__ = [
    "BASELINES",
    "InPlace",
    "PeakResult",
    "Residence",
    "Schedule",
    "ScheduleOperator",
    "ScheduleProblem",
    "ScheduleResult",
    "ScheduleTensor",
    "Transfer",
    "Violation",
    "check",
    "least_budget",
    "least_peak",
    "problem_from_graph",
    "read_schedule",
    "solve",
    "write_schedule",
]

_LAZY = {
    "BASELINES": "baselines",
    "least_peak": "orders",
    "read_schedule": "schedule_file",
    "write_schedule": "schedule_file",
    "solve": "solving",
}


def least_budget(problem: ScheduleProblem) -> int:
    """M_R: the largest need of one operator, the smallest scratchpad that has a schedule."""
    return problem.least_budget


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"mapping.scheduling.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
