"""``offchip validate training``: published steps come out, rows that cannot run say why."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offchip.validation.registry import Options
from offchip.validation.training import TABLE, WITHIN, measured_step, run

FOLDER = Path(__file__).parent.parent / "reference" / "training"
SAMPLE = (
    "foundry-7b-2048-8xa100-80gb", "foundry-1b-2048-8xh100-80gb", "titan-8b-8-compile", "titan-8b-8-cp4",
    "nemo-8b-b200-mx", "nemo-long-7b-8k", "megatron-2022-22b-core", "modded-nanogpt-5",
)  # fmt: skip
"""One row of each kind that runs on a node or so."""


def rows() -> list[dict[str, str]]:
    with (FOLDER / TABLE).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", SAMPLE)
def test_a_published_step_comes_out(name: str) -> None:
    (found,) = run(FOLDER, name, Options())
    assert found.verdict == "ok", found
    assert found.error is not None
    assert abs(found.error) <= WITHIN
    assert found.groups["split"] in ("fitted", "held")


@pytest.mark.slow
def test_held_rows_are_within_the_stated_errors() -> None:
    errors = sorted(
        abs(row.error) if row.error is not None else float("inf")
        for row in run(FOLDER, "*", Options())
        if row.groups["split"] == "held"
    )
    assert len(errors) > 55
    assert errors[len(errors) // 2] <= 0.12
    assert errors[-1] <= 0.25


def test_the_table_is_whole() -> None:
    table = rows()
    assert len({row["id"] for row in table}) == len(table) >= 120
    assert {row["split"] for row in table} == {"fitted", "held"}
    for row in table:
        degrees = [int(row[name]) for name in ("tp", "ulysses", "cp", "pp", "dp")]
        product = 1
        for degree in degrees:
            product *= degree
        assert product == int(row["gpus"]), row["id"]
        assert measured_step(row) > 0
        assert not row["model"].endswith(".json") or (FOLDER / row["model"]).exists()


def test_rows_that_cannot_run_say_why(tmp_path: Path, cli: Callable[..., Any]) -> None:
    with (FOLDER / TABLE).open(encoding="utf-8") as file:
        head = file.readline()
    whole = next(row for row in rows() if row["id"] == "titan-8b-8-compile")
    changes = [{"framework": "torchtian"}, {"gpu": "p100"}, {"gpu": "h100"}, {"global_batch": "15"}]
    with (tmp_path / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, whole)
        writer.writeheader()
        writer.writerows([{**whole, "id": str(number), **change} for number, change in enumerate(changes)])
    found = list(run(tmp_path, "*", Options()))
    assert [row.verdict for row in found] == ["unsupported"] * 2 + ["ok", "unsupported"]
    assert "unknown framework 'torchtian'" in found[0].note
    assert "no usual node" in found[1].note
    assert "cannot be divided" in found[3].note
    (tmp_path / TABLE).write_text(head.replace("framework,", ""), encoding="utf-8")
    outcome = cli("validate", "training", tmp_path)
    assert outcome.code == 2
    assert "column 'framework' is missing" in outcome.err
