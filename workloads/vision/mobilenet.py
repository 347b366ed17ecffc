"""MobileNet: depthwise separable convolutions (v1, Howard et al., arXiv:1704.04861, table 1) and inverted
residuals with linear bottlenecks (v2, Sandler et al., CVPR 2018, table 2), both at width 1.0.
"""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["mobilenet_v1", "mobilenet_v2"]

_V1: Final = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Output channels and stride of each depthwise separable convolution."""

_V2: Final = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, output channels, repeats and first stride of each group of inverted residuals."""


def mobilenet_v1(options: WorkloadOptions) -> Workload:
    """MobileNetV1 1.0 on 224 x 224 images."""
    name = "mobilenet-v1"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    x = net.conv("stem", x, ConvLayer(32, 3, 2, 1, norm=True, activation="relu"))
    for index, (channels, stride) in enumerate(_V1):
        inner = net.shape(x)[1]
        x = net.conv(
            f"block{index}.depthwise",
            x,
            ConvLayer(inner, 3, stride, 1, groups=inner, norm=True, activation="relu"),
        )
        x = net.conv(f"block{index}.pointwise", x, ConvLayer(channels, 1, norm=True, activation="relu"))
    x = net.adaptive_pool("pool", x)
    return finished(net, options, net.linear("classifier", x, 1000))


def mobilenet_v2(options: WorkloadOptions) -> Workload:
    """MobileNetV2 1.0 on 224 x 224 images."""
    name = "mobilenet-v2"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    x = net.conv("stem", x, ConvLayer(32, 3, 2, 1, norm=True, activation="relu6"))
    for group, (expansion, channels, repeats, stride) in enumerate(_V2):
        for index in range(repeats):
            x = _inverted_residual(
                net, f"group{group}.{index}", x, expansion, channels, stride if index == 0 else 1
            )
    x = net.conv("head", x, ConvLayer(1280, 1, norm=True, activation="relu6"))
    x = net.adaptive_pool("pool", x)
    return finished(net, options, net.linear("classifier", x, 1000))


def _inverted_residual(
    net: LayerBuilder, name: str, x: str, expansion: int, channels: int, stride: int
) -> str:
    inner = net.shape(x)[1] * expansion
    y = x
    if expansion > 1:
        y = net.conv(f"{name}.expand", y, ConvLayer(inner, 1, norm=True, activation="relu6"))
    y = net.conv(
        f"{name}.depthwise", y, ConvLayer(inner, 3, stride, 1, groups=inner, norm=True, activation="relu6")
    )
    y = net.conv(f"{name}.project", y, ConvLayer(channels, 1, norm=True))
    return net.add(f"{name}.add", y, x) if net.shape(x) == net.shape(y) else y
