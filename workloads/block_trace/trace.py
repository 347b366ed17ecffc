"""What a block trace is: storage requests in order, handed out in bounded chunks.

A request is an operation, a byte address, a number of bytes and sometimes the time before which the host does
not send it. A trace never holds all its requests unless it was made from arrays that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["READ", "TRIM", "WRITE", "ArrayBlocks", "BlockRequests", "BlockTrace"]

Ints = npt.NDArray[np.int64]

READ, WRITE, TRIM = 0, 1, 3
MAX_REQUEST: Final = 1 << 30
"""Bytes of one request at most."""


class BlockRequests(NamedTuple):
    """A stretch of a trace. ``arrival`` (ns) is empty when the trace names no times."""

    operation: Ints
    address: Ints
    size: Ints
    arrival: Ints


class BlockTrace(Protocol):
    """Requests in order. ``count`` is None when only reading to the end would tell."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def count(self) -> int | None:
        """Number of requests."""
        ...

    def chunks(self, size: int) -> Iterator[BlockRequests]:
        """The requests from the beginning, at most ``size`` at a time."""
        ...


@dataclass(frozen=True)
class ArrayBlocks:
    """A trace from arrays of equal length: operation (0 read, 1 write, 3 trim), byte address, bytes, and
    arrival in ns (or none).
    """

    operation: npt.ArrayLike
    address: npt.ArrayLike
    size: npt.ArrayLike
    arrival: npt.ArrayLike | None = None
    name: str = "arrays"

    def __post_init__(self) -> None:
        parts = ["operation", "address", "size", *(["arrival"] if self.arrival is not None else [])]
        for part in parts:
            object.__setattr__(self, part, np.ascontiguousarray(getattr(self, part), np.int64))
        lengths = {int(getattr(self, part).size) for part in parts}
        if len(lengths) != 1:
            raise bad_input(f"found arrays of different lengths: {sorted(lengths)}", file=self.name)
        if not np.isin(self.operation, (READ, WRITE, TRIM)).all():
            raise bad_input("operations are 0 (read), 1 (write) and 3 (trim)", file=self.name)
        address, size = np.asarray(self.address), np.asarray(self.size)
        if size.size and (int(address.min()) < 0 or int(size.min()) < 1 or int(size.max()) > MAX_REQUEST):
            raise bad_input(
                f"addresses start at 0 and requests have 1 to {MAX_REQUEST} bytes", file=self.name
            )
        if self.arrival is not None and np.any(np.diff(np.asarray(self.arrival)) < 0):
            raise bad_input("arrivals go backwards in time", file=self.name)

    @property
    def count(self) -> int | None:
        """Number of requests."""
        return int(np.asarray(self.size).size)

    def chunks(self, size: int) -> Iterator[BlockRequests]:
        """Views of the arrays, at most ``size`` requests each."""
        none = np.zeros(0, np.int64)
        operation, address, length = (np.asarray(part) for part in (self.operation, self.address, self.size))
        arrival = none if self.arrival is None else np.asarray(self.arrival)
        for start in range(0, operation.size, size):
            part = slice(start, start + size)
            yield BlockRequests(operation[part], address[part], length[part], arrival[part])
