"""Tables of operators become arrays, one per family, and the kernels price them in one call each.

An operator says what it is through the typed fields of its kind (:mod:`workloads.operators`). The setup says
how it was measured: what was in the caches, which generation of library ran, what is timed beside the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.gpu_architecture import AttentionKernel
from simulator.gpu import attention, gemm, grouped, linear_attention, memory_bound
from simulator.gpu.constants import Constants, Setup
from simulator.gpu.power import operation_joules
from simulator.gpu.sheet import GpuSheet, contiguous, expanded
from workloads.dtypes import BITS
from workloads.expert_load import row_quantiles
from workloads.graph import Operator
from workloads.operators import (
    Activation,
    Attention,
    Convolution,
    Elementwise,
    GroupedProduct,
    LinearAttention,
    Norm,
    Product,
    Quantize,
    Rows,
)

__all__ = ["FAMILIES", "Prediction", "Request", "family_of", "predict"]

Array = NDArray[np.float64]
ATTENTION_FAMILIES: Final = ("attention_decode", "attention_prefill", "latent_decode", "latent_prefill")
FAMILIES: Final = (
    "tensor16", "widened", "tensor8", "integer8", "tensor4", "simt32", *ATTENTION_FAMILIES, "linear_attention",
    "short_convolution", "memory_bound",
)  # fmt: skip
PRODUCTS: Final = frozenset({"tensor16", "widened", "tensor8", "integer8", "tensor4", "simt32"})
"""Families that the kernel of products prices. ``widened``: weights are stored narrower than 16-bit arithmetic."""
BOUNDS: Final = ("compute", "memory", "l2", "latency")
ATTENTION_BOUNDS: Final = ("compute", "memory", "exp units", "latency")
MEMORY_BOUNDS: Final = ("compute", "memory", "l2", "latency")
NARROW_FAMILY: Final = {
    "fp8": "tensor8", "mxfp8": "tensor8", "int8": "integer8", "uint8": "integer8", "int4": "integer8",
    "fp4": "tensor4", "mxfp4": "tensor4", "nvfp4": "tensor4",
}  # fmt: skip
"""The family of products whose arithmetic is narrower than 16 bits."""
OWN_SCALES: Final = frozenset({"mxfp8", "mxfp4", "nvfp4"})
"""Types with scales of their own: the matrix unit multiplies them in, or they go into the widening of an element."""
WIDE: Final = frozenset({"fp32", "fp64"})
MEMORY_CLASS: Final = {
    "norm": "norm", "softmax": "softmax", "elementwise": "elementwise",
    "rotary": "rotary", "quantize": "quantize", "embedding": "lookup", "gather": "lookup", "scatter": "lookup",
    "sort": "lookup",
}  # fmt: skip
CHOICES: Final = {
    t * 100 + int(s): f"{int(tile[0])}x{int(tile[1])}/{int(s)}"
    for t, tile in enumerate(gemm.TILES) for s in gemm.SPLITS
}  # fmt: skip
"""Names of a product's choices: tile and split."""
K_PADDING: Final = {"simt32": 8.0}
"""Elements of the reduction that one step of the pipeline takes; 32 on matrix units."""
MATRIX_ENERGY: Final = {
    "tensor16": "tensor16", "widened": "tensor16", "attention_decode": "tensor16", "attention_prefill": "tensor16",
    "latent_decode": "tensor16", "latent_prefill": "tensor16", "linear_attention": "tensor16",
    "tensor8": "tensor8", "integer8": "integer8", "tensor4": "tensor4",
}  # fmt: skip
"""The entry of the energies that a family's operations take; others are those of vector lanes."""
TYPE_OF_ENERGY: Final = {
    "tensor16": "fp16", "tensor8": "fp8", "integer8": "int8", "tensor4": "nvfp4", "simt32": "fp32",
}  # fmt: skip
"""The element type whose peak rate goes with an energy."""
BATCH_SUMS: Final = frozenset({"forward", "recompute", "backward"})
"""Passes of a training step, in which a batch norm adds up over the batch before it does anything else."""
ROW_KINDS: Final = frozenset({"norm", "softmax", "topk", "loss"})


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
        work = _attention(operator)
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


def gemm_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.gemm.gemm_rows` for a product."""
    operator, sheet, setup = request.operator, request.sheet, request.setup
    work, dtype = operator.work, operator.dtype
    assert isinstance(work, Product | GroupedProduct)
    family = family_of(operator, sheet)
    m, n, k = max(1.0, float(work.m)), max(1.0, float(work.n)), max(1.0, float(work.k))
    element = size(dtype)
    weight = size(work.weight_dtype or dtype)
    speed, left_bytes = 1.0, 0
    if isinstance(work, GroupedProduct):
        batch = max(1.0, work.touched)
        m = max(1.0, m / batch)
    else:
        batch, speed, left_bytes = float(work.batch), work.rate, work.left_bytes
        if work.weight_bytes:
            weight = work.weight_bytes / (n * k)
    joule = flop_joules(family, sheet, constants)
    return [
        m, n, k, batch, element, weight, max(element, 2.0), sheet.sms, sheet.clock,
        sheet.rate(dtype) * speed, sheet.bandwidth * constants.memory_share(sheet.memory),
        sheet.l2_visible_bytes, sheet.shared_bytes, float(sheet.architecture.operand_sharing),
        rotation_of(operator, setup), setup.library_share(family),
        1.0 if batch > 1 else setup.splits.get(family, 32.0), sheet.tdp, sheet.idle,
        joule / speed, sheet.joule_per_byte,
        K_PADDING.get(family, 32.0),
        resident_share(operator, left_bytes, batch * m * k * element),
        -1.0, float(sheet.architecture.multiprocessors_per_tile), sheet.architecture.accumulator_bytes,
        float(sheet.architecture.l2_bytes_per_clock),
        0.0 if family == "widened" or dtype in OWN_SCALES else float(work.scale_block),
        setup.conversions if stored_width(operator) < size(sheet.serves(dtype)) - 0.1 else 0.0,
        sheet.rate("fp32", matrix=False), float(sheet.architecture.operand_sharing > 1),
        float(family in setup.by_rows), float(sheet.memory.startswith("GDDR")),
    ]  # fmt: skip


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
        sheet.rate("fp32", matrix=False), sheet.tdp, sheet.idle, flop_joules(family, sheet, constants),
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


def _attention(operator: Operator) -> Attention:
    assert isinstance(operator.work, Attention)
    return operator.work


@dataclass(frozen=True, slots=True)
class Seen:
    """The rectangle of queries and keys that an attention kernel walks: what masks and choices leave of it."""

    sequences: float
    q_len: float
    kv_len: float
    window: float


def seen_by(work: Attention) -> Seen:
    """What a kernel that skips what no query sees walks over.

    A chunked layer is as many short sequences as it has chunks. A decode step reads the keys of its window or
    chunk, those that an indexer chose, or the share that sparse attention keeps. A prefill under an indexer walks
    as under a window of as many keys.
    """
    sequences, q, kv = float(work.batch), float(work.q_len), float(work.kv_len)
    window = float(min(size for size in (work.window or work.kv_len, work.top_k or work.kv_len)))
    if work.chunk and work.chunk < work.kv_len:
        if q > 1:
            sequences *= max(1.0, q / work.chunk)
            q = min(q, float(work.chunk))
        kv = min(float(work.seen), float(work.chunk)) if work.q_len > work.chunk else float(work.seen)
    if q == 1:
        kv = max(1.0, min(kv, window) * work.sparse_share)
        window = kv
    return Seen(sequences, q, kv, window if window < kv else 0.0)


def attention_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.attention.attention_rows`."""
    operator, sheet, setup = request.operator, request.sheet, request.setup
    work = _attention(operator)
    seen, split = seen_by(work), work.split_kv
    element, cached = size(operator.dtype), size(work.kv_dtype or operator.dtype)
    kernel, chip = attention_kernel_of(request), sheet.architecture
    narrow = kernel.computes_narrow and cached < element and sheet.computes(work.kv_dtype)
    cached_at_all = split and not expanded(work) and not contiguous(work)
    quantises = setup.cache_write and (narrow or (cached < element and cached_at_all and not work.latent))
    if expanded(work) and not narrow:
        cached = element  # keys and values are fresh results; only the latents are stored narrow
    family = "tensor8" if narrow else "tensor16"
    keys = kernel.key_block
    if kernel.key_elements is not None:
        keys = max(16, min(keys, kernel.key_elements >> max(0, work.head_dim - 1).bit_length()))
    return [
        seen.sequences, float(work.heads), float(work.kv_heads), float(work.head_dim), float(work.value_dim),
        seen.q_len, seen.kv_len, float(work.causal), seen.window, element,
        sheet.sms, sheet.clock, sheet.rate(work.kv_dtype if narrow else operator.dtype),
        sheet.bandwidth * constants.memory_share(sheet.memory), sheet.l2_visible_bytes,
        float(split), float(setup.cache_write and cached_at_all), float(_warm(request)),
        float(work.q_len == 1 and not contiguous(work)), sheet.tdp, sheet.idle,
        flop_joules(family, sheet, constants), sheet.joule_per_byte, float(work.page), float(work.latent),
        float(attention.KERNELS.index(kernel.calibrated_as)),
        float(kernel.query_tile), float(kernel.grouped_query_tile), float(keys),
        float(kernel.instruction_rows), float(kernel.blocks_per_multiprocessor),
        float(kernel.splits_only_groups), float(chip.exponentials_per_clock),
        float(chip.l2_bytes_per_clock), float(chip.shared_bytes_per_clock),
        cached, float(work.window > 0), float(kernel.splits_keys), sheet.shared_bytes, float(quantises),
        float(kernel.packs_groups),
    ]  # fmt: skip


def attention_kernel_of(request: Request) -> AttentionKernel:
    """The kernel that runs a request's attention."""
    work = _attention(request.operator)
    narrow = size(work.kv_dtype or request.operator.dtype) < min(2.0, size(request.operator.dtype))
    return request.sheet.attention_kernel_for(work, narrow)


def linear_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.linear_attention.linear_attention_rows`."""
    operator, sheet = request.operator, request.sheet
    work = operator.work
    assert isinstance(work, LinearAttention)
    heads = float(work.heads)
    flops = float(work.token_operations * work.key_dim * work.value_dim)
    if work.chunk > 1:
        flops = work.chunk_flops(work.chunk) / heads
    return [
        float(work.batch), float(work.sequence), heads, float(work.key_dim * work.value_dim),
        work.token_elements * size(operator.dtype), size(work.state_dtype), float(work.chunk), flops,
        sheet.sms, sheet.clock, sheet.rate(operator.dtype), sheet.bandwidth * constants.memory_share(sheet.memory),
        sheet.l2_visible_bytes, float(sheet.architecture.l2_bytes_per_clock), float(_warm(request)),
        float(linear_attention.KERNELS.index(linear_kernel(request))), sheet.tdp, sheet.idle,
        flop_joules("tensor16", sheet, constants), sheet.joule_per_byte,
    ]  # fmt: skip


def linear_kernel(request: Request) -> str:
    """The kernel that runs a prefill of linear attention; fused ones know the delta rule alone."""
    work = request.operator.work
    assert isinstance(work, LinearAttention)
    return request.sheet.architecture.linear_attention if work.rule == "delta" else "triton"


def convolution_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.linear_attention.short_convolution_rows`."""
    operator, sheet = request.operator, request.sheet
    work = operator.work
    assert isinstance(work, Convolution)
    return [
        float(work.out_width), float(operator.read_bytes), float(operator.write_bytes), sheet.sms, sheet.clock,
        sheet.bandwidth * constants.memory_share(sheet.memory), sheet.l2_visible_bytes,
        float(sheet.architecture.l2_bytes_per_clock), float(_warm(request)),
    ]  # fmt: skip


def _warm(request: Request) -> bool:
    """Whether the same operands were used just before: a benchmark's repetitions, or so the operator says."""
    residency = request.operator.residency
    return residency == "hot" or (not residency and request.setup.rotation > 0)


def memory_class(operator: Operator) -> str:
    """The class whose constants a memory-bound operator takes."""
    if isinstance(operator.work, Norm) and operator.work.norm == "batch":
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
        if family == "grouped":
            launch = launches[index] * 1e3 / sheet.clock
        joule = flop_joules(family_of(operator, sheet) if family == "grouped" else family, sheet, constants)
        # Work that is done in part, or more than once, takes so much of the kernel's time.
        part = operator.work.share if family != "memory_bound" else 1.0
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
    if family in ATTENTION_FAMILIES:
        work = _attention(request.operator)
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
    return launch, lookup(setup.host_us, key, sheet.generation) * 1e-6


def lookup(table: Mapping[str, float], key: str, kind: str) -> float:
    """A table's figure for a key: that of the kind of GPU, else its own, else that of everything else."""
    own = table.get(f"{key}/{kind}")
    if own is not None:
        return own
    return table[key] if key in table else table["other"]
