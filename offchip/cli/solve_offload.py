"""``offchip solve offload``: what lives where and what moves when, for a model on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hw_configs.problems import bad_input

__all__ = ["offload"]


def offload(
    model: Annotated[
        str | None, typer.Argument(help="built-in name or config.json; left out with --policy list")
    ] = None,
    hw: Annotated[str | None, typer.Option("--hw", help="system: a name or a YAML file")] = None,
    policy: Annotated[
        str | None, typer.Option(help="who decides; 'list' shows all; training: choose-training")
    ] = None,
    phase: Annotated[str, typer.Option(help="train, prefill or decode")] = "train",
    seq: Annotated[str, typer.Option(metavar="N", help="tokens per sequence: 4096, 64K, 1M")] = "2048",
    batch: Annotated[int, typer.Option(help="sequences: per step over all devices, or at once")] = 1,
    generate: Annotated[int, typer.Option(help="tokens to generate (decode)")] = 0,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    objective: Annotated[
        str | None, typer.Option(help="what is best: time, energy, throughput or dollars (co-place)")
    ] = None,
    bound: Annotated[
        list[str] | None, typer.Option("--bound", help="a limit that the plan keeps: latency=20ms (co-place)")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for the policy")] = None,
    cost_model: Annotated[str, typer.Option(help="what predicts operator times")] = "by-device",
    seed: Annotated[int, typer.Option(help="seed of every random choice")] = 0,
    time_limit: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds; left out: to the end of the search.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="run the plan, event by event")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="write graph, plan and report")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="no view of bound and best plan on standard error")
    ] = False,
) -> None:
    """Decide what lives in which memory and what moves when, and say why.

    Exit codes: 0 done; 2 bad input; 3 nothing fits; 4 no answer within the limit.
    """
    if policy == "list":
        _list(as_json)
        return
    if model is None or hw is None:
        raise bad_input("expected a MODEL and --hw SYSTEM (or --policy list)")
    from offchip.cli.output import live_bound, print_json, print_tables
    from offchip.solving.offload import solve_offload

    with live_bound("seconds of a step", quiet):
        found = solve_offload(
            model, hw, policy, phase=phase, seq=seq, batch=batch, generate=generate, dtype=dtype,
            settings=_asked(objective, bound, setting), cost_model=cost_model, seed=seed, simulate=simulate, out=out,
            time_limit=time_limit,
        )  # fmt: skip
    if as_json:
        print_json(found.as_json())
        return
    print_tables(found.shown_tables())
    for path in found.written:
        typer.echo(f"wrote {path}")


def _asked(objective: str | None, bounds: list[str] | None, entries: list[str] | None) -> dict[str, str]:
    """Settings from ``--set``, and those that have an option of their own."""
    found = _settings(entries)
    for text in bounds or ():
        key, equals, value = text.partition("=")
        if key != "latency" or not (equals and value):
            raise bad_input(f"found {text!r}; expected latency=TIME, such as latency=20ms", path="--bound")
    own = {} if objective is None else {"objective": objective}
    own |= {key: value for key, _, value in (text.partition("=") for text in bounds or ())}
    twice = sorted(set(own) & set(found))
    if twice:
        raise bad_input(f"{twice[0]!r} is given twice", path="--set")
    return found | own


def _settings(entries: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise bad_input(f"found {entry!r}; expected KEY=VALUE", path="--set")
        if key in found:
            raise bad_input(f"{key!r} is given twice", path="--set")
        found[key] = value
    return found


def _list(as_json: bool) -> None:
    from mapping.mapper import MAPPERS, answers_offload
    from offchip.cli.mappers import mapper_entry
    from offchip.cli.output import print_json, print_table

    found = {name: MAPPERS.get(name) for name in MAPPERS}
    able = {name: mapper_entry(mapper) for name, mapper in found.items() if answers_offload(mapper)}
    if as_json:
        print_json({"policies": able})
        return
    rows = [
        (name, entry["does"], ", ".join(entry["phases"]), ", ".join(s["name"] for s in entry["settings"]))
        for name, entry in able.items()
    ]
    print_table("", ("policy", "what it decides", "phases", "settings (--set)"), rows)
