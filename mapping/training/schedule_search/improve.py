"""A schedule made better by moving one pass at a time to another place of its rank's order.

Simulated annealing over orders: a move is timed by running the whole schedule; one that breaks the memory or comes to a
standstill is taken back. The same seed gives the same moves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np

from hw_configs.compiled import compiled
from mapping.deadline import Budget
from mapping.training.schedule_search.problem import PipelineProblem
from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.run import orders_of, pack, run_orders, tables_of

__all__ = ["improved"]

REACH: Final = 12
"""A pass moves by at most so many places at once."""
TEMPERATURES: Final = (0.004, 0.001, 0.0)
"""Shares of the makespan by which a worse schedule may be taken, in turn."""
PASSES_A_BATCH: Final = 4_000_000
"""Passes timed between two looks at the clock: some tens of milliseconds."""


def improved(
    problem: PipelineProblem,
    schedule: PipelineSchedule,
    floor_s: float,
    moves: int,
    seed: int,
    budget: Budget,
) -> PipelineSchedule:
    """The best schedule met in ``moves`` moves from ``schedule``, which keeps to the memory."""
    packed = pack(schedule)
    tables = tables_of(schedule, problem.times)
    count = len(packed.stage)
    stage, kind, micro_batch = packed.stage.copy(), packed.kind.copy(), packed.micro_batch.copy()
    orders_here = orders_of(packed)._replace(stage=stage, kind=kind, micro_batch=micro_batch)
    best = np.stack([stage, kind, micro_batch])
    batch = max(1, PASSES_A_BATCH // max(count, 1))
    state = np.array([np.inf, np.inf])
    done = 0
    for temperature in TEMPERATURES:
        left = moves // len(TEMPERATURES)
        while left > 0 and not budget.stop[0] and state[1] > floor_s * (1 + 1e-9):
            now = min(left, batch)
            _anneal(orders_here, tables, problem.room, temperature, now, seed + done, state, best)
            left -= now
            done += now
        stage[:], kind[:], micro_batch[:] = best
        state[0] = state[1]
    numbers = zip(*(row.tolist() for row in best), strict=True)
    flat = [packed.action_of(*triple) for triple in numbers]
    bounds = packed.begins.tolist()
    orders = tuple(tuple(flat[a:b]) for a, b in pairwise(bounds))
    return PipelineSchedule("improved", schedule.micro_batches, schedule.rank_of_stage, orders)


@compiled
def _rank_peak(begin: Any, end: Any, stage: Any, kind: Any, held: Any, share: Any) -> Any:
    """Most bytes that a rank holds, or infinity where a pass stands before one of its own stage that it needs."""
    size, most = 0.0, 0.0
    for place in range(begin, end):
        s, k = stage[place], kind[place]
        if k == 0:
            size += held[s]
        most = max(most, size)
        if k == 1:
            size -= held[s]
        elif k == 2:
            size -= share * held[s]
        elif k == 3:
            size -= (1.0 - share) * held[s]
    return most


@compiled
def _shift(column: Any, source: Any, target: Any) -> Any:
    """Takes the entry at ``source`` out and puts it at ``target``; what lies between moves by one."""
    value = column[source]
    step = 1 if target > source else -1
    place = source
    while place != target:
        column[place] = column[place + step]
        place += step
    column[target] = value


@compiled
def _anneal(
    orders: Any, tables: Any, room: Any, temperature: Any, moves: Any, seed: Any, state: Any, best: Any
) -> Any:  # fmt: skip
    """``state``: makespans of the schedule at hand and of the best one, which stands in ``best``."""
    np.random.seed(seed)
    begins, stage, kind, micro_batch = orders.begins, orders.stage, orders.kind, orders.micro_batch
    held, share = tables.held, tables.freed_by_input
    count = len(stage)
    ranks = len(begins) - 1
    start, end = np.empty(count), np.empty(count)
    at = np.empty(ranks, np.int64)
    for _ in range(moves):
        source = np.random.randint(0, count)
        rank = 0
        while begins[rank + 1] <= source:
            rank += 1
        target = source + np.random.randint(-REACH, REACH + 1)
        target = min(max(target, begins[rank]), begins[rank + 1] - 1)
        if target == source and state[0] < np.inf:
            continue
        # A move over a pass of the same stage and kind changes names alone.
        crossed = False
        low, high = min(source, target), max(source, target)
        for place in range(low, high + 1):
            if place != source and stage[place] == stage[source] and kind[place] == kind[source]:
                crossed = True
        if crossed:
            continue
        _shift(stage, source, target)
        _shift(kind, source, target)
        _shift(micro_batch, source, target)
        length = np.inf
        if _rank_peak(begins[rank], begins[rank + 1], stage, kind, held, share) <= room:
            for r in range(ranks):
                at[r] = begins[r]
            done = run_orders(orders, tables, start, end, at)
            if done == count:
                length = end.max()
        allowed = state[0]
        if temperature > 0 and state[0] < np.inf:
            allowed -= temperature * state[0] * np.log(np.random.random() + 1e-300)
        if length <= allowed:
            state[0] = length
            if length < state[1] * (1 - 1e-12):
                state[1] = length
                for place in range(count):
                    best[0, place], best[1, place] = stage[place], kind[place]
                    best[2, place] = micro_batch[place]
        else:
            _shift(stage, target, source)
            _shift(kind, target, source)
            _shift(micro_batch, target, source)
    return 0
