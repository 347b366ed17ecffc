"""A DRAM memory: standard, organisation, speed bin, currents and controller, down to every clock.

One file serves every level of detail. The DRAM engine reads all of it; the system level asks for four figures
(capacity, peak bandwidth, idle latency, energy per byte), which are worked out from the detail, never stated
beside it.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hw_configs.config import Config, Count, Current, EnergyPerByte, Latency, Price, Time, Voltage
from hw_configs.dram_standard import DramStandard, beside, dram_standard, evaluate
from hw_configs.problems import InputError, nearest
from hw_configs.units import UnitError, parse_quantity

__all__ = ["DramController", "DramCurrents", "DramDevice", "DramOrganisation", "DramSupply"]

_NO_CHARGE: Final = 1e-9
"""Ampere-clocks that arithmetic may lose."""
_ROUNDING: Final = 0.01
"""A time this share of a clock above a whole number of clocks still counts as that number."""


class DramOrganisation(Config):
    """Levels of one channel. Levels that a standard does not have stay at 1.

    Ranks, stacks and rows may be any number (a 24 Gb die has three quarters of the rows of a 32 Gb one); what
    address bits choose inside a die is a power of two.
    """

    width: Count
    """Data pins of one channel; of one pseudo-channel where there are any."""
    device_width: Count
    """Data pins of one die."""
    ranks: Count = 1
    pseudo_channels: Count = 1
    stacks: Count = 1
    bank_groups: Count = 1
    banks: Count
    """Banks of one bank group."""
    rows: Count
    columns: Count
    """Column addresses of a row, each as wide as the pins."""

    @model_validator(mode="after")
    def _powers_of_two(self) -> Self:
        for name in (
            "width",
            "device_width",
            "pseudo_channels",
            "bank_groups",
            "banks",
            "columns",
        ):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(
                    f"{name}: found {value}; expected a power of two, since address bits choose it"
                )
        if self.device_width > self.width:
            raise ValueError(f"device_width {self.device_width} is above the channel's width {self.width}")
        return self

    def level_size(self, level: str) -> int:
        """Fan-out of a level by its name in the standard."""
        return {
            "Channel": 1, "Rank": self.ranks, "PseudoChannel": self.pseudo_channels, "Sid": self.stacks,
            "BankGroup": self.bank_groups, "Bank": self.banks,
        }[level]  # fmt: skip

    @property
    def dies(self) -> int:
        """Dies that work in step for one transaction."""
        return self.width // self.device_width


class DramSupply(Config):
    """Currents of one die from one supply, as a data sheet states them (IDD, IPP or IDDQ; ICC for HBM)."""

    voltage: Voltage
    idd0: Current
    """One bank, activate to precharge, without a gap."""
    idd2n: Current
    """Precharge standby."""
    idd3n: Current
    """Active standby, all banks open."""
    idd4r: Current
    idd4w: Current
    idd5ab: Current
    """All-bank refresh, burst."""
    idd5pb: Current | None = None
    """Per-bank or same-bank refresh, the other banks closed; None: a refresh of some banks costs their share of an
    all-bank one, for it restores that share of the rows."""
    idd2p: Current = 0.0
    idd3p: Current = 0.0
    idd6: Current = 0.0

    @model_validator(mode="after")
    def _bursts_above_standby(self) -> Self:
        for name in ("idd4r", "idd4w", "idd5ab"):
            if getattr(self, name) < self.idd3n:
                raise ValueError(f"{name} is below active standby (idd3n); a burst draws more than waiting")
        if self.idd3n < self.idd2n:
            raise ValueError("active standby (idd3n) is below precharge standby (idd2n)")
        if self.idd5pb is not None and self.idd5pb < self.idd2n:
            raise ValueError("idd5pb is below precharge standby (idd2n); a refresh draws more than waiting")
        return self

    def one_open(self, rho: float, banks: int) -> float:
        """Amperes with one bank open: see ``DramCurrents.rho``."""
        return self.idd2n + (self.idd3n - self.idd2n) * (rho + (1 - rho) / banks)

    def activation_charge(self, active: float, cycle: float, rho: float, banks: int) -> float:
        """Charge of an activate-precharge pair above standby, in amperes times the unit of ``active`` (tRAS) and
        ``cycle`` (tRC).
        """
        return self.idd0 * cycle - self.idd2n * (cycle - active) - self.one_open(rho, banks) * active


class DramCurrents(DramSupply):
    """Supply currents of one die: VDD, and VPP and VDDQ where a data sheet states them apart."""

    rho: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of active standby above precharge standby (idd3n - idd2n) that is drawn as soon as one bank is open; the
    rest grows with the number of open banks (the bank-wise background of DRAMPower 5). None: 1, or 0 where idd0 was
    measured below what 1 allows, which only a background by the bank explains."""
    vpp: DramSupply | None = None
    vddq: DramSupply | None = None
    io: EnergyPerByte = 0.0
    """Drivers and termination, per transferred byte."""

    @property
    def supplies(self) -> dict[str, DramSupply]:
        """Every supply by its name."""
        named = {"VDD": self, "VPP": self.vpp, "VDDQ": self.vddq}
        return {name: supply for name, supply in named.items() if supply is not None}


class DramController(Config):
    """Queues and policies of the memory controller."""

    read_queue: Count = 32
    write_queue: Count = 32
    low_watermark: Annotated[float, Field(ge=0, le=1)] = 0.2
    high_watermark: Annotated[float, Field(ge=0, le=1)] = 0.8
    scheduler: Literal["frfcfs", "frfcfs-rowhit"] = "frfcfs"
    row_policy: Literal["open", "closed", "capped", "timeout"] = "open"
    cap: Count = 4
    """Capped rows: column accesses before the row is closed."""
    timeout: Time = 200e-9
    """Timeout policy: a row that was not accessed for this long is closed."""
    refresh: Literal["all-bank", "per-bank", "same-bank", "paired-per-bank", "off"] = "all-bank"
    clock_always_on: bool = False
    """LPDDR5: keep the data clock running, which saves the CAS command."""

    @model_validator(mode="after")
    def _watermarks_in_order(self) -> Self:
        if self.low_watermark > self.high_watermark:
            raise ValueError(
                f"low_watermark: found {self.low_watermark:g}, above high_watermark ({self.high_watermark:g}); "
                "expected at most that, for writing starts at the high one and ends at the low one"
            )
        return self


class DramDevice(Config):
    """One or more equal channels of DRAM."""

    kind: Literal["dram"]
    name: str
    description: str = ""
    source: str = ""
    technology: str
    """Name of the speed bin: DDR4-3200, HBM2e, LPDDR5-6400, ..."""
    standard: str
    channels: Count = 1
    organisation: DramOrganisation
    clock_period: Time
    """Period of the command clock CK."""
    timing: dict[str, int | str]
    """Clocks (``nCL: 16``) or times (``tRFC: 350 ns``, rounded up to clocks)."""
    currents: DramCurrents | None = None
    controller: DramController = DramController()
    mapping: str = "RoBaRaCoCh"
    """Order of address bits; see the address mapping of the DRAM engine."""
    path_latency: Latency = 0.0
    """Time a read spends outside the DRAM channel: on-chip network, PHY, board."""
    ports: Literal[1] = 1
    """Reads and writes share the data pins of a DRAM channel; the engine knows no other kind."""
    price: Price | None = None

    @field_validator("standard")
    @classmethod
    def _known_standard(cls, value: str, info: ValidationInfo) -> str:
        named = beside(value, (info.context or {}).get("folder"))
        try:
            dram_standard(named)
        except InputError as error:
            raise ValueError(str(error) if named != value else error.problems[0].message) from None
        return named

    @model_validator(mode="after")
    def _possible(self) -> Self:
        standard = dram_standard(self.standard)
        for name in ("ranks", "pseudo_channels", "stacks", "bank_groups"):
            level = {
                "ranks": "Rank",
                "pseudo_channels": "PseudoChannel",
                "stacks": "Sid",
                "bank_groups": "BankGroup",
            }
            if getattr(self.organisation, name) > 1 and level[name] not in standard.levels:
                raise ValueError(f"organisation.{name}: {self.standard} has no level {level[name]}")
        if self.organisation.columns % standard.beats:
            raise ValueError(
                f"organisation.columns: found {self.organisation.columns}; a burst takes {standard.beats}"
            )
        _check_timing(self.clocks, standard)
        self._check_refresh()
        self._check_activation()
        return self

    def _check_refresh(self) -> None:
        """A stated interval between refreshes of some banks must bring every bank its turn once in tREFI."""
        kind = self.controller.refresh
        name = {"per-bank": "nREFIpb", "paired-per-bank": "nREFIpb", "same-bank": "nREFIsb"}.get(kind, "")
        derived = dram_standard(self.standard).derived.get(name)
        if derived is None or name not in self.clocks:
            return
        due = evaluate(derived, self.clocks | self._counts)
        turns = self.clocks[name] / due
        if not 0.9 <= turns <= 1.01:
            raise ValueError(
                f"timing.{name}: found {self.clocks[name]} clocks, which refresh a bank every {turns:.2f} tREFI; "
                f"expected {int(due)}"
            )

    def _check_activation(self) -> None:
        """An activation cannot give energy back, on any supply."""
        c, t = self.currents, self.clocks
        for name, supply in (c.supplies if c is not None else {}).items():
            spent = supply.activation_charge(t["nRAS"], t["nRC"], self.rho, self._banks_of_die)
            if spent >= -_NO_CHARGE:
                continue
            least = supply.idd0 - spent / t["nRC"]
            whose = "" if name == "VDD" else f"{name.lower()}."
            raise ValueError(
                f"currents.{whose}idd0: found {supply.idd0 * 1e3:.4g} mA, below the {least * 1e3:.4g} mA that standby "
                f"alone draws over tRC (rho {self.rho:g}): an activation would cost less than nothing"
            )

    @property
    def rho(self) -> float:
        """The share of ``DramCurrents.rho``, settled."""
        c, t = self.currents, self.clocks
        if c is None:
            return 1.0
        if c.rho is not None:
            return c.rho
        spent = (s.activation_charge(t["nRAS"], t["nRC"], 1.0, 1) for s in c.supplies.values())
        return 1.0 if min(spent) >= -_NO_CHARGE else 0.0

    @property
    def _banks_of_die(self) -> int:
        """Banks that share one refresh and one background."""
        return self.organisation.stacks * self.organisation.bank_groups * self.organisation.banks

    @property
    def _counts(self) -> dict[str, int]:
        """What formulas may name beside timings."""
        o = self.organisation
        banks = o.ranks * o.pseudo_channels * self._banks_of_die
        return {"banks": banks, "banks_per_group": o.banks, "ranks": o.ranks}

    @cached_property
    def clocks(self) -> dict[str, int]:
        """Every timing of the standard in clocks: stated, converted from a time, or derived."""
        standard = dram_standard(self.standard)
        values: dict[str, int] = {}
        for key, value in self.timing.items():
            name = key if key.startswith("n") else f"n{key[1:]}"
            known = standard.timings
            if key[:1] not in "nt" or name not in known:
                shown = nearest(name, known)
                hint = f" (did you mean {shown!r}?)" if shown else ""
                raise ValueError(f"timing.{key}: {self.standard} has no such timing{hint}")
            if name in values:
                raise ValueError(f"timing.{key}: {name} is given twice, in clocks and as a time")
            values[name] = self._clocks_of(key, value)
        missing = [name for name in standard.required if name not in values]
        if missing:
            raise ValueError(
                f"timing: missing {', '.join(missing)} (in clocks, or as a time: t{missing[0][1:]})"
            )
        for name, formula in standard.derived.items():
            if name not in values:
                found = evaluate(formula, values | self._counts)
                # A wait is at least so long; refreshes come at least so often.
                values[name] = int(found) if name.startswith("nREFI") else math.ceil(found - 1e-9)
        return values

    def _clocks_of(self, key: str, value: int | str) -> int:
        if key.startswith("n"):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
                raise ValueError(f"timing.{key}: found {value!r}; expected a whole number of clocks")
            return value
        try:
            seconds = parse_quantity(value, "time")
        except UnitError as error:
            raise ValueError(f"timing.{key}: {error}") from None
        return max(math.ceil(seconds / self.clock_period - _ROUNDING), 0)

    @property
    def transaction_bytes(self) -> int:
        """Bytes of one burst."""
        return self.organisation.width * dram_standard(self.standard).beats // 8

    @property
    def channel_bytes(self) -> int:
        """Bytes of one channel."""
        o = self.organisation
        banks = math.prod(o.level_size(level) for level in dram_standard(self.standard).levels)
        return banks * o.rows * o.columns * o.width // 8

    @property
    def capacity_bytes(self) -> float:
        """Bytes of all channels."""
        return float(self.channels * self.channel_bytes)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """What the data pins of all channels carry."""
        burst_s = self._formula("burst") * self.clock_period
        lanes = self.organisation.pseudo_channels
        return self.channels * lanes * self.transaction_bytes / burst_s

    @property
    def latency_s(self) -> float:
        """A read of a closed bank on an idle channel: accept, activate, read, data, and the way there."""
        activate: float = self.clocks.get("nRCD", self.clocks.get("nRCDRD", 0))
        standard = dram_standard(self.standard)
        opening = "ACT1" if "ACT1" in standard.commands else "ACT"
        # Waits count from the ends of commands; a split activation's data clock is started by a command more.
        activate += standard.clocks(opening) - standard.clocks("RD")
        activate += int(standard.controller == "lpddr5" and not self.controller.clock_always_on)
        return (1 + activate + self._formula("read_latency")) * self.clock_period + self.path_latency

    @property
    def energy_per_byte_j(self) -> float:
        """Energy of a byte when rows are streamed at full bandwidth: rows, bursts, refresh, standby, pins."""
        c = self.currents
        if c is None:
            return 0.0
        o, t = self.organisation, self.clocks
        n_rfc = t.get("nRFC", t.get("nRFCab", 0))
        per_burst = self._formula("burst")
        bursts = o.columns // dram_standard(self.standard).beats
        # Standby and refresh go on for every rank; a pseudo-channel has pins of its own.
        ranks = o.ranks * o.stacks
        joules = 0.0
        for supply in c.supplies.values():
            row = supply.activation_charge(t["nRAS"], t["nRC"], self.rho, self._banks_of_die)
            current_clocks = row / bursts + (supply.idd4r - supply.idd3n) * per_burst
            current_clocks += ranks * supply.idd3n * per_burst
            current_clocks += ranks * (supply.idd5ab - supply.idd3n) * n_rfc / t["nREFI"] * per_burst
            joules += supply.voltage * o.dies * current_clocks * self.clock_period
        return joules / self.transaction_bytes + c.io

    def _formula(self, name: str) -> float:
        return evaluate(getattr(dram_standard(self.standard), name), self.clocks)


def _check_timing(t: dict[str, int], standard: DramStandard) -> None:
    """Rules that no device can break, whatever its speed."""
    activate = max(t.get("nRCD", 0), t.get("nRCDRD", 0), t.get("nRCDWR", 0))
    refresh = t.get("nRFC", t.get("nRFCab", 0))
    rules = [
        (
            t["nRAS"] >= activate,
            f"tRAS ({t['nRAS']} clocks) is below tRCD ({activate}): the row would close unread",
        ),
        (t["nRC"] >= t["nRAS"], f"tRC ({t['nRC']} clocks) is below tRAS ({t['nRAS']})"),
        (
            t["nREFI"] > refresh,
            f"tREFI ({t['nREFI']} clocks) is not above tRFC ({refresh}): refresh takes all time",
        ),
        (t["nCL"] > 0 and t["nRP"] > 0, "tCL and tRP must be at least one clock"),
        (t.get("nCCDL", t.get("nCCD", 1)) >= t.get("nCCDS", t.get("nCCD", 1)), "tCCD_L is below tCCD_S"),
        (
            t["nFAW"] >= t.get("nRRDS", t.get("nRRD", 0)),
            "tFAW is below tRRD: four activates cannot be that close",
        ),
        (
            t.get("nRRDL", 0) >= t.get("nRRDS", 0) or standard.standard == "DDR5",
            "tRRD_L is below tRRD_S",
        ),
    ]
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise ValueError("timing: " + "; ".join(broken))
