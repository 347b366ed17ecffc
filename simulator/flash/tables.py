"""What a run of a flash drive shows to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hw_configs.shown import Table
from hw_configs.units import format_quantity

if TYPE_CHECKING:
    from simulator.flash.result import DriveResult, Latency

__all__ = ["drive_tables"]


def drive_tables(result: DriveResult) -> tuple[Table, ...]:
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
