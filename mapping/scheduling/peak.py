"""The least footprint: an order without any spill whose addresses lie as low as possible.

The bound is the least peak of bytes over all orders (M_P); addresses of that order reach it in nearly every
case, otherwise the gap is told.
"""

from __future__ import annotations

import time

from hw_configs.problems import PhysicsError
from mapping.scheduling.check import check
from mapping.scheduling.explain import too_small
from mapping.scheduling.orders import least_peak
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import ScheduleResult, Status
from mapping.scheduling.stays import assemble, find_addresses, peak_bytes_of, stays_of

__all__ = ["solve_peak"]


def solve_peak(
    problem: ScheduleProblem, scratchpad_bytes: int, *, time_limit_s: float | None, seed: int = 0
) -> ScheduleResult:
    """The schedule without spills of the least peak; "infeasible" when the proven bound is above the scratchpad."""
    start = time.perf_counter()
    found = least_peak(problem, time_limit_s=time_limit_s)
    left = None if time_limit_s is None else max(time_limit_s - (time.perf_counter() - start), 0.5)
    stays = stays_of(problem, found.order)
    packed = find_addresses(problem, stays, None, seconds=left)
    assert packed.offsets is not None
    schedule = assemble(problem, stays, packed.offsets.tolist())
    wrong = check(problem, schedule, max(scratchpad_bytes, peak_bytes_of(problem, schedule)))
    if wrong:
        raise PhysicsError(f"the least-peak schedule does not hold: {wrong[0]}")
    peak = peak_bytes_of(problem, schedule)
    words: str | None = None
    status: Status
    if peak > scratchpad_bytes:
        words = (
            f"without spills every order needs at least {found.bound_bytes} bytes, and {scratchpad_bytes} are "
            f"there; with spills it runs from {problem.least_budget} bytes (--objective bytes); "
            + too_small(problem, problem.least_budget - 1)
        )
        status = "infeasible" if found.bound_bytes > scratchpad_bytes else "unknown"
    else:
        status = "optimal" if peak == found.bound_bytes else "feasible"
    inside = peak <= scratchpad_bytes
    return ScheduleResult(
        status, "auto", "down-sets", scratchpad_bytes, schedule if inside else None, 0 if inside else None,
        found.bound_bytes, peak if inside else None, time.perf_counter() - start, found.nodes, seed, "peak",
        explanation=words,
    )  # fmt: skip
