"""The Transformer for translation, base size (Vaswani et al., NeurIPS 2017, table 3): encoder and decoder.

One pass over a source and a target of ``--prompt`` tokens each, as training and scoring run it. Positions are
sinusoids, which are no parameters; one table of 37,000 rows serves both embeddings and the output product
(section 3.4). Norms stand behind the sums.
"""

from __future__ import annotations

from typing import Any, Final

from workloads.encoder.block import add_and_norm
from workloads.layer_builder import LayerBuilder, chosen_dims, finished, plain_options
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
        "generator", target, _VOCABULARY, bias=False, weight="embedding.weight", layer=2 * _LAYERS
    )
    return finished(net, options, logits)


def _embedded(net: LayerBuilder, name: str, length: int) -> str:
    """Rows of the shared table, scaled, with the sinusoid of each position added."""
    tokens = net.input(f"{name}.tokens", length, dtype="int32")
    m = net.batch * length
    table = net.weight("embedding.weight", _VOCABULARY, _HIDDEN)
    read = 4 * m + net.size_bytes(m, _HIDDEN)
    rows = net.operator(
        "embedding", f"{name}.embedding", (tokens, table), (m, _HIDDEN), 0, read, m=m, n=_HIDDEN, layer=-1
    )
    return net.operator(
        "elementwise", f"{name}.position", (rows,), (m, _HIDDEN), 2 * m * _HIDDEN, function="add", m=m, n=_HIDDEN,
        layer=-1,
    )  # fmt: skip


def _layer(net: LayerBuilder, name: str, index: int, x: str, memory: str, length: int) -> str:
    """Self-attention, attention over the encoder's output if there is one, and the feed-forward part."""
    parts: list[tuple[str, str]] = [("attention", "")] + ([("cross", memory)] if memory else [])
    for part, over in parts:
        mixed = _attention(net, f"{name}.{part}", index, x, over, length, causal=bool(memory) and not over)
        x, _ = add_and_norm(net, f"{name}.{part}_norm", index, x, mixed, keep=False)
    up = net.linear(f"{name}.up", x, _INNER, layer=index)
    up = net.activation(f"{name}.relu", up, "relu", layer=index)
    down = net.linear(f"{name}.down", up, _HIDDEN, layer=index)
    x, _ = add_and_norm(net, f"{name}.output_norm", index, x, down, keep=False)
    return x


def _attention(
    net: LayerBuilder, name: str, layer: int, x: str, memory: str, length: int, *, causal: bool
) -> str:
    """Projections, scores, softmax and weighted sum; queries from ``x``, keys and values from ``memory`` or it."""
    if net.fused:
        project = (net.linear(f"{name}.qkv", x, 3 * _HIDDEN, layer=layer),) if not memory else (
            net.linear(f"{name}.q", x, _HIDDEN, layer=layer),
            net.linear(f"{name}.kv", memory, 2 * _HIDDEN, layer=layer),
        )  # fmt: skip
        m, size = net.shape(x)[0], _HIDDEN // _HEADS
        pairs = length * (length + 1) // 2 if causal else length * length
        mixed = net.operator(
            "attention", f"{name}.attend", project, (m, _HIDDEN), 4 * net.batch * pairs * _HIDDEN,
            batch=net.batch, heads=_HEADS, kv_heads=_HEADS, head_dim=size, v_head_dim=size, q_len=length,
            kv_len=length, causal=causal, window=0, layer=layer,
        )  # fmt: skip
    else:
        mixed = _attend_apart(net, name, layer, x, memory or x, length)
    return net.linear(f"{name}.out", mixed, _HIDDEN, layer=layer)


def _attend_apart(net: LayerBuilder, name: str, layer: int, x: str, memory: str, length: int) -> str:
    m, size, products = net.shape(x)[0], _HIDDEN // _HEADS, net.batch * _HEADS
    query, key, value = (
        net.linear(f"{name}.{part}", origin, _HIDDEN, layer=layer)
        for part, origin in (("q", x), ("k", memory), ("v", memory))
    )
    rows, flops = products * length, 2 * m * length * _HIDDEN
    common: dict[str, Any] = {"layer": layer, "heads": _HEADS}
    scores = net.operator(
        "matmul", f"{name}.qk_matmul", (query, key), (rows, length), flops, m=length, n=length, k=size,
        batch=products, **common,
    )  # fmt: skip
    weights = net.operator(
        "softmax", f"{name}.softmax", (scores,), (rows, length), SOFTMAX_FLOPS * rows * length, m=rows, n=length,
        **common,
    )  # fmt: skip
    return net.operator(
        "matmul", f"{name}.sv_matmul", (weights, value), (m, _HIDDEN), flops, m=length, n=size, k=length,
        batch=products, **common,
    )  # fmt: skip
