"""What an operator of an exported programme does: products, attention, convolutions, norms, pointwise and the rest.

Views move nothing. An operator without a rule here becomes ``custom`` and is reported. FLOPs per element of
pointwise functions are those of the ONNX reader's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from workloads.operators import (
    Activation,
    Attention,
    Convolution,
    Copy,
    Custom,
    Elementwise,
    Embedding,
    Gather,
    Norm,
    Pool,
    Product,
    Reduce,
    Resize,
    Rows,
    Softmax,
    Sort,
    TopK,
    Work,
)
from workloads.torch_export.programme import Call

__all__ = ["IGNORED", "VIEWS", "Sized", "work_of"]

Shape = tuple[int, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS: Final = _words(
    """view reshape _unsafe_view unsqueeze squeeze transpose permute t expand expand_as slice alias detach detach_
    lift_fresh_copy contiguous flatten unflatten select narrow as_strided clone dropout split chunk
    split_with_sizes unbind movedim swapaxes view_as real imag _to_copy to type_as"""
)
"""Operators whose results are their input's bytes; conversions of the element type among them copy."""
IGNORED: Final = _words(
    """_assert_tensor_metadata _assert_scalar _assert_async sym_size sym_numel sym_stride sym_constrain_range
    sym_constrain_range_for_size item _local_scalar_dense"""
)
"""Operators that only check or ask for sizes."""

_ACTIVATIONS: Final[Mapping[str, tuple[str, float]]] = {
    "relu": ("relu", 1), "relu_": ("relu", 1), "gelu": ("gelu", 8), "silu": ("silu", 5), "silu_": ("silu", 5),
    "sigmoid": ("sigmoid", 4), "tanh": ("tanh", 4), "hardswish": ("hardswish", 4), "hardswish_": ("hardswish", 4),
    "hardsigmoid": ("hardsigmoid", 3), "leaky_relu": ("leaky_relu", 2), "elu": ("elu", 4), "softplus": ("softplus", 4),
    "mish": ("mish", 8), "relu6": ("relu6", 2), "hardtanh": ("hardtanh", 2), "hardtanh_": ("hardtanh", 2),
    "clamp": ("clip", 2), "prelu": ("prelu", 2), "logit": ("logit", 4),
}  # fmt: skip
_POINTWISE: Final = _words(
    """add add_ sub sub_ rsub mul mul_ div div_ floor_divide remainder fmod neg abs pow exp exp2 log log2 log1p sqrt
    rsqrt reciprocal sin cos tan erf floor ceil round trunc sign square maximum minimum where masked_fill
    masked_fill_ eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or
    bitwise_not bitwise_xor __and__ __or__ isnan isinf lerp addcmul addcdiv clamp_min clamp_max fill fill_ copy
    copy_ ones_like zeros_like full_like new_ones new_zeros new_full full ones zeros arange scalar_tensor empty
    linspace eye tril triu triu_ tril_ rand randn _to_copy to outer diff fill_diagonal_ polar complex nan_to_num"""
)
_REDUCTIONS: Final = _words(
    """sum mean amax amin max min prod any all argmax argmin var std var_mean logsumexp norm cumsum cumprod"""
)
_COPIES: Final = _words(
    """cat stack repeat repeat_interleave roll flip pad constant_pad_nd pixel_shuffle pixel_unshuffle tile unfold
    im2col"""
)
_GATHERS: Final = _words("""index index_select gather take_along_dim masked_select""")


@dataclass(frozen=True, slots=True)
class Sized:
    """The shape of a tensor, and how many elements are behind it where it is an expanded view."""

    shape: Shape
    stored: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


Rule = Callable[[Call, Mapping[str, Sized], Sized], "Work | None"]


def work_of(name: str, call: Call, known: Mapping[str, Sized], out: Sized) -> Work:
    """The work of a call of the aten operator ``name`` that makes ``out``; ``Custom`` where no rule takes it."""
    try:
        found = _RULES[name](call, known, out) if name in _RULES else _simple(name, out)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        found = None
    return Custom() if found is None else found


def _simple(name: str, out: Sized) -> Work | None:
    if name in _ACTIVATIONS:
        function, flops = _ACTIVATIONS[name]
        return Activation(m=1, n=out.elements, function=function, flops_per_element=flops)
    if name in _POINTWISE:
        return Elementwise(m=1, n=out.elements, function=name, flops_per_element=1.0)
    if name in _COPIES:
        return Copy(m=1, n=out.elements)
    return None


def _first(call: Call, known: Mapping[str, Sized], *names: str) -> Sized:
    """The first tensor among the arguments of these names. Raises ``KeyError`` where there is none."""
    for name in names:
        for tensor in call.tensors(name):
            return known[tensor]
    raise KeyError(names)


def _linear(call: Call, known: Mapping[str, Sized], out: Sized) -> Work:
    weight = _first(call, known, "weight").shape
    bias = float(out.elements) if call.tensors("bias") else 0.0
    return Product(m=out.elements // weight[0], n=weight[0], k=weight[1], extra_flops=bias)


def _matmul(call: Call, known: Mapping[str, Sized], out: Sized) -> Work:
    """mm, bmm, addmm, baddbmm, matmul: batches are the sides before the last two of the result."""
    left = _first(call, known, "mat1", "batch1", "self").shape
    if call.target.startswith(("aten.addmm", "aten.baddbmm")):
        left = _first(call, known, "mat1", "batch1").shape
    right = _first(call, known, "mat2", "batch2", "other", "vec").shape
    bias = float(out.elements) if call.target.startswith(("aten.addmm", "aten.baddbmm")) else 0.0
    if len(right) == 1:
        return Product(m=out.elements, n=1, k=left[-1])
    if len(left) == 1:
        return Product(m=1, n=out.elements, k=left[-1])
    if len(right) == 2:
        return Product(m=prod(left[:-1]), n=right[-1], k=left[-1], extra_flops=bias)
    return Product(m=left[-2], n=right[-1], k=left[-1], batch=prod(out.shape[:-2]), extra_flops=bias)


def _attention(call: Call, known: Mapping[str, Sized], _: Sized) -> Work:
    """Scaled dot products: heads before tokens. Keys expanded to all query heads are read as they are stored."""
    query, key, value = (_first(call, known, name) for name in ("query", "key", "value"))
    *batch, heads, q_len, size = query.shape
    kv_len = key.shape[-2]
    kv_heads = max(key.stored // max(prod(batch) * kv_len * size, 1), 1)
    if heads % kv_heads:
        kv_heads = key.shape[-3]
    return Attention(
        batch=prod(batch), heads=heads, kv_heads=kv_heads, head_dim=size, v_head_dim=value.shape[-1], q_len=q_len,
        kv_len=kv_len, causal=call.flag("is_causal"),
    )  # fmt: skip


def _two(values: Sequence[int], default: int) -> tuple[int, int]:
    if not values:
        return default, default
    return (values[0], values[0]) if len(values) == 1 else (values[-2], values[-1])


def _convolution(call: Call, known: Mapping[str, Sized], out: Sized) -> Work:
    image, weight = _first(call, known, "input", "self").shape, _first(call, known, "weight").shape
    transposed = call.flag("transposed") or "transpose" in call.target
    kernel = weight[2:]
    stride, padding = _two(call.numbers("stride"), 1), _two(call.numbers("padding"), 0)
    dilation = max(_two(call.numbers("dilation"), 1))
    height, width = (image[-2], image[-1]) if len(kernel) > 1 else (1, image[-1])
    out_height, out_width = (out.shape[-2], out.shape[-1]) if len(kernel) > 1 else (1, out.shape[-1])
    kernel_h, kernel_w = (kernel[-2], kernel[-1]) if len(kernel) > 1 else (1, kernel[-1])
    depth = prod(out.shape[2:-2]) if len(kernel) > 2 else 1
    channels = image[1] * (prod(kernel[:-2]) if len(kernel) > 2 else 1)
    groups = max(call.number("groups", 1), 1)
    bias = float(out.elements) if call.tensors("bias") else 0.0
    return Convolution(
        batch=image[0] * depth, in_channels=channels, out_channels=out.shape[1], height=height, width=width,
        kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride[0], stride_w=stride[1], padding_h=padding[0],
        padding_w=padding[1], dilation=dilation, groups=groups, out_height=out_height, out_width=out_width,
        transposed=transposed, extra_flops=bias,
    )  # fmt: skip


def _norm(call: Call, known: Mapping[str, Sized], _: Sized) -> Work:
    """Layer, RMS, group and batch norm over rows of their last sides."""
    source = _first(call, known, "input", "self")
    kind = next((word for word in ("batch", "group", "rms", "layer") if word in call.target), "layer")
    columns = prod(call.numbers("normalized_shape")) or source.shape[-1]
    if kind == "batch":
        columns = source.shape[1]
    flops = 4.0 if kind == "rms" else 2.0 if kind == "batch" else 8.0
    return Norm(m=source.elements // max(columns, 1), n=columns, norm=kind, flops_per_element=flops)


def _rows(kind: type[Rows], flops: float) -> Rule:
    def rule(call: Call, known: Mapping[str, Sized], _: Sized) -> Work:
        source = _first(call, known, "self", "input")
        columns = source.shape[-1] if source.shape else 1
        return kind(m=source.elements // max(columns, 1), n=columns, flops_per_element=flops)

    return rule


def _reduced(call: Call, known: Mapping[str, Sized], out: Sized) -> Work:
    source = _first(call, known, "self", "input")
    return Reduce(
        m=max(out.elements, 1), n=max(source.elements // max(out.elements, 1), 1), flops_per_element=1.0
    )


def _looked_up(kind: type[Embedding] | type[Gather]) -> Rule:
    def rule(_: Call, __: Mapping[str, Sized], out: Sized) -> Work:
        columns = out.shape[-1] if out.shape else 1
        return kind(m=out.elements // max(columns, 1), n=columns)

    return rule


def _pooled(call: Call, known: Mapping[str, Sized], out: Sized) -> Work:
    window = _two(call.numbers("kernel_size"), 0)
    if not prod(window):
        source = _first(call, known, "self", "input")
        return Pool(m=1, n=out.elements, flops_per_element=source.elements / max(out.elements, 1))
    stride = _two(call.numbers("stride"), window[0])
    return Pool(
        m=1, n=out.elements, kernel_h=window[0], kernel_w=window[1], stride_h=stride[0], stride_w=stride[1],
        flops_per_element=float(prod(window)),
    )  # fmt: skip


_BY_NAMES: Final[Mapping[str, Rule]] = {
    "linear": _linear,
    "mm bmm matmul addmm baddbmm mv dot": _matmul,
    "scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d": _convolution,
    "layer_norm native_layer_norm rms_norm _fused_rms_norm group_norm native_group_norm batch_norm instance_norm "
    "_native_batch_norm_legit_no_training native_batch_norm": _norm,
    "softmax _softmax log_softmax _log_softmax _safe_softmax": _rows(Softmax, 5.0),
    "embedding": _looked_up(Embedding),
    "max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "_adaptive_avg_pool2d adaptive_max_pool2d": _pooled,
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d": _rows(Resize, 4.0),
    "topk": _rows(TopK, 0.0),
    "sort argsort": _rows(Sort, 0.0),
}
_RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(_GATHERS, _looked_up(Gather)),
    **{name: rule for names, rule in _BY_NAMES.items() for name in names.split()},
}
