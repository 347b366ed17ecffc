"""Requests cut at the transactions of a memory: 64 bytes are two bursts where a burst moves 32.

A request that names its size covers the bytes from its address on. One that names none is a line of a cache, which
holds the address wherever in the line that is. The bursts of a request come one behind the other, all at its cycle.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hw_configs.whole_number import INT64_MOST
from workloads.memory_trace.trace import MemoryTrace, Period, Requests

__all__ = ["SplitTrace"]

Ints = npt.NDArray[np.int64]


class SplitTrace:
    """A trace as bursts of ``transaction_bytes``; ``taken`` counts the trace's own requests as they are read."""

    def __init__(self, trace: MemoryTrace, transaction_bytes: int, request_bytes: int) -> None:
        self.trace = trace
        self.transaction = transaction_bytes
        self.request = request_bytes
        self.taken = 0

    @property
    def name(self) -> str:
        """The trace's name."""
        return self.trace.name

    @property
    def count(self) -> int | None:
        """Only reading to the end tells."""
        return None

    @property
    def period(self) -> Period | None:
        """None is known."""
        return None

    def chunks(self, size: int) -> Iterator[Requests]:
        """Bursts in order, some ``size`` at a time."""
        for requests in self.trace.chunks(size):
            if not requests.size.size and self.request <= self.transaction:
                self.taken += requests.address.size
                yield requests
                continue
            first, bursts = self._bursts(requests)
            ends = np.cumsum(bursts)
            start = 0
            while start < ends.size:
                done = int(ends[start - 1]) if start else 0
                stop = max(int(np.searchsorted(ends, done + size, side="right")), start + 1)
                self.taken += stop - start
                yield self._cut(requests, first, bursts, slice(start, stop))
                start = stop

    def _bursts(self, requests: Requests) -> tuple[Ints, Ints]:
        """The first transaction of each request, and how many it covers."""
        address = requests.address
        if requests.size.size:
            first = address // self.transaction
            return first, (address % self.transaction + requests.size - 1) // self.transaction + 1
        line = max(self.request, self.transaction)
        first = address // line * (line // self.transaction)
        return first, np.full(address.size, line // self.transaction, np.int64)

    def _cut(self, requests: Requests, first: Ints, bursts: Ints, part: slice) -> Requests:
        many = bursts[part]
        ends = np.cumsum(many)
        within = np.arange(int(ends[-1]), dtype=np.int64) - np.repeat(ends - many, many)
        number = np.minimum(np.repeat(first[part], many) + within, INT64_MOST // self.transaction)
        arrival = requests.arrival
        if arrival.size:
            arrival = np.repeat(arrival[part], many)
        return Requests(number * self.transaction, np.repeat(requests.write[part], many), arrival)
