"""Cache traces in files, packed (.gz, .zst) or not, read in chunks. The format is told from the beginning or named.

- ``oracle``: libCacheSim's oracleGeneral, 24 bytes a request: u32 seconds, u64 object, u32 bytes, i64 next use;
- ``oracle-csv``: the same as text with a header of ``time, object, size, next_access_vtime``;
- ``twitter``: ``timestamp,key,key size,value size,client,operation,TTL``; an object's bytes are key and value;
- ``cachelib-kv``: a header with ``key``, ``op``, ``size``, ``key_size``; a line stands for ``op_count`` requests;
- ``cachelib-cdn``: a header with ``timestamp``, ``cacheKey``, ``objectSize``;
- ``msr``: block requests of MSR Cambridge (SNIA IOTTA), split into blocks of ``grain`` bytes (4096);
- ``csv``: a header of ``object`` and, if wanted, ``size``, ``time`` (s), ``op``, ``predicted``.

Keys that are no numbers are hashed (BLAKE2b, 64 bits). Deletes, and requests for 0 bytes in ``oracle`` and
``cachelib-cdn``, are passed over, as libCacheSim does by default.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.block_trace import open_block_trace
from workloads.block_trace.trace import TRIM, WRITE
from workloads.cache_trace.rows import TEXT_FORMATS, BadLineError, Row, row_reader, tell_text
from workloads.cache_trace.trace import MAX_OBJECT, CacheRequests, split_ranges
from workloads.packed_file import open_bytes, open_text, unreadable_told

__all__ = ["FORMATS", "FileCacheTrace", "open_cache_trace"]

FORMATS: Final = ("oracle", "msr", *TEXT_FORMATS)
BLOCK: Final = 4096
MAX_LINE: Final = 1 << 16
MAX_PROBLEMS: Final = 5
NEVER: Final = 1 << 52
_ORACLE: Final = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])
_MOST_PIECES: Final = 1 << 24
"""Blocks that the requests read at a time may touch."""
_NONE: Final = np.zeros(0, np.int64)


@dataclass(frozen=True)
class FileCacheTrace:
    """A trace file. Reading it raises ``InputError`` with line, field, found and expected for lines without sense."""

    path: Path
    format: str
    grain: int | None = None
    count: int | None = None

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def chunks(self, size: int) -> Iterator[CacheRequests]:
        """The requests in file order, at most ``size`` at a time."""
        if self.format == "oracle":
            with unreadable_told(self.name), open_bytes(self.path) as stream:
                found = self._oracle(stream, size)
                yield from self._not_empty(found)
        elif self.format == "msr":
            yield from self._not_empty(self._blocks(size))
        else:
            with unreadable_told(self.name), open_text(self.path) as text:
                yield from self._not_empty(self._text(text, size))

    def _not_empty(self, found: Iterator[CacheRequests]) -> Iterator[CacheRequests]:
        empty = True
        for chunk in found:
            if len(chunk.object):
                empty = False
                yield chunk
        if empty:
            raise bad_input("the trace holds no requests", file=self.name)

    def _oracle(self, stream: IO[bytes], size: int) -> Iterator[CacheRequests]:
        done = 0
        while data := _exactly(stream, size * _ORACLE.itemsize):
            rest = len(data) % _ORACLE.itemsize
            if rest:
                raise bad_input(
                    f"ends within a request: found {rest} bytes of request {done + len(data) // 24 + 1}; expected 24",
                    file=self.name,
                )
            rows = np.frombuffer(data, _ORACLE)
            done += len(rows)
            rows = rows[rows["size"] > 0]
            told = rows["next"].astype(np.int64)
            told = np.where((told < 0) | (told >= NEVER), NEVER, told)
            yield CacheRequests(
                rows["object"].astype(np.uint64).view(np.int64), rows["size"].astype(np.int64),
                np.zeros(len(rows), np.bool_), rows["time"].astype(np.int64) * 1_000_000_000, told,
            )  # fmt: skip

    def _blocks(self, size: int) -> Iterator[CacheRequests]:
        grain = self.grain or BLOCK
        for requests in open_block_trace(self.path, "msr").chunks(min(size, 1 << 14)):
            kept = requests.operation != TRIM
            address, length = requests.address[kept], requests.size[kept]
            if float((length / grain).sum()) > _MOST_PIECES:
                raise bad_input(f"too many blocks of {grain} bytes in one request", file=self.name)
            blocks, whose = split_ranges(address, length, grain)
            written = (requests.operation[kept] == WRITE)[whose]
            arrival = requests.arrival[kept][whose] if len(requests.arrival) else _NONE
            for start in range(0, len(blocks), size):
                part = slice(start, start + size)
                yield CacheRequests(
                    blocks[part],
                    np.full(len(blocks[part]), grain, np.int64),
                    written[part],
                    arrival[part],
                    _NONE,
                )

    def _text(self, stream: IO[str], size: int) -> Iterator[CacheRequests]:
        rows: list[Row] = []
        problems: list[Problem] = []
        read: Any = None
        waiting = 0
        for number in itertools.count(1):
            line = stream.readline(MAX_LINE)
            if not line:
                break
            text = line.strip()
            if not text or (text[0] == "#" and (read is not None or self.format != "oracle-csv")):
                continue
            cells = text.split(",")
            try:
                if len(line) == MAX_LINE and line[-1] != "\n":
                    raise BadLineError(f"found a line of {MAX_LINE} characters or more")
                if read is None:
                    read, header = row_reader(self.format, cells)
                    if header:
                        continue
                row = read(cells)
            except BadLineError as error:
                problems.append(Problem(str(error), self.name, number))
                if read is None or len(problems) == MAX_PROBLEMS:
                    break
                continue
            if row is None or problems:
                continue
            rows.append(row)
            waiting += row.repeats
            if waiting >= size:
                yield from _chunks(rows, size)
                rows, waiting = [], 0
        if problems:
            raise InputError(problems)
        if rows:
            yield from _chunks(rows, size)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    """So many bytes, fewer only at the end: a packed stream gives what it has."""
    parts, left = [], count
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _chunks(rows: list[Row], size: int) -> Iterator[CacheRequests]:
    columns = np.array(rows, np.int64).T
    ends = np.cumsum(columns[5])
    for start in range(0, int(ends[-1]), size):
        # A row that stands for several requests may lie on both sides of a border.
        at = np.searchsorted(ends, np.arange(start, min(start + size, int(ends[-1]))), side="right")
        part = columns[:5, at]
        yield CacheRequests(
            part[0],
            part[1],
            part[2] != 0,
            part[3] if part[3][0] >= 0 else _NONE,
            part[4] if part[4][0] >= 0 else _NONE,
        )


def open_cache_trace(path: str | Path, format: str | None = None, grain: int | None = None) -> FileCacheTrace:
    """A trace file by path; ``grain``: bytes of the blocks of a block trace.

    Raises ``InputError`` for a missing file, an unknown format, or a beginning that tells none.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise bad_input(
            f"unknown trace format {format!r}; known: {', '.join(FORMATS)}",
            suggestion=nearest(format, FORMATS),
        )
    if not path.is_file():
        raise bad_input("no such file", file=str(path))
    if grain is not None and not 1 <= grain <= MAX_OBJECT:
        raise bad_input(f"found a grain of {grain} bytes; expected 1 to {MAX_OBJECT}", file=str(path))
    return FileCacheTrace(path, format or _tell(path), grain)


def _tell(path: Path) -> str:
    if ".oracleGeneral" in path.name and ".csv" not in path.name:
        return "oracle"
    with unreadable_told(str(path)), open_bytes(path) as stream:
        begin = _exactly(stream, 1 << 14)
    if b"\0" in begin:
        return "oracle"
    for number, line in enumerate(begin.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if text and (text[0] != "#" or "next_access_vtime" in text):
            try:
                return tell_text(text)
            except BadLineError as error:
                shown = text if len(text) <= 60 else text[:57] + "..."
                raise bad_input(f"{error}: found {shown!r}", file=str(path), line=number) from None
    raise bad_input("the trace holds no requests", file=str(path))
