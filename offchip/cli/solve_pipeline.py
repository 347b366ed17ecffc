"""``offchip solve pipeline``: a pipeline schedule, its bubble, its memory and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["pipeline"]


def pipeline(
    schedule: Annotated[
        str, typer.Option(help="A name; 'all' compares, 'optimal' finds the least makespan.")
    ] = "1f1b",
    ranks: Annotated[int, typer.Option(help="Devices of the pipeline.")] = 4,
    micro_batches: Annotated[int, typer.Option(help="Micro-batches of a step.")] = 8,
    stages_per_rank: Annotated[int | None, typer.Option(help="Left out: the schedule's usual count.")] = None,
    times: Annotated[
        str,
        typer.Option(
            metavar="F,B|F,I,W", help="Of a rank's share of the model and one micro-batch, in any unit."
        ),
    ] = "1,1,1",
    stage_times: Annotated[
        str | None, typer.Option(metavar="X,X,..", help="Relative times along the model, any count.")
    ] = None,
    communication: Annotated[float, typer.Option(help="A transfer between two ranks.")] = 0.0,
    output_layer: Annotated[
        str | None,
        typer.Option(
            metavar="F,B|F,I,W", help="Of the output layer, which the last stage has besides its share."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT", help="Most that a rank holds: micro-batches, or a size with --activation."
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Activations of a micro-batch on a rank's share.")
    ] = None,
    freed_by_input: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the activations, what the backward's input half frees.")
    ] = 0.0,
    layout: Annotated[str, typer.Option(help="Of 'optimal' with two stages a rank: v or looped.")] = "v",
    engine: Annotated[str, typer.Option(help="Of 'optimal': auto, rules, search or mip.")] = "auto",
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds, of 'optimal'.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it (.svg or .png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Write a pipeline schedule action by action and run it: bubble, peak activations, picture.

    Exit codes: 0 done; 2 bad input; 3 the memory limit is broken or nothing fits; 4 no answer within the limit.
    """
    from offchip.cli.output import print_json, print_tables
    from offchip.solving.pipeline import solve_pipeline

    answer = solve_pipeline(
        schedule=schedule, ranks=ranks, micro_batches=micro_batches, stages_per_rank=stages_per_rank, times=times,
        stage_times=stage_times, communication=communication, output_layer=output_layer, memory=memory,
        activation=activation, freed_by_input=freed_by_input, layout=layout, engine=engine, time_limit=time_limit,
        seed=seed, plot=plot,
    )  # fmt: skip
    if as_json:
        print_json(answer.as_json())
    else:
        print_tables(answer.shown_tables())
    answer.insist()
