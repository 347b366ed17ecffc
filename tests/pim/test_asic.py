"""The host chip's arithmetic: how far series and Newton's iteration are off, and what they take."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.vector_unit import VectorUnit
from simulator.pim import asic_arithmetic as arithmetic
from simulator.pim.asic import Stage, clocks, operator_stages, partial_sum_stages, softmax_stages
from tests.typed import operator_of

UNIT = VectorUnit(
    adders=256, multipliers=128, exponential_terms=6, reciprocal_iterations=3, inverse_root_iterations=1
)
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_functions_in_float32_against_numpy(seed):
    x = np.random.default_rng(seed).uniform(-80, 80, 500).astype(np.float32)
    raised = arithmetic.exponential(x, 6)
    # The series' remainder 0.347^6 / 720, and the argument's own rounding at 80.
    np.testing.assert_allclose(raised, np.exp(x.astype(np.float64)), rtol=1.2e-5)
    positive = np.exp(x / 8).astype(np.float32)
    # Newton squares the first guess's 1/17 three times.
    np.testing.assert_allclose(arithmetic.reciprocal(positive, 3), 1 / positive.astype(np.float64), rtol=4e-7)
    np.testing.assert_allclose(arithmetic.reciprocal(positive, 0), 1 / positive, rtol=1 / 16.9)
    root = 1 / np.sqrt(positive.astype(np.float64))
    np.testing.assert_allclose(arithmetic.inverse_root(positive, 0), root, rtol=0.0344)
    np.testing.assert_allclose(arithmetic.inverse_root(positive, 1), root, rtol=0.00176)
    np.testing.assert_allclose(arithmetic.inverse_root(positive, 2), root, rtol=5e-6)


def test_the_series_needs_its_terms():
    x = np.linspace(-20, 0, 1001, dtype=np.float32)
    errors = [
        np.max(np.abs(arithmetic.exponential(x, terms) / np.exp(x.astype(np.float64)) - 1))
        for terms in (2, 3, 4, 5, 6)
    ]
    assert all(later < earlier / 5 for earlier, later in itertools.pairwise(errors))


def softmax(x):
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@settings(max_examples=40, deadline=None)
@given(seeds, st.booleans())
def test_whole_operators_against_numpy(seed, narrow):
    rng = np.random.default_rng(seed)
    rounding = arithmetic.to_bfloat16 if narrow else arithmetic.exactly
    x = rng.normal(0, 3, (4, 512)).astype(np.float32)
    exact = x.astype(np.float64)
    shares = arithmetic.softmax(x, 6, 3, rounding)
    assert np.max(np.abs(shares - softmax(exact))) < (0.02 if narrow else 1e-5)
    activated = arithmetic.gelu(x, 6, 3, rounding)
    error = np.abs(activated - gelu(exact)) / np.maximum(1, np.abs(exact))
    assert np.max(error) < (0.02 if narrow else 2e-6)
    gain, bias = rng.normal(1, 0.2, 512).astype(np.float32), rng.normal(0, 0.2, 512).astype(np.float32)
    normed = arithmetic.layer_norm(x, gain, bias, 1, rounding)
    expected = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    expected = expected * gain + bias
    assert np.max(np.abs(normed - expected)) < (0.1 if narrow else 0.012)


def test_bfloat16_rounds_to_nearest_even():
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20], dtype=np.float32)
    np.testing.assert_array_equal(
        arithmetic.to_bfloat16(x), np.array([1.0, 1.0, 1 + 2**-6, -1 - 2**-7], dtype=np.float32)
    )


class Counted(np.ndarray):
    """An array that counts the multiplications and additions made with it."""

    products = sums = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        size = max(np.size(i) for i in inputs)
        if method == "__call__" and ufunc is np.multiply:
            Counted.products += size
        if method == "__call__" and ufunc in (np.add, np.subtract):
            Counted.sums += size
        plain = [np.asarray(i) for i in inputs]
        result = getattr(ufunc, method)(*plain, **kwargs)
        return result.view(Counted) if isinstance(result, np.ndarray) else result


@pytest.mark.parametrize("terms", [4, 6, 9])
def test_counted_operations_are_those_of_the_arithmetic(terms):
    """Every product and sum that the numpy model makes is one the clock count pays for."""
    unit = UNIT.model_copy(update={"exponential_terms": terms})
    x = np.linspace(-3, 0, 64, dtype=np.float32).view(Counted)
    Counted.products = Counted.sums = 0
    keep = lambda a: np.asarray(a, dtype=np.float32).view(Counted)  # noqa: E731
    arithmetic.exponential(x, terms, keep)
    stage = softmax_stages(1, 64, unit)[1]
    # The count has the shift by the largest element, the exponent and the rounding to a whole power besides.
    assert Counted.products == stage.multiplications
    assert Counted.sums == stage.additions - 3 * 64


def test_clocks_by_hand():
    # 300 products on 128 multipliers take 3 clocks, 300 sums on 256 adders 2; a chain of 4 drains after.
    assert clocks([Stage(300, 300, 4)], UNIT) == 3 + 4
    assert clocks([Stage(0, 0, 9)], UNIT) == 0
    assert clocks([Stage(128, 0, 1), Stage(0, 257, 1)], UNIT) == 2 + 3
    # Seven tiles of 1600 outputs and a bias: 7 sums each.
    assert clocks(partial_sum_stages(1600, 7, True), UNIT) == -(-1600 * 7 // 256) + 3
    assert partial_sum_stages(1600, 1, False) == []


def operator(kind, flops, **attributes):
    return operator_of(kind, flops, name="o", inputs=("a",), outputs=("b",), **attributes)


def test_operators_by_kind():
    norm = operator_stages(operator("norm", 7.0 * 1024, m=1, n=1024, adds=0), UNIT)
    rms = operator_stages(operator("norm", 4.0 * 1024, m=1, n=1024, adds=0), UNIT)
    assert clocks(norm, UNIT) > clocks(rms, UNIT)
    gelu_, silu, relu = (
        clocks(operator_stages(operator("activation", per * 4096.0, m=1, n=4096), UNIT), UNIT)
        for per in (8, 4, 1)
    )
    assert gelu_ > silu > relu == 16 + 1
    assert operator_stages(operator("scatter", 1.0, m=1, n=8), UNIT) is None


def test_routing_and_narrowing():
    """Searches for the largest, a sorting network and weighted sums, counted one by one."""
    (chosen,) = operator_stages(operator("topk", 5.0, m=2, n=64, k=6), UNIT)
    assert chosen == Stage(0, 2 * 6 * 63, 6 * 6)
    # A bitonic network of 8 has 6 steps of 4 comparisons.
    (ordered,) = operator_stages(operator("sort", 1.0, m=1, n=8), UNIT)
    assert ordered == Stage(0, 24, 6)
    (combined,) = operator_stages(operator("reduce", 12.0 * 2048, m=1, n=2048), UNIT)
    assert (combined.multiplications, combined.additions) == (6 * 2048, 6 * 2048)
    static = operator_stages(operator("quantize", 4.0, m=1, n=64, dynamic=False), UNIT)
    assert static == [Stage(64, 64, 2)]
    dynamic = operator_stages(operator("quantize", 4.0, m=1, n=64), UNIT)
    assert dynamic[0] == Stage(0, 63, 6)
    assert dynamic[-1:] == static


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 2000))
def test_more_units_never_take_longer(n, rows, extra):
    more = UNIT.model_copy(update={"adders": 256 + extra, "multipliers": 128 + extra})
    stages = softmax_stages(rows, n, UNIT)
    assert clocks(stages, more) <= clocks(stages, UNIT)
    assert clocks(softmax_stages(rows + 1, n, UNIT), UNIT) >= clocks(stages, UNIT)
