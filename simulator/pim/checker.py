"""Holds the commands of a PIM channel against every rule of its device, by plain Python.

It reads the device and the command sets as their files state them, and shares nothing with the engine's kernel
or tables: rules are evaluated and nodes are named here anew. It names the first command that comes too early,
works in a row that is not open, is sent in the wrong mode, opens more banks than the window allows, or leaves a
refresh out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from hw_configs.dram_standard import DramRule, dram_standard, evaluate
from hw_configs.pim import PimDetail, PimRuleChoice
from hw_configs.pim_command_set import BASE_COMMANDS, PimCommand
from hw_configs.problems import bad_input

__all__ = ["PimCommandLine", "PimViolation", "check_pim_commands", "parse_command"]

_POSTPONED: Final = 9
"""A refresh may come late by eight intervals (JEDEC), so two lie at most nine apart."""

Node = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PimCommandLine:
    """One command: its tick and name, bank group and bank (-1: all), row and column (-1: none)."""

    tick: int
    name: str
    group: int
    bank: int
    row: int
    column: int
    channel: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.group}:{self.bank}:{self.row}:{self.column} at tick {self.tick}"


@dataclass(frozen=True, slots=True)
class PimViolation:
    """The first broken rule: its name, the command, its place in the trace, and what was wrong."""

    rule: str
    index: int
    command: PimCommandLine
    message: str

    def __str__(self) -> str:
        return f"command {self.index}: {self.command} breaks {self.rule}: {self.message}"


def parse_command(line: str) -> PimCommandLine:
    """A command from ``tick,COMMAND,channel:group:bank:row:column``; raises ``InputError`` for other text."""
    parts = line.strip().split(",")
    try:
        channel, *address = (int(part) for part in parts[2].split(":"))
        group, bank, row, column = address
        return PimCommandLine(int(parts[0]), parts[1], group, bank, row, column, channel)
    except (IndexError, ValueError):
        raise bad_input(f"found {line.strip()!r}; expected tick,COMMAND,address") from None


def check_pim_commands(
    device: PimDetail, choice: PimRuleChoice, commands: Iterable[PimCommandLine]
) -> PimViolation | None:
    """The first violation of the commands of one channel under a choice of rules, or None."""
    checker = _Checker(device, choice)
    for index, command in enumerate(commands):
        found = checker.take(command)
        if found is not None:
            return PimViolation(found[0], index, command, found[1])
    return None


@dataclass
class _Checker:
    device: PimDetail
    choice: PimRuleChoice
    seen: dict[tuple[int, Node], list[int]] = field(default_factory=dict)
    open_rows: dict[Node, int] = field(default_factory=dict)
    opened: list[int] = field(default_factory=list)
    register_mode: bool = False
    last: PimCommandLine | None = None
    sent: dict[bool, PimCommandLine] = field(default_factory=dict)
    refreshed: int | None = None

    def __post_init__(self) -> None:
        chosen = self.device.commands
        standard = dram_standard(self.device.dram.standard)
        self.per_clock = standard.ticks_per_clock
        self.clocks = self.device.clocks(self.choice)
        self.known: dict[str, PimCommand] = {**BASE_COMMANDS, **chosen.commands}
        # Lengths of commands on the bus, in ticks; a rule counts from the end of one to the end of the next.
        self.length = {name: round(standard.clocks(name) * self.per_clock) for name in standard.commands}
        self.length |= {name: round(one.clocks * self.per_clock) for name, one in chosen.commands.items()}
        self.rules: list[DramRule] = [*standard.constraints, *chosen.constraints]
        self.ticks = [math.ceil(evaluate(r.wait, self.clocks) * self.per_clock - 1e-9) for r in self.rules]
        o = self.device.dram.organisation
        self.groups, self.banks = o.bank_groups, o.banks
        time = self.device.clocks(self.choice)
        self.window_ticks = time["nFAW"] * self.per_clock
        self.interval = time["nREFI"] * self.per_clock
        switches = chosen.mode_switch and time.get("nMODCH", 0) > 0
        self.switch = chosen.mode_switch if switches else ""
        # Rows are opened, closed and refreshed over one bus; where there is another, all else goes over it.
        self.two_buses = bool(standard.buses)

    def take(self, command: PimCommandLine) -> tuple[str, str] | None:
        if command.name not in self.known:
            return "command", "no such command"
        for check in (self._bus, self._mode, self._rows, self._times, self._window, self._refresh):
            found = check(command)
            if found is not None:
                return found
        self._note(command)
        return None

    def _named(self, command: PimCommandLine) -> list[Node]:
        """The banks a command names."""
        return [
            (g, b)
            for g in range(self.groups)
            for b in range(self.banks)
            if command.group in (-1, g) and command.bank in (-1, b)
        ]

    def _nodes(self, command: PimCommandLine, level: str) -> list[Node]:
        if level == "Bank":
            return self._named(command)
        if level == "BankGroup":
            return list(dict.fromkeys((g,) for g, _ in self._named(command)))
        return [()]

    def _bus(self, command: PimCommandLine) -> tuple[str, str] | None:
        """One command a tick, in order, each on its clock edge, and none while a longer one is sent."""
        if self.last is not None and command.tick <= self.last.tick:
            return "order", f"{self.last} went before"
        other = self.sent.get(self._bus_of(command))
        if other is not None and command.tick < other.tick + self.length[other.name]:
            return "command bus", f"{other} has it until tick {other.tick + self.length[other.name] - 1}"
        closing = self.known[command.name].effect == "close"
        if not closing and (command.tick - 1) % self.per_clock:
            return "clock edge", "only a precharge may go on a falling edge"
        return None

    def _bus_of(self, command: PimCommandLine) -> bool:
        return self.two_buses and self.known[command.name].effect in ("open", "close", "refresh")

    def _mode(self, command: PimCommandLine) -> tuple[str, str] | None:
        one = self.known[command.name]
        # Rows are served in the mode of the command they are opened for; refresh needs the memory mode.
        strict = one.effect in ("column", "register", "refresh")
        if self.switch and strict and one.register_mode != self.register_mode:
            return "mode", f"the memory is in {'register' if self.register_mode else 'memory'} mode"
        return None

    def _rows(self, command: PimCommandLine) -> tuple[str, str] | None:
        one, named = self.known[command.name], self._named(command)
        if not named or (one.effect == "open" and command.row < 0):
            return "address", "names no bank or row of this device"
        if command.row >= self.device.rows:
            return "address", f"there are {self.device.rows} rows"
        if one.effect == "open":
            held = [bank for bank in named if bank in self.open_rows]
            return ("bank state", f"bank {held[0]} is already open") if held else None
        if one.effect == "column":
            wrong = [bank for bank in named if self.open_rows.get(bank) != command.row]
            if wrong:
                shown = self.open_rows.get(wrong[0])
                state = "closed" if shown is None else f"open at row {shown}"
                return "bank state", f"bank {wrong[0]} is {state}, not at row {command.row}"
        if one.effect == "refresh" and self.open_rows:
            return "bank state", "a bank it refreshes is open"
        return None

    def _times(self, command: PimCommandLine) -> tuple[str, str] | None:
        for number, rule in enumerate(self.rules):
            if command.name not in rule.before or self._set_aside(rule):
                continue
            for node in self._nodes(command, rule.at):
                issued = self.seen.get((number, node), [])
                if len(issued) < rule.window:
                    continue
                since = issued[-rule.window]
                earliest = since + self.ticks[number] - (self.length[command.name] - 1)
                if command.tick < earliest:
                    before = "/".join(rule.after)
                    return f"{rule.rule} ({rule.at})", f"{before} allows it from tick {earliest}"
        return None

    def _set_aside(self, rule: DramRule) -> bool:
        """A window over single activations; the weighted one holds in its place under honest activation."""
        return self.choice.activation == "honest" and rule.window > 1 and "ACT" in rule.after

    def _window(self, command: PimCommandLine) -> tuple[str, str] | None:
        if self.choice.activation != "honest" or self.known[command.name].effect != "open":
            return None
        recent = [tick for tick in self.opened if command.tick - tick < self.window_ticks]
        number = len(recent) + len(self._named(command))
        if number > self.device.activation_window:
            return "tFAW", f"{number} banks would open within {self.window_ticks} ticks"
        return None

    def _refresh(self, command: PimCommandLine) -> tuple[str, str] | None:
        if self.choice.refresh == "off":
            return None
        if self.refreshed is None:
            self.refreshed = command.tick
        late = command.tick - self.refreshed
        # A forced refresh needs the rows closed first, and the command bus may be busy meanwhile.
        slack = self.interval
        if self.known[command.name].effect != "close" and late > _POSTPONED * self.interval + slack:
            return "tREFI", f"{late} ticks since the last refresh"
        return None

    def _note(self, command: PimCommandLine) -> None:
        one, named = self.known[command.name], self._named(command)
        for number, rule in enumerate(self.rules):
            if command.name in rule.after:
                end = command.tick + self.length[command.name] - 1
                for node in self._nodes(command, rule.at):
                    issued = self.seen.setdefault((number, node), [])
                    issued.append(end)
                    del issued[: -rule.window]
        if one.effect == "open":
            self.open_rows |= dict.fromkeys(named, command.row)
            self.opened = [*self.opened, *[command.tick] * len(named)][-64:]
        elif one.effect == "close" or one.closes:
            for bank in named:
                self.open_rows.pop(bank, None)
        elif one.effect == "refresh":
            self.refreshed = command.tick
        elif one.effect == "mode":
            self.register_mode = not self.register_mode
        self.last = self.sent[self._bus_of(command)] = command
