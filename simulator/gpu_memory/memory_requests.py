"""What a GPU's caches leave of a trace for the DRAM behind them: a memory trace made while it is read.

Sectors become bursts of the memory, in order, spread evenly over the time that their stretch takes on the memory
path: the DRAM engine then says whether banks, buses and refresh can follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hw_configs.device import Gpu
from hw_configs.system import MemorySpace
from simulator.gpu_memory.engine import STRETCH, GpuMemoryRun, Requests
from simulator.gpu_memory.machine import Options
from simulator.gpu_memory.result import GpuMemoryResult
from workloads.gpu_trace.trace import GpuTrace
from workloads.memory_trace.trace import Period
from workloads.memory_trace.trace import Requests as MemoryRequests

__all__ = ["SectorTrace"]


@dataclass
class SectorTrace:
    """Requests of ``grain`` bytes, with arrivals in clocks of ``tick_s`` seconds; ``result`` once it was read."""

    gpu: Gpu
    memory: MemorySpace
    trace: GpuTrace
    options: Options
    grain: int
    tick_s: float
    result: GpuMemoryResult | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The trace and the GPU."""
        return f"{self.trace.name} behind {self.gpu.name}"

    @property
    def count(self) -> int | None:
        """Not known before the caches were run."""
        return None

    @property
    def period(self) -> Period | None:
        """None: misses do not come round."""
        return None

    def chunks(self, size: int) -> Iterator[MemoryRequests]:
        """The requests from the beginning, at most ``size`` at a time, arrivals rising."""
        run = GpuMemoryRun.begin(self.gpu, self.memory, replace(self.options, records=True))
        for accesses in self.trace.chunks(STRETCH):
            for requests in run.feed(accesses):
                made = self._bursts(requests)
                for start in range(0, made.address.size, size):
                    part = slice(start, start + size)
                    yield MemoryRequests(made.address[part], made.write[part], made.arrival[part])
        self.result = run.result(self.trace.name)
        self.result.check()

    def _bursts(self, requests: Requests) -> MemoryRequests:
        """Sectors as bursts: neighbours that one burst brings are one, wide sectors are several."""
        sector = int(self.gpu.architecture.memory_path.sector)
        address, write = requests.address, requests.write
        if sector > self.grain:
            parts = sector // self.grain
            steps = np.tile(np.arange(parts, dtype=np.int64) * self.grain, address.size)
            address, write = np.repeat(address, parts) + steps, np.repeat(write, parts)
        else:
            burst = address // self.grain
            new: npt.NDArray[np.bool_] = np.ones(burst.size, np.bool_)
            new[1:] = (burst[1:] != burst[:-1]) | (write[1:] != write[:-1])
            address, write = burst[new] * self.grain, write[new]
        begin, end = requests.begin_s / self.tick_s, requests.end_s / self.tick_s
        arrival = np.linspace(begin, end, address.size, endpoint=False).astype(np.int64)
        return MemoryRequests(address, write, arrival)
