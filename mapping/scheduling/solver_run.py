"""One solve on the way: what every method of scheduling improves, and the bound it proves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mapping.deadline import Budget
from mapping.scheduling.problem import ScheduleProblem
from mapping.scheduling.search import COST_SCALE, scaled
from mapping.scheduling.stays import Stays, find_addresses

__all__ = ["SolverRun"]


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


@dataclass
class SolverRun:
    """One solve on the way: the best addressed schedule, the best plan by bytes, and the proven bound (scaled)."""

    problem: ScheduleProblem
    capacity: int
    budget: Budget
    seed: int
    best: tuple[int, Stays, Sequence[int]] | None = None
    engine: str = "none"
    bound: int = 0
    ties_proven: bool = False
    tried: set[tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]]] = field(default_factory=set)

    @contextlib.contextmanager
    def share_of_time(self, share: float) -> Iterator[None]:
        """Within the block the run has this share of the seconds that are left; without a clock, all of its budget."""
        whole = self.budget
        left = whole.seconds_left()
        if left is None:
            yield
            return
        self.budget = Budget(share * max(left, 0.0), whole.max_nodes, nodes=whole.nodes)
        try:
            with self.budget.running():
                yield
        finally:
            whole.nodes, self.budget = self.budget.nodes, whole

    @property
    def cost(self) -> int:
        """Scaled cost of the best addressed schedule."""
        return self.best[0] if self.best is not None else 1 << 62

    @property
    def proved(self) -> bool:
        """Whether the bytes are proved least."""
        return self.best is not None and self.best[0] // COST_SCALE <= self.bound // COST_SCALE

    def offer(
        self, stays: Stays, engine: str, offsets: Sequence[int] | None = None, seconds: float | None = None
    ) -> bool:
        """Take a plan if it is cheaper and addresses fit; True when it is (or was) addressed.

        The look for addresses takes ``seconds`` at most, or what is left of the solve.
        """
        cost = scaled(*stays.cost(self.problem))
        if cost >= self.cost:
            return False
        if offsets is None:
            key = (stays.order, stays.spans)
            if key in self.tried:
                return False
            self.tried.add(key)
            found = find_addresses(
                self.problem, stays, self.capacity, seconds=_least(seconds, self.budget.seconds_left())
            )
            if found.status not in ("optimal", "feasible") or found.offsets is None:
                return False
            offsets = found.offsets.tolist()
        self.best, self.engine = (cost, stays, offsets), engine
        self._report()
        return True

    def raise_bound(self, bound: int) -> None:
        """A new proven bound, never above the best schedule."""
        before = self.bound
        self.bound = max(self.bound, min(bound, self.cost))
        if self.bound > before:
            self._report()

    def _report(self) -> None:
        """Bytes proved and found, to who watches. A share of the run's time is a budget inside the run's own."""
        budget = self.budget
        while budget.outer is not None:
            budget = budget.outer
        budget.report(self.bound // COST_SCALE, None if self.best is None else self.best[0] // COST_SCALE)
