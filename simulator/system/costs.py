"""What tasks cost on one system: operators through the cost model, transfers and collectives through routes.

Resources are named strings: a wire's direction (``pcie:gpu-cpu>``), a half-duplex wire, a memory's port
(``host``) or, where reading and writing differ, its two ports (``ssd:read``, ``ssd:write``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from hw_configs.problems import bad_input
from hw_configs.system import System
from simulator.cost.collective import ALGORITHMS, AUTO, CHOICES, schedule
from simulator.cost.model import CostModel, OperatorCost
from workloads.graph import Operator

__all__ = ["CostTable", "Path", "Round"]


@dataclass(frozen=True, slots=True)
class Path:
    """From one memory to another: the resources a flow holds, and the latency of its first byte."""

    resources: tuple[str, ...]
    latency_s: float
    narrowest: str
    """The wire or memory port that bounds a flow with the path to itself."""


@dataclass(frozen=True, slots=True)
class Round:
    """Messages of a collective that run side by side: how many hops follow one another, who sends what."""

    hops: int
    sends: tuple[tuple[str, str, int], ...]


class CostTable:
    """Costs on one system, remembered. One table serves all phases of a run.

    ``collective`` is an algorithm, or ``auto``: the faster one for a collective's size and ranks, judged with
    the wires to itself. ``port_rates`` are bandwidths of memories that were measured instead of stated.
    """

    def __init__(
        self,
        system: System,
        model: CostModel,
        collective: str = AUTO,
        port_rates: Mapping[str, float] | None = None,
    ) -> None:
        if collective not in CHOICES:
            known = ", ".join(CHOICES)
            raise bad_input(f"found {collective!r}; expected one of {known}", path="--collective")
        self.system, self.model, self.collective = system, model, collective
        self._port_rates = port_rates or {}
        # Keyed by identity: the decode steps of a generation share the operators that do not change.
        self._operators: dict[tuple[int, str], tuple[Operator, OperatorCost]] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        self._rounds: dict[tuple[str, int, tuple[str, ...]], tuple[Round, ...]] = {}

    def operator(self, operator: Operator, device: str) -> OperatorCost:
        """Cost of an operator on a node, working in the node's memory."""
        key = (id(operator), device)
        known = self._operators.get(key)
        if known is None:
            node = self.system.nodes[device]
            memory = self.system.memories[node.memory or device]
            known = (operator, self.model.cost(operator, node, memory))
            if len(self._operators) > 200_000:
                self._operators.clear()
            self._operators[key] = known
        return known[1]

    def path(self, source: str, target: str) -> Path:
        """The path of a copy from one memory to another; ``InputError`` when no link joins them."""
        key = (source, target)
        if key not in self._paths:
            self._paths[key] = self._find_path(source, target)
        return self._paths[key]

    def rounds(self, operator: Operator, devices: tuple[str, ...]) -> tuple[Round, ...]:
        """The rounds of a collective operator over the ranks' devices.

        Steps in which the same ranks send the same shares to the same ranks, as those of a ring do, follow
        one another without a gap, so they are one round with all their bytes and one latency per step.
        """
        key = (operator.kind, int(operator.attributes["bytes"]), devices)
        if key not in self._rounds:
            self._rounds[key] = self._find_rounds(*key)
        return self._rounds[key]

    @cached_property
    def capacity(self) -> dict[str, float]:
        """Bytes per second of every resource."""
        rates: dict[str, float] = {}
        for wire in self.system.wires.values():
            for forward in (True, False):
                rates[self._wire(wire.name, forward)] = wire.link.bandwidth
        for memory in self.system.memories.values():
            read, write = self._ports(memory.name)
            rates[read] = self._port_rates.get(memory.name, memory.read_bandwidth)
            rates[write] = self._port_rates.get(memory.name, memory.write_bandwidth)
        return rates

    def _find_path(self, source: str, target: str) -> Path:
        route = self.system.route(source, target)
        memories = self.system.memories
        latency = memories[source].latency_s + sum(self.system.wires[wire].link.latency for wire, _ in route)
        wires = tuple(self._wire(wire, forward) for wire, forward in route)
        resources = (self._ports(source)[0], *wires, self._ports(target)[1])
        narrowest = min(resources, key=self.capacity.__getitem__)
        return Path(resources, latency, narrowest.rstrip("<>"))

    def _find_rounds(self, kind: str, size: int, devices: tuple[str, ...]) -> tuple[Round, ...]:
        algorithms = ALGORITHMS if self.collective == AUTO else (self.collective,)
        candidates = [self._rounds_by(algorithm, kind, size, devices) for algorithm in algorithms]
        return min(candidates, key=self._seconds_alone)

    def _seconds_alone(self, rounds: tuple[Round, ...]) -> float:
        """Time of a collective that has the wires to itself: latencies, and the fullest wire of each round."""
        seconds, nodes = 0.0, self.system.nodes
        for round_ in rounds:
            latency, load = 0.0, dict[str, float]()
            for source, target, size in round_.sends:
                path = self.path(nodes[source].memory or source, nodes[target].memory or target)
                latency = max(latency, path.latency_s)
                for resource in path.resources:
                    load[resource] = load.get(resource, 0.0) + size
            seconds += latency * round_.hops
            seconds += max((total / self.capacity[name] for name, total in load.items()), default=0.0)
        return seconds

    def _rounds_by(self, algorithm: str, kind: str, size: int, devices: tuple[str, ...]) -> tuple[Round, ...]:
        form = schedule(kind, algorithm, len(devices), size)
        rounds: list[tuple[int, dict[tuple[int, int], int]]] = []
        shape: dict[tuple[int, int], int] = {}
        for step in range(form.steps):
            messages = list(form.messages(step))
            before, shape = shape, {(m.source, m.target): len(m.chunks) for m in messages}
            hops, sent = rounds.pop() if rounds and before == shape else (0, {})
            for m in messages:
                sent[m.source, m.target] = sent.get((m.source, m.target), 0) + m.bytes
            rounds.append((hops + 1, sent))
        return tuple(
            Round(hops, tuple((devices[a], devices[b], total) for (a, b), total in sent.items()))
            for hops, sent in rounds
        )

    def _wire(self, name: str, forward: bool) -> str:
        if self.system.wires[name].link.duplex == "half":
            return name
        return name + (">" if forward else "<")

    def _ports(self, memory: str) -> tuple[str, str]:
        space = self.system.memories[memory]
        if space.read_bandwidth == space.write_bandwidth:
            return memory, memory
        return f"{memory}:read", f"{memory}:write"
