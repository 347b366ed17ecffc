"""What a run through an operating system's page cache found, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hw_configs.problems import PhysicsError
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.flash.result import DriveResult
from simulator.page_cache.state import (
    ACTIVATED,
    AHEAD_READ,
    BACKGROUND_WRITTEN,
    DIRTY_SIZE,
    EVICTED,
    EXPIRED,
    FAULTS,
    FRESH,
    HITS,
    RECLAIMED,
    REFAULTS,
    THROTTLED,
    TOUCHES,
    USEFUL,
    USELESS,
    CachePolicy,
    PageState,
)

__all__ = ["PageCacheResult", "collect_pages"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PageCacheResult(Shown):
    """One run; counts are pages. ``faults`` waited for the drive's read; ``hits`` were in memory or on their way.

    ``ahead_pages`` were read with a fault or at a marker without having been asked for. Writing back has four
    causes: the background threshold, a writer above the hard one, age, and room for other pages.
    """

    drive: str
    trace: str
    page_bytes: int
    touches: int
    hits: int
    faults: int
    written_whole: int
    ahead_pages: int
    useful_pages: int
    useless_pages: int
    evicted: int
    refaults: int
    activated: int
    written_back: dict[str, int]
    left_dirty: int
    time_s: float
    read_stall_s: float
    late_stall_s: float
    write_stall_s: float
    late_waits: int
    drive_time_s: float
    drive_reads: int
    drive_writes: int

    @property
    def read_bytes(self) -> int:
        """Bytes read from the drive: asked for, and ahead."""
        return (self.faults + self.ahead_pages) * self.page_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes written back."""
        return sum(self.written_back.values()) * self.page_bytes

    @property
    def hit_rate(self) -> float:
        """Touches that found their page, or found it on its way."""
        return self.hits / self.touches if self.touches else 0.0

    @property
    def read_amplification(self) -> float:
        """Pages read over pages read that were touched."""
        wanted = self.faults + self.useful_pages
        return (self.faults + self.ahead_pages) / wanted if wanted else 0.0

    def check(self) -> None:
        """Hold the counts against what no cache can do; raises ``PhysicsError``."""
        if self.hits + self.faults + self.written_whole != self.touches:
            raise PhysicsError(f"{self.touches} pages were touched, others hit, missed or written")
        if self.useful_pages + self.useless_pages > self.ahead_pages:
            raise PhysicsError("more pages read ahead were used or dropped than read")
        if self.time_s + 1e-9 < self.read_stall_s + self.late_stall_s + self.write_stall_s:
            raise PhysicsError("the run is shorter than its waits")

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        return {
            **asdict(self),
            "hit_rate": self.hit_rate,
            "read_bytes": {
                "demand": self.faults * self.page_bytes,
                "ahead": self.ahead_pages * self.page_bytes,
                "ahead_useful": self.useful_pages * self.page_bytes,
                "all": self.read_bytes,
            },
            "written_bytes": self.written_bytes,
            "read_amplification": self.read_amplification,
            "bandwidth_bytes_per_s": self.touches * self.page_bytes / self.time_s if self.time_s else 0.0,
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """The run as a table."""
        return (_table(self),)


def _table(r: PageCacheResult) -> Table:
    def size(pages: int) -> str:
        return format_quantity(pages * r.page_bytes, "size")

    causes = ", ".join(
        f"{name.replace('_', ' ')} {size(pages)}" for name, pages in r.written_back.items() if pages
    )
    stalls = r.read_stall_s + r.late_stall_s + r.write_stall_s
    rate = r.touches * r.page_bytes / r.time_s if r.time_s else 0.0
    rows: list[tuple[object, ...]] = [
        ("pages touched", f"{r.touches:,}", f"of {format_quantity(r.page_bytes, 'size')}"),
        ("hits", f"{r.hit_rate:.2%}", f"{r.hits:,}, of which {r.late_waits:,} waited for the drive"),
        ("faults", f"{r.faults:,}", f"{r.written_whole:,} pages written whole, without a read"),
        ("time", format_quantity(r.time_s, "time"), format_quantity(rate, "bandwidth") + " of pages"),
        (
            "waiting", format_quantity(stalls, "time"),
            f"reads {format_quantity(r.read_stall_s, 'time')}, late read-ahead "
            f"{format_quantity(r.late_stall_s, 'time')}, writes {format_quantity(r.write_stall_s, 'time')}",
        ),
        ("read from the drive", size(r.faults + r.ahead_pages), f"by faults {size(r.faults)}, {r.drive_reads:,} reads"),
        ("read ahead", size(r.ahead_pages), f"used {size(r.useful_pages)}, dropped unused {size(r.useless_pages)}"),
        ("read amplification", f"{r.read_amplification:.3f}", "pages read over those of them touched"),
        ("written back", size(sum(r.written_back.values())), causes or "nothing"),
        ("left dirty", size(r.left_dirty), ""),
        ("given up", f"{r.evicted:,}", f"{r.refaults:,} came back, {r.activated:,} made active"),
    ]  # fmt: skip
    return Table(f"{r.trace} from {r.drive}", ("", "value", ""), tuple(rows))


def collect_pages(
    state: PageState,
    policy: CachePolicy,
    names: tuple[str, str],
    times: Ints,
    served: DriveResult | None,
) -> PageCacheResult:
    """Sum a run up."""
    c = state.counts.tolist()
    busy = served.time_s if served is not None else 0.0
    return PageCacheResult(
        drive=names[0],
        trace=names[1],
        page_bytes=policy.page_bytes,
        touches=c[TOUCHES],
        hits=c[HITS],
        faults=c[FAULTS],
        written_whole=c[FRESH],
        ahead_pages=c[AHEAD_READ],
        useful_pages=c[USEFUL],
        useless_pages=c[USELESS],
        evicted=c[EVICTED],
        refaults=c[REFAULTS],
        activated=c[ACTIVATED],
        written_back={
            "background": c[BACKGROUND_WRITTEN],
            "throttled": c[THROTTLED],
            "expired": c[EXPIRED],
            "reclaimed": c[RECLAIMED],
        },
        left_dirty=int(state.word[DIRTY_SIZE]),
        time_s=max(int(times[0]) * 1e-9, busy),
        read_stall_s=int(times[1]) * 1e-9,
        late_stall_s=int(times[2]) * 1e-9,
        write_stall_s=int(times[3]) * 1e-9,
        late_waits=int(times[4]),
        drive_time_s=busy,
        drive_reads=served.reads if served is not None else 0,
        drive_writes=served.writes if served is not None else 0,
    )
