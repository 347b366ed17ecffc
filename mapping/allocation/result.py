"""What a solver of allocation problems answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["AllocationResult", "Explanation", "Move", "Status"]

Status = Literal["optimal", "feasible", "infeasible", "unknown"]


@dataclass(frozen=True, slots=True)
class Move:
    """A copy of a buffer (its index) at a time to another offset; at that moment both places are in use.

    ``bank``: the name of the memory it goes to, empty where there is one arena.
    """

    buffer: int
    time: int
    offset: int
    bank: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why no plan exists.

    ``kind``: "section" (at time ``lower`` to ``upper`` more bytes are live than the capacity holds), "pins"
    (fixed offsets break a promise by themselves) or "subset" (``buffers`` alone have no packing). ``minimal``
    says that every buffer of the subset is needed, which was proved by packing the rest.
    """

    kind: Literal["section", "pins", "subset"]
    buffers: tuple[int, ...]
    message: str
    minimal: bool
    lower: int | None = None
    upper: int | None = None
    live_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AllocationResult:
    """A plan with its proof.

    ``status``: "optimal" (the peak equals the proven lower bound), "feasible" (a checked plan), "infeasible"
    (proved: no plan below the capacity) or "unknown" (no plan within the limits). ``peak_bytes`` and
    ``offsets`` belong to the best plan found, also when it is above the capacity asked for; then the status is
    "unknown" or "infeasible". ``bound_bytes`` is a proven lower bound on the peak of every plan.

    ``moves`` are the copies of a plan that may move buffers. There ``moved_bytes`` is what they copy, and the status
    speaks of what was asked: the least ``cost`` (peak + bytes moved x their cost, or bytes moved below a capacity),
    which is "optimal" when it equals ``cost_bound``.
    """

    status: Status
    peak_bytes: int | None
    bound_bytes: int
    offsets: NDArray[np.int64] | None
    engine: str
    nodes: int
    seconds: float
    seed: int
    capacity_bytes: int | None = None
    explanation: Explanation | None = None
    interrupted: bool = False
    moves: tuple[Move, ...] = ()
    moved_bytes: int = 0
    cost: float | None = None
    cost_bound: float | None = None

    @property
    def gap(self) -> float | None:
        """(peak - bound) / peak, 0 when optimal; None without a plan."""
        if self.peak_bytes is None:
            return None
        return 0.0 if self.peak_bytes == 0 else (self.peak_bytes - self.bound_bytes) / self.peak_bytes
