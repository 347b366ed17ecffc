"""Several memories: which buffer goes to which bank, and where in it, at the least cost.

Every bank has a capacity, a cost per byte placed there (a penalty for the slower one), and a cost per byte of its size
where the size is a decision (an arena). The master problem assigns buffers by live bytes alone (a MIP); each bank then
is an allocation problem of its own. A bank without a plan sends back the subset that has none as a cut, an arena that
comes out larger than the master thought a cut with its proven size (logic-based Benders decomposition), and the master
is solved again. The master's bound is a bound for the whole. Where the master is too large or ends without a plan,
buffers spill from the cheapest bank to the next.

Rules that name banks, keep buffers in different banks, or tie them to one storage stand in the master; rules of places
go with each bank's problem. Buffers cannot move from bank to bank, so moves are refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input
from hw_configs.units import UnitError, parse_quantity
from hw_configs.whole_number import decimal, is_whole
from mapping.allocation.bank_choice import BankChoice
from mapping.allocation.bank_proofs import why_no_assignment
from mapping.allocation.check import peak_of
from mapping.allocation.instance import build_components
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import AllocationResult, Status
from mapping.allocation.solving import solve
from mapping.allocation.spill import suggest_spills

__all__ = ["NO_CAPACITY", "Bank", "BankPlan", "parse_arena", "parse_bank", "solve_banks", "why_infeasible"]

_MOST_BINARIES = 5000
_MOST_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Bank:
    """One memory: its name, capacity in bytes, cost per byte placed in it, and cost per byte of its size in use."""

    name: str
    capacity: int
    cost_per_byte: float = 0.0
    cost_per_size_byte: float = 0.0


NO_CAPACITY = 2**60
"""The capacity of an arena whose size is a decision alone."""


@dataclass(frozen=True, slots=True)
class BankPlan:
    """Bank number and offset per buffer. "optimal" when ``cost`` meets ``bound``.

    ``size_bounds``: proven least sizes of the banks for this assignment.
    """

    status: Status
    bank: tuple[int, ...]
    offsets: NDArray[np.int64]
    cost: float
    bound: float
    peak_bytes: tuple[int, ...]
    size_bounds: tuple[int, ...] = ()

    def peaks(self, banks: Sequence[Bank]) -> list[tuple[Bank, int]]:
        """Each bank with its peak in bytes."""
        return list(zip(banks, self.peak_bytes, strict=True))


def parse_bank(text: str, pools: Mapping[str, int] = MappingProxyType({})) -> Bank:
    """A bank written ``NAME=BYTES[@COST]``, for example ``sram=512KiB@0`` or ``psram=8MiB@1.5``.

    ``pools``: bytes of banks that the problem itself tells; of those the name is enough.

    >>> parse_bank("sram=1KiB@2")
    Bank(name='sram', capacity=1024, cost_per_byte=2.0, cost_per_size_byte=0.0)
    """
    name, equals, rest = text.partition("=")
    if not equals and name.partition("@")[0].strip() in pools:
        name, _, cost = name.partition("@")
        rest = f"{pools[name.strip()]}@{cost}" if cost else str(pools[name.strip()])
    amount, _, cost = rest.partition("@")
    try:
        capacity = int(amount) if is_whole(amount.strip()) else int(parse_quantity(amount, "size"))
    except UnitError:
        raise bad_input(
            f"found {text[:80]!r}; expected NAME=BYTES or NAME=BYTES@COST", path="--bank"
        ) from None
    price = decimal(cost) if cost else 0.0
    if price is None or not capacity <= 2**60:
        raise bad_input(f"found {text[:80]!r}; expected NAME=BYTES or NAME=BYTES@COST", path="--bank")
    bank = Bank(name.strip(), capacity, price)
    if not bank.name or not 0 <= bank.cost_per_byte < 1e18:
        raise bad_input(f"found {text!r}; expected a name, and a cost of at least 0", path="--bank")
    return bank


def parse_arena(text: str) -> Bank:
    """An arena whose size is a decision, written ``NAME[@COST]`` with the cost of a byte of its size, 1 if left out.

    >>> parse_arena("dram@0.5").cost_per_size_byte
    0.5
    """
    name, at, cost = text.partition("@")
    price = decimal(cost) if at else 1.0
    if not name.strip() or "=" in name or price is None or not 0 <= price < 1e18:
        raise bad_input(f"found {text[:80]!r}; expected NAME or NAME@COST", path="--arena")
    return Bank(name.strip(), NO_CAPACITY, 0.0, price)


def solve_banks(
    problem: AllocationProblem,
    banks: Sequence[Bank],
    *,
    pinned: Mapping[int, int] | None = None,
    time_limit_s: float | None = None,
    max_nodes: int | None = None,
    seed: int = 0,
) -> BankPlan | None:
    """The cheapest assignment found; None when none was found. ``pinned`` maps buffers to bank numbers.

    Raises ``InputError`` when there is no bank or two have one name, or a rule names another bank.
    """
    if not banks or len({bank.name for bank in banks}) < len(banks):
        raise bad_input("expected at least one bank, each with a name of its own", path="--bank")
    choice = BankChoice.of(problem, banks, pinned or {})
    problem = choice.problem
    limit = 60.0 if time_limit_s is None else time_limit_s
    end = time.perf_counter() + limit
    nodes = max_nodes if max_nodes is not None else 100_000
    held = choice.pinned
    # Spilling fills one bank after the other by bytes placed; it knows neither groups nor other choices.
    best = None if choice.is_tied else _spill_down(problem, banks, held, nodes, seed)
    if len(problem) * len(banks) > _MOST_BINARIES:
        return best
    master = _Master(problem, banks, choice)
    bound = 0.0
    seen: list[list[int]] = []
    for _ in range(_MOST_ROUNDS):
        left = end - time.perf_counter()
        if left <= 0:
            break
        assignment, lower = master.solve(left, seed)
        bound = max(bound, lower) if master.exact else bound
        if best is not None and bound >= best.cost * (1 - 1e-9):
            break
        if assignment is None:
            break
        plan, cuts, exact = _place(problem, banks, assignment, nodes, seed)
        if plan is not None and (best is None or plan.cost < best.cost):
            best = plan
        if plan is not None and (not any(bank.cost_per_size_byte for bank in banks) or assignment in seen):
            break
        if plan is not None:
            seen.append(assignment)
            master.learn_sizes(assignment, plan.size_bounds)
        for bank, members in cuts:
            master.forbid(bank, members)
        master.exact = master.exact and exact
    if best is None:
        return None
    bound = min(bound, best.cost)
    status: Status = "optimal" if best.cost - bound <= 1e-9 * max(1.0, best.cost) else "feasible"
    return replace(best, status=status, bound=bound)


def why_infeasible(
    problem: AllocationProblem,
    banks: Sequence[Bank],
    *,
    time_limit_s: float | None = None,
    max_nodes: int | None = None,
    seed: int = 0,
) -> str | None:
    """Why no plan exists, in words; None where that was not proved. To ask where :func:`solve_banks` found none.

    The cheap proofs run in any case, the search over assignments within the limits. Raises as :func:`solve_banks`.
    """
    choice = BankChoice.of(problem, banks, {})
    nodes = max_nodes if max_nodes is not None else 100_000

    def place(assignment: Sequence[int]) -> tuple[bool, list[tuple[int, list[int]]], bool]:
        plan, cuts, exact = _place(choice.problem, banks, assignment, nodes, seed)
        return plan is not None, cuts, exact

    return why_no_assignment(
        choice, banks, place, nodes, 60.0 if time_limit_s is None else time_limit_s, seed
    )


class _Master:
    """Assignment of buffers to banks under live bytes only."""

    def __init__(self, problem: AllocationProblem, banks: Sequence[Bank], choice: BankChoice) -> None:
        import pulp

        self.exact = True
        n = len(problem)
        self._model = pulp.LpProblem("banks", pulp.LpMinimize)
        self._x = [
            [self._model.add_variable(f"x{i}_{b}", 0, 1, pulp.LpInteger) for b in range(len(banks))]
            for i in range(n)
        ]
        most = int(problem.size.sum())
        self._size = [
            self._model.add_variable(f"s{b}", 0, min(bank.capacity, most))
            if bank.cost_per_size_byte
            else None
            for b, bank in enumerate(banks)
        ]
        self._model.setObjective(
            pulp.lpSum(
                bank.cost_per_byte * int(problem.size[i]) * self._x[i][b]
                for i in range(n)
                for b, bank in enumerate(banks)
            )
            + pulp.lpSum(
                bank.cost_per_size_byte * size
                for bank, size in zip(banks, self._size, strict=True)
                if size is not None
            )
        )
        for i in range(n):
            self._model += pulp.lpSum(self._x[i]) == 1
            for b, bank in enumerate(banks):
                fits = int(problem.size[i]) <= bank.capacity or not problem.spans(i)
                if not fits or b not in choice.allowed[i]:
                    self._model += self._x[i][b] == 0
                elif (size := self._size[b]) is not None and problem.spans(i):
                    self._model += int(problem.size[i]) * self._x[i][b] <= size
        for i, k in choice.together:
            for b in range(len(banks)):
                self._model += self._x[i][b] == self._x[k][b]
        for i, k in choice.apart:
            for b in range(len(banks)):
                self._model += self._x[i][b] + self._x[k][b] <= 1
        for component in build_components(problem):
            inst = component.instance
            for s in range(len(inst.member_ptr) - 1):
                rows = [
                    int(component.index[k]) for k in inst.member[inst.member_ptr[s] : inst.member_ptr[s + 1]]
                ]
                heights = _heights(component.instance, s, component.unit)
                kept = choice.disjoint(rows, heights)
                for b, bank in enumerate(banks):
                    # True sizes where a unit was rounded: the topmost buffer may be shorter.
                    total = pulp.lpSum(
                        min(height, int(problem.size[i])) * self._x[i][b] for i, height in kept
                    )
                    size = self._size[b]
                    self._model += total <= (bank.capacity if size is None else size)

    def solve(self, seconds: float, seed: int) -> tuple[list[int] | None, float]:
        from mapping.solver import SolverOptions, solve_model

        report = solve_model(self._model, SolverOptions(time_limit_s=max(seconds, 0.01), seed=seed))
        lower = 0.0 if report.bound is None else report.bound
        if not report.has_solution:
            return None, lower
        return [max(range(len(row)), key=lambda b: row[b].value() or 0.0) for row in self._x], lower

    def forbid(self, bank: int, members: Sequence[int]) -> None:
        """The members never lie together in the bank."""
        import pulp

        self._model += pulp.lpSum(self._x[i][bank] for i in members) <= len(members) - 1

    def learn_sizes(self, assignment: Sequence[int], bounds: Sequence[int]) -> None:
        """A bank that holds what it holds in an assignment has at least its proven size."""
        import pulp

        for b, (size, bound) in enumerate(zip(self._size, bounds, strict=True)):
            members = [i for i, where in enumerate(assignment) if where == b]
            if size is not None and members:
                missing = len(members) - pulp.lpSum(self._x[i][b] for i in members)
                self._model += size >= bound * (1 - missing)


def _heights(inst, section: int, unit: int) -> list[int]:  # type: ignore[no-untyped-def]
    heights = []
    for position in range(int(inst.member_ptr[section]), int(inst.member_ptr[section + 1])):
        i = int(inst.member[position])
        for p in range(int(inst.span_ptr[i]), int(inst.span_ptr[i + 1])):
            if inst.span_lo[p] <= section < inst.span_hi[p]:
                heights.append(int(inst.window_hi[p] - inst.window_lo[p]) * unit)
    return heights


def _place(
    problem: AllocationProblem, banks: Sequence[Bank], assignment: Sequence[int], nodes: int, seed: int
) -> tuple[BankPlan | None, list[tuple[int, list[int]]], bool]:
    """Addresses for an assignment, or cuts; the flag says whether all cuts are proved."""
    offsets = np.zeros(len(problem), np.int64)
    cuts: list[tuple[int, list[int]]] = []
    peaks, bounds = [], []
    exact = True
    for b, bank in enumerate(banks):
        members = [i for i in range(len(problem)) if assignment[i] == b]
        part = problem.subset(members)
        result = solve(part, bank.capacity, max_nodes=nodes, seed=seed)
        if result.status in ("optimal", "feasible") and result.offsets is not None:
            if bank.cost_per_size_byte:
                result = _lower(result, solve(part, max_nodes=nodes, seed=seed))
            assert result.offsets is not None
            offsets[members] = result.offsets
            peaks.append(peak_of(part, result.offsets.tolist()))
            bounds.append(result.bound_bytes)
            continue
        if result.status == "infeasible" and result.explanation is not None and result.explanation.buffers:
            cuts.append((b, [members[i] for i in result.explanation.buffers]))
        else:
            cuts.append((b, members))
            exact = exact and result.status == "infeasible"
    if cuts:
        return None, cuts, exact
    cost = sum(banks[b].cost_per_byte * int(problem.size[i]) for i, b in enumerate(assignment))
    cost += sum(bank.cost_per_size_byte * peak for bank, peak in zip(banks, peaks, strict=True))
    return (
        BankPlan("feasible", tuple(assignment), offsets, float(cost), 0.0, tuple(peaks), tuple(bounds)),
        [],
        True,
    )


def _lower(one: AllocationResult, other: AllocationResult) -> AllocationResult:
    """The plan with the lower peak, and the higher of both bounds."""
    bound = max(one.bound_bytes, other.bound_bytes)
    lower = other if other.peak_bytes is not None and other.peak_bytes < (one.peak_bytes or 0) else one
    return replace(lower, bound_bytes=bound)


def _spill_down(
    problem: AllocationProblem, banks: Sequence[Bank], pinned: Mapping[int, int], nodes: int, seed: int
) -> BankPlan | None:
    """Fill the cheapest bank, move what does not fit to the next one."""
    order = sorted(range(len(banks)), key=lambda b: (banks[b].cost_per_byte, b))
    assignment = [-1] * len(problem)
    waiting = [i for i in range(len(problem)) if i not in pinned]
    for b in order:
        here = [i for i, where in pinned.items() if where == b] + waiting
        plan = suggest_spills(problem.subset(here), banks[b].capacity, max_nodes=max(nodes // 10, 1000))
        gone = {here[k] for k in plan.buffers}
        if plan.offsets is None or any(i in pinned for i in gone):
            return None
        for i in here:
            if i not in gone:
                assignment[i] = b
        waiting = [i for i in waiting if i in gone]
    if waiting:
        return None
    placed, _, _ = _place(problem, banks, assignment, nodes, seed)
    return placed
