"""What a PIM memory has beside its DRAM: units that multiply, buffers, rules on activation and refresh, energy.

A PIM device file states its DRAM as any DRAM file does and these parts on top. What the system level asks for
(memory, compute rate, bandwidth inside) is worked out from them, so that one changed figure changes all that
follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hw_configs.config import (
    Config,
    Count,
    Energy,
    EnergyPerByte,
    EnergyPerOperation,
    Frequency,
    ImpossibleError,
    Latency,
    SizeOrZero,
    refuse,
)
from hw_configs.dram import DramDevice
from hw_configs.dram_standard import Formula, beside, evaluate
from hw_configs.pim_command_set import PimCommandSet, command_set
from hw_configs.possible import BITS
from hw_configs.problems import InputError, nearest
from hw_configs.units import UnitError, parse_quantity

__all__ = [
    "PimBuffers",
    "PimDetail",
    "PimEnergy",
    "PimRuleChoice",
    "PimRules",
    "PimUnits",
    "compute_figures",
    "memory_figures",
    "with_organisation",
]

MAX_TIMING: Final = 1 << 24
Activation = Literal["waived", "honest"]
RefreshPolicy = Literal["off", "immediate", "row-boundary"]


class PimUnits(Config):
    """The multiply-accumulate units beside the banks; all of one channel work in step."""

    lanes: Count
    """Multipliers of one unit."""
    clock: Frequency
    dtype: Literal["fp16", "bf16", "int8", "fp8"]
    banks_per_unit: Count = 1
    """1: one beside every bank; 2: one between two banks; all banks of a group: one per bank group."""
    accumulators: Count = 1
    """Result registers of a unit."""
    adder_tree: bool = True
    """A unit sums its lanes to one value; without one every lane keeps a sum of its own, and a scalar of the
    vector is multiplied with a whole column."""
    launch: Latency = 100e-9
    """Time from the host's request to the first command, as the system level adds it per operator."""


class PimBuffers(Config):
    """What holds operands beside the banks."""

    global_buffer: SizeOrZero = 0.0
    """Bytes of the buffer that broadcasts a vector to all units of a channel."""
    registers: SizeOrZero = 0.0
    """Bytes of the vector register file of one unit."""
    scalars: SizeOrZero = 0.0
    """Bytes of the scalar register file of one unit."""
    instructions: SizeOrZero = 0.0
    """Bytes of the instruction registers of one unit."""


class PimRuleChoice(Config):
    """One way to hold a memory to its rules."""

    activation: Activation
    """``honest``: no more banks open in a four-activate window than the window allows; ``waived``: an
    all-bank activation counts as none."""
    refresh: RefreshPolicy
    """``immediate``: as soon as it is due; ``row-boundary``: when no row is open, postponed by at most eight
    intervals; ``off``: none."""
    timing: dict[str, Formula] = Field(default_factory=dict)
    """Timings that take another value under these rules, as formulas over the others."""


class PimRules(Config):
    """The rules the published simulator of a device applies, and all that hold for a real one."""

    published: PimRuleChoice
    """What the simulator behind the published figures applies."""
    honest: PimRuleChoice


class PimEnergy(Config):
    """Energies of PIM commands; rows, standby, refresh and plain accesses follow from the DRAM's currents."""

    column: Energy
    """One column access of one bank for its unit, which leaves the bank but not the die."""
    mac: EnergyPerOperation
    """One operation of a unit; a multiply-accumulate is two."""
    buffer: EnergyPerByte = 0.0
    """One byte into or out of a buffer or register file."""
    activate: Energy | None = None
    """One row of one bank opened and closed, where the currents do not give it."""


class PimDetail(Config):
    """The part of a PIM device below the system level; every figure that follows from it is a property."""

    dram: DramDevice
    """The memory as any DRAM file states it; its kind and name may be left out."""
    command_set: str
    """The commands beside the standard's: ``aim``, ``hbm-pim``, ``attacc``, or the path of a file of one's own."""
    units: PimUnits
    buffers: PimBuffers = PimBuffers()
    timing: dict[str, int | str] = Field(default_factory=dict)
    """Timings of the PIM commands: clocks (``nMODCH: 32``) or times (``tMODCH: 16 ns``)."""
    activation_window: Annotated[int, Field(ge=1, le=4)] = 4
    """Banks that may open within tFAW."""
    queue: Annotated[int, Field(ge=2, le=256)] = 32
    """Requests a channel's queue holds."""
    rules: PimRules
    """Rules by name: ``published`` and ``honest``."""
    energy: PimEnergy

    @field_validator("command_set")
    @classmethod
    def _known_set(cls, value: str, info: ValidationInfo) -> str:
        named = beside(value, (info.context or {}).get("folder"))
        try:
            command_set(named)
        except InputError as error:
            first = error.problems[0].message.removeprefix("command_set: ")
            raise ValueError(str(error) if named != value else first) from None
        return named

    @model_validator(mode="after")
    def _possible(self) -> Self:
        chosen, o = self.commands, self.dram.organisation
        each = self.units.banks_per_unit
        built = f"{self.command_set!r} builds on {chosen.standard}, the memory is {self.dram.standard}"
        refuse((("command_set",), built) if chosen.standard != self.dram.standard else None)
        refuse(
            (("dram", "organisation"), "a PIM channel has one rank and one stack level")
            if o.ranks > 1 or o.stacks > 1
            else None,
            (("dram", "organisation"), f"found {self.banks} banks; a PIM channel has at most 64")
            if self.banks > 64
            else None,
            (("units", "dtype"), f"a burst of {self.column_bytes} bytes holds no whole {self.units.dtype}")
            if self.dram.transaction_bytes * 8 % BITS[self.units.dtype]
            else None,
            (
                ("units", "banks_per_unit"),
                f"found {each}; the {self.banks} banks of a channel must divide by it",
            )
            if self.banks % each
            else None,
        )
        for name, choice in (("published", self.rules.published), ("honest", self.rules.honest)):
            try:
                self.clocks(choice)
            except ValueError as error:
                key, _, message = str(error).partition(": ")
                inside = ("rules", name) if key.removeprefix("timing.") in choice.timing else ()
                raise ImpossibleError([((*inside, *key.split(".")), message)]) from None
        return self

    @property
    def commands(self) -> PimCommandSet:
        """The command set by name."""
        return command_set(self.command_set)

    @property
    def channels(self) -> int:
        """Channels that work on their own; each pseudo-channel is one."""
        return self.dram.channels * self.dram.organisation.pseudo_channels

    @property
    def banks(self) -> int:
        """Banks of one (pseudo-)channel."""
        return self.dram.organisation.bank_groups * self.dram.organisation.banks

    @property
    def units_per_channel(self) -> int:
        """Units of one (pseudo-)channel."""
        return self.banks // self.units.banks_per_unit

    @property
    def rows(self) -> int:
        """Rows of a bank."""
        return self.dram.organisation.rows

    @property
    def column_bytes(self) -> int:
        """Bytes of one column access of a bank, and of one burst."""
        return self.dram.transaction_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one bank."""
        return self.dram.organisation.columns * self.dram.organisation.width // 8

    @property
    def columns(self) -> int:
        """Column accesses of one row of one bank."""
        return self.row_bytes // self.column_bytes

    @property
    def element_bytes(self) -> int:
        """Bytes of an operand."""
        return BITS[self.units.dtype] // 8

    @property
    def elements_per_column(self) -> int:
        """Operands of one column access."""
        return self.column_bytes // self.element_bytes

    @property
    def global_buffer_bytes(self) -> int:
        """Bytes of a vector that a channel holds at once: in its global buffer, or in every unit's scalars."""
        return int(self.buffers.global_buffer or self.buffers.scalars)

    @property
    def lockstep_columns(self) -> int:
        """Lock-step multiplications that one open row of every bank feeds."""
        covered = (
            command_set(self.command_set)
            .all_commands[self.commands.instructions[self.commands.lockstep].command]
            .covers
        )
        spread = self.units.banks_per_unit if "Bank" in covered else 1
        return self.columns * spread

    @property
    def accumulators(self) -> int:
        """Result registers of a unit."""
        return self.units.accumulators

    @property
    def tick_s(self) -> float:
        """The engine's clock: CK, or half of it where commands take half clocks."""
        return self.dram.clock_period / self.commands.merged.ticks_per_clock

    @cached_property
    def mac_period_s(self) -> float:
        """Seconds between two lock-step column accesses, by the rules between them."""
        clocks, merged = self.clocks(self.rules.published), self.commands.merged
        command = self.commands.instructions[self.commands.lockstep].command
        waits = [
            math.ceil(evaluate(rule.wait, clocks) - 1e-9)
            for rule in merged.constraints
            if command in rule.after and command in rule.before and rule.window == 1
        ]
        return max(waits, default=1) * self.dram.clock_period

    @property
    def internal_bytes_per_s(self) -> float:
        """What all units together read from their banks."""
        return self.channels * self.units_per_channel * self.column_bytes / self.mac_period_s

    @property
    def operations_per_s(self) -> float:
        """What all units together compute."""
        return self.internal_bytes_per_s / self.element_bytes * 2

    def clocks(self, choice: PimRuleChoice) -> dict[str, int]:
        """Every timing in clocks under a choice of rules; raises ``ValueError`` for a name nobody has."""
        merged = self.commands.merged
        known = merged.timings | {"nMAC"}
        values: dict[str, int] = dict(self.dram.clocks)
        lanes_s = math.ceil(self.elements_per_column / self.units.lanes) / self.units.clock
        values["nMAC"] = max(math.ceil(lanes_s / self.dram.clock_period - 0.01), 1)
        for key, value in self.timing.items():
            name = key if key.startswith("n") else f"n{key[1:]}"
            if key[:1] not in "nt" or name not in known:
                raise ValueError(_unknown(f"timing.{key}", name, known))
            values[name] = self._clocks_of(key, value)
        missing = [name for name in self.commands.required if name not in values]
        if missing:
            raise ValueError(f"timing: missing {', '.join(missing)}, which {self.command_set!r} needs")
        for name, formula in self.commands.derived.items():
            if name not in values:
                values[name] = math.ceil(evaluate(formula, values) - 1e-9)
        changed = dict(values)
        for name, formula in choice.timing.items():
            if name not in known:
                raise ValueError(_unknown(f"timing.{name}", name, known))
            try:
                changed[name] = math.ceil(evaluate(formula, values) - 1e-9)
            except (ValueError, ArithmeticError) as error:
                raise ValueError(f"timing.{name}: {error}") from None
        for name, clocks in changed.items():
            if not 0 <= clocks <= MAX_TIMING:
                raise ValueError(f"timing.{name}: {clocks} clocks; expected 0 to {MAX_TIMING}")
        return changed

    def _clocks_of(self, key: str, value: int | str) -> int:
        if key.startswith("n"):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TIMING:
                raise ValueError(f"timing.{key}: found {value!r}; expected a whole number of clocks")
            return value
        try:
            seconds = parse_quantity(value, "time")
        except UnitError as error:
            raise ValueError(f"timing.{key}: {error}") from None
        return max(math.ceil(seconds / self.dram.clock_period - 0.01), 0)


def memory_figures(pim: PimDetail) -> dict[str, Any]:
    """The memory as the system level sees it, in SI units."""
    o, dram = pim.dram.organisation, pim.dram
    pins = dram.channels * o.pseudo_channels * o.width
    return {
        "technology": dram.technology,
        "capacity": dram.capacity_bytes,
        "bandwidth": dram.bandwidth_bytes_per_s,
        "latency": dram.latency_s,
        "energy_per_byte": dram.energy_per_byte_j,
        "bus_width": pins,
        "pin_rate": dram.bandwidth_bytes_per_s / pins,
        "ports": dram.ports,
    }


def compute_figures(pim: PimDetail) -> dict[str, Any]:
    """The compute rate of all units together, in SI units; an operation's energy has its column access in it."""
    per_operation = pim.energy.mac + pim.energy.column / (2 * pim.elements_per_column)
    return {
        "matrix": {pim.units.dtype: pim.operations_per_s},
        "energy_per_operation": {pim.units.dtype: per_operation},
        "launch": pim.units.launch,
    }


Changed = TypeVar("Changed", bound=PimDetail)


def with_organisation(pim: Changed, channels: int | None = None, rows: int | None = None) -> Changed:
    """The device with other channels or rows, validated as a whole; what follows from them follows."""
    data = pim.model_dump(exclude_unset=True)
    if channels is not None:
        data["dram"]["channels"] = channels
    if rows is not None:
        data["dram"]["organisation"]["rows"] = rows
    return type(pim).model_validate(data)


def _unknown(path: str, name: str, known: Mapping[str, Any] | frozenset[str]) -> str:
    shown = nearest(name, known)
    return f"{path}: no such timing{f' (did you mean {shown!r}?)' if shown else ''}"
