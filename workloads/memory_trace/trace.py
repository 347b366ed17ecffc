"""What a memory trace is: requests in order, handed out in bounded chunks.

A request is a byte address, read or write, and sometimes the clock cycle before which it must not be offered.
A trace never holds all its requests unless it was made from arrays that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["ArrayTrace", "MemoryTrace", "Period", "Requests"]


class Requests(NamedTuple):
    """A stretch of a trace. ``arrival`` is empty when the trace names no cycles, ``size`` when it names no bytes."""

    address: npt.NDArray[np.int64]
    write: npt.NDArray[np.uint8]
    arrival: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Period:
    """The trace repeats itself: request i + ``requests`` is request i moved by ``shift_bytes``.

    ``requests`` is the shortest stretch of which this holds for every i; any multiple of it is a period too,
    with a multiple of the shift.
    """

    requests: int
    shift_bytes: int


class MemoryTrace(Protocol):
    """Requests in order. ``count`` is None when only reading to the end would tell."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def count(self) -> int | None:
        """Number of requests."""
        ...

    @property
    def period(self) -> Period | None:
        """How the trace repeats itself, if it does."""
        ...

    def chunks(self, size: int) -> Iterator[Requests]:
        """The requests from the beginning, at most ``size`` at a time; addresses are bytes."""
        ...


@dataclass(frozen=True)
class ArrayTrace:
    """A trace from arrays of equal length: addresses in bytes, writes, and arrivals in cycles (or none)."""

    address: npt.NDArray[np.int64]
    write: npt.NDArray[np.uint8]
    arrival: npt.NDArray[np.int64] | None = None
    name: str = "arrays"
    period: Period | None = None

    def __post_init__(self) -> None:
        lengths = {
            self.address.size,
            self.write.size,
            *([self.arrival.size] if self.arrival is not None else []),
        }
        if len(lengths) != 1:
            raise bad_input(f"found arrays of different lengths: {sorted(lengths)}", file=self.name)
        if self.address.size and int(self.address.min()) < 0:
            raise bad_input("found a negative address", file=self.name)

    @property
    def count(self) -> int | None:
        """Number of requests."""
        return int(self.address.size)

    def chunks(self, size: int) -> Iterator[Requests]:
        """Views of the arrays, at most ``size`` requests each."""
        none = np.zeros(0, np.int64)
        for start in range(0, self.address.size, size):
            part = slice(start, start + size)
            yield Requests(
                np.ascontiguousarray(self.address[part], np.int64),
                np.ascontiguousarray(self.write[part], np.uint8),
                none if self.arrival is None else np.ascontiguousarray(self.arrival[part], np.int64),
            )
