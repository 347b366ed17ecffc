"""``offchip solve schedule``: operator order, addresses and replacement on a scratchpad, with a proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["schedule"]


def schedule(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="built-in name, graph JSON, .onnx, config.json")
    ],
    scratchpad: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Scratchpad size: 1048576, or with a unit: 1MiB.")
    ] = None,
    bank: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BYTES", help="Several scratchpads; no tensor lies across two."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="stream (past the scratchpad) or resident (whole, while their operator runs).")
    ] = "stream",
    method: Annotated[
        str, typer.Option(help="auto, ilp, decompose, divide, given-order, or a baseline by name.")
    ] = "auto",
    objective: Annotated[
        str, typer.Option(help="bytes (off-chip), peak (footprint) or time (with --hw).")
    ] = "bytes",
    hw: Annotated[
        str | None, typer.Option("--hw", help="scratchpad machine, for the objective time and its size")
    ] = None,
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds.")] = 60.0,
    max_states: Annotated[
        int | None, typer.Option(help="Search states instead of seconds; makes the answer reproducible.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show the baselines beside it.")] = False,
    phase: Annotated[str | None, typer.Option(help="prefill, decode or train")] = None,
    batch: Annotated[int, typer.Option(help="sequences or images at once")] = 1,
    prompt: Annotated[int, typer.Option(help="tokens of the prompt")] = 512,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    unfused: Annotated[
        bool, typer.Option("--unfused", help="every projection an operator of its own")
    ] = False,
    dim: Annotated[list[str] | None, typer.Option(help="NAME=SIZE of a symbolic ONNX dimension")] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Element-wise outputs may take the bytes of an input that ends."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="PLAN.json", help="Write the schedule for 'simulate --plan'.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw addresses over steps (.svg or .png).")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No view of bound and best schedule on standard error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Order operators and place tensors so that the fewest non-compulsory bytes cross the chip's edge.

    Exit codes: 0 done; 2 bad input; 3 infeasible (proved); 4 no answer within the limit.
    """
    from offchip.cli.models import named_sizes
    from offchip.cli.output import live_bound, print_json, print_tables, progress
    from offchip.solving.schedule import solve_schedule

    with live_bound("bytes moved", quiet):
        answer = solve_schedule(
            model, progress=progress, scratchpad=scratchpad, bank=bank, weights=weights, method=method,
            objective=objective, hw=hw, time_limit=time_limit, max_states=max_states, compare=compare, seed=seed,
            out=out, plot=plot, phase=phase, batch=batch, prompt=prompt, dtype=dtype, fused=not unfused,
            dims=named_sizes(dim or []), in_place=in_place,
        )  # fmt: skip
    if as_json:
        print_json(answer.as_json())
    else:
        print_tables(answer.shown_tables())
    answer.insist()
