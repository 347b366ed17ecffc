"""Validation kind ``schedule``: the rows of ``graph_results.csv``, each graph solved at its budget and compared.

A row names a graph, a JSON file anywhere below the folder, and a scratchpad size. It is ok when the cost equals
the known optimum; off when it is dearer. A bound above a known cost, a cost below a proven bound, or a schedule
that the checker refuses, is a failure. The seconds are wall time of one solve after the kernels are compiled.
"""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, OffchipError, bad_input
from mapping.allocation.csv_format import read_text
from mapping.scheduling import ScheduleProblem, check, problem_from_graph
from mapping.scheduling.result import ScheduleResult
from offchip.validation.registry import Options, RowResult, Verdict, find_file

__all__ = ["DEFAULT_TIME_LIMIT_S", "run"]

DEFAULT_TIME_LIMIT_S: Final = 60.0
_TABLE: Final = "graph_results.csv"
_EXPECTED: Final = ("optimal_bytes", "lower_bound_bytes", "best_found_bytes")


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:
    """Rows of the folder's table whose ``graph/budget`` or graph matches the glob ``rows``, in the file's order."""
    table = find_file(folder, _TABLE)
    reader = csv.DictReader(io.StringIO(read_text(table)))
    for column in ("graph", "scratchpad_bytes"):
        if reader.fieldnames is None or column not in reader.fieldnames:
            raise bad_input(f"the column {column!r} is missing", file=str(table), line=1)
    limit = DEFAULT_TIME_LIMIT_S if options.time_limit_s is None else options.time_limit_s
    for row in reader:
        graph = (row["graph"] or "").strip()
        budget = (row.get("budget") or row["scratchpad_bytes"] or "").strip()
        name = f"{graph}/{budget}"
        if graph and (fnmatch.fnmatchcase(name, rows) or fnmatch.fnmatchcase(graph, rows)):
            yield _run_row(folder, name, graph, row, limit)


def _run_row(folder: Path, name: str, graph: str, row: dict[str, str], limit: float) -> RowResult:
    from mapping.scheduling import solve
    from workloads.graph_json import read_graph

    expected = {key: _number(row.get(key)) for key in _EXPECTED if _number(row.get(key)) is not None}
    groups = {"graph": graph, "budget": (row.get("budget") or "other").strip()}
    capacity = _number(row["scratchpad_bytes"])
    try:
        if capacity is None:
            raise bad_input(f"found {row['scratchpad_bytes']!r}; expected bytes", path="scratchpad_bytes")
        file = graph if graph.endswith(".json") else f"{graph}.json"
        problem = problem_from_graph(read_graph(find_file(folder, file)))
    except InputError as error:
        return RowResult(name, expected, {}, 0.0, "unsupported", None, str(error).splitlines()[0], groups)
    try:
        result = solve(problem, capacity, time_limit_s=limit)
    except OffchipError as error:
        return RowResult(name, expected, {}, 0.0, "failed", None, str(error), groups)
    verdict, note = _judge(problem, result, expected)
    known = expected.get("optimal_bytes")
    error_share = None
    if known is not None and result.cost_bytes is not None:
        error_share = (result.cost_bytes - known) / known if known else float(result.cost_bytes > 0)
    return RowResult(
        name, expected, _ours(problem, result), result.seconds, verdict, error_share, note, groups
    )


def _ours(problem: ScheduleProblem, result: ScheduleResult) -> dict[str, Any]:
    ours: dict[str, Any] = {
        "cost_bytes": result.cost_bytes,
        "bound_bytes": result.bound_bytes,
        "status": result.status,
        "seconds": result.seconds,
        "scratchpad_bytes": result.scratchpad_bytes,
        "peak_bytes": result.peak_bytes,
        "transfers": result.transfer_count,
        "engine": result.engine,
        "states": result.nodes,
        "explanation": result.explanation,
        "plan": None,
    }
    if result.schedule is not None:
        step = {name: at for at, name in enumerate(result.order)}
        # In the words of the reference's own certificates.
        ours["plan"] = {
            "order": list(result.order),
            "placement": [
                {
                    "tensor": s.tensor,
                    "start": s.start,
                    "end": s.end,
                    "bytes": s.size_bytes,
                    "offset": s.offset,
                }
                for s in result.residences
            ]
            + [
                {
                    "tensor": f"ws_{name}",
                    "start": step[name],
                    "end": step[name] + 1,
                    "bytes": problem.operators[problem.operator_index[name]].workspace_bytes,
                    "offset": at,
                }
                for name, at in result.workspaces.items()
            ],
            "transfers": [
                {"tensor": m.tensor, "step": m.step, "bytes": m.size_bytes, "kind": m.kind}
                for m in result.transfers
            ],
        }
    return ours


def _judge(problem: ScheduleProblem, result: ScheduleResult, expected: dict[str, Any]) -> tuple[Verdict, str]:
    cost, bound = result.cost_bytes, result.bound_bytes
    known, low, found = (expected.get(key) for key in _EXPECTED)
    if result.status == "infeasible":
        if known is not None or found is not None:
            return "failed", "called infeasible, but a schedule is known"
        return "ok", result.explanation or "infeasible"
    if cost is None or result.schedule is None:
        return "off", "no schedule in the time"
    wrong = check(problem, result.schedule, result.scratchpad_bytes)
    if wrong:
        return "failed", str(wrong[0])
    best = known if known is not None else found
    if best is not None and bound > best:
        return "failed", f"bound {bound} above the known cost {best}"
    if known is not None and cost < known:
        return "failed", f"cost {cost} below the known optimum {known}"
    if low is not None and cost < low:
        return "failed", f"cost {cost} below the known bound {low}"
    if best is not None and cost > best:
        return "off", f"cost {cost} above the known {best}"
    return "ok", "" if result.status == "optimal" else f"not proved: bound {bound}"


def _number(text: str | None) -> int | None:
    try:
        return int(float(text)) if text is not None and text.strip() else None
    except (ValueError, OverflowError):
        return None
