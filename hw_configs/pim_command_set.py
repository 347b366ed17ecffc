"""The commands a PIM memory has beside those of its DRAM standard, as data: what each covers, does and waits for.

A command set is one YAML file below ``pim_command_sets/``. It names its DRAM standard and adds commands to it,
rules of time between them (formulas over named timings, as in the standard), and the instructions a host may
give. A new family of PIM memories is a new file; a new speed bin is a device file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from hw_configs.config import Config, parse
from hw_configs.dram_standard import (
    DramRule,
    DramStandard,
    Formula,
    Words,
    dram_standard,
    is_path,
    names_in,
    stamp,
)
from hw_configs.problems import bad_input, nearest
from hw_configs.yaml_file import read_yaml

__all__ = ["BASE_COMMANDS", "PimCommand", "PimCommandSet", "PimInstruction", "command_set", "set_names"]

_FOLDER: Final = Path(__file__).parent / "pim_command_sets"

Effect = Literal["open", "close", "column", "register", "refresh", "mode"]
PinData = Literal["", "vector", "bias", "result", "read", "write"]


class PimCommand(Config):
    """One command: the banks it covers, what it does to them, and what it moves."""

    clocks: Annotated[float, Field(gt=0, le=64)] = 1
    """Clocks on the command bus."""
    covers: Words = ()
    """Levels it covers whole: ``BankGroup Bank`` is every bank of a channel, ``Bank`` a bank group,
    ``BankGroup`` the same bank of every group, nothing one bank."""
    effect: Effect
    """``open`` and ``close`` rows; ``column`` works in open rows; ``register`` touches no row."""
    opens_with: str = ""
    """Column commands: the command that opens the rows they need."""
    closes_with: str = ""
    """Column commands: the command that closes other rows of those banks."""
    staged: str = ""
    """Opening commands: the smaller one that takes their place where the activation window counts."""
    register_mode: bool = False
    """Needs the mode for registers where the set has a mode switch; all others need the memory mode."""
    latency: Formula = "1"
    """Clocks from the command until its data is there, or until it has ended."""
    pins: PinData = ""
    """What one burst over the pins carries; nothing for a command that stays inside."""
    multiplies: bool = False
    """Every unit it covers multiplies one column of its bank with the buffer and accumulates."""
    bank_access: Literal["", "read", "write"] = ""
    """Column commands: whether the banks' arrays are read or written."""
    buffer_access: bool = False
    """One burst goes into or out of a buffer or register file."""
    closes: bool = False
    """Closes the rows it worked in (automatic precharge)."""


class PimInstruction(Config):
    """What a host may write into a program: the command it is carried out by."""

    command: str
    blocking: bool = False
    """The host waits for the data before it goes on."""


_ALL: Final = ("BankGroup", "Bank")
BASE_COMMANDS: Final[Mapping[str, PimCommand]] = {
    "ACT": PimCommand(effect="open"),
    "PREpb": PimCommand(effect="close"),
    "PREab": PimCommand(effect="close", covers=_ALL),
    "RD": PimCommand(
        effect="column", opens_with="ACT", closes_with="PREpb", latency="nCL + nBL", pins="read",
        bank_access="read",
    ),
    "WR": PimCommand(
        effect="column", opens_with="ACT", closes_with="PREpb", latency="nCWL + nBL", pins="write",
        bank_access="write",
    ),
    "REFab": PimCommand(effect="refresh", covers=_ALL),
}  # fmt: skip
"""What the commands of every DRAM standard do."""


class PimCommandSet(Config):
    """Commands, rules and instructions that a PIM memory adds to a DRAM standard."""

    command_set: str
    source: str
    standard: str
    """The DRAM standard it builds on."""
    mode_switch: str = ""
    """The command between register mode and memory mode; nothing where there are no modes. A device whose
    switch takes no time (``nMODCH: 0``) needs none."""
    commands: dict[str, PimCommand]
    instructions: dict[str, PimInstruction]
    lockstep: str
    """The instruction by which most units multiply at once."""
    required: Words = ()
    """Timings beside the standard's that a device must give."""
    derived: dict[str, Formula] = Field(default_factory=dict)
    """Timings a device may leave out."""
    constraints: tuple[DramRule, ...]

    @model_validator(mode="after")
    def _names_known(self) -> Self:
        if self.standard not in ("DDR3", "DDR4", "DDR5", "GDDR6", "HBM2", "HBM3", "LPDDR5"):
            raise ValueError(f"standard: found {self.standard!r}; expected a shipped DRAM standard")
        known = self.all_commands
        for name, command in self.commands.items():
            for other in (command.opens_with, command.closes_with, command.staged):
                if other and other not in known:
                    raise ValueError(f"commands.{name}: unknown command {other!r}")
            if command.effect == "column" and not (command.opens_with and command.closes_with):
                raise ValueError(f"commands.{name}: a column command needs opens_with and closes_with")
            names_in(command.latency)
        for name, instruction in self.instructions.items():
            if instruction.command not in known:
                raise ValueError(f"instructions.{name}: unknown command {instruction.command!r}")
        if self.lockstep not in self.instructions:
            raise ValueError(f"lockstep: unknown instruction {self.lockstep!r}")
        if self.mode_switch and self.mode_switch not in known:
            raise ValueError(f"mode_switch: unknown command {self.mode_switch!r}")
        _ = self.merged
        return self

    @cached_property
    def all_commands(self) -> dict[str, PimCommand]:
        """Every command by name, those of the standard first."""
        return {**BASE_COMMANDS, **self.commands}

    @cached_property
    def merged(self) -> DramStandard:
        """The DRAM standard with this set's commands, timings and rules in it."""
        base = dram_standard(self.standard)
        lengths = {name: command.clocks for name, command in self.commands.items()}
        buses = base.buses
        if buses:
            # Commands that open, close or refresh rows go over the row bus, all others over the column bus.
            row = [n for n, c in self.commands.items() if c.effect in ("open", "close", "refresh")]
            column = [n for n in self.commands if n not in row]
            buses = ((*buses[0], *row), (*buses[1], *column))
        return DramStandard.model_validate(
            {
                **base.model_dump(),
                "commands": {**base.commands, **lengths},
                "buses": buses,
                "derived": {**base.derived, **self.derived},
                "required": (*base.required, *self.required),
                "constraints": (*base.constraints, *self.constraints),
            }
        )


def set_names() -> list[str]:
    """Command sets that ship with Offchip."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def command_set(name: str) -> PimCommandSet:
    """A command set by name, or by the path of one's own file; raises ``InputError`` for an unknown one."""
    if is_path(name):
        return _read_set(Path(name), stamp(Path(name)))
    if name not in set_names():
        raise bad_input(
            f"unknown PIM command set {name!r}; known: {', '.join(set_names())}, or the path of a file",
            path="command_set",
            suggestion=nearest(name, set_names()),
        )
    return _read_set(_FOLDER / f"{name}.yaml")


@lru_cache(maxsize=64)
def _read_set(path: Path, stamp: tuple[int, int] | None = None) -> PimCommandSet:  # noqa: ARG001
    return parse(PimCommandSet, read_yaml(path))
