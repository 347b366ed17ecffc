"""Columns of two widths: two steps against one, in exact fractions; bytes and operators counted by hand."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from tests.workloads.test_low_rank import moved, two_products
from workloads.graph import Graph, Role, check_graph
from workloads.mixed_columns import GroupedWeights, MixedColumns, two_step_product, with_mixed_columns
from workloads.operators import Product

SCALES = st.integers(1, 64).map(lambda x: x / 16)
"""Sums of such scales times small integers are exact in floats."""


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_two_steps_give_what_scaling_every_weight_gives(data: st.DataObject) -> None:
    m, n, k, group = (data.draw(st.integers(1, most)) for most in (4, 5, 20, 8))
    groups = ceil(k / group)

    def table(rows: int, columns: int, values: st.SearchStrategy) -> list[list]:  # type: ignore[type-arg]
        row = st.lists(values, min_size=columns, max_size=columns)
        return data.draw(st.lists(row, min_size=rows, max_size=rows))

    wide = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    weights = [table(1, k, st.integers(-128, 127) if w else st.integers(0, 15))[0] for w in wide]
    zeros = [table(1, groups, st.just(0) if w else st.integers(0, 15))[0] for w in wide]
    left, left_scales = table(m, k, st.integers(-128, 127)), table(m, groups, SCALES)
    scales = table(n, groups, SCALES)
    held = GroupedWeights(np.array(weights), np.array(scales), np.array(zeros))
    found, counts = two_step_product(np.array(left), np.array(left_scales), held, group)
    for i in range(m):
        for j in range(n):
            plain = sum(
                Fraction(left[i][t]) * Fraction(left_scales[i][t // group])
                * (weights[j][t] - zeros[j][t // group]) * Fraction(scales[j][t // group])
                for t in range(k)
            )  # fmt: skip
            assert Fraction(float(found[i, j])) == plain
    assert (counts.multiply_adds, counts.scalings) == (m * n * k, m * n * groups)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 10), st.integers(1, 300), st.integers(1, 40), st.floats(0, 1), st.booleans(), st.booleans(),
    st.sampled_from([16, 128]),
)  # fmt: skip
def test_bytes_and_shapes_by_hand(
    m: int, k: int, n: int, share: float, steps: bool, fused: bool, group: int
) -> None:
    form = MixedColumns(group, steps, fused)
    graph = check_graph(with_mixed_columns(two_products(m, k, n), form, lambda _: share))
    wide = round(n * share)
    apart = not fused and 0 < wide < n

    def held(narrow: int, wide: int) -> int:
        groups = ceil(k / group)
        return ceil(narrow * k / 2) + wide * k + 2 * (narrow + wide) * groups + ceil(narrow * groups / 2)

    stored = held(n - wide, 0) + held(0, wide) if apart else held(n - wide, wide)
    assert 2 * stored + 2 * n == sum(t.size_bytes for t in graph.tensors.values() if t.role is Role.WEIGHT)
    source = m * k + 2 * m * ceil(k / group) if steps else 2 * m * k
    plain = 2 * n + 3 * 2 * m * n + (2 * m * k + source if steps else 0)
    plain += 2 * (stored + source * (2 if apart else 1) + 2 * m * n)
    assert moved_kernels(graph) == plain
    products = [o for o in graph.operators if isinstance(o.work, Product)]
    assert len(products) == (4 if apart else 2)
    for operator in products:
        work = operator.work
        assert isinstance(work, Product)
        assert work.scale_block == (min(group, k) if steps else 0)
        assert operator.dtype == ("int8" if steps else "fp16")
    assert sum(o.flops for o in products) == sum(
        o.flops for o in two_products(m, k, n).operators if isinstance(o.work, Product)
    )


def moved_kernels(graph: Graph) -> int:
    """Bytes of all but views, which are no kernels."""
    views = [o for o in graph.operators if o.kind == "view"]
    return moved(graph) - sum(o.read_bytes + o.write_bytes for o in views)


def test_chosen_products_alone_change() -> None:
    whole = two_products(4, 8, 8)
    same = with_mixed_columns(whole, MixedColumns(), lambda _: None)
    assert (same.operators, same.tensors) == (whole.operators, whole.tensors)
    one = with_mixed_columns(whole, MixedColumns(), lambda o: 0.5 if o.name == "one" else None)
    assert [o.name for o in one.operators] == ["x.quantise", "one", "two", "sum"]


def test_shares_and_weights_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"found 1.5; expected 0 to 1"):
        with_mixed_columns(two_products(2, 2, 2), MixedColumns(), lambda _: 1.5)
    held = GroupedWeights(np.array([[127]]), np.ones((1, 1)), np.array([[-2]]))
    with pytest.raises(InputError, match="no integer of 8 bits"):
        two_step_product(np.array([[1]]), np.ones((1, 1)), held, 8)
