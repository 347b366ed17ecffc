"""Costs of operators that a plan lays out on a PIM memory: stage after stage, with the refreshes between them.

A memory and the vector unit of its host are each busy with one stage at a time; what comes while one is busy
waits. Refreshes fall due on an absolute grid. One that falls due while the memory is idle runs at once, one that
falls due during a program runs after it. So an operator's time depends on when it starts, and costs are asked
for with a start time, in order of time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hw_configs.device import Accelerator, Pim
from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.system import Node, System
from hw_configs.vector_unit import VectorUnit
from simulator.cost.model import FREE_KINDS, OperatorCost
from simulator.counters import Usage
from simulator.pim.pricing import FIGURES, Pricer
from simulator.pim.recipes import HostStage, Kernel, Stage, check_kernel, recipe, stored_otherwise
from simulator.plan import Compute, Plan
from workloads.graph import Graph, Operator

__all__ = ["PimCosts", "check_types", "host_of", "memory_of", "over_pins"]

_NOTHING: Final = OperatorCost(0.0, 0.0, "none", 0, 0, 0.0, 0.0)
_PLACE: Final = {name: index for index, name in enumerate(FIGURES)}


def memory_of(system: System, node: Node) -> Node | None:
    """The PIM memory that a node is or works in; None for any other node."""
    here = system.nodes.get(node.memory or node.name)
    return here if here is not None and isinstance(here.device, Pim) else None


def host_of(system: System, memory: Node) -> Node | None:
    """The accelerator with a vector unit that works in a PIM memory, if there is one."""
    for node in system.nodes.values():
        device = node.device
        if isinstance(device, Accelerator) and device.vector_unit is not None and node.memory == memory.name:
            return node
    return None


def check_types(graph: Graph, plan: Plan, system: System) -> None:
    """Raise ``InputError`` where a laid-out operator's matrix has elements of another width than the units'."""
    problems: list[Problem] = []
    for task in plan.tasks:
        if (
            isinstance(task, Compute)
            and plan.kernels.get(task.operator, {}).get("kind", "vector") != "vector"
        ):
            memory = memory_of(system, system.node(task.device))
            if memory is not None and isinstance(memory.device, Pim):
                problems += stored_otherwise(graph, [graph.operator_by_name[task.operator]], memory.device)
    if problems:
        raise InputError(problems[:1])


def over_pins(graph: Graph, plan: Plan, system: System) -> dict[str, int]:
    """Products and attention that run on a PIM memory without a layout, by memory: a roofline prices those."""
    found: dict[str, int] = {}
    for task in plan.tasks:
        if isinstance(task, Compute) and task.operator not in plan.kernels:
            on_units = isinstance(system.node(task.device).device, Pim)
            if on_units and graph.operator_by_name[task.operator].work.matrix:
                found[task.device] = found.get(task.device, 0) + 1
    return found


@dataclass(frozen=True, slots=True)
class _Steps:
    """A recipe, priced: programs as cycles, host stages as ticks, and the figures of a whole run."""

    stages: tuple[tuple[int, str, tuple[int, ...]], ...]
    """Exposed host ticks (-1: none), label, and the ticks of each chunk that the memory runs (beside them)."""
    host_s: float
    figures: Mapping[str, float]
    read_bytes: int
    written_bytes: int
    array_j: float
    mac_j: float


@dataclass
class _Site:
    """A PIM memory with its host: prices, and how far each is booked, in ticks."""

    memory: Node
    host: Node
    unit: VectorUnit
    pricer: Pricer
    ticks_per_clock: float
    due: float = 0.0
    memory_free: float = 0.0
    host_free: float = 0.0
    by_operator: dict[int, tuple[Operator, Kernel, _Steps]] = field(default_factory=dict)
    by_shape: dict[tuple[object, ...], _Steps] = field(default_factory=dict)


class PimCosts:
    """Costs of laid-out operators on the PIM memories of one system, for one run.

    ``exact``: programs by the engine, command by command; otherwise by the closed form of
    :class:`simulator.pim.pricing.Pace`.
    """

    def __init__(self, system: System, exact: bool) -> None:
        self._system, self._exact = system, exact
        self._sites: dict[tuple[str, str], _Site] = {}

    def cost(self, operator: Operator, device: str, kernel: Kernel, start_s: float) -> OperatorCost:
        """The cost of an operator that starts on a device at a time; ``InputError`` for a kernel that misfits."""
        if operator.kind in FREE_KINDS:
            return _NOTHING
        site = self._site(device, str(kernel.get("rules", "published")))
        steps = self._steps(operator, kernel, site)
        tick = site.pricer.device.tick_s
        launch = site.host.compute.launch if site.host.compute is not None else 0.0
        begin = (start_s + launch) / tick
        end, refreshes, spent = _run(site, steps, begin)
        seconds = (end - begin) * tick
        host_j = steps.host_s * self._power(site)
        refresh_j = refreshes * site.pricer.refresh_j * site.pricer.device.channels
        varying = {f"{label}_s".replace(" ", "_"): ticks * tick for label, ticks in spent.items()}
        varying["refreshes"], varying["refresh_j"] = float(refreshes), refresh_j
        on_host = steps.host_s > seconds / 2
        return OperatorCost(
            seconds,
            launch,
            "vector unit" if on_host else "PIM banks",
            steps.read_bytes,
            steps.written_bytes,
            steps.mac_j + host_j,
            steps.array_j + refresh_j,
            Usage(steps.figures, varying),
        )

    def restart(self) -> None:
        """Begin another run at time zero, with what was priced so far."""
        for site in self._sites.values():
            site.memory_free = site.host_free = 0.0
            site.due = float(site.pricer.interval)

    def provenance(self) -> dict[str, object]:
        """Which memories' operators were laid out, and how their programs were priced."""
        names = sorted({name for name, _ in self._sites})
        return {"by_pim_engine": names} if self._exact else {"by_pim_pace": names}

    def _site(self, device: str, rules: str) -> _Site:
        memory = memory_of(self._system, self._system.node(device))
        if memory is None or not isinstance(memory.device, Pim):
            raise bad_input(f"{device!r} neither is a PIM memory nor works in one", path="kernels")
        site = self._sites.get((memory.name, rules))
        if site is None:
            host = host_of(self._system, memory)
            if host is None or not isinstance(host.device, Accelerator) or host.device.vector_unit is None:
                raise bad_input(f"no accelerator with a vector unit works in {memory.name!r}", path="kernels")
            pricer = Pricer(memory.device, honest=rules == "honest", exact=self._exact)
            site = _Site(memory, host, host.device.vector_unit, pricer,
                         1 / host.device.clock / memory.device.tick_s, due=float(pricer.interval))  # fmt: skip
            self._sites[memory.name, rules] = site
        return site

    @staticmethod
    def _power(site: _Site) -> float:
        compute = site.host.compute
        return compute.arithmetic_power or 0.0 if compute is not None else 0.0

    def _steps(self, operator: Operator, kernel: Kernel, site: _Site) -> _Steps:
        known = site.by_operator.get(id(operator))
        if known is not None and known[1] is kernel:
            return known[2]
        shape = (
            operator.work, operator.read_bytes, len(operator.inputs), *sorted(kernel.items()),
        )  # fmt: skip
        steps = site.by_shape.get(shape)
        if steps is None:
            check_kernel(operator, kernel, site.pricer.lowering.geometry)
            steps = _priced(recipe(operator, kernel, site.pricer.lowering, site.unit), site)
            site.by_shape[shape] = steps
        if len(site.by_operator) > 200_000:
            site.by_operator.clear()
        site.by_operator[id(operator)] = (operator, kernel, steps)
        return steps


def _priced(stages: tuple[Stage, ...], site: _Site) -> _Steps:
    pricer, found = site.pricer, []
    totals, busy = [0.0] * len(FIGURES), 0
    for stage in stages:
        if isinstance(stage, HostStage):
            busy += stage.busy
            exposed, shares, times = round(stage.exposed * site.ticks_per_clock), stage.beside, 1
        else:
            exposed, shares, times = -1, stage.shares, stage.times
        chunks = []
        for share in shares:
            work = pricer.work(share)
            chunks.append(work.chunks)
            for index, figure in enumerate(work.figures):
                totals[index] += figure * share.channels * times
        # Channels start a chunk together, so the longest of them is what a run has to know.
        longest = max((len(one) for one in chunks), default=0)
        cycles = tuple(max(one[place] for one in chunks if place < len(one)) for place in range(longest))
        found.append((exposed, stage.label, cycles * times))
    clock = site.host.device.clock if isinstance(site.host.device, Accelerator) else 1.0
    figures = dict(zip(FIGURES, totals, strict=True))
    named = {**figures, "host_busy_s": busy / clock}
    value = figures.__getitem__
    return _Steps(
        tuple(found),
        busy / clock,
        named,
        int(value("result_bytes") + value("read_bytes")),
        int(value("vector_bytes") + value("written_bytes")),
        sum(value(name) for name in ("activate_j", "column_j", "buffer_j", "access_j", "io_j")),
        value("mac_j"),
    )


def _run(site: _Site, steps: _Steps, begin: float) -> tuple[float, int, dict[str, float]]:
    """Run priced stages from a tick on; returns the last tick, the refreshes and the ticks by label."""
    now, refreshes = begin, 0
    spent: dict[str, float] = {}
    interval, duration = site.pricer.interval, site.pricer.refresh_cycles
    for exposed, label, chunks in steps.stages:
        was = done = now
        if exposed >= 0:
            done = (now if now > site.host_free else site.host_free) + exposed
            site.host_free = done
        for cycles in chunks:
            free = site.memory_free
            while interval and site.due <= (now if now > free else free):
                free = (site.due if site.due > free else free) + duration
                site.due += interval
                refreshes += 1
            now = (now if now > free else free) + cycles
            site.memory_free = now
        if done > now:
            now = done
        spent[label] = spent.get(label, 0.0) + now - was
    return now, refreshes, spent
