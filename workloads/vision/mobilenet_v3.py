"""MobileNetV3 large (Howard et al., ICCV 2019, table 1): inverted residuals with squeeze-and-excitation."""

from __future__ import annotations

from typing import Final, NamedTuple

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["mobilenet_v3_backbone", "mobilenet_v3_large"]


class _Block(NamedTuple):
    """Kernel, expanded and output channels, squeeze-and-excitation, non-linearity and stride of a block."""

    kernel: int
    inner: int
    channels: int
    squeeze: bool
    activation: str
    stride: int
    dilation: int = 1


_BLOCKS: Final = (
    _Block(3, 16, 16, False, "relu", 1),
    _Block(3, 64, 24, False, "relu", 2),
    _Block(3, 72, 24, False, "relu", 1),
    _Block(5, 72, 40, True, "relu", 2),
    _Block(5, 120, 40, True, "relu", 1),
    _Block(5, 120, 40, True, "relu", 1),
    _Block(3, 240, 80, False, "hard_swish", 2),
    _Block(3, 200, 80, False, "hard_swish", 1),
    _Block(3, 184, 80, False, "hard_swish", 1),
    _Block(3, 184, 80, False, "hard_swish", 1),
    _Block(3, 480, 112, True, "hard_swish", 1),
    _Block(3, 672, 112, True, "hard_swish", 1),
    _Block(5, 672, 160, True, "hard_swish", 2),
    _Block(5, 960, 160, True, "hard_swish", 1),
    _Block(5, 960, 160, True, "hard_swish", 1),
)


def mobilenet_v3_large(options: WorkloadOptions) -> Workload:
    """MobileNetV3 large 1.0 on 224 x 224 images."""
    name = "mobilenet-v3-large"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    image = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    _, x = mobilenet_v3_backbone(net, image)
    x = net.linear("head", net.adaptive_pool("pool", x), 1280)
    x = net.activation("head.hard_swish", x, "hard_swish")
    return finished(net, options, net.linear("classifier", x, 1000))


def mobilenet_v3_backbone(net: LayerBuilder, x: str, *, dilated: bool = False) -> tuple[str, str]:
    """The features after the last block at 1/8 of the sides, and the last ones.

    ``dilated``: the last three blocks keep their sides and dilate their windows instead (Howard et al.,
    section 6.4: the segmentation backbone).
    """
    x = low = net.conv("stem", x, ConvLayer(16, 3, 2, 1, norm=True, activation="hard_swish"))
    for index, block in enumerate(_BLOCKS):
        kept = dilated and index >= 12
        x = _block(net, f"block{index}", x, block._replace(stride=1, dilation=2) if kept else block)
        low = x if index == 5 else low
    return low, net.conv("features", x, ConvLayer(960, 1, norm=True, activation="hard_swish"))


def _block(net: LayerBuilder, name: str, x: str, block: _Block) -> str:
    kernel, inner, channels, squeeze, activation, stride, dilation = block
    y = x
    if inner != net.shape(x)[1]:
        y = net.conv(f"{name}.expand", y, ConvLayer(inner, 1, norm=True, activation=activation))
    y = net.conv(
        f"{name}.depthwise",
        y,
        ConvLayer(
            inner,
            kernel,
            stride,
            dilation * (kernel // 2),
            groups=inner,
            dilation=dilation,
            norm=True,
            activation=activation,
        ),
    )
    if squeeze:
        gate = net.adaptive_pool(f"{name}.squeeze", y, flat=False)
        gate = net.conv(
            f"{name}.reduce", gate, ConvLayer(_eighths(inner // 4), 1, bias=True, activation="relu")
        )
        gate = net.conv(f"{name}.excite", gate, ConvLayer(inner, 1, bias=True, activation="hard_sigmoid"))
        y = net.multiply(f"{name}.scale", y, gate)
    y = net.conv(f"{name}.project", y, ConvLayer(channels, 1, norm=True))
    return net.add(f"{name}.add", y, x) if net.shape(x) == net.shape(y) else y


def _eighths(channels: int) -> int:
    """The nearest multiple of 8 that is not below nine tenths of the number."""
    nearest = max(8, (channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
