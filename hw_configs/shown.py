"""Tables of a result, and results that show themselves: as text in a terminal, as HTML in a notebook.

A result says what it has to show as :class:`Table` s of plain cells; how they look is decided here, once. The HTML is
tables alone, escaped, without script or style that reaches outside them.
"""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Shown", "Table", "looks_numeric", "tables_as_html", "tables_as_text"]

MOST_HTML_ROWS: Final = 100
"""Rows of one table in a notebook; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people: cells are text or numbers that print as they are."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


def looks_numeric(cell: str) -> bool:
    """Whether a cell begins like a number, perhaps with a unit behind it."""
    return bool(cell) and (cell[0].isdigit() or cell[0] in "-+.") and any(c.isdigit() for c in cell)


def tables_as_text(tables: Iterable[Table]) -> str:
    """Tables one below another, columns aligned, numbers to the right; no line ends in a space.

    >>> print(tables_as_text([Table("times", ("what", "s"), (("a", 1), ("long", 20)))]))
    times
    what   s
    a      1
    long  20
    """
    return "\n\n".join("\n".join(_lines(table)) for table in tables)


def _lines(table: Table) -> Iterable[str]:
    cells = [[str(cell) for cell in row] for row in table.rows]
    shown = [list(table.columns), *cells] if any(table.columns) else cells
    if table.title:
        yield table.title.strip()
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    right = [bool(cells) and all(looks_numeric(row[i]) for row in cells) for i in range(len(widths))]
    for row in shown:
        yield "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        ).rstrip()


def tables_as_html(tables: Iterable[Table]) -> str:
    """The tables as HTML; names from users' files stay text.

    >>> tables_as_html([Table("<b>", ("x",), ((1,),))])
    '<table><caption>&lt;b&gt;</caption><thead><tr><th>x</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>'
    """
    return "".join(_html(table) for table in tables)


def _html(table: Table) -> str:
    parts = [f"<caption>{html.escape(table.title.strip())}</caption>"] if table.title else []
    if any(table.columns):
        parts.append(f"<thead>{_row('th', table.columns)}</thead>")
    body = "".join(_row("td", row) for row in table.rows[:MOST_HTML_ROWS])
    left = len(table.rows) - MOST_HTML_ROWS
    if left > 0:
        body += _row("td", (f"{left} more rows",))
    return f"<table>{''.join(parts)}<tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


class Shown(ABC):
    """A result that shows itself: ``print(result)`` gives text, a notebook HTML. Subclasses say the tables."""

    __slots__ = ()

    @abstractmethod
    def shown_tables(self) -> Sequence[Table]:
        """What there is to show, most telling first."""

    def __str__(self) -> str:
        return tables_as_text(self.shown_tables())

    def _repr_html_(self) -> str:
        return tables_as_html(self.shown_tables())
