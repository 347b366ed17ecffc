"""What a scheduler answers: the schedule itself, and what was proved about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["PeakResult", "Residence", "Schedule", "ScheduleResult", "Status", "Transfer", "TransferKind"]

Status = Literal["optimal", "feasible", "infeasible", "unknown"]
TransferKind = Literal["load", "retrieve", "spill", "store"]


@dataclass(frozen=True, slots=True)
class Residence:
    """A tensor's stay in the scratchpad at one address, for the steps [start, end)."""

    tensor: str
    start: int
    end: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """One move over the chip's edge, after the operator of ``step - 1`` and before that of ``step``.

    ``load``: the compulsory first fetch of what starts off-chip. ``store``: the compulsory write of a graph
    output. ``spill`` and ``retrieve`` are the traffic that counts. A load or retrieve fills the residence that
    starts at ``step``; a spill or store reads one with start < step <= end, before the step's loads.
    """

    tensor: str
    step: int
    size_bytes: int
    kind: TransferKind


@dataclass(frozen=True)
class Schedule:
    """Operator order, where every tensor lies when, where workspaces lie, and all transfers in order of time."""

    order: tuple[str, ...]
    residences: tuple[Residence, ...]
    workspaces: Mapping[str, int]
    transfers: tuple[Transfer, ...]

    @property
    def cost_bytes(self) -> int:
        """Non-compulsory off-chip bytes."""
        return sum(t.size_bytes for t in self.transfers if t.kind in ("spill", "retrieve"))

    @property
    def transfer_count(self) -> int:
        """Number of spills and retrieves."""
        return sum(t.kind in ("spill", "retrieve") for t in self.transfers)

    @property
    def compulsory_bytes(self) -> int:
        """Bytes of loads and stores."""
        return sum(t.size_bytes for t in self.transfers if t.kind in ("load", "store"))


@dataclass(frozen=True)
class ScheduleResult:
    """A schedule with its proof.

    ``status``: "optimal" (cost equals the proven bound), "feasible", "infeasible" (proved) or "unknown" (nothing
    found within the limits). ``bound_bytes`` is a proven lower bound on the cost of every schedule.
    ``ties_proven`` says whether, among schedules of this cost, the fewest transfers and then the lowest peak
    were proved as well. With the objective "peak", ``peak_bytes`` is what was minimised and the bound is on it;
    with "time", ``time_s`` and ``bound_time_s``.
    """

    status: Status
    method: str
    engine: str
    scratchpad_bytes: int
    schedule: Schedule | None
    cost_bytes: int | None
    bound_bytes: int
    peak_bytes: int | None
    seconds: float
    nodes: int = 0
    seed: int = 0
    objective: str = "bytes"
    ties_proven: bool = False
    explanation: str | None = None
    version: str = ""
    time_s: float | None = None
    bound_time_s: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def order(self) -> tuple[str, ...]:
        """Operator names in order; empty without a schedule."""
        return self.schedule.order if self.schedule is not None else ()

    @property
    def residences(self) -> tuple[Residence, ...]:
        """Stays in the scratchpad."""
        return self.schedule.residences if self.schedule is not None else ()

    @property
    def workspaces(self) -> Mapping[str, int]:
        """Operator to the offset of its workspace."""
        return self.schedule.workspaces if self.schedule is not None else {}

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Transfers in order of time."""
        return self.schedule.transfers if self.schedule is not None else ()

    @property
    def transfer_count(self) -> int | None:
        """Spills and retrieves, or None without a schedule."""
        return self.schedule.transfer_count if self.schedule is not None else None

    @property
    def gap(self) -> float | None:
        """(value - bound) / value of what was minimised; 0 when optimal, None without a schedule."""
        if self.objective == "time":
            value, bound = self.time_s, self.bound_time_s
        elif self.objective == "peak":
            value, bound = self.peak_bytes, self.bound_bytes
        else:
            value, bound = self.cost_bytes, self.bound_bytes
        if value is None or bound is None:
            return None
        return 0.0 if value == 0 else (value - bound) / value


@dataclass(frozen=True, slots=True)
class PeakResult:
    """The least peak of bytes over all orders without spills (M_P) with its bound and an order that has it."""

    status: Status
    peak_bytes: int
    bound_bytes: int
    order: tuple[int, ...]
    seconds: float
    nodes: int
