"""Is this a plan? An independent reading of a plan against its graph and its system.

The checker replays the task list as a person would, one task at a time on paper: which memory holds which
value of which tensor. It shares no code with the mappers that write plans nor with the engines that run
them. It reports everything that is wrong, each with the task's name.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hw_configs.problems import InputError, nearest
from hw_configs.system import System
from simulator.accelerator.limits import beyond_engines, cannot_stream
from simulator.cost.collective import COLLECTIVE_KINDS
from simulator.plan import Collective, Compute, Plan, Task, Transfer
from workloads.graph import PERSISTENT_ROLES, Graph, Operator
from workloads.in_place import may_overwrite

__all__ = ["Violation", "check"]

_Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing a plan does that cannot be done, and the task (or tensor) that does it."""

    task: str
    message: str

    def __str__(self) -> str:
        return f"{self.task}: {self.message}"


def check(plan: Plan, graph: Graph, system: System, limit: int = 50) -> list[Violation]:
    """Everything that is wrong with a plan, up to ``limit`` violations; an empty list means it can run.

    ``graph`` is the graph the tasks name: splits and precision already applied. Byte capacities over time
    depend on when tasks run and are watched by the engines; planned addresses are checked here, in list
    order.
    """
    found: list[Violation] = []
    for violation in _violations(plan, graph, system):
        found.append(violation)
        if len(found) >= limit:
            break
    return found


def _violations(plan: Plan, graph: Graph, system: System) -> Iterator[Violation]:
    named = list(_unknown_names(plan, graph, system))
    yield from named
    if named:
        return
    apart = list(_collectives_meet(plan, graph, system))
    yield from apart
    if apart:
        return
    yield from _order_respects_graph(plan, graph)
    yield from (Violation(name, why) for name, why in beyond_engines(plan, system))
    paper = _Paper(plan, graph, system)
    for task in plan.tasks:
        yield from paper.play(task)
    yield from paper.leave()
    yield from _addresses_clash(plan, graph, system)


def _unknown_names(plan: Plan, graph: Graph, system: System) -> Iterator[Violation]:
    seen: set[str] = set()
    for tensor, homes in plan.homes.items():
        if tensor not in graph.tensors:
            yield Violation(f"homes.{tensor}", f"unknown tensor{_hint(tensor, graph.tensors)}")
        elif tensor in graph.producer:
            yield Violation(f"homes.{tensor}", f"is made by {graph.producer[tensor]!r}, so it has no home")
        memories = [home.memory for home in homes]
        for memory in memories:
            if memory not in system.memories:
                yield Violation(
                    f"homes.{tensor}", f"unknown memory {memory!r}{_hint(memory, system.memories)}"
                )
        for home in homes:
            if home.address is not None and home.address < 0:
                yield Violation(f"homes.{tensor}", f"has the address {home.address}, which is below zero")
        if len(set(memories)) < len(memories):
            yield Violation(f"homes.{tensor}", "two homes are in the same memory")
    for operator in plan.kernels:
        if operator not in graph.operator_by_name:
            hint = _hint(operator, graph.operator_by_name)
            yield Violation(f"kernels.{operator}", f"unknown operator{hint}")
    for task in plan.tasks:
        if task.name in seen:
            yield Violation(task.name, "two tasks have this name")
        for earlier in task.after:
            if earlier not in seen:
                yield Violation(task.name, f"waits for {earlier!r}, which does not stand before it")
        seen.add(task.name)
        yield from _below_zero(task)
        yield from _unknown_in_task(task, graph, system)


def _below_zero(task: Task) -> Iterator[Violation]:
    """Addresses and counts that cannot be. (Fields of another kind of task cannot be said at all.)"""
    for tensor, address in task.addresses.items():
        if address < 0:
            yield Violation(task.name, f"places {tensor!r} at byte {address}, which is below zero")
    if isinstance(task, Transfer):
        for name, value in (
            ("chunk_bytes", task.chunk_bytes),
            ("readers", task.readers),
            ("touched_bytes", task.touched_bytes),
        ):
            if value < 0:
                yield Violation(task.name, f"has {name} {value}, which is below zero")
        if task.faults and task.chunk_bytes:
            yield Violation(task.name, "comes on faults, which know no chunk_bytes")
        if not 0 <= task.wait_s < math.inf:
            yield Violation(task.name, f"waits {task.wait_s} s, which is no time")


def _unknown_in_task(task: Task, graph: Graph, system: System) -> Iterator[Violation]:
    if isinstance(task, Transfer):
        if task.tensor not in graph.tensors:
            yield Violation(task.name, f"unknown tensor {task.tensor!r}{_hint(task.tensor, graph.tensors)}")
        for memory in (task.source, task.target):
            if memory not in system.memories:
                yield Violation(task.name, f"unknown memory {memory!r}{_hint(memory, system.memories)}")
        if task.source == task.target:
            yield Violation(task.name, f"copies from {task.source!r} to itself")
        elif {task.source, task.target} <= system.memories.keys():
            yield from _unreachable(task, system, task.source, task.target)
            if task.faults and system.nodes[task.target].device.kind != "gpu":
                yield Violation(task.name, f"comes on faults into {task.target!r}, which is no GPU's memory")
            yield from _by_host_software(task, system)
        made: tuple[str, ...] = (task.tensor,)
    else:
        if isinstance(task, Compute) and task.source and not task.streamed:
            yield Violation(task.name, f"names the source {task.source!r} and streams nothing from it")
        operator = graph.operator_by_name.get(task.operator)
        made = operator.outputs if operator is not None else ()
        if operator is None:
            hint = _hint(task.operator, graph.operator_by_name)
            yield Violation(task.name, f"unknown operator {task.operator!r}{hint}")
        node = system.nodes.get(task.device)
        if node is None:
            yield Violation(task.name, f"unknown device {task.device!r}{_hint(task.device, system.nodes)}")
        elif node.compute is None or node.memory is None:
            yield Violation(task.name, f"device {task.device!r} does not compute")
        elif isinstance(task, Compute) and task.streamed and operator is not None:
            yield from (Violation(task.name, why) for why in cannot_stream(task, operator, node, system))
        yield from _measured(task, operator)
    if isinstance(task, Compute) and operator is not None:
        yield from _wrong_pairs(task, operator, graph)
    for tensor in task.addresses:
        if tensor not in made:
            yield Violation(task.name, f"gives an address to {tensor!r}, which it does not make")
    for tensor, memory in task.frees:
        if tensor not in graph.tensors or memory not in system.memories:
            yield Violation(task.name, f"frees ({tensor!r}, {memory!r}), which is not a tensor and a memory")


def _by_host_software(task: Transfer, system: System) -> Iterator[Violation]:
    """Pageable copies have a CPU's memory at one end and a GPU's at the other; mapped files lie on a drive."""
    hosts = {node.memory for node in system.nodes.values() if node.device.kind == "cpu"}
    boards = {node.memory for node in system.nodes.values() if node.device.kind == "gpu"}
    ends = (task.source, task.target)
    if task.pageable and not any(
        one in hosts and other in boards - hosts for one, other in (ends, ends[::-1])
    ):
        yield Violation(task.name, "is pageable, but not between a CPU's memory and a GPU's")
    if not task.mapped:
        return
    if system.nodes[task.source].device.kind not in ("flash", "csd"):
        yield Violation(task.name, f"is mapped from {task.source!r}, which is no drive")
    if task.target not in hosts:
        yield Violation(task.name, f"is mapped into {task.target!r}, which is no CPU's memory")
    if task.chunk_bytes or task.faults or task.pageable:
        yield Violation(
            task.name, "is mapped; it cannot come in chunks, on a GPU's faults or pageable as well"
        )


def _measured(task: Compute | Collective, operator: Operator | None) -> Iterator[Violation]:
    """A task that takes a measured time has one, and streams nothing: that was part of what was measured."""
    if not task.measured or operator is None:
        return
    if operator.measured_s is None or not 0 <= operator.measured_s < math.inf:
        yield Violation(task.name, f"takes the measured time of {operator.name!r}, which has none")
    if isinstance(task, Compute) and task.streamed:
        yield Violation(task.name, "takes a measured time and streams operands beside it")


def _wrong_pairs(task: Compute, operator: Operator, graph: Graph) -> Iterator[Violation]:
    """Outputs that may not be written over the input that the task names."""
    if len(set(task.in_place.values())) < len(task.in_place):
        yield Violation(task.name, "writes two outputs over one input")
    for output, name in task.in_place.items():
        if output not in operator.outputs or name not in operator.inputs:
            yield Violation(task.name, f"writes {output!r} over {name!r}, which are not its output and input")
        elif not may_overwrite(operator, graph.tensors, output, name):
            yield Violation(
                task.name, f"writes {output!r} over {name!r}, which {operator.name!r} does not allow"
            )
        elif name in task.streamed or task.addresses.get(output) is None:
            yield Violation(task.name, f"writes {output!r} over {name!r}, which have no address here")


def _hint(name: str, valid: Mapping[str, object]) -> str:
    near = nearest(name, valid)
    return f" (did you mean {near!r}?)" if near else ""


def _unreachable(task: Task, system: System, source: str, target: str) -> Iterator[Violation]:
    try:
        system.route(source, target)
    except InputError:
        yield Violation(task.name, f"no link path joins {source!r} to {target!r}")


def _collectives_meet(plan: Plan, graph: Graph, system: System) -> Iterator[Violation]:
    """Each collective has one part per rank, side by side in the list, in the group's order.

    The parts run at the same time, so each needs a stream of its own and none can wait for another.
    """
    index = 0
    while index < len(plan.tasks):
        task = plan.tasks[index]
        if not isinstance(task, Collective):
            index += 1
            continue
        parts = plan.tasks[index : index + len(task.group)]
        places = [(part.operator, part.device, part.group) for part in parts if isinstance(part, Collective)]
        if not parts or places != [(task.operator, rank, task.group) for rank in task.group]:
            yield Violation(task.name, f"its group {list(task.group)} does not stand next to it, in order")
            return
        if len(set(task.group)) < len(parts) or len({part.stream for part in parts}) < len(parts):
            yield Violation(task.name, "two of its ranks share a device or a stream, so they never meet")
        names = {part.name for part in parts}
        for part in parts:
            for earlier in names.intersection(part.after):
                yield Violation(part.name, f"waits for {earlier!r}, another rank of the same collective")
        yield from _collective_fits(task, graph.operator_by_name[task.operator], system)
        index += len(parts)


def _collective_fits(task: Collective, operator: Operator, system: System) -> Iterator[Violation]:
    """The operator is one that ranks can run together, and links join them."""
    ranks = len(task.group)
    if operator.kind not in COLLECTIVE_KINDS:
        yield Violation(task.name, f"operator {operator.name!r} of kind {operator.kind!r} is no collective")
    if len(operator.inputs) % ranks or len(operator.outputs) % ranks:
        yield Violation(task.name, f"{ranks} ranks cannot share the tensors of {operator.name!r} evenly")
    if operator.updates:
        yield Violation(task.name, f"operator {operator.name!r} updates tensors; a collective makes new ones")
    memories = [system.nodes[device].memory or device for device in task.group]
    for memory in memories[1:]:
        if memory != memories[0]:
            yield from _unreachable(task, system, memories[0], memory)


def _order_respects_graph(plan: Plan, graph: Graph) -> Iterator[Violation]:
    """Every operator runs, and first runs after all it depends on."""
    first: dict[str, int] = {}
    for index, task in enumerate(plan.tasks):
        if task.kind != "transfer":
            first.setdefault(task.operator, index)
    for operator, before in graph.dependencies.items():
        if operator not in first:
            yield Violation(operator, "no task runs this operator")
            continue
        for earlier in before:
            if earlier in first and first[earlier] > first[operator]:
                yield Violation(operator, f"runs before {earlier!r}, on which it depends")


class _Paper:
    """Which memory holds which version of which tensor, as the list is played."""

    def __init__(self, plan: Plan, graph: Graph, system: System) -> None:
        self.plan, self.graph, self.system = plan, graph, system
        self.held: dict[tuple[str, str], int] = {}
        self.part: dict[tuple[str, str], int] = {}
        """Bytes of a copy that is a part of its tensor."""
        self.newest: dict[str, int] = {}
        self.read_at: dict[str, dict[str, int]] = {}
        for tensor, homes in plan.homes.items():
            self.newest[tensor] = 0
            for home in homes:
                self.held[tensor, home.memory] = 0

    def play(self, task: Task) -> Iterator[Violation]:
        if task.kind == "transfer":
            yield from self._read(task, task.tensor, task.source)
            yield from self._bring(task)
        else:
            operator = self.graph.operator_by_name[task.operator]
            memory = self.system.nodes[task.device].memory or task.device
            yield from self._compute(task, operator, memory)
        for tensor, memory in task.frees:
            if (tensor, memory) not in self.held:
                yield Violation(task.name, f"frees {tensor!r} in {memory!r}, where it is not")
            self.held.pop((tensor, memory), None)
            self.part.pop((tensor, memory), None)

    def _bring(self, task: Transfer) -> Iterator[Violation]:
        """A transfer of a whole tensor, or of a part that comes beside the parts that are there."""
        here, size = (task.tensor, task.target), self.graph.tensors[task.tensor].size_bytes
        part = task.touched_bytes
        if part > size:
            yield Violation(task.name, f"brings {part} bytes of {task.tensor!r}, which has {size}")
        there = self.part.get((task.tensor, task.source), size)
        if (part or size) > there:
            yield Violation(
                task.name,
                f"brings {part or size} bytes of {task.tensor!r}; {task.source!r} holds {there} of them",
            )
        if here in self.held:
            yield from self._beside(task, here, size)
        self.held[here] = self.newest.get(task.tensor, 0)
        if part:
            self.part[here] = min(size, self.part.get(here, 0) + part)

    def _beside(self, task: Transfer, here: _Cell, size: int) -> Iterator[Violation]:
        """What comes to a memory that holds some of it: a part beside parts, or all over all."""
        what = f"of {task.tensor!r} to {task.target!r}"
        if here not in self.part:
            if task.touched_bytes:
                yield Violation(task.name, f"brings a part {what}, where all of it is")
        elif not task.touched_bytes:
            yield Violation(task.name, f"brings all {what}, where a part of it is")
        elif self.part[here] >= size:
            yield Violation(task.name, f"brings a part {what}, where every byte of it has come")
        elif task.addresses:
            yield Violation(task.name, f"places a part {what} beside another; only the first has an address")

    def _compute(self, task: Compute | Collective, operator: Operator, memory: str) -> Iterator[Violation]:
        inputs, outputs = _of_rank(task, operator.inputs), _of_rank(task, operator.outputs)
        for tensor in (*inputs, *operator.updates):
            place = _taken_from(task, tensor, memory)
            yield from self._read(task, tensor, place)
            yield from self._enough(task, operator, tensor, place)
        yield from self._again(task, operator, inputs)
        for tensor in operator.updates:
            self.newest[tensor] = self.newest.get(tensor, 0) + 1
            self.held[tensor, memory] = self.newest[tensor]
        for tensor in outputs:
            # Recomputing makes the first value again, which later updates have left behind.
            self.newest.setdefault(tensor, 0)
            self.held[tensor, memory] = 0

    def _again(self, task: Task, operator: Operator, inputs: tuple[str, ...]) -> Iterator[Violation]:
        """A recomputation gives the same result only where what it reads is still the same."""
        known = self.read_at.get(operator.name)
        if known is not None and operator.updates:
            yield Violation(task.name, f"runs {operator.name!r} again, which updates tensors in place")
        first = self.read_at.setdefault(operator.name, {})
        for tensor in inputs:
            version = self.newest.get(tensor, 0)
            if first.setdefault(tensor, version) != version:
                yield Violation(
                    task.name, f"recomputes {operator.name!r}, whose input {tensor!r} has changed"
                )

    def _read(self, task: Task, tensor: str, memory: str) -> Iterator[Violation]:
        version = self.held.get((tensor, memory))
        if version is None:
            places = sorted(m for t, m in self.held if t == tensor)
            where = f"it is in {', '.join(places)}" if places else "no memory holds it"
            yield Violation(task.name, f"needs {tensor!r} in {memory!r}, but {where}")
        elif version != self.newest.get(tensor, 0):
            yield Violation(task.name, f"reads a stale copy of {tensor!r} in {memory!r}")

    def _enough(self, task: Task, operator: Operator, tensor: str, memory: str) -> Iterator[Violation]:
        """Of a tensor that came in part an operator reads no more than came, and it writes none of it."""
        part = self.part.get((tensor, memory))
        if part is None:
            return
        if tensor in operator.updates:
            yield Violation(task.name, f"updates {tensor!r} in {memory!r}, where only a part of it is")
        named = (*operator.inputs, *operator.updates)
        size = self.graph.tensors[tensor].size_bytes
        reads = size
        if len(operator.reads) == len(named):
            reads = min(size, sum(n for name, n in zip(named, operator.reads, strict=True) if name == tensor))
        if reads > part:
            yield Violation(task.name, f"reads {reads} bytes of {tensor!r}, of which {memory!r} holds {part}")

    def leave(self) -> Iterator[Violation]:
        """Persistent tensors are at home and up to date; what was asked for exists."""
        for tensor, homes in self.plan.homes.items():
            if self.graph.tensors[tensor].role not in PERSISTENT_ROLES:
                continue
            for home in homes:
                version = self.held.get((tensor, home.memory))
                if version is None or (tensor, home.memory) in self.part:
                    yield Violation(tensor, f"is not back in its home {home.memory!r} at the end")
                elif version != self.newest[tensor]:
                    yield Violation(tensor, f"was updated elsewhere and is stale in its home {home.memory!r}")
        for tensor in self.graph.outputs:
            newest = self.newest.get(tensor, 0)
            if newest not in (self.held.get((tensor, memory)) for memory in self.system.memories):
                yield Violation(tensor, "is an output of the graph, and no memory holds it at the end")


def _addresses_clash(plan: Plan, graph: Graph, system: System) -> Iterator[Violation]:
    """No two copies with planned addresses share a byte while both live, in list order.

    An output written over an input begins when that one ends.
    """
    lives: dict[str, list[_Life]] = {}
    for life in _planned_lives(plan, graph, system):
        if isinstance(life, Violation):
            yield life
        elif life.high > life.low:
            lives.setdefault(life.memory, []).append(life)
    for memory, entries in lives.items():
        usable = system.memories[memory].usable_bytes
        for life in entries:
            if life.high > usable:
                yield Violation(life.tensor, f"ends at byte {life.high} of {memory!r}, which has {usable}")
        yield from _overlaps(memory, entries)


def _overlaps(memory: str, entries: list[_Life]) -> Iterator[Violation]:
    """Sweep over list order; copies that live at once stand sorted by their first byte."""
    # Ends come after begins of the same moment: a task's inputs and outputs live together. What is written over an
    # input begins after the end of that.
    moments = [(life.begin, 2 if life.over else 0, number) for number, life in enumerate(entries)]
    moments += [
        (life.end, 3 if life.over and life.end == life.begin else 1, number)
        for number, life in enumerate(entries)
    ]
    present: list[tuple[int, int]] = []
    for _, rank, number in sorted(moments):
        life = entries[number]
        place = bisect_left(present, (life.low, number))
        if rank % 2:
            present.pop(place)
            continue
        others = [entries[other] for _, other in present[max(place - 1, 0) : place + 1]]
        for other in others:
            if life.low < other.high and other.low < life.high:
                message = f"shares bytes of {memory!r} with {other.tensor!r} while both live"
                yield Violation(life.tensor, message)
        present.insert(place, (life.low, number))


@dataclass(slots=True)
class _Life:
    """A copy at planned bytes [low, high), from one entry of the list to another."""

    tensor: str
    memory: str
    begin: int
    end: int
    low: int
    high: int
    over: bool = False
    """Written over an input of the task that makes it."""


def _planned_lives(plan: Plan, graph: Graph, system: System) -> Iterator[_Life | Violation]:
    """Every addressed copy, and tasks that place a copy where another address holds it already."""
    here: dict[_Cell, _Life | None] = {}
    last = len(plan.tasks)
    outputs = set(graph.outputs)

    def born(tensor: str, memory: str, begin: int, end: int, address: int | None, part: int = 0) -> None:
        size = part or graph.tensors[tensor].size_bytes
        if address is None:
            here[tensor, memory] = None
        else:
            here[tensor, memory] = _Life(tensor, memory, begin, end, address, address + size)

    for tensor, homes in plan.homes.items():
        for home in homes:
            born(tensor, home.memory, -1, last, home.address)
    for task, moment in zip(plan.tasks, _moments(plan), strict=True):
        read, made = _copies_touched(task, graph, system)
        for tensor, memory in made:
            stated = task.addresses.get(tensor)
            if (tensor, memory) not in here:
                part = task.touched_bytes if isinstance(task, Transfer) else 0
                born(tensor, memory, moment, moment, stated, part)
                under = task.in_place.get(tensor) if isinstance(task, Compute) else None
                life = here[tensor, memory]
                if under is not None and life is not None:
                    life.over, other = True, here.get((under, memory))
                    if other is None or other.low != stated:
                        yield Violation(task.name, f"writes {tensor!r} over {under!r}, which lies elsewhere")
                continue
            life = here[tensor, memory]
            if stated is not None and (life is None or life.low != stated):
                message = f"places {tensor!r} at byte {stated} of {memory!r}, where it already is elsewhere"
                yield Violation(task.name, message)
        for key in (*read, *made):
            life = here.get(key)
            if life is not None:
                life.end = last if _stays(plan, graph, key, outputs) else moment
        for key in task.frees:
            life = here.pop(key, None)
            if life is not None:
                life.end = moment
                yield life
    yield from (life for life in here.values() if life is not None)


def _stays(plan: Plan, graph: Graph, key: tuple[str, str], outputs: set[str]) -> bool:
    """Whether a copy outlives its last user: an output, or a persistent tensor at home."""
    tensor, memory = key
    if tensor in outputs:
        return True
    persistent = graph.tensors[tensor].role in PERSISTENT_ROLES
    return persistent and any(home.memory == memory for home in plan.homes.get(tensor, ()))


def _moments(plan: Plan) -> list[int]:
    """Each task's place in the list; the ranks of a collective stand at one."""
    moments: list[int] = []
    for index, task in enumerate(plan.tasks):
        rank = task.group.index(task.device) if task.kind == "collective" else 0
        moments.append(index - rank)
    return moments


def _copies_touched(task: Task, graph: Graph, system: System) -> tuple[list[_Cell], list[_Cell]]:
    """Copies (tensor, memory) that a task reads or updates, and those it makes."""
    if task.kind == "transfer":
        return [(task.tensor, task.source)], [(task.tensor, task.target)]
    operator = graph.operator_by_name[task.operator]
    memory = system.nodes[task.device].memory or task.device
    read = (*_of_rank(task, operator.inputs), *operator.updates)
    return [(t, _taken_from(task, t, memory)) for t in read], [
        (t, memory) for t in _of_rank(task, operator.outputs)
    ]


def _taken_from(task: Compute | Collective, tensor: str, memory: str) -> str:
    """The memory in which a task reads a tensor: its device's, or that from which it streams it."""
    return task.source if isinstance(task, Compute) and tensor in task.streamed else memory


def _of_rank(task: Compute | Collective, tensors: tuple[str, ...]) -> tuple[str, ...]:
    """The tensors of one rank of a collective, which are listed rank by rank; all of any other task."""
    if task.kind != "collective":
        return tensors
    rank, ranks = task.group.index(task.device), len(task.group)
    return tensors[rank * len(tensors) // ranks : (rank + 1) * len(tensors) // ranks]
