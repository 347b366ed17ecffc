"""COSMA's integer programme: each pitfall that the published constraints leave open, one test."""

from __future__ import annotations

import csv

import pytest

from hw_configs.problems import InputError
from mapping.scheduling import BASELINES, ScheduleProblem, check, problem_from_graph, solve
from mapping.scheduling.by_ilp import MOST_OPERATORS, _Model
from mapping.solver import SolverOptions, solve_model
from tests.scheduling.build import chain_of
from tests.scheduling.conftest import REFERENCE
from workloads.graph_json import read_graph


def optimum(problem: ScheduleProblem, capacity: int) -> int:
    result = solve(problem, capacity, method="ilp", time_limit_s=30)
    assert result.status == "optimal"
    assert result.schedule is not None
    assert check(problem, result.schedule, capacity) == []
    assert result.cost_bytes is not None
    return result.cost_bytes


SPILLING = {"a": (4, ["x"]), "b": (1, "a"), "c": (6, "b"), "e": (2, "c"), "d": (1, "ae")}


def test_no_phantom_state_before_the_first_step() -> None:
    """Without a base case a tensor could be preserved from nowhere, and a spill would cost nothing."""
    assert optimum(chain_of(SPILLING, {"x": 2}), 8) == 8
    model = _Model(chain_of(SPILLING, {"x": 2}), 8)
    for (kind, t, s), _ in model.state.items():
        assert s > model.life(t).start or kind == "C"


def test_one_operator_to_a_step() -> None:
    """Two operators in one step would share their input's stay and save a retrieve."""
    problem = chain_of({"a": (2, ""), "b": (3, "a"), "c": (3, "a"), "d": (1, "bc")})
    result = solve(problem, 8, method="ilp")
    assert result.order[0] == "a"
    assert sorted(result.order[1:3]) == ["b", "c"]
    assert result.order[3] == "d"


def test_nothing_is_preserved_beyond_its_last_use() -> None:
    """Pairs are left out where lives cannot meet, which is sound only if no life is longer than its use."""
    problem = chain_of({"a": (2, ""), "b": (2, "a"), "p": (2, ""), "q": (2, "")})

    def status(step: int) -> str:
        model = _Model(problem, 8)
        model.model += model.x[0, 0] == 1
        model.model += model.x[1, 1] == 1
        model.model += model.get("P", 0, step) == 1
        return solve_model(model.model, SolverOptions(time_limit_s=20)).status

    assert (status(1), status(2)) == ("optimal", "infeasible")


def test_a_weight_is_used_at_the_step_of_its_first_load() -> None:
    """Read in one step only, at a budget that lets it in at that step alone."""
    problem = chain_of({"a": (5, ["x"]), "b": (1, ["a", "w"]), "c": (5, "b")}, {"x": 1, "w": 2})
    assert optimum(problem, 8) == 0


def test_small_tensors_beside_a_large_one_never_overlap() -> None:
    """Sizes 10**9 and 1: with big-M on raw bytes the tolerance would hide an overlap of the small ones."""
    giga = 10**9
    operators = {"a": (giga, ""), "b": (1, "a"), "c": (1, "a"), "d": (giga, "bc"), "e": (1, "abd")}
    problem = chain_of(operators)
    assert optimum(problem, 2 * giga + 3) == 0


def test_sizes_are_taken_in_units_of_their_divisor() -> None:
    operators = {name: (4096 * size, inputs) for name, (size, inputs) in SPILLING.items()}
    model = _Model(chain_of(operators, {"x": 8192}), 8 * 4096 + 100)
    assert (model.unit, model.capacity) == (4096, 8)


def test_an_input_read_twice_is_needed_once() -> None:
    problem = chain_of({"a": (4, ""), "square": (4, ["a", "a"])})
    assert problem.least_budget == 8
    assert optimum(problem, 8) == 0


def test_addresses_are_bounded_also_while_away() -> None:
    """Constraint 9 is a bound of the variable: nothing in the model gates it by residency."""
    model = _Model(chain_of(SPILLING, {"x": 2}), 8)
    for (t, _), variable in model.address.items():
        if t < len(model.size):
            assert (variable.lowBound, variable.upBound) == (0, model.capacity - model.size[t])


def test_workspaces_take_room() -> None:
    problem = chain_of({"a": (3, ""), "b": (3, "a"), "c": (1, "b"), "d": (1, "ac")}, workspaces={"c": 3})
    # c wants 3 + 1 + 3 beside a's 3.
    assert (optimum(problem, 10), optimum(problem, 9)) == (0, 6)


def test_the_baseline_is_a_start_that_the_solver_takes(inception: ScheduleProblem) -> None:
    """Its values satisfy every constraint of the model, the address constraints included."""
    model = _Model(inception, 490_240)
    for run in BASELINES.values():
        schedule = run(inception, 490_240).schedule
        assert schedule is not None
        if not model.started:
            model.warm_start(schedule)
    assert model.started
    for constraint in model.model.constraints():
        assert constraint.valid(1e-9), constraint.name


@pytest.mark.parametrize("graph", ["transformer_layer", "densenet_block"])
def test_reference_rows_that_it_closes(graph: str) -> None:
    with (REFERENCE / "graph_results.csv").open(encoding="utf-8", newline="") as stream:
        row = next(row for row in csv.DictReader(stream) if row["graph"] == graph and row["budget"] == "M_R")
    problem = problem_from_graph(read_graph(REFERENCE / "graphs" / f"{graph}.json"))
    assert optimum(problem, int(row["scratchpad_bytes"])) == int(row["optimal_bytes"])


def test_a_time_out_leaves_the_best_and_an_honest_bound(inception: ScheduleProblem) -> None:
    result = solve(inception, 470_400, method="ilp", time_limit_s=0.05)
    assert result.cost_bytes is not None
    assert result.bound_bytes <= 313_600 <= result.cost_bytes
    assert result.status == ("optimal" if result.bound_bytes == result.cost_bytes else "feasible")


def test_large_graphs_are_refused_with_words() -> None:
    operators: dict[str, tuple[int, list[str]]] = {"o0": (1, [])}
    for i in range(1, MOST_OPERATORS + 1):
        operators[f"o{i}"] = (1, [f"o{i - 1}"])
    with pytest.raises(InputError, match="takes at most"):
        solve(chain_of(operators), 2, method="ilp")
