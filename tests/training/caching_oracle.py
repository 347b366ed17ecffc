"""A second caching allocator, by scanning: segments are lists of (size, taken) in order of address.

Written from the documented rules alone, without pools, trees or links; slow on purpose.
"""

from __future__ import annotations

MIB = 2**20


class OutOfMemoryError(Exception):
    """A request that fits nowhere."""


class ScanningAllocator:
    """``segments``: [base, small, [[size, holder or None, searches when it was freed], ...]], of fixed sizes.

    ``limit``: bytes from which blocks are not split; ``slack``: how much larger than a request such a block may be;
    ``steps``: steps between powers of two to which requests are rounded up; ``threshold``: share of the capacity above
    which garbage is collected.
    """

    def __init__(
        self, capacity: int | None, limit: int | None = None, slack: int = 20 * MIB, steps: int = 0,
        threshold: float = 0.0,
    ) -> None:  # fmt: skip
        self.capacity, self.limit, self.slack, self.steps, self.threshold = (
            capacity, limit, slack, steps, threshold,
        )  # fmt: skip
        self.segments: list[tuple[int, bool, list[list[int | None]]]] = []
        self.base = 0
        self.reorganisations = 0
        self.searches = {True: 0, False: 0}

    @property
    def reserved(self) -> int:
        return sum(entry[0] or 0 for _, _, blocks in self.segments for entry in blocks)

    @property
    def allocated(self) -> int:
        return sum(
            entry[0] or 0 for _, _, blocks in self.segments for entry in blocks if entry[1] is not None
        )

    def size_of(self, size: int) -> int:
        if self.steps > 1 and size > 512 * self.steps:
            power = 1
            while power * 2 <= size:
                power *= 2
            candidates = [power + power * step // self.steps for step in range(self.steps + 1)]
            return min(one for one in candidates if one >= size)
        return max(512, (size + 511) // 512 * 512)

    def malloc(self, holder: int, size: int) -> int:
        size = self.size_of(size)
        small = size <= MIB
        self.searches[small] += 1
        found = self._fit(holder, size, small)
        if found is not None:
            return found
        self._collect()
        whole = (
            2 * MIB if small else 20 * MIB if size < 10 * MIB else (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        )
        for attempt in range(2):
            if self.capacity is None or self.reserved + whole <= self.capacity:
                self.segments.append((self.base, small, [[whole, None, self.searches[small]]]))
                self.base += whole
                # A segment made for a request is its own, whatever limits there are.
                return self._take(self.segments[-1], 0, holder, size)
            # Where what is above the limit does not add up, the driver is not asked before all that is free goes back.
            if attempt == 0 and self._drop_oversize(size, small):
                continue
            kept = [s for s in self.segments if not self._idle(s)]
            self.reorganisations += len(kept) < len(self.segments)
            self.segments = kept
        if self.capacity is None or self.reserved + whole <= self.capacity:
            self.segments.append((self.base, small, [[whole, None, self.searches[small]]]))
            self.base += whole
            return self._take(self.segments[-1], 0, holder, size)
        raise OutOfMemoryError

    @staticmethod
    def _idle(segment: tuple[int, bool, list[list[int | None]]]) -> bool:
        return len(segment[2]) == 1 and segment[2][0][1] is None

    def _fit(self, holder: int, size: int, small: bool) -> int | None:
        candidates = []
        for number, (base, own_small, blocks) in enumerate(self.segments):
            address = base
            for place, (length, taken, _) in enumerate(blocks):
                if own_small == small and taken is None and (length or 0) >= size:
                    candidates.append((length or 0, address, number, place))
                address += length or 0
        if not candidates:
            return None
        length, _, number, place = min(candidates)
        if self.limit is not None:
            if size < self.limit <= length:
                return None
            if size >= self.limit and length >= size + self.slack:
                return None
        return self._take(self.segments[number], place, holder, size)

    def _take(
        self, segment: tuple[int, bool, list[list[int | None]]], place: int, holder: int, size: int
    ) -> int:
        base, small, blocks = segment
        rest = (blocks[place][0] or 0) - size
        splits = rest >= 512 if small else rest > MIB and (self.limit is None or size < self.limit)
        if splits:
            blocks[place : place + 1] = [[size, holder, 0], [rest, None, self.searches[small]]]
        else:
            blocks[place][1] = holder
        return base + sum(entry[0] or 0 for entry in blocks[:place])

    def _drop_oversize(self, size: int, small: bool) -> bool:
        """Free blocks of the pool above the limit: one that is enough, or the largest until they are."""
        if self.limit is None:
            return False
        wanted = max(size, self.limit)
        idle = sorted(
            (s for s in self.segments if s[1] == small and self._idle(s) and (s[2][0][0] or 0) >= self.limit),
            key=lambda s: (s[2][0][0], s[0]),
        )
        enough = [s for s in idle if (s[2][0][0] or 0) >= wanted]
        if enough:
            self.segments.remove(enough[0])
            return True
        given = 0
        while idle and given < wanted:
            given += idle[-1][2][0][0] or 0
            self.segments.remove(idle.pop())
        return given >= wanted

    def _collect(self) -> None:
        if not self.threshold or self.capacity is None:
            return
        target = self.reserved - int(self.threshold * self.capacity)
        given, freed = 0, True
        while given < target and freed:
            idle = [s for s in self.segments if not s[1] and self._idle(s)]
            if not idle:
                return
            ages = {s[0]: self.searches[False] - (s[2][0][2] or 0) for s in idle}
            mean = sum(ages.values()) / len(ages)
            old = [s for s in idle if ages[s[0]] >= mean]
            freed = bool(old)
            for segment in old:
                given += segment[2][0][0] or 0
                self.segments.remove(segment)

    def free(self, holder: int) -> None:
        for _, small, blocks in self.segments:
            for entry in blocks:
                if entry[1] == holder:
                    entry[1], entry[2] = None, self.searches[small]
                    self._merge(blocks, entry)
                    return
        raise AssertionError("freed twice")

    @staticmethod
    def _merge(blocks: list[list[int | None]], entry: list[int | None]) -> None:
        """The freed block takes in its free neighbours, and its age is theirs."""
        number = 0
        while number + 1 < len(blocks):
            one, other = blocks[number], blocks[number + 1]
            if one[1] is None and other[1] is None:
                one[0] = (one[0] or 0) + (other[0] or 0)
                one[2] = entry[2]
                blocks.pop(number + 1)
            else:
                number += 1
