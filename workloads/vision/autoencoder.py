"""The decoder of latent diffusion's autoencoder (Rombach et al., CVPR 2022; Stable Diffusion's, factor 8, 4 latents).

Residual blocks of two 3x3 convolutions behind group norms, attention over all latents at the bottom, three doublings of
the sides. Norms stand before the convolutions and average over a group of channels, so none folds into one.
"""

from __future__ import annotations

from math import prod
from typing import Final

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.operators import Resize
from workloads.vision.image_parts import group_norm, pixel_attention
from workloads.workload import Workload, WorkloadOptions

__all__ = ["latent_decoder"]

_WIDTHS: Final = (512, 512, 256, 128)
_GROUPS: Final = 32
_LATENTS: Final = 4
_FACTOR: Final = 8


def latent_decoder(options: WorkloadOptions) -> Workload:
    """Latents of a picture of 512 x 512 pixels, or of ``height`` x ``width``, to its pixels."""
    name = "sd-vae-decoder"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    height, width = chosen_dims(options, name, height=512, width=512)
    x = net.input("latent", _LATENTS, -(-height // _FACTOR), -(-width // _FACTOR))
    x = net.conv("post_quant", x, ConvLayer(_LATENTS, 1, bias=True))
    x = _residual(net, "middle.0", net.conv("in", x, ConvLayer(_WIDTHS[0], 3, 1, 1, bias=True)), _WIDTHS[0])
    x = _residual(net, "middle.1", _attention(net, "middle.attention", x), _WIDTHS[0])
    for stage, channels in enumerate(_WIDTHS):
        for index in range(3):
            x = _residual(net, f"up{stage}.{index}", x, channels)
        if stage < len(_WIDTHS) - 1:
            x = net.conv(
                f"up{stage}.conv",
                _doubled(net, f"up{stage}.double", x),
                ConvLayer(channels, 3, 1, 1, bias=True),
            )
    x = net.activation("out.silu", group_norm(net, "out.norm", x, _GROUPS), "silu")
    return finished(net, options, net.conv("out", x, ConvLayer(3, 3, 1, 1, bias=True)))


def _residual(net: LayerBuilder, name: str, x: str, channels: int) -> str:
    y = x
    for index in (1, 2):
        y = net.activation(f"{name}.silu{index}", group_norm(net, f"{name}.norm{index}", y, _GROUPS), "silu")
        y = net.conv(f"{name}.conv{index}", y, ConvLayer(channels, 3, 1, 1, bias=True))
    if net.shape(x)[1] != channels:
        x = net.conv(f"{name}.shortcut", x, ConvLayer(channels, 1, bias=True))
    return net.add(f"{name}.add", x, y)


def _attention(net: LayerBuilder, name: str, x: str) -> str:
    width = net.shape(x)[1]
    y = net.conv(
        f"{name}.qkv", group_norm(net, f"{name}.norm", x, _GROUPS), ConvLayer(3 * width, 1, bias=True)
    )
    y = net.conv(
        f"{name}.out", pixel_attention(net, name, y, 1, width, width), ConvLayer(width, 1, bias=True)
    )
    return net.add(f"{name}.add", x, y)


def _doubled(net: LayerBuilder, name: str, x: str) -> str:
    batch, channels, height, width = net.shape(x)
    shape = (batch, channels, 2 * height, 2 * width)
    work = Resize(m=prod(shape[:-1]), n=shape[-1], mode="nearest")
    return net.operator(name, work, (x,), shape)
