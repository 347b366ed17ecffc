"""A rank's order as it is written, pass by pass: the next micro-batch of each stage and kind, and weights owed."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from mapping.training.schedules.action import Action, Kind

__all__ = ["Passes"]


@dataclass(slots=True)
class Passes:
    """The order so far; ``owed``: weight halves of input halves that went before, oldest first; ``pairs``: places of
    passes that overlap with the one behind them.
    """

    order: list[Action] = field(default_factory=list)
    owed: deque[Action] = field(default_factory=deque)
    pairs: set[int] = field(default_factory=set)
    _counts: Counter[tuple[int, Kind]] = field(default_factory=Counter)

    def count(self, stage: int, kind: Kind) -> int:
        """Passes of that stage and kind so far."""
        return self._counts[stage, kind]

    def add(self, stage: int, kind: Kind) -> None:
        """The stage's next pass of that kind; a whole backward counts as both its halves."""
        halves: tuple[Kind, ...] = ("I", "W") if kind == "B" else (kind,)
        number = self._counts[stage, halves[0]]
        self.order.append(Action(stage, kind, number))
        for half in halves:
            self._counts[stage, half] += 1

    def add_pair(self, forward: int, backward: int) -> None:
        """The next forward pass of one stage beside the next backward pass of another."""
        self.pairs.add(len(self.order))
        self.add(forward, "F")
        self.add(backward, "B")

    def add_input_half(self, stage: int) -> None:
        """The stage's next input half, whose weight half is owed."""
        self.owed.append(Action(stage, "W", self._counts[stage, "I"]))
        self.add(stage, "I")

    def pay(self) -> None:
        """The oldest weight half that is owed, if there is one."""
        if self.owed:
            weight = self.owed.popleft()
            self.order.append(weight)
            self._counts[weight.stage, "W"] += 1
