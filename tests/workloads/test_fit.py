"""Questions to the fit of fields and tensors: is every lie found, by its field, and nothing that we build refused?"""

from dataclasses import replace

import pytest

from hw_configs.problems import InputError
from workloads import models
from workloads.graph import Role, Tensor
from workloads.operators import (
    Activation,
    AllGather,
    Attention,
    Convolution,
    Embedding,
    GroupedProduct,
    LinearAttention,
    Norm,
    Optimizer,
    Pool,
    Product,
    Recurrence,
    TopK,
)
from workloads.operators.fit import misfits
from workloads.workload import WorkloadOptions


def tensors(*shapes, role=Role.ACTIVATION, dtype="fp16"):
    return [Tensor(f"{role}{index}", shape, dtype, role) for index, shape in enumerate(shapes)]


def weights(*shapes, dtype="fp16"):
    return tensors(*shapes, role=Role.WEIGHT, dtype=dtype)


def caches(*shapes):
    return tensors(*shapes, role=Role.KV_CACHE)


CONV = Convolution(
    in_channels=3, out_channels=16, height=32, width=32, kernel_h=3, kernel_w=3, stride_h=2, stride_w=2, padding_h=1,
    padding_w=1, out_height=16, out_width=16,
)  # fmt: skip
DECODE = Attention(
    batch=2,
    heads=8,
    kv_heads=2,
    head_dim=64,
    v_head_dim=64,
    q_len=1,
    kv_len=100,
    causal=True,
    kv_dtype="fp16",
)
PREFILL = Attention(
    batch=1, heads=8, kv_heads=8, head_dim=64, v_head_dim=64, q_len=100, kv_len=100, causal=True
)
EXPERTS = GroupedProduct(m=32, n=64, k=128, groups=8, active=2, expected_groups=7.5)
KINDS = {
    "product": (Product(m=8, n=512, k=256), [*tensors((8, 256)), *weights((512, 256))], tensors((8, 512))),
    "conv": (CONV, [*tensors((1, 3, 32, 32)), *weights((16, 3, 3, 3))], tensors((1, 16, 16, 16))),
    "prefill": (PREFILL, tensors((100, 1536)), tensors((100, 512))),
    "decode": (
        DECODE, [*tensors((2, 768)), *caches((2, 2, 100, 64), (2, 2, 100, 64))], tensors((2, 512)),
    ),
    "experts": (EXPERTS, [*tensors((16, 128)), *weights((8, 64, 128))], tensors((32, 64))),
    "norm": (Norm(m=8, n=64, adds=1), [*tensors((8, 64), (8, 64)), *weights((64,))], tensors((8, 64), (8, 64))),
    "gated": (Activation(m=8, n=64, gated=True), tensors((8, 128)), tensors((8, 64))),
    "pool": (Pool(m=64, n=8), tensors((1, 8, 16, 16)), tensors((1, 8, 8, 8))),
    "lookup": (Embedding(m=8, n=64), [*tensors((8,)), *weights((1000, 64))], tensors((8, 64))),
    "topk": (TopK(m=8, n=64, k=4), tensors((8, 64)), tensors((8, 8))),
    "optimizer": (Optimizer(parameters=512, states=2), weights((8, 64)), []),
    "recurrence": (Recurrence(batch=2, sequence=5, hidden=16, flops_per_token=9.0), tensors((5, 2, 16)),
                   tensors((5, 1, 2, 16))),
    "linear": (
        LinearAttention(batch=2, sequence=5, heads=4, kv_heads=2, key_dim=8, value_dim=16),
        [*tensors((10, 96)), *tensors((2, 4, 8, 16), role=Role.KV_CACHE, dtype="fp32")], tensors((10, 64)),
    ),
    "gather": (AllGather(bytes=4096, group=4), tensors((512,)), tensors((2048,))),
}  # fmt: skip
LIES = [
    ("product", "m", 8_000_000), ("product", "m", 1), ("product", "n", 513), ("product", "k", 255),
    ("product", "batch", 2), ("product", "batch", 0), ("product", "weight_dtype", "int4"), ("product", "left_bytes", 1),
    ("product", "weight_bytes", 1.0), ("product", "weight_bytes", 1e9),
    ("conv", "batch", 2), ("conv", "in_channels", 4), ("conv", "out_channels", 32), ("conv", "height", 64),
    ("conv", "width", 31), ("conv", "kernel_h", 5), ("conv", "kernel_w", 1), ("conv", "stride_h", 1),
    ("conv", "stride_w", 9), ("conv", "out_height", 160), ("conv", "out_width", 8), ("conv", "groups", 2),
    ("prefill", "batch", 3), ("prefill", "q_len", 99), ("prefill", "kv_len", 99), ("prefill", "kv_len", 100_000),
    ("prefill", "heads", 16), ("prefill", "kv_heads", 3), ("prefill", "head_dim", 6400),
    ("prefill", "v_head_dim", 128), ("decode", "kv_len", 1000), ("decode", "kv_heads", 8),
    ("decode", "kv_dtype", "fp8"),
    ("experts", "m", 320), ("experts", "n", 65), ("experts", "k", 12_800), ("experts", "groups", 80),
    ("experts", "active", 9), ("experts", "expected_groups", 9.0),
    ("norm", "m", 80), ("norm", "n", 1), ("norm", "adds", 9), ("gated", "m", 16), ("pool", "n", 80),
    ("lookup", "m", 9), ("topk", "m", 800), ("topk", "k", 65), ("optimizer", "parameters", 513),
    ("linear", "sequence", 5000), ("linear", "heads", 400), ("linear", "key_dim", 16),
    ("linear", "state_dtype", "bf16"),
    ("recurrence", "sequence", 5000), ("recurrence", "hidden", 1600), ("gather", "bytes", 1 << 30),
]  # fmt: skip


NAMED = {("prefill", "heads"): "q_len", ("prefill", "v_head_dim"): "q_len"}
"""Where any of several sizes could be the wrong one, the first that would mend it is named."""


@pytest.mark.parametrize("name", KINDS)
def test_what_is_true_fits(name):
    assert misfits(*KINDS[name]) == []


@pytest.mark.parametrize(("name", "field", "value"), LIES)
def test_a_lie_is_told_once_with_its_field(name, field, value):
    work, inputs, outputs = KINDS[name]
    found = misfits(replace(work, **{field: value}), inputs, outputs)
    (problem,) = found
    assert problem.field == NAMED.get((name, field), field)
    assert "expected" in problem.message or "stored" in problem.message


def test_gates_need_inputs_of_twice_the_result():
    (problem,) = misfits(Activation(m=8, n=64, gated=True), tensors((8, 64)), tensors((8, 64)))
    assert problem.field == "gated"


def test_shared_keys_slices_and_a_result_that_tells_nothing_pass():
    shared = Product(m=4, n=64, k=16, batch=8, heads=8, kv_heads=2)
    assert misfits(shared, tensors((4, 128), (2, 64, 16)), tensors((8, 4, 64))) == []
    last_token = Product(m=1, n=1000, k=64)
    assert misfits(last_token, [*tensors((100, 64)), *weights((1000, 64))], tensors((1, 1000))) == []
    assert misfits(Product(m=99, n=99, k=99), tensors((3,)), tensors((0,))) == []
    assert misfits(Product(m=99, n=99, k=99), [], []) == []


def test_the_backward_pass_turns_sizes_but_cannot_grow_them():
    inputs, outputs = tensors((8, 512), (8, 256)), tensors((512, 256))
    turned = Product(m=512, n=256, k=8)
    assert misfits(turned, inputs, outputs, backward=True) == []
    (problem,) = misfits(replace(turned, k=8_000_000), inputs, outputs, backward=True)
    assert problem.field == "k"


QUICK = {
    "gpt2",
    "deepseek-v2-lite",
    "mixtral-8x7b",
    "unet",
    "r2plus1d-18",
    "mobilenet-v2",
    "bert-base-uncased",
}
PHASES = [{}, {"phase": "train"}, {"fused": False}]
STEPS = [{"phase": "decode", "batch": 3, "kv_dtype": "fp8"}, {"phase": "prefill", "chunk": 16, "batch": 2}]


@pytest.mark.parametrize(
    "model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in models.names()]
)
def test_nothing_that_is_built_in_is_refused(model):
    built = 0
    for options in [*PHASES, *STEPS]:
        try:
            workload = models.build(model, WorkloadOptions(prompt=48, **options))
        except InputError:  # the model makes no tokens
            assert options in [*STEPS, PHASES[1]]
            continue
        for phase in workload.phases:
            for op in phase.graph.operators:
                parts = [
                    [phase.graph.tensors[n] for n in names] for names in (op.inputs, op.outputs, op.updates)
                ]
                found = misfits(op.work, *parts, backward=op.place.training_pass == "backward")
                assert found == [], (op.name, [tensor.shape for part in parts for tensor in part])
                built += 1
    assert built > 20
