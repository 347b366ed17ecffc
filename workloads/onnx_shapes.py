"""Output shapes where the onnx package has no answer: ONNX Runtime's fused operators, and sizes that depend
on the data.

Standard operators are inferred by ``onnx.shape_inference``. The operators of domain com.microsoft have no
schema there, so their shapes follow from the rules below. An output whose size only the data decides (the
non-zero elements, the boxes that survive) is taken at its upper bound, and the importer says so.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Final

from workloads.onnx_node import Node, Value

__all__ = ["fused_shapes", "upper_bound"]

Shape = tuple[int, ...]
Typed = tuple[Shape, int]
"""A shape and an ONNX element type."""

FLOAT32: Final = 1


def fused_shapes(node: Node) -> list[Typed] | None:
    """Shapes and element types of the outputs of a com.microsoft operator; None where no rule is known."""
    rule = _FUSED.get(node.op)
    first = node.at(0)
    if rule is None or first is None:
        return None
    try:
        shapes = rule(node)
    except (LookupError, ValueError, TypeError, ZeroDivisionError):
        return None
    element = FLOAT32 if node.op in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul") else first.element
    if node.op in ("EmbedLayerNormalization", "GatherBlockQuantized"):
        table = node.at(2)
        element = table.element if table is not None else FLOAT32
    return [(shape, element) for shape in shapes]


def upper_bound(node: Node, partial: tuple[int | None, ...] | None) -> Shape | None:
    """The largest shape an output can have; ``partial`` holds the sides that are known. None: no bound."""
    first = node.at(0)
    if first is None:
        return None
    if node.op == "NonZero":
        return (len(first.shape), first.elements)
    if node.op == "NonMaxSuppression":
        return _kept_boxes(node)
    if node.op in ("Unique", "Compress") and node.get("axis") is None:
        return (first.elements,)
    if partial is None:
        return None
    unknown = [index for index, side in enumerate(partial) if side is None]
    known = prod(side for side in partial if side is not None)
    if node.op == "Reshape" and len(unknown) == 1 and known:
        return tuple(first.elements // known if side is None else side for side in partial)
    if len(partial) == len(first.shape):
        return tuple(first.shape[index] if side is None else side for index, side in enumerate(partial))
    return None


def _kept_boxes(node: Node) -> Shape:
    batch, boxes = node.shape(0)[:2]
    classes = node.shape(1)[1]
    limit = node.at(2)
    kept = boxes
    if limit is not None and limit.array is not None and limit.array.size:
        kept = min(boxes, max(0, int(limit.array.reshape(-1)[0])))
    return (batch * classes * kept, 3)


def _same(node: Node) -> list[Shape]:
    return [node.shape(0)]


def _skip_norm(node: Node) -> list[Shape]:
    """Output, mean, inverse deviation and the sum of input and skip."""
    shape = node.shape(0)
    rows = (*shape[:-1], 1)
    return [shape, rows, rows, shape]


def _product(right: int) -> Callable[[Node], list[Shape]]:
    def rule(node: Node) -> list[Shape]:
        a, b = node.shape(0), node.shape(right)
        if node.get("transA"):
            a = (*a[:-2], a[-1], a[-2])
        if node.get("transB"):
            b = (*b[:-2], b[-1], b[-2])
        lead = a[:-2] if len(a) >= len(b) else b[:-2]
        return [(*lead, a[-2], b[-1])]

    return rule


def _packed_product(node: Node) -> list[Shape]:
    return [(*node.shape(0)[:-1], int(node.get("N")))]


def _broadcast(left: int, right: int) -> Callable[[Node], list[Shape]]:
    def rule(node: Node) -> list[Shape]:
        a, b = node.shape(left), node.shape(right)
        rank = max(len(a), len(b))
        a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
        return [tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))]

    return rule


def _quantised_concat(node: Node) -> list[Shape]:
    parts = [value.shape for value in node.inputs[2::3] if value is not None]
    shape = list(parts[0])
    axis = int(node.get("axis", 1))
    shape[axis] = sum(part[axis] for part in parts)
    return [tuple(shape)]


def _quantised_global_pool(node: Node) -> list[Shape]:
    shape = node.shape(0)
    ones = (1,) * (len(shape) - 2)
    return [(shape[0], *ones, shape[-1]) if node.get("channels_last") else (*shape[:2], *ones)]


def _channels_last_conv(node: Node) -> list[Shape]:
    image, kernel = node.shape(0), node.shape(1)
    rank = len(kernel) - 2
    strides, dilations = node.get("strides") or (1,) * rank, node.get("dilations") or (1,) * rank
    pads = node.get("pads") or (0,) * (2 * rank)
    sides = (
        (image[1 + i] + pads[i] + pads[i + rank] - dilations[i] * (kernel[2 + i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    )
    return [(image[0], *sides, kernel[0])]


def _embed_norm(node: Node) -> list[Shape]:
    batch, length = node.shape(0)
    shape = (batch, length, node.shape(2)[-1])
    return [shape, (batch,), shape]


def _packed_attention(node: Node) -> list[Shape]:
    batch, length, _ = node.shape(0)
    sizes = node.get("qkv_hidden_sizes")
    columns = node.shape(1)[-1]
    out = int(sizes[2]) if sizes else columns // 3
    heads = int(node.get("num_heads"))
    past = node.at(8 if node.op == "QAttention" else 4)
    before = past.shape[3] if past is not None else 0
    return [(batch, length, out), (2, batch, heads, before + length, out // heads)]


def _multi_head(node: Node) -> list[Shape]:
    query, heads = node.shape(0), int(node.get("num_heads"))
    key, value, past = node.at(1), node.at(2), node.at(6)
    batch, length = query[:2]
    hidden = query[2] * query[4] if len(query) == 5 else query[2]
    out = hidden
    if value is not None:
        out = value.shape[1] * value.shape[3] if len(value.shape) == 4 else value.shape[2]
    keys = length if key is None else key.shape[2] if len(key.shape) == 4 else key.shape[1]
    total = keys + (past.shape[2] if past is not None and len(past.shape) == 4 else 0)
    return [
        (batch, length, out),
        (batch, heads, total, hidden // heads),
        (batch, heads, total, out // heads),
    ]


def _grouped_query(node: Node) -> list[Shape]:
    batch, length, width = node.shape(0)
    heads, kv_heads = int(node.get("num_heads")), int(node.get("kv_num_heads"))
    size = width // (heads + 2 * kv_heads) if node.at(1) is None else width // heads
    past: Value | None = node.at(3)
    total = length + (past.shape[2] if past is not None and len(past.shape) == 4 else 0)
    cache = (batch, kv_heads, total, size)
    return [(batch, length, heads * size), cache, cache]


def _quantised_gather(node: Node) -> list[Shape]:
    table, index = node.shape(0), node.shape(1)
    first = node.at(0)
    packed = 8 // int(node.get("bits", 4)) if first is not None and first.dtype == "uint8" else 1
    return [(*index, *table[1:-1], table[-1] * packed)]


def _halved(node: Node) -> list[Shape]:
    shape = node.shape(0)
    return [(*shape[:-1], shape[-1] // 2)]


_FUSED: Final[dict[str, Callable[[Node], list[Shape]]]] = {
    **dict.fromkeys(
        (
            "BiasGelu", "FastGelu", "QuickGelu", "Gelu", "FusedGelu", "SimplifiedLayerNormalization",
            "RotaryEmbedding", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "BiasSoftmax",
            "BiasAdd",
            "GroupNorm", "Inverse", "MoE", "QMoE", "BiasDropout",
        ),
        _same,
    ),
    "SkipLayerNormalization": _skip_norm,
    "SkipSimplifiedLayerNormalization": _skip_norm,
    "SkipGroupNorm": lambda node: [node.shape(0), node.shape(0)],
    "EmbedLayerNormalization": _embed_norm,
    **dict.fromkeys(
        ("FusedMatMul", "TransposeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FusedGemm",
         "GemmFastGelu"),
        _product(1),
    ),
    "QGemm": _product(3),
    "MatMulNBits": _packed_product,
    "MatMulBnb4": _packed_product,
    "QLinearAdd": _broadcast(0, 3),
    "QLinearMul": _broadcast(0, 3),
    "QLinearConcat": _quantised_concat,
    "QLinearGlobalAveragePool": _quantised_global_pool,
    "NhwcConv": _channels_last_conv,
    "NhwcFusedConv": _channels_last_conv,
    "Attention": _packed_attention,
    "QAttention": _packed_attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped_query,
    "GatherBlockQuantized": _quantised_gather,
    "BiasSplitGelu": _halved,
}  # fmt: skip
