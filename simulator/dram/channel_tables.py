"""Turns the constraint table of a channel into what the kernel runs: short lists of (index, ticks).

The engine keeps, per command, the earliest legal tick of every bank, of every group of banks (the level above
the bank) and of every larger target (all banks of a rank; the same bank of all groups). A rule at a higher
level is pushed down to the groups below it, which changes nothing: a command waits for the latest of all its
ancestors either way. So issuing a command means walking one list, "raise entry i to now + t", and asking
whether a command is legal means reading two entries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from simulator.dram.machine import (
    ACT,
    COMMANDS,
    PREAB,
    PREPB,
    PRESB,
    RD,
    REFAB,
    REFSB,
    WR,
    Channel,
    Constraint,
    command_code,
    covers,
)

__all__ = [
    "CAPPED", "CLOSED", "NCMD", "TIMEOUT", "ChannelTables", "Settings", "compile_tables", "used_commands",
]  # fmt: skip

NCMD = len(COMMANDS)
MAX_WAIT = 1 << 28
"""Ticks that a rule may ask for, so that a wait and an age fit in one word of the kernel."""
_GROUP_COMMANDS = frozenset({PREAB, REFAB, PRESB, REFSB})
"""Commands that name more than one bank."""

Ints = npt.NDArray[np.int64]


CAPPED, CLOSED, TIMEOUT = 1, 2, 3
"""Row policies that close rows, by their place in ``POLICIES``."""
POLICIES = ("open", "capped", "closed", "timeout")


class Settings(NamedTuple):
    """The whole numbers of one channel that the kernel decides by; flags are 0 or 1, times are ticks."""

    banks: int
    groups: int
    others: int
    """Targets of more than one bank, one at least."""
    scopes: int
    words: int
    """Words of a set of banks."""
    lpddr: int
    hbm: int
    half: int
    """HBM3: ticks are half clocks, and only precharges may go on a falling edge (an even tick)."""
    rowhit: int
    policy: int
    cap: int
    timeout: int
    read_queue: int
    write_queue: int
    priority_queue: int
    enter_write: int
    """Queued writes at which writing starts; it ends at ``leave_write``."""
    leave_write: int
    read_latency: int
    split: int
    deadline: int
    """Ticks by which the second half of a split activation must follow."""
    clock_sync: int
    expiry_read: int
    """Ticks that the data clock runs on after a read, or a write."""
    expiry_write: int
    bank_base: int
    """Where the ticks of banks start in ``State.ready``; then those of larger targets, and of the channel."""
    object_base: int
    channel_base: int
    singly: int
    """Banks that are refreshed together are closed one by one: there is no command that closes them all."""
    ready: int
    history: int
    group_shift: int
    timers: int
    autoprecharge: int
    paired: int
    paired_period: int
    paired_recovery: int
    paired_pcs: int
    paired_sids: int
    paired_banks: int


WINDOW = np.dtype(
    [(name, np.int64) for name in ("ring", "depth", "window", "ticks", "start", "end", "records")]
)
"""A rule over a window: after the command, entries ``window_index[start:end]`` wait until ``ticks`` after the
``window``-th most recent one. Issues stand in a ring of ``depth`` ticks behind its position, at
``State.history[ring]``; the first rule of each ring ``records`` the command there."""


class ChannelTables(NamedTuple):
    """What does not change of one channel, as the kernel takes it."""

    settings: Settings
    bank_group: Ints
    bank_scope: Ints
    object_start: Ints
    object_banks: Ints
    update_start: Ints
    update_index: Ints
    update_ticks: Ints
    window_start: Ints
    window_rule: npt.NDArray[np.void]
    window_index: Ints
    timer_period: Ints
    timer_first: Ints
    timer_start: Ints
    timer_object: Ints
    timer_command: Ints
    affects: Ints
    """Per command: whether it moves the column commands (1), activates (2), precharges (4) of other banks, or
    column commands of the whole channel (8)."""


def used_commands(channel: Channel) -> frozenset[int]:
    """The commands this controller can ever issue on this channel."""
    control = channel.controller
    names = {"ACT1" if channel.split_activation else "ACT", "PREpb", "RD", "WR"}
    if channel.split_activation:
        names |= {"ACT2", "CAS_RD", "CAS_WR"}
    if control.row_policy in ("capped", "closed"):
        names |= {"RDA", "WRA"}
    if control.refresh == "all-bank":
        names |= {"REFab", "PREab"}
    elif control.refresh in ("per-bank", "paired-per-bank"):
        names |= {"REFsb" if channel.pairwise else "REFpb"}
    elif control.refresh == "same-bank":
        names |= {"REFsb", "PREsb"}
    return frozenset(command_code(name) for name in names)


def _reached(
    address: tuple[int, ...], sizes: list[int], level: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Nodes of a level that an address names, and the siblings it does not (children of named parents)."""
    nodes: list[tuple[int, ...]] = [()]
    named: list[tuple[int, ...]] = []
    others: list[tuple[int, ...]] = []
    for depth in range(level + 1):
        wanted = address[depth]
        size = sizes[depth]
        named = [(*n, i) for n in nodes for i in range(size) if covers(wanted, i, size)]
        others = [(*n, i) for n in nodes for i in range(size) if not covers(wanted, i, size)]
        nodes = named
    return named, others


def _matches(node: tuple[int, ...], address: tuple[int, ...], sizes: list[int]) -> bool:
    return all(covers(wanted, i, size) for i, wanted, size in zip(node, address, sizes, strict=False))


class _Layout:
    """Where the earliest legal tick of a command at a target stands in the flat array."""

    def __init__(self, channel: Channel) -> None:
        self.sizes = [size for _, size in channel.levels]
        self.targets, self.scopes = channel.targets
        self.banks = channel.banks
        self.per_group = self.sizes[-1] if len(self.sizes) > 1 else self.banks
        self.groups = self.banks // self.per_group
        self.others = len(self.targets) - self.banks
        self.bank_base = NCMD * self.groups
        self.object_base = self.bank_base + NCMD * self.banks
        self.channel_base = self.object_base + NCMD * max(self.others, 1)
        self.total = self.channel_base + NCMD
        self._strides = [int(np.prod(self.sizes[i + 1 :], dtype=np.int64)) for i in range(len(self.sizes))]

    def entries(self, node: tuple[int, ...], command: int) -> list[int]:
        """The entries that stand for a command at a node of the tree."""
        if np.prod(self.sizes[: len(node)], dtype=np.int64) == 1:
            # All of the channel: one entry says it for every bank.
            return [self.channel_base + command]
        if command in _GROUP_COMMANDS:
            kind = range(self.scopes) if command in (PREAB, REFAB) else range(self.scopes, self.others)
            return [
                self.object_base + command * max(self.others, 1) + k
                for k in kind
                if _matches(node, self.targets[self.banks + k].address, self.sizes)
            ]
        first = sum(i * s for i, s in zip(node, self._strides, strict=False))
        if len(node) == len(self.sizes):
            return [self.bank_base + command * self.banks + first]
        count = self._strides[len(node) - 1]
        groups = range(first // self.per_group, (first + count - 1) // self.per_group + 1)
        return [command * self.groups + g for g in groups]


def _codes(names: tuple[str, ...], used: frozenset[int], pairwise: bool) -> list[int]:
    """Codes of the commands that can be issued; a table may name others (RFM, VRR), which never are."""
    spelt = ("REFsb" if pairwise and name == "REFpb" else name for name in names)
    return [code for name in spelt if name in (*COMMANDS, "ACT1") and (code := command_code(name)) in used]


def _usable(channel: Channel) -> list[tuple[Constraint, list[int], list[int]]]:
    used = used_commands(channel)
    known = channel.commands
    rules = []
    for rule in channel.constraints:
        if rule.level not in channel.level_names:
            raise bad_input(
                f"a constraint names level {rule.level!r}; this device has {', '.join(channel.level_names)}"
            )
        if rule.latency >= MAX_WAIT:
            raise bad_input(f"a constraint waits {rule.latency} ticks; expected fewer than {MAX_WAIT}")
        preceding = _codes(rule.preceding, used, channel.pairwise)
        following = _codes(rule.following, used, channel.pairwise)
        if preceding and following:
            rules.append((rule, preceding, following))
    for name in ("RD", "WR", "PREpb"):
        if name not in known:
            raise bad_input(f"the constraints of {channel.standard} name no command {name}")
    return rules


def compile_tables(channel: Channel) -> ChannelTables:
    """The kernel's arrays for a channel. Raises ``InputError`` for a rule or refresh the channel cannot
    have.
    """
    layout = _Layout(channel)
    if layout.per_group & (layout.per_group - 1):
        raise bad_input(f"found {layout.per_group} banks in a group; expected a power of two", path="levels")
    rules = _usable(channel)
    used = used_commands(channel)
    history: dict[tuple[tuple[int, ...], int], int] = {}
    starts, window_starts = [0], [0]
    index: list[int] = []
    ticks: list[int] = []
    window_rules: list[tuple[int, ...]] = []
    window_index: list[int] = []
    depth_of = _window_depths(channel, rules)
    history_size = 0
    for number, target in enumerate(layout.targets):
        for command in range(NCMD):
            merged: dict[int, int] = {}
            windows: dict[tuple[tuple[int, ...], int], list[tuple[int, list[int]]]] = {}
            if command in used and (command in _GROUP_COMMANDS) == (number >= layout.banks):
                for rule, preceding, following in rules:
                    if command not in preceding:
                        continue
                    level = channel.level_names.index(rule.level)
                    named, others = _reached(target.address, layout.sizes, level)
                    for node in others if rule.siblings else named:
                        reached = [e for f in following for e in layout.entries(node, f)]
                        if rule.window > 1 and not rule.siblings:
                            key = (node, command)
                            windows.setdefault(key, []).append((rule.window, [rule.latency, *reached]))
                            continue
                        for entry in reached:
                            merged[entry] = max(merged.get(entry, 0), rule.latency)
            for entry, latency in sorted(merged.items()):
                if latency > 0:
                    index.append(entry)
                    ticks.append(latency)
            starts.append(len(index))
            for key, entries in windows.items():
                depth = depth_of[(len(key[0]) - 1, command)]
                if key not in history:
                    history[key] = history_size
                    history_size += depth + 1  # the ring and its position
                for position, (window, (latency, *reached)) in enumerate(entries):
                    first = len(window_index)
                    window_index += reached
                    window_rules.append(
                        (history[key], depth, window, latency, first, len(window_index), int(position == 0))
                    )
            window_starts.append(len(window_rules))
    timers = _timers(channel, layout)
    bank_scope = np.zeros(layout.banks, np.int64)
    object_start = [0]
    object_banks: list[int] = []
    for k in range(layout.others):
        members = layout.targets[layout.banks + k].banks
        object_banks += members
        object_start.append(len(object_banks))
        if k < layout.scopes:
            bank_scope[list(members)] = k
    return ChannelTables(
        _settings(channel, layout, history_size, timers[0].size),
        np.arange(layout.banks, dtype=np.int64) // layout.per_group,
        bank_scope,
        np.array(object_start, np.int64),
        np.array(object_banks or [0], np.int64),
        np.array(starts, np.int64),
        np.array(index or [0], np.int64),
        np.array(ticks or [0], np.int64),
        np.array(window_starts, np.int64),
        np.array(window_rules, WINDOW),
        np.array(window_index or [0], np.int64),
        *timers,
        _affects(layout, starts, index, window_starts, window_rules, window_index),
    )


def _affects(
    layout: _Layout,
    starts: list[int],
    index: list[int],
    window_starts: list[int],
    window_rules: list[tuple[int, ...]],
    window_index: list[int],
) -> Ints:
    kinds = {RD: 9, WR: 9, ACT: 2, PREPB: 4}
    result = np.zeros(NCMD, np.int64)
    for number in range(layout.banks):
        for command in range(NCMD):
            entry = number * NCMD + command
            raised = index[starts[entry] : starts[entry + 1]]
            for rule in window_rules[window_starts[entry] : window_starts[entry + 1]]:
                raised = raised + window_index[rule[4] : rule[5]]
            for i in raised:
                if i < layout.bank_base:
                    result[command] |= kinds.get(i // layout.groups, 0)
                elif i < layout.object_base:
                    following, bank = divmod(i - layout.bank_base, layout.banks)
                    result[command] |= kinds.get(following, 0) * int(bank != number)
                elif i >= layout.channel_base:
                    result[command] |= kinds.get(i - layout.channel_base, 0) & 8
    return result


def _window_depths(
    channel: Channel, rules: list[tuple[Constraint, list[int], list[int]]]
) -> dict[tuple[int, int], int]:
    depths: dict[tuple[int, int], int] = {}
    for rule, preceding, _ in rules:
        for command in preceding:
            key = (channel.level_names.index(rule.level), command)
            depths[key] = max(depths.get(key, 1), rule.window)
    return depths


def _timers(channel: Channel, layout: _Layout) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Refresh timers: each sends its targets in turn, one per period."""
    control = channel.controller
    period: list[int] = []
    first: list[int] = []
    start = [0]
    objects: list[int] = []
    command = []

    if control.refresh in ("per-bank", "paired-per-bank") and "REFpb" not in channel.commands:
        raise bad_input(f"{channel.standard} has no per-bank refresh", path="refresh")
    if control.refresh == "same-bank" and "REFsb" not in channel.commands:
        raise bad_input(f"{channel.standard} has no same-bank refresh", path="refresh")

    def need(name: str) -> int:
        value = channel.timing.get(name, 0)
        if value <= 0:
            raise bad_input(
                f"{control.refresh} refresh needs {name}; {channel.standard} gives none", path="refresh"
            )
        return value

    if control.refresh == "all-bank":
        interval = need("nREFI")
        if control.refresh_scatter * layout.scopes > interval:
            raise bad_input(
                "refresh_scatter times the number of ranks is above nREFI", path="refresh_scatter"
            )
        for k in range(layout.scopes):
            period.append(interval)
            first.append((k + 1) * control.refresh_scatter if control.refresh_scatter else interval)
            objects.append(layout.banks + k)
            start.append(len(objects))
            command.append(REFAB)
    elif control.refresh == "per-bank" and not channel.pairwise:
        period.append(need("nREFIpb"))
        first.append(period[0])
        objects += range(layout.banks)
        start.append(len(objects))
        command.append(command_code("REFpb"))
    elif control.refresh in ("same-bank", "per-bank"):
        sets = range(layout.scopes, layout.others)
        period.append(need("nREFIsb" if control.refresh == "same-bank" else "nREFIpb"))
        first.append(period[0])
        objects += [layout.banks + k for k in sets]
        start.append(len(objects))
        command.append(REFSB)
    as_array = [np.array(x, np.int64) for x in (period, first, start, objects, command)]
    return as_array[0], as_array[1], as_array[2], as_array[3], as_array[4]


def _float32_thresholds(control_size: int, low: float, high: float) -> tuple[int, int]:
    """Queue lengths at which writing starts and ends; the comparison is strict and in float32."""
    high_mark = np.float32(high) * np.float32(control_size)
    low_mark = np.float32(low) * np.float32(control_size)
    enter = next((n for n in range(control_size + 1) if np.float32(n) > high_mark), control_size + 1)
    leave = max((n for n in range(control_size + 1) if np.float32(n) < low_mark), default=-1)
    return enter, leave


def _settings(channel: Channel, layout: _Layout, history: int, timers: int) -> Settings:
    control = channel.controller
    timing = channel.timing
    enter, leave = _float32_thresholds(control.write_queue, control.low_watermark, control.high_watermark)
    post = timing.get("nBL_min", channel.burst) + timing.get("nWCKPST", 0)
    known = channel.commands
    levels = dict(channel.levels)
    paired = control.refresh == "paired-per-bank"
    if paired and (timing.get("nREFIpb", 0) <= 0 or timing.get("nRFCpb", 0) <= 0):
        raise bad_input("paired per-bank refresh needs nREFIpb and nRFCpb", path="refresh")
    pcs, sids = levels.get("PseudoChannel", 1), levels.get("Sid", 1)
    return Settings(
        banks=layout.banks,
        groups=layout.groups,
        others=max(layout.others, 1),
        scopes=layout.scopes,
        words=(layout.banks + 63) // 64,
        lpddr=int(control.kind == "lpddr5"),
        hbm=int(control.kind in ("hbm2", "hbm3")),
        half=int(control.kind == "hbm3"),
        rowhit=int(control.scheduler == "frfcfs-rowhit"),
        policy=POLICIES.index(control.row_policy),
        cap=control.cap,
        timeout=control.timeout,
        read_queue=control.read_queue,
        write_queue=control.write_queue,
        priority_queue=control.priority_queue,
        enter_write=enter,
        leave_write=leave,
        read_latency=channel.read_latency,
        split=int(channel.split_activation),
        deadline=timing.get("nAAD", 0),
        clock_sync=int(control.clock_sync),
        expiry_read=timing.get("nCL", 0) + post,
        expiry_write=timing.get("nCWL", 0) + post,
        bank_base=layout.bank_base,
        object_base=layout.object_base,
        channel_base=layout.channel_base,
        singly=int(channel.pairwise),
        ready=layout.total,
        history=history,
        group_shift=layout.per_group.bit_length() - 1,
        timers=timers,
        autoprecharge=int("RDA" in known and "WRA" in known),
        paired=int(paired),
        paired_period=timing.get("nREFIpb", 0),
        paired_recovery=timing.get("nRFCpb", 0),
        paired_pcs=pcs,
        paired_sids=sids,
        paired_banks=layout.banks // (pcs * sids),
    )
