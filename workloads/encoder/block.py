"""One transformer encoder layer, before or after its norms, for text and for image patches.

Tensors are two-dimensional, tokens by features. A fused graph has one product for queries, keys and
values, one attention kernel that keeps the scores on chip, and additions inside the norm that follows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.graph import Place
from workloads.layer_builder import LayerBuilder
from workloads.operators import Activation, Attention, Embedding, Norm, Product, Softmax
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
    up = net.linear(f"{name}.mlp.up", source, spec.intermediate, place=Place(index, axis="column"))
    rows = net.shape(up)[0]
    work = Activation(
        m=rows,
        n=spec.intermediate,
        flops_per_element=float(ACTIVATION_FLOPS["gelu_erf"]),
        function="gelu_erf",
    )
    up = net.operator(f"{name}.mlp.act", work, (up,), net.shape(up), place=Place(index, axis="split"))
    down = net.linear(f"{name}.mlp.down", up, spec.hidden, place=Place(index, axis="row"))
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
        stream = net.add(f"{name}.add", stream, *added, place=Place(layer, axis="replicated"))
        added = ()
    m, n = net.shape(stream)
    weights = (net.weight(f"{name}.weight", n), net.weight(f"{name}.bias", n))
    total = f"{name}.sum" if added and keep else ""
    work = Norm(
        m=m, n=n, flops_per_element=float(NORM_FLOPS["layer"] + len(added)), adds=len(added), norm="layer"
    )
    out = net.operator(
        name, work, (stream, *added, *weights), (m, n), also=total, place=Place(layer, axis="replicated")
    )
    return out, (total or stream) if keep else out


def embed(net: LayerBuilder, name: str, index: str, rows: int, width: int, read_rows: int, tp: str) -> str:
    """A row of a table for each token; ``read_rows``: distinct rows that are read."""
    m = net.shape(index)[0] * net.shape(index)[1]
    table = net.weight(f"{name}.weight", rows, width)
    return net.operator(
        name, Embedding(m=m, n=width), (index, table), (m, width), place=Place(-1, axis=tp),
        touched={table: read_rows * width},
    )  # fmt: skip


def _attention(net: LayerBuilder, name: str, layer: int, spec: EncoderShape, x: str, sequence: int) -> str:
    project = _attend_fused if net.fused else _attend_apart
    out = project(net, name, layer, spec, x, sequence)
    return net.linear(f"{name}.out", out, spec.hidden, place=Place(layer, axis="row"))


def _attend_fused(net: LayerBuilder, name: str, layer: int, spec: EncoderShape, x: str, sequence: int) -> str:
    m, hidden, heads = net.shape(x)[0], spec.hidden, spec.heads
    qkv = net.linear(f"{name}.qkv", x, 3 * hidden, heads=heads, place=Place(layer, axis="column"))
    work = Attention(
        batch=net.batch, heads=heads, kv_heads=heads, head_dim=hidden // heads, v_head_dim=hidden // heads,
        q_len=sequence, kv_len=sequence,
    )  # fmt: skip
    return net.operator(f"{name}.attend", work, (qkv,), (m, hidden), place=Place(layer, axis="head"))


def _attend_apart(net: LayerBuilder, name: str, layer: int, spec: EncoderShape, x: str, sequence: int) -> str:
    m, hidden, heads = net.shape(x)[0], spec.hidden, spec.heads
    query, key, value = (
        net.linear(f"{name}.{part}", x, hidden, heads=heads, place=Place(layer, axis="column"))
        for part in "qkv"
    )
    products, size = net.batch * heads, hidden // heads
    place = Place(layer, axis="head")
    score = Product(m=sequence, n=sequence, k=size, batch=products, heads=heads, kv_heads=heads)
    rows = products * sequence
    scores = net.operator(f"{name}.qk_matmul", score, (query, key), (rows, sequence), place=place)
    softmax = Softmax(m=rows, n=sequence, flops_per_element=float(SOFTMAX_FLOPS), heads=heads, kv_heads=heads)
    weights = net.operator(f"{name}.softmax", softmax, (scores,), (rows, sequence), place=place)
    mix = Product(m=sequence, n=size, k=sequence, batch=products, heads=heads, kv_heads=heads)
    return net.operator(f"{name}.sv_matmul", mix, (weights, value), (m, hidden), place=place)
