"""Rows of host memory to a GPU, four ways: gathered by the CPU and copied, zero-copy, by page migration, or all there.

Every way gives seconds for the rows of one batch and the bytes over each boundary. What several GPUs share they get an
even part of: wires, host memory, the CPU's cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input, nearest
from simulator.cost.by_device import BY_DEVICE
from simulator.gather.machine import CACHE_LINE, GatherMachine
from simulator.gather.packets import PacketRule, Packets, count_packets, zero_copy_rate
from simulator.gather.table import PAGE, FeatureTable
from workloads.graph import Operator
from workloads.operators import Gather

__all__ = ["PATHS", "Demand", "PathOptions", "Transfer", "demand_of", "gpu_rows_seconds", "transfer"]

Path = Literal["cpu", "zero-copy", "uvm", "gpu"]
PATHS: Final = get_args(Path)
FAULTS_AT_ONCE: Final = 256
"""Faults that the driver takes at a time (Allen, Ge: In-depth analyses of unified virtual memory, SC'21)."""
FAULT_BATCH_S: Final = 30e-6
"""Host time of such a batch beside the migration: 20 to 50 us (Zheng et al., HPCA 2016)."""
COPY_LAUNCH_S: Final = 10e-6
"""Start of one copy by the driver: an assumption; data sheets do not say."""


@dataclass(frozen=True, slots=True)
class PathOptions:
    """How rows travel. ``threads``: of the CPU's gather, None takes every core (its share with several GPUs).

    ``pinned``: the staging buffer is page-locked; else the driver copies it once more, with one thread.
    ``uvm_bytes``: GPU memory for migrated pages.
    """

    path: Path = "cpu"
    threads: int | None = None
    pinned: bool = True
    packets: PacketRule = field(default_factory=PacketRule)
    uvm_bytes: int = 0

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise bad_input(
                f"found {self.path!r}; known: {', '.join(PATHS)}",
                path="--path",
                suggestion=nearest(self.path, PATHS),
            )
        if self.threads is not None and not 1 <= self.threads <= 4096:
            raise bad_input(f"found {self.threads}; expected 1 to 4096", path="--threads")


@dataclass(frozen=True, slots=True)
class Demand:
    """What rows of one batch ask of a path: their number, cache lines of 64 bytes, requests, and pages to migrate.

    At full size, where a scaled graph was sampled: whole numbers only where nothing was scaled.
    """

    rows: float
    lines: float
    packets: Packets
    misses: float = 0.0

    def times(self, factor: float) -> Demand:
        """So many times as much of everything."""
        return Demand(
            self.rows * factor, self.lines * factor, self.packets.times(factor), self.misses * factor
        )


def demand_of(table: FeatureTable, rows: npt.NDArray[np.int64], rule: PacketRule, misses: int = 0) -> Demand:
    """The demand of some rows, counted exactly; ``misses``: pages that are to be migrated."""
    start = table.base + rows * table.row_bytes
    lines = (start + table.row_bytes - 1) // CACHE_LINE - start // CACHE_LINE + 1
    return Demand(float(rows.size), float(lines.sum()), count_packets(table, rows, rule), float(misses))


@dataclass(frozen=True, slots=True)
class Transfer:
    """One batch's rows: seconds, bytes, and who works.

    ``gather_s`` is the CPU's part before the copy and keeps ``busy_cores`` at work; ``copy_s`` is the wire's.
    ``host_bytes`` cross host memory, ``wire_bytes`` the link (headers of requests included), ``useful_bytes`` are the
    rows' own.
    """

    gather_s: float
    copy_s: float
    useful_bytes: float
    host_bytes: float
    wire_bytes: float
    requests: float
    core_s: float
    bound_by: str
    payload_bytes: float = 0.0
    """Of zero-copy requests, headers excluded."""

    @property
    def seconds(self) -> float:
        """Both parts one after the other."""
        return self.gather_s + self.copy_s


def transfer(machine: GatherMachine, table: FeatureTable, demand: Demand, options: PathOptions) -> Transfer:
    """What bringing a batch's rows to the GPU takes."""
    if not demand.rows:
        return Transfer(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, "nothing")
    if options.path == "cpu":
        return _by_cpu(machine, table, demand, options)
    return _BY_GPU[options.path](machine, table, demand)


def _by_cpu(machine: GatherMachine, table: FeatureTable, demand: Demand, options: PathOptions) -> Transfer:
    """Read rows, write them side by side, copy them: three passes over host memory, two more where not pinned.

    The driver copies pageable memory piece by piece through two page-locked buffers: one is filled by one core while
    the other is on the wire.
    """
    moved, touched = demand.rows * table.row_bytes, demand.lines * CACHE_LINE
    memory, cores = machine.host_memory, machine.processor.cores
    threads = min(options.threads or cores, cores) / machine.sharers
    linear = memory.write_bandwidth / machine.sharers
    bus = touched * machine.sharers / machine.host_row_bandwidth + moved / linear
    waiting = touched / (threads * machine.core_bandwidth)
    gather = max(bus, waiting)
    staged, passes = 0.0, 3
    if not options.pinned:
        staged, passes = max(moved / machine.core_bandwidth, 2 * moved / linear), 5
    wire = moved / min(machine.pcie.bandwidth * machine.link_share, linear)
    parts = {"host memory": bus, "CPU threads": waiting, "staging copy": staged, "link": wire}
    return Transfer(
        gather, COPY_LAUNCH_S + max(staged, wire), moved, touched + (passes - 1) * moved, moved, 1.0,
        threads * gather + staged, max(parts, key=lambda part: parts[part]),
    )  # fmt: skip


def _zero_copy(machine: GatherMachine, table: FeatureTable, demand: Demand) -> Transfer:
    packets = demand.packets
    reached, bound = zero_copy_rate(machine.pcie, packets, machine.round_trip_s)
    host = machine.host_row_bandwidth / machine.sharers
    if reached * machine.link_share > host:
        bound = "host memory"
    seconds = machine.round_trip_s + packets.payload_bytes / min(reached * machine.link_share, host)
    return Transfer(
        0.0, seconds, demand.rows * table.row_bytes, packets.payload_bytes, packets.wire_bytes, packets.requests, 0.0,
        bound, packets.payload_bytes,
    )  # fmt: skip


def _migration(machine: GatherMachine, table: FeatureTable, demand: Demand) -> Transfer:
    """Pages of 4 KiB, faults by batches of 256, each batch's migration behind its handling; then a gather on board."""
    moved = demand.misses * PAGE
    handling = math.ceil(demand.misses / FAULTS_AT_ONCE) * FAULT_BATCH_S
    host = machine.host_memory.read_bandwidth / machine.sharers
    wire = moved / min(machine.pcie.bandwidth * machine.link_share, host)
    local = gpu_rows_seconds(machine, demand.rows, table.row_bytes)
    return Transfer(
        0.0, handling + wire + local, demand.rows * table.row_bytes, moved, moved, demand.misses, handling,
        "faults" if handling > wire else "link",
    )  # fmt: skip


def _in_gpu(machine: GatherMachine, table: FeatureTable, demand: Demand) -> Transfer:
    seconds = gpu_rows_seconds(machine, demand.rows, table.row_bytes)
    return Transfer(0.0, seconds, demand.rows * table.row_bytes, 0.0, 0.0, 0.0, 0.0, "GPU memory")


_BY_GPU: Final[dict[str, Callable[[GatherMachine, FeatureTable, Demand], Transfer]]] = {
    "zero-copy": _zero_copy, "uvm": _migration, "gpu": _in_gpu,
}  # fmt: skip


def gpu_rows_seconds(machine: GatherMachine, rows: float, row_bytes: int) -> float:
    """Seconds in which the GPU gathers rows within its own memory, by its cost model."""
    if rows <= 0:
        return 0.0
    elements = -(-row_bytes // 4)
    count = max(1, round(rows))
    work = Gather(m=count, n=elements)
    moved = count * row_bytes
    operator = Operator("gather", work, ("table",), ("rows",), dtype="fp32", reads=(moved,), writes=(moved,))
    cost = BY_DEVICE.cost(operator, machine.gpu, machine.gpu_memory)
    return cost.seconds + cost.launch_seconds
