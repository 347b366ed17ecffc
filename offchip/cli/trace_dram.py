"""``offchip trace dram``: run a memory trace through a DRAM device, cycle by cycle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hw_configs.problems import InputError, Problem, bad_input, nearest

if TYPE_CHECKING:
    from hw_configs.dram import DramDevice
    from simulator.dram.result import DramResult
    from workloads.memory_trace import MemoryTrace

__all__ = ["trace_dram"]


def trace_dram(
    trace: Annotated[
        str,
        typer.Argument(
            help="A trace file (may be .gz or .zst), or PATTERN:REQUESTS[:SEED], such as seq_read:1000000."
        ),
    ],
    hw: Annotated[
        str, typer.Option("--hw", help="A DRAM device: a name from `offchip hw list`, or a YAML file.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="Trace format: loadstore, readwrite, dramsim3 or csv. Default: told from the first line."
        ),
    ] = None,
    gap: Annotated[int, typer.Option(help="Least cycles between two requests of a channel.")] = 0,
    outstanding: Annotated[
        int, typer.Option(help="Closed loop: requests in flight per channel; 0: no bound.")
    ] = 0,
    ignore_cycles: Annotated[
        bool, typer.Option(help="Offer requests back to back, whatever cycles the trace names.")
    ] = False,
    channels: Annotated[int | None, typer.Option(help="Channels, instead of the device's.")] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            help="Address mapping: RoBaRaCoCh, ChRaBaRoCo, MOP4CLXOR, or fields such as 'ro ba bg ra co ch'."
        ),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="frfcfs or frfcfs-rowhit.")] = None,
    row_policy: Annotated[str | None, typer.Option(help="open, closed, capped or timeout.")] = None,
    cap: Annotated[int | None, typer.Option(help="Column accesses before a capped row closes.")] = None,
    refresh: Annotated[
        str | None, typer.Option(help="all-bank, per-bank, same-bank, paired-per-bank or off.")
    ] = None,
    read_queue: Annotated[int | None, typer.Option(help="Entries of the read queue.")] = None,
    write_queue: Annotated[int | None, typer.Option(help="Entries of the write queue.")] = None,
    wrap: Annotated[bool, typer.Option(help="Let addresses beyond the capacity wrap around.")] = False,
    leap: Annotated[
        bool, typer.Option(help="Skip whole periods of periodic streams; the result is the same.")
    ] = True,
    commands: Annotated[
        Path | None, typer.Option(help="Write every DRAM command to this CSV file (.gz packs it).")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw the commands of a window to this .png or .svg file.")
    ] = None,
    window: Annotated[str, typer.Option(help="Cycles to draw, FIRST:LAST.")] = "0:500",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a memory trace through a DRAM device, command by command."""
    from offchip.cli.output import print_json
    from simulator.dram.build import memory_of

    device = _device(
        hw,
        {"channels": channels, "mapping": mapping},
        {
            "scheduler": scheduler, "row_policy": row_policy, "cap": cap, "refresh": refresh,
            "read_queue": read_queue, "write_queue": write_queue,
        },
    )  # fmt: skip
    memory = memory_of(device)
    requests = _trace(trace, device, format)
    shown = _window(window) if timeline is not None else None
    result = _run(memory, requests, gap, outstanding, ignore_cycles, wrap, leap, commands, timeline, shown)
    if json:
        print_json(result.as_json())
    else:
        _print(result)
    if result.interrupted:
        raise typer.Exit(130)


def _device(hw: str, changes: dict[str, Any], controller: dict[str, Any]) -> DramDevice:
    import pydantic

    from hw_configs.dram import DramDevice
    from hw_configs.library import load_device

    device = load_device(hw)
    if not isinstance(device, DramDevice):
        raise bad_input(f"{hw!r} is a device of kind {device.kind!r}; expected kind 'dram'", path="--hw")
    data = device.model_dump(exclude_none=True)
    wanted = {name: value for name, value in changes.items() if value is not None}
    tuned = {name: value for name, value in controller.items() if value is not None}
    if not wanted and not tuned:
        return device
    data |= wanted
    data["controller"] |= tuned
    try:
        return DramDevice.model_validate(data)
    except pydantic.ValidationError as error:
        raise InputError([_option_problem(detail) for detail in error.errors()]) from None


def _option_problem(detail: Any) -> Problem:
    """What is wrong with an option that changes the device."""
    option = "--" + str(detail["loc"][-1]).replace("_", "-") if detail["loc"] else "--hw"
    valid = str(detail.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    near = nearest(str(detail["input"]), valid)
    return Problem(
        f"found {detail['input']!r}; {detail['msg'][0].lower()}{detail['msg'][1:]}", None, None, option, near
    )


def _trace(text: str, device: DramDevice, format: str | None) -> MemoryTrace:
    from hw_configs.whole_number import INT64_MOST, integer
    from simulator.dram.patterns import geometry_of
    from workloads.memory_trace import PATTERNS, generate, open_trace

    head, _, rest = text.partition(":")
    if not Path(text).exists() and (head in PATTERNS or (rest and "/" not in head and "." not in head)):
        count, _, seed = rest.partition(":")
        requests = integer(count.replace("_", "") or "0", 0, INT64_MOST)
        start = integer(seed or "1", 0, INT64_MOST)
        if requests is None or start is None:
            raise bad_input(f"found {text[:80]!r}; expected PATTERN:REQUESTS or PATTERN:REQUESTS:SEED")
        return generate(head, requests, start, geometry_of(device))
    return open_trace(text, format)


def _window(text: str) -> tuple[int, int]:
    from hw_configs.whole_number import INT64_MOST, integer

    first, last = (integer(part, 0, INT64_MOST) for part in text.partition(":")[::2])
    if first is None or last is None or first >= last:
        raise bad_input(f"found {text[:80]!r}; expected FIRST:LAST in cycles, such as 0:500", path="--window")
    return first, last


def _run(
    memory: Any, trace: MemoryTrace, gap: int, outstanding: int, ignore_cycles: bool, wrap: bool, leap: bool,
    commands: Path | None, timeline: Path | None, window: tuple[int, int] | None,
) -> DramResult:  # fmt: skip
    from contextlib import ExitStack

    from offchip.cli.output import progress
    from simulator.dram.engine import Commands, RunOptions, simulate_trace
    from simulator.dram.record import CommandFile
    from simulator.dram.timeline import Timeline, check_picture, draw_timeline

    if timeline is not None:
        check_picture(timeline)
    with ExitStack() as stack:
        bar = stack.enter_context(progress("requests", trace.count or 0))
        file = stack.enter_context(CommandFile(commands)) if commands is not None else None
        drawing = Timeline(*window) if window is not None else None
        done = 0

        def advance(requests: int) -> None:
            nonlocal done
            bar.advance(requests - done)
            done = requests

        def take(batch: Commands) -> None:
            if file is not None:
                file.write(batch)
            if drawing is not None:
                drawing.add(batch)

        options = RunOptions(
            gap=gap, outstanding=outstanding, use_arrivals=not ignore_cycles, wrap=wrap, leap=leap,
            commands=take if file is not None or drawing is not None else None, progress=advance,
        )  # fmt: skip
        result = simulate_trace(memory, trace, options)
        if drawing is not None:
            assert timeline is not None
            draw_timeline(drawing, memory.channel, timeline)
    return result


def _print(result: DramResult) -> None:
    import sys

    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    ns = result.tick_s * 1e9
    if result.interrupted:
        print("stopped: the figures below are those of the requests taken so far", file=sys.stderr)
    if result.addresses_wrapped:
        print(
            f"{result.addresses_wrapped} addresses were beyond the capacity and wrapped around",
            file=sys.stderr,
        )
    peak = format_quantity(result.peak_bytes_per_s, "bandwidth")
    issued = ", ".join(f"{name} {count:,}" for name, count in result.commands.items())
    rows: list[tuple[object, ...]] = [
        ("requests", f"{result.requests:,}", f"{result.reads:,} reads, {result.writes:,} writes"),
        ("cycles", f"{result.cycles_drain:,}", f"of {ns:.4g} ns; last accepted at {result.cycles_accept:,}"),
        ("time", format_quantity(result.time_s, "time"), ""),
        (
            "bandwidth", format_quantity(result.bandwidth_bytes_per_s, "bandwidth"),
            f"{result.utilisation:.1%} of the pins' {peak}",
        ),
        (
            "read latency, mean", f"{result.read_latency_mean * ns:.1f} ns",
            f"p50 {result.read_latency(0.5) * ns:.1f}, p99 {result.read_latency(0.99) * ns:.1f}, "
            f"max {result.latency_max * ns:.1f} ns",
        ),
        (
            "row hits", f"{result.row_hit_rate:.1%}",
            f"{result.row_hits:,} hits, {result.row_misses:,} misses, {result.row_conflicts:,} conflicts",
        ),
        ("forwarded, coalesced", f"{result.reads_forwarded:,}", f"{result.writes_coalesced:,} writes merged"),
        (
            "queues, mean", f"{result.occupancy.read_mean:.1f}",
            f"reads waiting; writes {result.occupancy.write_mean:.1f}; most {result.occupancy.read_peak} and "
            f"{result.occupancy.write_peak}",
        ),
        ("refresh", f"{result.refresh_share:.2%}", "of bank time"),
        ("commands", f"{sum(result.commands.values()):,}", issued),
    ]  # fmt: skip
    if result.energy is not None:
        parts = {k: v for k, v in result.energy.as_dict().items() if v and k != "total"}
        shares = ", ".join(
            f"{name.replace('_', ' ')} {value / result.energy.total:.0%}" for name, value in parts.items()
        )
        rows.append(("energy", format_quantity(result.energy.total, "energy"), shares))
        if result.bytes_moved:
            rows.append(
                ("energy per bit", f"{result.energy.total / result.bytes_moved / 8 * 1e12:.2f} pJ", "")
            )
    print_table(f"{result.trace} on {result.device}", ("", "value", ""), rows)
