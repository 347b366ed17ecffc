"""Energy of a PIM run by component, from its command counts, open time and the device's figures.

Rows, plain accesses, refresh and standby follow from supply currents as for any DRAM (the IDD method, see
:mod:`simulator.dram.energy`); multiplications, column accesses that stay beside their banks and buffers have
energies of their own. An all-bank activation is as many activate-precharge pairs as it opens banks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from hw_configs.problems import bad_input
from simulator.pim.machine import Machine

__all__ = ["PimEnergyBreakdown", "dynamic_energy", "standby_energy"]


@dataclass(frozen=True, slots=True)
class PimEnergyBreakdown:
    """Joules per component.

    ``activate``: rows opened and closed; ``column``: bank columns read or written for units; ``mac``: the units'
    arithmetic; ``buffer``: buffers and registers; ``read`` and ``write``: plain accesses inside the memory;
    ``io``: pins; ``refresh``; ``background``: standby of all channels for the whole run.
    """

    activate: float = 0.0
    column: float = 0.0
    mac: float = 0.0
    buffer: float = 0.0
    read: float = 0.0
    write: float = 0.0
    io: float = 0.0
    refresh: float = 0.0
    background: float = 0.0

    @property
    def total(self) -> float:
        """All components."""
        return float(sum(getattr(self, part.name) for part in fields(self)))

    def as_dict(self) -> dict[str, float]:
        """Components and total, by name."""
        return {**{part.name: getattr(self, part.name) for part in fields(self)}, "total": self.total}

    def plus(self, other: PimEnergyBreakdown) -> PimEnergyBreakdown:
        """Both together."""
        return PimEnergyBreakdown(
            *(getattr(self, part.name) + getattr(other, part.name) for part in fields(self))
        )


def units_of(machine: Machine, code: int) -> int:
    """Units that a command works with: those beside the banks it covers."""
    device, covers = machine.device, machine.commands[code].covers
    if "Bank" in covers:
        return max(machine.covered[code] // device.units.banks_per_unit, 1)
    return machine.covered[code]


def dynamic_energy(machine: Machine, commands: Mapping[str, int]) -> PimEnergyBreakdown:
    """Energy of commands, counted over all channels; everything but standby."""
    device, clocks = machine.device, machine.clocks
    c, period = device.dram.currents, device.dram.clock_period
    power = c.voltage * device.dram.organisation.dies if c is not None else 0.0
    burst_s = clocks["nBL"] * period
    row = device.energy.activate
    if row is None and c is not None:
        recovery = clocks["nRC"] - clocks["nRAS"]
        charge = c.idd0 * clocks["nRC"] - c.idd3n * clocks["nRAS"] - c.idd2n * recovery
        row = power * charge * period
        if row < 0:
            raise bad_input(
                f"found {c.idd0:g} A, less than standby draws over tRC; expected more, or energy.activate",
                path="dram.currents.idd0",
            )
    parts = dict.fromkeys(("activate", "column", "mac", "buffer", "read", "write", "io", "refresh"), 0.0)
    burst = device.column_bytes
    for code, name in enumerate(machine.names):
        count, one = commands.get(name, 0), machine.commands[code]
        if not count:
            continue
        if one.effect == "open":
            parts["activate"] += count * machine.covered[code] * (row or 0.0)
        if one.effect == "refresh" and c is not None:
            seconds = clocks.get("nRFC", clocks.get("nRFCab", 0)) * period
            parts["refresh"] += count * power * (c.idd5ab - c.idd3n) * seconds
        if one.multiplies:
            units = units_of(machine, code)
            parts["column"] += count * units * device.energy.column
            parts["mac"] += count * units * 2 * device.elements_per_column * device.energy.mac
            # The vector's burst is read from the buffer once and broadcast to the units.
            parts["buffer"] += count * burst * device.energy.buffer
        elif one.bank_access and one.pins not in ("read", "write"):
            parts["column"] += count * machine.covered[code] * device.energy.column
        elif one.bank_access == "read" and c is not None:
            parts["read"] += count * machine.covered[code] * power * (c.idd4r - c.idd3n) * burst_s
        elif one.bank_access == "write" and c is not None:
            parts["write"] += count * machine.covered[code] * power * (c.idd4w - c.idd3n) * burst_s
        if one.buffer_access:
            parts["buffer"] += count * burst * device.energy.buffer
        if one.pins:
            parts["io"] += count * burst * (c.io if c is not None else 0.0)
    return PimEnergyBreakdown(**parts)


def standby_energy(machine: Machine, open_s: float, total_s: float) -> PimEnergyBreakdown:
    """Standby of a memory: ``open_s`` seconds with a row open and ``total_s`` in all, summed over channels."""
    c = machine.device.dram.currents
    if c is None:
        return PimEnergyBreakdown()
    power = c.voltage * machine.device.dram.organisation.dies
    closed_s = max(total_s - open_s, 0.0)
    return PimEnergyBreakdown(background=power * (c.idd3n * min(open_s, total_s) + c.idd2n * closed_s))
