"""Outputs written over inputs: every engine against plain search, and what a wrong overlap is caught by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapping.deadline import Budget
from mapping.scheduling import BASELINES, InPlace, ScheduleProblem, check, least_peak, solve
from mapping.scheduling.by_parts import part_problem
from mapping.scheduling.instance import build_instance
from mapping.scheduling.residency import residency_of, residency_of_order, solve_residency, stays_with
from mapping.scheduling.stays import assemble, fetched_for_each_use, find_addresses, joins_of
from tests.scheduling.brute_force import least_cost, least_cost_of_bytes, least_peak_of
from tests.scheduling.build import chain_of
from tests.scheduling.strategies import problems

MANY = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
EFFORT = {"time_limit_s": None, "max_states": 200_000}


def with_pairs(problem: ScheduleProblem, **pairs: tuple[str, ...]) -> ScheduleProblem:
    """The problem in which the operator of each name may write its output over these tensors."""
    index = problem.tensor_index
    operators = tuple(
        replace(op, in_place=(InPlace(op.outputs[0], tuple(index[t] for t in pairs[op.name])),))
        if op.name in pairs
        else op
        for op in problem.operators
    )
    return replace(problem, operators=operators)


def budget_of(problem: ScheduleProblem, share: float) -> int:
    low, high = problem.least_budget, least_peak_of(problem)
    return low + round((high - low) * share)


@MANY
@given(problem=problems(most_operators=6, most_bytes=4, in_place=True), share=st.floats(0, 1))
def test_optimum_equals_brute_force(problem: ScheduleProblem, share: float) -> None:
    capacity = max(budget_of(problem, share), problem.least_budget)
    result = solve(problem, capacity, **EFFORT)  # type: ignore[arg-type]
    assert result.schedule is not None
    assert check(problem, result.schedule, capacity) == []
    by_bytes = least_cost_of_bytes(problem, capacity)
    assert by_bytes is not None
    assert result.bound_bytes <= result.cost_bytes  # type: ignore[operator]
    if result.cost_bytes != by_bytes:
        with_addresses = least_cost(problem, capacity)
        assert with_addresses is not None
        assert result.bound_bytes <= with_addresses <= result.cost_bytes  # type: ignore[operator]


@QUICK
@given(problem=problems(in_place=True))
def test_least_peak_equals_brute_force(problem: ScheduleProblem) -> None:
    found = least_peak(problem)
    assert found.status == "optimal"
    assert found.peak_bytes == found.bound_bytes == least_peak_of(problem)


@QUICK
@given(problem=problems(in_place=True), share=st.floats(0, 1))
def test_every_baseline_holds_at_every_budget(problem: ScheduleProblem, share: float) -> None:
    capacity = max(budget_of(problem, share), problem.least_budget)
    stays, offsets = fetched_for_each_use(problem)
    assert check(problem, assemble(problem, stays, offsets), capacity) == []
    for name, run in BASELINES.items():
        other = run(problem, capacity)
        assert other.schedule is not None, name
        assert check(problem, other.schedule, capacity) == [], name


@QUICK
@given(problem=problems(6, in_place=True), extra=st.integers(0, 3))
def test_programmes_bound_and_reach_the_optimum(problem: ScheduleProblem, extra: int) -> None:
    capacity = problem.least_budget + extra
    least = least_cost_of_bytes(problem, capacity)
    assert least is not None
    assert solve_residency(residency_of(problem, capacity), Budget()).bound <= least
    order = range(len(problem.operators))
    # With every operator waiting for the one before, brute force knows one order alone.
    chained = replace(
        problem,
        operators=tuple(replace(op, after=(o - 1,) if o else ()) for o, op in enumerate(problem.operators)),
    )
    programme = residency_of_order(problem, order, capacity)
    answer = solve_residency(programme, Budget())
    assert answer.cost == answer.bound == least_cost_of_bytes(chained, capacity)
    stays = stays_with(programme, order, answer.gaps)
    assert stays.cost(problem)[0] == answer.cost
    assert stays.least_peak(problem) <= capacity


@QUICK
@given(problem=problems(in_place=True), share=st.floats(0, 1), first=st.integers(0, 3))
def test_a_part_never_moves_more_than_the_whole(problem: ScheduleProblem, share: float, first: int) -> None:
    capacity = max(budget_of(problem, share), problem.least_budget)
    part = part_problem(problem, build_instance(problem), range(min(first, len(problem.operators))))
    inside, whole = least_cost_of_bytes(part, capacity), least_cost_of_bytes(problem, capacity)
    assert inside is not None
    assert whole is not None
    assert inside <= whole


def test_an_element_wise_chain_needs_one_tensor() -> None:
    plain = chain_of({"a": (4, "x"), "b": (4, "a"), "c": (4, "b")}, {"x": 4})
    problem = with_pairs(plain, a=("x",), b=("a",), c=("b",))
    assert (plain.least_budget, problem.least_budget) == (8, 4)
    result = solve(problem, 4)
    assert (result.status, result.cost_bytes, result.peak_bytes) == ("optimal", 0, 4)
    assert solve(problem, 3).status == "infeasible"
    assert {stay.offset for stay in result.residences} == {0}


def test_a_skip_is_overwritten_and_fetched_again_where_nothing_else_fits() -> None:
    plain = chain_of({"a": (4, "x"), "b": (4, "a"), "c": (4, "ab")}, {"x": 1})
    problem = with_pairs(plain, b=("a",), c=("a", "b"))
    assert problem.least_budget == 8
    roomy = solve(problem, 8)
    assert (roomy.status, roomy.cost_bytes) == ("optimal", 0)
    joined = joins_of(problem, _stays(problem, roomy))
    assert len(joined) == 1
    tight = with_pairs(chain_of({"a": (4, ""), "b": (4, "a"), "d": (1, "b"), "c": (2, "ad")}), b=("a",))
    found = solve(tight, 7)
    assert (found.status, found.cost_bytes) == ("optimal", least_cost(tight, 7))
    assert found.cost_bytes == 8
    spill = next(move for move in found.transfers if move.kind == "spill")
    assert spill.step == found.order.index("b")


def _stays(problem: ScheduleProblem, result):  # type: ignore[no-untyped-def]
    from mapping.scheduling.banks import _stays_in

    return _stays_in(problem, result.schedule)


def test_the_checker_refuses_an_overlap_that_is_not_allowed() -> None:
    plain = chain_of({"a": (4, "x"), "b": (4, "a"), "c": (4, "b")}, {"x": 4})
    problem = with_pairs(plain, a=("x",), b=("a",), c=("b",))
    schedule = solve(problem, 4).schedule
    assert schedule is not None
    assert any(v.kind == "overlap" for v in check(plain, schedule, 4))
    # The output one byte off; the input still wanted; the copy written only after it was overwritten.
    rows = list(schedule.residences)
    at = next(i for i, stay in enumerate(rows) if stay.tensor == "b")
    rows[at] = replace(rows[at], offset=1)
    assert any(v.kind == "overlap" for v in check(problem, replace(schedule, residences=tuple(rows)), 5))
    tight = with_pairs(chain_of({"a": (4, ""), "b": (4, "a"), "d": (1, "b"), "c": (2, "ad")}), b=("a",))
    held = solve(tight, 7).schedule
    assert held is not None
    late = tuple(replace(m, step=m.step + 1) if m.kind == "spill" else m for m in held.transfers)
    assert any(v.kind == "traffic" for v in check(tight, replace(held, transfers=late), 7))


def test_a_join_that_is_forgotten_breaks_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = chain_of({"a": (4, "x"), "b": (4, "a")}, {"x": 4})
    problem = with_pairs(plain, a=("x",), b=("a",))
    stays = _stays(problem, solve(problem, 4))
    assert find_addresses(problem, stays, 4).status in ("optimal", "feasible")
    monkeypatch.setattr("mapping.scheduling.stays.joins_of", lambda problem, stays: {})
    assert find_addresses(problem, stays, 4).status == "infeasible"


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ((InPlace(2, ()),), "without inputs"),
        ((InPlace(2, (0,)), InPlace(2, (1,))), "twice"),
        ((InPlace(2, (3,)),), "does not have"),
        ((InPlace(2, (1,)),), "larger"),
    ],
)
def test_wrong_pairs_are_refused(pairs: tuple[InPlace, ...], words: str) -> None:
    from hw_configs.problems import InputError

    plain = chain_of({"a": (4, "xy"), "b": (4, "a")}, {"x": 4, "y": 1})
    operators = (replace(plain.operators[0], in_place=pairs), plain.operators[1])
    with pytest.raises(InputError, match=words):
        replace(plain, operators=operators)
    assert np.array(plain.need_bytes).sum() == 17


def row_graph(pairs: object) -> dict[str, object]:
    """A scratchpad instance of three operators in a row, as a file holds it."""
    return {
        "format": "dnn-scratchpad-graph-1",
        "name": "row",
        "ops": [
            {"name": "in", "kind": "input", "inputs": [], "outputs": ["x"]},
            {"name": "half", "kind": "conv", "inputs": ["x"], "outputs": ["h"]},
            {"name": "relu", "kind": "relu", "inputs": ["h"], "outputs": ["y"], "in_place": pairs},
        ],
        "tensors": [
            {"name": "x", "bytes": 4, "graph_input": True},
            {"name": "h", "bytes": 8},
            {"name": "y", "bytes": 8, "graph_output": True},
        ],
    }


def test_a_graph_file_declares_pairs_and_keeps_them(tmp_path: Path) -> None:
    from mapping.scheduling import problem_from_graph
    from workloads.graph_json import read_graph, write_graph

    path = tmp_path / "row.json"
    path.write_text(json.dumps(row_graph({"y": ["h"]})))
    graph = read_graph(path)
    write_graph(graph, tmp_path / "again.json")
    for read in (graph, read_graph(tmp_path / "again.json")):
        problem = problem_from_graph(read)
        assert problem.need_bytes == (4, 12, 8)
        assert problem.operators[2].in_place == (InPlace(2, (1,)),)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["h"], "expected an object"),
        ({"y": "h"}, "expected a list"),
        ({"z": ["h"]}, "none of its outputs"),
        ({"y": ["x"]}, "none of its inputs"),
        ({"y": ["hh"]}, "unknown tensor 'hh'"),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, pairs: object, words: str) -> None:
    from hw_configs.problems import InputError
    from workloads.graph_json import read_graph

    path = tmp_path / "row.json"
    path.write_text(json.dumps(row_graph(pairs), indent=1))
    with pytest.raises(InputError, match=words) as caught:
        read_graph(path)
    assert "in_place" in str(caught.value)


def test_element_wise_kinds_have_pairs_by_kind() -> None:
    from mapping.scheduling import problem_from_graph
    from offchip.api import load_model

    graph = load_model("resnet-18", dtype="int8", fused=False).phases[0].graph
    assert not problem_from_graph(graph).has_in_place
    problem = problem_from_graph(graph, in_place=True)
    kinds = {graph.operator_by_name[op.name].kind for op in problem.operators if op.in_place}
    assert kinds
    assert kinds <= {"elementwise", "activation"}


def test_a_schedule_file_remembers_that_kinds_may_write_in_place(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from offchip.cli.main import app

    plan = tmp_path / "plan.json"
    asked = ["resnet-18", "--dtype", "int8", "--unfused"]
    done = CliRunner().invoke(
        app,
        [
            "solve",
            "schedule",
            *asked,
            "--in-place",
            "--scratchpad",
            "1600KiB",
            "--time-limit",
            "5",
            "--out",
            str(plan),
        ],
    )
    assert done.exit_code == 0, done.output
    assert json.loads(plan.read_text())["in_place"] is True
    ran = CliRunner().invoke(app, ["simulate", *asked, "--hw", "edge-tpu-board", "--plan", str(plan)])
    assert ran.exit_code == 0, ran.output
