"""What ONNX convolutions and pools cost, and how far their windows reach: strides, padding and dilation.

Padding is what stands before the image: a strip of the output needs rows from there on. It is stated (``pads``), or
follows from the sides (``auto_pad``). Of three spatial sides the depth is folded into the height.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from workloads.onnx_node import Cost, Node, Rule, over_rows
from workloads.operators import Convolution, Pool

__all__ = ["conv", "conv_transpose", "deformable_conv", "global_pool", "pool", "region_pool"]

Sides = tuple[int, ...]


def _planes(sides: Sides) -> tuple[int, int]:
    """Height and width of any number of spatial sides: a depth is folded into the height."""
    return (1, sides[0]) if len(sides) == 1 else (prod(sides[:-1]), sides[-1])


def _folded_padding(padding: Sides, sides: Sides) -> tuple[int, int]:
    """Rows above and columns left of an image whose depth is folded into its height."""
    if len(padding) == 1:
        return 0, padding[0]
    rows = 0
    for before, side in zip(padding[:-1], sides[:-1], strict=True):
        rows = rows * side + before
    return rows, padding[-1]


def _strides(node: Node, rank: int) -> Sides:
    return tuple(node.get("strides") or (1,) * rank)


def _dilations(node: Node, rank: int) -> Sides:
    return tuple(node.get("dilations") or (1,) * rank)


def _padding(node: Node, image: Sides, out: Sides, window: Sides, transposed: bool = False) -> Sides:
    """Padding before each spatial side: the first half of ``pads``, or what ``auto_pad`` gives it."""
    rank = len(window)
    mode = node.get("auto_pad", b"NOTSET")
    name = mode.decode() if isinstance(mode, bytes) else str(mode)
    stated = tuple(node.get("pads") or ())
    if name not in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(max(0, side) for side in stated[:rank]) if len(stated) == 2 * rank else (0,) * rank
    before = []
    small, large = (image, out) if transposed else (out, image)
    strides, dilations = _strides(node, rank), _dilations(node, rank)
    for few, many, kernel, stride, dilation in zip(small, large, window, strides, dilations, strict=True):
        total = max(0, (few - 1) * stride + dilation * (kernel - 1) + 1 - many)
        before.append(total // 2 if name == "SAME_UPPER" else total - total // 2)
    return tuple(before)


def _convolution(
    node: Node, image: Sides, out: Sides, window: Sides, transposed: bool = False
) -> Convolution:
    """Sizes of a convolution; channels come second."""
    rank = len(window)
    height, width = _planes(image[2:])
    kernel_h, kernel_w = _planes(window)
    stride_h, stride_w = _planes(_strides(node, rank))
    out_height, out_width = _planes(out[2:])
    padding = _padding(node, image[2:], out[2:], window, transposed)
    padding_h, padding_w = _folded_padding(padding, image[2:])
    return Convolution(
        batch=image[0], in_channels=image[1], out_channels=out[1], height=height, width=width,
        kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w, padding_h=padding_h,
        padding_w=padding_w, dilation=max(_dilations(node, rank)), out_height=out_height, out_width=out_width,
        transposed=transposed,
    )  # fmt: skip


def conv(
    x: int, w: int, data: tuple[int, ...] | None = None, dtype: str | None = None, last: bool = False
) -> Rule:
    """Convolutions whose image and filters are the inputs ``x`` and ``w``; ``last``: channels come last."""

    def rule(node: Node) -> Cost:
        image, kernel, out = node.shape(x), node.shape(w), node.out.shape
        if last:
            image, out = (image[0], image[-1], *image[1:-1]), (out[0], out[-1], *out[1:-1])
            if kernel[1] * int(node.get("group", 1)) != image[1]:  # so do those of the filters
                kernel = (kernel[0], kernel[-1], *kernel[1:-1])
        work = _convolution(node, image, out, kernel[2:])
        return Cost(replace(work, groups=max(1, image[1] // kernel[1])), data, dtype=dtype)

    return rule


def conv_transpose(node: Node) -> Cost:
    """Each input element meets every tap."""
    image, kernel, out = node.shape(0), node.shape(1), node.out.shape
    work = _convolution(node, image, out, kernel[2:], transposed=True)
    return Cost(replace(work, groups=max(1, out[1] // kernel[1])))


def deformable_conv(node: Node) -> Cost:
    """A convolution whose taps are interpolated: eight operations per input channel and output pixel."""
    cost = conv(0, 1)(node)
    pixels = node.out.elements // max(node.out.shape[1], 1)
    return replace(cost, work=replace(cost.work, extra_flops=8.0 * pixels * prod(node.shape(0)[1:2])))


def pool(node: Node) -> Cost:
    """Window pooling: every tap once."""
    window = tuple(node.get("kernel_shape") or ())
    work = over_rows(Pool, node.out.shape, prod(window))
    if not window:
        return Cost(work, (0,))
    rank = len(window)
    image, out = node.shape(0), node.out.shape
    sides, made = (image[1:-1], out[1:-1]) if node.op == "NhwcMaxPool" else (image[2:], out[2:])
    spans = tuple(
        dilation * (kernel - 1) + 1 for kernel, dilation in zip(window, _dilations(node, rank), strict=True)
    )
    kernel_h, kernel_w = _planes(spans)
    stride_h, stride_w = _planes(_strides(node, rank))
    padding_h, padding_w = _folded_padding(_padding(node, sides, made, window), sides)
    mode = "max" if "Max" in node.op else "average"
    return Cost(
        replace(
            work, mode=mode, kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w,
            padding_h=padding_h, padding_w=padding_w,
        ), (0,),
    )  # fmt: skip


def global_pool(node: Node) -> Cost:
    """One element per channel: every input element once."""
    per_element = prod(node.shape(0)) / max(1, node.out.elements)
    return Cost(over_rows(Pool, node.out.shape, per_element), (0,))


def region_pool(node: Node) -> Cost:
    """Bilinear samples inside regions."""
    samples = max(1, int(node.get("sampling_ratio", 2) or 2)) ** 2
    return Cost(over_rows(Pool, node.out.shape, 8.0 * samples))
