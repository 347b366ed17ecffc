"""What a cache trace is: requests for objects in order, handed out in bounded chunks.

A request names an object by a number, says how many bytes it has, whether it is written, and sometimes when it is
made and what was predicted of it. An object is whatever a cache keeps whole: a file, a key's value, a page, a row of a
table, an expert, an adapter. Byte ranges become requests for the objects of one size that they touch
(``split_ranges``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["MAX_OBJECT", "ArrayCacheTrace", "CacheRequests", "CacheTrace", "split_ranges"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAX_OBJECT: Final = 1 << 50
"""Bytes of one object at most."""


class CacheRequests(NamedTuple):
    """A stretch of a trace: arrays of one length; ``arrival`` and ``predicted`` are empty where the trace has none.

    ``object`` any 64-bit number, ``size`` bytes (1 and more), ``written``, ``arrival`` ns. ``predicted``: what a
    predictor said at this request, in the trace's own sense (a bit, or the number of the next request for the object).
    """

    object: Ints
    size: Ints
    written: Bools
    arrival: Ints
    predicted: Ints


class CacheTrace(Protocol):
    """Requests in order. ``count`` is None when only reading to the end would tell. A trace can be read again."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def count(self) -> int | None:
        """Number of requests."""
        ...

    def chunks(self, size: int) -> Iterator[CacheRequests]:
        """The requests from the beginning, at most ``size`` at a time."""
        ...


@dataclass(frozen=True)
class ArrayCacheTrace:
    """A trace from arrays of equal length, as in :class:`CacheRequests`; ``size``: bytes of each, or of all."""

    object: npt.ArrayLike
    size: npt.ArrayLike = 1
    written: npt.ArrayLike | None = None
    arrival: npt.ArrayLike | None = None
    predicted: npt.ArrayLike | None = None
    name: str = "arrays"

    def __post_init__(self) -> None:
        objects = np.ascontiguousarray(self.object, np.int64)
        size = np.asarray(self.size, np.int64)
        sizes = np.full(objects.shape, size) if size.ndim == 0 else np.ascontiguousarray(size)
        written = np.zeros(len(objects), np.bool_) if self.written is None else self.written
        parts = {"object": objects, "size": sizes, "written": np.ascontiguousarray(written, np.bool_)}
        for name in ("arrival", "predicted"):
            given = getattr(self, name)
            if given is not None:
                parts[name] = np.ascontiguousarray(given, np.int64)
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        lengths = {int(part.size) for part in parts.values()}
        if len(lengths) != 1:
            raise bad_input(f"found arrays of different lengths: {sorted(lengths)}", file=self.name)
        if sizes.size and not 1 <= int(sizes.min()) <= int(sizes.max()) <= MAX_OBJECT:
            raise bad_input(f"objects have 1 to {MAX_OBJECT} bytes", file=self.name)

    @property
    def count(self) -> int | None:
        """Number of requests."""
        return int(np.asarray(self.object).size)

    def chunks(self, size: int) -> Iterator[CacheRequests]:
        """Views of the arrays, at most ``size`` requests each."""
        none = np.zeros(0, np.int64)
        arrival = none if self.arrival is None else np.asarray(self.arrival)
        predicted = none if self.predicted is None else np.asarray(self.predicted)
        objects, sizes = np.asarray(self.object), np.asarray(self.size)
        for start in range(0, objects.size, size):
            part = slice(start, start + size)
            yield CacheRequests(
                objects[part], sizes[part], np.asarray(self.written)[part], arrival[part], predicted[part]
            )


def split_ranges(address: Ints, size: Ints, grain: int) -> tuple[Ints, Ints]:
    """The objects of ``grain`` bytes that byte ranges touch, in order, and the number of the range of each.

    >>> objects, ranges = split_ranges(np.array([0, 4095]), np.array([8192, 2]), 4096)
    >>> objects.tolist(), ranges.tolist()
    ([0, 1, 0, 1], [0, 0, 1, 1])
    """
    if grain < 1:
        raise ValueError(f"expected a grain of 1 byte or more; found {grain}")
    first = address // grain
    counts = (address + size - 1) // grain - first + 1
    ranges = np.repeat(np.arange(len(first), dtype=np.int64), counts)
    steps = np.arange(len(ranges), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    return first[ranges] + steps, ranges
