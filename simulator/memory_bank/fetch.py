"""What the blocks of a context take to come to the model: from a drive, from host memory, or from where it runs.

Blocks are read in whole sectors and requests, many at once, by the drive engine; the wires to the processor carry
them beside the reading. Which blocks are missing is one of few patterns (each level hit or missed); each pattern is
read at a few random places and its time is their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.system import System
from simulator.flash.drive import drive_of
from simulator.flash.engine import DriveRun, RunOptions
from simulator.vector_search.drives import FILLED, sized_down
from workloads.block_trace.trace import READ, BlockRequests
from workloads.memory_bank import HierarchicalBank

__all__ = ["Fetcher", "Route", "route_of"]

Ints = npt.NDArray[np.int64]
SAMPLES = 4
"""Random places at which a pattern is read."""


@dataclass(frozen=True, slots=True)
class Route:
    """From where a bank lies to the ``worker`` that uses it. ``wire_bytes_per_s``: of the narrowest wire."""

    source: str
    worker: str
    wire_bytes_per_s: float
    wire_latency_s: float
    worker_bytes_per_s: float
    """Of the worker's memory."""


def route_of(bank: HierarchicalBank, system: System, drives: int) -> Route:
    """Where the bank lies and how it comes to the first GPU, or to the first CPU where there is none.

    Raises ``InfeasibleError`` where the bank, or the model and its cache, do not fit; ``InputError`` where the
    machine has no such place.
    """
    workers = [node for kind in ("gpu", "cpu") for node in system.of_kind(kind) if node.memory is not None]
    if not workers:
        raise bad_input(f"{system.name!r} has no GPU or CPU with a memory", path="--hw")
    worker = workers[0]
    near = str(worker.memory)
    source = near
    if bank.place == "drive":
        nodes = system.of_kind("flash", "csd")
        if not nodes:
            raise bad_input(f"{system.name!r} has no drive for the bank", path="--hw")
        source = nodes[0].name
    elif bank.place == "memory":
        hosts = [str(node.memory) for node in system.of_kind("cpu") if node.memory is not None]
        if not hosts:
            raise bad_input(f"{system.name!r} has no host memory for the bank", path="--hw")
        source = hosts[0]
    _fits(bank, system, source, near, drives)
    wires = (
        [system.wires[name].link for name, _ in system.route(source, worker.name)] if source != near else []
    )
    # Each drive has its own first wire; those behind it are shared.
    lanes = [drives if bank.place == "drive" and number == 0 else 1 for number in range(len(wires))]
    narrowest = min(
        (wire.bandwidth * lane for wire, lane in zip(wires, lanes, strict=True)), default=float("inf")
    )
    latency, own = sum(wire.latency for wire in wires), system.memories[near].read_bandwidth
    return Route(source, worker.name, narrowest, latency, own)


def _fits(bank: HierarchicalBank, system: System, source: str, near: str, drives: int) -> None:
    anchor = -(-bank.bank_bytes * bank.anchor_parameters // bank.bank_parameters)
    beside = anchor + max(int(bank.cache), bank.context_bytes if bank.place != "gpu" else 0)
    room, needed = dict.fromkeys((source, near), 0), {}
    for name in room:
        room[name] = system.memories[name].usable_bytes * (
            drives if bank.place == "drive" and name == source else 1
        )
    needed[near] = beside
    needed[source] = needed.get(source, 0) + bank.bank_bytes
    for name, asked in needed.items():
        if asked > room[name]:
            raise InfeasibleError(
                f"{bank.name}: {asked} bytes do not fit the {room[name]} bytes of {name!r}; "
                f"{asked - room[name]} bytes are too many"
            )


class Fetcher:
    """Tells how long missed blocks take to come; the drive is written full once and read again and again."""

    def __init__(self, bank: HierarchicalBank, system: System, route: Route, drives: int, seed: int) -> None:
        self._bank, self._route, self._drives = bank, route, drives
        self._random = np.random.default_rng(seed)
        self._known: dict[tuple[bool, ...], float] = {}
        self._run: DriveRun | None = None
        if bank.place == "drive":
            device = system.node(route.source).device
            assert isinstance(device, Flash | ComputationalStorage)
            options = RunOptions(outstanding=bank.outstanding, history=FILLED, seed=seed)
            self._run = DriveRun.begin(sized_down(drive_of(device)), options, int(bank.request))

    def seconds(self, missed: tuple[bool, ...]) -> float:
        """Seconds until the missed blocks are there; 0 where none is missed or the bank lies with the model."""
        if missed not in self._known:
            levels = zip(self._bank.levels, missed, strict=True)
            self._known[missed] = self._fetch(
                [self._bank.block_bytes(level) for level, miss in levels if miss]
            )
        return self._known[missed]

    def _fetch(self, sizes: list[int]) -> float:
        total = sum(sizes)
        if not total or self._bank.place == "gpu":
            return 0.0
        wire = total / self._route.wire_bytes_per_s
        read = (
            0.0
            if self._run is None
            else float(np.mean([self._read(self._run, sizes) for _ in range(SAMPLES)]))
        )
        return max(read, wire) + self._route.wire_latency_s

    def _read(self, run: DriveRun, sizes: list[int]) -> float:
        """Seconds of the drive that has most to do."""
        address, size = _requests(self._bank, sizes, self._drives, run.drive.capacity_bytes, self._random)
        began = int(run.state.record.now)
        run.feed(BlockRequests(np.full(len(address), READ), address, size, size[:0]), final=True)
        return (int(run.state.record.last_done) - began) * 1e-9


def _requests(
    bank: HierarchicalBank, sizes: list[int], drives: int, capacity: int, random: np.random.Generator
) -> tuple[Ints, Ints]:
    """Reads of the drive with the most to do: blocks at random places, dealt out request by request."""
    sector, request = 4096, int(bank.request)
    addresses, lengths = [], []
    for size in sizes:
        whole = ceil(size / sector) * sector
        mine = ceil(ceil(whole / request) / drives)
        length = min(mine * request, whole)
        start = int(random.random() * ((capacity - length) // sector)) * sector
        offsets = np.arange(0, length, request)
        addresses.append(start + offsets)
        lengths.append(np.minimum(request, length - offsets))
    return np.concatenate(addresses).astype(np.int64), np.concatenate(lengths).astype(np.int64)
