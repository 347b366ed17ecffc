"""From a workload, a system and a way to plan to a result: the simulator's front door.

``simulate`` runs the phases of a workload one after another. For each it asks the planner for a plan (phases
of equal structure share one), checks it, binds it, runs it at the fidelity asked for, and holds the outcome
against physics. The simulator does not know any mapper: a planner is a function that the caller brings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from hw_configs.device import Compute as ComputeUnits
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.system import MemorySpace, Node, System
from hw_configs.units import format_quantity
from simulator.check import check
from simulator.cost.collective import AUTO
from simulator.cost.model import (
    COST_MODELS,
    DEFAULT_COST_MODEL,
    MATRIX_KINDS,
    CostModel,
    OperatorCost,
    operator_rate,
    wider_type,
)
from simulator.counters import UsageBook
from simulator.plan import Compute, Plan, Transfer
from simulator.result import DeviceUse, MemoryUse, PhaseResult, Result, Timeline, WireUse
from simulator.rewrite.apply import rewrite
from simulator.serving.host_time import HostTime
from simulator.system.analytic import covered_seconds
from simulator.system.bound_plan import BoundPlan, bind
from simulator.system.costs import MEASURED, CostTable
from simulator.system.engine import PhaseRun, TaskRecord
from simulator.system.gpu_library import GpuLibrary, library_of
from simulator.system.host_path import bounced_memory
from simulator.system.memory import Peak
from simulator.system.physics import check_phase
from workloads.graph import PERSISTENT_ROLES, Graph, Operator
from workloads.workload import Phase, Workload

if TYPE_CHECKING:
    from simulator.pim.operators import PimCosts

__all__ = ["FIDELITIES", "Planner", "Watcher", "offchip_version", "simulate"]

Planner = Callable[[Graph, System], Plan]
"""Writes the plan of one graph on one system; raises ``InfeasibleError`` when there is none."""

Watcher = Callable[[Graph, BoundPlan, PhaseRun], None]
"""Sees every phase as it ended, for views that need more than the result keeps."""

Run = Callable[[Graph, BoundPlan, System, CostTable, float], PhaseRun]

FIDELITIES: Final = ("analytic", "event", "cycle")


def offchip_version() -> str:
    """The version of this distribution."""
    try:
        return version("offchip")
    except PackageNotFoundError:
        return "unknown"


def simulate(
    workload: Workload,
    system: System,
    planner: Planner,
    *,
    fidelity: str = "event",
    cost_model: str = DEFAULT_COST_MODEL,
    collective: str = AUTO,
    host: HostTime | None = None,
    watch: Watcher | None = None,
) -> Result:
    """Run a workload on a system.

    ``planner`` writes a plan per graph structure. ``fidelity`` is ``analytic`` (no contention), ``event``, or
    ``cycle`` (event, with DRAM devices by their engine). ``host`` is the time that an engine's host adds to every
    phase, which must be a prefill or a decode step. ``watch`` is called after each phase with its graph, bound plan
    and outcome. Raises ``InputError`` for a plan that does not fit, ``InfeasibleError`` when memory is too small,
    ``PhysicsError`` for an impossible result.

    With the cost models of GPUs and ``collective`` ``auto``, collectives among GPUs take what their library takes, or
    the engine's own all-reduce where it has one.
    """
    run = _engine(fidelity)
    library = library_of(system, COST_MODELS.get(cost_model), host is not None and host.own_all_reduce)
    costs = _costs(system, COST_MODELS.get(cost_model), collective, fidelity, library)
    books = _Books(system, costs, host)
    engines = _by_engine(system, fidelity)
    laid_out = None
    plans: dict[str, tuple[Plan, BoundPlan]] = {}
    wirings: dict[str, list[tuple[Any, ...]]] = {}
    plan: Plan | None = None
    for phase in workload.phases:
        structure = phase.graph.structure or phase.name
        if structure not in plans:
            plan = planner(phase.graph, system)
            graph = rewrite(phase.graph, plan)
            _insist(plan, graph, system)
            if system.of_kind("pim"):
                books.warnings += _on_pim(plan, graph, system)
            plans[structure] = (plan, bind(plan, graph, system))
            wirings[structure] = _wiring(phase.graph)
            books.settle(phase, graph, plan)
        elif wirings[structure] != _wiring(phase.graph):
            raise bad_input(
                f"phase {phase.name!r} says it has structure {structure!r}, but is wired otherwise"
            )
        plan, bound = plans[structure]
        graph = rewrite(phase.graph, plan)
        if any(task.addresses for task in plan.tasks):
            # Sizes may have grown since the plan was checked, and bytes that were apart may now overlap.
            _insist(plan, graph, system)
            bound = bind(plan, graph, system)
        if plan.kernels:
            laid_out = laid_out or _laid_out(system, fidelity)
        costs.lay_out(plan.kernels, laid_out)
        costs.map_files(
            plan.tasks, ((t, home.memory) for t, homes in plan.homes.items() for home in homes), graph
        )
        outcome = run(graph, bound, system, costs, books.now)
        check_phase(outcome, graph, system, costs)
        books.add(phase, graph, outcome, _host_seconds(host, phase, workload))
        if watch is not None:
            watch(graph, bound, outcome)
    if engines and not engines["by_dram_engine"] and laid_out is None:
        books.warnings.append(
            f"no memory of {system.name!r} is a DRAM device: at cycle fidelity their bandwidths stay the data sheets'"
        )
    if laid_out is not None:
        engines = {**engines, **laid_out.provenance()}
    provenance = {
        "offchip": offchip_version(),
        "fidelity": fidelity,
        "cost_model": cost_model,
        "collective": collective,
        "host": host.as_json() if host is not None else None,
        **engines,
        "system_digest": system.digest,
        "plan_digests": [_digest(plan.to_json()) for plan, _ in plans.values()],
        "workload": {**workload.metadata, "name": workload.name},
        "seed": None,
        "clock": "seconds of simulated time; no cycle counts at this fidelity",
    }
    mapper = plan.mapper if plan is not None else ""
    return books.result(workload, mapper, provenance)


def _on_pim(plan: Plan, graph: Graph, system: System) -> list[str]:
    """Warnings on products that PIM memories run without a layout; ``InputError`` for types their units lack."""
    from simulator.pim.operators import check_types, over_pins

    check_types(graph, plan, system)
    return [
        f"{count} products of {graph.name} run on {device!r} by a roofline over its pins, which leaves its units out; "
        "the mappers 'pim' and 'pim-attention' lay matrices out in its banks"
        for device, count in over_pins(graph, plan, system).items()
    ]


def _host_seconds(host: HostTime | None, phase: Phase, workload: Workload) -> float:
    """Host seconds of a phase, from its batch and new tokens and the model's layers."""
    if host is None:
        return 0.0
    sizes = phase.graph.metadata
    if phase.kind not in ("prefill", "decode") or "batch" not in sizes:
        message = f"{host.engine} runs prefills and decode steps of language models; {phase.name!r} is none"
        raise bad_input(message, path="--engine")
    batch, layers = int(sizes["batch"]), int(workload.metadata.get("layers", 0))
    tokens = batch * int(sizes.get("new_tokens", 0)) if phase.kind == "prefill" else 0
    return host.seconds(layers, batch, tokens)


def _engine(fidelity: str) -> Run:
    if fidelity in ("event", "cycle"):
        from simulator.system.engine import run_events

        return run_events
    if fidelity == "analytic":
        from simulator.system.analytic import run_analytic

        return run_analytic
    raise bad_input(
        f"found {fidelity!r}; expected one of {', '.join(FIDELITIES)}",
        path="--fidelity",
        suggestion=nearest(fidelity, FIDELITIES),
    )


def _costs(
    system: System, model: CostModel, collective: str, fidelity: str, library: GpuLibrary | None
) -> CostTable:
    if fidelity != "cycle":
        drives: Literal["closed", "event"] = "closed" if fidelity == "analytic" else "event"
        return CostTable(system, model, collective, drives=drives, library=library)
    from simulator.cost.by_device import ByDevice
    from simulator.system.cycle import CycleMemory, measured_memories

    if isinstance(model, ByDevice):
        model = model.at_cycle_fidelity()
    measured = measured_memories(system)
    return CostTable(system, CycleMemory(model, system), collective, measured, library=library)


def _laid_out(system: System, fidelity: str) -> PimCosts:
    from simulator.pim.operators import PimCosts

    return PimCosts(system, exact=fidelity == "cycle")


def _by_engine(system: System, fidelity: str) -> dict[str, Any]:
    """Provenance of memory times: which memories the DRAM engine stood for, and which kept their model."""
    if fidelity != "cycle":
        return {}
    from simulator.system.cycle import engine_memories

    found = list(engine_memories(system))
    return {"by_dram_engine": found, "by_model": [name for name in system.memories if name not in found]}


def _insist(plan: Plan, graph: Graph, system: System) -> None:
    strangers = [t for t in plan.tasks if t.operator and t.operator not in graph.operator_by_name]
    if len(strangers) > len(plan.tasks) // 2:
        raise bad_input(
            f"the plan is for graph {plan.graph!r} on {plan.system!r}; this is {graph.name!r} on {system.name!r}, "
            f"which has no operator {strangers[0].operator!r}",
            path="--plan",
        )
    violations = check(plan, graph, system)
    if violations:
        where = f"plan by {plan.mapper}" if plan.mapper else "plan"
        raise InputError(Problem(v.message, path=f"{where}: {v.task}") for v in violations)


def _wiring(graph: Graph) -> list[tuple[Any, ...]]:
    """What graphs of equal structure have in common: names and who reads and writes what."""
    return [(op.name, op.inputs, op.outputs, op.updates) for op in graph.operators]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass
class _Fullest:
    peak: Peak | None = None
    roles: dict[str, str] = field(default_factory=dict)


class _Books:
    """Sums over phases what the result needs."""

    def __init__(self, system: System, costs: CostTable, host: HostTime | None = None) -> None:
        self.system, self.costs, self.host = system, costs, host
        self.now = 0.0
        self.timeline = Timeline()
        self.phases: list[PhaseResult] = []
        self.carried: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.read: dict[str, float] = dict.fromkeys(system.memories, 0.0)
        self.written: dict[str, float] = dict.fromkeys(system.memories, 0.0)
        self.fullest = {name: _Fullest() for name in system.memories}
        self.resident: dict[str, int] = {}
        self.curves: dict[str, list[tuple[float, int]]] = {name: [] for name in system.memories}
        self.compute_energy: dict[str, float] = {}
        self.memory_energy: dict[str, float] = {}
        self.peak_seconds: dict[str, float] = {}
        self.lives_in: dict[str, frozenset[str]] = {}
        self.warnings: list[str] = []
        self.wider: dict[tuple[str, str], str] = {}
        """By device name and element type: the wider type that does its products, empty for none."""
        self.usage = UsageBook()

    def settle(self, phase: Phase, graph: Graph, plan: Plan) -> None:
        """Note where a phase's plan expects persistent tensors, and warn of those that would have to move."""
        moved = 0
        for name, homes in plan.homes.items():
            if graph.tensors[name].role not in PERSISTENT_ROLES:
                continue
            places = frozenset(home.memory for home in homes)
            if not places <= self.lives_in.get(name, places):
                moved += graph.tensors[name].size_bytes
            self.lives_in[name] = places
        if moved:
            size = format_quantity(moved, "size")
            self.warnings.append(
                f"{size} of weights and caches live elsewhere in phase {phase.name!r} than before it; "
                "the time to move them is not simulated"
            )

    def add(self, phase: Phase, graph: Graph, run: PhaseRun, host_s: float = 0.0) -> None:
        number = len(self.phases)
        for record in run.records:
            self._record(record, graph, number)
        for totals, more in ((self.carried, run.carried_bytes), (self.busy, run.busy_seconds)):
            for name, value in more.items():
                totals[name] = totals.get(name, 0.0) + value
        self._memories(graph, run)
        # What of the host's time the devices do not hide comes after them, while they wait.
        added = self.host.added(run.end - run.start, host_s) if self.host is not None else 0.0
        self.now = run.end + added
        self.phases.append(
            PhaseResult(
                phase.name, phase.kind, run.start, self.now, phase.tokens, phase.graph.flops, host_s, added
            )
        )

    def _record(self, record: TaskRecord, graph: Graph, phase: int) -> None:
        line, task, cost = self.timeline, record.task, record.cost
        line.task.append(task.name)
        line.kind.append(task.kind)
        line.stream.append(task.stream)
        line.phase.append(phase)
        line.start.append(record.start)
        line.end.append(record.end)
        if cost is None:
            line.operator.append(task.operator)
            line.operator_kind.append(
                graph.operator_by_name[task.operator].kind if task.operator else "transfer"
            )
            line.device.append(task.target if isinstance(task, Transfer) else task.device)
            path = None
            if isinstance(task, Transfer):
                path = self.costs.path_of(task)
            line.bound_by.append(path.narrowest if path is not None else "link")
            line.launch.append(0.0)
            line.flops.append(0.0)
            line.bytes.append(record.moved_bytes)
            line.energy.append(0.0)
            self._moved(record)
            return
        operator = graph.operator_by_name[task.operator]
        replayed = isinstance(task, Compute) and task.measured
        memory = self.system.nodes[task.device].memory or task.device
        line.operator.append(operator.name)
        line.operator_kind.append(operator.kind)
        line.device.append(task.device)
        line.bound_by.append(self._bound(record, cost))
        line.launch.append(cost.launch_seconds)
        line.flops.append(0.0 if replayed else operator.flops)
        line.bytes.append(float(cost.read_bytes + cost.write_bytes))
        line.energy.append(cost.compute_energy_j + cost.memory_energy_j)
        if isinstance(task, Compute) and task.streamed:
            self.read[task.source] += record.moved_bytes
            spent = record.moved_bytes * self.costs.joules_per_byte(task.source, written=False)
            self.memory_energy[task.source] = self.memory_energy.get(task.source, 0.0) + spent
        over_link = record.moved_bytes if self.system.nodes[task.device].device.kind == "gpu" else 0.0
        self.read[memory] += max(cost.read_bytes - over_link, 0.0)
        self.written[memory] += cost.write_bytes
        self.compute_energy[task.device] = self.compute_energy.get(task.device, 0.0) + cost.compute_energy_j
        if cost.usage is not None:
            self.usage.add(memory, cost.usage)
        self.memory_energy[memory] = self.memory_energy.get(memory, 0.0) + cost.memory_energy_j
        compute = self.system.nodes[task.device].compute
        if operator.flops and compute is not None and not replayed:
            least = operator.flops / operator_rate(compute, operator)
            self._note_type(self.system.nodes[task.device], compute, operator)
            self.peak_seconds[task.device] = self.peak_seconds.get(task.device, 0.0) + least

    def _note_type(self, node: Node, compute: ComputeUnits, operator: Operator) -> None:
        """Warn once of products in a type that a device has no rate for."""
        key = (node.device.name, operator.dtype)
        if operator.kind in MATRIX_KINDS and key not in self.wider:
            self.wider[key] = wider_type(compute, operator)
            if self.wider[key]:
                told = f"has no rate for {operator.dtype} products: they run at that of {self.wider[key]}"
                self.warnings.append(f"{node.device.name} {told}")

    def _bound(self, record: TaskRecord, cost: OperatorCost) -> str:
        """What the cost model says, or what held the kernel up.

        That is the path of operands that flowed in more slowly, or the memory that others drew on as well.
        """
        task, alone = record.task, cost.launch_seconds + cost.seconds
        if record.end - record.start <= alone * (1 + 1e-9) or not isinstance(task, Compute):
            return cost.bound_by
        if task.streamed:
            return self.costs.stream_path(task.source, task.device).narrowest
        return self.system.nodes[task.device].memory or task.device

    def _moved(self, record: TaskRecord) -> None:
        """Book what a transfer or one rank of a collective read from one memory and wrote to another."""
        task = record.task
        if isinstance(task, Transfer):
            source, target = task.source, task.target
        else:
            source = target = self.system.nodes[task.device].memory or task.device
        moves = [(source, record.moved_bytes, self.read), (target, record.received_bytes, self.written)]
        bounced = bounced_memory(self.system, task) if isinstance(task, Transfer) else None
        if bounced is not None:
            moves += [(bounced, record.moved_bytes, self.read), (bounced, record.moved_bytes, self.written)]
        for memory, size, totals in moves:
            per_byte = self.costs.joules_per_byte(memory, written=totals is not self.read)
            totals[memory] += size
            self.memory_energy[memory] = self.memory_energy.get(memory, 0.0) + size * per_byte

    def _memories(self, graph: Graph, run: PhaseRun) -> None:
        for name, entries in run.ledger.entries.items():
            if not entries:
                continue
            used = 0
            curve = self.curves[name]
            for time_s, _, change in entries:
                used += change
                if curve and curve[-1][0] == time_s:
                    curve[-1] = (time_s, used)
                else:
                    curve.append((time_s, used))
            self.resident[name] = used
            fullest = self.fullest[name]
            if fullest.peak is None or run.ledger.peak_bytes(name) > fullest.peak.bytes:
                fullest.peak = run.ledger.peak(name)
                fullest.roles = {t: graph.tensors[t].role.value for t, _ in fullest.peak.live}

    def result(self, workload: Workload, mapper: str, provenance: dict[str, Any]) -> Result:
        makespan = self.now
        wires = {use.wire: use for use in self._wires(makespan)}
        memories = {
            name: self._memory(name, space)
            for name, space in self.system.memories.items()
            if self.fullest[name].peak is not None
        }
        return Result(
            model=workload.name,
            system=self.system.name,
            mapper=mapper,
            makespan_s=makespan,
            phases=tuple(self.phases),
            timeline=self.timeline,
            devices={use.device: use for use in self._devices(makespan)},
            wires=wires,
            memories=memories,
            energy_j=self._energy(makespan, wires),
            provenance=provenance,
            warnings=(*workload.notes, *workload.unsupported, *self.warnings),
            counters=self.usage.totals(),
        )

    def _devices(self, makespan: float) -> list[DeviceUse]:
        busy: dict[str, float] = {}
        launch: dict[str, float] = {}
        flops: dict[str, float] = {}
        line = self.timeline
        replayed: dict[str, list[tuple[float, float]]] = {}
        for index, kind in enumerate(line.kind):
            if line.bound_by[index] == MEASURED:
                # Streams of a recorded device overlap, and the host's threads are none of its own.
                if line.operator_kind[index] != "host" and line.end[index] > line.start[index]:
                    replayed.setdefault(line.device[index], []).append((line.start[index], line.end[index]))
            elif kind == "compute":
                device = line.device[index]
                span = line.end[index] - line.start[index] - line.launch[index]
                busy[device] = busy.get(device, 0.0) + span
                launch[device] = launch.get(device, 0.0) + line.launch[index]
                flops[device] = flops.get(device, 0.0) + line.flops[index]
        for device, spans in replayed.items():
            busy[device] = busy.get(device, 0.0) + covered_seconds(spans)
        return [
            DeviceUse(
                name,
                busy[name],
                launch.get(name, 0.0),
                flops.get(name, 0.0),
                _share(busy[name], makespan),
                _share(self.peak_seconds.get(name, 0.0), makespan),
            )
            for name in self.system.nodes
            if name in busy
        ]

    def _wires(self, makespan: float) -> list[WireUse]:
        uses = []
        for wire in self.system.wires.values():
            both = self.carried.get(wire.name, 0.0)
            forward = self.carried.get(wire.name + ">", 0.0) + both
            backward = self.carried.get(wire.name + "<", 0.0)
            if forward or backward:
                busy = max(self.busy.get(wire.name + end, 0.0) for end in ("", ">", "<"))
                energy = (forward + backward) * wire.link.energy_per_byte
                uses.append(WireUse(wire.name, forward, backward, busy, _share(busy, makespan), energy))
        return uses

    def _memory(self, name: str, space: MemorySpace) -> MemoryUse:
        fullest = self.fullest[name]
        peak = fullest.peak or Peak(name, 0.0, 0, ())
        curve = np.array(self.curves[name], dtype=np.float64).reshape(-1, 2)
        return MemoryUse(
            memory=name,
            technology=space.technology,
            capacity_bytes=space.capacity_bytes,
            usable_bytes=space.usable_bytes,
            resident_bytes=self.resident.get(name, 0),
            peak_bytes=peak.bytes,
            peak_time_s=peak.time_s,
            live_at_peak=tuple((t, fullest.roles.get(t, ""), size) for t, size in peak.live),
            read_bytes=self.read[name],
            written_bytes=self.written[name],
            curve_time_s=curve[:, 0],
            curve_bytes=curve[:, 1],
        )

    def _energy(self, makespan: float, wires: dict[str, WireUse]) -> dict[str, float]:
        energy: dict[str, float] = {}
        for device, joules in self.compute_energy.items():
            energy[f"{device} compute"] = joules
        for memory, joules in self.memory_energy.items():
            energy[f"{memory} memory"] = joules
        for name, use in wires.items():
            energy[f"{name} link"] = use.energy_j
        for node in self.system.nodes.values():
            power = getattr(node.device, "power", None)
            if power is not None:
                energy[f"{node.name} idle"] = power.idle * makespan
        return energy


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
