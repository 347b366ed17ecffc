"""Layered networks run with spikes: what each time step adds, reads and writes, layer by layer.

A layer's input neurons fire in a share of the steps, and every spike adds a weight to each potential it reaches: one
accumulation instead of a multiplication and an addition. Two orders: ``step`` runs the network once per time step, so
that potentials leave the machine between two steps and weights come again; ``layer`` runs all steps of a layer before
the next, so that potentials stay and weights come once. The first step finds all potentials at rest and the last one
needs none, so one step moves no potential in either order. The image itself goes in as numbers (direct encoding): the
first layer multiplies once, and its sums are the current of every step.

Weights are fetched once per pass over a layer (``pass``: a dense array that skips additions), or for each accumulation
(``event``: spikes served as they come).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from workloads.graph import Graph, Role
from workloads.operators import Convolution, Product

__all__ = [
    "Fetch",
    "LayerCounts",
    "Order",
    "Prices",
    "SpikingLayer",
    "accumulations",
    "dense_counts",
    "fan_out",
    "joules",
    "layers_of",
    "spiking_counts",
]

Order = Literal["step", "layer"]
Fetch = Literal["pass", "event"]
MOST_STEPS = 1_000_000


@dataclass(frozen=True, slots=True)
class SpikingLayer:
    """A convolution of one image, or a product as one of 1 x 1; ``weights`` are its elements."""

    name: str
    channels: int
    height: int
    width: int
    outputs: int
    """Channels."""
    out_height: int
    out_width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    weights: int = 0

    @property
    def inputs(self) -> int:
        """Input neurons."""
        return self.channels * self.height * self.width

    @property
    def neurons(self) -> int:
        """Neurons of the layer, each with a potential."""
        return self.outputs * self.out_height * self.out_width

    @property
    def synapses(self) -> int:
        """Accumulations if every input neuron fires; windows over the edge have fewer."""
        return int(fan_out(self).sum()) * self.channels


@dataclass(frozen=True, slots=True)
class LayerCounts:
    """Operations and bytes of a layer over an inference."""

    name: str
    multiply_adds: float
    accumulations: float
    weight_bytes: float
    state_bytes: float
    """Potentials and the constant current of the first layer, read and written."""
    activity_bytes: float
    """Spikes, or activations, read and written."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Joules of a multiply-add, of an accumulation, of a byte of weights, and of a byte of potentials and activity."""

    multiply_add: float
    accumulation: float
    weight_byte: float
    state_byte: float


def layers_of(graph: Graph) -> tuple[SpikingLayer, ...]:
    """The convolutions and products of a graph of one image, in order. Raises ``InputError`` for other batches."""
    found = []
    for operator in graph.operators:
        work = operator.work
        if not isinstance(work, Convolution | Product):
            continue
        stored = [graph.tensors[n] for n in operator.inputs if graph.tensors[n].role is Role.WEIGHT]
        weights = max((int(np.prod(t.shape)) for t in stored), default=0)
        if isinstance(work, Product):
            if work.m != 1 or work.batch != 1:
                raise bad_input(f"found {work.m * work.batch} rows; expected one image", path=operator.name)
            found.append(SpikingLayer(operator.name, work.k, 1, 1, work.n, 1, 1, weights=weights))
            continue
        if work.batch != 1:
            raise bad_input(f"found {work.batch} images; expected 1", path=operator.name)
        found.append(
            SpikingLayer(
                operator.name, work.in_channels, work.height, work.width, work.out_channels, work.out_height,
                work.out_width, (work.kernel_h, work.kernel_w), (work.stride_h, work.stride_w),
                (work.padding_h, work.padding_w), work.groups, weights,
            )
        )  # fmt: skip
    return tuple(found)


def fan_out(layer: SpikingLayer) -> npt.NDArray[np.int64]:
    """Potentials that a spike at each place ``[row, column]`` reaches; the same for every channel."""
    sides = (
        (layer.height, layer.out_height),
        (layer.width, layer.out_width),
    )
    reached = []
    for (size, out), kernel, stride, padding in zip(
        sides, layer.kernel, layer.stride, layer.padding, strict=True
    ):
        counts = np.zeros(size + 2 * padding + kernel, np.int64)
        for tap in range(kernel):
            counts[tap : tap + stride * (out - 1) + 1 : stride] += 1
        reached.append(counts[padding : padding + size])
    return np.outer(*reached) * (layer.outputs // layer.groups)


def accumulations(layer: SpikingLayer, spikes: npt.NDArray[np.bool_]) -> int:
    """Accumulations that spikes ``[step, channel, row, column]`` cause."""
    shape = (layer.channels, layer.height, layer.width)
    if spikes.shape[1:] != shape:
        raise bad_input(f"found spikes of {spikes.shape[1:]}; expected {shape}", path=layer.name)
    return int((spikes.sum(axis=(0, 1)) * fan_out(layer)).sum())


def dense_counts(layers: Sequence[SpikingLayer], element_bytes: int = 4) -> list[LayerCounts]:
    """The same network with numbers: weights once, activations read by a layer and written by it."""
    return [
        LayerCounts(
            layer.name, float(layer.synapses), 0.0, float(layer.weights * element_bytes), 0.0,
            float((layer.inputs + layer.neurons) * element_bytes),
        )
        for layer in layers
    ]  # fmt: skip


def spiking_counts(
    layers: Sequence[SpikingLayer], steps: int, rates: Sequence[float], order: Order = "step",
    fetch: Fetch = "pass", element_bytes: int = 4,
) -> list[LayerCounts]:  # fmt: skip
    """An inference of so many steps; ``rates``: share of a layer's input neurons that fire in a step.

    The first layer's rate is not used: numbers enter it. Raises ``InputError`` for steps and rates out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise bad_input(f"found {steps}; expected 1 to {MOST_STEPS}", path="steps")
    if len(rates) != len(layers) or not all(0 <= rate <= 1 for rate in rates):
        raise bad_input(f"found {list(rates)}; expected a share of 0 to 1 for each layer", path="rates")
    found = []
    for place, (layer, rate) in enumerate(zip(layers, rates, strict=True)):
        first = place == 0
        passes = steps if order == "step" and not first else 1
        added = 0.0 if first else rate * layer.synapses * steps
        multiplied = float(layer.synapses) if first else 0.0
        fetched = float(layer.weights * passes)
        if fetch == "event":
            fetched = added + multiplied
        state = 2.0 * (steps - 1) * layer.neurons if order == "step" else 0.0
        if first and order == "step" and steps > 1:
            state += float(steps * layer.neurons)  # the current: written once, read in the later steps
        read = layer.inputs * element_bytes if first else steps * -(-layer.inputs // 8)
        written = steps * -(-layer.neurons // 8)
        found.append(
            LayerCounts(
                layer.name, multiplied, added, fetched * element_bytes, state * element_bytes,
                float(read + written),
            )
        )  # fmt: skip
    return found


def joules(counts: Sequence[LayerCounts], prices: Prices) -> dict[str, float]:
    """Joules by what they are spent on."""
    return {
        "arithmetic": sum(
            c.multiply_adds * prices.multiply_add + c.accumulations * prices.accumulation for c in counts
        ),
        "weights": prices.weight_byte * sum(c.weight_bytes for c in counts),
        "potentials": prices.state_byte * sum(c.state_bytes for c in counts),
        "activity": prices.state_byte * sum(c.activity_bytes for c in counts),
    }
