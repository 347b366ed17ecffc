"""Sobol indices on functions whose indices are known, effects on tables made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offchip.sweep import sensitivity
from offchip.sweep.sensitivity import effects, sobol_indices
from offchip.sweep.store import Row


def ishigami(draws, a=7.0, b=0.1):
    x = (2 * draws - 1) * math.pi
    return np.sin(x[:, 0]) + a * np.sin(x[:, 1]) ** 2 + b * x[:, 2] ** 4 * np.sin(x[:, 0])


def test_ishigami():
    """Closed forms: Ishigami and Homma, ISUMA 1990."""
    a, b = 7.0, 0.1
    one = 0.5 * (1 + b * math.pi**4 / 5) ** 2
    two, both = a**2 / 8, 8 * b**2 * math.pi**8 / 225
    variance = one + two + both
    indices, used = sobol_indices(ishigami, 3, 4096)
    assert used == 4096
    assert [i.first for i in indices] == pytest.approx([one / variance, two / variance, 0], abs=0.02)
    assert [i.total for i in indices] == pytest.approx(
        [(one + both) / variance, two / variance, both / variance], abs=0.02
    )


def test_samples_without_a_value_are_left_out():
    def partly(draws):
        return np.where(draws[:, 0] > 0.9, np.nan, draws[:, 0] + draws[:, 1])

    indices, used = sobol_indices(partly, 2, 1024)
    assert 700 < used < 1024
    assert all(math.isfinite(i.first) for i in indices)


def grid(function, sizes):
    rows = []
    for number, place in enumerate(np.ndindex(*sizes)):
        parameters = {f"x{i}": float(v) for i, v in enumerate(place)}
        rows.append(Row(number, "", "ok", "", parameters, {"f": function(*place)}))
    return rows


def test_effects_of_a_grid_are_first_order_indices():
    found = {
        e.parameter: e for e in effects(grid(lambda x, y, z: 3.0 * x + y, (4, 4, 2)), ["x0", "x1", "x2"], "f")
    }
    assert found["x0"].share == pytest.approx(0.9)
    assert found["x1"].share == pytest.approx(0.1)
    assert found["x2"].share == 0
    assert found["x0"].span == 9
    assert found["x1"].span == 3
    assert found["x2"].span == 0


def test_effects_of_draws():
    draws = np.random.default_rng(0).random((2000, 3))
    rows = [
        Row(i, "", "ok", "", {"a": x, "b": y, "c": z}, {"f": 2 * x + y})
        for i, (x, y, z) in enumerate(draws.tolist())
    ]
    found = {e.parameter: e for e in effects(rows, ["a", "b", "c"], "f")}
    assert found["a"].share == pytest.approx(0.8, abs=0.03)
    assert found["b"].share == pytest.approx(0.2, abs=0.03)
    assert found["c"].share == pytest.approx(0, abs=0.02)
    assert found["a"].span is None


def test_of_two_widest_groups_the_first_is_told():
    """Both columns span 2; the ratio is of the one that stands first."""
    found = {
        e.parameter: e for e in effects(grid(lambda x, y: 1 + 2.0 * x + 3 * y, (2, 2)), ["x0", "x1"], "f")
    }
    assert (found["x0"].span, found["x0"].relative) == (2, 3)


def rows_with(figures, **parameters):
    columns = zip(*parameters.values(), strict=True)
    return [
        Row(i, "", "ok", "", dict(zip(parameters, values, strict=True)), {"f": f})
        for i, (f, values) in enumerate(zip(figures, columns, strict=True))
    ]


def test_effects_by_hand():
    """Groups of x: 1, 3 and 5, 9 around 2 and 7, squares 2 + 8 of 35 in all; of y: 1, 5 and 3, 9, squares 8 + 18."""
    rows = rows_with([1.0, 3.0, 5.0, 9.0], x=[0, 0, 1, 1], y=["a", "b", "a", "b"])
    x, y = effects(rows, ["y", "x"], "f")
    assert (x.parameter, y.parameter) == ("x", "y")
    assert x.share == pytest.approx(1 - 10 / 35)
    assert (x.span, x.relative) == (6.0, 3.0), "of b: 3 to 9"
    assert y.share == pytest.approx(1 - (8 + 18) / 35)
    assert (y.span, y.relative) == (4.0, 9 / 5)


def test_groups_of_unequal_size_are_corrected_for_chance():
    """Kelley's epsilon squared: what is unexplained grows by (n - 1) / (n - groups)."""
    rows = rows_with([1.0, 2.0, 3.0, 8.0, 9.0], x=[0, 0, 0, 1, 1])
    (x,) = effects(rows, ["x"], "f")
    within, whole = 2 + 0.5, sum((v - 4.6) ** 2 for v in (1, 2, 3, 8, 9))
    assert x.share == pytest.approx(1 - within / whole * 4 / 3)
    alone = rows_with([1.0, 2.0], x=[0, 1])
    assert effects(alone, ["x"], "f")[0].share == 1.0
    noise = rows_with([1.0, -1.0, 1.0, -1.0, 0.0], x=[0, 0, 0, 0, 1])
    assert effects(noise, ["x"], "f")[0].share == 0.0, "not below nothing"


def test_only_points_that_ran_count():
    rows = rows_with([1.0, 2.0, 3.0, 4.0], x=[0, 1, 2, 3])
    rows[1] = Row(1, "", "constraint", "", {"x": 1}, {"f": 2.0})
    rows[2] = Row(2, "", "failed", "", {"x": 2}, {"f": 100.0})
    rows[3] = Row(3, "", "ok", "", {"x": 3}, {"f": "text"})
    (x,) = effects(rows, ["x"], "f")
    assert (x.span, x.relative, x.share) == (1.0, 2.0, 1.0)
    (none,) = effects(rows[2:], ["x"], "f")
    assert (none.span, none.relative, none.share) == (None, None, 0.0)
    (same,) = effects(rows_with([5.0, 5.0], x=[0, 1]), ["x"], "f")
    assert (same.span, same.relative, same.share) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(("lowest", "relative"), [(-1.0, None), (0.0, None), (1.0, 4.0)])
def test_a_ratio_needs_a_figure_above_zero(lowest, relative):
    (x,) = effects(rows_with([lowest, 4.0], x=[0, 1]), ["x"], "f")
    assert (x.span, x.relative) == (4.0 - lowest, relative)


@pytest.mark.parametrize(("many", "bins"), [(40, 40), (41, 10), (44, 10)])
def test_values_of_a_continuous_parameter_stand_in_ten_parts(many, bins):
    labels, groups = sensitivity._labels([float(v) for v in range(many, 0, -1)])
    assert groups == bins
    if bins == many:
        assert labels.tolist() == list(range(many))
    else:
        assert labels.tolist() == [place * 10 // many for place in range(many - 1, -1, -1)]


def test_values_that_repeat_or_are_names_are_groups_of_their_own():
    assert sensitivity._labels(["b", "a", "b"])[0].tolist() == [0, 1, 0]
    many = [float(v % 45) for v in range(200)]
    assert sensitivity._labels(many)[1] == 45, (
        "45 values of 200 samples: more than 40, but no more than a quarter"
    )
    assert sensitivity._labels(many[:179])[1] == 10
    assert sensitivity._labels([str(v) for v in range(60)])[1] == 60


def test_sobol_indices_of_a_sum_and_of_nothing():
    """x + 2y on the unit square: shares 1/5 and 4/5, alone and in total."""
    found, used = sobol_indices(lambda draws: draws[:, 0] + 2 * draws[:, 1], 2, 2000, seed=3)
    assert used == 2000
    assert [i.first for i in found] == pytest.approx([0.2, 0.8], abs=0.01)
    assert [i.total for i in found] == pytest.approx([0.2, 0.8], abs=0.01)
    shifted, _ = sobol_indices(lambda draws: 1e6 + draws[:, 0] + 2 * draws[:, 1], 2, 2000, seed=3)
    assert [i.first for i in shifted] == pytest.approx([i.first for i in found], abs=1e-6)
    assert sobol_indices(lambda draws: draws[:, 0], 1, 64, seed=4) != sobol_indices(
        lambda d: d[:, 0], 1, 64, seed=5
    )
    constant, used = sobol_indices(lambda draws: np.full(len(draws), 7.0), 2, 64)
    assert (constant, used) == ([sensitivity.Indices(0.0, 0.0)] * 2, 64)
    nothing, used = sobol_indices(lambda draws: np.full(len(draws), np.nan), 2, 1)
    assert used == 0
    assert all(math.isnan(i.first) and math.isnan(i.total) for i in nothing)
    assert len(nothing) == 2


def test_the_function_is_asked_for_every_table_of_saltelli():
    asked = []

    def figure(draws):
        asked.append(draws.copy())
        return draws.sum(axis=1)

    sobol_indices(figure, 3, 100, seed=1)
    one, other, *mixed = asked
    assert [table.shape for table in asked] == [(100, 3)] * 5
    assert len(np.unique(one, axis=0)) == 100
    assert not (one == other).any()
    for index, table in enumerate(mixed):
        assert (table[:, index] == other[:, index]).all()
        assert (np.delete(table, index, axis=1) == np.delete(one, index, axis=1)).all()
