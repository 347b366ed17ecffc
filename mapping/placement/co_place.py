"""The mapper ``co-place``: who computes what and what lives where, over all devices and memories of a machine.

A graph is cut into segments that repeat (:mod:`mapping.placement.segments`); each may be placed in the ways of
:mod:`mapping.placement.columns`; an integer program counts how many take which
(:mod:`mapping.placement.column_program`) and proves a bound; the counts are written as plans in several orders, each is
checked and run event by event, and so are the plans of the mappers that decide a part of the same question. The best
that ran is the answer, with the time it took, the time the program predicted, and the gap to the bound.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, bad_input, nearest
from hw_configs.settings import Settings, count, flag, name_of, seconds, word
from hw_configs.system import System
from mapping.deadline import is_late
from mapping.liveness import footprint
from mapping.mapper import MAPPERS, MapperOptions, mapper_settings, plan_writer, writes_plans
from mapping.offload.policy import OffloadAnswer, OffloadRequest
from mapping.placement.arrange import ORDERS, arranged, sequences_of
from mapping.placement.column_program import (
    Beside,
    Capacity,
    Crossing,
    Objective,
    Program,
    Root,
    Solution,
    bound_columns,
    solve_columns,
)
from mapping.placement.columns import Column, Scope, columns_of
from mapping.placement.exact import MOST_OPERATORS, place_exactly
from mapping.placement.machine import Machine
from mapping.placement.placement_plan import write_placement
from mapping.placement.segments import (
    SegmentClass,
    apart,
    one_after_another,
    saved_activations,
    segment_classes,
    waits,
)
from mapping.placement.single_device import refuse_communication
from mapping.placement.trial import Trial, try_plan
from mapping.solver import SolverOptions
from simulator.plan import Plan, PlanNotes
from workloads.expert_frequency import frequency_of
from workloads.graph import Graph, Operator

__all__ = ["MAPPER", "CoPlace", "CoPlaceSettings", "CoPlacement", "Question", "ask", "co_place"]

PROGRAM_SHARE: Final = 0.04
"""Of the time limit, what one integer program may take."""
TIDY_SHARE: Final = 0.02
"""Of the time limit, what the choice among equally fast counts may take."""
GAP: Final = 1e-3
"""A plan so near the bound is called optimal."""
NEAR: Final = 5e-3
"""The program stops this near its optimum; what a placement loses to hand-overs is more."""
AHEADS: Final = (6, 16, 2)
"""Depths of fetching that are tried where none is asked for."""
FILLED: Final = (1.0, 0.82, 0.65)
"""Shares of the time that resources may be busy in the placements that are tried; some rest makes up for bad timing."""
MOST_FAILS: Final = 60
"""Swaps in a row that do not help, after which no more are tried."""
SOLVE_SHARE: Final = 0.4
"""Of the time limit, when no more programs are solved."""
TRY_SHARE: Final = 0.75
"""Of the time limit, when swaps end."""
SWAPPED: Final = ", swapped"
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
    root = _placed(question, best)
    if len(graph.operators) <= MOST_OPERATORS and settings.latency is None and not question.scope.by_role:
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
    # What waits for the backward pass is held by the segments that made it.
    saved = {
        n for found in segment_classes(graph) for s in found.members for n in saved_activations(graph, s)
    }
    waiting = sum(graph.tensors[name].size_bytes for name in saved)
    live = max(0.0, float(footprint(graph).transient_peak_bytes - waiting))
    reserved = {p.memory: live * p.count for p in machine.general if scope.computes(p)}
    resources = {name for own in columns for column in own for name in column.loads}
    members = {
        name: place.count
        for place in machine.general
        for name in resources
        if place.count > 1 and machine.own_to_place(name, place)
    }
    return Capacity(
        usable, reserved, members, machine.pim_rows, idle_w=machine.idle_w, beside=_beside(machine)
    )


def _beside(machine: Machine) -> dict[str, Beside]:
    """Memories in which one device works: what the wires into them can carry beside it."""
    found = {}
    for place in machine.general:
        space = machine.space(place.memory)
        others = [other for other in machine.general if other.memory == place.memory]
        if len(place.devices) > 1 or len(others) > 1:
            continue
        moves = (
            machine.move(place.memory, memory) for memory in machine.system.memories if memory != place.memory
        )
        rate = sum(move.bytes_per_s for move in moves if move is not None)
        if rate < space.read_bandwidth:
            found[place.memory] = Beside(place.device, rate / space.read_bandwidth)
    return found


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
    arranging: _Arranging | None = None
    """The columns of a plan that the program chose."""
    proved: bool = False
    """Whether every placement was tried or shown to be worse."""
    considered: list[Considered] = field(default_factory=list)

    def value(self, trial: Trial) -> float:
        """What is to be least."""
        return trial.joules if self.objective == "energy" else trial.seconds

    def take(self, name: str, plan: Plan, trial: Trial, arranging: _Arranging | None) -> None:
        """Make a plan the best one."""
        self.plan, self.trial, self.name, self.arranging = plan, trial, name, arranging

    def offer(self, name: str, plan: Plan, trial: Trial, arranging: _Arranging | None = None) -> bool:
        """Take a plan if it is better; True when it ran."""
        self.considered.append(Considered(name, trial.seconds, trial.obstacle))
        if trial.obstacle:
            return False
        if self.plan is None or self.value(trial) < self.value(self.trial) * (1 - 1e-9):
            self.take(name, plan, trial, arranging)
        return True


def _placed(question: Question, best: _Best) -> Root:
    """Bound, then solve for a few depths of fetching ahead and loads, write and try; the bound holds for all of them.

    More in flight hides fetches better and takes room from what could stay.
    """
    settings, start = question.settings, time.perf_counter()
    options = SolverOptions(time_limit_s=PROGRAM_SHARE * settings.limit, relative_gap=NEAR)
    root = bound_columns(question.program, question.capacity)
    near = [list(own) for own in root.near]
    for filled in FILLED[1:]:
        with contextlib.suppress(InfeasibleError, NoAnswerError):
            other = bound_columns(question.program, replace(question.capacity, filled=filled))
            near = [sorted({*one, *two}) for one, two in zip(near, other.near, strict=True)]
    for ahead in (settings.ahead,) if settings.ahead else AHEADS:
        again = False
        for filled in FILLED:
            done = time.perf_counter() - start > settings.limit * SOLVE_SHARE and best.plan is not None
            if done or is_late() or (best.plan is not None and _gap(best, _bound(question, root)) <= NEAR):
                break
            again |= _filled_so(question, ahead, filled, near, options, best)
            if not again:
                break
        if not again:
            break
    _improve(question, best, _bound(question, root), start)
    return root


def _in_use(program: Program, solution: Solution) -> Iterator[Column]:
    for columns, own in zip(program.columns, solution.taken, strict=True):
        yield from (columns[index] for index in own)


def _filled_so(
    question: Question,
    ahead: int,
    filled: float,
    near: Sequence[Sequence[int]],
    options: SolverOptions,
    best: _Best,
) -> bool:
    """Solve and try at a depth of fetching, with wires, ports and devices busy for a share of the time at most.

    With more room kept free as long as what was written does not fit. True where another depth may be better.
    """
    program = replace(question.program, ahead=ahead)
    for attempt in range(ROOMS):
        tighter = replace(_with_more_free(question.capacity, attempt), filled=filled)
        try:
            found = solve_columns(program, tighter, near, options)
            tidied = _tidy(program, tighter, found, near, options)
        except (InfeasibleError, NoAnswerError):
            return True
        if _try(question, tidied, ahead, filled, best) or is_late():
            return any(column.fetches for column in _in_use(question.program, tidied))
    return True


def _with_more_free(capacity: Capacity, attempt: int) -> Capacity:
    """Less to give away: what is live at once was underrated, or segments do not pack into alike memories."""
    usable, reserved = capacity.usable, capacity.reserved
    wider = {m: reserved.get(m, 0.0) * 1.5**attempt + KEPT_FREE * attempt * usable[m] for m in usable}
    return replace(capacity, reserved=wider)


def _try(question: Question, solution: Solution, ahead: int, filled: float, best: _Best) -> bool:
    """Write counts as plans in several orders and run them; whether one ran."""
    ran = False
    for order in ORDERS:
        sequences = sequences_of(solution.taken, question.program.columns, order)
        arranging = _Arranging(sequences, ahead, solution.seconds, solution.bottleneck)
        plan, trial = arranging.run(question)
        name = f"co-place, {order}, {ahead} ahead" + (f", {filled:.0%} full" if filled < 1 else "")
        ran |= best.offer(name, plan, trial, arranging)
    return ran


@dataclass(frozen=True)
class _Arranging:
    """Columns of the members of each class in turn, the depth of fetching, and what the program predicts."""

    sequences: Sequence[Sequence[int]]
    ahead: int
    predicted_s: float
    bottleneck: str

    def run(self, question: Question) -> tuple[Plan, Trial]:
        """Write it as a plan and run that."""
        placement = arranged(
            question.graph, question.machine, question.classes, question.program.columns, self.sequences,
            self.ahead, question.settings.hand_over,
        )  # fmt: skip
        plan = write_placement(question.graph, question.machine.system, placement, "co-place", PlanNotes())
        return plan, try_plan(question.graph, question.machine, plan)

    def swapped(self, which: int, one: int, other: int) -> _Arranging:
        """Two members of a class with each other's columns."""
        sequence = list(self.sequences[which])
        sequence[one], sequence[other] = sequence[other], sequence[one]
        changed = [sequence if place == which else own for place, own in enumerate(self.sequences)]
        return replace(self, sequences=changed)


def _improve(question: Question, best: _Best, bound: float, start: float) -> None:
    """Swap columns of segments that wait with those of others, as long as there is time and it helps."""
    draw = random.Random(0)
    fails, tried = 0, 0
    while fails < MOST_FAILS and best.arranging is not None and _gap(best, bound) > NEAR:
        if is_late() or time.perf_counter() - start > question.settings.limit * TRY_SHARE:
            break
        swap = _swap(question, best.arranging, best.trial, draw)
        if swap is None:
            break
        plan, trial = swap.run(question)
        tried += 1
        better = not trial.obstacle and best.value(trial) < best.value(best.trial) * (1 - 1e-6)
        fails = 0 if better else fails + 1
        if better:
            best.take(f"{best.name.removesuffix(SWAPPED)}{SWAPPED}", plan, trial, swap)
    if tried:
        best.considered.append(Considered(f"co-place, {tried} swaps tried", best.trial.seconds, ""))


def _swap(question: Question, now: _Arranging, trial: Trial, draw: random.Random) -> _Arranging | None:
    """A segment that takes longer than its column says, or any one in four times, changes places with another."""
    able = [place for place, own in enumerate(now.sequences) if len(set(own)) > 1]
    if not able:
        return None
    which = draw.choices(able, [len(now.sequences[place]) for place in able])[0]
    own, columns = now.sequences[which], question.program.columns[which]
    waits = [
        max(0.0, _took(segment.operators, trial) - columns[index].seconds)
        for segment, index in zip(question.classes[which].members, own, strict=True)
    ]
    even = draw.random() < 0.25 or not any(waits)
    one = draw.choices(range(len(own)), None if even else waits)[0]
    others = [place for place in range(len(own)) if own[place] != own[one]]
    return now.swapped(which, one, draw.choice(others))


def _took(operators: Iterable[Operator], trial: Trial) -> float:
    """From the end of a segment's first operator to that of its last."""
    ends = [trial.ends[op.name] for op in operators if op.name in trial.ends]
    return max(ends) - min(ends) if ends else 0.0


def _tidy(
    program: Program,
    capacity: Capacity,
    found: Solution,
    near: Sequence[Sequence[int]],
    options: SolverOptions,
) -> Solution:
    """Counts as good as those found that move and load least; many are equally fast."""
    within = replace(program, latency_s=found.seconds * (1 + NEAR), tidy=True)
    limit = (options.time_limit_s or 2.0) * TIDY_SHARE / PROGRAM_SHARE
    try:
        tidied = solve_columns(
            within, capacity, near, replace(options, time_limit_s=limit, relative_gap=0.02)
        )
    except (InfeasibleError, NoAnswerError):
        return found
    return replace(tidied, bottleneck=tidied.bottleneck or found.bottleneck)


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


def _answer(question: Question, root: Root, best: _Best, took: float) -> CoPlacement:
    assert best.plan is not None
    bound = best.value(best.trial) if best.proved else _bound(question, root)
    if best.value(best.trial) < bound * (1 - 1e-6):
        # Another mapper's plan uses what no column does (matrices in the banks of a PIM memory): nothing is proved.
        bound = 0.0
    gap = _gap(best, bound)
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


def _gap(best: _Best, bound: float) -> float:
    value = best.value(best.trial)
    return max(0.0, (value - bound) / value) if value > 0 else 0.0


def _bound(question: Question, root: Root) -> float:
    """What no placement beats, in seconds or joules."""
    scale = 1e-3 if question.program.objective == "time" else 1.0
    return max(0.0, root.bound * scale)


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
