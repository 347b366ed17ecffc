"""GPU traces in files, packed with gzip, zstd or xz or not.

- ``text``: ``ADDRESS BYTES R SM [TIME_NS]`` with blanks or commas between; ``R`` read, ``W`` write, ``A`` atomic;
  numbers decimal or hexadecimal with 0x;
- ``nvbit``: lines as NVBit's ``mem_trace`` tool prints them, ``CTX ... - CTA X,Y,Z - warp W - LDG.E.64 - 0x...
  0x...``: the addresses of 32 lanes (0: not active). They are coalesced here into runs of bytes; the thread block's
  number modulo the multiprocessors says where it runs, since the tool does not.

The format is told from the first line unless it is named. Empty lines, lines that start with ``#`` or ``=``, and in
NVBit's output lines of other things that the tool says are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import MAX_DIGITS, integer
from workloads.gpu_trace.trace import ATOMIC, LOAD, MAX_ACCESS, MOST_ADDRESS, MOST_SMS, STORE, GpuAccesses
from workloads.packed_file import open_bytes, unreadable_told

__all__ = ["FORMATS", "FileGpuTrace", "coalesced", "open_gpu_trace"]

FORMATS: Final = ("text", "nvbit")
MAX_LINE: Final = 8192
MAX_PROBLEMS: Final = 5
SECTOR: Final = 32
_KINDS: Final = {"R": LOAD, "L": LOAD, "W": STORE, "S": STORE, "A": ATOMIC}
_NVBIT: Final = re.compile(
    r"CTX\s+\S+.*?-\s*CTA\s+(\d+),(\d+),(\d+)\s*-\s*warp\s+\d+\s*-\s*([A-Z0-9_.]+)\s*-\s*(.*)$"
)
_GRID: Final = re.compile(r"grid size (\d+),(\d+),(\d+)")
_OPCODES: Final = {"LD": LOAD, "LDG": LOAD, "LDGSTS": LOAD, "LDL": LOAD, "ST": STORE, "STG": STORE, "STL": STORE,
                   "ATOM": ATOMIC, "ATOMG": ATOMIC, "RED": ATOMIC}  # fmt: skip
_NOT_GLOBAL: Final = frozenset({"LDS", "STS", "ATOMS", "LDC", "LDSM"})
"""Shared and constant memory: no access to the caches that are modelled."""
_WIDTHS: Final = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


class _Run(NamedTuple):
    """One access of a line."""

    kind: int
    address: int
    size: int
    sm: int
    time_ns: int


class _BadLineError(ValueError):
    """What is wrong with a line."""


def _number(text: str, field: str, least: int, most: int) -> int:
    value = integer(text, -(10**MAX_DIGITS), 16**MAX_DIGITS, hexadecimal=True)
    if value is None:
        raise _BadLineError(f"{field}: {text[:40]!r} is not a whole number")
    if not least <= value <= most:
        raise _BadLineError(f"{field}: {text[:40]!r} is outside {least} to {most}")
    return value


def coalesced(lanes: list[int], width: int, kind: int) -> list[tuple[int, int]]:
    """The runs of bytes (address, size) that a warp's lanes touch, each of ``width`` bytes.

    Loads fetch sectors, so runs that meet in a sector are one; stores keep the bytes that they write.

    >>> coalesced([0, 4, 8, 64], 4, LOAD), coalesced([0, 8], 4, STORE)
    ([(0, 12), (64, 4)], [(0, 4), (8, 4)])
    """
    runs: list[list[int]] = []
    for address in sorted(set(lanes)):
        end = address + width
        near = runs and (
            address <= runs[-1][1] or (kind != STORE and address // SECTOR == (runs[-1][1] - 1) // SECTOR)
        )
        if near:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([address, end])
    return [(start, end - start) for start, end in runs]


class _Text:
    """Lines of the format ``text``."""

    def __init__(self, sms: int) -> None:
        self.sms, self.latest = sms, 0

    def parse(self, line: str) -> list[_Run]:
        words = line.replace(",", " ").split()
        if len(words) not in (4, 5):
            raise _BadLineError("expected 'ADDRESS BYTES R|W|A SM [TIME_NS]'")
        kind = _KINDS.get(words[2].upper())
        if kind is None:
            raise _BadLineError(f"direction: {words[2][:40]!r} is none of R, W, A")
        size = _number(words[1], "bytes", 1, MAX_ACCESS)
        address = _number(words[0], "address", 0, MOST_ADDRESS - MAX_ACCESS)
        time_ns = _number(words[4], "time_ns", 0, 2**62) if len(words) == 5 else self.latest
        if time_ns < self.latest:
            raise _BadLineError(f"time_ns: {time_ns} is before the {self.latest} of a line above")
        self.latest = time_ns
        return [_Run(kind, address, size, _number(words[3], "sm", 0, self.sms - 1), time_ns)]


class _Nvbit:
    """Lines of NVBit's mem_trace."""

    def __init__(self, sms: int) -> None:
        self.sms, self.grid = sms, (0, 0, 0)

    def parse(self, line: str) -> list[_Run]:
        found = _NVBIT.search(line)
        if found is None:
            grid = _GRID.search(line)
            if grid is not None:
                self.grid = (int(grid[1]), int(grid[2]), int(grid[3]))
            if line.startswith("CTX") and " - CTA " in line:
                raise _BadLineError("expected 'CTX ... - CTA X,Y,Z - warp W - OPCODE - 32 addresses'")
            return []
        name, *parts = found[4].split(".")
        if name in _NOT_GLOBAL:
            return []
        kind = _OPCODES.get(name)
        if kind is None:
            near = nearest(name, _OPCODES)
            raise _BadLineError(
                f"opcode: {name[:40]!r} is no access to memory that is known, nearest {near!r}"
            )
        width = next((_WIDTHS[part] for part in parts if part in _WIDTHS), 4)
        lanes = [_number(word, "address", 0, 2**64 - 1) for word in found[5].split()]
        if not 1 <= len(lanes) <= 32:
            raise _BadLineError(f"found {len(lanes)} addresses; expected 1 to 32")
        lanes = [lane % (MOST_ADDRESS // 2) for lane in lanes if lane]
        block = int(found[1]) + max(self.grid[0], 1) * (int(found[2]) + max(self.grid[1], 1) * int(found[3]))
        sm = block % self.sms
        return [_Run(kind, address, size, sm, 0) for address, size in coalesced(lanes, width, kind)]


_PARSERS: Final[dict[str, Callable[[int], _Text | _Nvbit]]] = {"text": _Text, "nvbit": _Nvbit}


@dataclass(frozen=True)
class FileGpuTrace:
    """A trace file. Reading it raises ``InputError`` with line and field for lines that make no sense.

    ``sms``: multiprocessors there are.
    """

    path: Path
    sms: int
    format: str | None = None
    count: int | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self.path)

    def chunks(self, size: int) -> Iterator[GpuAccesses]:
        """The accesses in file order, about ``size`` at a time."""
        held: list[_Run] = []
        empty = True
        with unreadable_told(self.name), open_bytes(self.path) as stream:
            for runs in _lines(self.name, stream, self.format, self.sms):
                held += runs
                if len(held) >= size:
                    yield _arrays(held)
                    held, empty = [], False
        if held:
            yield _arrays(held)
        elif empty:
            raise bad_input("the trace holds no accesses", file=self.name)


def _arrays(runs: list[_Run]) -> GpuAccesses:
    columns = np.ascontiguousarray(np.array(runs, np.int64).T)
    return GpuAccesses(*columns)


def _lines(name: str, stream: IO[bytes], format: str | None, sms: int) -> Iterator[list[_Run]]:
    """The accesses of each line; a file's first mistakes together as an ``InputError``."""
    problems: list[Problem] = []
    parser = _PARSERS[format](sms) if format is not None else None
    number = 0
    while len(problems) < MAX_PROBLEMS and (raw := stream.readline(MAX_LINE + 1)):
        number += 1
        plain = raw.decode("utf-8", errors="replace").strip()
        if not plain or plain[0] in "#=":
            continue
        try:
            if len(raw) > MAX_LINE:
                raise _BadLineError(f"a line has more than {MAX_LINE} characters")
            if parser is None:
                parser = _PARSERS[_told(plain)](sms)
            runs = parser.parse(plain)
        except _BadLineError as error:
            shown = plain if len(plain) <= 60 else plain[:57] + "..."
            problems.append(Problem(f"{error}: found {shown!r}", name, number))
            if parser is None or len(raw) > MAX_LINE:
                break
            continue
        if not problems:
            yield runs
    if problems:
        raise InputError(problems)


def _told(line: str) -> str:
    """The format of a trace whose first line is this."""
    if line.startswith(("CTX", "MEMTRACE", "----", "NVBit")):
        return "nvbit"
    if len(line.replace(",", " ").split()) in (4, 5):
        return "text"
    raise _BadLineError("the format cannot be told; expected text or nvbit")


def open_gpu_trace(path: str | Path, sms: int, format: str | None = None) -> FileGpuTrace:
    """A trace file by path, for a GPU of so many multiprocessors.

    Raises ``InputError`` for a missing file or an unknown format.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise bad_input(
            f"unknown trace format {format!r}; known: {', '.join(FORMATS)}", path="--format",
            suggestion=nearest(format, FORMATS),
        )  # fmt: skip
    if not path.is_file():
        raise bad_input("no such file", file=str(path))
    if not 1 <= sms <= MOST_SMS:
        raise bad_input(f"found {sms} multiprocessors; expected 1 to {MOST_SMS}")
    return FileGpuTrace(path, sms, format)
