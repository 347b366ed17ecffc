"""From a schedule to a plan: what a scratchpad machine does, transfer by transfer, at which bytes.

Every step of a schedule becomes the transfers before it and one compute task. Transfers run on the machine's DMA
engines, loads apart from stores where there are two, so that they overlap the arithmetic wherever the bytes they
fill are free; the plan's addresses alone say what has to wait. Weights that the schedule gives no place stream
past the scratchpad while their operator runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hw_configs.device import dma_engines
from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.system import Node, System
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import Schedule
from mapping.scheduling.result import Transfer as ScheduledTransfer
from simulator.plan import Compute, Home, Plan, PlanNotes, Task, Transfer
from workloads.graph import Graph

__all__ = ["LoweredNotes", "scratchpad_of", "to_plan"]


@dataclass(frozen=True)
class LoweredNotes(PlanNotes):
    """What every plan of a schedule says; mappers add what they proved."""

    cost_bytes: int | None
    weights: str
    uncounted_writes: tuple[str, ...] | None = field(default=None, kw_only=True)
    """Outputs that the machine writes back and the schedule's cost does not count."""


def scratchpad_of(system: System, device: str | None = None) -> tuple[Node, str]:
    """The node that works in a scratchpad, and the memory off chip that backs it.

    ``device`` names the node; otherwise it is the first. Raises ``InputError`` when there is none, or when no
    other memory can be reached from it.
    """
    nodes = [system.node(device)] if device is not None else list(system.nodes.values())
    found = next((node for node in nodes if node.scratchpad), None)
    if found is None:
        raise bad_input(
            f"no device of {system.name!r} works in a scratchpad; in a system file an accelerator does with "
            "'memory: scratchpad' (edge-tpu-board, nvdla-board and tpu-v4i-card are such systems)",
            path="--hw",
        )
    others = [name for name in system.reachable(found.name) if name in system.memories and name != found.name]
    others = [name for name in others if not system.nodes[name].scratchpad]
    if not others:
        raise bad_input(f"no memory can be reached from the scratchpad of {found.name!r}", path="--hw")
    return found, max(sorted(others), key=lambda name: system.memories[name].capacity_bytes)


def to_plan(
    graph: Graph,
    problem: ScheduleProblem,
    schedule: Schedule,
    system: System,
    mapper: str = "schedule",
    device: str | None = None,
    notes: LoweredNotes | None = None,
) -> Plan:
    """The plan of a schedule on a scratchpad machine.

    Raises ``InputError`` for a graph that updates tensors in place, or a system without a scratchpad, and
    ``InfeasibleError`` when the schedule uses more bytes than the scratchpad has.
    """
    node, off_chip = scratchpad_of(system, device)
    updating = next((op for op in graph.operators if op.updates), None)
    if updating is not None:
        raise bad_input(
            f"operator {updating.name!r} updates {updating.updates[0]!r} in place; a scratchpad machine runs "
            "graphs that only make new tensors (a forward pass)"
        )
    _insist_on_room(schedule, problem, system, node)
    writer = _Writer(graph, problem, schedule, node, off_chip)
    for step in range(len(schedule.order) + 1):
        writer.step(step)
    homes = {name: (Home(off_chip),) for name in graph.tensors if name not in graph.producer}
    views = {name: root for name, root in problem.views.items() if name in graph.producer}
    told = notes or LoweredNotes(schedule.cost_bytes, problem.weights)
    if writer.uncounted:
        told = replace(told, uncounted_writes=tuple(writer.uncounted))
    return Plan(graph.name, system.name, mapper, tuple(writer.tasks), homes, notes=told, views=views)


def _insist_on_room(schedule: Schedule, problem: ScheduleProblem, system: System, node: Node) -> None:
    workspace = {op.name: op.workspace_bytes for op in problem.operators}
    ends = [stay.offset + stay.size_bytes for stay in schedule.residences]
    ends += [offset + workspace.get(name, 0) for name, offset in schedule.workspaces.items()]
    usable = system.memories[node.memory or node.name].usable_bytes
    if max(ends, default=0) > usable:
        raise InfeasibleError(
            f"the schedule uses {max(ends)} bytes of scratchpad; {node.name!r} has {usable}: schedule it for "
            f"at most that (--scratchpad {usable})"
        )


def _written_over(problem: ScheduleProblem, schedule: Schedule) -> dict[int, dict[str, str]]:
    """By step, outputs that begin at the address of an input whose stay ends there."""
    if not problem.has_in_place:
        return {}
    begins = {(stay.tensor, stay.start): stay.offset for stay in schedule.residences}
    ends = {(stay.tensor, stay.end): stay.offset for stay in schedule.residences}
    found: dict[int, dict[str, str]] = {}
    for step, name in enumerate(schedule.order):
        for pair in problem.operators[problem.operator_index[name]].in_place:
            made = problem.tensors[pair.output].name
            for t in pair.inputs:
                under = problem.tensors[t].name
                at = begins.get((made, step))
                if at is not None and ends.get((under, step + 1)) == at:
                    found.setdefault(step, {}).setdefault(made, under)
    return found


@dataclass(slots=True)
class _Engines:
    """Streams of the DMA engines: the last one writes, the others take turns to read."""

    names: list[str]
    turn: int = 0

    def read(self) -> str:
        readers = self.names[:-1] or self.names
        self.turn += 1
        return readers[(self.turn - 1) % len(readers)]

    def write(self) -> str:
        return self.names[-1]


class _Writer:
    """Writes tasks step by step and remembers which tensors have a copy off chip."""

    def __init__(
        self, graph: Graph, problem: ScheduleProblem, schedule: Schedule, node: Node, off_chip: str
    ) -> None:
        self.graph, self.problem, self.schedule = graph, problem, schedule
        self.node, self.pad, self.off_chip = node, node.memory or node.name, off_chip
        engines = dma_engines(node.device)
        self.engines = _Engines([f"{node.name}.dma{index}" for index in range(engines)])
        self.tasks: list[Task] = []
        self.outside = {name for name in graph.tensors if name not in graph.producer}
        self.uncounted: list[str] = []
        self.moves: dict[int, list[ScheduledTransfer]] = {}
        for move in schedule.transfers:
            self.moves.setdefault(move.step, []).append(move)
        self.begins = {(stay.tensor, stay.start): stay.offset for stay in schedule.residences}
        self.drops: dict[int, list[str]] = {}
        for stay in schedule.residences:
            self.drops.setdefault(stay.end, []).append(stay.tensor)
        self.over = _written_over(problem, schedule)
        self.retrieved = {move.tensor for move in schedule.transfers if move.kind == "retrieve"}

    def step(self, step: int) -> None:
        """The drops and transfers before a step, and its operator."""
        moves = self.moves.get(step, ())
        out = [move.tensor for move in moves if move.kind in ("spill", "store")]
        dropped = self.drops.get(step, [])
        out += [name for name in dropped if self._lost(name, out)]
        kept_for_write = set(out)
        self._free([name for name in dropped if name not in kept_for_write])
        for tensor in out:
            self._write(tensor, step, tensor in dropped)
        for move in moves:
            if move.kind in ("load", "retrieve"):
                self._read(move.tensor, step)
        if step < len(self.schedule.order):
            self._compute(self.schedule.order[step], step)

    def _lost(self, tensor: str, written: list[str]) -> bool:
        """Whether a drop would lose bytes that are retrieved later: an input that an operator loads."""
        if tensor in written or tensor in self.outside or tensor not in self.retrieved:
            return False
        self.uncounted.append(tensor)
        return True

    def _free(self, tensors: list[str]) -> None:
        """Drop copies at the end of the last task, which is the compute task of the step before."""
        if tensors:
            last = self.tasks[-1]
            frees = (*last.frees, *((tensor, self.pad) for tensor in tensors))
            self.tasks[-1] = replace(last, frees=frees)

    def _write(self, tensor: str, step: int, dropped: bool) -> None:
        frees = ((tensor, self.pad),) if dropped else ()
        name = f"write {tensor} before step {step}"
        self.tasks.append(
            Transfer(
                name,
                self.engines.write(),
                tensor=tensor,
                source=self.pad,
                target=self.off_chip,
                frees=frees,
            )
        )
        self.outside.add(tensor)

    def _read(self, tensor: str, step: int) -> None:
        self.tasks.append(
            Transfer(
                f"read {tensor} for step {step}", self.engines.read(), tensor=tensor,
                source=self.off_chip, target=self.pad, addresses={tensor: self.begins[tensor, step]},
            )
        )  # fmt: skip

    def _compute(self, name: str, step: int) -> None:
        operator = self.graph.operator_by_name[name]
        views = self.problem.views
        inputs = dict.fromkeys(views.get(tensor, tensor) for tensor in operator.inputs)
        streamed = tuple(tensor for tensor in inputs if tensor not in self.problem.tensor_index)
        addresses = {tensor: self.begins[tensor, step] for tensor in operator.outputs}
        self.tasks.append(
            Compute(
                name, f"{self.node.name}.array", operator=name, device=self.node.name,
                source=self.off_chip if streamed else "", streamed=streamed, addresses=addresses,
                in_place=self.over.get(step, {}),
            )
        )  # fmt: skip
