"""AmoebaNet-D (Real et al., AAAI 2019, figure of appendix D), 18 normal cells of 208 filters as in GPipe.

The paper's figure and the implementation released with it differ in which states a normal cell gives out.
This is the released one: the parameter counts of GPipe (Huang et al., NeurIPS 2019, table 1) follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from workloads.layer_builder import ConvLayer, chosen_dims, finished, plain_options
from workloads.vision.cells import CellBuilder
from workloads.workload import Workload, WorkloadOptions

__all__ = ["amoebanet_d", "amoebanet_d_of"]

_NORMAL: Final = (
    (1, "conv1"), (1, "max3"), (1, "none"), (0, "conv7"), (0, "conv1"), (0, "conv7"), (2, "max3"), (2, "none"),
    (1, "mean3"), (5, "conv1"),
)  # fmt: skip
_NORMAL_OUTPUTS: Final = (0, 3, 4, 6)
_REDUCTION: Final = (
    (0, "max2"), (0, "max3"), (2, "none"), (1, "conv3"), (2, "conv7"), (2, "max3"), (3, "none"), (1, "max2"),
    (2, "mean3"), (3, "conv1"),
)  # fmt: skip
_REDUCTION_OUTPUTS: Final = (4, 5, 6)
"""State that an operation reads and the operation, two per sum; states 0 and 1 are the cell's inputs."""


def amoebanet_d(options: WorkloadOptions) -> Workload:
    """AmoebaNet-D (18, 208) on 224 x 224 images."""
    return amoebanet_d_of("amoebanet-d", options, cells=18, filters=208)


def amoebanet_d_of(name: str, options: WorkloadOptions, *, cells: int, filters: int) -> Workload:
    """AmoebaNet-D of a number of normal cells (a multiple of 3) and of filters (a multiple of 4)."""
    options = plain_options(name, options)
    net = CellBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    width = filters // 4
    x = net.conv("stem", net.relu(x), ConvLayer(width, 3, 2, 1, norm=True))
    previous, current = x, x
    groups: list[tuple[str, bool]] = [("stem0", True), ("stem1", True)]
    for group in range(3):
        groups += [(f"reduce{group}", True)] if group else []
        groups += [(f"cell{group}.{index}", False) for index in range(cells // 3)]
    after_reduction = False
    for cell, reduces in groups:
        width *= 2 if reduces else 1
        made = _cell(net, cell, previous, current, width, reduces, after_reduction)
        previous, current, after_reduction = current, made, reduces
    y = net.adaptive_pool("pool", current)
    return finished(net, options, net.linear("classifier", y, 1000))


def _cell(
    net: CellBuilder,
    name: str,
    previous: str,
    current: str,
    channels: int,
    reduces: bool,
    after_reduction: bool,
) -> str:
    one = net.relu_conv(f"{name}.base", current, channels)
    if after_reduction:
        other = net.factorised_reduction(f"{name}.fit", previous, channels)
    elif net.shape(previous)[1] != channels:
        other = net.relu_conv(f"{name}.fit", previous, channels)
    else:
        other = previous
    states = [one, other]
    operations = _REDUCTION if reduces else _NORMAL
    for index in range(0, len(operations), 2):
        branches = []
        for side, (state, operation) in zip(("left", "right"), operations[index : index + 2], strict=True):
            stride = 2 if reduces and state < 2 else 1
            label = f"{name}.{index // 2}.{side}"
            branches.append(_OPERATIONS[operation](net, label, states[state], stride))
        states.append(net.sum(f"{name}.sum{index // 2}", *branches))
    chosen = _REDUCTION_OUTPUTS if reduces else _NORMAL_OUTPUTS
    return net.concat(f"{name}.concat", *(states[index] for index in chosen))


def _none(net: CellBuilder, name: str, x: str, stride: int) -> str:
    return x if stride == 1 else net.factorised_reduction(name, x, net.shape(x)[1])


def _conv1(net: CellBuilder, name: str, x: str, stride: int) -> str:
    return net.relu_conv(name, x, net.shape(x)[1], 1, stride)


def _conv3(net: CellBuilder, name: str, x: str, stride: int) -> str:
    channels = net.shape(x)[1]
    y = net.conv(f"{name}.in", net.relu(x), ConvLayer(channels // 4, 1, norm=True, activation="relu"))
    y = net.conv(f"{name}.window", y, ConvLayer(channels // 4, 3, stride, 1, norm=True, activation="relu"))
    return net.conv(f"{name}.out", y, ConvLayer(channels, 1, norm=True))


def _conv7(net: CellBuilder, name: str, x: str, stride: int) -> str:
    channels = net.shape(x)[1]
    y = net.conv(f"{name}.in", net.relu(x), ConvLayer(channels // 4, 1, norm=True, activation="relu"))
    y = net.conv(
        f"{name}.row", y, ConvLayer(channels // 4, (1, 7), (1, stride), (0, 3), norm=True, activation="relu")
    )
    y = net.conv(
        f"{name}.column",
        y,
        ConvLayer(channels // 4, (7, 1), (stride, 1), (3, 0), norm=True, activation="relu"),
    )
    return net.conv(f"{name}.out", y, ConvLayer(channels, 1, norm=True))


def _pool(kernel: int, padding: int, mode: str) -> Callable[[CellBuilder, str, str, int], str]:
    def build(net: CellBuilder, name: str, x: str, stride: int) -> str:
        return net.pool(name, x, kernel, stride, padding, mode=mode)

    return build


_OPERATIONS: Final[dict[str, Callable[[CellBuilder, str, str, int], str]]] = {
    "none": _none,
    "conv1": _conv1,
    "conv3": _conv3,
    "conv7": _conv7,
    "max2": _pool(2, 0, "max"),
    "max3": _pool(3, 1, "max"),
    "mean3": _pool(3, 1, "average"),
}
