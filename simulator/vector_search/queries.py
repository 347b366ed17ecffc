"""Queries in flight: a loop that keeps a number of them going, each through its rounds of work and reads.

A query's next round begins when the slowest read of the last one is back and a server is free; servers take rounds
in the order in which these became ready. A new query takes the place of one that is done.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from hw_configs.problems import PhysicsError
from simulator.vector_search.drives import FOREVER, Completion, Submission

__all__ = ["Load", "QueryTimes", "Store", "run_queries"]

Ints = npt.NDArray[np.int64]
READY: Final = 0
ASK: Final = 1


class Store(Protocol):
    """Whatever answers reads: drives, or a rule of a test."""

    def submit(self, asked: Submission) -> None:
        """Take reads at their time, which is never before what was told already."""
        ...

    def completions(self, horizon: int) -> list[Completion]:
        """The completions of the next moment that has any, up to ``horizon`` ns; empty if there are none."""
        ...


@dataclass(frozen=True)
class Load:
    """Queries of one shape. ``work_ns``: server time of each round, one more than rounds with reads.

    ``reads`` gives what a query asks in a round, at a time.
    """

    queries: int
    in_flight: int
    servers: int
    work_ns: Sequence[int]
    reads: Callable[[int, int, int], Submission]


@dataclass(frozen=True)
class QueryTimes:
    """When queries began and were answered, in ns; ``in_flight_ns``: queries in flight summed over time."""

    began: Ints
    ended: Ints
    in_flight_ns: int
    served_ns: int

    @property
    def latency(self) -> Ints:
        """From a query's begin to its answer, in ns."""
        return self.ended - self.began

    @property
    def time_ns(self) -> int:
        """To the last answer."""
        return int(self.ended.max())

    def check(self) -> None:
        """Little's law, exactly: what was counted in flight over time is the sum of all latencies."""
        total = int(self.latency.sum())
        if total != self.in_flight_ns:
            raise PhysicsError(f"latencies sum to {total} ns, queries in flight to {self.in_flight_ns} ns")


class _Loop:
    """The state of a run."""

    def __init__(self, load: Load, store: Store | None) -> None:
        self.load, self.store = load, store
        self.events: list[tuple[int, int, int, int]] = []
        self.free = [0] * max(load.servers, 1)
        self.began = np.zeros(load.queries, np.int64)
        self.ended = np.full(load.queries, -1, np.int64)
        self.round = [0] * load.queries
        self.left = [0] * load.queries
        self.next = self.sequence = self.flying = self.area = self.at = 0

    def push(self, now: int, kind: int, query: int) -> None:
        heapq.heappush(self.events, (now, self.sequence, kind, query))
        self.sequence += 1

    def move(self, now: int) -> None:
        """Time goes on; what is in flight counts."""
        self.area += self.flying * (now - self.at)
        self.at = now

    def begin(self, now: int) -> None:
        if self.next < self.load.queries:
            self.began[self.next] = now
            self.push(now, READY, self.next)
            self.next += 1
            self.flying += 1

    def serve(self, now: int, query: int) -> None:
        """A server takes the query's round."""
        start = max(now, heapq.heappop(self.free))
        end = start + self.load.work_ns[self.round[query]]
        heapq.heappush(self.free, end)
        self.push(end, ASK, query)

    def ask(self, now: int, query: int) -> None:
        """The round's work is done: its reads go out, or the query is answered."""
        number = self.round[query]
        if number == len(self.load.work_ns) - 1:
            self.ended[query] = now
            self.flying -= 1
            self.begin(now)
            return
        self.round[query] += 1
        asked = self.load.reads(query, number, now)
        self.left[query] = len(asked.size)
        if self.store is None:
            raise PhysicsError("a query reads, and there is nothing to read from")
        self.store.submit(asked)

    def back(self, completion: Completion) -> None:
        self.left[completion.owner] -= 1
        if not self.left[completion.owner]:
            self.push(completion.now, READY, completion.owner)


def run_queries(load: Load, store: Store | None) -> QueryTimes:
    """Run all queries to their answers; the times are exact for what the store answers (None: nothing is read)."""
    loop = _Loop(load, store)
    for _ in range(min(load.in_flight, load.queries)):
        loop.begin(0)
    while True:
        horizon = loop.events[0][0] if loop.events else FOREVER
        for completion in store.completions(horizon) if store is not None else []:
            loop.move(completion.now)
            loop.back(completion)
            horizon = -1
        if horizon < 0:
            continue
        if not loop.events:
            break
        now, _, kind, query = heapq.heappop(loop.events)
        loop.move(now)
        (loop.serve if kind == READY else loop.ask)(now, query)
    if int(loop.ended.min()) < 0:
        raise PhysicsError("a query waits for reads that never come back")
    times = QueryTimes(loop.began, loop.ended, loop.area, sum(load.work_ns) * load.queries)
    times.check()
    return times
