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

    def as_json(self) -> dict[str, Any]:
        """The answer as plain data."""
        peaks = self.plan.peaks(list(self.banks))
        return {
            "status": self.plan.status,
            "cost": self.plan.cost,
            "bound": self.plan.bound,
            "banks": {
                bank.name: {"capacity": bank.capacity if bank.capacity < _NO_CAPACITY else None, "peak": peak}
                for bank, peak in peaks
            },
            "placement": {name: {"bank": bank, "offset": offset} for name, bank, offset, _ in self.rows()},
        }

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
        return (
            Table(
                title, ("bank", "capacity", "peak", "cost per byte placed", "cost per byte of size"), peaks
            ),
            Table("plan", ("id", "bank", "offset", "size"), self.rows()[:SHOWN_ROWS]),
        )

    def insist(self) -> None:
        """There is a plan, or there would be no answer."""
