"""``offchip trace search``: queries against an index of vectors."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_search"]


def trace_search(
    index: Annotated[
        str,
        typer.Argument(
            metavar="INDEX|PRESET",
            help="An index as YAML, or a preset: spann-sift1b, diskann-sift1b, knn-lm-wikitext-103, ...",
        ),
    ],
    hw: Annotated[str, typer.Option("--hw", help="A system, or a drive alone: a name or a YAML file.")],
    in_flight: Annotated[int, typer.Option(help="Queries in flight.")] = 1,
    queries: Annotated[int, typer.Option(help="Queries to answer.")] = 200,
    drives: Annotated[int | None, typer.Option(help="Drives, instead of the system's own number.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the places that are read.")] = 1,
    sweep: Annotated[bool, typer.Option(help="Also with 1, 2, 4, ... queries in flight.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Answer queries against an index of vectors, in memory and on drives."""
    from offchip.cli.output import print_json, print_tables
    from offchip.tracing.search import trace_search as run

    result = run(index, hw, in_flight=in_flight, queries=queries, drives=drives, seed=seed, sweep=sweep)
    if json:
        print_json(result.as_json())
    else:
        print_tables(result.shown_tables())
