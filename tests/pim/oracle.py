"""A slow PIM memory for tests: the same rules, clock by clock and channel by channel, in plain Python.

Every tick the host sends what fits, then every channel sends at most one command. Nothing is skipped, no
channels are taken together, and the rules are evaluated here from the device's files.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from hw_configs.dram_standard import evaluate
from hw_configs.pim import PimDetail, PimRuleChoice
from simulator.pim.program import ALL, Instruction, Loop, Program

Command = tuple[int, str, int, int, int, int]


def unrolled(body, steps=()):
    """Every instruction with its row, column and bank worked out; ``steps`` are iterations, innermost first."""
    for entry in body:
        if isinstance(entry, Loop):
            for turn in range(entry.count):
                yield from unrolled(entry.body, (turn, *steps))
        else:
            moved = [
                base + sum(a * b for a, b in zip(strides, steps, strict=False))
                for base, strides in (
                    (entry.row, entry.row_steps), (entry.col, entry.col_steps), (entry.bank, entry.bank_steps)
                )
            ]  # fmt: skip
            yield Instruction(entry.op, entry.n, *moved, channels=entry.channels)


@dataclass
class Request:
    command: str
    group: int
    bank: int
    row: int
    col: int
    arrived: int


@dataclass
class Channel:
    memory: Memory
    queue: deque = field(default_factory=deque)
    open_rows: dict = field(default_factory=dict)
    issued: dict = field(default_factory=dict)
    opened: list = field(default_factory=list)
    mode: bool = False
    due: int = 0
    refreshing: bool = False
    depart: int = 0
    last: int = 0
    log: list = field(default_factory=list)

    def banks(self, group, bank):
        m = self.memory
        return [
            (g, b) for g in range(m.groups) for b in range(m.banks) if group in (-1, g) and bank in (-1, b)
        ]

    def nodes(self, level, group, bank):
        named = self.banks(group, bank)
        return named if level == "Bank" else sorted({g for g, _ in named}) if level == "BankGroup" else [0]

    def ready(self, tick, name, group, bank):
        m = self.memory
        one = m.commands[name]
        if one.effect != "close" and (tick - 1) % m.per_clock:
            return False
        for number, (rule, wait) in enumerate(m.rules):
            if name in rule.before and not (m.honest and rule.window > 1 and "ACT" in rule.after):
                for node in self.nodes(rule.at, group, bank):
                    past = self.issued.get((number, node), [])
                    if len(past) >= rule.window and tick < past[-rule.window] + wait - m.length[name] + 1:
                        return False
        for bus in m.buses:
            if name in bus and any(c in bus and tick < t + m.length[c] for t, c, *_ in self.log[-4:]):
                return False
        if m.honest and one.effect == "open":
            within = [t for t in self.opened if t > tick - m.faw]
            return len(within) + len(self.banks(group, bank)) <= m.window
        return True

    def needed(self, request):
        """The next command for a request and what it covers; None when there is nothing to do."""
        m = self.memory
        one = m.commands[request.command]
        named = self.banks(request.group, request.bank)
        if one.effect == "close":
            return (
                (request.command, request.group, request.bank)
                if any(b in self.open_rows for b in named)
                else None
            )
        if one.effect not in ("open", "column"):
            return request.command, request.group, request.bank
        opener = one.opens_with if one.effect == "column" else request.command
        closer = one.closes_with or next(c.closes_with for c in m.commands.values() if c.opens_with == opener)
        states = [self.open_rows.get(bank) for bank in named]
        if all(state == request.row for state in states):
            return (request.command, request.group, request.bank) if one.effect == "column" else None
        close = (closer, -1, -1) if set(m.commands[closer].covers) == {"BankGroup", "Bank"} else (
            closer, request.group, request.bank)  # fmt: skip
        if any(state not in (None, request.row) for state in states):
            return close
        parts = m.stages(opener, request.group, request.bank)
        for group, bank in parts:
            inside = [b in self.open_rows for b in self.banks(group, bank)]
            if not all(inside):
                if any(inside):
                    return close
                return (m.commands[opener].staged if len(parts) > 1 else opener), group, bank
        raise AssertionError("nothing to open")

    def settle_empty(self, clock):
        """Take requests that need no command off the queue."""
        while self.queue and self.needed(self.queue[0]) is None and not self.refreshing:
            self.queue.popleft()

    def wants_refresh(self, tick):
        m = self.memory
        if m.policy == "off" or tick < self.due:
            return False
        if self.refreshing or m.policy == "immediate" or not self.open_rows or not self.queue:
            return True
        return tick >= self.due + 8 * m.interval

    def tick(self, tick):
        m = self.memory
        if self.wants_refresh(tick):
            self.refreshing = True
            name = "PREab" if self.open_rows else "REFab"
            self.send(tick, name, -1, -1, -1, -1, False)
            if self.log and self.log[-1][:2] == (tick, "REFab"):
                self.refreshing = False
                self.due += m.interval
                self.settle_empty(tick)
            return
        if not self.queue:
            return
        request = self.queue[0]
        name, group, bank = self.needed(request)
        final = name == request.command and m.commands[name].effect in ("column", "register")
        col = request.col if final and m.commands[name].effect == "column" else -1
        row = request.row if m.commands[name].effect in ("open", "column") else -1
        if self.send(tick, name, group, bank, row, col, m.commands[request.command].register_mode):
            if final or self.needed(request) is None:
                self.queue.popleft()
                self.depart = max(self.depart, tick + m.latency(request.command))
            self.settle_empty(tick)

    def send(self, tick, name, group, bank, row, col, mode):
        """Send a command if every rule allows it, or a mode switch in its stead; True when it went itself."""
        m = self.memory
        if not self.ready(tick, name, group, bank):
            return False
        switching = m.switch and self.mode != mode
        if switching:
            name, group, bank, row, col = m.switch, -1, -1, -1, -1
            if not self.ready(tick, name, group, bank):
                return False
        one = m.commands[name]
        for number, (rule, _) in enumerate(m.rules):
            if name in rule.after:
                for node in self.nodes(rule.at, group, bank):
                    self.issued.setdefault((number, node), []).append(tick + m.length[name] - 1)
        named = self.banks(group, bank)
        if one.effect == "open":
            self.open_rows |= dict.fromkeys(named, row)
            self.opened += [tick] * len(named)
        elif one.effect == "close" or one.closes:
            self.open_rows = {b: r for b, r in self.open_rows.items() if b not in named}
        elif one.effect == "mode":
            self.mode = not self.mode
        self.last = tick
        self.log.append((tick, name, group, bank, row, col))
        return not switching


class Memory:
    """The device's figures, and the run."""

    def __init__(self, device: PimDetail, choice: PimRuleChoice) -> None:
        merged = device.commands.merged
        self.device, self.choice = device, choice
        self.per_clock = merged.ticks_per_clock
        self.clocks = device.clocks(choice)
        self.commands = {n: c for n, c in device.commands.all_commands.items() if n in merged.commands}
        self.rules = [
            (rule, math.ceil(evaluate(rule.wait, self.clocks) * self.per_clock - 1e-9))
            for rule in merged.constraints
        ]
        self.length = {name: round(merged.clocks(name) * self.per_clock) for name in merged.commands}
        self.buses = merged.buses or (tuple(merged.commands),)
        self.honest = choice.activation == "honest"
        self.window, self.faw = device.activation_window, self.clocks["nFAW"] * self.per_clock
        self.policy, self.interval = choice.refresh, self.clocks["nREFI"] * self.per_clock
        o = device.dram.organisation
        self.groups, self.banks = o.bank_groups, o.banks
        moded = device.commands.mode_switch and self.clocks.get("nMODCH", 0) > 0
        self.switch = device.commands.mode_switch if moded else ""

    def latency(self, name: str) -> int:
        return max(math.ceil(evaluate(self.commands[name].latency, self.clocks) * self.per_clock - 1e-9), 1)

    def stages(self, opener: str, group: int, bank: int) -> list[tuple[int, int]]:
        """The parts that are opened one after the other."""
        count = len(
            [0 for g in range(self.groups) for b in range(self.banks) if group in (-1, g) and bank in (-1, b)]
        )
        if not self.honest or count <= self.window:
            return [(group, bank)]
        covers = self.commands[self.commands[opener].staged].covers
        groups = [-1] if "BankGroup" in covers else range(self.groups) if group < 0 else [group]
        banks = [-1] if "Bank" in covers else range(self.banks) if bank < 0 else [bank]
        return [(g, b) for g in groups for b in banks]

    def place(self, name: str, bank: int) -> tuple[int, int]:
        one = self.commands[name]
        if one.effect in ("register", "mode", "refresh") or set(one.covers) == {"BankGroup", "Bank"}:
            return -1, -1
        if "Bank" in one.covers:
            return bank, -1
        if "BankGroup" in one.covers:
            return -1, bank
        return bank // self.banks, bank % self.banks

    def run(self, program: Program, start: int = 0, limit: int = 400_000) -> tuple[int, list[list[Command]]]:
        """Cycles to the end, and the commands of every channel."""
        channels = [Channel(self) for _ in range(self.device.channels)]
        for channel in channels:
            channel.last = channel.depart = start
            channel.due = (start // self.interval + 1) * self.interval
        todo = deque(unrolled(program.body))
        clock, free_at = start, start
        sending: deque = deque()
        waiting: list = []
        while True:
            # The host at this clock: one instruction a clock, sent on as queues have room.
            while clock >= free_at and not sending and not waiting and todo:
                if todo[0].op == "PHASE":
                    todo.popleft()
                elif todo[0].op == "WAIT":
                    free_at = clock + todo.popleft().n
                elif todo[0].op in ("SYNC", "EOC"):
                    waiting = [[c, None] for c in channels]
                    end_here = todo.popleft().op == "EOC"
                    blocking = "all"
                else:
                    one = todo.popleft()
                    chosen = self.device.commands.instructions[one.op]
                    mask = (1 << len(channels)) - 1 if one.channels == ALL else one.channels
                    targets = [c for i, c in enumerate(channels) if mask >> i & 1]
                    for k in range(one.n):
                        for c in targets:
                            place = self.place(chosen.command, one.bank)
                            sending.append((c, Request(chosen.command, *place, one.row, one.col + k, 0)))
                    begun = clock
                    if chosen.blocking:
                        waiting = [[c, None] for c in targets]
                        blocking, end_here = chosen.command, False
            if sending:
                left: deque = deque()
                full = set()
                for c, request in sending:
                    if id(c) in full or len(c.queue) >= self.device.queue:
                        full.add(id(c))
                        left.append((c, request))
                    else:
                        request.arrived = clock
                        c.queue.append(request)
                        c.settle_empty(clock)
                sending = left
                if not sending:
                    free_at = max(free_at, clock + 1)
                    del begun
            clock += 1
            for c in channels:
                c.tick(clock)
            if waiting and not sending:
                for entry in waiting:
                    c = entry[0]
                    if entry[1] is None and not c.queue and not (blocking == "all" and c.refreshing):
                        if blocking == "all":
                            # The mark itself is taken in a tick of its own, behind a refresh that is due.
                            if c.last < clock and not (c.wants_refresh(clock)):
                                entry[1] = max(clock + 1, c.depart)
                        else:
                            entry[1] = c.last + self.latency(blocking)
                if all(entry[1] is not None for entry in waiting):
                    free_at = max([free_at, *(entry[1] for entry in waiting)])
                    waiting = []
                    if end_here:
                        return self.finish(channels, clock, free_at) - start, [c.log for c in channels]
            if (
                not todo
                and not sending
                and not waiting
                and not any(c.queue for c in channels)
                and clock >= free_at
            ):
                end = max([free_at, *(max(c.depart, c.last) for c in channels)])
                return self.finish(channels, clock, end) - start, [c.log for c in channels]
            if clock > start + limit:
                raise AssertionError("no end")

    @staticmethod
    def finish(channels: list[Channel], clock: int, end: int) -> int:
        """Let refresh go on until the end."""
        for tick in range(clock + 1, end + 1):
            for c in channels:
                c.tick(tick)
        return end
