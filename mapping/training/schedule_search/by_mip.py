"""The best schedule as a mixed-integer programme: a start for every pass, an order for every open pair of a rank.

After Zero Bubble Pipeline Parallelism (arXiv:2401.10241, appendix G): starts are continuous, a binary says which of two
passes of a rank goes first, and what a rank holds when a forward begins is linear in them. Pairs that precedence and
the micro-batches' order settle have no binary; the constants are as small as a known schedule's length allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mapping.solver import SolveReport, SolverOptions, solve_model
from mapping.training.schedule_search.problem import PassClass, PipelineProblem, pass_classes
from mapping.training.schedules.action import Action, PipelineSchedule

if TYPE_CHECKING:
    import pulp

__all__ = ["open_pairs", "solve_by_mip"]

_Pass = tuple[int, int]
"""A class's number and a micro-batch."""


def open_pairs(problem: PipelineProblem) -> int:
    """How many pairs of passes the programme has to order."""
    classes = pass_classes(problem)
    reach, _ = _longest(problem, classes)
    return sum(1 for _ in _pairs(problem, classes, reach))


def solve_by_mip(
    problem: PipelineProblem, horizon_s: float, floor_s: float, options: SolverOptions
) -> tuple[SolveReport, PipelineSchedule | None]:
    """``horizon_s``: the makespan of a schedule that is known; ``floor_s``: a proven bound."""
    import pulp

    classes = pass_classes(problem)
    reach, tail = _longest(problem, classes)
    m = problem.micro_batches
    # In units in which the horizon is 1000, so that tolerances mean the same whatever the seconds are.
    unit = horizon_s / 1000.0 or 1.0
    seconds = np.array([c.seconds for c in classes]) / unit
    model = pulp.LpProblem("pipeline", pulp.LpMinimize)
    whole = model.add_variable("makespan", floor_s / unit * (1 - 1e-9), 1000.0 * (1 + 1e-9))
    model += whole
    start: dict[_Pass, Any] = {}
    for c in range(len(classes)):
        for k in range(m):
            head = float(reach[:, c, :, k].max(initial=0.0))
            head = max(head, 0.0) / unit
            start[c, k] = model.add_variable(f"t_{c}_{k}", head * (1 - 1e-9), 1000.0)
            model += whole >= start[c, k] + seconds[c] + max(0.0, float(tail[c, k])) / unit
    for c, each in enumerate(classes):
        for k in range(m):
            if k:
                model += start[c, k] >= start[c, k - 1] + seconds[c]
            for other, lag in each.waits_for:
                model += start[c, k] >= start[other, k] + seconds[other] + lag / unit
    first: dict[tuple[_Pass, _Pass], Any] = {}
    for a, b in _pairs(problem, classes, reach):
        before = model.add_variable(f"o_{a[0]}_{a[1]}_{b[0]}_{b[1]}", cat="Binary")
        first[a, b] = before
        for x, y, chosen in ((a, b, before), (b, a, 1 - before)):
            most = (
                1000.0 - (seconds[x[0]] + max(0.0, float(tail[x])) / unit) - start[y].lowBound + seconds[x[0]]
            )
            model += start[y] >= start[x] + seconds[x[0]] - most * (1 - chosen)
    _chain_orders(model, first, m)
    _limit_memory(model, problem, classes, reach, first)
    report = solve_model(model, options)
    scaled = SolveReport(
        report.status,
        None if report.objective is None else report.objective * unit,
        None if report.bound is None else report.bound * unit,
        report.seconds, report.backend, report.version,
    )  # fmt: skip
    return scaled, _read(problem, classes, start) if report.has_solution else None


def _longest(
    problem: PipelineProblem, classes: tuple[PassClass, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longest paths: from the start of (i, k) to that of (j, n), minus infinity without one; and to the very end."""
    count, m = len(classes), problem.micro_batches
    reach = np.full((count, count, m, m), -np.inf)
    seconds = [c.seconds for c in classes]
    for j, each in enumerate(classes):
        for n in range(m):
            into = [((j, n - 1), seconds[j])] if n else []
            into += [((other, n), seconds[other] + lag) for other, lag in each.waits_for]
            here = reach[:, j, :, n]
            for (i, k), length in into:
                np.maximum(here, reach[:, i, :, k] + length, out=here)
                here[i, k] = max(here[i, k], length)
    ends = np.array(seconds)
    through = reach + ends[None, :, None, None] - ends[:, None, None, None]
    return reach, through.max(axis=(1, 3))


def _pairs(problem: PipelineProblem, classes: tuple[PassClass, ...], reach: NDArray[np.float64]) -> Any:
    for i, a in enumerate(classes):
        for j in range(i + 1, len(classes)):
            if classes[j].rank != a.rank:
                continue
            for k in range(problem.micro_batches):
                for n in range(problem.micro_batches):
                    if reach[i, j, k, n] == -np.inf and reach[j, i, n, k] == -np.inf:
                        yield (i, k), (j, n)


def _chain_orders(model: pulp.LpProblem, first: dict[tuple[_Pass, _Pass], Any], m: int) -> None:
    """A pass before micro-batch n of a class is before n + 1 of it, and what n follows, n + 1 follows."""
    for ((i, k), (j, n)), before in first.items():
        if n + 1 < m and ((i, k), (j, n + 1)) in first:
            model += first[(i, k), (j, n + 1)] >= before
        if k + 1 < m and ((i, k + 1), (j, n)) in first:
            model += first[(i, k + 1), (j, n)] <= before


def _limit_memory(
    model: pulp.LpProblem, problem: PipelineProblem, classes: tuple[PassClass, ...],
    reach: NDArray[np.float64], first: dict[tuple[_Pass, _Pass], Any],
) -> None:  # fmt: skip
    """What a rank holds is greatest when a forward has just begun."""
    if problem.memory_bytes is None:
        return
    room, m = problem.room, problem.micro_batches
    for i, each in enumerate(classes):
        if each.kind != "F":
            continue
        for k in range(m):
            held: Any = float(each.change_bytes)
            for j, other in enumerate(classes):
                if other.rank != each.rank or other.change_bytes == 0:
                    continue
                for n in range(m):
                    if (j, n) == (i, k):
                        continue
                    if ((j, n), (i, k)) in first:
                        held += other.change_bytes * first[(j, n), (i, k)]
                    elif ((i, k), (j, n)) in first:
                        held += other.change_bytes * (1 - first[(i, k), (j, n)])
                    elif reach[j, i, n, k] > -np.inf:
                        held += float(other.change_bytes)
            if isinstance(held, float) and held > room:
                model += model.objective >= 2000.0
            elif not isinstance(held, float):
                model += (1.0 / room) * held <= 1.0


def _read(
    problem: PipelineProblem, classes: tuple[PassClass, ...], start: dict[_Pass, Any]
) -> PipelineSchedule:
    timed: list[list[tuple[float, int, int]]] = [[] for _ in range(problem.ranks)]
    for (c, k), variable in start.items():
        timed[classes[c].rank].append((float(variable.varValue), c, k))
    orders = tuple(
        tuple(Action(classes[c].stage, classes[c].kind, k) for _, c, k in sorted(passes)) for passes in timed
    )
    return PipelineSchedule("optimal", problem.micro_batches, problem.rank_of_stage, orders)
