"""``offchip trace pim``: run a program through a PIM memory, cycle by cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["trace_pim"]


def trace_pim(
    program: Annotated[
        str,
        typer.Argument(
            help="A program file (may be .gz), or gemv:MxK[:CHANNELS[:VARIANT]], such as gemv:4096x4096."
        ),
    ],
    hw: Annotated[
        str, typer.Option("--hw", help="A PIM device: a name from `offchip hw list`, or a YAML file.")
    ],
    honest: Annotated[
        bool,
        typer.Option("--honest", help="All rules of a real memory: tFAW, refresh, registers over the pins."),
    ] = False,
    compare_rules: Annotated[
        bool, typer.Option("--compare-rules", help="Run under published and honest rules and each between.")
    ] = False,
    refresh: Annotated[
        str | None, typer.Option(help="off, immediate or row-boundary, instead of the rules' own.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="waived or honest, instead of the rules' own.")
    ] = None,
    register_io: Annotated[
        str | None, typer.Option(help="published or honest timings of registers, instead of the rules' own.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels, instead of the device's.")] = None,
    start_cycle: Annotated[
        int, typer.Option(help="Cycle of the refresh grid at which the program starts.")
    ] = 0,
    settle: Annotated[
        bool, typer.Option("--settle", help="Count until all rows are closed and every timer is over.")
    ] = False,
    leap: Annotated[bool, typer.Option(help="Skip what repeats exactly; the result is the same.")] = True,
    commands: Annotated[
        Path | None, typer.Option(help="Write every command to this CSV file (.gz packs it).")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Hold every command against the device's rules (slow).")
    ] = False,
    write: Annotated[Path | None, typer.Option(help="Write the program as text to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a program through a PIM memory, command by command."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.tracing.pim import PimTraceChoices, trace_pim_rules
    from offchip.tracing.pim import trace_pim as run

    options: PimTraceChoices = {
        "honest": honest, "refresh": refresh, "activation": activation, "register_io": register_io,
        "channels": channels, "start_cycle": start_cycle, "settle": settle, "leap": leap, "commands": commands,
        "check": check, "write": write,
    }  # fmt: skip
    if compare_rules:
        compared = trace_pim_rules(program, hw, **options)
        if json:
            print_json(compared.as_json())
        else:
            print_tables(compared.shown_tables())
        return
    result = run(program, hw, progress=progress, **options)
    if json:
        print_json(result.as_json() | ({"checked": True} if check else {}))
    else:
        if result.interrupted:
            typer.echo("stopped: the figures below are those of the commands issued so far", err=True)
        print_tables(result.shown_tables())
        if check:
            typer.echo(f"checked: every command keeps the {result.rules} rules")
    if result.interrupted:
        raise typer.Exit(130)
