"""Element types of products: narrower ones are never slower, on any shipped GPU, and no product beats its roofs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu import rows
from simulator.gpu.constants import Constants, shipped_constants
from simulator.gpu.request import Request, family_of
from simulator.gpu.rows import predict
from tests.gpu.sheets import ALL, sheet
from tests.typed import operator_of
from workloads.dtypes import size_bytes
from workloads.graph import Operator
from workloads.operators import GroupedProduct, Product, Quantize

ARITHMETIC = ("bf16", "fp8", "nvfp4")
STORED = ("bf16", "int8", "int4")
SIDES = st.integers(0, 15).flatmap(lambda e: st.integers(2**e, 2 ** (e + 1)))


def product(
    m: int, n: int, k: int, dtype: str, weight: str = "", groups: int = 0, block: int = 0
) -> Operator:
    stored = weight if weight != dtype else ""
    work: Product | GroupedProduct = Product(m=m, n=n, k=k, weight_dtype=stored, scale_block=block)
    if groups:
        work = GroupedProduct(m=m, n=n, k=k, groups=groups, weight_dtype=stored, scale_block=block)
    read = size_bytes(m * k, dtype) + max(1, groups) * size_bytes(n * k, weight or dtype)
    return Operator("x", work, (), (), dtype=dtype, beside_read=read, beside_written=2 * m * n)


def kernel_seconds(operators: list[Operator], gpu: str, constants: Constants | None = None) -> list[float]:
    known = constants or shipped_constants()
    setup = known.setup("default")
    return [
        p.kernel_s + p.launch_s for p in predict([Request(o, sheet(gpu), setup) for o in operators], known)
    ]


@settings(max_examples=400, deadline=None)
@given(SIDES, SIDES, SIDES, st.sampled_from(ALL), st.sampled_from([0, 0, 1, 8, 64]))
def test_narrower_arithmetic_is_never_slower(m: int, n: int, k: int, gpu: str, groups: int) -> None:
    wide, narrow, narrowest = kernel_seconds([product(m, n, k, d, groups=groups) for d in ARITHMETIC], gpu)
    assert narrow <= wide * (1 + 1e-9)
    assert narrowest <= narrow * (1 + 1e-9)


@settings(max_examples=400, deadline=None)
@given(SIDES, SIDES, SIDES, st.sampled_from(ALL), st.sampled_from([0, 0, 1, 8, 64]))
def test_narrower_weights_are_never_slower(m: int, n: int, k: int, gpu: str, groups: int) -> None:
    wide, narrow, narrowest = kernel_seconds([product(m, n, k, "bf16", d, groups) for d in STORED], gpu)
    assert narrow <= wide * (1 + 1e-3)
    assert narrowest <= narrow * (1 + 1e-3)


@settings(max_examples=300, deadline=None)
@given(
    SIDES, SIDES, SIDES, st.sampled_from(ALL), st.sampled_from([*ARITHMETIC, "int8", "mxfp8", "mxfp4", "fp4"]),
    st.sampled_from(["", "int4", "mxfp4"]), st.sampled_from([0, 16, 128]),
)  # fmt: skip
def test_no_product_beats_its_roofs(
    m: int, n: int, k: int, gpu: str, dtype: str, weight: str, block: int
) -> None:
    on, operator = sheet(gpu), product(m, n, k, dtype, weight, block=block)
    (took,) = kernel_seconds([operator], gpu)
    assert took >= operator.flops / (on.rate(dtype) * on.sms * on.clock) * (1 - 1e-9)
    assert took >= (operator.read_bytes + operator.write_bytes) / on.bandwidth * (1 - 1e-6)


@pytest.mark.parametrize("gpu", ["h100-sxm", "rtx-4090"])
def test_scales_inside_the_sum_cost_vector_work_unless_the_unit_has_them(gpu: str) -> None:
    plain, blocks, fine = kernel_seconds(
        [product(4096, 8192, 8192, "fp8", block=b) for b in (0, 128, 16)], gpu
    )
    assert plain <= blocks < fine
    own = kernel_seconds([product(4096, 8192, 8192, "nvfp4", block=b) for b in (0, 16)], gpu)
    assert own[0] == own[1]


def test_a_chip_takes_the_family_of_the_type_it_has() -> None:
    four = product(64, 64, 64, "nvfp4")
    found = [family_of(four, sheet(gpu)) for gpu in ("b200", "h100-sxm", "a100-80gb", "p100")]
    assert found == ["tensor4", "tensor8", "widened", "widened"]


def test_a_slower_narrow_family_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard itself: 8-bit products at a third of their rate are slower than 16-bit ones."""
    data = dict(shipped_constants().data)
    data["tensor8"] = {**data["tensor8"], "e0": data["tensor8"]["e0"] / 4}
    wide, narrow = kernel_seconds(
        [product(8192, 8192, 8192, d) for d in ARITHMETIC[:2]], "h100-sxm", Constants(data)
    )
    assert narrow > wide


def test_quantising_a_tensor_with_one_scale_reads_it_twice() -> None:
    work = Quantize(m=65536, n=8192, to_dtype="fp8", per_token=False)
    size = 65536 * 8192
    whole = Operator("q", work, (), (), dtype="bf16", beside_read=2 * size, beside_written=size)
    static = replace(whole, work=replace(work, dynamic=False))
    twice, once = kernel_seconds([whole, static], "h100-sxm")
    assert 1.3 * once < twice <= 2.01 * once
    assert rows.reduces_rows(replace(whole, work=replace(work, per_token=True)))


def test_a_batch_norm_is_a_stream_and_narrow_rows_share_a_block() -> None:
    rows_, columns = 3211264, 64
    size = 2 * rows_ * columns
    for norm in ("batch", "rms"):
        operator = operator_of("norm", 5.0 * size / 2, size, size, "fp16", m=rows_, n=columns, norm=norm)
        (took,) = kernel_seconds([operator], "h100-sxm")
        assert took < 2.0 * 2 * size / sheet("h100-sxm").bandwidth
