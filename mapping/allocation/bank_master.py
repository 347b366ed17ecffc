"""The master problem of several banks: which buffer, or part of its life, goes to which bank, by live bytes alone.

A MIP with one binary for each part and bank. It learns from places: subsets that have no plan in a bank, sizes and
costs that a bank's members have at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mapping.allocation.bank_choice import BankChoice
from mapping.allocation.instance import build_components
from mapping.allocation.parts import Parts
from mapping.allocation.problem import AllocationProblem

if TYPE_CHECKING:
    from mapping.allocation.banks import Bank

__all__ = ["Master"]


class Master:
    """Assignment of buffers (or of parts of their lives) to banks under live bytes only."""

    def __init__(
        self,
        problem: AllocationProblem,
        banks: Sequence[Bank],
        choice: BankChoice,
        parts: Parts | None = None,
        move_cost: float = 0.0,
    ) -> None:
        import pulp

        self.exact = True
        n = len(problem)
        self._banks = banks
        share = parts.share if parts is not None else (1,) * n
        self._model = pulp.LpProblem("banks", pulp.LpMinimize)
        self._x = [
            [self._model.add_variable(f"x{i}_{b}", 0, 1, pulp.LpInteger) for b in range(len(banks))]
            for i in range(n)
        ]
        most = int(problem.size.sum())
        self._size = [
            self._model.add_variable(f"s{b}", 0, min(bank.capacity, most))
            if bank.cost_per_size_byte
            else None
            for b, bank in enumerate(banks)
        ]
        # Part i and the one before it both in bank b; what the copies inside a bank cost, at least.
        self._stay = {
            i: [self._model.add_variable(f"t{i}_{b}", 0, 1) for b in range(len(banks))]
            for i in (parts.follows if parts is not None else ())
        }
        # Whether it goes to another bank; a variable, for the solvers' bounds leave out constants.
        away = {i: self._model.add_variable(f"m{i}", 0, 1) for i in self._stay}
        self._copies = [
            self._model.add_variable(f"c{b}", 0) if self._stay and move_cost else None
            for b in range(len(banks))
        ]
        self._model.setObjective(
            pulp.lpSum(
                bank.cost_per_byte * int(problem.size[i]) * share[i] * self._x[i][b]
                for i in range(n)
                for b, bank in enumerate(banks)
            )
            + pulp.lpSum(
                bank.cost_per_size_byte * size
                for bank, size in zip(banks, self._size, strict=True)
                if size is not None
            )
            + pulp.lpSum(copies for copies in self._copies if copies is not None)
            + pulp.lpSum(move_cost * int(problem.size[i]) * away[i] for i in self._stay)
        )
        for i, stay in self._stay.items():
            self._model += away[i] + pulp.lpSum(stay) == 1
            for b in range(len(banks)):
                self._model += stay[b] <= self._x[i][b]
                self._model += stay[b] <= self._x[i - 1][b]
        for i in range(n):
            self._model += pulp.lpSum(self._x[i]) == 1
            for b, bank in enumerate(banks):
                fits = int(problem.size[i]) <= bank.capacity or not problem.spans(i)
                if not fits or b not in choice.allowed[i]:
                    self._model += self._x[i][b] == 0
                elif (size := self._size[b]) is not None and problem.spans(i):
                    self._model += int(problem.size[i]) * self._x[i][b] <= size
        for i, k in choice.together:
            for b in range(len(banks)):
                self._model += self._x[i][b] == self._x[k][b]
        for i, k in choice.apart:
            for b in range(len(banks)):
                self._model += self._x[i][b] + self._x[k][b] <= 1
        for component in build_components(problem):
            inst = component.instance
            for s in range(len(inst.member_ptr) - 1):
                rows = [
                    int(component.index[k]) for k in inst.member[inst.member_ptr[s] : inst.member_ptr[s + 1]]
                ]
                heights = _heights(component.instance, s, component.unit)
                kept = choice.disjoint(rows, heights)
                both = {i for i, _ in kept} & {i + 1 for i, _ in kept} & set(self._stay)
                for b, bank in enumerate(banks):
                    # True sizes where a unit was rounded: the topmost buffer may be shorter. Of two parts in one
                    # bank the bytes count once at the moment of a copy.
                    total = pulp.lpSum(
                        min(height, int(problem.size[i]))
                        * (self._x[i][b] - self._stay[i][b] if i in both else self._x[i][b])
                        for i, height in kept
                    )
                    size = self._size[b]
                    self._model += total <= (bank.capacity if size is None else size)

    def solve(self, seconds: float, seed: int) -> tuple[list[int] | None, float]:
        """An assignment, if there is one, and a bound on the cost of all."""
        from mapping.solver import SolverOptions, solve_model

        report = solve_model(self._model, SolverOptions(time_limit_s=max(seconds, 0.01), seed=seed))
        lower = 0.0 if report.bound is None else report.bound
        if not report.has_solution:
            return None, lower
        return [max(range(len(row)), key=lambda b: row[b].value() or 0.0) for row in self._x], lower

    def forbid(self, bank: int, members: Sequence[int]) -> None:
        """The members never lie together in the bank."""
        import pulp

        self._model += pulp.lpSum(self._x[i][bank] for i in members) <= len(members) - 1

    def learn_sizes(self, assignment: Sequence[int], bounds: Sequence[int]) -> None:
        """A bank that holds what it holds in an assignment has at least its proven size."""
        import pulp

        for b, (size, bound) in enumerate(zip(self._size, bounds, strict=True)):
            members = [i for i, where in enumerate(assignment) if where == b]
            if size is not None and members:
                missing = len(members) - pulp.lpSum(self._x[i][b] for i in members)
                self._model += size >= bound * (1 - missing)

    def learn_costs(self, assignment: Sequence[int], bounds: Sequence[float]) -> None:
        """A bank that holds what it holds in an assignment costs so much at least, by its size and the copies in it."""
        import pulp

        for b, bound in enumerate(bounds):
            members = [i for i, where in enumerate(assignment) if where == b]
            terms = [(1.0, self._copies[b]), (self._banks[b].cost_per_size_byte, self._size[b])]
            told = [factor * variable for factor, variable in terms if variable is not None]
            if told and bound > 0:
                missing = len(members) - pulp.lpSum(self._x[i][b] for i in members)
                self._model += pulp.lpSum(told) >= bound * (1 - missing)


def _heights(inst, section: int, unit: int) -> list[int]:  # type: ignore[no-untyped-def]
    heights = []
    for position in range(int(inst.member_ptr[section]), int(inst.member_ptr[section + 1])):
        i = int(inst.member[position])
        for p in range(int(inst.span_ptr[i]), int(inst.span_ptr[i + 1])):
            if inst.span_lo[p] <= section < inst.span_hi[p]:
                heights.append(int(inst.window_hi[p] - inst.window_lo[p]) * unit)
    return heights
