"""``offchip mappers``: who can write a plan."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["mappers"]


def mappers(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """List the mappers, each with what it decides."""
    from mapping.mapper import MAPPERS
    from offchip.cli.output import print_json, print_table

    found = {name: MAPPERS.get(name) for name in MAPPERS}
    if as_json:
        entries = {n: {"does": m.DESCRIPTION, "settings": dict(m.SETTINGS)} for n, m in found.items()}
        print_json({"mappers": entries})
    else:
        rows = [(n, m.DESCRIPTION, ", ".join(m.SETTINGS)) for n, m in found.items()]
        print_table("", ("mapper", "what it does", "settings (--set)"), rows)
