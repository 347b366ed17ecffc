"""Writes the commands of a run to a CSV file, as they come."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import TracebackType
from typing import TextIO, cast

from simulator.dram.engine import Commands

__all__ = ["CommandFile"]


class CommandFile:
    """A CSV of ``tick,command,address`` (levels from channel to column, -1 for all).

    The file gets its name only when the run has ended, so that a broken run leaves none behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        opener = gzip.open if path.suffix == ".gz" else open
        # The stream lives as long as this object, which closes it.
        self._stream = cast(TextIO, opener(self._partial, "wt", encoding="utf-8"))
        self._stream.write("tick,command,address\n")

    def write(self, batch: Commands) -> None:
        """Append a batch."""
        self._stream.write("".join(f"{line}\n" for line in batch.lines()))

    def __enter__(self) -> CommandFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)
