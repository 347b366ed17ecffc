"""The closed-form run: the same program without contention.

Every task starts when its stream is free and what it waits for is done; a transfer has its path to itself.
That is exact where no two flows share a wire and no copy waits for memory, and a lower bound otherwise. It
needs no event queue, so it is what sweeps screen with.
"""

from __future__ import annotations

from hw_configs.system import System
from simulator.system.costs import CostTable
from simulator.system.engine import LEVERS, PhaseRun, TaskRecord
from simulator.system.memory import MemoryLedger, out_of_memory
from simulator.system.program import Program
from workloads.graph import Graph

__all__ = ["run_analytic"]


def run_analytic(
    graph: Graph, program: Program, system: System, costs: CostTable, start: float = 0.0
) -> PhaseRun:
    """Run a program from time ``start``; raises ``InfeasibleError`` when a memory is too small."""
    run = _Closed(graph, program, system, costs, start)
    for index in range(len(program.tasks)):
        run.place(index)
    return run.result()


class _Closed:
    def __init__(
        self, graph: Graph, program: Program, system: System, costs: CostTable, start: float
    ) -> None:
        self.graph, self.program, self.system, self.costs, self.start = graph, program, system, costs, start
        self.ends = [start] * len(program.tasks)
        self.stream_free: dict[str, float] = {}
        self.device_free: dict[str, float] = {}
        self.records: list[TaskRecord] = []
        self.carried: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.meetings: dict[tuple[str, tuple[str, ...]], list[int]] = {}

    def place(self, index: int) -> None:
        task = self.program.tasks[index]
        ready = max([self.start, *(self.ends[before] for before in self.program.waits[index])])
        ready = max(ready, self.stream_free.get(task.stream, self.start))
        if task.kind == "collective":
            self._meet(index, ready)
            return
        if task.kind == "compute":
            cost = self.costs.operator(self.graph.operator_by_name[task.operator], task.device)
            ready = max(ready, self.device_free.get(task.device, self.start))
            end = ready + cost.launch_seconds + cost.seconds
            self.device_free[task.device] = end
            self._record(index, TaskRecord(task, ready, end, cost))
        else:
            size = float(self.graph.tensors[task.tensor].size_bytes)
            path = self.costs.path(task.source, task.target)
            end = ready + path.latency_s + self._carry(path.resources, size)
            self._record(index, TaskRecord(task, ready, end, None, size, size))

    def _carry(self, resources: tuple[str, ...], size: float) -> float:
        seconds = size / min(self.costs.capacity[r] for r in resources) if resources else 0.0
        for resource in resources:
            self.carried[resource] = self.carried.get(resource, 0.0) + size
            self.busy[resource] = self.busy.get(resource, 0.0) + seconds
        return seconds

    def _record(self, index: int, record: TaskRecord) -> None:
        self.ends[index] = record.end
        self.stream_free[record.task.stream] = record.end
        self.records.append(record)

    def _meet(self, index: int, ready: float) -> None:
        """The last rank's entry in the list settles the collective for all of them."""
        task = self.program.tasks[index]
        key = (task.operator, task.group)
        met = self.meetings.setdefault(key, [])
        met.append(index)
        self.ends[index] = ready
        self.records.append(TaskRecord(task, ready, ready, None))
        if len(met) < self.program.groups[key]:
            return
        start = max(self.ends[i] for i in self.meetings.pop(key))
        end, sent, got = self._exchange(index, start)
        for member in met:
            rank = self.program.tasks[member]
            self.ends[member] = end
            self.stream_free[rank.stream] = max(end, self.stream_free.get(rank.stream, end))
            mine = (sent.get(rank.device, 0.0), got.get(rank.device, 0.0))
            self.records[member] = TaskRecord(rank, start, end, None, *mine)

    def _exchange(self, index: int, start: float) -> tuple[float, dict[str, float], dict[str, float]]:
        task, nodes, end = self.program.tasks[index], self.system.nodes, start
        sent: dict[str, float] = {}
        got: dict[str, float] = {}
        operator = self.graph.operator_by_name[task.operator]
        for round_ in self.costs.rounds(operator, task.group):
            latency, load = 0.0, dict[str, float]()
            for source, target, size in round_.sends:
                path = self.costs.path(nodes[source].memory or source, nodes[target].memory or target)
                latency = max(latency, path.latency_s)
                sent[source] = sent.get(source, 0.0) + size
                got[target] = got.get(target, 0.0) + size
                for resource in path.resources:
                    load[resource] = load.get(resource, 0.0) + size
            seconds = {resource: total / self.costs.capacity[resource] for resource, total in load.items()}
            for resource, total in load.items():
                self.carried[resource] = self.carried.get(resource, 0.0) + total
                self.busy[resource] = self.busy.get(resource, 0.0) + seconds[resource]
            end += latency * round_.hops + max(seconds.values(), default=0.0)
        return end, sent, got

    def result(self) -> PhaseRun:
        end = max((record.end for record in self.records), default=self.start)
        return PhaseRun(self.records, self.start, end, self.carried, self.busy, self._ledger())

    def _ledger(self) -> MemoryLedger:
        """Replay allocations and releases in time order; releases come first at equal times."""
        moments: list[tuple[float, int, int]] = []
        used: dict[int, float] = {}
        for index, copies in enumerate(self.program.uses):
            for number in copies:
                used[number] = max(used.get(number, self.start), self.ends[index])
        for index, made in enumerate(self.program.makes):
            moments += [(self.records[index].start, 1, number) for number in made]
        phase_end = max((record.end for record in self.records), default=self.start)
        for number, copy in enumerate(self.program.copies):
            if not copy.kept:
                moments.append((used.get(number, phase_end), 0, number))
            elif not copy.lasting:
                moments.append((phase_end, 2, number))
        ledger = MemoryLedger(self.system, self.graph)
        for copy in self.program.copies:
            if copy.home:
                ledger.allocate(copy.tensor, copy.memory, self.start)
        self._check_room(ledger, "the start")
        for time_s, order, number in sorted(moments):
            copy = self.program.copies[number]
            if order == 1:
                ledger.allocate(copy.tensor, copy.memory, time_s)
                self._check_room(ledger, copy.tensor, copy.memory)
            else:
                ledger.release(copy.tensor, copy.memory, time_s)
        return ledger

    def _check_room(self, ledger: MemoryLedger, at: str, *memories: str) -> None:
        for memory in memories or tuple(ledger.used):
            if ledger.room(memory) < 0:
                raise out_of_memory(ledger, self.system, {memory: (at, 0)}, LEVERS)
