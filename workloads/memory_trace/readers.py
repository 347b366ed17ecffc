"""Memory traces in files: the formats of Ramulator and DRAMsim3, plain CSV, packed with gzip or zstd or not.

A file is read in blocks of lines, so its size does not matter. The format is told from the first line unless
it is named:

- ``loadstore`` (Ramulator): ``LD 0x1a2b`` or ``ST 6699``;
- ``readwrite`` (Ramulator): ``R 0x1a2b`` or ``W 6699``;
- ``dramsim3``: ``0x1a2b READ 120`` (address, command, cycle);
- ``csv``: a header line with ``address`` and, if wanted, ``write`` (or ``type``) and ``cycle``.

Numbers are decimal or, with ``0x``, hexadecimal. Empty lines and lines that start with ``#`` are passed over.
"""

from __future__ import annotations

import gzip
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.memory_trace.trace import Period, Requests

__all__ = ["FORMATS", "FileTrace", "open_trace"]

FORMATS: Final = ("loadstore", "readwrite", "dramsim3", "csv")
MAX_LINE: Final = 4096
MAX_PROBLEMS: Final = 5
_READ: Final = frozenset({"LD", "R", "READ", "RD", "LOAD", "L", "0", "P_MEM_RD", "FALSE"})
_WRITE: Final = frozenset({"ST", "W", "WRITE", "WR", "STORE", "S", "1", "P_MEM_WR", "TRUE"})
_Line = tuple[int, int, int]
"""Address, write, arrival (-1: none)."""


class _BadLineError(ValueError):
    """What is wrong with a line."""


def _number(text: str) -> int:
    try:
        value = int(text, 16) if text[:2].lower() == "0x" else int(text)
    except ValueError:
        raise _BadLineError(f"{text!r} is not a number") from None
    if not 0 <= value < 2**63:
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
    if unknown or "address" not in names:
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


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    """The file's text, unpacked while it is read."""
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise bad_input(
                "a .zst trace needs the package zstandard (pip install 'offchip[zstd]')", file=str(path)
            ) from None
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as packed:
            yield io.TextIOWrapper(packed, encoding="utf-8")
    elif path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield stream
    else:
        with path.open(encoding="utf-8") as stream:
            yield stream


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
        try:
            with _text(self.path) as stream:
                yield from self._chunks(stream, size)
        except FileNotFoundError:
            raise bad_input("no such file", file=self.name) from None
        except InputError:
            raise
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise bad_input(f"cannot be read: {error}", file=self.name) from None

    def _chunks(self, stream: IO[str], size: int) -> Iterator[Requests]:
        address, write, arrival = [], [], []
        problems: list[Problem] = []
        read: Callable[[list[str]], _Line] | None = None
        separator: str | None = None
        timed: bool | None = None
        for number in itertools.count(1):
            line = stream.readline(MAX_LINE)
            if not line:
                break
            text = line.strip()
            if not text or text[0] == "#":
                continue
            try:
                if read is None:
                    kind = self.format or _tell(text)
                    separator = "," if kind == "csv" else None
                    if kind == "csv":
                        read = _csv_line(text.split(","))
                        continue
                    read = _address_first if kind == "dramsim3" else _command_first
                one, direction, cycle = read(text.split(separator))
            except _BadLineError as error:
                shown = text if len(text) <= 60 else text[:57] + "..."
                problems.append(Problem(f"{error}: found {shown!r}", self.name, number))
                if read is None or len(problems) == MAX_PROBLEMS:
                    break
                continue
            timed = cycle >= 0
            address.append(one)
            write.append(direction)
            arrival.append(cycle)
            if len(address) == size and not problems:
                yield _requests(address, write, arrival, timed)
                address, write, arrival = [], [], []
        if problems:
            raise InputError(problems)
        if address:
            yield _requests(address, write, arrival, bool(timed))
        elif timed is None:
            raise bad_input("the trace holds no requests", file=self.name)


def _requests(address: list[int], write: list[int], arrival: list[int], timed: bool) -> Requests:
    return Requests(
        np.array(address, np.int64), np.array(write, np.uint8), np.array(arrival if timed else [], np.int64)
    )


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
