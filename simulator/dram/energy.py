"""Energy of a DRAM by the IDD method: currents of the data sheet times voltage times time, supply by supply.

Micron TN-40-07 ("Calculating memory power for DDR4 SDRAM") and the DRAMPower model (Chandrasekar et al.)
describe the method: every command adds the current above the standby it interrupts, for as long as it takes;
every rank draws active standby while a bank is open and precharge standby otherwise. Currents are of one die,
and the dies of a rank work in step, so a rank draws ``dies`` times as much.

A data sheet measures IDD3N with all banks open and IDD0 with one. Where IDD0 is the smaller, active standby has a
part that goes with the number of open banks (DRAMPower 5): with b of B banks open a die draws
IDD2N + (IDD3N - IDD2N) x (rho + (1 - rho) x b/B). Nothing is clamped: a device whose activation would cost less than
nothing is refused when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Currents", "EnergyBreakdown", "RankStates", "idd_energy"]


@dataclass(frozen=True, slots=True)
class Currents:
    """Currents in ampere of one die, the supply in volt, and the times in seconds the method needs.

    ``idd0`` one bank activate-precharge cycle; ``idd2n`` precharge standby; ``idd3n`` active standby;
    ``idd2p`` and ``idd3p`` the same with the clock stopped; ``idd4r`` and ``idd4w`` bursts without a gap;
    ``idd5ab`` all-bank refresh; ``idd5pb`` per-bank refresh (None: the share of an all-bank one of the
    ``refreshed_banks`` of ``banks``); ``idd6`` self refresh. ``io_per_bit_j`` is driver and termination energy per
    transferred bit. ``rho`` and ``banks``: see above. ``others``: the same of the other supplies, by name.
    """

    voltage: float
    idd0: float
    idd2n: float
    idd3n: float
    idd4r: float
    idd4w: float
    idd5ab: float
    idd2p: float
    idd3p: float
    idd6: float
    dies: int
    row_active_s: float
    row_cycle_s: float
    burst_s: float
    refresh_s: float
    idd5pb: float | None = None
    refresh_bank_s: float = 0.0
    io_per_bit_j: float = 0.0
    rho: float = 1.0
    banks: int = 1
    refreshed_banks: int = 1
    others: tuple[tuple[str, Currents], ...] = ()

    def of_bank_refresh(self) -> float:
        """Ampere-seconds above standby of one refresh of some banks."""
        if self.idd5pb is None:
            return (self.idd5ab - self.idd3n) * self.refresh_s * self.refreshed_banks / self.banks
        return (self.idd5pb - self.idd2n) * self.refresh_bank_s

    def with_open(self, share: float) -> float:
        """Amperes above precharge standby of a die with this share of its banks open, one at least."""
        return (self.idd3n - self.idd2n) * (self.rho + (1 - self.rho) * share)


@dataclass(frozen=True, slots=True)
class RankStates:
    """Seconds that ranks spent in a background state, summed over ranks; ``open_bank_s`` is summed over banks."""

    active_standby_s: float
    precharge_standby_s: float
    power_down_s: float = 0.0
    self_refresh_s: float = 0.0
    open_bank_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EnergyBreakdown:
    """Joules per component. ``activate`` is a whole activate-precharge pair above standby. ``supplies``: the same
    joules by the supply they come from; pins are on VDDQ where it is apart, and on VDD otherwise.
    """

    activate: float
    read: float
    write: float
    refresh: float
    active_standby: float
    precharge_standby: float
    power_down: float
    self_refresh: float
    io: float
    supplies: tuple[tuple[str, float], ...] = ()

    @property
    def background(self) -> float:
        """What the ranks draw whether they are used or not."""
        return self.active_standby + self.precharge_standby + self.power_down + self.self_refresh

    @property
    def total(self) -> float:
        """All components."""
        return self.activate + self.read + self.write + self.refresh + self.background + self.io

    def as_dict(self) -> dict[str, float]:
        """Components and total, by name."""
        names = (
            "activate", "read", "write", "refresh", "active_standby", "precharge_standby", "power_down",
            "self_refresh", "io",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "total": self.total}


def idd_energy(
    counts: Mapping[str, int], states: RankStates, currents: Currents, bits_moved: int = 0
) -> EnergyBreakdown:
    """Energy of a run from its command counts and rank states, over all supplies.

    ``counts`` uses command names (ACT or ACT1, RD, RDA, WR, WRA, REFab, REFpb, REFsb). Activation:
    V x (IDD0 x tRC - (I1 x tRAS + IDD2N x tRP)) per die, I1 being standby with one bank open; bursts and refresh: the
    current above active standby for as long as they last.
    """
    io = bits_moved * currents.io_per_bit_j
    parts = {"VDD": _of_supply(counts, states, currents)}
    parts |= {name: _of_supply(counts, states, other) for name, other in currents.others}
    supplies = {name: sum(part.values()) for name, part in parts.items()}
    supplies["VDDQ" if "VDDQ" in supplies else "VDD"] += io
    joules = {name: sum(part[name] for part in parts.values()) for name in parts["VDD"]}
    return EnergyBreakdown(**joules, io=io, supplies=tuple(supplies.items()))


def _of_supply(counts: Mapping[str, int], states: RankStates, c: Currents) -> dict[str, float]:
    """Joules from one supply."""
    power = c.voltage * c.dies
    recovery_s = c.row_cycle_s - c.row_active_s
    one_open = c.idd2n + c.with_open(1 / c.banks)
    per_activate = power * (c.idd0 * c.row_cycle_s - one_open * c.row_active_s - c.idd2n * recovery_s)
    activates = counts.get("ACT", 0) + counts.get("ACT1", 0)
    reads = counts.get("RD", 0) + counts.get("RDA", 0)
    writes = counts.get("WR", 0) + counts.get("WRA", 0)
    bank_refreshes = counts.get("REFpb", 0) + counts.get("REFsb", 0)
    refresh = counts.get("REFab", 0) * (c.idd5ab - c.idd3n) * c.refresh_s
    refresh += bank_refreshes * c.of_bank_refresh()
    open_s = c.rho * states.active_standby_s + (1 - c.rho) * states.open_bank_s / c.banks
    active = c.idd2n * states.active_standby_s + (c.idd3n - c.idd2n) * open_s
    return {
        "activate": activates * per_activate,
        "read": reads * power * (c.idd4r - c.idd3n) * c.burst_s,
        "write": writes * power * (c.idd4w - c.idd3n) * c.burst_s,
        "refresh": power * refresh,
        "active_standby": power * active,
        "precharge_standby": power * c.idd2n * states.precharge_standby_s,
        "power_down": power * c.idd2p * states.power_down_s,
        "self_refresh": power * c.idd6 * states.self_refresh_s,
    }
