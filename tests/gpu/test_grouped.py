"""Products per expert: a plain oracle, roofs, growth."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from simulator.gpu import grouped
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GPU
from workloads.expert_load import expected_experts
from workloads.graph import Operator
from workloads.operators import GroupedProduct
from workloads.operators.products import EXPERT_LIBRARIES

LIBRARIES = [name for name in EXPERT_LIBRARIES if name]
BASE = {
    "m": 256.0, "n": 4096.0, "k": 2048.0, "touched": 32.0, "a_bytes": 2.0, "w_bytes": 2.0, "written": 2097152.0,
    "sms": 132.0, "clock": 1.755e9, "rate": 4096.0, "bandwidth": 3.0e12, "l2": 25e6, "l2_bytes_per_clock": 64.0,
    "hot": 0.0, "resident": 0.0, "scale_block": 0.0, "vector_rate": 256.0, "tdp": 700.0, "idle": 70.0,
    "j_flop": 4e-13, "j_byte": 3e-11, "widens": 0.0, "blocked": 0.0,
}  # fmt: skip


def ours(loads: list[float], library: str = "triton", **given: float) -> float:
    values = {**BASE, "m": sum(loads) / 16 * BASE["touched"], **given}
    line = [values[name] for name in grouped.COLUMNS if name != "rows"] + loads
    out = np.zeros((1, grouped.RESULTS))
    x = shipped_constants().array(f"experts/{library}", grouped.CONSTANTS)
    grouped.grouped_rows(np.array([line]), x[None], out)
    return float(out[0, 0])


def plain(loads: list[float], library: str = "triton", pad: bool = True, **given: float) -> float:
    """The same law, expert group by expert group and tile by tile."""
    v = {**BASE, "m": sum(loads) / 16 * BASE["touched"], **given}
    x = dict(
        zip(
            grouped.CONSTANTS, shipped_constants().array(f"experts/{library}", grouped.CONSTANTS), strict=True
        )
    )
    weights = v["touched"] * v["n"] * v["k"] * v["w_bytes"]
    kept = 3.0 * max(0.0, 1.5 * weights / (0.9 * v["l2"]) - 1.0) if v["hot"] else 1.0
    read = v["m"] * v["k"] * v["a_bytes"]
    dram = weights * min(1.0, kept) + read * (1 - v["resident"]) + v["written"]
    near = (weights + read + v["written"]) / (v["sms"] * v["clock"] * v["l2_bytes_per_clock"] * 0.6)
    memory = max(dram / (v["bandwidth"] * x["share"]), near)
    joules = 2 * v["m"] * v["n"] * v["k"] * v["j_flop"] + dram * v["j_byte"]
    best = math.inf
    for tall in (16, 32, 64, 128):
        tiles = sum((math.ceil(rows / tall) if pad else rows / tall) * v["touched"] / 16 for rows in loads)
        tiles = max(1.0, tiles) * math.ceil(v["n"] / 128)
        side = tall * 128 / (tall + 128)
        share = (
            x["e0"]
            * side
            / (side + x["feed"] * (v["rate"] / 1024) ** 0.8)
            * (x["widening"] if v["widens"] else 1)
        )
        one = 2 * tall * 128 * v["k"] / (v["rate"] * v["clock"] * share)
        if v["scale_block"]:
            one += tall * 128 * math.ceil(v["k"] / v["scale_block"]) * 2 / (v["vector_rate"] * v["clock"])
        taken = min(128, v["n"]) * v["w_bytes"] + min(tall, v["m"] / v["touched"]) * v["a_bytes"]
        one = max(one, taken * v["k"] / (x["take_in"] * v["clock"])) + x["tile_us"] * 1e-6
        turns = 0.7 * math.ceil(tiles / v["sms"]) + 0.3 * max(1.0, tiles / v["sms"])
        compute = turns * one + v["touched"] * x["expert_us"] * 1e-6
        p = x["overlap"]
        best = min(best, max((compute**p + memory**p) ** (1 / p), joules / (v["tdp"] - v["idle"])))
    return best + v["blocked"] * x["blocked_us"] * 1e-6


LOADS = st.lists(st.floats(1, 600), min_size=16, max_size=16).map(sorted)


@given(
    LOADS, st.sampled_from(LIBRARIES), st.integers(1, 60), st.integers(1, 60), st.floats(1, 512), st.booleans(),
    st.sampled_from([0.0, 128.0]), st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_equals_a_plain_count(
    loads: list[float], library: str, n: int, k: int, touched: float, hot: bool, block: float, widens: bool
) -> None:
    given = {
        "n": n * 100.0, "k": k * 100.0, "touched": touched, "hot": float(hot), "scale_block": block,
        "widens": float(widens), "blocked": float(not widens), "m": sum(loads) / 16 * touched,
    }  # fmt: skip
    assert ours(loads, library, **given) == pytest.approx(plain(loads, library, **given), rel=1e-9)


def test_the_oracle_would_notice_tiles_without_padding() -> None:
    loads = [1.0] * 16
    given = {"touched": 256.0, "n": 16384.0, "bandwidth": 1e15, "l2_bytes_per_clock": 1e6}
    assert ours(loads, **given) > 1.2 * plain(loads, pad=False, **given)


@given(LOADS, st.sampled_from(LIBRARIES), st.floats(1, 3))
@settings(max_examples=80, deadline=None)
def test_more_rows_and_more_experts_are_never_quicker(loads: list[float], library: str, more: float) -> None:
    base = ours(loads, library)
    assert ours([rows * more for rows in loads], library) >= base * (1 - 1e-12)
    m = sum(loads) / 16 * BASE["touched"] * more
    assert ours(loads, library, touched=BASE["touched"] * more, m=m) >= base * (1 - 1e-12)


@given(LOADS, st.sampled_from(LIBRARIES))
@settings(max_examples=60, deadline=None)
def test_narrower_weights_are_never_slower(loads: list[float], library: str) -> None:
    assert ours(loads, library, w_bytes=1.0) <= ours(loads, library)


@given(LOADS, st.sampled_from(LIBRARIES))
@settings(max_examples=60, deadline=None)
def test_not_below_the_memory_nor_the_arithmetic(loads: list[float], library: str) -> None:
    took = ours(loads, library)
    m = sum(loads) / 16 * BASE["touched"]
    assert took >= BASE["touched"] * BASE["n"] * BASE["k"] * 2 / BASE["bandwidth"]
    assert took >= 2 * m * BASE["n"] * BASE["k"] / (BASE["rate"] * BASE["clock"] * BASE["sms"])


@pytest.mark.parametrize("name", ["a100-80gb", "h100-sxm", "h200", "b200", "b300", "l40s", "rtx-pro-6000"])
@pytest.mark.parametrize("load", ["independent", "balanced", "power_law"])
def test_more_tokens_never_quicker_on_shipped_gpus(name: str, load: str) -> None:
    system = load_system(name)
    node = next(iter(system.nodes.values()))
    memory = system.memories[node.memory or node.name]
    operators = []
    for tokens in [2**i for i in range(15)]:
        touched = expected_experts(128, 8, tokens)
        work = GroupedProduct(
            m=8 * tokens,
            n=4096,
            k=2048,
            groups=128,
            active=8,
            expected_groups=touched,
            load=load,
            exponent=1.2,
        )
        size = 8 * tokens * 2
        read, written = size * 2048 + int(touched * 4096 * 2048 * 2), size * 4096
        operators.append(Operator("x", work, (), (), dtype="bf16", beside_read=read, beside_written=written))
    seconds = [c.seconds + c.launch_seconds for c in GPU.costs(operators, node, memory)]
    assert all(later >= sooner * 0.98 for sooner, later in pairwise(seconds))
    hot = [c.seconds for c in GPU.costs([replace(op, residency="hot") for op in operators], node, memory)]
    cold = [c.seconds for c in GPU.costs(operators, node, memory)]
    assert all(one <= other * (1 + 1e-9) for one, other in zip(hot, cold, strict=True))
