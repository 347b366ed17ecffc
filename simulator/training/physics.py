"""Bounds that no step can break, held against every run: a breach is a defect of Offchip and names the task or stream.

No task is shorter than it takes alone, no stream does two things at once, nothing starts before what it waits for has
ended, the tasks of a meeting start and end together, and no resource carries more than its capacity allows in the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import PhysicsError
from simulator.training.program import COMPUTE_KINDS, StepProgram

__all__ = ["check_run"]

Floats = NDArray[np.float64]
_ROUNDING = 1e-9


def check_run(program: StepProgram, start: Floats, end: Floats) -> None:
    """Raise ``PhysicsError`` with the first bound that a finished run breaks."""
    tasks, makespan = program.tasks, float(end.max(initial=0.0))
    slack = _ROUNDING * max(makespan, 1e-12)
    if not len(program):
        return
    short = np.flatnonzero(end - start < tasks.seconds - slack)
    if len(short):
        raise PhysicsError(f"{_name(program, int(short[0]))} is shorter than when it is alone")
    order = program.streams.to
    same = tasks.stream[order][1:] == tasks.stream[order][:-1]
    twice = np.flatnonzero(same & (start[order][1:] < end[order][:-1] - slack))
    if len(twice):
        raise PhysicsError(
            f"{_name(program, int(order[twice[0] + 1]))} starts before the task in front of it ends"
        )
    before = np.repeat(np.arange(len(program)), np.diff(program.successors.start))
    early = np.flatnonzero(start[program.successors.to] < end[before] - slack)
    if len(early):
        raise PhysicsError(
            f"{_name(program, int(program.successors.to[early[0]]))} starts before what it waits for ends"
        )
    met = np.repeat(np.arange(len(program.members.start) - 1), np.diff(program.members.start))
    first = program.members.to[program.members.start[:-1][met]] if len(met) else np.zeros(0, np.int64)
    apart = np.flatnonzero(
        (start[program.members.to] != start[first]) | (end[program.members.to] != end[first])
    )
    if len(apart):
        raise PhysicsError(
            f"{_name(program, int(program.members.to[apart[0]]))} does not meet the others of its group"
        )
    _resources(program, makespan)


def _resources(program: StepProgram, makespan: float) -> None:
    tasks, routes = program.tasks, program.routes
    if not len(routes.capacity):
        return
    lead = np.ones(len(program), bool)
    lead[program.members.to] = False
    lead[program.members.to[program.members.start[:-1][np.diff(program.members.start) > 0]]] = True
    moves = lead & (tasks.route >= 0) & (tasks.kind >= len(COMPUTE_KINDS))
    moved = np.bincount(tasks.route[moves], tasks.bytes[moves], minlength=len(routes.start) - 1)
    route = np.repeat(np.arange(len(routes.start) - 1), np.diff(routes.start))
    carried = np.bincount(routes.resource, routes.weight * moved[route], minlength=len(routes.capacity))
    full = np.flatnonzero(carried > routes.capacity * makespan * (1 + 1e-6))
    if len(full):
        over = carried[full[0]] / (routes.capacity[full[0]] * makespan)
        raise PhysicsError(
            f"a wire of {routes.capacity[full[0]]:.4g} bytes per second carries {over:.3f} of what it can"
        )


def _name(program: StepProgram, task: int) -> str:
    stream = int(program.tasks.stream[task])
    where = program.class_names[int(program.streams.rank_class[stream])]
    return f"{program.labels[int(program.tasks.label[task])]!r} on {where} ({program.stream_names[stream]})"
