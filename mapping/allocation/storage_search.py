"""Searches a plan of storages: greedy plans, then probes between the bound and the best plan, and the answer in
buffers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import PhysicsError
from mapping.allocation.by_offset import FOUND, LIMIT, NONE
from mapping.allocation.by_order import Places, place_greedily, search_by_order
from mapping.allocation.check import check, peak_of
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import AllocationResult, Explanation, Move, Status
from mapping.allocation.storage_model import StorageModel

if TYPE_CHECKING:
    from mapping.deadline import Budget

__all__ = ["Found", "broken", "insist", "plan_of", "search"]

Ints = NDArray[np.int64]
_LARGEST_TABLE: Final = 40_000_000
"""Entries of the search's table of offsets (depth x storages); larger problems are placed greedily only."""
_NO_LIMIT: Final = 1 << 58
_LONG_CALL_NODES: Final = 4000
_STEPS: Final = 12


@dataclass(slots=True)
class Found:
    """The best plan so far in units, the proven bound in units, and what found the plan.

    ``never``: no plan exists at any capacity. ``cost_bound``: a proven bound on the cost asked for, where there is one.
    """

    offsets: Ints | None
    lower: int
    engine: str
    never: bool = False
    cost_bound: float | None = None


def search(model: StorageModel, capacity: int | None, engine: str, budget: Budget, share: int = 1) -> Found:
    """The lowest plan of storages, or one below a capacity (bytes); ``share``: use this part of what time is left."""
    goal = None if capacity is None else capacity // model.unit
    found = Found(None, -(-model.bound // model.unit), "none")
    left, nodes_left = budget.seconds_left(), budget.max_nodes
    end = None if left is None else left * (1 - 1 / share)
    last = None if nodes_left is None else budget.nodes + max((nodes_left - budget.nodes) // share, 1)

    def over() -> bool:
        now = budget.seconds_left()
        late = end is not None and now is not None and share > 1 and now <= end
        return budget.spent or late or (last is not None and budget.nodes >= last)

    if goal is not None and found.lower > goal:
        return found
    _greedy(model, found, goal, budget)
    if engine == "greedy" or (len(model.pair) + 2) * max(len(model), 1) > _LARGEST_TABLE:
        return found
    nodes = max(256, 4 * len(model))
    while not over() and not _is_done(model, found, goal):
        if found.offsets is None and goal is None:
            _ask(model, found, _NO_LIMIT, nodes, budget)
        elif goal is not None:
            _ask(model, found, goal, nodes, budget)
        else:
            _round_down(model, found, nodes, budget)
        nodes *= 2
    return found


def _is_done(model: StorageModel, found: Found, goal: int | None) -> bool:
    if found.never or (goal is not None and found.lower > goal):
        return True
    if found.offsets is None:
        return False
    return model.top(found.offsets) <= (found.lower if goal is None else goal)


def _round_down(model: StorageModel, found: Found, nodes: int, budget: Budget) -> None:
    """The bound first, then a bisection up to the best plan; only a proof raises the bound."""
    assert found.offsets is not None
    if _ask(model, found, found.lower, nodes, budget):
        return
    low = found.lower
    for _ in range(_STEPS):
        high = model.top(found.offsets)
        middle = (low + high) // 2
        if budget.spent or middle >= high or middle < found.lower:
            return
        if not _ask(model, found, middle, max(nodes // 4, 64), budget):
            low = middle + 1


def _ask(model: StorageModel, found: Found, capacity: int, nodes: int, budget: Budget) -> bool:
    """Search below a capacity in units; True when a plan was found. A proof raises the bound."""
    limit = budget.allow(nodes)
    if limit == 0 or budget.spent:
        return False
    highest = np.where(model.size > 0, capacity - model.size, _NO_LIMIT)
    if (highest < 0).any():
        found.lower = max(found.lower, int(model.size.max()))
        return False
    status, used, offsets = budget.call(
        search_by_order, _places(model), highest, limit, budget.stop, long=nodes > _LONG_CALL_NODES,
    )  # fmt: skip
    budget.nodes += used
    if status == FOUND:
        if found.offsets is None or model.top(offsets) < model.top(found.offsets):
            found.offsets, found.engine = offsets.copy(), "order"
        return True
    if status == NONE and not budget.stop[0]:
        found.never = capacity == _NO_LIMIT
        found.lower = found.lower if found.never else max(found.lower, capacity + 1)
    elif status not in (NONE, LIMIT):
        raise PhysicsError(f"the search over orders ended with {status}")
    return False


def _places(model: StorageModel) -> Places:
    """The model as the kernels take it."""
    owner = model.pair[:, :2].ravel(order="F")
    by_owner = np.argsort(owner, kind="stable")
    each = np.arange(len(model) + 1)
    near_ptr = np.searchsorted(owner[by_owner], each).astype(np.int64)
    near = (by_owner % max(len(model.pair), 1)).astype(np.int64)
    step_ptr = np.searchsorted(model.step[:, 0], each).astype(np.int64)
    return Places(model.align, model.fixed, model.pair, model.slack, model.step, step_ptr, near, near_ptr)


def _greedy(model: StorageModel, found: Found, goal: int | None, budget: Budget) -> None:
    """The lowest of some greedy plans."""
    places, rows = _places(model), model.pair[:, :2]
    index = np.arange(len(model))
    crowd = np.bincount(rows[:, 0], model.size[rows[:, 1]], len(model)) + np.bincount(
        rows[:, 1], model.size[rows[:, 0]], len(model)
    )
    keys = {"size": -model.size, "crowd": -crowd, "degree": -np.diff(places.near_ptr), "index": index}
    for label, key in keys.items():
        # One plan there must be, also where making the model took all the time.
        if budget.spent and label != "size":
            return
        order = np.lexsort((index, -model.size, key))
        whole, offsets = place_greedily(places, order)
        if not whole or broken(model, offsets):
            continue
        if found.offsets is None or model.top(offsets) < model.top(found.offsets):
            found.offsets, found.engine = offsets.copy(), f"greedy/{label}"
        if model.top(found.offsets) <= (found.lower if goal is None else goal):
            return


def broken(model: StorageModel, offsets: Ints) -> bool:
    """Whether offsets break a pair, a slack, an alignment, a boundary or a pin; such plans are thrown away."""
    a, b, up, down = model.pair.T
    inner, outer, least, most = model.slack.T
    s, size, step = model.step.T
    pinned = model.fixed >= 0
    wrong = (offsets[a] + up > offsets[b]) & (offsets[b] + down > offsets[a])
    apart = offsets[inner] - offsets[outer]
    crossed = offsets[s] // step != (offsets[s] + size - 1) // step
    misplaced = np.where(pinned, offsets != model.fixed, offsets % model.align != 0)
    return bool(
        wrong.any()
        or ((apart < least) | (apart > most)).any()
        or crossed.any()
        or misplaced.any()
        or (offsets < 0).any()
    )


def plan_of(
    problem: AllocationProblem,
    model: StorageModel,
    found: Found,
    capacity: int | None,
    budget: Budget,
    seed: int,
    move_cost: float = 0.0,
) -> AllocationResult:
    """The answer in buffers and bytes, checked."""
    bound = found.lower * model.unit
    base = AllocationResult(
        "unknown", None, bound, None, found.engine, budget.nodes, budget.elapsed, seed, capacity,
        interrupted=budget.interrupted,
    )  # fmt: skip
    if found.never:
        told = "the rules and pins contradict each other at any capacity"
        why = Explanation("pins", (), told, False)
        return replace(base, status="infeasible", explanation=why)
    status: Status = "infeasible" if capacity is not None and bound > capacity else "unknown"
    if found.offsets is None:
        return replace(base, status=status)
    offsets, moves = _unfolded(problem, model, found.offsets)
    insist(problem, offsets, moves)
    peak = peak_of(problem, offsets.tolist(), moves)
    bound = min(bound, peak)
    moved = sum(int(problem.size[move.buffer]) for move in moves)
    cost = cost_bound = None
    met = peak == bound
    if found.cost_bound is not None:
        cost = float(moved if capacity is not None else peak + move_cost * moved)
        cost_bound = min(max(found.cost_bound, 0.0 if capacity is not None else bound), cost)
        met = cost - cost_bound <= 1e-6 * max(1.0, cost)
        cost_bound = cost if met else cost_bound
    if status != "infeasible" and (capacity is None or peak <= capacity):
        status = "optimal" if met else "feasible"
    return replace(
        base, status=status, peak_bytes=peak, bound_bytes=bound, offsets=offsets, moves=moves, moved_bytes=moved,
        cost=cost, cost_bound=cost_bound,
    )  # fmt: skip


def _unfolded(problem: AllocationProblem, model: StorageModel, units: Ints) -> tuple[Ints, tuple[Move, ...]]:
    """Offsets in bytes per buffer, and the moves, of a plan of storages in units."""
    offsets = np.full(len(problem), -1, np.int64)
    for s, group in enumerate(model.members):
        for i in group:
            if offsets[i] < 0:
                offsets[i] = int(units[s]) * model.unit
    moves = tuple(
        Move(model.members[after][0], time, int(units[after]) * model.unit)
        for before, after, _, time in model.move.tolist()
        if units[before] != units[after]
    )
    return offsets, moves


def insist(problem: AllocationProblem, offsets: Ints, moves: tuple[Move, ...]) -> None:
    """Raise ``PhysicsError`` where a plan breaks a promise."""
    wrong = check(problem, offsets.tolist(), moves=moves)
    if wrong:
        raise PhysicsError(f"a plan under rules does not hold: {wrong[0]}")
