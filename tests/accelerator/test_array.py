"""The clocks of a systolic array, against cells that really multiply and against folds counted one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.accelerator.array import (
    DATAFLOWS,
    ArrayShape,
    Product,
    array_clocks,
    fold_clocks,
    streamed_elements,
    utilisation,
)
from tests.accelerator.array_oracle import accumulate, clocks, hold_and_stream

SIDES = st.integers(1, 7)
SHAPES = st.builds(
    ArrayShape,
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from(DATAFLOWS),
    st.booleans(),
)
PRODUCTS = st.builds(Product, st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))


@given(SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_fold_takes_the_clocks_of_cells_that_pass_numbers_on(rows, columns, length, seed):
    rng = np.random.default_rng(seed)
    held, streamed = rng.integers(-9, 9, (rows, columns)), rng.integers(-9, 9, (length, rows))
    product, took = hold_and_stream(held, streamed)
    assert np.array_equal(product, streamed @ held)
    assert took == fold_clocks(rows, columns, length)
    product, took = accumulate(streamed[:, :rows], held)
    assert np.array_equal(product, streamed @ held)
    assert took == fold_clocks(length, columns, rows)


@given(PRODUCTS, SHAPES)
@settings(max_examples=300, deadline=None)
def test_a_product_takes_the_clocks_of_its_folds(product, shape):
    counted = clocks(product.m, product.k, product.n, product.count, shape)
    assert array_clocks(product, shape) == counted


@given(PRODUCTS, SHAPES)
@settings(max_examples=200, deadline=None)
def test_no_array_does_more_than_its_cells_can(product, shape):
    assert 0 < utilisation(product, shape) <= 1
    assert array_clocks(product, shape) * shape.rows * shape.columns * shape.arrays >= product.multiply_adds


@given(PRODUCTS, SHAPES)
@settings(max_examples=100, deadline=None)
def test_prefetching_never_takes_longer_and_neither_does_another_array(product, shape):
    from dataclasses import replace

    eager = replace(shape, prefetch=True)
    assert array_clocks(product, eager) <= array_clocks(product, replace(shape, prefetch=False))
    assert array_clocks(product, replace(shape, arrays=2 * shape.arrays)) <= array_clocks(product, shape)


@given(PRODUCTS, SHAPES)
@settings(max_examples=100, deadline=None)
def test_every_operand_crosses_the_ports_at_least_once_and_never_more_than_cells_use_it(product, shape):
    inputs, weights, outputs = streamed_elements(product, shape)
    m, k, n, count = product.m, product.k, product.n, product.count
    assert m * k * count <= inputs <= product.multiply_adds
    assert k * n * count <= weights <= product.multiply_adds
    assert outputs == m * n * count


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_an_empty_product_takes_no_time(dataflow):
    shape = ArrayShape(4, 4, 1, dataflow)
    assert array_clocks(Product(0, 3, 3), shape) == 0
    assert utilisation(Product(3, 0, 3), shape) == 0


def test_a_square_product_that_fills_the_array_uses_it_fully_but_for_its_skew():
    shape = ArrayShape(128, 128, 1, "weight", prefetch=True)
    assert utilisation(Product(4096, 1024, 1024), shape) == pytest.approx(1, abs=0.01)
    assert utilisation(Product(4096, 1024, 8), shape) == pytest.approx(8 / 128, rel=0.02)
    assert utilisation(Product(1, 1024, 1024), shape) < 0.01
