"""Which activations of a chain to keep and which to make again, in the least time below a memory limit.

A chain is a sequence of stages (layers), each with the time of its forward and backward pass, the bytes of its
output, and the bytes of everything its backward pass needs of its forward pass (its own input apart). The schedule
is the optimal one among those that keep what they once stored until the backward pass has used it (Beaumont et
al., Optimal checkpointing for heterogeneous chains, arXiv:1911.13214): with m bytes for stages s..t, whose input
is stored, either

* the first stage runs and keeps everything it needs later; then the rest with what memory is left; or
* stages s..k-1 run and keep nothing but the last output; then stages k..t, then stages s..k-1 once more.

Bytes are counted in steps of a granule, rounded up, so that a schedule never needs more than it says. Gradients
that flow from stage to stage and workspace are the caller's to leave out of the limit. The classic case of equal
stages is that of Griewank and Walther's binomial checkpointing (ACM TOMS 26(1), 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from hw_configs.problems import InfeasibleError, bad_input

__all__ = ["ChainStage", "Rematerialization", "Step", "best_schedule", "replay_schedule"]

MEMORY_STEPS: Final = 512
"""Granules that the limit is cut into."""

MOST_STAGES: Final = 400

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChainStage:
    """A stage: seconds of its passes, bytes of its output, and of all that its backward pass needs.

    ``saved_bytes`` counts what the forward pass made, the output included and the stage's input not.
    """

    forward_s: float
    backward_s: float
    output_bytes: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """One action on a stage.

    ``drop`` runs it and keeps its output at most, ``save`` runs it and keeps all that its backward pass needs,
    ``backward`` runs that pass and frees it.
    """

    action: Literal["drop", "save", "backward"]
    stage: int


@dataclass(frozen=True)
class Rematerialization:
    """A schedule, its seconds, those of one forward and one backward pass of each stage, and its peak bytes."""

    steps: tuple[Step, ...]
    seconds: float
    least_s: float
    peak_bytes: int

    @property
    def forward_runs(self) -> int:
        """How many stages were run forward, repetitions included."""
        return sum(1 for step in self.steps if step.action != "backward")


def best_schedule(stages: Sequence[ChainStage], limit_bytes: int) -> Rematerialization:
    """The fastest schedule of a chain whose stored bytes stay at or below a limit.

    The chain's input is stored outside the limit. Raises ``InfeasibleError`` when not even one stage at a time
    fits, ``InputError`` for an empty chain or figures out of range.
    """
    _check(stages, limit_bytes)
    granule = max(1, -(-limit_bytes // MEMORY_STEPS))
    room = limit_bytes // granule
    forward = np.array([stage.forward_s for stage in stages])
    backward = np.array([stage.backward_s for stage in stages])
    output = np.array([-(-stage.output_bytes // granule) for stage in stages], np.int64)
    saved = np.array([-(-stage.saved_bytes // granule) for stage in stages], np.int64)
    seconds, choice = _table(forward, backward, output, saved, room)
    last = len(stages) - 1
    if not np.isfinite(seconds[0, last, room]):
        least = next((m for m in range(room, 64 * MEMORY_STEPS) if _fits_alone(output, saved, m)), None)
        need = "" if least is None else f"; about {least * granule} bytes would do"
        raise InfeasibleError(f"no schedule of {len(stages)} stages fits {limit_bytes} bytes{need}")
    steps: list[Step] = []
    _unfold(choice, output, saved, 0, last, room, steps)
    peak, total = replay_schedule(stages, steps)
    return Rematerialization(tuple(steps), total, float(forward.sum() + backward.sum()), peak)


def replay_schedule(stages: Sequence[ChainStage], steps: Sequence[Step]) -> tuple[int, float]:
    """Peak bytes and seconds of a schedule, by doing what it says; raises ``ValueError`` where it cannot be done.

    An output that a ``drop`` leaves is freed when the next stage has run, unless a later step of the schedule
    runs that next stage again or needs it for a backward pass.
    """
    outputs: set[int] = {-1}
    saved: set[int] = set()
    peak, seconds = 0, 0.0
    for index, step in enumerate(steps):
        stage = step.stage
        if step.action == "backward":
            if stage not in saved or not (stage - 1 in outputs or stage - 1 in saved):
                raise ValueError(f"step {index}: the backward pass of stage {stage} lacks what it needs")
            peak = max(peak, _held(stages, outputs, saved))
            saved.discard(stage)
            seconds += stages[stage].backward_s
        else:
            if not (stage - 1 in outputs or stage - 1 in saved):
                raise ValueError(f"step {index}: stage {stage} runs without its input")
            (saved if step.action == "save" else outputs).add(stage)
            seconds += stages[stage].forward_s
            peak = max(peak, _held(stages, outputs, saved))
        for kept in [number for number in outputs if number >= 0 and not _wanted(steps, index, number)]:
            outputs.discard(kept)
    return peak, seconds


def _held(stages: Sequence[ChainStage], outputs: set[int], saved: set[int]) -> int:
    own = sum(stages[number].output_bytes for number in outputs if number >= 0 and number not in saved)
    return own + sum(stages[number].saved_bytes for number in saved)


def _wanted(steps: Sequence[Step], index: int, number: int) -> bool:
    """Whether a later step reads a stored output before some step makes it anew."""
    for step in steps[index + 1 :]:
        if step.stage == number + 1:
            return True
        if step.stage == number and step.action != "backward":
            return False
    return False


def _check(stages: Sequence[ChainStage], limit_bytes: int) -> None:
    if not 1 <= len(stages) <= MOST_STAGES:
        raise bad_input(f"found {len(stages)} stages; expected 1 to {MOST_STAGES}")
    if limit_bytes < 0:
        raise bad_input(f"found a limit of {limit_bytes} bytes; expected at least 0")
    for number, stage in enumerate(stages):
        if min(stage.forward_s, stage.backward_s, stage.output_bytes) < 0:
            raise bad_input(f"stage {number}: times and sizes must be at least 0")
        if stage.saved_bytes < stage.output_bytes:
            raise bad_input(f"stage {number}: what is saved includes the output, so it cannot be smaller")


def _fits_alone(output: Ints, saved: Ints, room: int) -> bool:
    """Whether the least memory any schedule needs is there: every stage from the chain's input, one at a time."""
    for stage in range(len(saved)):
        before = int(output[stage - 1]) if stage else 0
        if before + int(saved[stage]) > room:
            return False
        if stage > 1 and int(output[stage - 2]) + int(output[stage - 1]) > room:
            return False
    return True


@compiled
def _table(
    forward: Floats, backward: Floats, output: Ints, saved: Ints, room: int
) -> tuple[NDArray[np.float64], Ints]:
    """Least seconds for stages s..t in m granules, and what to do first: -1 save, else the stage to run on to.

    The table's memory m is what is left for the stages, their input stored outside it.
    """
    count = len(forward)
    seconds = np.full((count, count, room + 1), np.inf)
    choice = np.full((count, count, room + 1), -2, np.int64)
    for s in range(count):
        for m in range(saved[s], room + 1):
            seconds[s, s, m] = forward[s] + backward[s]
            choice[s, s, m] = -1
    for length in range(1, count):
        for s in range(count - length):
            t = s + length
            for m in range(room + 1):
                best, what = np.inf, -2
                if m >= saved[s]:
                    value = forward[s] + seconds[s + 1, t, m - saved[s]] + backward[s]
                    if value < best:
                        best, what = value, -1
                run = 0.0
                widest = 0
                for k in range(s + 1, t + 1):
                    # Stages s..k-1 run; two outputs are there at a time, the first stage's input being outside.
                    run += forward[k - 1]
                    both = output[k - 1] + (output[k - 2] if k - 1 > s else 0)
                    widest = max(widest, both)
                    if widest > m:
                        break
                    left = m - output[k - 1]
                    if left < 0:
                        continue
                    value = run + seconds[k, t, left] + seconds[s, k - 1, m]
                    if value < best:
                        best, what = value, k
                seconds[s, t, m] = best
                choice[s, t, m] = what
    return seconds, choice


def _unfold(
    choice: Ints, output: Ints, saved: Ints, s: int, t: int, m: int,
    steps: list[Step],
) -> None:  # fmt: skip
    """Write the steps of the best schedule for stages s..t in m granules."""
    what = int(choice[s, t, m])
    if what == -1:
        steps.append(Step("save", s))
        if t > s:
            _unfold(choice, output, saved, s + 1, t, m - int(saved[s]), steps)
        steps.append(Step("backward", s))
        return
    steps += [Step("drop", stage) for stage in range(s, what)]
    _unfold(choice, output, saved, what, t, m - int(output[what - 1]), steps)
    _unfold(choice, output, saved, s, what - 1, m, steps)
