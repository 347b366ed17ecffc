"""An epoch of mini-batches: sample, read, transfer, train, as a pipeline; every count from the batches themselves.

A graph may be a scaled-down one. Then batches were scaled with it, so that a batch touches the same share of the table
as at full size; counts of a batch are multiplied by ``per_batch`` before they are priced, caches were made smaller by
as much, and the epoch's sums by ``epoch_share`` where not all batches ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.problems import PhysicsError, bad_input
from simulator.gather.machine import GatherMachine
from simulator.gather.packets import Packets
from simulator.gather.paths import Demand, PathOptions, Transfer, demand_of, gpu_rows_seconds, transfer
from simulator.gather.pipeline import run_pipeline
from simulator.gather.reads import DriveReads, ReadTime, read_time
from simulator.gather.result import Energy, GatherResult, Stages
from simulator.gather.stores import StoreOptions, StorePlan, page_misses, plan_store
from simulator.gather.table import PAGE, FeatureTable
from simulator.gather.training import GraphModel, TrainingCost, training_cost
from workloads.graph_data.batches import BatchTrace, LayerSizes

__all__ = ["EpochSetup", "run_epoch"]

Floats = npt.NDArray[np.float64]
MISSES_PER_EDGE: Final = 2
"""Cache misses that sampling an edge waits for: the neighbour's number, and its entry among the unique nodes. An
assumption; with 90 ns of memory latency a core samples 5.6 million edges a second."""
MOST_PRICED: Final = 9
"""Batches whose training is priced operator by operator; the others lie between them by their edges."""
DEFAULT_DEPTH: Final = 32


@dataclass(frozen=True)
class EpochSetup:
    """What an epoch runs on and how.

    ``queue``: batches that may wait between stages (0: no overlap); ``overlap`` ``sampling``: only sampling runs ahead,
    as with DGL's worker processes, the other stages one after another. ``sampling``: on the CPU in the pipeline, or
    ``before`` the epoch. ``queue_depth``: reads in flight; None: one blocking read a core where rows are missed one by
    one, else 32. ``copy_share``: of the GPU's multiprocessors, for zero-copy beside training.
    ``per_batch``: full size over scaled, for counts of one batch. ``batches``: of the whole epoch at full size.
    """

    machine: GatherMachine
    table: FeatureTable
    model: GraphModel
    path: PathOptions = field(default_factory=PathOptions)
    store: StoreOptions = field(default_factory=StoreOptions)
    queue: int = 2
    overlap: Literal["all", "sampling"] = "all"
    sampling: Literal["cpu", "before"] = "cpu"
    queue_depth: int | None = None
    copy_share: float = 0.1
    per_batch: float = 1.0
    batches: int | None = None
    name: str = "graph"

    def __post_init__(self) -> None:
        if self.overlap not in ("all", "sampling"):
            raise bad_input(f"found {self.overlap!r}; known: all, sampling", path="--overlap")
        if self.sampling not in ("cpu", "before"):
            raise bad_input(f"found {self.sampling!r}; known: cpu, before", path="--sampling")
        if not 0 <= self.copy_share < 1:
            raise bad_input(f"found {self.copy_share:g}; expected 0 to below 1", path="--copy-share")
        if not 0 < self.per_batch < 1e9:
            raise bad_input(f"found {self.per_batch:g}; expected above 0", path="per_batch")
        self._fits()

    def _fits(self) -> None:
        """Caches that the machine has room for, at full size."""
        held = self.table.bytes if self.path.path == "gpu" else self.store.gpu_cache + self.path.uvm_bytes
        room = self.machine.gpu_memory.usable_bytes
        if held * self.per_batch > room * 1.001:
            raise bad_input(
                f"{held * self.per_batch:.4g} bytes of rows do not fit the GPU's {room:.4g}",
                path="--gpu-cache",
            )
        if self.machine.host is not None and self.store.store != "host":
            room = self.machine.host_memory.usable_bytes
            if self.store.cpu_cache * self.per_batch > room * 1.001:
                raise bad_input(
                    f"{self.store.cpu_cache * self.per_batch:.4g} bytes do not fit host memory's {room:.4g}",
                    path="--cpu-cache",
                )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Rows:
    """What each batch moves: the way to the GPU, rows that the GPU's cache has, and pages that migrate."""

    transfers: list[Transfer]
    local_s: Floats
    demand: list[Demand] = field(default_factory=list)


def run_epoch(setup: EpochSetup, trace: BatchTrace, plan: StorePlan | None = None) -> GatherResult:
    """Run an epoch of the batches of a trace; ``plan``: of a partition buffer, else the store's own is made."""
    plan = plan_store(trace, setup.table, setup.store) if plan is None else plan
    if not trace.batches:
        raise bad_input("the epoch has no batches")
    share = (setup.batches or trace.batches) / trace.batches
    rows = _rows_of(setup, trace, plan)
    served = [
        read_time(setup.machine.flash, reads, _depth(setup)) if reads.count else None
        for reads in (plan.pages, plan.long)
    ]
    reading = _reading(setup, trace, plan, served) + _inspector(setup, plan, trace.batches)
    costs = _training(setup, trace.layers)
    times = np.column_stack([_sampling(setup, trace), reading, _moving(rows), costs[0] / _left(setup)])
    seconds = max(
        _gpu_seconds(setup, times[gpu :: setup.machine.sharers]) for gpu in range(setup.machine.sharers)
    )
    return _collected(setup, (trace, plan, rows), (seconds, times, share), (served, costs[1]))


def _gpu_seconds(setup: EpochSetup, times: Floats) -> float:
    """The epoch of one GPU, whose batches take these times."""
    if setup.overlap == "sampling":
        times = np.column_stack([times[:, 0], times[:, 1:].sum(axis=1)])
    run = run_pipeline(times, setup.queue)
    if run.seconds < float(times.sum(axis=0).max(initial=0.0)) * (1 - 1e-9):
        raise PhysicsError("an epoch is shorter than its slowest stage")
    return run.seconds


def _left(setup: EpochSetup) -> float:
    """Share of the GPU that trains while zero-copy kernels run beside it."""
    beside = setup.path.path == "zero-copy" and setup.queue > 0 and setup.overlap == "all"
    return 1 - setup.copy_share if beside else 1.0


def _depth(setup: EpochSetup) -> int:
    if setup.queue_depth is not None:
        return setup.queue_depth
    blocking = setup.store.store in ("belady-window", "page-cache")
    return setup.machine.processor.cores if blocking else DEFAULT_DEPTH


def _rows_of(setup: EpochSetup, trace: BatchTrace, plan: StorePlan) -> _Rows:
    factor, table = setup.per_batch, setup.table
    migrated = _migrated(setup, trace, plan)
    transfers, local = [], np.zeros(trace.batches)
    for batch in range(trace.batches):
        rows = trace.of(batch)
        level = plan.level[trace.offsets[batch] : trace.offsets[batch + 1]]
        away = rows[level > 0] if setup.path.path != "gpu" else rows
        demand = demand_of(table, away, setup.path.packets, int(migrated[batch])).times(factor)
        if (level > 1).any() and setup.path.path != "cpu":
            # Rows read of the drive lie side by side in a buffer, wherever they stood in the table.
            demand = _staged(demand, table, rows[level == 1], int((level > 1).sum()), setup)
        transfers.append(transfer(setup.machine, table, demand, setup.path))
        local[batch] = gpu_rows_seconds(setup.machine, (rows.size - away.size) * factor, table.row_bytes)
    return _Rows(transfers, local)


def _staged(
    demand: Demand, table: FeatureTable, hosted: npt.NDArray[np.int64], staged: int, setup: EpochSetup
) -> Demand:
    """Zero-copy of a batch whose rows of the drive were put side by side from an aligned address."""
    kept = demand_of(table, hosted, setup.path.packets)
    beside = demand_of(FeatureTable(max(staged, 1), table.row_bytes), np.arange(staged), setup.path.packets)
    packets = Packets(
        kept.packets.requests + beside.packets.requests,
        kept.packets.payload_bytes + beside.packets.payload_bytes,
    )
    return Demand(demand.rows, demand.lines, packets.times(setup.per_batch), demand.misses)


def _migrated(setup: EpochSetup, trace: BatchTrace, plan: StorePlan) -> npt.NDArray[np.int64]:
    if setup.path.path != "uvm":
        return np.zeros(trace.batches, np.int64)
    beyond = plan.level > 0
    batch = np.repeat(np.arange(trace.batches), np.diff(trace.offsets))[beyond]
    capacity = setup.path.uvm_bytes // PAGE
    return page_misses(trace.rows[beyond], batch, setup.table, capacity, trace.batches).by_batch


def _moving(rows: _Rows) -> Floats:
    return np.array([part.seconds for part in rows.transfers]) + rows.local_s


def _sampling(setup: EpochSetup, trace: BatchTrace) -> Floats:
    if setup.sampling == "before" or not trace.layers:
        return np.zeros(trace.batches)
    edges = np.array([sum(layer.edges for layer in layers) for layers in trace.layers]) * setup.per_batch
    machine = setup.machine
    cores = machine.processor.cores / machine.sharers
    return edges * MISSES_PER_EDGE * machine.host_memory.latency_s / cores


def _reading(
    setup: EpochSetup, trace: BatchTrace, plan: StorePlan, served: Sequence[ReadTime | None]
) -> Floats:
    """Seconds that each batch waits for the drive; several GPUs share it evenly."""
    total = np.zeros(trace.batches)
    for reads, time in zip((plan.pages, plan.long), served, strict=True):
        if time is not None:
            size = reads.bytes_by_batch(trace.batches) * setup.per_batch * setup.machine.sharers
            total += np.where(size > 0, time.idle_s + size / time.bandwidth, 0.0)
    return total


def _inspector(setup: EpochSetup, plan: StorePlan, batches: int) -> Floats:
    """What a store writes and reads back within an epoch, spread over its batches, at the drive's sequential rates."""
    made = plan.preparation
    if not made.every_epoch:
        return np.zeros(batches)
    store = setup.machine.flash.store
    seconds = made.read_bytes / store.read_bandwidth + made.written_bytes / store.write_bandwidth
    return np.full(batches, seconds * setup.per_batch / batches)


def _training(setup: EpochSetup, layers: Sequence[Sequence[LayerSizes]]) -> tuple[Floats, TrainingCost]:
    """Seconds of each batch's step, and the sums of all."""
    if not layers:
        return np.zeros(0), TrainingCost(0.0, 0.0, 0.0, 0)
    edges = np.array([sum(layer.edges for layer in found) for found in layers], float)
    order = np.argsort(edges, kind="stable")
    picked = np.unique(
        order[np.linspace(0, order.size - 1, min(MOST_PRICED, order.size)).round().astype(int)]
    )
    picked = picked[np.argsort(edges[picked], kind="stable")]
    priced = [
        training_cost(setup.machine, setup.model, _full(layers[index], setup.per_batch))
        for index in picked.tolist()
    ]
    at = edges[picked]
    seconds, joules, flops, moved = (
        np.interp(edges, at, [float(getattr(cost, name)) for cost in priced])
        for name in ("seconds", "energy_j", "flops", "bytes")
    )
    return seconds, TrainingCost(
        float(seconds.sum()), float(joules.sum()), float(flops.sum()), round(float(moved.sum()))
    )


def _full(layers: Sequence[LayerSizes], factor: float) -> list[LayerSizes]:
    return [
        LayerSizes(*(max(1, round(part * factor)) for part in (layer.targets, layer.sources, layer.edges)))
        for layer in layers
    ]


def _collected(
    setup: EpochSetup,
    what: tuple[BatchTrace, StorePlan, _Rows],
    ran: tuple[float, Floats, float],
    priced: tuple[Sequence[ReadTime | None], TrainingCost],
) -> GatherResult:
    (trace, plan, rows), (seconds, times, share), (served, cost) = what, ran, priced
    factor = setup.per_batch * share
    busy = times.sum(axis=0) * share
    hits = plan.by_level() * factor
    useful = trace.rows.size * setup.table.row_bytes * factor
    moved = {
        "drive to host": plan.read_bytes * factor,
        "host memory": sum(part.host_bytes for part in rows.transfers) * share + plan.read_bytes * factor,
        "host to GPU": sum(part.wire_bytes for part in rows.transfers) * share,
    }
    if plan.preparation.every_epoch:
        moved["inspector to drive"] = plan.preparation.written_bytes * setup.per_batch * share
    epoch_s = seconds * share
    return GatherResult(
        graph=setup.name, system=setup.machine.system.name, path=setup.path.path, store=plan.name,
        model=setup.model.model, batches=round(trace.batches * share), rows=trace.rows.size * factor,
        edges=sum(layer.edges for layers in trace.layers for layer in layers) * factor,
        epoch_s=epoch_s, stages=Stages(*(float(x) for x in busy)), bytes=moved, useful_bytes=useful,
        hits=dict(zip(("GPU cache", "host memory", "drive pages", "drive packed"), hits.tolist(), strict=True)),
        read_amplification=plan.amplification(setup.table),
        reads=(plan.pages.count + plan.long.count) * factor,
        requests=sum(part.requests for part in rows.transfers) * share,
        payload_bytes=sum(part.payload_bytes for part in rows.transfers) * share,
        bound_by=_bound(rows, times),
        energy=_energy(setup, epoch_s, (rows, busy, share), (plan, served, cost)),
        prepared_read_bytes=plan.preparation.read_bytes * setup.per_batch,
        prepared_written_bytes=plan.preparation.written_bytes * setup.per_batch,
        prepared_s=_prepared(setup, plan), disk_bytes=plan.disk_bytes * setup.per_batch,
        drive_rates={
            name: time.bandwidth for name, time in zip(("pages", "long reads"), served, strict=True) if time is not None
        },
        gpus=setup.machine.sharers, per_batch=setup.per_batch, epoch_share=share,
    )  # fmt: skip


def _prepared(setup: EpochSetup, plan: StorePlan) -> float:
    """Seconds of what is read and written once before the first epoch, at the drive's sequential rates."""
    made = plan.preparation
    if made.every_epoch or not (made.read_bytes or made.written_bytes):
        return 0.0
    store = setup.machine.flash.store
    return (
        made.read_bytes / store.read_bandwidth + made.written_bytes / store.write_bandwidth
    ) * setup.per_batch


def _bound(rows: _Rows, times: Floats) -> str:
    """The stage that takes most, and within transfers what binds most of them."""
    stage = int(times.sum(axis=0).argmax())
    name = ("sample", "read", "transfer", "train")[stage]
    if name != "transfer":
        return name
    bounds = [part.bound_by for part in rows.transfers]
    return f"transfer ({max(sorted(set(bounds)), key=bounds.count)})"


def _energy(
    setup: EpochSetup,
    epoch_s: float,
    moved: tuple[_Rows, Floats, float],
    priced: tuple[StorePlan, Sequence[ReadTime | None], TrainingCost],
) -> Energy:
    """Joules of the epoch: idle power of each part over its time, and what work adds to it, from the device files."""
    (rows, busy, share), (plan, served, cost) = moved, priced
    machine = setup.machine
    gpu_power = getattr(machine.gpu.device, "power", None)
    gpu = (
        gpu_power.idle * epoch_s * machine.sharers if gpu_power is not None else 0.0
    ) + cost.energy_j * share
    cpu = 0.0
    if machine.cpu is not None and (power := getattr(machine.cpu.device, "power", None)) is not None:
        cores = machine.processor.cores
        core_s = (
            float(busy[0]) * cores / machine.sharers + sum(part.core_s for part in rows.transfers) * share
        )
        cpu = power.idle * epoch_s + (power.tdp - power.idle) / cores * core_s
    host_bytes = (
        sum(part.host_bytes for part in rows.transfers) * share + plan.read_bytes * setup.per_batch * share
    )
    host = host_bytes * machine.host_memory.energy_per_byte_read_j if machine.host is not None else 0.0
    wire = sum(part.wire_bytes for part in rows.transfers) * share
    link = wire * machine.link.energy_per_byte if machine.link is not None else 0.0
    drive = 0.0
    for reads, time in zip((plan.pages, plan.long), served, strict=True):
        drive += _drive_joules(reads, time) * setup.per_batch * share
    if machine.drive is not None and (power := getattr(machine.drive.device, "power", None)) is not None:
        drive += power.idle * epoch_s
    return Energy(gpu, cpu, host, link, drive)


def _drive_joules(reads: DriveReads, time: ReadTime | None) -> float:
    return reads.bytes * time.energy_per_byte_j if time is not None else 0.0
