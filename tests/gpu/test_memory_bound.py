"""Memory-bound operators: roofs, growth, implementations."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu.constants import shipped_constants
from simulator.gpu.request import Prediction, Request
from simulator.gpu.rows import predict
from simulator.gpu.sheet import GpuSheet
from tests.gpu.sheets import ALL, NAMES, scaled, sheet
from tests.typed import operator_of
from workloads.graph import Operator

KINDS = ("norm", "softmax", "activation", "elementwise", "rotary", "embedding", "copy", "topk")
kinds = st.sampled_from(KINDS)
gpus = st.sampled_from(NAMES)
every_gpu = st.sampled_from(ALL)
timings = st.sampled_from(["default", "graph-mean", "kernel", "profiler"])
rows = st.integers(1, 65536)
columns = st.sampled_from([64, 128, 1024, 4096, 5120, 8192, 16384])


def pointwise(kind: str, m: int, n: int, reads: int = 1) -> Operator:
    size = 2 * m * n
    return operator_of(kind, 4.0 * m * n, reads * size, size, "bf16", name=kind, m=m, n=n)


def run(operator: Operator, on: GpuSheet, timing: str = "default") -> Prediction:
    constants = shipped_constants()
    return predict([Request(operator, on, constants.setup(timing))], constants)[0]


@settings(max_examples=120, deadline=None)
@given(kinds, rows, columns, gpus, st.integers(1, 3))
def test_never_faster_than_the_memory(kind: str, m: int, n: int, gpu: str, reads: int) -> None:
    on, operator = sheet(gpu), pointwise(kind, m, n, reads)
    moved = operator.read_bytes + operator.write_bytes
    assert run(operator, on).kernel_s >= moved / on.bandwidth * (1 - 1e-9)
    assert run(operator, on, "kernel").kernel_s >= moved / (on.sms * on.clock * 64) * (1 - 1e-9)


sizes = st.integers(0, 16).flatmap(lambda e: st.integers(2**e, 2 ** (e + 1)))


@settings(max_examples=250, deadline=None)
@given(
    kinds, sizes, sizes, st.integers(1, 3), every_gpu, timings, st.floats(1.0, 4.0), st.integers(1, 300),
    st.sampled_from([None, "previous"]),
)  # fmt: skip
def test_more_hardware_is_never_slower_and_more_work_never_faster(
    kind: str,
    m: int,
    n: int,
    reads: int,
    gpu: str,
    timing: str,
    more: float,
    further: int,
    residency: str | None,
) -> None:
    def took(m: int, n: int, on: GpuSheet) -> float:
        operator = pointwise(kind, m, n, reads)
        if residency is not None:
            operator = replace(operator, residency=residency)
        return run(operator, on, timing).kernel_s

    base = scaled(sheet(gpu))
    before = took(m, n, base)
    sms = round(more * base.sms) / base.sms
    for richer in (scaled(base, sms=sms), scaled(base, clock=more), scaled(base, bandwidth=more)):
        assert took(m, n, richer) <= before * (1 + 1e-9)
    for larger in ((m + further, n), (m, n + further), (int(m * more) + 1, n), (m, int(n * more) + 1)):
        assert took(*larger, base) >= before * (1 - 1e-9)


def test_one_element_per_thread_is_slower_than_vectors() -> None:
    operator = replace(pointwise("norm", 8192, 8192), residency="cold")
    assert (
        run(operator, sheet("a100-80gb"), "kernel").kernel_s
        > 1.3 * run(operator, sheet("a100-80gb")).kernel_s
    )


def test_a_previous_output_is_read_from_the_l2() -> None:
    operator = pointwise("elementwise", 512, 4096, reads=2)
    warm = replace(operator, residency="previous")
    assert run(warm, sheet("rtx-4090")).kernel_s < 0.6 * run(operator, sheet("rtx-4090")).kernel_s
