"""Occupancy, the L2, convolutions, experts, copies and power."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.gpu import copy, moe, sparse
from simulator.gpu.constants import shipped_constants
from simulator.gpu.conv import workspace_elements
from simulator.gpu.l2 import TileProduct, closed_form_error, lru_misses, simulated_bytes
from simulator.gpu.lowering import lowered
from simulator.gpu.occupancy import occupancy, wave_quantisation
from simulator.gpu.power import clock_share, sustained_watts
from simulator.gpu.rows import Request, predict
from tests.gpu.sheets import product, sheet
from tests.typed import operator_of
from workloads.graph import Operator
from workloads.operators import Convolution, Product
from workloads.operators.products import CONVOLUTION_WAYS


def conv(**given: int | str) -> Operator:
    a: dict[str, int | str] = {
        "batch": 8, "in_channels": 64, "out_channels": 128, "height": 56, "width": 56, "kernel_h": 3, "kernel_w": 3,
        "stride_h": 1, "stride_w": 1, "groups": 1, "out_height": 56, "out_width": 56,
    }  # fmt: skip
    a.update(given)
    n = {key: int(value) for key, value in a.items() if key != "way"}
    weights = n["out_channels"] * n["in_channels"] // n["groups"] * n["kernel_h"] * n["kernel_w"]
    out = n["batch"] * n["out_height"] * n["out_width"]
    read = 2 * (n["batch"] * n["in_channels"] * n["height"] * n["width"] + weights)
    return operator_of(
        "conv", 2.0 * out * weights, read, 2 * out * n["out_channels"], "fp16", name="conv", **a
    )


# --- occupancy: against the published tables ---------------------------------------------------------------


def test_occupancy_by_each_limit() -> None:
    assert occupancy(1024, 32, 0, 164 * 1024).blocks == 2
    assert occupancy(256, 64, 0, 164 * 1024).blocks == 4
    assert occupancy(128, 32, 98304, 164 * 1024).blocks == 1
    assert occupancy(32, 16, 0, 164 * 1024).limit == "blocks"
    with pytest.raises(InputError, match="shared memory"):
        occupancy(128, 32, 200 * 1024, 164 * 1024)


def test_waves() -> None:
    assert wave_quantisation(108, 108, 1) == (1, 1.0)
    waves, full = wave_quantisation(217, 108, 1)
    assert waves == 3
    assert full == pytest.approx(217 / 324)


# --- the L2 --------------------------------------------------------------------------------------------------


def plain_lru(trace: list[int], capacity: int) -> int:
    """A fully associative LRU in plain Python."""
    stack: list[int] = []
    misses = 0
    for key in trace:
        if key in stack:
            stack.remove(key)
        else:
            misses += 1
            if len(stack) == capacity:
                stack.pop(0)
        stack.append(key)
    return misses


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 12))
def test_one_set_is_a_plain_lru(trace: list[int], ways: int) -> None:
    assert lru_misses(np.array(trace, dtype=np.int64), 1, ways) == plain_lru(trace, ways)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=400), st.integers(1, 16))
def test_misses_lie_between_distinct_blocks_and_accesses(trace: list[int], sets: int) -> None:
    misses = lru_misses(np.array(trace, dtype=np.int64), sets, 8)
    assert len(set(trace)) <= misses <= len(trace)


def test_a_product_that_fits_is_read_once() -> None:
    p = TileProduct(2048, 2048, 1024, 128, 128, 64, 108)
    assert simulated_bytes(p, 40e6) == 2 * 2048 * 1024 * 2
    assert closed_form_error(p, 40e6) == 0.0


def test_the_closed_form_stays_near_the_simulation() -> None:
    errors = [
        abs(closed_form_error(TileProduct(m, n, k, 128, 128, 64, 108), l2))
        for m, n, k in ((4096, 4096, 4096), (8192, 4096, 2048), (2048, 8192, 8192), (8192, 8192, 4096))
        for l2 in (4e6, 20e6, 40e6)
    ]
    assert np.median(errors) < 0.25
    assert max(errors) < 2.0


# --- convolutions --------------------------------------------------------------------------------------------


def test_a_convolution_is_a_product_of_the_same_work() -> None:
    operator = conv()
    product = lowered(operator)
    work = product.work
    assert isinstance(work, Product)
    assert 2.0 * work.m * work.n * work.k * work.batch == operator.flops
    assert (product.read_bytes, product.write_bytes) == (operator.read_bytes, operator.write_bytes)


def test_im2win_needs_less_than_im2col_and_winograd_computes_less() -> None:
    shape = conv().work
    assert isinstance(shape, Convolution)
    assert workspace_elements(shape, "implicit_gemm") == 0
    assert workspace_elements(shape, "im2win") == workspace_elements(shape, "im2col") / 3
    assert lowered(conv(way="winograd")).flops == pytest.approx(conv().flops / 2.25)
    with pytest.raises(InputError, match="im2col"):
        workspace_elements(shape, "im2cool")
    assert set(CONVOLUTION_WAYS) == {"implicit_gemm", "im2col", "im2win", "winograd"}


def test_depthwise_is_bound_by_bytes() -> None:
    assert lowered(conv(out_channels=64, groups=64)).kind == "elementwise"


# --- experts -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(2, 64), st.integers(1, 4), st.integers(0, 5))
def test_expected_experts_agree_with_routing(tokens: int, experts: int, chosen: int, seed: int) -> None:
    chosen = min(chosen, experts)
    routed = [moe.route(tokens, experts, chosen, seed=seed * 100 + i) for i in range(20)]
    assert all(sum(r.tokens) == tokens * chosen for r in routed)
    mean = np.mean([r.active for r in routed])
    assert mean == pytest.approx(moe.expected_active(tokens, experts, chosen), abs=0.12 * experts)


def test_skewed_routing_is_less_balanced() -> None:
    assert moe.route(2000, 64, 2, skew=1.0).imbalance > 2 * moe.route(2000, 64, 2).imbalance
    with pytest.raises(InputError):
        moe.route(10, 4, 5)


def test_grouped_product_reads_active_experts_only() -> None:
    one, many = moe.grouped_product(1, 1024, 1024, 64, 2), moe.grouped_product(4096, 1024, 1024, 64, 2)
    assert one.read_bytes == pytest.approx(2 * (2 * 1024 + 2 * 1024 * 1024))
    assert many.read_bytes == pytest.approx(2 * (8192 * 1024 + 64 * 1024 * 1024))


# --- sparse products -----------------------------------------------------------------------------------------


def kernel_seconds(operator: Operator) -> float:
    constants = shipped_constants()
    return predict([Request(operator, sheet("a100-80gb"), constants.setup("default"))], constants)[0].kernel_s


def test_two_of_four_halves_work_and_nearly_halves_weights() -> None:
    dense = product(8192, 8192, 8192)
    half = sparse.two_of_four(dense)
    assert half.flops == dense.flops / 2
    assert dense.read_bytes - half.read_bytes == 8192 * 8192 * 2 * (1 - 9 / 16)
    assert 1.4 < kernel_seconds(dense) / kernel_seconds(half) < 2.0
    thin = product(1, 8192, 8192)
    assert 1.4 < kernel_seconds(thin) / kernel_seconds(sparse.two_of_four(thin)) < 1 / (9 / 16) + 0.01


def test_load_as_sparse_gains_only_where_bytes_bind_and_above_half() -> None:
    thin, fat = product(16, 9216, 9216), product(8192, 9216, 9216)
    assert kernel_seconds(sparse.load_as_sparse(thin, 0.8)) < 0.6 * kernel_seconds(thin)
    assert kernel_seconds(sparse.load_as_sparse(thin, 0.3)) > kernel_seconds(thin)
    assert kernel_seconds(sparse.load_as_sparse(fat, 0.8)) > 0.8 * kernel_seconds(fat)
    with pytest.raises(InputError, match="below 1"):
        sparse.load_as_sparse(thin, 1.0)


def test_spmm_reads_the_dense_operand_once_when_it_fits() -> None:
    fits, spills = sparse.spmm(10000, 64, 10000, 100_000, 40e6), sparse.spmm(10000, 64, 10000, 100_000, 1e6)
    assert fits.read_bytes == 100_000 * 8 + 10001 * 4 + 10000 * 64 * 4
    assert spills.read_bytes > 5 * fits.read_bytes
    assert fits.flops == spills.flops == 2 * 100_000 * 64
    assert sparse.spgemm(1000, 10_000, 10, 4.0).write_bytes == 10_000 * 10 / 4 * 8 + 4000
    with pytest.raises(InputError, match="do not fit"):
        sparse.spmm(2, 2, 2, 5, 1e6)


def test_narrow_weights_move_fewer_bytes() -> None:
    thin = product(1, 8192, 8192)
    four = replace(thin, work=replace(thin.work, weight_dtype="int4"))
    assert kernel_seconds(four) < 0.4 * kernel_seconds(thin)


# --- copies --------------------------------------------------------------------------------------------------

LINK = copy.HostLink(32e9)


def test_pinned_beats_pageable_and_neither_beats_the_wire() -> None:
    for size in (1e4, 1e6, 1e9):
        pinned, pageable = copy.pinned_seconds(size, LINK), copy.pageable_seconds(size, LINK)
        assert size / LINK.bandwidth < pinned <= pageable
    assert copy.pinned_seconds(0, LINK) == 0.0


def test_larger_requests_and_alignment_help() -> None:
    times = [copy.zero_copy_seconds(100_000, 512, LINK, request) for request in (32, 64, 128)]
    assert times == sorted(times, reverse=True)
    assert copy.zero_copy_seconds(100_000, 512, LINK, 128, 32) > times[2]
    with pytest.raises(InputError, match="32, 64 or 128"):
        copy.zero_copy_seconds(1, 512, LINK, 48)


def test_faults_cost_more_than_a_copy() -> None:
    assert copy.unified_seconds(1e8, LINK) > copy.pinned_seconds(1e8, LINK)
    assert copy.unified_seconds(1e8, LINK, prefetch=4096) > copy.unified_seconds(1e8, LINK)


# --- power ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-6, 1e3), st.floats(0, 1e3), st.floats(1e-6, 1.0), st.floats(1.0, 1000.0))
def test_the_clock_keeps_the_limit(joules: float, memory: float, seconds: float, budget: float) -> None:
    phi = clock_share(joules, memory, seconds, budget)
    assert 0.1 <= phi <= 1.0
    if phi > 0.1:
        # At that clock, arithmetic and memory of the interval fit the budget.
        assert phi * joules + memory <= budget * seconds * (1 + 1e-9) or phi == 1.0
    assert sustained_watts(joules, seconds, 50.0, 50.0 + budget) <= 50.0 + budget
