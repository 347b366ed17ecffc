"""A second caching allocator, by scanning: segments are lists of (size, taken) in order of address.

Written from the documented rules alone, without pools, trees or links; slow on purpose.
"""

from __future__ import annotations

MIB = 2**20


class OutOfMemoryError(Exception):
    """A request that fits nowhere."""


class ScanningAllocator:
    """``segments``: [base, small, [[size, holder or None], ...]]. One class for fixed segments only."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.segments: list[tuple[int, bool, list[list[int | None]]]] = []
        self.base = 0
        self.reorganisations = 0

    @property
    def reserved(self) -> int:
        return sum(size for _, _, blocks in self.segments for size, _ in blocks)

    @property
    def allocated(self) -> int:
        return sum(size for _, _, blocks in self.segments for size, holder in blocks if holder is not None)

    def malloc(self, holder: int, size: int) -> int:
        size = max(512, (size + 511) // 512 * 512)
        small = size <= MIB
        for attempt in range(3):
            candidates = []
            for base, own_small, blocks in self.segments:
                address = base
                for number, (length, taken) in enumerate(blocks):
                    if own_small == small and taken is None and length >= size:
                        candidates.append((length, address, blocks, number))
                    address += length
            if candidates:
                length, address, blocks, number = min(candidates, key=lambda item: item[:2])
                rest = length - size
                if rest >= 512 if small else rest > MIB:
                    blocks[number : number + 1] = [[size, holder], [rest, None]]
                else:
                    blocks[number][1] = holder
                return address
            whole = (
                2 * MIB
                if small
                else 20 * MIB
                if size < 10 * MIB
                else (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
            )
            if self.capacity is None or self.reserved + whole <= self.capacity:
                self.segments.append((self.base, small, [[whole, None]]))
                self.base += whole
            elif attempt == 0:
                kept = [s for s in self.segments if len(s[2]) > 1 or s[2][0][1] is not None]
                self.reorganisations += len(kept) < len(self.segments)
                self.segments = kept
            else:
                break
        raise OutOfMemoryError

    def free(self, holder: int) -> None:
        for _, _, blocks in self.segments:
            for entry in blocks:
                if entry[1] == holder:
                    entry[1] = None
                    self._merge(blocks)
                    return
        raise AssertionError("freed twice")

    @staticmethod
    def _merge(blocks: list[list[int | None]]) -> None:
        number = 0
        while number + 1 < len(blocks):
            if blocks[number][1] is None and blocks[number + 1][1] is None:
                blocks[number][0] += blocks.pop(number + 1)[0]
            else:
                number += 1
