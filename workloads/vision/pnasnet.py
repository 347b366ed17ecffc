"""PNASNet-5 large (Liu et al., ECCV 2018, figure 1 right, N = 4, F = 216): one cell, with stride to reduce."""

from __future__ import annotations

from workloads.layer_builder import ConvLayer, chosen_dims, finished, plain_options
from workloads.vision.cells import CellBuilder
from workloads.workload import Workload, WorkloadOptions

__all__ = ["pnasnet_5_large"]


def pnasnet_5_large(options: WorkloadOptions) -> Workload:
    """PNASNet-5 large on 331 x 331 images."""
    name = "pnasnet-5-large"
    options = plain_options(name, options)
    net = CellBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=331, width=331))
    before = net.conv("stem", x, ConvLayer(96, 3, 2, norm=True))
    cells = [before, _cell(net, "stem0", before, before, 54, 2, raw=True)]
    cells.append(_cell(net, "stem1", cells[0], cells[1], 108, 2))
    for group in range(3):
        for index in range(4):
            stride = 2 if group and index == 0 else 1
            cells.append(_cell(net, f"cell{group}.{index}", cells[-2], cells[-1], 216 * 2**group, stride))
    y = net.adaptive_pool("pool", net.relu(cells[-1]))
    return finished(net, options, net.linear("classifier", y, 1000))


def _cell(
    net: CellBuilder, name: str, previous: str, current: str, channels: int, stride: int, *, raw: bool = False
) -> str:
    """Five sums of pairs; ``raw``: the cell before last is taken as it is and widened by its branches."""
    if raw:
        left = previous
    elif net.shape(previous)[2:] != net.shape(current)[2:]:
        left = net.factorised_reduction(f"{name}.fit", previous, channels)
    else:
        left = net.relu_conv(f"{name}.fit", previous, channels)
    right = net.relu_conv(f"{name}.base", current, channels)

    def sep(label: str, x: str, kernel: int, step: int = stride) -> str:
        return net.separable(f"{name}.{label}", x, channels, kernel, step, widen=raw)

    def pool(label: str, x: str) -> str:
        return net.pool(f"{name}.{label}", x, 3, stride, 1)

    pooled = pool("0.right", left)
    if raw:
        pooled = net.conv(f"{name}.0.widen", pooled, ConvLayer(channels, 1, norm=True))
    first = net.sum(f"{name}.sum0", sep("0.left", left, 5), pooled)
    second = net.sum(f"{name}.sum1", sep("1.left", right, 7), pool("1.right", right))
    third = net.sum(f"{name}.sum2", sep("2.left", right, 5), sep("2.right", right, 3))
    fourth = net.sum(f"{name}.sum3", sep("3.left", third, 3, 1), pool("3.right", right))
    kept = right if stride == 1 else net.relu_conv(f"{name}.4.right", right, channels, 1, stride)
    fifth = net.sum(f"{name}.sum4", sep("4.left", left, 3), kept)
    return net.concat(f"{name}.concat", first, second, third, fourth, fifth)
