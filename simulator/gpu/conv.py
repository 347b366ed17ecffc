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

A depthwise convolution has one channel per group, and no matrix unit helps: each tap of its window is a load from the
multiprocessor's own cache beside a multiply-add. Small windows are bound by bytes, large ones by these loads.

One of groups of several channels is a product per group, whose tiles are padded where a group is narrower than they.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hw_configs.problems import bad_input, nearest
from workloads.dtypes import BITS
from workloads.graph import Operator
from workloads.operators import Convolution, Elementwise, Product
from workloads.operators.products import CONVOLUTION_WAYS

__all__ = ["as_product", "workspace_elements"]

WINOGRAD_OUTPUTS: Final = 2
"""Outputs of a tile along one side: F(2 x 2, r x r)."""


def workspace_elements(shape: Convolution, way: str) -> float:
    """Elements that a way writes to memory and reads back, beside image, filters and output.

    Raises ``InputError`` for an unknown way.
    """
    s = shape
    if way not in CONVOLUTION_WAYS:
        raise bad_input(f"unknown convolution way {way!r}", suggestion=nearest(way, CONVOLUTION_WAYS))
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


def as_product(operator: Operator, work: Convolution) -> Operator:
    """The product that prices a convolution; a depthwise one becomes a memory-bound operator.

    Its ``way`` is one of :data:`workloads.operators.products.CONVOLUTION_WAYS`. The workspace is added to the
    bytes, and Winograd's FLOPs are those of its products.
    """
    moved = int(workspace_elements(work, work.way) * BITS.get(operator.dtype, 16) / 8)
    operator = replace(
        operator, beside_read=operator.beside_read + moved, beside_written=operator.beside_written + moved
    )
    if work.depthwise:
        return replace(operator, work=Elementwise(extra_flops=work.flops, gathers=True))
    depth = work.in_channels // work.groups * work.kernel_h * work.kernel_w
    rows = work.batch * work.out_height * work.out_width
    batch = work.groups
    if work.transposed:
        # Every input position meets every tap: the window stands among the columns.
        return _with_product(operator, work, _transposed(work), depth)
    unit_stride = work.stride_h == work.stride_w == 1
    winograd = work.way == "winograd" and unit_stride and work.kernel_h == work.kernel_w > 1
    if winograd:
        tile = WINOGRAD_OUTPUTS + work.kernel_h - 1
        rows = work.batch * -(-work.out_height // 2) * -(-work.out_width // 2)
        depth = work.in_channels // work.groups
        batch = work.groups * tile * tile
    product = Product(m=rows, n=work.out_channels // work.groups, k=depth, batch=batch)
    if not winograd:
        product = replace(product, share=work.share, extra_flops=work.extra_flops)
    return _with_product(operator, work, product, depth)


def _transposed(work: Convolution) -> Product:
    rows = work.batch * work.height * work.width
    columns = work.out_channels // work.groups * work.kernel_h * work.kernel_w
    return Product(
        m=rows, n=columns, k=work.in_channels // work.groups, batch=work.groups, share=work.share,
        extra_flops=work.extra_flops,
    )  # fmt: skip


def _with_product(operator: Operator, work: Convolution, product: Product, depth: int) -> Operator:
    stored = BITS.get(work.weight_dtype or operator.dtype, 16)
    weights = work.out_channels * depth * stored / 8
    left = max(1, int(operator.read_bytes - weights))
    return replace(operator, work=replace(product, left_bytes=left, weight_dtype=work.weight_dtype))
