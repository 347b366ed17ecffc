"""``offchip caches``: replacement policies, where their rules stand, and which settings each takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from simulator.cache.replacement.policy import Policy

__all__ = ["list_policies", "show_policy"]


def list_policies(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """List the policies: what leaves first, and the names of their settings."""
    from offchip.cli.output import print_json, print_table
    from simulator.cache.replacement.policy import POLICIES

    entries = {name: _entry(POLICIES.get(name)) for name in POLICIES}
    if as_json:
        print_json({"policies": entries})
        return
    rows = [
        (name, entry["does"], entry["told"], ", ".join(s["name"] for s in entry["settings"]))
        for name, entry in entries.items()
    ]
    print_table("", ("policy", "what it does", "is told", "settings (--set)"), rows)


def show_policy(
    name: Annotated[str, typer.Argument(help="a policy; see 'offchip caches list'")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Show a policy: its source, and its settings with range, unit, default and meaning."""
    from hw_configs.settings import settings_of
    from offchip.cli.output import print_json, print_table
    from simulator.cache.replacement.policy import POLICIES

    policy = POLICIES.get(name)
    if as_json:
        print_json({"policy": name, **_entry(policy)})
        return
    typer.echo(f"{name}: {policy.description}")
    typer.echo(f"  source: {policy.source}")
    typer.echo(f"  is told of each request: {policy.hint}")
    rows = [
        (info.name, info.range, info.unit, info.shown_default, info.meaning)
        for info in settings_of(policy.settings).values()
    ]
    if rows:
        print_table("\nSettings (--set NAME=VALUE)", ("name", "range", "unit", "default", "meaning"), rows)
    else:
        typer.echo("  no settings")


def _entry(policy: Policy) -> dict[str, Any]:
    from hw_configs.settings import settings_of

    return {
        "does": policy.description, "source": policy.source, "told": policy.hint, "stack": policy.stack,
        "random": policy.random, "settings": [info.to_json() for info in settings_of(policy.settings).values()],
    }  # fmt: skip
