"""A PIM channel as the engine sees it: commands, targets, rules and slots of time, all in flat integer arrays.

Built from a device and a choice of rules. A target is a set of banks that one command covers (a bank, a bank
group, the same bank of every group, all banks). A slot holds the earliest tick of a command at a node of the
device's tree; a rule moves slots when its first command issues.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.dram_standard import evaluate
from hw_configs.pim import PimDetail, PimRuleChoice
from hw_configs.pim_command_set import PimCommand
from hw_configs.problems import bad_input
from simulator.dram.rules import rules_of

__all__ = ["BankSet", "Machine", "Tables", "build_machine"]

Ints = npt.NDArray[np.int64]

OPEN, CLOSE, COLUMN, REGISTER, REFRESH, MODE = range(6)
_EFFECTS: Final = {
    "open": OPEN,
    "close": CLOSE,
    "column": COLUMN,
    "register": REGISTER,
    "refresh": REFRESH,
    "mode": MODE,
}
ALL_BANKS: Final = ("BankGroup", "Bank")
POLICIES: Final = {"off": 0, "immediate": 1, "row-boundary": 2}


class Tables(NamedTuple):
    """What the kernel reads. ``command`` has a row per command code, see the constants of this module."""

    command: Ints
    check_ptr: Ints
    check: Ints
    rule_ptr: Ints
    rule: Ints
    bank_ptr: Ints
    bank: Ints
    node_ptr: Ints
    node: Ints
    stage_ptr: Ints
    stage: Ints
    config: Ints


# Columns of Tables.command.
EFFECT, LATENCY, OPENER, CLOSER, STAGED, NEEDS_MODE, WEIGHT, ALIGN, KIND, RUN_PACE, AUTO, LONGEST, FIELDS = (
    range(13)
)
# Entries of Tables.config.
(BANKS, LEVELS, SLOTS, HISTORY, WINDOW, FAW, INTERVAL, POLICY, SWITCH, PRECHARGE, REFRESH_CMD, QUEUE,
 COMMANDS, GRID) = range(14)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BankSet:
    """A set of banks that a command covers: an index per level below the channel, -1 for all."""

    group: int
    bank: int


@dataclass(frozen=True, slots=True)
class Wait:
    """One rule between two commands at one level, in ticks from issue to issue."""

    after: int
    before: int
    level: int
    ticks: int
    window: int


@dataclass(frozen=True)
class Machine:
    """A device under a choice of rules, ready to run."""

    device: PimDetail
    choice: PimRuleChoice
    names: tuple[str, ...]
    commands: tuple[PimCommand, ...]
    targets: tuple[BankSet, ...]
    kinds: dict[str, int]
    covered: tuple[int, ...]
    """Banks each command covers."""
    clocks: dict[str, int]
    waits: tuple[Wait, ...]
    tick_s: float
    codes: dict[str, int]
    """Code of each command name."""
    made: dict[frozenset[int], Tables] = field(default_factory=dict, repr=False)

    def tables(self, used: frozenset[int]) -> Tables:
        """The arrays for a program of so many commands; rules of commands that cannot occur are left out."""
        every = self._reached(used)
        if every not in self.made:
            self.made[every] = _tables(self, every)
        return self.made[every]

    def _reached(self, used: frozenset[int]) -> frozenset[int]:
        """The commands of a program, and those that serve them: rows, modes, refresh."""
        found = set(used)
        names = {"PREab", "REFab", self.device.commands.mode_switch}
        for code in used:
            one = self.commands[code]
            names |= {one.opens_with, one.closes_with, one.staged}
            if one.effect == "open":
                names |= {c.closes_with for c in self.commands if c.opens_with == self.names[code]}
            if one.opens_with:
                names.add(self.commands[self.codes[one.opens_with]].staged)
        return frozenset(found | {self.codes[name] for name in names if name})


def build_machine(device: PimDetail, choice: PimRuleChoice) -> Machine:
    """The machine of a device under a choice of rules; raises ``InputError`` for rules it cannot hold."""
    chosen, merged = device.commands, device.commands.merged
    clocks = device.clocks(choice)
    ticks = {name: value * merged.ticks_per_clock for name, value in clocks.items()}
    by_name = {n: c for n, c in chosen.all_commands.items() if n in merged.commands}
    names = tuple(by_name)
    codes = {name: code for code, name in enumerate(names)}
    o = device.dram.organisation
    targets, offsets = _targets(o.bank_groups, o.banks)
    kinds = {
        name: offsets[c.covers if c.effect in ("open", "close", "column") else ALL_BANKS]
        for name, c in by_name.items()
    }
    covered = tuple(len(_banks_of(targets[kinds[name]], o.bank_groups, o.banks)) for name in names)
    waits: dict[Wait, None] = {}
    for rule in rules_of(merged, ticks):
        if choice.activation == "honest" and rule.window > 1 and "ACT" in rule.preceding:
            # The weighted window over all activations takes its place.
            continue
        if rule.siblings:
            raise bad_input(
                f"{chosen.command_set}: rule {rule.name} is between siblings; a PIM channel has none"
            )
        level = merged.levels.index(rule.level)
        for after, before in itertools.product(rule.preceding, rule.following):
            if after in codes and before in codes:
                waits[Wait(codes[after], codes[before], level, rule.latency, rule.window)] = None
    return Machine(
        device, choice, names, tuple(by_name.values()), tuple(targets), kinds, covered, clocks, tuple(waits),
        device.dram.clock_period / merged.ticks_per_clock, codes,
    )  # fmt: skip


def _tables(machine: Machine, used: frozenset[int]) -> Tables:
    """The flat arrays of a machine for programs of the used commands."""
    device, codes = machine.device, machine.codes
    chosen, o = device.commands, device.dram.organisation
    merged = chosen.merged
    sizes = {"BankGroup": o.bank_groups, "Bank": o.banks}
    slots = _Slots(merged.levels, sizes)
    checks: list[list[tuple[int, ...]]] = [[] for _ in machine.names]
    effects: list[list[tuple[int, ...]]] = [[] for _ in machine.names]
    for wait in machine.waits:
        if wait.after not in used or wait.before not in used:
            continue
        base = slots.slot(wait.level, wait.before)
        if (wait.level, base) not in checks[wait.before]:
            checks[wait.before].append((wait.level, base))
        history = slots.history(wait.level, wait.window) if wait.window > 1 else -1
        effects[wait.after].append((wait.level, base, wait.ticks, wait.window, history))
    banks_of = [_banks_of(t, o.bank_groups, o.banks) for t in machine.targets]
    window = device.activation_window if machine.choice.activation == "honest" else 0
    command = _command_table(machine)
    stage = _staging(machine, banks_of, command, window)
    switch = codes[chosen.mode_switch] if chosen.mode_switch and machine.clocks.get("nMODCH", 0) > 0 else -1
    config = np.zeros(16, np.int64)
    per_clock = merged.ticks_per_clock
    config[[BANKS, LEVELS]] = device.banks, len(merged.levels)
    config[[SLOTS, HISTORY]] = max(slots.size, 1), max(slots.past, 1)
    config[[WINDOW, FAW]] = window, machine.clocks["nFAW"] * per_clock
    config[[INTERVAL, POLICY]] = machine.clocks["nREFI"] * per_clock, POLICIES[machine.choice.refresh]
    config[[SWITCH, PRECHARGE, REFRESH_CMD]] = switch, codes["PREab"], codes["REFab"]
    config[[QUEUE, COMMANDS, GRID]] = device.queue, len(machine.names), per_clock
    node_ptr, node = _nodes(list(machine.targets), merged.levels, o.bank_groups, o.banks)
    return Tables(
        command, *_csr(checks, 2), *_csr(effects, 5), *_csr([[(b,) for b in bs] for bs in banks_of], 1), node_ptr,
        node, *_csr([[(s,) for s in ss] for ss in stage], 1), config,
    )  # fmt: skip


def _command_table(machine: Machine) -> Ints:
    """A row per command: what it does, opens and closes with, and the pace of a run of it."""
    codes, per_clock = machine.codes, machine.device.commands.merged.ticks_per_clock
    command = np.full((len(machine.names), FIELDS), -1, np.int64)
    for code, (name, one) in enumerate(zip(machine.names, machine.commands, strict=True)):
        command[code, EFFECT] = _EFFECTS[one.effect]
        command[code, LATENCY] = max(math.ceil(evaluate(one.latency, machine.clocks) * per_clock - 1e-9), 1)
        command[code, NEEDS_MODE] = int(one.register_mode)
        command[code, WEIGHT] = machine.covered[code]
        command[code, ALIGN] = 1 if one.effect == "close" else per_clock
        command[code, KIND] = machine.kinds[name]
        command[code, AUTO] = int(one.closes)
        command[code, LONGEST] = max((w.ticks for w in machine.waits if w.after == code), default=1)
        command[code, RUN_PACE] = _run_pace(machine, code)
        if one.effect == "column":
            command[code, OPENER], command[code, CLOSER] = codes[one.opens_with], codes[one.closes_with]
            if machine.commands[codes[one.opens_with]].covers != one.covers:
                raise bad_input(f"{one.opens_with} does not open the banks that {name} covers")
        elif one.effect == "open":
            closers = [c.closes_with for c in machine.commands if c.opens_with == name]
            command[code, OPENER], command[code, CLOSER] = code, codes[closers[0] if closers else "PREab"]
    return command


def _run_pace(machine: Machine, code: int) -> int:
    """Ticks between equal commands that follow each other at one place; 0 where a run cannot be foretold."""
    one = machine.commands[code]
    mine = [w for w in machine.waits if w.after == code]
    if one.effect not in ("column", "register") or one.closes or any(w.window > 1 for w in mine):
        return 0
    per_clock = machine.device.commands.merged.ticks_per_clock
    pace = max([round(one.clocks * per_clock), 1, *(w.ticks for w in mine if w.before == code)])
    return pace + -pace % per_clock


def _targets(groups: int, banks: int) -> tuple[list[BankSet], dict[tuple[str, ...], int]]:
    """Every set of banks a command may cover, and where the sets of each kind begin."""
    targets = [BankSet(g, b) for g in range(groups) for b in range(banks)]
    offsets: dict[tuple[str, ...], int] = {(): 0}
    for covers, more in (
        (("Bank",), [BankSet(g, -1) for g in range(groups)]),
        (("BankGroup",), [BankSet(-1, b) for b in range(banks)]),
        (ALL_BANKS, [BankSet(-1, -1)]),
    ):
        offsets[covers] = len(targets)
        targets += more
    return targets, offsets


def _banks_of(target: BankSet, groups: int, banks: int) -> list[int]:
    return [
        g * banks + b
        for g in range(groups)
        for b in range(banks)
        if target.group in (-1, g) and target.bank in (-1, b)
    ]


class _Slots:
    """Hands out places in the arrays of earliest ticks and of past issues."""

    def __init__(self, levels: tuple[str, ...], sizes: dict[str, int]) -> None:
        self.nodes = [sizes["BankGroup"] if n == "BankGroup" else math.prod(sizes.values()) if n == "Bank" else 1
                      for n in levels]  # fmt: skip
        self.size = 0
        self.past = 0
        self.places: dict[tuple[int, int], int] = {}

    def slot(self, level: int, code: int) -> int:
        """First slot of a command at a level."""
        if (level, code) not in self.places:
            self.places[level, code] = self.size
            self.size += self.nodes[level]
        return self.places[level, code]

    def history(self, level: int, window: int) -> int:
        """First place of the past issues of a rule at a level."""
        place = self.past
        self.past += self.nodes[level] * window
        return place


def _staging(machine: Machine, banks_of: list[list[int]], command: Ints, window: int) -> list[list[int]]:
    """For every target the smaller targets its rows open by, where all at once is too many for the window."""
    stage: list[list[int]] = [[] for _ in machine.targets]
    for code, (name, one) in enumerate(zip(machine.names, machine.commands, strict=True)):
        if one.effect != "open" or not window or command[code, WEIGHT] <= window:
            continue
        if not one.staged or command[machine.codes[one.staged], WEIGHT] > window:
            opened = command[code, WEIGHT]
            raise bad_input(
                f"{name} opens {opened} banks at once; the window of {window} needs a smaller command"
            )
        command[code, STAGED] = machine.codes[one.staged]
        small = _of_kind(machine.kinds[one.staged], machine.targets)
        for big in _of_kind(machine.kinds[name], machine.targets):
            stage[big] = [s for s in small if set(banks_of[s]) <= set(banks_of[big])]
    return stage


def _of_kind(offset: int, targets: Sequence[BankSet]) -> list[int]:
    def shape(t: BankSet) -> tuple[bool, bool]:
        return t.group < 0, t.bank < 0

    return [i for i, t in enumerate(targets) if shape(t) == shape(targets[offset])]


def _nodes(targets: list[BankSet], levels: tuple[str, ...], groups: int, banks: int) -> tuple[Ints, Ints]:
    """Nodes of each level that a target names, as rows of a table of targets by levels."""
    pointer, nodes = [0], list[int]()
    for target in targets:
        covered = _banks_of(target, groups, banks)
        for level in levels:
            if level == "Bank":
                nodes += covered
            elif level == "BankGroup":
                nodes += sorted({bank // banks for bank in covered})
            else:
                nodes.append(0)
            pointer.append(len(nodes))
    return np.array(pointer, np.int64), np.array(nodes, np.int64)


def _csr(lists: list[list[tuple[int, ...]]], width: int) -> tuple[Ints, Ints]:
    pointer = np.cumsum([0, *(len(items) for items in lists)]).astype(np.int64)
    flat = [item for items in lists for item in items]
    return pointer, np.array(flat, np.int64).reshape(-1, width)
