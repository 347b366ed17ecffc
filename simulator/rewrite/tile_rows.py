"""Which rows of its inputs an operator needs for some rows of its output, and what can be cut at all.

Rows are those of an image (NCHW) or the tokens of a matrix. A window reaches beyond its strip by its halo.
"""

from __future__ import annotations

from typing import Final

from workloads.graph import PERSISTENT_ROLES, Graph, Operator, Tensor
from workloads.operators import (
    Activation,
    Convolution,
    Copy,
    Elementwise,
    Norm,
    Pool,
    Product,
    Resize,
    Softmax,
    Work,
)

__all__ = ["channel_axis", "reads_rows", "row_axis", "rows_needed", "weight_axis"]

_POINTWISE: Final = (Activation, Elementwise, Norm, Softmax)


def row_axis(tensor: Tensor) -> int | None:
    """The axis of a tensor's rows: height of an image, tokens of a matrix; None for other shapes."""
    return {4: 2, 2: 0}.get(len(tensor.shape))


def reads_rows(graph: Graph, op: Operator) -> bool:
    """Whether rows of the output need only some rows of the inputs, so that cutting them helps."""
    if len(op.outputs) != 1:
        return False
    work = op.work
    output = graph.tensors[op.outputs[0]]
    axis = row_axis(output)
    if axis is None:
        return False
    inputs = [graph.tensors[name] for name in op.inputs if graph.tensors[name].role not in PERSISTENT_ROLES]
    if not inputs or any(len(tensor.shape) != len(output.shape) for tensor in inputs):
        return False
    if len(output.shape) == 2:
        alike = all(tensor.shape[0] == output.shape[0] for tensor in inputs)
        return alike and (isinstance(work, _POINTWISE) or (isinstance(work, Product) and len(inputs) == 1))
    match work:
        case Convolution() | Resize():
            return len(inputs) == 1
        case Pool():
            return work.stride_h > 0
        case Copy():
            return work.function == "crop" or _concatenates_channels(inputs, output)
        case Norm():
            return work.norm == "batch"
        case Activation() | Elementwise():
            return True
    return False


def _concatenates_channels(inputs: list[Tensor], output: Tensor) -> bool:
    return all(tensor.shape[2:] == output.shape[2:] for tensor in inputs)


def rows_needed(graph: Graph, op: Operator, name: str, first: int, last: int) -> tuple[int, int] | None:
    """Rows [low, high) of an input for output rows [first, last); None when all of it is needed."""
    tensor, output = graph.tensors[name], graph.tensors[op.outputs[0]]
    axis = row_axis(tensor)
    if tensor.role in PERSISTENT_ROLES or axis is None:
        return None
    side, made = tensor.shape[axis], output.shape[axis]
    low, high = _reach(op.work, side, made, first, last)
    if side == 1 and made > 1 and isinstance(op.work, _POINTWISE):
        return None
    low, high = max(0, low), min(side, high)
    # A strip of padding alone still has a place to read from.
    return (low, high) if low < high else (min(low, side - 1), min(low, side - 1) + 1)


def _reach(work: Work, side: int, made: int, first: int, last: int) -> tuple[int, int]:
    """Rows [low, high) of an input of ``side`` rows for rows [first, last) of ``made``, the padding's included."""
    match work:
        case Convolution(transposed=True):
            reach, stride = work.dilation * (work.kernel_h - 1), work.stride_h
            low = -(-(first + work.padding_h - reach) // stride)
            return low, (last - 1 + work.padding_h) // stride + 1
        case Convolution():
            low = first * work.stride_h - work.padding_h
            return low, (last - 1 - first) * work.stride_h + low + work.dilation * (work.kernel_h - 1) + 1
        case Pool():
            low = first * work.stride_h - work.padding_h
            return low, (last - 1 - first) * work.stride_h + low + work.kernel_h
        case Resize():
            return first * side // made - 1, -(-last * side // made) + 1
        case Copy(function="crop"):
            offset = (side - made) // 2
            return first + offset, last + offset
    return first, last


def channel_axis(graph: Graph, op: Operator) -> int | None:
    """The axis of the output channels of a dense product; None for operators that cannot be cut along them."""
    work = op.work
    if len(op.outputs) != 1 or not isinstance(work, Convolution | Product):
        return None
    convolution = isinstance(work, Convolution)
    if work.groups != 1 if isinstance(work, Convolution) else work.batch != 1:
        return None
    shape = graph.tensors[op.outputs[0]].shape
    axis = 1 if convolution else len(shape) - 1
    weights = [graph.tensors[name] for name in op.inputs if graph.tensors[name].role in PERSISTENT_ROLES]
    cut = [tensor for tensor in weights if weight_axis(op, tensor, shape[axis]) is not None]
    return axis if weights and len(cut) == len(weights) else None


def weight_axis(op: Operator, weight: Tensor, channels: int) -> int | None:
    """The axis of a weight that runs over the output channels; None when none is as long."""
    shape = weight.shape
    folded_norm = len(shape) == 2 and shape[0] == 2
    transposed = isinstance(op.work, Convolution) and op.work.transposed and len(shape) > 1
    first = int(folded_norm or transposed)
    axes = [first, *range(len(shape))]
    return next((axis for axis in axes if shape[axis] == channels), None)
