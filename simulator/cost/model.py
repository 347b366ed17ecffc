"""The interface between the system simulator and whatever predicts an operator's cost.

A cost model is asked for one operator on one device that works in one memory. It answers with the time the
device is busy, the launch floor before it, the bytes that really cross the memory's pins, and the energy of
each. The system simulator never looks inside; a data-sheet roofline, a calibrated kernel model and a cycle
engine are interchangeable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol, cast

from hw_configs.config import RateType
from hw_configs.device import Compute
from hw_configs.problems import bad_input
from hw_configs.registry import Registry
from hw_configs.system import MemorySpace, Node
from simulator.counters import Usage
from workloads.dtypes import BITS, GGUF
from workloads.graph import Operator
from workloads.operators import KINDS, Attention

__all__ = [
    "COST_MODELS",
    "DEFAULT_COST_MODEL",
    "FREE_KINDS",
    "CostModel",
    "OperatorCost",
    "arithmetic_joules",
    "by_name",
    "energy_per_operation",
    "operator_rate",
    "peak_rate",
    "rate_among",
    "roof_seconds",
    "runs_as",
    "wider_type",
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


DEFAULT_COST_MODEL: Final = "by-device"
"""Every kind of device by its own model (:mod:`simulator.cost.by_device`)."""

COST_MODELS: Final[Registry[CostModel]] = Registry(
    "cost model",
    "offchip.cost_models",
    {
        "by-device": "simulator.cost.by_device:BY_DEVICE",
        "by-device-eager": "simulator.cost.by_device:BY_DEVICE_EAGER",
        # A search: it stands where searches do, and is found by its name alone.
        "loop-nest": "mapping.loop_nest.cost_model:LOOP_NEST",
        "roofline": "simulator.cost.roofline:ROOFLINE",
        "roofline-peak": "simulator.cost.roofline:PEAK",
        "scratchpad": "simulator.accelerator.model:SCRATCHPAD",
    },
)

RunsAs = tuple[tuple[str, float], ...]
"""Element types that can do the work of another, best first, with the operations of theirs that one of it takes."""

_HOLDS: Final[dict[str, tuple[str, ...]]] = {
    "bf16": ("fp16", "tf32", "fp32"),
    "fp16": ("bf16", "tf32", "fp32"),
    "fp8": ("fp16", "bf16", "fp32"),
    "mxfp8": ("fp8", "fp16", "bf16", "fp32"),
    "fp4": ("fp8", "fp16", "bf16", "fp32"),
    "mxfp4": ("fp4", "fp8", "fp16", "bf16", "fp32"),
    "nvfp4": ("fp4", "fp8", "fp16", "bf16", "fp32"),
    "tf32": ("fp32",),
    "int8": ("fp16", "int16", "int32", "fp32"),
    "uint8": ("int8", "fp16", "int16", "int32", "fp32"),
    "int4": ("int8", "fp16", "fp32"),
    "int16": ("int32", "fp32"),
    "int32": ("fp64",),
    "bool": ("int8", "int32", "fp32", "fp16"),
}
"""Types that a narrower one is converted to: one operation each."""
_BUILT_OF: Final[dict[str, RunsAs]] = {
    "int32": (("fp32", 8.0),),
    "int64": (("int32", 4.0),),
}
"""Integers put together from narrower ones, with operations per multiply-add. Four 32-bit ones make the low half of a
64-bit product (three multiplications and their carries); of fp32, which is exact to 24 bits, 32 bits take 12-bit
digits: six products that reach the low half, and their carries."""
FREE_KINDS: Final = frozenset({"view", "host"})
"""Kinds that take no time of a device."""
MATRIX_KINDS: Final = frozenset(name for name, kind in KINDS.items() if kind.matrix)
"""Kinds whose arithmetic runs on matrix units where a device has them."""


@cache
def runs_as(dtype: str) -> RunsAs:
    """The element types whose rate or energy serves a type, best first, with operations of theirs per operation.

    A type runs as itself, else as one that holds its values and that it is converted to, else, an integer, as several
    operations of a narrower type. There is none for fp64: no number of narrower operations has its range.

    >>> runs_as("tf32")
    (('tf32', 1.0), ('fp32', 1.0))
    >>> runs_as("int64")
    (('int64', 1.0), ('int32', 4.0), ('fp64', 4.0), ('fp32', 32.0))
    """
    built = tuple(
        (name, count * inner) for part, count in _BUILT_OF.get(dtype, ()) for name, inner in runs_as(part)
    )
    return ((dtype, 1.0), *((name, 1.0) for name in _HOLDS.get(dtype, ())), *built)


def rate_among(
    vector: Mapping[str, float], matrix: Mapping[str, float], relative: Mapping[str, float], dtype: str
) -> float:
    """The rate of a type among rates by type, 0 where nothing can do its work.

    ``relative`` holds vector rates as shares of fp32's, for types that ``vector`` lacks.
    """
    return served_as(vector, matrix, relative, dtype)[1]


def served_as(
    vector: Mapping[str, float], matrix: Mapping[str, float], relative: Mapping[str, float], dtype: str
) -> tuple[str, float]:
    """The type that does another's work among rates by type, and its rate for it; the type itself and 0 for none."""
    for name, operations in runs_as(dtype):
        own = vector.get(name) or relative.get(name, 0.0) * vector.get("fp32", 0.0)
        best = max(own, matrix.get(name, 0.0))
        if best > 0:
            return name, best / operations
    return dtype, 0.0


def peak_rate(compute: Compute, kind: str, dtype: str) -> float:
    """Dense peak operations per second for a kind of operator at an element type.

    Matrix kinds take the better of matrix and vector units, every other kind the vector units, where a device has
    any. The type's own rate counts, else that of :func:`runs_as`. Raises ``InputError`` when the device has none.
    """
    with_matrix = kind in MATRIX_KINDS or not compute.vector
    rate = rate_among(
        by_name(compute.vector),
        by_name(compute.matrix) if with_matrix else {},
        by_name(compute.relative_rates),
        dtype,
    )
    if rate <= 0:
        raise bad_input(f"the device has no rate for {dtype} arithmetic, nor for a type that can do it")
    return rate


def operator_rate(compute: Compute, operator: Operator) -> float:
    """Dense peak operations per second of an operator, in the quickest type that its arithmetic may take.

    Attention over a narrower cache may compute in the cache's type, a product with weights in the blocks of a GGUF file
    in 8 bits, to which kernels bring both operands.
    """
    rate = peak_rate(compute, operator.kind, operator.dtype)
    if getattr(operator.work, "weight_dtype", "") in GGUF:
        rate = max(rate, peak_rate(compute, operator.kind, "int8"))
    cache = operator.work.kv_dtype if isinstance(operator.work, Attention) else ""
    if cache and BITS[cache] < BITS[operator.dtype]:
        rate = max(rate, peak_rate(compute, operator.kind, cache))
    return rate


def wider_type(compute: Compute, operator: Operator) -> str:
    """The wider type at whose rate the products of an operator run on a device that has none for their own; else "".

    >>> from hw_configs.library import load_device
    >>> from workloads.operators import Product
    >>> product = Operator("x", Product(m=1, n=1, k=1), (), (), dtype="nvfp4")
    >>> wider_type(load_device("h100-sxm").compute, product), wider_type(load_device("b200").compute, product)
    ('fp8', '')
    """
    if operator.kind not in MATRIX_KINDS or operator.dtype not in BITS:
        return ""
    vector, matrix = by_name(compute.vector), by_name(compute.matrix)
    served, _ = served_as(vector, matrix, by_name(compute.relative_rates), operator.dtype)
    return served if BITS[served] > BITS[operator.dtype] else ""


def energy_per_operation(compute: Compute, dtype: str) -> float:
    """J of one operation at an element type; 0 where the device states none that serves it."""
    energies = by_name(compute.energy_per_operation)
    return next((count * energies[name] for name, count in runs_as(dtype) if name in energies), 0.0)


def by_name(table: Mapping[RateType, float]) -> Mapping[str, float]:
    """A table by element type, to be asked for any name."""
    return cast("Mapping[str, float]", table)


def roof_seconds(operator: Operator, compute: Compute, memory: MemorySpace) -> tuple[float, float]:
    """Least compute and memory time by data sheet: no model may predict less than the larger of the two."""
    arithmetic = 0.0
    if operator.flops:
        arithmetic = operator.flops / operator_rate(compute, operator)
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
    spent = memory_joules if memory.name == node.name else 0.0
    room: float = (power.tdp - power.idle) * seconds - spent
    return min(joules, max(0.0, room))
