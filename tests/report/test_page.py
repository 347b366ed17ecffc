"""The page as a file: self-contained, safe, the same every time; and the call that makes it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offchip.report.packing import stack
from offchip.report.page import build_page, report
from offchip.report.sankey import BODY, Flow, layout

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>&amp;\u2028$\\mathrm{x$"
)


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text inside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.inside.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def renamed(folder: Path, copy: Path, name: str) -> Path:
    """A copy of a run's folder in which an operator, a device, the model and a tensor have another name."""
    copy.mkdir()
    result = json.loads((folder / "result.json").read_text())
    detail = json.loads(gzip.decompress((folder / "detail.json.gz").read_bytes()))
    result["model"], result["warnings"] = name, [name]
    result["provenance"]["workload"] = {name: name}
    first = detail["columns"]["operator"][0]
    for column in ("operator", "task", "operator_kind", "stream"):
        value = detail["columns"][column][0] if column != "operator" else first
        detail["columns"][column] = [name if v == value else v for v in detail["columns"][column]]
    for stay in detail["record"]["placements"][:50]:
        stay[1] = name
    (copy / "result.json").write_text(json.dumps(result))
    (copy / "detail.json.gz").write_bytes(gzip.compress(json.dumps(detail).encode()))
    return copy


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("name", ["parallel_run", "sweep_folder"])
def test_the_page_is_one_file_that_asks_nothing(name: str, request: pytest.FixtureRequest) -> None:
    data = report(request.getfixturevalue(name))
    page = build_page(data)
    assert page == build_page(report(request.getfixturevalue(name)))
    assert embedded(page) == json.loads(json.dumps(data))
    tags = parsed(page)
    for tag, attributes in tags.tags:
        assert tag not in ("img", "iframe", "object", "embed")
        assert all(key not in attributes for key in ("src", "style", "onclick", "onload"))
        assert attributes.get("href", "data:,") == "data:,"
    policy = next(
        a["content"] or "" for t, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for part in tags.inside:
        if part.lstrip().startswith("{"):
            continue
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert digest in policy, part[:60]
        for word in (
            "http:",
            "https:",
            "innerHTML",
            "outerHTML",
            "document.write",
            "eval(",
            "fetch(",
            "import(",
        ):
            assert word not in part.replace("http://www.w3.org/2000/svg", ""), word


def test_hostile_names_stay_names(parallel_run: Path, tmp_path: Path) -> None:
    page = build_page(report(renamed(parallel_run, tmp_path / "run", HOSTILE)))
    plain = build_page(report(parallel_run))
    assert [tag for tag, _ in parsed(page).tags] == [tag for tag, _ in parsed(plain).tags]
    assert embedded(page)["model"] == HOSTILE


def test_command(cli: Callable[..., Any], parallel_run: Path, tmp_path: Path) -> None:
    outcome = cli("report", parallel_run, "--out", tmp_path / "deep" / "page.html", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert told["written"] == [str(tmp_path / "deep" / "page.html")]
    assert Path(told["written"][0]).read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("fault", ["missing", "empty", "detail", "json", "format", "sweep"])
def test_bad_folders_are_one_line(
    cli: Callable[..., Any], parallel_run: Path, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(parallel_run, folder)
    if fault == "missing":
        shutil.rmtree(folder)
    elif fault == "empty":
        (folder / "result.json").unlink()
    elif fault == "detail":
        (folder / "detail.json.gz").unlink()
    elif fault == "json":
        (folder / "detail.json.gz").write_bytes(b"no archive")
    elif fault == "format":
        (folder / "result.json").write_text('{"format": "offchip-result-0"}')
    else:
        (folder / "sweep.sqlite").write_text("no database at all, but long enough to look at")
    outcome = cli("report", folder)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert str(folder) in outcome.err
    assert not (folder / "report.html").exists()


def test_sweep_page(sweep_folder: Path) -> None:
    data = report(sweep_folder)
    assert data["rows"] == 45
    statuses = [data["statuses"][code] for code in data["status"]]
    assert "infeasible" in statuses
    columns = {column["name"]: column["values"] for column in data["figures"]}
    goals = [columns[objective["name"]] for objective in data["objectives"]]
    good = [i for i in range(45) if statuses[i] == "ok"]

    def beaten(i: int) -> bool:
        return any(
            all(goal[j] <= goal[i] for goal in goals) and any(goal[j] < goal[i] for goal in goals)
            for j in good
        )

    assert sorted(data["front"]) == [i for i in good if not beaten(i)]
    assert set(data["effects"]) == {"time_per_token_s", "energy_per_token_j"}


def test_figures(cli: Callable[..., Any], parallel_run: Path, sweep_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    renamed(parallel_run, tmp_path / "run", HOSTILE)
    expected = {
        tmp_path / "run": {
            "timeline",
            "memory",
            "bytes",
            "energy",
            "roofline",
            *(f"packing-gpu{i}" for i in range(4)),
        },
        sweep_folder: {"pareto", "parameters", "sensitivities"},
    }
    for folder, names in expected.items():
        first, second = tmp_path / f"{folder.name}1", tmp_path / f"{folder.name}2"
        for out in (first, second):
            outcome = cli("report", folder, "--out", out / "page.html", "--figures")
            assert outcome.code == 0, outcome.err
        files = {path.name: path.read_bytes() for path in (first / "figures").iterdir()}
        assert set(files) == {f"{name}.{ending}" for name in names for ending in ("png", "svg")}
        assert files == {path.name: path.read_bytes() for path in (second / "figures").iterdir()}
        assert all(content[:4] in (b"\x89PNG", b"<?xm") for content in files.values())


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20), st.integers(1, 10)), max_size=30))
def test_stacked_stays_never_share_bytes(stays: list[tuple[int, int, int]]) -> None:
    sizes, starts = [s for s, _, _ in stays], [float(t) for _, t, _ in stays]
    ends = [float(t + d) for _, t, d in stays]
    offsets = stack(sizes, starts, ends)
    for i in range(len(stays)):
        for j in range(i):
            if starts[i] < ends[j] and starts[j] < ends[i]:
                assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
    assert not offsets or min(offsets) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0.01, 1e6)), max_size=12))
def test_ribbons_fill_their_boxes(flows: list[tuple[str, str, float]]) -> None:
    drawn = layout([[Flow(*flow) for flow in flows]])
    total = sum(amount for _, _, amount in flows)
    for index, node in enumerate(drawn["nodes"]):
        mine = [e for e in drawn["links"] if index in (e["source"], e["target"])]
        if {e["source"] for e in mine} == {index} or {e["target"] for e in mine} == {index}:
            assert sum(e["height"] for e in mine) == pytest.approx(node["height"], abs=0.01)
            assert node["height"] == pytest.approx(node["amount"] / total * BODY, abs=0.01)
    for node in drawn["nodes"]:
        assert 0 <= node["y"] <= node["y"] + node["height"] <= drawn["height"] + 0.01
