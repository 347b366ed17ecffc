"""``offchip validate KIND DIR``: every row of a reference folder against Offchip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hw_configs.problems import InputError, Problem, bad_input

WORST_ROWS = 10


def validate(
    kind: Annotated[str, typer.Argument(help="Kind of reference: gpu, dram, ...")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Reference folder, searched with sub-folders.")
    ],
    rows: Annotated[str, typer.Option(help="Glob over row ids.")] = "*",
    time_limit: Annotated[float | None, typer.Option(help="Seconds per row, for kinds that search.")] = None,
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help="Whole models instead of parts.")] = False,
    cost_model: Annotated[
        str, typer.Option("--model", help="Cost model, for kinds that have a choice (gpu: gpu, roofline).")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run every row of a reference folder; print expected, ours, error and verdict, and a summary."""
    from offchip.cli.output import print_json, progress
    from offchip.validation.registry import VALIDATORS, Options
    from offchip.validation.summary import summarise

    if time_limit is not None and not time_limit > 0:
        raise InputError([Problem(f"found {time_limit:g}; expected seconds above zero", path="--time-limit")])
    run = VALIDATORS.get(kind)
    results = []
    with progress(f"validate {kind}", 0) as bar:
        for result in run(folder, rows, Options(time_limit, end_to_end, cost_model)):
            results.append(result)
            bar.advance()
    if not results:
        raise bad_input(f"no row's id matches {rows!r}", path="--rows")
    summary = summarise(results)
    if as_json:
        print_json({"rows": [_row_json(result) for result in results], "summary": summary})
        return
    _print_summary(kind, summary)
    _print_rows(results)


def _row_json(result: Any) -> dict[str, Any]:
    row = {
        "id": result.id,
        "expected": result.expected,
        "ours": result.ours,
        "seconds": result.seconds,
        "verdict": result.verdict,
    }
    return row | ({"note": result.note} if result.verdict == "unsupported" and result.note else {})


def _print_summary(kind: str, summary: dict[str, Any]) -> None:
    from offchip.cli.output import print_table

    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary["verdicts"].items() if count)
    title = f"validate {kind}: {summary['rows']} rows: {counts}; {summary['seconds']:.3g} s of engine time"
    columns = ("group", "rows", "ok", "mean error %", "median %", "95th %")
    lines: list[tuple[object, ...]] = [("all", *_figures(summary))]
    for names in summary["by"].values():
        lines += [(name, *_figures(part)) for name, part in names.items()]
    print_table(title, columns, lines)


def _figures(part: dict[str, Any]) -> tuple[object, ...]:
    error = part["error_pct"]
    shown = tuple(f"{error[key]:.1f}" for key in ("mean", "median", "p95")) if error else ("-", "-", "-")
    return (part["rows"], part["verdicts"].get("ok", 0), *shown)


def _print_rows(results: list[Any]) -> None:
    from offchip.cli.output import print_table

    order = {"failed": 0, "off": 1, "unsupported": 2, "ok": 3}
    ranked = sorted(results, key=lambda r: (order[r.verdict], -abs(r.error or 0.0)))
    if len(ranked) > WORST_ROWS:
        ranked = [result for result in ranked if result.verdict != "ok"][:WORST_ROWS]
    if not ranked:
        return
    lines = []
    for result in ranked:
        error = "-" if result.error is None else f"{100 * result.error:+.1f}"
        lines.append(
            (result.id, _shown(result.expected), _shown(result.ours), error, result.verdict, result.note)
        )
    title = f"the {len(lines)} worst rows" if len(lines) < len(results) else "rows"
    print_table(title, ("id", "expected", "ours", "error %", "verdict", "note"), lines)


def _shown(figures: dict[str, Any]) -> str:
    items = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in figures.items()
    ]
    return ", ".join(items[:4]) + (", ..." if len(items) > 4 else "")
