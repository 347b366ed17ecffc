"""The page of a run or a sweep, from the folder that it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw_configs.shown import Shown, Table

__all__ = ["WrittenReport", "report"]


@dataclass(frozen=True)
class WrittenReport(Shown):
    """What was written: the page first, then its figures."""

    kind: str
    title: str
    written: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """The files as plain data."""
        return {"kind": self.kind, "title": self.title, "written": [str(path) for path in self.written]}

    def shown_tables(self) -> tuple[Table, ...]:
        """The files."""
        return (Table(self.title, ("written",), tuple((str(path),) for path in self.written)),)


def report(folder: str | Path, out: str | Path | None = None, *, figures: bool = False) -> WrittenReport:
    """Make one HTML page that works offline of what ``simulate --out`` or ``sweep`` wrote.

    ``out`` is the page, by default ``report.html`` in the folder; ``figures`` draws every figure as PNG and SVG in
    ``figures`` beside it. Raises ``InputError`` for a folder that holds neither.
    """
    from offchip.report.page import report as page_data
    from offchip.report.page import write_page

    data = page_data(folder)
    page = write_page(data, Path(out) if out is not None else Path(folder) / "report.html")
    written = [page]
    if figures:
        from offchip.report.figures import draw_figures

        written += draw_figures(data, page.parent / "figures")
    return WrittenReport(data["kind"], data["title"], tuple(written))
