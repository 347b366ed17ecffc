"""Storages under rules as a mixed-integer programme: the only engine that prices moves, and a cross-check of the
search.

One binary for each pair (which lies below), one for each move (whether the places differ), a whole multiple for each
alignment and boundary: o = step k + r with r <= step - size. Minimised is the peak and its moves' cost, or below a
capacity the bytes moved. It improves a plan that is there and bounds its cost; like every big-M model it is for small
problems.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hw_configs.problems import bad_input
from mapping.allocation.storage_model import StorageModel
from mapping.allocation.storage_search import Found, broken
from mapping.solver import SolverOptions, solve_model

if TYPE_CHECKING:
    from mapping.deadline import Budget

__all__ = ["refined"]

MOST_PAIRS: Final = 20_000


def refined(
    model: StorageModel, found: Found, capacity: int | None, move_cost: float, budget: Budget, seed: int
) -> Found:
    """A plan that costs less than ``found``, where the programme has one, with its bound on the cost.

    Raises ``InputError`` where there are more than :data:`MOST_PAIRS` pairs.
    """
    import pulp

    if len(model.pair) > MOST_PAIRS:
        raise bad_input(f"the MIP takes at most {MOST_PAIRS} pairs; found {len(model.pair)}", path="--engine")
    if found.never or (found.offsets is None and capacity is None):
        return found
    before = model.cost(found.offsets, capacity, move_cost)
    limit = _limit(model, found, capacity, before)
    place, programme = _stated(model, limit, capacity, move_cost, pulp)
    left = budget.seconds_left()
    report = solve_model(
        programme, SolverOptions(time_limit_s=60.0 if left is None else max(left, 0.05), seed=seed)
    )
    engine = f"mip/{report.backend} {report.version}"
    if report.status == "infeasible" and capacity is not None:
        return replace(found, lower=max(found.lower, capacity // model.unit + 1), engine=engine)
    bound = report.bound
    if bound is not None:
        # In the objective's units; where nothing moves the peak is a whole number of units.
        bound = bound * model.unit if capacity is None else bound
        if capacity is None and not len(model.move):
            whole = math.ceil(round(bound / model.unit, 6) - 1e-6)
            found = replace(found, lower=max(found.lower, min(whole, model.top(_plan(found)))))
    priced = len(model.move) > 0
    if report.has_solution:
        offsets = np.array([round(variable.value()) for variable in place], dtype=np.int64)
        if not broken(model, offsets) and model.cost(offsets, capacity, move_cost) < before:
            found = replace(found, offsets=offsets, engine=engine)
    return replace(found, cost_bound=(bound or 0.0) if priced else None)


def _plan(found: Found) -> Any:
    assert found.offsets is not None
    return found.offsets


def _limit(model: StorageModel, found: Found, capacity: int | None, before: float) -> int:
    """An offset that no plan worth having exceeds: its peak alone would cost more than the known plan."""
    if capacity is not None:
        return max(capacity // model.unit, int(model.fixed.max(initial=0)))
    return max(math.ceil(before / model.unit), int(_plan(found).max(initial=0)))


def _stated(
    model: StorageModel, limit: int, capacity: int | None, move_cost: float, pulp: Any
) -> tuple[list[Any], Any]:
    programme = pulp.LpProblem("storages", pulp.LpMinimize)
    peak = programme.add_variable("peak", 0, limit)
    place = []
    for s in range(len(model)):
        pin = int(model.fixed[s])
        low, high = (pin, pin) if pin >= 0 else (0, limit - int(model.size[s]))
        place.append(programme.add_variable(f"o{s}", low, high, pulp.LpInteger))
        if pin < 0 and model.align[s] > 1:
            whole = programme.add_variable(f"k{s}", 0, limit // int(model.align[s]), pulp.LpInteger)
            programme += place[s] == int(model.align[s]) * whole
        if model.size[s] > 0:
            programme += place[s] + int(model.size[s]) <= peak
    for q, (a, b, up, down) in enumerate(model.pair.tolist()):
        first = programme.add_variable(f"z{q}", 0, 1, pulp.LpInteger)
        programme += place[a] + up <= place[b] + (limit + max(up, 0)) * (1 - first)
        programme += place[b] + down <= place[a] + (limit + max(down, 0)) * first
    for inner, outer, least, most in model.slack.tolist():
        programme += place[inner] - place[outer] >= least
        programme += place[inner] - place[outer] <= most
    for r, (s, size, step) in enumerate(model.step.tolist()):
        whole = programme.add_variable(f"b{r}", 0, limit // step + 1, pulp.LpInteger)
        programme += place[s] >= step * whole
        programme += place[s] + size <= step * whole + step
    moved = []
    for r, (before, after, size, _) in enumerate(model.move.tolist()):
        is_moved = programme.add_variable(f"m{r}", 0, 1, pulp.LpInteger)
        programme += place[before] - place[after] <= limit * is_moved
        programme += place[after] - place[before] <= limit * is_moved
        moved.append(size * is_moved)
    if capacity is None:
        programme.setObjective(peak + pulp.lpSum(move_cost / model.unit * term for term in moved))
    else:
        programme += peak <= capacity // model.unit
        programme.setObjective(pulp.lpSum(moved))
    return place, programme
