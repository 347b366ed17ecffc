"""Lines of cache traces as text: what each format says of a request, and what is wrong with a line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from hw_configs.whole_number import decimal, integer
from workloads.cache_trace.trace import MAX_OBJECT

__all__ = ["TEXT_FORMATS", "BadLineError", "Row", "object_number", "row_reader", "tell_text"]

MAX_REPEATS: Final = 1_000_000
"""Requests that one line may stand for."""
LONGEST_S: Final = 4e9
TEXT_FORMATS: Final = ("csv", "oracle-csv", "twitter", "cachelib-kv", "cachelib-cdn")
_READS: Final = frozenset({"read", "r", "get", "gets", "get_lease", "rd", ""})
_WRITES: Final = frozenset(
    {
        "write",
        "w",
        "wr",
        "set",
        "set_lease",
        "add",
        "replace",
        "cas",
        "append",
        "prepend",
        "incr",
        "decr",
        "put",
    }
)
_PASSED: Final = frozenset({"delete", "del", "trim"})
"""Operations that are no request for an object: a cache here forgets by its policy alone."""


class BadLineError(ValueError):
    """What is wrong with a line."""


class Row(NamedTuple):
    """One line: object, bytes, whether written, time in ns or -1, prediction or -1, requests that it stands for."""

    object: int
    size: int
    written: bool
    time: int
    predicted: int
    repeats: int


Reader = Callable[[list[str]], Row | None]
"""Cells into a row; None for a line that is no request."""


def object_number(key: str) -> int:
    """The number of a key: itself where it is a whole number of 64 bits, else eight bytes of its BLAKE2b hash.

    >>> object_number("17"), object_number("user:17")
    (17, 575456571000080189)
    """
    number = integer(key, -(1 << 63), (1 << 63) - 1)
    if number is not None:
        return number
    if not key:
        raise BadLineError("object: found nothing; expected a number or a key")
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)


def _whole(cells: list[str], at: int, name: str, least: int, most: int) -> int:
    value = integer(cells[at], -(10**29), 10**29)
    if value is None:
        raise BadLineError(
            f"{name}: found {cells[at][:60]!r}; expected a whole number from {least} to {most}"
        )
    if not least <= value <= most:
        raise BadLineError(f"{name}: found {cells[at][:60]}; expected {least} to {most}")
    return value


def _seconds(cells: list[str], at: int, name: str) -> int:
    value = decimal(cells[at].strip())
    if value is None or not 0 <= value <= LONGEST_S:
        raise BadLineError(f"{name}: found {cells[at][:60]!r}; expected seconds from 0 to {LONGEST_S:g}")
    return round(value * 1e9)


def _operation(cells: list[str], at: int) -> bool | None:
    """Whether it writes; None for what is no request."""
    word = cells[at].strip().lower()
    if word in _PASSED:
        return None
    if word not in _READS and word not in _WRITES:
        raise BadLineError(
            f"operation: found {cells[at][:60]!r}; expected a read (get), a write (set) or a delete"
        )
    return word in _WRITES


def _insist(cells: list[str], count: int, names: str) -> None:
    if len(cells) != count:
        raise BadLineError(f"found {len(cells)} fields; expected {count}: {names}")


def _places(header: list[str], needed: tuple[str, ...], known: tuple[str, ...] | None) -> Mapping[str, int]:
    names = [name.strip().lstrip("#").strip().lower() for name in header]
    missing = [name for name in needed if name not in names]
    unknown = [] if known is None else [name for name in names if name not in known]
    if missing or unknown or len(set(names)) < len(names):
        expected = ", ".join(known if known is not None else needed)
        raise BadLineError(f"found a header of {', '.join(names)[:80]!r}; expected {expected}, each once")
    return {name: at for at, name in enumerate(names)}


def _csv(header: list[str]) -> Reader:
    at = _places(header, ("object",), ("object", "size", "time", "op", "predicted"))

    def read(cells: list[str]) -> Row | None:
        _insist(cells, len(at), ", ".join(at))
        written = _operation(cells, at["op"]) if "op" in at else False
        if written is None:
            return None
        size = _whole(cells, at["size"], "size", 1, MAX_OBJECT) if "size" in at else 1
        time = _seconds(cells, at["time"], "time") if "time" in at else -1
        told = _whole(cells, at["predicted"], "predicted", 0, 1 << 52) if "predicted" in at else -1
        return Row(object_number(cells[at["object"]].strip()), size, written, time, told, 1)

    return read


def _oracle(header: list[str]) -> Reader:
    names = ("time", "object", "size", "next_access_vtime")
    at = _places(header, names, names)

    def read(cells: list[str]) -> Row | None:
        _insist(cells, len(at), ", ".join(at))
        size = _whole(cells, at["size"], "size", 0, MAX_OBJECT)
        told = _whole(cells, at["next_access_vtime"], "next_access_vtime", -2, (1 << 63) - 1)
        if size == 0:
            return None
        never = told < 0 or told >= 1 << 52
        time = _seconds(cells, at["time"], "time")
        return Row(
            object_number(cells[at["object"]].strip()), size, False, time, 1 << 52 if never else told, 1
        )

    return read


def _twitter(_header: list[str]) -> Reader:
    names = "timestamp, key, key size, value size, client, operation, TTL"

    def read(cells: list[str]) -> Row | None:
        _insist(cells, 7, names)
        written = _operation(cells, 5)
        size = _whole(cells, 2, "key size", 0, MAX_OBJECT // 2) + _whole(
            cells, 3, "value size", 0, MAX_OBJECT // 2
        )
        time = _seconds(cells, 0, "timestamp")
        if written is None:
            return None
        return Row(object_number(cells[1].strip()), max(size, 1), written, time, -1, 1)

    return read


def _cachelib_kv(header: list[str]) -> Reader:
    at = _places(header, ("key", "op", "size", "key_size"), None)

    def read(cells: list[str]) -> Row | None:
        _insist(cells, len(at), ", ".join(at))
        written = _operation(cells, at["op"])
        repeats = _whole(cells, at["op_count"], "op_count", 0, MAX_REPEATS) if "op_count" in at else 1
        size = _whole(cells, at["size"], "size", 0, MAX_OBJECT // 2)
        size += _whole(cells, at["key_size"], "key_size", 0, MAX_OBJECT // 2)
        time = _seconds(cells, at["op_time"], "op_time") if "op_time" in at else -1
        if written is None or repeats == 0:
            return None
        return Row(object_number(cells[at["key"]].strip()), max(size, 1), written, time, -1, repeats)

    return read


def _cachelib_cdn(header: list[str]) -> Reader:
    at = _places(header, ("timestamp", "cachekey", "objectsize"), None)

    def read(cells: list[str]) -> Row | None:
        _insist(cells, len(at), ", ".join(at))
        size = _whole(cells, at["objectsize"], "objectSize", 0, MAX_OBJECT)
        time = _seconds(cells, at["timestamp"], "timestamp")
        key = object_number(cells[at["cachekey"]].strip())
        return Row(key, size, False, time, -1, 1) if size else None

    return read


_MAKERS: Final[Mapping[str, Callable[[list[str]], Reader]]] = {
    "csv": _csv, "oracle-csv": _oracle, "twitter": _twitter, "cachelib-kv": _cachelib_kv,
    "cachelib-cdn": _cachelib_cdn,
}  # fmt: skip


def row_reader(format: str, first: list[str]) -> tuple[Reader, bool]:
    """The reader of a format, and whether the first line, whose cells are given, is a header."""
    return _MAKERS[format](first), format != "twitter"


def tell_text(line: str) -> str:
    """The format of a text trace by its first line: a name of ``TEXT_FORMATS`` or ``msr``."""
    names = [cell.strip().lstrip("#").strip().lower() for cell in line.split(",")]
    if "next_access_vtime" in names:
        return "oracle-csv"
    if "object" in names:
        return "csv"
    if {"key", "op", "key_size"} <= set(names):
        return "cachelib-kv"
    if {"cachekey", "objectsize"} <= set(names):
        return "cachelib-cdn"
    if len(names) == 7 and names[3] in ("read", "write"):
        return "msr"
    if len(names) == 7 and names[5] in _READS | _WRITES | _PASSED:
        return "twitter"
    raise BadLineError(f"the format cannot be told; known: oracle, msr, {', '.join(TEXT_FORMATS)}")
