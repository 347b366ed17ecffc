"""Block traces in files: MQSim's format, MSR Cambridge (SNIA IOTTA), SPC, plain CSV; packed or not.

A file is read line by line, so its size does not matter. The format is told from the first line unless named:

- ``mqsim``: ``ARRIVAL_NS DEVICE SECTOR SECTORS TYPE`` (sectors of 512 bytes; type 1 reads, 0 writes);
- ``msr``: ``TIMESTAMP,HOST,DISK,Read|Write,OFFSET,SIZE,RESPONSE`` (timestamps in 100 ns; offset and size in bytes);
- ``spc``: ``ASU,LBA,SIZE,r|w,TIMESTAMP`` (sectors of 512 bytes, size in bytes, seconds);
- ``csv``: a header with ``op``, ``offset`` and ``size`` (bytes) and, if wanted, ``time_ns`` or ``time_s``.

Times count from the first request. Empty lines and lines that start with ``#`` are passed over.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import MAX_DIGITS, decimal, integer
from workloads.block_trace.trace import MAX_REQUEST, READ, TRIM, WRITE, BlockRequests
from workloads.packed_file import open_text, unreadable_told

__all__ = ["FORMATS", "FileBlocks", "open_block_trace"]

FORMATS: Final = ("mqsim", "msr", "spc", "csv")
SECTOR: Final = 512
MAX_LINE: Final = 4096
MAX_PROBLEMS: Final = 5
LONGEST_NS: Final = 2**62
"""From the first request to the last."""
_WORDS: Final = {
    "read": READ, "r": READ, "rd": READ, "write": WRITE, "w": WRITE, "wr": WRITE, "trim": TRIM, "t": TRIM,
    "discard": TRIM, "d": TRIM,
}  # fmt: skip
_Line = tuple[int, int, int, int]
"""Operation, address, bytes, time in ns (-1: none)."""


class _BadLineError(ValueError):
    """What is wrong with a line."""


def _whole(text: str, least: int = 0, most: int = 2**62) -> int:
    value = integer(text, -(10**MAX_DIGITS), 16**MAX_DIGITS, hexadecimal=True)
    if value is None:
        raise _BadLineError(f"{text[:80]!r} is not a whole number")
    if not least <= value <= most:
        raise _BadLineError(f"{text!r} is outside {least} to {most}")
    return value


def _size(text: str, unit: int = 1) -> int:
    return _whole(text, 1, MAX_REQUEST // unit) * unit


def _seconds(text: str) -> int:
    value = decimal(text)
    if value is None:
        raise _BadLineError(f"{text[:80]!r} is no number or outside 0 to 1e9 seconds")
    if not 0 <= value < 1e9:
        raise _BadLineError(f"{text!r} is outside 0 to 1e9 seconds")
    return round(value * 1e9)


def _operation(text: str) -> int:
    if text.lower() not in _WORDS:
        raise _BadLineError(f"{text!r} is neither a read, a write nor a trim")
    return _WORDS[text.lower()]


def _fields(cells: list[str], least: int, names: str) -> None:
    if len(cells) < least:
        raise _BadLineError(f"expected {names}")


def _mqsim(cells: list[str]) -> _Line:
    _fields(cells, 5, "arrival, device, first sector, sectors and type")
    if cells[4] not in ("0", "1"):
        raise _BadLineError(f"type {cells[4]!r} is neither 0 (write) nor 1 (read)")
    address = _whole(cells[2], 0, 2**52) * SECTOR
    return WRITE if cells[4] == "0" else READ, address, _size(cells[3], SECTOR), _whole(cells[0])


def _msr(cells: list[str]) -> _Line:
    _fields(cells, 6, "timestamp, host, disk, type, offset and size")
    return _operation(cells[3]), _whole(cells[4]), _size(cells[5]), _whole(cells[0]) * 100


def _spc(cells: list[str]) -> _Line:
    _fields(cells, 5, "ASU, LBA, size, type and timestamp")
    return _operation(cells[3]), _whole(cells[1], 0, 2**52) * SECTOR, _size(cells[2]), _seconds(cells[4])


def _csv(header: list[str]) -> Callable[[list[str]], _Line]:
    names = [name.lower() for name in header]
    known = ("op", "offset", "size", "time_ns", "time_s")
    unknown = [name for name in names if name not in known]
    if unknown or not {"op", "offset", "size"} <= set(names) or len(set(names)) < len(names):
        raise _BadLineError("expected a header of op, offset, size and, if wanted, time_ns or time_s")
    at = {name: index for index, name in enumerate(names)}

    def read(cells: list[str]) -> _Line:
        if len(cells) != len(names):
            raise _BadLineError(f"expected {len(names)} fields")
        when = -1
        if "time_ns" in at:
            when = _whole(cells[at["time_ns"]])
        elif "time_s" in at:
            when = _seconds(cells[at["time_s"]])
        return _operation(cells[at["op"]]), _whole(cells[at["offset"]]), _size(cells[at["size"]]), when

    return read


_READERS: Final[dict[str, Callable[[list[str]], _Line]]] = {"mqsim": _mqsim, "msr": _msr, "spc": _spc}


def _tell(line: str) -> str:
    """The format of a trace whose first line is this."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) > 1:
        if "op" in [cell.lower() for cell in cells]:
            return "csv"
        if len(cells) >= 6 and cells[3].lower() in ("read", "write"):
            return "msr"
        if len(cells) >= 5 and cells[3].lower() in ("r", "w"):
            return "spc"
    elif len(line.split()) == 5:
        return "mqsim"
    raise _BadLineError(f"the format cannot be told; known: {', '.join(FORMATS)}")


def _cells(text: str, kind: str) -> list[str]:
    return text.split() if kind == "mqsim" else [cell.strip() for cell in text.split(",")]


@dataclass(frozen=True)
class FileBlocks:
    """A trace file. Reading it raises ``InputError`` with line number and text for lines that make no sense."""

    path: Path
    format: str | None = None
    count: int | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self.path)

    def chunks(self, size: int) -> Iterator[BlockRequests]:
        """The requests in file order, at most ``size`` at a time."""
        with unreadable_told(self.name), open_text(self.path) as stream:
            yield from self._chunks(stream, size)

    def _chunks(self, stream: IO[str], size: int) -> Iterator[BlockRequests]:
        rows: list[_Line] = []
        problems: list[Problem] = []
        read: Callable[[list[str]], _Line] | None = None
        kind, first, last, empty = self.format or "", None, 0, True
        for number in itertools.count(1):
            line = stream.readline(MAX_LINE)
            if not line:
                break
            text = line.strip()
            if not text or text[0] == "#":
                continue
            try:
                if read is None:
                    kind = kind or _tell(text)
                    if kind == "csv":
                        read = _csv(_cells(text, kind))
                        continue
                    read = _READERS[kind]
                row = read(_cells(text, kind))
                first = row[3] if first is None else first
                if 0 <= row[3] < last:
                    raise _BadLineError("time goes backwards")
                if row[3] - first > LONGEST_NS:
                    raise _BadLineError(
                        f"{row[3] - first} ns after the first request; expected at most {LONGEST_NS}"
                    )
            except _BadLineError as error:
                shown = text if len(text) <= 60 else text[:57] + "..."
                problems.append(Problem(f"{error}: found {shown!r}", self.name, number))
                if read is None or len(problems) == MAX_PROBLEMS:
                    break
                continue
            last, empty = max(row[3], 0), False
            # Counted from the first request here: the times of some formats leave 64 bits in ns.
            rows.append((*row[:3], row[3] - first))
            if len(rows) == size and not problems:
                yield _requests(rows, first >= 0)
                rows = []
        if problems:
            raise InputError(problems)
        if rows:
            yield _requests(rows, first is not None and first >= 0)
        elif empty:
            raise bad_input("the trace holds no requests", file=self.name)


def _requests(rows: list[_Line], timed: bool) -> BlockRequests:
    columns = np.array(rows, np.int64).T
    arrival = columns[3] if timed else columns[3][:0]
    operation, address, size = (np.ascontiguousarray(column) for column in columns[:3])
    return BlockRequests(operation, address, size, np.ascontiguousarray(arrival))


def open_block_trace(path: str | Path, format: str | None = None) -> FileBlocks:
    """A trace file by path. Raises ``InputError`` for a missing file or an unknown format."""
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise bad_input(
            f"unknown trace format {format!r}; known: {', '.join(FORMATS)}",
            suggestion=nearest(format, FORMATS),
        )
    if not path.is_file():
        raise bad_input("no such file", file=str(path))
    return FileBlocks(path, format)
