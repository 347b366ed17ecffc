"""What PIM-GPT is compared with: a T4 and a Xeon generating one token, and the size of the models.

The GPU is Offchip's T4 with a stated time of host software per layer, the CPU its fp32 bytes at a stated rate.
Both figures are taken back from the published speedups, as no set-up of the baselines is known: they are tuned to the
claim, and a speedup that rests on them cannot confirm it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.library import load_system
from mapping.mapper import MapperOptions, plan_writer
from simulator.simulate import simulate
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = [
    "CONTEXT",
    "CPU_IMPLIED_W",
    "CPU_W",
    "GPU_W",
    "Baseline",
    "Shape",
    "baseline",
    "counted_movement",
    "shape_of",
]

FRAMEWORK_S: Final = 0.9e-3
"""Host software per layer and token on the GPU: 0.8 to 1.0 ms, derived from the published range itself."""
CPU_BYTES_PER_S: Final = 6.5e9
"""Effective rate of the CPU baseline at fp32: 5 to 8 GB/s, derived from the published range itself."""
GPU_W: Final = 70.0
"""Board limit of the T4 (NVIDIA data sheet); drawn throughout (assumption)."""
CPU_W: Final = 200.0
"""TDP of the Xeon Gold 6154 (Intel, product page), drawn throughout (assumption)."""
CPU_IMPLIED_W: Final = 12.5
"""What the published pairs of speedup and energy mean together: a CPU of 0.51 to 0.56 of the PIM system's 23 to 25 W
(version 2, ends of the ranges paired, which is an assumption), so 12 to 13 W. Derived from the claim."""
CONTEXT: Final = 512


@dataclass(frozen=True, slots=True)
class Baseline:
    """Seconds of one token at the mean context on the two baselines."""

    gpu_device_s: float
    gpu_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers and width of a GPT, and what follows from them."""

    layers: int
    hidden: int

    @property
    def parameters(self) -> float:
        """Weights of the decoder blocks."""
        return 12.0 * self.layers * self.hidden**2

    @property
    def cache(self) -> float:
        """Keys and values of one sequence at the mean context."""
        return 2.0 * self.layers * self.hidden * CONTEXT


def shape_of(model: str) -> Shape:
    """The shape of a built-in model."""
    metadata = load_workload(model, WorkloadOptions(phase="decode", prompt=CONTEXT)).metadata
    return Shape(int(metadata["layers"]), int(metadata["hidden"]))


def baseline(model: str) -> Baseline:
    """GPU: Offchip's T4 at fp16 and the stated framework time per layer. CPU: fp32 bytes at the stated rate."""
    workload = load_workload(model, WorkloadOptions(phase="decode", prompt=CONTEXT, dtype="fp16"))
    writer = plan_writer("single-device")
    device = simulate(workload, load_system("t4"), lambda g, s: writer.plan(g, s, MapperOptions())).makespan_s
    shape = shape_of(model)
    cpu = 4 * (shape.parameters + shape.cache) / CPU_BYTES_PER_S
    return Baseline(device, device + shape.layers * FRAMEWORK_S, cpu)


def counted_movement(shape: Shape) -> float:
    """Pin bytes of a plain memory over those of PIM by a counting rule of elements alone."""
    d, layers, channels, row = shape.hidden, shape.layers, 8, 1024
    inputs = channels * (d + d + d + 4 * d)
    outputs = sum(n * -(-k // row) for n, k in ((3 * d, d), (d, d), (4 * d, d), (d, 4 * d)))
    heads = d // 64
    attention = d + heads * CONTEXT + heads * CONTEXT + d + 2 * d
    return (shape.parameters + shape.cache) / (layers * (inputs + outputs + attention))
