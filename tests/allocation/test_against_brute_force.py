"""Answers equal the oracle's on small problems, and every proof is confirmed by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.brute_force import fits
from allocation.strategies import problems
from mapping.allocation import AllocationProblem, Buffer, check, lower_bound, solve

KINDS = {
    "plain": {},
    "aligned": {"aligned": True},
    "pinned": {"pinned": True},
    "gapped": {"gapped": True},
    "all": {"aligned": True, "pinned": True, "gapped": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_peak_is_the_oracles(kind: str) -> None:
    @settings(max_examples=120, deadline=None, derandomize=True)
    @given(problems(**KINDS[kind]))
    def holds(problem: AllocationProblem) -> None:
        result = solve(problem, max_nodes=100_000)
        if result.status == "infeasible":
            assert not fits(problem, 30)
            assert result.explanation is not None
            assert result.explanation.kind == "pins"
            return
        assert result.status == "optimal"
        assert result.peak_bytes == result.bound_bytes
        assert check(problem, result.offsets, result.peak_bytes) == []
        assert result.peak_bytes == 0 or not fits(problem, result.peak_bytes - 1)
        assert lower_bound(problem) <= result.peak_bytes

    holds()


@pytest.mark.parametrize("kind", ["plain", "pinned", "all"])
def test_a_claim_of_infeasibility_is_true(kind: str) -> None:
    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(problems(**KINDS[kind]), st.integers(1, 10))
    def holds(problem: AllocationProblem, capacity: int) -> None:
        result = solve(problem, capacity, max_nodes=100_000)
        assert (result.status == "infeasible") == (not fits(problem, capacity))
        assert result.status != "unknown"
        if result.explanation is not None:
            blamed = problem.subset(list(result.explanation.buffers))
            assert not fits(blamed, capacity)
            if result.explanation.minimal and result.explanation.kind == "subset":
                rest = list(result.explanation.buffers)
                assert all(fits(problem.subset([k for k in rest if k != i]), capacity) for i in rest)

    holds()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(aligned=True, pinned=True, gapped=True, most=9), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(problem: AllocationProblem, random) -> None:
    order = list(range(len(problem)))
    random.shuffle(order)
    first = solve(problem, max_nodes=20_000, seed=3)
    second = solve(problem.subset(order), max_nodes=20_000, seed=3)
    assert (first.status, first.peak_bytes, first.bound_bytes) == (
        second.status, second.peak_bytes, second.bound_bytes,
    )  # fmt: skip
    if first.offsets is not None:
        assert np.array_equal(first.offsets[order], second.offsets)


def wasteful() -> AllocationProblem:
    """Pins hold most live bytes at 10, but no packing is that low; see the test."""
    return AllocationProblem.of(
        [
            Buffer("floor", 0, 1, 4, offset=3),
            Buffer("wide", 0, 2, 3),
            Buffer("tall", 0, 1, 3),
            Buffer("late", 1, 2, 7, offset=0),
        ]
    )


def test_a_bound_above_the_most_live_bytes_is_proved() -> None:
    problem = wasteful()
    result = solve(problem)
    assert lower_bound(problem) == 10
    assert result.status == "optimal"
    assert result.peak_bytes == 10
    tight = AllocationProblem.of(
        [Buffer("a", 0, 2, 2), Buffer("b", 0, 1, 2, offset=1), Buffer("c", 1, 2, 1, offset=0)]
    )
    assert lower_bound(tight) == 5
    worse = AllocationProblem.of(
        [
            Buffer("a", 0, 3, 2),
            Buffer("b", 0, 1, 2, offset=1),
            Buffer("c", 2, 3, 2, offset=2),
            Buffer("d", 0, 1, 1),
        ]
    )
    answer = solve(worse)
    assert answer.status == "optimal"
    assert not fits(worse, answer.peak_bytes - 1)
    assert answer.peak_bytes > 5
