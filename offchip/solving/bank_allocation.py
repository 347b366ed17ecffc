"""A plan over several memories as it is shown: the banks with their peaks, and the place of each buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hw_configs.shown import Shown, Table

if TYPE_CHECKING:
    from mapping.allocation import AllocationProblem
    from mapping.allocation.banks import Bank, BankPlan

__all__ = ["BankAllocation"]

SHOWN_ROWS: Final = 30
_NO_CAPACITY: Final = 2**60


@dataclass(frozen=True)
class BankAllocation(Shown):
    """A plan over several memories, with its cost and the bound on it."""

    problem: AllocationProblem
    banks: tuple[Bank, ...]
    plan: BankPlan

    def rows(self) -> tuple[tuple[str, str, int, int], ...]:
        """Buffer, bank, offset and bytes of each buffer."""
        p, plan = self.problem, self.plan
        return tuple(
            (str(p.ids[i]), self.banks[plan.bank[i]].name, int(plan.offsets[i]), int(p.size[i]))
            for i in range(len(p))
        )

    def moves(self) -> tuple[tuple[str, int, str, int], ...]:
        """Buffer, time, and the bank and offset that it moves to."""
        return tuple(
            (str(self.problem.ids[move.buffer]), move.time, move.bank, move.offset)
            for move in self.plan.moves
        )

    def as_json(self) -> dict[str, Any]:
        """The answer as plain data."""
        peaks = self.plan.peaks(list(self.banks))
        answer: dict[str, Any] = {
            "status": self.plan.status,
            "cost": self.plan.cost,
            "bound": self.plan.bound,
            "banks": {
                bank.name: {"capacity": bank.capacity if bank.capacity < _NO_CAPACITY else None, "peak": peak}
                for bank, peak in peaks
            },
            "placement": {name: {"bank": bank, "offset": offset} for name, bank, offset, _ in self.rows()},
        }
        if self.problem.rules.moves:
            rows = ("id", "time", "bank", "offset")
            answer["moves"] = [dict(zip(rows, move, strict=True)) for move in self.moves()]
            answer["moved_bytes"] = self.plan.moved_bytes
        return answer

    def shown_tables(self) -> tuple[Table, ...]:
        """The banks, and the plan's first rows."""
        plan = self.plan
        title = f"banks: {plan.status}, cost {plan.cost:g}, lower bound {plan.bound:g}"
        peaks = tuple(
            (
                b.name,
                b.capacity if b.capacity < _NO_CAPACITY else "free",
                peak,
                b.cost_per_byte,
                b.cost_per_size_byte,
            )
            for b, peak in plan.peaks(list(self.banks))
        )
        banks = Table(
            title, ("bank", "capacity", "peak", "cost per byte placed", "cost per byte of size"), peaks
        )
        places = Table("plan", ("id", "bank", "offset", "size"), self.rows()[:SHOWN_ROWS])
        if not plan.moves:
            return (banks, places)
        told = f"{len(plan.moves)} moves of {plan.moved_bytes} bytes"
        return (
            banks,
            places,
            Table(told, ("id", "at time", "to bank", "to offset"), self.moves()[:SHOWN_ROWS]),
        )

    def insist(self) -> None:
        """There is a plan, or there would be no answer."""
