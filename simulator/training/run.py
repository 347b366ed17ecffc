"""Runs a program and keeps what came out: when each task ran, and the bytes of each class over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import InputError, PhysicsError, Problem
from simulator.training.events import run_kernel
from simulator.training.physics import check_run
from simulator.training.program import StepProgram, TaskKind

__all__ = ["StepRun", "run_program"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StepRun:
    """A program that has been run.

    ``start`` and ``end`` are seconds of every task, ``cause`` the task whose end let it start (-1: nothing did).
    ``peak_bytes`` is the most that one device of each class held at once.
    """

    program: StepProgram
    start: Floats
    end: Floats
    cause: Ints
    peak_bytes: Ints

    @property
    def makespan_s(self) -> float:
        """Seconds of the step."""
        return float(self.end.max(initial=0.0))

    def busy_seconds(self) -> Floats:
        """Seconds during which tasks of each kind ran, by class and kind."""
        program = self.program
        found = np.zeros((len(program.class_names), len(TaskKind)))
        np.add.at(found, (program.task_class(), program.tasks.kind), self.end - self.start)
        return found

    def carried_bytes(self) -> dict[str, float]:
        """Bytes that crossed links, by name, over all devices."""
        tasks, found = self.program.tasks, dict[str, float]()
        counted = tasks.bytes * (tasks.route >= 0)
        met = tasks.meeting >= 0
        if met.any():
            # The bytes of a meeting are stated once per member.
            members = np.bincount(tasks.meeting[met])
            counted = counted / np.where(met, members[np.where(met, tasks.meeting, 0)], 1)
        if not self.program.links:
            return found
        routes = np.bincount(np.maximum(tasks.route, 0), counted, minlength=len(self.program.links))
        for moved, links in zip(routes.tolist(), self.program.links, strict=True):
            for name, weight in links.items():
                found[name] = found.get(name, 0.0) + moved * weight
        return found

    def memory_over_time(self, rank_class: int) -> tuple[Floats, Ints]:
        """Moments at which a class's bytes change, and its bytes after each."""
        program = self.program
        own = np.flatnonzero(program.task_class() == rank_class)
        times = np.concatenate([self.end[own], self.start[own]])
        change = np.concatenate([program.tasks.give[own], program.tasks.take[own]])
        # What ends at a moment does so before anything starts at it.
        order = np.argsort(times, kind="stable")
        used = np.cumsum(change[order]) + program.classes.held[rank_class]
        moments, first = np.unique(times[order], return_index=True)
        last = np.append(first[1:], len(times)) - 1
        return moments, used[last].astype(np.int64)


def run_program(program: StepProgram) -> StepRun:
    """Run a program event by event.

    Raises ``InputError`` when tasks wait for each other for ever (orders of a plan that do not fit together), and
    ``PhysicsError`` when a class does not end with the bytes it began with, or the run breaks another bound.
    """
    outcome = run_kernel(program)
    stuck = np.flatnonzero(np.isnan(outcome.end))
    if len(stuck):
        raise InputError([Problem(_stalled(program, stuck))])
    wrong = np.flatnonzero(outcome.left != program.classes.held)
    if len(wrong):
        name, number = program.class_names[wrong[0]], int(wrong[0])
        raise PhysicsError(
            f"{name} ends with {outcome.left[number] - program.classes.held[number]} bytes more"
        )
    check_run(program, outcome.start, outcome.end)
    return StepRun(program, outcome.start, outcome.end, outcome.cause, outcome.peak)


def _stalled(program: StepProgram, stuck: Ints) -> str:
    """Who waits for ever: the first stuck task of each stream, some of them."""
    tasks = program.tasks
    _, first = np.unique(tasks.stream[stuck], return_index=True)
    shown = []
    for task in stuck[np.sort(first)][:3].tolist():
        stream = int(tasks.stream[task])
        name = program.labels[tasks.label[task]]
        number = int(tasks.micro_batch[task])
        of = f" of micro-batch {number}" if number >= 0 else ""
        rank_class = program.class_names[program.streams.rank_class[stream]]
        shown.append(f"{name!r}{of} on {rank_class} ({program.stream_names[stream]})")
    return f"the step never ends: {len(stuck)} tasks wait for each other, first {', '.join(shown)}"
