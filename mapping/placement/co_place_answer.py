"""``solve offload --policy co-place``: the decision with who has what, the bottleneck, the gap and what to buy next.

A batch may be chosen as well (``throughput``): powers of two are screened by the integer program, then the sizes around
the best, and the best is placed, written and run. ``dollars`` chooses which optional devices the machine needs at all:
every set of them is screened at the rent of what it holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from hw_configs.prices import rent
from hw_configs.problems import InfeasibleError, NoAnswerError
from hw_configs.system import System
from hw_configs.units import format_quantity
from mapping.deadline import is_late
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from mapping.placement.co_place import CoPlacement, co_place
from mapping.placement.column_program import bound_columns
from mapping.placement.machine import Machine
from mapping.placement.question import CoPlaceSettings, Question, ask
from mapping.placement.what_if import Lever, levers
from mapping.solver import SolverOptions
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["answer"]

MOST_SEQUENCES: Final = 4096
SCREEN_S: Final = 4.0
USD_PER_KWH: Final = 0.10
"""An assumption: what industry pays for power in many places."""


def answer(request: OffloadRequest) -> OffloadAnswer:
    """The best placement by the objective asked for; raises ``InfeasibleError`` where none fits."""
    settings = request.of(CoPlaceSettings)
    if settings.objective == "throughput":
        return _throughput(request, settings)
    if settings.objective == "dollars":
        return _dollars(request, settings)
    found = co_place(_graph(request, request.batch), Machine(request.system, request.cost_model), settings)
    return _answer(request, found, settings, [], [])


def _graph(request: OffloadRequest, batch: int) -> Graph:
    options = WorkloadOptions(phase=request.phase, batch=batch, prompt=request.sequence, dtype=request.dtype)
    return load_workload(request.model, options).phases[0].graph


@dataclass(frozen=True, slots=True)
class _Screened:
    """A size or machine that the program was asked about; ``value`` is what the objective wants most of."""

    name: str
    batch: int
    seconds: float
    value: float
    obstacle: str = ""


def _screen(question: Question) -> float:
    return bound_columns(question.program, question.capacity, SolverOptions(time_limit_s=SCREEN_S)).seconds


def _throughput(request: OffloadRequest, settings: CoPlaceSettings) -> OffloadAnswer:
    machine = Machine(request.system, request.cost_model)
    by_time = replace(settings, objective="time")
    seen: dict[int, _Screened] = {}
    for batch in _sizes(seen):
        if is_late(0.7):
            break
        try:
            seconds = _screen(ask(_graph(request, batch), machine, by_time))
            seen[batch] = _Screened(f"{batch} sequences", batch, seconds, batch / seconds)
        except (InfeasibleError, NoAnswerError) as error:
            seen[batch] = _Screened(
                f"{batch} sequences", batch, float("inf"), 0.0, str(error).splitlines()[0]
            )
    ranked = sorted((s for s in seen.values() if not s.obstacle), key=lambda s: -s.value)
    last: InfeasibleError | None = None
    for screened in ranked[:3]:
        try:
            found = co_place(_graph(request, screened.batch), machine, by_time)
        except InfeasibleError as error:
            last = error
            continue
        why = [
            f"{screened.batch} sequences at once: {screened.batch / found.trial.seconds:.4g} a second, of "
            f"{ranked[0].value:.4g} that the program allows at any batch that was tried"
        ]
        return _answer(request, found, settings, why, [_screened_table(list(seen.values()))], screened.batch)
    raise last or InfeasibleError(next((s.obstacle for s in seen.values() if s.obstacle), "nothing fits"))


def _sizes(seen: dict[int, _Screened]) -> Iterator[int]:
    """Powers of two up to the first that does not fit, then what lies around the best."""
    batch = 1
    while batch <= MOST_SEQUENCES:
        yield batch
        if batch in seen and seen[batch].obstacle:
            break
        batch *= 2
    fitting = [screened for screened in seen.values() if not screened.obstacle]
    if not fitting:
        return
    best = max(fitting, key=lambda s: s.value).batch
    for quarter in (5, 6, 7):
        for size in (best * quarter // 8, best * quarter // 4):
            if size not in seen and size >= 1:
                yield size


def _dollars(request: OffloadRequest, settings: CoPlaceSettings) -> OffloadAnswer:
    graph = _graph(request, request.batch)
    machine = Machine(request.system, request.cost_model)
    screened: list[tuple[_Screened, CoPlaceSettings]] = []
    for groups in _machines(request.system):
        joined = "+".join(groups)
        scope = replace(
            settings, objective="time", devices=joined, weights=joined, caches=joined, compare=False
        )
        try:
            question = ask(graph, machine, scope)
            seconds = _screen(question)
        except (InfeasibleError, NoAnswerError) as error:
            entry = _Screened(joined, request.batch, float("inf"), 0.0, str(error).splitlines()[0])
        else:
            entry = _Screened(
                joined, request.batch, seconds, 1 / (seconds * _usd_per_s(request.system, groups))
            )
        screened.append((entry, scope))
        if is_late(0.7):
            break
    able = sorted((pair for pair in screened if not pair[0].obstacle), key=lambda pair: -pair[0].value)
    if not able:
        raise InfeasibleError(screened[0][0].obstacle)
    entry, scope = able[0]
    found = co_place(graph, machine, scope)
    kept = tuple(entry.name.split("+"))
    usd = found.trial.seconds * _usd_per_s(request.system, kept) + found.trial.joules / 3.6e6 * USD_PER_KWH
    why = [
        f"{usd * 1e6 / request.batch:.4g} USD for a million steps of a sequence, with {', '.join(kept)} and no more: "
        f"list prices over three years and {USD_PER_KWH:g} USD/kWh (assumptions)"
    ]
    return _answer(request, found, settings, why, [_screened_table([pair[0] for pair in screened])])


def _machines(system: System) -> Iterator[tuple[str, ...]]:
    """Sets of groups: the host with its memory always, every set of what computes or stores beside it."""
    groups = list(dict.fromkeys(node.group for node in system.nodes.values()))
    members = {g: [n for n in system.nodes.values() if n.group == g] for g in groups}
    counted = [
        g for g in groups if any(n.compute is not None or n.name in system.memories for n in members[g])
    ]
    host = {g for g in counted for n in members[g] if n.device.kind in ("cpu", "dram")}
    optional = [g for g in counted if g not in host]
    for size in range(len(optional), -1, -1):
        for chosen in itertools.combinations(optional, size):
            kept = tuple(g for g in counted if g in host or g in chosen)
            if any(n.compute is not None for g in kept for n in members[g]):
                yield kept


def _usd_per_s(system: System, groups: tuple[str, ...]) -> float:
    """Rent of groups; what states no price costs nothing here."""
    rents = [rent(node.device) for node in system.nodes.values() if node.group in groups]
    return sum(found.usd_per_s for found in rents if found is not None) or 1e-12


def _answer(
    request: OffloadRequest, found: CoPlacement, settings: CoPlaceSettings, why: list[str], more: list[Table],
    batch: int | None = None,
) -> OffloadAnswer:  # fmt: skip
    notes = found.notes
    gains = levers(found.question, replace(settings, objective=found.question.settings.objective))
    report: dict[str, Any] = notes.to_json()
    report["batch"] = batch or request.batch
    report["levers"] = [{"change": lever.change, "gain": lever.gain} for lever in gains]
    lines = [*why, *_lines(found)]
    tables = (_devices(found), _memories(found), *more, _levers(gains), _considered(found))
    return OffloadAnswer("co-place", report, tuple(lines), tables, found.question.graph, found.plan)


def _lines(found: CoPlacement) -> Iterator[str]:
    notes = found.notes
    unit = "energy" if notes.objective == "energy" else "time"
    best = found.trial.joules if unit == "energy" else found.trial.seconds
    proved = (
        f"no placement of these units takes less than {format_quantity(notes.bound, unit)} (gap "
        f"{100 * notes.gap:.1f} %, {notes.status}, {notes.solve_s:.1f} s)"
        if notes.bound
        else f"the plan uses what the program has no columns for, so nothing is proved ({notes.solve_s:.1f} s)"
    )
    yield f"{format_quantity(best, unit)} a step, event by event; {proved}"
    if notes.bottleneck:
        yield f"the bottleneck: {notes.bottleneck}"
    if notes.predicted_s is None:
        yield f"the plan is that of {notes.order}, which was faster than those written from the program"
        return
    apart = notes.simulated_s / notes.predicted_s - 1 if notes.predicted_s else 0.0
    yield f"the program predicted {format_quantity(notes.predicted_s, 'time')}: the run is {100 * apart:+.1f} % from it"
    if abs(apart) > 0.1:
        yield (
            "the program knows no fetch that comes too late, and no two that meet on a "
            "wire at the wrong moment; these make the difference"
        )


def _devices(found: CoPlacement) -> Table:
    rows = tuple(
        (role, group, str(count))
        for role, own in found.notes.placed.items()
        for group, count in sorted(own.items())
    )
    return Table("Who computes", ("work", "device", "layers or units"), rows)


def _memories(found: CoPlacement) -> Table:
    machine = found.question.machine
    rows = tuple(
        (
            memory,
            format_quantity(float(size), "size"),
            format_quantity(float(machine.space(memory).usable_bytes), "size"),
            f"{100 * size / machine.space(memory).usable_bytes:.0f} %",
        )
        for memory, size in found.notes.held_bytes.items()
    )
    return Table("What lives where (weights and caches)", ("memory", "held", "usable", "share"), rows)


def _levers(gains: list[Lever]) -> Table:
    rows = tuple((lever.change, f"-{100 * lever.gain:.1f} %") for lever in gains)
    return Table("What to buy next", ("change", "a step"), rows or (("nothing of one kind helps", ""),))


def _screened_table(entries: list[_Screened]) -> Table:
    rows = tuple(
        (s.name, format_quantity(s.seconds, "time") if not s.obstacle else "", s.obstacle or "fits")
        for s in sorted(entries, key=lambda s: (s.batch, s.name))
    )
    return Table("What was looked at (by the program)", ("", "a step", ""), rows)


def _considered(found: CoPlacement) -> Table:
    rows = tuple(
        (
            entry.plan,
            format_quantity(entry.step_s, "time") if not entry.obstacle else "",
            entry.obstacle or "ran",
        )
        for entry in found.notes.considered
    )
    return Table("Plans that were tried", ("plan", "a step", ""), rows)
