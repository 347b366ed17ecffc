"""The best schedule by exhaustive search with bounds: which kind a rank does next, rank by rank.

A state says how far every stage is and when its results are there. The rank that is free first commits to its next
pass, even to one whose input is not there yet; passes are timed as their inputs come. States of the same counts are
compared: one that is nowhere earlier than another is dropped. The answer is proved when no state is left whose bound is
under the best schedule. For small cases, and as a check of the programme that shares no code with it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np

from mapping.deadline import Budget
from mapping.training.schedule_search.problem import PipelineProblem, makespan_bound
from mapping.training.schedules.action import Action, Kind, PipelineSchedule

__all__ = ["SearchAnswer", "solve_by_search"]

_LOOK_EVERY: Final = 256
_KINDS: Final = 3


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The best orders found (None: none under the given horizon), the proven bound, and how many states it took."""

    schedule: PipelineSchedule | None
    bound_s: float
    proved: bool
    nodes: int


@dataclass(frozen=True, slots=True)
class _State:
    """Counts of passes (kind by stage), clocks and held bytes by rank, and who waits.

    ``ends``: per gradient-and-forward row (2 x stages), the end of each pass that somebody still needs, oldest first;
    ``pending``: the pass that a rank has committed to and that cannot begin yet, or -1.
    """

    counts: tuple[int, ...]
    clock: tuple[float, ...]
    held: tuple[float, ...]
    pending: tuple[int, ...]
    ends: tuple[tuple[float, ...], ...]


class _Search:
    def __init__(self, problem: PipelineProblem) -> None:
        self.problem = problem
        self.stages, self.m, self.ranks = len(problem.rank_of_stage), problem.micro_batches, problem.ranks
        self.layout = problem.rank_of_stage
        self.gradient: Kind = "I" if problem.split else "B"
        weight = problem.seconds("W") if problem.split else np.zeros(self.stages)
        self.seconds = [
            problem.seconds("F").tolist(),
            problem.seconds(self.gradient).tolist(),
            weight.tolist(),
        ]
        self.down = [0.0, *(problem.transfer(s - 1, s) for s in range(1, self.stages))]
        self.up = [*(problem.transfer(s + 1, s) for s in range(self.stages - 1)), 0.0]
        share = problem.times.freed_by_input if problem.split else 1.0
        held = problem.held()
        self.change = [held.tolist(), (-share * held).tolist(), ((share - 1) * held).tolist()]
        self.mine = [[s for s in range(self.stages) if self.layout[s] == r] for r in range(self.ranks)]
        tail = [0.0]
        for s in range(1, self.stages):
            tail.append(tail[-1] + self.seconds[1][s - 1] + self.up[s - 1])
        self.tail = tail

    def count(self, state: _State, kind: int, stage: int) -> int:
        return state.counts[kind * self.stages + stage]

    def start(self) -> _State:
        none = tuple(() for _ in range(2 * self.stages))
        return _State(
            (0,) * (_KINDS * self.stages), (0.0,) * self.ranks, (0.0,) * self.ranks, (-1,) * self.ranks, none
        )

    def done(self, state: _State) -> bool:
        last = 2 if self.problem.split else 1
        return all(self.count(state, last, s) == self.m for s in range(self.stages))

    def bound(self, state: _State) -> float:
        """Each rank's work that is left, and what follows its last gradient."""
        most = 0.0
        for rank in range(self.ranks):
            left, chain, after = 0.0, 0.0, float("inf")
            for s in self.mine[rank]:
                f, g, w = (self.m - self.count(state, kind, s) for kind in range(_KINDS))
                chain += f * self.seconds[0][s] + g * self.seconds[1][s]
                left += w * self.seconds[2][s] if self.problem.split else 0.0
                if g:
                    after = min(after, self.tail[s])
            clock = state.clock[rank]
            most = max(most, clock + chain + left)
            if after < float("inf"):
                most = max(most, clock + chain + after + self.seconds[2][0])
        return most

    def options(self, state: _State, rank: int) -> list[int]:
        """Passes the rank may commit to, as kind x stages + stage."""
        found = []
        for s in self.mine[rank]:
            f, g, w = (self.count(state, kind, s) for kind in range(_KINDS))
            if f < self.m and state.held[rank] + self.change[0][s] <= self.problem.room:
                found.append(s)
            if g < f:
                found.append(self.stages + s)
            if self.problem.split and w < g:
                found.append(2 * self.stages + s)
        return found

    def commit(self, state: _State, rank: int, option: int) -> _State:
        """The state after the commitment and all that can then be timed."""
        counts, clock, held = list(state.counts), list(state.clock), list(state.held)
        pending, ends = list(state.pending), list(state.ends)
        pending[rank] = option
        again = True
        while again:
            again = False
            for r in range(self.ranks):
                if pending[r] < 0:
                    continue
                kind, s = divmod(pending[r], self.stages)
                came = self._came(ends, kind, s)
                if came is None:
                    continue
                clock[r] = max(clock[r], came) + self.seconds[kind][s]
                held[r] += self.change[kind][s]
                counts[pending[r]] += 1
                self._consume(ends, kind, s)
                if (kind == 0 and s + 1 < self.stages) or (kind == 1 and s > 0):
                    row = kind * self.stages + s
                    ends[row] = (*ends[row], clock[r])
                pending[r] = -1
                again = True
        return _State(tuple(counts), tuple(clock), tuple(held), tuple(pending), tuple(ends))

    def _came(self, ends: list[tuple[float, ...]], kind: int, s: int) -> float | None:
        """When the pass's input is there; its own stage's results are, since the rank made them."""
        if kind == 0 and s > 0:
            row = ends[s - 1]
            return row[0] + self.down[s] if row else None
        if kind == 1 and s + 1 < self.stages:
            row = ends[self.stages + s + 1]
            return row[0] + self.up[s] if row else None
        return 0.0

    def _consume(self, ends: list[tuple[float, ...]], kind: int, s: int) -> None:
        if kind == 0 and s > 0:
            ends[s - 1] = ends[s - 1][1:]
        elif kind == 1 and s + 1 < self.stages:
            ends[self.stages + s + 1] = ends[self.stages + s + 1][1:]


def solve_by_search(
    problem: PipelineProblem, horizon_s: float, budget: Budget, max_nodes: int
) -> SearchAnswer:
    """Schedules shorter than ``horizon_s``; stops at the budget's end or after ``max_nodes`` states."""
    search = _Search(problem)
    floor = makespan_bound(problem)
    root = search.start()
    best, best_path = horizon_s, None
    # Deepest of the most promising first: bound, then fewest passes left.
    queue: list[tuple[float, int, int, _State, tuple[tuple[int, int], ...]]] = [(floor, 0, 0, root, ())]
    kept: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[float, ...]]] = {}
    nodes = 0
    close = 1 - 1e-12
    while queue:
        bound, _, _, state, path = heapq.heappop(queue)
        if bound >= best * close:
            break
        if nodes >= max_nodes or (nodes % _LOOK_EVERY == 0 and budget.stop[0]):
            return SearchAnswer(_written(search, best_path), max(bound, floor), False, nodes)
        free = [r for r in range(search.ranks) if state.pending[r] < 0 and search.options(state, r)]
        if not free:
            continue
        rank = min(free, key=lambda r: (state.clock[r], r))
        for option in search.options(state, rank):
            after = search.commit(state, rank, option)
            nodes += 1
            through = max(search.bound(after), bound)
            if through >= best * close or _known(kept, after):
                continue
            steps = (*path, (rank, option))
            if search.done(after):
                best, best_path = max(after.clock), steps
                continue
            heapq.heappush(queue, (through, -len(steps), nodes, after, steps))
    return SearchAnswer(_written(search, best_path), best, True, nodes)


def _known(
    kept: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[float, ...]]], state: _State
) -> bool:
    """Whether a state of the same counts is nowhere later; else the state is kept and those it beats are not."""
    times = (*state.clock, *(end for row in state.ends for end in row))
    others = kept.setdefault((state.counts, state.pending), [])
    if any(all(a <= b for a, b in zip(other, times, strict=True)) for other in others):
        return True
    others[:] = [o for o in others if not all(b <= a for a, b in zip(o, times, strict=True))]
    others.append(times)
    return False


def _written(search: _Search, path: tuple[tuple[int, int], ...] | None) -> PipelineSchedule | None:
    if path is None:
        return None
    kinds: tuple[Kind, ...] = ("F", search.gradient, "W")
    counts: dict[int, int] = {}
    orders: list[list[Action]] = [[] for _ in range(search.ranks)]
    for rank, option in path:
        kind, stage = divmod(option, search.stages)
        number = counts.get(option, 0)
        counts[option] = number + 1
        orders[rank].append(Action(stage, kinds[kind], number))
    problem = search.problem
    return PipelineSchedule(
        "optimal", problem.micro_batches, problem.rank_of_stage, tuple(map(tuple, orders))
    )
