"""What is asked: stages on ranks, what their passes take and hold, how much a rank may hold.

Micro-batches are alike, so there is always a best schedule in which each stage takes them in order: at any stage the
k-th pass of a kind may be called micro-batch k. What is left to decide is how the kinds of a rank's stages mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import InfeasibleError, bad_input
from mapping.training.schedules.action import Kind, PipelineSchedule
from mapping.training.schedules.run import StageTimes, run_schedule

__all__ = [
    "PassClass",
    "PipelineProblem",
    "fits",
    "insist_on_room",
    "least_bytes",
    "makespan_bound",
    "pass_classes",
]

SLACK = 1e-9
"""Share of the memory by which rounding may exceed it."""


@dataclass(frozen=True, slots=True)
class PipelineProblem:
    """Find the orders with the least makespan.

    ``split``: whether a backward's halves may stand apart (I and W) or not (B). ``memory_bytes``: the most that a
    rank may hold of ``times.activation_bytes``; None for no limit. Output layers are not shared.
    """

    rank_of_stage: tuple[int, ...]
    micro_batches: int
    times: StageTimes
    split: bool = True
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        if self.micro_batches < 1 or not self.rank_of_stage:
            raise bad_input("expected at least one stage and one micro-batch", path="pipeline")
        if self.memory_bytes is not None and not self.memory_bytes > 0:
            raise bad_input(f"found {self.memory_bytes:g}; expected above zero", path="--memory")

    @property
    def ranks(self) -> int:
        """Devices."""
        return max(self.rank_of_stage) + 1

    @property
    def room(self) -> float:
        """The memory limit with the slack of rounding; infinite without one."""
        return np.inf if self.memory_bytes is None else self.memory_bytes * (1 + SLACK)

    def seconds(self, kind: Kind) -> NDArray[np.float64]:
        """Seconds of a kind by stage."""
        times, stages = self.times, len(self.rank_of_stage)
        if kind == "B" and times.backward_s is None:
            return self.seconds("I") + self.seconds("W")
        figure = {"F": times.forward_s, "I": times.input_s, "W": times.weight_s, "B": times.backward_s}[kind]
        return np.broadcast_to(np.asarray(figure, np.float64), (stages,)).copy()

    def held(self) -> NDArray[np.float64]:
        """Bytes that a forward leaves, by stage."""
        return np.broadcast_to(
            np.asarray(self.times.activation_bytes, np.float64), (len(self.rank_of_stage),)
        ).copy()

    def transfer(self, a: int, b: int) -> float:
        """Seconds from stage ``a`` to stage ``b``."""
        source, target = self.rank_of_stage[a], self.rank_of_stage[b]
        given = np.asarray(self.times.communication_s, np.float64)
        if given.ndim == 0:
            return 0.0 if source == target else float(given)
        return float(given[source, target])


@dataclass(frozen=True, slots=True)
class PassClass:
    """All passes of one kind of a stage: seconds of one, change of held bytes, and the classes it waits for.

    ``waits_for``: pairs of a class's number and the seconds of the transfer from it.
    """

    stage: int
    kind: Kind
    rank: int
    seconds: float
    change_bytes: float
    waits_for: tuple[tuple[int, float], ...]


def pass_classes(problem: PipelineProblem) -> tuple[PassClass, ...]:
    """Every stage's kinds, so that a class stands behind those it waits for."""
    stages = range(len(problem.rank_of_stage))
    held, share = problem.held(), problem.times.freed_by_input
    back: tuple[Kind, ...] = ("I", "W") if problem.split else ("B",)
    seconds = {kind: problem.seconds(kind) for kind in ("F", *back)}
    classes: list[PassClass] = []
    number: dict[tuple[int, Kind], int] = {}

    def add(stage: int, kind: Kind, change: float, waits: Sequence[tuple[tuple[int, Kind], float]]) -> None:
        number[stage, kind] = len(classes)
        classes.append(
            PassClass(
                stage, kind, problem.rank_of_stage[stage], float(seconds[kind][stage]), change,
                tuple((number[name], lag) for name, lag in waits),
            )
        )  # fmt: skip

    for s in stages:
        add(s, "F", held[s], [((s - 1, "F"), problem.transfer(s - 1, s))] if s else [])
    gradient = back[0]
    for s in reversed(stages):
        waits: list[tuple[tuple[int, Kind], float]] = [((s, "F"), 0.0)]
        if s + 1 < len(stages):
            waits.append(((s + 1, gradient), problem.transfer(s + 1, s)))
        add(s, gradient, -held[s] * (share if problem.split else 1.0), waits)
    if problem.split:
        for s in stages:
            add(s, "W", -held[s] * (1.0 - share), [((s, "I"), 0.0)])
    return tuple(classes)


def least_bytes(problem: PipelineProblem) -> NDArray[np.float64]:
    """What each rank has to hold at least: one micro-batch at all its stages at once."""
    need = np.zeros(problem.ranks)
    np.add.at(need, np.array(problem.rank_of_stage), problem.held())
    return need


def insist_on_room(problem: PipelineProblem) -> None:
    """``InfeasibleError`` where a rank cannot hold one micro-batch at all its stages, which every schedule needs."""
    need = least_bytes(problem)
    worst = int(need.argmax())
    if need[worst] > problem.room:
        raise InfeasibleError(
            f"infeasible (proved): rank {worst} holds one micro-batch at all its stages when the last of them is "
            f"forward, {need[worst]:g}; the limit is {problem.memory_bytes:g}"
        )


def makespan_bound(problem: PipelineProblem) -> float:
    """No schedule is shorter: a rank's work, after the earliest and before the latest that can surround it."""
    forward = problem.seconds("F")
    gradient = problem.seconds("I" if problem.split else "B")
    weight = problem.seconds("W") if problem.split else np.zeros(len(forward))
    stages, m = len(forward), problem.micro_batches
    # Until a stage's first forward, and from its last gradient's end to the end of stage 0's.
    head, tail = np.zeros(stages), np.zeros(stages)
    for s in range(1, stages):
        head[s] = head[s - 1] + forward[s - 1] + problem.transfer(s - 1, s)
        tail[s] = tail[s - 1] + gradient[s - 1] + problem.transfer(s, s - 1)
    bound = head[-1] + forward[-1] + gradient[-1] + tail[-1] + weight[0]
    rank_of = np.array(problem.rank_of_stage)
    for rank in range(problem.ranks):
        mine = rank_of == rank
        if not mine.any():
            continue
        chain = m * float((forward + gradient)[mine].sum())
        all_work = chain + m * float(weight[mine].sum())
        first, last = float(head[mine].min()), float(tail[mine].min())
        after = last + weight[0] if not mine[0] else weight[0]
        bound = max(bound, first + all_work + (0.0 if problem.split else last), first + chain + after)
    return float(bound)


def fits(problem: PipelineProblem, schedule: PipelineSchedule) -> float | None:
    """The schedule's makespan, or None where a rank holds too much."""
    run = run_schedule(schedule, problem.times)
    return run.makespan_s if float(run.peak_bytes.max()) <= problem.room else None
