"""MobileViTv2 (Mehta and Rastegari, arXiv:2206.02680, figure 3): inverted residuals and separable self-attention.

Pixels at the same place of their 2x2 patches attend to one another. A query is one number a pixel; its softmax weights
the keys into one context vector, which multiplies every value: linear in the pixels. Unfolding into patches and back
are copies.
"""

from __future__ import annotations

from math import prod

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.operators import Copy, Elementwise, Reduce, Softmax
from workloads.transformer.writer import SOFTMAX_FLOPS
from workloads.vision.image_parts import group_norm
from workloads.workload import Workload, WorkloadOptions

__all__ = ["mobilevit_v2_100"]

_PATCH_PIXELS = 4


def mobilevit_v2_100(options: WorkloadOptions) -> Workload:
    """MobileViTv2 of width 1.0 on 256 x 256 images."""
    name = "mobilevit-v2-100"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=256, width=256))
    x = net.conv("stem", x, ConvLayer(32, 3, 2, 1, norm=True, activation="silu"))
    x = _inverted(net, "stage0.0", x, 64, 1)
    for index in range(2):
        x = _inverted(net, f"stage1.{index}", x, 128, 2 if index == 0 else 1)
    for stage, (channels, depth) in enumerate(((256, 2), (384, 4), (512, 3)), start=2):
        x = _attended(net, f"stage{stage}.1", _inverted(net, f"stage{stage}.0", x, channels, 2), depth)
    return finished(net, options, net.linear("classifier", net.adaptive_pool("pool", x), 1000))


def _inverted(net: LayerBuilder, name: str, x: str, channels: int, stride: int) -> str:
    inner = 2 * net.shape(x)[1]
    y = net.conv(f"{name}.expand", x, ConvLayer(inner, 1, norm=True, activation="silu"))
    layer = ConvLayer(inner, 3, stride, 1, groups=inner, norm=True, activation="silu")
    y = net.conv(f"{name}.project", net.conv(f"{name}.window", y, layer), ConvLayer(channels, 1, norm=True))
    return net.add(f"{name}.add", y, x) if net.shape(x) == net.shape(y) else y


def _attended(net: LayerBuilder, name: str, x: str, depth: int) -> str:
    """A window, a narrower map through ``depth`` attention blocks, and the channels back."""
    channels = net.shape(x)[1]
    layer = ConvLayer(channels, 3, 1, 1, groups=channels, norm=True, activation="silu")
    x = net.conv(f"{name}.narrow", net.conv(f"{name}.window", x, layer), ConvLayer(channels // 2, 1))
    x = _moved(net, f"{name}.unfold", x)
    for index in range(depth):
        block = f"{name}.{index}"
        y = _separable_attention(net, block, group_norm(net, f"{block}.norm1", x))
        x = net.add(f"{block}.add1", x, y)
        y = group_norm(net, f"{block}.norm2", x)
        y = net.conv(f"{block}.up", y, ConvLayer(channels, 1, bias=True, activation="silu"))
        x = net.add(f"{block}.add2", x, net.conv(f"{block}.down", y, ConvLayer(channels // 2, 1, bias=True)))
    x = _moved(net, f"{name}.fold", group_norm(net, f"{name}.norm", x))
    return net.conv(f"{name}.widen", x, ConvLayer(channels, 1, norm=True))


def _moved(net: LayerBuilder, name: str, x: str) -> str:
    rows = prod(net.shape(x)[:-1])
    return net.operator(name, Copy(m=rows, n=net.shape(x)[-1], function="permute"), (x,), net.shape(x))


def _separable_attention(net: LayerBuilder, name: str, x: str) -> str:
    batch, width, height, columns = net.shape(x)
    elements = prod(net.shape(x))
    patches = height * columns // _PATCH_PIXELS
    qkv = net.conv(f"{name}.qkv", x, ConvLayer(1 + 2 * width, 1, bias=True))
    rows = batch * _PATCH_PIXELS
    softmax = Softmax(m=rows, n=patches, flops_per_element=float(SOFTMAX_FLOPS))
    scores = net.operator(f"{name}.softmax", softmax, (qkv,), (rows, patches), touched={qkv: rows * patches})
    rows *= width
    if net.fused:
        sums = Reduce(m=rows, n=patches, flops_per_element=2.0)
        summed = net.operator(f"{name}.context", sums, (qkv, scores), (rows, 1), touched={qkv: elements})
    else:
        product = Elementwise(m=rows, n=patches, flops_per_element=1.0, function="multiply")
        weighted = net.operator(
            f"{name}.keys", product, (qkv, scores), (rows, patches), touched={qkv: elements}
        )
        sums = Reduce(m=rows, n=patches, flops_per_element=1.0)
        summed = net.operator(f"{name}.context", sums, (weighted,), (rows, 1))
    mixed = Elementwise(
        m=elements // columns, n=columns, flops_per_element=2.0, function="multiply", activation="relu"
    )
    y = net.operator(f"{name}.values", mixed, (qkv, summed), net.shape(x), touched={qkv: elements})
    return net.conv(f"{name}.project", y, ConvLayer(width, 1, bias=True))
