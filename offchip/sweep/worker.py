"""A worker process: reads points on standard input, writes rows on standard output, one JSON line each.

The first line is the space. Then each line is ``{"stage": S, "points": [[number, values], ...]}``. Before a point
the worker writes ``["start", number]``, after it ``["row", ...]``, so that whoever kills a worker
knows which point it hung on. It ends when its input ends, so no worker outlives its sweep.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from offchip.sweep.store import Row

__all__ = ["main", "row_from", "row_line"]

_FIELDS = ("number", "key", "status", "reason", "parameters", "figures", "seconds", "attempts", "stage")


def row_line(row: Row) -> list[Any]:
    """A row as plain data for one JSON line."""
    return [getattr(row, name) for name in _FIELDS]


def row_from(values: list[Any]) -> Row:
    """The row of :func:`row_line`."""
    return Row(*values)


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
    from offchip.sweep.space import space_from_text

    start = json.loads(sys.stdin.readline())
    space = space_from_text(start["text"], start["file"])
    cache = DiskCache(Path(start["cache"]) if start["cache"] else None)
    evaluator = Evaluator(space, cache, start["code"])
    say(["ready"])
    for line in sys.stdin:
        task = json.loads(line)
        # A row goes out together with the start of the next point: one call of the system for both.
        done: list[list[Any]] = []
        for number, values in task["points"]:
            say(*done, ["start", number])
            done = [["row", row_line(evaluator.row(number, values, task["stage"]))]]
        say(*done)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)
