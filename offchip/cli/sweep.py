"""``offchip sweep``: run a space of points, and ask what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from offchip.sweep.analysis import Sweep
    from offchip.sweep.run import Shard
    from offchip.sweep.space import Space
    from offchip.sweep.store import Row

__all__ = ["SweepGroup", "best", "compare", "explain", "export", "merge", "pareto", "run", "status"]


class SweepGroup(TyperGroup):
    """``offchip sweep SPACE.yaml`` runs; ``offchip sweep status DIR`` and the others look."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the first word as a call if there is one of that name, and as a space file otherwise."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


def run(
    space: Annotated[Path, typer.Argument(help="the space: a YAML file")],
    out: Annotated[Path | None, typer.Option(help="folder for the results")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="skip what is done, repeat what failed")] = False,
    jobs: Annotated[int, typer.Option(help="worker processes; 1 works in this one")] = 1,
    cluster: Annotated[
        str | None, typer.Option(help="a Dask scheduler's address, or 'local' for one with --jobs workers")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="K/N: only every N-th point, for array jobs")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count the points and estimate the time")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Run a design space into a folder. Also: offchip sweep status|pareto|best|explain|export DIR."""
    from offchip.space_sweep import checked_space, shard_of, sweep

    checked = checked_space(space, jobs, shard)
    if dry_run:
        _dry_run(checked, jobs, shard_of(shard), as_json)
        return
    if out is None:
        raise bad_input("missing; expected a folder for the results", path="--out")
    from offchip.sweep.progress import SweepProgress

    progress = SweepProgress(checked)
    try:
        sweep(space, out, resume=resume, jobs=jobs, cluster=cluster, shard=shard, notice=progress.notice)
    finally:
        progress.close()
    status(out, as_json)


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a sweep")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """How far a sweep is: points by outcome, best so far, size of the Pareto front."""
    from offchip.cli.output import print_json, print_tables
    from offchip.space_sweep import status_of

    found = status_of(folder)
    if as_json:
        print_json(found.as_json())
    else:
        print_tables(found.shown_tables())


def pareto(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a sweep")],
    limit: Annotated[int, typer.Option(help="rows to print; 0 prints all")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """The Pareto front: the points that no other beats in every objective."""
    sweep = _read(folder)
    if not sweep.objectives:
        raise bad_input(
            "this sweep has no objectives; 'offchip sweep best DIR --by FIGURE' ranks", path=str(folder)
        )
    _print_points("front", sweep.front(), sweep, limit, as_json)


def best(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a sweep")],
    by: Annotated[str | None, typer.Option(help="a figure; default: the first objective")] = None,
    largest: Annotated[bool, typer.Option("--largest", help="most of the figure rather than least")] = False,
    limit: Annotated[int, typer.Option(help="rows to print")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """The best points by one figure."""
    sweep = _read(folder)
    if by is None:
        if not sweep.objectives:
            raise bad_input("missing; this sweep has no objectives", path="--by")
        by, largest = sweep.objectives[0].name, sweep.objectives[0].sign < 0
    _print_points("best", sweep.ranked(by, max(limit, 1), largest), sweep, limit, as_json, by)


def explain(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a sweep")],
    figure: Annotated[str | None, typer.Option(help="a figure; default: every objective")] = None,
    sobol: Annotated[
        int, typer.Option(help="evaluate this many samples per parameter for Sobol indices")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Which parameter explains how much of a figure."""
    from offchip.cli.output import print_json, print_table
    from offchip.sweep.sensitivity import effects

    sweep = _read(folder)
    parameters = [entry["name"] for entry in sweep.meta["parameters"]]
    names = [figure] if figure is not None else [objective.name for objective in sweep.objectives]
    if not names:
        raise bad_input("missing; this sweep has no objectives", path="--figure")
    found: dict[str, Any] = {}
    for name in names:
        sweep.ranked(name, 1)
        found[name] = {"effects": [
            {"parameter": e.parameter, "share": e.share, "span": e.span, "relative": e.relative}
            for e in effects(sweep.rows, parameters, name)
        ]}  # fmt: skip
    if sobol:
        _add_sobol(found, sweep.meta, sobol)
    if as_json:
        print_json(found)
        return
    for name, entry in found.items():
        rows = [
            (e["parameter"], f"{e['share']:.1%}", "" if e["span"] is None else f"{e['span']:.4g}",
             "" if e["relative"] is None else f"{e['relative']:.3g}x")
            for e in entry["effects"]
        ]  # fmt: skip
        print_table(f"\n{name}", ("parameter", "explains alone", "one at a time", "most over least"), rows)
        if "sobol" in entry:
            rows = [(s["parameter"], f"{s['first']:.3f}", f"{s['total']:.3f}", "") for s in entry["sobol"]]
            print_table(
                f"Sobol indices ({entry['samples']} samples)", ("parameter", "first", "total", ""), rows
            )


def compare(
    one: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a sweep")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="the folder of another")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Two sweeps side by side: best points, equal points, and whose points the common front has."""
    from offchip.cli.output import print_json, print_table
    from offchip.sweep.analysis import compared

    found = compared(_read(one), _read(other))
    if as_json:
        print_json(found)
        return
    rows = [
        (c["objective"], *("" if c[k] is None else f"{c[k]:.6g}" for k in ("one", "other", "median_ratio")))
        for c in found["objectives"]
    ]
    print_table("", ("objective", "best of first", "best of second", "second over first, median"), rows)
    typer.echo(f"{found['equal_parameters']} points have equal parameters")
    typer.echo(
        f"common front: {found['front_one']} points of the first, {found['front_other']} of the second"
    )


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a sweep")],
    out: Annotated[Path, typer.Option(help="a .csv or .parquet file")],
) -> None:
    """Write all points as one table."""
    from offchip.sweep.store import open_store
    from offchip.sweep.table import export as write

    with open_store(folder) as store:
        typer.echo(f"wrote {out}: {write(store, out)} rows")


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="folders of one sweep's shards")],
    out: Annotated[Path, typer.Option(help="the folder to merge into")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Put the folders that shards of one sweep wrote into one."""
    from offchip.sweep.merge import merge as put_together

    put_together(folders, out)
    status(out, as_json)


def _read(folder: Path) -> Sweep:
    from offchip.sweep.analysis import Sweep
    from offchip.sweep.store import open_store

    with open_store(folder) as store:
        return Sweep.read(store)


def _print_points(
    title: str, rows: list[Row], sweep: Sweep, limit: int, as_json: bool, by: str | None = None
) -> None:
    from offchip.cli.output import print_json, print_table

    objectives = [objective.name for objective in sweep.objectives]
    figures = list(dict.fromkeys([*([by] if by is not None else []), *objectives]))
    if as_json:
        points = [
            {"number": r.number, "parameters": dict(r.parameters), "figures": dict(r.figures)} for r in rows
        ]
        print_json({"name": sweep.meta["name"], title: points})
        return
    dimensions = {p["name"]: p["dimension"] for p in sweep.meta["parameters"]}
    shown = rows[:limit] if limit else rows
    table = [
        (str(row.number), *(_cell(row.figures.get(name), None) for name in figures),
         *(_cell(row.parameters.get(name), dimension) for name, dimension in dimensions.items()))
        for row in shown
    ]  # fmt: skip
    print_table("", ("point", *figures, *dimensions), table)
    if len(shown) < len(rows):
        typer.echo(f"{len(rows) - len(shown)} more; --limit 0 prints all")


def _cell(value: Any, dimension: str | None) -> str:
    from hw_configs.units import format_quantity

    if value is None:
        return ""
    if dimension is not None and isinstance(value, int | float):
        return format_quantity(value, dimension)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _add_sobol(found: dict[str, Any], meta: Any, samples: int) -> None:
    """Evaluate a Saltelli design over the space of the sweep, once for all figures."""
    import numpy as np

    from offchip.sweep.evaluate import Evaluator
    from offchip.sweep.sensitivity import sobol_indices
    from offchip.sweep.space_file import space_from_text

    space = space_from_text(meta["text"], meta["path"])
    if not 2 <= samples <= 1_000_000:
        raise bad_input(f"found {samples}; expected 2 to 1000000", path="--sobol")
    evaluator = Evaluator(space)
    known: dict[tuple[float, ...], dict[str, Any]] = {}

    def figures_at(draw: tuple[float, ...]) -> dict[str, Any]:
        if draw not in known:
            values = {axis.name: axis.at(u) for axis, u in zip(space.axes, draw, strict=True)}
            known[draw] = dict(evaluator.row(0, space.applied(values)).figures)
        return known[draw]

    for name, entry in found.items():

        def figure(table: Any, name: str = name) -> Any:
            values = (figures_at(tuple(map(float, draw))).get(name) for draw in table)
            return np.array([np.nan if value is None else float(value) for value in values])

        indices, used = sobol_indices(figure, len(space.axes), samples, space.seed)
        entry["samples"] = used
        entry["sobol"] = [
            {"parameter": axis.name, "first": i.first, "total": i.total}
            for axis, i in zip(space.axes, indices, strict=True)
        ]


def _dry_run(space: Space, jobs: int, shard: Shard | None, as_json: bool) -> None:
    from offchip.cli.output import print_json
    from offchip.sweep.progress import duration

    found = _plan(space, jobs, shard)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['points']} points, {found['parameters']} parameters, {found['strategy']}")
    for number, values in enumerate(found["first"]):
        typer.echo(
            f"  {number}: "
            + ", ".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
        )
    for stage in found["stages"]:
        typer.echo(
            f"{stage['fidelity']}: {stage['points']} points at {stage['seconds_per_point']:.3g} s each "
            f"(measured on {stage['measured']}), about {duration(stage['seconds'])} "
            f"on {jobs} process{'es' * (jobs > 1)}"
        )


def _plan(space: Space, jobs: int, shard: Shard | None) -> dict[str, Any]:
    """Number of points, the first of them, and the time that a few measured ones promise."""
    import itertools
    import math

    from offchip.sweep.points import count_points, points_of
    from offchip.sweep.run import timed

    if space.strategy.kind == "optuna":
        from dataclasses import replace

        from offchip.sweep.space import Strategy

        count = space.strategy.points or 0
        drawn = replace(space, strategy=Strategy(kind="random", points=min(count, 64)))
        points = list(points_of(drawn))
    else:
        count = count_points(space)
        points = list(itertools.islice(points_of(space), 100_000))
        if any(axis.when is not None for axis in space.axes) and len(points) < 100_000:
            count = len(points)
    if shard is not None:
        count = sum(1 for number in range(count) if shard.has(number))
    some = [points[round(i * (len(points) - 1) / 4)] for i in range(5)]
    stages, many = [], count
    for index, stage in enumerate(space.stages):
        many = math.ceil(many * stage.promote)
        # The first pass warms what later points find warm.
        timed_rows = timed(space, [*some, *some], index)[5:]
        each = sum(row.seconds for row in timed_rows) / 5
        stages.append(
            {"fidelity": stage.fidelity, "points": many, "measured": 5, "seconds_per_point": each,
             "seconds": each * many / jobs}
        )  # fmt: skip
    return {
        "name": space.name,
        "points": count,
        "parameters": len(space.axes),
        "strategy": space.strategy.kind,
        "first": [values for _, values in points[:3]],
        "stages": stages,
    }
