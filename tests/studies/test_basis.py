"""A success is what could have come out otherwise: agreement by counting or by construction is told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from offchip.studies import pim_baselines
from offchip.studies.page import page_text
from offchip.studies.study import STUDIES, SUCCESS, Basis, Claim, Outcome, Study, Verdict, compare

PAGES = Path(__file__).parents[2] / "docs" / "studies"


def result(basis: Basis, ours: float | None = 1.0):
    return compare(Claim("c", f"by {basis}", 1.0, "", "a paper", "published", basis), ours, "counted")


@pytest.mark.parametrize("basis", get_args(Basis))
def test_a_reproduced_claim_says_by_what(basis: Basis) -> None:
    assert result(basis).verdict == f"reproduced by {basis}"
    assert result(basis).to_json()["basis"] == basis
    assert (result(basis).verdict == SUCCESS) == (basis == "mechanism")
    assert result(basis, 1.2).verdict == "close"
    assert result(basis, None).verdict == "not comparable"


def test_totals_count_the_mechanism_alone_as_success() -> None:
    outcome = Outcome(
        [result("mechanism"), result("counting"), result("construction"), result("counting", 9.0)]
    )
    assert outcome.totals() == {
        "reproduced by mechanism": 1, "reproduced by counting": 1, "reproduced by construction": 1, "close": 0,
        "differs": 1, "not comparable": 0,
    }  # fmt: skip
    assert list(outcome.totals()) == list(get_args(Verdict))
    assert outcome.words().startswith("1 of 4 reproduced by mechanism; 1 reproduced by counting")
    study = Study("s", "title", "a paper", "A scenario.", lambda: outcome)
    text = page_text(study, outcome)
    assert "Claims: 1 of 4 reproduced by mechanism; " in text
    assert "| by counting | 1 | 1 | 1.000 | reproduced by counting | counting | published |" in text


def test_the_command_prints_totals_and_the_basis(cli) -> None:
    data = json.loads(cli("study", "run", "llm-viewer", "--json").out)["studies"][0]
    assert data["totals"]["reproduced by mechanism"] == 0
    assert sum(data["totals"].values()) == len(data["claims"])
    assert {claim["basis"] for claim in data["claims"]} == {"counting", "construction"}
    assert (
        "0 of 12 reproduced by mechanism; 10 reproduced by counting" in cli("study", "run", "llm-viewer").out
    )


@pytest.mark.parametrize("name", STUDIES.names())
def test_every_page_says_how_many_are_by_mechanism(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert " reproduced by mechanism" in text.split("## Claims")[0]
    assert "| claim | published | Offchip | ratio | verdict | basis | certainty |" in text
    assert "| reproduced |" not in text


def test_what_rests_on_a_figure_taken_from_a_claim_is_by_construction() -> None:
    """The baselines of PIM-GPT hold two constants from its published range; no claim over them is a success."""
    assert "derived from the published range" in Path(pim_baselines.__file__).read_text(encoding="utf-8")
    rows = (PAGES / "pim-gpt.md").read_text(encoding="utf-8").splitlines()
    over = [row for row in rows if row.startswith(("| speedup over a ", "| energy efficiency over a "))]
    assert len(over) == 14
    assert all("| construction |" in row for row in over)
    assert not any(f"| {SUCCESS} |" in row for row in over)
