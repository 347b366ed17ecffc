"""What a solver of allocation problems answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["AllocationResult", "Explanation", "Status"]

Status = Literal["optimal", "feasible", "infeasible", "unknown"]


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

    @property
    def gap(self) -> float | None:
        """(peak - bound) / peak, 0 when optimal; None without a plan."""
        if self.peak_bytes is None:
            return None
        return 0.0 if self.peak_bytes == 0 else (self.peak_bytes - self.bound_bytes) / self.peak_bytes
