"""The interface between the system simulator and whatever predicts an operator's cost.

A cost model is asked for one operator on one device that works in one memory. It answers with the time the
device is busy, the launch floor before it, the bytes that really cross the memory's pins, and the energy of
each. The system simulator never looks inside; a data-sheet roofline, a calibrated kernel model and a cycle
engine are interchangeable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from hw_configs.device import Compute
from hw_configs.problems import bad_input
from hw_configs.registry import Registry
from hw_configs.system import MemorySpace, Node
from simulator.counters import Usage
from workloads.graph import Operator
from workloads.operators import KINDS

__all__ = [
    "COST_MODELS",
    "DEFAULT_COST_MODEL",
    "CostModel",
    "OperatorCost",
    "arithmetic_joules",
    "peak_rate",
    "roof_seconds",
    "runs_as",
]


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """Cost of one operator: seconds, bytes, joules.

    ``seconds`` is kernel time; ``launch_seconds`` passes before it on the same stream. ``bound_by`` names the
    roof that decides: compute, memory, launch, or a finer one a model knows (L2, exp units, occupancy).
    """

    seconds: float
    launch_seconds: float
    bound_by: str
    read_bytes: int
    write_bytes: int
    compute_energy_j: float
    memory_energy_j: float
    usage: Usage | None = None
    """What the device counts beside, for models that count."""


class CostModel(Protocol):
    """Predicts operator costs for devices it knows."""

    name: str

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        """The cost of an operator on a node that works in a memory; ``InputError`` if it can't run there."""
        ...


DEFAULT_COST_MODEL: Final = "gpu"
"""Every kind of device by its own model (:mod:`simulator.cost.by_device`)."""

COST_MODELS: Final[Registry[CostModel]] = Registry(
    "cost model",
    "offchip.cost_models",
    {
        "roofline": "simulator.cost.roofline:ROOFLINE",
        "roofline-peak": "simulator.cost.roofline:PEAK",
        "gpu": "simulator.cost.by_device:BY_DEVICE",
        "scratchpad": "simulator.accelerator.model:SCRATCHPAD",
        "gpu-eager": "simulator.cost.by_device:BY_DEVICE_EAGER",
    },
)

# Types without a rate of their own run at the rate of a wider type that holds their values.
_RUNS_AS: Final[dict[str, tuple[str, ...]]] = {
    "bf16": ("bf16", "fp16", "tf32", "fp32"),
    "fp16": ("fp16", "bf16", "tf32", "fp32"),
    "fp8": ("fp8", "fp16", "bf16", "fp32"),
    "mxfp8": ("fp8", "fp16", "bf16", "fp32"),
    "fp4": ("fp4", "fp8", "fp16", "bf16", "fp32"),
    "mxfp4": ("mxfp4", "fp4", "fp8", "fp16", "bf16", "fp32"),
    "nvfp4": ("fp4", "fp8", "fp16", "bf16", "fp32"),
    "tf32": ("tf32", "fp32"),
    "fp32": ("fp32",),
    "fp64": ("fp64", "fp32"),
    "int8": ("int8", "fp16", "int16", "int32", "fp32"),
    "uint8": ("int8", "fp16", "int16", "int32", "fp32"),
    "int4": ("int4", "int8", "fp16", "fp32"),
    "int16": ("int16", "int32", "fp32"),
    "int32": ("int32", "fp32"),
    "int64": ("int32", "fp32"),
    "bool": ("int8", "int32", "fp32", "fp16"),
}
MATRIX_KINDS: Final = frozenset(name for name, kind in KINDS.items() if kind.matrix)
"""Kinds whose arithmetic runs on matrix units where a device has them."""


def runs_as(dtype: str) -> tuple[str, ...]:
    """The element types whose rate or energy serves a type, best first."""
    return _RUNS_AS.get(dtype, (dtype,))


def peak_rate(compute: Compute, kind: str, dtype: str) -> float:
    """Dense peak operations per second for a kind of operator at an element type.

    Matrix kinds take the matrix unit's rate of the type, or of the nearest wider type it has; the vector
    unit serves what the matrix unit cannot and every other kind. Raises ``InputError`` when the device has
    no rate for the type at all.
    """
    for name in runs_as(dtype):
        candidates = [compute.vector.get(name, 0.0)]  # type: ignore[call-overload]
        if kind in MATRIX_KINDS:
            candidates.append(compute.matrix.get(name, 0.0))  # type: ignore[call-overload]
        if max(candidates) > 0:
            return float(max(candidates))
    if compute.matrix and not compute.vector:
        return float(max(compute.matrix.values()))
    raise bad_input(f"the device has no rate for {dtype} arithmetic, nor for a wider type")


def roof_seconds(operator: Operator, compute: Compute, memory: MemorySpace) -> tuple[float, float]:
    """Least compute and memory time by data sheet: no model may predict less than the larger of the two."""
    arithmetic = 0.0
    if operator.flops:
        arithmetic = operator.flops / peak_rate(compute, operator.kind, operator.dtype)
    return arithmetic, memory.traffic_seconds(operator.read_bytes, operator.write_bytes)


def arithmetic_joules(
    joules: float, memory_joules: float, seconds: float, node: Node, memory: MemorySpace
) -> float:
    """What an operator's arithmetic may draw beside its memory: a device stays within its TDP on average.

    ``joules`` at the stated energy per operation, over ``seconds`` with the launch. Where that is more than
    idle power and the device's own memory leave of the TDP, the voltage is lower and so is the energy.
    """
    power = getattr(node.device, "power", None)
    if power is None:
        return joules
    own = memory_joules if memory.name == node.name else 0.0
    return min(joules, max(0.0, (power.tdp - power.idle) * seconds - own))
