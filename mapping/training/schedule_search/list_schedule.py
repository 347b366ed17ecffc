"""Schedules built pass by pass, from rules of what a free rank does next; many rules are tried.

In the manner of the automatic schedules of Zero Bubble Pipeline Parallelism (arXiv:2401.10241, section 3.1): a rank
prefers input gradients, then forwards up to a count and to its memory, and fills gaps with weight gradients. A rank
always keeps room for the oldest micro-batch at its later stages, so that no rule runs into a standstill.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.training.schedule_search.problem import PipelineProblem
from mapping.training.schedules.action import Action, Kind, PipelineSchedule

__all__ = ["ListRule", "list_schedule", "rules"]


@dataclass(frozen=True, slots=True)
class ListRule:
    """How a free rank chooses.

    ``ahead``: forwards that a rank may be ahead of its backwards, for each rank from it to the end (and one more);
    ``patience``: a weight gradient is begun if the next other pass comes later than this share of its time;
    ``owed``: weight gradients go first once so many are owed; ``deepest_first``: of several forwards, the one of the
    later stage.
    """

    ahead: float
    patience: float
    owed: int
    deepest_first: bool = True


class _Stages(NamedTuple):
    """The problem for the kernel: rank, seconds (F, gradient, W), transfers and bytes by stage, and counts."""

    layout: NDArray[np.int64]
    micro_batches: int
    seconds: NDArray[np.float64]
    transfer: NDArray[np.float64]
    held: NDArray[np.float64]
    share: float
    room: float
    split: bool


class _Choice(NamedTuple):
    """The rule for the kernel; ``ahead`` by rank."""

    ahead: NDArray[np.float64]
    patience: float
    owed: int
    deepest_first: bool


def rules(problem: PipelineProblem) -> Iterator[ListRule]:
    """The rules worth trying, the most promising first."""
    many = problem.micro_batches * len(problem.rank_of_stage)
    for ahead in (1.0, 2.0, 1.5, 1.25, 3.0, 0.75, 0.5, float(many)):
        for patience in (1.0, 0.5, 0.0) if problem.split else (1.0,):
            for owed in (many, 1, 2) if problem.split else (many,):
                yield ListRule(ahead, patience, owed)
    if len(problem.rank_of_stage) > problem.ranks:
        for ahead in (1.0, 2.0, 1.5):
            yield ListRule(ahead, 1.0, many, deepest_first=False)


def list_schedule(problem: PipelineProblem, rule: ListRule) -> PipelineSchedule:
    """The schedule that the rule gives; it keeps to the memory limit."""
    stages, m = len(problem.rank_of_stage), problem.micro_batches
    layout = np.array(problem.rank_of_stage, np.int64)
    transfer = np.zeros((2, stages))
    for s in range(1, stages):
        transfer[0, s] = problem.transfer(s - 1, s)
        transfer[1, s - 1] = problem.transfer(s, s - 1)
    gradient: Kind = "I" if problem.split else "B"
    seconds = np.stack(
        [
            problem.seconds("F"),
            problem.seconds(gradient),
            problem.seconds("W") if problem.split else np.zeros(stages),
        ]
    )
    per_rank = np.bincount(layout, minlength=problem.ranks).max()
    ahead = np.array(
        [max(1.0, per_rank * (1 + rule.ahead * (problem.ranks - 1 - r))) for r in range(problem.ranks)]
    )
    share = problem.times.freed_by_input if problem.split else 1.0
    passes = (3 if problem.split else 2) * stages * m
    chosen = np.empty((passes, 2), np.int64)
    _choose(
        _Stages(layout, m, seconds, transfer, problem.held(), share, problem.room, problem.split),
        _Choice(ahead, rule.patience, rule.owed, rule.deepest_first),
        chosen,
    )
    return _written(problem, chosen, gradient)


def _written(problem: PipelineProblem, chosen: NDArray[np.int64], gradient: Kind) -> PipelineSchedule:
    kinds: tuple[Kind, ...] = ("F", gradient, "W")
    counts: dict[tuple[int, int], int] = {}
    orders: list[list[Action]] = [[] for _ in range(problem.ranks)]
    for stage, kind in chosen.tolist():
        number = counts.get((stage, kind), 0)
        counts[stage, kind] = number + 1
        orders[problem.rank_of_stage[stage]].append(Action(stage, kinds[kind], number))
    return PipelineSchedule(
        "list schedule", problem.micro_batches, problem.rank_of_stage, tuple(map(tuple, orders))
    )


@compiled
def _choose(stages_of: Any, choice: Any, chosen: Any) -> Any:
    """Fills ``chosen`` with stage and kind of every pass in the order in which they begin."""
    layout, m, held = stages_of.layout, stages_of.micro_batches, stages_of.held
    seconds, transfer = stages_of.seconds, stages_of.transfer
    share, room, split = stages_of.share, stages_of.room, stages_of.split
    ahead, patience = choice.ahead, choice.patience
    owed, deepest_first = choice.owed, choice.deepest_first
    stages = len(layout)
    ranks = len(ahead)
    count = np.zeros((3, stages), np.int64)
    # When the k-th F, and gradient, of a stage is done.
    ends = np.full((2, stages, m), np.inf)
    clock = np.zeros(ranks)
    size = np.zeros(ranks)
    finished = np.zeros(ranks, np.bool_)
    for step in range(len(chosen)):
        # Of all ranks, the one whose next pass can begin first.
        best_begin, best_stage, best_kind = np.inf, -1, -1
        for rank in range(ranks):
            if finished[rank]:
                continue
            forward_begin, forward_stage = np.inf, -1
            input_begin, input_stage = np.inf, -1
            weight_stage, weights = -1, 0
            oldest, running = m, 0
            for s in range(stages):
                if layout[s] == rank:
                    oldest = min(oldest, count[0, s])
                    running += count[0, s] - count[1, s]
            reserve = 0.0
            for s in range(stages):
                if layout[s] == rank and count[0, s] == oldest:
                    reserve += held[s]
            blocked = False
            for s in range(stages):
                if layout[s] != rank:
                    continue
                k = count[0, s]
                if k < m:
                    came = 0.0 if s == 0 else ends[0, s - 1, k] + transfer[0, s]
                    need = held[s] if k == oldest else held[s] + reserve
                    if came < np.inf and size[rank] + need > room:
                        blocked = True
                    elif came < np.inf and (k == oldest or running < ahead[rank]):
                        begin = max(came, clock[rank])
                        if begin < forward_begin or (begin == forward_begin and deepest_first):
                            forward_begin, forward_stage = begin, s
                k = count[1, s]
                if k < count[0, s]:
                    came = ends[0, s, k]
                    if s + 1 < stages:
                        came = max(came, ends[1, s + 1, k] + transfer[1, s])
                    begin = max(came, clock[rank])
                    if begin < input_begin or (begin == input_begin and came < np.inf):
                        input_begin, input_stage = begin, s
                if split and count[2, s] < count[1, s]:
                    weights += count[1, s] - count[2, s]
                    if weight_stage < 0 or count[2, s] < count[2, weight_stage]:
                        weight_stage = s
            begin, stage, kind = input_begin, input_stage, 1
            if forward_begin < input_begin:
                begin, stage, kind = forward_begin, forward_stage, 0
            if weight_stage >= 0:
                long = patience * seconds[2, weight_stage]
                if weights >= owed or blocked or begin >= clock[rank] + max(long, 1e-300):
                    begin, stage, kind = clock[rank], weight_stage, 2
            if begin < best_begin:
                best_begin, best_stage, best_kind = begin, stage, kind
        s, kind = best_stage, best_kind
        rank = layout[s]
        end = best_begin + seconds[kind, s]
        clock[rank] = end
        if kind < 2:
            ends[kind, s, count[kind, s]] = end
        if kind == 0:
            size[rank] += held[s]
        elif kind == 1:
            size[rank] -= share * held[s]
        else:
            size[rank] -= (1.0 - share) * held[s]
        count[kind, s] += 1
        chosen[step, 0], chosen[step, 1] = s, kind
        done = True
        for t in range(stages):
            if layout[t] == rank and count[2 if split else 1, t] < m:
                done = False
        finished[rank] = done
    return 0
