"""What a run through a CPU's caches found, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hw_configs.cpu_cache import CpuCache
from hw_configs.problems import PhysicsError
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.cpu_cache.machine import (
    ACCESS_CLOCKS,
    CACHES,
    CAUSES,
    EVICTED,
    EVICTED_DIRTY,
    HITS,
    INVALIDATED,
    ISSUED,
    LATE,
    MEMORY,
    MEMORY_THROUGH,
    MEMORY_WRITES,
    MISSES,
    OUTSTANDING,
    REMOTE_READS,
    TAKEN_BACK,
    TICKS,
    USEFUL,
    USELESS,
    WALK_CLOCKS,
    WALKS,
    WRITTEN_MISSED,
    WRITTEN_TO,
    Built,
    State,
)

__all__ = ["CpuCacheResult", "LevelCounts", "collect"]


@dataclass(frozen=True, slots=True)
class LevelCounts:
    """One level, all its copies together: lookups by cause, and lines that came and went.

    ``prefetches`` were asked for by this level's own prefetcher: ``useful`` ones were used (``late``: before their data
    was there), ``useless`` ones left unused.
    """

    hits: dict[str, int]
    misses: dict[str, int]
    written_to: int = 0
    written_to_missing: int = 0
    evicted: int = 0
    written_back: int = 0
    taken_back: int = 0
    invalidated: int = 0
    prefetches: int = 0
    useful: int = 0
    late: int = 0
    useless: int = 0

    @property
    def lookups(self) -> int:
        """Of programs: loads, stores and fetches."""
        return sum(self.hits[cause] + self.misses[cause] for cause in CAUSES[:3])

    @property
    def program_misses(self) -> int:
        """Of loads, stores and fetches."""
        return sum(self.misses[cause] for cause in CAUSES[:3])

    @property
    def miss_rate(self) -> float:
        """Of the program's lookups at this level."""
        return self.program_misses / self.lookups if self.lookups else 0.0


@dataclass(frozen=True)
class CpuCacheResult(Shown):
    """One run. ``levels`` by name, translation buffers among them; lines and bytes are those of all cores.

    ``mean_access_clocks``: average memory access time of a line's access, walks included. ``cycles``: of the core that
    took longest, while misses wait one behind another in so many places as are outstanding; never below what the
    bandwidth of memory allows.
    """

    device: str
    trace: str
    accesses: int
    instructions: int
    line_bytes: int
    levels: dict[str, LevelCounts]
    memory_reads: dict[str, int]
    memory_writes: int
    memory_writes_through: int
    remote_reads: int
    walks: int
    walk_clocks: int
    lookups: int
    access_clocks: int
    stalled_cycles: float
    work_cycles: float
    """Of the core with the most instructions, if nothing ever missed."""
    clock_hz: float
    bandwidth_bytes_per_s: float
    outstanding_bytes_per_s: float
    """What misses in flight of the cores that ran can bring: their bytes over the latency of memory."""
    interrupted: bool = False

    @property
    def memory_read_lines(self) -> int:
        """Lines read from memory, prefetches and walks included."""
        return sum(self.memory_reads.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes over the pins of memory."""
        return (self.memory_read_lines + self.memory_writes + self.memory_writes_through) * self.line_bytes

    @property
    def mean_access_clocks(self) -> float:
        """Clocks from an access to its data, on average."""
        return self.access_clocks / self.lookups if self.lookups else 0.0

    @property
    def bandwidth_cycles(self) -> float:
        """Clocks that memory needs for its bytes."""
        return self.memory_bytes / self.bandwidth_bytes_per_s * self.clock_hz

    @property
    def cycles(self) -> float:
        """Clocks of the run."""
        return max(self.stalled_cycles, self.bandwidth_cycles)

    @property
    def time_s(self) -> float:
        """Seconds of the run."""
        return self.cycles / self.clock_hz

    def stopped(self) -> CpuCacheResult:
        """The same, marked as interrupted."""
        return replace(self, interrupted=True)

    def check(self) -> None:
        """Hold the counts against what no cache can do; raises ``PhysicsError``."""
        for name, level in self.levels.items():
            if level.useful + level.useless > level.prefetches:
                raise PhysicsError(f"{name}: more prefetched lines were used or dropped than asked for")
            if level.late > level.useful:
                raise PhysicsError(f"{name}: more prefetches were late than useful")
            if level.written_back > level.evicted:
                raise PhysicsError(f"{name}: more lines were written back than gave way")
        if self.remote_reads > self.memory_read_lines:
            raise PhysicsError("more lines came from other nodes than from memory")

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        levels = {
            name: {**asdict(level), "lookups": level.lookups, "miss_rate": level.miss_rate}
            for name, level in self.levels.items()
        }
        return {
            "device": self.device,
            "trace": self.trace,
            "accesses": self.accesses,
            "instructions": self.instructions,
            "line_bytes": self.line_bytes,
            "levels": levels,
            "memory": {
                "reads": self.memory_reads,
                "read_lines": self.memory_read_lines,
                "write_back_lines": self.memory_writes,
                "write_through_stores": self.memory_writes_through,
                "remote_lines": self.remote_reads,
                "local_lines": self.memory_read_lines - self.remote_reads,
                "bytes": self.memory_bytes,
            },
            "page_walks": self.walks,
            "page_walk_cycles": self.walk_clocks,
            "mean_access_cycles": self.mean_access_clocks,
            "mean_access_ns": self.mean_access_clocks / self.clock_hz * 1e9,
            "stalled_cycles": self.stalled_cycles,
            "work_cycles": self.work_cycles,
            "bandwidth_cycles": self.bandwidth_cycles,
            "cycles": self.cycles,
            "time_s": self.time_s,
            "bandwidth_bytes_per_s": self.memory_bytes / self.time_s if self.time_s else 0.0,
            "peak_bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "outstanding_bandwidth_bytes_per_s": self.outstanding_bytes_per_s,
            "interrupted": self.interrupted,
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """The run, and its levels."""
        return _run_table(self), _level_table(self)


def _run_table(r: CpuCacheResult) -> Table:
    ns = r.mean_access_clocks / r.clock_hz * 1e9
    achieved = r.memory_bytes / r.time_s if r.time_s else 0.0
    peak, flight = (
        format_quantity(x, "bandwidth") for x in (r.bandwidth_bytes_per_s, r.outstanding_bytes_per_s)
    )
    per = ", ".join(f"{count:,} {cause}" for cause, count in r.memory_reads.items() if count)
    rows: list[tuple[object, ...]] = [
        ("accesses", f"{r.accesses:,}", f"of {r.instructions:,} instructions"),
        ("access time, mean", f"{r.mean_access_clocks:.2f} clocks", f"{ns:.2f} ns"),
        (
            "cycles",
            f"{r.cycles:,.0f}",
            "bound by " + ("bandwidth" if r.cycles > r.stalled_cycles else "latency"),
        ),
        ("time", format_quantity(r.time_s, "time"), ""),
        ("lines read from memory", f"{r.memory_read_lines:,}", per),
        ("lines written back", f"{r.memory_writes:,}", f"{r.memory_writes_through:,} stores written through"),
        (
            "bandwidth",
            format_quantity(achieved, "bandwidth"),
            f"at most {peak}; misses in flight bring {flight}",
        ),
        ("page walks", f"{r.walks:,}", f"{r.walk_clocks / max(r.walks, 1):.1f} clocks each"),
    ]
    if r.remote_reads:
        rows.append(
            ("lines of other nodes", f"{r.remote_reads:,}", f"{r.remote_reads / r.memory_read_lines:.1%}")
        )
    return Table(f"{r.trace} on {r.device}", ("", "value", ""), tuple(rows))


def _level_table(r: CpuCacheResult) -> Table:
    columns = ("level", "lookups", "misses", "miss rate", "per 1000 instr.", "written back", "prefetches", "useful",
               "late", "useless")  # fmt: skip
    rows = []
    for name, level in r.levels.items():
        per = level.program_misses / r.instructions * 1000 if r.instructions else 0.0
        rows.append((
            name, f"{level.lookups:,}", f"{level.program_misses:,}", f"{level.miss_rate:.2%}", f"{per:.2f}",
            f"{level.written_back:,}", f"{level.prefetches:,}", f"{level.useful:,}", f"{level.late:,}",
            f"{level.useless:,}",
        ))  # fmt: skip
    return Table("levels", columns, tuple(rows))


def _counts(row: Any) -> LevelCounts:
    return LevelCounts(
        {cause: int(row[HITS + n]) for n, cause in enumerate(CAUSES)},
        {cause: int(row[MISSES + n]) for n, cause in enumerate(CAUSES)},
        *(int(row[n]) for n in (
            WRITTEN_TO, WRITTEN_MISSED, EVICTED, EVICTED_DIRTY, TAKEN_BACK, INVALIDATED, ISSUED, USEFUL, LATE, USELESS,
        )),
    )  # fmt: skip


def collect(
    device: CpuCache, built: Built, state: State, trace: str, accesses: int, instructions: int
) -> CpuCacheResult:
    """Sum a run up."""
    rule, total = built.machine.rule, state.total
    caches = slice(0, int(rule[CACHES]))
    lookups = int(
        state.counts[caches][_first_rows(built), :][:, [0, 1, 2, MISSES, MISSES + 1, MISSES + 2]].sum()
    )
    ran = int(np.count_nonzero(state.now)) or 1
    line = int(device.line)
    in_flight = int(rule[OUTSTANDING]) * ran * line / (int(rule[MEMORY]) / device.clock)
    return CpuCacheResult(
        device=device.name,
        trace=trace,
        accesses=accesses,
        instructions=instructions,
        line_bytes=line,
        levels={name: _counts(row) for name, row in zip(built.names, state.counts, strict=True)},
        memory_reads={cause: int(total[n]) for n, cause in enumerate(CAUSES)},
        memory_writes=int(total[MEMORY_WRITES]),
        memory_writes_through=int(total[MEMORY_THROUGH]),
        remote_reads=int(total[REMOTE_READS]),
        walks=int(total[WALKS]),
        walk_clocks=int(total[WALK_CLOCKS]),
        lookups=lookups,
        access_clocks=int(total[ACCESS_CLOCKS]),
        stalled_cycles=float(state.now.max()) / TICKS,
        work_cycles=float(state.program.max()) / TICKS,
        clock_hz=device.clock,
        bandwidth_bytes_per_s=device.main_memory.bandwidth,
        outstanding_bytes_per_s=in_flight,
    )


def _first_rows(built: Built) -> list[int]:
    return [n for n, name in enumerate(built.names) if name in ("l1i", "l1d")]
