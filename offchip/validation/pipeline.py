"""Validation kind ``pipeline``: orders, makespans and live counts against PyTorch's own pipelining.

A folder holds ``schedules.csv``, a row per schedule and counts. The SHA-256 of every rank's order has to be the row's,
and so have three makespans, each with other times of the passes, and the most passes that rank 0 holds.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import OffchipError, bad_input
from mapping.allocation.csv_format import read_text
from mapping.training.schedules.run import StageTimes, pack, run_schedule
from mapping.training.schedules.write import write_schedule
from offchip.validation.registry import Options, RowResult, Verdict, find_file

__all__ = ["run"]

_TABLE: Final = "schedules.csv"
_TIMES: Final = {
    "makespan_f1b2": StageTimes(1.0, 1.0, 1.0, 2.0),
    "makespan_f2b3": StageTimes(2.0, 3.0, 2.0, 5.0),
    "makespan_f4b8c1": StageTimes(4.0, 4.0, 4.0, 8.0, communication_s=1.0),
}
"""Ticks of F, I, W and B, and of a transfer, of each column."""
_COUNTS: Final = ("ranks", "microbatches", "stages_per_rank")
_COLUMNS: Final = ("id", "schedule", *_COUNTS, "order_sha256", *_TIMES, "peak_live_rank0")


def run(folder: Path, rows: str, _options: Options) -> Iterator[RowResult]:
    """Every row whose id matches the glob, in file order."""
    table = find_file(folder, _TABLE)
    reader = csv.DictReader(io.StringIO(read_text(table)))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise bad_input(f"the column {missing[0]!r} is missing", file=str(table), line=1)
    for row in reader:
        if fnmatch.fnmatchcase(row["id"], rows or "*"):
            yield _run_row(row)


def _run_row(row: Mapping[str, str]) -> RowResult:
    name, groups = row["id"], {"schedule": row["schedule"]}
    expected: dict[str, Any] = {}
    began = time.process_time()
    try:
        expected = {column: float(row[column]) for column in _TIMES}
        expected |= {"peak_live_rank0": int(row["peak_live_rank0"]), "order_sha256": row["order_sha256"]}
        ranks, micro_batches, per_rank = (int(row[column]) for column in _COUNTS)
        schedule = write_schedule(row["schedule"], ranks, micro_batches, per_rank)
        packed = pack(schedule)
        runs = {column: run_schedule(packed, times) for column, times in _TIMES.items()}
    except (OffchipError, ValueError, TypeError) as error:
        return RowResult(name, expected, {}, 0.0, "unsupported", None, str(error).splitlines()[0], groups)
    seconds = time.process_time() - began
    ours: dict[str, Any] = {column: found.makespan_s for column, found in runs.items()}
    ours["peak_live_rank0"] = int(runs["makespan_f1b2"].peak_live[0])
    ours["order_sha256"] = hashlib.sha256(schedule.text().encode()).hexdigest()
    wrong = [column for column, value in expected.items() if ours[column] != value]
    verdict: Verdict = "off" if wrong else "ok"
    first = next(iter(_TIMES))
    error_of = ours[first] / expected[first] - 1 if expected[first] else None
    return RowResult(name, expected, ours, seconds, verdict, error_of, ", ".join(wrong), groups)
