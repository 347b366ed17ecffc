"""``offchip trace cache``: run requests for objects through caches."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_cache"]


def trace_cache(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|PATTERN",
            help="A cache trace (may be .gz or .zst), or PATTERN:REQUESTS:OBJECTS[:SEED[:key=value]], such as "
            "zipf0.8:1000000:100000.",
        ),
    ],
    hw: Annotated[
        str | None, typer.Option("--hw", help="A cache: a name from `offchip hw list`, or a YAML file.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Without --hw: size of one cache, such as 32GiB.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="NAME[,NAME...]; see `offchip caches list`. With --hw: instead of its own."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of a policy's settings; may be repeated.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="oracle, oracle-csv, twitter, cachelib-kv, cachelib-cdn, msr or csv. Default: told from the beginning."
        ),
    ] = None,
    grain: Annotated[
        str | None, typer.Option(help="Cache objects in pieces of so many bytes; blocks of msr (4 KiB).")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Miss ratios over sizes, and reuse distances.")
    ] = False,
    sample: Annotated[float, typer.Option(help="Share of the objects that reuse distances look at.")] = 1.0,
    plot: Annotated[str | None, typer.Option(help="Draw what was found into an .svg or .png file.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of what policies and samples draw.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run requests for objects through caches."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.tracing.cache import trace_cache as run

    result = run(
        trace, progress=progress, hw=hw, size=size, policy=policy, settings=_pairs(set_ or []), format=format,
        grain=grain, curve=curve, sample=sample, plot=plot, seed=seed,
    )  # fmt: skip
    interrupted = getattr(result, "interrupted", False)
    if json:
        print_json(result.as_json())
    else:
        if interrupted:
            typer.echo("stopped: the figures below are those of the requests completed so far", err=True)
        print_tables(result.shown_tables())
    if interrupted:
        raise typer.Exit(130)


def _pairs(entries: list[str]) -> dict[str, str]:
    from hw_configs.problems import bad_input

    found: dict[str, str] = {}
    for entry in entries:
        key, sign, value = entry.partition("=")
        if not sign:
            raise bad_input(f"found {entry[:80]!r}; expected KEY=VALUE", path="--set")
        if key in found:
            raise bad_input(f"{key[:80]!r} is given twice", path="--set")
        found[key] = value
    return found
