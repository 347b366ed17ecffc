"""What a pipeline schedule is: on which rank each stage lies, and every rank's actions in order.

An action is one pass of one stage over one micro-batch. ``F`` is the forward pass; ``B`` the whole backward pass, or
its two halves apart: ``I`` for the gradient of the stage's input, which the stage before waits for, and ``W`` for those
of its weights, which nobody waits for (Zero Bubble Pipeline Parallelism, arXiv:2401.10241).

Where every rank holds a share of the output layer, ``S`` is the pass of a rank's share from the last stage's output to
its logits, and ``T`` the one to its gradients (Vocabulary Parallelism, arXiv:2411.05288); their ``stage`` is the rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

__all__ = ["KINDS", "Action", "Kind", "Orders", "PipelineSchedule", "looped", "v_shaped"]

Kind = Literal["F", "B", "I", "W", "S", "T"]
KINDS: Final[tuple[Kind, ...]] = ("F", "B", "I", "W", "S", "T")


class Action(NamedTuple):
    """One pass of ``stage`` over ``micro_batch``; of S and T, ``stage`` is the rank whose share it is."""

    stage: int
    kind: Kind
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"


Orders = tuple[tuple[Action, ...], ...]
"""Every rank's actions in turn."""


@dataclass(frozen=True, slots=True)
class PipelineSchedule:
    """A schedule written out.

    ``rank_of_stage`` says where each stage lies; ``orders`` has one tuple of actions per rank. A model replicated
    within one schedule (Chimera, DualPipe) has its stages twice: stage ``s`` of replica ``r`` is
    ``r * stages + s``, and ``replicas`` says how many there are; a micro-batch goes through one of them.

    ``vocabulary_barriers``: 0 where the last stage holds the output layer. Else every rank has S and T of every
    micro-batch, S waits for the last stage's F, T for all S, and the last stage's B or I for all T (2 barriers,
    Algorithm 1) or for all S (1 barrier, Algorithm 2).

    ``pairs``: of each rank the places of actions that overlap with the one behind them, a forward and a backward pass
    whose exchanges pass beside each other's computation (DualPipe); empty where there are none.
    """

    name: str
    micro_batches: int
    rank_of_stage: tuple[int, ...]
    orders: Orders
    replicas: int = 1
    vocabulary_barriers: int = 0
    pairs: tuple[frozenset[int], ...] = ()

    @property
    def ranks(self) -> int:
        """Devices of the pipeline."""
        return len(self.orders)

    @property
    def stages(self) -> int:
        """Stages of one replica."""
        return len(self.rank_of_stage) // self.replicas

    def groups(self, rank: int) -> Iterator[tuple[Action, ...]]:
        """A rank's actions in turn, those that overlap together."""
        order, joined = self.orders[rank], self.pairs[rank] if self.pairs else frozenset()
        place = 0
        while place < len(order):
            count = 2 if place in joined else 1
            yield order[place : place + count]
            place += count

    def text(self) -> str:
        """One line per rank: ``R: `` and its actions."""
        return "\n".join(f"{rank}: {' '.join(map(str, order))}" for rank, order in enumerate(self.orders))


def looped(ranks: int, stages_per_rank: int) -> tuple[int, ...]:
    """Stage ``s`` on rank ``s`` mod ``ranks``."""
    return tuple(stage % ranks for stage in range(ranks * stages_per_rank))


def v_shaped(ranks: int) -> tuple[int, ...]:
    """Two stages a rank: down the ranks and up again, so that the first rank holds the last stage."""
    return (*range(ranks), *reversed(range(ranks)))
