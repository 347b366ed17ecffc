"""The allocation problem as a mixed-integer program, for small cases and as a cross-check.

Minimise M subject to o_i + s_i <= M and, for every conflicting pair with one binary z,
o_i + d_ij <= o_j + (1 - z) B and o_j + d_ji <= o_i + z B, where B is a known peak and d the distances. Offsets are
integers in units of the common divisor; a buffer's alignment enters as a multiple of an integer. This is the model
of MEMO (arXiv:2407.12117, section 4.2) with gaps added. It does not scale: beyond some sixty buffers it seldom
finds a plan at all, which is why the exact search is the default.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import PhysicsError, bad_input
from mapping.allocation.bounds import most_live
from mapping.allocation.check import check, peak_of
from mapping.allocation.greedy import greedy_orders, peak_units, place_in_order
from mapping.allocation.instance import Component, build_components
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import AllocationResult, Status
from mapping.solver import SolveReport, SolverOptions, solve_model

__all__ = ["MOST_PAIRS", "solve_by_mip"]

MOST_PAIRS = 20_000
"""More pairs than these make a model that no solver gets anywhere with."""


def solve_by_mip(
    problem: AllocationProblem,
    capacity: int | None = None,
    *,
    time_limit_s: float = 60.0,
    seed: int = 0,
    backend: str = "highs",
) -> AllocationResult:
    """Minimise the peak by big-M MIP, component by component; the plan is checked, the bound is the solver's.

    Raises ``InputError`` when the problem has more than :data:`MOST_PAIRS` conflicting pairs in one component.
    """
    components = build_components(problem)
    offsets = np.where(problem.fixed >= 0, problem.fixed, 0)
    bound = 0
    seconds = 0.0
    version = backend
    for component in components:
        options = SolverOptions(
            backend=backend,  # type: ignore[arg-type]
            time_limit_s=max(time_limit_s - seconds, 0.01),
            seed=seed,
        )
        placed, lower, report = _solve_component(component, options)
        offsets[component.index] = placed
        bound = max(bound, lower, most_live(component))
        seconds += report.seconds
        version = f"{report.backend} {report.version}"
    wrong = check(problem, offsets.tolist())
    if wrong:
        raise PhysicsError(f"the MIP made a plan that does not hold: {wrong[0]}")
    peak = peak_of(problem, offsets.tolist())
    bound = min(bound, peak)
    status: Status = "optimal" if bound == peak else "feasible"
    if capacity is not None and peak > capacity:
        status = "infeasible" if bound > capacity else "unknown"
    return AllocationResult(status, peak, bound, offsets, f"mip/{version}", 0, seconds, seed, capacity)


def _solve_component(
    component: Component, options: SolverOptions
) -> tuple[NDArray[np.int64], int, SolveReport]:
    import pulp

    inst, unit = component.instance, component.unit
    n = len(inst.size)
    if not component.searchable or len(inst.near) // 2 > MOST_PAIRS:
        raise bad_input(
            f"the MIP takes at most {MOST_PAIRS} conflicting pairs; use the engine 'auto'", path="--engine"
        )
    plans = [place_in_order(component, order) for _, order in greedy_orders(inst)]
    best = min(plans, key=lambda plan: peak_units(component, plan))
    limit = math.ceil(peak_units(component, best) / unit) + int(inst.size.max())
    model = pulp.LpProblem("allocation", pulp.LpMinimize)
    # In units; a true size may be a fraction of a unit short of the rounded one.
    tops = component.true_size / unit
    peak = model.add_variable("peak", 0, limit)
    place = []
    for i in range(n):
        step = int(inst.align[i])
        if inst.fixed[i] >= 0:
            place.append(model.add_variable(f"o{i}", int(inst.fixed[i]), int(inst.fixed[i])))
            step = 1
        else:
            place.append(model.add_variable(f"o{i}", 0, limit, pulp.LpInteger))
        if step > 1:
            multiple = model.add_variable(f"a{i}", 0, limit // step, pulp.LpInteger)
            model += place[i] == step * multiple
    model.setObjective(peak)
    for i in range(n):
        model += place[i] + float(tops[i]) <= peak
    apart = {
        (i, int(inst.near[p])): int(inst.above[p])
        for i in range(n)
        for p in range(int(inst.near_ptr[i]), int(inst.near_ptr[i + 1]))
    }
    for (i, k), up in apart.items():
        if i < k:
            first = model.add_variable(f"z{i}_{k}", 0, 1, pulp.LpInteger)
            down = apart[k, i]
            model += place[i] + up <= place[k] + (limit + max(up, 0)) * (1 - first)
            model += place[k] + down <= place[i] + (limit + max(down, 0)) * first
    report = solve_model(model, options)
    if report.has_solution:
        found = np.array([round(variable.value()) for variable in place], dtype=np.int64)
        if peak_units(component, found) < peak_units(component, best) and not _broken(component, found):
            best = found
    floor = int(max(component.true_size.max(), 0))
    if report.bound is not None:
        floor = max(floor, math.ceil(round(report.bound * unit, 6) - 1e-6))
    if report.status == "infeasible":
        raise PhysicsError("the MIP calls a problem without capacity infeasible")
    return best * unit, floor, report


def _broken(component: Component, offsets: NDArray[np.int64]) -> bool:
    """Whether rounding a solution broke a distance; such a solution is thrown away."""
    inst = component.instance
    for i in range(len(offsets)):
        for p in range(int(inst.near_ptr[i]), int(inst.near_ptr[i + 1])):
            k = int(inst.near[p])
            if k > i and offsets[k] - offsets[i] < inst.above[p]:
                back = [
                    int(inst.above[q])
                    for q in range(int(inst.near_ptr[k]), int(inst.near_ptr[k + 1]))
                    if inst.near[q] == i
                ]
                if offsets[i] - offsets[k] < back[0]:
                    return True
    return False
