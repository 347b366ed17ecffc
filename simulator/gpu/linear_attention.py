"""Linear attention and the short causal convolution before it, as engines' kernels run them on GPUs.

Prefill in chunks, two ways. *Fused* (FlashInfer on Hopper and Blackwell): one thread block per sequence and head walks
over the chunks one after another and keeps the state on its multiprocessor; sequences and heads are all the parallelism
there is, and a chunk costs its products on one multiprocessor's matrix unit and a latency. *Triton* (flash-linear-
attention, everywhere else): kernels in turn for the scores of a chunk, their inverse, corrected keys and values, the
states, which follow one another, and the results; everything between them passes through memory, the states of all
chunks too. Padding is computed: a chunk costs the same however few tokens it has.

Decode, token by token: the states are read and written once per token, and little else.

The convolution has a few taps per channel. Its kernel gives a thread block eight tokens of some channels, which it
takes one after another; above that its rate is what a multiprocessor's loads in flight allow, or the DRAM.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.gpu.power import within_power

__all__ = [
    "COLUMNS", "CONSTANTS", "CONVOLUTION_COLUMNS", "CONVOLUTION_CONSTANTS", "KERNELS", "linear_attention_rows",
    "short_convolution_rows",
]  # fmt: skip

Array = NDArray[np.float64]
KERNELS: Final = ("fused_hopper", "fused_blackwell", "triton")
"""Kernels of a prefill under whose names constants are fitted (``linear_attention`` of an architecture)."""
COLUMNS: Final = (
    "batch", "sequence", "heads", "state_elements", "token_bytes", "state_bytes", "chunk", "chunk_flops", "sms",
    "clock", "rate", "bandwidth", "l2", "l2_bytes_per_clock", "warm", "kernel", "tdp", "idle", "j_flop", "j_byte",
)  # fmt: skip
"""Inputs of a row. ``state_elements``: of one head's state; ``token_bytes``: of a token's operands and result over all
heads; ``state_bytes``: of one element of a state; ``chunk``: tokens taken at once, 1 for one after another;
``chunk_flops``: of one whole chunk of one head; ``warm``: whether the same operands were used just before."""
B, S, H, STATE, TOKEN, SB, CHUNK, FLOPS, SMS, CLK, RATE, BW, L2, L2RATE, WARM, KERNEL, TDP, IDLE, JF, JB = (
    range(20)
)
CONSTANTS: Final = (
    *(f"{name}_{kernel}" for name in ("fill_cycles", "step_cycles") for kernel in KERNELS),
    "matrix_share", "token_passes", "state_passes", "overlap", "decode_cycles", "l2_share", "access",
)  # fmt: skip
FILL, STEP = 0, len(KERNELS)
MATRIX, PASSES, STATES, OVERLAP, DECODE, L2SHARE, ACCESS = range(2 * len(KERNELS), 2 * len(KERNELS) + 7)
TRITON: Final = KERNELS.index("triton")
BLOCKS_AT_ONCE: Final = 4.0
"""Thread blocks of the Triton kernel of states on one multiprocessor: assumption."""
STORED_STATE_BYTES: Final = 2.0
"""Triton kernels write the states of chunks in 16 bits."""
CONVOLUTION_COLUMNS: Final = (
    "sequence", "read", "written", "sms", "clock", "bandwidth", "l2", "l2_bytes_per_clock", "warm",
)  # fmt: skip
"""Inputs of a row of short convolutions: tokens, bytes read and written, and figures of the GPU."""
CONVOLUTION_CONSTANTS: Final = ("token_cycles", "flight_gb_per_s", "l2_share", "access")
TOKENS_AT_ONCE: Final = 8.0
"""Tokens of a thread block of vLLM's ``causal_conv1d`` (BLOCK_M)."""
RESULTS: Final = 4


@compiled
def linear_attention_rows(rows: Array, constants: Array, out: Array) -> None:
    """Price each row (:data:`COLUMNS`); write (seconds, bound, DRAM bytes, 0) to ``out``.

    Bound: 0 compute, 1 memory, 3 latency. Seconds are kernel time without any launch.
    """
    x = constants
    for r in range(rows.shape[0]):
        f = rows[r]
        own = int(f[KERNEL])
        tokens, states = f[B] * f[S], f[B] * f[H]
        carried = 2.0 * states * f[STATE] * f[SB]
        moved = tokens * f[TOKEN] + carried
        chain, work, flops = 0.0, 0.0, 0.0
        if f[CHUNK] <= 1:
            chain = x[DECODE] * f[S] / f[CLK]
            flops = tokens * f[H] * f[FLOPS]
        else:
            chunks = np.ceil(f[S] / f[CHUNK])
            products = f[FLOPS] / (f[RATE] * x[MATRIX]) / f[CLK]
            fill = (x[FILL + own] + 2.0 * f[STATE] * f[SB] / f[L2RATE]) / f[CLK]
            step = x[STEP + own] / f[CLK]
            flops = states * chunks * f[FLOPS]
            if own == TRITON:
                chain = np.ceil(states / (f[SMS] * BLOCKS_AT_ONCE)) * (fill + chunks * step)
                work = states * chunks * products / f[SMS]
                moved += (x[PASSES] - 1.0) * tokens * f[TOKEN]
                moved += x[STATES] * states * chunks * f[STATE] * STORED_STATE_BYTES
            else:
                waves = np.ceil(states / f[SMS])
                chain = waves * (fill + chunks * step)
                work = waves * chunks * products
        hit = 0.0
        if f[WARM] > 0:
            hit = 1.0 - min(1.0, max(0.0, moved / (f[L2] * x[L2SHARE]) - 1.0))
        dram = moved * (1.0 - hit)
        memory = max(dram / (f[BW] * x[ACCESS]), moved / (f[SMS] * f[CLK] * f[L2RATE]))
        o = x[OVERLAP]
        seconds = ((chain + work) ** o + memory**o) ** (1.0 / o)
        out[r, 0] = within_power(seconds, flops * f[JF] + dram * f[JB], f[TDP] - f[IDLE])
        bound = 3.0
        if memory >= chain + work:
            bound = 1.0
        elif work >= chain:
            bound = 0.0
        out[r, 1] = bound
        out[r, 2] = dram
        out[r, 3] = 0.0


@compiled
def short_convolution_rows(rows: Array, constants: Array, out: Array) -> None:
    """Price each row (:data:`CONVOLUTION_COLUMNS`); write (seconds, bound, DRAM bytes, 0) to ``out``.

    Bound: 1 memory, 2 L2 or loads in flight, 3 latency. Seconds are kernel time without any launch.
    """
    token, flight, l2_share, access = constants[0], constants[1], constants[2], constants[3]
    for r in range(rows.shape[0]):
        sequence, read, written, sms, clock, bandwidth, l2, l2_rate, warm = rows[r]
        moved = read + written
        hit = 0.0
        if warm > 0:
            hit = 1.0 - min(1.0, max(0.0, moved / (l2 * l2_share) - 1.0))
        dram = moved * (1.0 - hit) / (bandwidth * access)
        near = max(read / (sms * flight * 1e9), moved / (sms * clock * l2_rate))
        latency = token * min(sequence, TOKENS_AT_ONCE) / clock
        stream = (dram**4 + near**4) ** 0.25
        out[r, 0] = latency + stream
        bound = 3.0
        if stream > latency:
            bound = 1.0 if dram >= near else 2.0
        out[r, 1] = bound
        out[r, 2] = moved * (1.0 - hit)
        out[r, 3] = 0.0
