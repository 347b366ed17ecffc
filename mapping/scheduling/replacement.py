"""Replacement for a given order: what to throw out when an operator does not fit.

Policies:

* ``belady``: the tensor whose next use is farthest (Belady, IBM Systems Journal 5(2), 1966);
* ``lru``: the one used longest ago;
* ``greedy-ilp``: the set that costs the fewest bytes at this one step, the optimum of the one-step integer programme
  "choose what to drop so that the operator fits", which has so few candidates that they are searched exactly.

:func:`replace_by_bytes` counts bytes; its stays are given addresses afterwards, knowing them all. Where they have
none, :func:`replace_in_order` runs the order over a real address space: what an operator needs is placed best fit,
and while there is no hole, something is dropped (greedy-ilp: the cheapest window to clear). When even the empty rest
is too scattered, inputs are moved: dropped and retrieved side by side. So an order always runs at M_R or above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mapping.deadline import OutOfTimeError, running_budget
from mapping.scheduling.problem import InPlace, ScheduleProblem
from mapping.scheduling.stays import Stays, stays_of

__all__ = ["POLICIES", "replace_by_bytes", "replace_in_order"]

POLICIES: Final = ("belady", "lru", "greedy-ilp")

_COVER_STEPS: Final = 20_000


@dataclass
class _Space:
    """The scratchpad at one moment: blocks of (offset, end) by tensor, and what the past left behind."""

    problem: ScheduleProblem
    capacity: int
    uses: list[list[int]]
    policy: str
    blocks: dict[int, tuple[int, int]] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)
    last_used: dict[int, int] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    spans: list[tuple[int, int, int, int]] = field(default_factory=list)
    planned: dict[tuple[int, int], int] = field(default_factory=dict)
    step: int = 0
    short_stay: int = 8
    by_distance: float = 0.0

    def holes(self, extra: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Free (offset, end) ranges, with ``extra`` ranges taken as well."""
        taken = sorted([*(b for b in self.blocks.values() if b[1] > b[0]), *extra])
        found, at = [], 0
        for low, high in taken:
            if low > at:
                found.append((at, low))
            at = max(at, high)
        if at < self.capacity:
            found.append((at, self.capacity))
        return found

    def lies_high(self, t: int) -> bool:
        """Whether a stay that is planned to be short begins here: such ones share the upper end."""
        return t < 0 or self.planned.get((t, self.step), 1 << 60) - self.step <= self.short_stay

    def leave(self, t: int, step: int) -> None:
        """End a stay."""
        offset, _ = self.blocks.pop(t)
        self.spans.append((t, self.since.pop(t), step, offset))

    def drop(self, t: int, step: int) -> None:
        """End the stay of a tensor that will come back; its copy off-chip is written if there is none."""
        self.leave(t, step)
        self.written.add(t)

    def price(self, t: int) -> int:
        size = self.problem.tensors[t].size_bytes
        return size if self.problem.tensors[t].copy_free or t in self.written else 2 * size

    def regret(self, t: int) -> float:
        """What dropping a tensor now costs; with a plan, the less the longer its room is then free."""
        if not self.planned or not self.by_distance:
            return self.price(t)
        return self.price(t) / math.pow(self.next_use(t, self.step) - self.step + 1, self.by_distance)

    def next_use(self, t: int, step: int) -> int:
        return next((use for use in self.uses[t] if use >= step), 1 << 60)


def replace_by_bytes(problem: ScheduleProblem, order: Sequence[int], capacity: int, policy: str) -> Stays:
    """Stays of an order whose bytes fit at every step; addresses are not looked at.

    The capacity must be at least the problem's least budget. Raises ``OutOfTimeError`` once the solve around it has
    to end.
    """
    size = [tensor.size_bytes for tensor in problem.tensors]
    step_of = {o: step for step, o in enumerate(order)}
    uses = [sorted(step_of[c] for c in tensor.consumers) for tensor in problem.tensors]
    held: set[int] = set()
    written: set[int] = set()
    last_used: dict[int, int] = {}
    dropped: dict[int, list[int]] = {}
    budget = running_budget()
    for step, o in enumerate(order):
        if budget is not None and budget.stop[0]:
            raise OutOfTimeError
        op = problem.operators[o]
        needed = {*op.inputs, *op.outputs}
        others = sorted(held - needed)
        apart = [pair for pair in op.in_place if not any(uses[t][-1] == step for t in pair.inputs)]
        excess = problem.need_bytes[o] + sum(size[pair.output] for pair in apart) - capacity
        excess += sum(size[t] for t in others)
        if excess > 0:
            if policy == "greedy-ilp":
                prices = [
                    size[t] if problem.tensors[t].copy_free or t in written else 2 * size[t] for t in others
                ]
                gone = [others[i] for i in _cheapest_cover([size[t] for t in others], prices, excess)]
                excess -= sum(size[t] for t in gone)
            else:
                gone = []
                if policy == "belady":
                    others.sort(key=lambda t: (-next(use for use in uses[t] if use >= step), t))
                else:
                    others.sort(key=lambda t: (last_used[t], t))
                for t in others:
                    if excess > 0 and size[t] > 0:
                        gone.append(t)
                        excess -= size[t]
            dropped.setdefault(step, []).extend(gone)
            held.difference_update(gone)
            written.update(gone)
        over = _overwritten(problem, apart, excess, uses, step)
        dropped.setdefault(step + 1, []).extend(over)
        written.update(over)
        held |= needed
        last_used.update(dict.fromkeys(needed, step))
        held -= {t for t in needed if not uses[t] or uses[t][-1] <= step} | set(over)
    return stays_of(problem, order, dropped)


def _overwritten(
    problem: ScheduleProblem, pairs: Sequence[InPlace], excess: int, uses: list[list[int]], step: int
) -> list[int]:
    """Inputs that outputs are written over although they are read again, until so many bytes are saved."""
    over: list[int] = []
    for pair in sorted(pairs, key=lambda pair: (-problem.tensors[pair.output].size_bytes, pair.output)):
        if excess <= 0:
            break
        excess -= problem.tensors[pair.output].size_bytes
        over.append(max(pair.inputs, key=lambda t: (next(use for use in uses[t] if use > step), t)))
    return over


def _cheapest_cover(sizes: list[int], prices: list[int], excess: int) -> list[int]:
    """The cheapest items whose sizes sum to at least ``excess``, exactly, by depth-first search with a bound."""
    order = sorted(range(len(sizes)), key=lambda i: (prices[i] / sizes[i] if sizes[i] else 1e9, -sizes[i], i))
    best: list[int] = list(order)
    least = sum(prices) + 1
    steps = 0
    # (next position, bytes still wanted, price so far, what is chosen as a chain); no recursion: thousands of items.
    stack: list[tuple[int, int, int, Any]] = [(0, excess, 0, None)]
    while stack:
        at, left, price, chosen = stack.pop()
        steps += 1
        if left <= 0:
            # The last item may be larger than what was left, and so dearer than the bound allowed for.
            if price < least:
                best, least, link = [], price, chosen
                while link is not None:
                    best.append(link[0])
                    link = link[1]
            continue
        if at == len(order) or steps > _COVER_STEPS:
            continue
        i = order[at]
        # No later item has a lower price per byte.
        if sizes[i] == 0 or price + left * prices[i] / sizes[i] >= least:
            continue
        stack.append((at + 1, left, price, chosen))
        stack.append((at + 1, left - sizes[i], price + prices[i], (i, chosen)))
    return sorted(best)


def replace_in_order(
    problem: ScheduleProblem,
    order: Sequence[int],
    capacity: int,
    policy: str,
    planned: Stays | None = None,
    style: tuple[int, float] = (8, 0.0),
) -> tuple[Stays, list[int]]:
    """Stays and offsets (as :func:`mapping.scheduling.stays.allocation_of` lists them) of an order.

    ``planned``: stays of the order that fit by bytes; they end as planned, or earlier where no hole is left, and
    long ones lie low, short ones high. ``style``: steps up to which a stay is short, and how much the time that its
    room is free (the power of the steps) speaks for dropping a tensor.
    The capacity must be at least the problem's least budget. Raises ``OutOfTimeError`` once the solve around it has
    to end.
    """
    step_of = {o: step for step, o in enumerate(order)}
    uses = [sorted(step_of[c] for c in tensor.consumers) for tensor in problem.tensors]
    space = _Space(problem, capacity, uses, policy, short_stay=style[0], by_distance=style[1])
    workspaces: list[int] = []
    leaving: dict[int, list[int]] = {}
    for t, start, end in planned.spans if planned is not None else ():
        leaving.setdefault(end, []).append(t)
        space.planned[t, start] = end
    budget = running_budget()
    for step, o in enumerate(order):
        if budget is not None and budget.stop[0]:
            raise OutOfTimeError
        op = problem.operators[o]
        for t in leaving.get(step, ()):
            if t in space.blocks:
                space.drop(t, step)
        space.step = step
        needed = {*op.inputs, *op.outputs}
        over = {
            pair.output: min(ending, key=lambda t: (problem.tensors[t].size_bytes, t))
            for pair in op.in_place
            if (ending := [t for t in pair.inputs if uses[t][-1] == step])
        }
        fresh = [t for t in (*op.inputs, *op.outputs) if t not in space.blocks and t not in over]
        items = [(problem.tensors[t].size_bytes, t) for t in fresh]
        if op.workspace_bytes > 0:
            items.append((op.workspace_bytes, -1))
        items.sort(key=lambda item: (-item[0], item[1]))
        placed = _place_all(space, items, needed, step)
        for everything in (False, True, True):
            if placed is not None:
                break
            if everything and not space.blocks:
                # Everything is out already: write over what is read again as well.
                apart = [pair for pair in op.in_place if pair.output not in over]
                again = _overwritten(problem, apart, 1 << 62, uses, step)
                over |= {pair.output: t for pair in apart for t in again if t in pair.inputs}
                items = [item for item in items if item[1] not in over]
            # Too scattered: move the inputs; if even that is not enough, start from an empty scratchpad.
            for t in [t for t in space.blocks if everything or t in needed]:
                if t in needed:
                    items.append((problem.tensors[t].size_bytes, t))
                space.drop(t, step)
            items.sort(key=lambda item: (-item[0], item[1]))
            placed = _place_all(space, items, needed, step)
        assert placed is not None, "an operator alone fits at M_R"
        for made, t in over.items():
            placed[made] = placed[t] if t in placed else space.blocks[t][0]
        for t, offset in placed.items():
            if t >= 0:
                space.blocks[t] = (offset, offset + problem.tensors[t].size_bytes)
                space.since[t] = step
            else:
                workspaces.append(offset)
        for t in needed:
            space.last_used[t] = step
            if not uses[t] or uses[t][-1] <= step:
                space.leave(t, step + 1)
            elif t in over.values():
                space.drop(t, step + 1)
    spans = sorted(space.spans, key=lambda span: (span[1], span[0]))
    stays = Stays(tuple(order), tuple((t, start, end) for t, start, end, _ in spans))
    return stays, [offset for _, _, _, offset in spans] + workspaces


def _place_all(
    space: _Space, items: Sequence[tuple[int, int]], needed: set[int], step: int
) -> dict[int, int] | None:
    """Offsets of all items, largest first, with drops as the policy says; None when nothing droppable is left."""
    placed: dict[int, int] = {}
    taken: list[tuple[int, int]] = []
    for size, t in items:
        offset = _make_room(space, size, taken, needed, step, bool(space.planned) and space.lies_high(t))
        if offset is None:
            return None
        placed[t] = offset
        if size > 0:
            taken.append((offset, offset + size))
    return placed


def _make_room(
    space: _Space,
    size: int,
    taken: list[tuple[int, int]],
    needed: set[int],
    step: int,
    high_end: bool = False,
) -> int | None:
    if size == 0:
        return 0
    while True:
        fitting = [(high - low, low) for low, high in space.holes(taken) if high - low >= size]
        if fitting and high_end:
            room, low = max(fitting, key=lambda hole: hole[1])
            return low + room - size
        if fitting:
            return min(fitting)[1] if not space.planned else min(low for _, low in fitting)
        if space.policy == "greedy-ilp":
            victims = _cheapest_window(space, size, taken, needed)
        else:
            victims = _one_victim(space, needed, step)
        if not victims:
            return None
        for t in victims:
            space.drop(t, step)


def _one_victim(space: _Space, needed: set[int], step: int) -> list[int]:
    others = [t for t, (low, high) in space.blocks.items() if t not in needed and high > low]
    if not others:
        return []
    key: Callable[[int], tuple[int, int]]
    if space.policy == "belady":
        key = lambda t: (-space.next_use(t, step), t)  # noqa: E731
    else:
        key = lambda t: (space.last_used.get(t, -1), t)  # noqa: E731
    return [min(others, key=key)]


def _cheapest_window(space: _Space, size: int, taken: list[tuple[int, int]], needed: set[int]) -> list[int]:
    """What lies in the window of ``size`` bytes that costs least to clear; it must not touch what is needed."""
    fixed = [*taken, *(space.blocks[t] for t in needed if t in space.blocks)]
    movable = [(low, high, t) for t, (low, high) in space.blocks.items() if t not in needed and high > low]
    edges = {0, space.capacity - size}
    for low, high in (*fixed, *((low, high) for low, high, _ in movable)):
        edges |= {high, low - size}
    best: tuple[float, int, int] | None = None
    chosen: list[int] = []
    for at in sorted(edges):
        if at < 0 or at + size > space.capacity or any(a < at + size and at < b for a, b in fixed):
            continue
        inside = [t for low, high, t in movable if low < at + size and at < high]
        rank = (sum(space.regret(t) for t in inside), len(inside), at)
        if best is None or rank < best:
            best, chosen = rank, sorted(inside)
    return chosen
