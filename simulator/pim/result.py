"""What a run of the PIM engine found, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hw_configs.problems import PhysicsError
from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.pim.energy import PimEnergyBreakdown

__all__ = ["ChannelGroup", "Phase", "PimResult"]


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that were given the same stream: their mask, the counts of one of them, its open ticks."""

    mask: int
    commands: Mapping[str, int]
    column_accesses: int
    row_misses: int
    open_cycles: int

    @property
    def channels(self) -> int:
        """How many they are."""
        return self.mask.bit_count()


@dataclass(frozen=True, slots=True)
class Phase:
    """What was booked under one label: ticks, seconds, commands over all channels, and their energy
    without standby.
    """

    cycles: int
    time_s: float
    commands: Mapping[str, int]
    energy: PimEnergyBreakdown


@dataclass(frozen=True)
class PimResult(Shown):
    """One run. Cycles are the engine's ticks (``tick_s``); counts are over all channels unless said otherwise.

    ``cycles`` runs from the start to the tick at which the end-of-compute instruction returns, or, without
    one, to the end of the last command's data. A lock-step column access counts once per channel, however many
    banks it covers; ``row_misses`` are those whose rows had to be opened. ``activations`` are banks opened.
    """

    device: str
    program: str
    rules: str
    cycles: int
    tick_s: float
    channels: int
    instructions: int
    groups: tuple[ChannelGroup, ...]
    commands: Mapping[str, int]
    activations: int
    refreshes: int
    macs: int
    bytes_in_banks: int
    bytes_over_pins: Mapping[str, int]
    energy: PimEnergyBreakdown
    phases: Mapping[str, Phase]
    leapt_commands: int
    peak_macs_per_s: float = field(repr=False)
    peak_bytes_per_s: float = field(repr=False)
    interrupted: bool = False

    @property
    def time_s(self) -> float:
        """Seconds from the start to the end."""
        return self.cycles * self.tick_s

    @property
    def column_accesses(self) -> int:
        """Column accesses, each lock-step one once per channel."""
        return sum(group.column_accesses * group.channels for group in self.groups)

    @property
    def row_misses(self) -> int:
        """Column accesses whose rows had to be opened."""
        return sum(group.row_misses * group.channels for group in self.groups)

    @property
    def row_hit_rate(self) -> float:
        """Share of column accesses whose rows were open; 0 where there were none."""
        return 1 - self.row_misses / self.column_accesses if self.column_accesses else 0.0

    @property
    def channel_commands(self) -> tuple[tuple[int, Mapping[str, int]], ...]:
        """Mask and command counts of one channel, for every group of equal channels."""
        return tuple((group.mask, group.commands) for group in self.groups)

    @property
    def open_cycles(self) -> tuple[int, ...]:
        """Ticks with a row open, of one channel of each group."""
        return tuple(group.open_cycles for group in self.groups)

    @property
    def pin_bytes(self) -> int:
        """Bytes over the pins of all channels, in both directions."""
        return sum(self.bytes_over_pins.values())

    @property
    def mac_utilisation(self) -> float:
        """Multiply-accumulates over those that all units of the device could have done."""
        return self.macs / (self.peak_macs_per_s * self.time_s) if self.cycles else 0.0

    def check(self) -> None:
        """Hold the result against what no memory can do; raises ``PhysicsError``."""
        if self.interrupted or not self.cycles:
            return
        # The last command's data is in time, its successor's slot is not: allow one access a channel.
        if self.mac_utilisation > 1 + 4 / self.cycles * 16:
            raise PhysicsError(
                f"{self.macs} multiply-accumulates are more than the units do in {self.time_s:g} s"
            )
        if self.pin_bytes > self.peak_bytes_per_s * self.time_s * (1 + 64 / self.cycles):
            raise PhysicsError(f"{self.pin_bytes} bytes are more than the pins carry in {self.time_s:g} s")
        if self.row_misses > self.column_accesses or min(self.energy.as_dict().values()) < 0:
            raise PhysicsError("a count or a component of the energy is impossible")

    def shown_tables(self) -> tuple[Table, ...]:
        """The run as tables."""
        return _tables(self)

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        return {
            "device": self.device,
            "program": self.program,
            "rules": self.rules,
            "cycles": self.cycles,
            "tick_ns": self.tick_s * 1e9,
            "time_s": self.time_s,
            "channels": self.channels,
            "instructions": self.instructions,
            "command_counts": dict(self.commands),
            "channel_groups": [
                {
                    "channels": f"{group.mask:#x}",
                    "command_counts": dict(group.commands),
                    "column_accesses": group.column_accesses,
                    "row_misses": group.row_misses,
                    "open_cycles": group.open_cycles,
                }
                for group in self.groups
            ],
            "column_accesses": self.column_accesses,
            "row_misses": self.row_misses,
            "row_hit_rate": self.row_hit_rate,
            "activations": self.activations,
            "refreshes": self.refreshes,
            "macs": self.macs,
            "mac_utilisation": self.mac_utilisation,
            "bytes_in_banks": self.bytes_in_banks,
            "bytes_over_pins": {**self.bytes_over_pins, "total": self.pin_bytes},
            "energy_j": self.energy.as_dict(),
            "phases": {
                label: {
                    "cycles": phase.cycles,
                    "time_s": phase.time_s,
                    "command_counts": dict(phase.commands),
                    "dynamic_energy_j": phase.energy.total,
                }
                for label, phase in self.phases.items()
            },
            "interrupted": self.interrupted,
        }


def _tables(result: PimResult) -> tuple[Table, ...]:
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
