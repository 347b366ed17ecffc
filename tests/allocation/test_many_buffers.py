"""Placing many buffers: the same plans as the plain kernel, plans that hold, and limits that are kept."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.allocation import AllocationProblem, check, solve, solving
from mapping.allocation import greedy as greedy_module
from mapping.allocation.bounds import most_live
from mapping.allocation.greedy import greedy_orders, pack, pack_by_start, pack_sparse
from mapping.allocation.instance import build_components
from mapping.deadline import Budget

GO = np.zeros(1, np.int64)
HALT = np.ones(1, np.int64)


def random_problem(count: int, seed: int, steps: int = 40) -> AllocationProblem:
    rng = np.random.default_rng(seed)
    lower = rng.integers(0, steps, count)
    return AllocationProblem.from_arrays(
        lower, lower + rng.integers(1, 1 + steps // 4, count), rng.integers(1, 9, count)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 999), st.integers(1, 7), st.booleans())
def test_stretches_of_time_change_no_plan(count: int, seed: int, width: int, best_fit: bool) -> None:
    problem = random_problem(count, seed)
    for component in build_components(problem):
        inst = component.instance
        for _, order in greedy_orders(inst):
            args = (inst.first, inst.last, inst.size, inst.align, inst.fixed, order, best_fit)
            assert pack_sparse(inst, order, best_fit, width, GO).tolist() == pack(*args, 2**62).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 999), st.booleans(), st.booleans())
def test_plans_by_start_and_stopped_ones_hold(count: int, seed: int, best_fit: bool, halted: bool) -> None:
    problem = random_problem(count, seed)
    stop = HALT if halted else GO
    by_start, stopped = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for component in build_components(problem):
        inst = component.instance
        by_start[component.index] = component.unit * pack_by_start(
            inst.first, inst.last, inst.size, inst.align, best_fit, stop
        )
        order = np.arange(len(inst.size))
        stopped[component.index] = component.unit * pack_sparse(inst, order, best_fit, 3, HALT)
    assert check(problem, by_start.tolist()) == []
    assert check(problem, stopped.tolist()) == []


def test_a_stretch_that_is_left_out_is_caught() -> None:
    problem = random_problem(60, 3)
    component = max(build_components(problem), key=lambda part: len(part.index))
    inst = component.instance
    shorter = inst._replace(last=np.maximum(inst.last - 1, inst.first + 1))
    args = (inst.size, inst.align, inst.fixed, np.arange(len(inst.size)), False)
    assert (
        pack_sparse(shorter, np.arange(len(inst.size)), False, 3, GO).tolist()
        != pack(inst.first, inst.last, *args, 2**62).tolist()
    )


def test_tens_of_thousands_keep_the_limit_and_prove_their_bound() -> None:
    problem = random_problem(30_000, 5, steps=30_000)
    solve(random_problem(greedy_module.SPARSE_FROM + 2000, 6, steps=500), time_limit_s=0.5)  # compiles
    begin = time.process_time()
    found = solve(problem, time_limit_s=1.0)
    assert time.process_time() - begin < 10.0
    assert found.offsets is not None
    assert check(problem, found.offsets.tolist()) == []
    assert found.bound_bytes == max(most_live(part) for part in build_components(problem))
    assert found.peak_bytes is not None
    assert found.peak_bytes >= found.bound_bytes


def test_a_clock_that_ran_out_in_preparation_still_gives_a_plan_by_start() -> None:
    problem = random_problem(greedy_module.SPARSE_FROM + 1000, 7, steps=2000)
    (component,) = build_components(problem)
    solve(problem, max_nodes=1)  # compiles
    late = Budget(1.0)
    late.stop[0] = 1
    late_part = solving._start(component, late, 0)
    assert late_part.peak < 2 * late_part.lower
    halted = Budget(1.0, interrupted=True)
    halted.stop[0] = 1
    assert solving._start(component, halted, 0).peak > 2 * late_part.lower
