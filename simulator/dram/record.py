"""Writes the commands of a run to a CSV file, as they come."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TextIO, cast

from hw_configs.output_file import replacing
from simulator.dram.channel_run import Commands

__all__ = ["CommandFile"]


class CommandFile:
    """A CSV of ``tick,command,address`` (levels from channel to column, -1 for all).

    The file gets its name only when the run has ended, so that a broken run leaves none behind. Raises
    ``InputError`` for a file that cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()

    def write(self, batch: Commands) -> None:
        """Append a batch."""
        self._stream.write("".join(f"{line}\n" for line in batch.lines()))

    def __enter__(self) -> CommandFile:
        with ExitStack() as stack:
            part = stack.enter_context(replacing(self.path))
            opener = gzip.open if self.path.suffix == ".gz" else open
            self._stream = stack.enter_context(cast(TextIO, opener(part, "wt", encoding="utf-8")))
            self._stream.write("tick,command,address\n")
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
