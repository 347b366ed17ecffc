"""Attention kernels of training against a plain count, and against what never happens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.fit_training_attention import lines_of, measured, predicted, table
from hw_configs.library import load_system
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GPU
from simulator.gpu.training_attention import COLUMNS, CONSTANTS, LIBRARIES, training_attention_rows
from workloads.graph import Operator, Place
from workloads.operators import Attention
from workloads.training import ATTENTION_BACKWARD


def seconds(board: str, which: str = "forward", library: str = "fa2", **sizes: int | bool) -> float:
    system = load_system(board)
    node = next(iter(system.nodes.values()))
    given_sizes = {
        "batch": 2,
        "heads": 16,
        "kv_heads": 16,
        "head_dim": 128,
        "q_len": 4096,
        "kv_len": 4096,
        **sizes,
    }
    share = ATTENTION_BACKWARD if which == "backward" else 1.0
    work = Attention(**given_sizes, library=library, share=share)  # type: ignore[arg-type]
    place = Place(training_pass=which)
    return GPU.cost(
        Operator("x", work, (), (), dtype="bf16", place=place), node, system.memories[node.name]
    ).seconds


def plainly(row: dict[str, float], constants: dict[str, float]) -> float:
    """The same kernel counted from its description, tile by tile."""
    library = LIBRARIES[int(row["library"])]
    way = "backward" if row["backward"] else "forward"
    share, beside, fixed = (
        constants[f"{name}_{way}_{library}"] for name in ("share", "exponentials", "tile_cycles")
    )
    d, v = row["head_dim"], row["v_head_dim"]
    width = d + v if way == "forward" else 3 * d + 2 * v
    heads = row["batch"] * row["heads"]
    pairs = row["pairs"]
    if row["causal"]:
        pairs = min(pairs + min(row["q_len"], row["kv_len"]) * 96, row["q_len"] * row["kv_len"])
    rate = row["rate"] * share * (row["warp_rate"] if library == "fa2" else 1.0)
    each = 2 * width / rate + beside / row["exponentials_per_clock"]
    along = row["q_len"] if way == "forward" else row["kv_len"]
    tiles = heads * math.ceil(along / 128)
    cycles = (heads * pairs * each + tiles * fixed) / row["sms"]
    across = row["kv_len"] if way == "forward" else min(row["q_len"], row["kv_len"])
    cycles += 0.5 * (across * 128 * each + fixed)
    element, bandwidth = row["bytes"], row["bandwidth"]
    keys = row["batch"] * row["kv_heads"] * row["kv_len"] * (d + v)
    moved = (heads * row["q_len"] * (d + v) + keys) * element
    helpers = 0.0
    if way == "backward":
        moved += heads * row["q_len"] * (2 * v + d) * element + keys * element
        helpers = heads * row["q_len"] * (2 * v * element + d * (8 + element)) / bandwidth
        if row["kv_heads"] < row["heads"]:
            helpers += (
                row["batch"]
                * (row["heads"] + row["kv_heads"])
                * row["kv_len"]
                * (d + v)
                * element
                / bandwidth
            )
    kernel = max(cycles / row["clock"], moved / bandwidth)
    joules = 2 * heads * pairs * width * row["j_flop"] + moved * row["j_byte"]
    return max(kernel, joules / (row["tdp"] - row["idle"])) + helpers


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.sampled_from([64, 128, 192]),
    st.integers(2, 9000), st.integers(0, 9000), st.booleans(), st.booleans(), st.sampled_from(LIBRARIES),
)  # fmt: skip
def test_the_kernel_equals_a_plain_count(
    batch: int, group: int, kv: int, dim: int, q: int, past: int, causal: bool, backward: bool, library: str
) -> None:
    work = Attention(
        batch=batch, heads=group * kv, kv_heads=kv, head_dim=dim, q_len=q, kv_len=q + past, causal=causal
    )
    row = dict.fromkeys(COLUMNS, 0.0) | {
        "batch": batch, "heads": group * kv, "kv_heads": kv, "head_dim": dim, "v_head_dim": dim, "q_len": q,
        "kv_len": q + past, "pairs": float(work.pairs), "causal": float(causal), "backward": float(backward),
        "library": float(LIBRARIES.index(library)), "bytes": 2.0, "sms": 132.0, "clock": 1.98e9, "rate": 3785.0,
        "warp_rate": 0.62, "exponentials_per_clock": 16.0, "bandwidth": 3e12, "tdp": 700.0, "idle": 70.0,
        "j_flop": 7.7e-13, "j_byte": 3e-11,
    }  # fmt: skip
    constants = shipped_constants().array("training_attention", CONSTANTS)
    out = np.zeros((1, 3))
    training_attention_rows(np.array([[float(row[name]) for name in COLUMNS]]), constants, out)
    assert out[0, 0] == pytest.approx(
        plainly(row, dict(zip(CONSTANTS, constants.tolist(), strict=True))), rel=1e-9
    )


def test_held_tables_are_within_their_errors() -> None:
    data = dict(shipped_constants().data)
    chosen = [row for row in table() if row["split"] == "held"]
    lines = {way: lines_of(chosen, data, way) for way in ("forward", "backward")}
    ratio = predicted(chosen, lines, data["training_attention"]) / np.array([measured(row) for row in chosen])
    assert np.median(np.abs(ratio - 1)) < 0.04
    assert np.abs(ratio - 1).max() < 0.16


@pytest.mark.parametrize("board", ["a100-80gb", "h100-sxm", "b200", "rtx-4090"])
def test_backward_is_its_own_kernel(board: str) -> None:
    forward, backward = seconds(board), seconds(board, "backward")
    assert 2.0 * forward < backward < 5.0 * forward
    # Half of the pairs take more than half of the time: the diagonal is computed in whole blocks.
    assert 0.5 * backward < seconds(board, "backward", causal=True) < backward
    assert seconds(board, "backward", kv_heads=4) >= backward * 0.9


def test_a_library_runs_where_it_can() -> None:
    assert seconds("a100-80gb", library="fa3") == seconds("a100-80gb", library="fa2")
    assert seconds("h100-sxm", library="fa3") < seconds("h100-sxm", library="fa2")
    assert seconds("b200", library="fa3") == seconds("b200", library="fa4")
    assert seconds("a100-80gb", library="cudnn") == seconds("a100-80gb", library="fa2")


def test_a_lower_limit_takes_longer() -> None:
    assert seconds("h100-sxm-96gb", library="cudnn") > seconds("h100-sxm", library="cudnn")
