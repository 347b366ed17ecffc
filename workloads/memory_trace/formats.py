"""What a line of each trace format says: address, read or write, and its cycle and size where it names them.

- ``loadstore`` (Ramulator 2): ``LD 0x1a2b`` or ``ST 6699``;
- ``readwrite`` (Ramulator 2): ``R 0x1a2b`` or ``W 6699``;
- ``ramulator1``: ``0x1a2b R``;
- ``ramulator1-cpu``: ``3 20734016`` or ``3 20734016 20841280``: instructions before, a read, and a write-back. An
  instruction is taken to last a cycle of the memory, so the read is offered no earlier than that (an assumption);
- ``dramsim3``: ``0x1a2b READ 120`` (address, command, cycle);
- ``dramsys`` (.stl): ``120: read 0x1a2b`` (cycle, command, address, and the data of a write, which change no timing);
- ``gem5``: ``r,6699,64,256,12000`` as its ``decode_packet_trace.py`` writes (command, address, bytes, flags, tick of a
  picosecond; flags may be absent, a packet number may go before, a program counter behind);
- ``csv``: a header line with ``address`` and, if wanted, ``write`` (or ``type``), ``cycle`` and ``size``.

Numbers are decimal or, with ``0x``, hexadecimal. A request without a size is one line of a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from hw_configs.whole_number import INT64_MOST, MAX_DIGITS, integer
from workloads.memory_trace.line_parser import ADDRESS, CYCLE, DIRECTION, SIZE

__all__ = [
    "FORMATS", "MAX_CYCLE", "MAX_SIZE", "READ_WORDS", "WRITE_WORDS", "BadLineError", "LineFormat", "OneRequest",
    "format_of", "tell_format",
]  # fmt: skip

FORMATS: Final = (
    "loadstore", "readwrite", "ramulator1", "ramulator1-cpu", "dramsim3", "dramsys", "gem5", "csv"
)  # fmt: skip
MAX_CYCLE: Final = 10**17
"""A trace may last three years at 1 GHz; time stamps beyond are mistakes."""
MAX_SIZE: Final = 1 << 20
READ_WORDS: Final = frozenset({"LD", "R", "READ", "RD", "LOAD", "L", "0", "P_MEM_RD", "FALSE"})
WRITE_WORDS: Final = frozenset({"ST", "W", "WRITE", "WR", "STORE", "S", "1", "P_MEM_WR", "TRUE"})


class BadLineError(ValueError):
    """What is wrong with a line."""


class OneRequest(NamedTuple):
    """What a line says of one request; ``arrival`` -1: no cycle. ``size`` 0: none is named."""

    address: int
    write: int
    arrival: int = -1
    size: int = 0


@dataclass(frozen=True)
class LineFormat:
    """How to read the lines of a file: ``read`` takes the cells of one; ``columns`` say the same to the compiled
    parser (none: every line is read in plain Python). ``timed`` and ``sized``: whether lines name cycles and sizes.
    """

    read: Callable[[list[str]], list[OneRequest]]
    separator: str | None = None
    columns: tuple[int, ...] = ()
    timed: bool = False
    sized: bool = False
    header: bool = False


def _number(text: str) -> int:
    value = integer(text, -(10**MAX_DIGITS), 16**MAX_DIGITS, hexadecimal=True)
    if value is None:
        raise BadLineError(f"{text[:80]!r} is not a number")
    if not 0 <= value <= INT64_MOST:
        raise BadLineError(f"{text!r} is outside 0 to 2^63")
    return value


def _cycle(text: str) -> int:
    value = _number(text)
    if value > MAX_CYCLE:
        raise BadLineError(f"cycle {text} is beyond {MAX_CYCLE:,}")
    return value


def _size(text: str) -> int:
    value = _number(text)
    if not 1 <= value <= MAX_SIZE:
        raise BadLineError(f"a size of {text} bytes is outside 1 to {MAX_SIZE:,}")
    return value


def _direction(text: str) -> int:
    word = text.upper()
    if word in READ_WORDS:
        return 0
    if word in WRITE_WORDS:
        return 1
    raise BadLineError(f"{text!r} is neither a read nor a write")


def _command_first(words: list[str]) -> list[OneRequest]:
    if len(words) != 2:
        raise BadLineError("expected a command and an address")
    return [OneRequest(_number(words[1]), _direction(words[0]))]


def _command_last(words: list[str]) -> list[OneRequest]:
    if len(words) != 2:
        raise BadLineError("expected an address and a command")
    return [OneRequest(_number(words[0]), _direction(words[1]))]


def _address_first(words: list[str]) -> list[OneRequest]:
    if len(words) != 3:
        raise BadLineError("expected an address, a command and a cycle")
    return [OneRequest(_number(words[0]), _direction(words[1]), _cycle(words[2]))]


def _cycle_first(words: list[str]) -> list[OneRequest]:
    if len(words) not in (3, 4) or not words[0].endswith(":"):
        raise BadLineError("expected a cycle with a colon, a command, an address, and data if wanted")
    write = _direction(words[1])
    if len(words) == 4 and not (write and words[3].isascii() and words[3].isalnum()):
        raise BadLineError(f"{words[3]!r} is no data of a write")
    return [OneRequest(_number(words[2]), write, _cycle(words[0][:-1]))]


def _core() -> Callable[[list[str]], list[OneRequest]]:
    """Lines of a core's trace, whose instructions pass the time."""
    cycle = 0

    def read(words: list[str]) -> list[OneRequest]:
        nonlocal cycle
        if len(words) not in (2, 3):
            raise BadLineError(
                "expected instructions before, an address to read, and one to write back if wanted"
            )
        before, addresses = _cycle(words[0]), [_number(word) for word in words[1:]]
        if cycle + before > MAX_CYCLE:
            raise BadLineError(f"the instructions up to here are beyond {MAX_CYCLE:,}")
        cycle += before
        found = [OneRequest(address, write, cycle) for write, address in enumerate(addresses)]
        cycle += 1
        return found

    return read


def _gem5(clock_s: float | None) -> Callable[[list[str]], list[OneRequest]]:
    """Lines of gem5's decoded packets; ticks become cycles of ``clock_s``, and are left out without one."""

    def read(words: list[str]) -> list[OneRequest]:
        cells = [word.strip() for word in words]
        if cells and cells[0].isdigit():
            cells = cells[1:]
        if not 4 <= len(cells) <= 6:
            raise BadLineError("expected a command, an address, a size, flags if wanted, and a tick")
        if cells[0].lower() == "u":
            raise BadLineError("a packet that is neither ReadReq nor WriteReq")
        tick = _number(cells[3 if len(cells) == 4 else 4])
        cycle = -1 if clock_s is None else round(tick * 1e-12 / clock_s)
        if cycle > MAX_CYCLE:
            raise BadLineError(f"tick {tick} is beyond {MAX_CYCLE:,} cycles")
        return [OneRequest(_number(cells[1]), _direction(cells[0]), cycle, _size(cells[2]))]

    return read


_COLUMNS: Final = {"address": ADDRESS, "write": DIRECTION, "type": DIRECTION, "cycle": CYCLE, "size": SIZE}


def _csv(header: list[str]) -> LineFormat:
    names = [name.strip().lower() for name in header]
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown or "address" not in names or len({_COLUMNS[name] for name in names}) < len(names):
        raise BadLineError("expected a header of address and, if wanted, write (or type), cycle and size")
    at = {_COLUMNS[name]: index for index, name in enumerate(names)}

    def read(words: list[str]) -> list[OneRequest]:
        if len(words) != len(names):
            raise BadLineError(f"expected {len(names)} fields")
        cells = [word.strip() for word in words]
        write = _direction(cells[at[DIRECTION]]) if DIRECTION in at else 0
        cycle = _cycle(cells[at[CYCLE]]) if CYCLE in at else -1
        size = _size(cells[at[SIZE]]) if SIZE in at else 0
        return [OneRequest(_number(cells[at[ADDRESS]]), write, cycle, size)]

    columns = tuple(_COLUMNS[name] for name in names)
    return LineFormat(read, ",", columns, CYCLE in at, SIZE in at, header=True)


def format_of(kind: str, first: str, clock_s: float | None = None) -> LineFormat:
    """How to read a file of a format whose first line is ``first``; raises ``BadLineError`` for a header that is none.

    ``clock_s``: seconds of a cycle, for formats that name times.
    """
    if kind == "csv":
        return _csv(first.split(","))
    if kind == "gem5":
        return LineFormat(_gem5(clock_s), ",", timed=clock_s is not None, sized=True)
    return {
        "dramsim3": LineFormat(_address_first, None, (ADDRESS, DIRECTION, CYCLE), timed=True),
        "dramsys": LineFormat(_cycle_first, timed=True),
        "ramulator1": LineFormat(_command_last, None, (ADDRESS, DIRECTION)),
        "ramulator1-cpu": LineFormat(_core(), timed=True),
    }.get(kind, LineFormat(_command_first, None, (DIRECTION, ADDRESS)))


def tell_format(line: str) -> str:
    """The format of a trace whose first line is this; raises ``BadLineError`` when it cannot be told."""
    words, cells = line.split(), [cell.strip().lower() for cell in line.split(",")]
    if len(cells) > 3 and ("r" in cells[:2] or "w" in cells[:2] or "u" in cells[:2]):
        return "gem5"
    if "," in line or line.strip().lower() == "address":
        return "csv"
    if words[0].endswith(":"):
        return "dramsys"
    numbers = [integer(word, 0, 16**MAX_DIGITS, hexadecimal=True) is not None for word in words]
    if len(words) in (2, 3) and all(numbers):
        return "ramulator1-cpu"
    if len(words) == 3:
        return "dramsim3"
    if len(words) == 2:
        if numbers == [True, False] and words[1].upper() in READ_WORDS | WRITE_WORDS:
            return "ramulator1"
        return "readwrite" if words[0].upper() in ("R", "W") else "loadstore"
    raise BadLineError("the format cannot be told")
