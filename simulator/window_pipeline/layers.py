"""Layers on a pixel pipeline: what each stage takes for a pixel, and what deformed windows read.

A window whose reach is bounded by the line buffer finds every tap there. Beyond it a tap is read from memory pixel by
pixel, at the rate that the DRAM engine gives to scattered reads of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hw_configs.dram import DramDevice
from hw_configs.library import load_device
from hw_configs.problems import bad_input
from hw_configs.window_pipeline import WindowPipeline
from simulator.dram.patterns import AccessPattern, geometry_of, pattern_bandwidth
from simulator.window_pipeline.kernel import pixel_clocks, window_reads
from workloads.memory_trace.generators import splitmix64

__all__ = ["Deformation", "LayerTime", "PipelineLayer", "layer_time", "offsets_of"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Deformation:
    """Where the taps of a window lie, beside their places on the grid.

    ``spread``: standard deviation of an offset in pixels, drawn by ``seed``. ``bound``: the furthest that a tap may lie
    from its output along either side, None: anywhere. ``whole``: rounded to pixels. ``square``: one draw an output, by
    which its whole window grows.
    """

    spread: float
    bound: int | None = None
    whole: bool = False
    square: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True)
class PipelineLayer:
    """A pass over a square image: 1x1 products (``product``), then a window (``window``: depthwise or full), or one.

    ``outputs`` are channels behind the products; a full window has them behind the window. One byte an element, half a
    byte a weight.
    """

    side: int
    channels: int
    outputs: int
    stride: int = 1
    product: bool = True
    window: str = "depthwise"
    deformation: Deformation | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        pixels = self.side**2
        kept = (-(-self.side // self.stride)) ** 2
        product = pixels * self.channels * self.outputs if self.product else 0
        taps = 9 * kept
        return (
            product
            + {"": 0, "depthwise": taps * self.outputs, "full": taps * self.channels * self.outputs}[
                self.window
            ]
        )


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Seconds of a layer: of its pipeline, and of taps read from memory, which nothing hides.

    ``buffered`` and ``missed``: pixels that deformed taps read from the line buffer, and from memory.
    """

    pipeline_s: float
    scattered_s: float
    buffered: int
    missed: int
    memory_bytes: float

    @property
    def seconds(self) -> float:
        """Both, one after the other: a window waits for its taps."""
        return self.pipeline_s + self.scattered_s


def offsets_of(layer: PipelineLayer, deformation: Deformation) -> tuple[Floats, Floats]:
    """Rows and columns of the taps of every output, in order, taps in rows."""
    side, kept = layer.side, -(-layer.side // layer.stride)
    outputs = kept * kept
    middle = np.arange(outputs)
    rows, columns = (
        (middle // kept * layer.stride).astype(float),
        (middle % kept * layer.stride).astype(float),
    )
    grid = np.array([(a, b) for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0)])
    draws = outputs * (1 if deformation.square else 18)
    uniform = splitmix64(deformation.seed, 0, 2 * draws).astype(np.float64) / 2.0**64
    normal = np.sqrt(-2 * np.log1p(-uniform[:draws])) * np.cos(2 * np.pi * uniform[draws:])
    drawn = deformation.spread * normal
    shift = grid * drawn[:, None, None] if deformation.square else drawn.reshape(outputs, 9, 2)
    moved = grid + shift
    if deformation.bound is not None:
        moved = np.clip(moved, -deformation.bound, deformation.bound)
    if deformation.whole:
        moved = np.rint(moved)
    assert side > 0
    return rows[:, None] + moved[:, :, 0], columns[:, None] + moved[:, :, 1]


def _groups(channels: int, group: int) -> int:
    return -(-channels // group)


def _costs(layer: PipelineLayer, machine: WindowPipeline, memory: DramDevice) -> Floats:
    """Clocks of a pixel in each stage."""
    start, group = machine.loop_start, machine.group
    inner, outer = _groups(layer.channels, group), _groups(layer.outputs, group)
    stream = _stream_rate(memory.name) / machine.clock
    moved = (
        layer.channels + layer.outputs / layer.stride**2 if layer.window else layer.channels + layer.outputs
    )
    read = max(layer.channels / machine.port, moved / stream)
    product = inner + start
    if layer.product:
        product += _groups(layer.outputs, machine.outputs) * (inner + start)
    held = inner if layer.window == "full" else outer
    store = held + start
    take = (held + start) if layer.window else 0.0
    if layer.window == "full":
        # Sums of all channels on the product array, a tap at a time.
        take = 9 * _groups(layer.outputs, machine.outputs) * (inner + start)
    write = outer + start
    return np.array([read, product, store, take, write])


@lru_cache(maxsize=64)
def _stream_rate(memory: str) -> float:
    return pattern_bandwidth(_dram(memory), AccessPattern("stream", write_share=0.5)).bandwidth_bytes_per_s


@lru_cache(maxsize=64)
def _scattered_rate(memory: str, block: int, in_flight: int) -> float:
    device, pattern = _dram(memory), AccessPattern("gather", block_bytes=block)
    transactions = max(1, block // _transaction(memory))
    return pattern_bandwidth(device, pattern, outstanding=in_flight * transactions).bandwidth_bytes_per_s


def _transaction(memory: str) -> int:
    return geometry_of(_dram(memory)).transaction_bytes


def _dram(name: str) -> DramDevice:
    device = load_device(name)
    if not isinstance(device, DramDevice):
        raise bad_input(
            f"{name!r} is a {device.kind}; expected a device of kind 'dram'", path="memory_device"
        )
    return device


def layer_time(layer: PipelineLayer, machine: WindowPipeline, *, line_buffer: bool = True) -> LayerTime:
    """Run a layer. ``line_buffer`` False: a deformed window reads every tap from memory.

    Raises ``InputError`` for a window of no kind that is known.
    """
    if layer.window not in ("", "depthwise", "full"):
        raise bad_input(f"unknown window {layer.window!r}; known: depthwise, full, or none", path="window")
    memory = _dram(machine.memory_device)
    ahead = machine.bound + 1 if layer.window else 0
    stride = layer.stride if layer.window else 1
    clocks = float(pixel_clocks(layer.side, stride, ahead, _costs(layer, machine, memory), machine.fifo))
    weights = layer.channels * layer.outputs / 2 if layer.product or layer.window == "full" else 0
    weights += 4.5 * layer.outputs if layer.window == "depthwise" else 0
    clocks += weights * 2 / machine.group
    buffered = missed = runs = 0
    held = layer.channels if layer.window == "full" else layer.outputs
    if layer.deformation is not None:
        rows, columns = offsets_of(layer, layer.deformation)
        kept = machine.bound if line_buffer else -1
        found = window_reads(rows, columns, layer.side, kept, layer.deformation.whole)
        buffered, missed, runs = (int(count) for count in found)
    scattered = missed * held
    seconds = (
        scattered / _scattered_rate(memory.name, max(1, round(scattered / runs)), machine.reads_in_flight)
        if runs
        else 0.0
    )
    pixels = layer.side**2
    moved = pixels * layer.channels + pixels / stride**2 * layer.outputs + weights + scattered
    return LayerTime(clocks / machine.clock, seconds, buffered, missed, moved)
