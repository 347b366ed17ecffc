"""What the caches of a CPU leave of a program for the DRAM behind them: a memory trace made while it is read.

Misses, prefetches, walks and write-backs become requests, in order. A request may start once the instructions before it
could have run if nothing ever missed; that memory is slower shows in its queues and in a bound on requests in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hw_configs.cpu_cache import CpuCache
from hw_configs.problems import bad_input
from simulator.cpu_cache.engine import CHUNK, CacheRun
from simulator.cpu_cache.machine import TICKS, Options
from simulator.cpu_cache.result import CpuCacheResult
from workloads.memory_trace.trace import Period, Requests
from workloads.program_trace.trace import ProgramTrace

__all__ = ["MissTrace"]


@dataclass
class MissTrace:
    """Requests of ``grain`` bytes, with arrivals in clocks of ``tick_s`` seconds; ``result`` once it was read."""

    device: CpuCache
    program: ProgramTrace
    options: Options
    placement: str
    grain: int
    tick_s: float
    result: CpuCacheResult | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.program.cores > self.device.cores:
            found = (
                f"the program runs on {self.program.cores} cores; {self.device.name} has {self.device.cores}"
            )
            raise bad_input(found, path="--copies")

    @property
    def name(self) -> str:
        """The program and the caches."""
        return f"{self.program.name} behind {self.device.name}"

    @property
    def count(self) -> int | None:
        """Not known before the caches were run."""
        return None

    @property
    def period(self) -> Period | None:
        """None: misses do not come round."""
        return None

    def chunks(self, size: int) -> Iterator[Requests]:
        """The requests from the beginning, at most ``size`` at a time, arrivals rising."""
        run = CacheRun.begin(
            self.device, replace(self.options, cores=self.program.cores, records=True), self.placement
        )
        latest = 0
        held: list[Requests] = []
        filled = 0
        for accesses in self.program.chunks(CHUNK):
            for requests in run.feed(accesses):
                timed = self._timed(requests, latest)
                latest = int(timed.arrival[-1])
                held.append(timed)
                filled += timed.address.size
            if filled >= size:
                yield from _cut(held, size)
                held, filled = [], 0
        yield from _cut(held, size)
        self.result = run.result(self.program.name)
        self.result.check()

    def _timed(self, requests: Requests, latest: int) -> Requests:
        """The requests in bursts of the memory, at its clocks, none before one that came earlier."""
        clocks = requests.arrival / TICKS / self.device.clock / self.tick_s
        arrival: npt.NDArray[np.int64] = np.maximum.accumulate(np.maximum(clocks.astype(np.int64), latest))
        line = int(self.device.line)
        parts = max(line // self.grain, 1)
        address = np.repeat(requests.address, parts)
        if parts > 1:
            address = address + np.tile(np.arange(parts, dtype=np.int64) * self.grain, requests.address.size)
        return Requests(address, np.repeat(requests.write, parts), np.repeat(arrival, parts))


def _cut(held: list[Requests], size: int) -> Iterator[Requests]:
    """Requests in pieces of at most ``size``."""
    for requests in held:
        for start in range(0, requests.address.size, size):
            part = slice(start, start + size)
            yield Requests(requests.address[part], requests.write[part], requests.arrival[part])
