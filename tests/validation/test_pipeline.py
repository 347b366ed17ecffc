"""``offchip validate pipeline``: every row of the reference is met, and a damaged one is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from offchip.validation.pipeline import run
from offchip.validation.registry import Options

FOLDER = Path(__file__).parent.parent / "reference" / "pipeline"


def test_every_row_of_the_reference() -> None:
    rows = list(run(FOLDER, "*", Options()))
    assert len(rows) == 274
    assert [row.id for row in rows if row.verdict != "ok"] == []


def damaged(tmp_path: Path, column: str, value: str) -> list:
    head, row, *_ = (FOLDER / "schedules.csv").read_text(encoding="utf-8").splitlines()
    cells = row.split(",")
    cells[head.split(",").index(column)] = value
    (tmp_path / "schedules.csv").write_text(f"{head}\n{','.join(cells)}\n", encoding="utf-8")
    return list(run(tmp_path, "*", Options()))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("order_sha256", "0" * 64), ("makespan_f1b2", "1"), ("makespan_f2b3", "1"), ("makespan_f4b8c1", "1"),
        ("peak_live_rank0", "99"),
    ],
)  # fmt: skip
def test_each_column_counts(tmp_path, column, value):
    (row,) = damaged(tmp_path, column, value)
    assert (row.verdict, row.note) == ("off", column)


def test_rows_that_cannot_run(tmp_path, cli):
    (row,) = damaged(tmp_path, "schedule", "zb-x")
    assert row.verdict == "unsupported"
    assert "zb-x" in row.note
    (row,) = damaged(tmp_path, "microbatches", "many")
    assert row.verdict == "unsupported"
    (tmp_path / "schedules.csv").write_text("id\n", encoding="utf-8")
    outcome = cli("validate", "pipeline", tmp_path)
    assert outcome.code == 2
    assert "column 'schedule' is missing" in outcome.err
