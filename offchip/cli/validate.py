"""``offchip validate KIND DIR``: every row of a reference folder against Offchip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["validate"]


def validate(
    kind: Annotated[str, typer.Argument(help="Kind of reference: gpu, dram, ...")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Reference folder, searched with sub-folders.")
    ],
    rows: Annotated[str, typer.Option(help="Glob over row ids.")] = "*",
    time_limit: Annotated[float | None, typer.Option(help="Seconds per row, for kinds that search.")] = None,
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help="Whole models instead of parts.")] = False,
    cost_model: Annotated[
        str,
        typer.Option("--model", help="Cost model, for kinds that have a choice (gpu: by-device, roofline)."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run every row of a reference folder; print expected, ours, error and verdict, and a summary."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.reference_rows import validate as run

    found = run(
        kind, folder, rows, time_limit=time_limit, end_to_end=end_to_end, cost_model=cost_model, progress=progress
    )  # fmt: skip
    if as_json:
        print_json(found.as_json())
    else:
        print_tables(found.shown_tables())
