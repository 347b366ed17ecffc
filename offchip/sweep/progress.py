"""What a sweep shows while it runs: a live table on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any, Final

import numpy as np

from offchip.sweep.pareto import front
from offchip.sweep.run import objective_table
from offchip.sweep.space import Space
from offchip.sweep.store import Row

__all__ = ["SweepProgress", "duration"]

LINE_EVERY_S: Final = 10.0
SHOW_EVERY_S: Final = 0.5
_BROKEN: Final = ("failed", "timeout", "crashed")


class SweepProgress:
    """Counts rows and keeps the front so far; everything goes to standard error."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.counts: Counter[str] = Counter()
        self.stage, self.expected, self.kept = 0, 0, 0
        self.table = np.empty((0, len(space.objectives)))
        self.best: Row | None = None
        self.began = time.monotonic()
        self.next = self.began + 2.0
        self.live: Any = None

    def notice(self, stage: int, expected: int, kept: int, rows: list[Row]) -> None:
        """Hear of a portion of rows; see :func:`offchip.sweep.run.run_sweep`."""
        if stage != self.stage:
            self.counts.clear()
            self.table, self.best, self.began = self.table[:0], None, time.monotonic()
        self.stage, self.expected, self.kept = stage, expected, kept
        self.counts.update(row.status for row in rows)
        if self.space.objectives and rows:
            good, table = objective_table(self.space.objectives, rows)
            if len(good):
                leader = good[int(np.argmin(table[:, 0]))]
                first = self.space.objectives[0]
                if self.best is None or (
                    first.sign * leader.figures[first.name] < first.sign * self.best.figures[first.name]
                ):
                    self.best = leader
                both = np.concatenate((self.table, table))
                self.table = both[front(both)]
        now = time.monotonic()
        if now >= self.next:
            self._show()
            self.next = now + (SHOW_EVERY_S if self.live is not None else LINE_EVERY_S)

    def close(self) -> None:
        """Take the live table away."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def cells(self) -> list[tuple[str, str]]:
        """Names and values of what is known now."""
        done = sum(self.counts.values())
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = done / seconds
        left = max(self.expected - self.kept - done, 0)
        broken = sum(self.counts[status] for status in _BROKEN)
        refused = done - self.counts["ok"] - broken
        cells = [
            ("fidelity", self.space.stages[self.stage].fidelity),
            ("done", f"{self.kept + done} of {self.expected}"),
        ]
        if self.kept:
            cells.append(("kept", str(self.kept)))
        cells += [("refused", str(refused)), ("failed", str(broken)), ("rate", f"{rate:.4g}/s")]
        cells.append(("left", duration(left / rate) if rate > 0 else "unknown"))
        if self.best is not None:
            objective = self.space.objectives[0]
            cells.append(
                (
                    "best",
                    f"point {self.best.number}: {objective.name} {self.best.figures[objective.name]:.4g}",
                )
            )
            cells.append(("front", f"{len(self.table)} points"))
        return cells

    def _show(self) -> None:
        if not sys.stderr.isatty():
            print("sweep: " + ", ".join(f"{k} {v}" for k, v in self.cells()), file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table

        if self.live is None:
            self.live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self.live.start()
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in self.cells():
            table.add_row(name, value)
        self.live.update(table, refresh=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
