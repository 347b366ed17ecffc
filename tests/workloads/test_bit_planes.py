"""Products by planes of bits: results and counts against plain sums, and operators against what was executed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from tests.workloads.test_low_rank import moved, two_products
from workloads.bit_planes import BitPlanes, plane_product, planes_of, with_bit_planes
from workloads.graph import check_graph
from workloads.operators import Product

BITS = st.integers(1, 8)


@st.composite
def operands(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], BitPlanes]:
    form = BitPlanes(draw(BITS), draw(BITS))
    depth = draw(st.integers(1, 40))

    def matrix(bits: int) -> list[list[int]]:
        value = st.integers(0, (1 << bits) - 1).map(lambda x: 2 * x - (1 << bits) + 1)
        return draw(st.lists(st.lists(value, min_size=depth, max_size=depth), min_size=1, max_size=5))

    return matrix(form.activation_bits), matrix(form.weight_bits), form


def plain_bits(number: int, bits: int) -> list[int]:
    """Bits of -1 and 1 whose sum by places is the number, from the highest down."""
    found = []
    for place in range(bits - 1, -1, -1):
        found.append(1 if number > 0 else -1)
        number -= found[-1] << place
    assert number == 0
    return found[::-1]


@settings(max_examples=100, deadline=None)
@given(operands())
def test_planes_give_the_product_and_are_counted(
    case: tuple[list[list[int]], list[list[int]], BitPlanes],
) -> None:
    left, right, form = case
    found, counts = plane_product(np.array(left), np.array(right), form)
    for i, row in enumerate(left):
        for j, column in enumerate(right):
            assert found[i, j] == sum(a * b for a, b in zip(row, column, strict=True))
            assert found[i, j] == sum(
                (x * y) << (p + q)
                for a, b in zip(row, column, strict=True)
                for p, x in enumerate(plain_bits(a, form.activation_bits))
                for q, y in enumerate(plain_bits(b, form.weight_bits))
            )
    words, pairs = (len(left[0]) + 7) // 8, form.weight_bits * form.activation_bits
    assert counts.sums == pairs * len(left) * len(right)
    assert counts.words == counts.sums * words
    assert counts.left_bytes == form.activation_bits * len(left) * words
    assert counts.right_bytes == form.weight_bits * len(right) * words


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 12), BITS, BITS, st.booleans(), st.booleans())
def test_operators_are_what_was_executed(
    m: int, k: int, n: int, weight: int, activation: int, folded: bool, packed: bool
) -> None:
    form = BitPlanes(weight, activation, folded, packed)
    graph = check_graph(with_bit_planes(two_products(m, k, n), form, lambda _: True))
    one = graph.operator_by_name["one"].work
    assert isinstance(one, Product)
    values = np.ones((m, k), np.int64), np.ones((n, k), np.int64)
    counts = plane_product(*values, form)[1]
    assert one.m * one.n == counts.sums
    assert one.m * one.n * one.k == counts.words
    assert one.folds == (weight * activation if folded else 1)
    right = counts.right_bytes if packed else n * k
    # Activations are taken apart once; results, the bias and the sum that follows are in 16 bits.
    plain = 2 * m * k + 2 * n + 2 * 3 * m * n
    plain += counts.left_bytes + 4 * m
    products = 2 * (counts.left_bytes + 4 * m + right + 4 * n + 2 * m * n)
    through_memory = 0 if folded else 2 * 2 * 4 * counts.sums
    assert moved(graph) == plain + products + through_memory


def test_others_stay() -> None:
    whole = two_products(4, 8, 8)
    same = with_bit_planes(whole, BitPlanes(1, 1), lambda _: False)
    assert (same.operators, same.tensors) == (whole.operators, whole.tensors)


@pytest.mark.parametrize("values", [[[2]], [[5]], [[-5]]])
def test_values_that_no_bits_make_are_refused(values: list[list[int]]) -> None:
    with pytest.raises(InputError, match="2 bits of -1 and 1"):
        planes_of(np.array(values), 2)


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
@pytest.mark.parametrize("bits", [0, 9])
def test_widths_are_bounded(field: str, bits: int) -> None:
    wrong: Any = {"weight_bits": 1, "activation_bits": 1} | {field: bits}
    with pytest.raises(InputError, match=f"found {bits}; expected 1 to 8"):
        BitPlanes(**wrong)
