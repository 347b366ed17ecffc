"""Element types as frameworks keep them: per parameter, in their own estimators, and in a step's ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from mapping.training.estimate import Estimator
from mapping.training.framework_report import deepspeed_estimate, framework_report, megatron_estimate
from mapping.training.pricing import Prices
from mapping.training.recompute.skeleton import skeleton_of
from mapping.training.setup import TrainingSetup
from mapping.training.state_types import (
    FRAMEWORKS,
    bytes_per_parameter,
    framework_types,
    with_fields,
)
from mapping.training.step_memory import model_states
from workloads.graph import Role
from workloads.importers import load_workload
from workloads.step_types import StepTypes
from workloads.workload import WorkloadOptions

GIB = 2**30


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(Prices(load_system("dgx-h200")))


@pytest.mark.parametrize(
    ("framework", "total"),
    [
        ("plain", 16), ("megatron", 18), ("megatron-fp8", 18), ("deepspeed", 20), ("fsdp2", 16), ("torchtitan", 16),
        ("hf-trainer", 16), ("hf-trainer-bf16", 8), ("eager", 8), ("compile", 8), ("nanogpt", 16),
    ],
)  # fmt: skip
def test_bytes_per_parameter(framework: str, total: float) -> None:
    assert bytes_per_parameter(FRAMEWORKS[framework], "bf16").total == total


def test_eight_bit_moments_and_unknown_names() -> None:
    small = with_fields(FRAMEWORKS["hf-trainer"], {"moments": "int8"})
    assert bytes_per_parameter(small, "bf16").optimizer == pytest.approx(2 * (1 + 4 / 256))
    with pytest.raises(InputError, match="did you mean 'megatron'"):
        framework_types("megatorn")
    with pytest.raises(InputError, match="logits"):
        with_fields(FRAMEWORKS["plain"], {"logits": "fp33"})
    with pytest.raises(InputError, match="did you mean 'eager'"):
        with_fields(FRAMEWORKS["plain"], {"loss": "eagr"})


@pytest.mark.parametrize("name", list(FRAMEWORKS))
def test_presets_print_themselves(name: str) -> None:
    lines = dict(FRAMEWORKS[name].lines())
    assert {"weights", "gradients", "optimizer state", "all states", "loss"} <= set(lines)
    distributed = replace(FRAMEWORKS["megatron"], distributed=True)
    assert dict(distributed.lines())["all states"] == "6 + 12/d B a parameter"


# DeepSpeed's estimators, as their documentation and code state the arithmetic, written out case by case.


@given(st.integers(1, 10**12), st.integers(1, 16), st.integers(1, 64), st.booleans())
def test_deepspeed_zero_2(parameters: int, gpus: int, nodes: int, offload: bool) -> None:
    host, device = deepspeed_estimate(parameters, gpus, nodes, 2, offload_optimizer=offload)
    if offload:
        assert device == 2 * parameters
        assert host == int(parameters * max(4 * gpus * nodes, 16) * 1.5)
    else:
        assert device == 4 * parameters + int(16 * parameters / (gpus * nodes))
        assert host == int(parameters * 4 * gpus * 1.5)


@given(
    st.integers(1, 10**11), st.integers(1, 10**9), st.integers(1, 16), st.integers(1, 64),
    st.sampled_from([(False, False), (True, False), (True, True)]), st.booleans(),
)  # fmt: skip
def test_deepspeed_zero_3(
    parameters: int, layer: int, gpus: int, nodes: int, offload: tuple[bool, bool], whole: bool
) -> None:
    host, device = deepspeed_estimate(
        parameters, gpus, nodes, 3, largest_layer=layer, offload_optimizer=offload[0], offload_parameters=offload[1],
        loads_whole=whole,
    )  # fmt: skip
    if offload == (True, True):
        assert device == 4 * layer
        expected = max(4 * gpus, 18 / nodes) if whole else 18 / nodes
        assert host == pytest.approx(parameters * expected * 1.5, abs=1)
    elif offload == (True, False):
        assert device == 4 * layer + int(2 * parameters / (gpus * nodes))
        expected = max(4 * gpus, 16 / nodes) if whole else 16 / nodes
        assert host == pytest.approx(parameters * expected * 1.5, abs=1)
    else:
        assert device == 4 * layer + int(18 * parameters / (gpus * nodes))
        assert host == int((parameters if whole else layer) * 4 * gpus * 1.5)


def test_deepspeed_published_examples() -> None:
    """t5-3b (2,851 M parameters) on one node of 8, from the documentation on memory requirements: GB as 2^30 bytes."""
    parameters, layer = 2851 * 10**6, 32 * 10**6
    host, device = deepspeed_estimate(parameters, 8, 1, 2, offload_optimizer=True)
    assert host / GIB == pytest.approx(127.44, abs=0.02)
    assert device / GIB == pytest.approx(5.31, abs=0.01)
    host, device = deepspeed_estimate(parameters, 8, 1, 2)
    assert host / GIB == pytest.approx(127.44, abs=0.02)
    assert device / GIB == pytest.approx(15.93, abs=0.01)
    _, device = deepspeed_estimate(
        parameters, 8, 1, 3, largest_layer=layer, offload_optimizer=True, offload_parameters=True
    )
    assert round(device / GIB, 2) == 0.12
    with pytest.raises(InputError, match="stages 2 and 3"):
        deepspeed_estimate(1, 1, 1, 1)


GPT2 = 124_439_808
"""Parameters of GPT-2, as its model card has them."""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"framework": "deepspeed", "zero_stage": 2, "data": 8}, (6 * GPT2, 48 * GPT2)),
        ({"framework": "deepspeed", "zero_stage": 2, "data": 2}, (12 * GPT2, 12 * GPT2)),
        ({"framework": "deepspeed", "zero_stage": 3, "data": 8}, (18 * GPT2 // 8 + 4 * 50257 * 768, 48 * 50257 * 768)),
        ({"framework": "deepspeed", "zero_stage": 2, "data": 8, "states": "host"}, (2 * GPT2, 48 * GPT2)),
        ({"framework": "megatron", "data": 8}, (18 * GPT2, None)),
        ({"framework": "te-mxfp8", "data": 8, "zero_stage": 1}, (7.5 * GPT2, None)),
        ({"framework": "torchtitan", "data": 8}, None), ({"framework": "deepspeed", "data": 8, "zero_stage": 1}, None),
        ({"framework": "deepspeed", "data": 4, "pipeline": 2, "zero_stage": 2}, None),
        ({"framework": "deepspeed", "data": 8, "zero_stage": 2, "trainable": "lora:targets=c_attn"}, None),
    ],
)  # fmt: skip
def test_a_setup_is_told_what_its_framework_would_say(
    estimator: Estimator, fields: dict[str, object], expected: tuple[float, float | None] | None
) -> None:
    step = estimator.rank_step(TrainingSetup("gpt2", 128, 8, **fields))  # type: ignore[arg-type]
    found = framework_report(step, estimator.prices)
    if expected is None:
        assert found == {}
        return
    device, host = expected
    assert found["device_bytes"] == pytest.approx(device, rel=1e-6)
    if host is not None:
        assert found["host_bytes_per_machine"] == pytest.approx(host, rel=1e-6)


@pytest.mark.parametrize("data", [1, 2, 8, 64])
def test_megatron_states(data: int) -> None:
    assert megatron_estimate(10**9, data, distributed=False) == 18 * 10**9
    assert megatron_estimate(10**9, data, distributed=True) == pytest.approx((6 + 12 / data) * 10**9)


def test_megatron_activations_of_a_layer(estimator: Estimator) -> None:
    """34 sbh a layer with the core recomputed (arXiv:2205.05198, table 2), of which 2 are masks of dropout."""
    step = estimator.rank_step(TrainingSetup("gpt3-xl", 1024, framework="megatron", recompute="selective"))
    names = skeleton_of(step.graph).layers[5]
    assert sum(step.graph.tensors[name].size_bytes for name in names) == 32 * 1024 * 2048


@pytest.mark.parametrize(
    ("framework", "zero", "per_parameter"),
    [
        ("megatron", 0, lambda d: 18), ("megatron", 1, lambda d: 6 + 12 / d), ("deepspeed", 1, lambda d: 4 + 16 / d),
        ("deepspeed", 2, lambda d: 2 + 18 / d), ("deepspeed", 3, lambda d: 20 / d), ("torchtitan", 3, lambda d: 16 / d),
    ],
)  # fmt: skip
def test_a_step_holds_what_the_preset_says(estimator: Estimator, framework, zero, per_parameter) -> None:  # type: ignore[no-untyped-def]
    setup = TrainingSetup("gpt2", 128, batch=4, data=4, zero_stage=zero, framework=framework)
    step = estimator.rank_step(setup)
    parameters = sum(model_states(step, 0).weights for _ in range(1)) / 2
    memory = estimator.of_step(step, exact=False).memory
    held = memory.weights + memory.gradients + memory.optimizer_state
    assert held == pytest.approx(per_parameter(4) * parameters, rel=1e-5)


def test_distributed_optimizer_is_stage_one(estimator: Estimator) -> None:
    base = TrainingSetup("gpt2", 128, batch=4, data=4, framework="megatron")
    spread = replace(base, types=replace(FRAMEWORKS["megatron"], distributed=True))
    one = estimator.estimate(replace(base, zero_stage=1), exact=False)
    two = estimator.estimate(spread, exact=False)
    assert one.memory.optimizer_state == two.memory.optimizer_state
    assert one.time == two.time


# Loss forms, in bytes per logit.


def _peak_of_loss(types: StepTypes) -> float:
    """Most bytes of tensors of the logits' size that live at once, by a plain count of first and last use."""
    options = WorkloadOptions(phase="train", prompt=256, dtype="bf16", layers=2, types=types)
    graph = load_workload("llama-3-8b", options).phases[0].graph
    logits = 256 * 128256
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, op in enumerate(graph.operators):
        for name in (*op.inputs, *op.outputs, *op.updates):
            tensor = graph.tensors[name]
            elements = 1
            for side in tensor.shape:
                elements *= side
            if (
                tensor.role is Role.WEIGHT
                or elements % 128256
                or tensor.shape[-1] != 128256
                or elements > logits
            ):
                continue
            first.setdefault(name, index)
            last[name] = index
    peak = 0
    for index in range(len(graph.operators)):
        live = sum(graph.tensors[n].size_bytes for n in first if first[n] <= index <= last[n])
        peak = max(peak, live)
    return peak / logits


def test_loss_forms_in_bytes_per_logit() -> None:
    assert _peak_of_loss(StepTypes()) == 4  # logits and their gradient
    assert _peak_of_loss(StepTypes(loss="eager", logits="fp32")) == 12
    assert _peak_of_loss(StepTypes(loss="in-place", logits="fp32")) == 6
    assert _peak_of_loss(StepTypes(loss="chunked", loss_chunks=8)) == pytest.approx(4 / 8)
    assert _peak_of_loss(StepTypes(loss="cut")) == 0


def test_loss_forms_do_the_same_products() -> None:
    def flops(types: StepTypes) -> float:
        options = WorkloadOptions(phase="train", prompt=64, dtype="bf16", layers=2, types=types)
        graph = load_workload("llama-3-8b", options).phases[0].graph
        return sum(op.flops for op in graph.operators if op.kind == "matmul")

    plain, head = flops(StepTypes()), 2 * 64 * 128256 * 4096
    assert flops(StepTypes(loss="chunked")) == pytest.approx(plain)
    # The scores are worked out once more.
    assert flops(StepTypes(loss="cut")) == pytest.approx(plain + head)
    assert flops(StepTypes(loss="eager", logits="fp32")) == plain


def test_autocast_keeps_a_cast_copy() -> None:
    options = WorkloadOptions(
        phase="train", prompt=32, dtype="bf16", layers=2, types=FRAMEWORKS["nanogpt"].step
    )
    graph = load_workload("llama-3-8b", options).phases[0].graph
    name = "layers.0.attention.out.weight"
    assert graph.tensors[name].dtype == "fp32"
    assert graph.tensors[f"{name}.cast"].dtype == "bf16"
    passes = {
        graph.operator_by_name[reader].place.training_pass for reader in graph.consumers[f"{name}.cast"]
    }
    assert passes == {"forward", "backward"}
    assert f"{name}.master" not in graph.tensors


# Published peaks of torchtitan on eight H100 of 96 GB (docs/performance.md): Llama-3.1-8B, FP32 logits.


def test_torchtitan_8k_with_selective_checkpointing(estimator: Estimator) -> None:
    setup = TrainingSetup(
        "llama-3.1-8b", 8192, batch=16, micro_batch=2, data=8, zero_stage=3, recompute="every-other",
        framework="torchtitan", allocator="caching",
    )  # fmt: skip
    found = estimator.estimate(setup).memory.device_bytes / GIB
    assert found == pytest.approx(77.0, rel=0.1)
    assert found == pytest.approx(82.4, rel=0.1)


@pytest.mark.parametrize("context", [1, 4])
def test_torchtitan_32k_a_rank_with_full_checkpointing(estimator: Estimator, context: int) -> None:
    setup = TrainingSetup(
        "llama-3.1-8b", 32768 * context, batch=8 // context, data=8 // context, context=context, zero_stage=3,
        recompute="full", framework="torchtitan", allocator="caching",
    )  # fmt: skip
    assert estimator.estimate(setup).memory.device_bytes / GIB == pytest.approx(83.9, rel=0.1)
