"""What a recorded kernel did, where the profile says enough.

Collectives say it in their arguments; of others the operator that launched them says it, where its shapes were recorded
(``record_shapes=True``).

An operator that launches several kernels gives its work to the longest one; the others, and operators of no rule here,
keep their measured time whatever is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from workloads.dtypes import BITS
from workloads.operators import (
    AllGather,
    AllReduce,
    AllToAll,
    Attention,
    Broadcast,
    CollectiveWork,
    Convolution,
    Copy,
    Elementwise,
    Norm,
    Product,
    ReduceScatter,
    Softmax,
    Work,
)
from workloads.recorded.kineto_file import KinetoEvent

__all__ = ["Collective", "Told", "collective_of", "told_work"]

MAX_SIDE: Final = 2**40

_DTYPES: Final[Mapping[str, str]] = {
    "float": "fp32", "double": "fp64", "c10::half": "fp16", "half": "fp16", "c10::bfloat16": "bf16", "bfloat16": "bf16",
    "long int": "int64", "long": "int64", "int": "int32", "short": "int16", "signed char": "int8", "char": "int8",
    "unsigned char": "uint8", "byte": "uint8", "bool": "bool", "c10::float8_e4m3fn": "fp8", "float8_e4m3fn": "fp8",
    "c10::float8_e5m2": "fp8", "float8_e5m2": "fp8",
}  # fmt: skip
"""Names of element types in ``Input type`` and in the arguments of collectives."""
_NAMES_OF_COLLECTIVES: Final[Mapping[type[CollectiveWork], str]] = {
    AllReduce: "allreduce all_reduce allreduce_coalesced reduce barrier",
    AllGather: "allgather all_gather _allgather_base all_gather_into_tensor allgather_into_tensor_coalesced gather",
    ReduceScatter: "reduce_scatter _reduce_scatter_base reduce_scatter_tensor_coalesced",
    Broadcast: "broadcast _broadcast_oop scatter",
    AllToAll: "all_to_all all_to_allv alltoall alltoall_base",
}
_COLLECTIVES: Final = {name: kind for kind, names in _NAMES_OF_COLLECTIVES.items() for name in names.split()}
_POINTWISE: Final = frozenset({
    "add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "relu", "relu_", "gelu", "silu", "sigmoid",
    "tanh", "exp", "neg", "sqrt", "rsqrt", "pow", "clamp", "clamp_min", "copy_", "fill_", "zero_", "where",
    "masked_fill", "masked_fill_", "threshold_backward", "gelu_backward", "silu_backward", "sigmoid_backward",
    "tanh_backward", "dropout", "native_dropout", "lerp_", "addcmul_", "addcdiv_", "eq", "gt", "lt", "ge", "le",
    "ne", "bitwise_and", "cat",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """The work of a kernel, its element type, and the bytes it reads and writes."""

    work: Work
    dtype: str
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective kernel: what it moves, its group's name and ranks (empty where the profile lists none)."""

    work: CollectiveWork
    group_name: str
    group: tuple[int, ...]
    size: int


def collective_of(event: KinetoEvent) -> Collective | None:
    """The collective that a kernel is, where its arguments say which and how large."""
    args = event.args
    kind = _COLLECTIVES.get(str(args.get("Collective name", "")).lower())
    element = _DTYPES.get(str(args.get("dtype", "")).lower())
    sent, got = event.number("In msg nelems"), event.number("Out msg nelems")
    if kind is None or element is None or sent is None or got is None or not 0 <= max(sent, got) <= MAX_SIDE:
        return None
    elements = got if kind is AllGather else sent
    if args.get("Collective name") == "barrier":
        elements = 0
    return Collective(
        kind(bytes=elements * round(BITS[element]) // 8), str(args.get("Process Group Name", "")), _ranks(args),
        event.number("Group size") or 0,
    )  # fmt: skip


def _ranks(args: Mapping[str, Any]) -> tuple[int, ...]:
    """The ranks of a group; long lists are written with dots in them, and are left aside."""
    try:
        found = json.loads(str(args.get("Process Group Ranks", "[]")))
    except ValueError:
        return ()
    if isinstance(found, list) and all(isinstance(rank, int) and 0 <= rank < 2**20 for rank in found):
        return tuple(found)
    return ()


def told_work(launched_by: KinetoEvent) -> Told | None:
    """The work of an operator from its recorded shapes; None where they are missing or no rule takes them."""
    shapes = _Shapes.of(launched_by)
    name = launched_by.name.removeprefix("aten::")
    if shapes is None or not launched_by.name.startswith("aten::"):
        return None
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        return _product(shapes, name)
    if name in ("convolution", "cudnn_convolution", "miopen_convolution", "_convolution"):
        return _convolution(shapes, name)
    if name in (
        "_flash_attention_forward",
        "_scaled_dot_product_flash_attention",
        "_efficient_attention_forward",
    ):
        return _attention(shapes, name)
    if name in ("_softmax", "_log_softmax", "native_layer_norm", "_fused_rms_norm"):
        return _rows(shapes, Softmax if "softmax" in name else Norm)
    if name in _POINTWISE:
        return _pointwise(shapes, Copy if name in ("copy_", "cat") else Elementwise)
    return None


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Shapes, element types and written arguments of an operator's inputs."""

    dims: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    concrete: tuple[str, ...]

    @classmethod
    def of(cls, event: KinetoEvent) -> _Shapes | None:
        dims, types = event.args.get("Input Dims"), event.args.get("Input type")
        if not isinstance(dims, list) or not isinstance(types, list) or len(dims) != len(types):
            return None
        shapes = []
        for entry in dims:
            lists = entry if entry and isinstance(entry, list) and isinstance(entry[0], list) else [entry]
            shapes += [
                tuple(side) if isinstance(side, list) and all(_side(n) for n in side) else ()
                for side in lists
            ]
        concrete = event.args.get("Concrete Inputs")
        return cls(
            tuple(shapes), tuple(_DTYPES.get(str(name).lower(), "") for name in types),
            tuple(map(str, concrete)) if isinstance(concrete, list) else (),
        )  # fmt: skip

    @property
    def dtype(self) -> str:
        return self.dtypes[0] if self.dtypes else ""

    def bytes(self, *shapes: Sequence[int]) -> int:
        return sum(prod(shape) for shape in shapes) * round(BITS[self.dtype]) // 8

    def written(self, place: int) -> list[int]:
        """A list argument as the profile writes it: ``[1, 1]``."""
        try:
            found = json.loads(self.concrete[place])
        except (IndexError, ValueError):
            return []
        return [n for n in found if _side(n)] if isinstance(found, list) else []


def _side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIDE


def _product(shapes: _Shapes, name: str) -> Told | None:
    operands = shapes.dims[1:3] if name in ("addmm", "baddbmm") else shapes.dims[:2]
    if len(operands) != 2:
        return None
    left, right = operands
    if (
        len(left) != len(right)
        or len(left) not in (2, 3)
        or left[-1] != right[-2]
        or not prod(left) * prod(right)
    ):
        return None
    batch = left[0] if len(left) == 3 else 1
    work = Product(m=left[-2], n=right[-1], k=left[-1], batch=batch)
    if shapes.dtype not in BITS:
        return None
    return Told(work, shapes.dtype, shapes.bytes(left, right), shapes.bytes((batch, work.m, work.n)))


def _convolution(shapes: _Shapes, name: str) -> Told | None:
    """A plain convolution of two dimensions; stride and padding are among the written arguments."""
    if (
        len(shapes.dims) < 2
        or len(shapes.dims[0]) != 4
        or len(shapes.dims[1]) != 4
        or shapes.dtype not in BITS
    ):
        return None
    n, c, h, w = shapes.dims[0]
    out, per_group, kernel_h, kernel_w = shapes.dims[1]
    first = 3 if name in ("convolution", "_convolution") else 2
    stride, padding = shapes.written(first), shapes.written(first + 1)
    if name not in ("convolution", "_convolution"):
        stride, padding = padding, stride
    if (
        len(stride) != 2
        or len(padding) != 2
        or 0 in (*stride, *shapes.dims[0], *shapes.dims[1])
        or c % per_group
    ):
        return None
    height = (h + 2 * padding[0] - kernel_h) // stride[0] + 1
    width = (w + 2 * padding[1] - kernel_w) // stride[1] + 1
    if min(height, width) < 1 or out % (c // per_group):
        return None
    work = Convolution(
        batch=n, in_channels=c, out_channels=out, height=h, width=w, kernel_h=kernel_h, kernel_w=kernel_w,
        stride_h=stride[0], stride_w=stride[1], padding_h=padding[0], padding_w=padding[1], groups=c // per_group,
        out_height=height, out_width=width,
    )  # fmt: skip
    return Told(work, shapes.dtype, shapes.bytes(*shapes.dims[:2]), shapes.bytes((n, out, height, width)))


def _attention(shapes: _Shapes, name: str) -> Told | None:
    """Query, key and value: heads before tokens in the operators of scaled dot products, after them in kernels'."""
    if len(shapes.dims) < 3 or any(len(side) != 4 or not prod(side) for side in shapes.dims[:3]):
        return None
    query, key, value = shapes.dims[:3]
    tokens, heads = (2, 1) if name.startswith("_scaled") else (1, 2)
    if shapes.dtype not in BITS or query[heads] % key[heads]:
        return None
    work = Attention(
        batch=query[0], heads=query[heads], kv_heads=key[heads], head_dim=query[3], v_head_dim=value[3],
        q_len=query[tokens], kv_len=key[tokens], causal="True" in shapes.concrete or "true" in shapes.concrete,
    )  # fmt: skip
    return Told(work, shapes.dtype, shapes.bytes(query, key, value), shapes.bytes(query))


def _rows(shapes: _Shapes, kind: type[Softmax] | type[Norm]) -> Told | None:
    if not shapes.dims or not shapes.dims[0] or not prod(shapes.dims[0]) or shapes.dtype not in BITS:
        return None
    shape = shapes.dims[0]
    size = shapes.bytes(shape)
    return Told(kind(m=prod(shape[:-1]), n=shape[-1], flops_per_element=5.0), shapes.dtype, size, size)


def _pointwise(shapes: _Shapes, kind: type[Elementwise] | type[Copy]) -> Told | None:
    sides = [shape for shape in shapes.dims if shape and min(shape) > 0]
    if not sides or shapes.dtype not in BITS:
        return None
    counts = [prod(shape) for shape in sides]
    elements = max(counts)
    work = kind(m=1, n=elements, flops_per_element=1.0 if kind is Elementwise else 0.0)
    return Told(work, shapes.dtype, shapes.bytes(*sides), shapes.bytes((elements,)))
