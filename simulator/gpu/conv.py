"""Convolutions: implicit GEMM, im2col, im2win, Winograd, and depthwise ones that no matrix unit helps.

A convolution of C channels with K filters of R x S over an output of P x Q is the product
(N P Q) x (C R S) times (C R S) x K per group. The ways differ in what they write to memory first:

- implicit GEMM gathers its operand tiles from the image while it runs (cuDNN; Chetlur et al.,
  arXiv:1410.0759): nothing;
- im2col writes the whole matrix: N P Q C R S elements;
- im2win writes each image row's windows once: N C (rows of the window tensor) x S-strided columns, about
  N C P R W elements (Lu et al., im2win, arXiv:2306.14316): R/stride times the image instead of R S/stride^2;
- Winograd F(m x m, r x r) computes (m + r - 1)^2 products for m^2 outputs instead of m^2 r^2 (Lavin and
  Gray, arXiv:1509.09308), and writes both transforms.

A depthwise convolution has one channel per group: it is bound by bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.problems import InputError, bad_input, nearest
from workloads.dtypes import BITS
from workloads.graph import Attribute, Operator, legacy_replace

__all__ = ["WAYS", "ConvShape", "as_product", "conv_shape", "workspace_elements"]

WAYS = ("implicit_gemm", "im2col", "im2win", "winograd")


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A two-dimensional convolution; sizes in elements."""

    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    groups: int
    out_height: int
    out_width: int

    @property
    def depthwise(self) -> bool:
        """One input channel per group."""
        return self.groups > 1 and self.in_channels == self.groups


def conv_shape(operator: Operator) -> ConvShape:
    """The shape of a convolution operator; ``InputError`` when an attribute is missing."""
    a = operator.attributes
    try:
        kernel_h = int(a["kernel_h"])
        stride_h = int(a.get("stride_h", 1))
        return ConvShape(
            int(a.get("batch", 1)), int(a["in_channels"]), int(a["out_channels"]), int(a["height"]),
            int(a["width"]), kernel_h, int(a.get("kernel_w", kernel_h)), stride_h,
            int(a.get("stride_w", stride_h)), int(a.get("groups", 1)),
            int(a.get("out_height", -(-int(a["height"]) // stride_h))),
            int(a.get("out_width", -(-int(a["width"]) // int(a.get("stride_w", stride_h))))),
        )  # fmt: skip
    except KeyError as missing:
        raise bad_input(f"convolution {operator.name!r} lacks {missing.args[0]}") from None


def workspace_elements(shape: ConvShape, way: str) -> float:
    """Elements that a way writes to memory and reads back, beside image, filters and output.

    Raises ``InputError`` for an unknown way.
    """
    s = shape
    if way not in WAYS:
        raise bad_input(f"unknown convolution way {way!r}", suggestion=nearest(way, WAYS))
    if way == "implicit_gemm":
        return 0.0
    if way == "im2col":
        return float(s.batch * s.out_height * s.out_width * s.in_channels * s.kernel_h * s.kernel_w)
    if way == "im2win":
        return float(s.batch * s.in_channels * s.out_height * s.kernel_h * s.width)
    tile = 2 + s.kernel_h - 1
    tiles = -(-s.out_height // 2) * -(-s.out_width // 2)
    transformed = s.batch * tiles * tile * tile
    return float(transformed * (s.in_channels + s.out_channels))


def as_product(operator: Operator) -> Operator:
    """The product that prices a convolution; a depthwise one becomes a memory-bound operator.

    The attribute ``way`` chooses among :data:`WAYS` (default implicit_gemm). The workspace is added to the
    bytes, and Winograd's FLOPs are those of its products.
    """
    try:
        shape = conv_shape(operator)
    except InputError:
        if "in_channels" in operator.attributes:
            raise
        return legacy_replace(operator, kind="elementwise", attributes={})
    way = str(operator.attributes.get("way", "implicit_gemm"))
    moved = workspace_elements(shape, way) * BITS.get(operator.dtype, 16) / 8
    read, written = operator.read_bytes + int(moved), operator.write_bytes + int(moved)
    if shape.depthwise:
        return legacy_replace(
            operator, kind="elementwise", attributes={}, read_bytes=read, write_bytes=written
        )
    depth = shape.in_channels // shape.groups * shape.kernel_h * shape.kernel_w
    rows = shape.batch * shape.out_height * shape.out_width
    columns = shape.out_channels // shape.groups
    batch = shape.groups
    flops = operator.flops
    if way == "winograd" and shape.stride_h == 1 and shape.kernel_h == shape.kernel_w and shape.kernel_h > 1:
        tile = 2 + shape.kernel_h - 1
        rows = shape.batch * -(-shape.out_height // 2) * -(-shape.out_width // 2)
        depth = shape.in_channels // shape.groups
        batch = shape.groups * tile * tile
        flops = 2.0 * rows * columns * depth * batch
    weights = shape.out_channels * depth * BITS.get(operator.dtype, 16) / 8
    attributes: dict[str, Attribute] = {
        "m": rows, "n": columns, "k": depth, "batch": batch, "input_bytes": max(0, int(read - weights)),
    }  # fmt: skip
    return legacy_replace(
        operator, kind="matmul", attributes=attributes, flops=flops, read_bytes=read, write_bytes=written
    )
