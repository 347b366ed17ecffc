"""Draws a schedule: steps across, addresses up, one rectangle per stay of a tensor."""

from __future__ import annotations

from pathlib import Path

from mapping.allocation.picture import draw
from mapping.allocation.problem import AllocationProblem, Buffer
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import ScheduleResult

__all__ = ["draw_schedule"]


def draw_schedule(problem: ScheduleProblem, result: ScheduleResult, path: Path) -> None:
    """Write the picture as SVG or PNG, after the path's suffix. Raises ``InputError`` without matplotlib."""
    rows = [(s.tensor, s.start, s.end, s.size_bytes, s.offset) for s in result.residences]
    step = {name: at for at, name in enumerate(result.order)}
    for name, offset in result.workspaces.items():
        size = problem.operators[problem.operator_index[name]].workspace_bytes
        rows.append((f"workspace of {name}", step[name], step[name] + 1, size, offset))
    buffers = AllocationProblem.of(
        [Buffer(name, start, end, size) for name, start, end, size, _ in rows], f"{problem.name}: schedule"
    )
    draw(buffers, [row[4] for row in rows], path, capacity=result.scratchpad_bytes)
