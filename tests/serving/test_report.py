"""Files and page of an answer: what they say is the record's, names stay names, and they open without a network."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from offchip.report.page import build_page, report
from offchip.report.serving import explained, over_time, serving_page
from offchip.report_page import report as written_report
from offchip.serving import export
from offchip.serving.export import trace_events, write_serving
from simulator.serving.result import ServingResult
from simulator.serving.slo import Slo
from tests.serving.made_records import plain_service, result_of

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;"


@given(st.integers(0, 1000), st.integers(1, 50))
@settings(deadline=None, max_examples=15)
def test_what_happens_over_time_sums_to_the_whole(seed: int, count: int) -> None:
    result = result_of(seed, count)
    requests, rows, steps = plain_service(seed, count)
    time = over_time(result)
    width = np.diff(time["edges"])
    assert np.dot(time["arrived"], width) == pytest.approx(count, rel=1e-4)
    assert np.dot(time["answered"], width) == pytest.approx(count, rel=1e-4)
    assert np.dot(time["tokens"], width) == pytest.approx(sum(len(r.tokens) for r in rows), rel=1e-4)
    assert np.dot(time["running"], width) == pytest.approx(sum(k for _, k in steps) * 0.03, rel=1e-4)
    assert np.dot(time["cache"], width) == pytest.approx(sum(k for _, k in steps) * 0.03 / 10, rel=1e-4)
    assert np.dot(time["busy"], width) == pytest.approx(0.75 * len(steps) * 0.03, rel=1e-4)
    assert requests.count == count


def test_files_say_what_the_result_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of(2, 40, Slo(ttft_s=0.2))
    written = {path.name for path in write_serving(result, tmp_path / "out")}
    assert {"result.json", "trace.json", "report.html", "serving.json.gz"} < written
    answer = json.loads((tmp_path / "out" / "result.json").read_text())
    assert answer["attainment"] == result.attainment
    assert answer["latency_s"]["ttft"]["p99.9"] == result.latency["ttft"].p99_9
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    write_serving(result, tmp_path / "plain")
    with (tmp_path / "plain" / "requests.csv").open() as stream:
        found = list(csv.DictReader(stream))
    assert [float(row["ttft_s"]) for row in found] == result.served.ttft_s.tolist()
    assert not list(tmp_path.rglob("*.part"))


def test_the_same_answer_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_serving(result_of(2, 30), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_the_trace_has_every_step_and_a_closed_lifeline_for_each_request() -> None:
    result = result_of(3, 30)
    events = list(trace_events(result))
    steps = [event for event in events if event["ph"] == "X"]
    assert len(steps) == len(result.record.steps)
    assert sum(event["dur"] for event in steps) == pytest.approx(result.record.steps.seconds.sum() * 1e6)
    open_: dict[int, list[str]] = {}
    for event in events:
        if event["ph"] == "b":
            open_.setdefault(event["id"], []).append(event["name"])
        elif event["ph"] == "e":
            assert open_[event["id"]].pop() == event["name"]
    assert set(open_) == set(range(30))
    assert not any(open_.values())
    for request in range(30):
        phases = [e for e in events if e.get("id") == request and e["name"] in export.PHASES]
        length = sum(e["ts"] if e["ph"] == "e" else -e["ts"] for e in phases)
        assert length == pytest.approx(result.served.e2e_s[request] * 1e6)


def test_a_long_trace_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MOST_STEPS", 5)
    monkeypatch.setattr(export, "MOST_LIFELINES", 3)
    events = list(trace_events(result_of(3, 30)))
    assert sum(event["ph"] == "X" for event in events) == 5
    assert {event["id"] for event in events if event["ph"] == "b"} == {0, 1, 2}
    assert "requests (the first 3)" in str(events)


def test_the_page_is_one_safe_file(tmp_path: Path) -> None:
    result = result_of(4, 30, name=HOSTILE)
    page = build_page(serving_page(result, [{"rate": 1.0, "attainment": 1.0}]))
    assert HOSTILE not in page
    assert page.count("<script") == 2
    for word in ("http:", "https:", "innerHTML", "fetch("):
        assert word not in page.replace("http://www.w3.org/2000/svg", ""), word
    write_serving(result, tmp_path)
    assert build_page(report(tmp_path)) == (tmp_path / "report.html").read_text()


def test_figures_for_papers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_serving(result_of(4, 30), tmp_path)
    names = {path.name for path in written_report(tmp_path, figures=True).written}
    assert {"load.svg", "queue.svg", "cache.svg", "times.png"} <= names


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    for text in (b"", b"\x1f\x8b", b"nothing"):
        (tmp_path / "serving.json.gz").write_bytes(text)
        with pytest.raises(InputError):
            report(tmp_path)


def test_scripts_are_valid(tmp_path: Path) -> None:
    node = pytest.importorskip("shutil").which("node")
    if node is None:
        pytest.skip("no node here")
    path = Path(__file__).parents[2] / "offchip" / "report" / "assets" / "serving.js"
    subprocess.run([node, "--check", str(path)], check=True)


def changed(result: ServingResult, number: int, **values: float) -> ServingResult:
    columns = {name: column.copy() for name, column in result.record.requests.to_dict().items()}
    for name, value in values.items():
        columns[name][number] = value
    record = dataclasses.replace(result.record, requests=type(result.record.requests)(**columns))
    return dataclasses.replace(result, record=record)


def test_slow_requests_are_explained_by_their_longest_part() -> None:
    result = result_of(5, 60)
    queue = int(np.nanargmax(result.served.queue_s / result.served.e2e_s))
    assert "waiting to begin" in explained(result, queue)
    assert "when it came" in explained(result, queue)
    writing = int(np.nanargmax(result.served.decode_s / result.served.e2e_s))
    said = explained(result, writing)
    assert "writing its answer" in said
    assert f"an answer of {result.requests.output_tokens[writing]} tokens" in said
    assert "preempted 2 times" in explained(changed(result, 0, preemptions=2), 0)
    assert "began again once because its worker failed" in explained(changed(result, 0, retries=1), 0)
    assert "in moving its cache" in explained(changed(result, 0, transfer_s=5.0), 0)
    begun = float(result.record.requests.first_token_s[0])
    early = changed(
        result, 0, first_scheduled_s=0.0, arrival_s=0.0, first_token_s=begun + 50, last_token_s=begun + 51
    )
    assert "computing its prompt" in explained(early, 0)
    assert explained(changed(result, 0, tokens=0), 0) == "was not answered"
