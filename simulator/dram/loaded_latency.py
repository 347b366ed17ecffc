"""Latency under load: a trace offered at a share of what the pins carry, from nearly idle to all they have.

Requests come at a steady pace, whatever cycles the trace names. Latency counts from the tick at which the controller
takes a request to its last data; where more is offered than the memory gives, requests wait before that as well, and
the achieved bandwidth stays below the offered one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from simulator.dram.channel_run import Memory, RunOptions
from simulator.dram.engine import simulate_trace
from simulator.dram.result import LoadPoint
from workloads.memory_trace.trace import MemoryTrace, Period, Requests

__all__ = ["LOADS", "latency_curve"]

LOADS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Shares of the pins' bandwidth that are offered."""


@dataclass(frozen=True)
class _Paced:
    """A trace whose requests come ``ticks`` apart."""

    trace: MemoryTrace
    ticks: float

    @property
    def name(self) -> str:
        return self.trace.name

    @property
    def count(self) -> int | None:
        return self.trace.count

    @property
    def period(self) -> Period | None:
        return None

    def chunks(self, size: int) -> Iterator[Requests]:
        done = 0
        for requests in self.trace.chunks(size):
            arrival = np.floor((done + np.arange(requests.address.size)) * self.ticks).astype(np.int64)
            done += requests.address.size
            yield requests._replace(arrival=arrival)


def latency_curve(
    memory: Memory, trace: MemoryTrace, options: RunOptions, loads: tuple[float, ...] = LOADS
) -> tuple[LoadPoint, ...]:
    """Bandwidth and read latency of a trace at each load; Ctrl-C ends it with the points so far.

    Raises what a run raises.
    """
    channel = memory.channel
    burst = channel.transaction_bytes / (channel.peak_bytes_per_s * memory.channels * channel.tick_s)
    points: list[LoadPoint] = []
    quiet = replace(options, use_arrivals=True, leap=False, commands=None, record=False, progress=None)
    for load in loads:
        result = simulate_trace(memory, _Paced(trace, burst / load), quiet)
        if result.interrupted:
            break
        tick = result.tick_s
        points.append(
            LoadPoint(
                load, load * result.peak_bytes_per_s, result.bandwidth_bytes_per_s, result.read_latency_mean * tick,
                result.read_latency(0.5) * tick, result.read_latency(0.99) * tick,
            )
        )  # fmt: skip
    return tuple(points)
