"""A program through a PIM memory, command by command, under one set of rules or under each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InputError, PhysicsError, Problem, bad_input
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto

if TYPE_CHECKING:
    from hw_configs.device import Pim
    from simulator.pim.engine import PimCommands, PimEngine
    from simulator.pim.program import Program
    from simulator.pim.result import PimResult

__all__ = ["PimRules", "PimTraceOptions", "trace_pim", "trace_pim_rules"]

_STEPS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("published", {}),
    ("published, tFAW over all activations", {"activation": "honest"}),
    ("published, refresh as in honest", {"refresh": "honest"}),
    ("published, registers over the pins", {"register_io": "honest"}),
    ("honest", {"honest": True}),
)


@dataclass(frozen=True, slots=True)
class PimTraceOptions:
    """How a program meets a PIM memory.

    ``honest``: all rules of a real memory (tFAW, refresh, registers over the pins). ``refresh`` (off, immediate,
    row-boundary), ``activation`` (waived, honest) and ``register_io`` (published, honest): instead of the rules' own.
    ``channels``: instead of the device's. ``start_cycle``: of the refresh grid. ``settle``: count until all rows are
    closed. ``leap``: skip what repeats exactly, with the same result. ``commands``: a CSV file for every command.
    ``check``: hold every command against the device's rules. ``write``: a file for the program as text.
    """

    honest: bool = False
    refresh: str | None = None
    activation: str | None = None
    register_io: str | None = None
    channels: int | None = None
    start_cycle: int = 0
    settle: bool = False
    leap: bool = True
    commands: str | Path | None = None
    check: bool = False
    write: str | Path | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)


class PimTraceChoices(TypedDict, total=False):
    """The fields of :class:`PimTraceOptions`, as keywords."""

    honest: bool
    refresh: str | None
    activation: str | None
    register_io: str | None
    channels: int | None
    start_cycle: int
    settle: bool
    leap: bool
    commands: str | Path | None
    check: bool
    write: str | Path | None


def trace_pim(
    program: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[PimTraceChoices]
) -> PimResult:
    """Run a program through a PIM memory.

    ``program`` is a file or ``gemv:MxK[:CHANNELS[:VARIANT]]``; ``hw`` a PIM device by name or YAML file; options are
    the fields of :class:`PimTraceOptions`. Raises ``InputError`` for bad input, ``PhysicsError`` when a command that
    is checked breaks a rule.

    >>> trace_pim("gemv:1024x1024", "gddr6-aim").macs
    1048576
    """
    from simulator.pim.engine import PimEngine

    chosen = from_keywords(PimTraceOptions, options)
    device, entries = _loaded(program, hw, chosen)
    rules = {name: getattr(chosen, name) for name in ("refresh", "activation", "register_io")}
    engine = PimEngine(device, chosen.honest, **{name: value for name, value in rules.items() if value})
    file = None if chosen.commands is None else Path(chosen.commands)

    def take(batch: PimCommands) -> None:
        lines = batch.lines()
        if file is not None:
            _write_commands(file, lines)
        if chosen.check:
            _check(engine, lines)

    with progress("commands", 0) as tally:
        return engine.run(
            entries, start_cycle=chosen.start_cycle, settle=chosen.settle, leap=chosen.leap,
            commands=take if file is not None or chosen.check else None, progress=upto(tally),
        )  # fmt: skip


@dataclass(frozen=True)
class PimRules(Shown):
    """One program under published rules, under honest ones, and with each honest rule alone."""

    program: str
    device: str
    results: Mapping[str, PimResult]

    def as_json(self) -> dict[str, Any]:
        """The runs as plain data, each with its time over that of the published rules."""
        base = self.results["published"]
        rows = {
            name: {
                **result.as_json(),
                "time_over_published": result.time_s / base.time_s if base.cycles else None,
            }
            for name, result in self.results.items()
        }
        return {"program": self.program, "device": self.device, "rules": rows}

    def shown_tables(self) -> tuple[Table, ...]:
        """A row for each set of rules."""
        base = self.results["published"]
        rows = tuple(
            (
                name, f"{result.cycles:,}", f"{result.time_s / base.time_s if base.cycles else 1:.3f}",
                f"{result.refreshes:,}", f"{result.mac_utilisation:.1%}", f"{result.energy.total * 1e6:.4g}",
                f"{result.energy.total / base.energy.total if base.energy.total else 1:.3f}",
            )
            for name, result in self.results.items()
        )  # fmt: skip
        columns = (
            "rules", "cycles", "time / published", "refreshes", "MAC use", "energy uJ", "energy / published",
        )  # fmt: skip
        return (Table(f"{self.program} on {self.device}", columns, rows),)


def trace_pim_rules(program: str | Path, hw: str | Path, **options: Unpack[PimTraceChoices]) -> PimRules:
    """Run a program under published and honest rules and each between; options that set rules are refused."""
    from simulator.pim.engine import PimEngine

    chosen = from_keywords(PimTraceOptions, options)
    free = ("channels", "start_cycle", "settle", "leap", "write")
    if any(getattr(chosen, f.name) != f.default for f in fields(chosen) if f.name not in free):
        message = "runs under every rule by itself; leave other rules, --commands and --check out"
        raise bad_input(message, path="--compare-rules")
    device, entries = _loaded(program, hw, chosen)
    results: dict[str, PimResult] = {}
    for name, choice in _STEPS:
        wanted: dict[str, Any] = dict(choice)
        if wanted.get("refresh") == "honest":
            wanted["refresh"] = device.rules.honest.refresh
        engine = PimEngine(device, **wanted)
        results[name] = engine.run(
            entries, start_cycle=chosen.start_cycle, settle=chosen.settle, leap=chosen.leap
        )
    return PimRules(entries.name, device.name, results)


def _loaded(program: str | Path, hw: str | Path, chosen: PimTraceOptions) -> tuple[Pim, Program]:
    device = _device(str(hw), chosen.channels)
    entries = _program(str(program), device)
    if chosen.write is not None:
        _write(entries, Path(chosen.write))
    return device, entries


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
