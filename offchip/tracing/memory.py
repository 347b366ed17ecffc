"""A recording of a GPU's memory through an allocator: what it reserves, and how much of that is fragmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, Problem, bad_input, nearest
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.units import format_quantity
from offchip.keywords import from_keywords

if TYPE_CHECKING:
    from mapping.allocation.pytorch_snapshot import Recording
    from mapping.training.recorded_requests import AllocatorUse

__all__ = ["MemoryReplay", "MemoryTraceOptions", "trace_memory"]

ALLOCATORS: Final = ("caching", "expandable", "planned")
USUAL_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class MemoryTraceOptions:
    """How a recording is replayed.

    ``allocator``: caching (PyTorch's, with segments of fixed sizes), expandable (the same with expandable segments) or
    planned (one address for each block, solved beforehand). ``device_index``: which device of the snapshot.
    ``capacity``: bytes that the driver can give, or a size with its unit. ``allocator_conf``: settings of the caching
    allocator as ``PYTORCH_CUDA_ALLOC_CONF`` states them. Of planned: seconds of the search as
    ``time_limit``, and its ``seed``.
    """

    allocator: str = "caching"
    device_index: int | None = None
    capacity: str | int | None = None
    time_limit: float = USUAL_SECONDS
    seed: int = 0
    allocator_conf: str = ""

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not problems and self.allocator_conf and self.allocator == "planned":
            found = "planned addresses have no such settings: leave this option out"
            problems.append(Problem(found, path="--allocator-conf"))
        if not problems and self.allocator not in ALLOCATORS:
            found = f"found {self.allocator[:80]!r}; expected {', '.join(ALLOCATORS)}"
            problems.append(
                Problem(found, path="--allocator", suggestion=nearest(self.allocator, ALLOCATORS))
            )
        if not problems and self.device_index is not None and self.device_index < 0:
            problems.append(Problem(f"found {self.device_index}; expected at least 0", path="--device-index"))
        if not problems and not self.time_limit > 0:
            found = f"found {self.time_limit:g}; expected seconds above zero"
            problems.append(Problem(found, path="--time-limit"))
        if problems:
            raise InputError(problems)


class MemoryTraceChoices(TypedDict, total=False):
    """The fields of :class:`MemoryTraceOptions`, as keywords."""

    allocator: str
    device_index: int | None
    capacity: str | int | None
    time_limit: float
    seed: int
    allocator_conf: str


@dataclass(frozen=True)
class MemoryReplay(Shown):
    """A recording and what an allocator made of it; all sizes in bytes.

    ``recorded`` is what the snapshot itself says, None where the input is no snapshot. ``bound`` is the proven least
    arena of a plan, with ``planned`` only; ``failed`` names the block that found no memory.
    """

    title: str
    allocator: str
    capacity: int | None
    blocks: int
    earlier: int
    streams: int
    use: AllocatorUse
    recorded: Recording | None
    bound: int | None = None
    failed: str | None = None

    @property
    def fragmentation(self) -> int:
        """Most bytes reserved beyond the most that were allocated."""
        return self.use.reserved_peak - self.use.allocated_peak

    @property
    def recorded_peak(self) -> int | None:
        """Most bytes that the snapshot's own segments held; None where it lacks the events of segments."""
        peak = None if self.recorded is None else self.recorded.reserved_peak
        return None if peak is None or peak < self.use.requested_peak else peak

    def as_json(self) -> dict[str, Any]:
        """The answer as plain data; sizes in bytes."""
        use, recorded = self.use, self.recorded
        return {
            "allocator": self.allocator,
            "capacity": self.capacity,
            "blocks": self.blocks,
            "blocks_before_recording": self.earlier,
            "streams": self.streams,
            "requested_peak": use.requested_peak,
            "allocated_peak": use.allocated_peak,
            "reserved_peak": use.reserved_peak,
            "reserved_end": use.reserved_end,
            "fragmentation": self.fragmentation,
            "bound": self.bound,
            "driver_mallocs": use.driver_mallocs,
            "driver_frees": use.driver_frees,
            "reorganisations": use.reorganisations,
            "failed": None if self.failed is None else {"block": self.failed, "bytes": use.failed_size},
            "recorded": None
            if recorded is None
            else {
                "device": recorded.device,
                "reserved_peak": self.recorded_peak,
                "reserved_end": recorded.reserved_end,
                "active_end": recorded.active_end,
            },
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """The peaks, and what the snapshot says itself."""
        use = self.use

        def size(value: int | None) -> str:
            return "-" if value is None else f"{value} ({format_quantity(value, 'size')})"

        share = self.fragmentation / use.reserved_peak if use.reserved_peak else 0.0
        rows: list[tuple[object, ...]] = [
            ("blocks", f"{self.blocks}, {self.earlier} from before recording"),
            ("peak requested", size(use.requested_peak)),
            ("peak allocated", size(use.allocated_peak)),
            ("peak reserved", size(use.reserved_peak)),
            ("fragmentation", f"{size(self.fragmentation)}, {100 * share:.1f} % of the reserved"),
        ]
        if self.bound is not None:
            rows.append(("least arena, proved", size(self.bound)))
        else:
            rows.append(("driver", f"{use.driver_mallocs} mallocs, {use.driver_frees} frees"))
            rows.append(("reorganisations", use.reorganisations))
        if self.failed is not None:
            rows.append(("out of memory", f"block {self.failed}, {size(use.failed_size)}"))
        tables = [Table(f"trace memory {self.title}: {self.allocator}", ("", ""), tuple(rows))]
        recorded = self.recorded
        if recorded is not None and recorded.reserved_end is not None:
            lines = (
                ("peak reserved", size(self.recorded_peak)),
                ("reserved at the end", size(recorded.reserved_end)),
                ("in use at the end", size(recorded.active_end)),
            )
            tables.append(Table(f"as recorded on device {recorded.device}", ("", ""), lines))
        return tuple(tables)

    def insist(self) -> None:
        """Raise ``InfeasibleError`` where memory ran out, ``NoAnswerError`` where no plan was found that fits."""
        if self.failed is not None:
            raise InfeasibleError(
                f"out of memory: block {self.failed} asks for {self.use.failed_size} bytes with "
                f"{self.use.reserved_end} of {self.capacity} bytes reserved"
            )
        if self.bound is not None and self.capacity is not None and self.bound > self.capacity:
            raise InfeasibleError(
                f"infeasible (proved): every plan needs {self.bound} bytes, the capacity is {self.capacity}"
            )
        if self.bound is not None and self.capacity is not None and self.use.reserved_peak > self.capacity:
            raise NoAnswerError(
                f"no plan below {self.capacity} bytes was found within the limit, and none was excluded; "
                f"best plan: {self.use.reserved_peak} bytes, lower bound {self.bound}"
            )


def trace_memory(snapshot: str | Path, **options: Unpack[MemoryTraceChoices]) -> MemoryReplay:
    """Replay a recording of a GPU's memory through an allocator.

    ``snapshot`` is a memory snapshot of PyTorch (pickle or JSON), or anything that ``solve_alloc`` reads, such as a
    trace of malloc and free; options are the fields of :class:`MemoryTraceOptions`. :meth:`MemoryReplay.insist` raises
    where memory ran out. Raises ``InputError`` for bad input.
    """
    from mapping.allocation.importers import Part, read_problem, read_recording
    from mapping.training.allocator_conf import read_allocator_conf
    from mapping.training.recorded_requests import found_segments, requests_of, serve_requests

    chosen = from_keywords(MemoryTraceOptions, options)
    capacity = None if chosen.capacity is None else _bytes(chosen.capacity)
    conf = read_allocator_conf(chosen.allocator_conf)
    path = Path(snapshot)
    recorded = read_recording(path, chosen.device_index)
    if recorded is None:
        problem = read_problem(path, Part(chosen.device_index))
        if problem.gaps:
            raise bad_input("has buffers with gaps, which no allocator at run time knows", file=str(path))
        lives = list(zip(problem.lower.tolist(), problem.upper.tolist(), problem.size.tolist(), strict=True))
        names, streams, earlier = [str(name) for name in problem.ids], [0] * len(problem), 0
    else:
        recorded.problem()  # Sizes in range, or one line for each that is not.
        stays = sorted(recorded.stays, key=lambda s: (not s.earlier, s.address if s.earlier else s.lower))
        lives = [(s.lower, s.upper, s.size) for s in stays]
        names, streams = [s.id for s in stays], [s.stream for s in stays]
        earlier = sum(s.earlier for s in stays)
    several = len(set(streams))
    told = (path.name, chosen.allocator, capacity, len(lives), earlier, several)
    if chosen.allocator == "planned":
        use, bound = _planned(lives, chosen)
        return MemoryReplay(*told, use, recorded, bound)
    if capacity is not None and several > 1:
        found = f"the recording has {several} streams, whose pools share a capacity in an order that is not modelled"
        raise bad_input(found, path="--capacity")
    requests = requests_of(lives, streams, earlier)
    expandable = chosen.allocator == "expandable" or conf.expandable
    begun = found_segments(recorded.segments or (), stays) if recorded is not None and not expandable else []
    use = serve_requests(requests, expandable=expandable, capacity=capacity, conf=conf, found=begun)
    return MemoryReplay(*told, use, recorded, None, None if use.failed is None else names[use.failed])


def _planned(lives: list[tuple[int, int, int]], chosen: MemoryTraceOptions) -> tuple[AllocatorUse, int]:
    """What a plan needs: its peak is reserved, once, and the most live bytes in granules are allocated."""
    import numpy as np

    from mapping.allocation import AllocationProblem, solve
    from mapping.training.recorded_requests import AllocatorUse, requests_of
    from mapping.training.requests import rounded

    kept = np.array([life for life in lives if life[0] < life[1] and life[2]], np.int64).reshape(-1, 3)
    kept[:, 2] = rounded(kept[:, 2])
    result = solve(AllocationProblem.from_arrays(*kept.T), time_limit_s=chosen.time_limit, seed=chosen.seed)
    as_rounded = [(a, b, size) for a, b, size in kept.tolist()]
    requested, allocated = (_most(requests_of(rows)) for rows in (lives, as_rounded))
    peak = result.peak_bytes or 0
    return AllocatorUse(requested, allocated, peak, peak, int(peak > 0), 0, 0), result.bound_bytes


def _most(requests: Any) -> int:
    """Most bytes held at once by a sequence of requests."""
    held: dict[int, int] = {}
    now = most = 0
    for request in requests:
        if request.size is None:
            now -= held.pop(request.block)
        else:
            held[request.block] = request.size
            now += request.size
            most = max(most, now)
    return most


def _bytes(capacity: str | int) -> int:
    from hw_configs.units import UnitError, parse_quantity
    from hw_configs.whole_number import is_whole

    text = str(capacity).strip()
    try:
        value = int(text) if is_whole(text) else int(parse_quantity(text, "size"))
    except UnitError as error:
        raise bad_input(str(error), path="--capacity") from None
    if not 0 < value <= 2**60:
        raise bad_input(f"found {value}; expected 1 to 2**60 bytes", path="--capacity")
    return value
