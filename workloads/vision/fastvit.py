"""FastViT-SA12 (Vasu et al., ICCV 2023, table 2) as it runs after its branches are folded into single convolutions.

Three stages mix pixels by depthwise 3x3 windows, the last by attention; every block's MLP begins with a depthwise 7x7
window. What the paper trains as parallel branches is one convolution with a bias here, in training steps too.
"""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.vision.image_parts import pixel_attention, scaled_residual, squeeze_excite
from workloads.workload import Workload, WorkloadOptions

__all__ = ["fastvit_sa12"]

_WIDTHS: Final = (64, 128, 256, 512)
_DEPTHS: Final = (2, 2, 6, 2)
_HEAD: Final = 32
_GELU: Final = "gelu_erf"


def fastvit_sa12(options: WorkloadOptions) -> Workload:
    """FastViT-SA12 on 256 x 256 images."""
    name = "fastvit-sa12"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=256, width=256))
    x = net.conv("stem0", x, ConvLayer(64, 3, 2, 1, bias=True, activation=_GELU))
    x = net.conv("stem1", x, ConvLayer(64, 3, 2, 1, groups=64, bias=True, activation=_GELU))
    x = net.conv("stem2", x, ConvLayer(64, 1, bias=True, activation=_GELU))
    for stage, (width, depth) in enumerate(zip(_WIDTHS, _DEPTHS, strict=True)):
        if stage:
            groups = net.shape(x)[1]
            x = net.conv(f"down{stage}.window", x, ConvLayer(width, 7, 2, 3, groups=groups, bias=True))
            x = net.conv(f"down{stage}.product", x, ConvLayer(width, 1, bias=True, activation=_GELU))
        attends = stage == len(_WIDTHS) - 1
        if attends:
            x = net.conv("position", x, ConvLayer(width, 7, 1, 3, groups=width, bias=True))
        for index in range(depth):
            block = f"stage{stage}.{index}"
            x = _attended(net, block, x) if attends else _windowed(net, block, x)
            x = _mlp(net, block, x)
    x = net.conv("head", x, ConvLayer(2 * _WIDTHS[-1], 3, 1, 1, groups=_WIDTHS[-1], bias=True))
    x = net.activation("head.gelu", squeeze_excite(net, "head.gate", x, 2 * _WIDTHS[-1] // 16), _GELU)
    return finished(net, options, net.linear("classifier", net.adaptive_pool("pool", x), 1000))


def _windowed(net: LayerBuilder, name: str, x: str) -> str:
    width = net.shape(x)[1]
    return net.conv(f"{name}.window", x, ConvLayer(width, 3, 1, 1, groups=width, bias=True))


def _attended(net: LayerBuilder, name: str, x: str) -> str:
    width = net.shape(x)[1]
    y = net.conv(f"{name}.qkv", net.batch_norm(f"{name}.norm", x), ConvLayer(3 * width, 1))
    y = pixel_attention(net, name, y, width // _HEAD, _HEAD, _HEAD)
    return scaled_residual(
        net, f"{name}.add", x, net.conv(f"{name}.project", y, ConvLayer(width, 1, bias=True))
    )


def _mlp(net: LayerBuilder, name: str, x: str) -> str:
    width = net.shape(x)[1]
    y = net.conv(f"{name}.mlp.window", x, ConvLayer(width, 7, 1, 3, groups=width, norm=True))
    y = net.conv(f"{name}.mlp.up", y, ConvLayer(4 * width, 1, bias=True, activation=_GELU))
    return scaled_residual(
        net, f"{name}.mlp.add", x, net.conv(f"{name}.mlp.down", y, ConvLayer(width, 1, bias=True))
    )
