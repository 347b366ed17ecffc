"""AlexNet: five convolutions and three products, in one tower (Krizhevsky, arXiv:1404.5997) and in two.

The one of two towers is that of the paper (Krizhevsky et al., NIPS 2012) on images of 227 x 227, as accelerators are
measured with it: half of the channels of three layers see half of the inputs. Its response normalisations are left out.
"""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["alexnet", "alexnet_two_towers"]

_LAYERS: Final = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False),
                  (256, 3, 1, 1, True))  # fmt: skip
"""Channels, kernel, stride, padding, and whether a 3x3 pooling of stride 2 follows."""
_TOWERS: Final = ((96, 11, 4, 0, True), (256, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False),
                  (256, 3, 1, 1, True))  # fmt: skip
_APART: Final = (2, 4, 5)
"""Layers whose towers do not see each other's channels."""


def alexnet(options: WorkloadOptions) -> Workload:
    """AlexNet on 224 x 224 images; other sizes are pooled to 6 x 6 before the products."""
    return _network("alexnet", _LAYERS, (), 224, options)


def alexnet_two_towers(options: WorkloadOptions) -> Workload:
    """AlexNet of two towers on 227 x 227 images; other sizes are pooled to 6 x 6 before the products."""
    return _network("alexnet-two-towers", _TOWERS, _APART, 227, options)


def _network(
    name: str,
    layers: tuple[tuple[int, int, int, int, bool], ...],
    apart: tuple[int, ...],
    side: int,
    options: WorkloadOptions,
) -> Workload:
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=side, width=side))
    for index, (channels, kernel, stride, padding, pooled) in enumerate(layers, start=1):
        groups = 2 if index in apart else 1
        layer = ConvLayer(channels, kernel, stride, padding, groups, bias=True, activation="relu")
        x = net.conv(f"conv{index}", x, layer)
        if pooled:
            x = net.pool(f"pool{index}", x, 3, 2)
    x = net.adaptive_pool("pool", x, 6)
    for index in (1, 2):
        x = net.activation(f"fc{index}.relu", net.linear(f"fc{index}", x, 4096), "relu")
    return finished(net, options, net.linear("classifier", x, 1000))
