"""The Transformer for translation, base size (Vaswani et al., NeurIPS 2017, table 3): encoder and decoder.

One pass over a source and a target of ``--prompt`` tokens each, as training and scoring run it. Positions are
sinusoids, which are no parameters; one table of 37,000 rows serves both embeddings and the output product
(section 3.4). Norms stand behind the sums.
"""

from __future__ import annotations

from typing import Final

from workloads.encoder.block import add_and_norm
from workloads.graph import Place
from workloads.layer_builder import LayerBuilder, chosen_dims, finished, plain_options
from workloads.operators import Attention, Elementwise, Embedding, Product, Softmax
from workloads.transformer.writer import SOFTMAX_FLOPS
from workloads.workload import Workload, WorkloadOptions

__all__ = ["transformer_base"]

_LAYERS: Final = 6
_HIDDEN: Final = 512
_HEADS: Final = 8
_INNER: Final = 2048
_VOCABULARY: Final = 37_000


def transformer_base(options: WorkloadOptions) -> Workload:
    """The Transformer of 6 + 6 layers of width 512."""
    name = "transformer-base"
    options = plain_options(name, options)
    chosen_dims(options, name)
    net = LayerBuilder(name, options)
    length = options.prompt
    source = _embedded(net, "source", length)
    for index in range(_LAYERS):
        source = _layer(net, f"encoder.{index}", index, source, "", length)
    target = _embedded(net, "target", length)
    for index in range(_LAYERS):
        target = _layer(net, f"decoder.{index}", _LAYERS + index, target, source, length)
    logits = net.linear(
        "generator", target, _VOCABULARY, bias=False, weight="embedding.weight", place=Place(2 * _LAYERS)
    )
    return finished(net, options, logits)


def _embedded(net: LayerBuilder, name: str, length: int) -> str:
    """Rows of the shared table, scaled, with the sinusoid of each position added."""
    tokens = net.input(f"{name}.tokens", length, dtype="int32")
    m = net.batch * length
    table = net.weight("embedding.weight", _VOCABULARY, _HIDDEN)
    place = Place(-1)
    lookup = Embedding(m=m, n=_HIDDEN)
    rows = net.operator(f"{name}.embedding", lookup, (tokens, table), (m, _HIDDEN), place=place)
    added = Elementwise(m=m, n=_HIDDEN, flops_per_element=2.0, function="add")
    return net.operator(f"{name}.position", added, (rows,), (m, _HIDDEN), place=place)


def _layer(net: LayerBuilder, name: str, index: int, x: str, memory: str, length: int) -> str:
    """Self-attention, attention over the encoder's output if there is one, and the feed-forward part."""
    parts: list[tuple[str, str]] = [("attention", "")] + ([("cross", memory)] if memory else [])
    for part, over in parts:
        mixed = _attention(net, f"{name}.{part}", index, x, over, length, causal=bool(memory) and not over)
        x, _ = add_and_norm(net, f"{name}.{part}_norm", index, x, mixed, keep=False)
    up = net.linear(f"{name}.up", x, _INNER, place=Place(index))
    up = net.activation(f"{name}.relu", up, "relu", place=Place(index))
    down = net.linear(f"{name}.down", up, _HIDDEN, place=Place(index))
    x, _ = add_and_norm(net, f"{name}.output_norm", index, x, down, keep=False)
    return x


def _attention(
    net: LayerBuilder, name: str, layer: int, x: str, memory: str, length: int, *, causal: bool
) -> str:
    """Projections, scores, softmax and weighted sum; queries from ``x``, keys and values from ``memory`` or it."""
    place = Place(layer)
    if net.fused:
        project = (net.linear(f"{name}.qkv", x, 3 * _HIDDEN, place=place),) if not memory else (
            net.linear(f"{name}.q", x, _HIDDEN, place=place),
            net.linear(f"{name}.kv", memory, 2 * _HIDDEN, place=place),
        )  # fmt: skip
        m, size = net.shape(x)[0], _HIDDEN // _HEADS
        work = Attention(
            batch=net.batch, heads=_HEADS, kv_heads=_HEADS, head_dim=size, v_head_dim=size, q_len=length,
            kv_len=length, causal=causal,
        )  # fmt: skip
        mixed = net.operator(f"{name}.attend", work, project, (m, _HIDDEN), place=place)
    else:
        mixed = _attend_apart(net, name, layer, x, memory or x, length)
    return net.linear(f"{name}.out", mixed, _HIDDEN, place=place)


def _attend_apart(net: LayerBuilder, name: str, layer: int, x: str, memory: str, length: int) -> str:
    m, size, products = net.shape(x)[0], _HIDDEN // _HEADS, net.batch * _HEADS
    place = Place(layer)
    query, key, value = (
        net.linear(f"{name}.{part}", origin, _HIDDEN, place=place)
        for part, origin in (("q", x), ("k", memory), ("v", memory))
    )
    rows = products * length
    score = Product(m=length, n=length, k=size, batch=products, heads=_HEADS)
    scores = net.operator(f"{name}.qk_matmul", score, (query, key), (rows, length), place=place)
    softmax = Softmax(m=rows, n=length, flops_per_element=float(SOFTMAX_FLOPS), heads=_HEADS)
    weights = net.operator(f"{name}.softmax", softmax, (scores,), (rows, length), place=place)
    mix = Product(m=length, n=size, k=length, batch=products, heads=_HEADS)
    return net.operator(f"{name}.sv_matmul", mix, (weights, value), (m, _HIDDEN), place=place)
