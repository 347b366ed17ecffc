"""Several memories: which buffer goes to which bank, and where in it, at the least cost.

Every bank has a capacity, a cost per byte placed there (a penalty for the slower one), and a cost per byte of its size
where the size is a decision (an arena). The master problem assigns buffers by live bytes alone (a MIP); each bank then
is an allocation problem of its own. A bank without a plan sends back the subset that has none as a cut, an arena that
comes out larger than the master thought a cut with its proven size (logic-based Benders decomposition), and the master
is solved again. The master's bound is a bound for the whole. Where the master is too large or ends without a plan,
buffers spill from the cheapest bank to the next.

Rules that name banks, keep buffers in different banks, or tie them to one storage stand in the master; rules of places
go with each bank's problem. A buffer that may move is one part for each stretch between moves
(:mod:`mapping.allocation.parts`): the master chooses a bank for each, and each bank's problem which of the moves inside
it are made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import PhysicsError, bad_input
from hw_configs.units import UnitError, parse_quantity
from hw_configs.whole_number import decimal, is_whole
from mapping.allocation.bank_choice import BankChoice
from mapping.allocation.bank_master import Master as _Master
from mapping.allocation.bank_proofs import why_no_assignment
from mapping.allocation.check import peak_of
from mapping.allocation.check_banks import check_banks, cost_in_banks
from mapping.allocation.parts import Parts
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import AllocationResult, Move, Status
from mapping.allocation.solving import solve
from mapping.allocation.spill import suggest_spills
from mapping.solver import MEET_WITHIN

__all__ = ["NO_CAPACITY", "Bank", "BankPlan", "parse_arena", "parse_bank", "solve_banks", "why_infeasible"]

_MOST_BINARIES = 5000
_MOST_ROUNDS = 50
_ROOMS = (0.97, 0.95, 0.9)
"""Parts of the banks that the live bytes may fill where a first assignment that fills them found no places."""
_SHARE = 3
"""A plan without moves, to start from, gets this part of the time: a third."""


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

    ``size_bounds``: proven least sizes of the banks for this assignment; ``cost_bounds``: least costs of their sizes
    and of the copies inside them, where buffers may move. Bank and offset are a buffer's first ones, ``moves`` the
    others.
    """

    status: Status
    bank: tuple[int, ...]
    offsets: NDArray[np.int64]
    cost: float
    bound: float
    peak_bytes: tuple[int, ...]
    size_bounds: tuple[int, ...] = ()
    cost_bounds: tuple[float, ...] = ()
    moves: tuple[Move, ...] = ()
    moved_bytes: int = 0

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


@dataclass(frozen=True)
class _Moving:
    """What the places of parts need beside the problem: the parts, what a moved byte costs, and when to end."""

    parts: Parts
    move_cost: float
    end: float

    def seconds(self) -> float:
        """The time that one solve may take: a quarter of what is left."""
        return max((self.end - time.perf_counter()) / 4, 0.05)


def solve_banks(
    problem: AllocationProblem,
    banks: Sequence[Bank],
    *,
    pinned: Mapping[int, int] | None = None,
    time_limit_s: float | None = None,
    max_nodes: int | None = None,
    seed: int = 0,
    move_cost: float = 0.0,
) -> BankPlan | None:
    """The cheapest assignment found; None when none was found. ``pinned`` maps buffers to bank numbers.

    Costs count bytes placed (of a buffer that moves, by the share of its life in each bank), the sizes of arenas, and
    ``move_cost`` for each byte moved, inside a bank or to another one.
    Raises ``InputError`` when there is no bank or two have one name, or a rule names another bank.
    """
    if not banks or len({bank.name for bank in banks}) < len(banks):
        raise bad_input("expected at least one bank, each with a name of its own", path="--bank")
    limit = 60.0 if time_limit_s is None else time_limit_s
    end = time.perf_counter() + limit
    nodes = max_nodes if max_nodes is not None else 100_000
    if not problem.rules.moves:
        choice = BankChoice.of(problem, banks, pinned or {})
        # Spilling fills one bank after the other by bytes placed; it knows neither groups nor other choices.
        best = None if choice.is_tied else _spill_down(choice.problem, banks, choice.pinned, nodes, seed)
        return _rounds(banks, choice, best, end, nodes, seed)
    moving = _Moving(Parts.of(problem), move_cost, end)
    choice = _choice_of_parts(banks, moving.parts, pinned or {})
    still = replace(problem, rules=replace(problem.rules, moves={}))
    unmoved = solve_banks(
        still, banks, pinned=pinned, time_limit_s=limit / _SHARE, max_nodes=max_nodes, seed=seed
    )
    plan = _rounds(banks, choice, unmoved, end, nodes, seed, moving)
    if plan is not None:
        _insist(problem, banks, plan, move_cost)
    return plan


def _choice_of_parts(banks: Sequence[Bank], parts: Parts, pinned: Mapping[int, int]) -> BankChoice:
    held = {p: pinned[i] for p, i in enumerate(parts.owner) if i in pinned}
    return BankChoice.of(parts.problem, banks, held)


def _insist(problem: AllocationProblem, banks: Sequence[Bank], plan: BankPlan, move_cost: float) -> None:
    """Raise ``PhysicsError`` where a plan with moves breaks a promise or costs something else."""
    capacity = {bank.name: bank.capacity for bank in banks}
    names = [banks[b].name for b in plan.bank]
    offsets = plan.offsets.tolist()
    wrong = check_banks(problem, capacity, names, offsets, plan.moves)
    if wrong:
        raise PhysicsError(f"a plan in banks does not hold: {wrong[0]}")
    cost = cost_in_banks(problem, banks, names, offsets, plan.moves, move_cost)
    if abs(cost - plan.cost) > 1e-6 * max(1.0, cost):
        raise PhysicsError(f"a plan in banks costs {cost:g}, not {plan.cost:g}")


def _rounds(
    banks: Sequence[Bank],
    choice: BankChoice,
    best: BankPlan | None,
    end: float,
    nodes: int,
    seed: int,
    moving: _Moving | None = None,
) -> BankPlan | None:
    """The master and the places in turn, from a first plan on, until their costs meet or the time ends."""
    problem = choice.problem
    if len(problem) * len(banks) > _MOST_BINARIES:
        return best
    # Shares of lives and prices of moves are no whole numbers.
    within = 1e-9 if moving is None else MEET_WITHIN
    more = () if moving is None else (moving.parts, moving.move_cost)
    priced = any(bank.cost_per_size_byte for bank in banks) or (moving is not None and moving.move_cost > 0)
    master = _Master(problem, banks, choice, *more)
    bound = 0.0
    seen: list[list[int]] = []
    for _ in range(_MOST_ROUNDS):
        left = end - time.perf_counter()
        if left <= 0:
            break
        assignment, lower = master.solve(left, seed)
        bound = max(bound, lower) if master.exact else bound
        if best is not None and bound >= best.cost * (1 - within):
            break
        if assignment is None:
            break
        placed = () if moving is None else (moving,)
        plan, cuts, exact = _place(problem, banks, assignment, nodes, seed, *placed)
        if plan is not None and (best is None or plan.cost < best.cost):
            best = plan
        if plan is not None and (not priced or assignment in seen):
            break
        if plan is not None:
            seen.append(assignment)
            master.learn_sizes(assignment, plan.size_bounds)
            if moving is not None:
                master.learn_costs(assignment, plan.cost_bounds)
        for bank, members in cuts:
            master.forbid(bank, members)
        if moving is not None and master.exact and not exact:
            best = _with_room(banks, choice, best, nodes, seed, moving)
        master.exact = master.exact and exact
    if best is None:
        return None
    bound = min(bound, best.cost)
    status: Status = "optimal" if best.cost - bound <= within * max(1.0, best.cost) else "feasible"
    return replace(best, status=status, bound=best.cost if status == "optimal" and moving else bound)


def _with_room(
    banks: Sequence[Bank], choice: BankChoice, best: BankPlan | None, nodes: int, seed: int, moving: _Moving
) -> BankPlan | None:
    """The best of a plan and of those whose assignments leave a part of each bank free, which holes then may take."""
    for share in _ROOMS:
        smaller = [replace(bank, capacity=int(bank.capacity * share)) for bank in banks]
        master = _Master(choice.problem, smaller, choice, moving.parts, moving.move_cost)
        assignment, _ = master.solve(moving.seconds() / 2, seed)
        if assignment is None:
            continue
        plan, _, _ = _place(choice.problem, banks, assignment, nodes, seed, moving)
        if plan is not None and (best is None or plan.cost < best.cost):
            best = plan
    return best


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
    nodes = max_nodes if max_nodes is not None else 100_000
    seconds = 60.0 if time_limit_s is None else time_limit_s
    moving = _Moving(Parts.of(problem), 0.0, time.perf_counter() + seconds) if problem.rules.moves else None
    parts = None if moving is None else moving.parts
    choice = BankChoice.of(problem, banks, {}) if parts is None else _choice_of_parts(banks, parts, {})

    def place(assignment: Sequence[int]) -> tuple[bool, list[tuple[int, list[int]]], bool]:
        plan, cuts, exact = _place(choice.problem, banks, assignment, nodes, seed, moving)
        return plan is not None, cuts, exact

    # Copies need more room than lives that touch: what is infeasible without them is so with them.
    looser = choice if parts is None else replace(choice, problem=parts.without_copies(choice.problem))
    return why_no_assignment(looser, banks, place, nodes, seconds, seed)


def _place(
    problem: AllocationProblem,
    banks: Sequence[Bank],
    assignment: Sequence[int],
    nodes: int,
    seed: int,
    moving: _Moving | None = None,
) -> tuple[BankPlan | None, list[tuple[int, list[int]]], bool]:
    """Addresses for an assignment, or cuts; the flag says whether all cuts are proved."""
    offsets = np.zeros(len(problem), np.int64)
    cuts: list[tuple[int, list[int]]] = []
    peaks, bounds, cost_bounds = [], [], []
    exact = True
    limits: dict[str, Any] = {"max_nodes": nodes, "seed": seed}
    for b, bank in enumerate(banks):
        members = [i for i in range(len(problem)) if assignment[i] == b]
        if moving is None:
            part, runs = problem.subset(members), [[i] for i in members]
        else:
            part, runs = moving.parts.runs(problem, members)
            limits["time_limit_s"] = moving.seconds()
        result = solve(part, bank.capacity, **limits)
        if result.status in ("optimal", "feasible") and result.offsets is not None:
            if moving is not None:
                result, least = _with_moves(part, bank, result, moving, limits)
                cost_bounds.append(least)
                moving.parts.spread(runs, result, offsets)
            elif bank.cost_per_size_byte:
                result = _lower(result, solve(part, **limits))
            assert result.offsets is not None
            if moving is None:
                offsets[members] = result.offsets
            peaks.append(peak_of(part, result.offsets.tolist(), result.moves))
            bounds.append(result.bound_bytes)
            continue
        if result.status == "infeasible" and result.explanation is not None and result.explanation.buffers:
            cuts.append((b, [i for k in result.explanation.buffers for i in runs[k]]))
        else:
            cuts.append((b, members))
            exact = exact and result.status == "infeasible"
    if cuts:
        return None, cuts, exact
    share = (1,) * len(problem) if moving is None else moving.parts.share
    cost = sum(banks[b].cost_per_byte * int(problem.size[i]) * share[i] for i, b in enumerate(assignment))
    cost += sum(bank.cost_per_size_byte * peak for bank, peak in zip(banks, peaks, strict=True))
    plan = BankPlan(
        "feasible",
        tuple(assignment),
        offsets,
        float(cost),
        0.0,
        tuple(peaks),
        tuple(bounds),
        tuple(cost_bounds),
    )
    return plan if moving is None else _folded(problem, banks, plan, moving), [], True


def _folded(problem: AllocationProblem, banks: Sequence[Bank], plan: BankPlan, moving: _Moving) -> BankPlan:
    """A plan of parts as one of their buffers, with its moves and what they cost."""
    bank, offsets, moves = moving.parts.folded([one.name for one in banks], plan.bank, plan.offsets)
    first = moving.parts.owner.index
    moved = sum(int(problem.size[first(move.buffer)]) for move in moves)
    cost = plan.cost + moving.move_cost * moved
    return replace(plan, bank=bank, offsets=offsets, cost=cost, moves=moves, moved_bytes=moved)


def _with_moves(
    part: AllocationProblem, bank: Bank, below: AllocationResult, moving: _Moving, limits: Mapping[str, Any]
) -> tuple[AllocationResult, float]:
    """The cheaper of a plan with the fewest bytes moved and one with the least size and moves; a bound on the cost."""
    price, size_price = moving.move_cost, bank.cost_per_size_byte
    least = size_price * below.bound_bytes
    if not size_price:
        return below, price * (below.cost_bound or 0.0)
    small = solve(part, **limits, move_cost=price / size_price if part.rules.moves else 0.0)
    least = max(least, size_price * (small.bound_bytes if small.cost_bound is None else small.cost_bound))
    found = [
        (size_price * (one.peak_bytes or 0) + price * one.moved_bytes, k, one)
        for k, one in enumerate((below, small))
        if one.offsets is not None and (one.peak_bytes or 0) <= bank.capacity
    ]
    cost, _, best = min(found)
    return best, min(least, cost)


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
