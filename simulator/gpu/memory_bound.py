"""Operators that move bytes: norms, softmax, activations, rotary, elementwise, gather, embedding, copy, top-k.

Bytes in flight decide as much as the memory does. A multiprocessor holds up to 2,048 threads; each waits for
the vector it has asked for, so the rate is at most threads x vector bytes x unroll / latency (Little's law).
Kernels that read one 16-bit element per thread stay at a third of the DRAM rate for that reason alone, and
kernels whose rows are handled by one thread block each pay a latency per row and pass; a block takes several rows
where they are narrow, unless its library gives each a block of its own. What an operator class
asks for per multiprocessor, its passes and its row latency are the implementation's; which implementation
ran is an attribute (``style``): kernels with one element per thread, or vectorised ones.

An input that the operator before has just written is read from the L2 as far as it fits there, and so is
the output written: the share that hits falls linearly with the footprint.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled

__all__ = ["CLASSES", "COLUMNS", "CONSTANTS", "memory_bound_rows"]

Array = NDArray[np.float64]
CLASSES: Final = ("norm", "softmax", "elementwise", "gated", "rotary", "lookup", "quantize")
COLUMNS: Final = (
    "rows", "columns", "reads", "writes", "element_bytes", "sms", "clock", "bandwidth", "l2", "previous",
    "row_sync", "l2_bytes_per_clock", "flops", "flop_rate",
)  # fmt: skip
"""Inputs of a row. ``reads`` and ``writes``: elements read and written per element of the shape.
``previous``: 1 where the operator before left its output in the L2. ``row_sync``: 1 where a thread block
reduces over a row. ``flops`` and ``flop_rate``: arithmetic on the vector lanes, and what they do in a cycle."""
ROWS, COLS, READS, WRITES, EB, SMS, CLK, BW, L2, PREV, ROW, L2CLK, FLOPS, FRATE = range(14)
CONSTANTS: Final = (
    "in_flight_kib",
    "latency_us",
    "row_us",
    "keep",
    "l2_share",
    "access",
    "exit_us",
    "kept",
    "packed_kib",
)
FLIGHT, LAT, ROWUS, KEEP, L2SHARE, ACCESS, EXIT, KEPT, PACKED = range(9)
ROWS_AT_ONCE: Final = 2.0
ROWS_OF_A_BLOCK: Final = 32.0
"""Warps of a thread block of 1,024 threads: a row takes one at the least."""
RESULTS: Final = 3


@compiled
def memory_bound_rows(rows: Array, constants: Array, out: Array) -> None:
    """Price each row (:data:`COLUMNS`) with its own constants (one line of ``constants`` per row).

    Writes (seconds, bound, DRAM bytes). Bound: 0 compute, 1 memory, 2 l2, 3 latency. Kernel time without any launch.
    """
    for r in range(rows.shape[0]):
        f, x = rows[r], constants[r]
        elements = f[ROWS] * f[COLS]
        row_bytes = f[COLS] * f[EB]
        read, written = elements * f[READS] * f[EB], elements * f[WRITES] * f[EB]
        # A row that the reducing thread block cannot keep in its multiprocessor is read a second time.
        again = 0.0
        if f[ROW] > 0:
            kept = x[KEPT] * 1024.0
            again = read * min(1.0, max(0.0, row_bytes / kept - 1.0)) * x[KEEP]
        total = read + written + again
        hit = 0.0
        if f[PREV] > 0:
            l2 = f[L2] * x[L2SHARE]
            hit = 1.0 - min(1.0, max(0.0, (read + written) / l2 - 1.0))
        busy = min(f[SMS], max(1.0, total / 16384.0))
        flight_rate = busy * x[FLIGHT] * 1024.0 / (x[LAT] * 1e-6)
        dram = total * (1 - hit) / (f[BW] * x[ACCESS])
        l2_time = total / (f[SMS] * f[CLK] * f[L2CLK])
        flight = (read + again) / flight_rate
        latency = 0.0
        if f[ROW] > 0:
            # Narrow rows share a thread block, as many as it has bytes for, up to a warp each.
            together = max(1.0, min(ROWS_OF_A_BLOCK, x[PACKED] * 1024.0 / row_bytes))
            latency = (
                np.ceil(f[ROWS] / (f[SMS] * ROWS_AT_ONCE * together)) * x[ROWUS] * 1e-6 * (1.3e9 / f[CLK])
            )
        arithmetic = f[FLOPS] / (f[FRATE] * f[SMS] * f[CLK])
        moved = max(max(dram, arithmetic), max(l2_time, flight))
        p = 4.0
        out[r, 0] = (moved**p + latency**p) ** (1 / p) + x[EXIT] * 1e-6
        out[r, 1] = (
            3.0 if latency > moved or flight >= max(dram, l2_time) else (1.0 if dram >= l2_time else 2.0)
        )
        if arithmetic >= moved and arithmetic > latency:
            out[r, 1] = 0.0
        out[r, 2] = total * (1 - hit)
