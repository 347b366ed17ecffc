"""NASNet-A (Zoph et al., CVPR 2018, figure 4), large (6 @ 4032) and mobile (4 @ 1056).

Laid out as in the published checkpoints: a strided convolution, two reduction cells as a stem, and three
groups of normal cells with reduction cells between them. A cell reads the two cells before it; in the large
network the first cell behind a reduction passes over the last cell before it.
"""

from __future__ import annotations

from workloads.layer_builder import ConvLayer, chosen_dims, finished, plain_options
from workloads.vision.cells import CellBuilder
from workloads.workload import Workload, WorkloadOptions

__all__ = ["nasnet_a_large", "nasnet_a_mobile"]


def nasnet_a_large(options: WorkloadOptions) -> Workload:
    """NASNet-A 6 @ 4032 on 331 x 331 images."""
    return _nasnet("nasnet-a-large", options, side=331, stem=96, width=168, repeats=6, passes_over=True)


def nasnet_a_mobile(options: WorkloadOptions) -> Workload:
    """NASNet-A 4 @ 1056 on 224 x 224 images."""
    return _nasnet("nasnet-a-mobile", options, side=224, stem=32, width=44, repeats=4, passes_over=False)


def _nasnet(
    name: str, options: WorkloadOptions, *, side: int, stem: int, width: int, repeats: int, passes_over: bool
) -> Workload:
    options = plain_options(name, options)
    net = CellBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=side, width=side))
    before = net.conv("stem", x, ConvLayer(stem, 3, 2, norm=True))
    # The first reduction has the strided convolution as both its inputs.
    cells = [before, _reduction(net, "stem0", before, before, width // 4, raw=True)]
    cells.append(_reduction(net, "stem1", cells[0], cells[1], width // 2))
    for group in range(3):
        channels = width * 2**group
        if group:
            cells.append(_reduction(net, f"reduce{group}", cells[-2], cells[-1], channels))
        for index in range(repeats):
            skipped = 3 if passes_over and group and index == 0 else 2
            cells.append(_normal(net, f"cell{group}.{index}", cells[-skipped], cells[-1], channels))
    y = net.adaptive_pool("pool", net.relu(cells[-1]))
    return finished(net, options, net.linear("classifier", y, 1000))


def _fitted(net: CellBuilder, name: str, previous: str, current: str, channels: int) -> str:
    """The cell before last at this cell's width, and at its sides where a reduction stood between."""
    if net.shape(previous)[2:] != net.shape(current)[2:]:
        return net.factorised_reduction(f"{name}.fit", previous, channels)
    return net.relu_conv(f"{name}.fit", previous, channels)


def _normal(net: CellBuilder, name: str, previous: str, current: str, channels: int) -> str:
    left = _fitted(net, name, previous, current, channels)
    right = net.relu_conv(f"{name}.base", current, channels)

    def sep(label: str, x: str, kernel: int) -> str:
        return net.separable(f"{name}.{label}", x, channels, kernel)

    def mean(label: str, x: str) -> str:
        return net.pool(f"{name}.{label}", x, 3, 1, 1, mode="average")

    sums = (
        net.sum(f"{name}.sum0", sep("0.left", right, 5), sep("0.right", left, 3)),
        net.sum(f"{name}.sum1", sep("1.left", left, 5), sep("1.right", left, 3)),
        net.sum(f"{name}.sum2", mean("2.left", right), left),
        net.sum(f"{name}.sum3", mean("3.left", left), mean("3.right", left)),
        net.sum(f"{name}.sum4", sep("4.left", right, 3), right),
    )
    return net.concat(f"{name}.concat", left, *sums)


def _reduction(
    net: CellBuilder, name: str, previous: str, current: str, channels: int, *, raw: bool = False
) -> str:
    """Halves the sides; ``raw``: the other input is taken as it is and widened by its convolutions."""
    left = net.relu_conv(f"{name}.base", current, channels)
    right = previous if raw else _fitted(net, name, previous, current, channels)

    def sep(label: str, x: str, kernel: int, stride: int = 2) -> str:
        return net.separable(f"{name}.{label}", x, channels, kernel, stride, widen=raw)

    def pool(label: str, x: str, mode: str, stride: int = 2) -> str:
        return net.pool(f"{name}.{label}", x, 3, stride, 1, mode=mode)

    first = net.sum(f"{name}.sum0", sep("0.left", left, 5), sep("0.right", right, 7))
    second = net.sum(f"{name}.sum1", pool("1.left", left, "max"), sep("1.right", right, 7))
    third = net.sum(f"{name}.sum2", pool("2.left", left, "average"), sep("2.right", right, 5))
    fourth = net.sum(f"{name}.sum3", pool("3.right", first, "average", 1), second)
    fifth = net.sum(f"{name}.sum4", sep("4.left", first, 3, 1), pool("4.right", left, "max"))
    return net.concat(f"{name}.concat", second, third, fourth, fifth)
