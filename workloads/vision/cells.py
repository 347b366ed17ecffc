"""Parts of searched cells: the operators that architecture searches choose from, before their norms.

A searched cell applies its ReLU before a convolution, not after it, and several branches apply it to the same
tensor; one pass serves them all here. An engine folds each batch norm into the convolution before it; the norm
behind the concatenation of a factorised reduction folds into the two halves.
"""

from __future__ import annotations

from hw_configs.problems import InputError, Problem
from workloads.layer_builder import ConvLayer, LayerBuilder, Pair
from workloads.workload import WorkloadOptions

__all__ = ["CellBuilder"]


class CellBuilder(LayerBuilder):
    """A layer builder with the vocabulary of cell searches (NASNet, AmoebaNet, PNASNet, DARTS)."""

    def __init__(self, name: str, options: WorkloadOptions) -> None:
        super().__init__(name, options)
        self._rectified: dict[str, str] = {}

    def relu(self, x: str) -> str:
        """The rectified tensor, computed once however many branches want it."""
        if x not in self._rectified:
            self._rectified[x] = self.activation(f"{x.removesuffix('.out')}.relu", x, "relu")
        return self._rectified[x]

    def relu_conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: Pair = 1,
        stride: Pair = 1,
        padding: Pair = 0,
    ) -> str:
        """ReLU, convolution, batch norm."""
        return self.conv(name, self.relu(x), ConvLayer(channels, kernel, stride, padding, norm=True))

    def depthwise_separable(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        dilation: int = 1,
        activation: str = "",
    ) -> str:
        """Depthwise window, 1x1 product, batch norm; ``x`` is rectified already."""
        inner = self.shape(x)[1]
        padding = dilation * (kernel // 2)
        y = self.conv(
            f"{name}.depthwise", x, ConvLayer(inner, kernel, stride, padding, groups=inner, dilation=dilation)
        )
        return self.conv(f"{name}.pointwise", y, ConvLayer(channels, 1, norm=True, activation=activation))

    def separable(
        self, name: str, x: str, channels: int, kernel: int, stride: int = 1, *, widen: bool = False
    ) -> str:
        """Two separable convolutions, each behind a ReLU; the first strides, and widens in a stem."""
        inner = channels if widen else self.shape(x)[1]
        y = self.depthwise_separable(f"{name}.0", self.relu(x), inner, kernel, stride, activation="relu")
        return self.depthwise_separable(f"{name}.1", y, channels, kernel)

    def factorised_reduction(self, name: str, x: str, channels: int) -> str:
        """Half the sides by two strided 1x1 convolutions, the second one pixel on, side by side."""
        y = self.relu(x)
        norm = self.fused
        halves = [
            self.conv(f"{name}.{label}", y, ConvLayer(part, 1, 2, norm=norm))
            for label, part in (("even", channels // 2), ("odd", channels - channels // 2))
        ]
        joined = self.concat(f"{name}.concat", *halves)
        return joined if norm else self.batch_norm(f"{name}.norm", joined)

    def sum(self, name: str, one: str, other: str) -> str:
        """The sum of two branches; ``InputError`` when an odd image made them differ in size."""
        if self.shape(one) != self.shape(other):
            sides = " and ".join(" x ".join(map(str, self.shape(t)[2:])) for t in (one, other))
            message = f"{self.name}: {name}: branches of {sides} cannot be added; choose other sides"
            raise InputError([Problem(message, path="--dim")])
        return self.add(name, one, other)
