"""The programme of residency for thousands of operators, stated by where tensors come in and go.

Operators that certainly follow one another form chains (a given order is one chain). Along a chain a tensor is alive
for a few runs of operators, so the difference of two neighbouring rows holds only what begins or ends between them,
and what is out above the need. So the rows take a few entries for each tensor where they would take one for each
tensor and operator; what they say is the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.deadline import OutOfTimeError, running_budget
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.residency import Bits, Ints, among, ancestors_of, chain_of_uses, descendants_of
from mapping.scheduling.stays import Stays, stays_of
from mapping.sparse_solver import SparseModel, SparseReport, solve_sparse

__all__ = [
    "ResidencyRuns",
    "RoomPrices",
    "plan_of_runs",
    "price_room",
    "runs_of",
    "runs_of_order",
    "solve_runs",
]

Reals = NDArray[np.float64]

_MOST_CHAINS: Final = 64
_MOST_ENTRIES: Final = 2_000_000
_SHORT: Final = 50
"""A chain so many times shorter than the longest one is the last."""


@dataclass(frozen=True, eq=False)
class ResidencyRuns:
    """The programme. Row r is operator ``operator[r]``; rows of a chain stand together, and ``first`` marks where one
    begins.

    Gap g belongs to ``gap_tensor[g]`` and ends with the use ``gap_next[g]`` (-1: none is certain). Run k says that
    while operators of rows ``begin[k]`` to ``end[k]`` run, ``size[k]`` bytes are out where one of the gaps
    ``low[k]`` to ``high[k]`` is. ``excess[r]``: bytes that must be out. ``exact``: nothing that is allowed was left
    out; otherwise a plan holds, and a bound may not.
    """

    problem: ScheduleProblem
    operator: Ints
    first: NDArray[np.bool_]
    excess: Ints
    gap_tensor: Ints
    gap_next: Ints
    begin: Ints
    end: Ints
    low: Ints
    high: Ints
    size: Ints
    exact: bool = True


def runs_of(problem: ScheduleProblem, capacity: int) -> ResidencyRuns:
    """The programme over what is certain in every order, along chains that follow one another in every order.

    Raises ``OutOfTimeError`` once the solve around it has to end.
    """
    ancestors = ancestors_of(problem)
    descendants = descendants_of(problem, ancestors)
    n = len(problem.operators)
    # An output that may be written over an input is taken to be.
    excess = np.array(problem.need_bytes, np.int64) - capacity
    alive: dict[int, Bits] = {}
    for t, tensor in enumerate(problem.tensors):
        if tensor.size_bytes == 0 or not tensor.consumers:
            continue
        _insist_on_time()
        held = _certainly_alive(problem, t, ancestors, descendants)
        there = np.flatnonzero(np.unpackbits(held, count=n))
        if len(there):
            alive[t] = held
            excess[there] += tensor.size_bytes
    chosen, starts = _chains(problem, excess, len(alive))
    gaps: list[tuple[int, int]] = []
    parts: list[NDArray[np.int64]] = []
    for t, held in alive.items():
        _insist_on_time()
        here = np.flatnonzero(held[chosen >> 3] >> (7 - (chosen & 7)).astype(np.uint8) & 1)
        if len(here) == 0:
            continue
        chain = np.array(chain_of_uses(problem, t, ancestors), np.int64)
        asked = chosen[here]
        low = len(gaps) + among(descendants[chain], asked).sum(axis=0)
        high = len(gaps) + len(chain) - among(ancestors[chain], asked).sum(axis=0)
        fresh = np.ones(len(here), bool)
        fresh[1:] = (
            (here[1:] != here[:-1] + 1) | (low[1:] != low[:-1]) | (high[1:] != high[:-1]) | starts[here[1:]]
        )
        at = np.flatnonzero(fresh)
        last = np.append(at[1:], len(here)) - 1
        size = np.full(len(at), problem.tensors[t].size_bytes)
        parts.append(np.stack((here[at], here[last], low[at], high[at], size)))
        gaps += [(t, int(chain[j]) if j < len(chain) else -1) for j in range(len(chain) + 1)]
    runs = np.concatenate(parts, axis=1) if parts else np.zeros((5, 0), np.int64)
    flat = np.array(gaps, np.int64).reshape(-1, 2)
    return ResidencyRuns(problem, chosen, starts, excess[chosen], flat[:, 0], flat[:, 1], *runs)


def _insist_on_time() -> None:
    budget = running_budget()
    if budget is not None and budget.stop[0]:
        raise OutOfTimeError


def _certainly_alive(problem: ScheduleProblem, t: int, ancestors: Bits, descendants: Bits) -> Bits:
    """Operators that do not use a tensor and beside which it is alive in every order."""
    tensor = problem.tensors[t]
    readers = list(tensor.consumers)
    if tensor.producer >= 0:
        held = descendants[tensor.producer] & np.bitwise_or.reduce(ancestors[readers])
    else:
        held = np.bitwise_or.reduce(descendants[readers]) & np.bitwise_or.reduce(ancestors[readers])
    for o in readers:
        held[o >> 3] &= ~np.uint8(128 >> (o & 7))
    return np.asarray(held, np.uint8)


def _chains(problem: ScheduleProblem, excess: Ints, tensors: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Operators with too little room in chains, the longest first; and where each chain begins.

    Each chain is a path of waits with the most operators that no chain before it has. Many short chains would cost
    more entries than they are worth: what they leave out is not asked for, and the bound holds without it.
    """
    left = excess > 0
    chains: list[list[int]] = []
    entries = 0
    while left.any() and len(chains) < _MOST_CHAINS:
        _insist_on_time()
        most, back = np.zeros(len(left), np.int64), np.full(len(left), -1)
        for o, waits in enumerate(problem.predecessors):
            for w in waits:
                if most[w] > most[o]:
                    most[o], back[o] = most[w], w
            most[o] += left[o]
        at, chain = int(most.argmax()), list[int]()
        while at >= 0:
            if left[at]:
                chain.append(at)
            at = int(back[at])
        left[chain] = False
        chains.append(chain[::-1])
        entries += 2 * tensors
        if entries > _MOST_ENTRIES or len(chain) * _SHORT < len(chains[0]):
            break
    operators = np.array([o for chain in chains for o in chain], np.int64)
    starts = np.array([i == 0 for chain in chains for i in range(len(chain))], bool)
    return operators, starts


def runs_of_order(problem: ScheduleProblem, order: Sequence[int], capacity: int) -> ResidencyRuns:
    """The programme of one order, a single chain. Raises ``ValueError`` when the order breaks a wait."""
    n = len(problem.operators)
    step = np.empty(n, np.int64)
    step[list(order)] = np.arange(n)
    gaps: list[tuple[int, int, int, int]] = []
    at_use: dict[tuple[int, int], int] = {}
    excess = np.array(problem.apart_bytes, np.int64)[list(order)] - capacity
    change = np.zeros(n + 1, np.int64)
    for t, tensor in enumerate(problem.tensors):
        uses = sorted(step[list(tensor.consumers)].tolist())
        if tensor.producer >= 0:
            if uses and uses[0] <= step[tensor.producer]:
                raise ValueError("the order runs an operator before one that it waits for")
            uses.insert(0, int(step[tensor.producer]))
        if tensor.size_bytes == 0:
            continue
        for this, following in itertools.pairwise(uses):
            at_use[t, this] = len(gaps)
            gaps.append((t, int(order[following]), this + 1, following - 1))
            change[this + 1] += tensor.size_bytes
            change[following] -= tensor.size_bytes
    excess += np.cumsum(change[:-1])
    runs = [
        (begin, end, g, problem.tensors[t].size_bytes)
        for g, (t, _, begin, end) in enumerate(gaps)
        if begin <= end
    ]
    exact = True
    for s, o in enumerate(order):
        for pair in problem.operators[o].in_place:
            size = problem.tensors[pair.output].size_bytes
            again = [at_use[t, s] for t in pair.inputs if (t, s) in at_use]
            if len(again) < len(pair.inputs):
                excess[s] -= size
            elif again:
                exact = exact and len(again) == 1
                runs.append((s, s, again[0], size))
    rows = np.flatnonzero(excess > 0)
    span = np.array(runs, np.int64).reshape(-1, 4)
    begin, end = np.searchsorted(rows, span[:, 0]), np.searchsorted(rows, span[:, 1], side="right") - 1
    kept = begin <= end
    gap = span[kept, 2]
    flat = np.array(gaps, np.int64).reshape(-1, 4)
    return ResidencyRuns(
        problem, np.array(order, np.int64)[rows], np.arange(len(rows)) == 0, excess[rows], flat[:, 0], flat[:, 1],
        begin[kept], end[kept], gap, gap, span[kept, 3], exact,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RoomPrices:
    """What room is worth in one order, from the duals of the linear programme; bytes moved per byte of room.

    ``potential[s]``: a byte of room from step s to the last one. ``written[g]``: what gap g bears of the one write of
    its tensor, per byte of it.
    """

    potential: Reals
    written: Reals


def solve_runs(
    runs: ResidencyRuns, seconds: float | None, *, whole: bool = False, seed: int = 0
) -> tuple[int, Reals | None]:
    """(proven bound in bytes, how far each gap is out) of the linear programme, or with ``whole`` of whole gaps."""
    bound, out, _ = _solved(runs, seconds, whole, seed)
    return bound, out


def price_room(
    runs: ResidencyRuns, order: Sequence[int], seconds: float | None, seed: int = 0
) -> tuple[int, Reals | None, RoomPrices | None]:
    """(proven bound in bytes, how far each gap is out, prices of room) of the linear programme of an order.

    Without prices where it could not be solved to its end.
    """
    bound, out, duals = _solved(runs, seconds, False, seed)
    if duals is None:
        return bound, out, None
    rows = len(runs.operator)
    step = np.empty(len(order), np.int64)
    step[list(order)] = np.arange(len(order))
    # Rows are sums of the differences up to them, so a difference is worth what all rows from it on are.
    at = np.searchsorted(step[runs.operator], np.arange(len(order) + 1))
    written = np.zeros(len(runs.gap_tensor))
    _, kept = _used_gaps(runs)
    sizes = np.array([tensor.size_bytes for tensor in runs.problem.tensors], np.int64)[runs.gap_tensor]
    written[kept] = np.maximum(duals[rows : rows + len(kept)], 0.0) * _unit(sizes) / sizes[kept]
    return bound, out, RoomPrices(np.append(duals[:rows], 0.0)[at], written)


def _solved(
    runs: ResidencyRuns, seconds: float | None, whole: bool, seed: int
) -> tuple[int, Reals | None, Reals | None]:
    """(proven bound in bytes, how far each gap is out, duals of the rows)."""
    if len(runs.operator) == 0:
        return 0, np.zeros(len(runs.gap_tensor)), np.zeros(len(_used_gaps(runs)[1]))
    model, unit = _stated(runs, whole)
    report: SparseReport = solve_sparse(
        model, seconds=seconds, seed=seed, relative_gap=1e-4 if whole else 0.0
    )
    bound = 0
    if report.bound is not None:
        # Costs are multiples of the unit.
        bound = max(int(np.ceil(report.bound * (1 - 1e-7) - 1e-6)), 0) * unit
    out = None if report.values is None else report.values[: len(runs.gap_tensor)]
    return bound, out, report.row_prices


def _used_gaps(runs: ResidencyRuns) -> tuple[NDArray[np.bool_], Ints]:
    """Whether any row asks for each gap, and those of them whose tensors have to be written."""
    free = np.array([tensor.copy_free for tensor in runs.problem.tensors], bool)
    used = np.zeros(len(runs.gap_tensor), bool)
    for low, high in zip(runs.low.tolist(), runs.high.tolist(), strict=True):
        used[low : high + 1] = True
    return used, np.flatnonzero(used & ~free[runs.gap_tensor])


def _unit(sizes: Ints) -> int:
    return max(int(np.gcd.reduce(sizes)), 1) if len(sizes) else 1


def _stated(runs: ResidencyRuns, whole: bool) -> tuple[SparseModel, int]:
    """Columns: gaps out, tensors written, runs that may lie in several gaps, bytes above the need of each row."""
    problem = runs.problem
    rows, gaps = len(runs.operator), len(runs.gap_tensor)
    sizes = np.array([tensor.size_bytes for tensor in problem.tensors], np.int64)
    unit = _unit(sizes[np.unique(runs.gap_tensor)])
    used, kept = _used_gaps(runs)
    written, of = np.unique(runs.gap_tensor[kept], return_inverse=True)
    several = np.flatnonzero(runs.low < runs.high)
    column = runs.low.copy()
    column[several] = gaps + len(written) + np.arange(len(several))
    slack = gaps + len(written) + len(several) + np.arange(rows)
    size = runs.size / unit
    inner = runs.end + 1 < rows
    leaves = inner & ~runs.first[np.minimum(runs.end + 1, max(rows - 1, 0))]
    follows = np.flatnonzero(~runs.first)
    need = -(-runs.excess // unit)
    step = need.astype(np.float64)
    step[follows] -= need[follows - 1]
    pairs = rows + np.arange(len(kept))
    wide = rows + len(kept) + np.arange(len(several))
    spans = [np.arange(runs.low[k], runs.high[k] + 1) for k in several]
    lengths = np.array([len(span) for span in spans], np.int64)
    parts: list[tuple[Ints, Ints, Reals]] = [
        (runs.begin, column, size),
        (runs.end[leaves] + 1, column[leaves], -size[leaves]),
        (np.arange(rows), slack, np.full(rows, -1.0)),
        (follows, slack[follows - 1], np.ones(len(follows))),
        (pairs, kept, np.full(len(kept), -1.0)),
        (pairs, gaps + of, np.ones(len(kept))),
        (wide, column[several], np.full(len(several), -1.0)),
        (
            np.repeat(wide, lengths),
            np.concatenate(spans) if spans else np.zeros(0, np.int64),
            np.ones(int(lengths.sum())),
        ),
    ]
    price = sizes[runs.gap_tensor] / unit
    cost = np.concatenate((price, sizes[written] / unit, np.zeros(len(several) + rows)))
    upper = np.concatenate((used.astype(float), np.ones(len(written) + len(several)), np.full(rows, np.inf)))
    zero = np.zeros(len(kept) + len(several))
    model = SparseModel(
        cost, np.zeros(len(cost)), upper, np.concatenate((step, zero)),
        np.concatenate((step, np.full(len(zero), np.inf))),
        np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]), (np.arange(len(cost)) < gaps) if whole else None,
    )  # fmt: skip
    return model, unit


def plan_of_runs(runs: ResidencyRuns, order: Sequence[int], out: Reals) -> Stays:
    """Stays of the order of a programme, near a solution: what it has out for the most part, what is then lacking,
    and without what is then too much.
    """
    gone = _rounded(runs, out)
    step = {o: s for s, o in enumerate(order)}
    dropped: dict[int, list[int]] = {}
    for g in np.flatnonzero(gone).tolist():
        dropped.setdefault(step[int(runs.gap_next[g])], []).append(int(runs.gap_tensor[g]))
    return stays_of(runs.problem, order, dropped)


def _rounded(runs: ResidencyRuns, out: Reals) -> NDArray[np.bool_]:
    """Gaps out that satisfy every row of one order (where each run lies in one gap)."""
    free = np.array([tensor.copy_free for tensor in runs.problem.tensors], bool)
    gone = out > 0.5
    lack = runs.excess.copy()
    by_gap: dict[int, list[int]] = {}
    for k, g in enumerate(runs.low.tolist()):
        by_gap.setdefault(g, []).append(k)

    def book(g: int, sign: int) -> None:
        for k in by_gap[g]:
            lack[runs.begin[k] : runs.end[k] + 1] -= sign * runs.size[k]

    for g in by_gap:
        if gone[g]:
            book(g, 1)
    by_begin = np.argsort(runs.begin, kind="stable")
    pointer, active = 0, list[int]()
    for r in np.flatnonzero(lack > 0).tolist():
        while pointer < len(by_begin) and runs.begin[by_begin[pointer]] <= r:
            active.append(int(by_begin[pointer]))
            pointer += 1
        if lack[r] <= 0:
            continue
        _insist_on_time()
        active = [k for k in active if runs.end[k] >= r and not gone[runs.low[k]]]
        # What the solution leans to most; of equals, what stays out longest for its price.
        for k in sorted(active, key=lambda k: (-round(float(out[runs.low[k]]), 3), -int(runs.end[k]), k)):
            if lack[r] <= 0:
                break
            if not gone[runs.low[k]]:
                gone[runs.low[k]] = True
                book(int(runs.low[k]), 1)
    price = np.array([tensor.size_bytes for tensor in runs.problem.tensors], np.int64) * np.where(free, 1, 2)
    dear = price[runs.gap_tensor] * (1 - out)
    for g in sorted(by_gap, key=lambda g: (-float(dear[g]), g)):
        room = all(lack[runs.begin[k] : runs.end[k] + 1].max() + runs.size[k] <= 0 for k in by_gap[g])
        if gone[g] and room:
            gone[g] = False
            book(g, -1)
    return gone
