"""Linear attention and short convolutions on GPUs: a plain second opinion, and what more work must cost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu import linear_attention
from simulator.gpu.attention_lines import linear_line
from simulator.gpu.constants import shipped_constants
from simulator.gpu.request import Prediction, Request
from simulator.gpu.rows import predict
from simulator.gpu.sheet import GpuSheet
from tests.gpu.sheets import ALL, sheet
from workloads.graph import Operator
from workloads.operators import Convolution, LinearAttention

every_gpu = st.sampled_from(ALL)


def linear(**fields: int | str) -> Operator:
    given = {
        "batch": 2,
        "sequence": 1024,
        "heads": 16,
        "kv_heads": 8,
        "key_dim": 128,
        "value_dim": 128,
        **fields,
    }
    work = LinearAttention(**given)  # type: ignore[arg-type]
    tokens = 2 * work.batch * work.sequence * work.token_elements
    state = 2 * work.state_elements * (4 if work.state_dtype == "fp32" else 2)
    return Operator(
        "linear", work, (), (), dtype="bf16", beside_read=tokens + state // 2, beside_written=state // 2
    )


def convolution(batch: int, tokens: int, channels: int) -> Operator:
    work = Convolution(
        batch=batch, in_channels=channels, out_channels=channels, height=1, width=tokens, kernel_h=1, kernel_w=4,
        groups=channels, out_height=1, out_width=tokens,
    )  # fmt: skip
    size = 2 * batch * tokens * channels
    return Operator("conv", work, (), (), dtype="bf16", beside_read=size, beside_written=size)


def run(operator: Operator, on: GpuSheet, timing: str = "default") -> Prediction:
    constants = shipped_constants()
    return predict([Request(operator, on, constants.setup(timing))], constants)[0]


def by_hand(line: dict[str, float], x: dict[str, float]) -> float:
    """Seconds as the page says it, one operator at a time, in plain arithmetic."""
    name = linear_attention.KERNELS[int(line["kernel"])]
    states = int(line["batch"] * line["heads"])
    tokens = line["batch"] * line["sequence"]
    moved = tokens * line["token_bytes"] + 2 * states * line["state_elements"] * line["state_bytes"]
    cycles, flops = 0.0, 0.0
    if line["chunk"] == 1:
        for _ in range(int(line["sequence"])):
            cycles += x["decode_cycles"]
        flops = tokens * line["heads"] * line["chunk_flops"]
    else:
        chunks = math.ceil(line["sequence"] / line["chunk"])
        flops = states * chunks * line["chunk_flops"]
        products = line["chunk_flops"] / (line["rate"] * x["matrix_share"])
        load = 2 * line["state_elements"] * line["state_bytes"] / line["l2_bytes_per_clock"]
        one = x[f"fill_cycles_{name}"] + load
        per_chunk = x[f"step_cycles_{name}"]
        if name == "triton":
            moved += (x["token_passes"] - 1) * tokens * line["token_bytes"]
            moved += x["state_passes"] * states * chunks * line["state_elements"] * 2
            waves = math.ceil(states / (4 * line["sms"]))
            cycles = waves * (one + chunks * per_chunk) + states * chunks * products / line["sms"]
        else:
            free = [0.0] * int(line["sms"])
            for _ in range(states):
                at = free.index(min(free))
                free[at] += one + chunks * (per_chunk + products)
            cycles = max(free)
    hit = 0.0
    if line["warm"]:
        hit = 1 - min(1.0, max(0.0, moved / (line["l2"] * x["l2_share"]) - 1))
    dram = moved * (1 - hit)
    memory = max(
        dram / (line["bandwidth"] * x["access"]),
        moved / (line["sms"] * line["clock"] * line["l2_bytes_per_clock"]),
    )
    p = x["overlap"]
    seconds = ((cycles / line["clock"]) ** p + memory**p) ** (1 / p)
    joules = flops * line["j_flop"] + dram * line["j_byte"]
    return max(seconds, joules / (line["tdp"] - line["idle"]))


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int | str]:
    kv_heads = draw(st.sampled_from([1, 2, 8]))
    return {
        "batch": draw(st.integers(1, 64)), "sequence": draw(st.integers(1, 5000)),
        "heads": kv_heads * draw(st.integers(1, 4)), "kv_heads": kv_heads,
        "key_dim": draw(st.sampled_from([64, 128])), "value_dim": draw(st.sampled_from([64, 128, 256])),
        "rule": draw(st.sampled_from(["delta", "decay"])), "chunk": draw(st.sampled_from([1, 16, 64, 256])),
        "state_dtype": draw(st.sampled_from(["fp32", "bf16"])),
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(shapes(), every_gpu, st.sampled_from(["default", "graph-mean"]))
def test_the_kernel_is_the_sum_done_by_hand(shape: dict[str, int | str], gpu: str, timing: str) -> None:
    constants = shipped_constants()
    operator = linear(**shape)
    line = linear_line(Request(operator, sheet(gpu), constants.setup(timing)), constants)
    wanted = by_hand(
        dict(zip(linear_attention.COLUMNS, line, strict=True)), dict(constants.data["linear_attention"])
    )
    assert run(operator, sheet(gpu), timing).kernel_s == pytest.approx(wanted, rel=1e-9)


def test_the_second_opinion_notices_a_broken_kernel() -> None:
    constants = shipped_constants()
    operator = linear(chunk=64)
    line = linear_line(Request(operator, sheet("h100-sxm"), constants.setup("default")), constants)
    figures = dict(zip(linear_attention.COLUMNS, line, strict=True))
    out = np.zeros((1, linear_attention.RESULTS))
    values = constants.array("linear_attention", linear_attention.CONSTANTS)
    values[linear_attention.STEP] *= 1.01
    linear_attention.linear_attention_rows(np.array([line]), values, out)
    assert out[0, 0] != pytest.approx(by_hand(figures, dict(constants.data["linear_attention"])), rel=1e-6)


@settings(max_examples=300, deadline=None)
@given(
    shapes(), every_gpu, st.sampled_from(["batch", "sequence", "heads", "key_dim", "value_dim"]), st.integers(2, 4)
)  # fmt: skip
def test_time_grows_with_work(shape: dict[str, int | str], gpu: str, axis: str, more: int) -> None:
    large = {**shape, axis: int(shape[axis]) * more}
    if axis == "heads":
        large["kv_heads"] = int(shape["kv_heads"]) * more
    assert run(linear(**large), sheet(gpu)).kernel_s >= run(linear(**shape), sheet(gpu)).kernel_s * (1 - 1e-9)


@settings(max_examples=100, deadline=None)
@given(shapes(), every_gpu)
def test_narrower_states_never_take_longer(shape: dict[str, int | str], gpu: str) -> None:
    wide, narrow = (run(linear(**{**shape, "state_dtype": t}), sheet(gpu)).kernel_s for t in ("fp32", "bf16"))
    assert narrow <= wide * (1 + 1e-9)


@pytest.mark.parametrize("gpu", ALL)
def test_a_large_decode_is_bound_by_its_states(gpu: str) -> None:
    found = run(linear(batch=2048, sequence=1, heads=32, kv_heads=16, chunk=1), sheet(gpu))
    state = 2 * 2048 * 32 * 128 * 128 * 4
    assert found.bound_by == "memory"
    assert state / sheet(gpu).bandwidth <= found.kernel_s < 2 * state / sheet(gpu).bandwidth


def test_fused_kernels_walk_one_sequence_alone_and_many_side_by_side() -> None:
    on = sheet("h100-sxm")
    lone, long = (
        run(linear(batch=1, sequence=4096), on).kernel_s,
        run(linear(batch=1, sequence=8192), on).kernel_s,
    )
    many = run(linear(batch=8, sequence=4096), on).kernel_s
    assert 1.8 < long / lone < 2.05
    assert many < 1.2 * lone


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 64),
    st.integers(1, 5000),
    st.integers(1, 8000),
    every_gpu,
    st.sampled_from(["batch", "tokens"]),
)
def test_convolutions_take_longer_for_more(
    batch: int, tokens: int, channels: int, gpu: str, axis: str
) -> None:
    operator = convolution(batch, tokens, channels)
    large = (
        convolution(2 * batch, tokens, channels)
        if axis == "batch"
        else convolution(batch, 2 * tokens, channels)
    )
    took = run(operator, sheet(gpu)).kernel_s
    assert took >= (operator.read_bytes + operator.write_bytes) / sheet(gpu).bandwidth
    assert run(large, sheet(gpu)).kernel_s >= took
    hot = run(replace(operator, residency="hot"), sheet(gpu))
    assert hot.kernel_s <= took
