"""A GPU as its kernels see it: what follows from the data sheet alone.

The data sheet gives rates, sizes and clocks. A few things it leaves out follow from the architecture that it
names: how many thread blocks share operands by multicast, whether the L2 is split between two halves of the
die (then data that all multiprocessors read stands in both), which attention kernels exist, and the process
node. They are tables by compute capability here; a GPU of an unknown architecture takes the plain case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hw_configs.device import Gpu
from hw_configs.system import MemorySpace
from simulator.cost.model import peak_rate, runs_as

__all__ = ["ATTENTION_KERNELS", "GpuSheet", "capability", "gpu_sheet", "memory_key"]

KIB: Final = 1024.0
L1_KEPT_BACK: Final = 28 * KIB
"""Of the unified L1: what stays cache and system-reserved beside shared memory (CUDA C++ Programming Guide,
table of compute capabilities: 164 of 192 KiB on 8.0, 228 of 256 KiB on 9.0, 100 of 128 KiB on 8.6 and 8.9)."""
TWO_PARTITIONS: Final = frozenset({80, 90, 100, 103})
"""Capabilities whose L2 has two partitions (NVIDIA A100 white paper): shared data occupies both."""
OPERAND_SHARING: Final = {90: 2.0, 100: 4.0, 103: 4.0}
"""Thread blocks that fetch an operand tile once: cluster multicast (9.0), and pairs of multiprocessors that
work on one tile of twice the width (10.0). NVIDIA Hopper and Blackwell white papers."""
SMALL_SHARED_MEMORY: Final = frozenset({75, 86, 87, 89, 120, 121})
ATTENTION_KERNELS: Final = ("fa2", "fa2_small", "fa3", "blackwell")
"""FlashAttention-2 with 128- and with 64-row tiles, FlashAttention-3, and Blackwell's tensor-memory kernels."""
_PROCESS: Final = {
    60: 1.0, 61: 1.0, 62: 1.0, 70: 0.95, 72: 0.95, 75: 0.95, 80: 0.6, 86: 0.7, 87: 0.7, 89: 0.35, 90: 0.35,
    100: 0.35, 103: 0.35, 120: 0.35, 121: 0.35,
}  # fmt: skip
"""Energy of one operation relative to a 16 nm process, at the same clock. Assumption: it follows the
foundries' stated power scaling (12 nm 0.95, 7 nm 0.6, Samsung 8 nm 0.7, 4 nm 0.35)."""
_MATRIX_PROCESS: Final = {**_PROCESS, 90: 0.3, 100: 0.205, 103: 0.205}
"""The same for matrix units. Wider ones spend less on operands: asynchronous products that read shared memory
(9.0), and tensor memory beside the units (10.0). Assumption: a board whose sustained 16-bit products stay
below its other roofs (A100 92 %, H100 84 %, B200 72 % of the peak) draws its TDP there."""
_BYTE_ENERGY: Final = {"HBM": 31e-12, "GDDR5": 112e-12, "GDDR": 60e-12, "LPDDR": 40e-12}
"""J per byte where the data sheet file has none; the sources stand in the shipped device files."""


@dataclass(frozen=True, slots=True)
class GpuSheet:
    """Figures of one GPU, SI units. The rates are FLOPs per cycle and multiprocessor, by element type.

    ``memory`` is technology and generation (:func:`memory_key`). ``process`` and ``matrix_process`` are the
    energy of an operation relative to 16 nm; ``shared_bytes`` is the shared memory of one multiprocessor.
    """

    name: str
    capability: int
    sms: float
    clock: float
    bandwidth: float
    l2_bytes: float
    shared_bytes: float
    tdp: float
    idle: float
    process: float
    matrix_process: float
    joule_per_byte: float
    memory: str
    generation: str
    matrix_rate: dict[str, float]
    vector_rate: dict[str, float]

    @property
    def l2_visible_bytes(self) -> float:
        """L2 that one multiprocessor's working set can fill: half of a two-partition cache."""
        return self.l2_bytes * (0.5 if self.capability in TWO_PARTITIONS else 1.0)

    @property
    def operand_sharing(self) -> float:
        """Thread blocks that share one fetch of an operand tile."""
        return OPERAND_SHARING.get(self.capability, 1.0)

    @property
    def attention_kernel(self) -> int:
        """Index into :data:`ATTENTION_KERNELS`."""
        if self.capability in (100, 103):
            return 3
        if self.capability == 90:
            return 2
        return 1 if self.capability in SMALL_SHARED_MEMORY else 0

    def rate(self, dtype: str, matrix: bool = True) -> float:
        """FLOPs per cycle and multiprocessor of an element type, or of the nearest wider type that has one."""
        for name in runs_as(dtype):
            best = max(self.vector_rate.get(name, 0.0), self.matrix_rate.get(name, 0.0) if matrix else 0.0)
            if best > 0:
                return best
        return max((*self.vector_rate.values(), *self.matrix_rate.values()))


def capability(architecture: str) -> int:
    """Compute capability as a number, 90 for "Hopper sm_90"; 0 where the name has none.

    >>> capability("Ampere sm_80"), capability("CDNA2")
    (80, 0)
    """
    found = re.search(r"sm_([0-9]{1,4})", architecture)
    return int(found.group(1)) if found else 0


def memory_key(technology: str, architecture: str) -> str:
    """The name under which a memory's share of bandwidth stands: technology and generation.

    Controllers differ as much as memories do: HBM2 gives three quarters on Pascal and nine tenths on Volta.
    """
    generation = architecture.split()[0] if architecture.split() else "unknown"
    return f"{technology}/{generation}"


def gpu_sheet(gpu: Gpu, memory: MemorySpace) -> GpuSheet:
    """The figures of a GPU that works in a memory."""
    sms = float(gpu.multiprocessors)
    per_cycle = 1.0 / (sms * gpu.clock)
    number = capability(gpu.architecture)
    technology = memory.technology
    energy = memory.energy_per_byte_read_j
    if energy <= 0:
        energy = next((e for name, e in _BYTE_ENERGY.items() if technology.startswith(name)), 40e-12)
    peak_rate(gpu.compute, "matmul", "fp32")  # a GPU without any rate is refused here, with a clear line
    tdp = gpu.power.tdp if gpu.power is not None else float("inf")
    return GpuSheet(
        gpu.name,
        number,
        sms,
        gpu.clock,
        min(memory.read_bandwidth, memory.write_bandwidth),
        float(gpu.l2.size),
        max(gpu.l1_per_multiprocessor.size - L1_KEPT_BACK, 32 * KIB),
        tdp,
        gpu.power.idle if gpu.power is not None else 0.0,
        _PROCESS.get(number, 0.5),
        _MATRIX_PROCESS.get(number, 0.5),
        energy,
        memory_key(technology, gpu.architecture),
        memory_key(technology, gpu.architecture).split("/")[1],
        {str(name): rate * per_cycle for name, rate in gpu.compute.matrix.items()},
        {str(name): rate * per_cycle for name, rate in gpu.compute.vector.items()},
    )
