"""``offchip trace gpu``: accesses of a GPU's warps through its caches."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_gpu"]


def trace_gpu(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|KERNEL",
            help="A trace file (text or NVBit's mem_trace, may be packed), or a kernel: matmul:M:N:K[:order=swizzle], "
            "attention:BATCH:HEADS:KV_HEADS:Q:KV:DIM, paged-attention:BATCH:HEADS:KV_HEADS:CONTEXT:DIM, "
            "gather:ROWS:BYTES:COUNT, transpose:M:N[:tile=0], strided:COUNT:STRIDE, stream:BYTES.",
        ),
    ],
    hw: Annotated[str, typer.Option("--hw", help="A GPU: a name from `offchip hw list`, or a YAML file.")],
    format: Annotated[
        str | None, typer.Option(help="text or nvbit. Default: told from the first line.")
    ] = None,
    blocks: Annotated[int, typer.Option(help="Thread blocks of a kernel on each multiprocessor.")] = 1,
    shared: Annotated[str, typer.Option(help="Shared memory of each multiprocessor that is taken.")] = "0B",
    l1: Annotated[bool, typer.Option("--l1/--no-l1", help="Whether loads look at the L1.")] = True,
    outstanding: Annotated[
        int | None, typer.Option(help="Sectors that a multiprocessor waits for; 1: each for the one before.")
    ] = None,
    page: Annotated[str | None, typer.Option(help="Page size, such as 64KiB.")] = None,
    persist: Annotated[
        str | None, typer.Option(metavar="ADDRESS:SIZE", help="Lines that stay in the L2 before others.")
    ] = None,
    home: Annotated[str, typer.Option(help="Where the data lies: device, zero-copy or unified.")] = "device",
    link: Annotated[str, typer.Option(help="The link to the host.")] = "pcie4-x16",
    memory: Annotated[
        str | None, typer.Option(help="With --home unified: bytes of the GPU that hold pages.")
    ] = None,
    dram: Annotated[
        str | None, typer.Option(help="A DRAM device behind the caches, command by command.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of it, instead of the device's.")] = None,
    plot: Annotated[str | None, typer.Option(help="Draw the timeline into an .svg or .png file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run accesses of a GPU's warps through its L1s, its L2, translation and memory."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.tracing.gpu import trace_gpu as run

    result = run(
        trace, hw, progress=progress, format=format, blocks=blocks, shared=shared, l1=l1, outstanding=outstanding,
        page=page, persist=persist, home=home, link=link, memory=memory, dram=dram, channels=channels, plot=plot,
    )  # fmt: skip
    if json:
        print_json(result.as_json())
    else:
        if result.interrupted:
            typer.echo("stopped: the figures below are those of the accesses completed so far", err=True)
        print_tables(result.shown_tables())
    if result.interrupted:
        raise typer.Exit(130)
