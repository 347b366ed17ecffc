"""Storage requests through a flash drive, event by event."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto

if TYPE_CHECKING:
    from simulator.flash.drive import Drive
    from simulator.flash.engine import RunOptions
    from simulator.flash.result import DriveResult
    from workloads.block_trace import BlockTrace, BlockWorkload

__all__ = ["FlashTraceOptions", "trace_flash"]

_MODES: Final = ("event", "fast")
FEWEST_BLOCKS: Final = 48
"""Of a plane of a drive made smaller: enough for collection to work as it does in a whole one."""


@dataclass(frozen=True, slots=True)
class FlashTraceOptions:
    """How requests meet a drive.

    ``format``: mqsim, msr, spc or csv; None tells it from the first line. ``mode``: event (every command) or fast
    (busy-until bookkeeping). ``block_size`` and ``read_percent`` are of a PATTERN:REQUESTS. ``outstanding``: requests
    in flight; None takes 32, or 0 for a trace that names times. ``precondition``: none, fill or age, with
    ``overwrites`` of the capacity. ``capacity`` makes the drive smaller. From ``placement`` to ``suspend``: instead of
    the drive's own. ``internal``: requests of the drive's own compute, without the host link.
    """

    format: str | None = None
    mode: str = "event"
    block_size: str = "4 KiB"
    read_percent: float = 50.0
    outstanding: int | None = None
    ignore_times: bool = False
    precondition: str | None = None
    overwrites: float | None = None
    capacity: str | None = None
    placement: str | None = None
    gc_policy: str | None = None
    die_interleaving: bool | None = None
    suspend: str | None = None
    internal: bool = False
    wrap: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        if self.mode not in _MODES:
            near = nearest(self.mode, _MODES)
            raise bad_input(
                f"found {self.mode!r}; known: {', '.join(_MODES)}", path="--mode", suggestion=near
            )


class FlashTraceChoices(TypedDict, total=False):
    """The fields of :class:`FlashTraceOptions`, as keywords."""

    format: str | None
    mode: str
    block_size: str
    read_percent: float
    outstanding: int | None
    ignore_times: bool
    precondition: str | None
    overwrites: float | None
    capacity: str | None
    placement: str | None
    gc_policy: str | None
    die_interleaving: bool | None
    suspend: str | None
    internal: bool
    wrap: bool
    seed: int


def trace_flash(
    trace: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[FlashTraceChoices]
) -> DriveResult:
    """Run storage requests through a flash drive.

    ``trace`` is a block trace, a fio-like .yaml or ``PATTERN:REQUESTS[:SEED]``; ``hw`` a flash or csd device by name
    or YAML file; options are the fields of :class:`FlashTraceOptions`. Raises ``InputError`` for bad input.

    >>> result = trace_flash("randread:500", "nvme-pcie4-dc-tlc", mode="fast")
    >>> result.reads
    500
    """
    from simulator.flash.engine import simulate_drive
    from simulator.flash.fast import simulate_drive_fast

    chosen = from_keywords(FlashTraceOptions, options)
    changes = {
        name: getattr(chosen, name) for name in ("placement", "gc_policy", "die_interleaving", "suspend")
    }
    drive = _drive(str(hw), changes, chosen.capacity)
    requests, job = _requests(str(trace), drive, chosen.format, chosen.block_size, chosen.read_percent)
    asked = _options(job, requests, chosen)
    run = simulate_drive if chosen.mode == "event" else simulate_drive_fast
    with progress("requests", requests.count or 0) as tally:
        return run(drive, requests, replace(asked, progress=upto(tally)))


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


def _options(job: BlockWorkload | None, requests: BlockTrace, chosen: FlashTraceOptions) -> RunOptions:
    from simulator.flash.aging import History
    from simulator.flash.engine import RunOptions

    before = chosen.precondition or (job.precondition if job is not None else "none")
    known = ("none", "fill", "age")
    if before not in known:
        raise bad_input(
            f"found {before!r}; known: {', '.join(known)}",
            path="--precondition",
            suggestion=nearest(before, known),
        )
    times = (
        chosen.overwrites if chosen.overwrites is not None else (job.overwrites if job is not None else 1.0)
    )
    history = None if before == "none" else History(overwrites=times if before == "age" else 0.0)
    outstanding = chosen.outstanding
    if outstanding is None:
        timed = job.rate_iops is not None if job is not None else _has_times(requests)
        outstanding = 0 if timed and not chosen.ignore_times else (job.iodepth if job is not None else 32)
    return RunOptions(
        outstanding=outstanding, history=history, internal=chosen.internal, wrap=chosen.wrap, seed=chosen.seed
    )


def _has_times(requests: BlockTrace) -> bool:
    first = next(iter(requests.chunks(1)), None)
    return first is not None and bool(first.arrival.size)
