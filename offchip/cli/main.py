"""The console script: wires the commands together and turns every error into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

import typer

from hw_configs.problems import OffchipError

__all__ = ["app", "main"]

app = typer.Typer(
    name="offchip",
    help="Where a model's bytes go on a memory-centric machine, what that costs, and which plan is best.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _group(name: str, text: str, commands: dict[str, str]) -> None:
    group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
    for command, location in commands.items():
        group.command(command)(_function(location))
    app.add_typer(group, name=name)


def _function(location: str) -> Callable[..., None]:
    module, _, function = location.partition(":")
    command: Callable[..., None] = getattr(import_module(f"offchip.cli.{module}"), function)
    return command


app.command("simulate")(_function("simulate:simulate"))
app.command("mappers")(_function("mappers:mappers"))


def main() -> None:
    """Run the command line; leaves with 0, 2 (bad input), 3 (infeasible) or 4 (no answer in the limit)."""
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except OffchipError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("offchip: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        # A usage error of the parser has a message for people; anything else is a defect and shows itself.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        print(f"offchip: {' '.join(message().split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
