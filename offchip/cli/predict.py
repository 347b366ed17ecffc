"""``offchip predict OPS.csv --hw GPU``: one predicted time per row of an operator table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["predict"]


def predict(
    table: Annotated[Path, typer.Argument(metavar="OPS.csv", help="Operator table.")],
    hw: Annotated[str, typer.Option(help="GPU, or a system with one kind of GPU: a name or a YAML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the table with its new columns to this file.")
    ] = None,
    cost_model: Annotated[
        str, typer.Option("--model", "--cost-model", help="Cost model: by-device, roofline, roofline-peak.")
    ] = "by-device",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Predict each row of an operator table on a GPU: time, launch time, energy and what bounds it.

    With measured times (column median_us), errors by operator class are added; rows that name another GPU
    than --hw are predicted but not compared.
    """
    from offchip.cli.output import print_json, print_tables
    from offchip.table_prediction import predict as run

    found = run(table, hw, cost_model=cost_model, out=out)
    if as_json:
        print_json(found.as_json())
        return
    print_tables(found.shown_tables())
    if out is not None:
        typer.echo(f"wrote {out}: {len(found.pairs)} rows")
