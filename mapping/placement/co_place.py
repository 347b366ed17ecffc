"""The mapper ``co-place``: who computes what and what lives where, over all devices and memories of a machine.

A graph is cut into segments that repeat (:mod:`mapping.placement.segments`); each may be placed in the ways of
:mod:`mapping.placement.columns`; an integer program counts how many take which
(:mod:`mapping.placement.column_program`) and proves a bound; the counts are written as plans in several orders, each is
checked and run event by event, and so are the plans of the mappers that decide a part of the same question. The best
that ran is the answer, with the time it took, the time the program predicted, and the gap to the bound.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, bad_input
from hw_configs.system import System
from mapping.deadline import is_late
from mapping.mapper import MAPPERS, MapperOptions, mapper_settings, plan_writer, writes_plans
from mapping.offload.policy import OffloadAnswer, OffloadRequest
from mapping.placement.column_program import (
    Root,
)
from mapping.placement.exact import MOST_DEVICES, MOST_OPERATORS, place_exactly
from mapping.placement.machine import Machine
from mapping.placement.placement_search import (
    AHEADS,
    GAP,
    Best,
    Considered,
    bound_of,
    gap_to,
    search_placements,
)
from mapping.placement.question import CoPlaceSettings, Question, ask
from mapping.placement.single_device import refuse_communication
from mapping.placement.trial import Trial, try_plan
from simulator.plan import Plan, PlanNotes
from workloads.graph import Graph

__all__ = ["MAPPER", "CoPlace", "CoPlaceNotes", "CoPlaceSettings", "CoPlacement", "co_place"]

OTHERS: Final = ("single-device", "stream-weights", "offload-kv", "pim-attention", "pim")
RULES: Final = ("llama.cpp", "ktransformers")
"""Engines whose rule is tried beside, at the same hand-over."""


@dataclass(frozen=True)
class CoPlaceNotes(PlanNotes):
    """What was decided, and how good it is.

    ``bound`` is proven for every placement of the units as they were cut: no such plan is better.
    ``gap`` is the share by which the tried plan is above the bound.
    """

    status: str
    objective: str
    predicted_s: float | None
    """By the program, where the plan is its own."""
    simulated_s: float
    bound: float
    gap: float
    solve_s: float
    engine: str
    bottleneck: str
    order: str
    placed: Mapping[str, Mapping[str, int]]
    """By kind of work: how many units each device runs."""
    held_bytes: Mapping[str, int]
    """Bytes of weights and caches in each memory."""
    considered: tuple[Considered, ...] = ()


@dataclass(frozen=True)
class CoPlacement:
    """A decision: the plan with its notes, and what a report about it needs."""

    plan: Plan
    trial: Trial
    notes: CoPlaceNotes
    question: Question


class CoPlace:
    """The mapper ``co-place``; see the module's first lines."""

    DESCRIPTION = "who computes what and what lives where, over GPU, CPU, PIM and drives, with a bound"
    SETTINGS = CoPlaceSettings
    PHASES: tuple[str, ...] = ("decode", "prefill", "train")

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The best plan found; ``InfeasibleError`` with demand and supply when nothing fits."""
        settings = options.of(CoPlaceSettings)
        if settings.objective not in ("time", "energy"):
            message = (
                f"{settings.objective} is of a batch or machine yet to be chosen; see 'offchip solve offload'"
            )
            raise bad_input(message, path="--set objective")
        return co_place(graph, Machine(system), settings).plan

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The plan, who has what, the bottleneck and what to buy next; see :mod:`mapping.placement.co_place_answer`."""
        from mapping.placement.co_place_answer import answer

        return answer(request)


MAPPER: Final = CoPlace()


def co_place(
    graph: Graph, machine: Machine, settings: CoPlaceSettings, question: Question | None = None
) -> CoPlacement:
    """Place a graph on a machine; ``question`` where it is cut and priced already."""
    refuse_communication(graph)
    start = time.perf_counter()
    question = question or ask(graph, machine, settings)
    best: Best = Best(settings.objective)
    root = search_placements(question, best)
    if _small(graph, machine) and settings.latency is None and not question.scope.by_role:
        exact = place_exactly(
            graph, machine, question.scope, settings.ahead or AHEADS[0], settings.hand_over, settings.objective,
            best.trial,
        )  # fmt: skip
        best.proved = exact.finished
        if exact.plan is not None:
            best.offer(f"exact, {exact.runs} run", exact.plan, exact.trial)
    if settings.compare and not _limited(settings):
        for name, plan in _others(graph, machine, settings):
            best.offer(name, plan, try_plan(graph, machine, plan))
    if best.plan is None:
        told = "; ".join(f"{entry.plan}: {entry.obstacle}" for entry in best.considered)
        raise InfeasibleError(f"{graph.name} does not fit {machine.system.name!r}: {told}")
    return _answer(question, root, best, time.perf_counter() - start)


def _small(graph: Graph, machine: Machine) -> bool:
    """Whether a graph and a machine are small enough for all placements to be gone through."""
    devices = sum(len(place.devices) for place in machine.general)
    return len(graph.operators) <= MOST_OPERATORS and devices <= MOST_DEVICES


def _limited(settings: CoPlaceSettings) -> bool:
    asked = (settings.devices, settings.weights, settings.caches)
    by_role = (settings.products, settings.attention, settings.experts_on)
    return any(value is not None for value in (*asked, *by_role))


def _others(graph: Graph, machine: Machine, settings: CoPlaceSettings) -> Iterator[tuple[str, Plan]]:
    """Plans of mappers that decide a part of the question."""
    for name in OTHERS:
        if is_late():
            return
        mapper = MAPPERS.get(name)
        if not writes_plans(mapper):
            continue
        try:
            plan = mapper.plan(graph, machine.system, MapperOptions())
        except (InfeasibleError, InputError, NoAnswerError):
            continue
        yield name, plan
    for engine in RULES:
        if is_late():
            return
        values = {"engine": engine, "hand-over": settings.hand_over}
        try:
            options = MapperOptions(settings=mapper_settings("like-engine", values, "plan"))
            yield engine, plan_writer("like-engine").plan(graph, machine.system, options)
        except (InfeasibleError, InputError, NoAnswerError):
            continue


def _answer(question: Question, root: Root, best: Best, took: float) -> CoPlacement:
    assert best.plan is not None
    bound = best.value(best.trial) if best.proved else bound_of(question, root)
    if best.value(best.trial) < bound * (1 - 1e-6):
        # Another mapper's plan uses what no column does (matrices in the banks of a PIM memory): nothing is proved.
        bound = 0.0
    gap = gap_to(best, bound)
    notes = CoPlaceNotes(
        status="optimal" if gap <= GAP or best.proved else "feasible",
        objective=question.settings.objective,
        predicted_s=best.arranging.predicted_s if best.arranging is not None else None,
        simulated_s=best.trial.seconds,
        bound=bound,
        gap=gap,
        solve_s=took,
        engine=f"{root.report.backend} {root.report.version}",
        bottleneck=best.arranging.bottleneck if best.arranging is not None else "",
        order=best.name,
        placed=_who(question, best.plan),
        held_bytes=_held(question, best.plan),
        considered=tuple(best.considered),
    )
    plan = replace(best.plan, mapper="co-place", notes=notes)
    return CoPlacement(plan, best.trial, notes, question)


def _who(question: Question, plan: Plan) -> dict[str, dict[str, int]]:
    """How many units of each kind every group of devices runs."""
    device = {task.operator: task.device for task in plan.tasks if task.kind == "compute"}
    found: dict[str, dict[str, int]] = {}
    nodes = question.machine.system.nodes
    for segments in question.classes:
        for segment in segments.members:
            for unit in segment.units:
                last = unit.operators[-1].name
                at = device.get(last) or device.get(f"{last}/0")
                if at is not None:
                    group = nodes[at].group
                    found.setdefault(unit.role, {})[group] = found.get(unit.role, {}).get(group, 0) + 1
    return found


def _held(question: Question, plan: Plan) -> dict[str, int]:
    from simulator.rewrite.apply import rewrite
    from workloads.graph import PERSISTENT_ROLES

    written = rewrite(question.graph, plan)
    found: dict[str, int] = {}
    for name, homes in plan.homes.items():
        if written.tensors[name].role in PERSISTENT_ROLES:
            for home in homes:
                found[home.memory] = found.get(home.memory, 0) + written.tensors[name].size_bytes
    return found
