"""ConvNeXt (Liu et al., CVPR 2022, section 2) and InceptionNeXt (Yu et al., CVPR 2024, section 3): a depthwise window,
a norm, two 1x1 products with four times the channels between, a learned scale, the residual.

ConvNeXt's window is 7x7 on all channels, and its norm is over channels. InceptionNeXt gives an eighth of the channels
each to a 3x3, a 1x11 and an 11x1 window and passes the others on; its norm is a batch norm, its head has a hidden
layer.
"""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, Pair, chosen_dims, finished, plain_options
from workloads.vision.image_parts import channel_norm, first_channels, in_place_of_first, scaled_residual
from workloads.workload import Workload, WorkloadOptions

__all__ = ["convnext_tiny", "convnext_tiny_of", "inception_next_tiny"]

_DEPTHS: Final = (3, 3, 9, 3)
_WIDTHS: Final = (96, 192, 384, 768)
_BAND: Final = 11


def convnext_tiny(options: WorkloadOptions) -> Workload:
    """ConvNeXt-T on 224 x 224 images."""
    return convnext_tiny_of("convnext-tiny", options, 7)


def convnext_tiny_of(name: str, options: WorkloadOptions, window: int) -> Workload:
    """ConvNeXt-T with depthwise windows of ``window`` x ``window``."""
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True)):
        if stage:
            x = channel_norm(net, f"down{stage}.norm", x)
        x = net.conv(f"down{stage}", x, ConvLayer(width, *((2, 2) if stage else (4, 4)), bias=True))
        if not stage:
            x = channel_norm(net, f"down{stage}.norm", x)
        for index in range(depth):
            block = f"stage{stage}.{index}"
            y = net.conv(
                f"{block}.window", x, ConvLayer(width, window, 1, window // 2, groups=width, bias=True)
            )
            x = _mlp(net, block, x, channel_norm(net, f"{block}.norm", y), 4)
    x = net.layer_norm("head.norm", net.adaptive_pool("pool", x))
    return finished(net, options, net.linear("classifier", x, 1000))


def inception_next_tiny(options: WorkloadOptions) -> Workload:
    """InceptionNeXt-T on 224 x 224 images."""
    name = "inception-next-tiny"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True)):
        if stage:
            x = net.batch_norm(f"down{stage}.norm", x)
        layer = ConvLayer(width, *((2, 2) if stage else (4, 4)), bias=True, norm=not stage)
        x = net.conv(f"down{stage}", x, layer)
        for index in range(depth):
            block = f"stage{stage}.{index}"
            y = net.batch_norm(f"{block}.norm", _branches(net, block, x))
            x = _mlp(net, block, x, y, 3 if stage == len(_DEPTHS) - 1 else 4)
    x = net.linear("head", net.adaptive_pool("pool", x), 3 * _WIDTHS[-1])
    x = net.layer_norm("head.norm", net.activation("head.gelu", x, "gelu_erf"))
    return finished(net, options, net.linear("classifier", x, 1000))


def _branches(net: LayerBuilder, name: str, x: str) -> str:
    """Three windows on an eighth of the channels each, behind the channels that pass."""
    part = net.shape(x)[1] // 8
    half = _BAND // 2
    windows: dict[str, tuple[Pair, Pair]] = {
        "square": (3, 1), "wide": ((1, _BAND), (0, half)), "high": ((_BAND, 1), (half, 0)),
    }  # fmt: skip
    outputs = []
    for label, (kernel, padding) in windows.items():
        y = first_channels(net, f"{name}.{label}.slice", x, part)
        layer = ConvLayer(part, kernel, 1, padding, groups=part, bias=True)
        outputs.append(net.conv(f"{name}.{label}", y, layer))
    return in_place_of_first(net, f"{name}.concat", x, *outputs)


def _mlp(net: LayerBuilder, name: str, x: str, y: str, ratio: int) -> str:
    width = net.shape(x)[1]
    y = net.conv(f"{name}.up", y, ConvLayer(ratio * width, 1, bias=True, activation="gelu_erf"))
    y = net.conv(f"{name}.down", y, ConvLayer(width, 1, bias=True))
    return scaled_residual(net, f"{name}.add", x, y)
