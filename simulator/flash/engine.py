"""Runs storage requests through a drive and reports what happened.

The trace is taken in chunks and nothing grows with its length. A run is a closed loop (``outstanding`` requests
in flight), or an open one that sends each request at the trace's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hw_configs.problems import NoAnswerError, PhysicsError, bad_input
from simulator.flash.aging import History, age
from simulator.flash.drive import Drive
from simulator.flash.kernel import DONE, GROW, NEED, STOPPED, STUCK, Chunk, Limits, run
from simulator.flash.layout import DriveState, new_state, transaction_margin
from simulator.flash.records import Memory
from simulator.flash.result import DriveResult, Latency, Wear
from workloads.block_trace.trace import BlockRequests, BlockTrace

__all__ = ["DriveRun", "RunOptions", "checked_chunks", "collect_result", "simulate_drive"]

CHUNK = 1 << 17
LARGEST = 1 << 22
"""Bytes of the largest request that a trace of unknown content is prepared for; larger ones are cut."""
_NONE: npt.NDArray[np.int64] = np.zeros(0, np.int64)
MOST_CHOSEN = 1024


@dataclass(frozen=True)
class RunOptions:
    """How requests meet the drive.

    ``outstanding``: requests in flight of a closed loop; 0 sends by the trace's times. ``history``: what the
    drive went through before. ``internal``: requests come from the drive's own compute; no NVMe, no wire.
    ``wrap``: addresses beyond the capacity wrap around instead of being refused. ``record``: keep the latency
    of every request. ``spare`` and ``log`` (rows) are for those who check the engine.
    """

    outstanding: int = 32
    history: History | None = None
    internal: bool = False
    wrap: bool = False
    seed: int = 1
    record: bool = False
    spare: bool = False
    log: int = 0
    progress: Callable[[int], None] | None = None
    chunk: int = CHUNK
    partial: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.outstanding <= 65536:
            raise bad_input(f"found {self.outstanding}; expected 0 to 65536", path="outstanding")


@dataclass
class DriveRun:
    """A drive on its way through a trace; for those who want to stop in between."""

    drive: Drive
    options: RunOptions
    state: DriveState
    margin: int
    latencies: npt.NDArray[np.int64] = field(default_factory=lambda: _NONE)
    interrupted: bool = False

    @classmethod
    def begin(cls, drive: Drive, options: RunOptions, largest: int = LARGEST) -> DriveRun:
        """A drive before its first request, aged as the options say."""
        host = drive.host
        most = host.queue_entries * host.queue_pairs
        if options.outstanding > most and not options.internal:
            raise bad_input(
                f"{options.outstanding} outstanding are more than {host.queue_pairs} queue pairs of "
                f"{host.queue_entries} entries hold", path="outstanding",
            )  # fmt: skip
        state = new_state(
            drive, requests=options.outstanding or min(most, MOST_CHOSEN), largest_bytes=largest,
            seed=options.seed, internal=options.internal, partial=options.partial, spare=options.spare,
            log=options.log,
        )  # fmt: skip
        if options.history is not None:
            age(state, options.history)
        return cls(drive, options, state, transaction_margin(drive, -(-largest // drive.page_bytes) + 1))

    def feed(
        self, requests: BlockRequests, final: bool, stop: int = 0, horizon: int = -1, single: bool = False
    ) -> int:
        """Run a stretch of the trace to its end, or to ``stop`` events since the start; the kernel's status.

        ``horizon``: leave events after that ns for the next call (below 0: none); ``single``: only to the first
        completion.
        """
        state = self.state
        columns = [np.ascontiguousarray(column, np.int64) for column in requests]
        timed = columns[3] if not self.options.outstanding else _NONE
        record = state.record
        begin = int(record.cursor)
        limits = Limits(self.options.outstanding, final, stop, self.margin, horizon, single)
        while True:
            taken = int(record.cursor) - begin
            chunk = Chunk(columns[0][taken:], columns[1][taken:], columns[2][taken:], timed[taken:])
            status = run(Memory(*state.arrays), chunk, self.latencies, limits)
            if status != GROW:
                break
            state.grow(self.margin)
            record = state.record
        if record.fault:
            raise PhysicsError(f"the drive engine broke its own rule {int(record.fault)}")
        if status == STUCK:
            raise NoAnswerError("requests wait for what never comes; the drive is locked up")
        return int(status)


def simulate_drive(drive: Drive, trace: BlockTrace, options: RunOptions | None = None) -> DriveResult:
    """Run a trace to its last completion.

    Raises ``InputError`` for addresses beyond the capacity (unless ``wrap``) and whatever the trace's reader
    raises; ``NoAnswerError`` when the drive can not go on. Ctrl-C returns what was found so far.
    """
    chosen = options or RunOptions()
    chunks = checked_chunks(trace, drive, chosen)
    first = next(chunks, None)
    if first is None:
        raise bad_input("the trace holds no requests", file=trace.name)
    if not chosen.outstanding and not first.arrival.size:
        raise bad_input("the trace names no times; give the number of outstanding requests", file=trace.name)
    largest = int(first.size.max()) if trace.count == first.size.size else max(LARGEST, int(first.size.max()))
    run_ = DriveRun.begin(drive, chosen, largest)
    if chosen.record:
        if trace.count is None:
            raise bad_input("recording needs a trace of known length", file=trace.name)
        run_.latencies = np.full(trace.count, -1, np.int64)
    try:
        _drive_through(run_, first, chunks, largest)
    except KeyboardInterrupt:
        run_.interrupted = True
    result = collect_result(run_, trace.name)
    result.check()
    return result


def _drive_through(
    run_: DriveRun, first: BlockRequests, chunks: Iterator[BlockRequests], largest: int
) -> None:
    held: BlockRequests | None = first
    while held is not None:
        following = next(chunks, None)
        if int(held.size.max()) > largest:
            raise bad_input(f"a request of {int(held.size.max())} bytes; expected at most {largest}")
        status = run_.feed(held, following is None)
        if run_.options.progress is not None:
            run_.options.progress(int(run_.state.record.cursor - run_.state.record.in_flight))
        assert status == (DONE if following is None else NEED) or status == STOPPED
        held = following


def checked_chunks(trace: BlockTrace, drive: Drive, options: RunOptions) -> Iterator[BlockRequests]:
    """The trace's chunks, with addresses beyond the capacity refused or wrapped."""
    capacity = drive.capacity_bytes
    for requests in trace.chunks(options.chunk):
        ends = requests.address + requests.size
        beyond = int(np.count_nonzero(ends > capacity))
        if beyond and not options.wrap:
            raise bad_input(
                f"{beyond} of {ends.size} requests end beyond the capacity of {capacity} bytes (the largest "
                f"end: {int(ends.max())}); --wrap lets them wrap around",
                file=trace.name,
            )
        if beyond:
            size = np.minimum(requests.size, capacity)
            address = requests.address % capacity
            address = np.minimum(address, capacity - size)
            requests = BlockRequests(requests.operation, address, size, requests.arrival)
        yield requests


def collect_result(run_: DriveRun, trace: str, mode: str = "event") -> DriveResult:
    """Sum a run up."""
    state, drive = run_.state, run_.drive
    found = state.record
    time_ns = int(found.last_done)
    rows = state.histograms
    counts = {name: int(found[field]) for name, field in _COUNTS.items()}
    share = 1 / time_ns if time_ns else 0.0
    # What was begun before the last completion and ends after it counts to the end of the run alone.
    channels = _clipped(state.channels["busy_ns"], time_ns) * share
    units = _clipped(state.units["busy_ns"], time_ns) * share
    wires = [min(int(wire.busy_ns) * share, 1.0) for wire in (found.to_drive, found.to_host)]
    return DriveResult(
        drive=drive.name,
        trace=trace,
        mode=mode,
        requests=int(found.reads + found.writes + found.trims),
        reads=int(found.reads),
        writes=int(found.writes),
        trims=int(found.trims),
        bytes_read=int(found.bytes_read),
        bytes_written=int(found.bytes_written),
        time_s=time_ns * 1e-9,
        read_latency=Latency.from_row(rows[0]),
        write_latency=Latency.from_row(rows[1]),
        trim_latency=Latency.from_row(rows[2]),
        channel_utilisation=channels,
        unit_utilisation=units,
        wire_utilisation=(wires[0], wires[1]),
        counts=counts,
        wear=_wear(drive, state, counts),
        energy_j=_energy(drive, counts, int(found.bytes_read), int(found.bytes_written)),
        interrupted=run_.interrupted,
        events=int(found.events),
    )


def _clipped(busy: npt.NDArray[np.int64], time_ns: int) -> npt.NDArray[np.float64]:
    return np.minimum(busy, time_ns).astype(float)


_COUNTS = {
    "host_pages_read": "host_pages_read", "host_pages_written": "host_pages_written",
    "read_commands": "read_commands", "multiplane_read_commands": "read_multi",
    "program_commands": "program_commands", "multiplane_program_commands": "program_multi",
    "erase_commands": "erase_commands", "pages_read": "read_pages", "pages_programmed": "program_pages",
    "blocks_erased": "erase_blocks", "gc_executions": "gc_runs", "gc_page_moves": "gc_moves",
    "wear_levelling_executions": "wear_runs", "wear_levelling_moves": "wear_moves",
    "merge_reads": "merge_reads", "map_hits": "map_hits", "map_misses": "map_misses",
    "map_reads": "map_reads", "map_writes": "map_writes", "buffer_hits": "buffer_hits",
    "buffer_peak_pages": "buffer_peak", "read_retries": "retried", "suspensions": "suspended",
    "cached_programs": "cached_commands", "pages_trimmed": "trimmed", "waits_for_moves": "barriers",
    "waits_for_space": "stalls", "bus_bytes": "bus_bytes",
}  # fmt: skip


def _wear(drive: Drive, state: DriveState, counts: dict[str, int]) -> Wear:
    erases = state.blocks["erases"]
    left: float | None = None
    written = counts["host_pages_written"]
    if written and drive.rated_cycles:
        moved = counts["gc_page_moves"] + counts["wear_levelling_moves"] + counts["map_writes"]
        left = drive.capacity_bytes * drive.rated_cycles * written / (written + moved)
    return Wear(int(erases.min()), float(erases.mean()), int(erases.max()), drive.rated_cycles, left)


def _energy(drive: Drive, counts: dict[str, int], read: int, written: int) -> dict[str, float]:
    """By operation where the drive states energies of operations, else by byte that is read or written."""
    e = drive.energy
    if e is None:
        moves = counts["gc_page_moves"] + counts["wear_levelling_moves"]
        moved = moves * drive.page_bytes * (drive.energy_per_byte_read + drive.energy_per_byte_written)
        return {
            "read": read * drive.energy_per_byte_read,
            "write": written * drive.energy_per_byte_written,
            "collection": moved,
        }
    return {
        "array_read": counts["pages_read"] * e.read_page,
        "array_program": counts["pages_programmed"] * e.program_page,
        "array_erase": counts["blocks_erased"] * e.erase_block,
        "bus": counts["bus_bytes"] * e.bus,
        "host": (read + written) * e.host,
    }
