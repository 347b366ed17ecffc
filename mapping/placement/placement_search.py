"""The search for a placement: programs solved, counts written in several orders, plans run, segments that wait swapped.

A bound is proved first (:func:`mapping.placement.column_program.bound_columns`). Then whole counts are solved for a few
depths of fetching ahead and shares of the time that resources may be busy; each is arranged in several orders, written,
checked and run. What ran best is improved by swaps as long as there is time.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.problems import InfeasibleError, NoAnswerError
from mapping.deadline import is_late
from mapping.placement.arrange import ORDERS, arranged, sequences_of
from mapping.placement.column_program import (
    Capacity,
    Program,
    Root,
    Solution,
    bound_columns,
    solve_columns,
)
from mapping.placement.columns import Column
from mapping.placement.placement_plan import write_placement
from mapping.placement.question import Question
from mapping.placement.trial import Trial, try_plan
from mapping.solver import SolverOptions
from simulator.plan import Plan, PlanNotes
from workloads.graph import Operator

__all__ = ["AHEADS", "GAP", "Best", "Considered", "bound_of", "gap_to", "search_placements"]

PROGRAM_SHARE: Final = 0.04
"""Of the time limit, what one integer program may take."""
TIDY_SHARE: Final = 0.02
"""Of the time limit, what the choice among equally fast counts may take."""
GAP: Final = 1e-3
"""A plan so near the bound is called optimal."""
NEAR: Final = 5e-3
"""The program stops this near its optimum; what a placement loses to hand-overs is more."""
AHEADS: Final = (6, 16, 2)
"""Depths of fetching that are tried where none is asked for."""
FILLED: Final = (1.0, 0.82, 0.65)
"""Shares of the time that resources may be busy in the placements that are tried; some rest makes up for bad timing."""
MOST_FAILS: Final = 60
"""Swaps in a row that do not help, after which no more are tried."""
SOLVE_SHARE: Final = 0.4
"""Of the time limit, when no more programs are solved."""
TRY_SHARE: Final = 0.75
"""Of the time limit, when swaps end."""
SWAPPED: Final = ", swapped"
KEPT_FREE: Final = 0.06
"""Share of a memory by which more is kept free each time."""
ROOMS: Final = 4
"""Times that a plan which did not fit is tried again with more room kept free."""


@dataclass(frozen=True, slots=True)
class Considered:
    """A plan that was tried: by whom, what it took, and why it cannot be; an empty obstacle when it can."""

    plan: str
    step_s: float
    obstacle: str


@dataclass
class Best:
    """The best plan so far, and everything that was tried."""

    objective: str
    plan: Plan | None = None
    trial: Trial = field(default_factory=lambda: Trial(float("inf"), float("inf")))
    name: str = ""
    arranging: Arranging | None = None
    """The columns of a plan that the program chose."""
    proved: bool = False
    """Whether every placement was tried or shown to be worse."""
    considered: list[Considered] = field(default_factory=list)

    def value(self, trial: Trial) -> float:
        """What is to be least."""
        return trial.joules if self.objective == "energy" else trial.seconds

    def take(self, name: str, plan: Plan, trial: Trial, arranging: Arranging | None) -> None:
        """Make a plan the best one."""
        self.plan, self.trial, self.name, self.arranging = plan, trial, name, arranging

    def offer(self, name: str, plan: Plan, trial: Trial, arranging: Arranging | None = None) -> bool:
        """Take a plan if it is better; True when it ran."""
        self.considered.append(Considered(name, trial.seconds, trial.obstacle))
        if trial.obstacle:
            return False
        if self.plan is None or self.value(trial) < self.value(self.trial) * (1 - 1e-9):
            self.take(name, plan, trial, arranging)
        return True


def search_placements(question: Question, best: Best) -> Root:
    """Bound, then solve for a few depths of fetching ahead and loads, write and try; the bound holds for all of them.

    More in flight hides fetches better and takes room from what could stay.
    """
    settings, start = question.settings, time.perf_counter()
    options = SolverOptions(time_limit_s=PROGRAM_SHARE * settings.limit, relative_gap=NEAR)
    root = bound_columns(question.program, question.capacity)
    near = [list(own) for own in root.near]
    # Of the bound, nothing is left out that a plan might do without: room for fetches, and for activations elsewhere.
    free = bound_columns(replace(question.program, ahead=0), replace(question.capacity, reserved={}))
    root = replace(root, bound=min(root.bound, free.bound))
    for filled in FILLED[1:]:
        with contextlib.suppress(InfeasibleError, NoAnswerError):
            other = bound_columns(question.program, replace(question.capacity, filled=filled))
            near = [sorted({*one, *two}) for one, two in zip(near, other.near, strict=True)]
    for ahead in (settings.ahead,) if settings.ahead else AHEADS:
        again = False
        for filled in FILLED:
            done = time.perf_counter() - start > settings.limit * SOLVE_SHARE and best.plan is not None
            if (
                done
                or is_late()
                or (best.plan is not None and gap_to(best, bound_of(question, root)) <= NEAR)
            ):
                break
            again |= _filled_so(question, ahead, filled, near, options, best)
            if not again:
                break
        if not again:
            break
    _improve(question, best, bound_of(question, root), start)
    return root


def _in_use(program: Program, solution: Solution) -> Iterator[Column]:
    for columns, own in zip(program.columns, solution.taken, strict=True):
        yield from (columns[index] for index in own)


def _filled_so(
    question: Question,
    ahead: int,
    filled: float,
    near: Sequence[Sequence[int]],
    options: SolverOptions,
    best: Best,
) -> bool:
    """Solve and try at a depth of fetching, with wires, ports and devices busy for a share of the time at most.

    With more room kept free as long as what was written does not fit. True where another depth may be better.
    """
    program = replace(question.program, ahead=ahead)
    for attempt in range(ROOMS):
        tighter = replace(_with_more_free(question.capacity, attempt), filled=filled)
        try:
            found = solve_columns(program, tighter, near, options)
            tidied = _tidy(program, tighter, found, near, options)
        except (InfeasibleError, NoAnswerError):
            return True
        if _try(question, tidied, ahead, filled, best) or is_late():
            return any(column.fetches for column in _in_use(question.program, tidied))
    return True


def _with_more_free(capacity: Capacity, attempt: int) -> Capacity:
    """Less to give away: what is live at once was underrated, or segments do not pack into alike memories."""
    usable, reserved = capacity.usable, capacity.reserved
    wider = {m: reserved.get(m, 0.0) * 1.5**attempt + KEPT_FREE * attempt * usable[m] for m in usable}
    return replace(capacity, reserved=wider)


def _try(question: Question, solution: Solution, ahead: int, filled: float, best: Best) -> bool:
    """Write counts as plans in several orders and run them; whether one ran."""
    ran = False
    for order in ORDERS:
        sequences = sequences_of(solution.taken, question.program.columns, order)
        arranging = Arranging(sequences, ahead, solution.seconds, solution.bottleneck)
        plan, trial = arranging.run(question)
        name = f"co-place, {order}, {ahead} ahead" + (f", {filled:.0%} full" if filled < 1 else "")
        ran |= best.offer(name, plan, trial, arranging)
    return ran


@dataclass(frozen=True)
class Arranging:
    """Columns of the members of each class in turn, the depth of fetching, and what the program predicts."""

    sequences: Sequence[Sequence[int]]
    ahead: int
    predicted_s: float
    bottleneck: str

    def run(self, question: Question) -> tuple[Plan, Trial]:
        """Write it as a plan and run that."""
        placement = arranged(
            question.graph, question.machine, question.classes, question.program.columns, self.sequences,
            self.ahead, question.settings.hand_over,
        )  # fmt: skip
        plan = write_placement(question.graph, question.machine.system, placement, "co-place", PlanNotes())
        return plan, try_plan(question.graph, question.machine, plan)

    def swapped(self, which: int, one: int, other: int) -> Arranging:
        """Two members of a class with each other's columns."""
        sequence = list(self.sequences[which])
        sequence[one], sequence[other] = sequence[other], sequence[one]
        changed = [sequence if place == which else own for place, own in enumerate(self.sequences)]
        return replace(self, sequences=changed)


def _improve(question: Question, best: Best, bound: float, start: float) -> None:
    """Swap columns of segments that wait with those of others, as long as there is time and it helps."""
    draw = random.Random(0)
    fails, tried = 0, 0
    while fails < MOST_FAILS and best.arranging is not None and gap_to(best, bound) > NEAR:
        if is_late() or time.perf_counter() - start > question.settings.limit * TRY_SHARE:
            break
        swap = _swap(question, best.arranging, best.trial, draw)
        if swap is None:
            break
        plan, trial = swap.run(question)
        tried += 1
        better = not trial.obstacle and best.value(trial) < best.value(best.trial) * (1 - 1e-6)
        fails = 0 if better else fails + 1
        if better:
            best.take(f"{best.name.removesuffix(SWAPPED)}{SWAPPED}", plan, trial, swap)
    if tried:
        best.considered.append(Considered(f"co-place, {tried} swaps tried", best.trial.seconds, ""))


def _swap(question: Question, now: Arranging, trial: Trial, draw: random.Random) -> Arranging | None:
    """A segment that takes longer than its column says, or any one in four times, changes places with another."""
    able = [place for place, own in enumerate(now.sequences) if len(set(own)) > 1]
    if not able:
        return None
    which = draw.choices(able, [len(now.sequences[place]) for place in able])[0]
    own, columns = now.sequences[which], question.program.columns[which]
    waits = [
        max(0.0, _took(segment.operators, trial) - columns[index].seconds)
        for segment, index in zip(question.classes[which].members, own, strict=True)
    ]
    even = draw.random() < 0.25 or not any(waits)
    one = draw.choices(range(len(own)), None if even else waits)[0]
    others = [place for place in range(len(own)) if own[place] != own[one]]
    return now.swapped(which, one, draw.choice(others))


def _took(operators: Iterable[Operator], trial: Trial) -> float:
    """From the end of a segment's first operator to that of its last."""
    ends = [trial.ends[op.name] for op in operators if op.name in trial.ends]
    return max(ends) - min(ends) if ends else 0.0


def _tidy(
    program: Program,
    capacity: Capacity,
    found: Solution,
    near: Sequence[Sequence[int]],
    options: SolverOptions,
) -> Solution:
    """Counts as good as those found that move and load least; many are equally fast."""
    within = replace(program, latency_s=found.solved_s * (1 + NEAR), tidy=True)
    limit = (options.time_limit_s or 2.0) * TIDY_SHARE / PROGRAM_SHARE
    try:
        tidied = solve_columns(
            within, capacity, near, replace(options, time_limit_s=limit, relative_gap=0.02)
        )
    except (InfeasibleError, NoAnswerError):
        return found
    return replace(tidied, bottleneck=tidied.bottleneck or found.bottleneck)


def gap_to(best: Best, bound: float) -> float:
    """The share by which a plan is above a bound."""
    value = best.value(best.trial)
    return max(0.0, (value - bound) / value) if value > 0 else 0.0


def bound_of(question: Question, root: Root) -> float:
    """What no placement beats, in seconds or joules."""
    scale = 1e-3 if question.program.objective == "time" else 1.0
    return max(0.0, root.bound * scale)
