"""``offchip validate offload``: the reference agrees, a wrong figure is off, a row that cannot run says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from offchip.validation.offload import run
from offchip.validation.registry import Options

FOLDER = Path(__file__).parent.parent / "reference" / "flexgen"


def test_every_row_of_the_reference() -> None:
    rows = list(run(FOLDER, "*", Options()))
    assert len(rows) == 7
    assert {row.verdict for row in rows} == {"ok"}
    assert [row.id for row in run(FOLDER, "opt-30b-1024*", Options())] == ["opt-30b-1024-20x4"]


def test_rows_that_are_wrong(tmp_path: Path, cli: Callable[..., Any]) -> None:
    text = (FOLDER / "flexgen_cost_model.csv").read_text(encoding="utf-8")
    head, first, second, *_ = text.splitlines()
    lines = [head, first.replace("7.14", "7.24"), second.replace("opt-30b", "opt-31b")]
    (tmp_path / "flexgen_cost_model.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    off, unknown = run(tmp_path, "*", Options())
    assert (off.verdict, off.note) == ("off", "predicted_tokens_per_s")
    assert unknown.verdict == "unsupported"
    assert "unknown model" in unknown.note
    (tmp_path / "flexgen_cost_model.csv").write_text("model\n", encoding="utf-8")
    outcome = cli("validate", "offload", tmp_path)
    assert outcome.code == 2
    assert "column 'prompt_len' is missing" in outcome.err
