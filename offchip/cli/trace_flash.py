"""``offchip trace flash``: run storage requests through a flash drive, event by event."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_flash"]


def trace_flash(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|WORKLOAD",
            help="A block trace (may be .gz or .zst), a fio-like .yaml, or PATTERN:REQUESTS[:SEED], "
            "such as randread:100000.",
        ),
    ],
    hw: Annotated[
        str,
        typer.Option("--hw", help="A flash or csd device: a name from `offchip hw list`, or a YAML file."),
    ],
    format: Annotated[
        str | None,
        typer.Option(help="Trace format: mqsim, msr, spc or csv. Default: told from the first line."),
    ] = None,
    mode: Annotated[str, typer.Option(help="event: every command; fast: busy-until bookkeeping.")] = "event",
    block_size: Annotated[str, typer.Option(help="Bytes of a request of PATTERN:REQUESTS.")] = "4 KiB",
    read_percent: Annotated[float, typer.Option(help="Per cent of reads of rw and randrw.")] = 50.0,
    outstanding: Annotated[
        int | None,
        typer.Option(help="Closed loop: requests in flight. Default: 32, or 0 for a trace that names times."),
    ] = None,
    ignore_times: Annotated[bool, typer.Option(help="Closed loop, whatever times the trace names.")] = False,
    precondition: Annotated[
        str | None, typer.Option(help="none, fill, or age: what the drive went through before.")
    ] = None,
    overwrites: Annotated[
        float | None, typer.Option(help="Random overwrites of an aged drive, in capacities.")
    ] = None,
    capacity: Annotated[
        str | None,
        typer.Option(help="Make the drive smaller: fewer blocks per plane (at least 48), all else alike."),
    ] = None,
    placement: Annotated[str | None, typer.Option(help="Order of C, W, D and P, such as CWDP.")] = None,
    gc_policy: Annotated[
        str | None, typer.Option(help="greedy, d-choices, random, random-full or fifo.")
    ] = None,
    die_interleaving: Annotated[bool | None, typer.Option(help="Commands to several dies of a chip.")] = None,
    suspend: Annotated[str | None, typer.Option(help="none, program, erase or both.")] = None,
    internal: Annotated[
        bool, typer.Option(help="Requests of the drive's own compute: no host link.")
    ] = False,
    wrap: Annotated[bool, typer.Option(help="Let addresses beyond the capacity wrap around.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of what the drive draws (victims, retries).")] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run storage requests through a flash drive."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.tracing.flash import trace_flash as run

    result = run(
        trace, hw, progress=progress, format=format, mode=mode, block_size=block_size, read_percent=read_percent,
        outstanding=outstanding, ignore_times=ignore_times, precondition=precondition, overwrites=overwrites,
        capacity=capacity, placement=placement, gc_policy=gc_policy, die_interleaving=die_interleaving,
        suspend=suspend, internal=internal, wrap=wrap, seed=seed,
    )  # fmt: skip
    if json:
        print_json(result.as_json())
    else:
        if result.interrupted:
            typer.echo("stopped: the figures below are those of the requests completed so far", err=True)
        print_tables(result.shown_tables())
    if result.interrupted:
        raise typer.Exit(130)
