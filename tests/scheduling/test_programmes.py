"""COSMA's programme written out for one small graph, its start and its answer; and the master with cuts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError, PhysicsError
from mapping.deadline import Budget
from mapping.scheduling import (
    BASELINES,
    Schedule,
    ScheduleOperator,
    ScheduleProblem,
    ScheduleTensor,
    Violation,
    check,
)
from mapping.scheduling import by_ilp as ilp_module
from mapping.scheduling import master as master_module
from mapping.scheduling.by_ilp import _Model, _placed, solve_by_ilp
from mapping.scheduling.search import COST_SCALE
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import Stays, assemble, find_addresses, stays_of
from mapping.solver import SolveReport
from tests.scheduling.brute_force import least_cost_of_bytes, least_peak_of
from tests.scheduling.build import chain_of
from tests.scheduling.strategies import problems

SOME = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
TIGHT = {"a": (4, "x"), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}
ORDER = (0, 1, 2, 3, 4)


def tight() -> ScheduleProblem:
    """'a' (4 bytes) must leave for a while in 8 bytes: a spill and a retrieve."""
    return chain_of(TIGHT, {"x": 2})


def row() -> ScheduleProblem:
    """A, B, C one after the other: x is loaded, a may spill, b has a copy, c is an output; B has a workspace."""
    operators = (
        ScheduleOperator("A", (0,), (1,)), ScheduleOperator("B", (1,), (2,), 4), ScheduleOperator("C", (0, 1, 2), (3,)),
    )  # fmt: skip
    tensors = (
        ScheduleTensor("x", 2, -1, (0, 2), True), ScheduleTensor("a", 4, 0, (1, 2), False),
        ScheduleTensor("b", 6, 1, (2,), True), ScheduleTensor("c", 2, 2, (), True, True),
    )  # fmt: skip
    return ScheduleProblem("row", operators, tensors)


# In units of two bytes. Numbers are those of the paper; tensors are 0 to 3, the workspace of B is 5.
ORDERED = """
x0_0 = 1.0
x1_1 = 1.0
x2_2 = 1.0
x0_0 = 1.0
x1_1 = 1.0
x2_2 = 1.0
x0_0 - x1_1 >= -0.0
x0_0 - x2_2 >= -0.0
x1_1 - x2_2 >= -0.0
"""
"""(7) Every operator once, one to a step, each after what it waits for."""
RESIDENT = """
C0_0 + C0_1 + C0_2 = 1.0
C0_0 <= 1
C0_1 + P0_1 + R0_1 <= 1
-C0_0 + P0_1 <= 0
-C0_0 + R0_1 <= -0.0
P0_1 - x2_2 <= -0.0
-L0_0 + L0_1 + 8*P0_1 <= 8
L0_0 - L0_1 + 8*P0_1 <= 8
C0_2 + P0_2 + R0_2 <= 1
-C0_1 - P0_1 + P0_2 - R0_1 <= 0
-C0_0 - C0_1 + R0_2 <= -0.0
P0_2 - x2_2 <= -0.0
-L0_1 + L0_2 + 8*P0_2 <= 8
L0_1 - L0_2 + 8*P0_2 <= 8
x0_0 <= 1
P1_1 + R1_1 + S1_1 <= 1
P1_1 - x0_0 <= 0
S1_1 - x0_0 <= 0
R1_1 <= -0.0
P1_1 - x1_1 - x2_2 <= -0.0
-L1_0 + L1_1 + 8*P1_1 <= 8
L1_0 - L1_1 + 8*P1_1 <= 8
P1_2 + R1_2 + S1_2 <= 1
-P1_1 + P1_2 - R1_1 <= 0
-P1_1 + S1_2 <= 0
R1_2 - S1_1 <= -0.0
P1_2 - x2_2 <= -0.0
-L1_1 + L1_2 + 8*P1_2 <= 8
L1_1 - L1_2 + 8*P1_2 <= 8
S1_1 + S1_2 <= 1.0
x1_1 <= 1
P2_2 + R2_2 <= 1
P2_2 - x1_1 <= 0
R2_2 - x1_1 <= -0.0
P2_2 - x2_2 <= -0.0
-L2_1 + L2_2 + 8*P2_2 <= 8
L2_1 - L2_2 + 8*P2_2 <= 8
x2_2 <= 1
"""
"""(1) to (4), (7), (8), (11): the states of each tensor, step by step; 8 is the capacity."""
NEEDED = """
-C0_0 + x0_0 <= 0
-P1_1 - R1_1 + x1_1 <= 0
-C0_2 - P0_2 - R0_2 + x2_2 <= 0
-P1_2 - R1_2 + x2_2 <= 0
-P2_2 - R2_2 + x2_2 <= 0
"""
"""(5) What an operator reads is there; x may be loaded at that very step."""
APART = """
C0_0 + 2*x0_0 <= 8.0
L0_0 - L1_0 - 8*u0_1_0 >= -6
-L0_0 + L1_0 - 8*d0_1_0 >= -7
-C0_0 + d0_1_0 + u0_1_0 - x0_0 >= -1
C0_1 + P0_1 + 2*P1_1 + R0_1 + 2*R1_1 + 5*x1_1 <= 8.0
L0_1 - L1_1 - 8*u0_1_1 >= -6
-L0_1 + L1_1 - 8*d0_1_1 >= -7
-C0_1 - P0_1 - P1_1 - R0_1 - R1_1 + d0_1_1 + u0_1_1 >= -1
L0_1 - L2_1 - 8*u0_2_1 >= -5
-L0_1 + L2_1 - 8*d0_2_1 >= -7
-C0_1 - P0_1 - R0_1 + d0_2_1 + u0_2_1 - x1_1 >= -1
L0_1 - W1_1 - 8*u0_5_1 >= -6
-L0_1 + W1_1 - 8*d0_5_1 >= -7
-C0_1 - P0_1 - R0_1 + d0_5_1 + u0_5_1 - x1_1 >= -1
L1_1 - L2_1 - 8*u1_2_1 >= -5
-L1_1 + L2_1 - 8*d1_2_1 >= -6
-P1_1 - R1_1 + d1_2_1 + u1_2_1 - x1_1 >= -1
L1_1 - W1_1 - 8*u1_5_1 >= -6
-L1_1 + W1_1 - 8*d1_5_1 >= -6
-P1_1 - R1_1 + d1_5_1 + u1_5_1 - x1_1 >= -1
L2_1 - W1_1 - 8*u2_5_1 >= -6
-L2_1 + W1_1 - 8*d2_5_1 >= -5
d2_5_1 + u2_5_1 - 2*x1_1 >= -1
C0_2 + P0_2 + 2*P1_2 + 3*P2_2 + R0_2 + 2*R1_2 + 3*R2_2 + x2_2 <= 8.0
L0_2 - L1_2 - 8*u0_1_2 >= -6
-L0_2 + L1_2 - 8*d0_1_2 >= -7
-C0_2 - P0_2 - P1_2 - R0_2 - R1_2 + d0_1_2 + u0_1_2 >= -1
L0_2 - L2_2 - 8*u0_2_2 >= -5
-L0_2 + L2_2 - 8*d0_2_2 >= -7
-C0_2 - P0_2 - P2_2 - R0_2 - R2_2 + d0_2_2 + u0_2_2 >= -1
L0_2 - L3_2 - 8*u0_3_2 >= -7
-L0_2 + L3_2 - 8*d0_3_2 >= -7
-C0_2 - P0_2 - R0_2 + d0_3_2 + u0_3_2 - x2_2 >= -1
L1_2 - L2_2 - 8*u1_2_2 >= -5
-L1_2 + L2_2 - 8*d1_2_2 >= -6
-P1_2 - P2_2 - R1_2 - R2_2 + d1_2_2 + u1_2_2 >= -1
L1_2 - L3_2 - 8*u1_3_2 >= -7
-L1_2 + L3_2 - 8*d1_3_2 >= -6
-P1_2 - R1_2 + d1_3_2 + u1_3_2 - x2_2 >= -1
L2_2 - L3_2 - 8*u2_3_2 >= -7
-L2_2 + L3_2 - 8*d2_3_2 >= -5
-P2_2 - R2_2 + d2_3_2 + u2_3_2 - x2_2 >= -1
"""
"""(10) Room at each step, and for every pair one above the other when both are there."""


def test_the_programme_is_that_of_the_paper() -> None:
    model = _Model(row(), 17)
    assert (model.unit, model.capacity) == (2, 8)
    assert [list(steps) for steps in model.window] == [[0], [1], [2]]
    assert [list(model.life(t)) for t in range(4)] == [[0, 1, 2], [0, 1, 2], [1, 2], [2]]
    assert str(model.model.objective) == "R0_1 + R0_2 + 2*R1_1 + 2*R1_2 + 3*R2_2 + 2*S1_1 + 2*S1_2"
    said = "".join(text.lstrip("\n") for text in (ORDERED, RESIDENT, NEEDED, APART)).splitlines()
    assert [str(constraint) for constraint in model.model.constraints()] == said
    ranges = {v.name: (v.lowBound, v.upBound, v.cat) for v in model.model.variables()}
    # (9) Every address ends inside the scratchpad.
    assert {name: ranges.pop(name)[1] for name in sorted(ranges) if name[0] in "LW"} == {
        "L0_0": 7, "L0_1": 7, "L0_2": 7, "L1_0": 6, "L1_1": 6, "L1_2": 6, "L2_1": 5, "L2_2": 5, "L3_2": 7, "W1_1": 6,
    }  # fmt: skip
    assert set(ranges.values()) == {(0, 1, "Integer")}


def test_windows_are_what_must_run_before_and_after() -> None:
    problem = chain_of({"a": (2, ""), "b": (2, ""), "c": (2, "a"), "d": (2, "bc")})
    model = _Model(problem, 8)
    assert [(steps.start, steps.stop) for steps in model.window] == [(0, 2), (0, 3), (1, 3), (3, 4)]
    assert [str(c) for c in model.model.constraints()][4:11] == [
        "x0_0 + x1_0 = 1.0", "x0_1 + x1_1 + x2_1 = 1.0", "x1_2 + x2_2 = 1.0", "x3_3 = 1.0",
        "x0_0 - x2_1 >= -0.0", "x0_0 + x0_1 - x2_2 >= -0.0", "x1_0 + x1_1 + x1_2 - x3_3 >= -0.0",
    ]  # fmt: skip
    unused = ScheduleProblem(
        "u", problem.operators, (*problem.tensors, ScheduleTensor("none", 0, -1, (), True))
    )
    assert list(_Model(unused, 8).life(4)) == []
    nothing = ScheduleProblem("n", (ScheduleOperator("A", (), ()),), ())
    assert _Model(nothing, 8).unit == 1


@SOME
@given(problem=problems(most_operators=5), share=st.floats(0, 1), name=st.sampled_from(sorted(BASELINES)))
def test_a_start_satisfies_the_programme_and_is_read_back(
    problem: ScheduleProblem, share: float, name: str
) -> None:
    low, high = problem.least_budget, least_peak_of(problem)
    capacity = low + round((high - low) * share)
    schedule = BASELINES[name](problem, capacity).schedule
    assert schedule is not None
    model = _Model(problem, capacity)
    model.warm_start(schedule)
    spans: dict[str, list[tuple[int, int]]] = {}
    for stay in sorted(schedule.residences, key=lambda stay: stay.start):
        spans.setdefault(stay.tensor, []).append((stay.start, stay.end))
    moves = any(a[1] >= b[0] for parts in spans.values() for a, b in itertools.pairwise(parts))
    odd = any(stay.offset % model.unit for stay in schedule.residences)
    assert model.started == (not moves and not odd)
    if not model.started:
        return
    assert [c.name for c in model.model.constraints() if not c.valid(1e-9)] == []
    assert model.model.objective.value() * model.unit == schedule.cost_bytes
    stays, offsets = model.plan()
    again = assemble(problem, stays, offsets)
    assert check(problem, again, capacity) == []
    assert (again.order, again.cost_bytes, again.workspaces) == (
        schedule.order,
        schedule.cost_bytes,
        schedule.workspaces,
    )
    assert set(again.residences) <= set(schedule.residences)


def spilled() -> Schedule:
    problem = tight()
    stays = stays_of(problem, ORDER, {2: [1]})
    found = find_addresses(problem, stays, 8)
    assert found.offsets is not None
    return assemble(problem, stays, found.offsets.tolist())


def test_what_the_programme_cannot_say_is_no_start() -> None:
    problem = tight()
    model = _Model(problem, 8)
    model.warm_start(spilled())
    assert model.started
    values = {v.name: v.value() for v in model.model.variables() if v.name[0] in "CPRS" and v.value()}
    # x is loaded at 0; a and e are kept a step each, b and c too; a is written at step 2 and back at 4.
    assert values == {"C0_0": 1, "P1_1": 1, "S1_2": 1, "R1_4": 1, "P2_2": 1, "P3_3": 1, "P4_4": 1}
    moved = stays_of(problem, ORDER, {1: [1], 2: [1]})
    found = find_addresses(problem, moved, 8)
    assert found.offsets is not None
    between = assemble(problem, moved, found.offsets.tolist())
    adjacent = _Model(problem, 8)
    adjacent.warm_start(between)
    assert not adjacent.started
    even = chain_of({"a": (2, ""), "b": (2, "a")})
    odd = assemble(even, stays_of(even, (0, 1)), [1, 3])
    unaligned = _Model(even, 6)
    unaligned.warm_start(odd)
    assert not unaligned.started


def report(status: Any, bound: float | None, cost: float | None = None) -> SolveReport:
    return SolveReport(status, cost, bound, 1.5, "highs", "1.2")


@pytest.mark.parametrize(
    ("status", "bound", "found", "expected"),
    [
        # Nothing found: the best baseline stays, with the solver's bound in whole bytes.
        ("unknown", None, None, ("feasible", "baseline", 8, 0)),
        ("unknown", 7.0000001, None, ("feasible", "baseline", 8, 7)),
        ("unknown", 7.2, None, ("optimal", "baseline", 8, 8)),
        ("unknown", 99.0, None, ("optimal", "baseline", 8, 8)),
        ("unknown", -3.0, None, ("feasible", "baseline", 8, 0)),
        # Found, as good or better: the solver's is taken; a worse one is not.
        ("optimal", 8.0, (8, 2), ("optimal", "highs", 8, 8)),
        ("feasible", 3.0, (5, 9), ("feasible", "highs", 5, 3)),
        ("feasible", 3.0, (9, 1), ("feasible", "baseline", 8, 3)),
        ("feasible", 3.0, (8, 3), ("feasible", "baseline", 8, 3)),
    ],
)
def test_the_better_of_baseline_and_solution_is_told(
    status: str,
    bound: float | None,
    found: tuple[int, int] | None,
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def solve(model: Any, options: Any) -> SolveReport:
        asked.append((options.time_limit_s, options.seed, options.warm_start))
        return report(status, bound)

    monkeypatch.setattr(ilp_module, "solve_model", solve)
    schedule = spilled()
    if found is not None:
        made = SimpleNamespace(cost_bytes=found[0], transfer_count=found[1], residences=(), workspaces={})
        monkeypatch.setattr(ilp_module, "_placed", lambda problem, model, capacity: made)
    result = solve_by_ilp(tight(), 8, time_limit_s=4.0, seed=7)
    assert asked == [(4.0, 7, True)]
    assert (result.status, result.engine.split()[0], result.cost_bytes, result.bound_bytes) == expected
    assert (result.method, result.seconds, result.nodes, result.seed) == ("ilp", 1.5, 0, 7)
    assert result.version == "highs 1.2"
    assert result.explanation == (
        None
        if expected[0] == "optimal"
        else f"not proved optimal in the time: at least {expected[3]} bytes must move"
    )
    assert schedule.cost_bytes == 8


def test_without_any_schedule_the_answer_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(cost_bytes=None, transfer_count=None, schedule=None, engine="none")
    monkeypatch.setattr(ilp_module, "BASELINES", {"none": lambda problem, size: nothing})
    monkeypatch.setattr(ilp_module, "solve_model", lambda model, options: report("unknown", 3.0))
    result = solve_by_ilp(tight(), 8, seed=2)
    assert (result.status, result.method, result.engine, result.bound_bytes) == ("unknown", "ilp", "highs", 3)
    assert (result.schedule, result.cost_bytes, result.nodes, result.seed, result.version) == (
        None,
        None,
        0,
        2,
        "1.2",
    )
    assert result.explanation == "the integer programme found no schedule in the time"


def test_the_cheapest_baseline_with_the_fewest_transfers_is_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, schedule = tight(), spilled()
    rows = {"dear": (9, 1), "many": (8, 4), "few": (8, 2), "more": (8, 3)}
    made = {
        name: SimpleNamespace(cost_bytes=cost, transfer_count=count, schedule=schedule, engine=name)
        for name, (cost, count) in rows.items()
    }
    monkeypatch.setattr(ilp_module, "BASELINES", {name: lambda p, s, r=r: r for name, r in made.items()})
    monkeypatch.setattr(ilp_module, "solve_model", lambda model, options: report("unknown", None))
    assert solve_by_ilp(problem, 8).engine == "baseline few"


def test_addresses_that_do_not_hold_come_from_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tight()
    stays = stays_of(problem, ORDER, {2: [1]})
    model: Any = SimpleNamespace(plan=lambda: (stays, [0] * 7))
    placed = _placed(problem, model, 8)
    assert placed is not None
    assert check(problem, placed, 8) == []
    good: Any = SimpleNamespace(plan=lambda: (stays, [s.offset for s in placed.residences]))
    assert _placed(problem, good, 8) == placed
    too_wide: Any = SimpleNamespace(plan=lambda: (stays_of(problem, ORDER), [0] * 6))
    assert _placed(problem, too_wide, 8) is None
    monkeypatch.setattr(ilp_module, "check", lambda *given: [Violation("kind", 0, "broken")])
    with pytest.raises(
        PhysicsError, match="the integer programme made a schedule that does not hold: broken"
    ):
        _placed(problem, model, 8)


def test_more_operators_than_forty_are_refused() -> None:
    chain = chain_of({f"o{i}": (1, [f"o{i - 1}"] if i else []) for i in range(41)})
    with pytest.raises(InputError) as error:
        solve_by_ilp(chain, 2)
    assert str(error.value) == (
        "--method: found 41 operators; the integer programme takes at most 40: use the method auto"
    )


@SOME
@given(problem=problems(most_operators=5, most_bytes=6), share=st.floats(0, 1))
def test_the_master_is_as_cheap_as_bytes_allow_and_a_cut_forbids_its_plan(
    problem: ScheduleProblem, share: float
) -> None:
    pytest.importorskip("ortools")
    low, high = problem.least_budget, least_peak_of(problem)
    capacity = low + round((high - low) * share)
    master = master_module.Master(problem, capacity, 3)
    optimum = least_cost_of_bytes(problem, capacity)
    bound, stays = master.solve(10.0, clock=False)
    assert stays is not None
    assert (bound, stays.cost(problem)[0]) == (optimum, optimum)
    assert stays.least_peak(problem) <= capacity
    step = {o: s for s, o in enumerate(stays.order)}
    for t, start, end in stays.spans:
        uses = {step[o] for o in (problem.tensors[t].producer, *problem.tensors[t].consumers) if o >= 0}
        assert {start, end - 1} <= uses
    assert list(stays.spans) == sorted(stays.spans, key=lambda span: (span[1], span[0]))
    master.hint(stays)
    workers = sum(op.workspace_bytes > 0 for op in problem.operators)
    blamed = range(len(stays.spans) + workers)
    master.forbid(stays, blamed)
    _, other = master.solve(10.0, clock=False)
    assert other is None or (other.order, other.spans) != (stays.order, stays.spans)
    if other is not None:
        assert other.cost(problem)[0] >= (optimum or 0)


class Cuts:
    """A master that answers from a list, and notes what it is told."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, Any], blamed: Any = (1, 2)
    ) -> None:
        self.notes: list[Any] = []
        self.answers = list(answers)
        monkeypatch.setattr(master_module, "has_cp_sat", lambda: True)
        monkeypatch.setattr(master_module, "Master", self.made)
        self.status, self.blamed = "infeasible", blamed
        monkeypatch.setattr(master_module, "find_addresses", self.addresses)

    def made(self, problem: Any, capacity: int, seed: int) -> Cuts:
        self.notes.append(("made", capacity, seed))
        return self

    def hint(self, stays: Any) -> None:
        self.notes.append("hint")

    def solve(self, seconds: float, clock: bool) -> tuple[int, Any]:
        self.notes.append(("solve", seconds, clock))
        return self.answers.pop(0)

    def forbid(self, stays: Any, blamed: Any) -> None:
        self.notes.append(("forbid", list(blamed)))

    def addresses(self, problem: Any, stays: Any, capacity: int, *, seconds: Any, explain: bool) -> Any:
        assert explain
        told = None if self.blamed is None else SimpleNamespace(buffers=self.blamed)
        return SimpleNamespace(status=self.status, explanation=told)


def plan_of(cost: int) -> Any:
    return SimpleNamespace(cost=lambda problem: (cost, 0), order=(cost,), spans=((0, 0, 1),) * 3)


def test_cuts_go_on_until_the_bound_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SolverRun, "offer", lambda run, stays, engine: engine == "cp-sat" and stays.order[0] >= 8 and (
        setattr(run, "best", (stays.order[0] * COST_SCALE, stays, [0])) or True))  # fmt: skip
    cuts = Cuts(monkeypatch, (5, plan_of(5)), (6, plan_of(9)), (9, plan_of(9)))
    run = SolverRun(tight(), 8, Budget(), 4)
    master_module.solve_with_cuts(run, None)
    solve = ("solve", 60.0, False)
    assert cuts.notes == [("made", 8, 4), solve, ("forbid", [1, 2]), solve, solve]
    assert (run.bound // COST_SCALE, run.cost // COST_SCALE) == (9, 9)
    whole = Cuts(monkeypatch, (5, plan_of(5)), (5, None), blamed=None)
    run.best, run.bound = (20 * COST_SCALE, plan_of(20), [0]), 0
    master_module.solve_with_cuts(run, 7.0)
    solve = ("solve", 7.0, False)
    assert whole.notes == [("made", 8, 4), "hint", solve, ("forbid", [0, 1, 2]), solve]
    open_end = Cuts(monkeypatch, (5, plan_of(5)))
    open_end.status = "unknown"
    master_module.solve_with_cuts(run, None)
    assert open_end.notes[2:] == [("solve", 60.0, False)]


def test_cuts_keep_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SolverRun, "offer", lambda run, stays, engine: False)
    forever = [(5, plan_of(5))] * 500
    cuts = Cuts(monkeypatch, *forever)
    master_module.solve_with_cuts(SolverRun(tight(), 8, Budget(), 0), None)
    assert sum(note[0] == "solve" for note in cuts.notes) == 40
    cuts = Cuts(monkeypatch, *forever)
    monkeypatch.setattr(Budget, "seconds_left", lambda self: 3.0)
    master_module.solve_with_cuts(SolverRun(tight(), 8, Budget(1e9), 0), 7.0)
    assert sum(note[0] == "solve" for note in cuts.notes) == 400
    assert ("solve", 3.0, True) in cuts.notes
    cuts = Cuts(monkeypatch)
    spent = Budget()
    spent.stop[0] = 1
    master_module.solve_with_cuts(SolverRun(tight(), 8, spent, 0), None)
    assert cuts.notes == [("made", 8, 0)]
    for count, made in ((64, 1), (65, 0)):
        chain = chain_of({f"o{i}": (1, [f"o{i - 1}"] if i else []) for i in range(count)})
        cuts = Cuts(monkeypatch, (0, None))
        master_module.solve_with_cuts(SolverRun(chain, 8, Budget(), 0), None)
        assert sum(note[0] == "made" for note in cuts.notes) == made
    monkeypatch.setattr(master_module, "has_cp_sat", lambda: False)
    cuts.notes.clear()
    master_module.solve_with_cuts(SolverRun(tight(), 8, Budget(), 0), None)
    assert cuts.notes == []


def test_a_stay_held_for_no_reason_is_shortened() -> None:
    problem = tight()
    held = Stays(ORDER, ((0, 0, 1), (1, 0, 4), (2, 1, 5), (3, 2, 4), (1, 4, 5), (4, 3, 5), (5, 4, 5)))
    assert master_module._shortened(problem, held) == replace(
        held, spans=((0, 0, 1), (1, 0, 2), (2, 1, 3), (3, 2, 4), (1, 4, 5), (4, 3, 5), (5, 4, 5))
    )


def test_a_forbidden_set_may_hold_a_part_of_its_stays() -> None:
    pytest.importorskip("ortools")
    problem = chain_of({"a": (3, ""), "b": (3, "a"), "c": (1, "b"), "d": (1, "ac")}, workspaces={"c": 3})
    # In ten bytes nothing moves and the order is fixed: to forbid one stay alone costs a spill and a retrieve.
    master = master_module.Master(problem, 10)
    bound, stays = master.solve(10.0)
    assert (bound, stays) == (0, stays_of(problem, (0, 1, 2, 3)))
    assert stays is not None
    master.forbid(stays, [0])
    assert master.solve(10.0)[0] == 6
    # The workspace of c (behind the four stays) and its own stay come with the operator, which cannot be elsewhere.
    for blamed in ([len(stays.spans)], [3]):
        fixed = master_module.Master(problem, 10)
        fixed.forbid(stays, blamed)
        assert fixed.solve(10.0) == (0, None)
