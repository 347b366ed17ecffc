"""Executes schedule files: from ``offchip-schedule-1`` to the plan of a graph on a scratchpad machine.

A file is held against the graph it is run with before anything is simulated, by the checker that shares no code
with the solvers; what is wrong is said with the operator's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.system import System
from mapping.scheduling.check import check
from mapping.scheduling.lowering import LoweredNotes, to_plan
from mapping.scheduling.problem import problem_from_graph
from mapping.scheduling.schedule_file import FORMAT, MAX_FILE_BYTES, read_schedule
from simulator.plan import Plan
from workloads.graph import Graph

__all__ = ["is_schedule_file", "schedule_planner"]

_SHOWN: Final = 20


def is_schedule_file(path: str | Path) -> bool:
    """Whether a file says that it holds a schedule; False for what cannot be read, which its reader reports."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return False
        return f'"{FORMAT}"'.encode() in path.read_bytes()
    except OSError:
        return False


@dataclass(frozen=True)
class ScheduleFileNotes(LoweredNotes):
    """What the schedule's file says of it, and the scratchpad it is for."""

    schedule: Mapping[str, Any] = field(default_factory=dict)
    scratchpad_bytes: int = 0


def schedule_planner(path: str | Path) -> Callable[[Graph, System], Plan]:
    """What writes the plan of a schedule file for a graph on a system; ``InputError`` when the file is wrong."""
    file = read_schedule(path)

    def plan(graph: Graph, system: System) -> Plan:
        if file.weights not in ("stream", "resident"):
            message = f"found {file.weights!r}; expected 'stream' or 'resident'"
            raise bad_input(message, file=str(path), path="weights")
        problem = problem_from_graph(graph, file.weights, in_place=file.in_place)  # type: ignore[arg-type]
        known = {op.name for op in problem.operators}
        if not known & set(file.schedule.order):
            raise bad_input(
                f"the schedule is for graph {file.graph!r}; this is {graph.name!r}, which has no operator "
                f"{next(iter(file.schedule.order), '')!r}",
                file=str(path),
                path="order",
            )
        violations = check(problem, file.schedule, file.scratchpad_bytes, _SHOWN)
        if violations:
            raise InputError(Problem(v.message, str(path), None, v.kind) for v in violations)
        notes = ScheduleFileNotes(
            file.schedule.cost_bytes,
            problem.weights,
            schedule=dict(file.result),
            scratchpad_bytes=file.scratchpad_bytes,
        )
        return to_plan(graph, problem, file.schedule, system, "schedule file", notes=notes)

    return plan
