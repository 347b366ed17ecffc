"""A worker process: reads points on standard input, writes rows on standard output, one JSON line each.

The first line is the space. Then each line is ``{"stage": S, "points": [[number, values], ...]}``. Rows of quick
points go out together. Which point the worker is at stands in a :class:`Slot`, a few bytes of memory that it
shares with whoever started it and that outlive it, so that a hanging or killed worker leaves word of the point it
was at. It ends when its input ends, so no worker outlives its sweep.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

from offchip.sweep.store import JsonObject, Row, json_text

__all__ = ["Slot", "main", "row_from", "row_line"]

GATHER_S: Final = 0.02
GATHER_ROWS: Final = 32
"""How long, and how many, rows wait for company: a message costs both sides more than a quick point."""


class Slot:
    """Where a worker is: portions it has taken up, points it has begun, the number of the point it is at, and what of
    its time went into compiling.

    ``file`` is the descriptor of a file of :attr:`SIZE` bytes that both sides have open. Times are of the machine's
    monotonic clock, which both sides share.
    """

    SIZE: Final = 40
    _FORM: Final = struct.Struct("=qqq")
    _TIMES: Final = struct.Struct("=dd")

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, self.SIZE)

    def read(self) -> tuple[int, int, int | None]:
        """Portions taken up, points begun, and the number of the point now at work."""
        portions, begun, number = self._FORM.unpack_from(self._memory)
        return portions, begun, number - 1 if number else None

    def take(self) -> None:
        """A portion is taken up."""
        portions, begun, number = self._FORM.unpack_from(self._memory)
        self._FORM.pack_into(self._memory, 0, portions + 1, begun, number)

    def begin(self, number: int | None) -> None:
        """A point is begun; None when the portion is done."""
        portions, begun, _ = self._FORM.unpack_from(self._memory)
        self._TIMES.pack_into(self._memory, self._FORM.size, 0.0, 0.0)
        self._FORM.pack_into(self._memory, 0, portions, begun + 1, 0 if number is None else number + 1)

    def compile_begins(self) -> None:
        """The point at work waits for a compiler."""
        spent, _ = self._TIMES.unpack_from(self._memory, self._FORM.size)
        self._TIMES.pack_into(self._memory, self._FORM.size, spent, time.monotonic())

    def compile_ends(self) -> None:
        """It has what it waited for."""
        spent, since = self._TIMES.unpack_from(self._memory, self._FORM.size)
        self._TIMES.pack_into(self._memory, self._FORM.size, spent + time.monotonic() - since, 0.0)

    def compiling_s(self, now: float) -> float:
        """Seconds of compiling in the point at work, up to ``now``."""
        spent, since = self._TIMES.unpack_from(self._memory, self._FORM.size)
        return float(spent + (now - since if since else 0.0))

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()


def row_line(row: Row) -> list[Any]:
    """A row as plain data for one JSON line."""
    parameters, figures = json_text(row.parameters), json_text(row.figures)
    return [
        row.number, row.key, row.status, row.reason, parameters, figures, row.seconds, row.attempts, row.stage
    ]  # fmt: skip


def row_from(values: list[Any]) -> Row:
    """The row of :func:`row_line`."""
    number, key, status, reason, parameters, figures, *rest = values
    return Row(number, key, status, reason, JsonObject(parameters), JsonObject(figures), *rest)


def main() -> None:
    """Serve until the input ends."""
    # Whatever a library prints goes to standard error: standard output belongs to the protocol.
    channel = os.dup(1)
    os.dup2(2, 1)

    def say(*values: list[Any]) -> None:
        data = b"".join(json.dumps(value, separators=(",", ":")).encode() + b"\n" for value in values)
        while data:
            data = data[os.write(channel, data) :]

    from offchip.sweep.cache import DiskCache
    from offchip.sweep.evaluate import Evaluator
    from offchip.sweep.space_file import space_from_text

    start = json.loads(sys.stdin.readline())
    slot = Slot(start["slot"])
    space = space_from_text(start["text"], start["file"])
    cache = DiskCache(Path(start["cache"]) if start["cache"] else None)
    evaluator = Evaluator(space, cache, start["code"], slot)
    say(["ready"])
    for line in sys.stdin:
        task = json.loads(line)
        slot.take()
        rows: list[list[Any]] = []
        said = time.monotonic()
        for number, values in task["points"]:
            if len(rows) >= GATHER_ROWS or (rows and time.monotonic() - said > GATHER_S):
                say(*rows)
                rows, said = [], time.monotonic()
            slot.begin(number)
            rows.append(["row", row_line(evaluator.row(number, values, task["stage"]))])
        slot.begin(None)
        say(*rows)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)
