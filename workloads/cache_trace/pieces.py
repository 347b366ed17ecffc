"""A trace whose objects are cached in pieces of a fixed size, the last one smaller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from hw_configs.problems import bad_input
from workloads.cache_trace.trace import CacheRequests, CacheTrace

__all__ = ["Pieces"]

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
MOST_PIECES: Final = 1 << 24
"""Of the requests read at a time."""


@dataclass(frozen=True)
class Pieces:
    """The requests of another trace, each for all pieces of ``grain`` bytes of its object, in order.

    A piece's number is a mix of its object's and its place, of 64 bits: two pieces of 100 million share one with a
    chance of one in 3700. What was predicted of an object holds for its pieces.
    """

    whole: CacheTrace
    grain: int

    def __post_init__(self) -> None:
        if self.grain < 1:
            raise bad_input(f"found a grain of {self.grain} bytes; expected 1 or more", file=self.whole.name)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.whole.name

    @property
    def count(self) -> int | None:
        """Nobody knows before reading."""
        return None

    def chunks(self, size: int) -> Iterator[CacheRequests]:
        """The requests for pieces, at most ``size`` at a time."""
        for chunk in self.whole.chunks(min(size, 1 << 14)):
            counts = -(-chunk.size // self.grain)
            if float(counts.sum(dtype=np.float64)) > MOST_PIECES:
                raise bad_input(
                    f"more than {MOST_PIECES} pieces of {self.grain} bytes in {len(counts)} requests; expected a "
                    "larger grain", file=self.name,
                )  # fmt: skip
            whose = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
            place = np.arange(len(whose), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
            left = chunk.size[whose] - place * self.grain
            mixed = (chunk.object[whose].view(np.uint64) * _MIX) ^ (
                chunk.object[whose].view(np.uint64) >> np.uint64(29)
            )
            found = CacheRequests(
                (mixed + place.astype(np.uint64)).view(np.int64), np.minimum(left, self.grain), chunk.written[whose],
                chunk.arrival[whose] if len(chunk.arrival) else chunk.arrival,
                chunk.predicted[whose] if len(chunk.predicted) else chunk.predicted,
            )  # fmt: skip
            for start in range(0, len(whose), size):
                part = slice(start, start + size)
                yield CacheRequests(
                    found.object[part],
                    found.size[part],
                    found.written[part],
                    found.arrival[part],
                    found.predicted[part],
                )
