"""Networks for images of 32 x 32 (CIFAR): a wide residual network and ResNet-50, alone or with small ones beside them.

Wide residual networks (Zagoruyko and Komodakis, BMVC 2016, table 1) normalise before each convolution. ResNet-50 for
small images has a 3x3 stem without a pool, and is otherwise He et al.'s (CVPR 2016, table 1).

Test-time adaptation may leave a network frozen and train small networks beside it (EcoTTA, arXiv:2303.01904, figure 3):
the blocks are divided into parts, and beside each stand a convolution with norm and rectifier on what enters the part
and a norm on what leaves it; their sum goes on. ``parts`` and ``kernel`` are dimensions to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hw_configs.problems import bad_input
from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.vision.resnet import bottleneck
from workloads.workload import Workload, WorkloadOptions

__all__ = ["resnet_50_small", "resnet_50_small_meta", "wide_resnet_40", "wide_resnet_40_meta"]

CLASSES: Final = 100
Step = Callable[[str], str]
"""One block of a network: the name of what enters to the name of what leaves it."""

PARTS: Final = {
    "wide-resnet-40": {4: (3, 3, 6, 6), 5: (3, 3, 3, 3, 6)},
    "resnet-50": {4: (3, 3, 5, 5), 5: (2, 2, 4, 4, 4)},
}
"""Blocks of each part (EcoTTA, table 13; the authors' notebook and github.com/Lily-Le/EcoTTA)."""


def wide_resnet_40(options: WorkloadOptions) -> Workload:
    """WRN-40-2: three stages of six blocks, twice as wide, on images of 32 x 32 in 100 classes."""
    return _wide("wide-resnet-40", options)


def wide_resnet_40_meta(options: WorkloadOptions) -> Workload:
    """WRN-40-2 in 4 or 5 parts with a small network beside each."""
    return _wide("wide-resnet-40-meta", options, meta=True)


def resnet_50_small(options: WorkloadOptions) -> Workload:
    """ResNet-50 with a 3x3 stem on images of 32 x 32 in 100 classes."""
    return _residual("resnet-50-small", options)


def resnet_50_small_meta(options: WorkloadOptions) -> Workload:
    """ResNet-50 for images of 32 x 32 in 4 or 5 parts with a small network beside each."""
    return _residual("resnet-50-small-meta", options, meta=True)


def _wide(name: str, options: WorkloadOptions, *, meta: bool = False) -> Workload:
    net, x, parts, kernel, options = _start(name, options, meta=meta)
    x = net.conv("stem", x, ConvLayer(16, 3, 1, 1))
    steps = [
        _pre_activation(net, f"stage{stage}.{index}", 32 * 2**stage // 2, 2 if stage > 1 and not index else 1)
        for stage in (1, 2, 3)
        for index in range(6)
    ]
    x = _run(net, x, steps, PARTS["wide-resnet-40"][parts] if meta else (), kernel)
    x = net.batch_norm("norm", x, activation="relu")
    x = net.adaptive_pool("pool", x)
    return finished(net, options, net.linear("classifier", x, CLASSES))


def _residual(name: str, options: WorkloadOptions, *, meta: bool = False) -> Workload:
    net, x, parts, kernel, options = _start(name, options, meta=meta)
    x = net.conv("stem", x, ConvLayer(64, 3, 1, 1, norm=True, activation="relu"))
    block = bottleneck()

    def step(stage: int, index: int) -> Step:
        stride = 2 if stage > 1 and not index else 1
        return lambda y: block(net, f"stage{stage}.{index}", y, 32 * 2**stage, stride, 1)

    steps = [step(stage, index) for stage, depth in enumerate((3, 4, 6, 3), 1) for index in range(depth)]
    x = _run(net, x, steps, PARTS["resnet-50"][parts] if meta else (), kernel)
    x = net.adaptive_pool("pool", x)
    return finished(net, options, net.linear("classifier", x, CLASSES))


def _start(
    name: str, options: WorkloadOptions, *, meta: bool
) -> tuple[LayerBuilder, str, int, int, WorkloadOptions]:
    """A builder with its image, and the parts and kernel that were chosen."""
    options = plain_options(name, options)
    natural = {"parts": 4, "kernel": 3} if meta else {}
    height, width, *more = chosen_dims(options, name, height=32, width=32, **natural)
    parts, kernel = (more[0], more[1]) if meta else (0, 0)
    if meta and (parts not in (4, 5) or kernel not in (1, 3)):
        raise bad_input(f"found parts={parts}, kernel={kernel}; expected 4 or 5 parts, 1 or 3", path="--dim")
    net = LayerBuilder(name, options)
    return net, net.input("image", 3, height, width), parts, kernel, options


def _pre_activation(net: LayerBuilder, name: str, width: int, stride: int) -> Step:
    """Norm, rectifier and 3x3 convolution twice, and what entered added; a wider block projects its normed input."""

    def block(x: str) -> str:
        same = net.shape(x)[1] == width and stride == 1
        opened = net.batch_norm(f"{name}.norm1", x, activation="relu")
        y = net.conv(f"{name}.conv1", opened, ConvLayer(width, 3, stride, 1))
        y = net.batch_norm(f"{name}.norm2", y, activation="relu")
        y = net.conv(f"{name}.conv2", y, ConvLayer(width, 3, 1, 1))
        short = x if same else net.conv(f"{name}.shortcut", opened, ConvLayer(width, 1, stride))
        return net.add(f"{name}.add", y, short)

    return block


def _run(net: LayerBuilder, x: str, steps: list[Step], parts: tuple[int, ...], kernel: int) -> str:
    """All blocks in turn, with a small network beside each part if there are parts."""
    if not parts:
        for step in steps:
            x = step(x)
        return x
    first = 0
    for index, count in enumerate(parts):
        y = x
        for step in steps[first : first + count]:
            y = step(y)
        channels, stride = net.shape(y)[1], net.shape(x)[2] // net.shape(y)[2]
        beside = ConvLayer(channels, kernel, stride, kernel // 2, norm=True, activation="relu")
        normed = net.batch_norm(f"meta{index}.norm", y)
        x = net.add(f"meta{index}.add", normed, net.conv(f"meta{index}.conv", x, beside))
        first += count
    return x
