"""The programme of residency against plain recursion, and what it promises about orders and bounds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.deadline import Budget
from mapping.scheduling import ScheduleProblem, check, solve
from mapping.scheduling import residency as residency_module
from mapping.scheduling.in_order import plan_in_order
from mapping.scheduling.instance import build_instance, lists_of
from mapping.scheduling.order_search import _scratch, bytes_in_order, improve_order
from mapping.scheduling.replacement import replace_by_bytes, replace_in_order
from mapping.scheduling.residency import residency_of, residency_of_order, solve_residency, stays_with
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import assemble
from tests.scheduling.brute_force import least_cost_of_bytes
from tests.scheduling.strategies import problems


def least_in_order(problem: ScheduleProblem, order: Sequence[int], capacity: int) -> int:
    """The least bytes of one order: every set of tensors kept at every step, by plain forward steps."""
    size = [tensor.size_bytes for tensor in problem.tensors]
    states: dict[tuple[frozenset[int], frozenset[int]], int] = {(frozenset(), frozenset()): 0}
    done: set[int] = set()
    for o in order:
        op = problem.operators[o]
        following: dict[tuple[frozenset[int], frozenset[int]], int] = {}
        for (held, written), cost in states.items():
            for count in range(len(held) + 1):
                for kept in itertools.combinations(sorted(held), count):
                    beside = sum(size[t] for t in kept if t not in op.inputs)
                    if beside + problem.need_bytes[o] > capacity:
                        continue
                    gone = held - set(kept)
                    more = sum(size[t] for t in gone if not problem.tensors[t].copy_free and t not in written)
                    for t in set(op.inputs) - set(kept):
                        first = problem.tensors[t].producer < 0 and not done & set(
                            problem.tensors[t].consumers
                        )
                        more += 0 if first else size[t]
                    wanted = {
                        t
                        for t in {*kept, *op.inputs, *op.outputs}
                        if set(problem.tensors[t].consumers) - done - {o}
                    }
                    key = (frozenset(wanted), written | gone)
                    following[key] = min(following.get(key, 1 << 60), cost + more)
        states = following
        done.add(o)
    return min(states.values())


def an_order(problem: ScheduleProblem, seed: int) -> list[int]:
    rng, order = np.random.default_rng(seed), list[int]()
    while len(order) < len(problem.operators):
        ready = [
            o
            for o, waits in enumerate(problem.predecessors)
            if o not in order and all(w in order for w in waits)
        ]
        order.append(int(rng.choice(ready)))
    return order


@settings(max_examples=60, deadline=None)
@given(problems(7), st.integers(0, 3), st.integers(0, 99))
def test_the_programme_of_an_order_moves_the_fewest_bytes(
    problem: ScheduleProblem, extra: int, seed: int
) -> None:
    capacity, order = problem.least_budget + extra, an_order(problem, seed)
    programme = residency_of_order(problem, order, capacity)
    answer = solve_residency(programme, Budget())
    assert answer.cost == answer.bound == least_in_order(problem, order, capacity)
    stays = stays_with(programme, order, answer.gaps)
    assert stays.cost(problem)[0] == answer.cost
    assert stays.least_peak(problem) <= capacity
    assert replace_by_bytes(problem, order, capacity, "belady").cost(problem)[0] >= answer.bound
    relaxed = solve_residency(programme, Budget(), relaxed=True)
    assert relaxed.cost is None
    assert relaxed.bound <= answer.bound
    late = solve_residency(programme, Budget(0.0))
    assert late.cost is not None
    assert late.bound <= answer.cost <= late.cost == stays_with(programme, order, late.gaps).cost(problem)[0]


@settings(max_examples=60, deadline=None)
@given(problems(6), st.integers(0, 3))
def test_what_is_certain_in_every_order_bounds_every_order(problem: ScheduleProblem, extra: int) -> None:
    capacity = problem.least_budget + extra
    answer = solve_residency(residency_of(problem, capacity), Budget())
    least = least_cost_of_bytes(problem, capacity)
    assert least is not None
    assert answer.bound <= least


def test_a_looser_row_is_caught_by_the_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _chain_with_skips()
    capacity = problem.least_budget + 1
    order = range(len(problem.operators))
    right = least_in_order(problem, order, capacity)
    assert right > 0
    real = residency_module._build

    def loose(problem: ScheduleProblem, capacity: int, *bits: object) -> object:
        return real(problem, capacity + 4, *bits)  # type: ignore[arg-type]

    monkeypatch.setattr(residency_module, "_build", loose)
    assert solve_residency(residency_of_order(problem, order, capacity), Budget()).cost != right


def _chain_with_skips(depth: int = 6) -> ScheduleProblem:
    """A network that goes down and up again: output i of the first half is read in the second half too."""
    from mapping.scheduling import ScheduleOperator, ScheduleTensor

    n = 2 * depth
    inputs = [(o - 1, 2 * depth - 1 - o) if o >= depth + 1 else (o - 1,) for o in range(n)]
    inputs[0] = ()
    operators = tuple(ScheduleOperator(f"o{o}", tuple(dict.fromkeys(inputs[o])), (o,)) for o in range(n))
    tensors = tuple(
        ScheduleTensor(
            f"t{t}", 2 + t % 3, t, tuple(o for o in range(n) if t in inputs[o]), t == n - 1, t == n - 1
        )
        for t in range(n)
    )
    return ScheduleProblem("down and up", operators, tensors)


def test_every_order_of_a_chain_is_the_given_one_and_is_proved() -> None:
    problem = _chain_with_skips(100)
    capacity = problem.least_budget + 40
    least = solve_residency(residency_of_order(problem, range(200), capacity), Budget(60.0))
    assert least.optimal
    assert solve_residency(residency_of(problem, capacity), Budget(60.0)).bound == least.bound > 0
    found = solve(problem, capacity, time_limit_s=30.0)
    assert found.schedule is not None
    assert check(problem, found.schedule, capacity) == []
    assert found.bound_bytes == least.bound
    assert found.cost_bytes is not None
    assert found.cost_bytes <= 1.02 * least.bound


def test_the_given_order_is_kept_and_its_bound_is_told() -> None:
    problem = _chain_with_skips(8)
    capacity = problem.least_budget + 2
    found = solve(problem, capacity, method="given-order", time_limit_s=20.0)
    assert found.order == tuple(op.name for op in problem.operators)
    assert found.bound_bytes == least_in_order(problem, range(16), capacity)
    assert "order" in found.notes


@settings(max_examples=40, deadline=None)
@given(problems(7, most_bytes=5), st.integers(0, 4), st.integers(0, 99))
def test_orders_and_their_bytes_by_beladys_rule(problem: ScheduleProblem, extra: int, seed: int) -> None:
    capacity, order = problem.least_budget + extra, np.array(an_order(problem, seed))
    tables = build_instance(problem).tables
    moved = bytes_in_order(tables, order, capacity, 1 << 60, _scratch(tables))
    assert moved >= least_in_order(problem, order.tolist(), capacity)
    waits = lists_of([list(before) for before in problem.predecessors])
    better, cost, made = improve_order(tables, order, *waits, capacity, 50, seed, np.zeros(1, np.int64))
    assert cost <= moved
    assert made <= 50
    assert cost == bytes_in_order(tables, better, capacity, 1 << 60, _scratch(tables))
    residency_of_order(problem, better.tolist(), capacity)  # refuses an order that breaks a wait
    stopped = improve_order(tables, order, *waits, capacity, 50, seed, np.ones(1, np.int64))
    assert (stopped[0].tolist(), stopped[1:]) == (order.tolist(), (moved, 0))


@settings(max_examples=40, deadline=None)
@given(problems(7, most_bytes=5), st.integers(0, 4), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_plan_run_over_real_addresses_holds(
    problem: ScheduleProblem, extra: int, seed: int, power: float
) -> None:
    capacity, order = problem.least_budget + extra, an_order(problem, seed)
    programme = residency_of_order(problem, order, capacity)
    planned = stays_with(programme, order, solve_residency(programme, Budget()).gaps)
    stays, offsets = replace_in_order(problem, order, capacity, "greedy-ilp", planned, (2, power))
    assert check(problem, assemble(problem, stays, offsets), capacity) == []
    run = SolverRun(problem, capacity, Budget(), 0)
    bound = plan_in_order(run, order)
    assert run.best is not None
    assert bound <= run.best[1].cost(problem)[0]


def test_an_order_that_breaks_a_wait_is_refused() -> None:
    problem = _chain_with_skips(3)
    with pytest.raises(ValueError, match="waits for"):
        residency_of_order(problem, [1, 0, 2, 3, 4, 5], 100)


def test_rows_that_are_left_out_keep_the_bound_true(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _chain_with_skips(12)
    capacity = problem.least_budget + 3
    least = solve_residency(residency_of(problem, capacity), Budget())
    monkeypatch.setattr(residency_module, "MOST_ENTRIES", 20)
    few = residency_of(problem, capacity)
    assert not few.whole
    assert 0 < solve_residency(few, Budget()).bound <= least.bound
    run = SolverRun(problem, capacity, Budget(), 0)
    assert plan_in_order(run, range(24)) <= least.bound
    assert run.best is not None
    assert run.best[1].cost(problem)[0] >= least.bound


def test_a_plan_is_there_whatever_the_limit() -> None:
    problem = _chain_with_skips(1500)
    found = solve(problem, problem.least_budget, time_limit_s=0.01)
    assert found.schedule is not None
    assert check(problem, found.schedule, problem.least_budget) == []
    assert found.cost_bytes is not None
    assert found.bound_bytes <= found.cost_bytes


def test_the_cheapest_cover_of_thousands_needs_no_recursion() -> None:
    from mapping.scheduling.replacement import _cheapest_cover

    sizes = [3 + i % 5 for i in range(5000)]
    chosen = _cheapest_cover(sizes, sizes, 9000)
    assert sum(sizes[i] for i in chosen) >= 9000
    assert len(set(chosen)) == len(chosen)
