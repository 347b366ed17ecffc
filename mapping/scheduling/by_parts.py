"""Divide and conquer for networks of hundreds of operators.

An order of low cost is cut where few bytes are alive into parts of some tens of operators. Within the parts
operators may change places, over a cut they may not. The search goes through all parts in turn and carries the
states at each cut (which tensors are resident, which were written, at what cost) into the next part; addresses
are then given to the whole. A better schedule is cut anew at other places.

The bound comes from a relaxation: each part is solved alone, over the tensors that belong to it; every tensor
belongs to one part only and takes no room in the others. What the parts must move adds up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mapping.scheduling.baselines import ORDERS, order_named
from mapping.scheduling.instance import WORD_BITS, Instance, build_instance
from mapping.scheduling.problem import InPlace, ScheduleOperator, ScheduleProblem, ScheduleTensor
from mapping.scheduling.search import NO_LIMIT, LayerSearch
from mapping.scheduling.solver_run import SolverRun
from mapping.scheduling.stays import Stays, stays_of

__all__ = ["cut_into_parts", "divided", "improve_by_parts", "part_problem", "raise_bound_by_parts"]

_PART_OPERATORS: Final = (24, 40, 16, 64)
_WIDTHS: Final = (64, 1024)
_BOUND_PARTS: Final = (20, 32, 48)
_BOUND_SHARE: Final = 0.35
_ROUNDS: Final = 12


def cut_into_parts(problem: ScheduleProblem, order: Sequence[int], about: int) -> list[tuple[int, ...]]:
    """The order in parts of about so many operators, each cut where the fewest bytes are alive nearby."""
    live = _live_after(problem, order)
    parts: list[tuple[int, ...]] = []
    start = 0
    while len(order) - start > about + about // 2:
        low, high = start + about // 2, min(start + about + about // 2, len(order) - 1)
        cut = min(range(low, high), key=lambda at: (live[at], abs(at - start - about)))
        parts.append(tuple(order[start : cut + 1]))
        start = cut + 1
    parts.append(tuple(order[start:]))
    return parts


def _live_after(problem: ScheduleProblem, order: Sequence[int]) -> list[int]:
    """Bytes alive after each step when nothing is dropped."""
    change = [0] * (len(order) + 1)
    for t, start, end in stays_of(problem, order).spans:
        # A stay that ends at step + 1 is not alive after that step.
        change[start] += problem.tensors[t].size_bytes
        change[end - 1] -= problem.tensors[t].size_bytes
    live, now = [], 0
    for step in range(len(order)):
        now += change[step]
        live.append(now)
    return live


def divided(problem: ScheduleProblem, parts: Sequence[Sequence[int]]) -> ScheduleProblem:
    """The same problem in which no operator runs before one of an earlier part; listed part by part.

    Tensor indices stay; operator i of the result is the i-th of all parts in turn.
    """
    listed = [o for part in parts for o in part]
    new = {o: index for index, o in enumerate(listed)}
    before: dict[int, Sequence[int]] = {}
    for earlier, part in itertools.pairwise(parts):
        before |= dict.fromkeys(part, earlier)
    operators = []
    for o in listed:
        op = problem.operators[o]
        waits = {new[w] for w in (*op.after, *before.get(o, ()))}
        operators.append(replace(op, after=tuple(sorted(waits))))
    tensors = tuple(
        replace(
            tensor,
            producer=new[tensor.producer] if tensor.producer >= 0 else -1,
            consumers=tuple(sorted(new[c] for c in tensor.consumers)),
        )
        for tensor in problem.tensors
    )
    return ScheduleProblem(problem.name, tuple(operators), tensors, problem.weights, problem.views)


def improve_by_parts(run: SolverRun) -> None:
    """Better schedules, part by part; stops when a round over all sizes of parts brings nothing."""
    orders = [run.best[1].order] if run.best is not None else []
    orders += [order_named(run.problem, name) for name in ORDERS]
    tried: set[tuple[int, ...]] = set()
    for _ in range(_ROUNDS):
        before = run.cost
        for order in dict.fromkeys(orders):
            for about in _PART_OPERATORS:
                if run.budget.spent or run.proved:
                    return
                _try_parts(run, order, about, tried)
        if run.cost >= before or run.best is None:
            return
        orders = [run.best[1].order]


def _try_parts(run: SolverRun, order: Sequence[int], about: int, tried: set[tuple[int, ...]]) -> None:
    parts = cut_into_parts(run.problem, order, about)
    key = (about, *(o for part in parts for o in (-1, *sorted(part))))
    if key in tried:
        return
    tried.add(key)
    listed = [o for part in parts for o in part]
    search = LayerSearch(divided(run.problem, parts), run.capacity, run.budget)
    below = run.cost
    for width in _WIDTHS:
        answer = search.run(below, width)
        if answer.stays is not None and answer.cost is not None:
            below = answer.cost
            stays = Stays(tuple(listed[o] for o in answer.stays.order), answer.stays.spans)
            run.offer(stays, f"parts/{about}")
        if answer.complete or run.budget.spent:
            return


def raise_bound_by_parts(run: SolverRun) -> None:
    """A proven bound for the whole: what the parts must move, each solved alone over its own tensors."""
    instance = build_instance(run.problem)
    order = run.best[1].order if run.best is not None else tuple(range(len(run.problem.operators)))
    seconds = run.budget.seconds_left()
    until = None if seconds is None else run.budget.elapsed + _BOUND_SHARE * seconds
    for about in _BOUND_PARTS:
        total = 0
        for part in cut_into_parts(run.problem, order, about):
            if run.budget.spent or run.proved or (until is not None and run.budget.elapsed > until):
                break
            total += _part_bound(run, part_problem(run.problem, instance, part))
        run.raise_bound(total)


def _part_bound(run: SolverRun, problem: ScheduleProblem) -> int:
    if not problem.tensors:
        return 0
    search = LayerSearch(problem, run.capacity, run.budget)
    bound, below = 0, NO_LIMIT
    for width in _WIDTHS:
        answer = search.run(below, width)
        below = below if answer.cost is None else answer.cost
        bound = max(bound, min(answer.bound, below))
        if answer.complete:
            break
    return bound if bound < NO_LIMIT else 0


def part_problem(problem: ScheduleProblem, instance: Instance, part: Sequence[int]) -> ScheduleProblem:
    """The relaxation of one part: its operators, and the tensors that have most of their uses in it.

    Other tensors count only while an operator of the part runs. A tensor from outside starts off-chip. No
    schedule of the whole moves fewer bytes of these tensors than the best schedule of the part does.
    """
    listed = sorted(part)
    new = {o: index for index, o in enumerate(listed)}
    own: list[int] = []
    for t, tensor in enumerate(problem.tensors):
        uses = [o for o in (tensor.producer, *tensor.consumers) if o >= 0]
        inside = sum(o in new for o in uses)
        # Exactly one part may claim it: the one of more than half of the uses, else nobody.
        if inside >= 2 and 2 * inside > len(uses):
            own.append(t)
    index = {t: i for i, t in enumerate(own)}
    operators = []
    for o in listed:
        op = problem.operators[o]
        inputs = tuple(index[t] for t in op.inputs if t in index)
        outputs = tuple(index[t] for t in op.outputs if t in index)
        counted = sum(problem.tensors[own[i]].size_bytes for i in (*inputs, *outputs))
        pairs, apart = [], problem.apart_bytes[o]
        for pair in op.in_place:
            if all(t in index for t in (pair.output, *pair.inputs)):
                pairs.append(InPlace(index[pair.output], tuple(index[t] for t in pair.inputs)))
            else:
                # Taken as always written over an input that the part does not own.
                apart -= problem.tensors[pair.output].size_bytes
        after = tuple(
            new[w] for w in listed if w < o and instance.ancestors[o, w // WORD_BITS] >> (w % WORD_BITS) & 1
        )
        operators.append(ScheduleOperator(op.name, inputs, outputs, apart - counted, after, tuple(pairs)))
    tensors = []
    for t in own:
        tensor = problem.tensors[t]
        made = new.get(tensor.producer, -1)
        tensors.append(
            ScheduleTensor(
                tensor.name,
                tensor.size_bytes,
                made,
                tuple(new[c] for c in tensor.consumers if c in new),
                tensor.copy_free or made < 0,
            )
        )
    return ScheduleProblem(problem.name, tuple(operators), tuple(tensors))
