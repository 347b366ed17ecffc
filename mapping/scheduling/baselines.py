"""The schemes to compare with, each a whole scheduler: an order, a replacement policy, addresses.

Orders: as given; of the least peak (as HMCOS finds them); depth first with an eye on memory. Policies: Belady,
LRU, greedy integer programme; and a static arena as TFLite lays it out. Addresses come from the allocation engine,
which sees all stays of the policy; where it finds none, the policy runs over real addresses and drops more. They
also warm-start the exact methods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from hw_configs.problems import PhysicsError
from mapping.deadline import running_budget
from mapping.scheduling.check import check
from mapping.scheduling.explain import too_small
from mapping.scheduling.orders import depth_first_order, given_order, least_peak
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.replacement import POLICIES, replace_by_bytes, replace_in_order
from mapping.scheduling.result import ScheduleResult
from mapping.scheduling.static_arena import static_arena
from mapping.scheduling.stays import Stays, assemble, find_addresses, peak_bytes_of

__all__ = ["BASELINES", "ORDERS", "Baseline", "baseline_stays", "run_baseline"]

Baseline = Callable[[ScheduleProblem, int], ScheduleResult]

ORDERS: Final = ("given", "min-peak", "depth-first")
ARENA: Final = "static-arena"
_PEAK_SHARE: Final = 0.1
_PEAK_STATES: Final = 200_000
_ADDRESS_NODES: Final = 5_000


def order_named(problem: ScheduleProblem, name: str) -> tuple[int, ...]:
    """One of :data:`ORDERS`; the least-peak search ends by a number of states, or with a share of a solve's time."""
    if name == "given":
        return given_order(problem)
    if name == "depth-first":
        return depth_first_order(problem)
    budget = running_budget()
    left = None if budget is None else budget.seconds_left()
    seconds = None if left is None else _PEAK_SHARE * max(left, 0.0)
    return least_peak(problem, time_limit_s=seconds, max_states=_PEAK_STATES).order


def baseline_stays(
    problem: ScheduleProblem, order: Sequence[int], policy: str, capacity: int
) -> tuple[Stays, list[int]]:
    """Stays and offsets of an order under a policy or in a static arena; the capacity is at least M_R."""
    if policy == ARENA:
        return static_arena(problem, order, capacity)
    stays = replace_by_bytes(problem, order, capacity, policy)
    found = find_addresses(problem, stays, capacity, max_nodes=_ADDRESS_NODES)
    if found.status in ("optimal", "feasible") and found.offsets is not None:
        return stays, found.offsets.tolist()
    return replace_in_order(problem, order, capacity, policy)


def run_baseline(name: str, problem: ScheduleProblem, scratchpad_bytes: int) -> ScheduleResult:
    """The baseline of a name; "infeasible" below M_R, "feasible" otherwise (nothing is proved but 0 >= 0)."""
    start = time.perf_counter()
    if scratchpad_bytes < problem.least_budget:
        return ScheduleResult(
            "infeasible", "baseline", name, scratchpad_bytes, None, None, 0, None,
            time.perf_counter() - start, explanation=too_small(problem, scratchpad_bytes),
        )  # fmt: skip
    order_name, _, policy = name.partition("/")
    order = order_named(problem, "given" if name == ARENA else order_name)
    stays, offsets = baseline_stays(problem, order, policy or ARENA, scratchpad_bytes)
    schedule = assemble(problem, stays, offsets)
    wrong = check(problem, schedule, scratchpad_bytes)
    if wrong:
        raise PhysicsError(f"the baseline {name} made a schedule that does not hold: {wrong[0]}")
    cost = schedule.cost_bytes
    return ScheduleResult(
        "optimal" if cost == 0 else "feasible", "baseline", name, scratchpad_bytes, schedule, cost, 0,
        peak_bytes_of(problem, schedule), time.perf_counter() - start,
    )  # fmt: skip


def _named(name: str) -> Baseline:
    def run(problem: ScheduleProblem, scratchpad_bytes: int) -> ScheduleResult:
        return run_baseline(name, problem, scratchpad_bytes)

    run.__name__ = name
    return run


BASELINES: Final[dict[str, Baseline]] = {
    **{f"{order}/{policy}": _named(f"{order}/{policy}") for order in ORDERS for policy in POLICIES},
    ARENA: _named(ARENA),
}
"""Every baseline by name."""
