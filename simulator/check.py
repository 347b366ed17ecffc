"""Is this a plan? An independent reading of a plan against its graph and its system.

The checker replays the task list as a person would, one task at a time on paper: which memory holds which
value of which tensor. It shares no code with the mappers that write plans nor with the engines that run
them. It reports everything that is wrong, each with the task's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hw_configs.problems import nearest
from hw_configs.system import System
from simulator.plan import Plan, Task
from workloads.graph import PERSISTENT_ROLES, Graph, Operator

__all__ = ["Violation", "check"]


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
    yield from _collectives_meet(plan, graph)
    yield from _order_respects_graph(plan, graph)
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
        for home in homes:
            if home.memory not in system.memories:
                yield Violation(
                    f"homes.{tensor}", f"unknown memory {home.memory!r}{_hint(home.memory, system.memories)}"
                )
    for task in plan.tasks:
        if task.name in seen:
            yield Violation(task.name, "two tasks have this name")
        for earlier in task.after:
            if earlier not in seen:
                yield Violation(task.name, f"waits for {earlier!r}, which does not stand before it")
        seen.add(task.name)
        yield from _unknown_in_task(task, graph, system)


def _unknown_in_task(task: Task, graph: Graph, system: System) -> Iterator[Violation]:
    if task.kind == "transfer":
        if task.tensor not in graph.tensors:
            yield Violation(task.name, f"unknown tensor {task.tensor!r}{_hint(task.tensor, graph.tensors)}")
        for memory in (task.source, task.target):
            if memory not in system.memories:
                yield Violation(task.name, f"unknown memory {memory!r}{_hint(memory, system.memories)}")
        if task.source == task.target:
            yield Violation(task.name, f"copies from {task.source!r} to itself")
    else:
        if task.operator not in graph.operator_by_name:
            hint = _hint(task.operator, graph.operator_by_name)
            yield Violation(task.name, f"unknown operator {task.operator!r}{hint}")
        node = system.nodes.get(task.device)
        if node is None:
            yield Violation(task.name, f"unknown device {task.device!r}{_hint(task.device, system.nodes)}")
        elif node.compute is None or node.memory is None:
            yield Violation(task.name, f"device {task.device!r} does not compute")
    for tensor, memory in task.frees:
        if tensor not in graph.tensors or memory not in system.memories:
            yield Violation(task.name, f"frees ({tensor!r}, {memory!r}), which is not a tensor and a memory")


def _hint(name: str, valid: Mapping[str, object]) -> str:
    near = nearest(name, valid)
    return f" (did you mean {near!r}?)" if near else ""


def _collectives_meet(plan: Plan, graph: Graph) -> Iterator[Violation]:
    """Each collective has one part per rank, side by side in the list, in the group's order."""
    index = 0
    while index < len(plan.tasks):
        task = plan.tasks[index]
        if task.kind != "collective":
            index += 1
            continue
        parts = plan.tasks[index : index + len(task.group)]
        expected = [(task.operator, device) for device in task.group]
        if [(part.operator, part.device) for part in parts] != expected:
            yield Violation(task.name, f"its group {list(task.group)} does not stand next to it, in order")
            return
        if "bytes" not in graph.operator_by_name[task.operator].attributes:
            yield Violation(task.name, f"operator {task.operator!r} states no attribute 'bytes'")
        index += len(task.group)


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
        self.newest: dict[str, int] = {}
        for tensor, homes in plan.homes.items():
            self.newest[tensor] = 0
            for home in homes:
                self.held[tensor, home.memory] = 0

    def play(self, task: Task) -> Iterator[Violation]:
        if task.kind == "transfer":
            yield from self._read(task, task.tensor, task.source)
            self.held[task.tensor, task.target] = self.newest.get(task.tensor, 0)
        else:
            operator = self.graph.operator_by_name[task.operator]
            memory = self.system.nodes[task.device].memory or task.device
            yield from self._compute(task, operator, memory)
        for tensor, memory in task.frees:
            if (tensor, memory) not in self.held:
                yield Violation(task.name, f"frees {tensor!r} in {memory!r}, where it is not")
            self.held.pop((tensor, memory), None)

    def _compute(self, task: Task, operator: Operator, memory: str) -> Iterator[Violation]:
        inputs, outputs = operator.inputs, operator.outputs
        if task.kind == "collective":
            rank, ranks = task.group.index(task.device), len(task.group)
            inputs = inputs[rank * len(inputs) // ranks : (rank + 1) * len(inputs) // ranks]
            outputs = outputs[rank * len(outputs) // ranks : (rank + 1) * len(outputs) // ranks]
        for tensor in (*inputs, *operator.updates):
            yield from self._read(task, tensor, memory)
        for tensor in operator.updates:
            self.newest[tensor] = self.newest.get(tensor, 0) + 1
            self.held[tensor, memory] = self.newest[tensor]
        for tensor in outputs:
            # Recomputing makes the same value again; only the first time is it a new one.
            self.newest.setdefault(tensor, 0)
            self.held[tensor, memory] = self.newest[tensor]

    def _read(self, task: Task, tensor: str, memory: str) -> Iterator[Violation]:
        version = self.held.get((tensor, memory))
        if version is None:
            places = sorted(m for t, m in self.held if t == tensor)
            where = f"it is in {', '.join(places)}" if places else "no memory holds it"
            yield Violation(task.name, f"needs {tensor!r} in {memory!r}, but {where}")
        elif version != self.newest.get(tensor, 0):
            yield Violation(task.name, f"reads a stale copy of {tensor!r} in {memory!r}")

    def leave(self) -> Iterator[Violation]:
        """Persistent tensors are at home and up to date; what was asked for exists."""
        for tensor, homes in self.plan.homes.items():
            if self.graph.tensors[tensor].role not in PERSISTENT_ROLES:
                continue
            for home in homes:
                version = self.held.get((tensor, home.memory))
                if version is None:
                    yield Violation(tensor, f"is not back in its home {home.memory!r} at the end")
                elif version != self.newest[tensor]:
                    yield Violation(tensor, f"was updated elsewhere and is stale in its home {home.memory!r}")
        for tensor in self.graph.outputs:
            if not any(name == tensor for name, _ in self.held):
                yield Violation(tensor, "is an output of the graph, and no memory holds it at the end")


def _addresses_clash(plan: Plan, graph: Graph, system: System) -> Iterator[Violation]:
    """No two copies with planned addresses share a byte while both live, in list order."""
    lives = _planned_lives(plan, graph, system)
    for memory, entries in lives.items():
        entries.sort()
        usable = system.memories[memory].usable_bytes
        for index, (begin, end, low, high, tensor) in enumerate(entries):
            if high > usable:
                yield Violation(tensor, f"ends at byte {high} of {memory!r}, which has {usable}")
            for other_begin, _, other_low, other_high, other in entries[index + 1 :]:
                if other_begin > end:
                    break
                if low < other_high and other_low < high and begin <= other_begin:
                    yield Violation(tensor, f"shares bytes of {memory!r} with {other!r} while both live")


def _planned_lives(
    plan: Plan, graph: Graph, system: System
) -> dict[str, list[tuple[int, int, int, int, str]]]:
    """Memory -> (first task, last task, first byte, end byte, tensor) of every addressed copy."""
    open_copies: dict[tuple[str, str], list[int]] = {}
    closed: dict[str, list[tuple[int, int, int, int, str]]] = {}
    last = len(plan.tasks)

    def close(key: tuple[str, str]) -> None:
        begin, end, address = open_copies.pop(key)
        tensor, memory = key
        size = graph.tensors[tensor].size_bytes
        if size:
            closed.setdefault(memory, []).append((begin, end, address, address + size, tensor))

    for tensor, homes in plan.homes.items():
        persistent = graph.tensors[tensor].role in PERSISTENT_ROLES
        for home in homes:
            if home.address is not None:
                open_copies[tensor, home.memory] = [-1, last if persistent else -1, home.address]
    for index, task in enumerate(plan.tasks):
        memory = task.target if task.kind == "transfer" else system.nodes[task.device].memory or task.device
        for tensor, address in task.addresses.items():
            if (tensor, memory) in open_copies:
                close((tensor, memory))
            open_copies[tensor, memory] = [index, index, address]
        for key in _copies_touched(task, graph, memory):
            if key in open_copies:
                open_copies[key][1] = max(open_copies[key][1], index)
        for tensor, freed in task.frees:
            if (tensor, freed) in open_copies:
                open_copies[tensor, freed][1] = index
                close((tensor, freed))
    for key in list(open_copies):
        if key[0] in graph.outputs:
            open_copies[key][1] = last
        close(key)
    return closed


def _copies_touched(task: Task, graph: Graph, memory: str) -> list[tuple[str, str]]:
    if task.kind == "transfer":
        return [(task.tensor, task.source), (task.tensor, task.target)]
    operator = graph.operator_by_name[task.operator]
    return [(t, memory) for t in (*operator.inputs, *operator.updates, *operator.outputs)]
