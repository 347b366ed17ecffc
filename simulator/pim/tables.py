"""What a run of a PIM memory shows to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hw_configs.shown import Table
from hw_configs.units import format_quantity

if TYPE_CHECKING:
    from simulator.pim.result import PimResult

__all__ = ["pim_tables"]


def pim_tables(result: PimResult) -> tuple[Table, ...]:
    """Instructions, cycles, arithmetic, rows, bytes, commands and energy; then the phases."""
    ns = result.tick_s * 1e9
    issued = ", ".join(f"{name} {count:,}" for name, count in result.commands.items())
    pins = ", ".join(f"{kind} {count:,}" for kind, count in result.bytes_over_pins.items() if count)
    mean = sum(g.open_cycles * g.channels for g in result.groups) / max(
        sum(g.channels for g in result.groups), 1
    )
    total = result.energy.total
    shares = ", ".join(
        f"{name} {value / total:.0%}"
        for name, value in result.energy.as_dict().items()
        if value and name != "total"
    )
    used = sum(group.channels for group in result.groups if group.commands)
    rows: list[tuple[object, ...]] = [
        ("instructions", f"{result.instructions:,}", f"in {used} of {result.channels} channels"),
        ("cycles", f"{result.cycles:,}", f"of {ns:.4g} ns; a row open for {mean:,.0f} of them"),
        ("time", format_quantity(result.time_s, "time"), f"rules: {result.rules}"),
        ("multiply-accumulates", f"{result.macs:,}", f"{result.mac_utilisation:.1%} of what all units could do"),
        (
            "row hits", f"{result.row_hit_rate:.2%}",
            f"{result.column_accesses:,} column accesses, {result.row_misses:,} misses; {result.activations:,} rows "
            f"opened",
        ),
        ("refreshes", f"{result.refreshes:,}", ""),
        ("bytes over the pins", f"{result.pin_bytes:,}", pins),
        ("bytes inside", f"{result.bytes_in_banks:,}", "read or written by units"),
        ("commands", f"{sum(result.commands.values()):,}", issued),
        ("energy", format_quantity(total, "energy"), shares),
    ]  # fmt: skip
    tables = [Table(f"{result.program} on {result.device}", ("", "value", ""), tuple(rows))]
    if set(result.phases) != {""} and result.phases:
        phases = [
            (label or "(before)", f"{p.cycles:,}", f"{p.cycles / max(result.cycles, 1):.1%}",
             f"{p.energy.total * 1e6:.4g}")
            for label, p in result.phases.items()
        ]  # fmt: skip
        columns = ("phase", "cycles", "of all", "energy uJ without standby")
        tables.append(Table("phases", columns, tuple(phases)))
    return tuple(tables)
