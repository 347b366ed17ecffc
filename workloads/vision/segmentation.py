"""Segmentation networks: U-Net (Ronneberger et al., MICCAI 2015, figure 1); DeepLabv3 (Chen et al.,
arXiv:1706.05587, section 3) and FCN (Long et al., CVPR 2015) on a ResNet-50 of output stride 8; and lite R-ASPP
(Howard et al., ICCV 2019, figure 10) on a dilated MobileNetV3.
"""

from __future__ import annotations

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.vision.mobilenet_v3 import mobilenet_v3_backbone
from workloads.vision.resnet import backbone, bottleneck
from workloads.workload import Workload, WorkloadOptions

__all__ = ["deeplab_v3", "fcn_resnet50", "lraspp_mobilenet_v3", "unet"]


def unet(options: WorkloadOptions) -> Workload:
    """U-Net on one-channel tiles of 572 x 572 with unpadded convolutions and two classes, as published."""
    name = "unet"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 1, *chosen_dims(options, name, height=572, width=572))
    skipped = []
    for level, width in enumerate((64, 128, 256, 512)):
        x = _double(net, f"down{level}", x, width)
        skipped.append(x)
        x = net.pool(f"down{level}.pool", x, 2, 2)
    x = _double(net, "bottom", x, 1024)
    for level, width in reversed(list(enumerate((64, 128, 256, 512)))):
        x = net.conv_transpose(f"up{level}.up", x, width, 2, 2)
        skip = net.crop(f"up{level}.crop", skipped[level], *net.shape(x)[2:])
        x = _double(net, f"up{level}", net.concat(f"up{level}.concat", skip, x), width)
    return finished(net, options, net.conv("classifier", x, ConvLayer(2, 1, bias=True)))


def _double(net: LayerBuilder, name: str, x: str, width: int) -> str:
    for index in (1, 2):
        x = net.conv(f"{name}.conv{index}", x, ConvLayer(width, 3, bias=True, activation="relu"))
    return x


def deeplab_v3(options: WorkloadOptions) -> Workload:
    """DeepLabv3 with a ResNet-50 on 520 x 520 images, 21 classes; rates 12, 24 and 36.

    The auxiliary head runs in training alone; its weights are part of the checkpoint and stay resident.
    """
    name, classes = "deeplab-v3", 21
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    height, width = chosen_dims(options, name, height=520, width=520)
    x = backbone(net, net.input("image", 3, height, width), (3, 4, 6, 3), bottleneck(), dilated=(3, 4))
    outputs = _auxiliary(net, classes, height, width, runs=options.phase == "train")
    branches = [net.conv("aspp.one", x, ConvLayer(256, 1, norm=True, activation="relu"))]
    branches += [
        net.conv(
            f"aspp.rate{rate}", x, ConvLayer(256, 3, 1, rate, dilation=rate, norm=True, activation="relu")
        )
        for rate in (12, 24, 36)
    ]
    pooled = net.adaptive_pool("aspp.pool", x, flat=False)
    pooled = net.conv("aspp.pool_conv", pooled, ConvLayer(256, 1, norm=True, activation="relu"))
    branches.append(net.resize("aspp.pool_resize", pooled, *net.shape(x)[2:]))
    x = net.conv(
        "aspp.project", net.concat("aspp.concat", *branches), ConvLayer(256, 1, norm=True, activation="relu")
    )
    x = net.conv("head", x, ConvLayer(256, 3, 1, 1, norm=True, activation="relu"))
    x = net.conv("classifier", x, ConvLayer(classes, 1, bias=True))
    return finished(net, options, net.resize("upsample", x, height, width), *outputs)


def fcn_resnet50(options: WorkloadOptions) -> Workload:
    """FCN with a dilated ResNet-50 on 520 x 520 images, 21 classes; the auxiliary head as in DeepLabv3."""
    name, classes = "fcn-resnet50", 21
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    height, width = chosen_dims(options, name, height=520, width=520)
    x = backbone(net, net.input("image", 3, height, width), (3, 4, 6, 3), bottleneck(), dilated=(3, 4))
    outputs = _auxiliary(net, classes, height, width, runs=options.phase == "train")
    x = net.conv("head", x, ConvLayer(512, 3, 1, 1, norm=True, activation="relu"))
    x = net.conv("classifier", x, ConvLayer(classes, 1, bias=True))
    return finished(net, options, net.resize("upsample", x, height, width), *outputs)


def lraspp_mobilenet_v3(options: WorkloadOptions) -> Workload:
    """Lite R-ASPP with a dilated MobileNetV3 large on 520 x 520 images, 21 classes."""
    name, classes = "lraspp-mobilenet-v3", 21
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    height, width = chosen_dims(options, name, height=520, width=520)
    low, high = mobilenet_v3_backbone(net, net.input("image", 3, height, width), dilated=True)
    x = net.conv("head", high, ConvLayer(128, 1, norm=True, activation="relu"))
    gate = net.adaptive_pool("scale.pool", high, flat=False)
    x = net.multiply("scale", x, net.conv("scale.conv", gate, ConvLayer(128, 1, activation="sigmoid")))
    x = net.resize("head.resize", x, *net.shape(low)[2:])
    one = net.conv("classifier.low", low, ConvLayer(classes, 1, bias=True))
    x = net.add("classifier.add", one, net.conv("classifier.high", x, ConvLayer(classes, 1, bias=True)))
    return finished(net, options, net.resize("upsample", x, height, width))


def _auxiliary(net: LayerBuilder, classes: int, height: int, width: int, *, runs: bool) -> tuple[str, ...]:
    """A second head on the third stage; in inference only its weights."""
    if runs:
        y = net.conv(
            "auxiliary.conv", "stage3.5.add.relu.out", ConvLayer(256, 3, 1, 1, norm=True, activation="relu")
        )
        y = net.conv("auxiliary.classifier", y, ConvLayer(classes, 1, bias=True))
        return (net.resize("auxiliary.upsample", y, height, width),)
    net.weight("auxiliary.conv.weight", 256, 1024, 3, 3)
    net.weight("auxiliary.conv.norm.weight", 2, 256)
    net.weight("auxiliary.classifier.weight", classes, 256, 1, 1)
    net.weight("auxiliary.classifier.bias", classes)
    return ()
