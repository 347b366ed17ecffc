"""Sobol indices on functions whose indices are known, effects on tables made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
