"""Runs the layered search on one problem and capacity: arrays prepared once, answers as stays.

A :class:`LayerSearch` is asked for a schedule cheaper than a given cost. Its answer is a schedule or none, and
what was missed: a proven bound on every schedule that it did not look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.deadline import Budget
from mapping.scheduling.by_layer import COST_SCALE, NO_LIMIT, Limits, Question, search_by_layer
from mapping.scheduling.down_sets import DownSets, build_down_sets, no_down_sets
from mapping.scheduling.instance import WORD_BITS, Instance, build_instance, build_pressure
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.stays import Stays, stays_of

__all__ = ["COST_SCALE", "NO_LIMIT", "LayerSearch", "SearchAnswer", "scaled"]

_DOWN_SETS: Final = 400_000
_LAYER_BYTES: Final = 1 << 30
"""A layer's states may take so much memory."""


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """``cost`` (scaled) and ``stays`` of the best schedule found, None without one.

    ``bound``: no schedule costs less than this (scaled), or than the limit that was asked for.
    """

    cost: int | None
    stays: Stays | None
    bound: int
    states: int

    @property
    def complete(self) -> bool:
        """Whether nothing was cut that could have been cheaper than what was asked for or found."""
        return self.bound >= NO_LIMIT


def scaled(moved: int, transfers: int) -> int:
    """One number for bytes, then transfers."""
    return moved * COST_SCALE + transfers


class LayerSearch:
    """The search for one problem and one capacity."""

    def __init__(
        self,
        problem: ScheduleProblem,
        capacity: int,
        budget: Budget,
        instance: Instance | None = None,
        down_sets: DownSets | None = None,
    ) -> None:
        self.problem = problem
        self.capacity = capacity
        self.instance = instance if instance is not None else build_instance(problem)
        self._pressure = build_pressure(self.instance, capacity)
        self.down_sets = down_sets if down_sets is not None else no_down_sets(self.instance)
        self._budget = budget

    @property
    def widest(self) -> int:
        """The most states that a layer may keep."""
        inst = self.instance
        held = max((len(inst.size) + WORD_BITS - 1) // WORD_BITS, 1)
        row = 8 * (inst.before.shape[1] + 3 * held + 8)
        return int(max(_LAYER_BYTES // (8 * row), 64))

    def look_ahead(self, limit: int = _DOWN_SETS) -> bool:
        """Prepare the table of down-sets, which sharpens the bound; False when there are too many."""
        if len(self.down_sets) == 0:
            self.down_sets = build_down_sets(self.instance, limit, self._budget.stop)
        return len(self.down_sets) > 0

    def run(
        self, below: int, width: int, *, max_states: int = 1 << 40, rank: NDArray[np.int64] | None = None
    ) -> SearchAnswer:
        """The cheapest schedule below a scaled cost that a search of this width finds."""
        inst = self.instance
        if rank is None:
            rank = np.arange(inst.operators)
        width = min(width, self.widest)
        limits = Limits(self.capacity, inst.unit, below, width, True, max_states, 8 * self.widest)
        question = Question(inst.tables, self._pressure, self.down_sets.tables, limits, rank)
        cost, order, drops, missed, states, _ = self._budget.call(
            search_by_layer, question, self._budget.stop, long=True
        )
        self._budget.nodes += int(states)
        reach = min(below, int(cost)) if cost >= 0 else below
        bound = int(missed) if missed < reach else NO_LIMIT
        if cost < 0:
            return SearchAnswer(None, None, bound, int(states))
        return SearchAnswer(int(cost), self._stays(order, drops), bound, int(states))

    def _stays(self, order: NDArray[np.int64], drops: NDArray[np.int64]) -> Stays:
        dropped: dict[int, list[int]] = {}
        for step, row in enumerate(drops.tolist()):
            inputs = self.problem.operators[int(order[step])].inputs
            for word, bits in enumerate(row):
                for bit in range(WORD_BITS):
                    if bits >> bit & 1:
                        t = int(self.instance.tracked[word * WORD_BITS + bit])
                        # An input is dropped with its operator, which writes over it, not before.
                        dropped.setdefault(step + (t in inputs), []).append(t)
        return stays_of(self.problem, [int(o) for o in order], dropped)
