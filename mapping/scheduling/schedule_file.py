"""Schedules as JSON files of the format ``offchip-schedule-1`` (see ``docs/scheduling.md``).

A schedule knows no machine: it says in which order operators run, where in a scratchpad of so many bytes each
tensor lies when, and what moves over its edge. Executing one on a machine is for ``simulate --plan``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hw_configs.output_file import replacing
from hw_configs.problems import InputError, Problem, bad_input, nearest
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import Residence, Schedule, ScheduleResult, Transfer
from workloads.json_file import read_json

__all__ = ["FORMAT", "ScheduleFile", "read_schedule", "schedule_json", "write_schedule"]

FORMAT: Final = "offchip-schedule-1"
MAX_FILE_BYTES: Final = 256 * 2**20
_KEYS: Final = (
    "format", "graph", "weights", "in_place", "scratchpad_bytes", "result", "order", "residences", "workspaces",
    "transfers",
)  # fmt: skip
_RESIDENCE: Final = {"tensor": str, "start": int, "end": int, "offset": int, "size_bytes": int}
_TRANSFER: Final = {"tensor": str, "step": int, "size_bytes": int, "kind": str}
_KINDS: Final = ("load", "retrieve", "spill", "store")


@dataclass(frozen=True)
class ScheduleFile:
    """What a schedule file holds: the schedule, the graph's name, how weights are treated, and the budget."""

    graph: str
    weights: str
    scratchpad_bytes: int
    schedule: Schedule
    result: Mapping[str, Any]
    in_place: bool = False
    """Whether element-wise operators may write over their inputs."""


def schedule_json(problem: ScheduleProblem, result: ScheduleResult) -> dict[str, Any]:
    """The file's content as plain data; raises ``ValueError`` for a result without a schedule."""
    schedule = result.schedule
    if schedule is None:
        raise ValueError("there is no schedule to write")
    return {
        "format": FORMAT,
        "graph": problem.name,
        "weights": problem.weights,
        **({"in_place": True} if problem.in_place else {}),
        "scratchpad_bytes": result.scratchpad_bytes,
        "result": {
            "status": result.status,
            "method": result.method,
            "engine": result.engine,
            "objective": result.objective,
            "cost_bytes": result.cost_bytes,
            "bound_bytes": result.bound_bytes,
            "peak_bytes": result.peak_bytes,
            "seed": result.seed,
        },
        "order": list(schedule.order),
        "residences": [asdict(stay) for stay in schedule.residences],
        "workspaces": dict(schedule.workspaces),
        "transfers": [asdict(move) for move in schedule.transfers],
    }


def write_schedule(problem: ScheduleProblem, result: ScheduleResult, path: str | Path) -> None:
    """Write a result's schedule, one residence or transfer to a line; whole or not at all."""
    data = schedule_json(problem, result)
    parts = []
    for key, value in data.items():
        if key in ("order", "residences", "transfers"):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            parts.append(f' "{key}": [\n{rows}\n ]' if value else f' "{key}": []')
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    with replacing(path) as part:
        part.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_schedule(path: str | Path) -> ScheduleFile:
    """The schedule in a file; ``InputError`` with every problem of its form.

    Whether it is right for a graph is for :func:`mapping.scheduling.check.check` to say.
    """
    document = read_json(path, MAX_FILE_BYTES)
    data, file = document.data, document.file
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise bad_input(
            f"found {found!r}; expected a schedule of format {FORMAT!r}", file=file, path="format"
        )
    problems = [
        Problem(f"unknown key {key!r}", file, document.line_of((key,)), key, nearest(key, _KEYS))
        for key in data
        if key not in _KEYS
    ]
    for key, kind in (
        ("graph", str), ("weights", str), ("scratchpad_bytes", int), ("order", list), ("residences", list),
        ("workspaces", dict), ("transfers", list),
    ):  # fmt: skip
        if type(data.get(key)) is not kind:
            found = f"found {data[key]!r:.60}" if key in data else "missing"
            problems.append(
                Problem(f"{found}; expected {kind.__name__}", file, document.line_of((key,)), key)
            )
    if type(data.get("in_place", False)) is not bool:
        line = document.line_of(("in_place",))
        problems.append(
            Problem(f"found {data['in_place']!r:.60}; expected true or false", file, line, "in_place")
        )
    if problems:
        raise InputError(problems)
    for index, name in enumerate(data["order"]):
        if not isinstance(name, str):
            line = document.line_of(("order", index))
            problems.append(Problem("expected an operator's name", file, line, f"order.{index}"))
    for name, offset in data["workspaces"].items():
        if type(offset) is not int or offset < 0:
            line = document.line_of(("workspaces", name))
            problems.append(
                Problem(f"found {offset!r}; expected an offset", file, line, f"workspaces.{name}")
            )
    for key, fields in (("residences", _RESIDENCE), ("transfers", _TRANSFER)):
        for index, row in enumerate(data[key]):
            wrong = _row_problem(row, fields)
            if wrong:
                line = document.line_of((key, index))
                problems.append(Problem(wrong, file, line, f"{key}.{index}"))
        if len(problems) > 50:
            break
    if problems:
        raise InputError(problems)
    schedule = Schedule(
        tuple(data["order"]),
        tuple(Residence(**row) for row in data["residences"]),
        data["workspaces"],
        tuple(Transfer(**row) for row in data["transfers"]),
    )
    return ScheduleFile(
        data["graph"],
        data["weights"],
        data["scratchpad_bytes"],
        schedule,
        data.get("result", {}),
        data.get("in_place", False),
    )


def _row_problem(row: Any, fields: Mapping[str, type]) -> str:
    if not isinstance(row, dict) or set(row) != set(fields):
        return f"expected an object with the keys {', '.join(fields)}"
    for key, kind in fields.items():
        if type(row[key]) is not kind or (kind is int and not 0 <= row[key] <= 2**60):
            return f"found {row[key]!r:.40} for {key!r}; expected {'a count' if kind is int else 'a name'}"
    if "kind" in row and row["kind"] not in _KINDS:
        return f"found {row['kind']!r}; expected one of {', '.join(_KINDS)}"
    return ""
