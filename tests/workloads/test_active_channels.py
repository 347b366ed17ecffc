"""Products that skip channels: what is read and done, counted by hand, and the channels that rows keep, drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.active_channels import read_share, with_active_channels
from workloads.graph import Graph, Role, check_graph
from workloads.layer_builder import LayerBuilder
from workloads.workload import WorkloadOptions


def two_products(rows: int, inner: int, columns: int) -> Graph:
    """Two products in a row, without biases."""
    net = LayerBuilder("two", WorkloadOptions(batch=rows, dtype="fp16"))
    x = net.linear("one", net.input("x", inner), columns, bias=False)
    return net.graph(net.linear("two", x, inner, bias=False))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.125, 0.5, 0.75, 1.0]))
def test_one_product_of_two_skips_and_the_other_stays(m: int, k: int, n: int, kept: float) -> None:
    whole = two_products(m, k, n)
    part = check_graph(with_active_channels(whole, kept, lambda o: o.name == "one"))
    one, two = (part.operator_by_name[name] for name in ("one", "two"))
    read = round((1 - (1 - kept) ** m) * n * k)
    assert one.flops == pytest.approx(2 * m * n * k * kept)
    assert one.read_bytes == 2 * (m * k + read)
    assert one.write_bytes == 2 * m * n
    assert two == whole.operator_by_name["two"]
    assert part.tensors == whole.tensors, "every channel stays in memory"
    assert with_active_channels(whole, 1.0, lambda _: True).flops == whole.flops


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.floats(0.05, 1.0), st.integers(0, 1000))
def test_channels_that_some_row_keeps_are_as_many_as_drawn_ones(rows: int, kept: float, seed: int) -> None:
    channels = 20_000
    draws = np.random.default_rng(seed).random((rows, channels)) < kept
    assert read_share(kept, rows) == pytest.approx(draws.any(axis=0).mean(), abs=0.02)


def test_operators_without_a_weight_stay_and_shares_are_checked() -> None:
    whole = two_products(1, 8, 8)
    weights = sum(t.size_bytes for t in whole.tensors.values() if t.role is Role.WEIGHT)
    assert weights == 2 * 2 * 64
    for wrong in (0.0, -0.5, 1.5):
        with pytest.raises(InputError, match="expected above 0 up to 1"):
            with_active_channels(whole, wrong, lambda _: True)
