"""``offchip trace bank``: a memory beside a model."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_bank"]


def trace_bank(
    bank: Annotated[
        str,
        typer.Argument(
            metavar="BANK|PRESET",
            help="A memory as YAML, or a preset: hierarchical-160m, mlp-memory-mistral-7b, memory-decoder-gpt2-xl, ...",
        ),
    ],
    hw: Annotated[str, typer.Option("--hw", help="A system: a name from `offchip hw list`, or a YAML file.")],
    contexts: Annotated[int, typer.Option(help="Contexts that come to a hierarchical bank.")] = 4000,
    place: Annotated[
        str | None, typer.Option(help="drive, memory or gpu: where the bank lies, instead of its own.")
    ] = None,
    cache: Annotated[str | None, typer.Option(help="Bytes for blocks beside the model.")] = None,
    drives: Annotated[int, typer.Option(help="Drives that share the bank.")] = 1,
    batch: Annotated[int, typer.Option(help="Sequences of a step, for a memory of every token.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of contexts and places.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Use a memory beside a model: blocks that come by context, or a network for every token."""
    from offchip.cli.output import print_json, print_tables
    from offchip.tracing.bank import trace_bank as run

    result = run(bank, hw, contexts=contexts, place=place, cache=cache, drives=drives, batch=batch, seed=seed)
    if json:
        print_json(result.as_json())
    else:
        print_tables(result.shown_tables())
