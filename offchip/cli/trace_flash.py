"""``offchip trace flash``: run storage requests through a flash drive, event by event."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hw_configs.problems import InputError, Problem, bad_input, nearest

if TYPE_CHECKING:
    from simulator.flash.drive import Drive
    from simulator.flash.engine import RunOptions
    from simulator.flash.result import DriveResult, Latency
    from workloads.block_trace import BlockTrace, BlockWorkload

__all__ = ["trace_flash"]

_MODES = ("event", "fast")
FEWEST_BLOCKS = 48
"""Of a plane of a drive made smaller: enough for collection to work as it does in a whole one."""


def trace_flash(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|WORKLOAD",
            help="A block trace (may be .gz or .zst), a fio-like .yaml, or PATTERN:REQUESTS[:SEED], "
            "such as randread:100000.",
        ),
    ],
    hw: Annotated[
        str,
        typer.Option("--hw", help="A flash or csd device: a name from `offchip hw list`, or a YAML file."),
    ],
    format: Annotated[
        str | None,
        typer.Option(help="Trace format: mqsim, msr, spc or csv. Default: told from the first line."),
    ] = None,
    mode: Annotated[str, typer.Option(help="event: every command; fast: busy-until bookkeeping.")] = "event",
    block_size: Annotated[str, typer.Option(help="Bytes of a request of PATTERN:REQUESTS.")] = "4 KiB",
    read_percent: Annotated[float, typer.Option(help="Per cent of reads of rw and randrw.")] = 50.0,
    outstanding: Annotated[
        int | None,
        typer.Option(help="Closed loop: requests in flight. Default: 32, or 0 for a trace that names times."),
    ] = None,
    ignore_times: Annotated[bool, typer.Option(help="Closed loop, whatever times the trace names.")] = False,
    precondition: Annotated[
        str | None, typer.Option(help="none, fill, or age: what the drive went through before.")
    ] = None,
    overwrites: Annotated[
        float | None, typer.Option(help="Random overwrites of an aged drive, in capacities.")
    ] = None,
    capacity: Annotated[
        str | None,
        typer.Option(help="Make the drive smaller: fewer blocks per plane (at least 48), all else alike."),
    ] = None,
    placement: Annotated[str | None, typer.Option(help="Order of C, W, D and P, such as CWDP.")] = None,
    gc_policy: Annotated[
        str | None, typer.Option(help="greedy, d-choices, random, random-full or fifo.")
    ] = None,
    die_interleaving: Annotated[bool | None, typer.Option(help="Commands to several dies of a chip.")] = None,
    suspend: Annotated[str | None, typer.Option(help="none, program, erase or both.")] = None,
    internal: Annotated[
        bool, typer.Option(help="Requests of the drive's own compute: no host link.")
    ] = False,
    wrap: Annotated[bool, typer.Option(help="Let addresses beyond the capacity wrap around.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of what the drive draws (victims, retries).")] = 1,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run storage requests through a flash drive."""
    from offchip.cli.output import print_json

    if mode not in _MODES:
        raise bad_input(
            f"found {mode!r}; known: {', '.join(_MODES)}", path="--mode", suggestion=nearest(mode, _MODES)
        )
    changes = {
        "placement": placement, "gc_policy": gc_policy, "die_interleaving": die_interleaving,
        "suspend": suspend,
    }  # fmt: skip
    drive = _drive(hw, changes, capacity)
    requests, job = _requests(trace, drive, format, block_size, read_percent)
    options = _options(
        job, requests, outstanding, ignore_times, precondition, overwrites, internal, wrap, seed
    )
    result = _run(drive, requests, options, mode)
    if json:
        print_json(result.as_json())
    else:
        _print(result)
    if result.interrupted:
        raise typer.Exit(130)


def _drive(hw: str, changes: dict[str, Any], capacity: str | None) -> Drive:
    from hw_configs.device import ComputationalStorage, Flash
    from hw_configs.library import load_device
    from simulator.flash.drive import drive_of

    device = load_device(hw)
    if not isinstance(device, Flash | ComputationalStorage):
        raise bad_input(f"{hw!r} is a device of kind {device.kind!r}; expected 'flash' or 'csd'", path="--hw")
    store = device.store.model_dump()
    store["controller"] |= {name: value for name, value in changes.items() if value is not None}
    try:
        changed = device.model_copy(update={"store": type(device.store).model_validate(store)})
    except ValueError as error:
        raise InputError(list(_option_problems(error))) from None
    drive = drive_of(changed)
    return drive if capacity is None else _smaller(drive, _size(capacity, "--capacity"))


def _smaller(drive: Drive, capacity: int) -> Drive:
    """A drive of fewer blocks per plane, as full as the whole one."""
    from simulator.flash.drive import smaller

    share = capacity / drive.capacity_bytes
    if share > 1:
        raise bad_input("expected no more than the device holds", path="--capacity")
    return smaller(
        drive, min(max(int(drive.blocks_per_plane * share), FEWEST_BLOCKS), drive.blocks_per_plane)
    )


def _option_problems(error: ValueError) -> list[Problem]:
    import pydantic

    if not isinstance(error, pydantic.ValidationError):
        return [Problem(str(error))]
    problems = []
    for detail in error.errors():
        option = "--" + str(detail["loc"][-1]).replace("_", "-") if detail["loc"] else "--hw"
        message = detail["msg"][0].lower() + detail["msg"][1:]
        problems.append(Problem(f"found {detail['input']!r}; {message}", path=option))
    return problems


def _size(text: str, option: str) -> int:
    from hw_configs.units import UnitError, parse_quantity

    try:
        value = parse_quantity(text, "size")
    except UnitError as error:
        raise bad_input(str(error), path=option) from None
    if not 512 <= value < 2**60:
        raise bad_input(f"found {text!r}; expected 512 B or more", path=option)
    return int(value)


def _requests(
    text: str, drive: Drive, format: str | None, block_size: str, read_percent: float
) -> tuple[BlockTrace, BlockWorkload | None]:
    from hw_configs.whole_number import INT64_MOST, integer
    from workloads.block_trace import BlockWorkload, load_workload, open_block_trace, synthetic_blocks
    from workloads.block_trace.synthetic import PATTERNS
    from workloads.block_trace.trace import MAX_REQUEST

    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        job = load_workload(path)
        return synthetic_blocks(job, drive.capacity_bytes), job
    head, _, rest = text.partition(":")
    if path.exists() or (head not in PATTERNS and (not rest or "/" in head or "." in head)):
        return open_block_trace(text, format), None
    if head not in PATTERNS:
        raise bad_input(
            f"unknown pattern {head!r}; known: {', '.join(PATTERNS)}", suggestion=nearest(head, PATTERNS)
        )
    count, _, seed = rest.partition(":")
    ios, start = (
        integer(part, -INT64_MOST, INT64_MOST) for part in (count.replace("_", "") or "0", seed or "1")
    )
    if ios is None or start is None:
        raise bad_input(f"found {text[:80]!r}; expected PATTERN:REQUESTS or PATTERN:REQUESTS:SEED")
    if not 1 <= ios <= 10**12 or start < 0:
        raise bad_input(f"found {text!r}; expected 1 to 10^12 requests and a seed of 0 or more")
    if not 0 <= read_percent <= 100:
        raise bad_input(f"found {read_percent:g}; expected 0 to 100", path="--read-percent")
    size = _size(block_size, "--block-size")
    made = {"name": text, "rw": head, "bs": float(size), "number_ios": ios, "randseed": start}
    if size > MAX_REQUEST:
        raise bad_input(f"found {block_size!r}; expected at most {MAX_REQUEST} bytes", path="--block-size")
    job = BlockWorkload.model_validate(made | {"rwmixread": read_percent})
    return synthetic_blocks(job, drive.capacity_bytes), job


def _options(
    job: BlockWorkload | None, requests: BlockTrace, outstanding: int | None, ignore_times: bool,
    precondition: str | None, overwrites: float | None, internal: bool, wrap: bool, seed: int,
) -> RunOptions:  # fmt: skip
    from simulator.flash.aging import History
    from simulator.flash.engine import RunOptions

    before = precondition or (job.precondition if job is not None else "none")
    known = ("none", "fill", "age")
    if before not in known:
        raise bad_input(
            f"found {before!r}; known: {', '.join(known)}",
            path="--precondition",
            suggestion=nearest(before, known),
        )
    times = overwrites if overwrites is not None else (job.overwrites if job is not None else 1.0)
    history = None if before == "none" else History(overwrites=times if before == "age" else 0.0)
    if outstanding is None:
        timed = job.rate_iops is not None if job is not None else _has_times(requests)
        outstanding = 0 if timed and not ignore_times else (job.iodepth if job is not None else 32)
    return RunOptions(outstanding=outstanding, history=history, internal=internal, wrap=wrap, seed=seed)


def _has_times(requests: BlockTrace) -> bool:
    first = next(iter(requests.chunks(1)), None)
    return first is not None and bool(first.arrival.size)


def _run(drive: Drive, requests: BlockTrace, options: RunOptions, mode: str) -> DriveResult:
    from dataclasses import replace

    from offchip.cli.output import progress
    from simulator.flash.engine import simulate_drive
    from simulator.flash.fast import simulate_drive_fast

    with progress("requests", requests.count or 0) as bar:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            bar.advance(count - done)
            done = count

        run = simulate_drive if mode == "event" else simulate_drive_fast
        return run(drive, requests, replace(options, progress=advance))


def _print(result: DriveResult) -> None:
    import sys

    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    if result.interrupted:
        print("stopped: the figures below are those of the requests completed so far", file=sys.stderr)

    c = result.counts
    kinds = ((result.reads, "reads"), (result.writes, "writes"), (result.trims, "trims"))
    rows: list[tuple[object, ...]] = [
        ("requests", f"{result.requests:,}", ", ".join(f"{count:,} {name}" for count, name in kinds if count)),
        ("time", format_quantity(result.time_s, "time"), ""),
        ("IOPS", f"{result.iops:,.0f}", ""),
        ("bandwidth", format_quantity(result.bandwidth_bytes_per_s, "bandwidth"), ""),
    ]  # fmt: skip
    for name, part in (("read", result.read_latency), ("write", result.write_latency)):
        if part.count:
            rows.append(_latency(name, part))
    rows += [
        (
            "flash commands", f"{c['read_commands'] + c['multiplane_read_commands']:,} reads",
            f"{c['program_commands'] + c['multiplane_program_commands']:,} programs, {c['erase_commands']:,} erases; "
            f"pages {c['pages_read']:,} read, {c['pages_programmed']:,} programmed",
        ),
        (
            "channels busy", f"{result.channel_utilisation.mean():.1%}",
            f"{result.channel_utilisation.min():.1%} to {result.channel_utilisation.max():.1%}",
        ),
        (
            "dies busy", f"{result.unit_utilisation.mean():.1%}",
            f"{result.unit_utilisation.min():.1%} to {result.unit_utilisation.max():.1%}",
        ),
        ("host link busy", f"{max(result.wire_utilisation):.1%}", ""),
    ]  # fmt: skip
    if result.write_amplification is not None:
        moved = c["gc_page_moves"] / c["gc_executions"] if c["gc_executions"] else 0.0
        rows.append(
            (
                "write amplification", f"{result.write_amplification:.3f}",
                f"{c['gc_executions']:,} blocks collected, {moved:.1f} pages moved for each",
            )
        )  # fmt: skip
        wear = result.wear
        rows.append(
            (
                "erases of a block", f"{wear.erases_mean:.2f}",
                f"{wear.erases_least} to {wear.erases_most}; rated for {wear.rated_cycles:,}",
            )
        )  # fmt: skip
        if wear.host_bytes_until_worn is not None:
            size = format_quantity(wear.host_bytes_until_worn, "size")
            rows.append(("written until worn out", size, "at this write amplification, wear spread evenly"))
    energy = sum(result.energy_j.values())
    if energy:
        shares = ", ".join(
            f"{name.replace('_', ' ')} {value / energy:.0%}"
            for name, value in result.energy_j.items()
            if value
        )
        rows.append(("energy", format_quantity(energy, "energy"), shares))
    print_table(f"{result.trace} on {result.drive}, {result.mode} mode", ("", "value", ""), rows)


def _latency(name: str, part: Latency) -> tuple[object, ...]:
    points = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    shares = ", ".join(f"{label} {part.percentile_ns(share) / 1e3:,.1f}" for label, share in points)
    most = f"{shares}, max {part.most_ns / 1e3:,.1f} us"
    return (f"{name} latency, mean", f"{part.mean_ns / 1e3:,.1f} us", most)
