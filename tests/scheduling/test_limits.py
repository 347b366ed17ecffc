"""Limits and Ctrl-C on graphs of every shape: an answer in time, with a schedule that holds and a true bound."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from mapping.allocation.by_offset import search_by_offset
from mapping.allocation.by_valley import search_by_valley
from mapping.allocation.greedy import improve
from mapping.allocation.pairwise import search_by_pairs
from mapping.scheduling import ScheduleProblem, ScheduleResult, check, solve
from mapping.scheduling.address_search import improve_layouts, search_layouts
from mapping.scheduling.kernels import load_kernels
from mapping.scheduling.order_search import improve_order
from mapping.scheduling.orders import given_order, peak_of_order
from mapping.scheduling.stay_search import close_gaps
from tests.scheduling.generated import FAMILIES, made

LIMITS = (0.3, 0.6, 2.0)
CASES = [
    (family, operators, seed, LIMITS[(seed + operators) % 3 if operators > 500 else 0])
    for family in FAMILIES
    for operators, seeds in ((12, 4), (60, 5), (300, 3), (900, 2), (3000, 1))
    for seed in range(seeds)
]


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    load_kernels()


def budget_of(problem: ScheduleProblem, seed: int) -> int:
    """From the least budget on, a little to much of the way to the peak of the graph's own order."""
    least, peak = problem.least_budget, peak_of_order(problem, given_order(problem))
    return least + (peak - least) * (0, 5, 20, 50)[seed % 4] // 100


def insist(problem: ScheduleProblem, capacity: int, result: ScheduleResult) -> None:
    """An answer: a schedule that holds, and a bound that no baseline of the same run contradicts."""
    assert result.status in ("optimal", "feasible")
    assert result.schedule is not None
    assert check(problem, result.schedule, capacity) == []
    assert result.cost_bytes is not None
    assert 0 <= result.bound_bytes <= result.cost_bytes
    assert (result.status == "optimal") == (result.bound_bytes == result.cost_bytes)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "operators", "seed", "limit"), CASES)
def test_a_limit_is_obeyed(family: str, operators: int, seed: int, limit: float) -> None:
    """In seconds of the processor, which a busy machine does not stretch."""
    problem = made(family, operators, seed)
    capacity = budget_of(problem, seed)
    start = time.process_time()
    result = solve(problem, capacity, time_limit_s=limit)
    took = time.process_time() - start
    insist(problem, capacity, result)
    assert took <= 1.1 * limit + 1.0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("operators", [60, 900])
def test_an_interrupt_ends_the_search_with_an_answer(family: str, operators: int) -> None:
    problem = made(family, operators, 7)
    capacity = budget_of(problem, 1)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.process_time()
    try:
        result = solve(problem, capacity, time_limit_s=60)
        took = time.process_time() - start
    finally:
        timer.cancel()
        timer.join()
    insist(problem, capacity, result)
    assert took <= 1.5 or result.ties_proven or result.status == "optimal"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shape_is_answered(family: str) -> None:
    problem = made(family, 40, 11)
    capacity = budget_of(problem, 2)
    insist(problem, capacity, solve(problem, capacity, time_limit_s=None, max_states=20_000))


def test_every_kernel_of_a_solve_is_there_before_its_clock() -> None:
    addresses = (search_by_offset, search_by_pairs, search_by_valley, improve)
    for kernel in (*addresses, improve_order, search_layouts, improve_layouts, close_gaps):
        assert kernel.signatures, kernel.__name__
