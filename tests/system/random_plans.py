"""Random machines, graphs and valid plans for property tests."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from machines import cpu, drive, gpu, op, ram, system, wire

from hw_configs.system import System
from simulator.plan import Collective, Compute, Home, Plan, Task, Transfer
from workloads.graph import PERSISTENT_ROLES, Graph, Operator, Role, Tensor
from workloads.operators import CollectiveWork

SIZES = (0, 1, 64, 500, 1000, 4096)
BANDWIDTHS = (500.0, 1000.0, 4000.0)
SECONDS = (0.0, 0.0, 0.25, 0.5, 1.0, 3.0)


@dataclass(frozen=True)
class Case:
    """A plan that is valid by the way it was made, with its graph and machine."""

    plan: Plan
    graph: Graph
    system: System
    lanes: int
    """Compute streams per device."""


@st.composite
def cases(draw: st.DrawFn, lanes: int | None = None, capacity: int = 1 << 30) -> Case:
    """A random case; ``lanes`` fixes the number of compute streams per device."""
    rng = draw(st.randoms(use_true_random=False))
    machine = random_system(rng, capacity)
    gpus = [node.name for node in machine.of_kind("gpu")]
    graph = random_graph(rng, len(gpus))
    chosen = lanes or rng.choice((1, 1, 2))
    return Case(_Writer(rng, graph, machine, chosen).plan(), graph, machine, chosen)


def random_system(rng: random.Random, capacity: int) -> System:
    """One to four GPUs, a host; a bus, own wires, a mesh; memories with one port or two, at times unified.

    At times a drive, with one port or two at two rates, and a processor that works in it.
    """
    count = rng.randint(1, 4)
    names = [f"gpu{i}" for i in range(count)]
    rate = rng.choice((1e5, 3000.0))
    latency = rng.choice((0.0, 0.125))
    unified = rng.random() < 0.2
    ports = rng.choice((1, 1, 2))
    devices = {name: gpu(name, ram(capacity, rate, latency, ports)) for name in names}
    if unified:
        devices[names[-1]] = gpu(names[-1], None)
    duplex = rng.choice(("full", "half"))
    wires = []
    if rng.random() < 0.3:
        ends = [(name, "host") for name in names]
        wires.append(wire("bus", ends, rng.choice(BANDWIDTHS), latency, duplex))
    else:
        wires += [wire(f"up{n}", [(n, "host")], rng.choice(BANDWIDTHS), latency, duplex) for n in names]
    if rng.random() < 0.4:
        wires += [
            wire(f"{a}-{b}", [(a, b)], rng.choice(BANDWIDTHS), latency, duplex)
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ]
    everything = {**devices, "host": cpu("host", ram(1 << 30, rate, latency))}
    if rng.random() < 0.4:
        everything["ssd"] = drive(
            "ssd", 1 << 30, 700.0, rng.choice((700.0, 300.0)), latency, rng.choice((1, 2))
        )
        wires.append(wire("nvme", [("ssd", "host")], rng.choice(BANDWIDTHS)))
        if rng.random() < 0.5:
            everything["near"] = cpu("near", None)
    places = {names[-1]: "host"} if unified else {}
    return system(everything, wires, {**places, "near": "ssd"})


def random_graph(rng: random.Random, ranks: int) -> Graph:
    """Up to ten operators over weights, caches, inputs and what others made; at times a collective."""
    tensors: dict[str, Tensor] = {}

    def tensor(name: str, role: Role = Role.ACTIVATION) -> str:
        size = rng.choice(SIZES)
        tensors[name] = Tensor(name, (size,), "int8", role)
        return name

    given = [tensor(f"weight{i}", Role.WEIGHT) for i in range(rng.randint(0, 3))]
    caches = [
        tensor(f"cache{i}", rng.choice((Role.KV_CACHE, Role.OPTIMIZER_STATE)))
        for i in range(rng.randint(0, 2))
    ]
    given += [tensor(f"input{i}") for i in range(rng.randint(0, 2))]
    made: list[str] = []
    operators: list[Operator] = []
    for number in range(rng.randint(0, 9)):
        pool = [*given, *caches, *made, *made]
        inputs = [rng.choice(pool) for _ in range(rng.randint(0, 3))] if pool else []
        if ranks > 1 and len(made) >= ranks and rng.random() < 0.25:
            kind = rng.choice(("all_reduce", "all_gather", "all_to_all", "broadcast", "reduce_scatter"))
            group = rng.randint(2, ranks)
            inputs = rng.sample(made, group)
            outputs = [tensor(f"t{number}.{i}") for i in range(group)]
            size = rng.choice((0, 10, 1000))
            operators.append(op(f"op{number}", inputs, outputs, kind=kind, bytes=size, group=group))
            made += outputs
            continue
        updates = [rng.choice(caches)] if caches and rng.random() < 0.3 else []
        if made and rng.random() < 0.1:
            updates.append(rng.choice(made))  # a gradient that accumulates
        outputs = [tensor(f"t{number}.{i}") for i in range(rng.randint(0, 2))]
        launch = rng.choice((0.0, 0.0, 0.125))
        moves = (rng.choice(SIZES), rng.choice(SIZES))
        seconds = rng.choice(SECONDS)
        operators.append(op(f"op{number}", inputs, outputs, seconds, updates, moves=moves, launch=launch))
        made += outputs
    wanted = [name for name in made if rng.random() < 0.2]
    return Graph("random", tensors, tuple(operators), tuple(wanted))


class _Writer:
    """Writes a random plan and keeps track of which memory holds the newest value of what."""

    def __init__(self, rng: random.Random, graph: Graph, machine: System, lanes: int) -> None:
        self.rng, self.graph, self.machine, self.lanes = rng, graph, machine, lanes
        self.memories = list(machine.memories)
        self.gpus = [node.name for node in machine.of_kind("gpu")]
        self.workers = [*self.gpus, "host", *(["near"] if "near" in machine.nodes else [])]
        self.tasks: list[Task] = []
        self.fresh: dict[str, set[str]] = {}
        self.held: set[tuple[str, str]] = set()
        self.version: dict[str, int] = {}
        self.read_at: dict[str, dict[str, int]] = {}
        self.homes: dict[str, tuple[Home, ...]] = {}
        self.engines = rng.randint(1, 3)

    def plan(self) -> Plan:
        updated = {t for o in self.graph.operators for t in o.updates}
        for name in self.graph.tensors:
            if name in self.graph.producer:
                continue
            count = 2 if name not in updated and self.rng.random() < 0.2 and len(self.memories) > 1 else 1
            places = self.rng.sample(self.memories, count)
            self.homes[name] = tuple(Home(place) for place in places)
            self.fresh[name] = set(places)
            self.held |= {(name, place) for place in places}
        for operator in self._order():
            self._run(operator)
            self._evict()
            if self.rng.random() < 0.1:
                self._recompute()
        self._return_home()
        return Plan(self.graph.name, self.machine.name, "random", tuple(self.tasks), self.homes)

    def _order(self) -> list[Operator]:
        done: set[str] = set()
        rest = list(self.graph.operators)
        order = []
        while rest:
            ready = [o for o in rest if set(self.graph.dependencies[o.name]) <= done]
            chosen = self.rng.choice(ready)
            rest.remove(chosen)
            done.add(chosen.name)
            order.append(chosen)
        return order

    def _memory(self, device: str) -> str:
        return self.machine.nodes[device].memory or device

    def _after(self) -> tuple[str, ...]:
        if self.tasks and self.rng.random() < 0.2:
            return (self.rng.choice(self.tasks).name,)
        return ()

    def _bring(self, tensor: str, memory: str) -> None:
        if memory in self.fresh[tensor]:
            return
        source = self.rng.choice(sorted(self.fresh[tensor]))
        stream = f"copy{self.rng.randrange(self.engines)}"
        name = f"move{len(self.tasks)} {tensor}"
        after = self._after()
        self.tasks.append(Transfer(name, stream, tensor=tensor, source=source, target=memory, after=after))
        self.fresh[tensor].add(memory)
        self.held.add((tensor, memory))

    def _run(self, operator: Operator, suffix: str = "") -> None:
        if isinstance(operator.work, CollectiveWork):
            group = self.rng.sample(self.gpus, operator.work.group)
            for tensor, device in zip(operator.inputs, group, strict=True):
                self._bring(tensor, self._memory(device))
            after = self._after()
            for rank, device in enumerate(group):
                stream = f"{device}.compute0"
                name = f"{operator.name}@{rank}{suffix}"
                self.tasks.append(Collective(name, stream, operator.name, device, tuple(group), after=after))
                self._made(operator.outputs[rank], self._memory(device))
        else:
            device = self.rng.choice(self.workers)
            memory = self._memory(device)
            for tensor in dict.fromkeys((*operator.inputs, *operator.updates)):
                self._bring(tensor, memory)
            stream = f"{device}.compute{self.rng.randrange(self.lanes)}"
            name, after = operator.name + suffix, self._after()
            self.tasks.append(Compute(name, stream, operator.name, device, after=after))
            for tensor in operator.outputs:
                self._made(tensor, memory)
        self.read_at.setdefault(operator.name, {t: self.version.get(t, 0) for t in operator.inputs})
        for tensor in operator.updates:
            self.version[tensor] = self.version.get(tensor, 0) + 1
            self.fresh[tensor] = {memory}

    def _made(self, tensor: str, memory: str) -> None:
        self.fresh.setdefault(tensor, set()).add(memory)
        self.held.add((tensor, memory))

    def _evict(self) -> None:
        """Drop copies whose value lives on elsewhere, at times; ``_return_home`` brings homes back."""
        if not self.tasks or self.tasks[-1].kind == "collective" or self.rng.random() < 0.6:
            return
        frees = []
        for tensor, memory in sorted(self.held):
            others = self.fresh[tensor] - {memory}
            if others and self.rng.random() < 0.3:
                frees.append((tensor, memory))
                self.held.discard((tensor, memory))
                self.fresh[tensor].discard(memory)
        self.tasks[-1] = replace(self.tasks[-1], frees=tuple(frees))

    def _recompute(self) -> None:
        """Run an operator again whose inputs and outputs have not changed since."""
        for name in sorted(self.read_at):
            operator = self.graph.operator_by_name[name]
            same = all(self.version.get(t, 0) == v for t, v in self.read_at[name].items())
            if same and not operator.updates and not any(self.version.get(t, 0) for t in operator.outputs):
                self._run(operator, f" again{len(self.tasks)}")
                return

    def _return_home(self) -> None:
        for tensor, homes in self.homes.items():
            if self.graph.tensors[tensor].role in PERSISTENT_ROLES:
                for home in homes:
                    self._bring(tensor, home.memory)
