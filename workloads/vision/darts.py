"""DARTS, second order (Liu et al., ICLR 2019, figures 4 and 5), the ImageNet network of 14 cells at width 48."""

from __future__ import annotations

from typing import Final

from workloads.layer_builder import ConvLayer, chosen_dims, finished, plain_options
from workloads.vision.cells import CellBuilder
from workloads.workload import Workload, WorkloadOptions

__all__ = ["darts_v2"]

_NORMAL: Final = (
    (0, "separable"), (1, "separable"), (0, "separable"), (1, "separable"), (1, "separable"), (0, "skip"),
    (0, "skip"), (2, "dilated"),
)  # fmt: skip
_REDUCTION: Final = (
    (0, "pool"), (1, "pool"), (2, "skip"), (1, "pool"), (0, "pool"), (2, "skip"), (2, "skip"), (1, "pool"),
)  # fmt: skip
"""State that an operation reads and the operation, two per sum; states 0 and 1 are the cell's inputs."""
_CELLS: Final = 14
_WIDTH: Final = 48


def darts_v2(options: WorkloadOptions) -> Workload:
    """The DARTS network for ImageNet on 224 x 224 images, without the auxiliary head of its training."""
    name = "darts-v2"
    options = plain_options(name, options)
    net = CellBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    x = net.conv("stem.0", x, ConvLayer(_WIDTH // 2, 3, 2, 1, norm=True, activation="relu"))
    previous = net.conv("stem.1", x, ConvLayer(_WIDTH, 3, 2, 1, norm=True))
    current = net.conv("stem.2", net.relu(previous), ConvLayer(_WIDTH, 3, 2, 1, norm=True))
    channels = _WIDTH
    for index in range(_CELLS):
        reduces = index in (_CELLS // 3, 2 * _CELLS // 3)
        channels *= 2 if reduces else 1
        previous, current = current, _cell(net, f"cell{index}", previous, current, channels, reduces)
    return finished(net, options, net.linear("classifier", net.adaptive_pool("pool", current), 1000))


def _cell(net: CellBuilder, name: str, previous: str, current: str, channels: int, reduces: bool) -> str:
    if net.shape(previous)[2:] != net.shape(current)[2:]:
        first = net.factorised_reduction(f"{name}.fit", previous, channels)
    else:
        first = net.relu_conv(f"{name}.fit", previous, channels)
    states = [first, net.relu_conv(f"{name}.base", current, channels)]
    operations = _REDUCTION if reduces else _NORMAL
    for index in range(0, len(operations), 2):
        branches = [
            _operation(net, f"{name}.{index // 2}.{side}", operation, states[state], reduces and state < 2)
            for side, (state, operation) in zip(("left", "right"), operations[index : index + 2], strict=True)
        ]
        states.append(net.sum(f"{name}.sum{index // 2}", *branches))
    return net.concat(f"{name}.concat", *states[2:])


def _operation(net: CellBuilder, name: str, operation: str, x: str, halve: bool) -> str:
    channels, stride = net.shape(x)[1], 2 if halve else 1
    if operation == "separable":
        return net.separable(name, x, channels, 3, stride)
    if operation == "dilated":
        return net.depthwise_separable(name, net.relu(x), channels, 3, stride, dilation=2)
    if operation == "pool":
        return net.pool(name, x, 3, stride, 1)
    return net.factorised_reduction(name, x, channels) if halve else x
