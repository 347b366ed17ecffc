"""Products: the kernel against a plain search, roofs, monotonicity, growth with work."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu import gemm
from simulator.gpu.constants import shipped_constants
from simulator.gpu.request import Request, family_of
from simulator.gpu.rows import gemm_line, predict
from simulator.gpu.sheet import GpuSheet
from tests.gpu.gemm_oracle import best_seconds
from tests.gpu.sheets import ALL, NAMES, product, scaled, sheet
from workloads.graph import Operator

sides = st.integers(0, 14).flatmap(lambda e: st.integers(2**e, 2 ** (e + 1)))
gpus = st.sampled_from(NAMES)
every_gpu = st.sampled_from(ALL)
dtypes = st.sampled_from(["bf16", "fp32", "fp8"])
timings = st.sampled_from(["default", "graph-mean", "kernel", "wall-incl-launch"])


def seconds(operator: Operator, on: GpuSheet, timing: str = "default") -> float:
    constants = shipped_constants()
    return predict([Request(operator, on, constants.setup(timing))], constants)[0].kernel_s


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, st.integers(1, 8), gpus, dtypes, timings, st.sampled_from([1, 1, 2, 12]))
def test_kernel_is_the_plain_search(
    m: int, n: int, k: int, batch: int, gpu: str, dtype: str, timing: str, folds: int
) -> None:
    constants = shipped_constants()
    on = sheet(gpu)
    operator = product(m, n, k, dtype, batch)
    operator = replace(operator, work=replace(operator.work, folds=folds))
    line = gemm_line(Request(operator, on, constants.setup(timing)), constants)
    family = family_of(operator, on)
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
        assert took >= (operator.read_bytes) / (on.sms * on.clock * on.architecture.l2_bytes_per_clock) * (
            1 - 1e-9
        )


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, every_gpu, dtypes, timings, st.floats(1.0, 4.0))
def test_more_hardware_is_never_slower(
    m: int, n: int, k: int, gpu: str, dtype: str, timing: str, more: float
) -> None:
    operator, board = product(m, n, k, dtype), sheet(gpu)
    # More bandwidth helps under any limit of power; a clock is rated with the energy per operation that it takes.
    fast = replace(board, bandwidth=board.bandwidth * more)
    assert seconds(operator, fast, timing) <= seconds(operator, board, timing) * (1 + 1e-9)
    base = scaled(board)
    before = seconds(operator, base, timing)
    assert seconds(operator, scaled(base, clock=more), timing) <= before * (1 + 1e-9)
    # More multiprocessors make wider waves, whose panels may outgrow the L2: at most a step.
    assert seconds(operator, scaled(base, sms=2.0), timing) <= before * 1.15


def test_more_bandwidth_helps_at_the_power_limit() -> None:
    """The tile is chosen under the limit: before it, the quicker tile here re-reads more and draws more."""
    board = sheet("t4")
    for m, n, k in ((8192, 8192, 8192), (2048, 4096, 2048), (1000, 5000, 700), (512, 8192, 512)):
        for dtype in ("fp32", "bf16"):
            steps = [
                seconds(product(m, n, k, dtype), replace(board, bandwidth=board.bandwidth * x / 20))
                for x in range(10, 80)
            ]
            assert steps == sorted(steps, reverse=True)


@settings(max_examples=300, deadline=None)
@given(
    sides, sides, sides, st.integers(1, 32), every_gpu, dtypes, timings, st.integers(0, 3),
    st.one_of(st.integers(1, 300), st.floats(1.0, 3.0)), st.sampled_from([None, "int4", "fp32"]),
)  # fmt: skip
def test_time_grows_with_work(
    m: int,
    n: int,
    k: int,
    batch: int,
    gpu: str,
    dtype: str,
    timing: str,
    axis: int,
    more: float,
    weight: str | None,
) -> None:
    shape = [m, n, k, batch]
    larger = list(shape)
    larger[axis] = shape[axis] + more if isinstance(more, int) else int(shape[axis] * more) + 1
    small, large = (product(*sides[:3], dtype, sides[3]) for sides in (shape, larger))
    if weight is not None:
        small, large = (replace(op, work=replace(op.work, weight_dtype=weight)) for op in (small, large))
    assert seconds(large, sheet(gpu), timing) >= seconds(small, sheet(gpu), timing) * (1 - 1e-9)


@pytest.mark.parametrize("gpu", ALL)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_over_a_tile_s_edge_is_never_a_gain(gpu: str, axis: int) -> None:
    """128 may be quicker than 129, never slower: at every edge of a tile and of a split's least depth."""
    constants = shipped_constants()
    setup = constants.setup("default")
    edges = [
        e + d for e in (16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 4096, 8192) for d in (-1, 0, 1)
    ]
    for base in ((1000, 1000, 4000), (30, 90, 3000), (4000, 60, 700), (31, 12183, 11417), (29, 963, 4614)):
        shapes = [[*base[:axis], edge, *base[axis + 1 :]] for edge in edges]
        found = predict([Request(product(*shape), sheet(gpu), setup) for shape in shapes], constants)
        times = [p.kernel_s for p in found]
        assert all(b >= a * (1 - 1e-9) for a, b in pairwise(times))


@settings(max_examples=100, deadline=None)
@given(sides, sides, sides, every_gpu, st.integers(2, 16))
def test_sums_that_fold_are_not_free_and_are_written_once(
    m: int, n: int, k: int, gpu: str, folds: int
) -> None:
    """The same product with as small a result is quicker by the sums' way through shared memory at least."""
    plain = product(m, n, k)
    folded = replace(plain, work=replace(plain.work, folds=folds))
    constants, on = shipped_constants(), replace(sheet(gpu), tdp=float("inf"))
    line = gemm_line(Request(folded, on, constants.setup("default")), constants)
    assert (
        line[gemm.EO] * folds == gemm_line(Request(plain, on, constants.setup("default")), constants)[gemm.EO]
    )
    lines = np.array([line, line])
    lines[1, gemm.FOLDS], lines[:, gemm.MAXS] = 1.0, 1.0
    out = np.zeros((2, gemm.RESULTS))
    own = constants.array(family_of(plain, on), gemm.CONSTANTS)
    gemm.gemm_rows(lines, own, gemm.TILES, gemm.SPLITS, out)
    way = min(m, 16) * min(n, 32) * 8 / (on.architecture.shared_bytes_per_clock * on.clock)
    assert out[0, 0] >= out[1, 0] + way / 6 * (1 - 1e-9), (
        "the smallest tile's, on a multiprocessor of six blocks"
    )


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
