"""The console script: wires the commands together and turns every error into one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

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


def _mappers() -> typer.Typer:
    """``offchip mappers`` alone lists them, as ``offchip mappers list`` does."""
    from offchip.cli.mappers import list_mappers, show_mapper

    group = typer.Typer(help="Who decides what runs where, and with which settings.", rich_markup_mode=None)
    group.command("list")(list_mappers)
    group.command("show")(show_mapper)

    @group.callback(invoke_without_command=True)
    def alone(
        context: typer.Context,
        as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
    ) -> None:
        if context.invoked_subcommand is None:
            list_mappers(as_json)

    return group


app.command("simulate")(_function("simulate:simulate"))
app.command("serve")(_function("serve:serve"))
app.command("validate")(_function("validate:validate"))
app.command("predict")(_function("predict:predict"))
app.command("report")(_function("report:report"))
_group(
    "hw",
    "What hardware is there, and what is wrong with a file.",
    {"list": "hw:list_hardware", "show": "hw:show", "check": "hw:check"},
)
app.add_typer(_mappers(), name="mappers")
_group(
    "caches",
    "Which replacement policies there are.",
    {"list": "caches:list_policies", "show": "caches:show_policy"},
)
_group("models", "What models are there.", {"list": "models:list_models", "show": "models:show_model"})
_group(
    "solve",
    "Memory plans with proofs.",
    {
        "alloc": "solve_alloc:alloc",
        "mapping": "solve_mapping:mapping",
        "offload": "solve_offload:offload",
        "pipeline": "solve_pipeline:pipeline",
        "schedule": "solve_schedule:schedule",
    },
)
_group(
    "trace",
    "Trace-driven device simulation.",
    {
        "bank": "trace_bank:trace_bank",
        "cache": "trace_cache:trace_cache",
        "dram": "trace_dram:trace_dram",
        "flash": "trace_flash:trace_flash",
        "gather": "trace_gather:trace_gather",
        "gpu": "trace_gpu:trace_gpu",
        "memory": "trace_memory:trace_memory",
        "pages": "trace_pages:trace_pages",
        "pim": "trace_pim:trace_pim",
        "product": "trace_product:trace_product",
        "search": "trace_search:trace_search",
    },
)
_group("study", "Published systems, claim by claim.", {"list": "study:list_studies", "run": "study:run"})


def _sweep() -> None:
    """``offchip sweep SPACE.yaml`` runs a space; the other calls look at what came of one."""
    from offchip.cli.sweep import SweepGroup

    group = typer.Typer(
        cls=SweepGroup,
        help="Design-space exploration: offchip sweep SPACE.yaml --out DIR",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for command in ("run", "status", "pareto", "best", "explain", "compare", "merge", "export"):
        group.command(command)(_function(f"sweep:{command}"))
    app.add_typer(group, name="sweep")


_sweep()


def _say_what_is_compiled() -> None:
    """The first use of a kernel takes seconds: say so on standard error, and only then."""
    compiling = logging.getLogger("offchip.compiled")
    compiling.setLevel(logging.INFO)
    compiling.addHandler(logging.StreamHandler())


def main() -> None:
    """Run the command line; leaves with 0, 2 (bad input), 3 (infeasible) or 4 (no answer in the limit)."""
    _say_what_is_compiled()
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
    except OSError as error:
        # A name no file system takes, no right to read, a disk that is full: the user's to mend.
        where = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        print(f"{where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # A usage error of the parser has a message for people; anything else is a defect and shows itself.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        print(f"offchip: {' '.join(message().split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
