"""The roofline against a plain oracle, its roofs, and its own monotonicity."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simulator.cost.roofline
from hw_configs.device import Cpu, Envelope, Gpu
from hw_configs.gpu_architecture import GpuArchitecture, architecture_document, parse_architecture
from hw_configs.problems import InputError
from hw_configs.system import MemorySpace, Node, System
from simulator.cost.model import COST_MODELS, FREE_KINDS, roof_seconds
from simulator.cost.roofline import COMMUNICATION_KINDS, PEAK, ROOFLINE, Roofline, operator_class, tiling_loss
from tests.typed import operator_of
from workloads.graph import Operator
from workloads.operators import KINDS, Attention, causal_pairs, fields_of

CONSTANTS = json.loads(
    Path(simulator.cost.roofline.__file__).with_name("roofline_constants.json").read_text(encoding="utf-8")
)


DATA_SHEET: dict[str, Any] = {
    "kind": "gpu",
    "name": "test",
    "architecture": "ampere-sm80",
    "multiprocessors": 108,
    "clock": 1.41e9,
    "compute": {"matrix": {"fp16": 312e12, "bf16": 312e12, "int8": 624e12}, "vector": {"fp32": 19.5e12}},
    "l2": {"size": 4e7},
    "l1_per_multiprocessor": {"size": 2e5},
    "memory": {"technology": "HBM2e", "capacity": 8e10, "bandwidth": 2e12, "energy_per_byte": 3e-11},
    "power": {"idle": 50.0, "tdp": 400.0},
}
BOARD = Gpu.model_validate(DATA_SHEET)


def gpu(rate: float = 1.0, bandwidth: float = 1.0, tdp: float | None = 400.0, **changes: Any) -> Gpu:
    """The board with its rates or bandwidth scaled, past what its clock allows: a bound must hold anyway."""
    assert BOARD.memory is not None
    compute = BOARD.compute.model_copy(
        update={
            "matrix": {name: value * rate for name, value in BOARD.compute.matrix.items()},
            "vector": {name: value * rate for name, value in BOARD.compute.vector.items()},
        }
    )
    memory = BOARD.memory.model_copy(update={"bandwidth": BOARD.memory.bandwidth * bandwidth})
    power = None if tdp is None else Envelope(idle=tdp / 10, tdp=tdp)
    return BOARD.model_copy(update={"compute": compute, "memory": memory, "power": power, **changes})


def place(device: Gpu | Cpu) -> tuple[Node, MemorySpace]:
    node = Node("d", "d", device, "d")
    return node, System("s", {"d": node}, {}).memories["d"]


def matmul(m: int, n: int, k: int, dtype: str = "fp16", batch: int = 1, **attributes: Any) -> Operator:
    wide = 4 if dtype == "fp32" else 2
    shape = {"m": m, "n": n, "k": k, "batch": batch, **attributes}
    read = batch * wide * (m * k + k * n)
    return operator_of("matmul", 2.0 * batch * m * n * k, read, batch * wide * m * n, dtype, **shape)


def attention(batch: int, heads: int, kv_heads: int, q_len: int, kv_len: int, **more: Any) -> Operator:
    dim = 128
    pairs = causal_pairs(kv_len) - causal_pairs(kv_len - q_len)
    read = 2 * batch * dim * (heads * q_len + 2 * kv_heads * kv_len)
    shape = {
        "batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": dim, "v_head_dim": dim,
        "q_len": q_len, "kv_len": kv_len, "causal": True, **more,
    }  # fmt: skip
    flops = 4.0 * batch * heads * pairs * dim
    return operator_of("attention", flops, read, 2 * batch * heads * q_len * dim, "fp16", **shape)


def oracle_seconds(op: Operator, name: str, peak: float, bandwidth: float) -> float:
    """The documented form, term by term, for an A100-like board that nothing throttles."""
    own = CONSTANTS["gpu"]["classes"][name]
    arithmetic = op.flops / (peak * own["compute"])
    share = CONSTANTS["gpu"]["memory_by_generation"]["Ampere"]
    traffic = (op.read_bytes + op.write_bytes) / (bandwidth * min(1.0, own["memory"] * share))
    p = own["overlap"]
    return float((arithmetic**p + traffic**p) ** (1 / p))


@pytest.mark.parametrize(
    ("op", "name", "peak"),
    [
        (matmul(4096, 4096, 4096), "gemm16", 312e12),
        (matmul(1, 8192, 8192), "gemm16", 312e12),
        (matmul(300, 512, 4096), "gemm16", 312e12),
        (matmul(512, 512, 512, "int8"), "gemm8", 624e12),
        (matmul(1024, 1024, 1024, "fp32"), "gemm32", 19.5e12),
        (matmul(128, 128, 64, "fp32", batch=96), "bmm", 19.5e12),
        (operator_of("norm", 5000000.0, 2 << 20, 2 << 20, "fp32"), "norm", 19.5e12),
        (operator_of("activation", 5000000.0, 4 << 20, 2 << 20, "fp32"), "elementwise", 19.5e12),
        (
            operator_of("rotary", 5000000.0, 4 << 20, 2 << 20, "fp32", vectorised=False),
            "scalar_rotary",
            19.5e12,
        ),
        (operator_of("topk", 5000000.0, 4 << 20, 2 << 20, "fp32"), "other", 19.5e12),
    ],
)
def test_the_documented_form(op: Operator, name: str, peak: float) -> None:
    node, memory = place(gpu())
    assert operator_class(op) == name
    cost = ROOFLINE.cost(op, node, memory)
    assert cost.seconds == pytest.approx(oracle_seconds(op, name, peak, 2e12), rel=1e-9)
    assert cost.launch_seconds == pytest.approx(CONSTANTS["gpu"]["classes"][name]["launch_us"] * 1e-6)
    assert cost.memory_energy_j == pytest.approx((op.read_bytes + op.write_bytes) * 3e-11)


def tiles_one_by_one(op: Operator, units: int) -> float:
    """Attention's tiles placed by hand: each computes all its rows against the keys its last row sees."""
    assert isinstance(op.work, Attention)
    q_len, kv_len = op.work.q_len, op.work.kv_len
    work = []
    for first in range(0, q_len, 128):
        last = min(first + 128, q_len)
        keys = kv_len - q_len + last
        blocks = -(-keys // simulator.cost.roofline.KEY_BLOCK)
        work.append(128 * blocks * simulator.cost.roofline.KEY_BLOCK)
    sequences = op.work.batch * op.work.heads
    total = sequences * sum(work)
    busiest = max(total / units, max(work))
    return busiest * units / (op.flops / 512)


@given(
    st.integers(1, 64),
    st.sampled_from([1, 8, 32]),
    st.integers(1, 4096),
    st.integers(0, 8192),
    st.integers(1, 200),
)
def test_tiling_loss_is_what_tiles_cost_one_by_one(
    batch: int, heads: int, q_len: int, past: int, units: int
) -> None:
    op = attention(batch, heads, heads, q_len, q_len + past)
    loss = tiling_loss(op, units)
    assert loss >= 1
    # The closed form takes the mean tile and rounds the longest alone; a block of keys is the difference.
    block = simulator.cost.roofline.KEY_BLOCK
    tolerance = 2 * block / (past + min(q_len, 128) + block)
    assert loss == pytest.approx(max(1.0, tiles_one_by_one(op, units)), rel=tolerance)


ANY_DTYPE = st.sampled_from(["fp16", "bf16", "fp32", "int8", "fp8", "int4"])
FIELDS = {"kv_len": 4096, "heads": 8, "kv_heads": 8, "head_dim": 64, "causal": True}


def any_operator(
    kind: str, dtype: str, flops: float, read: int, written: int, batch: int, q_len: int
) -> Operator:
    known = fields_of(KINDS[kind])
    fields = {k: v for k, v in {**FIELDS, "batch": batch, "q_len": q_len}.items() if k in known}
    return operator_of(kind, flops, read, written, dtype, **fields)


WORK = st.builds(
    any_operator,
    st.sampled_from(sorted(set(KINDS) - COMMUNICATION_KINDS - FREE_KINDS)),
    ANY_DTYPE,
    st.floats(0, 1e16),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.integers(1, 4096),
    st.sampled_from([1, 7, 128, 4096]),
)  # fmt: skip


ARCHITECTURES = [
    parse_architecture(architecture_document(name, None))
    for name in ("ampere-sm80", "pascal-sm60", "ada-sm89", "apple-g13", "turing-sm75")
]


@given(WORK, st.sampled_from(ARCHITECTURES))
def test_never_faster_than_any_roof(op: Operator, architecture: GpuArchitecture) -> None:
    node, memory = place(gpu(architecture=architecture))
    compute = node.compute
    assert compute is not None
    roofs = roof_seconds(op, compute, memory)
    lossless = PEAK.cost(op, node, memory)
    assert lossless.seconds == pytest.approx(max(roofs), rel=1e-12)
    assert ROOFLINE.cost(op, node, memory).seconds >= max(roofs) * (1 - 1e-12)


@given(WORK, st.floats(1.0, 8.0), st.floats(1.0, 8.0), st.floats(1.0, 4.0))
def test_more_of_the_machine_is_never_slower(
    op: Operator, bandwidth: float, rate: float, work: float
) -> None:
    def seconds(operator: Operator, by: float = 1.0, to: float = 1.0) -> float:
        board = gpu(rate=to, bandwidth=by, tdp=400.0 * to)
        return Roofline("r", CONSTANTS).cost(operator, *place(board)).seconds

    slack = 1 + 1e-9
    base = seconds(op)
    assert seconds(op, by=bandwidth) <= base * slack
    assert seconds(op, to=rate) <= base * slack
    more = replace(
        op,
        work=replace(op.work, extra_flops=op.work.extra_flops + op.flops * (work - 1)),
        beside_read=int(op.read_bytes * work),
    )
    if op.kind != "attention":
        assert seconds(more) * slack >= base


@settings(max_examples=30)
@given(st.integers(1, 64), st.integers(1, 4096), st.integers(0, 4096))
def test_longer_attention_takes_longer(batch: int, q_len: int, past: int) -> None:
    node, memory = place(gpu())
    shorter = ROOFLINE.cost(attention(batch, 8, 8, q_len, q_len + past), node, memory)
    longer = ROOFLINE.cost(attention(batch, 8, 8, q_len, q_len + past + 512), node, memory)
    assert longer.seconds >= shorter.seconds


def softmax(rows: int, columns: int) -> Operator:
    size = 4 * rows * columns
    return operator_of("softmax", 5.0 * rows * columns, size, size, "fp32", m=rows, n=columns)


def test_long_rows_are_read_again_once_they_overflow_the_cache() -> None:
    node, memory = place(gpu())
    own = CONSTANTS["gpu"]["classes"]["softmax"]
    room = own["l2_share"] * 4e7
    for rows, columns in ((1 << 20, 1024), (1 << 18, 8192), (1 << 14, 65536), (64, 2048), (8, 65536)):
        op = softmax(rows, columns)
        again = 0.0
        if columns > 1024 and op.read_bytes > room:
            again = own["reread"] * min(1.0, min(rows, 4 * 108) * 4 * columns / room)
        cost = ROOFLINE.cost(op, node, memory)
        assert cost.read_bytes == pytest.approx(op.read_bytes * (1 + again), abs=1)
        assert cost.memory_energy_j == pytest.approx((cost.read_bytes + op.write_bytes) * 3e-11)
    assert ROOFLINE.cost(softmax(1 << 14, 65536), node, memory).read_bytes > 2 * 4 * (1 << 30)


def test_narrow_weights_move_fewer_bytes() -> None:
    from workloads.operator_table import OPS
    from workloads.operator_table.cells import Cells

    node, memory = place(gpu())
    seconds = {}
    for weight in ("fp16", "int8", "int4"):
        cells = Cells({"dtype": "fp16", "weight_dtype": weight}, {"m": 1, "n": 8192, "k": 8192})
        built = OPS["gemm"](cells)
        op = Operator("x", built.work, (), (), beside_read=built.read_bytes, beside_written=built.write_bytes)
        seconds[weight] = ROOFLINE.cost(op, node, memory).seconds
    assert seconds["int8"] == pytest.approx(seconds["fp16"] / 2, rel=0.02)
    assert seconds["int4"] == pytest.approx(seconds["fp16"] / 4, rel=0.02)


def test_power_holds_fp32_back() -> None:
    op = matmul(4096, 4096, 4096, "fp32")
    free = ROOFLINE.cost(op, *place(gpu(tdp=None))).seconds
    starved = ROOFLINE.cost(op, *place(gpu(tdp=40.0))).seconds
    assert starved > 2 * free


def test_a_view_is_free_and_communication_is_refused() -> None:
    node, memory = place(gpu())
    for kind in ("view", "host"):
        assert ROOFLINE.cost(operator_of(kind, 1000000000000.0, 1 << 30), node, memory).seconds == 0
    with pytest.raises(InputError, match="links set its time"):
        ROOFLINE.cost(operator_of("all_reduce"), node, memory)


def test_other_devices_run_at_assumed_shares() -> None:
    cpu = Cpu.model_validate(
        {
            "kind": "cpu", "name": "c", "cores": 64, "clock": 2e9,
            "compute": {"vector": {"fp32": 4e12}, "launch": 1e-6}, "last_level_cache": {"size": 1e8},
            "memory": {"technology": "DDR5", "capacity": 1e12, "bandwidth": 3e11},
        }
    )  # fmt: skip
    cost = ROOFLINE.cost(matmul(512, 512, 512, "fp32"), *place(cpu))
    share = CONSTANTS["assumed"]["cpu"]["compute"]
    assert cost.seconds == pytest.approx(2 * 512**3 / (4e12 * share))
    assert cost.launch_seconds == 1e-6


def test_every_class_has_constants_within_physics() -> None:
    for name, own in CONSTANTS["gpu"]["classes"].items():
        assert 0 < own["compute"] <= 1, name
        assert 0 < own["memory"] <= 1, name
        assert 0.1 <= own["launch_us"] <= 20, name
        assert own["overlap"] >= 1, name
        assert own["source"], name


def test_models_by_name() -> None:
    assert COST_MODELS.get("roofline") is ROOFLINE
    assert COST_MODELS.get("roofline-peak") is PEAK


def test_many_devices_do_not_pile_up() -> None:
    model = Roofline("r", CONSTANTS)
    for index in range(600):
        model.cost(matmul(8, 8, 8), *place(gpu(clock=1e9 + index)))
    assert len(model._rates) <= simulator.cost.roofline.MAX_DEVICES_REMEMBERED
