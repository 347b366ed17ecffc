"""What a run through a GPU's memory path found, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from hw_configs.problems import PhysicsError
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.dram.result import DramResult
from simulator.page_cache.unified_engine import UnifiedResult

__all__ = ["GpuMemoryResult", "Stretch"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the trace: accesses, sectors asked and found by level, bytes of memory, seconds, and what bound it."""

    accesses: int
    l1_sectors: int
    l1_hits: int
    l2_sectors: int
    l2_hits: int
    memory_bytes: int
    seconds: float
    bound: str

    def with_(self, other: Stretch) -> Stretch:
        """Two stretches that follow one another as one; the longer says what bound it."""
        longer = self if self.seconds >= other.seconds else other
        return Stretch(
            self.accesses + other.accesses, self.l1_sectors + other.l1_sectors, self.l1_hits + other.l1_hits,
            self.l2_sectors + other.l2_sectors, self.l2_hits + other.l2_hits, self.memory_bytes + other.memory_bytes,
            self.seconds + other.seconds, longer.bound,
        )  # fmt: skip


@dataclass(frozen=True)
class GpuMemoryResult(Shown):
    """One run. Sectors are counted where they are looked up; bytes are those that cross the boundary.

    ``far_hit_sectors``: found in the partition of the L2 beyond the near one. ``filled_sectors``: read because a
    store covered a part. ``dirty_sectors``: still to be written when the trace ended, in L1s and L2. ``bound_s``:
    seconds by what decided them. ``dram``: the memory behind, command by command; ``unified``: pages that moved from
    the host.
    """

    device: str
    trace: str
    accesses: int
    loads: int
    stores: int
    atomics: int
    lines: int
    asked_bytes: int
    sector_bytes: int
    l1_bytes: int
    l1_sectors: int
    l1_hit_sectors: int
    l1_evicted_lines: int
    stored_sectors: int
    l2_read_sectors: int
    l2_hit_sectors: int
    far_hit_sectors: int
    l2_write_sectors: int
    l2_write_hit_sectors: int
    l2_evicted_lines: int
    persisting_hit_sectors: int
    filled_sectors: int
    read_sectors: int
    written_sectors: int
    dirty_sectors: int
    tlb_looks: int
    tlb_misses: int
    walks: int
    link_requests: int
    link_bytes: int
    link_wire_bytes: int
    seconds: float
    peak_bytes_per_s: float
    bound_s: dict[str, float]
    stretches: tuple[Stretch, ...]
    dram: DramResult | None = None
    unified: UnifiedResult | None = None
    interrupted: bool = False

    @property
    def time_s(self) -> float:
        """Seconds: of the memory path, or of what stands behind it where that is longer; moving pages comes to it."""
        behind = self.dram.time_s if self.dram is not None else 0.0
        moved = self.unified.batch_s + self.unified.move_s if self.unified is not None else 0.0
        return max(self.seconds, behind) + moved

    @property
    def l1_hit_rate(self) -> float:
        """Of sectors that loads ask."""
        return self.l1_hit_sectors / self.l1_sectors if self.l1_sectors else 0.0

    @property
    def l2_hit_rate(self) -> float:
        """Of sectors read, in any partition."""
        found = self.l2_hit_sectors + self.far_hit_sectors
        return found / self.l2_read_sectors if self.l2_read_sectors else 0.0

    @property
    def l2_bytes(self) -> int:
        """Between the multiprocessors and the L2."""
        return (self.l2_read_sectors + self.l2_write_sectors) * self.sector_bytes

    @property
    def memory_read_bytes(self) -> int:
        """From memory."""
        return self.read_sectors * self.sector_bytes

    @property
    def memory_written_bytes(self) -> int:
        """To memory; what is dirty at the end is not among them."""
        return self.written_sectors * self.sector_bytes

    @property
    def sector_efficiency(self) -> float:
        """Bytes asked for over bytes of the sectors that they touch."""
        sectors = self.l1_sectors + self.stored_sectors
        return self.asked_bytes / (sectors * self.sector_bytes) if sectors else 0.0

    @property
    def achieved_bytes_per_s(self) -> float:
        """Of memory, over the whole run."""
        moved = self.memory_read_bytes + self.memory_written_bytes
        return moved / self.time_s if self.time_s else 0.0

    def stopped(self) -> GpuMemoryResult:
        """The same, marked as interrupted."""
        return replace(self, interrupted=True)

    def check(self) -> None:
        """Hold the counts against what no memory path can do; raises ``PhysicsError``."""
        if (
            self.l1_hit_sectors > self.l1_sectors
            or self.l2_hit_sectors + self.far_hit_sectors > self.l2_read_sectors
        ):
            raise PhysicsError("more sectors were found than asked for")
        if self.read_sectors > self.l2_read_sectors + self.filled_sectors:
            raise PhysicsError("more sectors were read from memory than the L2 asked for")
        if self.written_sectors + self.dirty_sectors > self.stored_sectors:
            raise PhysicsError("more sectors were written to memory than were ever stored")
        if self.achieved_bytes_per_s > self.peak_bytes_per_s * (1 + 1e-9):
            raise PhysicsError("memory moved more than its bandwidth")

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        own = asdict(replace(self, dram=None, unified=None))
        own.pop("stretches")
        return {
            **own,
            "time_s": self.time_s,
            "l1_hit_rate": self.l1_hit_rate,
            "l2_hit_rate": self.l2_hit_rate,
            "l2_bytes": self.l2_bytes,
            "memory_read_bytes": self.memory_read_bytes,
            "memory_written_bytes": self.memory_written_bytes,
            "sector_efficiency": self.sector_efficiency,
            "achieved_bytes_per_s": self.achieved_bytes_per_s,
            "timeline": [asdict(stretch) for stretch in self.stretches],
            "dram": self.dram.as_json() if self.dram is not None else None,
            "unified": self.unified.as_json() if self.unified is not None else None,
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """Levels, boundaries and time; then what stands behind."""
        tables = [self._levels(), self._boundaries()]
        for behind in (self.dram, self.unified):
            if behind is not None:
                tables += behind.shown_tables()
        return tuple(tables)

    def _levels(self) -> Table:
        r = self
        near_misses = r.l2_read_sectors - r.l2_hit_sectors
        looks = (
            ("L1 (loads)", r.l1_sectors, r.l1_hit_sectors),
            ("L2, near partition", r.l2_read_sectors, r.l2_hit_sectors),
            ("L2, far partition", near_misses, r.far_hit_sectors),
            ("L2 (stores)", r.l2_write_sectors, r.l2_write_hit_sectors),
            ("translation buffer", r.tlb_looks, r.tlb_looks - r.tlb_misses),
        )
        rows = tuple(
            (name, f"{asked:,}", f"{found:,}", f"{found / asked:.2%}" if asked else "-")
            for name, asked, found in looks
        )
        asked = _size(r.asked_bytes)
        title = f"{r.trace} on {r.device}: {r.accesses:,} accesses, {r.lines:,} lines, {asked} asked"
        return Table(title, ("level", "sectors", "found", "share"), rows)

    def _boundaries(self) -> Table:
        r = self
        filled, dirty = _size(r.filled_sectors * r.sector_bytes), _size(r.dirty_sectors * r.sector_bytes)
        rows = [
            ("L1 to L2", _size(r.l2_bytes), f"sector efficiency {r.sector_efficiency:.1%}"),
            ("memory read", _size(r.memory_read_bytes), f"{filled} for stores of parts"),
            ("memory written", _size(r.memory_written_bytes), f"{dirty} still dirty"),
            ("walks of the page table", f"{r.walks:,}", ""),
        ]
        if r.link_bytes:
            wire = f"{r.link_requests:,} reads, {_size(r.link_wire_bytes)} with headers"
            rows.append(("over the link", _size(r.link_bytes), wire))
        parts = [f"{name} {part / r.seconds:.0%}" for name, part in r.bound_s.items() if part]
        achieved = format_quantity(r.achieved_bytes_per_s, "bandwidth")
        rows += [
            ("time", format_quantity(r.time_s, "time"), f"bound by {', '.join(parts)}" if parts else ""),
            ("memory bandwidth", achieved, f"{r.achieved_bytes_per_s / r.peak_bytes_per_s:.1%} of the peak"),
        ]
        return Table("boundaries", ("", "value", ""), tuple(rows))


def _size(count: int) -> str:
    return format_quantity(count, "size")
