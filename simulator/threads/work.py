"""Work for threads: segments in tasks in phases, as plain arrays.

A segment is what a thread does without choosing anew: it waits for its reads, issues its instructions, waits for its
scratchpad accesses one after the other, and leaves atomics and writes behind. A task is a run of segments that one
thread does; a phase ends when all its tasks have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["COLUMNS", "Phase", "Totals", "totals"]

COLUMNS: Final = ("instructions", "accesses", "atomics", "trips", "read_bytes", "write_bytes")
"""Of a segment: instructions; scratchpad accesses that are waited for, and that are not; reads of memory that wait for
one another; bytes that memory moves."""


@dataclass(frozen=True, eq=False)
class Phase:
    """``segments[s]`` has the :data:`COLUMNS`; task t is ``segments[begins[t]:begins[t + 1]]``.

    ``dealt``: a free thread takes the next task (dynamic), or thread n takes tasks n, n + threads, ... (static).
    """

    name: str
    segments: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    dynamic: bool = True

    def __post_init__(self) -> None:
        assert self.segments.shape == (len(self.segments), len(COLUMNS))
        assert (self.begins[0], self.begins[-1]) == (0, len(self.segments))

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return int(self.begins.size) - 1


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over phases."""

    instructions: int
    accesses: int
    atomics: int
    trips: int
    read_bytes: int
    write_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes


def totals(phases: Sequence[Phase]) -> Totals:
    """What all segments of some phases ask for."""
    sums = np.zeros(len(COLUMNS), np.int64)
    for phase in phases:
        sums += phase.segments.sum(axis=0)
    return Totals(*(int(value) for value in sums))
