"""Solves problems with rules: what reduces to a plain problem goes to the portfolio, the rest to a search over orders.

Aliases, in-place outputs of their input's size, and pairs kept apart reduce exactly: a storage is one buffer with gaps
and windows, a pair kept apart shares a moment after all lives. Boundaries, pairs that may share bytes, smaller outputs
in place, and moves do not: greedy plans and :mod:`mapping.allocation.by_order` between a bound of pairwise conflicting
bytes and the best plan; with a cost of moves, or ``engine="mip"``, :mod:`mapping.allocation.constrained_mip`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input
from mapping.allocation.constrained_mip import refined
from mapping.allocation.instance import MOST_WINDOWED
from mapping.allocation.parts import refuse_gaps_and_moves
from mapping.allocation.problem import AllocationProblem, Gap
from mapping.allocation.result import AllocationResult, Status
from mapping.allocation.rules import NO_RULES
from mapping.allocation.stacked import stacked
from mapping.allocation.storage_model import StorageModel, groups_of, model_of, pins_that_clash
from mapping.allocation.storage_search import Found, insist, plan_of, search
from mapping.deadline import OutOfTimeError

if TYPE_CHECKING:
    from mapping.allocation.solving import Engine
    from mapping.deadline import Budget

__all__ = ["least_peak_bound", "one_arena", "solve_with_rules"]

Ints = NDArray[np.int64]
_SHARE: Final = 3
"""A step before the last one gets this part of the time: a third."""


def one_arena(problem: AllocationProblem) -> int | None:
    """Refuse rules of banks where there is one arena only; the bytes of the one that is named, where they are known."""
    names = sorted({"|".join(listed) for listed in problem.rules.banks.values()})
    if problem.rules.apart:
        a, b = problem.rules.apart[0]
        told = f"buffers {problem.ids[a]!r} and {problem.ids[b]!r} go to different banks"
        raise bad_input(f"{told}; expected --bank or --arena for each bank")
    if len(names) > 1:
        raise bad_input(
            f"buffers name the banks {', '.join(names[:5])}; expected --bank or --arena for each bank"
        )
    sizes = [problem.rules.pools.get(bank, 0) for listed in problem.rules.banks.values() for bank in listed]
    # With several banks for every buffer alike, the one arena is one of them: the largest, if all are known.
    known = all(bank in problem.rules.pools for listed in problem.rules.banks.values() for bank in listed)
    return max(sizes, default=None) if known and sizes else None


def least_peak_bound(problem: AllocationProblem) -> int:
    """A proven lower bound on the peak of every plan of a problem with rules, in bytes."""
    from mapping.allocation.solving import lower_bound

    root = groups_of(problem)
    if pins_that_clash(problem, root) is None and _is_plain(problem, root):
        return lower_bound(plain_storages(problem, root)[0])
    return model_of(problem, root).bound


def solve_with_rules(
    problem: AllocationProblem,
    capacity: int | None,
    engine: Engine,
    budget: Budget,
    seed: int,
    move_cost: float = 0.0,
) -> AllocationResult:
    """The plan of a problem with rules; options as :func:`mapping.allocation.solving.solve`.

    Where all buffers go to one bank of a known size, no plan exceeds it. Raises ``InputError`` for a buffer with gaps
    and moves.
    """
    refuse_gaps_and_moves(problem)
    room = one_arena(problem)
    if room is not None and capacity is None and problem.rules.pools:
        bare = replace(problem, rules=replace(problem.rules, pools={}))
        found = solve_with_rules(bare, None, engine, budget, seed, move_cost)
        if found.peak_bytes is None or found.peak_bytes <= room:
            return found
        status: Status = "infeasible" if found.bound_bytes > room else "unknown"
        return replace(found, status=status, capacity_bytes=room)
    if room is not None and capacity is not None:
        capacity = min(capacity, room)
    root = groups_of(problem)
    clash = pins_that_clash(problem, root)
    if clash is not None:
        return AllocationResult("infeasible", None, 0, None, "pins", 0, budget.elapsed, seed, capacity, clash)
    with budget.running():
        try:
            return _searched(problem, root, capacity, engine, budget, seed, move_cost)
        except OutOfTimeError:
            model, best = stacked(problem, root)
            priced = problem.rules.moves and (capacity is not None or move_cost > 0)
            best = replace(best, cost_bound=0.0 if priced else None)
            return plan_of(problem, model, best, capacity, budget, seed, move_cost)
    # A second Ctrl-C ended the block.
    return AllocationResult(
        "unknown", None, 0, None, "none", budget.nodes, budget.elapsed, seed, capacity, None, True
    )


def _searched(
    problem: AllocationProblem,
    root: list[int],
    capacity: int | None,
    engine: Engine,
    budget: Budget,
    seed: int,
    move_cost: float,
) -> AllocationResult:
    """The plan, as each kind of rules finds it. Raises ``OutOfTimeError`` where time ends before there is a model."""
    if _is_plain(problem, root) and engine != "mip":
        return _reduced(problem, root, capacity, engine, budget, seed)
    if problem.rules.moves and (capacity is not None or move_cost > 0 or engine == "mip"):
        return _moving(problem, root, capacity, engine, budget, seed, move_cost)
    model = model_of(problem, root, stop=budget.stop)
    best = search(model, capacity, "greedy" if engine == "mip" else engine, budget)
    if engine == "mip" and best.offsets is None:
        best = search(model, None, "search", budget, share=_SHARE)
    if engine == "mip":
        best = refined(model, best, capacity, 0.0, budget, seed)
    return plan_of(problem, model, best, capacity, budget, seed)


def _is_plain(problem: AllocationProblem, root: list[int]) -> bool:
    rules = problem.rules
    nested = any(root[out] != root[into] for out, into in rules.inside)
    return not (rules.shared or rules.boundary or rules.moves or nested)


def _reduced(
    problem: AllocationProblem,
    root: list[int],
    capacity: int | None,
    engine: Engine,
    budget: Budget,
    seed: int,
) -> AllocationResult:
    """Solve a problem of storages as plain buffers with gaps, and give their places to the members."""
    from mapping.allocation.solving import solve

    plain, members = plain_storages(problem, root)
    if plain.gaps and len(plain) > MOST_WINDOWED:
        model = model_of(problem, root, stop=budget.stop)
        return plan_of(problem, model, search(model, capacity, engine, budget), capacity, budget, seed)
    limits = {"time_limit_s": budget.seconds_left(), "max_nodes": budget.max_nodes}
    found = solve(plain, capacity, engine=engine, seed=seed, **limits)  # type: ignore[arg-type]
    offsets = None
    if found.offsets is not None:
        offsets = np.zeros(len(problem), np.int64)
        for s, group in enumerate(members):
            offsets[list(group)] = found.offsets[s]
        insist(problem, offsets, ())
    why = found.explanation
    if why is not None:
        why = replace(why, buffers=tuple(sorted(i for s in why.buffers for i in members[s])))
    return replace(found, offsets=offsets, explanation=why)


def plain_storages(
    problem: AllocationProblem, root: list[int]
) -> tuple[AllocationProblem, list[tuple[int, ...]]]:
    """Each storage as one buffer with gaps, pairs kept apart sharing a moment behind all lives; and its members."""
    groups: dict[int, list[int]] = {}
    for i in range(len(problem)):
        groups.setdefault(root[i], []).append(i)
    members = [tuple(group) for group in groups.values()]
    of = {i: s for s, group in enumerate(members) for i in group}
    end = int(problem.upper.max()) if len(problem) else 0
    extra: dict[int, dict[int, int]] = {}
    for k, (a, b) in enumerate(problem.rules.separate):
        for i in (a, b):
            if problem.spans(i):
                extra.setdefault(of[i], {})[end + k] = int(problem.size[i])
    rows = [_storage(problem, group, extra.get(s, {})) for s, group in enumerate(members)]
    alignment, fixed = problem.alignment, problem.fixed
    plain = AllocationProblem(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([max(int(problem.size[i]) for i in group) for group in members], np.int64),
        np.array(
            [math.lcm(*(int(alignment[i]) for i in group if fixed[i] < 0)) for group in members], np.int64
        ),
        np.array([max(int(fixed[i]) for i in group) for group in members], np.int64),
        np.full(len(rows), -1, np.int64),
        {s: row[2] for s, row in enumerate(rows) if row[2]},
        tuple(_label(problem, group) for group in members),
        problem.name,
        NO_RULES,
    )
    return plain, members


def _label(problem: AllocationProblem, group: tuple[int, ...]) -> str:
    """A storage's name: those of its first members."""
    return "+".join(str(problem.ids[i]) for i in group[:4]) + "+..." * (len(group) > 4)


def _storage(
    problem: AllocationProblem, group: tuple[int, ...], extra: Mapping[int, int]
) -> tuple[int, int, tuple[Gap, ...]]:
    """Life and gaps of a storage: at each moment the hull of what its members use; ``extra``: bytes by moment."""
    spans = [(i, span) for i in group for span in problem.spans(i)]
    if not spans:
        return int(problem.lower[group[0]]), int(problem.lower[group[0]]), ()
    if len(group) == 1 and not extra:
        i = group[0]
        return int(problem.lower[i]), int(problem.upper[i]), problem.gaps.get(i, ())
    whole = max(int(problem.size[i]) for i in group)
    times = sorted(
        {t for _, span in spans for t in (span.lower, span.upper)} | {t + d for t in extra for d in (0, 1)}
    )
    low, high = times[0], times[-1]
    gaps: list[Gap] = []
    coming = sorted((span for _, span in spans), key=lambda span: -span.lower)
    # Heaps of what is in use: the lowest and the highest byte stand first, each with its end.
    lowest: list[tuple[int, int]] = []
    highest: list[tuple[int, int]] = []
    for begin, stop in itertools.pairwise(times):
        while coming and coming[-1].lower <= begin:
            span = coming.pop()
            heappush(lowest, (span.window_lower, span.upper))
            heappush(highest, (-span.window_upper, span.upper))
        for heap in (lowest, highest):
            while heap and heap[0][1] <= begin:
                heappop(heap)
        window: tuple[int, int] | None = None
        if begin in extra:
            window = (0, extra[begin])
        elif lowest:
            window = (lowest[0][0], -highest[0][0])
        if window == (0, whole):
            continue
        if gaps and gaps[-1].upper == begin and gaps[-1].window == window:
            gaps[-1] = Gap(gaps[-1].lower, stop, window)
        else:
            gaps.append(Gap(begin, stop, window))
    return low, high, tuple(gaps)


def _moving(
    problem: AllocationProblem,
    root: list[int],
    capacity: int | None,
    engine: Engine,
    budget: Budget,
    seed: int,
    move_cost: float,
) -> AllocationResult:
    """The least bytes moved below a capacity, or the least peak and cost of moves.

    First without a move, which is all where it fits below a capacity; then with free moves, which proves where nothing
    fits; then the MIP.
    """
    still = model_of(problem, root, moving=False, stop=budget.stop)
    unmoved = _unmoved(problem, root, still, capacity, engine, budget, seed)
    if (
        capacity is not None
        and unmoved.offsets is not None
        and still.top(unmoved.offsets) * still.unit <= capacity
    ):
        return plan_of(problem, still, replace(unmoved, cost_bound=0.0), capacity, budget, seed)
    model = model_of(problem, root, stop=budget.stop)
    free = search(model, capacity, engine, budget, share=_SHARE)
    if capacity is not None and free.lower * model.unit > capacity:
        return plan_of(problem, model, free, capacity, budget, seed)
    starts = [free]
    if capacity is None and unmoved.offsets is not None:
        starts.append(Found(_spread(still, model, unmoved.offsets), free.lower, unmoved.engine))
    found = min(starts, key=lambda one: model.cost(one.offsets, capacity, move_cost))
    found = refined(model, found, capacity, move_cost, budget, seed)
    return plan_of(problem, model, found, capacity, budget, seed, move_cost)


def _unmoved(
    problem: AllocationProblem,
    root: list[int],
    still: StorageModel,
    capacity: int | None,
    engine: Engine,
    budget: Budget,
    seed: int,
) -> Found:
    """A plan without moves: by the portfolio where no other rule stands in its way; it packs closer than orders do."""
    from mapping.allocation.solving import solve

    bare = replace(problem, rules=replace(problem.rules, moves={}))
    if _is_plain(bare, root) and engine != "mip":
        left, nodes = budget.seconds_left(), budget.max_nodes
        found = solve(
            bare, capacity, engine=engine, seed=seed, explain=False,
            time_limit_s=None if left is None else max(left / _SHARE, 0.01),
            max_nodes=None if nodes is None else max((nodes - budget.nodes) // _SHARE, 1),
        )  # fmt: skip
        budget.nodes += found.nodes
        if found.offsets is not None:
            places = found.offsets[[group[0] for group in still.members]]
            # The bound is that of live bytes: what was proved of places without moves says nothing of those with.
            if not (places % still.unit).any():
                return Found(places // still.unit, -(-still.bound // still.unit), found.engine)
    return search(still, capacity, engine, budget, share=_SHARE)


def _spread(still: StorageModel, model: StorageModel, offsets: Ints) -> Ints:
    """A plan without moves in the storages of the problem with moves."""
    of = {i: s for s, group in enumerate(still.members) for i in group}
    places = [int(offsets[of[group[0]]]) * still.unit // model.unit for group in model.members]
    return np.array(places, np.int64)
