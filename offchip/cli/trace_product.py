"""``offchip trace product``: a product of two sparse matrices on many threads."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_product"]


def trace_product(
    left: Annotated[
        str,
        typer.Argument(
            metavar="GRAPH",
            help="The left matrix: rmat:NODES:EDGES[:SEED[:A,B,C,D]], power-law:NODES:EDGES[:SEED], an edge list, ...",
        ),
    ],
    hw: Annotated[str, typer.Option("--hw", help="A device of kind threads: a name or a YAML file.")],
    right: Annotated[str | None, typer.Option(help="The right matrix. Default: the left one.")] = None,
    way: Annotated[str, typer.Option(help="row-hash, outer or inner.")] = "row-hash",
    load: Annotated[float, typer.Option(help="Share of a hash table that may be filled.")] = 0.5,
    hashing: Annotated[
        str, typer.Option(help="A slot by the place's lowest bits (low) or all (mixed).")
    ] = "mixed",
    tasks: Annotated[str, typer.Option(help="What a thread takes at a time: row or value.")] = "value",
    dealt: Annotated[
        str, typer.Option(help="dynamic: free threads take tasks; static: dealt in turn.")
    ] = "dynamic",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Multiply two sparse matrices on a machine of many threads with a scratchpad."""
    from offchip.cli.output import print_json, print_tables
    from offchip.tracing.product import trace_product as run

    result = run(left, hw, right=right, way=way, load=load, hashing=hashing, tasks=tasks, dealt=dealt)
    if json:
        print_json(result.as_json())
    else:
        print_tables(result.shown_tables())
