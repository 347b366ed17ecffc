"""MEMO's alpha in closed form against the linear program it solves."""

from __future__ import annotations

import pulp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.solver import solve_model
from mapping.training.token_swap import LayerBytes, token_share

GIB = 2**30


def by_linear_program(
    layer: LayerBytes, layers: int, seconds: float, rate: float, host: float
) -> float | None:
    """The two inequalities as they are written, in units of the largest tensor."""
    unit = float(max(layer.input, layer.attention, layer.others))
    model = pulp.LpProblem("alpha", pulp.LpMaximize)
    alpha = model.add_variable("alpha", 0, 1)
    model.setObjective(alpha)
    moved = (layer.input + layer.attention) / unit + (layer.others / unit) * alpha
    model += moved <= rate * seconds / unit
    if layers > 2:
        model += (layers - 2) * moved <= host / unit
    report = solve_model(model)
    return float(alpha.value()) if report.has_solution else None


@given(
    st.integers(1, 4 * GIB), st.integers(1, 4 * GIB), st.integers(1, 30 * GIB), st.integers(1, 128),
    st.floats(1e-3, 10.0), st.floats(1e9, 1e11), st.floats(0, 2.0**42),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_closed_form(
    entry: int, attention: int, others: int, layers: int, seconds: float, rate: float, host: float
) -> None:
    layer = LayerBytes(entry, attention, others)
    share = token_share(layer, layers, seconds, rate, host)
    expected = by_linear_program(layer, layers, seconds, rate, host)
    if expected is None:
        assert share.alpha == 0.0
        assert share.unbounded < 1e-6
    else:
        assert share.alpha == pytest.approx(expected, abs=1e-5)


def test_what_bounds_it() -> None:
    layer = LayerBytes(GIB, GIB, 14 * GIB)
    assert token_share(layer, 32, 100.0, 1e12, 1e15).bound_by == "none"
    assert token_share(layer, 32, 1.0, 9 * GIB, 1e15).alpha == pytest.approx(0.5)
    tight = token_share(layer, 32, 100.0, 1e12, 30 * 9 * GIB)
    assert (tight.bound_by, tight.alpha) == ("host", pytest.approx(0.5))
    assert not token_share(layer, 32, 0.1, 1e9, 1e15).hidden
    assert not token_share(layer, 32, 1.0, 1e12, GIB).fits_host
    assert token_share(layer, 2, 1.0, 1e12, 0.0).alpha == 1.0, "the last two layers stay in their buffers"
