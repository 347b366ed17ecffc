"""PyTorch's caching allocator of device memory, request by request.

Rules as the framework's source and its notes on memory management state them (``c10/cuda/CUDACachingAllocator.cpp``;
"CUDA semantics", section on memory management):

* A request is rounded up to 512 B. Up to 1 MiB it is served from the small pool, above from the large one.
* The smallest free block that is large enough is taken, the lowest address among equals. What is left of it is
  split off when it is at least 512 B in the small pool, more than 1 MiB in the large one.
* Without such a block a segment is asked of the driver: 2 MiB for the small pool; in the large pool 20 MiB for
  requests below 10 MiB and otherwise the request rounded up to 2 MiB.
* Where the driver has no room, every segment that is free as a whole is given back (the device waits meanwhile:
  a reorganisation) and the request is tried once more. Then memory is out.
* With a limit on splits, larger blocks serve only requests above it that are at most so much smaller, whole; when the
  driver has no room, one that would do goes back first, or the largest until they add up, before all others.
* With a threshold of garbage collection, before the driver is asked for more than that share of what it may give, whole
  free segments of the large pool go back whose age (searches since they came into it) is at least the mean one.
* A freed block joins its free neighbours in the segment.
* With expandable segments a pool is one range of addresses, mapped in pages of 2 MiB (small) or 20 MiB (large)
  as it grows; splits of 512 B and more are allowed; giving back unmaps whole free pages. A block before unmapped
  pages counts, when the best fit is looked for, with what it could grow to.

Reserved bytes are those the driver gave, allocated bytes those of blocks in use; the difference is fragmentation.
One stream. Settings are those of :mod:`mapping.training.allocator_conf`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mapping.training.allocator_conf import DEFAULT_CONF, AllocatorConf

__all__ = ["CachingAllocator", "DeviceOutOfMemoryError"]

MIN_BLOCK: Final = 512
SMALL_REQUEST: Final = 2**20
SMALL_SEGMENT: Final = 2 * 2**20
LARGE_SEGMENT: Final = 20 * 2**20
LARGE_REQUEST: Final = 10 * 2**20
SEGMENT_STEP: Final = 2 * 2**20


class DeviceOutOfMemoryError(Exception):
    """A request that could not be served, also after giving everything back that was free."""

    def __init__(self, size: int, reserved: int, allocated: int) -> None:
        super().__init__(f"{size} bytes asked, {allocated} allocated, {reserved} reserved")
        self.size, self.reserved, self.allocated = size, reserved, allocated


@dataclass(slots=True, eq=False)
class _Block:
    """Bytes [address, address + size) of a segment; neighbours in address order."""

    address: int
    size: int
    small: bool
    taken: bool = False
    mapped: bool = True
    used_at: int = 0
    """Searches of its pool before it last came into it."""
    before: _Block | None = None
    after: _Block | None = None


@dataclass
class CachingAllocator:
    """The allocator's state. ``capacity`` is what the driver can give, None for without end.

    Addresses are unique over the whole run, in the order in which the driver gave segments.
    """

    capacity: int | None = None
    expandable: bool = False
    conf: AllocatorConf = DEFAULT_CONF
    reserved: int = 0
    allocated: int = 0
    driver_mallocs: int = 0
    driver_frees: int = 0
    reorganisations: int = 0
    returned: int = 0
    """Bytes given back to the driver by reorganisations."""
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    _at: dict[int, _Block] = field(default_factory=dict)
    _next_address: int = 0
    _range: dict[bool, _Block] = field(default_factory=dict)
    """The last block of each pool's range of addresses, which has no end."""
    _holes: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    """Addresses of unmapped blocks before the end of each range."""
    _searches: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """How often each pool was searched, while garbage is collected."""

    def __post_init__(self) -> None:
        self.expandable = self.expandable or self.conf.expandable

    def found(self, size: int, blocks: Sequence[tuple[int, int]]) -> list[int]:
        """Begin with a segment that is there already, of fixed size; the addresses of its blocks in use.

        ``blocks``: of each the offset in the segment and the bytes asked for, in order. What lies between is free; in
        the large pool no free block is as small as a small request, so that less belongs to the block before it.
        """
        small = size == SMALL_SEGMENT
        base, place, before = self._next_address, 0, None
        taken: list[int] = []
        ends = [*(offset for offset, _ in blocks[1:]), size][: len(blocks)]
        rows: list[tuple[int, int, bool]] = []
        for (offset, asked), end in zip(blocks, ends, strict=True):
            if offset > place:
                rows.append((place, offset, False))
            place = offset + self.conf.rounded(asked)
            if not small and end - place <= SMALL_REQUEST:
                place = end
            rows.append((offset, place, True))
        if place < size:
            rows.append((place, size, False))
        for start, end, used in rows:
            block = _Block(base + start, end - start, small, used, before=before)
            if before is not None:
                before.after = block
            self._at[block.address] = before = block
            if used:
                taken.append(block.address)
                self.allocated += block.size
            else:
                self._offer(block)
        self._next_address += size
        self.reserved += size
        return taken

    def malloc(self, size: int) -> int:
        """The address of a block of at least ``size`` bytes; raises :class:`DeviceOutOfMemoryError`."""
        size = self.conf.rounded(size)
        small = size <= SMALL_REQUEST
        block = self._find(size, small)
        if block is None:
            self._collect_garbage()
            block = self._grow(size, small)
        if block is None and self._give_oversize(size, small):
            block = self._grow(size, small)
        if block is None:
            self._give_back()
            block = self._grow(size, small)
        if block is None:
            raise DeviceOutOfMemoryError(size, self.reserved, self.allocated)
        self._split(block, size)
        block.taken = True
        self.allocated += block.size
        return block.address

    def free(self, address: int) -> None:
        """Give a block back to its pool."""
        block = self._at[address]
        block.taken = False
        self.allocated -= block.size
        for neighbour in (block.before, block.after):
            if neighbour is not None and not neighbour.taken and neighbour.mapped:
                self._forget(neighbour)
                block = self._join(block, neighbour)
        self._offer(block)

    def _find(self, size: int, small: bool) -> _Block | None:
        """The best fit of a pool, taken out of it."""
        if self._collects:
            self._searches[small] += 1
        pool = self._free[small]
        place = bisect_left(pool, (size, -1))
        if place == len(pool):
            return None
        if self.expandable:
            while place + 1 < len(pool) and self._could_be(pool[place + 1]) < self._could_be(pool[place]):
                place += 1
        found = pool[place][0]
        oversize = self.conf.is_oversize(size)
        if not oversize and self.conf.is_oversize(found):
            return None
        if oversize and found >= size + self.conf.max_rounding:
            return None
        return self._at[pool.pop(place)[1]]

    @property
    def _collects(self) -> bool:
        """Whether garbage is collected: with a threshold, of a capacity."""
        return self.conf.gc_threshold > 0 and self.capacity is not None

    def _could_be(self, entry: tuple[int, int]) -> int:
        """Bytes of a free block with the unmapped ones behind it."""
        block = self._at[entry[1]]
        behind = block.after
        return block.size + (behind.size if behind is not None and not behind.mapped else 0)

    def _collect_garbage(self) -> None:
        """Give back old whole segments of the large pool where more than the threshold is reserved."""
        if not self._collects or self.capacity is None:
            return
        target = self.reserved - int(self.conf.gc_threshold * self.capacity)
        whole = [self._at[address] for _, address in self._free[False] if self._is_whole(self._at[address])]
        ages = {block.address: self._searches[False] - block.used_at for block in whole}
        total, given, freed = sum(ages.values()), 0, True
        while given < target and freed and ages:
            mean, freed = total / len(ages), False
            for block in [one for one in whole if one.address in ages]:
                age = ages[block.address]
                if age >= mean:
                    freed = True
                    given += block.size
                    total -= age
                    del ages[block.address]
                    self._release(block)

    def _give_oversize(self, size: int, small: bool) -> bool:
        """Give back a block above the limit on splits that is large enough, or the largest until they are."""
        limit = self.conf.max_split_size
        if limit is None:
            return False
        pool, wanted = self._free[small], max(size, limit)
        place = bisect_left(pool, (wanted, -1))
        if place < len(pool) and not self.expandable:
            self._release(self._at[pool[place][1]])
            return True
        given = 0
        while place > 0 and given < wanted and pool[place - 1][0] >= limit:
            place -= 1
            if self.expandable:
                continue
            block = self._at[pool[place][1]]
            given += block.size
            self._release(block)
        return given >= wanted

    def _is_whole(self, block: _Block) -> bool:
        """Whether a block is a whole segment of a fixed size."""
        return not self.expandable and block.before is None and block.after is None

    def _release(self, block: _Block) -> None:
        """Give a whole free segment back to the driver."""
        self._forget(block)
        del self._at[block.address]
        self.reserved -= block.size
        self.driver_frees += 1

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size - size
        if rest < MIN_BLOCK:
            return
        if not (block.small or self.expandable) and (rest <= SMALL_REQUEST or self.conf.is_oversize(size)):
            return
        other = _Block(block.address + size, rest, block.small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = other
        block.after, block.size = other, size
        self._at[other.address] = other
        self._offer(other)

    def _join(self, one: _Block, other: _Block) -> _Block:
        low, high = (one, other) if one.address < other.address else (other, one)
        low.size += high.size
        low.after = high.after
        if high.after is not None:
            high.after.before = low
        del self._at[high.address]
        return low

    def _offer(self, block: _Block) -> None:
        block.used_at = self._searches[block.small]
        insort(self._free[block.small], (block.size, block.address))

    def _forget(self, block: _Block) -> None:
        pool = self._free[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]

    def _grow(self, size: int, small: bool) -> _Block | None:
        return self._map(size, small) if self.expandable else self._new_segment(size, small)

    def _new_segment(self, size: int, small: bool) -> _Block | None:
        if small:
            whole = SMALL_SEGMENT
        elif size < LARGE_REQUEST:
            whole = LARGE_SEGMENT
        else:
            whole = -(-size // SEGMENT_STEP) * SEGMENT_STEP
        if self.capacity is not None and self.reserved + whole > self.capacity:
            return None
        block = _Block(self._next_address, whole, small)
        self._at[block.address] = block
        self._next_address += whole
        self.reserved += whole
        self.driver_mallocs += 1
        return block

    # Expandable segments.

    def _map(self, size: int, small: bool) -> _Block | None:
        """Map pages until a run of free addresses holds the request: the lowest such run of the pool's range."""
        start = self._run(size, small)
        first, got, missing = start, 0, 0
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        block: _Block | None = start
        needs: list[_Block] = []
        while got < size and block is not None:
            if not block.mapped:
                # The range has no end; a hole in it ends where the mapped pages go on.
                whole = -(-(size - got) // page) * page
                part = min(whole, block.size)
                missing += part
                needs.append(block)
                got += part
            else:
                got += block.size
            block = block.after
        if self.capacity is not None and self.reserved + missing > self.capacity:
            return None
        self.reserved += missing
        self.driver_mallocs += missing // page
        merged: _Block | None = None
        block, got = first, 0
        while got < size and block is not None:
            after = block.after
            if block.mapped:
                self._forget(block)
            else:
                self._map_pages(block, min(-(-(size - got) // page) * page, block.size))
                after = block.after
            got += block.size
            merged = block if merged is None else self._join(merged, block)
            block = after
        if merged is not None and merged.after is not None and merged.after.mapped and not merged.after.taken:
            self._forget(merged.after)
            merged = self._join(merged, merged.after)
        return merged

    def _run(self, size: int, small: bool) -> _Block:
        """The first block of the lowest run of free blocks, ending in unmapped ones, that holds a request."""
        if small not in self._range:
            # Two ranges that never meet; the last block of each stands for all that lies behind.
            block = _Block(0 if small else 2**60, 2**59, small, mapped=False)
            self._at[block.address] = block
            self._range[small] = block
        for address in self._holes[small]:
            hole = self._at[address]
            start = hole
            if start.before is not None and not start.before.taken and start.before.mapped:
                start = start.before
            got = 0
            piece: _Block | None = start
            while piece is not None and not piece.taken and got < size:
                got += piece.size
                piece = piece.after
            if got >= size:
                return start
        end = self._range[small]
        if end.before is not None and not end.before.taken and end.before.mapped:
            return end.before
        return end

    def _map_pages(self, block: _Block, size: int) -> None:
        """Map the first ``size`` bytes of an unmapped block."""
        holes = self._holes[block.small]
        if block is self._range[block.small] or size < block.size:
            rest = _Block(
                block.address + size,
                block.size - size,
                block.small,
                mapped=False,
                before=block,
                after=block.after,
            )
            if block.after is not None:
                block.after.before = rest
            self._at[rest.address] = rest
            block.after, block.size = rest, size
            if self._range[block.small] is block:
                self._range[block.small] = rest
            else:
                insort(holes, rest.address)
        if block.address in holes:
            holes.remove(block.address)
        block.mapped = True

    def _give_back(self) -> None:
        """Return to the driver what is free as a whole: segments, or pages of an expandable range."""
        before = self.reserved
        for small in (True, False):
            for _, address in list(self._free[small]):
                block = self._at[address]
                if self.expandable:
                    self._unmap(block)
                elif self._is_whole(block):
                    self._release(block)
        if self.reserved < before:
            self.reorganisations += 1
            self.returned += before - self.reserved

    def _unmap(self, block: _Block) -> None:
        """Unmap the whole pages inside a free block; it falls into up to three."""
        page = SMALL_SEGMENT if block.small else LARGE_SEGMENT
        base = 0 if block.small else 2**60
        low = base + -(-(block.address - base) // page) * page
        high = base + (block.address + block.size - base) // page * page
        if high <= low:
            return
        self._forget(block)
        end = block.address + block.size
        pieces = [(block.address, low, True), (low, high, False), (high, end, True)]
        previous, after = block.before, block.after
        del self._at[block.address]
        for begin, finish, mapped in pieces:
            if begin == finish:
                continue
            piece = _Block(begin, finish - begin, block.small, mapped=mapped, before=previous)
            if previous is not None:
                previous.after = piece
            self._at[begin] = piece
            if mapped:
                self._offer(piece)
            previous = piece
        assert previous is not None
        previous.after = after
        if after is not None:
            after.before = previous
        self._merge_holes(self._at[low])
        self.reserved -= high - low
        self.driver_frees += (high - low) // page

    def _merge_holes(self, hole: _Block) -> None:
        """An unmapped block joins unmapped neighbours; the end of the range stays the end."""
        holes = self._holes[hole.small]
        if hole.before is not None and not hole.before.mapped:
            holes.remove(hole.before.address)
            hole = self._join(hole.before, hole)
        after = hole.after
        if after is not None and not after.mapped:
            last = self._range[hole.small] is after
            if not last:
                holes.remove(after.address)
            hole = self._join(hole, after)
            if last:
                self._range[hole.small] = hole
                return
        insort(holes, hole.address)
