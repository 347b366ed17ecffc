"""The best pipeline schedule within a time limit, with what was proved.

Rules and known schedules first; where their best meets the bound it is optimal. Else an exact search for very small
cases and the mixed-integer programme for small ones. Every schedule passes a check that shares no code with its maker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from hw_configs.problems import InputError, NoAnswerError, PhysicsError, bad_input, nearest
from mapping.deadline import Budget
from mapping.solver import SolverOptions, Status
from mapping.training.schedule_search.by_mip import open_pairs, solve_by_mip
from mapping.training.schedule_search.by_search import solve_by_search
from mapping.training.schedule_search.improve import improved
from mapping.training.schedule_search.list_schedule import list_schedule, rules
from mapping.training.schedule_search.problem import PipelineProblem, fits, insist_on_room, makespan_bound
from mapping.training.schedules.action import PipelineSchedule
from mapping.training.schedules.check import violations
from mapping.training.schedules.run import ScheduleRun, run_schedule
from mapping.training.schedules.write import SCHEDULES, write_schedule

__all__ = ["ENGINES", "BestSchedule", "Engine", "best_schedule", "known_schedules"]

Engine = Literal["auto", "rules", "search", "mip"]
ENGINES: Final[tuple[Engine, ...]] = ("auto", "rules", "search", "mip")
MOST_PAIRS: Final = 1200
"""Open pairs up to which the programme is tried unasked; beyond, its relaxation says nothing within a minute."""
SEARCH_PASSES: Final = 100
"""Passes up to which the exact search is tried unasked."""
SEARCH_NODES: Final = 400_000
MOVES: Final = 2_000_000
"""Moves of the improvement of a small schedule, unless the time is over before."""
TIMED_PASSES: Final = 2_000_000_000
"""A large schedule gets fewer moves: so many passes are timed in all, which takes about half a minute."""
PROGRAMME_MEETS: Final = 3e-6
"""A schedule so near the programme's proven optimum is it."""
MEET: Final = 1e-9
"""Makespan and bound meet within this share."""


@dataclass(frozen=True, slots=True)
class BestSchedule:
    """A schedule with its run and proof. ``seconds``: what the solve took; ``bound_s``: no schedule is shorter."""

    schedule: PipelineSchedule
    run: ScheduleRun
    status: Status
    makespan_s: float
    bound_s: float
    engine: str
    nodes: int
    seconds: float
    seed: int = 0

    @property
    def gap(self) -> float:
        """The share of the makespan that is not proved."""
        return (self.makespan_s - self.bound_s) / self.makespan_s if self.makespan_s > 0 else 0.0


@dataclass(slots=True)
class _Best:
    """The best schedule so far."""

    problem: PipelineProblem
    schedule: PipelineSchedule | None = None
    makespan_s: float = float("inf")
    engine: str = "none"

    def offer(self, schedule: PipelineSchedule, engine: str) -> None:
        length = fits(self.problem, schedule)
        if length is not None and length < self.makespan_s * (1 - 1e-12):
            self.schedule, self.makespan_s, self.engine = schedule, length, engine


def best_schedule(
    problem: PipelineProblem,
    *,
    engine: Engine = "auto",
    time_limit_s: float | None = 60.0,
    max_nodes: int = SEARCH_NODES,
    moves: int | None = None,
    seed: int = 0,
) -> BestSchedule:
    """Solve. ``max_nodes`` bounds the exact search's states; ``moves`` is what the improvement may try.

    Raises ``InfeasibleError`` where no schedule keeps to the memory.
    """
    if engine not in ENGINES:
        raise bad_input(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}", path="--engine",
                        suggestion=nearest(engine, ENGINES))  # fmt: skip
    insist_on_room(problem)
    begun = time.perf_counter()
    best, bound, nodes = _Best(problem), makespan_bound(problem), 0
    budget = Budget(time_limit_s)
    with budget.running():
        for schedule in known_schedules(problem):
            best.offer(schedule, schedule.name)
        for rule in rules(problem):
            if budget.stop[0] or best.makespan_s <= bound * (1 + MEET):
                break
            best.offer(list_schedule(problem, rule), "rules")
        passes = 3 * len(problem.rank_of_stage) * problem.micro_batches
        moves = min(MOVES, TIMED_PASSES // passes) if moves is None else moves
        if best.schedule is not None and best.makespan_s > bound * (1 + MEET) and not budget.stop[0]:
            best.offer(improved(problem, best.schedule, bound, moves, seed, budget), "improved")
        if _wanted(engine, "search", passes <= SEARCH_PASSES) and best.makespan_s > bound * (1 + MEET):
            answer = solve_by_search(problem, best.makespan_s, budget, max_nodes)
            nodes += answer.nodes
            if answer.schedule is not None:
                best.offer(answer.schedule, "search")
            bound = max(bound, min(answer.bound_s, best.makespan_s))
        small = engine != "auto" or open_pairs(problem) <= MOST_PAIRS
        if _wanted(engine, "mip", small) and best.makespan_s > bound * (1 + MEET):
            bound = _programme(problem, best, bound, budget, seed)
    return _answer(problem, best, bound, nodes, time.perf_counter() - begun, seed)


def _wanted(asked: Engine, engine: Engine, small: bool) -> bool:
    return asked == engine or (asked == "auto" and small)


def known_schedules(problem: PipelineProblem) -> Iterator[PipelineSchedule]:
    """Published schedules of the same stages on the same ranks, with backwards as the problem has them."""
    ranks, stages = problem.ranks, len(problem.rank_of_stage)
    for name in SCHEDULES:
        kind = SCHEDULES.get(name)
        per_rank = kind.stages_per_rank if kind.fixed else stages // ranks
        if stages != ranks * per_rank:
            continue
        try:
            schedule = write_schedule(name, ranks, problem.micro_batches, per_rank)
        except InputError:
            continue
        same = schedule.rank_of_stage == problem.rank_of_stage and not schedule.vocabulary_barriers
        if same and (problem.split or not any(a.kind == "I" for order in schedule.orders for a in order)):
            yield schedule


def _programme(problem: PipelineProblem, best: _Best, bound: float, budget: Budget, seed: int) -> float:
    """Improves the best schedule by the programme; returns the bound."""
    options = SolverOptions(time_limit_s=budget.seconds_left(), seed=seed)
    report, schedule = solve_by_mip(problem, best.makespan_s, bound, options)
    if schedule is not None:
        best.offer(schedule, "mip")
    if report.bound is None:
        return bound
    if report.status == "optimal" and best.makespan_s <= report.bound * (1 + PROGRAMME_MEETS):
        # The programme's figures hold up to its tolerance, a schedule's are exact.
        return best.makespan_s
    return max(bound, min(report.bound, best.makespan_s))


def _answer(
    problem: PipelineProblem, best: _Best, bound: float, nodes: int, seconds: float, seed: int
) -> BestSchedule:
    if best.schedule is None:
        # Rules keep to any memory that holds one micro-batch, so that only the clock can have come before.
        raise NoAnswerError("no schedule was found within the limit")
    wrong = violations(best.schedule)
    if wrong:
        raise PhysicsError(f"a schedule of engine {best.engine} does not hold: {wrong[0]}")
    run = run_schedule(best.schedule, problem.times)
    proved = best.makespan_s <= bound * (1 + MEET)
    return BestSchedule(
        best.schedule, run, "optimal" if proved else "feasible", best.makespan_s, min(bound, best.makespan_s),
        best.engine, nodes, seconds, seed,
    )  # fmt: skip
