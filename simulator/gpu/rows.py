"""Tables of operators become arrays, one per family, and the kernels price them in one call each.

Lines of attention and of products per expert stand in files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.gpu import (
    attention,
    few_rows,
    gemm,
    grouped,
    linear_attention,
    memory_bound,
    training_attention,
)
from simulator.gpu.attention_lines import (
    attention_kernel_of,
    attention_line,
    convolution_line,
    linear_kernel,
    linear_line,
    training_line,
)
from simulator.gpu.constants import Constants, Setup
from simulator.gpu.expert_lines import grouped_constants, grouped_line, wider_products
from simulator.gpu.request import (
    ATTENTION_FAMILIES,
    OWN_SCALES,
    PRODUCTS,
    TRAINING_PASSES,
    Prediction,
    Request,
    attention_of,
    board_limits,
    family_of,
    flop_joules,
    size,
    stored_width,
    width_share,
)
from simulator.gpu.sheet import GpuSheet, contiguous
from workloads.graph import Operator
from workloads.operators import (
    Activation,
    Convolution,
    Elementwise,
    GroupedProduct,
    LinearAttention,
    Norm,
    Product,
    Quantize,
    Rotary,
    Rows,
)
from workloads.training import ATTENTION_BACKWARD

__all__ = ["gemm_line", "launch_key", "lookup", "memory_line", "predict"]

Array = NDArray[np.float64]

BOUNDS: Final = ("compute", "memory", "l2", "latency")
ATTENTION_BOUNDS: Final = ("compute", "memory", "exp units", "latency")
MEMORY_BOUNDS: Final = ("compute", "memory", "l2", "latency")
MEMORY_CLASS: Final = {
    "norm": "norm", "softmax": "softmax", "elementwise": "elementwise",
    "rotary": "rotary", "quantize": "quantize", "embedding": "lookup", "gather": "lookup", "scatter": "lookup",
    "sort": "lookup",
}  # fmt: skip
CHOICES: Final = {
    t * 100 + int(s): f"{int(tile[0])}x{int(tile[1])}/{int(s)}"
    for t, tile in enumerate(gemm.TILES) for s in gemm.SPLITS
} | {int(few_rows.CHOICE): "vector"}  # fmt: skip
"""Names of a product's choices: tile and split, or the vector units."""
K_PADDING: Final = {"simt32": 8.0}
"""Elements of the reduction that one step of the pipeline takes; 32 on matrix units."""
BATCH_SUMS: Final = frozenset({"forward", "recompute", "backward"})
"""Passes of a training step, in which a batch norm adds up over the batch before it does anything else."""
ROW_KINDS: Final = frozenset({"norm", "softmax", "topk", "loss"})


def gemm_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.gemm.gemm_rows` for a product."""
    operator, sheet, setup = request.operator, request.sheet, request.setup
    work, dtype = operator.work, operator.dtype
    assert isinstance(work, Product | GroupedProduct)
    family = family_of(operator, sheet)
    m, n, k = max(1.0, float(work.m)), max(1.0, float(work.n)), max(1.0, float(work.k))
    element = size(dtype)
    weight = size(work.weight_dtype or dtype)
    speed, left_bytes, generation, folds = 1.0, 0, "", 1.0
    if isinstance(work, GroupedProduct):
        batch = max(1.0, work.touched)
        m = max(1.0, m / batch)
    else:
        batch, speed, left_bytes = float(work.batch), work.rate, work.left_bytes
        generation, folds = work.library, float(work.folds)
        if work.weight_bytes:
            weight = work.weight_bytes / (n * k)
    joule = flop_joules(family, sheet, constants) * width_share(operator, sheet)
    return [
        m, n, k, batch, element, weight, max(element, 2.0) / folds, sheet.sms, sheet.clock,
        sheet.rate(dtype) * speed, sheet.bandwidth * constants.memory_share(sheet.memory),
        sheet.l2_visible_bytes, sheet.shared_bytes, float(sheet.architecture.operand_sharing),
        rotation_of(operator, setup), constants.library_share(setup, family, generation),
        1.0 if batch > 1 else setup.splits.get(family, 32.0), *board_limits(request, constants),
        joule / speed, sheet.joule_per_byte,
        K_PADDING.get(family, 32.0),
        resident_share(operator, left_bytes, batch * m * k * element),
        -1.0, float(sheet.architecture.multiprocessors_per_tile), sheet.architecture.accumulator_bytes,
        float(sheet.architecture.l2_bytes_per_clock),
        0.0 if family == "widened" or dtype in OWN_SCALES else float(work.scale_block),
        setup.conversions if stored_width(operator) < size(sheet.serves(dtype)) - 0.1 else 0.0,
        sheet.rate("fp32", matrix=False), float(sheet.architecture.operand_sharing > 1),
        float(family in setup.by_rows), float(sheet.memory.startswith("GDDR")),
        setup.few_rows.get(family, few_rows.LIMIT) if folds == 1.0 else 0.0,
        folds, float(sheet.architecture.shared_bytes_per_clock),
    ]  # fmt: skip


def resident_share(operator: Operator, left_bytes: int, operand_bytes: float) -> float:
    """Share of the left operand that no DRAM read brings.

    All of it where the operator before has just written it (``residency: previous``). Of an implicit operand
    (``left_bytes``, a convolution's gathered image), whatever exceeds the bytes that really stand in memory.
    """
    if operator.residency == "previous":
        return 1.0
    if not left_bytes or operand_bytes <= 0:
        return 0.0
    return 1.0 - min(1.0, left_bytes / operand_bytes)


def rotation_of(operator: Operator, setup: Setup) -> float:
    """Weight tensors in rotation: the operator's ``residency`` (cold, hot) decides before the setup."""
    if operator.residency == "hot":
        return 1.0
    return 0.0 if operator.residency in ("cold", "previous") else float(setup.rotation)


def kernel_of(request: Request) -> str:
    """The kernel that prices a request: that of its family, or the one over experts."""
    if isinstance(request.operator.work, GroupedProduct):
        return "grouped"
    return family_of(request.operator, request.sheet)


def memory_class(operator: Operator) -> str:
    """The class whose constants a memory-bound operator takes."""
    if isinstance(operator.work, Norm) and operator.work.norm == "batch":
        return "elementwise"
    if isinstance(operator.work, Norm | Rotary) and operator.place.training_pass in TRAINING_PASSES:
        # Training has rows by the thousand, and kernels that stream them; those of inference have few.
        return "elementwise"
    if isinstance(operator.work, Activation):
        gated = operator.work.gated or operator.read_bytes > 1.5 * operator.write_bytes
        return "gated" if gated else "elementwise"
    return MEMORY_CLASS.get(operator.kind, "elementwise")


def memory_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.memory_bound.memory_bound_rows`."""
    operator, sheet, setup = request.operator, request.sheet, request.setup
    element = size(operator.dtype)
    touched = max(operator.read_bytes, operator.write_bytes, 1)
    m, n = 1.0, touched / element
    if isinstance(operator.work, Rows) and operator.work.m * operator.work.n > 1:
        m, n = float(operator.work.m), float(operator.work.n)
    elements = m * n * element
    read = operator.read_bytes
    work = operator.work
    if isinstance(work, Quantize) and work.dynamic and not work.per_token:
        read *= 2  # the largest magnitude of all comes first
    if isinstance(work, Norm) and work.norm == "batch" and operator.place.training_pass in BATCH_SUMS:
        read *= 2  # the sums of each channel come first
    residency = operator.residency
    previous = residency in ("hot", "previous") or (not residency and setup.previous)
    rate = sheet.rate("fp64" if operator.dtype == "fp64" else "fp32", matrix=False)
    flops = max(0.0, operator.flops)
    if isinstance(work, Elementwise) and work.gathers:
        # A load for every multiply-add, out of the unified cache.
        flops = max(flops, flops / 2.0 * element / sheet.architecture.shared_bytes_per_clock * rate)
    return [
        m, n, read / elements, operator.write_bytes / elements, element, sheet.sms, sheet.clock,
        sheet.bandwidth * constants.memory_share(sheet.memory), sheet.l2_visible_bytes, float(previous),
        float(reduces_rows(operator)), float(sheet.architecture.l2_bytes_per_clock), flops, rate,
    ]  # fmt: skip


def reduces_rows(operator: Operator) -> bool:
    """Whether a thread block reduces over each row before it writes it."""
    work = operator.work
    if isinstance(work, Quantize):
        return work.dynamic and work.per_token and not work.block
    if isinstance(work, Norm) and work.norm == "batch":
        return False  # its channels are the columns; their sums are a pass of their own, in training
    return operator.kind in ROW_KINDS


def memory_constants(request: Request, constants: Constants) -> Array:
    """The constants of a memory-bound operator's class and implementation."""
    name = memory_class(request.operator)
    style = "" if request.setup.vectorised else "/scalar"
    family = f"memory_bound/{name}{style}"
    if family not in constants.data:
        family = f"memory_bound/{name}"
    return constants.array(family, memory_bound.CONSTANTS)


def predict(requests: Sequence[Request], constants: Constants) -> list[Prediction]:
    """Predict a table; one call of a kernel per family. Communication is not among these operators.

    Products per expert of which nobody says whose kernel runs take a wider type where that is quicker.
    """
    wider = [wider_products(request) for request in requests]
    found = _predict([*requests, *(other for others in wider for other in others)], constants)
    chosen, at = found[: len(requests)], len(requests)
    for index, others in enumerate(wider):
        if others:
            known = [chosen[index], *found[at : at + len(others)]]
            chosen[index] = min(known, key=lambda one: one.kernel_s + one.launch_s)
            at += len(others)
    return chosen


def _predict(requests: Sequence[Request], constants: Constants) -> list[Prediction]:
    found: list[Prediction | None] = [None] * len(requests)
    groups: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(kernel_of(request), []).append(index)
    for family, indices in groups.items():
        chosen = [requests[i] for i in indices]
        for i, prediction in zip(indices, _family(family, chosen, constants), strict=True):
            found[i] = prediction
    return [prediction for prediction in found if prediction is not None]


def _family(family: str, requests: list[Request], constants: Constants) -> list[Prediction]:
    out = np.zeros((len(requests), 5))
    launches: list[float] = []
    if family == "memory_bound":
        lines = np.array([memory_line(r, constants) for r in requests])
        own = np.array([memory_constants(r, constants) for r in requests])
        memory_bound.memory_bound_rows(lines, own, out)
        names: tuple[str, ...] = MEMORY_BOUNDS
    elif family in ATTENTION_FAMILIES:
        lines = np.array([attention_line(r, constants) for r in requests])
        attention.attention_rows(lines, constants.array(family, attention.CONSTANTS), out)
        names = ATTENTION_BOUNDS
    elif family == "training_attention":
        lines = np.array([training_line(r, constants) for r in requests])
        own = constants.array(family, training_attention.CONSTANTS)
        training_attention.training_attention_rows(lines, own, out)
        names = ATTENTION_BOUNDS
    elif family == "linear_attention":
        lines = np.array([linear_line(r, constants) for r in requests])
        linear_attention.linear_attention_rows(
            lines, constants.array(family, linear_attention.CONSTANTS), out
        )
        names = BOUNDS
    elif family == "short_convolution":
        lines = np.array([convolution_line(r, constants) for r in requests])
        own = constants.array(family, linear_attention.CONVOLUTION_CONSTANTS)
        linear_attention.short_convolution_rows(lines, own, out)
        names = BOUNDS
    elif family == "grouped":
        lines = np.array([grouped_line(r, constants) for r in requests])
        chosen = np.array([grouped_constants(r, constants) for r in requests])
        grouped.grouped_rows(lines, chosen, out)
        launches = chosen[:, grouped.LAUNCH].tolist()
        names = BOUNDS
    else:
        lines = np.array([gemm_line(r, constants) for r in requests])
        gemm.gemm_rows(lines, constants.array(family, gemm.CONSTANTS), gemm.TILES, gemm.SPLITS, out)
        if "few_rows" in constants.data:  # not while constants of tiles are fitted from nothing
            own = constants.array("few_rows", few_rows.CONSTANTS)
            few_rows.few_rows(lines, constants.array(family, gemm.CONSTANTS), own, out)
        names = BOUNDS
    made = []
    beside: dict[tuple[int, int, str], tuple[float, float]] = {}
    product = family in PRODUCTS
    for index, (request, row) in enumerate(zip(requests, out.tolist(), strict=True)):
        sheet, operator, setup = request.sheet, request.operator, request.setup
        key = launch_key(family, request)
        where = (id(setup), id(sheet), key)
        if where not in beside:
            beside[where] = launch_and_host(setup, sheet, key)
        launch, host = beside[where]
        if setup.one_row_kcycles and isinstance(operator.work, Product) and operator.work.m == 1:
            launch += setup.one_row_kcycles.get(f"{family}/{sheet.launches}", 0.0) * 1e3 / sheet.clock
        if family == "grouped":
            launch = launches[index] * 1e3 / sheet.clock
        joule = flop_joules(family_of(operator, sheet) if family == "grouped" else family, sheet, constants)
        joule *= width_share(operator, sheet) if product else 1.0
        # Work that is done in part, or more than once, takes so much of the kernel's time.
        part = operator.work.share if family != "memory_bound" else 1.0
        if family == "training_attention" and operator.place.training_pass == "backward":
            part /= ATTENTION_BACKWARD  # the kernel's own products are in its price
        if operator.kind == "sort":
            row[0] += constants.sort_seconds(operator)
        kernel, moved = row[0] * part, row[2] * min(1.0, part)
        compute_j, memory_j = operator.flops * joule, moved * sheet.joule_per_byte
        if sheet.tdp < float("inf"):
            room = sheet.tdp - sheet.idle
            compute_j += constants.way_joules(room, kernel + launch, moved)
            compute_j = min(compute_j, max(0.0, room * (kernel + launch) - memory_j))
        made.append(
            Prediction(
                kernel,
                launch,
                host,
                moved,
                compute_j,
                memory_j,
                names[int(row[1])] if kernel >= launch else "launch",
                CHOICES[int(row[3])] if product else "",
            )
        )
    return made


def launch_key(family: str, request: Request) -> str:
    """The entry of a setup's launch table that an operator takes."""
    if family == "memory_bound":
        return f"memory_bound/{memory_class(request.operator)}"
    if family == "training_attention":
        return "attention_prefill"
    if family in ATTENTION_FAMILIES:
        work = attention_of(request.operator)
        if not work.split_kv:
            return "attention_alone"
        name = attention_kernel_of(request).calibrated_as
        if contiguous(work) and f"{family}/{name}/contiguous" in request.setup.launch_kcycles:
            return f"{family}/{name}/contiguous"
        own = f"{family}/{name}"
        return own if own in request.setup.launch_kcycles else family
    if family == "linear_attention":
        linear = request.operator.work
        assert isinstance(linear, LinearAttention)
        return f"{family}/{linear_kernel(request) if linear.chunk > 1 else 'decode'}"
    if family == "short_convolution":
        convolution = request.operator.work
        assert isinstance(convolution, Convolution)
        return f"{family}/{'update' if convolution.out_width == 1 else 'prefill'}"
    return family


def launch_and_host(setup: Setup, sheet: GpuSheet, key: str) -> tuple[float, float]:
    """Seconds of a launch on a GPU, and those that the host needs for a call."""
    launch = lookup(setup.launch_us, key, sheet.launches) * 1e-6
    launch += lookup(setup.launch_kcycles, key, sheet.launches) * 1e3 / sheet.clock
    # What was fitted is NVIDIA's; where nothing of a vendor was measured, its file says what a launch takes at least.
    launch = max(launch, sheet.least_launch)
    return launch, lookup(setup.host_us, key, sheet.generation) * 1e-6


def lookup(table: Mapping[str, float], key: str, kind: str) -> float:
    """A table's figure for a key: that of the kind of GPU, else its own, else that of everything else."""
    own = table.get(f"{key}/{kind}")
    if own is not None:
        return own
    return table[key] if key in table else table["other"]
