"""Memory traces in files: the formats of other simulators and plain CSV, packed with gzip or zstd or not.

A file is read in blocks of bytes, so its size does not matter. The format is told from the first line unless
it is named; ``formats.py`` says what the lines of each say. Empty lines and lines that start with ``#`` are passed
over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.memory_trace.formats import (
    FORMATS,
    READ_WORDS,
    WRITE_WORDS,
    BadLineError,
    LineFormat,
    OneRequest,
    format_of,
    tell_format,
)
from workloads.memory_trace.line_parser import LineForm, Parsed, pack_words, parse_lines
from workloads.memory_trace.trace import Period, Requests
from workloads.packed_file import open_bytes, unreadable_told

__all__ = ["FORMATS", "FileTrace", "open_trace"]

MAX_LINE: Final = 4096
BLOCK: Final = 1 << 18
"""Bytes read at a time."""
MAX_PROBLEMS: Final = 5
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class FileTrace:
    """A trace file. Reading it raises ``InputError`` with line number and text for lines that make no
    sense. ``clock_s``: seconds of a cycle, for formats that name times.
    """

    path: Path
    format: str | None = None
    clock_s: float | None = None
    count: int | None = None
    period: Period | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self.path)

    def chunks(self, size: int) -> Iterator[Requests]:
        """The requests in file order, at most ``size`` at a time."""
        with unreadable_told(self.name), open_bytes(self.path) as stream:
            yield from _Reader(self, size).chunks(stream)


class _Reader:
    """Fills arrays of ``size`` requests from a file's bytes.

    Ordinary lines are parsed a block at a time; a line that is not is taken by itself in plain Python.
    """

    def __init__(self, file: FileTrace, size: int) -> None:
        self.name, self.file, self.size = file.name, file, size
        self.line = 0
        self.filled = 0
        self.seen = False
        self.problems: list[Problem] = []
        self.form: LineFormat | None = None
        self.columns = np.zeros(0, np.int64)
        self.waiting: list[OneRequest] = []
        """Requests of a line that found no place in the arrays."""
        self._words = pack_words({0: READ_WORDS, 1: WRITE_WORDS})
        self._new_arrays()

    def _new_arrays(self) -> None:
        self.address = np.zeros(self.size, np.int64)
        self.write = np.zeros(self.size, np.uint8)
        self.arrival = np.full(self.size, -1, np.int64)
        self.sizes = np.zeros(self.size if self.form is not None and self.form.sized else 0, np.int64)
        self.filled = 0
        waiting, self.waiting = self.waiting, []
        self._put(waiting)

    def chunks(self, stream: IO[bytes]) -> Iterator[Requests]:
        """The requests of the file; ``InputError`` with all bad lines (at most a few) at its end."""
        rest = b""
        while True:
            block = stream.read(BLOCK)
            text = rest + block
            if self.line == 0 and not self.seen and text.startswith(_BYTE_ORDER_MARKS):
                raise bad_input(
                    "starts with a byte order mark; expected plain UTF-8 text without one",
                    file=self.name,
                    line=1,
                )
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
                while self.filled == self.size:
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
            or (bool(self.problems) and self.form is None)
            or any("a line has more than" in problem.message for problem in self.problems)
        )

    def _parse(self, text: npt.NDArray[np.uint8], start: int, end: int) -> int:
        """Take ordinary lines from ``start`` on; returns where the first other one begins."""
        if self.form is None or not self.columns.size:
            return start
        words, meanings = self._words
        form = LineForm(self.columns, self.form.separator == ",", words, meanings)
        into = Parsed(self.address, self.write, self.arrival, self.sizes)
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
                raise BadLineError(f"a line has more than {MAX_LINE} characters")
            if self.form is None:
                self.form = format_of(self.file.format or tell_format(text), text, self.file.clock_s)
                self.columns = np.array(self.form.columns, np.int64)
                self.sizes = np.zeros(self.size if self.form.sized else 0, np.int64)
                if self.form.header:
                    return
            found = self.form.read(text.split(self.form.separator))
        except BadLineError as error:
            shown = text if len(text) <= 60 else text[:57] + "..."
            self.problems.append(Problem(f"{error}: found {shown!r}", self.name, self.line))
            if self.form is None:
                # Without a format nothing more can be said.
                self.problems = self.problems[:1]
                raise InputError(self.problems) from None
            return
        self.seen = True
        self._put(found)

    def _put(self, found: list[OneRequest]) -> None:
        """Place requests; those without room wait for the next arrays."""
        for one in found:
            if self.filled == self.size:
                self.waiting.append(one)
                continue
            self.address[self.filled], self.write[self.filled] = one.address, one.write
            self.arrival[self.filled] = one.arrival
            if self.sizes.size:
                self.sizes[self.filled] = one.size
            self.filled += 1

    def _taken(self) -> Requests:
        n = self.filled
        assert self.form is not None
        arrival = self.arrival[:n] if self.form.timed else np.zeros(0, np.int64)
        return Requests(self.address[:n], self.write[:n], arrival, self.sizes[:n])


def open_trace(path: str | Path, format: str | None = None, clock_s: float | None = None) -> FileTrace:
    """A trace file by path; ``clock_s``: seconds of a cycle, for formats that name times. Raises ``InputError`` for a
    missing file or an unknown format.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise bad_input(
            f"unknown trace format {format!r}; known: {', '.join(FORMATS)}",
            suggestion=nearest(format, FORMATS),
        )
    if not path.is_file():
        raise bad_input("no such file", file=str(path))
    return FileTrace(path, format, clock_s)
