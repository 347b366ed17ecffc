"""A GPU as its kernels see it: what follows from its device file and from the file of its architecture.

The device file gives rates, sizes and clocks as data sheets do; the architecture gives what they leave out: the
parts of the L2, how thread blocks share operands, the attention kernels, the energy of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hw_configs.device import Gpu
from hw_configs.gpu_architecture import AttentionKernel, GpuArchitecture
from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace
from simulator.cost.model import peak_rate, served_as
from workloads.operators import Attention

__all__ = ["GpuSheet", "contiguous", "expanded", "gpu_sheet", "memory_key"]

KIB: Final = 1024.0
LEAST_SHARED: Final = 32 * KIB
"""Shared memory of a multiprocessor whose unified cache leaves less."""
_BYTE_ENERGY: Final = {"HBM": 31e-12, "GDDR5": 112e-12, "GDDR": 60e-12, "LPDDR": 40e-12}
"""J per byte where the data sheet file has none; the sources stand in the shipped device files."""


@dataclass(frozen=True, slots=True)
class GpuSheet:
    """Figures of one GPU, SI units. The rates are FLOPs per cycle and multiprocessor, by element type.

    ``memory`` is technology and generation (:func:`memory_key`), ``shared_bytes`` the shared memory of one
    multiprocessor. ``least_launch`` is the data sheet file's launch where no kernel of the generation was measured,
    else 0.
    """

    name: str
    architecture: GpuArchitecture
    sms: float
    clock: float
    bandwidth: float
    l2_bytes: float
    shared_bytes: float
    tdp: float
    idle: float
    joule_per_byte: float
    memory: str
    matrix_rate: Mapping[str, float]
    vector_rate: Mapping[str, float]
    relative_rate: Mapping[str, float]
    least_launch: float = 0.0
    _served: dict[tuple[str, bool], tuple[str, float]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """What was looked up before: a table asks for the same few types row by row."""

    @property
    def generation(self) -> str:
        """The generation whose fitted constants it takes; empty where nothing of it was measured."""
        return self.architecture.calibrated_as or ""

    @property
    def launches(self) -> str:
        """The kind of launches its kernels have: "paired", of kernels for pairs of multiprocessors, or the usual ones.

        A library's kernels for pairs begin while the one before ends (programmatic dependent launch). A small chip of
        the same generation runs the kernels of the one before, and launches them as that did.
        """
        return "paired" if self.architecture.multiprocessors_per_tile > 1 else ""

    @property
    def l2_visible_bytes(self) -> float:
        """L2 that one multiprocessor's working set can fill: shared data stands in every partition."""
        return self.l2_bytes / self.architecture.l2_partitions

    def attention_kernel(self, split: bool) -> AttentionKernel:
        """The attention kernel that runs over a 16-bit paged cache, with or without splitting of keys."""
        unsplit = self.architecture.attention_unsplit
        return self.architecture.attention if split or unsplit is None else unsplit

    def attention_kernel_for(self, work: Attention, narrow: bool) -> AttentionKernel:
        """The kernel that runs an operator; ``narrow``: the cache's elements have 8 bits where others have 16.

        Attention over all of a short-lived sequence (an encoder's, of vision or text) has no cache and its own kernel.
        """
        chip = self.architecture
        if work.latent or expanded(work):
            chosen = chip.attention_latent if work.latent else chip.attention_expanded
            return chosen or chip.attention
        if not work.split_kv:
            return self.attention_kernel(False)
        if contiguous(work):
            return chip.attention_contiguous or chip.attention
        chosen = (chip.attention_narrow if narrow else None) or chip.attention
        if (
            chosen.head_sizes
            and work.head_dim not in chosen.head_sizes
            and chip.attention_fallback is not None
        ):
            return chip.attention_fallback
        return chosen

    def serves(self, dtype: str) -> str:
        """The element type in which products of a type run: itself, or the next wider one that has a rate."""
        return self._serving(dtype, True)[0]

    def rate(self, dtype: str, matrix: bool = True) -> float:
        """FLOPs per cycle and multiprocessor of an element type; ``InputError`` where nothing can do its work."""
        rate = self._serving(dtype, matrix)[1]
        if rate <= 0:
            raise bad_input(
                f"{self.name!r} has no rate for {dtype} arithmetic, nor for a type that can do it"
            )
        return rate

    def _serving(self, dtype: str, matrix: bool) -> tuple[str, float]:
        known = self._served.get((dtype, matrix))
        if known is None:
            rates = self.matrix_rate if matrix else {}
            known = self._served[dtype, matrix] = served_as(
                self.vector_rate, rates, self.relative_rate, dtype
            )
        return known

    def computes(self, dtype: str) -> bool:
        """Whether its matrix units have a rate of their own for an element type."""
        return self.matrix_rate.get(dtype, 0.0) > 0


def contiguous(work: Attention) -> bool:
    """Whether all keys are the queries' own tokens and in no cache, as in an encoder."""
    return not work.causal and work.q_len == work.kv_len


def expanded(work: Attention) -> bool:
    """Whether keys and values were expanded from latents: a head of each for every query head, keys the longer ones."""
    return not work.latent and work.kv_heads == work.heads and work.value_dim < work.head_dim


def memory_key(technology: str, generation: str) -> str:
    """The name under which a memory's share of bandwidth stands: technology and GPU generation.

    Controllers differ as much as memories do: HBM2 gives three quarters on Pascal and nine tenths on Volta.
    """
    return f"{technology}/{generation}"


def gpu_sheet(gpu: Gpu, memory: MemorySpace) -> GpuSheet:
    """The figures of a GPU that works in a memory."""
    sms = float(gpu.multiprocessors)
    per_cycle = 1.0 / (sms * gpu.clock)
    technology, architecture = memory.technology, gpu.architecture
    energy = memory.energy_per_byte_read_j
    if energy <= 0:
        energy = next((e for name, e in _BYTE_ENERGY.items() if technology.startswith(name)), 40e-12)
    peak_rate(gpu.compute, "matmul", "fp32")  # a GPU without any rate is refused here, with a clear line
    return GpuSheet(
        gpu.name,
        architecture,
        sms,
        gpu.clock,
        min(memory.read_bandwidth, memory.write_bandwidth),
        float(gpu.l2.size),
        max(gpu.l1_per_multiprocessor.size - architecture.l1_reserved, LEAST_SHARED),
        gpu.power.tdp if gpu.power is not None else float("inf"),
        gpu.power.idle if gpu.power is not None else 0.0,
        energy,
        memory_key(technology, architecture.calibrated_as or ""),
        {str(name): rate * per_cycle for name, rate in gpu.compute.matrix.items()},
        {str(name): rate * per_cycle for name, rate in gpu.compute.vector.items()},
        {str(name): share for name, share in gpu.compute.relative_rates.items()},
        0.0 if architecture.calibrated_as else gpu.compute.launch,
    )
