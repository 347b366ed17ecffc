"""The closed-form run: the same bound plan without contention.

Every task starts when its stream is free and what it waits for is done; a transfer has its path to itself, and
a kernel its memory. That is exact where no two of them share a wire or a memory's port and no copy waits for
memory, and a lower bound otherwise, as long as each device computes on one stream; where several share a
device, they take turns in list order. The run as a whole is no shorter than what any wire or port has to carry,
kernels included. So its error is one-sided: with n devices and copies at most on any one resource at a time, no
task takes more than n times as long at event fidelity, and the run no more than n times the longest chain of
tasks. It needs no event queue, so it is what sweeps screen with.
"""

from __future__ import annotations

from hw_configs.system import System
from simulator.cost.model import OperatorCost
from simulator.link.flows import Load
from simulator.plan import Collective
from simulator.system.admission import last_moments
from simulator.system.bound_plan import BoundPlan, moved_bytes, shared_memories, streamed_bytes
from simulator.system.costs import CostTable, measured_cost
from simulator.system.engine import LEVERS, PhaseRun, TaskRecord
from simulator.system.memory import MemoryLedger, out_of_memory
from workloads.graph import Graph

__all__ = ["covered_seconds", "run_analytic"]

Moment = tuple[float, int, bool, int]
"""Time, index of the task, whether it is a release, number of the copy."""


def run_analytic(
    graph: Graph, bound: BoundPlan, system: System, costs: CostTable, start: float = 0.0
) -> PhaseRun:
    """Run a bound plan from time ``start``; raises ``InfeasibleError`` when a memory is too small."""
    run = _Closed(graph, bound, system, costs, start)
    for index in range(len(bound.tasks)):
        run.place(index)
    return run.result()


class _Closed:
    def __init__(
        self, graph: Graph, bound: BoundPlan, system: System, costs: CostTable, start: float
    ) -> None:
        self.graph, self.bound, self.system, self.costs, self.start = graph, bound, system, costs, start
        self.ends = [start] * len(bound.tasks)
        self.stream_free: dict[str, float] = {}
        self.device_free: dict[str, float] = {}
        self.records: list[TaskRecord] = []
        self.carried: dict[str, float] = {}
        self.spans: dict[str, list[tuple[float, float]]] = {}
        self.met: list[int] = []
        self.shared = shared_memories(bound, system)
        self.drawn: dict[str, float] = {}
        """Bytes that kernels draw on ports which somebody else uses as well."""

    def place(self, index: int) -> None:
        task = self.bound.tasks[index]
        ready = max([self.start, *(self.ends[before] for before in self.bound.waits[index])])
        ready = max(ready, self.stream_free.get(task.stream, self.start))
        if task.kind == "collective":
            self._meet(index, task, ready)
            return
        if task.kind == "compute" and task.measured:
            known = measured_cost(self.graph.operator_by_name[task.operator])
            self._record(index, TaskRecord(task, ready, ready + known.seconds, known))
        elif task.kind == "compute":
            ready = max(ready, self.device_free.get(task.device, self.start))
            cost = self.costs.operator(self.graph.operator_by_name[task.operator], task.device, ready)
            end = ready + cost.launch_seconds + cost.seconds
            streamed = streamed_bytes(task, self.graph)
            if streamed:
                flow = self.costs.stream_path(task.source, task.device)
                began = ready + flow.latency_s
                end = max(end, began + self._carry(flow.load, streamed, began))
            if (self.system.nodes[task.device].memory or task.device) in self.shared:
                self._draw(task.device, cost, streamed)
            self.device_free[task.device] = end
            self._record(index, TaskRecord(task, ready, end, cost, streamed))
        else:
            size = float(moved_bytes(task, self.graph))
            path = self.costs.path_of(task)
            began = ready + path.startup_s(size, task.wait_s)
            moved = size * path.share
            end = began + self._carry(path.load, moved, began)
            self._record(index, TaskRecord(task, ready, end, None, moved, moved))

    def _draw(self, device: str, cost: OperatorCost, streamed: float) -> None:
        traffic = self.costs.traffic(device, cost, streamed)
        if traffic is not None:
            for resource, weight in traffic.load.items():
                self.drawn[resource] = self.drawn.get(resource, 0.0) + traffic.bytes * weight

    def _carry(self, load: Load, size: float, began: float) -> float:
        seconds = max((size * weight / self.costs.capacity[r] for r, weight in load.items()), default=0.0)
        for resource, weight in load.items():
            self._flowed(resource, size * weight, began, seconds)
        return seconds

    def _flowed(self, resource: str, size: float, began: float, seconds: float) -> None:
        self.carried[resource] = self.carried.get(resource, 0.0) + size
        self.spans.setdefault(resource, []).append((began, began + seconds))

    def _record(self, index: int, record: TaskRecord) -> None:
        self.ends[index] = record.end
        self.stream_free[record.task.stream] = record.end
        self.records.append(record)

    def _meet(self, index: int, task: Collective, ready: float) -> None:
        """The last rank's entry in the list settles the collective for all of them."""
        met = self.met
        met.append(index)
        self.ends[index] = ready
        self.records.append(TaskRecord(task, ready, ready, None))
        if len(met) < len(task.group):
            return
        self.met = []
        start = max(self.ends[i] for i in met)
        end, sent, got = self._exchange(task, start)
        for member in met:
            rank = self.bound.tasks[member]
            self.ends[member] = end
            self.stream_free[rank.stream] = max(end, self.stream_free.get(rank.stream, end))
            mine = (sent.get(rank.device, 0.0), got.get(rank.device, 0.0))
            self.records[member] = TaskRecord(rank, start, end, None, *mine)

    def _exchange(self, task: Collective, start: float) -> tuple[float, dict[str, float], dict[str, float]]:
        nodes, end = self.system.nodes, start
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
                for resource, weight in path.load.items():
                    load[resource] = load.get(resource, 0.0) + size * weight
            seconds = {resource: total / self.costs.capacity[resource] for resource, total in load.items()}
            end += latency * round_.hops
            for resource, total in load.items():
                self._flowed(resource, total, end, seconds[resource])
            end += max(seconds.values(), default=0.0)
        library = self.costs.library_seconds(operator, task.group)
        return max(end, start + (measured_cost(operator).seconds if task.measured else library)), sent, got

    def result(self) -> PhaseRun:
        # Flows that overlap here share wires in truth: no run is shorter than what a wire has to carry.
        work = {resource: total / self.costs.capacity[resource] for resource, total in self.carried.items()}
        end = max((record.end for record in self.records), default=self.start)
        end = max(end, self.start + max(work.values(), default=0.0))
        for resource, drawn in self.drawn.items():
            total = drawn + self.carried.get(resource, 0.0)
            end = max(end, self.start + total / self.costs.capacity[resource])
        busy = {
            resource: max(covered_seconds(self.spans[resource]), seconds)
            for resource, seconds in work.items()
        }
        return PhaseRun(self.records, self.start, end, self.carried, busy, self._ledger(end))

    def _ledger(self, phase_end: float) -> MemoryLedger:
        """Allocations and releases in time order; if that is too much at once, in list order.

        A plan whose list order fits can run, by waiting for memory; the times here know no such waits.
        """
        ledger = MemoryLedger(self.system, self.graph)
        for copy in self.bound.copies:
            if copy.home:
                ledger.allocate(copy.tensor, copy.memory, self.start, copy.size(self.graph.tensors))
        for memory in ledger.used:
            self._insist(ledger, memory, "the start")
        if self._fits(self._by_time(phase_end)):
            self._book(ledger, self._by_time(phase_end))
        else:
            self._book(ledger, self._by_list(phase_end))
        return ledger

    def _by_time(self, phase_end: float) -> list[Moment]:
        """Releases come first at equal times; a task that takes no time has its place in the list."""
        last_user: dict[int, tuple[float, int]] = {}
        for index, copies in enumerate(self.bound.uses):
            for number in copies:
                moment = (self.ends[index], index)
                last_user[number] = max(last_user.get(number, moment), moment)
        moments = [
            (self.records[index].start, 1, index, 0, number)
            for index, made in enumerate(self.bound.makes)
            for number in made
        ]
        for number, copy in enumerate(self.bound.copies):
            if not copy.kept and number in last_user:
                time_s, index = last_user[number]
                instant = self.records[index].start == time_s
                moments.append((time_s, 1 if instant else 0, index, 1, number))
            elif not copy.lasting:
                moments.append((phase_end, 2, 0, 1, number))
        return self._inherited(
            [(time_s, index, bool(release), number) for time_s, _, index, release, number in sorted(moments)]
        )

    def _inherited(self, moments: list[Moment]) -> list[Moment]:
        """What is written over another copy takes its bytes when that one goes; gone by then, it takes none."""
        copies = self.bound.copies
        left = {number for _, _, release, number in moments if release and copies[number].over}
        found: list[Moment] = []
        there: set[int] = set()
        for moment in moments:
            time_s, index, release, number = moment
            if copies[number].over and (not release or number not in there):
                left -= {number} if release else set()
                continue
            found.append(moment)
            heir = copies[number].heir
            if release and heir >= 0 and (heir in left or copies[heir].lasting):
                found.append((time_s, index, False, heir))
                there.add(heir)
        return found

    def _by_list(self, phase_end: float) -> list[Moment]:
        """Tasks one after another in list order; the clock never goes back."""
        last = last_moments(self.bound)
        steps = [(index, 0, number) for index, made in enumerate(self.bound.makes) for number in made]
        count = len(self.bound.tasks)
        for number, copy in enumerate(self.bound.copies):
            if not copy.kept and number in last:
                steps.append((last[number], 1, number))
            elif not copy.lasting:
                steps.append((count, 1, number))
        moments: list[Moment] = []
        now = self.start
        for index, release, number in sorted(steps):
            if index < count:
                now = max(now, self.records[index].end if release else self.records[index].start)
            moments.append((phase_end if index == count else now, index, bool(release), number))
        return self._inherited(moments)

    def _fits(self, moments: list[Moment]) -> bool:
        used = dict.fromkeys(self.system.memories, 0)
        tensors, copies = self.graph.tensors, self.bound.copies
        for copy in copies:
            if copy.home:
                used[copy.memory] += copy.size(tensors)
        for _, _, release, number in moments:
            copy = copies[number]
            used[copy.memory] += copy.size(tensors) * (-1 if release else 1)
            if not release and used[copy.memory] > self.system.memories[copy.memory].usable_bytes:
                return False
        return True

    def _book(self, ledger: MemoryLedger, moments: list[Moment]) -> None:
        for time_s, index, release, number in moments:
            copy = self.bound.copies[number]
            size = copy.size(self.graph.tensors)
            if release:
                ledger.release(copy.tensor, copy.memory, time_s, size)
            else:
                ledger.allocate(copy.tensor, copy.memory, time_s, size)
                self._insist(ledger, copy.memory, self.bound.tasks[index].name)

    def _insist(self, ledger: MemoryLedger, memory: str, at: str) -> None:
        if ledger.room(memory) < 0:
            raise out_of_memory(ledger, self.system, {memory: (at, 0)}, LEVERS)


def covered_seconds(spans: list[tuple[float, float]]) -> float:
    """Seconds that at least one of the spans covers."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return covered
