"""Attention in a drive: stages bound it, engines and filters do what their rates say, wear is counted."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.csd import AttentionEngine
from hw_configs.device import ComputationalStorage
from hw_configs.library import load_device, load_system
from hw_configs.problems import InputError
from simulator.cost.model import COST_MODELS
from simulator.csd.attention import AttentionWork, attention_step
from simulator.csd.endurance import kv_bytes_per_token, tokens_until_wear_out
from simulator.csd.kv_layout import SparseChoice
from simulator.flash.patterns import DrivePattern, drive_rate
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

WORK = AttentionWork(64, 40, 40, 128, 1536)


@cache
def shipped() -> ComputationalStorage:
    device = load_device("instinfer-csd")
    assert isinstance(device, ComputationalStorage)
    return device


def drive(**engine: object) -> ComputationalStorage:
    device = shipped()
    assert device.engine is not None
    return device.model_copy(update={"engine": device.engine.model_copy(update=engine)})


works = st.builds(
    AttentionWork,
    batch=st.integers(1, 300),
    heads=st.sampled_from([8, 32, 40]),
    kv_heads=st.sampled_from([1, 8]),
    head_dim=st.sampled_from([64, 128]),
    context=st.integers(1, 8192),
    choice=st.sampled_from([None, SparseChoice(0.125, 0.125, 0.5), SparseChoice(0.25, 0.25)]),
)


@settings(max_examples=60, deadline=None)
@given(works)
def test_a_step_lies_between_its_slowest_stage_and_their_sum(work: AttentionWork) -> None:
    step = attention_step(drive(overlap=True), work)
    stages = step.stages
    # Filters work while pages flow past them.
    serial = sum(getattr(stages, f.name) for f in fields(stages)) - min(stages.load_s, stages.filter_s)
    slowest = max(stages.load_s + stages.program_s, stages.filter_s, stages.compute_s)
    assert slowest <= step.seconds <= serial * (1 + 1e-12)
    assert attention_step(drive(overlap=False), work).seconds == pytest.approx(serial)
    device = drive()
    assert step.read_bandwidth <= device.internal_bandwidth
    assert step.read_bytes >= step.pages.useful_bytes * work.items * (0.99 if work.choice is None else 0.2)


def test_stages_by_hand() -> None:
    """Rates over counts, worked out apart from the model."""
    device = drive()
    stages = attention_step(device, WORK).stages
    pages = 64 * 40 * 2 * (1536 // 16)
    stream = drive_rate(
        device, DrivePattern("read", "sequential", 64 * 4096, 64, "internal"), fidelity="event"
    )
    assert stages.load_s == pytest.approx(pages * max(4096 / stream.bandwidth_bytes_per_s, 535e-9))
    bare = attention_step(drive(page_time=0.0), WORK).stages
    assert bare.load_s == pytest.approx(pages * 4096 / stream.bandwidth_bytes_per_s)
    slow = attention_step(drive(page_time=2e-6), WORK).stages
    assert slow.load_s == pytest.approx(pages * 2e-6)
    assert stages.product_s == pytest.approx(64 * 40 * 4 * 1536 * 128 / (51 * 12.7e9))
    assert stages.softmax_s == pytest.approx(64 * 40 * 5 * 1536 / (51 * 14.2e6))
    assert stages.filter_s == 0
    sparse = attention_step(device, replace(WORK, choice=SparseChoice(0.125, 0.125, 0.5)))
    by_channel = (1 - (7 / 8) ** 2) * 64 * 2
    assert sparse.pages.pages == pytest.approx(by_channel + 2 * 0.5 * 96)
    assert sparse.stages.filter_s == pytest.approx(sparse.pages.pages * 64 * 40 * 4096 / (8 * 1.85e9))
    assert sparse.stages.product_s == pytest.approx(stages.product_s * (0.0625 + 0.125))


def test_fewer_engines_leave_the_flash_and_become_the_bound() -> None:
    many, one = attention_step(drive(), WORK), attention_step(drive(engines=1), WORK)
    assert (many.bound_by, one.bound_by) == ("flash", "softmax")
    assert one.stages.compute_s == pytest.approx(51 * many.stages.compute_s)
    assert attention_step(drive(filter_bandwidth=None), WORK).seconds == many.seconds


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 200))
def test_more_context_and_more_sequences_never_take_less(context: int, batch: int) -> None:
    less = attention_step(drive(), replace(WORK, context=context, batch=batch)).seconds
    assert attention_step(drive(), replace(WORK, context=context + 16, batch=batch)).seconds >= less
    assert attention_step(drive(), replace(WORK, context=context, batch=batch + 1)).seconds >= less


def test_the_simulator_prices_decode_attention_by_the_engine() -> None:
    system = load_system("csd-node")
    options = WorkloadOptions(phase="decode", batch=64, prompt=1536)
    graph = load_workload("opt-13b", options).phases[0].graph
    operator = graph.operator_by_name["layers.0.attention.attend"]
    node, model = system.nodes["csd0"], COST_MODELS.get("by-device")
    cost = model.cost(operator, node, system.memories["csd0"])
    step = attention_step(drive(), WORK)
    assert cost.seconds == pytest.approx(step.seconds)
    assert cost.read_bytes == pytest.approx(64 * 40 * 2 * 96 * 4096)
    assert cost.bound_by == "flash"
    other = graph.operator_by_name["layers.0.mlp.act"]
    assert model.cost(other, node, system.memories["csd0"]).bound_by != "flash"


def test_tokens_until_wear_out() -> None:
    """Four drives of 2 TiB, 3000 erases, 819 200 bytes per token of OPT-13B: 3.22e10 tokens."""
    device = load_device("instinfer-csd")
    assert isinstance(device, ComputationalStorage)
    large = device.model_copy(update={"store": device.store.model_copy(update={"capacity": 2.0 * 2**40})})
    per_token = kv_bytes_per_token(40, 5120)
    assert per_token == 819_200
    tokens = tokens_until_wear_out([large] * 4, per_token)
    assert tokens == pytest.approx(4 * 2 * 2**40 * 3000 / 819_200)
    assert tokens_until_wear_out([large] * 4, per_token, 2.0) == pytest.approx(tokens / 2)
    assert kv_bytes_per_token(40, 5120, key_copies=2) == 1.5 * per_token


def test_what_cannot_be() -> None:
    device = load_device("smartssd")
    assert isinstance(device, ComputationalStorage)
    with pytest.raises(InputError, match="no attention engine"):
        attention_step(device, WORK)
    with pytest.raises(InputError, match="does not hold"):
        attention_step(drive(), replace(WORK, head_dim=4096))
    with pytest.raises(ValueError, match="engines"):
        AttentionEngine(engines=0, product_rate="1 GFLOP/s", softmax_rate="1 MFLOP/s")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="bytes per token"):
        tokens_until_wear_out([device], 0)
