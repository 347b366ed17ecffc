"""``offchip trace pim``: run a program through a PIM memory, cycle by cycle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hw_configs.problems import InputError, PhysicsError, Problem, bad_input

if TYPE_CHECKING:
    from hw_configs.device import Pim
    from simulator.pim.engine import PimCommands, PimEngine
    from simulator.pim.program import Program
    from simulator.pim.result import PimResult

__all__ = ["trace_pim"]

_STEPS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("published", {}),
    ("published, tFAW over all activations", {"activation": "honest"}),
    ("published, refresh as in honest", {"refresh": "honest"}),
    ("published, registers over the pins", {"register_io": "honest"}),
    ("honest", {"honest": True}),
)


def trace_pim(
    program: Annotated[
        str,
        typer.Argument(
            help="A program file (may be .gz), or gemv:MxK[:CHANNELS[:VARIANT]], such as gemv:4096x4096."
        ),
    ],
    hw: Annotated[
        str, typer.Option("--hw", help="A PIM device: a name from `offchip hw list`, or a YAML file.")
    ],
    honest: Annotated[
        bool,
        typer.Option("--honest", help="All rules of a real memory: tFAW, refresh, registers over the pins."),
    ] = False,
    compare_rules: Annotated[
        bool, typer.Option("--compare-rules", help="Run under published and honest rules and each between.")
    ] = False,
    refresh: Annotated[
        str | None, typer.Option(help="off, immediate or row-boundary, instead of the rules' own.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="waived or honest, instead of the rules' own.")
    ] = None,
    register_io: Annotated[
        str | None, typer.Option(help="published or honest timings of registers, instead of the rules' own.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels, instead of the device's.")] = None,
    start_cycle: Annotated[
        int, typer.Option(help="Cycle of the refresh grid at which the program starts.")
    ] = 0,
    settle: Annotated[
        bool, typer.Option("--settle", help="Count until all rows are closed and every timer is over.")
    ] = False,
    leap: Annotated[bool, typer.Option(help="Skip what repeats exactly; the result is the same.")] = True,
    commands: Annotated[
        Path | None, typer.Option(help="Write every command to this CSV file (.gz packs it).")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Hold every command against the device's rules (slow).")
    ] = False,
    write: Annotated[Path | None, typer.Option(help="Write the program as text to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a program through a PIM memory, command by command."""
    from offchip.cli.output import print_json
    from simulator.pim.engine import PimEngine

    device = _device(hw, channels)
    chosen = {"refresh": refresh, "activation": activation, "register_io": register_io}
    if compare_rules and (honest or commands is not None or check or any(chosen.values())):
        raise bad_input("runs under every rule by itself; leave other rules, --commands and --check out",
                        path="--compare-rules")  # fmt: skip
    entries = _program(program, device)
    if write is not None:
        _write(entries, write)
    if compare_rules:
        _compare(device, entries, start_cycle, settle, leap, json)
        return
    engine = PimEngine(device, honest, **{name: value for name, value in chosen.items() if value})  # type: ignore[arg-type]
    result = _run(engine, entries, start_cycle, settle, leap, commands, check)
    if json:
        print_json(result.as_json() | ({"checked": True} if check else {}))
    else:
        _print(result, engine, check)
    if result.interrupted:
        raise typer.Exit(130)


def _device(hw: str, channels: int | None) -> Pim:
    import pydantic

    from hw_configs.device import Pim
    from hw_configs.library import load_device
    from hw_configs.pim import with_organisation

    device = load_device(hw)
    if not isinstance(device, Pim):
        raise bad_input(f"{hw!r} is a device of kind {device.kind!r}; expected kind 'pim'", path="--hw")
    if channels is None:
        return device
    try:
        return with_organisation(device, channels=channels)
    except pydantic.ValidationError as error:
        detail = error.errors()[0]
        reason = str(detail.get("ctx", {}).get("error") or detail["msg"])
        message = f"found {channels}; {reason[0].lower()}{reason[1:]}"
        raise InputError([Problem(message, path="--channels")]) from None


def _program(text: str, device: Pim) -> Program:
    from hw_configs.whole_number import is_whole
    from simulator.pim.gemv import gemv_program
    from simulator.pim.text import read_program

    if not text.startswith("gemv:") or Path(text).exists():
        return read_program(Path(text))
    size, *rest = text.removeprefix("gemv:").split(":")
    m, _, k = size.partition("x")
    numbers = [m, k, *rest[:1]]
    if len(rest) > 2 or not all(is_whole(part) and len(part) < 10 for part in numbers):
        raise bad_input(f"found {text!r}; expected gemv:MxK, gemv:MxK:CHANNELS or gemv:MxK:CHANNELS:VARIANT")
    used = int(rest[0]) if rest else device.channels
    if not 1 <= used <= device.channels:
        raise bad_input(
            f"found {used} channels in {text!r}; {device.name} has {device.channels} (see --channels)"
        )
    return gemv_program(device, int(m), int(k), (1 << used) - 1, rest[1] if len(rest) > 1 else "full")


def _write(program: Program, path: Path) -> None:
    from hw_configs.output_file import replacing
    from simulator.pim.text import write_program

    with replacing(path) as partial:
        partial.write_text(write_program(program), encoding="utf-8")


def _run(
    engine: PimEngine, program: Program, start_cycle: int, settle: bool, leap: bool, commands: Path | None, check: bool
) -> PimResult:  # fmt: skip
    from offchip.cli.output import progress

    done = 0
    with progress("commands", 0) as bar:

        def advance(issued: int) -> None:
            nonlocal done
            bar.advance(issued - done)
            done = issued

        def take(batch: PimCommands) -> None:
            lines = batch.lines()
            if commands is not None:
                _write_commands(commands, lines)
            if check:
                _check(engine, lines)

        sink = take if commands is not None or check else None
        return engine.run(
            program, start_cycle=start_cycle, settle=settle, leap=leap, commands=sink, progress=advance
        )


def _write_commands(path: Path, lines: list[str]) -> None:
    import gzip

    from hw_configs.output_file import replacing

    with replacing(path) as partial:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(partial, "wt", encoding="utf-8") as stream:
            stream.write("tick,command,address\n")
            stream.writelines(f"{line}\n" for line in lines)


def _check(engine: PimEngine, lines: list[str]) -> None:
    """Hold the commands of every channel that was run against its rules."""
    from simulator.pim.checker import check_pim_commands, parse_command

    by_channel: dict[int, list[Any]] = {}
    for line in lines:
        command = parse_command(line)
        by_channel.setdefault(command.channel, []).append(command)
    for channel, issued in by_channel.items():
        found = check_pim_commands(engine.device, engine.choice, issued)
        if found is not None:
            raise PhysicsError(f"channel {channel}: {found}")


def _compare(device: Pim, program: Program, start_cycle: int, settle: bool, leap: bool, json: bool) -> None:
    from offchip.cli.output import print_json, print_table
    from simulator.pim.engine import PimEngine

    results: dict[str, PimResult] = {}
    for name, choice in _STEPS:
        wanted: dict[str, Any] = dict(choice)
        if wanted.get("refresh") == "honest":
            wanted["refresh"] = device.rules.honest.refresh
        engine = PimEngine(device, **wanted)
        results[name] = engine.run(program, start_cycle=start_cycle, settle=settle, leap=leap)
    base = results["published"]
    if json:
        rows = {
            name: {
                **result.as_json(),
                "time_over_published": result.time_s / base.time_s if base.cycles else None,
            }
            for name, result in results.items()
        }
        print_json({"program": program.name, "device": device.name, "rules": rows})
        return
    lines: list[tuple[object, ...]] = [
        (
            name, f"{result.cycles:,}", f"{result.time_s / base.time_s if base.cycles else 1:.3f}",
            f"{result.refreshes:,}", f"{result.mac_utilisation:.1%}", f"{result.energy.total * 1e6:.4g}",
            f"{result.energy.total / base.energy.total if base.energy.total else 1:.3f}",
        )
        for name, result in results.items()
    ]  # fmt: skip
    columns = (
        "rules",
        "cycles",
        "time / published",
        "refreshes",
        "MAC use",
        "energy uJ",
        "energy / published",
    )
    print_table(f"{program.name} on {device.name}", columns, lines)


def _print(result: PimResult, engine: PimEngine, checked: bool) -> None:
    import sys

    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    if result.interrupted:
        print("stopped: the figures below are those of the commands issued so far", file=sys.stderr)
    ns = result.tick_s * 1e9
    issued = ", ".join(f"{name} {count:,}" for name, count in result.commands.items())
    pins = ", ".join(f"{kind} {count:,}" for kind, count in result.bytes_over_pins.items() if count)
    mean = sum(g.open_cycles * g.channels for g in result.groups) / max(
        sum(g.channels for g in result.groups), 1
    )
    total = result.energy.total
    shares = ", ".join(
        f"{name} {value / total:.0%}"
        for name, value in result.energy.as_dict().items()
        if value and name != "total"
    )
    used = sum(group.channels for group in result.groups if group.commands)
    rows: list[tuple[object, ...]] = [
        ("instructions", f"{result.instructions:,}", f"in {used} of {result.channels} channels"),
        ("cycles", f"{result.cycles:,}", f"of {ns:.4g} ns; a row open for {mean:,.0f} of them"),
        ("time", format_quantity(result.time_s, "time"), f"rules: {result.rules}"),
        ("multiply-accumulates", f"{result.macs:,}", f"{result.mac_utilisation:.1%} of what all units could do"),
        (
            "row hits", f"{result.row_hit_rate:.2%}",
            f"{result.column_accesses:,} column accesses, {result.row_misses:,} misses; {result.activations:,} rows "
            f"opened",
        ),
        ("refreshes", f"{result.refreshes:,}", ""),
        ("bytes over the pins", f"{result.pin_bytes:,}", pins),
        ("bytes inside", f"{result.bytes_in_banks:,}", "read or written by units"),
        ("commands", f"{sum(result.commands.values()):,}", issued),
        ("energy", format_quantity(total, "energy"), shares),
    ]  # fmt: skip
    if checked:
        rows.append(("checked", "yes", f"every command keeps the {engine.rules} rules"))
    print_table(f"{result.program} on {result.device}", ("", "value", ""), rows)
    if set(result.phases) != {""} and result.phases:
        phases = [
            (label or "(before)", f"{p.cycles:,}", f"{p.cycles / max(result.cycles, 1):.1%}",
             f"{p.energy.total * 1e6:.4g}")
            for label, p in result.phases.items()
        ]  # fmt: skip
        print_table("phases", ("phase", "cycles", "of all", "energy uJ without standby"), phases)
