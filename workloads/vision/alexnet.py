"""AlexNet in its one-tower form (Krizhevsky, arXiv:1404.5997): five convolutions and three products."""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["alexnet"]

_LAYERS: Final = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False),
                  (256, 3, 1, 1, True))  # fmt: skip
"""Channels, kernel, stride, padding, and whether a 3x3 pooling of stride 2 follows."""


def alexnet(options: WorkloadOptions) -> Workload:
    """AlexNet on 224 x 224 images; other sizes are pooled to 6 x 6 before the products."""
    name = "alexnet"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    for index, (channels, kernel, stride, padding, pooled) in enumerate(_LAYERS, start=1):
        x = net.conv(
            f"conv{index}", x, ConvLayer(channels, kernel, stride, padding, bias=True, activation="relu")
        )
        if pooled:
            x = net.pool(f"pool{index}", x, 3, 2)
    x = net.adaptive_pool("pool", x, 6)
    for index in (1, 2):
        x = net.activation(f"fc{index}.relu", net.linear(f"fc{index}", x, 4096), "relu")
    return finished(net, options, net.linear("classifier", x, 1000))
