"""SHViT (Yun and Ro, CVPR 2024, section 3): a stem of stride 16, one attention head on a part of the channels.

Attention is left out of the first stage, where pixels are many. In the others one head of narrow keys sees the first
channels alone; the others pass it by and meet them in the projection.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.vision.image_parts import (
    first_channels,
    group_norm,
    in_place_of_first,
    pixel_attention,
    squeeze_excite,
)
from workloads.workload import Workload, WorkloadOptions

__all__ = ["shvit_s1", "shvit_s2", "shvit_s3", "shvit_s4"]

_KEY: Final = 16
"""Elements of a query and of a key."""


class _Shape(NamedTuple):
    """Channels, blocks and channels of attention by stage, and the natural side of an image."""

    widths: tuple[int, int, int]
    depths: tuple[int, int, int]
    attended: tuple[int, int, int]
    side: int = 224


def shvit_s1(options: WorkloadOptions) -> Workload:
    """SHViT-S1 on 224 x 224 images."""
    return _shvit("shvit-s1", _Shape((128, 224, 320), (2, 4, 5), (0, 48, 68)), options)


def shvit_s2(options: WorkloadOptions) -> Workload:
    """SHViT-S2 on 224 x 224 images."""
    return _shvit("shvit-s2", _Shape((128, 308, 448), (2, 4, 5), (0, 66, 96)), options)


def shvit_s3(options: WorkloadOptions) -> Workload:
    """SHViT-S3 on 224 x 224 images."""
    return _shvit("shvit-s3", _Shape((192, 352, 448), (3, 5, 5), (0, 75, 96)), options)


def shvit_s4(options: WorkloadOptions) -> Workload:
    """SHViT-S4 on 256 x 256 images."""
    return _shvit("shvit-s4", _Shape((224, 336, 448), (4, 7, 6), (0, 72, 96), 256), options)


def _shvit(name: str, shape: _Shape, options: WorkloadOptions) -> Workload:
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=shape.side, width=shape.side))
    for index, part in enumerate((8, 4, 2, 1)):
        relu = "relu" if part > 1 else ""
        layer = ConvLayer(shape.widths[0] // part, 3, 2, 1, norm=True, activation=relu)
        x = net.conv(f"stem{index}", x, layer)
    for stage, (width, depth, attended) in enumerate(zip(*shape[:3], strict=True)):
        if stage:
            x = _mlp(net, f"down{stage}.before", _window(net, f"down{stage}.before", x))
            x = _merged(net, f"down{stage}", x, width)
            x = _mlp(net, f"down{stage}.behind", _window(net, f"down{stage}.behind", x))
        for index in range(depth):
            block = f"stage{stage}.{index}"
            x = _window(net, block, x)
            x = _mixed(net, f"{block}.mixer", x, attended) if attended else x
            x = _mlp(net, block, x)
    x = net.batch_norm("head.norm", net.adaptive_pool("pool", x))
    return finished(net, options, net.linear("classifier", x, 1000))


def _window(net: LayerBuilder, name: str, x: str) -> str:
    """A depthwise 3x3 window; a fused engine folds the residual into its middle tap."""
    width = net.shape(x)[1]
    y = net.conv(f"{name}.window", x, ConvLayer(width, 3, 1, 1, groups=width, norm=True))
    return y if net.fused else net.add(f"{name}.window.add", x, y)


def _mlp(net: LayerBuilder, name: str, x: str) -> str:
    width = net.shape(x)[1]
    y = net.conv(f"{name}.up", x, ConvLayer(2 * width, 1, norm=True, activation="relu"))
    return net.add(f"{name}.add", x, net.conv(f"{name}.down", y, ConvLayer(width, 1, norm=True)))


def _merged(net: LayerBuilder, name: str, x: str, width: int) -> str:
    """Half the sides and other channels, by an inverted residual with squeeze-and-excitation."""
    inner = 4 * net.shape(x)[1]
    y = net.conv(f"{name}.expand", x, ConvLayer(inner, 1, norm=True, activation="relu"))
    y = net.conv(f"{name}.stride", y, ConvLayer(inner, 3, 2, 1, groups=inner, norm=True, activation="relu"))
    y = squeeze_excite(net, f"{name}.gate", y, (inner // 4 + 4) // 8 * 8)
    return net.conv(f"{name}.project", y, ConvLayer(width, 1, norm=True))


def _mixed(net: LayerBuilder, name: str, x: str, attended: int) -> str:
    y = group_norm(net, f"{name}.norm", first_channels(net, f"{name}.slice", x, attended))
    y = net.conv(f"{name}.qkv", y, ConvLayer(2 * _KEY + attended, 1, norm=True))
    y = in_place_of_first(net, f"{name}.concat", x, pixel_attention(net, name, y, 1, _KEY, attended))
    y = net.activation(f"{name}.relu", y, "relu")
    return net.add(f"{name}.add", x, net.conv(f"{name}.project", y, ConvLayer(net.shape(x)[1], 1, norm=True)))
