"""``offchip mappers``: who can write a plan or answer ``solve offload``, and which settings each takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mapping.mapper import Mapper

__all__ = ["list_mappers", "mapper_entry", "show_mapper"]


def list_mappers(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """List the mappers: what each decides, what it answers, its settings."""
    from mapping.mapper import MAPPERS
    from offchip.cli.output import print_json, print_table

    entries = {name: mapper_entry(MAPPERS.get(name)) for name in MAPPERS}
    if as_json:
        print_json({"mappers": entries})
        return
    rows = [
        (name, entry["does"], ", ".join(entry["answers"]), ", ".join(s["name"] for s in entry["settings"]))
        for name, entry in entries.items()
    ]
    print_table("", ("mapper", "what it does", "answers", "settings (--set)"), rows)


def show_mapper(
    name: Annotated[str, typer.Argument(help="a mapper; see 'offchip mappers list'")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Show a mapper and its settings: name, range, unit, default, meaning."""
    from hw_configs.settings import settings_of
    from mapping.mapper import MAPPERS, settings_class
    from offchip.cli.output import print_json, print_table

    mapper = MAPPERS.get(name)
    entry = mapper_entry(mapper)
    if as_json:
        print_json({"mapper": name, **entry})
        return
    typer.echo(f"{name}: {entry['does']}")
    for answer in entry["answers"]:
        typer.echo(f"  {_ASKED[answer].format(name=name)}")
    if "phases" in entry:
        typer.echo(f"  phases of solve offload: {', '.join(entry['phases'])}")
    rows = [
        (
            info.name, info.range, info.unit, info.shown_default,
            info.meaning + {"plan": "; read by simulate", "offload": "; read by solve offload", "": ""}[info.only],
        )
        for info in settings_of(settings_class(mapper)).values()
    ]  # fmt: skip
    if rows:
        print_table("\nSettings (--set NAME=VALUE)", ("name", "range", "unit", "default", "meaning"), rows)
    else:
        typer.echo("  no settings")


_ASKED = {
    "plan": "offchip simulate MODEL --hw SYSTEM --mapper {name}",
    "offload": "offchip solve offload MODEL --hw SYSTEM --policy {name}",
}


def mapper_entry(mapper: Mapper) -> dict[str, Any]:
    """What a mapper is, as plain data; its settings come from the class that it declares."""
    from hw_configs.settings import settings_of
    from mapping.mapper import answers_offload, settings_class, writes_plans

    answers = ["plan"] if writes_plans(mapper) else []
    entry: dict[str, Any] = {"does": mapper.DESCRIPTION, "answers": answers}
    if answers_offload(mapper):
        answers.append("offload")
        entry["phases"] = list(mapper.PHASES)
    entry["settings"] = [info.to_json() for info in settings_of(settings_class(mapper)).values()]
    return entry
