"""``offchip trace memory``: a recording of a GPU's memory through an allocator."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_memory"]


def trace_memory(
    snapshot: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT",
            help="PyTorch memory snapshot (.pickle or JSON), or a trace of lines 'malloc ID SIZE' and 'free ID'.",
        ),
    ],
    allocator: Annotated[str, typer.Option(help="caching, expandable or planned.")] = "caching",
    allocator_conf: Annotated[
        str,
        typer.Option(
            metavar="CONF",
            help="Settings as in PYTORCH_CUDA_ALLOC_CONF: max_split_size_mb:128,expandable_segments:True.",
        ),
    ] = "",
    device_index: Annotated[int | None, typer.Option(help="Device of a snapshot with several.")] = None,
    capacity: Annotated[
        str | None, typer.Option(metavar="BYTES", help="What the driver can give: 80GiB. Default: no end.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option(metavar="S", help="Of planned: seconds of the search for addresses.")
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="Of planned: seed of every random choice.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Replay a recording of a GPU's memory: what an allocator reserves, and how much of it is fragmentation.

    Exit codes: 0 done; 2 bad input; 3 out of memory below --capacity.
    """
    from offchip.cli.output import print_json, print_tables
    from offchip.tracing.memory import trace_memory as run

    result = run(
        snapshot,
        allocator=allocator,
        device_index=device_index,
        capacity=capacity,
        time_limit=time_limit,
        seed=seed,
        allocator_conf=allocator_conf,
    )
    if json:
        print_json(result.as_json())
    else:
        print_tables(result.shown_tables())
    result.insist()
