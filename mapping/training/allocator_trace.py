"""Reserved and allocated bytes over time when a training loop runs on the caching allocator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.training.caching_allocator import CachingAllocator, DeviceOutOfMemoryError
from mapping.training.requests import RequestSequence

__all__ = ["MemoryTrace", "replay"]


@dataclass(frozen=True, eq=False)
class MemoryTrace:
    """Reserved and allocated bytes after every instruction, and what the driver was asked.

    ``failed`` is the index of the instruction that ran out of memory, -1 when none did; the arrays end there.
    ``reorganised`` lists the instructions that gave segments back.
    """

    reserved: NDArray[np.int64]
    allocated: NDArray[np.int64]
    driver_mallocs: int
    driver_frees: int
    reorganised: tuple[int, ...]
    returned_bytes: int
    failed: int
    failed_bytes: int

    @property
    def peak_reserved(self) -> int:
        """Most bytes reserved at once."""
        return int(self.reserved.max(initial=0))

    @property
    def peak_allocated(self) -> int:
        """Most bytes allocated at once."""
        return int(self.allocated.max(initial=0))

    @property
    def fragmentation(self) -> int:
        """Most bytes reserved, beyond the most that were allocated."""
        return self.peak_reserved - self.peak_allocated


def replay(
    sequence: RequestSequence, capacity: int | None = None, *, expandable: bool = False, steps: int = 1
) -> MemoryTrace:
    """Run a request sequence ``steps`` times over one allocator, as a training loop does.

    ``capacity`` is what the driver can give beside the tensors that are held from step to step. Blocks that a
    step keeps are freed when it ends.
    """
    allocator = CachingAllocator(capacity, expandable)
    order = sequence.order().tolist()
    sizes = sequence.size.tolist()
    kept = np.flatnonzero(sequence.free >= sequence.instructions).tolist()
    reserved: list[int] = []
    allocated: list[int] = []
    reorganised: list[int] = []
    failed, failed_bytes = -1, 0
    address = [0] * len(sizes)
    for turn in range(steps):
        for index, number in enumerate(order):
            before = allocator.reorganisations
            if number > 0:
                try:
                    address[number - 1] = allocator.malloc(sizes[number - 1])
                except DeviceOutOfMemoryError as error:
                    failed, failed_bytes = turn * len(order) + index, error.size
            else:
                allocator.free(address[-number - 1])
            reserved.append(allocator.reserved)
            allocated.append(allocator.allocated)
            if allocator.reorganisations > before:
                reorganised.append(turn * len(order) + index)
            if failed >= 0:
                break
        if failed >= 0:
            break
        for block in kept:
            allocator.free(address[block])
    return MemoryTrace(
        np.array(reserved, np.int64), np.array(allocated, np.int64), allocator.driver_mallocs,
        allocator.driver_frees, tuple(reorganised), allocator.returned, failed, failed_bytes,
    )  # fmt: skip
