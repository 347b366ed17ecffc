"""A buffer that inputs and weights share before adder trees: what crosses the pins when both do not fit, and clocks.

A layer keeps the smaller of its inputs and its weights in the buffer while the other streams by; what is kept and does
not fit is taken in parts, and the other streams once for each of them. Beside weights lie the lines that a window
covers; beside inputs the weights of so many kernels. Where those are no smaller than the buffer, they take half of it.
Outputs leave once.

Adder trees sum ``rows`` channels for ``columns`` kernels a clock, one tap of the window after another: nothing is
skewed, and what is left of a multiple of either idles. Windows of 3 x 3 at stride one may be worked out by
Winograd's F(2 x 2, 3 x 3): 16 products in place of 36, and 16 weights in place of 9. Strides may be folded: a window
that moves by s is one that moves by one over s x s times the channels, its weights filled up with zeros that are stored
and streamed; they take no clocks.

The rules are those of the estimator of performance that came with the design: perf/NVDLA_OpenSource_Performance.xlsx
in the repository nvdla/hw, sheet ResNet50, and nvdla.org/primer.html, "number of MAC units and memory bandwidth".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from hw_configs.device import Accelerator
from hw_configs.system import System
from workloads import operators
from workloads.dtypes import dtype_bits
from workloads.graph import Operator

__all__ = ["Buffered", "buffered", "epilogues_of", "products_share"]

_WINOGRAD_PRODUCTS: Final = 16 / 36
_WINOGRAD_WEIGHTS: Final = 16 / 9


@dataclass(frozen=True, slots=True)
class Buffered:
    """Bytes of a layer's inputs and weights that cross the pins, and clocks of the trees."""

    read_bytes: int
    clocks: float


@dataclass(frozen=True, slots=True)
class _Layer:
    """``groups`` equal layers whose inputs lie beside one another; a product is a convolution of one tap."""

    channels: int
    kernels: int
    images: int
    height: int
    width: int
    window: tuple[int, int]
    stride: tuple[int, int]
    places: int
    """Of the output, all images."""
    groups: int


def buffered(operator: Operator, device: Accelerator) -> Buffered | None:
    """What a layer costs with the device's operand buffer; None for work without weights to keep in one.

    Operands beside inputs and weights (of an epilogue) cross once.
    """
    buffer, layer = device.operand_buffer, _layer(operator)
    if buffer is None or layer is None:
        return None
    element = dtype_bits(operator.dtype) / 8
    fast = products_share(operator, device) < 1
    (step_h, step_w) = layer.stride if buffer.folds_strides else (1, 1)
    folded = step_h * step_w
    taps = ceil(layer.window[0] / step_h) * ceil(layer.window[1] / step_w)
    rows, channels = ceil(layer.height / step_h), layer.channels * folded
    line = (
        _filled(channels * layer.groups, buffer.granule) / layer.groups * ceil(layer.width / step_w) * element
    )
    kernel = _filled(channels, buffer.granule) * taps * element * (_WINOGRAD_WEIGHTS if fast else 1.0)
    lines = line * min(ceil(layer.window[0] / step_h), rows)
    inputs = line * rows * layer.images
    crossed = _crossing(
        (inputs, kernel * layer.kernels), (lines, kernel * buffer.kernels), device.scratchpad.size
    )
    trees = ceil(channels / device.array_rows) * ceil(layer.kernels / device.array_columns)
    done = layer.window[0] * layer.window[1] / folded * (_WINOGRAD_PRODUCTS if fast else 1.0)
    return Buffered(
        ceil(crossed * layer.groups) + sum(operator.reads[2:]) + operator.beside_read,
        layer.places * trees * done * layer.groups / device.arrays,
    )


def epilogues_of(system: System) -> frozenset[str]:
    """Kinds of operators that every computing device of a system runs behind its arrays."""
    own = [
        frozenset(device.operand_buffer.epilogues)
        if isinstance(device := node.device, Accelerator) and device.operand_buffer and not node.scratchpad
        else frozenset[str]()
        for node in system.nodes.values()
        if node.compute is not None
    ]
    return frozenset.intersection(*own) if own else frozenset()


def products_share(operator: Operator, device: Accelerator) -> float:
    """Products that the trees do of those of an operator: fewer than all by Winograd."""
    buffer, layer = device.operand_buffer, _layer(operator)
    if buffer is None or layer is None or not buffer.winograd:
        return 1.0
    return _WINOGRAD_PRODUCTS if (layer.window, layer.stride) == ((3, 3), (1, 1)) else 1.0


def _crossing(whole: tuple[float, float], least: tuple[float, float], size: float) -> float:
    """Bytes of inputs and weights over the pins: ``whole`` of each, and the ``least`` that must be there at once."""
    inputs, weights = whole
    lines, group = least
    if inputs < weights:
        return inputs + weights * max(1, ceil(inputs / _room(size, group)))
    return weights + inputs * max(1, ceil(weights / _room(size, lines)))


def _room(size: float, beside: float) -> float:
    """Bytes for what is kept; what has to be beside it takes half where it is no smaller than the buffer."""
    return size - (beside if beside < size else size / 2)


def _layer(operator: Operator) -> _Layer | None:
    work = operator.work
    if isinstance(work, operators.Convolution) and not work.transposed:
        return _Layer(
            work.in_channels // work.groups, work.out_channels // work.groups, work.batch, work.height, work.width,
            (work.kernel_h, work.kernel_w), (work.stride_h, work.stride_w),
            work.batch * work.out_height * work.out_width, work.groups,
        )  # fmt: skip
    if isinstance(work, operators.Product):
        return _Layer(work.k, work.n, 1, work.m, 1, (1, 1), (1, 1), work.m, work.batch)
    return None


def _filled(count: int, granule: int) -> int:
    return -(-count // granule) * granule
