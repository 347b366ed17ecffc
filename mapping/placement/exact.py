"""Small graphs placed exactly: every device for every operator, every home for every weight, the best plan run.

Depth first over operators in program order. A partial placement is cut off when its own schedule without contention,
and the shortest chain of what is left, already take as long as the best plan that has run: an event-driven run is never
faster than that schedule. What reaches the end is written as a plan, checked and run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mapping.deadline import is_late
from mapping.placement.columns import Scope
from mapping.placement.draft import UnitChoice
from mapping.placement.machine import Machine
from mapping.placement.placement_plan import Placement, write_placement
from mapping.placement.trial import Trial, try_plan
from simulator.plan import Plan, PlanNotes
from workloads.graph import PERSISTENT_ROLES, Graph, Operator

__all__ = ["MOST_DEVICES", "MOST_OPERATORS", "Exact", "operator_choices", "place_exactly", "placed_so"]

MOST_OPERATORS: Final = 9
"""Operators of a graph that is placed exactly."""
MOST_DEVICES: Final = 4
"""Devices of a machine on which that is tried."""
MOST_STEPS: Final = 50_000
"""Partial placements that are looked at; a search that needs more ends without a proof."""


@dataclass
class Exact:
    """The best plan, and how many placements were run to the end."""

    plan: Plan | None = None
    trial: Trial = field(default_factory=lambda: Trial(float("inf"), float("inf")))
    runs: int = 0
    finished: bool = True


def operator_choices(graph: Graph, machine: Machine, op: Operator, scope: Scope) -> list[UnitChoice]:
    """Devices that can run an operator, with every home that its persistent tensors may have."""
    kept = any(graph.tensors[name].role in PERSISTENT_ROLES for name in (*op.inputs, *op.updates))
    found: list[UnitChoice] = []
    for place in machine.general:
        for device, memory in zip(place.devices, place.memories, strict=True):
            if not scope.computes(place) or machine.cost(op, device) is None:
                continue
            member = type(place)(place.kind, (device,), (memory,))
            homes = [memory]
            if kept:
                homes += [
                    other for other in machine.system.memories
                    if other != memory and scope.holds(other, cache=False) and machine.move(other, memory) is not None
                ]  # fmt: skip
            found += [UnitChoice(member, home) for home in homes]
    return found


def placed_so(
    graph: Graph, machine: Machine, choices: Sequence[UnitChoice], ahead: int, hand_over_s: float
) -> Plan:
    """The plan of one choice per operator; what operators share lives where the first of them has it."""
    devices, homes = dict[str, str](), dict[str, str]()
    for op, choice in zip(graph.operators, choices, strict=True):
        devices[op.name] = choice.device
        for name in (*op.inputs, *op.updates):
            if graph.tensors[name].role in PERSISTENT_ROLES:
                homes.setdefault(name, choice.weights)
    rewrites = Plan(graph.name, machine.system.name, "", (), {})
    placement = Placement(devices, homes, rewrites, ahead, hand_over_s)
    return write_placement(graph, machine.system, placement, "co-place", PlanNotes())


def place_exactly(
    graph: Graph, machine: Machine, scope: Scope, ahead: int, hand_over_s: float, objective: str = "time",
    known: Trial | None = None,
) -> Exact:  # fmt: skip
    """The best of all placements of a small graph, by their runs; no plan if ``known`` is as good."""
    search = _Search(graph, machine, scope, ahead, hand_over_s, objective)
    if known is not None:
        search.found.trial = known
    search.descend(0)
    return search.found


class _Search:
    def __init__(
        self, graph: Graph, machine: Machine, scope: Scope, ahead: int, hand_over_s: float, objective: str
    ) -> None:
        self.graph, self.machine, self.ahead, self.hand_over_s = graph, machine, ahead, hand_over_s
        self.by_time = objective == "time"
        self.ways = [operator_choices(graph, machine, op, scope) for op in graph.operators]
        self.seconds = [
            [self._alone(op, choice) for choice in ways]
            for op, ways in zip(graph.operators, self.ways, strict=True)
        ]
        for ways, seconds in zip(self.ways, self.seconds, strict=True):
            order = sorted(range(len(ways)), key=lambda i: (seconds[i], ways[i].fetches))
            ways[:], seconds[:] = [ways[i] for i in order], [seconds[i] for i in order]
        self.tail = self._tails()
        self.chosen: list[UnitChoice] = []
        self.ends: list[float] = []
        self.found = Exact()
        self.steps = 0

    def _alone(self, op: Operator, choice: UnitChoice) -> float:
        cost = self.machine.cost(op, choice.device)
        assert cost is not None
        return cost.seconds + cost.launch_seconds

    def _tails(self) -> dict[str, float]:
        """The longest chain of operators that follow each one, each at its fastest."""
        tail: dict[str, float] = {}
        least = {op.name: min(own) for op, own in zip(self.graph.operators, self.seconds, strict=True)}
        followers: dict[str, list[str]] = {op.name: [] for op in self.graph.operators}
        for op in self.graph.operators:
            for before in self.graph.dependencies[op.name]:
                followers[before].append(op.name)
        for op in reversed(self.graph.operators):
            tail[op.name] = max((least[name] + tail[name] for name in followers[op.name]), default=0.0)
        return tail

    def descend(self, index: int) -> None:
        self.steps += 1
        if is_late() or self.steps > MOST_STEPS:
            self.found.finished = False
            return
        if index == len(self.ways):
            self._run()
            return
        for choice, seconds in zip(self.ways[index], self.seconds[index], strict=True):
            end = self._start(index, choice) + seconds
            if self.by_time and end + self.tail[self.graph.operators[index].name] >= self.found.trial.seconds:
                continue
            self.chosen.append(choice)
            self.ends.append(end)
            self.descend(index + 1)
            self.chosen.pop()
            self.ends.pop()

    def _start(self, index: int, choice: UnitChoice) -> float:
        """When an operator can begin at the earliest: its device is free and its inputs have come."""
        op, names = self.graph.operators[index], [o.name for o in self.graph.operators]
        start = 0.0
        for before, end in zip(self.chosen, self.ends, strict=True):
            if before.device == choice.device:
                start = max(start, end)
        for name in op.inputs:
            producer = self.graph.producer.get(name)
            if producer is None:
                continue
            at = names.index(producer)
            arrived, source = self.ends[at], self.chosen[at].place.memory
            if source != choice.place.memory:
                move = self.machine.move(source, choice.place.memory)
                if move is None:
                    return float("inf")
                arrived += move.seconds(self.graph.tensors[name].size_bytes) + self.hand_over_s
            start = max(start, arrived)
        for waited in self.graph.dependencies[op.name]:
            start = max(start, self.ends[names.index(waited)])
        return start

    def _run(self) -> None:
        plan = placed_so(self.graph, self.machine, self.chosen, self.ahead, self.hand_over_s)
        trial = try_plan(self.graph, self.machine, plan)
        self.found.runs += 1
        best = self.found.trial
        better = trial.seconds < best.seconds if self.by_time else trial.joules < best.joules
        if not trial.obstacle and better:
            self.found.plan, self.found.trial = plan, trial
