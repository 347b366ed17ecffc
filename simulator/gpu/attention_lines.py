"""Attention and linear attention as rows of their kernels: what masks leave, which kernel runs, in which type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.gpu_architecture import AttentionKernel
from simulator.gpu import attention, linear_attention, training_attention
from simulator.gpu.constants import Constants
from simulator.gpu.request import Request, attention_of, board_limits, flop_joules, is_warm, size
from simulator.gpu.sheet import contiguous, expanded
from workloads.operators import Attention, Convolution, LinearAttention

__all__ = [
    "attention_kernel_of",
    "attention_line",
    "convolution_line",
    "linear_kernel",
    "linear_line",
    "seen_by",
    "training_library",
    "training_line",
]


OWN_LIBRARY: Final = {"fa3": "fa3", "blackwell": "fa4"}
"""Training library of chips by the kernel that inference runs on them; FlashAttention-2 on all others."""
WARP_ROWS: Final = 16
"""Rows of a warp-wide matrix instruction; chips with larger ones have units that it does not fill."""


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
    window = float(min(size for size in (work.reach or work.kv_len, work.top_k or work.kv_len)))
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
    work = attention_of(operator)
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
        float(split), float(setup.cache_write and cached_at_all), float(is_warm(request)),
        float(work.q_len == 1 and not contiguous(work)), *board_limits(request, constants),
        flop_joules(family, sheet, constants), sheet.joule_per_byte, float(work.page), float(work.latent),
        float(attention.KERNELS.index(kernel.calibrated_as)),
        float(kernel.query_tile), float(kernel.grouped_query_tile), float(keys),
        float(kernel.instruction_rows), float(kernel.blocks_per_multiprocessor),
        float(kernel.splits_only_groups), float(chip.exponentials_per_clock),
        float(chip.l2_bytes_per_clock), float(chip.shared_bytes_per_clock),
        cached, float(work.window > 0), float(kernel.splits_keys), sheet.shared_bytes, float(quantises),
        float(kernel.packs_groups), float(work.sink_logits),
    ]  # fmt: skip


def attention_kernel_of(request: Request) -> AttentionKernel:
    """The kernel that runs a request's attention."""
    work = attention_of(request.operator)
    narrow = size(work.kv_dtype or request.operator.dtype) < min(2.0, size(request.operator.dtype))
    return request.sheet.attention_kernel_for(work, narrow)


def training_library(request: Request) -> str:
    """The library whose training kernel runs a request's attention: the named one where the chip has it, or its own.

    FlashAttention-2 runs everywhere, cuDNN's on Hopper and Blackwell (fitted on Hopper: its authors print none of the
    other), the rest on the generation that they are written for.
    """
    named = attention_of(request.operator).library
    own = OWN_LIBRARY.get(request.sheet.architecture.attention.calibrated_as, "fa2")
    return named if named == "fa2" or (named == "cudnn" and own != "fa2") else own


def training_line(request: Request, constants: Constants) -> list[float]:
    """The inputs of :func:`simulator.gpu.training_attention.training_attention_rows`."""
    operator, sheet = request.operator, request.sheet
    work, chip = attention_of(operator), sheet.architecture
    warp_groups = chip.attention.instruction_rows > WARP_ROWS
    return [
        float(work.batch), float(work.heads), float(work.kv_heads), float(work.head_dim), float(work.value_dim),
        float(work.q_len), float(work.kv_len), float(work.pairs) * work.sparse_share, float(work.causal),
        float(operator.place.training_pass == "backward"),
        float(training_attention.LIBRARIES.index(training_library(request))), size(operator.dtype), sheet.sms,
        sheet.clock, sheet.rate(operator.dtype), training_attention.WARP_RATE if warp_groups else 1.0,
        float(chip.exponentials_per_clock), sheet.bandwidth * constants.memory_share(sheet.memory),
        *board_limits(request, constants), flop_joules("training_attention", sheet, constants), sheet.joule_per_byte,
    ]  # fmt: skip


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
        sheet.l2_visible_bytes, float(sheet.architecture.l2_bytes_per_clock), float(is_warm(request)),
        float(linear_attention.KERNELS.index(linear_kernel(request))), *board_limits(request, constants),
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
        float(sheet.architecture.l2_bytes_per_clock), float(is_warm(request)),
    ]  # fmt: skip
