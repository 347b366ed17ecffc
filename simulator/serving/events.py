"""The clock of a service: what happens next, instant by instant, always in the same order.

It has SimPy's shape where :class:`simulator.link.flows.FlowNetwork` needs it (``now``, ``timeout``, ``event``), so that
transfers share wires by the same rules as those of a plan.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import IntEnum
from math import inf
from typing import Any

__all__ = ["EventLoop", "Rank"]


class Rank(IntEnum):
    """Order of what happens in one instant; within a rank, what was announced first."""

    STEP_END = 0
    FLOW = 1
    FAILURE = 2
    RETURN = 3
    SEND = 4


class _Signal:
    """An event as FlowNetwork uses it: callbacks that run when it fires."""

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.callbacks: list[Callable[[Any], None]] = []

    def succeed(self) -> None:
        """Fire in this instant."""
        self.loop.at(self.loop.now, Rank.FLOW, self.fire)

    def fire(self) -> None:
        for callback in self.callbacks:
            callback(self)


class EventLoop:
    """Actions at times. ``now`` in seconds; it never goes backwards."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, int, Callable[[], None]]] = []
        self._made = 0

    def at(self, time_s: float, rank: Rank, action: Callable[[], None]) -> None:
        """Do something at a time, in this instant at the earliest."""
        self._made += 1
        heapq.heappush(self._heap, (max(time_s, self.now), rank, self._made, action))

    def timeout(self, seconds: float) -> _Signal:
        """A signal that fires after so many seconds."""
        signal = _Signal(self)
        self.at(self.now + seconds, Rank.FLOW, signal.fire)
        return signal

    def event(self) -> _Signal:
        """A signal that somebody fires."""
        return _Signal(self)

    def run(
        self,
        over: Callable[[], bool],
        settle: Callable[[], None],
        until: Callable[[float], float] = lambda horizon: horizon,
    ) -> None:
        """Go from instant to instant until it is over or nothing is left; ``settle`` after all of an instant.

        ``until`` is told when the next thing that was announced happens (infinity: nothing was), and says which
        instant comes next: that, or an earlier one at which something happens that nobody had to announce.
        """
        heap = self._heap
        while not over():
            now = until(heap[0][0] if heap else inf)
            if now == inf:
                return
            self.now = now
            while heap and heap[0][0] == now:
                heapq.heappop(heap)[3]()
            settle()
