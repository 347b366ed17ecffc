"""What the kernel runs of a GPU's memory path: figures as integers, and the state behind them.

A line of a cache is one number: its line number, whether it persists, its dirty and its valid sectors. The ways of a
set stand side by side, the one used last first, so that a look at a set touches two lines of the simulating machine's
own cache. Line numbers are dealt out to the sets so that any run of as many lines as there are sets meets each set
once, and runs are turned against one another by a hash: hashed sets without unlucky strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.device import Gpu
from hw_configs.problems import bad_input
from hw_configs.units import format_quantity

__all__ = ["COUNTS", "Machine", "Options", "State", "Window", "build_machine", "new_state", "with_inverses"]

Ints = npt.NDArray[np.int64]

(LINE_SHIFT, SECTOR_SHIFT, SECTORS, SMS, L1_SETS, L1_WAYS, L1_LATENCY, WRITE_BACK, L2_SETS, L2_WAYS, L2_LATENCY,
 PARTITIONS, SLICES, MEMORY_LATENCY, PAGE_SHIFT, TLB_ENTRIES, TLB2_SETS, TLB2_WAYS, TLB_LATENCY, WALK_LATENCY,
 PERSIST_FIRST, PERSIST_LAST, PERSIST_WAYS, HOST, RECORDS) = range(25)  # fmt: skip
"""Entries of ``figure``. L2_SETS: of one partition; SLICES: of one partition; PERSIST_FIRST to PERSIST_LAST: lines of
the window; HOST: memory is the host's, which the L2 does not hold."""
VALID, DIRTY_SHIFT, KEPT, TAG_SHIFT = 15, 4, 256, 9
"""Of a line: valid sectors, dirty ones, whether it persists, its number."""

(LOADS, STORES, ATOMICS, LINES, L1_LOAD_SECTORS, L1_HIT_SECTORS, L1_HIT_LINES, L1_LOAD_LINES, L1_EVICTED,
 L2_READ_SECTORS, L2_HIT_SECTORS, L2_REQUESTS, L2_WRITE_SECTORS, L2_WRITE_HITS, L2_EVICTED, FAR_HIT_SECTORS, FILLED,
 READ_SECTORS, WRITTEN_SECTORS, TLB_LOOKS, TLB_MISSES, TLB2_MISSES, HOST_REQUESTS, HOST_BYTES, HOST_WRITES, BYTES_ASKED,
 PERSISTING_HITS, STORED_SECTORS) = range(28)  # fmt: skip
COUNTS: Final = 28
"""Entries of ``counts``: accesses by kind, then lines and sectors; FILLED: sectors read since a store covers a part
only."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a kernel meets the memory path.

    ``shared_bytes``: shared memory that it takes of each multiprocessor's unified cache. ``l1``: False sends loads
    past the L1 (as ``ld.global.cg`` does). ``outstanding``: sectors that a multiprocessor waits for, instead of the
    device's (1 for loads of which each waits for the one before). ``page``: bytes, instead of the device's.
    ``persist``: first address and bytes of a window whose lines stay in the L2 before others. ``host``: all data lies
    in host memory and is read over the link. ``records``: requests to memory are written out.
    """

    shared_bytes: int = 0
    l1: bool = True
    outstanding: int | None = None
    page: int | None = None
    persist: tuple[int, int] | None = None
    host: bool = False
    records: bool = False


class Machine(NamedTuple):
    """Figures (integers) of the memory path, and what one over each of them is, 0 for nothing."""

    figure: Ints
    inverse: npt.NDArray[np.float64]


def with_inverses(figure: Ints) -> Machine:
    """The machine of these figures."""
    return Machine(figure, np.divide(1.0, figure, out=np.zeros(figure.size), where=figure > 0))


class State(NamedTuple):
    """What changes: lines of the L1s and of the L2's partitions, pages of the first and second buffers, counters.

    In each set the way used last stands first; -1 is empty.
    """

    near: Ints
    behind: Ints
    page: Ints
    page2: Ints
    counts: Ints


class Window(NamedTuple):
    """What a stretch of the trace asked of each part, reset when the stretch has been timed.

    By multiprocessor: bytes of its L1, bytes on its path from and to the L2, clocks that its sectors wait in all. By
    slice: bytes of its port. ``memory``: bytes read and written.
    """

    l1_bytes: Ints
    path_bytes: Ints
    wait: Ints
    slice_bytes: Ints
    memory: Ints


@dataclass(frozen=True)
class Built:
    """A machine with the figures that its times follow from."""

    machine: Machine
    outstanding: int
    l1_bytes: int
    clock_hz: float
    l1_bytes_per_clock: int
    path_bytes_per_clock: int
    slice_bytes_per_clock: int


def build_machine(gpu: Gpu, options: Options, memory_latency_s: float) -> Built:
    """The figures of a GPU. Raises ``InputError`` for options that the device cannot have."""
    path = gpu.architecture.memory_path
    line, sector = int(path.line), int(path.sector)
    l1_bytes = int(gpu.l1_per_multiprocessor.size) - options.shared_bytes
    l1_sets = l1_bytes // (line * path.l1_ways) if options.l1 else 0
    if options.shared_bytes < 0 or (options.l1 and l1_sets < 1):
        whole = format_quantity(gpu.l1_per_multiprocessor.size, "size")
        raise bad_input(
            f"{options.shared_bytes} bytes of shared memory leave no L1 of the {whole} of a multiprocessor",
            path="--shared",
        )
    partitions = gpu.architecture.l2_partitions
    slices = max(1, round(gpu.l2.size / path.slice_size / partitions))
    sets = max(1, int(gpu.l2.size) // (partitions * line * path.l2_ways))
    page = options.page or int(path.page)
    if page & (page - 1) or not line <= page <= 2**34:
        raise bad_input(f"found {page} bytes; expected a power of two of {line} to 2^34", path="--page")
    outstanding = path.outstanding if options.outstanding is None else options.outstanding
    if not 1 <= outstanding <= 65536:
        raise bad_input(f"found {outstanding}; expected 1 to 65536", path="--outstanding")
    f = np.zeros(25, np.int64)
    f[LINE_SHIFT], f[SECTOR_SHIFT], f[SECTORS] = (
        line.bit_length() - 1,
        sector.bit_length() - 1,
        line // sector,
    )
    f[SMS], f[L1_SETS], f[L1_WAYS], f[L1_LATENCY] = (
        gpu.multiprocessors,
        l1_sets,
        path.l1_ways,
        path.l1_latency,
    )
    f[WRITE_BACK] = int(path.store == "back")
    f[L2_SETS], f[L2_WAYS], f[L2_LATENCY] = sets, path.l2_ways, path.l2_latency
    f[PARTITIONS], f[SLICES] = partitions, slices
    f[MEMORY_LATENCY] = max(round(memory_latency_s * gpu.clock), path.l2_latency + 1)
    f[PAGE_SHIFT], f[TLB_ENTRIES] = page.bit_length() - 1, path.tlb_entries
    f[TLB2_SETS], f[TLB2_WAYS] = path.l2_tlb_entries // path.l2_tlb_ways, path.l2_tlb_ways
    f[TLB_LATENCY], f[WALK_LATENCY] = path.tlb_latency, path.walk_latency
    f[PERSIST_FIRST], f[PERSIST_LAST] = 1, 0
    if options.persist is not None:
        first, size = options.persist
        if first < 0 or size < 1:
            raise bad_input(
                f"found {first}:{size}; expected an address and bytes of 1 or more", path="--persist"
            )
        f[PERSIST_FIRST], f[PERSIST_LAST] = first >> f[LINE_SHIFT], (first + size - 1) >> f[LINE_SHIFT]
    f[PERSIST_WAYS] = max(int(path.l2_ways * path.persisting), 1)
    f[HOST], f[RECORDS] = int(options.host), int(options.records)
    return Built(
        with_inverses(f), outstanding, l1_sets * path.l1_ways * line, gpu.clock, path.l1_bytes_per_clock,
        gpu.architecture.l2_bytes_per_clock, path.slice_bytes_per_clock,
    )  # fmt: skip


def new_state(machine: Machine) -> State:
    """Empty caches."""
    f = machine.figure
    sizes = (
        f[SMS] * f[L1_SETS] * f[L1_WAYS], f[PARTITIONS] * f[L2_SETS] * f[L2_WAYS], f[SMS] * f[TLB_ENTRIES],
        f[TLB2_SETS] * f[TLB2_WAYS],
    )  # fmt: skip
    near, behind, page, page2 = (np.full(int(size), -1, np.int64) for size in sizes)
    return State(near, behind, page, page2, np.zeros(COUNTS, np.int64))


def new_window(machine: Machine) -> Window:
    """Nothing asked yet."""
    f = machine.figure
    sms = int(f[SMS])
    return Window(
        np.zeros(sms, np.int64), np.zeros(sms, np.int64), np.zeros(sms, np.int64),
        np.zeros(int(f[PARTITIONS] * f[SLICES]), np.int64), np.zeros(2, np.int64),
    )  # fmt: skip
