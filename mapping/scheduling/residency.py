"""What must leave the scratchpad: a programme of residency alone, for one fixed order or for every order at once.

While an operator runs, the tensors alive beside it that do not fit are out. A tensor that is out between two of
its uses is fetched again before the later one, and written once if it has no copy. So each operator with too little
room asks that tensors of at least so many bytes be out, out of those certainly alive beside it; a variable per
tensor and pair of uses says whether it is out somewhere between them. With the operators in one given order all
lives are certain, the programme is exact by bytes, and many compilers fix the order. With the graph's own waits
only, what is certain in every order remains: a bound on every schedule.

Uses of a tensor that follow one another in every order part its life into gaps. An operator that may lie in several
of them asks that one of these be out. Rows are added as they are violated, so that thousands of operators fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mapping.deadline import Budget, running_budget
from mapping.scheduling.problem import InPlace, ScheduleProblem
from mapping.scheduling.stays import Stays, stays_of
from mapping.solver import SolveReport, SolverOptions, solve_model

__all__ = ["Residency", "ResidencyAnswer", "residency_of", "residency_of_order", "solve_residency"]

Ints = NDArray[np.int64]
Bits = NDArray[np.uint8]

MOST_ENTRIES: Final = 1_500_000
"""Tensors alive beside operators with too little room; of more, only rows at equal distances are kept."""
_ROWS_AT_ONCE: Final = 160
_ROUNDS: Final = 40
_REPAIRS: Final = 500
_CHAIN: Final = 64
"""Of a tensor with more readers only so many are looked at for parting its life; fewer parts only lower a bound."""


@dataclass(frozen=True, eq=False)
class Residency:
    """The programme. Gap g belongs to ``gap_tensor[g]``; choice c is "out in one of the gaps of ``choice[c]``".

    Row r asks that choices ``entry[at[r] : at[r + 1]]`` that are taken sum to ``excess[r]`` bytes of their tensors or
    more; ``operator[r]`` is its operator. ``gap_next[g]`` is the use that ends a gap, -1 where none is certain.
    ``whole``: no row was left out for their number; otherwise a bound holds and a plan may not.
    """

    problem: ScheduleProblem
    gap_tensor: Ints
    gap_next: Ints
    choice: tuple[tuple[int, ...], ...]
    choice_bytes: Ints
    operator: Ints
    excess: Ints
    at: Ints
    entry: Ints
    whole: bool


@dataclass(frozen=True, slots=True)
class ResidencyAnswer:
    """``bound`` in bytes holds for everything the programme speaks of; ``gaps`` are out in the plan of ``cost``.

    Without a plan (a bound alone was asked for, or the time was over) ``cost`` is None.
    """

    bound: int
    cost: int | None
    gaps: tuple[int, ...]

    @property
    def optimal(self) -> bool:
        """Whether the plan meets the bound."""
        return self.cost == self.bound


def residency_of(problem: ScheduleProblem, capacity: int) -> Residency:
    """The programme over what is certain in every order."""
    ancestors = ancestors_of(problem)
    return _build(problem, capacity, ancestors, descendants_of(problem, ancestors))


def ancestors_of(problem: ScheduleProblem) -> Bits:
    """Per operator, those that run before it in every order, as packed bits."""
    n = len(problem.operators)
    ancestors = np.zeros((n, (n + 7) // 8), np.uint8)
    for o, waits in enumerate(problem.predecessors):
        for w in waits:
            ancestors[o] |= ancestors[w]
            ancestors[o, w >> 3] |= np.uint8(128 >> (w & 7))
    return ancestors


def descendants_of(problem: ScheduleProblem, ancestors: Bits) -> Bits:
    """Per operator, those that run after it in every order."""
    found = np.zeros_like(ancestors)
    for o in range(len(problem.operators) - 1, -1, -1):
        for w in problem.predecessors[o]:
            found[w] |= found[o]
            found[w, o >> 3] |= np.uint8(128 >> (o & 7))
    return found


def residency_of_order(problem: ScheduleProblem, order: Sequence[int], capacity: int) -> Residency:
    """The programme of one order, exact by bytes. Raises ``ValueError`` when the order breaks a wait."""
    n = len(problem.operators)
    step = np.empty(n, np.int64)
    step[list(order)] = np.arange(n)
    if any(step[w] >= step[o] for o, waits in enumerate(problem.predecessors) for w in waits):
        raise ValueError("the order runs an operator before one that it waits for")
    before = np.packbits(step[None, :] < step[:, None], axis=1)
    after = np.packbits(step[None, :] > step[:, None], axis=1)
    return _build(problem, capacity, before, after)


def _build(problem: ScheduleProblem, capacity: int, before: Bits, after: Bits) -> Residency:
    """``before`` and ``after``: per operator, the operators certainly before and after it, as packed bits."""
    n = len(problem.operators)
    excess = np.array(problem.apart_bytes, np.int64) - capacity
    pairs: list[tuple[int, InPlace]] = []
    for o, op in enumerate(problem.operators):
        for pair in op.in_place:
            later = [among(after[o][None], np.array(problem.tensors[t].consumers)) for t in pair.inputs]
            if all(reading.any() for reading in later):
                pairs.append((o, pair))
            else:
                # Some input may be read here for the last time: the output takes its bytes.
                excess[o] -= problem.tensors[pair.output].size_bytes
    alive: dict[int, Bits] = {}
    for t, tensor in enumerate(problem.tensors):
        if tensor.size_bytes == 0 or not tensor.consumers:
            continue
        readers = list(tensor.consumers)
        there = after[tensor.producer] if tensor.producer >= 0 else np.bitwise_or.reduce(after[readers])
        held = there & np.bitwise_or.reduce(before[readers])
        for o in readers:
            held[o >> 3] &= ~np.uint8(128 >> (o & 7))
        if held.any():
            alive[t] = held
            excess += tensor.size_bytes * np.unpackbits(held, count=n).astype(np.int64)
    pairs = [(o, pair) for o, pair in pairs if excess[o] > 0]
    rows = np.flatnonzero(excess > 0)
    pressed = np.packbits(excess > 0)
    entries = sum(int(np.bitwise_count(held & pressed).sum()) for held in alive.values())
    whole = entries <= MOST_ENTRIES
    rows = rows[:: -(-entries // MOST_ENTRIES)] if not whole else rows
    gaps: list[tuple[int, int]] = []
    parted: dict[int, tuple[int, Ints]] = {}

    def parts_of(t: int) -> tuple[int, Ints]:
        """A tensor's first gap and the uses that part its life."""
        if t not in parted:
            chain = chain_of_uses(problem, t, before)
            parted[t] = len(gaps), np.array(chain, np.int64)
            gaps.extend((t, chain[j] if j < len(chain) else -1) for j in range(len(chain) + 1))
        return parted[t]

    choices: dict[tuple[int, int], int] = {}
    choice: list[tuple[int, ...]] = []
    sizes: list[int] = []
    pieces: list[tuple[Ints, Ints]] = []
    for t, held in alive.items():
        asked = rows[np.unpackbits(held, count=n)[rows] != 0]
        if len(asked) == 0:
            continue
        first, chain = parts_of(t)
        low = among(after[chain], asked).sum(axis=0)  # uses certainly before the operator
        high = len(chain) - among(before[chain], asked).sum(axis=0)
        keys = low * (len(chain) + 2) + high
        ids = np.empty(len(asked), np.int64)
        choices.clear()
        for i, key in enumerate(keys.tolist()):
            span = divmod(key, len(chain) + 2)
            if span not in choices:
                choices[span] = len(choice)
                choice.append(tuple(range(first + span[0], first + span[1] + 1)))
                sizes.append(problem.tensors[t].size_bytes)
            ids[i] = choices[span]
        pieces.append((asked, ids))
    kept = set(rows.tolist())
    for o, pair in pairs:
        if o not in kept:
            continue
        here: list[int] = []
        for t in pair.inputs:
            first, chain = parts_of(t)
            done = int(among(before[o][None], chain).sum()) + int((chain == o).sum())
            here += range(first + done, first + len(chain) - int(among(after[o][None], chain).sum()) + 1)
        pieces.append((np.array([o]), np.array([len(choice)])))
        choice.append(tuple(here))
        sizes.append(problem.tensors[pair.output].size_bytes)
    owner = np.concatenate([p[0] for p in pieces]) if pieces else np.zeros(0, np.int64)
    entry = np.concatenate([p[1] for p in pieces]) if pieces else np.zeros(0, np.int64)
    by_row = np.argsort(owner, kind="stable")
    entry = entry[by_row]
    at = np.searchsorted(owner[by_row], np.append(rows, n))
    flat = np.array(gaps, np.int64).reshape(-1, 2)
    return Residency(
        problem, flat[:, 0], flat[:, 1], tuple(choice), np.array(sizes, np.int64), rows, excess[rows], at, entry, whole
    )  # fmt: skip


def among(bits: Bits, operators: Ints) -> Ints:
    """Per row of bits, whether each of the operators is in it."""
    return ((bits[:, operators >> 3] >> (7 - (operators & 7)).astype(np.uint8)) & 1).astype(np.int64)


def chain_of_uses(problem: ScheduleProblem, t: int, before: Bits) -> list[int]:
    """Uses of a tensor that follow one another in every order: a longest such chain."""
    tensor = problem.tensors[t]
    readers = list(tensor.consumers)
    if len(readers) > _CHAIN:
        readers = readers[:: -(-len(readers) // _CHAIN)]
    readers.sort(key=lambda o: (int(np.bitwise_count(before[o]).sum()), o))
    known = among(before[readers], np.array(readers, np.int64)) if len(readers) > 1 else np.zeros((1, 1))
    length, back = [1] * len(readers), [-1] * len(readers)
    for i in range(len(readers)):
        for k in range(i):
            if known[i][k] and length[k] + 1 > length[i]:
                length[i], back[i] = length[k] + 1, k
    chain: list[int] = []
    at = max(range(len(readers)), key=lambda i: length[i])
    while at >= 0:
        chain.append(readers[at])
        at = back[at]
    return [*([tensor.producer] if tensor.producer >= 0 else []), *reversed(chain)]


def solve_residency(
    programme: Residency,
    budget: Budget,
    *,
    seconds: float | None = None,
    relaxed: bool = False,
    plan: bool = True,
    seed: int = 0,
) -> ResidencyAnswer:
    """The cheapest plan by bytes, with its bound; with ``relaxed`` only a bound, from the linear programme.
    Without ``plan`` none is made up where the time does not suffice.

    Ends at ``seconds``, or with the budget. Raises ``InputError`` when HiGHS is not installed.
    """
    solver = _Programme(programme)
    end = None if seconds is None else budget.elapsed + seconds

    def left() -> float | None:
        limits = [budget.seconds_left(), None if end is None else end - budget.elapsed]
        known = [limit for limit in limits if limit is not None]
        return min(known) if known else None

    bound, integer = 0, False
    solver.add_rows(np.zeros(len(programme.choice)))
    for _ in range(_ROUNDS):
        time_left = left()
        if budget.spent or (time_left is not None and time_left <= 0):
            break
        report = solver.solve(integer, time_left, seed)
        bound = max(bound, solver.bound_of(report))
        if not report.has_solution:
            break
        taken = solver.taken()
        if solver.add_rows(taken):
            continue
        if integer:
            gaps = solver.gaps()
            cost = solver.cost(gaps)
            return ResidencyAnswer(min(bound, cost), cost, gaps)
        if relaxed:
            break
        integer = True
    if relaxed or not plan:
        return ResidencyAnswer(bound, None, ())
    gaps = solver.repaired()
    cost = solver.cost(gaps)
    return ResidencyAnswer(min(bound, cost), cost, gaps)


class _Programme:
    """The programme in PuLP, in units of the greatest common divisor, with the rows that were violated so far."""

    def __init__(self, programme: Residency) -> None:
        import pulp

        self.programme = programme
        problem = programme.problem
        sizes = programme.choice_bytes
        self.unit = max(int(np.gcd.reduce(sizes)), 1) if len(sizes) else 1
        self.model: Any = pulp.LpProblem("residency", pulp.LpMinimize)
        used = sorted({g for gaps in programme.choice for g in gaps})
        self.out = {g: self.model.add_variable(f"d{g}", 0, 1) for g in used}
        price = {g: problem.tensors[int(programme.gap_tensor[g])].size_bytes // self.unit for g in used}
        terms: list[Any] = [(self.out[g], price[g]) for g in used]
        written: dict[int, Any] = {}
        for g in used:
            t = int(programme.gap_tensor[g])
            if not problem.tensors[t].copy_free:
                if t not in written:
                    written[t] = self.model.add_variable(f"w{t}", 0, 1)
                    terms.append((written[t], price[g]))
                self.model += written[t] >= self.out[g]
        self.model.setObjective(pulp.LpAffineExpression(terms))
        self.choice: list[Any] = []
        for c, gaps in enumerate(programme.choice):
            if len(gaps) == 1:
                self.choice.append(self.out[gaps[0]])
                continue
            any_of = self.model.add_variable(f"y{c}", 0, 1)
            self.model += any_of <= pulp.lpSum(self.out[g] for g in gaps)
            self.choice.append(any_of)
        self.stated = np.zeros(len(programme.excess), bool)

    def sums(self, taken: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes that are out, per row."""
        programme = self.programme
        weight = np.append(0.0, np.cumsum((programme.choice_bytes * taken)[programme.entry]))
        return np.asarray(weight[programme.at[1:]] - weight[programme.at[:-1]])

    def add_rows(self, taken: NDArray[np.float64]) -> bool:
        """State the rows that are violated most; False when none is."""
        import pulp

        programme = self.programme
        lack = programme.excess - self.sums(taken)
        lack[self.stated] = 0
        violated = np.flatnonzero(lack > 1e-6 * programme.excess)
        budget = running_budget()
        for r in violated[np.argsort(-lack[violated], kind="stable")][:_ROWS_AT_ONCE].tolist():
            if budget is not None and budget.stop[0]:
                break
            entries = programme.entry[programme.at[r] : programme.at[r + 1]].tolist()
            excess = -(-int(programme.excess[r]) // self.unit)
            # No choice needs to count with more than what is asked for: a tighter row of the same solutions.
            parts = [
                (self.choice[c], min(int(programme.choice_bytes[c]) // self.unit, excess)) for c in entries
            ]
            self.model += pulp.LpAffineExpression(parts) >= excess
            self.stated[r] = True
        return len(violated) > 0

    def solve(self, integer: bool, seconds: float | None, seed: int) -> SolveReport:
        """Solve what is stated; whole gaps only, or shares of them."""
        import pulp

        for variable in self.out.values():
            variable.cat = pulp.LpInteger if integer else pulp.LpContinuous
        return solve_model(self.model, SolverOptions(time_limit_s=seconds, seed=seed))

    def bound_of(self, report: SolveReport) -> int:
        """The report's bound in bytes, rounded up: costs are multiples of the unit."""
        if report.bound is None or not math.isfinite(report.bound):
            return 0
        return max(math.ceil(report.bound * (1 - 1e-8) - 1e-6), 0) * self.unit

    def taken(self) -> NDArray[np.float64]:
        """Value of each choice in the last solution."""
        return np.array([float(variable.value() or 0.0) for variable in self.choice])

    def gaps(self) -> tuple[int, ...]:
        """Gaps that the last solution has out."""
        return tuple(g for g, variable in self.out.items() if (variable.value() or 0.0) > 0.5)

    def repaired(self) -> tuple[int, ...]:
        """A plan that satisfies every row: what the last solution has out, then the cheapest for its bytes.

        Where that takes too long, everything is out between its uses.
        """
        programme, problem = self.programme, self.programme.problem
        chosen = {g: float(variable.value() or 0.0) for g, variable in self.out.items()}
        gone = {g for g, value in chosen.items() if value > 0.5}
        taken = np.array([float(any(g in gone for g in gaps)) for gaps in programme.choice])
        lack = programme.excess - self.sums(taken)
        budget = running_budget()
        turns = 0
        while len(lack) and lack.max() > 0:
            turns += 1
            if turns > _REPAIRS or (budget is not None and budget.stop[0]):
                return tuple(sorted(self.out))
            r = int(lack.argmax())
            entries = programme.entry[programme.at[r] : programme.at[r + 1]]
            free = [c for c in entries.tolist() if not taken[c]]
            # The one that the solution leans to most; then the one that frees what is missing at least cost.
            c = max(
                free,
                key=lambda c: (
                    round(max(chosen[g] for g in programme.choice[c]), 3),
                    min(int(programme.choice_bytes[c]), float(lack[r])),
                    -c,
                ),
            )
            gone.add(max(programme.choice[c], key=lambda g: chosen[g]))
            taken = np.array([float(any(g in gone for g in gaps)) for gaps in programme.choice])
            lack = programme.excess - self.sums(taken)
        assert all(problem.tensors[int(programme.gap_tensor[g])].consumers for g in gone)
        return tuple(sorted(gone))

    def cost(self, gaps: Sequence[int]) -> int:
        """Bytes that a plan moves."""
        problem = self.programme.problem
        owners = [int(self.programme.gap_tensor[g]) for g in gaps]
        fetched = sum(problem.tensors[t].size_bytes for t in owners)
        return fetched + sum(
            problem.tensors[t].size_bytes for t in set(owners) if not problem.tensors[t].copy_free
        )


def stays_with(programme: Residency, order: Sequence[int], gaps: Sequence[int]) -> Stays:
    """The stays of an order in which these gaps of its own programme are out."""
    step = {o: s for s, o in enumerate(order)}
    dropped: dict[int, list[int]] = {}
    for g in gaps:
        dropped.setdefault(step[int(programme.gap_next[g])], []).append(int(programme.gap_tensor[g]))
    return stays_of(programme.problem, order, dropped)
