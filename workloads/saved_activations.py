"""What eager PyTorch keeps of a forward pass for the backward pass, operator by operator.

A fused kernel keeps what its derivative needs; eager code keeps what each of its small operators needs, the casts and
squares between them too. Rules are those of autograd's derivative formulas (``tools/autograd/derivatives.yaml``) for
the steps in which Hugging Face's and torchvision's models are written (github.com/huggingface/transformers,
``models/*/modeling_*.py``; github.com/pytorch/vision): a product keeps its input, a layer norm its input and two
figures per row, an RMS norm an FP32 copy, a root per row and the normed rows, softmax its result, a gate both its
factors. Storages are counted once, whoever keeps them; parameters, buffers and single numbers are not counted.

The graph has to be the unfused one (``fused=False``), whose operators are those that eager code runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from workloads.dtypes import dtype_bits
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import (
    Activation,
    Attention,
    Convolution,
    Elementwise,
    Embedding,
    GroupedProduct,
    Norm,
    Pool,
    Product,
    Reduce,
    Rotary,
    Softmax,
)

__all__ = ["EAGER_FORMS", "PLAIN_FORM", "EagerForm", "Kept", "form_of", "kept_by"]

INDEX_DTYPE: Final = "int64"
STATISTICS: Final = "fp32"
"""Type of means, roots and of arithmetic between casts."""


@dataclass(frozen=True, slots=True)
class EagerForm:
    """How a family's code is written where families differ.

    ``softmax``: type in which attention's probabilities are computed ("" for the activations' own). ``gemma_norm``: an
    RMS norm multiplies by one plus its weight, in FP32. ``caps``: attention scores go through a tanh (Gemma 2).
    ``joined``: queries, keys and values are parts of one result; those of a lone sequence are no copy, so that
    its queries keep the whole of it. ``broadcasts``: a lone key head meets all query heads without a copy, in a lone
    sequence. ``mask``: the causal mask is an argument of every layer, which checkpointing keeps. ``library``:
    attention is the framework's own module in plain arithmetic, in FP32 throughout, with queries, keys and values of
    one result (``torch.nn.MultiheadAttention``, as torchvision's ViT has it).
    """

    softmax: str = STATISTICS
    gemma_norm: bool = False
    caps: bool = False
    joined: bool = False
    broadcasts: bool = False
    mask: bool = False
    library: bool = False


PLAIN_FORM: Final = EagerForm()

EAGER_FORMS: Final[Mapping[str, EagerForm]] = {
    "gpt2": EagerForm(softmax="", joined=True, mask=True), "gpt_bigcode": EagerForm(softmax="", joined=True),
    "bloom": EagerForm(joined=True), "falcon": EagerForm(softmax="", broadcasts=True),
    "ViT": EagerForm(library=True), "gptj": EagerForm(softmax=""), "vit": EagerForm(softmax=""),
    "bert": EagerForm(softmax=""),
    "roberta": EagerForm(softmax=""), "gemma": EagerForm(gemma_norm=True),
    "gemma2": EagerForm(gemma_norm=True, caps=True), "gemma3_text": EagerForm(gemma_norm=True),
}  # fmt: skip
"""By family (``model_type``), as transformers 5.24 has them; all others are written as Llama is."""


def form_of(family: str) -> EagerForm:
    """How a family's eager code is written."""
    return EAGER_FORMS.get(family, PLAIN_FORM)


@dataclass(frozen=True, slots=True)
class Kept:
    """What one operator keeps: tensors of the graph by name, and storages that only its own steps make.

    ``instead``: storages that stand for an input in the backward pass (keys repeated for all query heads).
    """

    tensors: tuple[str, ...] = ()
    made: tuple[Tensor, ...] = ()
    instead: Mapping[str, str] | None = None


NOTHING: Final = Kept()


def kept_by(op: Operator, graph: Graph, form: EagerForm) -> Kept:
    """What an operator of an unfused forward graph keeps for the backward pass."""
    work = op.work
    if isinstance(work, Norm):
        return _norm(op, work, graph, form)
    if isinstance(work, Product):
        return _product(op, work, graph, form)
    if isinstance(work, Softmax):
        return _softmax(op, work, graph, form)
    if isinstance(work, Activation):
        return _activation(op, work, graph)
    if isinstance(work, Embedding):
        return Kept(made=(_indices(op, graph),))
    if isinstance(work, Rotary):
        return Kept(made=_angles(op, work, graph))
    if isinstance(work, Pool):
        return _pool(op, work, graph)
    if isinstance(work, Elementwise) and work.function == "dropout":
        return Kept(op.outputs[1:])
    if isinstance(work, Elementwise):
        return Kept(_floats(op, graph)) if work.function in ("multiply", "mul") else _after(op, work)
    if isinstance(work, GroupedProduct):
        return _grouped(op, work, graph)
    if isinstance(work, Reduce):
        # Rows of experts are weighted before they are summed; a plain mean keeps nothing.
        weighted = _floats(op, graph)
        return Kept(weighted) if len(weighted) > 1 else NOTHING
    if isinstance(work, Convolution):
        return Kept(tuple(name for name in _floats(op, graph) if not graph.tensors[name].is_weight))
    if isinstance(work, Attention):
        rows = work.batch * work.heads * work.q_len
        return Kept((*_floats(op, graph), *op.outputs), (_made(op, "sums", (rows,), STATISTICS),))
    if op.kind in ("linear_attention", "recurrent", "scan", "custom"):
        return Kept((*_floats(op, graph), *op.outputs))
    return NOTHING


def _made(op: Operator, label: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    return Tensor(f"{op.name}.{label}", shape, dtype, Role.ACTIVATION)


def _floats(op: Operator, graph: Graph) -> tuple[str, ...]:
    """Inputs that are activations of a float type."""
    return tuple(
        name for name in op.inputs
        if graph.tensors[name].role is Role.ACTIVATION and not graph.tensors[name].dtype.startswith(("int", "bool"))
    )  # fmt: skip


def _after(op: Operator, work: Elementwise) -> Kept:
    """A sum keeps nothing; a rectifier behind it its result."""
    return Kept(op.outputs[:1]) if work.activation else NOTHING


def _norm(op: Operator, work: Norm, graph: Graph, form: EagerForm) -> Kept:
    source = graph.tensors[op.inputs[0]]
    weights = [graph.tensors[name] for name in op.inputs if graph.tensors[name].role is Role.WEIGHT]
    wide = prod(weights[0].shape) if weights else work.n
    elements = work.m * work.n
    if work.norm == "batch":
        stats = tuple(_made(op, label, (work.n,), STATISTICS) for label in ("mean", "root"))
        return Kept((source.name,), stats)
    rows = max(elements // wide, 1)
    if work.norm != "rms":
        return Kept(
            (source.name,), tuple(_made(op, label, (rows,), STATISTICS) for label in ("mean", "root"))
        )
    made = [_made(op, "root", (rows,), STATISTICS)]
    kept: tuple[str, ...] = (source.name,)
    if dtype_bits(source.dtype) < dtype_bits(STATISTICS):
        kept = ()
        made.append(_made(op, "wide", (rows, wide), STATISTICS))
    if weights:
        made.append(_made(op, "normed", (rows, wide), STATISTICS if form.gemma_norm else source.dtype))
    if weights and form.gemma_norm:
        made.append(_made(op, "factor", (wide,), STATISTICS))
    return Kept(kept, tuple(made))


def _product(op: Operator, work: Product, graph: Graph, form: EagerForm) -> Kept:
    inputs = _floats(op, graph)
    if any(graph.tensors[name].role is Role.WEIGHT for name in op.inputs) or not work.heads:
        capped = form.caps and op.outputs[0] in graph.outputs
        logits = graph.tensors[op.outputs[0]]
        return Kept(inputs, (_made(op, "capped", logits.shape, logits.dtype),) if capped else ())
    # Of attention: the left operand is by query head, the right one is repeated for all of a group's heads.
    if len(inputs) < 2:
        return Kept(inputs)
    if form.library:
        return _library_product(op, work, graph)
    left, right = inputs[0], inputs[1]
    instead: dict[str, str] = {}
    made: list[Tensor] = []
    source = graph.tensors[right]
    lone = form.broadcasts and work.kv_heads == 1 and work.batch == work.heads
    if work.kv_heads and work.kv_heads < work.heads and not lone:
        size = prod(source.shape) // work.kv_heads * work.heads
        made.append(_made(op, "repeated", (size,), source.dtype))
        instead[right] = made[-1].name
    own = [] if right in instead else [right]
    scores = left in graph.producer and isinstance(graph.operator_by_name[graph.producer[left]].work, Product)
    if form.joined and scores and work.batch == work.heads:
        size = prod(graph.tensors[left].shape) // work.heads * (work.heads + 2 * work.kv_heads)
        made.append(_made(op, "joined", (size,), source.dtype))
        instead[left] = made[-1].name
    else:
        own = [left, *own]
    return Kept(tuple(own), tuple(made), instead)


def _library_product(op: Operator, work: Product, graph: Graph) -> Kept:
    """A product of the framework's own attention: copies in FP32; values in FP32 stay part of the joined result."""
    left, right = (graph.tensors[name] for name in op.inputs[:2])
    maker = graph.operator_by_name[graph.producer[left.name]]
    narrow = dtype_bits(right.dtype) < dtype_bits(STATISTICS)
    elements = prod(right.shape)
    if isinstance(maker.work, Softmax):
        if narrow:
            made = _made(op, "values", (elements,), STATISTICS)
            return Kept((), (made,), {right.name: made.name, left.name: f"{maker.name}.wide"})
        joined = _made(
            op, "joined", (elements // work.heads * (work.heads + 2 * work.kv_heads),), right.dtype
        )
        return Kept((left.name,), (joined,), {right.name: joined.name})
    parts = [
        _made(op, label, (prod(one.shape),), STATISTICS)
        for label, one in (("queries", left), ("keys", right))
    ]
    return Kept((), tuple(parts), {left.name: parts[0].name, right.name: parts[1].name})


def _grouped(op: Operator, work: GroupedProduct, graph: Graph) -> Kept:
    """Products of experts read rows in the experts' order: a copy where a token goes to several."""
    inputs = tuple(name for name in _floats(op, graph) if not graph.tensors[name].is_weight)
    source = graph.tensors[inputs[0]]
    if prod(source.shape) >= work.m * work.k:
        return Kept(inputs)
    made = _made(op, "sorted", (work.m, work.k), source.dtype)
    return Kept(inputs[1:], (made,), {source.name: made.name})


def _softmax(op: Operator, work: Softmax, graph: Graph, form: EagerForm) -> Kept:
    source = graph.tensors[op.inputs[0]]
    made: list[Tensor] = []
    if form.caps:
        made.append(_made(op, "capped", (work.m, work.n), source.dtype))
    if form.softmax and dtype_bits(source.dtype) < dtype_bits(form.softmax):
        made.append(_made(op, "wide", (work.m, work.n), form.softmax))
        return Kept((), tuple(made))
    return Kept(op.outputs[:1], tuple(made))


_STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "gelu_new": ("tanh", "half", "sum"), "gelu_fast": ("scaled", "cubic", "factor", "tanh", "half", "sum"),
    "quick_gelu": ("sigmoid",), "relu2": ("relu",), "xielu": ("square", "exponential"),
}  # fmt: skip
"""What the written-out formulas keep beside their input; others are one operator."""
_BY_RESULT: Final = frozenset({"relu", "sigmoid", "tanh"})


def _activation(op: Operator, work: Activation, graph: Graph) -> Kept:
    inputs = _floats(op, graph)
    source = graph.tensors[inputs[0]]
    shape = (work.m, work.n)
    if work.gated:
        # The gate's function keeps its input, the product both factors.
        steps = [_made(op, label, shape, source.dtype) for label in _STEPS.get(work.function, ())]
        opened = _made(op, "opened", shape, source.dtype)
        kept = inputs if work.function not in _BY_RESULT else inputs[1:]
        return Kept(kept, (*steps, opened))
    if work.function in _BY_RESULT:
        return Kept(op.outputs[:1])
    steps = [_made(op, label, shape, source.dtype) for label in _STEPS.get(work.function, ())]
    return Kept(() if work.function == "relu2" else inputs[:1], tuple(steps))


def _indices(op: Operator, graph: Graph) -> Tensor:
    """Positions in a table: one storage for all tables that the same tokens are looked up in."""
    source = graph.tensors[op.inputs[0]]
    return Tensor(f"{op.name}.indices", source.shape, INDEX_DTYPE, Role.ACTIVATION)


def _angles(op: Operator, work: Rotary, graph: Graph) -> tuple[Tensor, ...]:
    """Cosines and sines of every position, one pair for all layers."""
    scores = next(
        (one.work for one in graph.operators if isinstance(one.work, Product) and one.work.heads and not any(
            graph.tensors[name].is_weight for name in one.inputs)), None,
    )  # fmt: skip
    if scores is None:
        return ()
    # FLOPs of a rotation are three for each turned feature.
    width = round(work.flops_per_element / 3 * scores.k)
    dtype = graph.tensors[op.outputs[0]].dtype
    return tuple(
        Tensor(f"rotary.{label}", (scores.m, width), dtype, Role.ACTIVATION) for label in ("cosines", "sines")
    )


def _pool(op: Operator, work: Pool, graph: Graph) -> Kept:
    if work.mode == "max":
        shape = graph.tensors[op.outputs[0]].shape
        return Kept(op.inputs[:1], (_made(op, "indices", shape, INDEX_DTYPE),))
    # A mean over everything needs no more than the shape.
    whole = prod(graph.tensors[op.outputs[0]].shape[2:]) <= 1
    return NOTHING if whole else Kept(op.inputs[:1])
