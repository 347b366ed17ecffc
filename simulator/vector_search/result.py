"""What a search found: latencies, rates and what was busy, for each number of queries in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from hw_configs.problems import PhysicsError
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.vector_search.drives import DriveArray
from simulator.vector_search.footprint import Footprint
from simulator.vector_search.queries import QueryTimes
from simulator.vector_search.work import Round

__all__ = ["LoadPoint", "SearchResult", "point_of"]

BUSY: Final = 0.7
"""Share of its time from which what is busiest is called the bottleneck."""


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One number of queries in flight. ``busy``: shares of the time by what is busy."""

    in_flight: int
    queries: int
    time_s: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p99_s: float
    processor_s: float
    """Server time of one query."""
    mean_in_flight: float
    reads: int
    bytes_read: int
    wanted_bytes: float
    flash_bytes: int
    """Bytes of the flash pages that were sensed."""
    read_latency_s: float
    busy: dict[str, float]

    @property
    def queries_per_s(self) -> float:
        """Queries answered over the time of all; the last ones are answered with fewer beside them."""
        return self.queries / self.time_s if self.time_s else 0.0

    @property
    def reads_per_s(self) -> float:
        """Reads of all drives."""
        return self.reads / self.time_s if self.time_s else 0.0

    @property
    def bytes_per_query(self) -> float:
        """Bytes that cross the drives' wires for a query."""
        return self.bytes_read / self.queries

    @property
    def read_amplification(self) -> float | None:
        """Bytes read over bytes asked for; None where nothing is read."""
        return self.bytes_read / self.wanted_bytes if self.wanted_bytes else None

    @property
    def flash_amplification(self) -> float | None:
        """Bytes of sensed pages over bytes asked for."""
        return self.flash_bytes / self.wanted_bytes if self.wanted_bytes else None

    @property
    def bottleneck(self) -> str:
        """What is busy most of the time; ``waiting`` where nothing is: queries wait for their own reads and work."""
        name = max(self.busy, key=lambda key: self.busy[key], default="")
        return name if name and self.busy[name] >= BUSY else "waiting"

    def as_json(self) -> dict[str, Any]:
        """Plain data in SI units, what follows from it included."""
        derived = (
            "queries_per_s", "reads_per_s", "bytes_per_query", "read_amplification", "flash_amplification",
            "bottleneck",
        )  # fmt: skip
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def point_of(
    in_flight: int, times: QueryTimes, servers: int, array: DriveArray | None, wanted: float
) -> LoadPoint:
    """Sum a run up; ``servers`` 0: work took no time. Raises ``PhysicsError`` where a bound is broken."""
    latency, count = times.latency, len(times.latency)
    time_ns = times.time_ns
    results = array.results() if array is not None else []
    busy = {"processor": times.served_ns / (servers * time_ns)} if servers and time_ns else {}
    if results:
        # Each drive's shares are of its own last completion; all are put over the whole time.
        shares = [result.time_s * 1e9 / time_ns for result in results]
        asked = len(results)
        busy["wire to the host"] = (
            sum(s * r.wire_utilisation[1] for s, r in zip(shares, results, strict=True)) / asked
        )
        busy["flash channels"] = (
            sum(s * float(r.channel_utilisation.mean()) for s, r in zip(shares, results, strict=True)) / asked
        )
        busy["flash dies"] = (
            sum(s * float(r.unit_utilisation.mean()) for s, r in zip(shares, results, strict=True)) / asked
        )
    page = array.drive.page_bytes if array is not None else 0
    reads = sum(result.reads for result in results)
    total = sum(result.read_latency.total_ns for result in results)
    point = LoadPoint(
        in_flight=in_flight,
        queries=count,
        time_s=time_ns * 1e-9,
        latency_mean_s=float(latency.mean()) * 1e-9,
        latency_p50_s=float(np.quantile(latency, 0.5, method="inverted_cdf")) * 1e-9,
        latency_p99_s=float(np.quantile(latency, 0.99, method="inverted_cdf")) * 1e-9,
        processor_s=times.served_ns / count * 1e-9,
        mean_in_flight=times.in_flight_ns / time_ns if time_ns else 0.0,
        reads=reads,
        bytes_read=sum(result.bytes_read for result in results),
        wanted_bytes=wanted,
        flash_bytes=sum(result.counts["pages_read"] for result in results) * page,
        read_latency_s=total / reads * 1e-9 if reads else 0.0,
        busy=busy,
    )
    _check(point)
    return point


def _check(point: LoadPoint) -> None:
    """No part works more than all the time; no query ends before its own work; never more in flight than allowed."""
    full = [name for name, share in point.busy.items() if share > 1 + 1e-9]
    if full:
        raise PhysicsError(f"{', '.join(full)}: busy for more than all of the time")
    if (
        point.latency_mean_s < point.processor_s * (1 - 1e-12)
        or point.mean_in_flight > point.in_flight + 1e-9
    ):
        raise PhysicsError(
            "queries are answered before their work is done, or more are in flight than may be"
        )


@dataclass(frozen=True)
class SearchResult(Shown):
    """A search of one index on one machine, at one or more loads."""

    index: str
    kind: str
    machine: str
    drives: int
    stated_recall: str
    footprint: Footprint
    rounds: Sequence[Round]
    points: tuple[LoadPoint, ...]
    seed: int

    @property
    def point(self) -> LoadPoint:
        """The last load, which is the only one unless loads were swept."""
        return self.points[-1]

    @property
    def reads_per_query(self) -> int:
        """Reads that a query sends in all of its rounds."""
        return sum(read.count for one in self.rounds for read in one.reads)

    def as_json(self) -> dict[str, Any]:
        """Plain data in SI units."""
        return {
            "index": self.index,
            "kind": self.kind,
            "machine": self.machine,
            "drives": self.drives,
            "stated_recall": self.stated_recall,
            "footprint": [asdict(part) for part in self.footprint.parts],
            "memory_bytes": self.footprint.bytes_at("memory"),
            "gpu_bytes": self.footprint.bytes_at("gpu"),
            "drive_bytes": self.footprint.bytes_at("drive"),
            "reads_per_query": self.reads_per_query,
            "rounds_of_reads": len(self.rounds) - 1,
            "points": [point.as_json() for point in self.points],
            "seed": self.seed,
        }

    def shown_tables(self) -> list[Table]:
        """Latencies and rates by load, what was busy, and what lies where."""
        rows = [
            (
                p.in_flight, f"{p.latency_mean_s * 1e3:.3f}", f"{p.latency_p50_s * 1e3:.3f}",
                f"{p.latency_p99_s * 1e3:.3f}", f"{p.queries_per_s:.0f}", f"{p.reads_per_s:.0f}", p.bottleneck,
            )
            for p in self.points
        ]  # fmt: skip
        columns = ("in flight", "mean ms", "p50 ms", "p99 ms", "queries/s", "reads/s", "bottleneck")
        title = f"{self.index} on {self.machine}"
        title += f", {self.drives} drive{'s' if self.drives != 1 else ''}" if self.drives else ""
        return [Table(title, columns, tuple(rows)), self._facts(), self._places()]

    def _facts(self) -> Table:
        point = self.point
        rows: list[tuple[object, ...]] = [
            ("recall that the reads were stated at", self.stated_recall or "not stated"),
            ("rounds of reads", len(self.rounds) - 1),
            ("reads of a query", self.reads_per_query),
            ("read for a query", format_quantity(point.bytes_per_query, "size")),
            ("processor time of a query", format_quantity(point.processor_s, "time")),
        ]
        if point.reads:
            rows += [
                ("mean latency of a read", format_quantity(point.read_latency_s, "time")),
                ("bytes read over bytes asked for", f"{point.read_amplification:.2f}"),
                ("bytes of flash pages over bytes asked for", f"{point.flash_amplification:.2f}"),
            ]
        rows += [(f"busy: {name}", f"{100 * share:.1f} %") for name, share in point.busy.items()]
        return Table(f"at {point.in_flight} in flight", ("", ""), tuple(rows))

    def _places(self) -> Table:
        rows = [(p.name, p.place, p.bytes, format_quantity(p.bytes, "size")) for p in self.footprint.parts]
        return Table("what lies where", ("part", "place", "bytes", ""), tuple(rows))
