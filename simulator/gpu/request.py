"""What is asked of the GPU model, what it answers, and the family of kernels that an operator belongs to.

An operator says what it is through the typed fields of its kind (:mod:`workloads.operators`). The setup says
how it was measured: what was in the caches, which generation of library ran, what is timed beside the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulator.gpu.constants import Constants, Setup
from simulator.gpu.power import operation_joules
from simulator.gpu.sheet import GpuSheet, expanded
from workloads.dtypes import BITS
from workloads.graph import Operator
from workloads.operators import Attention, GroupedProduct, Product

__all__ = [
    "FAMILIES",
    "TRAINING_PASSES",
    "Prediction",
    "Request",
    "board_limits",
    "family_of",
    "flop_joules",
    "is_warm",
    "size",
    "stored_width",
    "trains",
    "width_share",
]  # fmt: skip

TRAINING_PASSES: Final = frozenset({"forward", "backward", "recompute", "optimizer"})
"""Passes of a training step, which lasts: a board settles at the clocks that its limit sustains."""
ATTENTION_FAMILIES: Final = ("attention_decode", "attention_prefill", "latent_decode", "latent_prefill")
FAMILIES: Final = (
    "tensor16", "widened", "tensor8", "integer8", "tensor4", "simt32", *ATTENTION_FAMILIES, "training_attention",
    "linear_attention", "short_convolution", "memory_bound",
)  # fmt: skip
PRODUCTS: Final = frozenset({"tensor16", "widened", "tensor8", "integer8", "tensor4", "simt32"})
"""Families that the kernel of products prices. ``widened``: weights are stored narrower than 16-bit arithmetic."""
NARROW_FAMILY: Final = {
    "fp8": "tensor8", "mxfp8": "tensor8", "int8": "integer8", "uint8": "integer8", "int4": "integer8",
    "fp4": "tensor4", "mxfp4": "tensor4", "nvfp4": "tensor4",
}  # fmt: skip
"""The family of products whose arithmetic is narrower than 16 bits."""
OWN_SCALES: Final = frozenset({"mxfp8", "mxfp4", "nvfp4"})
"""Types with scales of their own: the matrix unit multiplies them in, or they go into the widening of an element."""
WIDE: Final = frozenset({"fp32", "fp64"})
MATRIX_ENERGY: Final = {
    "tensor16": "tensor16", "widened": "tensor16", "attention_decode": "tensor16", "attention_prefill": "tensor16",
    "latent_decode": "tensor16", "latent_prefill": "tensor16", "linear_attention": "tensor16",
    "training_attention": "tensor16",
    "tensor8": "tensor8", "integer8": "integer8", "tensor4": "tensor4",
}  # fmt: skip
"""The entry of the energies that a family's operations take; others are those of vector lanes."""
TYPE_OF_ENERGY: Final = {
    "tensor16": "fp16", "tensor8": "fp8", "integer8": "int8", "tensor4": "nvfp4", "simt32": "fp32",
}  # fmt: skip
"""The element type whose peak rate goes with an energy."""


@dataclass(frozen=True, slots=True)
class Request:
    """One operator on one GPU, measured in one way."""

    operator: Operator
    sheet: GpuSheet
    setup: Setup


@dataclass(frozen=True, slots=True)
class Prediction:
    """Kernel, launch and host seconds, bytes over the DRAM's pins, joules above idle, and what decides.

    ``compute_j`` holds what a board at work draws beside arithmetic and DRAM (clocks, leakage, bytes on their way);
    with ``memory_j`` it is never more than the board's limit allows.
    """

    kernel_s: float
    launch_s: float
    host_s: float
    dram_bytes: float
    compute_j: float
    memory_j: float
    bound_by: str
    choice: str = ""

    @property
    def seconds(self) -> float:
        """What a measurement of this setup would show: the host works while the device does."""
        return max(self.kernel_s + self.launch_s, self.host_s)


def family_of(operator: Operator, sheet: GpuSheet) -> str:
    """The family whose kernel prices an operator on a GPU: that of the type in which it runs there."""
    kind = operator.kind
    if kind == "linear_attention":
        return kind
    if kind == "conv":
        return "short_convolution"
    if kind in ("matmul", "grouped_matmul", "recurrent"):
        arithmetic = sheet.serves(operator.dtype)
        if arithmetic in NARROW_FAMILY:
            return NARROW_FAMILY[arithmetic]
        if arithmetic in WIDE:
            return "simt32"
        return "widened" if stored_width(operator) < 2.0 else "tensor16"
    if kind == "attention":
        work = attention_of(operator)
        if trains(operator):
            return "training_attention"
        if work.latent:
            return "latent_decode"
        if expanded(work):
            return "latent_prefill"
        # An encoder's sequence of one token runs its kernel for whole sequences.
        return (
            "attention_decode"
            if work.q_len == 1 and (work.causal or work.kv_len > 1)
            else "attention_prefill"
        )
    return "memory_bound"


def trains(operator: Operator) -> bool:
    """Whether attention runs a training kernel: the backward one, or that of a library which is named."""
    work = operator.work
    if not isinstance(work, Attention) or work.latent or work.q_len < 2:
        return False
    return bool(work.library) or operator.place.training_pass == "backward"


def stored_width(operator: Operator) -> float:
    """Bytes of one element of a product's right operand."""
    work = operator.work
    if not isinstance(work, Product | GroupedProduct):
        return size(operator.dtype)
    if isinstance(work, Product) and work.weight_bytes and work.n * work.k and work.rate == 1.0:
        return work.weight_bytes / (work.n * work.k)
    return size(work.weight_dtype or operator.dtype)


def size(dtype: str) -> float:
    """Bytes of one element."""
    return BITS.get(dtype, 16) / 8


def attention_of(operator: Operator) -> Attention:
    assert isinstance(operator.work, Attention)
    return operator.work


def flop_joules(family: str, sheet: GpuSheet, constants: Constants) -> float:
    """J per FLOP of a family: on matrix units, or on vector units for FP32 and memory-bound operators."""
    known = constants.joules.get((family, id(sheet)))
    if known is not None and known[0] is sheet:
        return known[1]
    entry, chip, matrix = MATRIX_ENERGY.get(family, "simt32"), sheet.architecture, family in MATRIX_ENERGY
    process = chip.matrix_process_energy if matrix else chip.process_energy
    peak = sheet.rate(TYPE_OF_ENERGY[entry], matrix) * sheet.sms * sheet.clock
    joules = operation_joules(
        constants.data["energy_pj"][entry], process, sheet.clock, sheet.tdp - sheet.idle, peak
    )
    constants.joules[family, id(sheet)] = (sheet, joules)
    return joules


def width_share(operator: Operator, sheet: GpuSheet) -> float:
    """Energy of a product's operation relative to that of its family: 4-bit integers are half of 8-bit ones.

    No public row has their power; that energy goes with the bits of an operand is an assumption.
    """
    return 0.5 if sheet.serves(operator.dtype) == "int4" else 1.0


def board_limits(request: Request, constants: Constants) -> tuple[float, float]:
    """A board's limit and idle power in W for an operator.

    Over a training step arithmetic has less of the limit than in a benchmark of one kernel, whose energies are fitted:
    boards are warm, links and host interfaces draw too (``sustained_share``, ``calibration/fit_training_steps.py``).
    """
    sheet = request.sheet
    if request.operator.place.training_pass not in TRAINING_PASSES or sheet.tdp == float("inf"):
        return sheet.tdp, sheet.idle
    return sheet.idle + constants.sustained_share * (sheet.tdp - sheet.idle), sheet.idle


def is_warm(request: Request) -> bool:
    """Whether the same operands were used just before: a benchmark's repetitions, or so the operator says."""
    residency = request.operator.residency
    return residency == "hot" or (not residency and request.setup.rotation > 0)
