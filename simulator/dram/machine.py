"""One DRAM channel as the engine sees it: a tree of nodes, rules between commands, and a controller.

Everything is already in integers: levels with their fan-out, every timing rule as a number of ticks, queue
depths as numbers of requests. A machine comes from a device file (:mod:`simulator.dram.build`) or straight
from a table of constraints; the engine, the checker and the tests all read this one description.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

import numpy as np

from hw_configs.problems import InputError, Problem, nearest

__all__ = ["COMMANDS", "Channel", "Command", "Constraint", "Controller", "Target", "command_code", "covers"]

COMMANDS: Final = (
    "ACT", "ACT2", "PREpb", "PREab", "RD", "WR", "RDA", "WRA", "REFab", "REFpb", "REFsb", "CAS_RD", "CAS_WR",
    "PREsb",
)  # fmt: skip
"""Every command the engine can issue, in the order of its codes. ``ACT1`` is the code of ``ACT``."""

ACT, ACT2, PREPB, PREAB, RD, WR, RDA, WRA, REFAB, REFPB, REFSB, CAS_RD, CAS_WR, PRESB = range(len(COMMANDS))

Command = int
"""A command by its code."""


def command_code(name: str) -> Command:
    """The code of a command name; raises ``InputError`` for a name no standard has."""
    if name == "ACT1":
        return ACT
    if name not in COMMANDS:
        known = ("ACT1", *COMMANDS)
        raise InputError(
            [
                Problem(
                    f"unknown DRAM command {name!r}; known: {', '.join(known)}",
                    suggestion=nearest(name, known),
                )
            ]
        )
    return COMMANDS.index(name)


@dataclass(frozen=True, slots=True)
class Constraint:
    """After ``preceding`` at a node of ``level``, ``following`` must wait ``latency`` ticks there.

    ``window`` n counts from the n-th most recent ``preceding`` at that node (four-activate window: 4).
    ``siblings`` makes the rule hold for the other nodes below the same parent instead (rank to rank).
    """

    level: str
    preceding: tuple[str, ...]
    following: tuple[str, ...]
    latency: int
    window: int = 1
    siblings: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Controller:
    """What the controller of one channel decides by. Sizes are requests, times are ticks."""

    kind: Literal["ddr", "lpddr5", "hbm2", "hbm3"] = "ddr"
    read_queue: int = 32
    write_queue: int = 32
    priority_queue: int = 1568
    low_watermark: float = 0.2
    high_watermark: float = 0.8
    scheduler: Literal["frfcfs", "frfcfs-rowhit"] = "frfcfs"
    row_policy: Literal["open", "closed", "capped", "timeout"] = "open"
    cap: int = 4
    timeout: int = 200
    refresh: Literal["all-bank", "per-bank", "same-bank", "paired-per-bank", "off"] = "all-bank"
    refresh_scatter: int = 0
    """Ticks between the all-bank refreshes of two ranks; 0 sends them all in one tick."""
    clock_sync: bool = True
    """LPDDR5: the data clock (WCK) stops between bursts and needs a CAS to start again."""

    def __post_init__(self) -> None:
        problems = [
            Problem(f"found {value}; expected {least} or more", path=f"controller.{name}")
            for name, value, least in (
                ("read_queue", self.read_queue, 1),
                ("write_queue", self.write_queue, 1),
                ("priority_queue", self.priority_queue, 1),
                ("cap", self.cap, 1),
                ("timeout", self.timeout, 1),
                ("refresh_scatter", self.refresh_scatter, 0),
            )
            if value < least
        ]
        problems += [
            Problem(f"found {value}; expected a share from 0 to 1", path=f"controller.{name}")
            for name, value in (
                ("low_watermark", self.low_watermark),
                ("high_watermark", self.high_watermark),
            )
            if not 0 <= value <= 1
        ]
        if problems:
            raise InputError(problems)


@dataclass(frozen=True, slots=True)
class Target:
    """What a command names: an index per level from the channel to the bank, -1 for all, and -2 - i for two of them:
    i and the one half a level further on.
    """

    address: tuple[int, ...]
    banks: tuple[int, ...]


@dataclass(frozen=True)
class Channel:
    """One channel of a device. ``levels`` runs from the channel to the bank, with the fan-out of each.

    ``timing`` holds the named values the controller itself needs (nREFI, nREFIpb, nRFCpb, nAAD, nCL, nCWL,
    nBL_min, nWCKPST), all in ticks. ``command_names`` are the standard's own spellings.
    """

    standard: str
    levels: tuple[tuple[str, int], ...]
    rows: int
    columns: int
    """Transactions per row of one bank."""
    transaction_bytes: int
    tick_s: float
    read_latency: int
    """From the tick of a read to the tick its last data has arrived."""
    write_latency: int
    burst: int
    """Ticks the data bus is taken by one transaction."""
    timing: dict[str, int]
    constraints: tuple[Constraint, ...]
    refresh_level: str
    refresh_pairs: str = ""
    """The level whose halves a per-bank refresh joins: it refreshes a bank in each (LPDDR5); none where empty."""
    mapping: str = "RoBaRaCoCh"
    controller: Controller = field(default_factory=Controller)
    command_ticks: dict[str, int] = field(default_factory=dict)
    ticks_per_clock: int = 1

    @cached_property
    def level_names(self) -> tuple[str, ...]:
        """Names from the channel to the bank."""
        return tuple(name for name, _ in self.levels)

    @cached_property
    def banks(self) -> int:
        """Banks of the channel, all ranks and pseudo-channels together."""
        product = 1
        for _, size in self.levels:
            product *= size
        return product

    @property
    def commands(self) -> frozenset[str]:
        """Every command that a rule of this channel names."""
        return frozenset(name for rule in self.constraints for name in (*rule.preceding, *rule.following))

    @property
    def split_activation(self) -> bool:
        """LPDDR5: a row is opened by two commands."""
        return "ACT1" in self.commands

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the channel."""
        return self.banks * self.rows * self.columns * self.transaction_bytes

    @property
    def peak_bytes_per_s(self) -> float:
        """What the data pins carry: every pseudo-channel has pins of its own."""
        lanes = dict(self.levels).get("PseudoChannel", 1)
        return lanes * self.transaction_bytes / (self.burst * self.tick_s)

    @cached_property
    def targets(self) -> tuple[tuple[Target, ...], int]:
        """Every target of a command, and how many refresh scopes are among them."""
        found, scopes = _targets_of(self)
        return tuple(found), scopes

    def spell(self, code: Command) -> str:
        """The standard's own name of a command code."""
        if code == REFSB and self.pairwise:
            return "REFpb"
        return "ACT1" if code == ACT and self.split_activation else COMMANDS[code]

    @property
    def pairwise(self) -> bool:
        """Whether a per-bank refresh takes two banks."""
        return bool(self.refresh_pairs) and self.controller.refresh == "per-bank"


def covers(wanted: int, index: int, size: int) -> bool:
    """Whether an entry of a target's address names a node of a level of ``size`` nodes."""
    return wanted in (-1, index) or (wanted < -1 and index % (size // 2) == -2 - wanted)


def _targets_of(channel: Channel) -> tuple[list[Target], int]:
    """Every target of a command: banks in tree order, then refresh scopes, then banks that are refreshed together.

    Returns the targets and the number of refresh scopes.
    """
    sizes = [size for _, size in channel.levels]
    grid = np.indices(sizes).reshape(len(sizes), -1).T
    banks = [Target(tuple(int(x) for x in address), (flat,)) for flat, address in enumerate(grid)]
    depth = channel.level_names.index(channel.refresh_level)
    scopes: dict[tuple[int, ...], list[int]] = {}
    same: dict[tuple[int, ...], list[int]] = {}
    for flat, bank in enumerate(banks):
        wild = (-1,) * (len(sizes) - depth - 1)
        scopes.setdefault((*bank.address[: depth + 1], *wild), []).append(flat)
        if channel.controller.refresh == "same-bank":
            same.setdefault((*bank.address[: depth + 1], *wild[:-1], bank.address[-1]), []).append(flat)
        elif channel.pairwise:
            level = channel.level_names.index(channel.refresh_pairs)
            first = -2 - bank.address[level] % (sizes[level] // 2)
            same.setdefault((*bank.address[:level], first, *bank.address[level + 1 :]), []).append(flat)
    larger = [Target(address, tuple(members)) for address, members in (*scopes.items(), *same.items())]
    return [*banks, *larger], len(scopes)
