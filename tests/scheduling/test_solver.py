"""Solving: addresses that do not fit, ties, objectives, banks, division, limits and words."""

from __future__ import annotations

import itertools

import pytest

from hw_configs.problems import InputError
from mapping.allocation.banks import Bank
from mapping.deadline import Budget
from mapping.scheduling import BASELINES, ScheduleProblem, check, least_peak, solve
from mapping.scheduling import master as master_module
from mapping.scheduling.banks import check_banks, solve_in_banks
from mapping.scheduling.master import solve_with_cuts
from mapping.scheduling.search import NO_LIMIT, LayerSearch
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import find_addresses
from tests.scheduling.build import chain_of

SCATTERED = [
    # Plans of the least bytes exist, but none of their residencies can be given addresses.
    (13, 13, {
        "a": (3, ""), "b": (4, "a"), "c": (5, "ab"), "d": (3, "a"), "e": (5, "ad"), "f": (2, "bc"),
        "g": (3, "a"), "h": (2, "cdf"), "i": (4, "efh"),
    }),
    (12, 4, {
        "a": (2, ""), "b": (3, "a"), "c": (1, "ab"), "d": (3, "abc"), "e": (2, "bc"), "f": (4, "bd"),
        "g": (5, "b"), "h": (4, "aef"), "i": (3, "fh"),
    }),
]  # fmt: skip


@pytest.mark.parametrize(("capacity", "optimum", "operators"), SCATTERED)
def test_cuts_prove_the_optimum_where_bytes_alone_mislead(
    capacity: int, optimum: int, operators: dict[str, tuple[int, str]]
) -> None:
    pytest.importorskip("ortools")
    problem = chain_of(operators)
    by_bytes = LayerSearch(problem, capacity, Budget(None)).run(NO_LIMIT, 10_000)
    assert by_bytes.stays is not None
    assert find_addresses(problem, by_bytes.stays, capacity).status == "infeasible"
    run = SolverRun(problem, capacity, Budget(None, 100_000), 0)
    solve_with_cuts(run, None)
    assert (run.engine, run.cost >> 20, run.bound >> 20) == ("cp-sat", optimum, optimum)
    result = solve(problem, capacity, time_limit_s=None, max_states=200_000)
    assert (result.status, result.cost_bytes, result.bound_bytes) == ("optimal", optimum, optimum)
    assert result.schedule is not None
    assert check(problem, result.schedule, capacity) == []


def test_without_constraint_programming_the_gap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_module, "has_cp_sat", lambda: False)
    capacity, optimum, operators = SCATTERED[0]
    result = solve(chain_of(operators), capacity, time_limit_s=None, max_states=200_000)
    assert result.status == "feasible"
    assert result.explanation is not None
    assert result.cost_bytes is not None
    assert result.bound_bytes <= optimum <= result.cost_bytes
    assert result.bound_bytes < result.cost_bytes
    assert result.gap == pytest.approx(1 - result.bound_bytes / result.cost_bytes)


def test_first_load_and_output_are_free_and_a_first_drop_is_charged_twice() -> None:
    operators = {"a": (4, "x"), "b": (1, "a"), "c": (4, "b"), "d": (1, "ac")}
    inside = solve(chain_of(operators, {"x": 2}), 9)
    assert (inside.cost_bytes, inside.transfer_count) == (0, 0)
    assert [move.kind for move in inside.transfers] == ["load", "store"]
    # While c runs, a (4) and b (1) + c (4) want 9 bytes; at 9 they fit, and d wants 9 itself.
    wide = {"a": (4, "x"), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}
    out = solve(chain_of(wide, {"x": 2}), 8)
    assert (out.cost_bytes, out.transfer_count) == (8, 2)
    assert [move.kind for move in out.transfers if move.tensor == "a"] == ["spill", "retrieve"]


def test_an_input_that_is_dropped_costs_its_retrieve_alone() -> None:
    # x is read first and last; between, b wants all the room.
    problem = chain_of({"a": (2, "x"), "b": (6, "a"), "c": (1, "b"), "d": (1, "xc")}, {"x": 3})
    result = solve(problem, 8)
    assert (result.cost_bytes, result.transfer_count) == (3, 1)


def test_fewer_transfers_win_among_equal_bytes() -> None:
    """One tensor of 4 bytes or two of 2 can make room; the one has half the transfers."""
    problem = chain_of({
        "p": (2, ""), "q": (2, ""), "r": (4, ""), "s": (1, ""), "big": (8, ["s"]), "small": (1, ["big"]),
        "end": (1, ["p", "q", "r", "small"]),
    })  # fmt: skip
    problem = ScheduleProblem(
        problem.name,
        tuple(
            op if not i else type(op)(op.name, op.inputs, op.outputs, 0, (i - 1,))
            for i, op in enumerate(problem.operators)
        ),
        problem.tensors,
    )
    result = solve(problem, 13)
    assert (result.cost_bytes, result.transfer_count, result.ties_proven) == (8, 2, True)


def test_lowest_peak_among_equals(inception: ScheduleProblem) -> None:
    result = solve(inception, 520_000)
    assert result.cost_bytes == 0
    assert result.ties_proven
    assert result.peak_bytes == 509_600 == least_peak(inception).peak_bytes


def test_objective_peak(inception: ScheduleProblem) -> None:
    result = solve(inception, 10**6, objective="peak")
    assert (result.status, result.peak_bytes, result.bound_bytes) == ("optimal", 509_600, 509_600)
    tight = solve(inception, 509_599, objective="peak")
    assert tight.status == "infeasible"
    assert tight.explanation is not None
    assert "509600" in tight.explanation
    assert "470400" in tight.explanation


def test_explanation_of_too_small_names_operator_bytes_and_levers(inception: ScheduleProblem) -> None:
    result = solve(inception, 400_000)
    assert result.status == "infeasible"
    assert result.explanation is not None
    for word in ("'b4_pool'", "470400 bytes", "400000 bytes", "tiles", "--scratchpad"):
        assert word in result.explanation


def test_explanation_names_streaming_only_where_weights_are_resident() -> None:
    problem = chain_of({"a": (4, "x")}, {"x": 2})
    resident = ScheduleProblem("r", problem.operators, problem.tensors, "resident")
    streamed, kept = (solve(p, 5).explanation or "" for p in (problem, resident))
    assert "--weights stream" in kept
    assert "--weights stream" not in streamed


def test_out_of_effort_is_told_with_section_and_levers(
    inception: ScheduleProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master_module, "has_cp_sat", lambda: False)
    result = solve(inception, 470_400, time_limit_s=None, max_states=1)
    assert result.status == "feasible"
    assert result.explanation is not None
    assert result.bound_bytes < 313_600 <= (result.cost_bytes or 0)
    for word in ("not proved", "470400 bytes", "--time-limit", "step"):
        assert word in result.explanation


def test_divide_carries_states_over_cuts(inception: ScheduleProblem) -> None:
    from mapping.scheduling.by_parts import cut_into_parts, divided

    parts = cut_into_parts(inception, range(13), 5)
    assert sorted(o for part in parts for o in part) == list(range(13))
    assert len(parts) >= 2
    listed = [o for part in parts for o in part]
    narrow = divided(inception, parts)
    assert [op.name for op in narrow.operators] == [inception.operators[o].name for o in listed]
    place = {o: i for i, o in enumerate(listed)}
    for before, part in itertools.pairwise(parts):
        assert all(place[w] in narrow.predecessors[place[o]] for o in part for w in before)
    result = solve(inception, 470_400, method="divide")
    assert result.cost_bytes is not None
    assert result.bound_bytes <= 313_600 <= result.cost_bytes
    assert result.schedule is not None
    assert check(inception, result.schedule, 470_400) == []


def test_bound_by_parts_is_positive_and_valid() -> None:
    """Five blocks that each must move bytes: the parts' bounds add up."""
    operators: dict[str, tuple[int, list[str]]] = {"in": (4, [])}
    last = "in"
    for block in range(8):
        names = [f"{part}{block}" for part in "abcde"]
        operators[names[0]] = (6, [last])
        operators[names[1]] = (8, [names[0]])
        operators[names[2]] = (4, [names[1]])
        operators[names[3]] = (4, [names[0], names[2]])
        last = names[3]
    problem = chain_of(operators)
    from mapping.scheduling.by_parts import raise_bound_by_parts

    capacity = problem.least_budget
    best = solve(problem, capacity)
    assert best.status == "optimal"
    assert best.cost_bytes
    run = SolverRun(problem, capacity, Budget(None, 10**6), 0)
    raise_bound_by_parts(run)
    assert 0 < run.bound >> 20 <= best.cost_bytes


def test_banks_keep_stays_whole(inception: ScheduleProblem) -> None:
    banks = [Bank("a", 240_000), Bank("b", 240_000), Bank("c", 80_000)]
    result = solve_in_banks(inception, banks, time_limit_s=None, max_states=100_000)
    assert result.schedule is not None
    assert check(inception, result.schedule, 560_000) == []
    assert check_banks(result.schedule, banks) == []
    one = solve(inception, 560_000)
    assert result.cost_bytes is not None
    assert one.cost_bytes is not None
    assert result.bound_bytes <= one.cost_bytes <= result.cost_bytes


def test_banks_too_small_for_an_operator_are_infeasible(inception: ScheduleProblem) -> None:
    result = solve_in_banks(inception, [Bank("a", 240_000), Bank("b", 230_000)])
    assert result.status == "infeasible"
    assert result.explanation is not None
    assert "b4_pool" in result.explanation


def test_every_baseline_holds_and_reports_itself(inception: ScheduleProblem) -> None:
    assert len(BASELINES) == 10
    for name, run in BASELINES.items():
        result = run(inception, 470_400)
        assert result.engine == name
        assert result.schedule is not None
        assert check(inception, result.schedule, 470_400) == []
        assert run(inception, 470_399).status == "infeasible"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "autoo"}, "auto"),
        ({"objective": "byte"}, "bytes"),
        ({"objective": "time"}, "machine"),
        ({"time_limit_s": 0.0}, "above zero"),
    ],
)
def test_wrong_options(inception: ScheduleProblem, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve(inception, 470_400, **options)  # type: ignore[arg-type]
