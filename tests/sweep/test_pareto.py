"""The front against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offchip.sweep import pareto
from offchip.sweep.pareto import front, ranking, ranks


def by_definition(table):
    def dominates(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(
            x < y for x, y in zip(a, b, strict=True)
        )

    return [not any(dominates(other, row) for other in table) for row in table]


tables = st.tuples(st.integers(0, 40), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 5).map(float))
)


@settings(max_examples=300, deadline=None)
@given(tables)
def test_front_is_the_definition(table):
    assert front(table).tolist() == by_definition(table.tolist())


@settings(max_examples=100, deadline=None)
@given(tables)
def test_ranks_peel_fronts(table):
    rank, left, level = ranks(table), list(range(len(table))), 0
    while left:
        on = by_definition(table[left].tolist())
        assert all((rank[i] == level) == keep for i, keep in zip(left, on, strict=True))
        left = [i for i, keep in zip(left, on, strict=True) if not keep]
        level += 1


def test_front_across_blocks():
    table = np.random.default_rng(1).normal(size=(3000, 3))
    assert front(table).tolist() == by_definition_fast(table)
    sphere = np.abs(table) / np.linalg.norm(table, axis=1)[:, None]
    assert front(sphere).tolist() == by_definition_fast(sphere)


@settings(max_examples=200, deadline=None)
@given(tables)
def test_rows_of_one_block_are_held_against_those_before(table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pareto, "BLOCK", 2)
        unique = np.unique(table, axis=0)
        assert pareto._front_in_blocks(unique).tolist() == by_definition(unique.tolist())


def by_definition_fast(table):
    return [not ((table <= row).all(axis=1) & (table < row).any(axis=1)).any() for row in table]


@settings(max_examples=200, deadline=None)
@given(tables)
def test_kernels_of_large_tables_are_the_definition(table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pareto, "FULL_SORT", 0)
        assert front(table).tolist() == by_definition(table.tolist())


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_hundred_thousand_points_that_are_all_on_the_front(objectives):
    table = np.abs(np.random.default_rng(0).normal(size=(100_000, objectives)))
    sphere = -table / np.linalg.norm(table, axis=1)[:, None]
    assert front(sphere).all()
    assert not front(np.concatenate((sphere, sphere + 1e-9)))[len(sphere) :].any()


def test_ranking_prefers_the_front_and_its_ends():
    table = [[3, 3], [0, 4], [4, 0], [2, 2], [1.9, 2.1], [1, 3]]
    order = ranking(table).tolist()
    assert order[-1] == 0
    assert set(order[:2]) == {1, 2}


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        front([[1.0, float("nan")]])


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_fronts_of_more_columns_than_the_kernels_take(columns, monkeypatch):
    """Blocks of four, so that a block meets kept rows of two kinds: those that beat it and those that do not."""
    monkeypatch.setattr(pareto, "BLOCK", 4)
    table = np.random.default_rng(columns).integers(0, 6, size=(90, columns)).astype(float)
    assert front(table).tolist() == by_definition_fast(table)
    unique = np.unique(table, axis=0)
    kept = unique[by_definition_fast(unique)]
    nowhere_worse = [any((row <= point).all() for row in kept) for point in unique]
    assert pareto._beaten(unique, kept).tolist() == nowhere_worse


def test_an_empty_table_has_an_empty_front():
    for columns in (1, 2, 3, 4, 5):
        assert front(np.empty((0, columns))).tolist() == []
    for shape in ((3,), (2, 0), (1, 1, 1)):
        with pytest.raises(ValueError, match="expected a table of rows and objectives, found shape"):
            front(np.ones(shape))


def test_ranks_stop_when_enough_have_one():
    """Four fronts of one row each: the rest shares the rank that comes next."""
    table = [[3], [1], [4], [2]]
    assert ranks(table).tolist() == [2, 0, 3, 1]
    assert [ranks(table, enough).tolist() for enough in (1, 2, 3, 4)] == [
        [1, 0, 1, 1], [2, 0, 2, 1], [2, 0, 3, 1], [2, 0, 3, 1],
    ]  # fmt: skip


def test_crowding_is_the_distance_between_neighbours():
    """Deb (2002): the gap between the neighbours over the span, summed over objectives; infinite at the ends."""
    table = np.array([[0.0, 10.0], [1.0, 8.0], [4.0, 2.0], [10.0, 0.0]])
    inner = [4 / 10 + 8 / 10, 9 / 10 + 8 / 10]
    assert pareto._crowding(table).tolist() == [np.inf, *inner, np.inf]
    flat = np.array([[0.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert pareto._crowding(flat).tolist() == [np.inf, 1.0, np.inf], (
        "a column without a span counts for nothing"
    )
    assert ranking(table).tolist() == [0, 3, 2, 1]
    assert ranking([[1, 1], [1, 1], [0, 2]]).tolist() == [0, 1, 2], "all are ends, so they stay as they stand"
