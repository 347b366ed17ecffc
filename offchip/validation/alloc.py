"""Validation kind ``alloc``: the rows of ``allocation_results.csv``, each minimised and compared.

A row names an instance, a CSV file anywhere below the folder. It is ok when the known optimum is reached, or,
where the optimum is open, when the peak is no higher than the best known one; off when a higher plan was found
in the time. A bound above a known plan, or a plan that the checker refuses, is a failure.
"""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, OffchipError, bad_input
from mapping.allocation import AllocationProblem, check, peak_of, solve
from mapping.allocation.csv_format import read_text
from mapping.allocation.importers import read_problem
from offchip.validation.registry import Options, RowResult, Verdict, find_file

__all__ = ["DEFAULT_TIME_LIMIT_S", "run"]

DEFAULT_TIME_LIMIT_S: Final = 60.0
_TABLE: Final = "allocation_results.csv"


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:
    """Rows of the folder's table whose instance matches the glob ``rows``, in the file's order."""
    table = find_file(folder, _TABLE)
    reader = csv.DictReader(io.StringIO(read_text(table)))
    if reader.fieldnames is None or "instance" not in reader.fieldnames:
        raise bad_input("the column 'instance' is missing", file=str(table), line=1)
    limit = DEFAULT_TIME_LIMIT_S if options.time_limit_s is None else options.time_limit_s
    for row in reader:
        name = (row["instance"] or "").strip()
        if name and fnmatch.fnmatchcase(name, rows):
            yield _run_row(folder, name, row, limit)


def _run_row(folder: Path, name: str, row: dict[str, str], limit: float) -> RowResult:
    expected = {
        key: _number(row.get(key))
        for key in ("best_lower_bound", "best_known_peak")
        if _number(row.get(key)) is not None
    }
    expected["optimum_proven"] = (row.get("optimum_proven") or "").strip().lower() == "true"
    groups = {"kind": (row.get("kind") or "").strip() or "instance"}
    try:
        file = name if name.endswith(".csv") else f"{name}.csv"
        problem = read_problem(find_file(folder, file))
    except InputError as error:
        return RowResult(name, expected, {}, 0.0, "unsupported", None, str(error).splitlines()[0], groups)
    try:
        result = solve(problem, time_limit_s=limit)
    except OffchipError as error:
        return RowResult(name, expected, {}, 0.0, "failed", None, str(error), groups)
    ours: dict[str, Any] = {
        "peak": result.peak_bytes,
        "bound": result.bound_bytes,
        "status": result.status,
        "seconds": result.seconds,
        "engine": result.engine,
        "nodes": result.nodes,
        "offsets": None,
    }
    if result.offsets is not None:
        ours["offsets"] = {str(problem.ids[i]): int(result.offsets[i]) for i in range(len(problem))}
    verdict, note = _judge(problem, ours, expected)
    best = expected.get("best_known_peak")
    error_share = None if best in (None, 0) or result.peak_bytes is None else result.peak_bytes / best - 1
    return RowResult(name, expected, ours, result.seconds, verdict, error_share, note, groups)


def _judge(problem: AllocationProblem, ours: dict[str, Any], expected: dict[str, Any]) -> tuple[Verdict, str]:
    peak, bound = ours["peak"], ours["bound"]
    if peak is None or ours["offsets"] is None:
        return "off", "no plan in the time"
    offsets = [ours["offsets"][str(problem.ids[i])] for i in range(len(problem))]
    wrong = check(problem, offsets, peak)
    if wrong or peak_of(problem, offsets) != peak:
        return "failed", str(wrong[0]) if wrong else "the peak is not the plan's"
    best, low = expected.get("best_known_peak"), expected.get("best_lower_bound")
    if best is not None and bound > best:
        return "failed", f"the bound {bound} is above a known plan of {best}"
    if low is not None and peak < low:
        return "failed", f"the peak {peak} is below the reference's proven bound {low}"
    if best is not None and peak > best:
        return "off", f"{peak - best} bytes above the best known peak"
    if best is not None and peak < best:
        return "ok", f"{best - peak} bytes below the best known peak"
    if expected["optimum_proven"] and bound < peak:
        return "ok", "optimum reached, not proved"
    return "ok", ""


def _number(text: str | None) -> int | None:
    stripped = (text or "").strip()
    if not stripped:
        return None
    try:
        return int(float(stripped)) if "." in stripped or "e" in stripped.lower() else int(stripped)
    except ValueError:
        return None
