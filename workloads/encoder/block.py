"""One transformer encoder layer, before or after its norms, for text and for image patches.

Tensors are two-dimensional, tokens by features. A fused graph has one product for queries, keys and
values, one attention kernel that keeps the scores on chip, and additions inside the norm that follows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workloads.layer_builder import LayerBuilder
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, SOFTMAX_FLOPS

__all__ = ["EncoderShape", "add_and_norm", "embed", "encoder_layer"]


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of one layer. ``pre_norm``: the norms stand before attention and MLP, not after the sums."""

    hidden: int
    heads: int
    intermediate: int
    pre_norm: bool


def encoder_layer(
    net: LayerBuilder, index: int, spec: EncoderShape, stream: str, pending: str, sequence: int
) -> tuple[str, str]:
    """Attention and MLP on the residual stream.

    ``pending`` is an output still to be added to the stream, or empty; returns both for the next layer.
    """
    name = f"layers.{index}"
    if spec.pre_norm:
        source, stream = add_and_norm(net, f"{name}.attention_norm", index, stream, pending, keep=True)
    else:
        source = stream
    mixed = _attention(net, f"{name}.attention", index, spec, source, sequence)
    source, stream = add_and_norm(net, f"{name}.mlp_norm", index, stream, mixed, keep=spec.pre_norm)
    up = net.linear(f"{name}.mlp.up", source, spec.intermediate, layer=index, tp="column")
    rows = net.shape(up)[0]
    cost = ACTIVATION_FLOPS["gelu_erf"] * rows * spec.intermediate
    up = net.operator(
        "activation", f"{name}.mlp.act", (up,), net.shape(up), cost, m=rows, n=spec.intermediate, gated=False,
        layer=index, tp="split",
    )  # fmt: skip
    down = net.linear(f"{name}.mlp.down", up, spec.hidden, layer=index, tp="row")
    if spec.pre_norm:
        return stream, down
    out, _ = add_and_norm(net, f"{name}.output_norm", index, source, down, keep=False)
    return out, ""


def add_and_norm(
    net: LayerBuilder, name: str, layer: int, stream: str, *pending: str, keep: bool
) -> tuple[str, str]:
    """Layer norm of the stream with everything pending added; returns the norm and the sum.

    ``keep``: the sum is needed later. Otherwise the second name returned is the norm's own.
    """
    added = tuple(part for part in pending if part)
    if added and not net.fused:
        stream = net.add(f"{name}.add", stream, *added, layer=layer, tp="replicated")
        added = ()
    m, n = net.shape(stream)
    weights = (net.weight(f"{name}.weight", n), net.weight(f"{name}.bias", n))
    total = f"{name}.sum" if added and keep else ""
    flops = (NORM_FLOPS["layer"] + len(added)) * m * n
    out = net.operator(
        "norm", name, (stream, *added, *weights), (m, n), flops, also=total,
        m=m, n=n, adds=len(added), norm="layer", layer=layer, tp="replicated",
    )  # fmt: skip
    return out, (total or stream) if keep else out


def embed(net: LayerBuilder, name: str, index: str, rows: int, width: int, read_rows: int, tp: str) -> str:
    """A row of a table for each token; ``read_rows``: distinct rows that are read."""
    m = net.shape(index)[0] * net.shape(index)[1]
    table = net.weight(f"{name}.weight", rows, width)
    read = 4 * m + net.size_bytes(read_rows, width)
    return net.operator("embedding", name, (index, table), (m, width), 0, read, m=m, n=width, layer=-1, tp=tp)


def _attention(net: LayerBuilder, name: str, layer: int, spec: EncoderShape, x: str, sequence: int) -> str:
    project = _attend_fused if net.fused else _attend_apart
    out = project(net, name, layer, spec, x, sequence)
    return net.linear(f"{name}.out", out, spec.hidden, layer=layer, tp="row")


def _attend_fused(net: LayerBuilder, name: str, layer: int, spec: EncoderShape, x: str, sequence: int) -> str:
    m, hidden, heads = net.shape(x)[0], spec.hidden, spec.heads
    qkv = net.linear(f"{name}.qkv", x, 3 * hidden, layer=layer, tp="column", heads=heads, kv_heads=heads)
    return net.operator(
        "attention", f"{name}.attend", (qkv,), (m, hidden), 4 * m * sequence * hidden,
        batch=net.batch, heads=heads, kv_heads=heads, head_dim=hidden // heads, v_head_dim=hidden // heads,
        q_len=sequence, kv_len=sequence, causal=False, window=0, layer=layer, tp="head",
    )  # fmt: skip


def _attend_apart(net: LayerBuilder, name: str, layer: int, spec: EncoderShape, x: str, sequence: int) -> str:
    m, hidden, heads = net.shape(x)[0], spec.hidden, spec.heads
    query, key, value = (
        net.linear(f"{name}.{part}", x, hidden, layer=layer, tp="column", heads=heads, kv_heads=heads)
        for part in "qkv"
    )
    products, size = net.batch * heads, hidden // heads
    flops = 2 * m * sequence * hidden
    common: dict[str, Any] = {"layer": layer, "tp": "head", "heads": heads, "kv_heads": heads}
    scores = net.operator(
        "matmul", f"{name}.qk_matmul", (query, key), (products * sequence, sequence), flops,
        m=sequence, n=sequence, k=size, batch=products, **common,
    )  # fmt: skip
    rows = products * sequence
    weights = net.operator(
        "softmax", f"{name}.softmax", (scores,), (rows, sequence), SOFTMAX_FLOPS * rows * sequence,
        m=rows, n=sequence, **common,
    )  # fmt: skip
    return net.operator(
        "matmul", f"{name}.sv_matmul", (weights, value), (m, hidden), flops,
        m=sequence, n=size, k=sequence, batch=products, **common,
    )  # fmt: skip
