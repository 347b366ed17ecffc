"""Every row of a reference folder against Offchip: expected, ours, error, verdict, and a summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import bad_input
from hw_configs.shown import Shown, Table
from offchip.progress import Reporter, silent

if TYPE_CHECKING:
    from offchip.validation.registry import RowResult

__all__ = ["Validation", "validate"]

WORST_ROWS: Final = 10


@dataclass(frozen=True)
class Validation(Shown):
    """The rows of a reference folder with their verdicts, and what they come to."""

    kind: str
    rows: tuple[RowResult, ...]
    summary: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The rows and the summary as plain data."""
        return {"rows": [_row_json(result) for result in self.rows], "summary": self.summary}

    def shown_tables(self) -> tuple[Table, ...]:
        """The summary, and the worst rows."""
        return (_summary_table(self.kind, self.summary), *_row_tables(list(self.rows)))


def validate(
    kind: str,
    folder: str | Path,
    rows: str = "*",
    *,
    time_limit: float | None = None,
    end_to_end: bool = False,
    cost_model: str = "",
    progress: Reporter = silent,
) -> Validation:
    """Run every row of a reference folder.

    ``kind`` is what the folder refers to (gpu, dram, ...), ``rows`` a glob over row ids, ``time_limit`` seconds per
    row for kinds that search, ``cost_model`` for kinds that have a choice. Raises ``InputError`` for bad input.
    """
    from offchip.validation.registry import VALIDATORS, Options
    from offchip.validation.summary import summarise

    if time_limit is not None and not time_limit > 0:
        raise bad_input(f"found {time_limit:g}; expected seconds above zero", path="--time-limit")
    run = VALIDATORS.get(kind)
    results = []
    with progress(f"validate {kind}", 0) as tally:
        for result in run(Path(folder), rows, Options(time_limit, end_to_end, cost_model)):
            results.append(result)
            tally.advance()
    if not results:
        raise bad_input(f"no row's id matches {rows!r}", path="--rows")
    return Validation(kind, tuple(results), summarise(results))


def _row_json(result: Any) -> dict[str, Any]:
    row = {
        "id": result.id,
        "expected": result.expected,
        "ours": result.ours,
        "seconds": result.seconds,
        "verdict": result.verdict,
    }
    return row | ({"note": result.note} if result.verdict == "unsupported" and result.note else {})


def _summary_table(kind: str, summary: dict[str, Any]) -> Table:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary["verdicts"].items() if count)
    title = f"validate {kind}: {summary['rows']} rows: {counts}; {summary['seconds']:.3g} s of engine time"
    columns = ("group", "rows", "ok", "mean error %", "median %", "95th %")
    lines: list[tuple[object, ...]] = [("all", *_figures(summary))]
    for names in summary["by"].values():
        lines += [(name, *_figures(part)) for name, part in names.items()]
    return Table(title, columns, tuple(lines))


def _figures(part: dict[str, Any]) -> tuple[object, ...]:
    error = part["error_pct"]
    shown = tuple(f"{error[key]:.1f}" for key in ("mean", "median", "p95")) if error else ("-", "-", "-")
    return (part["rows"], part["verdicts"].get("ok", 0), *shown)


def _row_tables(results: list[RowResult]) -> list[Table]:
    order = {"failed": 0, "off": 1, "unsupported": 2, "ok": 3}
    ranked = sorted(results, key=lambda r: (order[r.verdict], -abs(r.error or 0.0)))
    if len(ranked) > WORST_ROWS:
        ranked = [result for result in ranked if result.verdict != "ok"][:WORST_ROWS]
    if not ranked:
        return []
    lines = []
    for result in ranked:
        error = "-" if result.error is None else f"{100 * result.error:+.1f}"
        lines.append(
            (result.id, _shown(result.expected), _shown(result.ours), error, result.verdict, result.note)
        )
    title = f"the {len(lines)} worst rows" if len(lines) < len(results) else "rows"
    columns = ("id", "expected", "ours", "error %", "verdict", "note")
    return [Table(title, columns, tuple(lines))]


def _shown(figures: dict[str, Any]) -> str:
    items = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
    ]
    return ", ".join(items[:4]) + (", ..." if len(items) > 4 else "")
