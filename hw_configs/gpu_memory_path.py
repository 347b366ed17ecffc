"""The way from a GPU's multiprocessors to its memory: caches in sectors, slices of the L2, translation.

Part of an architecture (:mod:`hw_configs.gpu_architecture`): sizes of L1 and L2 stand in device files, all else that
chips of a generation share stands here. Makers publish little of it; figures come from microbenchmarks. What is left
out takes the values below, which are assumptions: those of most generations from Volta on.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hw_configs.config import Config, Count, Efficiency, Fault, Size, refuse

__all__ = ["GpuMemoryPath"]

Ways = Annotated[int, Field(ge=1, le=64)]


class GpuMemoryPath(Config):
    """Latencies are load-to-use clocks of the whole way, not of one step."""

    line: Size = 128.0
    """Bytes that a tag of L1 and L2 stands for."""
    sector: Size = 32.0
    """Bytes that are fetched, valid and written back by themselves."""
    l1_ways: Ways = 16
    """Microbenchmarks find few sets of many ways; hashed sets of sixteen stand for them."""
    l1_latency: Count = 38
    l1_bytes_per_clock: Count = 128
    """Of one multiprocessor."""
    store: Literal["through", "back"] = "through"
    """Whether stores that hit the L1 go on to the L2 at once. None brings a line into the L1."""
    outstanding: Annotated[int, Field(ge=1, le=65536)] = 1024
    """Sectors that one multiprocessor waits for at a time."""
    l2_ways: Ways = 16
    l2_latency: Count = 262
    slice_size: Size = 524288.0
    """Bytes of one slice of the L2, each with a port of its own; slices are chosen by a hash of the line."""
    slice_bytes_per_clock: Count = 64
    persisting: Efficiency = 0.75
    """Share of the L2's ways that lines of a persisting window may hold against others."""
    page: Size = 2097152.0
    tlb_entries: Annotated[int, Field(ge=1, le=4096)] = 16
    """Pages that one multiprocessor's first buffer translates; the least recently used gives way."""
    l2_tlb_entries: Count = 4096
    l2_tlb_ways: Ways = 8
    tlb_latency: Count = 60
    """Clocks that the second buffer adds."""
    walk_latency: Count = 400
    """Clocks that a walk of the page table adds, its entries mostly in the L2."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        faults: list[Fault | None] = []
        for name, least, most in (("sector", 16, 128), ("line", 32, 1024), ("page", 4096, 2**30)):
            value = int(getattr(self, name))
            if value & (value - 1) or not least <= value <= most:
                faults.append(((name,), f"found {value} bytes; expected a power of two of {least} to {most}"))
        refuse(*faults)
        sectors = int(self.line) // int(self.sector)
        if not 1 <= sectors <= 4:
            faults.append((("line",), f"expected 1 to 4 sectors of {int(self.sector)} bytes"))
        if self.line > self.page:
            faults.append((("page",), "a page is no smaller than a line"))
        if int(self.slice_size) % (int(self.line) * self.l2_ways):
            faults.append(
                (("slice_size",), f"is no multiple of {self.l2_ways} ways of {int(self.line)} bytes")
            )
        if self.l2_latency <= self.l1_latency:
            faults.append((("l2_latency",), f"is not above the {self.l1_latency} clocks of the L1"))
        if self.l2_tlb_entries % self.l2_tlb_ways:
            faults.append((("l2_tlb_ways",), f"{self.l2_tlb_entries} entries are no multiple of them"))
        refuse(*faults)
        return self
