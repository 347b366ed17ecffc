"""The public graph rows: the optimum equal and proved; and what the budgets of each graph are said to be."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mapping.scheduling import check, least_peak, problem_from_graph, solve
from tests.scheduling.conftest import REFERENCE
from workloads.graph_json import read_graph

with (REFERENCE / "graph_results.csv").open(encoding="utf-8", newline="") as stream:
    ROWS = list(csv.DictReader(stream))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['graph']}-{row['budget']}")
def test_optimum_equal_and_proved(row: dict[str, str], reference: Path) -> None:
    problem = problem_from_graph(read_graph(reference / "graphs" / f"{row['graph']}.json"))
    capacity = int(row["scratchpad_bytes"])
    result = solve(problem, capacity, time_limit_s=None, max_states=2_000_000)
    assert result.cost_bytes == int(row["optimal_bytes"]) == result.bound_bytes
    assert result.status == "optimal"
    assert result.schedule is not None
    assert check(problem, result.schedule, capacity) == []
    assert result.peak_bytes is not None
    assert result.peak_bytes <= capacity


@pytest.mark.parametrize("path", sorted((REFERENCE / "graphs").glob("*.json")), ids=lambda path: path.stem)
def test_budgets_are_those_of_the_file(path: Path) -> None:
    said = json.loads(path.read_text(encoding="utf-8"))
    problem = problem_from_graph(read_graph(path))
    assert problem.least_budget == said["M_R_bytes"]
    peak = least_peak(problem)
    assert (peak.peak_bytes, peak.status) == (said["M_P_bytes"], "optimal")


@pytest.mark.parametrize("path", sorted((REFERENCE / "graphs").glob("*.json")), ids=lambda path: path.stem)
def test_certificates_of_the_reference_hold_here(path: Path) -> None:
    """The reference's own order and placement, read as a schedule, cost here what they cost there."""
    from mapping.scheduling.stays import Stays

    said = json.loads(path.read_text(encoding="utf-8"))
    problem = problem_from_graph(read_graph(path))
    for budget in said["budgets"]:
        order = tuple(problem.operator_index[name] for name in budget["order"])
        spans = [(problem.tensor_index[p["tensor"]], p["start"], p["end"]) for p in budget["placement"]
                 if not p["tensor"].startswith("ws_")]  # fmt: skip
        stays = Stays(order, tuple(sorted(spans, key=lambda span: (span[1], span[0]))))
        assert stays.cost(problem)[0] == budget["optimal_noncompulsory_bytes"]


def test_same_input_gives_the_same_bytes(inception: object) -> None:
    first, second = (
        solve(inception, 470400, time_limit_s=None, max_states=100_000) for _ in range(2)  # type: ignore[arg-type]
    )  # fmt: skip
    assert first.schedule == second.schedule
