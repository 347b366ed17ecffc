"""What a DRAM device made of the misses of a program: the DRAM engine's result with that of the caches before it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hw_configs.shown import Table
from hw_configs.units import format_quantity
from simulator.cpu_cache.result import CpuCacheResult
from simulator.dram.result import DramResult

__all__ = ["CachedDramResult", "with_caches"]


@dataclass(frozen=True)
class CachedDramResult(DramResult):
    """The memory's run, and the caches' that made its requests."""

    caches: CpuCacheResult | None = None

    @property
    def cpu_cycles(self) -> float:
        """Clocks of the CPU until memory had served everything, and its instructions could have run."""
        if self.caches is None:
            return 0.0
        return max(self.time_s * self.caches.clock_hz, self.caches.work_cycles)

    def as_json(self) -> dict[str, Any]:
        """Plain data of both."""
        caches = self.caches.as_json() if self.caches is not None else None
        return {**super().as_json(), "cpu_cycles": self.cpu_cycles, "caches": caches}

    def shown_tables(self) -> tuple[Table, ...]:
        """The memory's run, then the caches'."""
        if self.caches is None:
            return super().shown_tables()
        own = super().shown_tables()
        time = format_quantity(self.cpu_cycles / self.caches.clock_hz, "time")
        row = ("CPU cycles", f"{self.cpu_cycles:,.0f}", f"{time} with this memory")
        first = Table(own[0].title, own[0].columns, (*own[0].rows, row))
        return (first, *own[1:], *self.caches.shown_tables()[1:])


def with_caches(result: DramResult, caches: CpuCacheResult | None) -> CachedDramResult:
    """The same run with what the caches counted."""
    own = {field.name: getattr(result, field.name) for field in fields(result)}
    return CachedDramResult(**own, caches=caches)
