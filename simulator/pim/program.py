"""A PIM program: the instructions a host gives to a PIM memory, with loops whose addresses move by strides.

A matrix-vector product of any size is a few entries: an instruction stands for a run of equal commands
(``MAC_ABK`` with n columns), and a loop repeats its body with rows, columns and banks moved along. Programs are
plain values; :mod:`simulator.pim.text` reads and writes them as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.pim import PimDetail
from hw_configs.problems import InputError, Problem, nearest

__all__ = ["ALL", "HOST_OPS", "Entry", "FlatProgram", "Instruction", "Loop", "Program", "flatten"]

ALL: Final = -1
"""Channel mask of every channel."""
MAX_DEPTH: Final = 8
MAX_RUN: Final = 1 << 20
MAX_COUNT: Final = 1 << 40
MAX_ENTRIES: Final = 4_000_000
MAX_WORK: Final = 1 << 44
"""Commands of a program and clocks its host waits, loops unrolled; times stay far from overflow."""
HOST_OPS: Final = ("WAIT", "SYNC", "EOC", "PHASE")
"""Instructions every device has: they need no command of the memory."""
LOOP, END, WAIT, SYNC, EOC, PHASE = -1, -2, -3, -4, -5, -6


@dataclass(frozen=True, slots=True)
class Instruction:
    """``n`` equal commands from a row and column of a bank, in every channel of the mask.

    ``op`` is an instruction of the device's command set, or WAIT (the host is busy for ``n`` clocks), SYNC
    (wait until everything has ended), EOC (end of compute) or PHASE (book what follows under ``label``). The
    k-th of the n commands works at column ``col + k``. ``row_steps[0]`` is added per iteration of the
    innermost loop around the instruction, ``row_steps[1]`` of the next one outward; columns and banks alike.
    ``bank`` counts the banks of a channel, or its bank groups, or the banks of a group, as the command covers
    them. ``line`` is the line of the text it was read from.
    """

    op: str
    n: int = 1
    row: int = 0
    col: int = 0
    bank: int = 0
    channels: int = ALL
    row_steps: tuple[int, ...] = ()
    col_steps: tuple[int, ...] = ()
    bank_steps: tuple[int, ...] = ()
    label: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """A body that runs ``count`` times."""

    count: int
    body: tuple[Entry, ...]
    line: int | None = None


Entry = Instruction | Loop


@dataclass(frozen=True, slots=True)
class Program:
    """Entries in the order the host gives them."""

    body: tuple[Entry, ...]
    name: str = ""

    @property
    def instructions(self) -> int:
        """Instructions given, loops unrolled; PHASE marks are none."""
        return _count(self.body)


def _count(body: tuple[Entry, ...]) -> int:
    total = 0
    for entry in body:
        if isinstance(entry, Loop):
            total += entry.count * _count(entry.body)
        else:
            total += entry.op != "PHASE"
    return total


@dataclass(frozen=True)
class FlatProgram:
    """A program as arrays, a row per entry; loops are a row at their start and one at their end.

    ``table`` columns: code (a command of the machine, or a negative code of this module), n, row, column,
    target kind offset, bank, group mask (bits over ``groups``), blocking, other end of a loop or label, count.
    ``steps``: row, column and bank strides by depth, innermost loop first. ``groups``: channel masks of
    channels that get the same stream.
    """

    table: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    groups: tuple[int, ...]
    labels: tuple[str, ...]
    instructions: int


COLUMNS: Final = 10
CODE, COUNT, ROW, COL, KIND, BANK, MASK, BLOCKING, LINK, UNIFORM = range(COLUMNS)


def flatten(
    program: Program, device: PimDetail, codes: Mapping[str, int], kinds: Mapping[str, int]
) -> FlatProgram:
    """A program as arrays for a device; raises ``InputError`` with every problem found.

    ``codes`` gives the machine's code of a command, ``kinds`` the kind of target it covers.
    """
    return _Flattener(program, device, codes, kinds).run()


class _Flattener:
    def __init__(
        self, program: Program, device: PimDetail, codes: Mapping[str, int], kinds: Mapping[str, int]
    ) -> None:
        self.program, self.device, self.codes, self.kinds = program, device, codes, kinds
        self.known = device.commands.instructions
        self.all_commands = device.commands.all_commands
        self.rows: list[list[int]] = []
        self.steps: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
        self.labels: dict[str, int] = {"": 0}
        self.problems: list[Problem] = []
        self.counts: list[int] = []
        self.work = 0
        self.ended = False
        # Channel masks as Python integers, which hold any number of channels.
        self.masks: list[int] = []
        o = device.dram.organisation
        self.limits = {
            (): device.banks,
            ("Bank",): o.bank_groups,
            ("BankGroup",): o.banks,
            ("BankGroup", "Bank"): 1,
        }
        self.every = (1 << device.channels) - 1

    def run(self) -> FlatProgram:
        self._walk(self.program.body)
        if self.work > MAX_WORK:
            message = f"{self.work:,} commands and waits, loops unrolled; at most {MAX_WORK:,} are run"
            self.problems.append(Problem(message, self.program.name or None))
        if not self.rows:
            self.problems.append(Problem("holds no instruction", file=self.program.name or None))
        if self.problems:
            raise InputError(self.problems[:100])
        table = np.array(self.rows, np.int64)
        groups = self._groups(table)
        steps = np.zeros((len(self.rows), 3, MAX_DEPTH), np.int64)
        for index, lists in enumerate(self.steps):
            for kind, values in enumerate(lists):
                steps[index, kind, : len(values)] = values
        return FlatProgram(table, steps, groups, tuple(self.labels), self.program.instructions)

    def _walk(self, body: tuple[Entry, ...]) -> None:
        for entry in body:
            if len(self.rows) > MAX_ENTRIES or len(self.problems) > 100:
                self.problems.append(self._problem(entry, f"more than {MAX_ENTRIES} entries"))
                return
            if self.ended:
                what = "LOOP" if isinstance(entry, Loop) else entry.op
                self.problems.append(self._problem(entry, f"found {what} after EOC, which ends the program"))
                return
            if isinstance(entry, Loop):
                self._loop(entry)
            else:
                self._instruction(entry)

    def _loop(self, loop: Loop) -> None:
        if not 0 <= loop.count <= MAX_COUNT:
            self.problems.append(self._problem(loop, f"found LOOP {loop.count}; expected 0 to {MAX_COUNT}"))
        if len(self.counts) == MAX_DEPTH:
            self.problems.append(self._problem(loop, f"loops nest deeper than {MAX_DEPTH}"))
            return
        start = len(self.rows)
        self.rows.append([LOOP, loop.count, 0, 0, 0, 0, 0, 0, 0, 0])
        self.steps.append(((), (), ()))
        self.counts.append(max(loop.count, 1))
        self._walk(loop.body)
        self.counts.pop()
        stride = self._uniform_stride(start)
        self.rows.append([END, loop.count, stride or 0, 0, 0, 0, 0, 0, start, int(stride is not None)])
        self.steps.append(((), (), ()))
        self.rows[start][LINK] = len(self.rows) - 1

    def _uniform_stride(self, start: int) -> int | None:
        """The row stride that all instructions of a body have in its loop; None when they differ."""
        found: set[int] = set()
        inside = 0
        for index in range(start + 1, len(self.rows)):
            code = self.rows[index][CODE]
            inside += (code == LOOP) - (code == END)
            if code < 0:
                continue
            rows, _, banks = self.steps[index]
            if len(banks) > inside and banks[inside]:
                return None
            if self.rows[index][UNIFORM]:
                found.add(rows[inside] if len(rows) > inside else 0)
        return None if len(found) > 1 else next(iter(found), 0)

    def _instruction(self, one: Instruction) -> None:
        self.work += max(one.n, 1) * math.prod(self.counts)
        if one.op in HOST_OPS:
            self._host(one)
            return
        if one.op not in self.known:
            names = (*self.known, *HOST_OPS)
            message = f"{self.device.command_set} has no instruction {one.op!r}; known: {', '.join(names)}"
            self.problems.append(self._problem(one, message, nearest(one.op, names)))
            return
        chosen = self.known[one.op]
        command = self.all_commands[chosen.command]
        needs_row = command.effect in ("open", "column")
        room = self.device.global_buffer_bytes // self.device.column_bytes
        if command.pins == "vector" and one.n > room:
            held = f"the buffer of {self.device.global_buffer_bytes} bytes holds {room}"
            self.problems.append(self._problem(one, f"n: {one.op} writes {one.n} bursts; {held}"))
        self._check_ranges(one, command.covers, command.effect)
        mask = self.every if one.channels == ALL else one.channels
        if mask <= 0 or mask > self.every:
            self.problems.append(
                self._problem(
                    one, f"channels: found {one.channels:#x}; {self.device.channels} channels are there"
                )
            )
        self.rows.append(
            [self.codes[chosen.command], one.n, one.row, one.col, self.kinds[chosen.command], one.bank,
             0, int(chosen.blocking), 0, int(needs_row)]
        )  # fmt: skip
        self.masks.append(mask)
        self.steps.append((one.row_steps, one.col_steps, one.bank_steps))

    def _host(self, one: Instruction) -> None:
        code = {"WAIT": WAIT, "SYNC": SYNC, "EOC": EOC, "PHASE": PHASE}[one.op]
        if one.op == "WAIT" and not 0 <= one.n <= MAX_COUNT:
            self.problems.append(self._problem(one, f"found WAIT {one.n}; expected 0 to {MAX_COUNT}"))
        if one.op == "EOC":
            self.ended = True
            if self.counts:
                self.problems.append(
                    self._problem(one, "found EOC inside a loop; expected it at the very end")
                )
        label = self.labels.setdefault(one.label, len(self.labels)) if one.op == "PHASE" else 0
        if label >= 4096:
            self.problems.append(self._problem(one, "more than 4096 labels"))
        self.rows.append([code, one.n, 0, 0, 0, 0, 0, 0, label, 0])
        self.steps.append(((), (), ()))

    def _check_ranges(self, one: Instruction, covers: tuple[str, ...], effect: str) -> None:
        if not 1 <= one.n <= MAX_RUN:
            self.problems.append(self._problem(one, f"n: found {one.n}; expected 1 to {MAX_RUN}"))
        checks: list[tuple[str, int, tuple[int, ...], int, int]] = []
        if effect in ("open", "column"):
            checks.append(("row", one.row, one.row_steps, 0, self.device.rows))
        if effect == "column":
            columns = self.device.lockstep_columns if covers else self.device.columns
            checks.append(("col", one.col, one.col_steps, one.n - 1, columns))
        if effect in ("open", "close", "column"):
            checks.append(("bank", one.bank, one.bank_steps, 0, self.limits[covers]))
        for name, base, steps, more, limit in checks:
            if len(steps) > len(self.counts):
                self.problems.append(
                    self._problem(one, f"{name}: {len(steps)} strides inside {len(self.counts)} loops")
                )
                continue
            spans = [s * (c - 1) for s, c in zip(steps, reversed(self.counts), strict=False)]
            low = base + sum(s for s in spans if s < 0)
            high = base + sum(s for s in spans if s > 0) + more
            if low < 0 or high >= limit:
                reached = f"{base}" if low == high else f"{low} to {high}"
                self.problems.append(
                    self._problem(one, f"{name}: {one.op} reaches {reached}; expected 0 to {limit - 1}")
                )

    def _problem(self, entry: Entry, message: str, suggestion: str | None = None) -> Problem:
        return Problem(message, self.program.name or None, entry.line, None, suggestion)

    def _groups(self, table: npt.NDArray[np.int64]) -> tuple[int, ...]:
        """Channels by the set of instructions they take part in; equal channels stand for each other."""
        masks = list(dict.fromkeys(self.masks))
        groups: list[int] = [self.every]
        for mask in masks:
            groups = [part for group in groups for part in (group & mask, group & ~mask) if part]
        used = [group for group in groups if any(group & mask for mask in masks)]
        groups = used or groups[:1]
        if len(groups) > 62:
            raise InputError(
                [Problem(f"channels fall into {len(groups)} kinds of streams; at most 62 are run")]
            )
        by_mask = {
            mask: sum(1 << index for index, group in enumerate(groups) if group & mask) for mask in masks
        }
        place = 0
        for row in table:
            if row[CODE] >= 0:
                row[MASK] = by_mask[self.masks[place]]
                place += 1
        return tuple(groups)


def walk(body: tuple[Entry, ...]) -> Iterator[Instruction]:
    """Every instruction as it stands in a program, loops not unrolled."""
    for entry in body:
        if isinstance(entry, Loop):
            yield from walk(entry.body)
        else:
            yield entry
