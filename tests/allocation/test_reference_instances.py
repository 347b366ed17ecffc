"""A to K of MiniMalloc at their capacity, and the pinned small facts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mapping.allocation import AllocationProblem, Buffer, check, solve
from mapping.allocation.importers import read_problem

CAPACITY = 1048576


@pytest.mark.parametrize("name", "ABCDEFGHIJK")
def test_the_hard_instances_fit(reference: Path, name: str) -> None:
    problem = read_problem(reference / f"{name}.{CAPACITY}.csv")
    solve(AllocationProblem.from_arrays([0, 1], [2, 3], [3, 2]), 4, max_nodes=100)
    start = time.process_time()
    result = solve(problem, CAPACITY, time_limit_s=60)
    assert time.process_time() - start < 30
    assert result.status in ("optimal", "feasible")
    assert result.peak_bytes <= CAPACITY
    assert check(problem, result.offsets, CAPACITY) == []
    live = max(
        int(problem.size[(problem.lower <= t) & (t < problem.upper)].sum())
        for t in set(problem.lower.tolist())
    )
    assert live <= result.bound_bytes <= result.peak_bytes


def test_the_small_example(reference: Path) -> None:
    problem = read_problem(reference / "input.12.csv")
    assert solve(problem, 12).status == "optimal"
    refused = solve(problem, 11)
    assert refused.status == "infeasible"
    assert refused.explanation is not None
    assert refused.explanation.live_bytes == 12


def test_c_is_packed_without_waste(reference: Path) -> None:
    result = solve(read_problem(reference / f"C.{CAPACITY}.csv"), max_nodes=3_000_000)
    assert (result.status, result.peak_bytes) == ("optimal", 1039360)


def cut(count: int, seed: int, time_units: int = 1000, capacity: int = 1 << 20) -> AllocationProblem:
    """A rectangle cut into pieces: the most live bytes are the capacity at all times."""
    import random

    draw = random.Random(seed)
    pieces = [(0, time_units, 0, capacity)]
    while len(pieces) < count:
        at = max(
            range(len(pieces)),
            key=lambda i: (pieces[i][1] - pieces[i][0]) * (pieces[i][3] - pieces[i][2]) * draw.random(),
        )
        a, b, low, high = pieces[at]
        if draw.random() < 0.5 and b - a > 1:
            t = draw.randrange(a + 1, b)
            pieces[at] = (a, t, low, high)
            pieces.append((t, b, low, high))
        elif high - low > 1:
            h = draw.randrange(low + 1, high)
            pieces[at] = (a, b, low, h)
            pieces.append((a, b, h, high))
    draw.shuffle(pieces)
    return AllocationProblem.of(
        [Buffer(str(i), a, b, high - low) for i, (a, b, low, high) in enumerate(pieces)]
    )


@pytest.mark.parametrize(("count", "seed"), [(50, 1), (100, 2), (200, 3)])
def test_a_cut_rectangle_is_put_together_again(count: int, seed: int) -> None:
    result = solve(cut(count, seed), max_nodes=1_000_000)
    assert (result.status, result.peak_bytes) == ("optimal", 1 << 20)


def test_same_seed_and_nodes_give_the_same_answer() -> None:
    problem = cut(120, 5, 60, 256)
    first, second = (solve(problem, max_nodes=30_000, seed=7) for _ in range(2))
    assert (first.peak_bytes, first.nodes, first.engine) == (second.peak_bytes, second.nodes, second.engine)
    assert first.offsets.tolist() == second.offsets.tolist()


def test_a_time_limit_is_kept_and_leaves_the_best_plan(reference: Path) -> None:
    problem = read_problem(reference / f"J.{CAPACITY}.csv")
    solve(problem, CAPACITY, max_nodes=20_000)
    # In seconds of the processor, which a busy machine does not stretch.
    start = time.process_time()
    result = solve(problem, time_limit_s=1.0)
    assert time.process_time() - start < 2.0
    assert result.status == "feasible"
    assert result.bound_bytes == 989184
    assert check(problem, result.offsets, result.peak_bytes) == []
