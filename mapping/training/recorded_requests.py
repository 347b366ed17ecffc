"""A recording of device memory, replayed as requests to an allocator: what would another allocator have reserved?

Each block is asked for when its life begins and freed when it ends. Segments from before the recording stand as they
were found, with their blocks; blocks from before it whose segment is not known are asked for first, by address. The
caching allocator keeps pools of its own for every stream (:mod:`mapping.training.caching_allocator`); with planned
addresses every block has one place, solved beforehand, and streams share the arena. Only the order of requests is
known, not what the framework would have done otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mapping.allocation.pytorch_snapshot import EarlierSegment, Stay
from mapping.training.allocator_conf import DEFAULT_CONF, AllocatorConf
from mapping.training.caching_allocator import CachingAllocator, DeviceOutOfMemoryError

__all__ = ["AllocatorUse", "Found", "Request", "found_segments", "requests_of", "serve_requests"]

EARLIER: Final = -1
"""Sorts before every moment of a recording."""


@dataclass(frozen=True, slots=True)
class Request:
    """A malloc of ``size`` bytes for block ``block``, or its free when ``size`` is None."""

    block: int
    size: int | None
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A segment that was there: its bytes, and of each block in it its number, offset and bytes."""

    size: int
    stream: int
    blocks: tuple[tuple[int, int, int], ...]


def found_segments(segments: Iterable[EarlierSegment], stays: Sequence[Stay]) -> list[Found]:
    """Segments from before a recording with the blocks that lived in them, numbered as in ``stays``."""
    earlier = sorted(
        (stay.address, number) for number, stay in enumerate(stays) if stay.earlier and stay.size
    )
    found: list[Found] = []
    place = 0
    for segment in segments:
        own: list[tuple[int, int, int]] = []
        while place < len(earlier) and earlier[place][0] < segment.address + segment.size:
            address, number = earlier[place]
            place += 1
            if address >= segment.address:
                own.append((number, address - segment.address, stays[number].size))
        found.append(Found(segment.size, segment.stream, tuple(own)))
    return found


@dataclass(frozen=True, slots=True)
class AllocatorUse:
    """What an allocator held over a replay, in bytes, and what it asked of the driver.

    ``requested_peak`` is the most that the blocks themselves asked for at once, ``allocated_peak`` the most in blocks
    as the allocator rounds and splits them, ``reserved_peak`` the most taken from the driver. ``failed`` is the block
    whose request found no memory, where the replay ended; None when every request was served.
    """

    requested_peak: int
    allocated_peak: int
    reserved_peak: int
    reserved_end: int
    driver_mallocs: int
    driver_frees: int
    reorganisations: int
    failed: int | None = None
    failed_size: int = 0


def requests_of(
    lives: Iterable[tuple[int, int, int]], streams: Sequence[int] = (), earlier: int = 0
) -> list[Request]:
    """The requests of blocks given as (first moment, end, bytes), in order of time; frees come before mallocs.

    The first ``earlier`` blocks were there before the first moment. A block without a moment or a byte asks nothing.
    """
    steps: list[tuple[int, int, int, Request]] = []
    for block, (lower, upper, size) in enumerate(lives):
        if lower >= upper or size == 0:
            continue
        stream = streams[block] if streams else 0
        begins = EARLIER if block < earlier else lower
        steps.append((begins, 1, block, Request(block, size, stream)))
        steps.append((upper, 0, block, Request(block, None, stream)))
    # What lives to the end is not freed: the recording ends while it is in use.
    last = max((step[0] for step in steps), default=0)
    steps.sort(key=lambda step: step[:3])
    return [request for time, _, _, request in steps if request.size is not None or time < last]


def serve_requests(
    requests: Iterable[Request],
    *,
    expandable: bool = False,
    capacity: int | None = None,
    conf: AllocatorConf = DEFAULT_CONF,
    found: Iterable[Found] = (),
) -> AllocatorUse:
    """Serve requests with the caching allocator, one for each stream; a ``capacity`` is for a single stream.

    ``found``: segments that are there at the beginning; their blocks' requests have been served.
    """
    allocators: dict[int, CachingAllocator] = {}
    held: dict[int, tuple[int, int]] = {}
    for segment in found:
        allocator = allocators.setdefault(segment.stream, CachingAllocator(capacity, expandable, conf))
        addresses = allocator.found(segment.size, [(offset, size) for _, offset, size in segment.blocks])
        for (block, _, size), address in zip(segment.blocks, addresses, strict=True):
            held[block] = address, size
    served = frozenset(held)
    requested = requested_peak = sum(size for _, size in held.values())
    allocated_peak = sum(one.allocated for one in allocators.values())
    reserved_peak = sum(one.reserved for one in allocators.values())
    failed, failed_size = None, 0
    for request in requests:
        if request.size is not None and request.block in served:
            continue
        allocator = allocators.setdefault(request.stream, CachingAllocator(capacity, expandable, conf))
        if request.size is None:
            address, size = held.pop(request.block)
            allocator.free(address)
            requested -= size
            continue
        try:
            held[request.block] = allocator.malloc(request.size), request.size
        except DeviceOutOfMemoryError:
            failed, failed_size = request.block, request.size
            break
        requested += request.size
        requested_peak = max(requested_peak, requested)
        allocated_peak = max(allocated_peak, sum(one.allocated for one in allocators.values()))
        reserved_peak = max(reserved_peak, sum(one.reserved for one in allocators.values()))
    each = allocators.values()
    return AllocatorUse(
        requested_peak, allocated_peak, reserved_peak, sum(one.reserved for one in each),
        sum(one.driver_mallocs for one in each), sum(one.driver_frees for one in each),
        sum(one.reorganisations for one in each), failed, failed_size,
    )  # fmt: skip
