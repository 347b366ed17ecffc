"""What a run of the drive engine found, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hw_configs.problems import PhysicsError
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.flash.records import BIN_BITS, HISTOGRAM, words

__all__ = ["DriveResult", "Latency", "Wear"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Latency:
    """Latencies of one kind of request, in ns, counted in bins at most 1/128 wide; the extremes are exact."""

    count: int
    total_ns: int
    least_ns: int
    most_ns: int
    counts: Ints = field(repr=False)

    @property
    def mean_ns(self) -> float:
        """The exact mean."""
        return self.total_ns / self.count if self.count else 0.0

    def percentile_ns(self, share: float) -> float:
        """The latency at rank floor(share x (n - 1)): the upper edge of its bin, within the extremes."""
        if not self.count:
            return 0.0
        rank = int(share * (self.count - 1))
        place = int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))
        shift = max((place >> BIN_BITS) - 1, 0)
        edge = ((place - (shift << BIN_BITS) + 1) << shift) - 1
        return float(min(max(edge, self.least_ns), self.most_ns))

    def as_json(self) -> dict[str, Any]:
        """Plain data in ns."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999}
        return {
            "count": self.count,
            "mean": self.mean_ns,
            "min": self.least_ns,
            **{name: self.percentile_ns(share) for name, share in shares.items()},
            "max": self.most_ns,
        }

    @classmethod
    def from_row(cls, row: Ints) -> Latency:
        """From a row of ``DriveState.histograms``."""
        front = words(HISTOGRAM)
        least, most, total, count = row[:front].tolist()
        return cls(count, total, least, most, row[front:].copy())

    @classmethod
    def joined(cls, parts: list[Latency]) -> Latency:
        """Several kinds together."""
        some = [part for part in parts if part.count] or parts[:1]
        return cls(
            sum(p.count for p in some), sum(p.total_ns for p in some), min(p.least_ns for p in some),
            max(p.most_ns for p in some), np.sum([p.counts for p in some], axis=0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wear:
    """Erase counts of the blocks, and what the rated cycles leave."""

    erases_least: int
    erases_mean: float
    erases_most: int
    rated_cycles: int
    host_bytes_until_worn: float | None
    """At this run's write amplification, wear spread evenly; None where the run wrote nothing."""


@dataclass(frozen=True)
class DriveResult(Shown):
    """One run. Times are simulated; utilisations are shares of ``time_s``, one per channel and per unit.

    A unit is a die, or a whole chip where dies do not interleave; ``unit_utilisation`` is the time that its
    array works.
    """

    drive: str
    trace: str
    mode: str
    requests: int
    reads: int
    writes: int
    trims: int
    bytes_read: int
    bytes_written: int
    time_s: float
    read_latency: Latency
    write_latency: Latency
    trim_latency: Latency
    channel_utilisation: npt.NDArray[np.float64] = field(repr=False)
    unit_utilisation: npt.NDArray[np.float64] = field(repr=False)
    wire_utilisation: tuple[float, float]
    """To the drive, to the host."""
    counts: dict[str, int]
    wear: Wear
    energy_j: dict[str, float]
    interrupted: bool = False
    events: int = 0

    @property
    def latency(self) -> Latency:
        """All requests together."""
        return Latency.joined([self.read_latency, self.write_latency, self.trim_latency])

    @property
    def iops(self) -> float:
        """Completed requests over the exact time of the last completion."""
        return self.requests / self.time_s if self.time_s else 0.0

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes read and written over that time."""
        return (self.bytes_read + self.bytes_written) / self.time_s if self.time_s else 0.0

    @property
    def write_amplification(self) -> float | None:
        """Pages programmed over pages that the host wrote; None when it wrote none."""
        written = self.counts["host_pages_written"]
        if not written:
            return None
        moved = self.counts["gc_page_moves"] + self.counts["wear_levelling_moves"] + self.counts["map_writes"]
        return (written + moved) / written

    def check(self) -> None:
        """Hold the result against what no drive can do; raises ``PhysicsError``."""
        if self.interrupted:
            return
        if self.reads + self.writes + self.trims != self.requests:
            raise PhysicsError(f"{self.requests} requests went in, others came out")
        for name, shares in (("channel", self.channel_utilisation), ("die", self.unit_utilisation)):
            if shares.size and float(shares.max()) > 1 + 1e-9:
                raise PhysicsError(f"a {name} was busy for more than the run lasted")
        if max(self.wire_utilisation) > 1 + 1e-9:
            raise PhysicsError("the host link was busy for more than the run lasted")
        if self.energy_j and min(self.energy_j.values()) < 0:
            raise PhysicsError("a component of the energy is negative")

    def shown_tables(self) -> tuple[Table, ...]:
        """The run as a table."""
        return _tables(self)

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        return {
            "drive": self.drive,
            "trace": self.trace,
            "mode": self.mode,
            "requests": self.requests,
            "reads": self.reads,
            "writes": self.writes,
            "trims": self.trims,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "time_s": self.time_s,
            "iops": self.iops,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "latency_ns": {
                "all": self.latency.as_json(), "read": self.read_latency.as_json(),
                "write": self.write_latency.as_json(), "trim": self.trim_latency.as_json(),
            },
            "write_amplification": self.write_amplification,
            "counts": self.counts,
            "utilisation": {
                "channels": [float(x) for x in self.channel_utilisation],
                "dies": [float(x) for x in self.unit_utilisation],
                "link_to_drive": self.wire_utilisation[0],
                "link_to_host": self.wire_utilisation[1],
            },
            "wear": {
                "erases_min": self.wear.erases_least,
                "erases_mean": self.wear.erases_mean,
                "erases_max": self.wear.erases_most,
                "rated_cycles": self.wear.rated_cycles,
                "host_bytes_until_worn": self.wear.host_bytes_until_worn,
            },
            "energy_j": self.energy_j,
            "interrupted": self.interrupted,
        }  # fmt: skip


def _tables(result: DriveResult) -> tuple[Table, ...]:
    """Requests, time, bandwidth, latency, commands, what was busy, wear and energy."""
    c = result.counts
    kinds = ((result.reads, "reads"), (result.writes, "writes"), (result.trims, "trims"))
    rows: list[tuple[object, ...]] = [
        ("requests", f"{result.requests:,}", ", ".join(f"{count:,} {name}" for count, name in kinds if count)),
        ("time", format_quantity(result.time_s, "time"), ""),
        ("IOPS", f"{result.iops:,.0f}", ""),
        ("bandwidth", format_quantity(result.bandwidth_bytes_per_s, "bandwidth"), ""),
    ]  # fmt: skip
    for name, part in (("read", result.read_latency), ("write", result.write_latency)):
        if part.count:
            rows.append(_latency(name, part))
    rows += [
        (
            "flash commands", f"{c['read_commands'] + c['multiplane_read_commands']:,} reads",
            f"{c['program_commands'] + c['multiplane_program_commands']:,} programs, {c['erase_commands']:,} erases; "
            f"pages {c['pages_read']:,} read, {c['pages_programmed']:,} programmed",
        ),
        (
            "channels busy", f"{result.channel_utilisation.mean():.1%}",
            f"{result.channel_utilisation.min():.1%} to {result.channel_utilisation.max():.1%}",
        ),
        (
            "dies busy", f"{result.unit_utilisation.mean():.1%}",
            f"{result.unit_utilisation.min():.1%} to {result.unit_utilisation.max():.1%}",
        ),
        ("host link busy", f"{max(result.wire_utilisation):.1%}", ""),
    ]  # fmt: skip
    if result.write_amplification is not None:
        moved = c["gc_page_moves"] / c["gc_executions"] if c["gc_executions"] else 0.0
        rows.append(
            (
                "write amplification", f"{result.write_amplification:.3f}",
                f"{c['gc_executions']:,} blocks collected, {moved:.1f} pages moved for each",
            )
        )  # fmt: skip
        wear = result.wear
        rows.append(
            (
                "erases of a block", f"{wear.erases_mean:.2f}",
                f"{wear.erases_least} to {wear.erases_most}; rated for {wear.rated_cycles:,}",
            )
        )  # fmt: skip
        if wear.host_bytes_until_worn is not None:
            size = format_quantity(wear.host_bytes_until_worn, "size")
            rows.append(("written until worn out", size, "at this write amplification, wear spread evenly"))
    energy = sum(result.energy_j.values())
    if energy:
        shares = ", ".join(
            f"{name.replace('_', ' ')} {value / energy:.0%}"
            for name, value in result.energy_j.items()
            if value
        )
        rows.append(("energy", format_quantity(energy, "energy"), shares))
    title = f"{result.trace} on {result.drive}, {result.mode} mode"
    return (Table(title, ("", "value", ""), tuple(rows)),)


def _latency(name: str, part: Latency) -> tuple[object, ...]:
    points = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    shares = ", ".join(f"{label} {part.percentile_ns(share) / 1e3:,.1f}" for label, share in points)
    most = f"{shares}, max {part.most_ns / 1e3:,.1f} us"
    return (f"{name} latency, mean", f"{part.mean_ns / 1e3:,.1f} us", most)
