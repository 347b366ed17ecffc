"""The integer programme of addresses: its refusals, what of a solution is taken, and what is proved."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hw_configs.problems import InputError, PhysicsError
from mapping.allocation import AllocationProblem, Buffer, Gap, check
from mapping.allocation import mip as mip_module
from mapping.allocation.instance import build_components
from mapping.allocation.mip import solve_by_mip
from mapping.solver import SolveReport, SolverOptions, solve_model

# The greedy orders leave one byte more than the most live bytes; the programme does not.
LIVES = [(2, 3, 4), (2, 3, 3), (2, 8, 2), (3, 6, 5), (6, 8, 1), (2, 7, 4), (0, 1, 5), (3, 7, 2), (6, 7, 5), (6, 7, 3),
         (0, 4, 2)]  # fmt: skip


def waste() -> AllocationProblem:
    return AllocationProblem.of([Buffer(f"b{i}", *life) for i, life in enumerate(LIVES)])


@pytest.mark.parametrize(
    ("buffers", "peak"),
    [
        ([Buffer("a", 0, 2, 5, 4), Buffer("b", 1, 3, 6, 4)], 13),
        ([Buffer("a", 0, 2, 5, 4), Buffer("b", 1, 3, 6, 8)], 13),
        ([Buffer("a", 0, 2, 5, 4), Buffer("b", 1, 3, 6, 8), Buffer("c", 1, 2, 2, 3)], 13),
        ([Buffer("a", 0, 2, 4, offset=6), Buffer("b", 1, 3, 7)], 17),
        ([Buffer("a", 0, 2, 4, offset=7), Buffer("b", 1, 3, 7)], 11),
        ([Buffer("a", 0, 4, 5, gaps=(Gap(1, 2),)), Buffer("b", 1, 2, 9), Buffer("c", 5, 6, 8)], 9),
        ([Buffer("a", 0, 4, 8, gaps=(Gap(0, 4, (0, 2)),)), Buffer("b", 0, 4, 6)], 8),
    ],
)  # fmt: skip
def test_the_least_peak_with_alignment_pins_and_windows(buffers: list[Buffer], peak: int) -> None:
    problem = AllocationProblem.of(buffers)
    result = solve_by_mip(problem, seed=3)
    assert (result.status, result.peak_bytes, result.bound_bytes) == ("optimal", peak, peak)
    assert (result.nodes, result.seed, result.capacity_bytes) == (0, 3, None)
    assert result.engine.startswith("mip/highs 1.")
    assert result.offsets is not None
    assert check(problem, result.offsets.tolist(), peak) == []
    for capacity, status in ((peak, "optimal"), (peak - 1, "infeasible")):
        assert solve_by_mip(problem, capacity).status == status


def test_the_seconds_left_are_shared_by_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[float | None, str, int]] = []

    def slow(model: Any, options: SolverOptions) -> SolveReport:
        limits.append((options.time_limit_s, options.backend, options.seed))
        return replace(solve_model(model, replace(options, time_limit_s=20.0)), seconds=3.0)

    monkeypatch.setattr(mip_module, "solve_model", slow)
    problem = AllocationProblem.of([Buffer(f"b{i}", 2 * i, 2 * i + 1, 4) for i in range(3)])
    result = solve_by_mip(problem, time_limit_s=5.0, seed=2)
    assert limits == [(5.0, "highs", 2), (2.0, "highs", 2), (0.01, "highs", 2)]
    assert result.seconds == 9.0
    assert solve_by_mip(AllocationProblem.of([])).engine == "mip/highs"


def changed(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    def solved(model: Any, options: SolverOptions) -> SolveReport:
        report = solve_model(model, options)
        for variable in model.variables():
            if variable.name in changes.get("values", {}):
                variable.setInitialValue(changes["values"][variable.name])
        fields = {key: value for key, value in changes.items() if key != "values"}
        return replace(report, **fields)

    monkeypatch.setattr(mip_module, "solve_model", solved)


def test_a_solution_is_taken_where_it_is_better_and_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve_by_mip(waste()).peak_bytes == 17
    changed(monkeypatch, status="unknown", objective=None)
    unsolved = solve_by_mip(waste())
    assert (unsolved.status, unsolved.peak_bytes, unsolved.bound_bytes) == ("feasible", 18, 17)
    # All at zero would be lower still: such a solution breaks distances, and the greedy plan stays.
    changed(monkeypatch, values={f"o{i}": 0.0 for i in range(len(LIVES))})
    assert solve_by_mip(waste()).peak_bytes == 18
    changed(monkeypatch, status="infeasible")
    with pytest.raises(PhysicsError, match="the MIP calls a problem without capacity infeasible"):
        solve_by_mip(waste())


@pytest.mark.parametrize(
    ("bound", "expected"), [(None, 17), (2.0, 17), (17.0, 17), (17.0000001, 17), (17.1, 18), (99.0, 18)]
)
def test_a_bound_is_rounded_up_to_whole_bytes(
    bound: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(monkeypatch, status="unknown", objective=None, bound=bound)
    result = solve_by_mip(waste())
    assert (result.peak_bytes, result.bound_bytes) == (18, expected)
    assert result.status == ("optimal" if expected == 18 else "feasible")
    assert result.seed == 0
    assert solve_by_mip(waste(), 17).status == ("infeasible" if expected == 18 else "unknown")


def test_without_a_bound_the_largest_buffer_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mip_module, "most_live", lambda component: 0)
    changed(monkeypatch, status="unknown", objective=None, bound=None)
    assert solve_by_mip(waste()).bound_bytes == 5
    pair = AllocationProblem.of([Buffer("a", 0, 2, 400), Buffer("b", 0, 2, 400)])
    changed(monkeypatch, bound=1.75)
    assert solve_by_mip(pair).bound_bytes == 700


def test_a_distance_broken_either_way_is_seen() -> None:
    problem = AllocationProblem.of(
        [Buffer("a", 0, 2, 4), Buffer("b", 0, 2, 6), Buffer("c", 1, 3, 2), Buffer("d", 2, 3, 2)]
    )
    (component,) = build_components(problem)
    names = [str(problem.ids[i]) for i in component.index]

    def broken(**places: int) -> bool:
        offsets = np.array([places[name] // component.unit for name in names])
        return mip_module._broken(component, offsets)

    for places in itertools.product((0, 2, 4, 6, 10), repeat=4):
        overlaps = check(problem, places)
        assert broken(**dict(zip("abcd", places, strict=True))) == bool(overlaps), places
    assert not broken(a=0, b=4, c=10, d=0)
    assert not broken(a=6, b=0, c=10, d=0)
    assert broken(a=0, b=2, c=10, d=0)
    assert broken(a=4, b=0, c=10, d=0)
    assert broken(a=0, b=4, c=8, d=0)
    assert broken(a=0, b=4, c=10, d=10)


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = AllocationProblem.of([Buffer(f"b{i}", 0, 1, 4) for i in range(4)])
    monkeypatch.setattr(mip_module, "MOST_PAIRS", 6)
    assert solve_by_mip(problem).peak_bytes == 16
    monkeypatch.setattr(mip_module, "MOST_PAIRS", 5)
    with pytest.raises(InputError) as error:
        solve_by_mip(problem)
    assert str(error.value) == ("--engine: the MIP takes at most 5 conflicting pairs; use the engine 'auto'")


def test_a_plan_that_does_not_hold_is_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = AllocationProblem.of([Buffer("a", 0, 2, 4), Buffer("b", 0, 2, 4)])
    monkeypatch.setattr(mip_module, "place_in_order", lambda component, order: np.zeros(2, np.int64))
    with pytest.raises(
        PhysicsError, match="the MIP made a plan that does not hold: buffers 'a' and 'b' share"
    ):
        solve_by_mip(problem)
