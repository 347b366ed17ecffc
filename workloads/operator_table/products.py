"""Products and convolutions of an operator table."""

from __future__ import annotations

from typing import Final

from workloads.operator_table.cells import Built, Cells, Rule, UnfitError
from workloads.operators import Convolution, Product

__all__ = ["OPS"]


def _gemm(c: Cells) -> Built:
    m, n, k, batch = c("m"), c("n"), c("k"), c("batch", 1)
    weight = c.weight_dtype
    read = batch * (c.size(m * k) + c.size(k * n, weight))
    write = batch * c.size(m * n, c.output_dtype())
    return Built(
        Product(m=m, n=n, k=k, batch=batch, weight_dtype=c.narrow(weight), scale_block=c.scale_block),
        read,
        write,
    )


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
}  # fmt: skip
