"""One predicted time per row of an operator table, and the errors where times were measured."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import bad_input
from hw_configs.shown import Shown, Table

if TYPE_CHECKING:
    from offchip.prediction import Prediction
    from offchip.validation.reference_gpu import ReferenceGpu
    from workloads.operator_table import OperatorTable, TableRow

__all__ = ["Predictions", "predict"]

ADDED: Final = ("predicted_us", "launch_us", "energy_j", "bound_by", "note")
SHOWN_ROWS: Final = 20


@dataclass(frozen=True)
class Predictions(Shown):
    """The rows of a table, each with its prediction, and by operator class the errors against measured times."""

    gpu: str
    pairs: tuple[tuple[TableRow, Prediction], ...]
    errors: Mapping[str, Mapping[str, float]]
    out: Path | None = None
    """The table that was written with its new columns."""

    @property
    def not_predicted(self) -> tuple[tuple[TableRow, Prediction], ...]:
        """Rows without an operator or a wire; their predictions say why."""
        return tuple((row, p) for row, p in self.pairs if p.predicted_us is None)

    def as_json(self) -> dict[str, Any]:
        """The predictions as plain data."""
        return {
            "gpu": self.gpu,
            "rows": [_row_json(row, p) for row, p in self.pairs],
            "errors": {name: dict(entry) for name, entry in self.errors.items()},
            "not_predicted": [row.id for row, _ in self.not_predicted],
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """Errors, the first rows, and what was not predicted."""
        name, pairs, errors, left, out = self.gpu, self.pairs, self.errors, self.not_predicted, self.out
        tables = []
        if errors:
            lines = [
                (cls, e["rows"], f"{e['mean_pct']:.1f}", f"{e['median_pct']:.1f}", f"{e['p95_pct']:.1f}",
                 f"{e['median_ratio']:.2f}")
                for cls, e in errors.items()
            ]  # fmt: skip
            columns = ("class", "rows", "mean error %", "median %", "95th %", "predicted / measured")
            tables.append(
                Table(
                    f"{len(pairs)} rows on {name}: errors against the measured times", columns, tuple(lines)
                )
            )
        if out is None:
            rows = [
                (row.id, row.op, _cell(p.predicted_us), _cell(p.launch_us), _cell(p.energy_j), p.bound_by,
                 _cell(row.measured_us))
                for row, p in pairs[:SHOWN_ROWS]
            ]  # fmt: skip
            shown = ("id", "op", "predicted us", "launch us", "energy J", "bound by", "measured us")
            more = f" (the first {SHOWN_ROWS}; --out or --json for all)" if len(pairs) > SHOWN_ROWS else ""
            tables.append(Table(f"predictions on {name}{more}", shown, tuple(rows)))
        if left:
            tables.append(
                Table(
                    f"{len(left)} rows not predicted",
                    ("id", "why"),
                    tuple((row.id, p.note) for row, p in left),
                )
            )
        told = Counter(p.note for _, p in pairs if p.predicted_us is not None and p.note)
        if told:
            tables.append(
                Table("notes", ("rows", "what they rest on"), tuple((n, note) for note, n in told.items()))
            )
        return tuple(tables)


def predict(
    table: str | Path, hw: str | Path, *, cost_model: str = "by-device", out: str | Path | None = None
) -> Predictions:
    """Predict each row of an operator table on a GPU: time, launch time, energy and what bounds it.

    ``hw`` is a GPU, or a system with one kind of GPU. Rows that name another GPU are predicted and not compared with
    their measured times. ``out`` is a file for the table with its new columns. Raises ``InputError`` for bad input.
    """
    from offchip.prediction import predict_rows
    from offchip.validation.reference_gpu import same_gpu
    from simulator.cost.model import COST_MODELS
    from workloads.operator_table import read_operator_table

    gpu = _gpu(str(hw))
    model = COST_MODELS.get(cost_model)
    read = read_operator_table(Path(table))
    pairs = list(zip(read.rows, predict_rows(read.rows, gpu, model), strict=True))
    target = None if out is None else Path(out)
    if target is not None:
        _write(target, read, pairs)
    compared = [(row, p) for row, p in pairs if not row.gpu or same_gpu(row.gpu, gpu.gpu.name)]
    return Predictions(gpu.gpu.name, tuple(pairs), _errors(compared), target)


def _gpu(hw: str) -> ReferenceGpu:
    """The GPU to predict on; a system gives the bandwidth of the wires between its GPUs as well."""
    from hw_configs.device import Gpu
    from hw_configs.library import load_system
    from offchip.validation.reference_gpu import ReferenceGpu, usual_wires

    system = load_system(hw)
    nodes = system.of_kind("gpu")
    if not nodes:
        raise bad_input(f"{hw!r} has no GPU", path="--hw")
    if any(node.device != nodes[0].device for node in nodes):
        raise bad_input(f"{hw!r} has GPUs of several kinds; expected one kind", path="--hw")
    first, device = nodes[0], nodes[0].device
    if first.memory is None or not isinstance(device, Gpu):
        raise bad_input(f"the GPU of {hw!r} has no memory to work in", path="--hw")
    wire, host = usual_wires(device)
    if len(nodes) > 1:
        route = system.route(first.name, nodes[1].name)
        wire = min(system.wires[name].link.bandwidth for name, _ in route)
    return ReferenceGpu(first, system.memories[first.memory], wire, host)


def _errors(pairs: list[tuple[TableRow, Prediction]]) -> dict[str, dict[str, float]]:
    from dataclasses import asdict

    from offchip.prediction import error_summary
    from offchip.validation.operator_groups import row_class

    measured = [
        (row_class(row), p.predicted_us, row.measured_us)
        for row, p in pairs
        if p.predicted_us is not None and row.measured_us is not None
    ]
    table = {}
    for name in [*sorted({name for name, _, _ in measured}), "all"]:
        summary = error_summary((ours, theirs) for own, ours, theirs in measured if name in (own, "all"))
        if summary is not None:
            table[name] = asdict(summary)
    return table


def _row_json(row: TableRow, p: Prediction) -> dict[str, Any]:
    return {
        "id": row.id,
        "op": row.op,
        "predicted_us": p.predicted_us,
        "launch_us": p.launch_us,
        "energy_j": p.energy_j,
        "bound_by": p.bound_by,
        **({"median_us": row.measured_us} if row.measured_us is not None else {}),
        **({"note": p.note} if p.note else {}),
    }


def _write(path: Path, table: OperatorTable, pairs: list[tuple[TableRow, Prediction]]) -> None:
    """The table with the new columns, written to a temporary name and renamed."""
    columns = [*(name for name in table.columns if name not in ADDED), *ADDED]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row, p in pairs:
        figures = {
            "predicted_us": _cell(p.predicted_us),
            "launch_us": _cell(p.launch_us),
            "energy_j": _cell(p.energy_j),
            "bound_by": p.bound_by,
            "note": p.note,
        }
        writer.writerow({**row.cells, **figures})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise bad_input(f"cannot write: {error.strerror}", file=str(path), path="--out") from None


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.6g}"
