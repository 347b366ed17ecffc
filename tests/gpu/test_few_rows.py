"""Products of few rows on the vector units: the kernel against plain Python, roofs, and where it is taken."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu import few_rows, gemm
from simulator.gpu.constants import Constants, shipped_constants
from simulator.gpu.request import Request, family_of
from simulator.gpu.rows import gemm_line, launch_and_host, predict
from simulator.gpu.sheet import GpuSheet
from simulator.gpu.simulated_l2 import with_simulated_l2
from tests.gpu.gemm_oracle import dram_parts, p_norm
from tests.gpu.sheets import ALL, product, sheet
from workloads.graph import Operator

SIDES = st.integers(0, 15).flatmap(lambda e: st.integers(2**e, 2 ** (e + 1)))
TIMINGS = st.sampled_from(["default", "graph-mean", "engine-plugin", "linear-layer"])


def stored(operator: Operator, weight: str) -> Operator:
    return replace(operator, work=replace(operator.work, weight_dtype=weight))


def plain_seconds(g: SimpleNamespace, c: SimpleNamespace, own: SimpleNamespace) -> float:
    """The mechanism of the module's description, one quantity after another."""
    steps = math.ceil(math.ceil(g.k / 256) * g.n * g.batch / g.sms)
    weights = 256 * steps
    per_weight = max(1, g.converted) + g.m + (2 * g.m / g.scale_block if g.scale_block else 0)
    lanes = min(g.vector_rate, g.rate) / 2
    arithmetic = weights * per_weight / lanes / g.clock
    left = g.m * g.k * g.a_bytes * min(1, g.n * g.batch / g.sms)
    path = min(g.l2_bytes_per_clock * g.clock, own.in_flight_kib * 1024 / (own.latency_us * 1e-6))
    all_of_them = g.n * g.k * g.batch * g.w_bytes / (g.sms * g.clock * g.l2_bytes_per_clock * c.l2_rate)
    feed = max((weights * g.w_bytes + left) / path, all_of_them)
    moved = sum(dram_parts(g, c))
    memory = p_norm(moved / (g.bandwidth * c.access), feed, c.memory_overlap)
    waits = (own.latency_us + own.step_us * math.ceil(g.k / 2048)) * 1e-6
    joules = 2 * g.m * g.n * g.k * g.batch * g.j_flop + moved * g.j_byte
    return max(p_norm(arithmetic, memory, own.overlap) + waits, joules / (g.tdp - g.idle))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12), SIDES, SIDES, st.integers(1, 4), st.sampled_from(ALL), st.sampled_from(["bf16", "fp32", "fp8"]),
    st.sampled_from(["", "int4"]), st.sampled_from([0, 32]), TIMINGS,
)  # fmt: skip
def test_the_quicker_of_tiles_and_vector_units_stands(
    m: int, n: int, k: int, batch: int, gpu: str, dtype: str, weight: str, block: int, timing: str
) -> None:
    constants, on = shipped_constants(), sheet(gpu)
    operator = stored(product(m, n, k, dtype, batch), weight)
    operator = replace(operator, work=replace(operator.work, scale_block=block))
    line = gemm_line(Request(operator, on, constants.setup(timing)), constants)
    family = family_of(operator, on)
    out = np.zeros((1, gemm.RESULTS))
    own = constants.array(family, gemm.CONSTANTS)
    gemm.gemm_rows(np.array([line]), own, gemm.TILES, gemm.SPLITS, out)
    tiles = float(out[0, 0])
    few_rows.few_rows(np.array([line]), own, constants.array("few_rows", few_rows.CONSTANTS), out)
    g = SimpleNamespace(**dict(zip(gemm.COLUMNS, line, strict=True)))
    vector = plain_seconds(
        g, SimpleNamespace(**constants.data[family]), SimpleNamespace(**constants.data["few_rows"])
    )
    expected = min(tiles, vector) if m <= g.few_rows else tiles
    assert out[0, 0] == pytest.approx(expected, rel=1e-9)
    assert (out[0, 3] == few_rows.CHOICE) == (expected < tiles)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), SIDES, SIDES, st.sampled_from(ALL), st.sampled_from(["fp32", "bf16", "fp8"]))
def test_never_faster_than_the_vector_lanes_or_the_memory(
    m: int, n: int, k: int, gpu: str, dtype: str
) -> None:
    constants, on = shipped_constants(), sheet(gpu)
    operator = product(m, n, k, dtype)
    line = np.array([gemm_line(Request(operator, on, constants.setup("default")), constants)])
    out = np.full((1, gemm.RESULTS), 1e30)
    own = constants.array("few_rows", few_rows.CONSTANTS)
    few_rows.few_rows(line, constants.array(family_of(operator, on), gemm.CONSTANTS), own, out)
    assert out[0, 0] >= 2.0 * m * n * k / (on.rate("fp32", matrix=False) * on.sms * on.clock)
    assert out[0, 0] >= (operator.read_bytes + operator.write_bytes) / on.bandwidth


def seconds(operator: Operator, on: GpuSheet, constants: Constants | None = None) -> float:
    known = constants or shipped_constants()
    return predict([Request(operator, on, known.setup("default"))], known)[0].kernel_s


@pytest.mark.parametrize("gpu", ["p40", "m1-max", "m4-max"])
def test_four_bit_weights_stream_where_there_is_little_arithmetic(gpu: str) -> None:
    """Padded to a tile of 16 rows one row is bound by arithmetic there; on the vector units it is the memory's."""
    on, operator = sheet(gpu), stored(product(1, 22016, 4096, "bf16"), "q4_0")
    data = dict(shipped_constants().data)
    del data["few_rows"]
    stream = 22016 * 4096 * 4.5 / 8 / on.bandwidth
    assert seconds(operator, on, Constants(data)) > 1.8 * stream
    found = predict([Request(operator, on, shipped_constants().setup("default"))], shipped_constants())[0]
    assert found.choice == "vector"
    assert found.kernel_s < 1.5 * stream


def test_more_rows_than_the_kernel_takes_go_to_tiles() -> None:
    constants = shipped_constants()
    setup = constants.setup("default")
    chosen = [
        predict([Request(stored(product(m, 4096, 4096), "q4_0"), sheet("p40"), setup)], constants)[0].choice
        for m in (1, 8, 9)
    ]
    assert chosen[0] == "vector"
    assert chosen[2] != "vector"


def test_layers_of_scales_have_tiles_alone_and_wait_with_one_row() -> None:
    constants = shipped_constants()
    setup, on = constants.setup("linear-layer"), sheet("b200")
    one, two = (predict([Request(product(m, 1024, 128, "fp8"), on, setup)], constants)[0] for m in (1, 2))
    assert "vector" not in (one.choice, two.choice)
    extra = setup.one_row_kcycles["tensor8/paired"] * 1e3 / on.clock
    assert one.launch_s == pytest.approx(two.launch_s + extra)
    usual = constants.setup("default")
    assert predict([Request(product(1, 1024, 128, "fp8"), on, usual)], constants)[0].launch_s < one.launch_s


def test_a_replayed_cache_leaves_vector_products_as_they_are() -> None:
    constants = shipped_constants()
    request = Request(stored(product(1, 4096, 4096), "q4_0"), sheet("p40"), constants.setup("default"))
    found = predict([request], constants)[0]
    assert found.choice == "vector"
    assert with_simulated_l2(request, constants, found) == found


def test_a_chip_that_nobody_measured_launches_as_its_file_says() -> None:
    setup = shipped_constants().setup("default")
    assert sheet("m1-max").least_launch == pytest.approx(8e-6)
    assert launch_and_host(setup, sheet("m1-max"), "tensor16")[0] == pytest.approx(8e-6)
    assert sheet("a100-80gb").least_launch == 0.0
    assert launch_and_host(setup, sheet("a100-80gb"), "tensor16")[0] < 4e-6
