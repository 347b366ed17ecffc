"""What a run of the DRAM engine shows to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hw_configs.shown import Table
from hw_configs.units import format_quantity

if TYPE_CHECKING:
    from simulator.dram.result import DramResult

__all__ = ["dram_tables"]


def dram_tables(result: DramResult) -> tuple[Table, ...]:
    """Requests, time, bandwidth, latency, rows, queues, commands and energy."""
    ns = result.tick_s * 1e9
    peak = format_quantity(result.peak_bytes_per_s, "bandwidth")
    issued = ", ".join(f"{name} {count:,}" for name, count in result.commands.items())
    rows: list[tuple[object, ...]] = [
        ("requests", f"{result.requests:,}", f"{result.reads:,} reads, {result.writes:,} writes"),
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
    return (Table(f"{result.trace} on {result.device}", ("", "value", ""), tuple(rows)),)
