"""The L2, convolutions, sparse products and power."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.gpu import sparse
from simulator.gpu.constants import shipped_constants
from simulator.gpu.conv import workspace_elements
from simulator.gpu.l2 import TileProduct, closed_form_error, simulated_bytes
from simulator.gpu.lowering import lowered
from simulator.gpu.power import within_power
from simulator.gpu.request import Request, family_of, flop_joules
from simulator.gpu.rows import predict
from simulator.gpu_memory.coarse import read_bytes
from tests.gpu.sheets import attention, product, sheet
from tests.typed import operator_of
from workloads.gpu_trace.kernels import Launch, generate_kernel
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


# --- the L2 --------------------------------------------------------------------------------------------------


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


def test_tiles_as_runs_read_what_tiles_in_rows_do() -> None:
    """The grain of 4 KiB and the tile-by-tile layout stay within 5 % of sectors in rows (15 cases, worst 2.9 %)."""
    for m, n, k in ((2048, 2048, 2048), (1000, 3000, 1500), (4096, 1024, 4096)):
        for l2 in (2e6, 6e6, 20e6):
            tiles = f"matmul:{m}:{n}:{k}:tile_k=64:order=swizzle:stores=0"
            coarse = read_bytes(generate_kernel(tiles + ":tiled=1", Launch(108)), l2)
            fine = read_bytes(generate_kernel(tiles, Launch(108)), l2, line_bytes=128)
            padded = (-(-m // 128) * 128 * k + -(-n // 128) * 128 * k) / (m * k + n * k)
            assert coarse == pytest.approx(fine * padded, rel=0.05)
    for q, kv in ((1024, 1024), (512, 4096)):
        for l2 in (1e6, 4e6, 40e6):
            text = f"attention:2:16:4:{q}:{kv}:128"
            coarse = read_bytes(generate_kernel(text + ":tiled=1", Launch(216)), l2)
            fine = read_bytes(generate_kernel(text, Launch(216)), l2, line_bytes=128)
            assert coarse == pytest.approx(fine, rel=0.05)


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


def test_depthwise_is_bound_by_bytes_and_by_the_loads_of_a_large_window() -> None:
    def seconds(side: int) -> tuple[float, str]:
        operator = conv(batch=256, out_channels=64, groups=64, kernel_h=side, kernel_w=side)
        assert lowered(operator).kind == "elementwise"
        on = Request(lowered(operator), sheet("a100-80gb"), shipped_constants().setup("default"))
        found = predict([on], shipped_constants())[0]
        return found.kernel_s, found.bound_by

    assert seconds(3)[1] == "memory"
    assert seconds(3)[0] == pytest.approx(seconds(1)[0], rel=0.01)
    # 49 taps of two bytes over 128 bytes a cycle and multiprocessor.
    outputs = 256 * 56 * 56 * 64
    assert seconds(7)[0] == pytest.approx(outputs * 49 * 2 / (128 * 108 * 1.41e9), rel=0.02)
    assert seconds(7)[1] == "compute"


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


# --- power ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1.0), st.floats(1.0, 1000.0))
def test_the_limit_is_kept_and_nothing_waits_below_it(joules: float, seconds: float, budget: float) -> None:
    took = within_power(seconds, joules, budget)
    assert took >= seconds
    assert joules / took <= budget * (1 + 1e-9)
    assert took == seconds or joules / took == pytest.approx(budget)


@pytest.mark.parametrize("gpu", ["t4", "p4", "a100-80gb", "h100-sxm", "b200"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_no_operator_draws_more_than_the_board_s_limit(gpu: str, dtype: str) -> None:
    constants, board = shipped_constants(), sheet(gpu)
    table = constants.data["energy_pj"]
    for operator in (
        product(8192, 8192, 8192, dtype),
        product(64, 8192, 8192, dtype),
        attention(4, 32, 8, 4096, 4096),
    ):
        found = predict([Request(operator, board, constants.setup("default"))], constants)[0]
        family = family_of(operator, board)
        joules = operator.flops * flop_joules(family, board, constants) if family in table else 0.0
        assert board.idle + (joules + found.memory_j) / found.kernel_s <= board.tdp * (1 + 1e-9)
