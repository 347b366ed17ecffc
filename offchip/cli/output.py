"""What commands print: one JSON object for programs, tables for people, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from hw_configs.output_file import finite
from hw_configs.shown import Table, looks_numeric

__all__ = ["Progress", "print_json", "print_table", "print_tables", "progress"]

PROGRESS_AFTER_S: Final = 2.0
LINE_EVERY_S: Final = 10.0


def print_json(value: Any) -> None:
    """One JSON object on standard output, keys in the order given; the same value gives the same bytes."""
    sys.stdout.write(json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; columns whose cells are all numbers are aligned right."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in rows]
    table = Grid(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(looks_numeric(row[index]) for row in cells)
        table.add_column(column, justify="right" if numeric else "left", header_style="bold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    # A pipe has no width: print it wide rather than wrap what a script may read.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
    with console.capture() as capture:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def print_tables(tables: Iterable[Table]) -> None:
    """Tables on standard output, one below another."""
    for table in tables:
        # A title of its own line is never wrapped to the width of its table.
        if table.title:
            sys.stdout.write(f"{table.title}\n")
        print_table("", table.columns, table.rows)


class Progress:
    """Counts work done; shows itself on standard error once the run has taken two seconds.

    A terminal gets a bar that goes away at the end; a log gets a plain line every ten seconds. ``total`` 0
    means that nobody knows it yet.
    """

    def __init__(self, label: str, total: int) -> None:
        import time

        self._clock = time.monotonic
        self._next = self._clock() + PROGRESS_AFTER_S
        self._label, self._total, self._done = label, total, 0
        self._bar: Any = None

    def advance(self, count: int = 1) -> None:
        """Note that ``count`` more units are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(0, completed=self._done)
        elif self._clock() > self._next:
            self._show()

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _show(self) -> None:
        if sys.stderr.isatty():
            import rich.progress
            from rich.console import Console

            self._bar = rich.progress.Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task(self._label, total=self._total or None, completed=self._done)
        else:
            of = f" of {self._total}" if self._total else ""
            print(f"{self._label}: {self._done}{of}", file=sys.stderr, flush=True)
            self._next = self._clock() + LINE_EVERY_S


@contextmanager
def progress(label: str, total: int) -> Iterator[Progress]:
    """A :class:`Progress` that is removed at the end, however the block ends."""
    bar = Progress(label, total)
    try:
        yield bar
    finally:
        bar.stop()
