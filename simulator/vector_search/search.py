"""Searches of an index on a machine: what fits where, queries in flight, and the answer's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import numpy as np
import numpy.typing as npt

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.system import System
from simulator.flash.drive import Drive, drive_of
from simulator.vector_search.drives import DriveArray, Submission, sized_down
from simulator.vector_search.footprint import Footprint, footprint
from simulator.vector_search.processor import Processor, cpu_processor, gpu_processor
from simulator.vector_search.queries import Load, QueryTimes, run_queries
from simulator.vector_search.result import LoadPoint, SearchResult, point_of
from simulator.vector_search.work import Round, query_rounds
from workloads.vector_index import PostingLists, VectorIndex

__all__ = ["Machine", "SearchOptions", "machine_of", "simulate_search"]

Ints = npt.NDArray[np.int64]
MOST_READS = 2_000_000
"""Reads of one run."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """``queries`` are answered, ``in_flight`` at a time; ``levels`` are further numbers in flight, for a sweep."""

    queries: int = 200
    in_flight: int = 1
    seed: int = 1
    levels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Machine:
    """Where an index lies and what searches it; ``system`` is None for drives alone, whose distances take no time."""

    name: str
    system: System | None
    device: Flash | ComputationalStorage | None
    drives: int

    @cached_property
    def drive(self) -> Drive:
        """The inside of its drives; asked for only where an index lies on them."""
        if self.device is None:
            raise bad_input(f"{self.name!r} has no drive for what the index keeps there", path="--hw")
        return drive_of(self.device)

    def memory_bytes(self) -> int | None:
        """What the CPUs' memories hold; None where nothing is known of them."""
        if self.system is None:
            return None
        names = {str(node.memory) for node in self.system.of_kind("cpu") if node.memory is not None}
        return sum(self.system.memories[name].usable_bytes for name in names) if names else None

    def gpu_bytes(self) -> int | None:
        """What the first GPU's memory holds."""
        nodes = [] if self.system is None else self.system.of_kind("gpu")
        names = [str(node.memory) for node in nodes if node.memory is not None]
        return self.system.memories[names[0]].usable_bytes if self.system is not None and names else None

    def drive_bytes(self) -> int:
        """What all drives hold."""
        return self.drive.capacity_bytes * self.drives


def machine_of(system: System, drives: int | None) -> Machine:
    """The machine of a system or of one drive; ``drives`` instead of the system's own number."""
    nodes = system.of_kind("flash", "csd")
    if drives is not None and drives > 0 and not nodes:
        raise bad_input(f"{system.name!r} has no drive", path="--drives")
    device = nodes[0].device if nodes else None
    assert device is None or isinstance(device, Flash | ComputationalStorage)
    count = len([node for node in nodes if node.group == nodes[0].group]) if drives is None else drives
    alone = bool(nodes) and len(system.nodes) == 1
    return Machine(system.name, None if alone else system, device, count)


def simulate_search(index: VectorIndex, machine: Machine, options: SearchOptions) -> SearchResult:
    """Answer queries on a machine.

    Raises ``InfeasibleError`` where a part does not fit, ``InputError`` where the machine lacks what the index needs.
    """
    parts, rounds = footprint(index), query_rounds(index)
    _fits(index, parts, machine)
    levels = options.levels or (options.in_flight,)
    points = [_point(index, rounds, machine, replace(options, in_flight=level)) for level in levels]
    reads = [read for one in rounds for read in one.reads]
    return SearchResult(
        index=index.name, kind=index.kind, machine=machine.name, drives=machine.drives if reads else 0,
        stated_recall=index.stated_recall, footprint=parts, rounds=rounds,
        points=tuple(points), seed=options.seed,
    )  # fmt: skip


def _fits(index: VectorIndex, parts: Footprint, machine: Machine) -> None:
    places = (
        ("memory", machine.memory_bytes(), "the machine's memory"),
        ("gpu", machine.gpu_bytes() if machine.system is not None else 0, "the GPU's memory"),
        (
            "drive",
            machine.drive_bytes() if parts.bytes_at("drive") else 0,
            f"{machine.drives} drive{'s' if machine.drives != 1 else ''}",
        ),
    )
    for place, room, words in places:
        needed = parts.bytes_at(place)  # type: ignore[arg-type]
        if room is not None and needed > room:
            raise InfeasibleError(
                f"{index.name}: {needed} bytes do not fit the {room} bytes of {words} of {machine.name}; "
                f"{needed - room} bytes are too many"
            )


def _processor(index: VectorIndex, machine: Machine, in_flight: int) -> Processor | None:
    if machine.system is None:
        return None
    element = "fp32" if index.kind == "ivf" and index.code_bytes is not None else index.element
    found = (
        gpu_processor(machine.system, element)
        if index.compute == "gpu"
        else cpu_processor(machine.system, element, in_flight)
    )
    if found is None:
        raise bad_input(
            f"{machine.name!r} has no {index.compute.upper()} to work out distances on", path="--hw"
        )
    return found


def _point(
    index: VectorIndex, rounds: Sequence[Round], machine: Machine, options: SearchOptions
) -> LoadPoint:
    processor = _processor(index, machine, options.in_flight)
    work = [ceil(processor.seconds(one.work) * 1e9) if processor is not None else 0 for one in rounds]
    servers = processor.servers if processor is not None else options.in_flight
    asked = _Asked(index, rounds, machine, options)
    largest = max((read.size for one in rounds for read in one.reads), default=0)
    array = None
    if largest:
        array = DriveArray(asked.drive, machine.drives, largest, options.seed)
    load = Load(options.queries, options.in_flight, servers, work, asked.reads)
    times: QueryTimes = run_queries(load, array)
    return point_of(options.in_flight, times, servers if processor else 0, array, asked.wanted_bytes)


class _Asked:
    """The reads of every query, drawn once: at random sectors of random drives."""

    def __init__(
        self, index: VectorIndex, rounds: Sequence[Round], machine: Machine, options: SearchOptions
    ) -> None:
        sizes = [np.repeat([r.size for r in one.reads], [r.count for r in one.reads]) for one in rounds[:-1]]
        per_query = sum(part.size for part in sizes)
        if per_query * options.queries > MOST_READS:
            raise bad_input(
                f"{per_query} reads of each of {options.queries} queries are more than {MOST_READS} of a run",
                path="--queries",
            )
        self._starts = np.concatenate(([0], np.cumsum([part.size for part in sizes]))).astype(int)
        random = np.random.default_rng(options.seed)
        shape = (options.queries, per_query)
        wanted = [r.wanted * r.count for one in rounds for r in one.reads]
        self.wanted_bytes = sum(wanted) * options.queries
        sector = index.sector_bytes
        self._size = np.tile(np.concatenate([np.zeros(0, np.int64), *sizes]).astype(np.int64), (shape[0], 1))
        if isinstance(index, PostingLists) and index.length_variation:
            self._size = _varied(index, random, shape)
        if per_query:
            self.drive = sized_down(machine.drive)
            room = (self.drive.capacity_bytes - self._size) // sector
            self._address = (random.random(shape) * room).astype(np.int64) * sector
            self._which = random.integers(0, machine.drives, shape)

    def reads(self, query: int, number: int, now: int) -> Submission:
        """What a query asks in a round."""
        part = slice(self._starts[number], self._starts[number + 1])
        return Submission(
            now, query, self._which[query, part], self._address[query, part], self._size[query, part]
        )


def _varied(index: PostingLists, random: np.random.Generator, shape: tuple[int, int]) -> Ints:
    """Bytes of lists whose lengths are gamma-distributed about the mean, cut at the limit, in whole sectors."""
    alpha = index.length_variation**-2
    entries = random.gamma(alpha, index.mean_entries / alpha, shape)
    size = np.clip(np.rint(entries), 1, index.most_entries) * index.entry_bytes
    return (np.ceil(size / index.sector_bytes) * index.sector_bytes).astype(np.int64)
