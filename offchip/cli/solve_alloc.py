"""``offchip solve alloc``: static memory allocation with a proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["alloc"]


def alloc(
    buffers: Annotated[
        Path,
        typer.Argument(
            metavar="BUFFERS",
            help="MiniMalloc CSV, malloc/free trace, PyTorch memory snapshot, XLA dump, .tflite or .pte model, IREE "
            "text, profile of ONNX Runtime, TVM buffer infos or arena plan.",
        ),
    ],
    capacity: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Find a plan below this: 1048576, or with a unit: 1MiB."),
    ] = None,
    minimize: Annotated[bool, typer.Option("--minimize", help="Find the least peak.")] = False,
    time_limit: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds; 60 if nothing is given.")
    ] = None,
    max_nodes: Annotated[
        int | None, typer.Option(help="Search nodes; makes the answer reproducible.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, greedy, search or mip.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    near: Annotated[
        Path | None,
        typer.Option(metavar="PLAN.csv", help="Keep offsets of this earlier plan where possible."),
    ] = None,
    bank: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BYTES[@COST]", help="Several memories with capacity and cost per byte."),
    ] = None,
    arena: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[@COST]", help="Memories whose size is a decision; cost per byte of it."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What a bank's cost counts: bytes (placed there) or size (its peak).")
    ] = "bytes",
    alignment: Annotated[str | None, typer.Option(metavar="BYTES", help="Of every buffer.")] = None,
    boundary: Annotated[
        str | None, typer.Option(metavar="BYTES", help="No buffer crosses a multiple of this.")
    ] = None,
    move_cost: Annotated[
        float,
        typer.Option(
            help="Cost of a moved byte (column 'moves'): in bytes of peak, or with --bank as its costs."
        ),
    ] = 0.0,
    no_pins: Annotated[
        bool, typer.Option("--no-pins", help="Plan afresh; forget the file's offsets.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL.onnx", help="The model of a profile of ONNX Runtime.")
    ] = None,
    device_index: Annotated[int | None, typer.Option(help="Device of a snapshot with several.")] = None,
    memory_space: Annotated[
        int | None, typer.Option(help="Memory space of an XLA dump or .pte with several.")
    ] = None,
    pack_index: Annotated[
        int | None, typer.Option(help="Pack of IREE's text, method of a .pte, run of a profile.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the plan: .csv, .h, .tflite, .mlir, or as --out-format says."
        ),
    ] = None,
    out_format: Annotated[str | None, typer.Option(help="csv, c, tflite, tflite-json, iree or tvm.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the packing (.svg or .png).")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No view of bound and best plan on standard error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Give every buffer an address, below a capacity or with the least peak, and say what was proved.

    Exit codes: 0 done; 2 bad input; 3 infeasible (proved); 4 no answer within the limit.
    """
    from offchip.cli.output import live_bound, print_json, print_tables
    from offchip.solving.alloc import solve_alloc

    with live_bound("peak in bytes", quiet):
        answer = solve_alloc(
            buffers, capacity=capacity, minimize=minimize, time_limit=time_limit, max_nodes=max_nodes, engine=engine,
            seed=seed, near=near, bank=bank, device_index=device_index, memory_space=memory_space,
            pack_index=pack_index, out=out, plot=plot, arena=arena, objective=objective, alignment=alignment,
            boundary=boundary, move_cost=move_cost, no_pins=no_pins, model=model, out_format=out_format,
        )  # fmt: skip
    if as_json:
        print_json(answer.as_json())
    else:
        print_tables(answer.shown_tables())
    answer.insist()
