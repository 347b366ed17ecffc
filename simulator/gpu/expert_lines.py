"""Products per expert as rows of their kernel: whose library runs, which wider types stand in for a narrow one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulator.gpu import grouped
from simulator.gpu.constants import Constants
from simulator.gpu.request import (
    OWN_SCALES,
    Request,
    board_limits,
    family_of,
    flop_joules,
    size,
    stored_width,
)
from simulator.gpu.sheet import GpuSheet
from workloads.expert_load import row_quantiles
from workloads.graph import Operator
from workloads.operators import GroupedProduct

__all__ = ["grouped_constants", "grouped_line", "library_of", "wider_products"]

Array = NDArray[np.float64]


def library_of(work: GroupedProduct, operator: Operator, sheet: GpuSheet) -> str:
    """The library whose kernel runs over experts.

    Where the operator does not say: the generated kernels on GPUs whose tiles span multiprocessors, Marlin for weights
    that are stored in 4 bits beside 16-bit arithmetic, Triton for the rest, as serving engines choose.
    """
    if work.library:
        return work.library
    if sheet.architecture.multiprocessors_per_tile > 1:
        inside = work.scale_block and operator.dtype not in OWN_SCALES
        return "trtllm_block" if inside else "trtllm"
    return "marlin" if stored_width(operator) < 0.75 and size(sheet.serves(operator.dtype)) >= 2 else "triton"


def grouped_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.grouped.grouped_rows` for a product per expert."""
    operator, sheet = request.operator, request.sheet
    work, dtype = operator.work, operator.dtype
    assert isinstance(work, GroupedProduct)
    family = family_of(operator, sheet)
    touched = max(1.0, work.touched)
    element = size(dtype)
    rows = row_quantiles(work.m, float(work.groups), touched, work.tokens, work.load, work.exponent)
    return [
        max(1.0, float(work.m)), max(1.0, float(work.n)), max(1.0, float(work.k)), touched, element,
        size(work.weight_dtype or dtype), float(operator.write_bytes), sheet.sms, sheet.clock, sheet.rate(dtype),
        sheet.bandwidth * constants.memory_share(sheet.memory), sheet.l2_visible_bytes,
        float(sheet.architecture.l2_bytes_per_clock), float(operator.residency == "hot"),
        float(operator.residency in ("hot", "previous")),
        0.0 if family == "widened" or dtype in OWN_SCALES else float(work.scale_block),
        sheet.rate("fp32", matrix=False), *board_limits(request, constants), flop_joules(family, sheet, constants),
        sheet.joule_per_byte, float(family == "widened"),
        float(1.0 <= element < 2.0 and (dtype in OWN_SCALES or work.scale_block > 0)), *rows,
    ]  # fmt: skip


def grouped_constants(request: Request, constants: Constants) -> Array:
    """The constants of the library that runs over experts: its own of the GPU's generation, or of all."""
    work = request.operator.work
    assert isinstance(work, GroupedProduct)
    name = library_of(work, request.operator, request.sheet)
    own = f"experts/{name}/{request.sheet.generation}"
    return constants.array(own if own in constants.data else f"experts/{name}", grouped.CONSTANTS)


def wider_products(request: Request) -> list[Request]:
    """The same product per expert in each wider type, where no library is named.

    An engine that has no quick kernel for a narrow type keeps the weights in a wider one.
    """
    operator, work = request.operator, request.operator.work
    if not isinstance(work, GroupedProduct) or work.library:
        return []
    own, stored = size(operator.dtype), stored_width(operator)
    pairs = []
    if own < 1.0:
        pairs.append(("fp8", ""))
    elif own >= 2.0 and stored < 1.0:
        pairs.append((operator.dtype, "int8"))
    if own < 2.0:
        pairs.append(("bf16", ""))
    elif stored < own:
        pairs.append((operator.dtype, ""))
    return [
        Request(
            replace(operator, dtype=dtype, work=replace(work, weight_dtype=weight, scale_block=0)),
            request.sheet,
            request.setup,
        )
        for dtype, weight in pairs
    ]
