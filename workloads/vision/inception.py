"""Inception v3 (Szegedy et al., CVPR 2016, table 1 and figures 5 to 7), laid out as in its usual checkpoints.

The auxiliary classifier runs in training alone; its weights are part of the checkpoint, so they stand in the
inference graph too and stay resident, read by nobody.
"""

from __future__ import annotations

from workloads.layer_builder import ConvLayer, LayerBuilder, Pair, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["inception_v3"]


def inception_v3(options: WorkloadOptions) -> Workload:
    """Inception v3 on 299 x 299 images."""
    name = "inception-v3"
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=299, width=299))
    x = _conv(net, "stem.conv1", x, 32, 3, 2)
    x = _conv(net, "stem.conv2", x, 32, 3)
    x = _conv(net, "stem.conv3", x, 64, 3, 1, 1)
    x = net.pool("stem.pool1", x, 3, 2)
    x = _conv(net, "stem.conv4", x, 80, 1)
    x = _conv(net, "stem.conv5", x, 192, 3)
    x = net.pool("stem.pool2", x, 3, 2)
    for index, pooled in enumerate((32, 64, 64)):
        x = _square(net, f"a{index}", x, pooled)
    x = _first_reduction(net, "reduce1", x)
    for index, inner in enumerate((128, 160, 160, 192)):
        x = _factorised(net, f"b{index}", x, inner)
    outputs = _auxiliary(net, x, runs=options.phase == "train")
    x = _second_reduction(net, "reduce2", x)
    for index in range(2):
        x = _expanded(net, f"c{index}", x)
    x = net.linear("classifier", net.adaptive_pool("pool", x), 1000)
    return finished(net, options, x, *outputs)


def _conv(
    net: LayerBuilder, name: str, x: str, channels: int, kernel: Pair, stride: int = 1, pad: Pair = 0
) -> str:
    return net.conv(name, x, ConvLayer(channels, kernel, stride, pad, norm=True, activation="relu"))


def _pooled(net: LayerBuilder, name: str, x: str, channels: int) -> str:
    return _conv(net, f"{name}.pool_conv", net.pool(f"{name}.pool", x, 3, 1, 1, mode="average"), channels, 1)


def _square(net: LayerBuilder, name: str, x: str, pooled: int) -> str:
    """Figure 5: 1x1, 5x5 and a pair of 3x3 side by side."""
    one = _conv(net, f"{name}.one", x, 64, 1)
    five = _conv(net, f"{name}.five2", _conv(net, f"{name}.five1", x, 48, 1), 64, 5, 1, 2)
    three = _conv(net, f"{name}.three2", _conv(net, f"{name}.three1", x, 64, 1), 96, 3, 1, 1)
    three = _conv(net, f"{name}.three3", three, 96, 3, 1, 1)
    return net.concat(f"{name}.concat", one, five, three, _pooled(net, name, x, pooled))


def _first_reduction(net: LayerBuilder, name: str, x: str) -> str:
    three = _conv(net, f"{name}.three", x, 384, 3, 2)
    double = _conv(net, f"{name}.double2", _conv(net, f"{name}.double1", x, 64, 1), 96, 3, 1, 1)
    double = _conv(net, f"{name}.double3", double, 96, 3, 2)
    return net.concat(f"{name}.concat", three, double, net.pool(f"{name}.pool", x, 3, 2))


def _factorised(net: LayerBuilder, name: str, x: str, inner: int) -> str:
    """Figure 6: 7x7 windows as pairs of 1x7 and 7x1."""
    one = _conv(net, f"{name}.one", x, 192, 1)
    seven = _conv(net, f"{name}.seven1", x, inner, 1)
    seven = _conv(net, f"{name}.seven2", seven, inner, (1, 7), 1, (0, 3))
    seven = _conv(net, f"{name}.seven3", seven, 192, (7, 1), 1, (3, 0))
    double = _conv(net, f"{name}.double1", x, inner, 1)
    for index, (kernel, pad, width) in enumerate(
        (((7, 1), (3, 0), inner), ((1, 7), (0, 3), inner), ((7, 1), (3, 0), inner), ((1, 7), (0, 3), 192)),
        start=2,
    ):
        double = _conv(net, f"{name}.double{index}", double, width, kernel, 1, pad)
    return net.concat(f"{name}.concat", one, seven, double, _pooled(net, name, x, 192))


def _second_reduction(net: LayerBuilder, name: str, x: str) -> str:
    three = _conv(net, f"{name}.three2", _conv(net, f"{name}.three1", x, 192, 1), 320, 3, 2)
    seven = _conv(net, f"{name}.seven1", x, 192, 1)
    seven = _conv(net, f"{name}.seven2", seven, 192, (1, 7), 1, (0, 3))
    seven = _conv(net, f"{name}.seven3", seven, 192, (7, 1), 1, (3, 0))
    seven = _conv(net, f"{name}.seven4", seven, 192, 3, 2)
    return net.concat(f"{name}.concat", three, seven, net.pool(f"{name}.pool", x, 3, 2))


def _expanded(net: LayerBuilder, name: str, x: str) -> str:
    """Figure 7: 3x3 windows as 1x3 beside 3x1."""
    one = _conv(net, f"{name}.one", x, 320, 1)
    three = _conv(net, f"{name}.three1", x, 384, 1)
    double = _conv(net, f"{name}.double2", _conv(net, f"{name}.double1", x, 448, 1), 384, 3, 1, 1)
    wide = [
        _conv(net, f"{name}.{branch}_{label}", y, 384, kernel, 1, pad)
        for branch, y in (("three", three), ("double", double))
        for label, kernel, pad in (("row", (1, 3), (0, 1)), ("column", (3, 1), (1, 0)))
    ]
    return net.concat(f"{name}.concat", one, *wide, _pooled(net, name, x, 192))


def _auxiliary(net: LayerBuilder, x: str, *, runs: bool) -> tuple[str, ...]:
    """The second classifier of training; in inference only its weights."""
    if runs:
        y = net.pool("auxiliary.pool", x, 5, 3, mode="average")
        y = _conv(net, "auxiliary.conv1", y, 128, 1)
        y = _conv(net, "auxiliary.conv2", y, 768, 5)
        return (net.linear("auxiliary.classifier", net.adaptive_pool("auxiliary.average", y), 1000),)
    channels = net.shape(x)[1]
    for name, sides in (("conv1", (128, channels, 1, 1)), ("conv2", (768, 128, 5, 5))):
        net.weight(f"auxiliary.{name}.weight", *sides)
        net.weight(f"auxiliary.{name}.norm.weight", 2, sides[0])
    net.weight("auxiliary.classifier.weight", 1000, 768)
    net.weight("auxiliary.classifier.bias", 1000)
    return ()
