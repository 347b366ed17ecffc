"""Reads what XLA dumps of a module's buffers: their sizes and places, and when each is alive.

XLA writes two files under one stem: ``*-buffer-assignment.txt`` (sizes, allocations, offsets) and
``*-live-range.txt`` (first and last instruction of each life, both inclusive). Every value must be found in both, or
the dump is refused: a row that is left out would make the problem smaller and its proof wrong. Two kinds of values
rightly have no life, for the flat schedule does not hold them: thread-local ones, and constants, of computations that
run inside one instruction. They lie outside the arena, and XLA's own figure leaves them out as well.

Values are told apart by name and tuple index; ``(phi)`` values are the states of loops. Where XLA lays two values
into the same bytes while both are alive (an operator that writes in place, a loop's state and its copies), they are
one buffer. The states of a loop at one place keep that place while a step's new state is not yet written; these gaps
are free for others. So XLA's own plan is a plan of the problem that is read.

The format is that of ``BufferAssignment::ToString`` and ``HloLiveRange::ToString`` (github.com/openxla/xla).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.whole_number import integer
from mapping.allocation.csv_format import read_text
from mapping.allocation.problem import AllocationProblem, Buffer, Gap

__all__ = ["XlaValue", "is_xla", "parse_xla", "partner_of", "read_values"]

_ALLOCATION: Final = re.compile(r"\s*allocation ([0-9]+): (.*)")
_VALUE: Final = re.compile(
    r"\s*value:\s*<[0-9]+ (\S+?)(\{[0-9,]*\})?( \(phi\))? @([0-9]+)>\s*\(size=([0-9]+),\s*offset=([0-9]+)\)"
)
_RANGE: Final = re.compile(r"\s*(\S+?)(\{[0-9,]*\})?:([0-9]+)-([0-9]+)\s*")
_PEAK: Final = re.compile(r"\s*Live ranges at ([0-9]+) \(peak\):\s*")
_PEAK_ROW: Final = re.compile(r"\s*(\S+?)(\{[0-9,]*\}): ([0-9]+) bytes \(cumulative: ([0-9]+) bytes\)\s*")
_HEADS: Final = ("HloLiveRange", "InstructionSequence:", "BufferAssignment:", "Stack trace", "Total bytes")
_ASSIGNMENT, _LIVES = "buffer-assignment", "live-range"
_LARGEST: Final = 2**60
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class XlaValue:
    """A value: its bytes in its allocation, and its first and last moment (both in use)."""

    name: str
    size: int
    offset: int
    allocation: int
    first: int
    last: int
    phi: bool


@dataclass(frozen=True, slots=True)
class _Sized:
    shown: str
    size: int
    offset: int
    allocation: int
    outside: bool
    space: int
    phi: bool
    file: str | None
    line: int


@dataclass
class _Dump:
    """What one or two texts said so far; a life carries what is told if it has no value.

    ``figure`` is XLA's own count of live bytes at its ``moment``.
    """

    sized: dict[str, _Sized] = field(default_factory=dict)
    lives: dict[str, tuple[int, int, Problem]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    moment: int | None = None
    figure: int | None = None


def is_xla(text: str) -> bool:
    """Whether a text is a buffer assignment or a list of live ranges."""
    return "BufferLiveRange" in text or re.search(r"^\s*value:\s*<", text[:100_000], re.M) is not None


def partner_of(path: Path) -> Path | None:
    """The file with the other half of a dump, by XLA's names; None where the name is not one of them."""
    for ours, theirs in ((_ASSIGNMENT, _LIVES), (_LIVES, _ASSIGNMENT)):
        if path.name.endswith(f"{ours}{path.suffix}"):
            return path.with_name(path.name[: -len(ours + path.suffix)] + theirs + path.suffix)
    return None


def parse_xla(
    text: str, file: str | None = None, name: str = "", memory_space: int | None = None
) -> AllocationProblem:
    """The problem of a dump; of all its memory, or of one memory space where there are several.

    Raises ``InputError`` where a value or a life has no counterpart, and where the rows do not sum to XLA's figure.
    """
    return AllocationProblem.of(_buffers(read_values(text, file, memory_space)), name)


def read_values(text: str, file: str | None = None, memory_space: int | None = None) -> list[XlaValue]:
    """All values of a dump with size, place and life; where ``text`` is half of one, ``file`` has the other beside."""
    dump = _Dump()
    _scan(text, file, dump)
    if not (dump.sized and dump.lives) and file is not None:
        other = partner_of(Path(file))
        if other is not None and other.is_file():
            _scan(read_text(other), str(other), dump)
    if dump.problems:
        raise InputError(dump.problems[:_MOST_TOLD])
    if not dump.sized or not dump.lives:
        raise _half(file, bool(dump.sized))
    _must_join(dump, file)
    return _in_space(dump, memory_space, file)


def _half(file: str | None, has_sizes: bool) -> InputError:
    has, lacks = ("sizes", "live ranges") if has_sizes else ("live ranges", "sizes")
    other = None if file is None else partner_of(Path(file))
    where = (
        f"expected them beside it in {other.name}"
        if other is not None
        else f"expected a text with both, or XLA's two files *-{_ASSIGNMENT}.txt and *-{_LIVES}.txt side by side"
    )
    return bad_input(f"holds {has} of XLA's values and no {lacks}; {where}", file=file)


def _scan(text: str, file: str | None, dump: _Dump) -> None:
    section, allocation, kind = "", -1, ""
    for number, line in enumerate(text.splitlines(), 1):
        held = _ALLOCATION.match(line)
        peak = _PEAK.fullmatch(line)
        if held:
            section, allocation, kind = "allocation", _bounded(held[1], file, number), held[2]
        elif line.strip() == "BufferLiveRange:":
            section = "lives"
        elif peak:
            section, dump.moment = "peak", _bounded(peak[1], file, number)
        elif line.strip().startswith(_HEADS):
            section = ""
        elif line.lstrip().startswith("value:"):
            _value(line, (allocation, kind), (file, number), dump)
        elif section == "lives" and line.strip():
            _life(line, file, number, dump)
        elif section == "peak" and line.strip():
            row = _PEAK_ROW.fullmatch(line)
            if row:
                dump.figure = _bounded(row[4], file, number)
            else:
                expected = "expected 'name{}: N bytes (cumulative: N bytes)'"
                dump.problems.append(Problem(f"found {line.strip()[:60]!r}; {expected}", file, number))


def _value(line: str, held: tuple[int, str], where: tuple[str | None, int], dump: _Dump) -> None:
    match = _VALUE.match(line)
    if not match:
        expected = "expected 'value: <12 name @0> (size=1024,offset=0)'"
        dump.problems.append(Problem(f"found {line.strip()[:60]!r}; {expected}", *where))
        return
    key = match[1] + (match[2] or "{}")
    if key in dump.sized:
        earlier = dump.sized[key].line
        dump.problems.append(Problem(f"value {key[:60]!r} stands here and on line {earlier}", *where))
        return
    outside = "thread-local" in held[1] or re.search(r"\bconstant\b", held[1]) is not None
    size, offset = _bounded(match[5], *where), _bounded(match[6], *where)
    dump.sized[key] = _Sized(
        match[1] + (match[2] or ""), size, offset, held[0], outside, int(match[4][:9]), bool(match[3]), *where,
    )  # fmt: skip


def _life(line: str, file: str | None, number: int, dump: _Dump) -> None:
    match = _RANGE.fullmatch(line)
    if not match:
        expected = "expected a live range 'name{}:first-last'"
        dump.problems.append(Problem(f"found {line.strip()[:60]!r}; {expected}", file, number))
        return
    key = match[1] + (match[2] or "{}")
    first, last = _bounded(match[3], file, number), _bounded(match[4], file, number)
    if key in dump.lives:
        earlier = dump.lives[key][2].line
        dump.problems.append(
            Problem(f"live range of {key[:60]!r} stands here and on line {earlier}", file, number)
        )
    elif last < first:
        dump.problems.append(
            Problem(f"live range of {key[:60]!r} ends at {last}, before {first}", file, number)
        )
    else:
        lost = Problem(f"live range of {key[:80]!r} has no value with a size", file, number)
        dump.lives[key] = (first, last, lost)


def _must_join(dump: _Dump, file: str | None) -> None:
    """Refuse a dump of which a row would be lost, or whose rows do not sum to XLA's own figure."""
    expected = "expected one under BufferLiveRange"
    problems = [
        Problem(f"value {key[:80]!r} has no live range; {expected}", value.file, value.line)
        for key, value in dump.sized.items()
        if key not in dump.lives and not value.outside
    ]
    problems += [lost for key, (_, _, lost) in dump.lives.items() if key not in dump.sized]
    if not problems and dump.moment is not None and dump.figure is not None:
        live = sum(dump.sized[key].size for key, (a, b, _) in dump.lives.items() if a <= dump.moment <= b)
        if live != dump.figure:
            told = f"XLA counts {dump.figure} bytes live at {dump.moment}, the values read sum to {live}"
            problems.append(Problem(f"{told}; expected equal figures", file))
    if problems:
        raise InputError(problems[:_MOST_TOLD])


def _in_space(dump: _Dump, wanted: int | None, file: str | None) -> list[XlaValue]:
    spaces = sorted({dump.sized[key].space for key in dump.lives})
    shown = ", ".join(map(str, spaces))
    if wanted is None and len(spaces) > 1:
        raise bad_input(f"holds the memory spaces {shown}; choose one with --memory-space", file=file)
    if wanted is not None and wanted not in spaces:
        raise bad_input(f"found {wanted}; {file or 'the dump'} holds {shown}", path="--memory-space")
    return [
        XlaValue(v.shown, v.size, v.offset, v.allocation, first, last, v.phi)
        for key, (first, last, _) in dump.lives.items()
        for v in (dump.sized[key],)
        if wanted is None or v.space == wanted
    ]


def _buffers(values: list[XlaValue]) -> Iterator[Buffer]:
    """One buffer for each group of values that XLA keeps in the same bytes, in the order of first values."""
    parent = list(range(len(values)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in _shared(values):
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    groups: dict[int, list[XlaValue]] = {}
    for i, value in enumerate(values):
        groups.setdefault(root(i), []).append(value)
    for group in groups.values():
        yield _one(group)


def _shared(values: list[XlaValue]) -> Iterator[tuple[int, int]]:
    """Pairs that lie in common bytes while both are alive, and states of a loop at one place."""
    order = sorted(range(len(values)), key=lambda i: (values[i].allocation, values[i].first))
    last = np.array([value.last for value in values], np.int64)
    low = np.array([value.offset for value in values], np.int64)
    high = low + np.array([value.size for value in values], np.int64)
    alive = np.zeros(0, np.int64)
    states: dict[tuple[int, int, int], int] = {}
    allocation = -1
    for i in order:
        new = values[i]
        if new.allocation != allocation:
            alive, allocation = alive[:0], new.allocation
        alive = alive[last[alive] >= new.first]
        for j in alive[(low[alive] < high[i]) & (low[i] < high[alive])].tolist():
            yield i, j
        alive = np.append(alive, i)
        if new.phi:
            place = (new.allocation, new.offset, new.size)
            yield i, states.setdefault(place, i)


def _one(group: list[XlaValue]) -> Buffer:
    """The buffer of a group, with gaps where less than all of its bytes are in use."""
    first = min(group, key=lambda value: (value.first, value.last))
    base, top = min(v.offset for v in group), max(v.offset + v.size for v in group)
    lower, upper = first.first, max(v.last for v in group) + 1
    gaps = tuple(_gaps(group, base, top - base))
    return Buffer(first.name, lower, upper, top - base, gaps=gaps)


def _gaps(group: Iterable[XlaValue], base: int, size: int) -> Iterator[Gap]:
    group = list(group)
    moments = sorted({v.first for v in group} | {v.last + 1 for v in group})
    begin, window = moments[0], (0, size)
    for moment in [*moments[:-1], None]:
        if moment is None:
            now, end = (-1, -1), moments[-1]
        else:
            used = [v for v in group if v.first <= moment <= v.last and v.size]
            low = min((v.offset - base for v in used), default=0)
            now, end = (low, max((v.offset - base + v.size for v in used), default=0)), moment
        if now != window:
            if begin < end and window != (0, size):
                yield Gap(begin, end, window if window[0] < window[1] else None)
            begin, window = end, now


def _bounded(text: str, file: str | None, line: int) -> int:
    value = integer(text, 0, _LARGEST)
    if value is None:
        raise bad_input(f"found {text[:60]}; expected at most 2**60", file=file, line=line)
    return value
