"""What a report shows beyond the result: placements, the critical path, the roofs, who moved which bytes.

A :class:`Record` watches a simulation (``simulate(..., watch=record.watch)``) and is written beside the
result as ``detail.json.gz``. Time is in seconds from the start of the run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from hw_configs.problems import OffchipError
from hw_configs.system import System
from simulator.cost.model import MATRIX_KINDS, peak_rate
from simulator.result import Result
from simulator.system.bound_plan import BoundPlan
from simulator.system.engine import PhaseRun
from workloads.graph import Graph

__all__ = ["MAX_PLACEMENTS", "Placement", "Record", "critical_path"]

MAX_PLACEMENTS: Final = 200_000
"""Placements kept; a longer run says how many it left out."""


@dataclass(slots=True)
class Placement:
    """One stay of a tensor in a memory. ``address`` is None where the plan fixes none."""

    memory: str
    tensor: str
    role: str
    size: int
    address: int | None
    start: float
    end: float


@dataclass
class Record:
    """Watches a run, phase by phase."""

    system: System
    placements: list[Placement] = field(default_factory=list)
    left_out: int = 0
    critical: list[int] = field(default_factory=list)
    """Indices into the timeline, in the order of time."""
    waited: list[int] = field(default_factory=list)
    """Tasks of the critical path that waited for room in a memory rather than for a task's data."""
    reads: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    """Bytes that compute tasks read, by memory and operator kind."""
    writes: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    compute_energy: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    """Joules by device and operator kind."""
    memory_energy: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    roofs: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """Peak operations per second by device and kind of arithmetic, of those the run used."""
    tasks: int = 0
    _open: dict[tuple[str, str], list[Placement]] = field(default_factory=dict)
    """Copies that are there now, by memory and tensor, oldest first: a copy may come before another goes."""

    def watch(self, graph: Graph, bound: BoundPlan, run: PhaseRun) -> None:
        """Note a phase; the function to hand to ``simulate``."""
        path, waited = critical_path(bound, run)
        self.critical += [self.tasks + index for index in path]
        self.waited += [self.tasks + index for index in waited]
        self.tasks += len(run.records)
        self._place(graph, bound, run)
        self._book(graph, run)

    def _place(self, graph: Graph, bound: BoundPlan, run: PhaseRun) -> None:
        addresses: dict[tuple[str, str], list[int | None]] = defaultdict(list)
        for copy in bound.copies:
            addresses[copy.tensor, copy.memory].append(copy.address)
        turn: dict[tuple[str, str], int] = defaultdict(int)
        before, self._open = self._open, {}
        for memory, entries in run.ledger.entries.items():
            for time_s, name, change in entries:
                key = (memory, name)
                if change > 0:
                    known = addresses[name, memory]
                    address = known[min(turn[key], len(known) - 1)]
                    turn[key] += 1
                    self._begin(before, key, graph.tensors[name].role.value, change, address, time_s)
                elif change < 0:
                    self._open[key].pop(0).end = time_s
        for stays in self._open.values():
            for stay in stays:
                stay.end = run.end

    def _begin(
        self,
        before: dict[tuple[str, str], list[Placement]],
        key: tuple[str, str],
        role: str,
        size: int,
        address: int | None,
        time_s: float,
    ) -> None:
        here = self._open.setdefault(key, [])
        earlier = before.get(key)
        if earlier and (earlier[0].size, earlier[0].address, earlier[0].end) == (size, address, time_s):
            # The same bytes stay where they are from one phase to the next.
            here.append(earlier.pop(0))
            return
        here.append(Placement(key[0], key[1], role, size, address, time_s, time_s))
        if len(self.placements) < MAX_PLACEMENTS:
            self.placements.append(here[-1])
        else:
            self.left_out += 1

    def _book(self, graph: Graph, run: PhaseRun) -> None:
        for record in run.records:
            cost, task = record.cost, record.task
            if cost is None:
                continue
            operator = graph.operator_by_name[task.operator]
            node = self.system.nodes[task.device]
            memory = node.memory or task.device
            self.reads[memory, operator.kind] += cost.read_bytes
            self.writes[memory, operator.kind] += cost.write_bytes
            self.compute_energy[task.device, operator.kind] += cost.compute_energy_j
            self.memory_energy[memory, operator.kind] += cost.memory_energy_j
            if operator.flops and node.compute is not None:
                unit = "matrix" if operator.kind in MATRIX_KINDS else "vector"
                label = f"{operator.dtype} {unit}"
                if label not in self.roofs[task.device]:
                    self.roofs[task.device][label] = peak_rate(node.compute, operator.kind, operator.dtype)

    def to_json(self, result: Result) -> dict[str, Any]:
        """Plain data: the timeline as columns, memory curves, and what was watched."""
        if self.tasks != len(result.timeline):
            raise OffchipError(f"the record saw {self.tasks} tasks and the result {len(result.timeline)}")
        system = self.system
        return {
            "placements": [
                [p.memory, p.tensor, p.role, p.size, p.address, p.start, p.end] for p in self.placements
            ],
            "placements_left_out": self.left_out,
            "critical": self.critical,
            "waited_for_memory": self.waited,
            "reads": [[*key, value] for key, value in self.reads.items()],
            "writes": [[*key, value] for key, value in self.writes.items()],
            "compute_energy": [[*key, value] for key, value in self.compute_energy.items()],
            "memory_energy": [[*key, value] for key, value in self.memory_energy.items()],
            "groups": {name: node.group for name, node in system.nodes.items()},
            "roofs": {
                device: {
                    "memory": (memory := system.nodes[device].memory or device),
                    "bandwidth": system.memories[memory].read_bandwidth,
                    "rates": rates,
                }
                for device, rates in self.roofs.items()
            },
        }


def critical_path(bound: BoundPlan, run: PhaseRun) -> tuple[list[int], list[int]]:
    """The chain of tasks that decides when a phase ends, in order of time, and which of them waited for room.

    Walks back from the task that ends last. What a task waited for is the latest to end among its data, the
    task before it in its stream, those on its device, and for a collective what the other ranks waited for.
    A task that starts later than all of these waited for room in a memory (or for its first bytes' latency);
    the chain then goes on with the task that ended last before it.
    """
    records = run.records
    before = _before(bound)
    by_end = sorted(range(len(records)), key=lambda i: records[i].end)
    ends = [records[i].end for i in by_end]
    slack = 1e-9 * (run.end - run.start)
    path: list[int] = []
    waited: list[int] = []
    seen: set[int] = set()
    here = by_end[-1] if by_end else -1
    while here >= 0:
        path.append(here)
        seen.add(here)
        start = records[here].start
        known = [i for i in before[here] if i not in seen and records[i].end <= start + slack]
        stream = records[here].task.stream
        chosen = max(known, key=lambda i: (records[i].end, records[i].task.stream == stream), default=-1)
        if start - run.start > slack and (chosen < 0 or records[chosen].end < start - slack):
            place = bisect_right(ends, start + slack) - 1
            while place >= 0 and by_end[place] in seen:
                place -= 1
            if place >= 0 and (chosen < 0 or ends[place] > records[chosen].end):
                waited.append(here)
                chosen = by_end[place]
        here = chosen
    return path[::-1], waited[::-1]


def _before(bound: BoundPlan) -> list[tuple[int, ...]]:
    """For every task those it may have waited for."""
    waits: list[dict[int, None]] = [dict.fromkeys(found) for found in bound.waits]
    for stream in bound.streams.values():
        for earlier, later in pairwise(stream):
            waits[later][earlier] = None
    on_device: dict[str, int] = {}
    for index, task in enumerate(bound.tasks):
        if task.kind == "compute":
            if task.device in on_device:
                waits[index][on_device[task.device]] = None
            on_device[task.device] = index
    for index, task in enumerate(bound.tasks):
        if task.kind == "collective":
            first = index - task.group.index(task.device)
            for rank in range(first, first + len(task.group)):
                waits[index].update(dict.fromkeys(bound.waits[rank]))
    for stream in bound.streams.values():
        for earlier, later in pairwise(stream):
            task = bound.tasks[later]
            if task.kind == "collective":
                first = later - task.group.index(task.device)
                for rank in range(first, first + len(task.group)):
                    waits[rank][earlier] = None
    return [tuple(found) for found in waits]
