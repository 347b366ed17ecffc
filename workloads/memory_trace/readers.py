"""Memory traces in files: the formats of Ramulator and DRAMsim3, plain CSV, packed with gzip or zstd or not.

A file is read in blocks of bytes, so its size does not matter. The format is told from the first line unless
it is named:

- ``loadstore`` (Ramulator): ``LD 0x1a2b`` or ``ST 6699``;
- ``readwrite`` (Ramulator): ``R 0x1a2b`` or ``W 6699``;
- ``dramsim3``: ``0x1a2b READ 120`` (address, command, cycle);
- ``csv``: a header line with ``address`` and, if wanted, ``write`` (or ``type``) and ``cycle``.

Numbers are decimal or, with ``0x``, hexadecimal. Empty lines and lines that start with ``#`` are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import INT64_MOST, MAX_DIGITS, integer
from workloads.memory_trace.line_parser import (
    ADDRESS,
    CYCLE,
    DIRECTION,
    LineForm,
    Parsed,
    pack_words,
    parse_lines,
)
from workloads.memory_trace.trace import Period, Requests
from workloads.packed_file import open_bytes, unreadable_told

__all__ = ["FORMATS", "FileTrace", "open_trace"]

FORMATS: Final = ("loadstore", "readwrite", "dramsim3", "csv")
MAX_LINE: Final = 4096
BLOCK: Final = 1 << 18
"""Bytes read at a time."""
MAX_PROBLEMS: Final = 5
_READ: Final = frozenset({"LD", "R", "READ", "RD", "LOAD", "L", "0", "P_MEM_RD", "FALSE"})
_WRITE: Final = frozenset({"ST", "W", "WRITE", "WR", "STORE", "S", "1", "P_MEM_WR", "TRUE"})
_Line = tuple[int, int, int]
"""Address, write, arrival (-1: none)."""


class _BadLineError(ValueError):
    """What is wrong with a line."""


def _number(text: str) -> int:
    value = integer(text, -(10**MAX_DIGITS), 16**MAX_DIGITS, hexadecimal=True)
    if value is None:
        raise _BadLineError(f"{text[:80]!r} is not a number")
    if not 0 <= value <= INT64_MOST:
        raise _BadLineError(f"{text!r} is outside 0 to 2^63")
    return value


def _direction(text: str) -> int:
    word = text.upper()
    if word in _READ:
        return 0
    if word in _WRITE:
        return 1
    raise _BadLineError(f"{text!r} is neither a read nor a write")


def _command_first(words: list[str]) -> _Line:
    if len(words) != 2:
        raise _BadLineError("expected a command and an address")
    return _number(words[1]), _direction(words[0]), -1


def _address_first(words: list[str]) -> _Line:
    if len(words) != 3:
        raise _BadLineError("expected an address, a command and a cycle")
    return _number(words[0]), _direction(words[1]), _number(words[2])


def _csv_line(header: list[str]) -> Callable[[list[str]], _Line]:
    names = [name.strip().lower() for name in header]
    unknown = [name for name in names if name not in ("address", "write", "type", "cycle")]
    if unknown or "address" not in names or len(set(names)) < len(names):
        raise _BadLineError("expected a header of address and, if wanted, write (or type) and cycle")
    at = {name: index for index, name in enumerate(names)}
    direction = at.get("write", at.get("type"))

    def read(words: list[str]) -> _Line:
        if len(words) != len(names):
            raise _BadLineError(f"expected {len(names)} fields")
        cells = [word.strip() for word in words]
        return (
            _number(cells[at["address"]]),
            0 if direction is None else _direction(cells[direction]),
            _number(cells[at["cycle"]]) if "cycle" in at else -1,
        )

    return read


def _tell(line: str) -> str:
    """The format of a trace whose first line is this."""
    words = line.split()
    if "," in line or line.strip().lower() == "address":
        return "csv"
    if len(words) == 3:
        return "dramsim3"
    if len(words) == 2:
        return "readwrite" if words[0].upper() in ("R", "W") else "loadstore"
    raise _BadLineError("the format cannot be told")


@dataclass(frozen=True)
class FileTrace:
    """A trace file. Reading it raises ``InputError`` with line number and text for lines that make no
    sense.
    """

    path: Path
    format: str | None = None
    count: int | None = None
    period: Period | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self.path)

    def chunks(self, size: int) -> Iterator[Requests]:
        """The requests in file order, at most ``size`` at a time."""
        with unreadable_told(self.name), open_bytes(self.path) as stream:
            yield from _Reader(self.name, self.format, size).chunks(stream)


class _Reader:
    """Fills arrays of ``size`` requests from a file's bytes.

    Ordinary lines are parsed a block at a time; a line that is not is taken by itself in plain Python.
    """

    def __init__(self, name: str, format: str | None, size: int) -> None:
        self.name, self.format, self.size = name, format, size
        self.line = 0
        self.timed = False
        self.filled = 0
        self.seen = False
        self.problems: list[Problem] = []
        self.read: Callable[[list[str]], _Line] | None = None
        self.separator: str | None = None
        self.columns = np.zeros(0, np.int64)
        self._words = pack_words({0: _READ, 1: _WRITE})
        self._new_arrays()

    def _new_arrays(self) -> None:
        self.address = np.zeros(self.size, np.int64)
        self.write = np.zeros(self.size, np.uint8)
        self.arrival = np.full(self.size, -1, np.int64)
        self.filled = 0

    def chunks(self, stream: IO[bytes]) -> Iterator[Requests]:
        """The requests of the file; ``InputError`` with all bad lines (at most a few) at its end."""
        rest = b""
        while True:
            block = stream.read(BLOCK)
            text = rest + block
            if not block and text and not text.endswith(b"\n"):
                text += b"\n"
            start = 0
            end = text.rfind(b"\n") + 1
            view = np.frombuffer(text, np.uint8)
            while start < end and len(self.problems) < MAX_PROBLEMS:
                start = self._parse(view, start, end)
                if self.filled < self.size and start < end:
                    # Not an ordinary line.
                    stop = text.index(b"\n", start) + 1
                    self._take(text[start:stop])
                    start = stop
                if self.filled == self.size:
                    if not self.problems:
                        yield self._taken()
                    self._new_arrays()
            rest = text[end:]
            if len(rest) > MAX_LINE:
                self.problems.append(
                    Problem(f"a line has more than {MAX_LINE} characters", self.name, self.line + 1)
                )
            if not block or self._hopeless():
                break
        if self.problems:
            raise InputError(self.problems)
        if not self.seen:
            raise bad_input("the trace holds no requests", file=self.name)
        if self.filled:
            yield self._taken()

    def _hopeless(self) -> bool:
        many = len(self.problems) >= MAX_PROBLEMS
        return (
            many
            or (bool(self.problems) and self.read is None)
            or any("a line has more than" in problem.message for problem in self.problems)
        )

    def _parse(self, text: npt.NDArray[np.uint8], start: int, end: int) -> int:
        """Take ordinary lines from ``start`` on; returns where the first other one begins."""
        if self.read is None:
            return start
        words, meanings = self._words
        form = LineForm(self.columns, self.separator == ",", words, meanings)
        into = Parsed(self.address, self.write, self.arrival)
        start, filled, lines = parse_lines(text, start, end, form, into, self.filled)
        self.seen |= filled > self.filled
        self.filled, self.line = int(filled), self.line + int(lines)
        return int(start)

    def _take(self, line: bytes) -> None:
        """One line that is empty, a comment, the first one, unusual or bad."""
        self.line += 1
        text = line.decode("utf-8").strip()
        if not text or text[0] == "#":
            return
        try:
            if len(text) > MAX_LINE:
                raise _BadLineError(f"a line has more than {MAX_LINE} characters")
            if self.read is None:
                kind = self.format or _tell(text)
                self._open(kind, text)
                if kind == "csv":
                    return
            assert self.read is not None
            one, direction, cycle = self.read(text.split(self.separator))
        except _BadLineError as error:
            shown = text if len(text) <= 60 else text[:57] + "..."
            self.problems.append(Problem(f"{error}: found {shown!r}", self.name, self.line))
            if self.read is None:
                # Without a format nothing more can be said.
                self.problems = self.problems[:1]
                raise InputError(self.problems) from None
            return
        self.seen = True
        self.address[self.filled], self.write[self.filled] = one, direction
        self.arrival[self.filled] = cycle
        self.filled += 1

    def _open(self, kind: str, first: str) -> None:
        """Settle on a format, from its name and the first line."""
        if kind == "csv":
            names = [name.strip().lower() for name in first.split(",")]
            self.read, self.separator = _csv_line(first.split(",")), ","
            kinds = {"address": ADDRESS, "write": DIRECTION, "type": DIRECTION, "cycle": CYCLE}
            self.columns = np.array([kinds[name] for name in names], np.int64)
            self.timed = "cycle" in names
        elif kind == "dramsim3":
            self.read = _address_first
            self.columns = np.array([ADDRESS, DIRECTION, CYCLE], np.int64)
            self.timed = True
        else:
            self.read = _command_first
            self.columns = np.array([DIRECTION, ADDRESS], np.int64)

    def _taken(self) -> Requests:
        n = self.filled
        arrival = self.arrival[:n] if self.timed else np.zeros(0, np.int64)
        return Requests(self.address[:n], self.write[:n], arrival)


def open_trace(path: str | Path, format: str | None = None) -> FileTrace:
    """A trace file by path. Raises ``InputError`` for a missing file or an unknown format."""
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise bad_input(
            f"unknown trace format {format!r}; known: {', '.join(FORMATS)}",
            suggestion=nearest(format, FORMATS),
        )
    if not path.is_file():
        raise bad_input("no such file", file=str(path))
    return FileTrace(path, format)
