"""A plan bound to a graph: every wait, every copy and its users, as flat lists an engine can walk.

The replay goes through the plan's tasks in list order and tracks, for each tensor, the copies that hold its
newest value. It trusts the plan: :func:`simulator.check.check` has already said that it is one. The result
depends on names and wiring only, so that all decode steps of a generation share one bound plan.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hw_configs.system import System
from simulator.plan import Collective, Compute, Plan, Task, Transfer
from workloads.graph import PERSISTENT_ROLES, Graph, Operator, Tensor

__all__ = ["BoundPlan", "Copy", "bind", "moved_bytes", "read_bytes", "shared_memories", "streamed_bytes"]


_COPIES: Final = "transfers and collectives"


@dataclass(slots=True)
class Copy:
    """One residence of a tensor in a memory, from the task that makes it to its last user."""

    tensor: str
    memory: str
    maker: int
    """Index of the task that last wrote it; -1 for a home that no task has updated."""
    home: bool = False
    address: int | None = None
    kept: bool = False
    """Whether no last user drops it: a persistent tensor at home, or a graph output."""
    lasting: bool = False
    """Whether it is still there after the phase: a persistent tensor at home."""
    users: list[int] = field(default_factory=list)
    heir: int = -1
    """The copy that is written over this one by its last user; it holds its bytes from the end of that task on."""
    over: bool = False
    """Whether this copy is such an heir."""
    part_bytes: int = 0
    """Bytes of the tensor that it holds, where a transfer brought a part; 0: all of them."""

    def size(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes that it holds."""
        return min(self.part_bytes or tensors[self.tensor].size_bytes, tensors[self.tensor].size_bytes)


@dataclass(frozen=True)
class BoundPlan:
    """What an engine needs of a plan: for every task its waits, the copies it makes and those it uses."""

    tasks: tuple[Task, ...]
    waits: tuple[tuple[int, ...], ...]
    makes: tuple[tuple[int, ...], ...]
    uses: tuple[tuple[int, ...], ...]
    copies: tuple[Copy, ...]
    streams: Mapping[str, tuple[int, ...]]


def bind(plan: Plan, graph: Graph, system: System) -> BoundPlan:
    """Replay a plan over a graph's wiring."""
    replay = _Replay(plan, graph, system)
    for index, task in enumerate(plan.tasks):
        replay.step(index, task)
    return replay.bound()


def streamed_bytes(task: Compute, graph: Graph) -> float:
    """Bytes that a compute task takes past its own memory: of each streamed input those that it touches."""
    if not task.streamed:
        return 0.0
    operator = graph.operator_by_name[task.operator]
    return float(sum(read_bytes(operator, name, graph.tensors[name].size_bytes) for name in task.streamed))


def read_bytes(operator: Operator, tensor: str, size_bytes: int) -> int:
    """Bytes of one tensor that an operator reads, at most all of them; all where it states totals alone."""
    named = (*operator.inputs, *operator.updates)
    if len(operator.reads) != len(named):
        return size_bytes
    return min(size_bytes, sum(n for name, n in zip(named, operator.reads, strict=True) if name == tensor))


def moved_bytes(task: Transfer, graph: Graph) -> int:
    """Bytes that a transfer brings: all of its tensor, or those that its readers touch."""
    size = graph.tensors[task.tensor].size_bytes
    return min(task.touched_bytes or size, size)


def shared_memories(bound: BoundPlan, system: System) -> set[str]:
    """Memories whose ports more than one device draws on, or a device beside transfers."""
    users: dict[str, set[str]] = {}
    for task in bound.tasks:
        copied: tuple[str, ...]
        if isinstance(task, Transfer):
            copied = (task.source, task.target)
        else:
            memory = system.nodes[task.device].memory or task.device
            copied = (memory,)
        if isinstance(task, Compute):
            users.setdefault(memory, set()).add(task.device)
            copied = (task.source,) if task.streamed else ()
        for name in copied:
            users.setdefault(name, set()).add(_COPIES)
    return {memory for memory, found in users.items() if len(found) > 1}


class _Replay:
    def __init__(self, plan: Plan, graph: Graph, system: System) -> None:
        self.plan, self.graph = plan, graph
        self.memory_of = {node.name: node.memory or node.name for node in system.nodes.values()}
        self.index_of = {task.name: index for index, task in enumerate(plan.tasks)}
        self.copies: list[Copy] = []
        self.here: dict[tuple[str, str], int] = {}
        self.beside: dict[tuple[str, str], list[int]] = {}
        """Parts of a tensor that came to a memory before the one that is ``here``."""
        self.waits: list[dict[int, None]] = []
        self.makes: list[list[int]] = []
        self.uses: list[list[int]] = []
        self.outputs = set(graph.outputs)
        for tensor, homes in plan.homes.items():
            for home in homes:
                self._add(Copy(tensor, home.memory, -1, True, home.address))

    def _add(self, copy: Copy) -> int:
        persistent = self.graph.tensors[copy.tensor].role in PERSISTENT_ROLES
        homes = self.plan.homes.get(copy.tensor, ())
        copy.lasting = persistent and any(home.memory == copy.memory for home in homes)
        copy.kept = copy.lasting or copy.tensor in self.outputs
        self.here[copy.tensor, copy.memory] = len(self.copies)
        self.copies.append(copy)
        return len(self.copies) - 1

    def step(self, index: int, task: Task) -> None:
        self.waits.append({self.index_of[name]: None for name in task.after})
        self.makes.append([])
        self.uses.append([])
        if task.kind == "transfer":
            self._read(index, task.tensor, task.source)
            self._bring(index, task)
        else:
            operator = self.graph.operator_by_name[task.operator]
            memory = self.memory_of[task.device]
            for tensor in dict.fromkeys((*_of_rank(task, operator.inputs), *operator.updates)):
                self._read(index, tensor, _taken_from(task, tensor, memory))
            for tensor in operator.updates:
                self._overwrite(index, self.here[tensor, memory])
            for tensor in _of_rank(task, operator.outputs):
                self._make(index, task, tensor, memory)
        for key in task.frees:
            for copy in (*self.beside.pop(key, ()), self.here.pop(key)):
                self._use(index, copy)
                self.copies[copy].kept = self.copies[copy].lasting = False

    def _read(self, index: int, tensor: str, memory: str) -> None:
        for copy in (*self.beside.get((tensor, memory), ()), self.here[tensor, memory]):
            if self.copies[copy].maker >= 0:
                self.waits[index][self.copies[copy].maker] = None
            self._use(index, copy)

    def _bring(self, index: int, task: Transfer) -> None:
        """A transfer's copy; a part comes beside those that are there, up to the whole tensor."""
        key = (task.tensor, task.target)
        before = (*self.beside.get(key, ()), self.here[key]) if key in self.here else ()
        if not task.touched_bytes or not all(self.copies[copy].part_bytes for copy in before):
            self._make(index, task, task.tensor, task.target)
            return
        room = self.graph.tensors[task.tensor].size_bytes - sum(self.copies[n].part_bytes for n in before)
        if before and room <= 0:
            self._make(index, task, task.tensor, task.target)
            return
        self.beside[key] = list(before)
        self.here.pop(key, None)
        self._make(index, task, task.tensor, task.target)
        self.copies[self.here[key]].part_bytes = min(task.touched_bytes, room)

    def _use(self, index: int, copy: int) -> None:
        users = self.copies[copy].users
        if not users or users[-1] != index:
            users.append(index)
            self.uses[index].append(copy)

    def _overwrite(self, index: int, copy: int) -> None:
        """An update in place waits for the readers before it and is what later readers wait for."""
        for user in self.copies[copy].users:
            if user != index:
                self.waits[index][user] = None
        self.copies[copy].maker = index
        # Waits on this update imply waits on all before it, so the list of users can start afresh.
        self.copies[copy].users = [index]

    def _make(self, index: int, task: Task, tensor: str, memory: str) -> None:
        existing = self.here.get((tensor, memory))
        if existing is not None:
            self._use(index, existing)
            self._overwrite(index, existing)
            return
        number = self._add(Copy(tensor, memory, index, False, task.addresses.get(tensor)))
        under = task.in_place.get(tensor) if isinstance(task, Compute) else None
        if under is not None:
            self.copies[self.here[under, memory]].heir = number
            self.copies[number].over = True
        self.makes[index].append(number)
        self._use(index, number)

    def _wait_for_addresses(self) -> None:
        """A copy at planned bytes waits for the users of every earlier copy that held some of them."""
        made_at = {number: index for index, made in enumerate(self.makes) for number in made}
        users = self._last_uses()
        held: dict[str, _Bytes] = {}
        for number, copy in enumerate(self.copies):
            if copy.address is None:
                continue
            size = copy.size(self.graph.tensors)
            memory = held.setdefault(copy.memory, _Bytes())
            for holder in memory.take(copy.address, copy.address + size, number):
                made = made_at.get(number, -1)
                if made >= 0:
                    self.waits[made].update(dict.fromkeys(users[holder]))

    def _last_uses(self) -> list[list[int]]:
        users: list[list[int]] = [[] for _ in self.copies]
        for index, used in enumerate(self.uses):
            for number in used:
                users[number].append(index)
        return users

    def bound(self) -> BoundPlan:
        self._wait_for_addresses()
        streams: dict[str, list[int]] = {}
        for index, task in enumerate(self.plan.tasks):
            streams.setdefault(task.stream, []).append(index)
            self.waits[index].pop(index, None)
        return BoundPlan(
            self.plan.tasks,
            tuple(tuple(waits) for waits in self.waits),
            tuple(tuple(made) for made in self.makes),
            tuple(tuple(used) for used in self.uses),
            tuple(self.copies),
            {stream: tuple(indices) for stream, indices in streams.items()},
        )


class _Bytes:
    """Which copy held each byte of a memory last, as disjoint ranges in order."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int, int]] = []

    def take(self, low: int, high: int, holder: int) -> list[int]:
        """Give the bytes [low, high) to a holder; returns those who held some of them."""
        if low >= high:
            return []
        first = bisect_right(self.ranges, (low,))
        if first and self.ranges[first - 1][1] > low:
            first -= 1
        last = bisect_left(self.ranges, (high,))
        lost = self.ranges[first:last]
        kept = [(low, high, holder)]
        if lost and lost[0][0] < low:
            kept.insert(0, (lost[0][0], low, lost[0][2]))
        if lost and lost[-1][1] > high:
            kept.append((high, lost[-1][1], lost[-1][2]))
        self.ranges[first:last] = kept
        return [number for _, _, number in lost]


def _taken_from(task: Compute | Collective, tensor: str, memory: str) -> str:
    """The memory in which a task reads a tensor: its device's, or that from which it streams it."""
    return task.source if isinstance(task, Compute) and tensor in task.streamed else memory


def _of_rank(task: Compute | Collective, tensors: tuple[str, ...]) -> tuple[str, ...]:
    """A collective lists its tensors rank by rank, in the order of its group; other tasks own them all."""
    if task.kind != "collective":
        return tensors
    share = len(tensors) // len(task.group)
    rank = task.group.index(task.device)
    return tensors[rank * share : (rank + 1) * share]
