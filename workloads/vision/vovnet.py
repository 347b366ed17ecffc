"""VoVNet (Lee et al., CVPRW 2019, table 1): 3x3 convolutions one behind the other, concatenated once at the end.

Unlike a dense block, in which every layer reads all before it, a layer here reads the one before it alone, and a 1x1
product takes the concatenation of all of them and of the block's input.
"""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["vovnet_39", "vovnet_57"]

_INNER: Final = (128, 160, 192, 224)
_OUTER: Final = (256, 512, 768, 1024)
_LAYERS: Final = 5
"""Convolutions of a block."""


def vovnet_39(options: WorkloadOptions) -> Workload:
    """VoVNet-39 on 224 x 224 images."""
    return _vovnet("vovnet-39", (1, 1, 2, 2), options)


def vovnet_57(options: WorkloadOptions) -> Workload:
    """VoVNet-57 on 224 x 224 images."""
    return _vovnet("vovnet-57", (1, 1, 4, 3), options)


def _vovnet(name: str, blocks: tuple[int, ...], options: WorkloadOptions) -> Workload:
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    for index, (channels, stride) in enumerate(((64, 2), (64, 1), (128, 2))):
        x = _conv(net, f"stem{index}", x, channels, 3, stride)
    for stage, count in enumerate(blocks):
        if stage:
            x = net.pool(f"stage{stage}.pool", x, 3, 2, ceil=True)
        for index in range(count):
            x = _block(net, f"stage{stage}.{index}", x, _INNER[stage], _OUTER[stage])
    return finished(net, options, net.linear("classifier", net.adaptive_pool("pool", x), 1000))


def _block(net: LayerBuilder, name: str, x: str, inner: int, outer: int) -> str:
    """One-shot aggregation."""
    outputs = [x]
    for index in range(_LAYERS):
        outputs.append(_conv(net, f"{name}.conv{index}", outputs[-1], inner, 3))
    return _conv(net, f"{name}.aggregate", net.concat(f"{name}.concat", *outputs), outer, 1)


def _conv(net: LayerBuilder, name: str, x: str, channels: int, kernel: int, stride: int = 1) -> str:
    layer = ConvLayer(channels, kernel, stride, kernel // 2, norm=True, activation="relu")
    return net.conv(name, x, layer)
