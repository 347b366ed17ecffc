"""``offchip trace dram``: run a memory trace through a DRAM device, cycle by cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["trace_dram"]


def trace_dram(
    trace: Annotated[
        str,
        typer.Argument(
            help="A trace file (may be .gz or .zst), or PATTERN:REQUESTS[:SEED], such as seq_read:1000000; with "
            "--cache a program trace, or a program such as matmul:256:32."
        ),
    ],
    hw: Annotated[
        str, typer.Option("--hw", help="A DRAM device: a name from `offchip hw list`, or a YAML file.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="Trace format: loadstore, readwrite, ramulator1, ramulator1-cpu, dramsim3, dramsys, gem5 or csv. "
            "Default: told from the first line."
        ),
    ] = None,
    request_bytes: Annotated[
        int, typer.Option(help="Bytes of a request of a trace file that names no sizes (a line of a cache).")
    ] = 64,
    latency_curve: Annotated[
        bool, typer.Option("--latency-curve", help="Run the trace again at rising loads: latency under load.")
    ] = False,
    gap: Annotated[int, typer.Option(help="Least cycles between two requests of a channel.")] = 0,
    outstanding: Annotated[
        int, typer.Option(help="Closed loop: requests in flight per channel; 0: no bound.")
    ] = 0,
    ignore_cycles: Annotated[
        bool, typer.Option(help="Offer requests back to back, whatever cycles the trace names.")
    ] = False,
    channels: Annotated[int | None, typer.Option(help="Channels, instead of the device's.")] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            help="Address mapping: RoBaRaCoCh, ChRaBaRoCo, MOP4CLXOR, or fields such as 'ro ba bg ra co ch'."
        ),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="frfcfs or frfcfs-rowhit.")] = None,
    row_policy: Annotated[str | None, typer.Option(help="open, closed, capped or timeout.")] = None,
    cap: Annotated[int | None, typer.Option(help="Column accesses before a capped row closes.")] = None,
    refresh: Annotated[
        str | None, typer.Option(help="all-bank, per-bank, same-bank, paired-per-bank or off.")
    ] = None,
    read_queue: Annotated[int | None, typer.Option(help="Entries of the read queue.")] = None,
    write_queue: Annotated[int | None, typer.Option(help="Entries of the write queue.")] = None,
    wrap: Annotated[bool, typer.Option(help="Let addresses beyond the capacity wrap around.")] = False,
    leap: Annotated[
        bool, typer.Option(help="Skip whole periods of periodic streams; the result is the same.")
    ] = True,
    commands: Annotated[
        Path | None, typer.Option(help="Write every DRAM command to this CSV file (.gz packs it).")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Hold every command against the device's rules (slow).")
    ] = False,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw the commands of a window to this .png or .svg file.")
    ] = None,
    window: Annotated[str, typer.Option(help="Cycles to draw, FIRST:LAST.")] = "0:500",
    cache: Annotated[
        str | None,
        typer.Option(help="A CPU's caches (kind cpu-cache) before the memory: TRACE is then a program's."),
    ] = None,
    copies: Annotated[int, typer.Option(help="Behind caches: cores that each run the program.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a memory trace through a DRAM device, command by command."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.tracing.dram import trace_dram as run

    result = run(
        trace, hw, progress=progress, format=format, gap=gap, outstanding=outstanding, ignore_cycles=ignore_cycles,
        channels=channels, mapping=mapping, scheduler=scheduler, row_policy=row_policy, cap=cap, refresh=refresh,
        read_queue=read_queue, write_queue=write_queue, wrap=wrap, leap=leap, commands=commands,
        check=check, timeline=timeline, window=window, cache=cache, copies=copies,
        request_bytes=request_bytes, latency_curve=latency_curve,
    )  # fmt: skip
    if json:
        print_json(result.as_json() | ({"checked": True} if check else {}))
    else:
        if result.interrupted:
            typer.echo("stopped: the figures below are those of the requests taken so far", err=True)
        if result.addresses_wrapped:
            beyond = f"{result.addresses_wrapped} addresses were beyond the capacity and wrapped around"
            typer.echo(beyond, err=True)
        print_tables(result.shown_tables())
        if check:
            typer.echo(f"checked: every command keeps the rules of {result.device}")
    if result.interrupted:
        raise typer.Exit(130)
