"""A core of many in-order threads with a scratchpad and atomics: latency is hidden by threads, not by caches.

Pipelines issue one instruction a clock and take their threads in turn. A thread waits for each load. The scratchpad
serves a number of accesses a clock, read-modify-writes among them; memory is read and written in its own granule, which
may be much smaller than a cache line.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hw_configs.config import Bandwidth, Config, Count, Frequency, Size, Time, refuse

__all__ = ["ManyThreads"]


class ManyThreads(Config):
    """One such core, or several that share one scratchpad and one memory."""

    kind: Literal["threads"]
    name: str
    description: str = ""
    source: str = ""
    clock: Frequency
    pipelines: Annotated[int, Field(ge=1, le=4096)]
    """Each issues one instruction a clock."""
    threads_per_pipeline: Annotated[int, Field(ge=1, le=1024)]
    scratchpad: Size
    """Bytes that all threads share."""
    scratchpad_rate: Annotated[float, Field(gt=0, le=65536)]
    """Accesses a clock, atomics among them."""
    scratchpad_latency: Count
    """Clocks from an access to its result."""
    memory_bandwidth: Bandwidth
    memory_latency: Time
    """Of one read, nothing else on the way."""
    granule: Size
    """Bytes that memory moves at least, aligned."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        size = int(self.granule)
        refuse(
            (("granule",), f"{self.granule:g} B is not a power of two of at least one byte")
            if size < 1 or size != self.granule or size & (size - 1)
            else None,
        )
        return self

    @property
    def threads(self) -> int:
        """Threads of all pipelines."""
        return self.pipelines * self.threads_per_pipeline
