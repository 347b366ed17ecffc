"""Products: the kernel against a plain search, roofs, monotonicity, growth with work."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu import gemm
from simulator.gpu.constants import shipped_constants
from simulator.gpu.rows import Request, family_of, gemm_line, predict
from simulator.gpu.sheet import GpuSheet
from tests.gpu.gemm_oracle import best_seconds
from tests.gpu.sheets import NAMES, product, scaled, sheet
from workloads.graph import Operator

sides = st.integers(0, 14).flatmap(lambda e: st.integers(2**e, 2 ** (e + 1)))
gpus = st.sampled_from(NAMES)
dtypes = st.sampled_from(["bf16", "fp32", "fp8"])
timings = st.sampled_from(["default", "graph-mean", "kernel", "wall-incl-launch"])


def seconds(operator: Operator, on: GpuSheet, timing: str = "default") -> float:
    constants = shipped_constants()
    return predict([Request(operator, on, constants.setup(timing))], constants)[0].kernel_s


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, st.integers(1, 8), gpus, dtypes, timings)
def test_kernel_is_the_plain_search(
    m: int, n: int, k: int, batch: int, gpu: str, dtype: str, timing: str
) -> None:
    constants = shipped_constants()
    on = replace(sheet(gpu), tdp=float("inf"))
    operator = product(m, n, k, dtype, batch)
    line = gemm_line(Request(operator, on, constants.setup(timing)), constants)
    line[gemm.BEFORE] = 0.0
    family = family_of(operator)
    out = np.zeros((1, gemm.RESULTS))
    gemm.gemm_rows(np.array([line]), constants.array(family, gemm.CONSTANTS), gemm.TILES, gemm.SPLITS, out)
    given_row = SimpleNamespace(**dict(zip(gemm.COLUMNS, line, strict=True)))
    given_constants = SimpleNamespace(**constants.data[family])
    assert out[0, 0] == pytest.approx(best_seconds(given_row, given_constants), rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, gpus, dtypes, timings)
def test_never_faster_than_a_roof(m: int, n: int, k: int, gpu: str, dtype: str, timing: str) -> None:
    on, operator = sheet(gpu), product(m, n, k, dtype)
    took = seconds(operator, on, timing)
    assert took >= operator.flops / (on.rate(dtype) * on.sms * on.clock) * (1 - 1e-9)
    moved = operator.read_bytes + operator.write_bytes
    if timing in ("default", "kernel"):
        assert took >= moved / on.bandwidth * (1 - 1e-9)
    else:
        # Data in the L2 still has to cross it.
        assert took >= (operator.read_bytes) / (on.sms * on.clock * 64) * (1 - 1e-9)


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, gpus, dtypes)
def test_more_hardware_is_at_most_a_step_slower(m: int, n: int, k: int, gpu: str, dtype: str) -> None:
    base = scaled(sheet(gpu))
    operator = product(m, n, k, dtype)
    before = seconds(operator, base)
    assert seconds(operator, scaled(base, bandwidth=1.5)) <= before * (1 + 1e-9)
    assert seconds(operator, scaled(base, clock=1.3)) <= before * (1 + 1e-9)
    # More multiprocessors change which panels share the L2; what that costs stays within one tile step.
    assert seconds(operator, scaled(base, sms=2.0)) <= before * 1.15


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, gpus, dtypes, st.integers(0, 2))
def test_time_grows_with_work(m: int, n: int, k: int, gpu: str, dtype: str, axis: int) -> None:
    shape = [m, n, k]
    shape[axis] *= 2
    assert seconds(product(*shape, dtype), sheet(gpu)) >= seconds(product(m, n, k, dtype), sheet(gpu)) * 0.97


def test_cold_weights_cost_more_than_hot_ones() -> None:
    operator = product(16, 4096, 1024)
    hot = replace(operator, residency="hot")
    on = sheet("l40s")
    assert seconds(hot, on) < 0.8 * seconds(operator, on)


def test_a_power_limit_slows_arithmetic_only() -> None:
    on = sheet("t4")
    large, thin = product(8192, 8192, 8192, "fp32"), product(1, 8192, 8192, "fp32")
    free = replace(on, tdp=float("inf"))
    assert seconds(large, on) > 1.3 * seconds(large, free)
    assert seconds(thin, on) == pytest.approx(seconds(thin, free), rel=1e-9)


def test_a_thin_product_takes_a_thin_tile() -> None:
    constants = shipped_constants()
    request = Request(product(1, 8192, 8192), sheet("h100-sxm"), constants.setup("default"))
    assert int(predict([request], constants)[0].choice.split("x")[0]) <= 32


def test_wave_quantisation_shows() -> None:
    on = replace(sheet("a100-80gb"), tdp=float("inf"))
    # 108 and 109 tiles of 256 x 128 on 108 multiprocessors.
    full, over = (
        seconds(product(256 * 12, 128 * 9, 4096), on),
        seconds(product(256 * 12 + 1, 128 * 9, 4096), on),
    )
    assert over > full * 1.01
