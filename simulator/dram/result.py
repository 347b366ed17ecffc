"""What a run of the DRAM engine found, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hw_configs.problems import PhysicsError
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.dram.energy import EnergyBreakdown

__all__ = ["DramResult", "LoadPoint", "QueueOccupancy", "percentile"]


@dataclass(frozen=True, slots=True)
class QueueOccupancy:
    """Requests waiting, averaged over all ticks and channels, and the most ever seen."""

    read_mean: float
    write_mean: float
    priority_mean: float
    read_peak: int
    write_peak: int


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """Bandwidth and read latency where a share ``load`` of the pins' bandwidth is offered."""

    load: float
    offered_bytes_per_s: float
    bandwidth_bytes_per_s: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p99_s: float


def percentile(histogram: npt.NDArray[np.int64], share: float) -> int:
    """The latency at rank floor(share * (n - 1)) of n latencies counted by value."""
    total = int(histogram.sum())
    if total == 0:
        return 0
    rank = int(share * (total - 1))
    return int(np.searchsorted(np.cumsum(histogram), rank, side="right"))


@dataclass(frozen=True)
class DramResult(Shown):
    """One run. Ticks are the controller's (``tick_s`` long); sums run over all channels.

    ``cycles_accept`` is the tick at which the last request was accepted, ``cycles_drain`` the tick at which
    the last one had completed, of the channel that took longest. ``bank_outcomes`` has a row per bank
    (channel by channel, in tree order) and the columns row hits, row misses (bank closed), row conflicts.
    ``refresh_share`` is the share of bank time taken by refresh.
    """

    device: str
    trace: str
    channels: int
    requests: int
    reads: int
    writes: int
    bytes_moved: int
    tick_s: float
    cycles_accept: int
    cycles_drain: int
    row_hits: int
    row_misses: int
    row_conflicts: int
    read_row_hits: int
    write_row_hits: int
    reads_forwarded: int
    writes_coalesced: int
    latency_sum: int
    latency_max: int
    histogram: npt.NDArray[np.int64] = field(repr=False)
    commands: dict[str, int]
    bank_outcomes: npt.NDArray[np.int64] = field(repr=False)
    occupancy: QueueOccupancy
    refresh_share: float
    peak_bytes_per_s: float
    idle_latency: int
    energy: EnergyBreakdown | None
    interrupted: bool = False
    addresses_wrapped: int = 0
    leapt_requests: int = 0
    """Requests that were not stepped through, because a period of the stream had come round exactly."""
    trace_requests: int = 0
    """Requests of the trace file, each cut into as many bursts as it takes; ``requests`` counts bursts. 0: the same."""
    latency_curve: tuple[LoadPoint, ...] = ()
    """The trace again, paced at rising loads, where that was asked for."""

    @property
    def time_s(self) -> float:
        """From the first tick to the last completion."""
        return self.cycles_drain * self.tick_s

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes of all requests over the whole run."""
        return self.bytes_moved / self.time_s if self.cycles_drain else 0.0

    @property
    def utilisation(self) -> float:
        """Achieved over peak bandwidth; forwarded and coalesced requests move no data over the pins."""
        moved = self.requests - self.reads_forwarded - self.writes_coalesced
        share = moved / self.requests if self.requests else 0.0
        return self.bandwidth_bytes_per_s * share / self.peak_bytes_per_s

    @property
    def row_hit_rate(self) -> float:
        """Share of served requests whose row was open when their first command issued."""
        total = self.row_hits + self.row_misses + self.row_conflicts
        return self.row_hits / total if total else 0.0

    @property
    def read_latency_mean(self) -> float:
        """Mean ticks from acceptance to the last data, forwarded reads included."""
        return self.latency_sum / self.reads if self.reads else 0.0

    def read_latency(self, share: float) -> int:
        """A percentile of the read latency in ticks; the slowest read for shares beyond the counted range."""
        value = percentile(self.histogram, share)
        return self.latency_max if value == self.histogram.size - 1 else value

    def check(self) -> None:
        """Hold the result against what no memory can do; raises ``PhysicsError``."""
        if self.interrupted or not self.requests:
            return
        served = self.row_hits + self.row_misses + self.row_conflicts
        if served + self.reads_forwarded + self.writes_coalesced != self.requests:
            raise PhysicsError(
                f"{self.requests} requests went in, {served} were served: some were lost or doubled"
            )
        if self.utilisation > 1 + 1e-9:
            raise PhysicsError(f"bandwidth {self.bandwidth_bytes_per_s:g} B/s is above the pins' peak")
        if self.latency_sum < self.reads_forwarded + (self.reads - self.reads_forwarded) * self.idle_latency:
            raise PhysicsError("the mean read latency is below that of a row hit on an idle bank")
        if self.energy is not None and min(self.energy.as_dict().values()) < 0:
            raise PhysicsError("a component of the energy is negative")

    def shown_tables(self) -> tuple[Table, ...]:
        """The run as a table."""
        return _tables(self)

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        ns = self.tick_s * 1e9
        latency = {
            "mean": self.read_latency_mean,
            **{f"p{round(s * 100)}": self.read_latency(s) for s in (0.5, 0.9, 0.99)},
            "max": self.latency_max,
        }
        return {
            "device": self.device,
            "trace": self.trace,
            "channels": self.channels,
            "requests": self.requests,
            "reads": self.reads,
            "writes": self.writes,
            "trace_requests": self.trace_requests or self.requests,
            "bytes": self.bytes_moved,
            "tick_ns": ns,
            "cycles_accept": self.cycles_accept,
            "cycles_drain": self.cycles_drain,
            "time_s": self.time_s,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "peak_bandwidth_bytes_per_s": self.peak_bytes_per_s,
            "utilisation": self.utilisation,
            "read_latency_cycles": latency,
            "read_latency_ns": {name: value * ns for name, value in latency.items()},
            "row_hits": self.row_hits,
            "row_misses": self.row_misses,
            "row_conflicts": self.row_conflicts,
            "row_hit_rate": self.row_hit_rate,
            "reads_forwarded": self.reads_forwarded,
            "writes_coalesced": self.writes_coalesced,
            "command_counts": self.commands,
            "queue_occupancy": {
                "read_mean": self.occupancy.read_mean,
                "write_mean": self.occupancy.write_mean,
                "maintenance_mean": self.occupancy.priority_mean,
                "read_peak": self.occupancy.read_peak,
                "write_peak": self.occupancy.write_peak,
            },
            "refresh_share": self.refresh_share,
            "energy_j": self.energy.as_dict() if self.energy is not None else None,
            "energy_per_byte_j": (
                self.energy.total / self.bytes_moved if self.energy is not None and self.bytes_moved else None
            ),
            "banks": [
                {
                    "bank": number,
                    "row_hits": int(hits),
                    "row_misses": int(misses),
                    "row_conflicts": int(conflicts),
                }
                for number, (hits, misses, conflicts) in enumerate(self.bank_outcomes)
            ],
            "addresses_wrapped": self.addresses_wrapped,
            "interrupted": self.interrupted,
            **(
                {"latency_curve": [asdict(point) for point in self.latency_curve]}
                if self.latency_curve
                else {}
            ),
        }


def _cut(result: DramResult) -> str:
    """Where a trace's requests were cut into bursts: how many they were."""
    asked = result.trace_requests
    return f"; bursts of {asked:,} requests of the trace" if asked not in (0, result.requests) else ""


def _tables(result: DramResult) -> tuple[Table, ...]:
    """Requests, time, bandwidth, latency, rows, queues, commands and energy."""
    ns = result.tick_s * 1e9
    peak = format_quantity(result.peak_bytes_per_s, "bandwidth")
    issued = ", ".join(f"{name} {count:,}" for name, count in result.commands.items())
    rows: list[tuple[object, ...]] = [
        ("requests", f"{result.requests:,}", f"{result.reads:,} reads, {result.writes:,} writes{_cut(result)}"),
        ("cycles", f"{result.cycles_drain:,}", f"of {ns:.4g} ns; last accepted at {result.cycles_accept:,}"),
        ("time", format_quantity(result.time_s, "time"), ""),
        (
            "bandwidth", format_quantity(result.bandwidth_bytes_per_s, "bandwidth"),
            f"{result.utilisation:.1%} of the pins' {peak}",
        ),
        (
            "read latency, mean", f"{result.read_latency_mean * ns:.1f} ns",
            f"p50 {result.read_latency(0.5) * ns:.1f}, p99 {result.read_latency(0.99) * ns:.1f}, "
            f"max {result.latency_max * ns:.1f} ns",
        ),
        (
            "row hits", f"{result.row_hit_rate:.1%}",
            f"{result.row_hits:,} hits, {result.row_misses:,} misses, {result.row_conflicts:,} conflicts",
        ),
        ("forwarded, coalesced", f"{result.reads_forwarded:,}", f"{result.writes_coalesced:,} writes merged"),
        (
            "queues, mean", f"{result.occupancy.read_mean:.1f}",
            f"reads waiting; writes {result.occupancy.write_mean:.1f}; most {result.occupancy.read_peak} and "
            f"{result.occupancy.write_peak}",
        ),
        ("refresh", f"{result.refresh_share:.2%}", "of bank time"),
        ("commands", f"{sum(result.commands.values()):,}", issued),
    ]  # fmt: skip
    if result.energy is not None:
        parts = {k: v for k, v in result.energy.as_dict().items() if v and k != "total"}
        shares = ", ".join(
            f"{name.replace('_', ' ')} {value / result.energy.total:.0%}" for name, value in parts.items()
        )
        rows.append(("energy", format_quantity(result.energy.total, "energy"), shares))
        if result.bytes_moved:
            rows.append(
                ("energy per bit", f"{result.energy.total / result.bytes_moved / 8 * 1e12:.2f} pJ", "")
            )
    return (Table(f"{result.trace} on {result.device}", ("", "value", ""), tuple(rows)), *_curve(result))


def _curve(result: DramResult) -> tuple[Table, ...]:
    """Latency under load as a table, if there is any."""
    rows = tuple(
        (
            f"{point.load:.0%}", format_quantity(point.bandwidth_bytes_per_s, "bandwidth"),
            *(f"{s * 1e9:.1f} ns" for s in (point.latency_mean_s, point.latency_p50_s, point.latency_p99_s)),
        )
        for point in result.latency_curve
    )  # fmt: skip
    heads = ("offered", "bandwidth", "read latency, mean", "p50", "p99")
    return (Table("latency under load (offered: share of the pins)", heads, rows),) if rows else ()
