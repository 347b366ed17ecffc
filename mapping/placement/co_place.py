"""The mapper ``co-place``: who computes what and what lives where, over all devices and memories of a machine.

A graph is cut into segments that repeat (:mod:`mapping.placement.segments`); each may be placed in the ways of
:mod:`mapping.placement.columns`; an integer program counts how many take which
(:mod:`mapping.placement.column_program`) and proves a bound; the counts are written as plans in several orders, each is
checked and run event by event, and so are the plans of the mappers that decide a part of the same question. The best
that ran is the answer, with the time it took, the time the program predicted, and the gap to the bound.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, bad_input, nearest
from hw_configs.settings import Settings, count, flag, name_of, seconds, word
from hw_configs.system import System
from mapping.deadline import is_late
from mapping.liveness import footprint
from mapping.mapper import MAPPERS, MapperOptions, mapper_settings, plan_writer, writes_plans
from mapping.offload.policy import OffloadAnswer, OffloadRequest
from mapping.placement.arrange import ORDERS, arranged
from mapping.placement.column_program import Capacity, Crossing, Objective, Program, Solution, solve_columns
from mapping.placement.columns import Column, Scope, columns_of
from mapping.placement.exact import MOST_OPERATORS, place_exactly
from mapping.placement.machine import Machine
from mapping.placement.placement_plan import write_placement
from mapping.placement.segments import SegmentClass, apart, one_after_another, segment_classes, waits
from mapping.placement.single_device import refuse_communication
from mapping.placement.trial import Trial, try_plan
from mapping.solver import SolverOptions
from simulator.plan import Plan, PlanNotes
from workloads.expert_frequency import frequency_of
from workloads.graph import Graph

__all__ = ["MAPPER", "CoPlace", "CoPlaceSettings", "CoPlacement", "Question", "ask", "co_place"]

PROGRAM_SHARE: Final = 0.15
"""Of the time limit, what one integer program may take."""
TIDY_SHARE: Final = 0.05
"""Of the time limit, what the choice among equally fast counts may take."""
GAP: Final = 1e-3
"""A plan so near the bound is called optimal."""
NEAR: Final = 3e-3
"""The program stops this near its optimum; what a placement loses to hand-overs is more."""
AHEADS: Final = (2, 6, 12, 24)
"""Depths of fetching that are tried where none is asked for."""
KEPT_FREE: Final = 0.06
"""Share of a memory by which more is kept free each time."""
ROOMS: Final = 4
"""Times that a plan which did not fit is tried again with more room kept free."""
OBJECTIVES: Final = ("time", "energy", "throughput", "dollars")
OTHERS: Final = ("single-device", "stream-weights", "offload-kv", "pim-attention", "pim")
RULES: Final = ("llama.cpp", "ktransformers")
"""Engines whose rule is tried beside, at the same hand-over."""
"""Mappers that decide a part of the question, whose plans are tried beside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoPlaceSettings(Settings):
    """Settings of ``co-place``."""

    objective: str = word("time", "what is best", OBJECTIVES)
    latency: float | None = seconds(None, "a step may take no longer", absent="no bound")
    devices: str | None = name_of("groups that may compute, joined by +", absent="all")
    products: str | None = name_of("of those, groups that may compute products", absent="all")
    attention: str | None = name_of("of those, groups that may attend over a cache", absent="all")
    experts_on: str | None = name_of("of those, groups that may compute routed experts", absent="all")
    weights: str | None = name_of("groups that may hold weights, joined by +", absent="all")
    caches: str | None = name_of("groups that may hold caches, joined by +", absent="all")
    ahead: int = count(0, "fetches in flight or waiting; 0: the best of a few", most=64, unit="operators")
    experts: str | None = name_of("how often experts are wanted: zipf:EXPONENT or a CSV file", absent="alike")
    hand_over: float = seconds(0.0, "software at each hand-over of an activation between devices", zero=True)
    compare: bool = flag(True, "also try the plans of the mappers that decide a part of this")
    limit: float = seconds(60.0, "how long the integer program and the tries may take")


@dataclass(frozen=True, slots=True)
class Considered:
    """A plan that was tried: by whom, what it took, and why it cannot be; an empty obstacle when it can."""

    plan: str
    step_s: float
    obstacle: str


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
    solution: Solution | None = None


@dataclass(frozen=True)
class Question:
    """A graph on a machine, cut and priced: what the integer program is asked."""

    graph: Graph
    machine: Machine
    classes: tuple[SegmentClass, ...]
    program: Program
    capacity: Capacity
    scope: Scope
    settings: CoPlaceSettings = field(default_factory=CoPlaceSettings)


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
    best: _Best = _Best(settings.objective)
    solution = _placed(question, best)
    if len(graph.operators) <= MOST_OPERATORS and settings.latency is None and not question.scope.by_role:
        exact = place_exactly(
            graph, machine, question.scope, settings.ahead or AHEADS[0], settings.hand_over, settings.objective,
            best.trial,
        )  # fmt: skip
        best.proved = exact.finished
        if exact.plan is not None:
            best.offer(f"exact, {exact.runs} run", exact.plan, exact.trial)
    if settings.compare and not _limited(settings):
        for name, plan in _others(graph, machine, start, settings):
            best.offer(name, plan, try_plan(graph, machine, plan))
    if best.plan is None:
        told = "; ".join(f"{entry.plan}: {entry.obstacle}" for entry in best.considered)
        raise InfeasibleError(f"{graph.name} does not fit {machine.system.name!r}: {told}")
    return _answer(question, solution, best, time.perf_counter() - start)


def ask(graph: Graph, machine: Machine, settings: CoPlaceSettings) -> Question:
    """Cut a graph and price its segments; ``InfeasibleError`` for an operator that no device can run."""
    classes = segment_classes(graph)
    chain = one_after_another(graph, classes)
    scope = _scope(machine, settings)
    columns = []
    for found in classes:
        own = columns_of(graph, machine, found, scope)
        if not own:
            first = next(found.example.operators)
            raise InfeasibleError(
                f"no device of {machine.system.name!r} that may compute can run {first.name!r} and what belongs to it"
            )
        columns.append(own)
    if not chain:
        columns = [own for own, found in zip(columns, classes, strict=True) for _ in found.members]
        classes = apart(classes)
    counts = tuple(found.count for found in classes)
    objective: Objective = "energy" if settings.objective == "energy" else "time"
    program = Program(counts, tuple(columns), 1, objective, settings.latency)
    if not chain:
        before = waits(graph, classes)
        program = replace(program, waits=before, crossing=_crossings(graph, machine, classes, before))
    return Question(
        graph, machine, classes, program, _capacity(graph, machine, scope, columns), scope, settings
    )


def _crossings(
    graph: Graph, machine: Machine, classes: Sequence[SegmentClass], before: Sequence[Sequence[int]]
) -> dict[tuple[int, int], Crossing]:
    """What activations between segments take from any memory of a place to any other."""
    memories = [place.memory for place in machine.general]
    pairs = [(one, other) for one in memories for other in memories if one != other]
    moves = {pair: move for pair in pairs if (move := machine.move(*pair)) is not None}
    found = {}
    for index, others in enumerate(before):
        read = {name for op in classes[index].example.operators for name in op.inputs}
        for other in others:
            made = {name for op in classes[other].example.operators for name in op.outputs}
            size = sum(graph.tensors[name].size_bytes for name in made & read)
            if size:
                found[other, index] = Crossing({pair: move.seconds(size) for pair, move in moves.items()})
    return found


def _capacity(graph: Graph, machine: Machine, scope: Scope, columns: Sequence[Sequence[Column]]) -> Capacity:
    usable = {memory: float(machine.usable(memory)) for memory in machine.stores}
    live = float(footprint(graph).transient_peak_bytes)
    reserved = {p.memory: live * p.count for p in machine.general if scope.computes(p)}
    resources = {name for own in columns for column in own for name in column.loads}
    members = {
        name: place.count
        for place in machine.general
        for name in resources
        if place.count > 1 and machine.own_to_place(name, place)
    }
    return Capacity(usable, reserved, members, machine.pim_rows, idle_w=machine.idle_w)


def _scope(machine: Machine, settings: CoPlaceSettings) -> Scope:
    def named(text: str | None, setting: str) -> frozenset[str] | None:
        if text is None:
            return None
        found: set[str] = set()
        groups = {node.group for node in machine.system.nodes.values()}
        for name in text.split("+"):
            members = [node.name for node in machine.system.nodes.values() if name in (node.group, node.name)]
            if not members:
                raise bad_input(
                    f"found {name!r}; expected groups of {machine.system.name!r}: {', '.join(sorted(groups))}",
                    path=f"--set {setting}", suggestion=nearest(name, groups),
                )  # fmt: skip
            found.update(members)
        return frozenset(found)

    roles = {
        "products": named(settings.products, "products"),
        "attend": named(settings.attention, "attention"),
        "experts": named(settings.experts_on, "experts-on"),
    }
    return Scope(
        named(settings.devices, "devices"), named(settings.weights, "weights"), named(settings.caches, "caches"),
        frequency_of(settings.experts or "uniform"),
        {role: members for role, members in roles.items() if members is not None}, settings.hand_over,
    )  # fmt: skip


def _limited(settings: CoPlaceSettings) -> bool:
    asked = (settings.devices, settings.weights, settings.caches)
    by_role = (settings.products, settings.attention, settings.experts_on)
    return any(value is not None for value in (*asked, *by_role))


@dataclass
class _Best:
    """The best plan so far, and everything that was tried."""

    objective: str
    plan: Plan | None = None
    trial: Trial = field(default_factory=lambda: Trial(float("inf"), float("inf")))
    name: str = ""
    predicted_s: float | None = None
    proved: bool = False
    """Whether every placement was tried or shown to be worse."""
    considered: list[Considered] = field(default_factory=list)

    def value(self, trial: Trial) -> float:
        """What is to be least."""
        return trial.joules if self.objective == "energy" else trial.seconds

    def offer(self, name: str, plan: Plan, trial: Trial, predicted_s: float | None = None) -> bool:
        """Take a plan if it is better; True when it ran."""
        self.considered.append(Considered(name, trial.seconds, trial.obstacle))
        if trial.obstacle:
            return False
        if self.plan is None or self.value(trial) < self.value(self.trial) * (1 - 1e-9):
            self.plan, self.trial, self.name, self.predicted_s = plan, trial, name, predicted_s
        return True


def _placed(question: Question, best: _Best) -> Solution | None:
    """Solve for a few depths of fetching ahead, write and try; the bound of the least depth holds for all.

    More in flight hides fetches better and takes room from what could stay.
    """
    settings, start = question.settings, time.perf_counter()
    options = SolverOptions(time_limit_s=PROGRAM_SHARE * settings.limit, relative_gap=NEAR)
    first = solve_columns(question.program, question.capacity, options)
    for ahead in (settings.ahead,) if settings.ahead else AHEADS:
        if is_late() or time.perf_counter() - start > settings.limit:
            break
        if best.plan is not None and _gap(best, _bound(question, first)) <= GAP:
            break
        if not _with_room(question, ahead, options, best):
            break
    return first


def _in_use(program: Program, solution: Solution) -> Iterator[Column]:
    for columns, own in zip(program.columns, solution.taken, strict=True):
        yield from (columns[index] for index in own)


def _with_room(question: Question, ahead: int, options: SolverOptions, best: _Best) -> bool:
    """Solve and try at a depth of fetching; with more room kept free as long as what was written does not fit.

    True where another depth may be better: something is fetched.
    """
    program = replace(question.program, ahead=ahead)
    for attempt in range(ROOMS):
        tighter = _with_more_free(question.capacity, attempt)
        try:
            found = solve_columns(program, tighter, options)
            tidied = _tidy(program, tighter, found, options)
        except (InfeasibleError, NoAnswerError):
            return True
        if _try(question, tidied, ahead, best) or is_late():
            return any(column.fetches for column in _in_use(question.program, tidied))
    return True


def _with_more_free(capacity: Capacity, attempt: int) -> Capacity:
    """Less to give away: what is live at once was underrated, or segments do not pack into alike memories."""
    usable, reserved = capacity.usable, capacity.reserved
    wider = {m: reserved.get(m, 0.0) * 1.5**attempt + KEPT_FREE * attempt * usable[m] for m in usable}
    return replace(capacity, reserved=wider)


def _try(question: Question, solution: Solution, ahead: int, best: _Best) -> bool:
    """Write counts as plans in several orders and run them; whether one ran."""
    ran = False
    for order in ORDERS:
        placement = arranged(
            question.graph, question.machine, question.classes, question.program.columns, solution.taken,
            order, ahead, question.settings.hand_over,
        )  # fmt: skip
        plan = write_placement(question.graph, question.machine.system, placement, "co-place", PlanNotes())
        trial = try_plan(question.graph, question.machine, plan)
        ran |= best.offer(f"co-place, {order}, {ahead} ahead", plan, trial, solution.seconds)
    return ran


def _tidy(program: Program, capacity: Capacity, found: Solution, options: SolverOptions) -> Solution:
    """Counts as good as those found that move and load least; many are equally fast."""
    within = replace(program, latency_s=found.seconds * (1 + NEAR), tidy=True)
    limit = (options.time_limit_s or 9.0) * TIDY_SHARE / PROGRAM_SHARE
    try:
        return solve_columns(within, capacity, replace(options, time_limit_s=limit, relative_gap=0.01))
    except (InfeasibleError, NoAnswerError):
        return found


def _others(
    graph: Graph, machine: Machine, start: float, settings: CoPlaceSettings
) -> Iterator[tuple[str, Plan]]:
    """Plans of mappers that decide a part of the question, as long as there is time."""
    for name in OTHERS:
        if is_late() or time.perf_counter() - start > settings.limit:
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
        if is_late() or time.perf_counter() - start > settings.limit:
            return
        values = {"engine": engine, "hand-over": settings.hand_over}
        try:
            options = MapperOptions(settings=mapper_settings("like-engine", values, "plan"))
            yield engine, plan_writer("like-engine").plan(graph, machine.system, options)
        except (InfeasibleError, InputError, NoAnswerError):
            continue


def _answer(question: Question, solution: Solution | None, best: _Best, took: float) -> CoPlacement:
    assert best.plan is not None
    bound = best.value(best.trial) if best.proved else _bound(question, solution)
    gap = _gap(best, bound)
    notes = CoPlaceNotes(
        status="optimal" if gap <= GAP or best.proved else "feasible",
        objective=question.settings.objective,
        predicted_s=best.predicted_s,
        simulated_s=best.trial.seconds,
        bound=bound,
        gap=gap,
        solve_s=took,
        engine=f"{solution.report.backend} {solution.report.version}" if solution is not None else "",
        bottleneck=solution.bottleneck if solution is not None else "",
        order=best.name,
        placed=_who(question, best.plan),
        held_bytes=_held(question, best.plan),
        considered=tuple(best.considered),
    )
    plan = replace(best.plan, mapper="co-place", notes=notes)
    return CoPlacement(plan, best.trial, notes, question, solution)


def _gap(best: _Best, bound: float) -> float:
    value = best.value(best.trial)
    return max(0.0, (value - bound) / value) if value > 0 else 0.0


def _bound(question: Question, solution: Solution | None) -> float:
    """What no placement beats: the program's dual bound, in seconds or joules."""
    if solution is None or solution.report.bound is None:
        return 0.0
    scale = 1e-3 if question.program.objective == "time" else 1.0
    return max(0.0, solution.report.bound * scale)


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
