"""VGG (Simonyan and Zisserman, ICLR 2015, table 1): 3x3 convolutions with bias, then three large products."""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["vgg_11", "vgg_13", "vgg_16", "vgg_19"]

_WIDTHS: Final = (64, 128, 256, 512, 512)
"""Channels of each stage of 3x3 convolutions."""


def vgg_11(options: WorkloadOptions) -> Workload:
    """VGG-11 (configuration A) on 224 x 224 images."""
    return _vgg("vgg-11", (1, 1, 2, 2, 2), options)


def vgg_13(options: WorkloadOptions) -> Workload:
    """VGG-13 (configuration B) on 224 x 224 images."""
    return _vgg("vgg-13", (2, 2, 2, 2, 2), options)


def vgg_16(options: WorkloadOptions) -> Workload:
    """VGG-16 (configuration D) on 224 x 224 images."""
    return _vgg("vgg-16", (2, 2, 3, 3, 3), options)


def vgg_19(options: WorkloadOptions) -> Workload:
    """VGG-19 (configuration E) on 224 x 224 images."""
    return _vgg("vgg-19", (2, 2, 4, 4, 4), options)


def _vgg(name: str, depths: tuple[int, ...], options: WorkloadOptions) -> Workload:
    """Five stages and three products; images of other sizes are pooled to 7 x 7 before the products."""
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    for stage, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True), start=1):
        for index in range(1, depth + 1):
            x = net.conv(
                f"stage{stage}.conv{index}", x, ConvLayer(width, 3, 1, 1, bias=True, activation="relu")
            )
        x = net.pool(f"stage{stage}.pool", x, 2, 2)
    x = net.adaptive_pool("pool", x, 7)
    for index in (1, 2):
        x = net.activation(f"fc{index}.relu", net.linear(f"fc{index}", x, 4096), "relu")
    return finished(net, options, net.linear("classifier", x, 1000))
