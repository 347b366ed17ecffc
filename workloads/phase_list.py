"""Phases that are built when they are asked for: a generation has thousands, of which one is looked at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from workloads.workload import Phase

__all__ = ["PhaseList"]


class PhaseList(Sequence[Phase]):
    """``number`` phases, each by ``build`` of its index."""

    def __init__(self, build: Callable[[int], Phase], number: int) -> None:
        self.build, self.number = build, number

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int) -> Phase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Phase]: ...
    def __getitem__(self, index: int | slice) -> Phase | Sequence[Phase]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self.number))]
        if not -self.number <= index < self.number:
            raise IndexError(index)
        return self.build(index % self.number)
