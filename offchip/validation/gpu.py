"""Validation kind ``gpu``: measured operators (``operators.csv``, ``kernels.csv``) and, on request, whole models.

Each row is predicted on the GPU that it names and compared as the source timed it (see ``timing.py``). A row
is ok when the error is at most 20 %; attention and communication, whose sources differ most, have 25 %.
A GPU that nobody knows, and an operator without a rule, are unsupported rows with a note.
"""

from __future__ import annotations

import contextlib
import fnmatch
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, OffchipError
from offchip.prediction import predict_row
from offchip.validation.operator_groups import row_class
from offchip.validation.reference_gpu import ReferenceGpus
from offchip.validation.registry import Options, RowResult, find_file
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL, CostModel
from workloads.operator_table import TableRow, read_operator_table

__all__ = ["OK_WITHIN", "run"]

TABLES: Final = ("operators.csv", "kernels.csv")
OK_WITHIN: Final = {"attention": 0.25, "collective": 0.25, "other": 0.20}
"""Largest relative error of an ok row, by family of operators."""


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:
    """Rows of the folder's tables whose id matches the glob ``rows``, in the file's order."""
    if options.end_to_end:
        from offchip.validation.end_to_end import run_end_to_end

        yield from run_end_to_end(find_file(folder, "end_to_end.csv"), rows, options)
        return
    table = [row for file in _tables(folder) for row in read_operator_table(file).rows]
    gpus = ReferenceGpus(_hardware(folder))
    model = COST_MODELS.get(options.cost_model or DEFAULT_COST_MODEL)
    _warm_up(table, gpus, model)
    for row in table:
        if not fnmatch.fnmatchcase(row.id, rows):
            continue
        expected = {} if row.measured_us is None else {"median_us": row.measured_us}
        try:
            gpu = gpus.find(row.gpu) if row.gpu else None
        except InputError as error:
            yield RowResult(row.id, expected, {}, 0.0, "unsupported", None, str(error), _group(row))
            continue
        if gpu is None:
            note = f"unknown GPU {row.gpu!r}: no shipped device and no row of hardware.csv"
            yield RowResult(row.id, expected, {}, 0.0, "unsupported", None, note, _group(row))
            continue
        start = time.perf_counter()
        try:
            prediction = predict_row(row, gpu, model)
        except OffchipError as error:
            yield RowResult(row.id, expected, {}, 0.0, "unsupported", None, str(error), _group(row))
            continue
        seconds = time.perf_counter() - start
        ours = prediction.predicted_us
        if ours is None or row.measured_us is None:
            note = prediction.note or "the row has no measured time"
            yield RowResult(row.id, expected, {}, seconds, "unsupported", None, note, _group(row))
            continue
        error_share = ours / row.measured_us - 1
        verdict = "ok" if abs(error_share) <= _tolerance(row_class(row)) else "off"
        yield RowResult(
            row.id,
            expected,
            {"median_us": ours},
            seconds,
            "ok" if verdict == "ok" else "off",
            error_share,
            f"{row.op} on {row.gpu}",
            _group(row),
        )


def _warm_up(rows: Sequence[TableRow], gpus: ReferenceGpus, model: CostModel) -> None:
    """Load constants and kernels before the clock runs: the first row of each class, unmeasured."""
    seen: set[str] = set()
    for row in rows:
        name = row_class(row) if row.operator is not None else "unsupported"
        if name in seen:
            continue
        seen.add(name)
        with contextlib.suppress(OffchipError):
            gpu = gpus.find(row.gpu) if row.gpu else None
            if gpu is not None:
                predict_row(row, gpu, model)


def _tables(folder: Path) -> list[Path]:
    """The tables of the folder, of which one is enough; ``InputError`` where there is none."""
    found = []
    for name in TABLES:
        with contextlib.suppress(InputError):
            found.append(find_file(folder, name))
    return found or [find_file(folder, TABLES[0])]


def _hardware(folder: Path) -> Path | None:
    try:
        return find_file(folder, "hardware.csv")
    except InputError:
        return None


def _group(row: TableRow) -> dict[str, str]:
    return {"class": row_class(row) if row.operator is not None else "unsupported", "gpu": row.gpu}


def _tolerance(name: str) -> float:
    if name.startswith("attention"):
        return OK_WITHIN["attention"]
    plain = name.removeprefix("engine_").removesuffix("_pcie")
    if plain in ("all_reduce", "send", "other_collective", "between_nodes"):
        return OK_WITHIN["collective"]
    return OK_WITHIN["other"]
