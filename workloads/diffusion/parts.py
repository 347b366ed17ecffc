"""What the blocks of diffusion transformers are made of: modulated norms, attention of one or two streams, gates.

Tensors are rows by features, the rows of a sample one after another. A norm has no weights of its own as a rule: shift
and scale come from the time step (DiT, arXiv:2212.09748, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.graph import Place
from workloads.layer_builder import LayerBuilder
from workloads.operators import Activation, Attention, Copy, Elementwise, Norm, Product, Softmax, View
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, SOFTMAX_FLOPS

__all__ = [
    "Stream", "activated", "attention", "embedded_step", "feed_forward", "gated_add", "joined", "modulated",
    "modulation", "part", "projected", "two_layers",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """A tensor with ``length`` rows per sample."""

    name: str
    length: int


def activated(net: LayerBuilder, name: str, x: str, function: str, place: Place) -> str:
    """A pointwise non-linearity."""
    m, n = net.shape(x)
    work = Activation(m=m, n=n, flops_per_element=float(ACTIVATION_FLOPS[function]), function=function)
    return net.operator(name, work, (x,), (m, n), place=place)


def two_layers(
    net: LayerBuilder, name: str, x: str, width: int, function: str = "silu", inner: int = 0
) -> str:
    """Two products with a non-linearity between them."""
    place = Place(-1, axis="replicated")
    first = net.linear(f"{name}.linear_1", x, inner or width, place=place)
    return net.linear(
        f"{name}.linear_2", activated(net, f"{name}.act", first, function, place), width, place=place
    )


def embedded_step(net: LayerBuilder, name: str, rows: int, frequencies: int, width: int) -> str:
    """Sines and cosines of a number per row, through two layers."""
    source = net.input(f"{name}.frequencies", frequencies * rows // net.batch) if rows == net.batch else ""
    if not source:
        source = net.operator(
            f"{name}.frequencies", Copy(m=rows, n=frequencies, function="sinusoid"),
            (net.input(f"{name}.numbers", frequencies * rows // net.batch),), (rows, frequencies),
        )  # fmt: skip
    return two_layers(net, name, source, width)


def modulation(net: LayerBuilder, name: str, condition: str, parts: int, width: int, layer: int) -> str:
    """Shifts, scales and gates of one block from the condition of each sample."""
    return net.linear(name, condition, parts * width, place=Place(layer, axis="replicated"))


def modulated(
    net: LayerBuilder, name: str, x: str, steer: tuple[str, ...], layer: int, weights: int = 0
) -> str:
    """A layer norm with shift and scale from ``steer``; ``weights``: tensors of weights of its own (2, 1 or 0)."""
    m, n = net.shape(x)
    own = tuple(net.weight(f"{name}.{part}", n) for part in ("weight", "bias")[:weights])
    work = Norm(m=m, n=n, flops_per_element=float(NORM_FLOPS["layer"] + 2 * bool(steer)), norm="layer")
    touched = {tensor: 2 * net.batch * n for tensor in steer if net.shape(tensor)[0] == net.batch}
    return net.operator(
        name, work, (x, *steer, *own), (m, n), place=Place(layer, axis="replicated"), touched=touched
    )


def gated_add(net: LayerBuilder, name: str, x: str, y: str, steer: tuple[str, ...], layer: int) -> str:
    """A block's result, times its gate, added to the stream."""
    m, n = net.shape(x)
    work = Elementwise(m=m, n=n, flops_per_element=1.0 + bool(steer), function="add")
    touched = {tensor: net.batch * n for tensor in steer if net.shape(tensor)[0] == net.batch}
    return net.operator(
        name, work, (x, y, *steer), (m, n), place=Place(layer, axis="replicated"), touched=touched
    )


def projected(
    net: LayerBuilder,
    name: str,
    x: str,
    width: int,
    layer: int,
    heads: int,
    bias: bool = True,
    parts: str = "qkv",
) -> tuple[str, ...]:
    """Queries, keys and values (or some of them) of one stream: one product when fused."""
    place = Place(layer, axis="column")
    if net.fused:
        return (net.linear(f"{name}.{parts}", x, len(parts) * width, bias=bias, heads=heads, place=place),)
    return tuple(
        net.linear(f"{name}.{part}", x, width, bias=bias, heads=heads, place=place) for part in parts
    )


def normed(
    net: LayerBuilder, name: str, made: tuple[str, ...], size: int, count: int, layer: int
) -> tuple[str, ...]:
    """RMS norms of queries and keys (``count`` of them), with weights of ``size`` each."""
    place = Place(layer, axis="split")
    found = []
    for index, tensor in enumerate(made):
        if index >= count:
            found.append(tensor)
            continue
        m, n = net.shape(tensor)
        weights = count if net.fused else 1
        own = net.weight(f"{name}.{index}.weight", weights, size)
        columns = n * count // max(count, 3) if net.fused and n > size and count < 3 and len(made) == 1 else n
        work = Norm(m=m, n=n, flops_per_element=NORM_FLOPS["rms"] * columns / n, norm="rms")
        found.append(net.operator(f"{name}.{index}", work, (tensor, own), (m, n), place=place))
    return tuple(found)


def attention(
    net: LayerBuilder,
    name: str,
    layer: int,
    sources: tuple[str, ...],
    heads: int,
    dim: int,
    lengths: tuple[int, int],
) -> str:
    """Attention without a mask: ``lengths`` are queries and keys per sample. ``sources`` hold all operands."""
    queries, keys = lengths
    m, place = net.batch * queries, Place(layer, axis="head")
    if net.fused:
        work = Attention(
            batch=net.batch,
            heads=heads,
            kv_heads=heads,
            head_dim=dim,
            v_head_dim=dim,
            q_len=queries,
            kv_len=keys,
        )
        return net.operator(
            f"{name}.attend", work, tuple(dict.fromkeys(sources)), (m, heads * dim), place=place
        )
    products = net.batch * heads
    rows = products * queries
    half = max(len(sources) * 2 // 3, 1)
    score = Product(m=queries, n=keys, k=dim, batch=products, heads=heads, kv_heads=heads)
    scores = net.operator(f"{name}.qk_matmul", score, sources[:half], (rows, keys), place=place)
    softmax = Softmax(m=rows, n=keys, flops_per_element=float(SOFTMAX_FLOPS), heads=heads, kv_heads=heads)
    weights = net.operator(f"{name}.softmax", softmax, (scores,), (rows, keys), place=place)
    mix = Product(m=queries, n=dim, k=keys, batch=products, heads=heads, kv_heads=heads)
    return net.operator(f"{name}.sv_matmul", mix, (weights, *sources[half:]), (m, heads * dim), place=place)


def feed_forward(net: LayerBuilder, name: str, x: str, inner: int, layer: int) -> str:
    """Up, GELU (by tanh), down."""
    width = net.shape(x)[1]
    up = net.linear(f"{name}.up", x, inner, place=Place(layer, axis="column"))
    active = activated(net, f"{name}.act", up, "gelu", Place(layer, axis="split"))
    return net.linear(f"{name}.down", active, width, place=Place(layer, axis="row"))


def joined(net: LayerBuilder, name: str, parts: tuple[str, ...], axis: int) -> str:
    """Tensors one after another, copied."""
    return net.concat(name, *parts, axis=axis)


def part(net: LayerBuilder, name: str, x: str, rows: int) -> str:
    """Some rows of a tensor, in place."""
    return net.operator(name, View(), (x,), (rows, net.shape(x)[1]))
