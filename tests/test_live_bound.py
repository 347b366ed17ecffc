"""The live view of a solve: who reports, when it is shown, and that it is silent otherwise."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from mapping.allocation import AllocationProblem, solve
from mapping.deadline import Budget, watching
from offchip.cli import output
from offchip.cli.output import LiveBound, live_bound


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PROGRESS_AFTER_S", 0.02)
    monkeypatch.setattr(output, "LIVE_EVERY_S", 0.02)


def until(stream: io.StringIO, text: str) -> None:
    limit = time.monotonic() + 20
    while text not in stream.getvalue() and time.monotonic() < limit:
        time.sleep(0.01)
    assert text in stream.getvalue()


def test_a_log_gets_one_line_per_change(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    view = LiveBound("peak in bytes")
    view.note(100, None)
    until(stream, "no plan yet, at least 100\n")
    view.note(100, 125)
    until(stream, "125, at least 100 (gap 20.000 %)\n")
    time.sleep(0.1)
    view.close()
    assert stream.getvalue().count("\n") == 2


def test_a_terminal_gets_one_line_that_goes_away(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    view = LiveBound("peak in bytes")
    view.note(5, 5)
    until(stream, "5, at least 5 (gap 0.000 %)")
    view.close()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith(" \r")


def test_nothing_is_shown_early_or_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with live_bound("x"):
        Budget().report(1, 2)
    monkeypatch.setattr(output, "PROGRESS_AFTER_S", 0.0)
    with live_bound("x", quiet=True):
        Budget().report(1, 2)
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_solves_report_true_bounds_and_those_inside_others_do_not() -> None:
    told: list[tuple[float, Any]] = []
    problem = AllocationProblem.from_arrays([0, 1, 2, 0], [2, 3, 4, 1], [3, 2, 3, 1])
    with watching(lambda bound, best: told.append((bound, best))):
        found = solve(problem, max_nodes=500)
        assert told
        assert all(bound <= found.bound_bytes and best >= found.peak_bytes for bound, best in told)
        told.clear()
        with Budget(None, 500).running():
            solve(problem, max_nodes=500)
    assert told == []
    solve(problem, max_nodes=500)
    assert told == []
