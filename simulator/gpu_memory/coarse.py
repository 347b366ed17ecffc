"""An L2 alone in lines of 4 KiB: for kernels whose thread blocks ask for whole tiles, many tiles at a time.

What :mod:`simulator.gpu_memory.engine` does with sectors, at the grain of runs: hundreds of times fewer looks. A tile's
lines come and go together, so that the bytes read from memory differ little (a test holds the two against each other).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from simulator.gpu_memory import machine as at
from simulator.gpu_memory.kernel import PIECE_LINES, Out, run
from simulator.gpu_memory.machine import Machine, new_state, new_window, with_inverses
from simulator.gpu_memory.pieces import in_pieces
from workloads.gpu_trace.trace import MOST_SMS, GpuAccesses, GpuTrace

__all__ = ["LINE_BYTES", "coarse_machine", "read_bytes"]

LINE_BYTES: Final = 4096
WAYS: Final = 16
CHUNK: Final = 1 << 16


def coarse_machine(l2_bytes: float, partitions: int = 1, line_bytes: int = LINE_BYTES) -> Machine:
    """An L2 of so many bytes in all, without L1s, slices or misses of translation."""
    f = np.zeros(25, np.int64)
    shift = line_bytes.bit_length() - 1
    f[at.LINE_SHIFT] = f[at.SECTOR_SHIFT] = shift
    f[at.SECTORS], f[at.SMS], f[at.L2_WAYS] = 1, MOST_SMS, WAYS
    f[at.L2_SETS] = max(1, int(l2_bytes) // (partitions * line_bytes * WAYS))
    f[at.PARTITIONS], f[at.SLICES], f[at.PAGE_SHIFT] = partitions, 1, 60
    f[at.TLB_ENTRIES] = f[at.TLB2_SETS] = f[at.TLB2_WAYS] = 1
    f[at.PERSIST_FIRST], f[at.PERSIST_LAST], f[at.PERSIST_WAYS] = 1, 0, 1
    return with_inverses(f)


def read_bytes(trace: GpuTrace, l2_bytes: float, partitions: int = 1, line_bytes: int = LINE_BYTES) -> int:
    """Bytes that a trace's loads bring from memory into an L2 that is empty at first."""
    machine = coarse_machine(l2_bytes, partitions, line_bytes)
    state, window = new_state(machine), new_window(machine)
    none = Out(np.zeros(1, np.int64), np.zeros(1, np.uint8), np.zeros(1, np.int64))
    for accesses in trace.chunks(CHUNK):
        pieces = in_pieces([np.ascontiguousarray(part) for part in accesses], PIECE_LINES * line_bytes)
        run(machine, state, window, GpuAccesses(*pieces), 0, none)
    return int(state.counts[at.READ_SECTORS]) * line_bytes
