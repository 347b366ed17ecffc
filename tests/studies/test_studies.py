"""Studies: verdicts, the page that must be current, and the first study's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offchip.studies.page import page_text, write_page
from offchip.studies.study import STUDIES, Claim, compare

PAGES = Path(__file__).parent.parent.parent / "docs" / "studies"


def claim(published: float | str) -> Claim:
    return Claim("c", "a claim", published, "B", "a paper", "published", "mechanism")


@pytest.mark.parametrize(
    ("published", "ours", "verdict"),
    [
        (100.0, 104.0, "reproduced by mechanism"),
        (100.0, 80.0, "close"),
        (100.0, 140.0, "differs"),
        (100.0, None, "not comparable"),
        ("memory", "memory", "reproduced by mechanism"),
        ("memory", "compute", "differs"),
        (0.0, 0.0, "reproduced by mechanism"),
        (0.0, 1.0, "differs"),
    ],
)
def test_verdicts(published: float | str, ours: float | str | None, verdict: str) -> None:
    result = compare(claim(published), ours, "counted")
    assert result.verdict == verdict
    assert result.to_json()["verdict"] == verdict


def every_study() -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.slow) if STUDIES.get(name).slow else name
        for name in STUDIES.names()
    ]


@pytest.mark.parametrize("name", every_study())
def test_the_page_is_current(name: str) -> None:
    study = STUDIES.get(name)
    assert study.name == name
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    now = page_text(study, study.run())
    if study.timed:
        # What a search finds by a time differs a little: every row must be there, its figures may not be the same.
        assert "ends by time" in text
        now, text = frame_of(now), frame_of(text)
    assert now == text, f"run: offchip study run {name} --write docs/studies"


def frame_of(page: str) -> str:
    """Of a page its headings and figures, the heads of its tables and what each row is about."""
    lines = page.splitlines()
    heads = {number for number, line in enumerate(lines[:-1]) if lines[number + 1].startswith("|---")}
    kept = [
        line if number in heads or not line.startswith("|") else line.split("|")[1]
        for number, line in enumerate(lines)
        if line.startswith(("#", "|", "!["))
    ]
    return "\n".join(kept)


def test_the_frame_of_a_page_is_without_its_figures() -> None:
    page = "# T\n\nwords 3\n\n| a | ms |\n|---|---|\n| 8B | 3 |\n"
    assert frame_of(page) == frame_of(page.replace("3", "4")) == "# T\n| a | ms |\n---\n 8B "
    assert frame_of(page) != frame_of(page.replace("8B", "9B"))


def test_llm_viewer_agrees_with_every_claim_and_claims_no_success() -> None:
    outcome = STUDIES.get("llm-viewer").run()
    verdicts = [result.verdict for result in outcome.claims]
    assert verdicts == ["reproduced by counting"] * 10 + ["reproduced by construction"] * 2


def test_a_layer_in_decode_is_bound_by_memory_throughout() -> None:
    from offchip.studies.llm_viewer import layer_points

    assert {point.bound for point in layer_points("decode")} == {"memory"}
    prefill = {point.name: point.bound for point in layer_points("prefill")}
    assert prefill["mlp.down"] == "compute"
    assert prefill["attention.softmax"] == "memory"


def test_the_figure_is_the_same_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    study = STUDIES.get("llm-viewer")
    first, second = (write_page(study, study.run(), tmp_path / part) for part in ("a", "b"))
    assert [path.name for path in first] == ["llm-viewer-roofline.svg", "llm-viewer.md"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
