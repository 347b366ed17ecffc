"""The event-driven run of one graph under one plan, on SimPy.

Each stream of the plan is a process that takes its tasks in order: wait for what the task needs, allocate the
copies it makes, hold the device or move the bytes, then let go of the copies it used. A device runs one
operator at a time. Transfers and collectives are flows that share wires and memory ports fairly; a collective takes
no less than its ranks' library says. What a kernel
reads and writes is such a flow over its memory's port, after its launch and at most as fast as when the kernel
is alone; the operator ends when its own time and its bytes are both over. A copy that does not fit waits until
another is dropped (:mod:`simulator.system.admission` says who is next); when nothing can move any more, the run
ends in an error that says who waits for how many bytes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from hw_configs.problems import InputError, Problem
from hw_configs.system import System
from simulator.cost.model import OperatorCost
from simulator.link.flows import Flow, FlowNetwork
from simulator.plan import Collective, Compute, Task, Transfer
from simulator.system.admission import Admission
from simulator.system.bound_plan import BoundPlan, Copy, moved_bytes, shared_memories, streamed_bytes
from simulator.system.costs import CostTable, measured_cost
from simulator.system.memory import MemoryLedger, out_of_memory
from workloads.graph import Graph

__all__ = ["LEVERS", "PhaseRun", "TaskRecord", "run_events"]

LEVERS: Final = (
    "what could help: a smaller batch or context, a narrower element type, more devices (--tp, --pp), "
    "or a mapper that offloads (--mapper, see 'offchip simulate --help')"
)

Steps = Generator[Any, Any, None]


@dataclass(slots=True)
class TaskRecord:
    """When a task ran. ``cost`` is set for compute tasks; transfers and collectives have bytes, sent from
    the source (or this rank's memory) and received in the target. The bytes that a compute task sends are those
    it streams from its source past its own memory.
    """

    task: Task
    start: float
    end: float
    cost: OperatorCost | None
    moved_bytes: float = 0.0
    received_bytes: float = 0.0


@dataclass
class PhaseRun:
    """What an engine hands back of one phase: records in plan order, and what flowed."""

    records: list[TaskRecord]
    start: float
    end: float
    carried_bytes: Mapping[str, float]
    """Bytes that each wire direction and memory port carried for transfers, collectives and streamed operands,
    weighed where a port counts a byte of its slower way as more. What kernels draw is in their costs."""
    busy_seconds: Mapping[str, float]
    ledger: MemoryLedger


def run_events(
    graph: Graph, bound: BoundPlan, system: System, costs: CostTable, start: float = 0.0
) -> PhaseRun:
    """Run a bound plan from time ``start``; raises ``InfeasibleError`` when memory cannot hold what it needs."""
    run = _Run(graph, bound, system, costs, start)
    run.execute()
    return run.result()


class _Run:
    def __init__(
        self, graph: Graph, bound: BoundPlan, system: System, costs: CostTable, start: float
    ) -> None:
        import simpy

        self.graph, self.bound, self.system, self.costs, self.start = graph, bound, system, costs, start
        self.env: Any = simpy.Environment(initial_time=start)
        self.network = FlowNetwork(self.env, costs.capacity)
        self.ledger = MemoryLedger(system, graph)
        self.records: list[TaskRecord | None] = [None] * len(bound.tasks)
        self.awaited: dict[int, Any] = {}
        self.meetings: dict[int, list[Any]] = {}
        self.queues: dict[str, list[tuple[int, Any]]] = {name: [] for name in self.ledger.usable}
        self.admission = Admission(bound, self.ledger)
        self.locks = self._locks(simpy)
        self.shared = shared_memories(bound, system)
        self.users_ever = [0] * len(bound.copies)
        for used in bound.uses:
            for number in used:
                self.users_ever[number] += 1
        self.users_left = list(self.users_ever)
        self._allocate_homes()

    def _locks(self, simpy: Any) -> dict[str, Any]:
        """Devices that more than one stream computes on need a lock; the others are serial by themselves."""
        streams: dict[str, set[str]] = {}
        for task in self.bound.tasks:
            if task.kind == "compute" and not task.measured:
                streams.setdefault(task.device, set()).add(task.stream)
        return {
            device: simpy.Resource(self.env, capacity=1) for device, used in streams.items() if len(used) > 1
        }

    def _allocate_homes(self) -> None:
        for copy in self.bound.copies:
            if copy.home:
                self._book_copy(copy, self.start)
        over = {m: ("the start", 0) for m in self.ledger.used if self.ledger.room(m) < 0}
        if over:
            raise out_of_memory(self.ledger, self.system, over, LEVERS)

    def execute(self) -> None:
        for indices in self.bound.streams.values():
            self.env.process(self._stream(indices))
        self.env.run()
        if None in self.records:
            raise self._stalled()

    def result(self) -> PhaseRun:
        end = max((record.end for record in self.records if record is not None), default=self.start)
        for copy, users in zip(self.bound.copies, self.users_ever, strict=True):
            # What the phase was asked for leaves with it, and so do inputs that nobody read.
            if (copy.kept and not copy.lasting) or (copy.home and not copy.kept and users == 0):
                self._drop_copy(copy, end)
        records = [record for record in self.records if record is not None]
        return PhaseRun(records, self.start, end, self.network.carried, self.network.busy, self.ledger)

    def _stream(self, indices: tuple[int, ...]) -> Steps:
        bound = self.bound
        for index in indices:
            for before in bound.waits[index]:
                if self.records[before] is None:
                    yield self._finished(before)
            task = bound.tasks[index]
            if bound.makes[index]:
                yield from self._allocate(index)
            if task.kind == "compute":
                yield from self._compute(index, task)
            elif task.kind == "transfer":
                yield from self._transfer(index, task)
            else:
                yield from self._meet(index, task)
            self._let_go(index)
            if index in self.awaited:
                self.awaited.pop(index).succeed()

    def _finished(self, index: int) -> Any:
        if index not in self.awaited:
            self.awaited[index] = self.env.event()
        return self.awaited[index]

    def _compute(self, index: int, task: Compute) -> Steps:
        if task.measured:
            yield from self._replay(index, task)
            return
        lock = self.locks.get(task.device)
        if lock is None:
            yield from self._run_kernel(index, task)
        else:
            with lock.request() as turn:
                yield turn
                yield from self._run_kernel(index, task)

    def _replay(self, index: int, task: Compute) -> Steps:
        """An operator that takes the time it was recorded with."""
        start, cost = self.env.now, measured_cost(self.graph.operator_by_name[task.operator])
        if cost.seconds > 0:
            yield self.env.timeout(cost.seconds)
        self.records[index] = TaskRecord(task, start, self.env.now, cost)

    def _run_kernel(self, index: int, task: Compute) -> Steps:
        start = self.env.now
        cost = self.costs.operator(self.graph.operator_by_name[task.operator], task.device, start)
        streamed = streamed_bytes(task, self.graph)
        draw = self._draw(task, cost, streamed)
        duration = cost.launch_seconds + cost.seconds
        if streamed:
            computed = self.env.timeout(duration)
            path = self.costs.stream_path(task.source, task.device)
            yield self.env.timeout(path.latency_s)
            yield self.env.all_of([computed, self.network.start(path.load, streamed)])
        elif duration > 0:
            yield self.env.timeout(duration)
        if draw is not None:
            late = self.network.leave(draw)
            if late is not None:
                yield late
        self.records[index] = TaskRecord(task, start, self.env.now, cost, streamed)

    def _draw(self, task: Compute, cost: OperatorCost, streamed: float) -> Flow | None:
        """The kernel's flow over its memory's port; None where nobody else ever uses that port."""
        if (self.system.nodes[task.device].memory or task.device) not in self.shared:
            return None
        traffic = self.costs.traffic(task.device, cost, streamed)
        if traffic is None:
            return None
        return self.network.draw(traffic.load, traffic.bytes, cost.launch_seconds, cost.seconds)

    def _transfer(self, index: int, task: Transfer) -> Steps:
        start = self.env.now
        size = float(moved_bytes(task, self.graph))
        path = self.costs.path_of(task)
        yield self.env.timeout(path.startup_s(size, task.wait_s))
        moved = size * path.share
        if moved > 0 or size == 0:
            yield self.network.start(path.load, moved)
        self.records[index] = TaskRecord(task, start, self.env.now, None, moved, moved)

    def _meet(self, index: int, task: Collective) -> Steps:
        """One rank of a collective: the last to arrive starts it, all leave together."""
        first = index - task.group.index(task.device)
        arrived = self.meetings.setdefault(first, [])
        gate = self.env.event()
        arrived.append(gate)
        if len(arrived) == len(task.group):
            self.env.process(self._collective(task, self.meetings.pop(first)))
        start, sent, got = yield gate
        mine = (sent.get(task.device, 0.0), got.get(task.device, 0.0))
        self.records[index] = TaskRecord(task, start, self.env.now, None, *mine)

    def _collective(self, task: Collective, gates: list[Any]) -> Steps:
        start = self.env.now
        operator = self.graph.operator_by_name[task.operator]
        nodes = self.system.nodes
        sent: dict[str, float] = {}
        got: dict[str, float] = {}
        for round_ in self.costs.rounds(operator, task.group):
            flows, latency = [], 0.0
            for source, target, size in round_.sends:
                path = self.costs.path(nodes[source].memory or source, nodes[target].memory or target)
                flows.append((path.load, float(size)))
                latency = max(latency, path.latency_s)
                sent[source] = sent.get(source, 0.0) + size
                got[target] = got.get(target, 0.0) + size
            yield self.env.timeout(latency * round_.hops)
            yield self.env.all_of(self.network.start_all(flows))
        library = self.costs.library_seconds(operator, task.group)
        left = start + (measured_cost(operator).seconds if task.measured else library) - self.env.now
        if left > 0:
            yield self.env.timeout(left)
        for gate in gates:
            gate.succeed((start, sent, got))

    def _allocate(self, index: int) -> Steps:
        memory = self.bound.copies[self.bound.makes[index][0]].memory
        if self.admission.may(index, memory):
            self._book(index, memory)
            if self.queues[memory]:
                self._admit(memory)
        else:
            turn = self.env.event()
            insort(self.queues[memory], (index, turn), key=itemgetter(0))
            yield turn

    def _book(self, index: int, memory: str) -> None:
        for number in self.bound.makes[index]:
            if not self.bound.copies[number].over:
                self._book_copy(self.bound.copies[number], self.env.now)
        self.admission.grant(index, memory)

    def _book_copy(self, copy: Copy, time_s: float) -> None:
        self.ledger.allocate(copy.tensor, copy.memory, time_s, copy.size(self.graph.tensors))

    def _drop_copy(self, copy: Copy, time_s: float) -> None:
        self.ledger.release(copy.tensor, copy.memory, time_s, copy.size(self.graph.tensors))

    def _let_go(self, index: int) -> None:
        freed: dict[str, None] = {}
        for number in self.bound.uses[index]:
            self.users_left[number] -= 1
            copy = self.bound.copies[number]
            if self.users_left[number] == 0 and not copy.kept:
                self._drop_copy(copy, self.env.now)
                self.admission.release(number)
                if copy.heir >= 0:
                    self._book_copy(self.bound.copies[copy.heir], self.env.now)
                    self.admission.inherit(copy.heir)
                freed[copy.memory] = None
        for memory in freed:
            if self.queues[memory]:
                self._admit(memory)

    def _admit(self, memory: str) -> None:
        """Let in who waits and may go on, in list order; their bytes are booked at once."""
        queue = self.queues[memory]
        place = 0
        while place < len(queue):
            index, turn = queue[place]
            if self.admission.may(index, memory):
                del queue[place]
                self._book(index, memory)
                turn.succeed()
                place = 0
            else:
                place += 1

    def _stalled(self) -> Exception:
        tasks = self.bound.tasks
        waiting = {
            memory: (tasks[queue[0][0]].name, self.admission.size(queue[0][0]))
            for memory, queue in self.queues.items()
            if queue
        }
        if waiting:
            return out_of_memory(self.ledger, self.system, waiting, LEVERS)
        open_tasks = [self.bound.tasks[i].name for i, record in enumerate(self.records) if record is None]
        shown = ", ".join(open_tasks[:5])
        return InputError([Problem(f"the plan never finishes: {len(open_tasks)} tasks wait, first {shown}")])
