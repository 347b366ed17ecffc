"""Parts that networks after the transformer share: norms over channels, layer scale, gates, attention over pixels.

Tensors stay images of channels by sides. A slice of channels is a copy, as eager code makes one before a kernel that
wants its input contiguous; what is concatenated behind it is read where it stands.
"""

from __future__ import annotations

from math import prod

from workloads.layer_builder import ConvLayer, LayerBuilder
from workloads.operators import Attention, Copy, Elementwise, Norm, Product, Softmax
from workloads.transformer.writer import NORM_FLOPS, SOFTMAX_FLOPS

__all__ = [
    "channel_norm", "first_channels", "group_norm", "in_place_of_first", "pixel_attention", "scaled_residual",
    "squeeze_excite",
]  # fmt: skip


def channel_norm(net: LayerBuilder, name: str, x: str) -> str:
    """Layer norm over the channels of every pixel, with weight and bias."""
    return _norm(net, name, x, net.shape(x)[1], "layer")


def group_norm(net: LayerBuilder, name: str, x: str, groups: int = 1) -> str:
    """Group norm: over the pixels of each group of an image's channels, with a weight and bias per channel."""
    return _norm(net, name, x, prod(net.shape(x)[1:]) // groups, "group")


def _norm(net: LayerBuilder, name: str, x: str, columns: int, over: str) -> str:
    channels, elements = net.shape(x)[1], prod(net.shape(x))
    weights = (net.weight(f"{name}.weight", channels), net.weight(f"{name}.bias", channels))
    work = Norm(m=elements // columns, n=columns, flops_per_element=NORM_FLOPS["layer"], norm=over)
    return net.operator(name, work, (x, *weights), net.shape(x))


def scaled_residual(net: LayerBuilder, name: str, x: str, y: str) -> str:
    """``x`` plus ``y`` times a learned factor per channel (layer scale); one pass when fused."""
    gamma = net.weight(f"{name}.gamma", net.shape(y)[1])
    if not net.fused:
        return net.add(name, x, net.multiply(f"{name}.scale", y, gamma))
    elements, columns = prod(net.shape(x)), net.shape(x)[-1]
    work = Elementwise(m=elements // columns, n=columns, flops_per_element=2.0, function="scaled_add")
    return net.operator(name, work, (x, y, gamma), net.shape(x))


def squeeze_excite(net: LayerBuilder, name: str, x: str, reduced: int) -> str:
    """Channels gated by what two products make of their means (Hu et al., CVPR 2018)."""
    gate = net.adaptive_pool(f"{name}.squeeze", x, flat=False)
    gate = net.conv(f"{name}.reduce", gate, ConvLayer(reduced, 1, bias=True, activation="relu"))
    gate = net.conv(f"{name}.excite", gate, ConvLayer(net.shape(x)[1], 1, bias=True, activation="sigmoid"))
    return net.multiply(f"{name}.scale", x, gate)


def first_channels(net: LayerBuilder, name: str, x: str, channels: int) -> str:
    """The first so many channels as a tensor of their own."""
    shape = (net.shape(x)[0], channels, *net.shape(x)[2:])
    work = Copy(m=prod(shape) // shape[-1], n=shape[-1], function="slice")
    return net.operator(name, work, (x,), shape, touched={x: prod(shape)})


def in_place_of_first(net: LayerBuilder, name: str, x: str, *parts: str) -> str:
    """``x`` with ``parts`` in place of as many of its channels; the others are read from ``x``."""
    shape = net.shape(x)
    pixels = prod(shape) // shape[1]
    rest = shape[1] - sum(net.shape(part)[1] for part in parts)
    work = Copy(m=prod(shape) // shape[-1], n=shape[-1], function="concat")
    return net.operator(name, work, (*parts, x), shape, touched={x: rest * pixels})


def pixel_attention(net: LayerBuilder, name: str, qkv: str, heads: int, qk_dim: int, v_dim: int) -> str:
    """Every pixel attends to all pixels of its image; ``qkv`` holds queries, keys and values as channels."""
    batch, _, height, width = net.shape(qkv)
    pixels, shape = height * width, (batch, heads * v_dim, height, width)
    if net.fused:
        work = Attention(
            batch=batch, heads=heads, kv_heads=heads, head_dim=qk_dim, v_head_dim=v_dim, q_len=pixels, kv_len=pixels,
        )  # fmt: skip
        return net.operator(f"{name}.attend", work, (qkv,), shape)
    products, rows = batch * heads, batch * heads * pixels
    key, value = products * pixels * qk_dim, products * pixels * v_dim
    scores = net.operator(
        f"{name}.qk_matmul", Product(m=pixels, n=pixels, k=qk_dim, batch=products), (qkv,), (rows, pixels),
        touched={qkv: 2 * key},
    )  # fmt: skip
    softmax = Softmax(m=rows, n=pixels, flops_per_element=float(SOFTMAX_FLOPS))
    weights = net.operator(f"{name}.softmax", softmax, (scores,), (rows, pixels))
    mix = Product(m=pixels, n=v_dim, k=pixels, batch=products)
    return net.operator(f"{name}.sv_matmul", mix, (weights, qkv), shape, touched={qkv: value})
