"""What a pipeline schedule is: on which rank each stage lies, and every rank's actions in order.

An action is one pass of one stage over one micro-batch. ``F`` is the forward pass; ``B`` the whole backward pass, or
its two halves apart: ``I`` for the gradient of the stage's input, which the stage before waits for, and ``W`` for those
of its weights, which nobody waits for (Zero Bubble Pipeline Parallelism, arXiv:2401.10241).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

__all__ = ["KINDS", "Action", "PipelineSchedule"]

Kind = Literal["F", "B", "I", "W"]
KINDS: Final[tuple[Kind, ...]] = ("F", "B", "I", "W")


class Action(NamedTuple):
    """One pass of ``stage`` over ``micro_batch``."""

    stage: int
    kind: Kind
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"


@dataclass(frozen=True, slots=True)
class PipelineSchedule:
    """A schedule written out.

    ``rank_of_stage`` says where each stage lies; ``orders`` has one tuple of actions per rank. A model replicated
    within one schedule (Chimera, DualPipe) has its stages twice: stage ``s`` of replica ``r`` is
    ``r * stages + s``, and ``replicas`` says how many there are.
    """

    name: str
    micro_batches: int
    rank_of_stage: tuple[int, ...]
    orders: tuple[tuple[Action, ...], ...]
    replicas: int = 1

    @property
    def ranks(self) -> int:
        """Devices of the pipeline."""
        return len(self.orders)

    @property
    def stages(self) -> int:
        """Stages of one replica."""
        return len(self.rank_of_stage) // self.replicas

    def text(self) -> str:
        """One line per rank: ``R: `` and its actions."""
        return "\n".join(f"{rank}: {' '.join(map(str, order))}" for rank, order in enumerate(self.orders))
