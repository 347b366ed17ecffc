"""Holds a command trace against every rule of its device, by plain Python.

It shares with the engine only the description of the device, and names the first command that breaks a rule:

``order``, ``address``
    Commands come in order of time and name a bank of the device.
``command bus``, ``clock edge``, ``pairing``
    One command per tick and bus (HBM: rows and columns have a bus each). HBM3 issues on rising edges; on the falling
    edge after a row command only a precharge of one bank may go, and within the pseudo-channel of that command only
    beside a command to another, single bank.
``bank state``
    A row is opened in a closed bank, read and written while it is open, and closed before its bank is refreshed.
    LPDDR5: a row is opened by two commands, and no other row is half open meanwhile.
a timing rule of the device, by its name
    After its first command at a node, its second waits there; for every constraint of the standard's table.
``tAAD``, ``WCK sync``
    LPDDR5: the second half of an activation comes in time; an access needs a running data clock, or comes right
    behind the CAS that starts it.
``tREFI``
    Whatever is refreshed by one command (a rank or pseudo-channel, a bank, two banks of LPDDR5, the same bank of all
    groups) is refreshed once in tREFI. Up to eight refreshes are postponed, and up to eight pulled in (JEDEC).
``refresh round``
    Per-bank and same-bank refreshes go round: none gets its second before all of its rank or pseudo-channel got one.
``refresh pair``
    Paired refreshes (HBM3): no bank is refreshed again before its twins in the other pseudo-channels were.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from hw_configs.dram import DramDevice
from hw_configs.problems import bad_input
from simulator.dram.build import channel_of
from simulator.dram.machine import Channel, Constraint, covers

__all__ = ["Command", "CommandCheck", "Violation", "check_commands", "parse_command"]

Node = tuple[int, ...]
_POSTPONED: Final = 8
"""Refreshes that may be owed, and refreshes that may be done in advance (JEDEC)."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its tick, name, and an index per level from channel to bank, then row and column (-1:
    all).
    """

    tick: int
    name: str
    address: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {':'.join(map(str, self.address))} at tick {self.tick}"


@dataclass(frozen=True, slots=True)
class Violation:
    """The first broken rule: its name, the command, its place in the trace, and what was wrong."""

    rule: str
    index: int
    command: Command
    message: str

    def __str__(self) -> str:
        return f"command {self.index}: {self.command} breaks {self.rule}: {self.message}"


def parse_command(line: str) -> Command:
    """A command from a line ``tick,COMMAND,channel:...:row:column``; raises ``InputError`` for other text."""
    parts = line.strip().split(",")
    try:
        return Command(int(parts[0]), parts[1], tuple(int(x) for x in parts[2].split(":")))
    except (IndexError, ValueError):
        raise bad_input(f"found {line.strip()!r}; expected tick,COMMAND,address") from None


def check_commands(device: DramDevice | Channel, commands: Iterable[Command]) -> Violation | None:
    """The first violation of one channel's command trace, or None when every rule holds."""
    channel = channel_of(device) if isinstance(device, DramDevice) else device
    check = CommandCheck(channel)
    return next((found for command in commands if (found := check.take(command)) is not None), None)


class CommandCheck:
    """The commands of one channel as they come, each held against every rule; nothing grows with their number."""

    def __init__(self, channel: Channel) -> None:
        self._checker = _Checker(channel)
        self.taken = 0

    def take(self, command: Command) -> Violation | None:
        """What the next command breaks, or None."""
        found = self._checker.take(self.taken, command)
        self.taken += 1
        return found


@dataclass
class _Checker:
    channel: Channel
    seen: dict[tuple[int, Node], list[int]] = field(default_factory=dict)
    open_rows: dict[Node, int] = field(default_factory=dict)
    half_open: dict[Node, Command] = field(default_factory=dict)
    refreshes: dict[Node, int] = field(default_factory=dict)
    """How often each unit of refresh had its turn: an address from the channel to the bank, -1 for all."""
    bus: list[Command] = field(default_factory=list)
    clock_runs_until: int = 0
    promised: Command | None = None
    rising: Command | None = None

    def __post_init__(self) -> None:
        self.sizes = [size for _, size in self.channel.levels]
        self.depth = {name: i for i, name in enumerate(self.channel.level_names)}
        self.banks = list(itertools.product(*(range(size) for size in self.sizes)))
        self.after: dict[str, list[tuple[int, Constraint]]] = {}
        self.before: dict[str, list[tuple[int, Constraint]]] = {}
        self.refreshes = dict.fromkeys(self._units(), 0)
        # A round of single refreshes is a whole number of ticks, so it is shorter than tREFI by up to one tick each.
        self.slowest = self.channel.timing.get("nREFI", 0)
        self.fastest = max(self.slowest - len(self.refreshes), 0)
        for number, rule in enumerate(self.channel.constraints):
            for name in rule.preceding:
                self.after.setdefault(name, []).append((number, rule))
            for name in rule.following:
                self.before.setdefault(name, []).append((number, rule))

    def take(self, index: int, command: Command) -> Violation | None:
        checks = (self._bus(command), self._state(command), self._timing(command), self._refresh(command))
        for found in checks:
            if found is not None:
                return Violation(found[0], index, command, found[1])
        self._note(command)
        return None

    def _targets(self, command: Command) -> list[Node]:
        return [bank for bank in self.banks if self._names(command, bank)]

    def _names(self, command: Command, node: Node) -> bool:
        return all(covers(a, n, s) for a, n, s in zip(command.address, node, self.sizes, strict=False))

    def _nodes(self, command: Command, level: int) -> list[Node]:
        """Nodes of a level that the command names."""
        ranges = [
            [n for n in range(self.sizes[i]) if covers(command.address[i], n, self.sizes[i])]
            for i in range(level + 1)
        ]
        return list(itertools.product(*ranges))

    def _siblings(self, command: Command, level: int) -> list[Node]:
        """Nodes of a level below the same parents that the command does not name."""
        size, wanted = self.sizes[level], command.address[level]
        parents = self._nodes(command, level - 1) if level else [()]
        return [(*p, i) for p in parents for i in range(size) if not covers(wanted, i, size)]

    def _timing(self, command: Command) -> tuple[str, str] | None:
        for number, rule in self.before.get(command.name, ()):
            for node in self._nodes(command, self.depth[rule.level]):
                ticks = self.seen.get((number, node), [])
                if len(ticks) < rule.window:
                    continue
                earliest = ticks[-rule.window] + rule.latency
                if command.tick < earliest:
                    name = rule.name or f"{'/'.join(rule.preceding)} to {command.name}"
                    return (
                        f"{name} ({rule.level}, {rule.latency} ticks)",
                        f"{'/'.join(rule.preceding)} at tick {ticks[-rule.window]} allows it from {earliest}",
                    )
        return None

    def _state(self, command: Command) -> tuple[str, str] | None:
        levels = len(self.sizes)
        targets = self._targets(command)
        if not targets:
            return "address", "names no bank of this device"
        bank, row = targets[0], command.address[levels]
        kind = command.name
        if kind in ("ACT", "ACT1"):
            if bank in self.open_rows or bank in self.half_open:
                return "bank state", "the bank is already open"
            if kind == "ACT1" and self.half_open:
                return "bank state", "another activation is half done"
        elif kind == "ACT2":
            first = self.half_open.get(bank)
            if first is None or first.address[levels] != row:
                return "bank state", "no ACT1 of this row went before"
            if command.tick > first.tick + self.channel.timing.get("nAAD", 8):
                return "tAAD", f"ACT1 was at tick {first.tick}"
        elif kind in ("RD", "WR", "RDA", "WRA", "CAS_RD", "CAS_WR"):
            if self.open_rows.get(bank) != row:
                shown = self.open_rows.get(bank)
                return (
                    "bank state",
                    "the bank is closed" if shown is None else f"row {shown} is open, not {row}",
                )
        elif kind.startswith("PRE"):
            if any(target in self.half_open for target in targets):
                return "bank state", "a row of it is half open"
        elif kind.startswith("REF") and any(t in self.open_rows or t in self.half_open for t in targets):
            return "bank state", "a bank it refreshes is open"
        return self._data_clock(command)

    def _data_clock(self, command: Command) -> tuple[str, str] | None:
        """LPDDR5: an access needs a running WCK, or a CAS as the command before."""
        if not self.channel.split_activation or not self.channel.controller.clock_sync:
            return None
        kind = command.name
        if self.promised is not None:
            wanted = self.promised.name[-2:]
            if kind not in (wanted, f"{wanted}A") or command.address != self.promised.address:
                return "WCK sync", f"{self.promised} must be followed by its access"
        elif kind in ("RD", "WR", "RDA", "WRA") and command.tick >= self.clock_runs_until:
            return "WCK sync", f"the data clock stopped at tick {self.clock_runs_until}"
        return None

    def _bus(self, command: Command) -> tuple[str, str] | None:
        """One command per tick and bus, in order of time; HBM3 edges."""
        if self.bus and command.tick < self.bus[-1].tick:
            return "order", f"the command before it is at tick {self.bus[-1].tick}"
        kind = self.channel.controller.kind
        column = command.name in ("RD", "WR", "RDA", "WRA")
        for other in self.bus:
            same_bus = kind not in ("hbm2", "hbm3") or column == (other.name in ("RD", "WR", "RDA", "WRA"))
            if other.tick == command.tick and same_bus:
                return "command bus", f"{other} takes the same tick"
        if kind == "hbm3" and command.tick % 2 == 0:
            if not command.name.startswith("PRE"):
                return "clock edge", "only a precharge may go on a falling edge"
            return self._pairing(command)
        return None

    def _pairing(self, command: Command) -> tuple[str, str] | None:
        """HBM3: what a falling edge may pair with the row command of the rising edge before."""
        rising = self.rising
        if rising is None or command.tick != rising.tick + (3 if rising.name == "ACT" else 1):
            return None
        levels = len(self.sizes)
        if rising.address[1] != command.address[1]:
            return None
        if rising.name in ("PREab", "REFab") or command.name != "PREpb":
            return "pairing", f"{rising} allows no such precharge in its pseudo-channel"
        if rising.address[:levels] == command.address[:levels]:
            return "pairing", f"{rising} is to the same bank"
        return None

    def _units(self) -> list[Node]:
        """What one refresh command of this controller refreshes: addresses, -1 for all of a level."""
        kept = self.depth[self.channel.refresh_level] + 1
        kind = self.channel.controller.refresh
        if kind == "off":
            return []
        if kind == "all-bank":
            return sorted({(*bank[:kept], *(-1 for _ in bank[kept:])) for bank in self.banks})
        if kind == "same-bank":
            return sorted({(*bank[:kept], *(-1 for _ in bank[kept:-1]), bank[-1]) for bank in self.banks})
        if self.channel.pairwise:
            at = self.depth[self.channel.refresh_pairs]
            half = self.sizes[at] // 2
            return sorted({(*bank[:at], -2 - bank[at] % half, *bank[at + 1 :]) for bank in self.banks})
        return self.banks

    def _covered(self, command: Command) -> list[Node]:
        """Units of refresh that a command refreshes whole."""
        if not command.name.startswith("REF"):
            return []
        return [
            unit
            for unit in self.refreshes
            if all(a in (-1, u) for a, u in zip(command.address, unit, strict=False))
        ]

    def _refresh(self, command: Command) -> tuple[str, str] | None:
        """Units of refresh that are owed too many, or have too many in advance; rounds and pairs."""
        if not self.refreshes or self.fastest <= 0:
            return None
        due = command.tick // self.slowest
        unit, least = min(self.refreshes.items(), key=lambda item: item[1])
        if due - least > _POSTPONED:
            return "tREFI", f"{due - least} refreshes of {unit} are owed; expected at most {_POSTPONED}"
        kept = self.depth[self.channel.refresh_level] + 1
        for unit in self._covered(command):
            done = self.refreshes[unit]
            advance = done + 1 - command.tick // self.fastest
            if advance > _POSTPONED:
                return "tREFI", f"{advance} refreshes of {unit} in advance; expected at most {_POSTPONED}"
            for other, count in self.refreshes.items():
                if count < done and other[:kept] == unit[:kept]:
                    return "refresh round", f"{unit} has its turn again before {other}"
                if self.channel.controller.refresh == "paired-per-bank" and (
                    count < done and other[2:] == unit[2:]
                ):
                    return "refresh pair", f"{unit} is refreshed again before {other}"
        return None

    def _note(self, command: Command) -> None:
        levels = len(self.sizes)
        for number, rule in self.after.get(command.name, ()):
            level = self.depth[rule.level]
            nodes = self._siblings(command, level) if rule.siblings else self._nodes(command, level)
            for node in nodes:
                ticks = self.seen.setdefault((number, node), [])
                ticks.append(command.tick)
                del ticks[: -rule.window]
        targets, kind = self._targets(command), command.name
        if kind == "ACT1":
            self.half_open[targets[0]] = command
        elif kind in ("ACT", "ACT2"):
            self.half_open.pop(targets[0], None)
            self.open_rows[targets[0]] = command.address[levels]
        elif kind.startswith("PRE") or kind in ("RDA", "WRA"):
            for target in targets:
                self.open_rows.pop(target, None)
        for unit in self._covered(command):
            self.refreshes[unit] += 1
        self.promised = command if kind.startswith("CAS") else None
        if kind in ("RD", "WR", "RDA", "WRA"):
            t = self.channel.timing
            latency = t.get("nCL", 0) if kind.startswith("RD") else t.get("nCWL", 0)
            until = command.tick + latency + t.get("nBL_min", self.channel.burst) + t.get("nWCKPST", 0)
            self.clock_runs_until = max(self.clock_runs_until, until)
        elif self.channel.controller.kind == "hbm3" and command.tick % 2 == 1:
            self.rising = command
        if self.bus and self.bus[-1].tick != command.tick:
            self.bus.clear()
        self.bus.append(command)
