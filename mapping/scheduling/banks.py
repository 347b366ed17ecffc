"""Several scratchpads, or banks of one: a tensor lies in one of them for a whole stay, never across two.

The master is the one of a single scratchpad with all their bytes together, a relaxation whose bound holds; the
subproblem gives every stay a bank and an offset in it. Addresses are those of the banks laid end to end, so that
everything that reads a schedule reads this one. Where the best plan does not divide over the banks, plans for
less room are tried; at last one in which every stay lasts one step. The status says what was proved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from hw_configs.problems import PhysicsError, bad_input
from mapping.allocation.banks import Bank, solve_banks
from mapping.deadline import Budget
from mapping.scheduling.baselines import ORDERS, order_named
from mapping.scheduling.check import check
from mapping.scheduling.explain import too_small
from mapping.scheduling.kernels import load_kernels
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.result import Schedule, ScheduleResult, Status
from mapping.scheduling.solving import solve
from mapping.scheduling.stays import Stays, allocation_of, assemble, peak_bytes_of, stays_of

__all__ = ["check_banks", "solve_in_banks"]

_LESS_ROOM = 12
_NODES = 20_000


def solve_in_banks(
    problem: ScheduleProblem,
    banks: Sequence[Bank],
    *,
    time_limit_s: float | None = 60.0,
    max_states: int | None = None,
    seed: int = 0,
) -> ScheduleResult:
    """The cheapest schedule found over several scratchpads, with a bound that holds for every one.

    "infeasible" when some operator's tensors cannot be divided over the empty banks. Raises ``InputError`` when
    there is no bank or two have one name.
    """
    if not banks or len({bank.name for bank in banks}) < len(banks):
        raise bad_input("expected one or more banks of different names", path="--bank")
    if problem.has_in_place:
        raise bad_input(
            "banks know no outputs that are written over inputs: leave --in-place out", path="--bank"
        )
    if time_limit_s is not None:
        load_kernels()
    budget = Budget(time_limit_s)
    total = sum(bank.capacity for bank in banks)
    stuck = _stuck_operator(problem, banks)
    if stuck is not None:
        words = too_small(problem, total) if total < problem.least_budget else (
            f"operator {problem.operators[stuck].name!r} needs {problem.need_bytes[stuck]} bytes, which do not "
            f"divide over the banks ({', '.join(f'{bank.name} {bank.capacity}' for bank in banks)}) without a "
            "tensor lying across two; what could help: larger or fewer banks, the operator split into tiles"
        )  # fmt: skip
        return ScheduleResult(
            "infeasible", "banks", "least budget", total, None, None, 0, None, budget.elapsed, 0, seed,
            explanation=words,
        )  # fmt: skip
    best: tuple[tuple[int, int], Stays, list[int]] | None = None
    bound = 0
    for stays, lower in _candidates(problem, total, budget, max_states, seed):
        bound = max(bound, lower)
        cost = stays.cost(problem)
        if best is not None and cost >= best[0]:
            continue
        offsets = _divide(problem, stays, banks, budget)
        if offsets is not None:
            best = (cost, stays, offsets)
        if best is not None and best[0][0] <= bound:
            break
    if best is None:
        return ScheduleResult(
            "unknown", "banks", "none", total, None, None, bound, None, budget.elapsed, 0, seed,
            explanation="no division of a schedule over the banks was found in the time",
        )  # fmt: skip
    schedule = assemble(problem, best[1], best[2])
    wrong = [*check(problem, schedule, total), *check_banks(schedule, banks)]
    if wrong:
        raise PhysicsError(f"the schedule over banks does not hold: {wrong[0]}")
    moved = schedule.cost_bytes
    status: Status = "optimal" if moved <= bound else "feasible"
    told = None if status == "optimal" else (
        f"not proved optimal: the bound of {bound} bytes is that of one scratchpad with all the banks' bytes"
    )  # fmt: skip
    return ScheduleResult(
        status, "banks", "layers, then banks", total, schedule, moved, min(bound, moved),
        peak_bytes_of(problem, schedule), budget.elapsed, 0, seed, explanation=told,
        notes={"banks": ", ".join(f"{bank.name} {bank.capacity}" for bank in banks)},
    )  # fmt: skip


def check_banks(schedule: Schedule, banks: Sequence[Bank]) -> list[str]:
    """Stays that lie across the end of a bank, in words."""
    ends = list(accumulate(bank.capacity for bank in banks))
    return [
        f"{stay.tensor!r} lies across the end of a bank at {end}"
        for stay in schedule.residences
        for end in ends[:-1]
        if stay.offset < end < stay.offset + stay.size_bytes
    ]


def _candidates(
    problem: ScheduleProblem, total: int, budget: Budget, max_states: int | None, seed: int
) -> Iterator[tuple[Stays, int]]:
    """Plans from cheap to dear, each with a proven bound on every schedule in ``total`` bytes."""
    room = total
    for attempt in range(_LESS_ROOM):
        left = budget.seconds_left()
        if left is not None and left <= 0:
            break
        share = None if left is None else max(left / (2 if attempt == 0 else 4), 0.05)
        found = solve(problem, room, time_limit_s=share, max_states=max_states, seed=seed)
        if found.schedule is not None:
            yield _stays_in(problem, found.schedule), found.bound_bytes if room == total else 0
        room = total - (total - problem.least_budget) * (attempt + 1) // (_LESS_ROOM - 1)
    for name in ORDERS:
        order = order_named(problem, name)
        every = {step: tuple(range(len(problem.tensors))) for step in range(1, len(order))}
        yield stays_of(problem, order, every), 0


def _stays_in(problem: ScheduleProblem, schedule: Schedule) -> Stays:
    order = tuple(problem.operator_index[name] for name in schedule.order)
    spans = ((problem.tensor_index[s.tensor], s.start, s.end) for s in schedule.residences)
    return Stays(order, tuple(sorted(spans, key=lambda span: (span[1], span[0]))))


def _divide(
    problem: ScheduleProblem, stays: Stays, banks: Sequence[Bank], budget: Budget
) -> list[int] | None:
    """Offsets in the banks laid end to end, or None when no division was found."""
    left = budget.seconds_left()
    limit = None if left is None else max(left, 0.05)
    plan = solve_banks(allocation_of(problem, stays), banks, time_limit_s=limit, max_nodes=_NODES)
    if plan is None:
        return None
    starts = [0, *accumulate(bank.capacity for bank in banks)]
    where = np.asarray(plan.bank, np.int64)
    if any(peak > bank.capacity for bank, peak in plan.peaks(banks)):
        return None
    return [int(offset) + starts[b] for offset, b in zip(plan.offsets.tolist(), where.tolist(), strict=True)]


def _stuck_operator(problem: ScheduleProblem, banks: Sequence[Bank]) -> int | None:
    """An operator whose tensors and workspace cannot be divided over the empty banks: exact, largest first."""
    for o, op in enumerate(problem.operators):
        sizes = [problem.tensors[t].size_bytes for t in (*op.inputs, *op.outputs)] + [op.workspace_bytes]
        if not _packs(sorted((size for size in sizes if size), reverse=True), [b.capacity for b in banks]):
            return o
    return None


def _packs(sizes: list[int], room: list[int]) -> bool:
    if not sizes:
        return True
    if sum(sizes) > sum(room):
        return False
    for b in range(len(room)):
        if room[b] >= sizes[0] and room[b] not in room[:b]:
            rest = [*room[:b], room[b] - sizes[0], *room[b + 1 :]]
            if _packs(sizes[1:], rest):
                return True
    return False
