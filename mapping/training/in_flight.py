"""What a rank of a pipeline holds at its fullest, action by action of its order: the estimate's side of a schedule.

Each forward pass leaves what its layers keep until the backward pass gives it up; gradients that are reduced once a
step are there from a stage's first backward pass to its last; where buffers of messages live for the whole step
(:mod:`mapping.training.stage_messages`) outputs, inputs' gradients and logits add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mapping.training.schedules.action import Action
from mapping.training.schedules.write import SCHEDULES, write_schedule
from mapping.training.setup import TrainingSetup

__all__ = ["Fullest", "RankBytes", "fullest"]


@dataclass(frozen=True, slots=True)
class RankBytes:
    """Bytes of a rank's share of the model: kept of one micro-batch by its layers and by the head, its gradients where
    they come and go; a message between stages, and the last stage's output, where they stay.
    """

    kept: int
    head: int = 0
    gradients: int = 0
    message: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Fullest:
    """Bytes at the fullest moment: kept of micro-batches other than that at work, gradients, buffers of messages."""

    others: int = 0
    gradients: int = 0
    messages: int = 0


@lru_cache(maxsize=256)
def _order(name: str, ranks: int, micro_batches: int, stages: int | None, rank: int) -> tuple[Action, ...]:
    return tuple(write_schedule(name, ranks, micro_batches, stages).orders[rank])


def fullest(setup: TrainingSetup, rank: int, own: RankBytes) -> Fullest:
    """A rank's fullest moment; ``InputError`` for a schedule that is unknown or cannot take the counts."""
    if setup.pipeline == 1:
        return Fullest(gradients=own.gradients)
    usual = SCHEDULES.get(setup.schedule).fixed or setup.stages_per_rank == 1
    order = _order(
        setup.schedule, setup.pipeline, setup.micro_batches, None if usual else setup.stages_per_rank, rank
    )
    last = {action.stage: place for place, action in enumerate(order) if action.kind in ("B", "W")}
    share = len(last)
    top = setup.pipeline * share - 1
    flight, outputs, begun, best = 0.0, 0, set[int](), Fullest(-own.kept)
    head = 0
    for place, action in enumerate(order):
        first, final = action.stage == 0, action.stage == top
        if action.kind == "F":
            flight += 1 / share
            head += final
            outputs += own.output if final else own.message
        elif action.kind in ("B", "I", "W"):
            fresh = action.kind != "I" and action.stage not in begun
            # Of the micro-batch at work the requests of one pass over all of the rank's layers are counted elsewhere.
            others, heads = max(flight - 1, 0.0) * own.kept, max(head - 1, 0) * own.head
            now = Fullest(round(others) + heads, round(len(begun) / share * own.gradients), outputs)
            best = max(best, now, key=_sum)
            if fresh:
                # Gradients come as what the pass reads goes.
                begun.add(action.stage)
                gone = round(others - own.kept / share) + heads
                best = max(best, Fullest(gone, round(len(begun) / share * own.gradients), outputs), key=_sum)
            if action.kind in ("B", "W"):
                flight -= 1 / share
                head -= final
                outputs -= 0 if final else own.message
                begun -= {action.stage} if last[action.stage] == place else set()
            if action.kind in ("B", "I"):
                outputs += 0 if first else own.message
    return best


def _sum(found: Fullest) -> int:
    return found.others + found.gradients + found.messages
