"""A memory trace through a DRAM device, command by command."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from hw_configs.problems import InputError, PhysicsError, Problem, bad_input, nearest
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto

if TYPE_CHECKING:
    from hw_configs.dram import DramDevice
    from simulator.cpu_cache.memory_requests import MissTrace
    from simulator.dram.checker import CommandCheck
    from simulator.dram.engine import Commands, Memory
    from simulator.dram.machine import Channel
    from simulator.dram.result import DramResult
    from workloads.memory_trace import MemoryTrace

__all__ = ["DramTraceOptions", "trace_dram"]


@dataclass(frozen=True, slots=True)
class DramTraceOptions:
    """How a trace meets a DRAM device.

    ``format``: loadstore, readwrite, ramulator1, ramulator1-cpu, dramsim3, dramsys, gem5 or csv (behind caches: of a
    program trace); None tells it from the first line. ``request_bytes``: bytes of a request of a file that names no
    sizes, a power of two; each becomes as many bursts as it takes. ``gap``: least cycles between two requests of a
    channel. ``outstanding``: requests in flight per channel, 0: no bound. ``ignore_cycles``: back to back, whatever
    cycles the trace names. From ``channels`` to ``write_queue``: instead of the device's own. ``wrap``: addresses
    beyond the capacity wrap around. ``leap``:
    skip whole periods of periodic streams, with the same result. ``commands``: a CSV file for every command.
    ``check``: hold every command against the device's rules, apart from the engine. ``timeline``: a picture of the
    cycles of ``window``. ``cache``: a device of kind cpu-cache; what it leaves of a program (misses, prefetches,
    write-backs) becomes the requests, with ``copies`` of the program on as many cores. Addresses then wrap, and as
    many misses are in flight as the cores have. ``latency_curve``: the trace again at rising loads, for latency under
    load (not behind caches).
    """

    format: str | None = None
    gap: int = 0
    outstanding: int = 0
    ignore_cycles: bool = False
    channels: int | None = None
    mapping: str | None = None
    scheduler: str | None = None
    row_policy: str | None = None
    cap: int | None = None
    refresh: str | None = None
    read_queue: int | None = None
    write_queue: int | None = None
    wrap: bool = False
    leap: bool = True
    commands: str | Path | None = None
    check: bool = False
    timeline: str | Path | None = None
    window: str = "0:500"
    cache: str | Path | None = None
    copies: int = 1
    request_bytes: int = 64
    latency_curve: bool = False

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not problems and (self.request_bytes < 1 or self.request_bytes & (self.request_bytes - 1)):
            problems = [
                Problem(f"found {self.request_bytes}; expected a power of two", path="--request-bytes")
            ]
        if self.latency_curve and self.cache is not None:
            problems.append(
                Problem("cannot go with --cache: caches pace the requests", path="--latency-curve")
            )
        if problems:
            raise InputError(problems)


class DramTraceChoices(TypedDict, total=False):
    """The fields of :class:`DramTraceOptions`, as keywords."""

    format: str | None
    gap: int
    outstanding: int
    ignore_cycles: bool
    channels: int | None
    mapping: str | None
    scheduler: str | None
    row_policy: str | None
    cap: int | None
    refresh: str | None
    read_queue: int | None
    write_queue: int | None
    wrap: bool
    leap: bool
    commands: str | Path | None
    check: bool
    timeline: str | Path | None
    window: str
    cache: str | Path | None
    copies: int
    request_bytes: int
    latency_curve: bool


def trace_dram(
    trace: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[DramTraceChoices]
) -> DramResult:
    """Run a memory trace through a DRAM device.

    ``trace`` is a file (may be .gz or .zst) or ``PATTERN:REQUESTS[:SEED]``; ``hw`` a DRAM device by name or YAML file;
    options are the fields of :class:`DramTraceOptions`. Raises ``InputError`` for bad input, ``PhysicsError`` when a
    command that is checked breaks a rule.

    >>> result = trace_dram("seq_read:1000", "ddr4-2400r", outstanding=32)
    >>> result.requests, result.row_hit_rate > 0.9
    (1000, True)
    """
    from simulator.dram.build import memory_of
    from simulator.dram.checker import CommandCheck
    from simulator.dram.engine import RunOptions, simulate_trace
    from simulator.dram.record import CommandFile
    from simulator.dram.timeline import Timeline, check_picture, draw_timeline
    from workloads.memory_trace import SplitTrace

    chosen = from_keywords(DramTraceOptions, options)
    device = _device(
        str(hw),
        {"channels": chosen.channels, "mapping": chosen.mapping},
        {
            name: getattr(chosen, name)
            for name in ("scheduler", "row_policy", "cap", "refresh", "read_queue", "write_queue")
        },
    )
    memory = memory_of(device)
    misses = None if chosen.cache is None else _behind_caches(str(trace), memory, chosen)
    requests: MemoryTrace = misses or _trace(str(trace), device, chosen, memory.channel)
    picture = None if chosen.timeline is None else Path(chosen.timeline)
    drawing = None
    if picture is not None:
        drawing = Timeline(*_window(chosen.window))
        check_picture(picture)
    with ExitStack() as stack:
        tally = stack.enter_context(progress("requests", requests.count or 0))
        file = None
        if chosen.commands is not None:
            file = stack.enter_context(CommandFile(Path(chosen.commands)))

        held = [CommandCheck(memory.channel) for _ in range(memory.channels)] if chosen.check else []

        def take(batch: Commands) -> None:
            if held:
                _check(held[batch.channel], batch)
            if file is not None:
                file.write(batch)
            if drawing is not None:
                drawing.add(batch)

        asked = RunOptions(
            gap=chosen.gap, outstanding=_in_flight(chosen, misses, memory.channels),
            use_arrivals=not chosen.ignore_cycles, wrap=chosen.wrap or misses is not None,
            leap=chosen.leap, commands=take if held or file is not None or drawing is not None else None,
            progress=upto(tally),
        )  # fmt: skip
        result = simulate_trace(memory, requests, asked)
        taken = requests.taken if isinstance(requests, SplitTrace) else 0
        if chosen.latency_curve and not result.interrupted:
            from simulator.dram.loaded_latency import latency_curve

            result = replace(result, latency_curve=latency_curve(memory, requests, asked))
        result = replace(result, trace_requests=taken)
        if drawing is not None and picture is not None:
            draw_timeline(drawing, memory.channel, picture)
    if misses is not None:
        from simulator.cpu_cache.cached_dram import with_caches

        return with_caches(result, misses.result)
    return result


def _behind_caches(trace: str, memory: Memory, chosen: DramTraceOptions) -> MissTrace:
    """What the caches leave of a program for the memory."""
    from offchip.tracing.cpu_cache import CpuCacheTraceOptions, cpu_device, kernel_options, program_of
    from simulator.cpu_cache.memory_requests import MissTrace

    program = CpuCacheTraceOptions(format=chosen.format, copies=chosen.copies)
    caches = cpu_device(str(chosen.cache), "--cache")
    return MissTrace(
        caches, program_of(trace, program), kernel_options(program), program.placement,
        memory.channel.transaction_bytes, memory.channel.tick_s,
    )  # fmt: skip


def _in_flight(chosen: DramTraceOptions, misses: MissTrace | None, channels: int) -> int:
    """Requests in flight of a channel: what the user says, or all misses that the cores have, dealt out."""
    if misses is None or chosen.outstanding:
        return chosen.outstanding
    bursts = max(int(misses.device.line) // misses.grain, 1)
    return max(-(-misses.device.outstanding_misses * misses.program.cores * bursts // channels), 1)


def _check(check: CommandCheck, batch: Commands) -> None:
    """Hold a batch of one channel's commands against the device's rules; raises ``PhysicsError`` naming the rule."""
    from simulator.dram.checker import Command

    # The checker knows one channel, whose own index is that of its targets.
    spots = [target.address for target in batch.targets]
    columns = (batch.tick, batch.code, batch.target, batch.row, batch.column)
    for tick, code, target, row, column in zip(*(part.tolist() for part in columns), strict=True):
        found = check.take(Command(tick, batch.names[code], (*spots[target], row, column)))
        if found is not None:
            raise PhysicsError(f"channel {batch.channel}: {found}")


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


def _trace(text: str, device: DramDevice, chosen: DramTraceOptions, channel: Channel) -> MemoryTrace:
    from hw_configs.whole_number import INT64_MOST, integer
    from simulator.dram.patterns import geometry_of
    from workloads.memory_trace import PATTERNS, SplitTrace, generate, open_trace

    head, _, rest = text.partition(":")
    if not Path(text).exists() and (head in PATTERNS or (rest and "/" not in head and "." not in head)):
        count, _, seed = rest.partition(":")
        requests = integer(count.replace("_", "") or "0", 0, 10**80)  # the generator says what it takes
        start = integer(seed or "1", 0, INT64_MOST)
        if requests is None or start is None:
            raise bad_input(f"found {text[:80]!r}; expected PATTERN:REQUESTS or PATTERN:REQUESTS:SEED")
        return generate(head, requests, start, geometry_of(device))
    file = open_trace(text, chosen.format, channel.tick_s)
    return SplitTrace(file, channel.transaction_bytes, chosen.request_bytes)


def _window(text: str) -> tuple[int, int]:
    from hw_configs.whole_number import INT64_MOST, integer

    first, last = (integer(part, 0, INT64_MOST) for part in text.partition(":")[::2])
    if first is None or last is None or first >= last:
        raise bad_input(f"found {text[:80]!r}; expected FIRST:LAST in cycles, such as 0:500", path="--window")
    return first, last
