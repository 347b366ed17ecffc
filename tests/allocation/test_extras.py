"""Banks, spills, planning again, pictures, and the MIP as a cross-check."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings

from allocation.brute_force import fits
from allocation.strategies import problems
from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, Buffer, check, solve
from mapping.allocation.banks import Bank, parse_bank, solve_banks
from mapping.allocation.mip import solve_by_mip
from mapping.allocation.picture import draw
from mapping.allocation.replan import replan
from mapping.allocation.spill import suggest_spills
from mapping.solver import SolverOptions, solve_model


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems(aligned=True, gapped=True, most=5))
def test_the_mip_agrees_with_the_search(problem: AllocationProblem) -> None:
    by_mip, by_search = solve_by_mip(problem, time_limit_s=20), solve(problem)
    assert by_mip.peak_bytes == by_search.peak_bytes
    assert by_mip.status == "optimal"


def test_cbc_agrees_too(reference: Path) -> None:
    from mapping.allocation.importers import read_problem

    problem = read_problem(reference / "input.12.csv")
    result = solve_by_mip(problem, backend="cbc", time_limit_s=20)
    assert (result.status, result.peak_bytes) == ("optimal", 12)
    assert result.engine.startswith("mip/cbc")


@pytest.mark.parametrize("backend", ["highs", "cbc"])
def test_the_solver_reports_what_it_proved(backend: str) -> None:
    import pulp

    options = SolverOptions(backend=backend, time_limit_s=10)  # type: ignore[arg-type]

    def knapsack(limit: int) -> pulp.LpProblem:
        model = pulp.LpProblem("m", pulp.LpMaximize)
        x = [model.add_variable(f"x{i}", 0, 1, pulp.LpInteger) for i in range(4)]
        model.setObjective(pulp.lpSum(v * y for v, y in zip((5, 4, 3, 7), x, strict=True)))
        model += pulp.lpSum(w * y for w, y in zip((4, 3, 2, 6), x, strict=True)) <= limit
        if limit < 0:
            model += pulp.lpSum(x) >= 1
        return model

    report = solve_model(knapsack(9), options)
    assert (report.status, round(report.objective), round(report.bound)) == ("optimal", 12, 12)
    assert report.gap == pytest.approx(0, abs=1e-6)
    assert report.version
    assert solve_model(knapsack(-1), options).status == "infeasible"


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems(most=5))
def test_banks_cost_no_more_than_any_assignment(problem: AllocationProblem) -> None:
    banks = [Bank("fast", 4, 0.0), Bank("slow", 5, 1.0), Bank("far", 100, 3.0)]
    plan = solve_banks(problem, banks, time_limit_s=20)
    assert plan is not None
    for b, bank in enumerate(banks):
        members = [i for i in range(len(problem)) if plan.bank[i] == b]
        assert check(problem.subset(members), plan.offsets[members], bank.capacity) == []
    best = min(
        sum(banks[b].cost_per_byte * int(problem.size[i]) for i, b in enumerate(choice))
        for choice in itertools.product(range(3), repeat=len(problem))
        if all(
            fits(problem.subset([i for i in range(len(problem)) if choice[i] == b]), bank.capacity)
            for b, bank in enumerate(banks)
        )
    )
    assert plan.status == "optimal"
    assert plan.cost == best


def test_a_pinned_buffer_stays_in_its_bank() -> None:
    problem = AllocationProblem.of([Buffer("a", 0, 2, 4), Buffer("b", 0, 2, 4)])
    plan = solve_banks(problem, [parse_bank("s=4"), parse_bank("p=1KiB@1")], pinned={0: 1})
    assert plan is not None
    assert plan.bank == (1, 0)
    with pytest.raises(InputError):
        parse_bank("=4")


def test_spills_leave_a_plan_that_fits() -> None:
    problem = AllocationProblem.of(
        [Buffer("a", 0, 9, 6), Buffer("b", 0, 4, 5), Buffer("c", 3, 9, 5), Buffer("d", 8, 9, 1)]
    )
    plan = suggest_spills(problem, 11)
    assert plan.buffers
    assert plan.offsets is not None
    kept = [i for i in range(4) if i not in plan.buffers]
    assert check(problem.subset(kept), plan.offsets[kept], 11) == []
    assert suggest_spills(problem, 16).buffers == ()


def test_planning_again_moves_little() -> None:
    before = AllocationProblem.of([Buffer(f"b{i}", i, i + 4, 10 + i) for i in range(30)])
    plan = solve(before)
    earlier = {f"b{i}": int(plan.offsets[i]) for i in range(30)}
    again = replan(before, earlier)
    assert again.moved == ()
    assert again.result.peak_bytes == plan.peak_bytes
    after = AllocationProblem.of([*before.buffers, Buffer("new", 10, 12, 7)])
    changed = replan(after, earlier, max_nodes=200_000)
    assert changed.result.status in ("optimal", "feasible")
    assert check(after, changed.result.offsets, changed.result.peak_bytes) == []
    assert len(changed.moved) <= 15


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_picture_is_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    problem = AllocationProblem.of([Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 4)], "two")
    files = [tmp_path / f"{k}{suffix}" for k in range(2)]
    for file in files:
        draw(problem, [0, 4], file, capacity=8)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size > 2000
