"""``offchip solve mapping``: the best loop nests on a spatial accelerator, with proofs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["mapping"]


def mapping(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|LAYER",
            help="built-in name, .onnx, config.json, a layer's JSON, Timeloop's problem, ZigZag's workload",
        ),
    ],
    hw: Annotated[
        str,
        typer.Option("--hw", help="spatial accelerator: a name or a YAML file (ours, Timeloop's, ZigZag's)"),
    ],
    objective: Annotated[str, typer.Option(help="energy, latency or edp (their product)")] = "energy",
    fix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X",
            help="LEVEL.DIM=COUNT, AXIS.DIM=COUNT or LEVEL.order=DIM,... (outer to inner); or ZigZag's mapping file",
        ),
    ] = None,
    density: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X", help="[LAYER.]I, W or O = share of nonzero words, N:M@DIM or band:ROW,COL,B,A"
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="So many mappings of a layer.")] = 1,
    evaluate: Annotated[
        Path | None,
        typer.Option(
            metavar="MAPPING",
            help="Price this mapping (JSON, YAML, Timeloop's YAML; with --fuse its file) instead of searching.",
        ),
    ] = None,
    sharing: Annotated[
        bool, typer.Option("--sharing", help="With --evaluate: neighbouring windows share words.")
    ] = False,
    fuse: Annotated[
        str, typer.Option(help="none, or chains: layers run depth first together where that is better")
    ] = "none",
    fuse_depth: Annotated[int, typer.Option(help="With --fuse: the most layers of a group.")] = 4,
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds for a layer or a chain.")] = 60.0,
    method: Annotated[
        str, typer.Option(help="proof; for comparison mip (factors by integer programming) or random")
    ] = "proof",
    samples: Annotated[int, typer.Option(metavar="N", help="Mappings that --method random tries.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Decides the random mappings.")] = 0,
    phase: Annotated[str | None, typer.Option(help="prefill, decode or train")] = None,
    batch: Annotated[int, typer.Option(help="sequences or images at once")] = 1,
    prompt: Annotated[int, typer.Option(help="tokens of the prompt")] = 512,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write layers and mappings (.json or .yaml).")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw loops and energy (.svg or .png).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Choose tile sizes, loop orders and what runs side by side for the least energy, latency or both.

    Exit codes: 0 done; 2 bad input; 3 no mapping is legal; 4 no answer within the limit.
    """
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.solving.fusion import FusionSolution, insist_on_fusion, solve_fusion
    from offchip.solving.mapping import MappingSolution, solve_mapping

    insist_on_fusion(
        fuse, fix=fix, top=top != 1, sharing=sharing, density=density, plot=plot,
        method=method != "proof",
    )  # fmt: skip
    found: MappingSolution | FusionSolution
    if fuse == "chains":
        found = solve_fusion(
            model, hw, progress=progress, objective=objective, depth=fuse_depth, time_limit=time_limit, out=out,
            evaluate=evaluate, phase=phase, batch=batch, prompt=prompt, dtype=dtype,
        )  # fmt: skip
    else:
        found = solve_mapping(
            model, hw, progress=progress, objective=objective, fix=fix, density=density, top=top,
            evaluate=evaluate, sharing=sharing, time_limit=time_limit, phase=phase, batch=batch, prompt=prompt,
            dtype=dtype, out=out, plot=plot, method=method, samples=samples, seed=seed,
        )  # fmt: skip
    if as_json:
        print_json(found.as_json())
    else:
        print_tables(found.shown_tables())
