"""What each ONNX operator costs: its kind, FLOPs and traffic, from the shapes of what it reads and makes.

Rules cover the standard operator set and the fused operators that ONNX Runtime adds (domain com.microsoft).
An operator without a rule gets None and becomes ``custom``. FLOPs count a multiply-add as 2; an epilogue that
a fused operator carries (bias, activation) counts nothing, as in the built-in models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log2, prod
from typing import Final

from workloads.onnx_node import Cost, Node, Rule, over_rows
from workloads.onnx_sequence_costs import (
    attention,
    embed_layer_norm,
    fourier,
    grouped_query_attention,
    linear_attention,
    mixture,
    multi_head_attention,
    recurrent,
    rotary,
)
from workloads.onnx_windows import conv, conv_transpose, deformable_conv, global_pool, pool, region_pool
from workloads.operators import (
    Activation,
    Copy,
    Elementwise,
    Embedding,
    Gather,
    Loss,
    Norm,
    Optimizer,
    Product,
    Reduce,
    Resize,
    Rows,
    Scatter,
    Softmax,
    TopK,
)
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, SOFTMAX_FLOPS

__all__ = ["DOMAINS", "cost_of"]

DOMAINS: Final = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc", "ai.onnx.preview.training"}
)


def cost_of(node: Node) -> Cost | None:
    """The cost of an operator, or None where no rule is known or the rule does not fit its shapes."""
    rule = _RULES.get(node.op) if node.domain in DOMAINS else None
    if rule is None or not node.outputs:
        return None
    try:
        return rule(node)
    except (LookupError, ValueError, TypeError, ZeroDivisionError):
        return None


# --- pointwise -------------------------------------------------------------------------------------------


def _pointwise(kind: type[Rows], per_element: float) -> Rule:
    def rule(node: Node) -> Cost:
        out = max(node.outputs, key=lambda value: value.elements)
        terms = (
            max(1, sum(value is not None for value in node.inputs) - 1) if per_element < 0 else per_element
        )
        return Cost(over_rows(kind, out.shape, terms))

    return rule


def _clip(node: Node) -> Cost:
    return Cost(over_rows(Activation, node.out.shape, 2), (0,))


# --- products --------------------------------------------------------------------------------------------


def _matmul(node: Node, left: int = 0, right: int = 1) -> Cost:
    a, b = node.shape(left), node.shape(right)
    if node.get("transA"):
        a = (*a[:-2], a[-1], a[-2])
    if node.get("transB"):
        b = (*b[:-2], b[-1], b[-2])
    k, n = a[-1], b[-1] if len(b) > 1 else 1
    m = a[-2] if len(a) > 1 else 1
    batch = prod(node.out.shape) // (m * n) if m * n else 0
    if len(b) <= 2 and batch > 1:
        m, batch = m * batch, 1
    return Cost(Product(m=m, n=n, k=k, batch=batch))


def _gemm(node: Node) -> Cost:
    return _matmul(node)


def _integer_matmul(left: int, right: int, data: tuple[int, ...]) -> Rule:
    def rule(node: Node) -> Cost:
        cost = _matmul(node, left, right)
        cost.reads, cost.dtype = data, "int8"
        return cost

    return rule


def _einsum(node: Node) -> Cost:
    equation = node.get("equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, _, result = text.partition("->")
    terms = left.split(",")
    sides: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = node.shape(index)
        if "..." in term:
            head, tail = term.split("...")
            hidden = "".join(chr(0x100 + i) for i in range(len(shape) - len(head) - len(tail)))
            terms[index] = term = head + hidden + tail
            result = result.replace("...", hidden)
        sides |= dict(zip(term, shape, strict=True))
    if len(terms) != 2:
        kind, shape = (Reduce, node.shape(0)) if len(terms) == 1 else (Elementwise, node.out.shape)
        flops = (2.0 if len(terms) > 1 else 1.0) * prod(sides.values())
        return Cost(over_rows(kind, shape, flops / max(1, prod(shape))))
    first, second = set(terms[0]), set(terms[1])
    kept = set(result) if "->" in text else first ^ second
    lengths = (first & second & kept, first - second, second - first, (first & second) - kept)
    batch, m, n, k = (prod(sides[letter] for letter in letters) for letters in lengths)
    return Cost(Product(m=m, n=n, k=k, batch=batch))


def _matmul_n_bits(node: Node) -> Cost:
    k, n, bits = int(node.get("K")), int(node.get("N")), int(node.get("bits", 4))
    stored = {2: "int2", 4: "int4", 8: "int8"}[bits]
    work = Product(m=node.out.elements // n, n=n, k=k, weight_dtype=stored)
    return Cost(work, weights={1: ((n, k), stored)})


# --- norms, softmax, reductions --------------------------------------------------------------------------


def _norm(per_element: float, over: str = "", columns: Callable[[Node], int] | None = None) -> Rule:
    def rule(node: Node) -> Cost:
        n = None if columns is None else columns(node)
        return Cost(replace(over_rows(Norm, node.shape(0), per_element, n), norm=over))

    return rule


def _from_axis(node: Node) -> int:
    shape = node.shape(0)
    axis = int(node.get("axis", -1))
    return prod(shape[axis:]) if axis < 0 else prod(shape[axis % len(shape) :])


def _local_norm(node: Node) -> Cost:
    """Each element is divided by a norm over ``size`` neighbouring channels."""
    return Cost(over_rows(Norm, node.out.shape, 2.0 * int(node.get("size", 5)) + 3))


def _skip_norm(over: str) -> Rule:
    def rule(node: Node) -> Cost:
        work = over_rows(Norm, node.shape(0), NORM_FLOPS[over] + 1)
        return Cost(replace(work, norm=over, adds=1))

    return rule


def _softmax(node: Node) -> Cost:
    shape = node.shape(0)
    n = shape[int(node.get("axis", -1))] if shape else 1
    work = over_rows(Softmax, shape, SOFTMAX_FLOPS, n)
    return Cost(work, (0, 1) if node.op == "BiasSoftmax" else (0,))


def _reduce(per_element: float) -> Rule:
    def rule(node: Node) -> Cost:
        return Cost(over_rows(Reduce, node.shape(0), per_element), (0,))

    return rule


# --- data movement ---------------------------------------------------------------------------------------


def _moved(node: Node) -> Copy:
    out = max(node.outputs, key=lambda value: value.elements)
    return over_rows(Copy, out.shape)


def _copy(node: Node) -> Cost:
    data = tuple(i for i, v in enumerate(node.inputs) if v is not None and (i == 0 or node.op == "Concat"))
    return Cost(_moved(node), data)


def _fill(node: Node) -> Cost:
    return Cost(_moved(node), ())


def _part(node: Node) -> Cost:
    """Reads only what it writes: slices and crops."""
    return Cost(_moved(node), (0,), {0: sum(value.size for value in node.outputs)})


def _gather(node: Node) -> Cost:
    source, index = node.at(0), node.at(1)
    if source is None or index is None:
        raise LookupError
    table = (
        source.constant and len(source.shape) == 2 and int(node.get("axis", 0)) == 0 and index.elements > 0
    )
    kind = Embedding if table and not index.constant else Gather
    return Cost(over_rows(kind, node.out.shape), (0, 1) if index.array is None else (0,))


def _quantised_gather(node: Node) -> Cost:
    stored = {2: "int2", 4: "int4", 8: "int8"}[int(node.get("bits", 4))]
    table, width = node.shape(0), node.out.shape[-1]
    scales = dict.fromkeys(range(2, len(node.inputs)), 0)  # not counted, as those of any dequantised weight
    work = over_rows(Embedding, node.out.shape, 1.0)
    return Cost(work, touched=scales, weights={0: ((table[0], width), stored)})


def _scatter(node: Node) -> Cost:
    """Writes the updates into a copy; in place, the copy costs nothing, so only the updates count."""
    updates = node.at(2)
    changed = updates if updates is not None else node.out
    # Without a tensor of updates, what is written is made from the first operand.
    touched = {0: 0} if updates is not None else {0: changed.size}
    return Cost(over_rows(Scatter, changed.shape), touched=touched, written={0: changed.size})


def _topk(node: Node) -> Cost:
    shape = node.shape(0)
    axis = int(node.get("axis", -1))
    n, k = shape[axis], node.out.shape[axis]
    work = over_rows(TopK, shape, max(1.0, log2(max(k, 2))), n)
    return Cost(replace(work, k=k), (0,))


def _non_max_suppression(node: Node) -> Cost:
    """Every kept box is compared with every candidate of its class; the bound of the greedy algorithm."""
    batch, boxes = node.shape(0)[:2]
    classes = node.shape(1)[1]
    kept = min(boxes, node.out.shape[0])
    return Cost(TopK(m=batch * classes, n=boxes, k=kept, flops_per_element=10.0 * kept), (0, 1))


def _resize(node: Node) -> Cost:
    mode = node.get("mode", b"nearest")
    name = mode.decode() if isinstance(mode, bytes) else str(mode)
    rank = max(1, len(node.out.shape) - 2)
    per_element = {"nearest": 0.0, "linear": 2.0**rank * 2 - 1, "bilinear": 7.0, "cubic": 4.0**rank * 2}
    work = over_rows(Resize, node.out.shape, per_element.get(name, 7.0))
    return Cost(replace(work, mode=name), (0,))


def _grid_sample(node: Node) -> Cost:
    return Cost(replace(over_rows(Resize, node.out.shape, 7.0), mode="bilinear"))


# --- training --------------------------------------------------------------------------------------------


def _loss(node: Node) -> Cost:
    return Cost(over_rows(Loss, node.shape(0), SOFTMAX_FLOPS + 1.0))


def _optimizer(states: int) -> Rule:
    def rule(node: Node) -> Cost:
        elements = sum(value.elements for value in node.outputs) // (states + 1)
        return Cost(Optimizer(parameters=elements, states=states, flops_per_parameter=4.0 + 4 * states))

    return rule


_ELEMENTWISE: Final = {
    "Add": -1, "Sub": 1, "Mul": 1, "Div": 1, "Pow": 2, "Mod": 1, "Max": -1, "Min": -1, "Mean": -1, "Sum": -1,
    "And": 1, "Or": 1, "Xor": 1, "Not": 1, "Equal": 1, "Greater": 1, "Less": 1, "GreaterOrEqual": 1,
    "LessOrEqual": 1, "BitShift": 1, "BitwiseAnd": 1, "BitwiseOr": 1, "BitwiseXor": 1, "BitwiseNot": 1,
    "Where": 1,
    "Abs": 1, "Neg": 1, "Ceil": 1, "Floor": 1, "Round": 1, "Sign": 1, "Sqrt": 1, "Reciprocal": 1, "Exp": 1,
    "Log": 1, "Sin": 1, "Cos": 1, "Tan": 1, "Asin": 1, "Acos": 1, "Atan": 1, "Sinh": 1, "Cosh": 1, "Asinh": 1,
    "Acosh": 1, "Atanh": 1, "Erf": 1, "IsNaN": 1, "IsInf": 1, "Cast": 1, "CastLike": 1, "Dropout": 1,
    "QuantizeLinear": 2, "DequantizeLinear": 2, "DynamicQuantizeLinear": 5, "QLinearAdd": 5, "QLinearMul": 4,
    "BiasAdd": 2, "Bernoulli": 2, "Rsqrt": 2, "Inverse": 2, "AddcMul": 2,
}  # fmt: skip
"""Operations per output element; -1 means one less than the number of inputs."""

_ACTIVATIONS: Final = {
    "Relu": 1, "LeakyRelu": 2, "Elu": 3, "Selu": 4, "Celu": 4, "Sigmoid": 4, "HardSigmoid": 3, "HardSwish": 4,
    "Softplus": 3, "Softsign": 3, "Tanh": 4, "Gelu": ACTIVATION_FLOPS["gelu_erf"], "Mish": 6,
    "ThresholdedRelu": 1, "Shrink": 2, "Swish": ACTIVATION_FLOPS["silu"], "PRelu": 2,
    "FastGelu": ACTIVATION_FLOPS["gelu"],
    "BiasGelu": ACTIVATION_FLOPS["gelu_erf"] + 1, "QuickGelu": 5, "BiasSplitGelu": 7, "QLinearSigmoid": 6,
    "QLinearLeakyRelu": 4, "FusedGelu": ACTIVATION_FLOPS["gelu_erf"],
    "SwiGLU": ACTIVATION_FLOPS["silu"] + 1,
}  # fmt: skip

_REDUCTIONS: Final = {
    "ReduceSum": 1, "ReduceMean": 1, "ReduceMax": 1, "ReduceMin": 1, "ReduceProd": 1, "ReduceL1": 2,
    "ReduceL2": 2,
    "ReduceSumSquare": 2, "ReduceLogSum": 1, "ReduceLogSumExp": 3, "ArgMax": 1, "ArgMin": 1, "CumSum": 1,
    "CumProd": 1, "Det": 1, "QLinearReduceMean": 2, "NonZero": 1, "Unique": 4, "Compress": 0,
}  # fmt: skip

_MOVES: Final = (
    "Transpose", "Concat", "Tile", "Expand", "Pad", "DepthToSpace", "SpaceToDepth", "ReverseSequence",
    "Col2Im",
    "Trilu", "QLinearConcat", "MaxUnpool", "UnfoldTensor", "TransposeLast2",
)  # fmt: skip
_PARTS: Final = ("Slice", "Split", "CenterCropPad", "Crop")
_FILLS: Final = (
    "ConstantOfShape", "Range", "EyeLike", "RandomNormal", "RandomUniform", "RandomNormalLike",
    "RandomUniformLike", "Multinomial", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix",
    "AffineGrid", "OneHot", "Shape", "Size",
)  # fmt: skip

_RULES: Final[dict[str, Rule]] = {
    **{op: _pointwise(Elementwise, per) for op, per in _ELEMENTWISE.items()},
    **{op: _pointwise(Activation, per) for op, per in _ACTIVATIONS.items()},
    **{op: _reduce(per) for op, per in _REDUCTIONS.items()},
    **dict.fromkeys(_MOVES, _copy),
    **dict.fromkeys(_PARTS, _part),
    **dict.fromkeys(_FILLS, _fill),
    "Clip": _clip,
    "MatMul": _matmul, "Gemm": _gemm, "FusedMatMul": _matmul, "FusedGemm": _gemm, "TransposeMatMul": _matmul,
    "GemmFastGelu": _matmul, "Einsum": _einsum, "MatMulNBits": _matmul_n_bits, "MatMulBnb4": _matmul_n_bits,
    "MatMulInteger": _integer_matmul(0, 1, (0, 1)), "QLinearMatMul": _integer_matmul(0, 3, (0, 3)),
    "MatMulIntegerToFloat": _integer_matmul(0, 1, (0, 1, 2, 3, 6)),
    "DynamicQuantizeMatMul": _integer_matmul(0, 1, (0, 1, 2, 4)), "QGemm": _integer_matmul(0, 3, (0, 3, 6)),
    "Conv": conv(0, 1), "FusedConv": conv(0, 1),
    "NhwcConv": conv(0, 1, last=True), "NhwcFusedConv": conv(0, 1, last=True),
    "ConvInteger": conv(0, 1, (0, 1), "int8"), "QLinearConv": conv(0, 3, (0, 3, 8), "int8"),
    "ConvTranspose": conv_transpose, "DeformConv": deformable_conv,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "NhwcMaxPool", "QLinearAveragePool"), pool),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "QLinearGlobalAveragePool"), global_pool
    ),
    "MaxRoiPool": region_pool, "RoiAlign": region_pool,
    "BatchNormalization": _norm(2, "batch", lambda node: node.shape(0)[1]),
    "InstanceNormalization": _norm(7),
    "LayerNormalization": _norm(NORM_FLOPS["layer"], "layer", _from_axis),
    "GroupNormalization": _norm(7, "group"), "GroupNorm": _norm(7, "group"),
    "SkipGroupNorm": _norm(8, "group"),
    "LpNormalization": _norm(3),
    "RMSNormalization": _norm(NORM_FLOPS["rms"], "rms", _from_axis),
    "SimplifiedLayerNormalization": _norm(NORM_FLOPS["rms"], "rms", _from_axis),
    "MeanVarianceNormalization": _norm(6), "LRN": _local_norm,
    "SkipLayerNormalization": _skip_norm("layer"), "SkipSimplifiedLayerNormalization": _skip_norm("rms"),
    "EmbedLayerNormalization": embed_layer_norm,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "QLinearSoftmax", "BiasSoftmax"), _softmax),
    "Gather": _gather, "GatherElements": _gather, "GatherND": _gather,
    "GatherBlockQuantized": _quantised_gather,
    **dict.fromkeys(("Scatter", "ScatterElements", "ScatterND", "TensorScatter"), _scatter),
    "TopK": _topk, "NonMaxSuppression": _non_max_suppression,
    "Resize": _resize, "Upsample": _resize, "GridSample": _grid_sample,
    "LSTM": recurrent(4), "GRU": recurrent(3), "RNN": recurrent(1),
    "LinearAttention": linear_attention, "CausalConvWithState": conv(0, 1),
    "Attention": attention, "MultiHeadAttention": multi_head_attention,
    "GroupQueryAttention": grouped_query_attention, "RotaryEmbedding": rotary,
    "DFT": fourier, "STFT": fourier, "Rfft": fourier, "Irfft": fourier, "MoE": mixture, "QMoE": mixture,
    "SoftmaxCrossEntropyLoss": _loss, "NegativeLogLikelihoodLoss": _loss,
    "Adam": _optimizer(2), "Adagrad": _optimizer(1), "Momentum": _optimizer(1),
}  # fmt: skip
"""Rules by operator name, over all known domains."""
