"""Nothing is called optimal that is not, and the checker names every broken promise: each guard is tripped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapping.deadline import Budget
from mapping.scheduling import Residence, Schedule, ScheduleProblem, Transfer, check, solve
from mapping.scheduling import by_ilp as by_ilp_module
from mapping.scheduling.baselines import baseline_stays
from mapping.scheduling.search import COST_SCALE, LayerSearch, scaled
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.solving import _answer
from mapping.solver import SolveReport, SolverOptions, solve_model
from tests.scheduling.brute_force import least_cost_of_bytes, least_peak_of
from tests.scheduling.build import chain_of
from tests.scheduling.strategies import problems

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@MANY
@given(problem=problems(most_bytes=9), share=st.floats(0, 0.9), ahead=st.booleans())
def test_a_search_that_may_cost_one_byte_more_than_the_optimum_finds_it(
    problem: ScheduleProblem, share: float, ahead: bool
) -> None:
    """A bound on what is still to pay that says too much would cut the optimum off: something dearer were optimal."""
    low, high = problem.least_budget, least_peak_of(problem)
    capacity = low + int((high - low) * share)
    optimum = least_cost_of_bytes(problem, capacity)
    assert optimum is not None
    search = LayerSearch(problem, capacity, Budget(None))
    if ahead:
        search.look_ahead()
    found = search.run(scaled(optimum + 1, 0), 10_000)
    assert found.complete
    assert found.cost is not None
    assert found.cost // COST_SCALE == optimum
    assert search.run(scaled(optimum, 0), 10_000).cost is None


def tight() -> tuple[ScheduleProblem, int]:
    """'a' (4 bytes) must leave for a while: 8 bytes are moved, not one less."""
    operators = {"a": (4, "x"), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}
    return chain_of(operators, {"x": 2}), 8


@pytest.mark.parametrize("ahead", [False, True])
def test_a_table_of_peaks_ahead_hides_no_optimum(ahead: bool) -> None:
    """Every order passes 11 bytes: three of them must go out and come back, and 'a' is the only one that can."""
    problem, capacity = tight()
    search = LayerSearch(problem, capacity, Budget(None))
    assert not ahead or search.look_ahead()
    found = search.run(scaled(9, 0), 10_000)
    assert found.cost == scaled(8, 2)
    assert found.complete


@pytest.mark.parametrize(
    ("bound", "status"), [(8, "optimal"), (9, "optimal"), (7, "feasible"), (4, "feasible"), (0, "feasible")]
)
def test_a_bound_below_the_cost_is_a_gap(bound: int, status: str) -> None:
    problem, capacity = tight()
    run = SolverRun(problem, capacity, Budget(None), 0)
    order = tuple(range(len(problem.operators)))
    assert run.offer(*_with_name(baseline_stays(problem, order, "belady", capacity)))
    assert run.cost // COST_SCALE == 8
    run.raise_bound(bound * COST_SCALE + 1)
    assert run.proved == (status == "optimal")
    result = _answer(run, "auto")
    assert (result.status, result.cost_bytes, result.bound_bytes) == (status, 8, min(bound, 8))
    assert (result.explanation is None) == (status == "optimal")
    assert result.gap == pytest.approx(1 - min(bound, 8) / 8)


def _with_name(found: tuple[object, object]) -> tuple[object, str, object]:
    return found[0], "by hand", found[1]


def test_a_bound_only_rises_and_never_above_the_best() -> None:
    problem, capacity = tight()
    run = SolverRun(problem, capacity, Budget(None), 0)
    run.raise_bound(3 * COST_SCALE)
    run.raise_bound(2 * COST_SCALE)
    assert run.bound == 3 * COST_SCALE
    order = tuple(range(len(problem.operators)))
    run.offer(*_with_name(baseline_stays(problem, order, "belady", capacity)))
    run.raise_bound(100 * COST_SCALE)
    assert run.bound == run.cost == scaled(8, 2)


@pytest.mark.parametrize("lost", [0.0, 0.02, 0.5])
def test_the_integer_programme_is_optimal_by_its_bound_alone(
    lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = chain_of(
        {"a": (400, "x"), "b": (100, "a"), "c": (600, "b"), "e": (200, "c"), "d": (100, "ae")}, {"x": 200}
    )

    def stopped(model: object, options: SolverOptions) -> SolveReport:
        report = solve_model(model, options)  # type: ignore[arg-type]
        assert report.bound is not None
        return replace(report, bound=report.bound * (1 - lost), status="optimal")

    monkeypatch.setattr(by_ilp_module, "solve_model", stopped)
    result = solve(large, 800, method="ilp", time_limit_s=20)
    assert result.cost_bytes == 800
    assert result.bound_bytes == 800 - round(800 * lost)
    assert result.status == ("optimal" if lost == 0 else "feasible")
    assert (result.explanation is None) == (lost == 0)


CAPACITY = 8


@pytest.fixture(scope="module")
def problem() -> ScheduleProblem:
    return tight()[0]


@pytest.fixture
def good(problem: ScheduleProblem) -> Schedule:
    """load x, a b | spill a | c e | retrieve a | d | store d."""
    found = solve(problem, CAPACITY).schedule
    assert found is not None
    assert found.order == ("a", "b", "c", "e", "d")
    assert [(m.kind, m.tensor, m.step) for m in found.transfers] == [
        ("load", "x", 0), ("spill", "a", 2), ("retrieve", "a", 4), ("store", "d", 5),
    ]  # fmt: skip
    assert [(s.tensor, s.start, s.end) for s in sorted(found.residences, key=lambda s: (s.start, s.tensor))] == [
        ("a", 0, 2), ("x", 0, 1), ("b", 1, 3), ("c", 2, 4), ("e", 3, 5), ("a", 4, 5), ("d", 4, 5),
    ]  # fmt: skip
    assert check(problem, found, CAPACITY) == []
    return found


def with_move(schedule: Schedule, at: int, move: Transfer) -> Schedule:
    moves = list(schedule.transfers)
    moves.insert(at, move)
    return replace(schedule, transfers=tuple(moves))


def with_moves(schedule: Schedule, which: str, /, **changes: object) -> Schedule:
    return replace(
        schedule,
        transfers=tuple(replace(m, **changes) if m.kind == which else m for m in schedule.transfers),  # type: ignore[arg-type]
    )


def with_stay(schedule: Schedule, tensor: str, begin: int, /, **changes: object) -> Schedule:
    stays = tuple(
        replace(s, **changes) if (s.tensor, s.start) == (tensor, begin) else s  # type: ignore[arg-type]
        for s in schedule.residences
    )
    return replace(schedule, residences=stays)


MESSAGES: dict[str, tuple[str, Callable[[Schedule], Schedule]]] = {
    "stored twice": (
        "step 5: store of 'd' happens twice", lambda s: with_move(s, 4, Transfer("d", 5, 1, "store")),
    ),
    "an output spilled": ("'d': a graph output is stored, not spilled", lambda s: with_moves(s, "store", kind="spill")),
    "an inner tensor stored": ("'a' is no graph output", lambda s: with_moves(s, "spill", kind="store")),
    "a made tensor loaded": (
        "load of 'a' is not the compulsory first one", lambda s: with_moves(s, "retrieve", kind="load"),
    ),
    "the first fetch called a retrieve": (
        "retrieve of 'x' is the first, compulsory one: a load", lambda s: with_moves(s, "load", kind="retrieve"),
    ),
    "loaded twice": ("filled 2 times", lambda s: with_move(s, 0, Transfer("x", 0, 2, "load"))),
    "retrieved without a spill": (
        "retrieve of 'a' was never written",
        lambda s: replace(s, transfers=tuple(m for m in s.transfers if m.kind != "spill")),
    ),
    "retrieved before the spill": (
        "stands out of order",
        lambda s: replace(s, transfers=(s.transfers[0], s.transfers[2], s.transfers[1], s.transfers[3])),
    ),
    "spilled before it is there": (
        "step 0: spill of 'a' finds nothing to write", lambda s: with_moves(s, "spill", step=0),
    ),
    "spilled a step late": ("step 3: spill of 'a' finds nothing to write", lambda s: with_moves(s, "spill", step=3)),
    "a transfer of another size": ("has a wrong size or name", lambda s: with_moves(s, "retrieve", size_bytes=3)),
    "a transfer of nobody": ("has a wrong size or name", lambda s: with_move(s, 4, Transfer("z", 5, 1, "store"))),
    "an output never stored": (
        "the graph output 'd' is never stored", lambda s: replace(s, transfers=s.transfers[:-1]),
    ),
    "an operator twice": ("every operator exactly once", lambda s: replace(s, order=(*s.order, "d"))),
    "an operator too early": (
        "'b' at step 0 runs before 'a' at step 1", lambda s: replace(s, order=("b", "a", "c", "e", "d")),
    ),
    "a stay of another size": ("'a' has 4 bytes, not 5", lambda s: with_stay(s, "a", 0, size_bytes=5)),
    "a stay of nobody": (
        "unknown tensor 'z'", lambda s: replace(s, residences=(*s.residences, Residence("z", 0, 1, 0, 0))),
    ),
    "a stay beyond the end": ("'d' stays from 4 to 6", lambda s: with_stay(s, "d", 4, end=6)),
    "a stay of no step": ("'d' stays from 4 to 4", lambda s: with_stay(s, "d", 4, end=4)),
    "a stay from before the start": ("'x' stays from -1 to 1", lambda s: with_stay(s, "x", 0, start=-1)),
    "a stay that ends early": (
        "step 2: 'c' needs 'b', which is there 0 times", lambda s: with_stay(s, "b", 1, end=2),
    ),
    "a stay twice": (
        "which is there 2 times", lambda s: replace(s, residences=(*s.residences, s.residences[0])),
    ),
    "a stay before it is made": (
        "'d' lies there before it is made at step 4", lambda s: with_stay(s, "d", 4, start=3),
    ),
    "a retrieve a step late": ("'a' is fetched to no place", lambda s: with_moves(s, "retrieve", step=5)),
    "a stay that nothing fills": (
        "step 4: 'a' comes to lie there, filled 0 times",
        lambda s: replace(s, transfers=tuple(m for m in s.transfers if m.kind != "retrieve")),
    ),
    "a stay below zero": ("outside the 8 bytes", lambda s: with_stay(s, "x", 0, offset=-1)),
    "a stay one byte too high": ("lies at 7 to 9, outside the 8 bytes", lambda s: with_stay(s, "x", 0, offset=7)),
}  # fmt: skip


@pytest.mark.parametrize("what", MESSAGES)
def test_each_broken_promise_is_named(what: str, problem: ScheduleProblem, good: Schedule) -> None:
    message, broken = MESSAGES[what]
    found = check(problem, broken(good), CAPACITY)
    assert any(message in str(violation) for violation in found), [str(violation) for violation in found]
    assert [violation.step for violation in found] == sorted(violation.step for violation in found)
    assert len(check(problem, broken(good), CAPACITY, limit=1)) == 1


def test_two_stays_meet_at_their_first_shared_byte(problem: ScheduleProblem, good: Schedule) -> None:
    """'x' (2 bytes) beside 'a' (4 bytes) at step 0: every address of 'x' is tried."""
    a = next(s.offset for s in good.residences if (s.tensor, s.start) == ("a", 0))
    for at in range(CAPACITY - 1):
        apart = at + 2 <= a or a + 4 <= at
        found = check(problem, with_stay(good, "x", 0, offset=at), CAPACITY)
        assert [v.kind for v in found] == ([] if apart else ["overlap"]), at


def test_workspaces_take_bytes_at_their_step() -> None:
    problem = chain_of({"a": (2, ""), "b": (2, "a")}, workspaces={"b": 4})
    good = solve(problem, 8).schedule
    assert good is not None
    assert check(problem, good, 8) == []
    missing = check(problem, replace(good, workspaces={}), 8)
    assert [str(v) for v in missing] == ["the workspace of 'b' has no address"]
    used = sorted((s.offset, s.offset + 2) for s in good.residences if s.start <= 1 < s.end)
    for at in range(-1, 6):
        apart = all(at + 4 <= low or high <= at for low, high in used)
        kinds = {v.kind for v in check(problem, replace(good, workspaces={"b": at}), 8)}
        assert ("overlap" in kinds) == (not apart), at
        assert ("capacity" in kinds) == (not 0 <= at <= 4), at


def test_an_order_is_held_beside_the_data() -> None:
    problem = chain_of({"a": (1, ""), "b": (1, ""), "c": (1, "ab")})
    first, second, third = problem.operators
    held = ScheduleProblem(problem.name, (first, replace(second, after=(0,)), third), problem.tensors)
    found = solve(held, 8).schedule
    assert found is not None
    assert found.order == ("a", "b", "c")
    wrong = check(held, replace(found, order=("b", "a", "c")), 8)
    assert [str(v) for v in wrong] == ["'b' at step 0 runs before 'a' at step 1"]
