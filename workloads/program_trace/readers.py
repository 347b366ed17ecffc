"""Program traces in files, packed with gzip, zstd or xz or not: five formats, read a block at a time.

- ``champsim``: records of 64 bytes, one an instruction (its address, two addresses written, four read); the fetch of
  an instruction comes first, then its loads, then its stores;
- ``ramulator``: ``BUBBLES LOAD [STORE]``: instructions without access, then a load, then a write-back of a cache;
- ``pin``: ``PC: R ADDRESS [SIZE]`` or ``W``, as Pin's and DynamoRIO's memory tracers print;
- ``lackey`` (Valgrind): ``I  ADDRESS,SIZE``, `` L``, `` S``, `` M`` (a load and a store), addresses hexadecimal;
- ``gem5``: ``r,ADDRESS,SIZE,FLAGS,TICK[,PC]`` or ``w``, as ``decode_packet_trace.py`` prints; ``u`` (neither) is
  passed over.

The format is told from the first line unless it is named. Empty lines and lines that start with ``#`` or ``==`` are
passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import INT64_MOST, MAX_DIGITS, integer
from workloads.packed_file import open_bytes, unreadable_told
from workloads.program_trace.line_meaning import MEANINGS, WIDTH, meant, shapes_of
from workloads.program_trace.line_parser import parse_program_lines
from workloads.program_trace.trace import ADDRESS_BITS, FETCH, LOAD, MAX_ACCESS, STORE, Accesses

__all__ = ["FORMATS", "FileProgram", "open_program"]

FORMATS: Final = ("champsim", "ramulator", "pin", "lackey", "gem5")
MAX_LINE: Final = 4096
MAX_PROBLEMS: Final = 5
BLOCK: Final = 1 << 18
"""Bytes read at a time: a multiple of a binary record."""
ROWS: Final = 1 << 13
"""Lines taken at a time."""
_NEWLINE: Final = 10
_MASK: Final = 2**ADDRESS_BITS - 1
_WORD: Final = 8
"""Bytes of an access whose size a format leaves out."""
_RECORD: Final = np.dtype(
    [("ip", "<u8"), ("branch", "u1", 2), ("registers", "u1", 6), ("stores", "<u8", 2), ("loads", "<u8", 4)]
)


class _One(NamedTuple):
    """An access of a text line."""

    kind: int
    address: int
    size: int
    pc: int
    instructions: int


class _BadLineError(ValueError):
    """What is wrong with a line."""


def _number(text: str, field: str, most: int = 2**64 - 1) -> int:
    """Decimal, or hexadecimal with 0x."""
    value = integer(text, -(10**MAX_DIGITS), 16**MAX_DIGITS, hexadecimal=True)
    if value is None:
        raise _BadLineError(f"{field}: {text[:40]!r} is not a number")
    if not 0 <= value <= most:
        raise _BadLineError(f"{field}: {text[:40]!r} is outside 0 to {most}")
    return value


def _hexadecimal(text: str, field: str) -> int:
    return _number(text if text[:2].lower() == "0x" else f"0x{text}", field)


def _size(text: str) -> int:
    value = _number(text, "size")
    if not 1 <= value <= MAX_ACCESS:
        raise _BadLineError(f"size: found {text[:40]!r}; expected 1 to {MAX_ACCESS} bytes")
    return value


def _pc(value: int) -> int:
    return value & INT64_MOST


def _ramulator(line: str) -> list[_One]:
    words = line.split()
    if len(words) not in (2, 3):
        raise _BadLineError("expected bubbles, a load address and, if wanted, a store address")
    work = _number(words[0], "bubbles", 2**40 - 1) + 1
    found = [_One(LOAD, _number(words[1], "load") & _MASK, _WORD, 0, work)]
    if len(words) == 3:
        found.append(_One(STORE, _number(words[2], "store") & _MASK, _WORD, 0, 0))
    return found


_DIRECTIONS: Final = {"R": LOAD, "W": STORE, "L": LOAD, "S": STORE}


def _pin(line: str) -> list[_One]:
    head, colon, rest = line.partition(":")
    words = rest.split()
    if not colon or len(words) not in (2, 3):
        raise _BadLineError("expected 'PC: R ADDRESS SIZE'")
    kind = _DIRECTIONS.get(words[0].upper())
    if kind is None:
        raise _BadLineError(f"direction: {words[0][:40]!r} is neither R nor W")
    size = _size(words[2]) if len(words) == 3 else _WORD
    return [_One(kind, _number(words[1], "address") & _MASK, size, _pc(_number(head, "pc")), 1)]


def _lackey(line: str) -> list[_One]:
    words = line.split()
    if len(words) != 2 or words[1].count(",") != 1:
        raise _BadLineError("expected I, L, S or M and 'ADDRESS,SIZE'")
    place, _, length = words[1].partition(",")
    address, size = _hexadecimal(place, "address") & _MASK, _size(length)
    if words[0] == "I":
        return [_One(FETCH, address, size, _pc(address), 1)]
    kinds = {"L": (LOAD,), "S": (STORE,), "M": (LOAD, STORE)}.get(words[0])
    if kinds is None:
        raise _BadLineError(f"access: {words[0][:40]!r} is none of I, L, S, M")
    return [_One(kind, address, size, 0, 0) for kind in kinds]


def _gem5(line: str) -> list[_One]:
    words = line.split(",")
    if len(words) not in (5, 6):
        raise _BadLineError("expected 'r,ADDRESS,SIZE,FLAGS,TICK[,PC]'")
    command = words[0].strip()
    if command not in ("r", "w", "u"):
        raise _BadLineError(f"command: {command[:40]!r} is none of r, w, u")
    address, size = _number(words[1], "address") & _MASK, _size(words[2])
    _number(words[4], "tick")
    pc = _pc(_number(words[5], "pc")) if len(words) == 6 else 0
    return [] if command == "u" else [_One(LOAD if command == "r" else STORE, address, size, pc, 1)]


_PARSERS: Final[dict[str, Callable[[str], list[_One]]]] = {
    "ramulator": _ramulator, "pin": _pin, "lackey": _lackey, "gem5": _gem5,
}  # fmt: skip


def _tell(line: str) -> str:
    """The format of a text trace whose first line is this."""
    words = line.split()
    if "," in line:
        return "lackey" if len(words) == 2 and words[0] in ("I", "L", "S", "M") else "gem5"
    if ":" in line:
        return "pin"
    if len(words) in (2, 3):
        return "ramulator"
    raise _BadLineError("the format cannot be told")


@dataclass(frozen=True)
class FileProgram:
    """A trace file. Reading it raises ``InputError`` with line number and field for lines that make no sense."""

    path: Path
    format: str | None = None
    count: int | None = None
    cores: int = 1

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self.path)

    def chunks(self, size: int) -> Iterator[Accesses]:
        """The accesses in file order, at most ``size`` at a time."""
        with unreadable_told(self.name), open_bytes(self.path) as stream:
            first = stream.read(BLOCK)
            binary = self.format == "champsim" or (self.format is None and _is_binary(first, self.path))
            whole = (
                _records(self.name, stream, first)
                if binary
                else _Lines(self.name, self.format).read(stream, first)
            )
            empty = True
            for accesses in whole:
                empty = empty and not accesses.kind.size
                for start in range(0, accesses.kind.size, size):
                    yield Accesses(*(part[start : start + size] for part in accesses))
            if empty:
                raise bad_input("the trace holds no accesses", file=self.name)


def _is_binary(first: bytes, path: Path) -> bool:
    return ".champsim" in path.name or b"\0" in first[:64]


def _records(name: str, stream: IO[bytes], first: bytes) -> Iterator[Accesses]:
    """ChampSim's records, each as a fetch, its loads and its stores."""
    rest, done = first, 0
    while rest:
        block = stream.read(BLOCK)
        whole = len(rest) - len(rest) % _RECORD.itemsize
        if whole:
            yield _of_records(np.frombuffer(rest[:whole], _RECORD))
            done += whole // _RECORD.itemsize
        rest = rest[whole:] + block
        if not block:
            break
    if rest:
        more = f"the file ends inside record {done + 1}: {len(rest)} of {_RECORD.itemsize} bytes"
        raise bad_input(more, file=name)


def _of_records(records: np.ndarray) -> Accesses:
    count = records.size
    places = np.concatenate([records["ip"][:, None], records["loads"], records["stores"]], axis=1)
    kinds = np.array([FETCH, LOAD, LOAD, LOAD, LOAD, STORE, STORE], np.int64)
    wanted = places != 0
    wanted[:, 0] = True
    rows, columns = np.nonzero(wanted)
    address = (places[rows, columns] & np.uint64(_MASK)).astype(np.int64)
    kind = kinds[columns]
    pc = (records["ip"][rows] & np.uint64(INT64_MOST)).astype(np.int64)
    size = np.where(kind == FETCH, 4, _WORD).astype(np.int64)
    assert count == int(np.count_nonzero(kind == FETCH))
    return Accesses(kind, address, size, pc, (kind == FETCH).astype(np.int64), np.zeros(kind.size, np.int64))


class _Lines:
    """Takes the lines of a text trace; all bad ones (at most a few) at once as an ``InputError``."""

    def __init__(self, name: str, format: str | None) -> None:
        self.name = name
        self.line = 0
        self.problems: list[Problem] = []
        self.waiting: list[_One] = []
        self.format = ""
        if format is not None:
            self._settle(format)

    def _settle(self, format: str) -> None:
        self.format, self.parse = format, _PARSERS[format]
        self.shapes, self.meaning = shapes_of(format), MEANINGS[format]
        self.rows = np.zeros((ROWS, WIDTH), np.int64)

    def read(self, stream: IO[bytes], first: bytes) -> Iterator[Accesses]:
        """The accesses, a block of lines at a time."""
        text, block = first, first
        while block and len(self.problems) < MAX_PROBLEMS:
            block = stream.read(BLOCK)
            if not block and text and not text.endswith(b"\n"):
                text += b"\n"
            end = text.rfind(b"\n") + 1
            for accesses in self._lines(text[:end]):
                if not self.problems:
                    yield accesses
            text = text[end:]
            if len(text) > MAX_LINE:
                self.line += 1
                self._refuse(f"a line has more than {MAX_LINE} characters", "")
                break
            text += block
        if self.problems:
            raise InputError(self.problems)

    def _lines(self, text: bytes) -> Iterator[Accesses]:
        """The accesses of whole lines: ordinary ones many at a time, others one by one."""
        view, start = np.frombuffer(text, np.uint8), 0
        while start < len(text) and len(self.problems) < MAX_PROBLEMS:
            taken = 0
            if self.format:
                stop, lines = (int(n) for n in parse_program_lines(view, start, self.shapes, self.rows))
                if lines:
                    columns, taken = meant(self.rows[:lines], self.meaning)
                if taken:
                    yield from self._waited()
                    kind, address, size, pc, work = columns[:5]
                    yield Accesses(kind, address, size, pc, work, np.zeros(kind.size, np.int64))
                    ends = np.flatnonzero(view[start:stop] == _NEWLINE)
                    start += int(ends[taken - 1]) + 1
                    self.line += taken
            if start < len(text) and taken < ROWS:
                stop = text.index(b"\n", start) + 1
                self._take(text[start:stop])
                start = stop
        yield from self._waited()

    def _waited(self) -> Iterator[Accesses]:
        """What was taken line by line."""
        if self.waiting:
            kind, address, size, pc, instructions = np.ascontiguousarray(np.array(self.waiting, np.int64).T)
            yield Accesses(kind, address, size, pc, instructions, np.zeros(kind.size, np.int64))
            self.waiting = []

    def _take(self, line: bytes) -> None:
        """One line that is empty, a comment, the first one, unusual or bad."""
        self.line += 1
        plain = line.decode("utf-8").strip()
        if not plain or plain[0] == "#" or plain[:2] == "==":
            return
        try:
            if len(plain) > MAX_LINE:
                raise _BadLineError(f"a line has more than {MAX_LINE} characters")
            if not self.format:
                self._settle(_tell(plain))
            self.waiting += self.parse(plain)
        except _BadLineError as error:
            self._refuse(str(error), plain)
            if not self.format:
                # Without a format nothing more can be said.
                raise InputError(self.problems) from None

    def _refuse(self, message: str, text: str) -> None:
        shown = text if len(text) <= 60 else text[:57] + "..."
        said = f"{message}: found {shown!r}" if text else message
        self.problems.append(Problem(said, self.name, max(self.line, 1)))


def open_program(path: str | Path, format: str | None = None) -> FileProgram:
    """A trace file by path. Raises ``InputError`` for a missing file or an unknown format."""
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise bad_input(
            f"unknown trace format {format!r}; known: {', '.join(FORMATS)}", path="--format",
            suggestion=nearest(format, FORMATS),
        )  # fmt: skip
    if not path.is_file():
        raise bad_input("no such file", file=str(path))
    return FileProgram(path, format)
