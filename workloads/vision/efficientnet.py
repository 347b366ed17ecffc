"""EfficientNet (Tan and Le, ICML 2019, table 1): inverted residuals with squeeze-and-excitation."""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["efficientnet_b0"]

_B0: Final = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
"""Expansion, kernel, first stride, output channels and repeats of each stage."""


def efficientnet_b0(options: WorkloadOptions) -> Workload:
    """EfficientNet-B0 on 224 x 224 images."""
    name = "efficientnet-b0"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    x = net.conv("stem", x, ConvLayer(32, 3, 2, 1, norm=True, activation="silu"))
    for stage, (expansion, kernel, stride, channels, repeats) in enumerate(_B0, start=1):
        for index in range(repeats):
            step = stride if index == 0 else 1
            x = _block(net, f"stage{stage}.{index}", x, expansion, kernel, step, channels)
    x = net.conv("head", x, ConvLayer(1280, 1, norm=True, activation="silu"))
    x = net.adaptive_pool("pool", x)
    return finished(net, options, net.linear("classifier", x, 1000))


def _block(
    net: LayerBuilder, name: str, x: str, expansion: int, kernel: int, stride: int, channels: int
) -> str:
    incoming = net.shape(x)[1]
    inner = incoming * expansion
    y = x
    if expansion > 1:
        y = net.conv(f"{name}.expand", y, ConvLayer(inner, 1, norm=True, activation="silu"))
    y = net.conv(
        f"{name}.depthwise",
        y,
        ConvLayer(inner, kernel, stride, kernel // 2, groups=inner, norm=True, activation="silu"),
    )
    gate = net.adaptive_pool(f"{name}.squeeze", y, flat=False)
    gate = net.conv(f"{name}.reduce", gate, ConvLayer(max(1, incoming // 4), 1, bias=True, activation="silu"))
    gate = net.conv(f"{name}.excite", gate, ConvLayer(inner, 1, bias=True, activation="sigmoid"))
    y = net.multiply(f"{name}.scale", y, gate)
    y = net.conv(f"{name}.project", y, ConvLayer(channels, 1, norm=True))
    return net.add(f"{name}.add", y, x) if net.shape(x) == net.shape(y) else y
