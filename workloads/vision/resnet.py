"""ResNet (He et al., CVPR 2016, table 1), ResNeXt (Xie et al., CVPR 2017, table 1) and wide
ResNet (Zagoruyko and Komodakis, BMVC 2016).

The stride of a bottleneck stands on its 3x3 convolution, as in the widely used "v1.5" variant whose
parameters and multiply-adds are the usually quoted ones.
"""

from __future__ import annotations

from collections.abc import Callable

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = [
    "backbone",
    "resnet_18",
    "resnet_34",
    "resnet_50",
    "resnet_101",
    "resnet_152",
    "resnext_50",
    "resnext_101",
    "wide_resnet_50",
    "wide_resnet_101",
]

Block = Callable[[LayerBuilder, str, str, int, int, int], str]


def resnet_18(options: WorkloadOptions) -> Workload:
    """ResNet-18 on 224 x 224 images."""
    return _classifier("resnet-18", (2, 2, 2, 2), _basic, options)


def resnet_34(options: WorkloadOptions) -> Workload:
    """ResNet-34 on 224 x 224 images."""
    return _classifier("resnet-34", (3, 4, 6, 3), _basic, options)


def resnet_50(options: WorkloadOptions) -> Workload:
    """ResNet-50 on 224 x 224 images."""
    return _classifier("resnet-50", (3, 4, 6, 3), bottleneck(), options)


def resnet_101(options: WorkloadOptions) -> Workload:
    """ResNet-101 on 224 x 224 images."""
    return _classifier("resnet-101", (3, 4, 23, 3), bottleneck(), options)


def resnet_152(options: WorkloadOptions) -> Workload:
    """ResNet-152 on 224 x 224 images."""
    return _classifier("resnet-152", (3, 8, 36, 3), bottleneck(), options)


def resnext_50(options: WorkloadOptions) -> Workload:
    """ResNeXt-50 of 32 groups of 4 channels on 224 x 224 images."""
    return _classifier("resnext-50", (3, 4, 6, 3), bottleneck(groups=32, width_per_group=4), options)


def resnext_101(options: WorkloadOptions) -> Workload:
    """ResNeXt-101 of 32 groups of 8 channels on 224 x 224 images."""
    return _classifier("resnext-101", (3, 4, 23, 3), bottleneck(groups=32, width_per_group=8), options)


def wide_resnet_50(options: WorkloadOptions) -> Workload:
    """Wide ResNet-50-2: 3x3 convolutions of twice the channels, on 224 x 224 images."""
    return _classifier("wide-resnet-50", (3, 4, 6, 3), bottleneck(width_per_group=128), options)


def wide_resnet_101(options: WorkloadOptions) -> Workload:
    """Wide ResNet-101-2: 3x3 convolutions of twice the channels, on 224 x 224 images."""
    return _classifier("wide-resnet-101", (3, 4, 23, 3), bottleneck(width_per_group=128), options)


def _classifier(name: str, depths: tuple[int, ...], block: Block, options: WorkloadOptions) -> Workload:
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    x = backbone(net, x, depths, block)
    x = net.adaptive_pool("pool", x)
    return finished(net, options, net.linear("classifier", x, 1000))


def backbone(
    net: LayerBuilder, x: str, depths: tuple[int, ...], block: Block, dilated: tuple[int, ...] = ()
) -> str:
    """Stem and four stages; a stage in ``dilated`` keeps its resolution and dilates its 3x3 windows."""
    x = net.conv("stem", x, ConvLayer(64, 7, 2, 3, norm=True, activation="relu"))
    x = net.pool("stem.pool", x, 3, 2, 1)
    dilation = 1
    for stage, depth in enumerate(depths, start=1):
        stride, first = (1 if stage == 1 else 2), dilation
        if stage in dilated:
            dilation, stride = dilation * stride, 1
        for index in range(depth):
            step, spread = (stride, first) if index == 0 else (1, dilation)
            x = block(net, f"stage{stage}.{index}", x, 32 * 2**stage, step, spread)
    return x


def _shortcut(net: LayerBuilder, name: str, x: str, channels: int, stride: int) -> str:
    if net.shape(x)[1] == channels and stride == 1:
        return x
    return net.conv(f"{name}.shortcut", x, ConvLayer(channels, 1, stride, norm=True))


def _basic(net: LayerBuilder, name: str, x: str, width: int, stride: int, dilation: int) -> str:
    y = net.conv(
        f"{name}.conv1",
        x,
        ConvLayer(width, 3, stride, dilation, dilation=dilation, norm=True, activation="relu"),
    )
    y = net.conv(f"{name}.conv2", y, ConvLayer(width, 3, 1, 1, norm=True))
    return net.add(f"{name}.add", y, _shortcut(net, name, x, width, stride), activation="relu")


def bottleneck(groups: int = 1, width_per_group: int = 64) -> Block:
    """A block of 1x1, 3x3 and 1x1 convolutions whose output has four times its width."""

    def block(net: LayerBuilder, name: str, x: str, width: int, stride: int, dilation: int) -> str:
        inner = width * width_per_group // 64 * groups
        y = net.conv(f"{name}.conv1", x, ConvLayer(inner, 1, norm=True, activation="relu"))
        y = net.conv(
            f"{name}.conv2",
            y,
            ConvLayer(
                inner, 3, stride, dilation, groups=groups, dilation=dilation, norm=True, activation="relu"
            ),
        )
        y = net.conv(f"{name}.conv3", y, ConvLayer(4 * width, 1, norm=True))
        return net.add(f"{name}.add", y, _shortcut(net, name, x, 4 * width, stride), activation="relu")

    return block
