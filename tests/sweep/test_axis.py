"""One parameter: the values of its grid, where a draw lands, and every mistake in its own words."""

from __future__ import annotations

import math
import re
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from offchip.sweep.axis import MAX_VALUES, Axis, free_leaf, make_axis
from offchip.sweep.points import draws

WHOLE, NUMBER, TEXT, BANDWIDTH = (free_leaf(kind) for kind in ("whole", "number", "text", "bandwidth"))


def test_leaves_of_free_parameters_read_their_kind() -> None:
    assert (WHOLE.whole, NUMBER.whole, TEXT.whole, BANDWIDTH.whole) == (True, False, False, False)
    assert (WHOLE.read(3), NUMBER.read(3), TEXT.read("x"), BANDWIDTH.read("2 GB/s")) == (3, 3.0, "x", 2e9)
    assert BANDWIDTH.read("0 B/s") == 0
    assert (BANDWIDTH.dimension, WHOLE.dimension) == ("bandwidth", None)
    for leaf, value in ((WHOLE, 2.5), (WHOLE, "3"), (TEXT, 3), (BANDWIDTH, "3 GB")):
        with pytest.raises(ValueError, match="found"):
            leaf.read(value)
    with pytest.raises(ValueError, match=r"found 'nmber'; expected .* \(did you mean 'number'\?\)$"):
        free_leaf("nmber")
    with pytest.raises(ValueError, match=r"found 'zzzzzzz'; .* such as bandwidth$"):
        free_leaf("zzzzzzz")


@pytest.mark.parametrize(
    ("raw", "leaf", "grid"),
    [
        ({"values": [4, 1]}, WHOLE, (4, 1)),
        ({"range": [1, 4]}, WHOLE, (1, 2, 3, 4)),
        ({"range": [1, 8], "step": 3}, WHOLE, (1, 4, 7)),
        ({"range": [1, 4], "count": 2}, WHOLE, (1, 4)),
        ({"range": [0, 3], "count": 7}, WHOLE, (0, 1, 2, 3)),
        ({"range": [1, 4], "count": 1}, WHOLE, (1,)),
        ({"range": [0.0, 1.0], "count": 5}, NUMBER, (0.0, 0.25, 0.5, 0.75, 1.0)),
        ({"range": [0.0, 0.3], "step": 0.1}, NUMBER, (0.0, 0.1, 0.2, 0.1 * 3)),
        ({"range": [0.0, 1.0], "step": 0.4}, NUMBER, (0.0, 0.4, 0.8)),
        ({"range": [0.0, 1.0]}, NUMBER, ()),
        ({"log": [1, 8]}, NUMBER, ()),
        ({"log": [1, 1000], "count": 4}, NUMBER, (1.0, 10.0, 100.0, 1000.0)),
        ({"log": [2, 32], "count": 3}, WHOLE, (2, 8, 32)),
        ({"log": [5, 32], "count": 1}, NUMBER, (5.0,)),
        ({"log": ["1 GB/s", "4 GB/s"], "count": 3}, BANDWIDTH, (1e9, 2e9, 4e9)),
        ({"sample": {"uniform": {"low": 0, "high": 4}}}, NUMBER, ()),
    ],
)  # fmt: skip
def test_grids(raw: dict[str, Any], leaf: Any, grid: tuple[Any, ...]) -> None:
    found = make_axis("x", raw, leaf).grid
    assert found == pytest.approx(grid, rel=1e-12)
    assert len(found) == len(grid)
    assert all(isinstance(value, int) == leaf.whole for value in found)


def test_what_an_axis_knows_of_itself() -> None:
    whole = make_axis("x", {"range": [1, 5], "count": 3}, WHOLE)
    assert (whole.name, whole.choices, whole.form, whole.bounds, whole.count) == (
        "x",
        (),
        "range",
        (1.0, 5.0),
        3,
    )
    listed = make_axis("x", {"values": [1, 2]}, WHOLE)
    assert (listed.form, listed.choices, listed.bounds, listed.count) == ("choice", (1, 2), (), 0)
    drawn = make_axis("x", {"sample": {"normal": {"mean": 3, "deviation": 2}}, "count": 4}, NUMBER)
    assert (drawn.form, drawn.bounds, drawn.grid, drawn.count) == ("normal", (3.0, 2.0), (), 4)
    assert make_axis("x", {"log": [1, 2]}, NUMBER).count == 0
    assert (whole.numeric, listed.numeric, drawn.numeric) == (True, True, True)
    assert not make_axis("x", {"values": ["a", "b"]}, TEXT).numeric
    assert not Axis("x", WHOLE, choices=(True, False)).numeric
    assert not Axis("x", WHOLE, choices=(1, None)).numeric
    spread = make_axis("x", {"sample": {"lognormal": {"median": "1 GB/s", "sigma": 0.5}}}, BANDWIDTH)
    assert spread.bounds == (1e9, 0.5)


@pytest.mark.parametrize(
    ("raw", "leaf", "message"),
    [
        ({}, WHOLE, "found none; expected one of values, range, log, sample"),
        ({"values": [1], "log": [1, 2]}, WHOLE, "found values and log; expected one of values, range, log, sample"),
        ({"values": [1], "count": 2}, WHOLE, "a list of values has no 'step' or 'count'"),
        ({"values": [1], "step": 2}, WHOLE, "a list of values has no 'step' or 'count'"),
        ({"values": []}, WHOLE, "the list of values is empty"),
        ({"values": [1, 2, 1]}, WHOLE, "a value stands in the list twice"),
        ({"range": [2, 2]}, WHOLE, "an empty range: 2 is not below 2"),
        ({"log": [0, 2]}, NUMBER, "found 0; a logarithm needs bounds above zero"),
        ({"log": [-1, 2]}, NUMBER, "found -1; a logarithm needs bounds above zero"),
        ({"log": [1, 2], "step": 1}, NUMBER, "'log' takes 'count', not 'step'"),
        ({"range": [1, 2], "step": 1, "count": 2}, NUMBER, "found 'step' and 'count'; one of them holds"),
        ({"range": [1, 2], "step": 0}, NUMBER, "found the step 0, which is zero or too small for the range"),
        ({"range": [1, 2], "step": -1}, NUMBER, "found the step -1, which is zero or too small for the range"),
        ({"range": [0, MAX_VALUES + 1]}, WHOLE, "found the step None, which is zero or too small for the range"),
        ({"range": ["a", "b"]}, TEXT, "found 'a'; a range needs numbers"),
        ({"sample": 3}, WHOLE, "expected one distribution of uniform, loguniform, normal, lognormal, triangular"),
        ({"sample": {}}, WHOLE, "expected one distribution of uniform, loguniform, normal, lognormal, triangular"),
        ({"sample": {"zzzz": {}}}, WHOLE,
         "unknown distribution 'zzzz'; known: uniform, loguniform, normal, lognormal, triangular"),
        ({"sample": {"unifrm": {}}}, WHOLE, "unknown distribution 'unifrm'; known: uniform, loguniform, normal, "
         "lognormal, triangular (did you mean 'uniform'?)"),
        ({"sample": {"uniform": 3}}, WHOLE, "uniform needs low, high"),
        ({"sample": {"uniform": ["low", "high"]}}, WHOLE, "uniform needs low, high"),
        ({"sample": {"uniform": {"low": 1}}}, WHOLE, "uniform needs low, high"),
        ({"sample": {"normal": {"mean": 1, "deviation": 1, "low": 0}}}, NUMBER, "normal needs mean, deviation"),
        ({"sample": {"uniform": {"low": 3, "high": 3}}}, NUMBER,
         "'low' must be below 'high', and above zero for a logarithm"),
        ({"sample": {"loguniform": {"low": 0, "high": 3}}}, NUMBER,
         "'low' must be below 'high', and above zero for a logarithm"),
        ({"sample": {"triangular": {"low": 1, "mode": 0, "high": 3}}}, NUMBER, "expected low <= mode <= high"),
        ({"sample": {"triangular": {"low": 1, "mode": 4, "high": 3}}}, NUMBER, "expected low <= mode <= high"),
        ({"sample": {"triangular": {"low": 1, "mode": 1, "high": 1}}}, NUMBER, "expected low <= mode <= high"),
        ({"sample": {"normal": {"mean": 1, "deviation": 0}}}, NUMBER, "the deviation must be above zero"),
        ({"sample": {"lognormal": {"median": 1, "sigma": 0}}}, NUMBER, "the sigma must be above zero"),
    ],
)  # fmt: skip
def test_mistakes(raw: dict[str, Any], leaf: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make_axis("x", raw, leaf)
    assert str(error.value) == message


def test_what_is_just_right() -> None:
    assert len(make_axis("x", {"range": [1, MAX_VALUES]}, WHOLE).grid) == MAX_VALUES
    assert make_axis("x", {"sample": {"uniform": {"low": -3, "high": 3}}}, NUMBER).bounds == (-3.0, 3.0)
    for mode in (1, 3):
        bounds = {"low": 1, "mode": mode, "high": 3}
        assert make_axis("x", {"sample": {"triangular": bounds}}, NUMBER).bounds == (1.0, mode, 3.0)


def axis(form: str, *bounds: float, whole: bool = False) -> Axis:
    return Axis("x", WHOLE if whole else NUMBER, form=form, bounds=bounds)


@pytest.mark.parametrize(
    ("of", "draw", "value"),
    [
        (axis("range", 2, 6), 0.25, 3.0), (axis("uniform", 2, 6), 0.25, 3.0), (axis("log", 1, 16), 0.5, 4.0),
        (axis("loguniform", 2, 32), 0.75, 16.0), (axis("normal", 10, 2), 0.5, 10.0),
        (axis("normal", 10, 2), NormalDist().cdf(1.5), 13.0), (axis("lognormal", 10, 2), 0.5, 10.0),
        (axis("lognormal", 10, 2), NormalDist().cdf(-0.5), 10 / math.e),
        # Areas below a triangle of base 6 whose tip stands at 2: a third lies left of the tip.
        (axis("triangular", 0, 2, 6), 1 / 12, 1.0), (axis("triangular", 0, 2, 6), 1 / 3, 2.0),
        (axis("triangular", 0, 2, 6), 1 - 1 / 6, 6 - 2.0), (axis("triangular", 1, 1, 3), 0.75, 2.0),
        (axis("triangular", 1, 3, 3), 0.25, 2.0),
        (axis("range", 1, 4, whole=True), 0.0, 1), (axis("range", 1, 4, whole=True), 0.2499, 1),
        (axis("range", 1, 4, whole=True), 0.2501, 2), (axis("range", 1, 4, whole=True), 0.9999999, 4),
        (axis("range", 1.5, 3.5, whole=True), 0.0, 2), (axis("range", 1.5, 3.5, whole=True), 0.9999999, 3),
        (axis("log", 1, 2, whole=True), 0.682, 1), (axis("log", 1, 2, whole=True), 0.684, 2),
        (axis("uniform", 1, 4, whole=True), 0.1, 1), (axis("uniform", 1, 4, whole=True), 0.9, 4),
        (axis("normal", 0, 10, whole=True), NormalDist().cdf(1.23), 12),
        (Axis("x", TEXT, choices=("a", "b", "c")), 0.0, "a"), (Axis("x", TEXT, choices=("a", "b", "c")), 0.34, "b"),
        (Axis("x", TEXT, choices=("a", "b", "c")), 0.67, "c"), (Axis("x", TEXT, choices=("a", "b", "c")), 1.0, "c"),
    ],
)  # fmt: skip
def test_where_a_draw_lands(of: Axis, draw: float, value: float | str) -> None:
    found = of.at(draw)
    assert found == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9))
    assert isinstance(found, int) == of.leaf.whole


def test_draws_at_the_ends_have_values() -> None:
    edge = NormalDist().inv_cdf(1 - 1e-12)
    assert axis("normal", 0, 1).at(0.0) == pytest.approx(-edge, rel=1e-4)
    assert axis("normal", 0, 1).at(1.0) == pytest.approx(edge, rel=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 31])
def test_draws_are_as_many_as_asked_for_and_a_prefix_of_longer_ones(count: int) -> None:
    """Sobol points are the first of any longer sequence; 8 of them fall into eight parts of equal length."""
    for kind in ("sobol", "lhs", "random"):
        found = draws(kind, 3, count, 5)
        assert found.shape == (count, 3)
        assert ((found >= 0) & (found < 1)).all()
        assert not np.array_equal(found, draws(kind, 3, count, 6))
    assert np.array_equal(draws("sobol", 3, count, 5), draws("sobol", 3, 32, 5)[:count])
    assert sorted((draws("sobol", 3, 8, 5)[:, 0] * 8).astype(int)) == list(range(8))
    cells = (draws("lhs", 3, count, 5) * count).astype(int)
    assert all(sorted(column) == list(range(count)) for column in cells.T)
