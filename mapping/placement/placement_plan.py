"""From a placement to a plan: who computes what and what lives where, written as tasks and moves.

A placement says for every operator its device and for every tensor without a producer its home. The plan follows:
operators run in program order on one stream a device; what an operator reads and its memory lacks is brought there
from where it is; a persistent tensor that lives elsewhere is fetched ahead of use by a copy engine of its own, at most
``ahead`` operators' worth at a time on each way, and dropped after it; what a cache gained goes back to its home.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hw_configs.system import System
from mapping.offload.touched_weights import brought_bytes
from simulator.plan import Compute, Home, Plan, PlanNotes, Task, Transfer
from simulator.rewrite.apply import rewrite
from workloads.graph import PERSISTENT_ROLES, Graph, Operator
from workloads.operators import GroupedProduct

__all__ = ["Placement", "fetched_bytes", "last_of_forward", "write_placement"]

NEW: Final = "/new"
"""How the name of what an appending operator adds to a cache ends (:mod:`simulator.rewrite.divide`)."""


@dataclass(frozen=True)
class Placement:
    """Devices of operators and homes of tensors, by their names in the graph that ``rewrites`` makes.

    ``homes`` may leave out what no operator reads. ``ahead``: operators whose fetched tensors are in flight or waiting.
    ``hand_over_s``: seconds of software whenever the work goes on at another device, however many activations go along.
    """

    devices: Mapping[str, str]
    homes: Mapping[str, str]
    rewrites: Plan
    ahead: int = 2
    hand_over_s: float = 0.0
    parked: Mapping[str, str] = field(default_factory=dict)
    """Activations that wait in another memory from their last reader of the forward pass to the backward pass."""
    late: Mapping[str, str] = field(default_factory=dict)
    """Tensors of which nobody knows what is wanted before an operator has run: experts' weights and their router."""


def write_placement(
    graph: Graph, system: System, placement: Placement, mapper: str, notes: PlanNotes
) -> Plan:
    """The plan of a placement of a graph that is not rewritten yet."""
    return _Writer(graph, system, placement).write(mapper, notes)


def last_of_forward(graph: Graph, name: str) -> str:
    """The last operator of the forward pass that makes or reads an activation."""
    readers = [r for r in graph.consumers[name] if graph.operator_by_name[r].place.training_pass == "forward"]
    return readers[-1] if readers else graph.producer[name]


def fetched_bytes(graph: Graph, op: Operator, name: str, *, late: bool) -> int:
    """Bytes that a fetch of a tensor for one operator brings: all of it, or what the operator is known to touch.

    Which rows of a table are wanted is known beforehand, which experts only once the router has run (``late``). What
    the operator changes comes whole, for it goes home whole.
    """
    size = graph.tensors[name].size_bytes
    whole = graph.tensors[name].is_cache or name in op.updates
    whole = whole or (isinstance(op.work, GroupedProduct) and not late)
    return size if whole else brought_bytes(graph, op, name)


@dataclass
class _Writer:
    source: Graph
    system: System
    placement: Placement
    tasks: list[Task] = field(default_factory=list)
    here: dict[str, list[str]] = field(default_factory=dict)
    """Memories that hold a copy of each tensor at this point of the list, the first of them first."""
    users: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Operators that used fetched tensors, by the way those came."""
    made: set[str] = field(default_factory=set)
    leave: dict[str, list[str]] = field(default_factory=dict)
    """Parked activations by the operator after which they leave."""
    running: str = ""
    """The device of the operator before."""
    handed: set[tuple[str, str]] = field(default_factory=set)
    """Ways on which the hand-over to that device is paid for."""

    def write(self, mapper: str, notes: PlanNotes) -> Plan:
        self.graph = rewrite(self.source, self.placement.rewrites)
        homes = self._homes()
        self.here = {name: [home.memory for home in where] for name, where in homes.items()}
        for name in self.placement.parked:
            self.leave.setdefault(last_of_forward(self.graph, name), []).append(name)
        for op in self.graph.operators:
            self._run(op)
            for name in self.leave.get(op.name, ()):
                self._park(name)
        return replace(
            self.placement.rewrites,
            graph=self.source.name,
            system=self.system.name,
            mapper=mapper,
            tasks=tuple(self.tasks),
            homes=homes,
            notes=notes,
        )

    def _homes(self) -> dict[str, tuple[Home, ...]]:
        found: dict[str, tuple[Home, ...]] = {}
        for name in self.graph.tensors:
            if name in self.graph.producer:
                continue
            home = self.placement.homes.get(name)
            readers = self.graph.consumers[name]
            if home is None:
                device = self.placement.devices[readers[0] if readers else self.graph.operators[0].name]
                home = self._memory(device)
            found[name] = (Home(home),)
        return found

    def _memory(self, device: str) -> str:
        return self.system.nodes[device].memory or device

    def _run(self, op: Operator) -> None:
        device = self.placement.devices[op.name]
        memory = self._memory(device)
        if device != self.running:
            self.running = device
            self.handed.clear()
        fetched = [name for name in dict.fromkeys((*op.inputs, *op.updates)) if memory not in self.here[name]]
        persistent = [name for name in fetched if self.graph.tensors[name].role in PERSISTENT_ROLES]
        early = [name for name in fetched if name in persistent or name in self.placement.parked]
        ways = {(self.here[name][0], memory) for name in early if name not in self.placement.late}
        slots = {way: self._slot(way) for way in ways}
        for name in fetched:
            self._bring(name, memory, slots.get((self.here[name][0], memory), ()), op)
        changed = [name for name in persistent if name in op.updates]
        frees = tuple(
            (name, memory) for name in persistent if name not in changed and self._wanted_again(name, op)
        )
        self.tasks.append(Compute(op.name, f"{device}.compute", operator=op.name, device=device, frees=frees))
        for way in sorted(ways):
            self.users.setdefault(way, []).append(op.name)
        for name in changed:
            self._give_back(name, memory)
        for name in persistent:
            self.here[name].remove(memory)
        for name in op.outputs:
            self.here[name] = [memory]
            self._store(name, memory)

    def _slot(self, way: tuple[str, str]) -> tuple[str, ...]:
        """The operator whose end frees the room for what is fetched next that way."""
        users, ahead = self.users.get(way, []), self.placement.ahead
        return (users[-ahead],) if len(users) >= ahead else ()

    def _bring(self, name: str, memory: str, slot: tuple[str, ...], op: Operator) -> None:
        tensor = self.graph.tensors[name]
        source = self.here[name][0]
        persistent = tensor.role in PERSISTENT_ROLES or name in self.placement.parked
        late = self.placement.late.get(name, "")
        # What is wanted at once does not queue behind what is fetched ahead.
        lane = ("want " if late else "fetch ") if persistent else ""
        task = f"{'fetch' if persistent else 'send'} {name} to {memory}"
        while task in self.made:
            task += " again"
        self.made.add(task)
        after = (late,) if late else slot
        self.tasks.append(
            Transfer(
                task, f"{lane}{source}->{memory}", tensor=name, source=source, target=memory,
                after=after if persistent else (), **self._extra(name, persistent, op),
            )
        )  # fmt: skip
        self.here[name].append(memory)

    def _extra(self, name: str, persistent: bool, op: Operator) -> dict[str, Any]:
        """Fields of a transfer that most leave alone."""
        extra: dict[str, Any] = {}
        if persistent:
            touched = fetched_bytes(self.graph, op, name, late=name in self.placement.late)
            if touched < self.graph.tensors[name].size_bytes:
                extra["touched_bytes"] = touched
        way = (self.here[name][0], self._memory(self.running))
        if not persistent and self.placement.hand_over_s and way not in self.handed:
            extra["wait_s"] = self.placement.hand_over_s
            self.handed.add(way)
        return extra

    def _park(self, name: str) -> None:
        """An activation leaves for the memory in which it waits."""
        memory, target = self.here[name][0], self.placement.parked[name]
        self.tasks.append(
            Transfer(
                f"park {name}", f"park {memory}->{target}", tensor=name, source=memory, target=target,
                frees=tuple((name, there) for there in self.here[name]),
            )
        )  # fmt: skip
        self.here[name] = [target]

    def _give_back(self, name: str, memory: str) -> None:
        """A tensor that was changed away from home goes back there."""
        home = self.here[name][0]
        task = f"store {name} of {self.tasks[-1].name}"
        self.tasks.append(
            Transfer(
                task,
                f"store {memory}->{home}",
                tensor=name,
                source=memory,
                target=home,
                frees=((name, memory),),
            )
        )

    def _wanted_again(self, name: str, op: Operator) -> bool:
        readers = self.graph.consumers[name]
        return readers[-1] != op.name

    def _store(self, name: str, memory: str) -> None:
        """What a cache gained goes to where the cache lives."""
        if not name.endswith(NEW):
            return
        home = self.placement.homes.get(name.removesuffix(NEW))
        if home is not None and home != memory:
            self.tasks.append(
                Transfer(f"store {name}", f"store {memory}->{home}", tensor=name, source=memory, target=home)
            )
            self.here[name].append(home)
