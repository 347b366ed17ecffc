"""Products and convolutions of an operator table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from hw_configs.problems import nearest
from workloads.dtypes import BITS
from workloads.operator_table.cells import Built, Cells, Rule, UnfitError
from workloads.operators import Convolution, Product, Quantize

__all__ = ["OPS", "quantises_first"]

ENGINES: Final = ("vllm", "sglang", "trtllm")
"""How the labels of serving engines begin. Their linear layers take 16-bit activations."""
PLUGIN: Final = "trt_flow"
"""Plug-ins of a TensorRT engine take activations that are narrow already."""
SCALES: Final = ("row", "tensor", "static")
"""What a scale covers: each row or block of it, or the whole tensor, found in the values or known beforehand."""
SCALE_BYTES: Final = 4
"""An FP32 scale per row or block of it; the formats with scales of their own count them as bits of an element."""


def quantises_first(text: Mapping[str, str]) -> bool:
    """Whether a row times a serving engine's layer, which makes a narrow copy of its activation before the product."""
    engine = text.get("label", "").lower().startswith(ENGINES)
    return engine and not text.get("kernel", "").lower().startswith(PLUGIN)


def quantised(c: Cells, m: int, k: int, block: int = 0, source: str = "bf16") -> Built:
    """The kernel that makes the narrow copy of m x k activations: a scale per row, or per block of it."""
    own = "fp" in c.dtype and BITS[c.dtype] % 4 != 0
    block = block or c.scale_block or (16 if c.dtype == "nvfp4" else 32 if own else 0)
    scales = 0 if own else m * (-(-k // block) if block else 1) * SCALE_BYTES
    work = Quantize(m=m, n=k, to_dtype=c.dtype, block=min(block, k), flops_per_element=4.0)
    return Built(work, c.size(m * k, source), c.size(m * k) + scales, source)


def _quantize(c: Cells) -> Built:
    """``dtype`` is what rows of 16 bits become, or, beside ``to_dtype``, what they are."""
    given = c.text.get("to_dtype", "")
    target = Cells({**c.text, "dtype": given}, c.counts) if given else c
    source = c.dtype if given else "bf16"
    if BITS[target.dtype] >= BITS[source]:
        blank = f"no to_dtype that says what {c.dtype} becomes"
        found = f"{source} is not narrowed by {target.dtype}" if given else blank
        raise UnfitError(f"{found}; expected a narrower type")
    m, n, scales = c("m"), c("n"), c.text.get("scales") or "row"
    if scales not in SCALES:
        hint = nearest(scales, SCALES)
        perhaps = f", perhaps {hint!r}" if hint else ""
        raise UnfitError(f"unknown scales {scales!r}; expected {', '.join(SCALES)}{perhaps}")
    built = quantised(target, m, n, c("block", 0), source)
    assert isinstance(built.work, Quantize)
    if scales == "row":
        return built
    work = replace(built.work, block=0, per_token=False, dynamic=scales == "tensor")
    return replace(built, work=work, write_bytes=c.size(m * n, target.dtype) + SCALE_BYTES)


def _gemm(c: Cells) -> Built:
    m, n, k, batch = c("m"), c("n"), c("k"), c("batch", 1)
    weight = c.weight_dtype
    read = batch * (c.size(m * k) + c.size(k * n, weight))
    write = batch * c.size(m * n, c.output_dtype())
    work = Product(m=m, n=n, k=k, batch=batch, weight_dtype=c.narrow(weight), scale_block=c.scale_block)
    narrow = BITS[c.dtype] < 16 and quantises_first(c.text)
    return Built(work, read, write, then=(quantised(c, m, k),) if narrow else ())


def _conv(c: Cells) -> Built:
    batch, groups = c("batch", 1), c("groups", 1)
    c_in, c_out, height, width = c("in_channels"), c("out_channels"), c("height"), c("width")
    kernel_h = c("kernel_h")
    kernel_w, stride_h = c("kernel_w", kernel_h), c("stride_h", 1)
    stride_w = c("stride_w", stride_h)
    out_h = c("out_height", -(-height // stride_h))
    out_w = c("out_width", -(-width // stride_w))
    if c_in % groups or c_out % groups:
        raise UnfitError(f"{groups} groups do not divide {c_in} and {c_out} channels")
    work = Convolution(
        batch=batch, in_channels=c_in, out_channels=c_out, height=height, width=width, kernel_h=kernel_h,
        kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w, groups=groups, out_height=out_h, out_width=out_w,
    )  # fmt: skip
    weights = c_out * (c_in // groups) * kernel_h * kernel_w
    read = c.size(batch * c_in * height * width) + c.size(weights)
    return Built(work, read, c.size(batch * c_out * out_h * out_w))


OPS: Final[dict[str, Rule]] = {
    "gemm": _gemm, "matmul": _gemm, "linear": _gemm, "bmm": _gemm, "conv": _conv, "conv2d": _conv,
    "quantize": _quantize,
}  # fmt: skip
