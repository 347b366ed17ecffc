"""The condensed evaluation: what a workload on one device comes to, without walking its graph again.

A model of 32 equal layers has some fifteen different operators. A :class:`Condensed` holds those, the order in which
they run, and what memory needs: enough to evaluate the workload on another machine in a fraction of a
millisecond. :func:`estimate` gives bit for bit what ``simulate`` gives at fidelity ``analytic`` for a plan
that puts everything on one device and one stream (the mapper ``single-device``): the same sums in the same
order, only without a timeline. What that cannot express (several devices, copies, collectives, operators that
take no time where it expected some) gives None, and the caller simulates.

It knows sizes, not names: a cost model that looks at an operator's name must not be used with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.system import Node, System
from simulator.accelerator.operand_buffer import epilogues_of
from simulator.cost.model import CostModel, OperatorCost, operator_rate
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.result import DeviceUse, MemoryUse, PhaseResult, Result, Timeline
from workloads.graph import PERSISTENT_ROLES, Graph, Operator, Place
from workloads.operators import KINDS, Work
from workloads.workload import Workload

__all__ = ["Condensed", "CondensedPhase", "Estimate", "condense", "estimate"]

MAX_TASKS: Final = 5_000_000
FORMAT: Final = "offchip-condensed-1"
_NOTHING: Final[NDArray[np.float64]] = np.empty(0)
_NOTHING.flags.writeable = False


@dataclass(frozen=True, slots=True)
class CondensedPhase:
    """One phase: its tasks stand in the workload's order from ``first`` to ``last`` (excluded)."""

    name: str
    kind: str
    structure: str
    tokens: int
    flops: float
    first: int
    last: int
    need_bytes: int
    """What a mapper counts before it chooses a device: persistent tensors and the transient peak."""
    resident_bytes: int
    peak_bytes: int
    peak_task: int
    """Index of the task that allocates the peak, counted in the phase; -1 before the first."""


@dataclass(frozen=True)
class Condensed:
    """A workload, condensed; see the module's first lines."""

    model: str
    operators: tuple[Operator, ...]
    """Operators that differ in what a cost model sees, without names of tensors."""
    order: NDArray[np.int32]
    """The operator of every task, phase after phase."""
    phases: tuple[CondensedPhase, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The workload as bytes for a cache on disk; :meth:`from_bytes` reads them."""
        head = {
            "format": FORMAT,
            "model": self.model,
            "operators": [_as_list(operator) for operator in self.operators],
            "phases": [[getattr(p, name) for name in CondensedPhase.__slots__] for p in self.phases],
            "metadata": dict(self.metadata),
            "unsupported": list(self.unsupported),
            "tasks": len(self.order),
        }
        return json.dumps(head).encode() + b"\n" + self.order.astype("<i4").tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> Condensed:
        """The workload of :meth:`to_bytes`; ``ValueError`` when the bytes are something else."""
        text, newline, rest = data.partition(b"\n")
        head = json.loads(text)
        order = np.frombuffer(rest, dtype="<i4").astype(np.int32)
        if not newline or head.get("format") != FORMAT or head["tasks"] != len(order):
            raise ValueError("no condensed workload, or a broken one")
        operators = tuple(_from_list(i, values) for i, values in enumerate(head["operators"]))
        if len(order) and not 0 <= int(order.min()) <= int(order.max()) < len(operators):
            raise ValueError("a broken condensed workload")
        phases = tuple(CondensedPhase(*values) for values in head["phases"])
        return Condensed(
            head["model"], operators, order, phases, head["metadata"], tuple(head["unsupported"])
        )


_Seen = tuple[Work, str, int, int, str, str, float | None]
"""What a cost model sees of an operator: work, element type, bytes read and written, training pass, residency and
measured seconds.
"""


def _seen(operator: Operator) -> _Seen:
    return (
        operator.work, operator.dtype, operator.read_bytes, operator.write_bytes, operator.place.training_pass,
        operator.residency, operator.measured_s,
    )  # fmt: skip


def _bare(
    number: int,
    work: Work,
    dtype: str,
    read: int,
    written: int,
    which: str,
    residency: str,
    took: float | None,
) -> Operator:
    """An operator without tensors: its bytes are of no named tensor."""
    return Operator(
        f"operator {number}", work, (), (), dtype=dtype, beside_read=read, beside_written=written,
        place=Place(training_pass=which), residency=residency, measured_s=took,
    )  # fmt: skip


def _as_list(operator: Operator) -> list[Any]:
    work, *rest = _seen(operator)
    return [work.kind, work.changed(), *rest]


def _from_list(number: int, values: list[Any]) -> Operator:
    kind, fields, *rest = values
    try:
        return _bare(number, KINDS[kind](**fields), *rest)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a broken operator of kind {kind!r}") from error


@dataclass(frozen=True)
class Estimate(Result):
    """A result without a timeline: ``bounds`` holds the seconds by bound that a timeline would add up to."""

    bounds: Mapping[str, float] = field(default_factory=dict)

    def time_by_bound(self) -> dict[str, float]:
        """Seconds of all tasks by what bounds them: compute, memory, launch, ..."""
        return dict(self.bounds)


def condense(workload: Workload) -> Condensed | None:
    """A workload condensed; None when it communicates, or has more tasks than one may hold."""
    numbers: dict[tuple[Any, ...], int] = {}
    operators: list[Operator] = []
    # Graphs of a generation share their operators, so identity finds most of them.
    known: dict[int, tuple[Operator, int]] = {}
    order: list[int] = []
    phases: list[CondensedPhase] = []
    for phase in workload.phases:
        graph, first = phase.graph, len(order)
        for op in graph.operators:
            found = known.get(id(op))
            if found is None:
                if op.kind in COMMUNICATION_KINDS:
                    return None
                number = numbers.setdefault(_seen(op), len(operators))
                if number == len(operators):
                    operators.append(op)
                found = known[id(op)] = (op, number)
            order.append(found[1])
        if len(order) > MAX_TASKS:
            return None
        memory = _memory(graph)
        phases.append(
            CondensedPhase(
                phase.name,
                phase.kind,
                graph.structure or phase.name,
                phase.tokens,
                graph.flops,
                first,
                len(order),
                *memory,
            )
        )
    bare = tuple(_bare(i, *_seen(operator)) for i, operator in enumerate(operators))
    return Condensed(
        workload.name, bare, np.array(order, dtype=np.int32), tuple(phases), dict(workload.metadata),
        tuple(workload.unsupported),
    )  # fmt: skip


def _memory(graph: Graph) -> tuple[int, int, int, int]:
    """Bytes a mapper counts, bytes that stay, the most at once, and the task that takes it there.

    Inputs and persistent tensors are there from the start, everything else from its maker to its last user or,
    for outputs of the graph, to the end. What a task drops goes before the next task takes its own, unless the
    task takes no time (a view): then it goes after its own outputs have come, which is the same list order.
    """
    tensors, outputs = graph.tensors, set(graph.outputs)
    last: dict[str, int] = {}
    for index, op in enumerate(graph.operators):
        for name in (*op.inputs, *op.updates, *op.outputs):
            last[name] = index
    drops: dict[int, int] = {}
    size = 0
    resident = sum(t.size_bytes for t in tensors.values() if t.role in PERSISTENT_ROLES)
    inputs = [
        name for name in tensors if name not in graph.producer and tensors[name].role not in PERSISTENT_ROLES
    ]
    for name, index in last.items():
        tensor = tensors[name]
        if tensor.role not in PERSISTENT_ROLES and name not in outputs:
            drops[index] = drops.get(index, 0) + tensor.size_bytes
    size = resident + sum(tensors[name].size_bytes for name in inputs)
    peak, at = size, -1
    for index, op in enumerate(graph.operators):
        size += sum(tensors[name].size_bytes for name in op.outputs)
        if size > peak:
            peak, at = size, index
        size -= drops.get(index, 0)
    return peak, resident, peak, at


def estimate(
    condensed: Condensed,
    system: System,
    node: Node,
    model: CostModel,
    *,
    collective: str = "ring",
    mapper: str = "single-device",
    provenance: Mapping[str, Any] | None = None,
) -> Estimate | None:
    """What a workload comes to on one device of a system; None when only a simulation can say.

    Raises what the cost model raises for an operator that cannot run on the device.
    """
    name = node.memory or node.name
    memory, compute = system.memories[name], node.compute
    too_large = any(phase.peak_bytes > memory.usable_bytes for phase in condensed.phases)
    # What runs behind the arrays is part of another operator: the graph is needed.
    if compute is None or too_large or epilogues_of(system):
        return None
    costs = [model.cost(operator, node, memory) for operator in condensed.operators]
    peaks = [op.flops / operator_rate(compute, op) if op.flops else 0.0 for op in condensed.operators]
    if not _possible(condensed.operators, costs, peaks, memory.read_bandwidth, memory.write_bandwidth):
        return None
    order = condensed.order
    spans = np.array([(c.launch_seconds, c.seconds) for c in costs]).reshape(-1, 2)
    # Additions one after another, as the clock of the simulation makes them: cumsum never regroups.
    clock = np.cumsum(spans[order].ravel())
    ends = clock[1::2]
    starts = np.concatenate(([0.0], ends[:-1]))[: len(ends)]
    took = ends - starts
    launches = spans[order, 0]
    now = 0.0
    phases = []
    for phase in condensed.phases:
        end = float(ends[phase.last - 1]) if phase.last > phase.first else now
        phases.append(PhaseResult(phase.name, phase.kind, now, end, phase.tokens, phase.flops))
        now = end
    energy = {f"{node.name} compute": _in_turn(np.array([c.compute_energy_j for c in costs]), order)}
    energy[f"{name} memory"] = _in_turn(np.array([c.memory_energy_j for c in costs]), order)
    for other in system.nodes.values():
        power = getattr(other.device, "power", None)
        if power is not None:
            energy[f"{other.name} idle"] = power.idle * now
    busy = float(np.cumsum(took - launches)[-1]) if len(order) else 0.0
    flops = _in_turn(np.array([op.flops for op in condensed.operators]), order)
    at_peak = _in_turn(np.array(peaks), order)
    fullest = _fullest(condensed, starts)
    use = MemoryUse(
        name, memory.technology, memory.capacity_bytes, memory.usable_bytes,
        condensed.phases[-1].resident_bytes if condensed.phases else 0, fullest[0], fullest[1], (),
        _in_turn(np.array([float(c.read_bytes) for c in costs]), order),
        _in_turn(np.array([float(c.write_bytes) for c in costs]), order), _NOTHING, _NOTHING,
    )  # fmt: skip
    share = 1 / now if now > 0 else 0.0
    device = DeviceUse(
        node.name, busy, _in_turn(spans[:, 0], order), flops, busy / now if share else 0.0,
        at_peak / now if share else 0.0,
    )  # fmt: skip
    return Estimate(
        model=condensed.model,
        system=system.name,
        mapper=mapper,
        makespan_s=now,
        phases=tuple(phases),
        timeline=Timeline(),
        devices={node.name: device} if len(order) else {},
        wires={},
        memories={name: use},
        energy_j=energy,
        provenance={
            "fidelity": "analytic", "cost_model": model.name, "collective": collective, **(provenance or {})
        },
        warnings=condensed.unsupported,
        bounds=_bounds(costs, order, starts, ends, launches),
    )  # fmt: skip


def _in_turn(each: NDArray[np.float64], order: NDArray[np.int32]) -> float:
    """The sum over all tasks, added one after another."""
    return float(np.cumsum(each[order])[-1]) if len(order) else 0.0


def _possible(
    operators: tuple[Operator, ...],
    costs: list[OperatorCost],
    peaks: list[float],
    read_bandwidth: float,
    write_bandwidth: float,
) -> bool:
    """Whether the costs keep to physics and only views are free; if not, the simulation has to judge."""
    for op, cost, arithmetic in zip(operators, costs, peaks, strict=True):
        took = cost.launch_seconds + cost.seconds
        roof = max(arithmetic, cost.read_bytes / read_bandwidth + cost.write_bytes / write_bandwidth)
        if not (took >= roof * (1 - 1e-6) and min(cost.seconds, cost.launch_seconds) >= 0):
            return False
        if not min(cost.compute_energy_j, cost.memory_energy_j) >= 0:
            return False
        if (took == 0) != (op.kind == "view"):
            return False
    return True


def _fullest(condensed: Condensed, starts: NDArray[np.float64]) -> tuple[int, float]:
    peak, when, now = 0, 0.0, 0.0
    for phase in condensed.phases:
        if phase.peak_bytes > peak:
            now = float(starts[phase.first]) if phase.last > phase.first else now
            peak = phase.peak_bytes
            when = now if phase.peak_task < 0 else float(starts[phase.first + phase.peak_task])
    return peak, when


def _bounds(
    costs: list[OperatorCost],
    order: NDArray[np.int32],
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    launches: NDArray[np.float64],
) -> dict[str, float]:
    """Seconds by bound, as a walk over the timeline adds them; names in the order in which it meets them.

    A task adds its end, takes off its start and its launch, and then adds the launch under ``launch``.
    """
    names = list(dict.fromkeys(cost.bound_by for cost in costs))
    number = {name: index for index, name in enumerate(names)}
    bound = np.array([number[cost.bound_by] for cost in costs], dtype=np.int32)[order]
    terms = np.stack((ends, -starts, -launches, launches), axis=1)
    ran, launched = ends > starts, launches > 0
    met: list[tuple[int, str, float]] = []
    for name in dict.fromkeys((*names, "launch")):
        use = np.zeros(terms.shape, dtype=bool)
        if name in number:
            use[:, :3] = (ran & (bound == number[name]))[:, None]
        if name == "launch":
            use[:, 3] = ran & launched
        places = np.flatnonzero(use)
        if len(places):
            met.append((int(places[0]), name, float(np.cumsum(terms.ravel()[places])[-1])))
    return {name: seconds for _, name, seconds in sorted(met)}
