"""What commands print: one JSON object for programs, tables for people, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from hw_configs.output_file import finite
from hw_configs.shown import Table, looks_numeric

__all__ = ["LiveBound", "Progress", "live_bound", "print_json", "print_table", "print_tables", "progress"]

PROGRESS_AFTER_S: Final = 2.0
LINE_EVERY_S: Final = 10.0
LIVE_EVERY_S: Final = 1.0


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


class LiveBound:
    """What a solve has proved and found, on standard error from the third second on.

    A terminal gets one line that is written anew and goes away at the end; a log gets one line per change, at most
    one a second. Hand :meth:`note` to :func:`mapping.deadline.watching`.
    """

    def __init__(self, what: str) -> None:
        import threading
        import time

        self._what, self._clock = what, time.monotonic
        self._start = self._clock()
        self._now: tuple[float, float | None] | None = None
        self._shown: tuple[float, float | None] | None = None
        self._ended = threading.Event()
        self._width = 0
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def note(self, bound: float, incumbent: float | None) -> None:
        """The proven bound, and the figure of the best plan so far."""
        self._now = (bound, incumbent)

    def close(self) -> None:
        """Stop, and clear the line."""
        self._ended.set()
        self._writer.join()
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def _write(self) -> None:
        wait = PROGRESS_AFTER_S
        while not self._ended.wait(wait):
            wait = LIVE_EVERY_S
            now = self._now
            if now is None:
                continue
            if sys.stderr.isatty():
                line = self._line(now)
                sys.stderr.write("\r" + line.ljust(self._width))
                self._width = len(line)
            elif now != self._shown:
                sys.stderr.write(self._line(now) + "\n")
            self._shown = now
            sys.stderr.flush()

    def _line(self, now: tuple[float, float | None]) -> str:
        bound, best = now
        seconds = self._clock() - self._start
        if best is None:
            return f"{seconds:.0f} s: {self._what}: no plan yet, at least {_figure(bound)}"
        gap = 0.0 if best == 0 else 100 * (best - bound) / best
        return f"{seconds:.0f} s: {self._what}: {_figure(best)}, at least {_figure(bound)} (gap {gap:.3f} %)"


def _figure(value: float) -> str:
    """Bytes to the last one, seconds to a part in a million."""
    return f"{value:.15g}" if float(value).is_integer() else f"{value:.6g}"


@contextmanager
def live_bound(what: str, quiet: bool = False) -> Iterator[None]:
    """Shows how the solves within the block come on; ``what``: the figure's name with its unit."""
    from mapping.deadline import watching

    if quiet:
        yield
        return
    view = LiveBound(what)
    try:
        with watching(view.note):
            yield
    finally:
        view.close()


@contextmanager
def progress(label: str, total: int) -> Iterator[Progress]:
    """A :class:`Progress` that is removed at the end, however the block ends."""
    bar = Progress(label, total)
    try:
        yield bar
    finally:
        bar.stop()
