"""GPUs for tests: shipped ones, and variations of their figures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from hw_configs.library import catalog, load_device
from offchip.validation.reference_gpu import ReferenceGpu, ReferenceGpus
from simulator.gpu.sheet import GpuSheet, gpu_sheet
from tests.typed import operator_of
from workloads.graph import Operator

NAMES = ("a100-80gb", "h100-sxm", "b200", "rtx-4090", "t4", "l40s")
ALL = sorted(
    entry.name
    for entry in catalog().values()
    if entry.kind == "device"
    and entry.path.parent.name == "gpu"
    and load_device(entry.name).memory is not None
)
"""Every shipped GPU with a memory of its own."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}


@cache
def reference(name: str) -> ReferenceGpu:
    found = ReferenceGpus().find(name)
    assert found is not None
    return found


@cache
def sheet(name: str) -> GpuSheet:
    gpu = reference(name)
    return gpu_sheet(gpu.gpu, gpu.memory)


def scaled(base: GpuSheet, sms: float = 1.0, clock: float = 1.0, bandwidth: float = 1.0) -> GpuSheet:
    """The same GPU with more of something, and with the power for it."""
    return replace(
        base,
        sms=base.sms * sms,
        clock=base.clock * clock,
        bandwidth=base.bandwidth * bandwidth,
        tdp=float("inf"),
    )


def product(m: int, n: int, k: int, dtype: str = "bf16", batch: int = 1) -> Operator:
    size = BYTES[dtype]
    return operator_of(
        "matmul",
        2.0 * batch * m * n * k,
        batch * size * (m * k + k * n),
        batch * max(size, 2) * m * n,
        dtype,
        name="product",
        m=m,
        n=n,
        k=k,
        batch=batch,
    )


def attention(
    batch: int, heads: int, kv_heads: int, q_len: int, kv_len: int, dim: int = 128, causal: bool = True
) -> Operator:
    pairs = q_len * kv_len - (q_len * (q_len - 1) // 2 if causal else 0)
    return operator_of(
        "attention",
        4.0 * batch * heads * pairs * dim,
        2 * batch * dim * (heads * q_len + 2 * kv_heads * kv_len),
        2 * batch * heads * q_len * dim,
        "bf16",
        name="attention",
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        v_head_dim=dim,
        q_len=q_len,
        kv_len=kv_len,
        causal=causal,
    )
