"""Where the time of a step went, class by class: what its compute stream did, and what it waited for.

Whenever a class computes nothing, what let its next computation start says why: traffic of the class, or traffic that
brought it something, is exposed for as long as it ran in that gap; the wait for another class's computation is bubble.
So a class's forward, backward, recomputation, optimizer, exposed traffic and bubble add up to the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from simulator.training.program import COMPUTE_KINDS, TaskKind
from simulator.training.run import StepRun

__all__ = ["ClassAccount", "accounts"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PARTS = len(TaskKind) + 1
"""Kinds of tasks, and the bubble."""


@dataclass(frozen=True, slots=True)
class ClassAccount:
    """One class's step: seconds of computation, exposed traffic by kind, and bubble, which add up to the step."""

    name: str
    ranks: int
    seconds: Mapping[str, float]
    bubble_s: float
    peak_bytes: int

    @property
    def compute_s(self) -> float:
        """Seconds of computation."""
        return sum(self.seconds[kind.name.lower()] for kind in COMPUTE_KINDS)


@compiled
def _waits(
    order: Ints, start: Floats, end: Floats, cause: Ints, task_class: Ints, kind: Ints, given: Floats
) -> None:
    """Add up the gaps between one class's computations, in order, to ``given``, the last of which is the bubble."""
    free = 0.0
    for i in range(len(order)):
        task = order[i]
        high = start[task]
        current = cause[task]
        while high > free and current >= 0 and kind[current] > 3:
            low = max(start[current], free)
            if high > low:
                given[kind[current]] += high - low
                high = low
            following = cause[current]
            if following >= 0 and kind[following] <= 3 and task_class[following] == task_class[task]:
                break
            current = following
        if high > free:
            given[len(given) - 1] += high - free
        free = max(free, end[task])


def accounts(run: StepRun) -> tuple[ClassAccount, ...]:
    """One account per class."""
    program = run.program
    task_class, kind = program.task_class(), program.tasks.kind
    computing = np.flatnonzero(kind < len(COMPUTE_KINDS))
    found = []
    for number, name in enumerate(program.class_names):
        own = computing[task_class[computing] == number]
        own = own[np.argsort(run.start[own], kind="stable")]
        given = np.zeros(PARTS)
        _waits(own, run.start, run.end, run.cause, task_class, kind, given)
        spent = run.end[own] - run.start[own]
        given[: len(COMPUTE_KINDS)] = np.bincount(kind[own], spent, minlength=len(COMPUTE_KINDS))
        last = float(run.end[own].max(initial=0.0))
        tail = run.makespan_s - last
        seconds = {part.name.lower(): float(given[part]) for part in TaskKind}
        _after_the_last(run, number, task_class, last, seconds)
        exposed = sum(seconds.values()) - float(given[:-1].sum())
        found.append(
            ClassAccount(
                name, program.class_ranks[number], seconds, float(given[-1]) + tail - exposed,
                int(run.peak_bytes[number]),
            )
        )  # fmt: skip
    return tuple(found)


def _after_the_last(
    run: StepRun, number: int, task_class: Ints, last: float, seconds: dict[str, float]
) -> None:
    """Traffic of a class beyond its last computation is exposed too; the longest one counts."""
    tasks = run.program.tasks
    late = np.flatnonzero((task_class == number) & (run.end > last) & (tasks.kind >= len(COMPUTE_KINDS)))
    free = last
    for task in late[np.argsort(run.start[late], kind="stable")].tolist():
        begin = max(float(run.start[task]), free)
        if run.end[task] > begin:
            seconds[TaskKind(int(tasks.kind[task])).name.lower()] += float(run.end[task]) - begin
            free = float(run.end[task])
