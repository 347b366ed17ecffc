"""In which order a rank with several looped stages walks through its passes.

Micro-batches go in rounds of about as many as there are ranks: a round passes a rank's first stage, then its second,
and so on, before the next round begins (Megatron-LM, arXiv:2104.04473, section 2.2). PyTorch 2.13 lets a round be
longer than the ranks are many, so long as all rounds are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapping.training.schedules.action import Action, Kind
from mapping.training.schedules.kind import insist

__all__ = ["Rounds", "rounds_of"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """``length`` micro-batches a round, ``micro_batches`` in all, ``stages_per_rank`` stages on each of ``ranks``."""

    ranks: int
    micro_batches: int
    stages_per_rank: int
    length: int

    @property
    def passes(self) -> int:
        """Forward passes of a rank."""
        return self.micro_batches * self.stages_per_rank

    def warm_up(self, rank: int, per_hop: int) -> int:
        """Forwards before the first backward: all but one stage of a round, and ``per_hop`` a rank that follows."""
        ahead = (self.stages_per_rank - 1) * self.length + per_hop * (self.ranks - 1 - rank)
        return min(ahead, self.passes)

    def action(self, rank: int, kind: Kind, number: int) -> Action:
        """The ``number``-th pass of that kind; backward passes walk the stages from the last one."""
        turn, within = divmod(number, self.length)
        round_number, local = divmod(turn, self.stages_per_rank)
        if kind != "F":
            local = self.stages_per_rank - 1 - local
        return Action(local * self.ranks + rank, kind, round_number * self.length + within)


def rounds_of(name: str, ranks: int, micro_batches: int, stages_per_rank: int) -> Rounds:
    """Rounds of equal length; ``InputError`` where the micro-batches do not divide into them."""
    count = max(1, micro_batches // ranks)
    insist(
        micro_batches % count == 0, name,
        f"micro-batches in equal rounds of at least {ranks} (here {count} rounds)", f"{micro_batches} micro-batches",
    )  # fmt: skip
    return Rounds(ranks, micro_batches, stages_per_rank, micro_batches // count)
