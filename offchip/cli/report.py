"""``offchip report``: one self-contained HTML page of a run or a sweep, and its figures for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(help="what 'simulate --out' or 'sweep --out' wrote")],
    out: Annotated[Path | None, typer.Option(help="the page; default: report.html in the folder")] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="also every figure as PNG and SVG, in 'figures' beside the page")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Make one HTML page that works offline: timeline, memory, flows, roofline; or a sweep's Pareto front."""
    from offchip.cli.output import print_json
    from offchip.report_page import report as run

    found = run(folder, out, figures=figures)
    if as_json:
        print_json(found.as_json())
    else:
        for path in found.written:
            typer.echo(f"wrote {path}")
