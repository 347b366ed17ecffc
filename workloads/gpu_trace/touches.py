"""A GPU trace as touches of pages: what unified memory sees of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.block_trace.trace import READ, WRITE, BlockRequests
from workloads.gpu_trace.trace import LOAD, GpuTrace

__all__ = ["Touches"]


@dataclass(frozen=True)
class Touches:
    """The accesses of a GPU trace as requests of a block trace; addresses count from 0."""

    trace: GpuTrace

    @property
    def name(self) -> str:
        """The trace's name."""
        return self.trace.name

    @property
    def count(self) -> int | None:
        """Number of accesses."""
        return self.trace.count

    def chunks(self, size: int) -> Iterator[BlockRequests]:
        """The accesses from the beginning, about ``size`` at a time."""
        for accesses in self.trace.chunks(size):
            kind = np.where(accesses.kind == LOAD, READ, WRITE)
            yield BlockRequests(kind, accesses.address, accesses.size, np.zeros(0, np.int64))
