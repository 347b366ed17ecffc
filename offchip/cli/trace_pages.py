"""``offchip trace pages``: a file's pages through a page cache and a drive, or through a GPU's unified memory."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_pages"]


def trace_pages(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|PATTERN",
            help="A block trace (may be packed), or sequential:SIZE, loop:SIZE:ROUNDS, random:SIZE:REQUESTS[:SEED], "
            "overwrite:SIZE:REQUESTS[:SEED], mapped-model:MODEL[:TOKENS[:SEED]].",
        ),
    ],
    memory: Annotated[
        str | None,
        typer.Option(help="Bytes that hold pages, such as 32GiB; with --gpu instead of the device's."),
    ] = None,
    drive: Annotated[str | None, typer.Option(help="The drive of the file: a flash or csd device.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Unified memory of this GPU, instead of a page cache.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Trace format: mqsim, msr, spc or csv.")] = None,
    block_size: Annotated[str, typer.Option(help="Bytes of a request of a pattern.")] = "4 KiB",
    page: Annotated[str, typer.Option(help="Bytes of a page or folio.")] = "4 KiB",
    read_ahead: Annotated[str, typer.Option(help="The largest window; 0B: none.")] = "128 KiB",
    replacement: Annotated[str, typer.Option(help="two-lists (active and inactive) or lru.")] = "two-lists",
    refault: Annotated[bool, typer.Option(help="Pages that left not long ago come back as active.")] = True,
    background_ratio: Annotated[
        float, typer.Option(help="Of memory: dirty pages above it are written.")
    ] = 0.10,
    dirty_ratio: Annotated[float, typer.Option(help="Of memory: above it writers wait.")] = 0.20,
    expire: Annotated[str, typer.Option(help="Age at which a dirty page is written.")] = "30 s",
    interval: Annotated[str, typer.Option(help="Time between two looks at ages.")] = "5 s",
    touch_time: Annotated[str, typer.Option(help="To copy or map a page that is there.")] = "400 ns",
    outstanding: Annotated[
        int, typer.Option(help="Requests in flight at the drive; 0: 2 with read-ahead, else 1.")
    ] = 0,
    link: Annotated[str, typer.Option(help="With --gpu: the link to the host.")] = "pcie4-x16",
    batch: Annotated[int, typer.Option(help="With --gpu: faults that are served together.")] = 256,
    batch_time: Annotated[str, typer.Option(help="With --gpu: to serve a batch, beside moving.")] = "30 us",
    group: Annotated[int, typer.Option(help="With --gpu: touches side by side.")] = 2048,
    prefetch: Annotated[bool, typer.Option(help="With --gpu: the density prefetcher.")] = True,
    pin_after: Annotated[
        int, typer.Option(help="With --gpu: a chunk that came back so often stays on the host; 0: never.")
    ] = 0,
    read_mostly: Annotated[bool, typer.Option(help="With --gpu: the host keeps copies.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of what the drive draws.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a file's pages through memory: hits, read-ahead, write-back, faults, time."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.tracing.pages import trace_pages as run

    result = run(
        trace, progress=progress, memory=memory, drive=drive, gpu=gpu, format=format, block_size=block_size, page=page,
        read_ahead=read_ahead, replacement=replacement, refault=refault, background_ratio=background_ratio,
        dirty_ratio=dirty_ratio, expire=expire, interval=interval, touch_time=touch_time, outstanding=outstanding,
        link=link, batch=batch, batch_time=batch_time, group=group, prefetch=prefetch, pin_after=pin_after,
        read_mostly=read_mostly, seed=seed,
    )  # fmt: skip
    if json:
        print_json(result.as_json())
    else:
        print_tables(result.shown_tables())
