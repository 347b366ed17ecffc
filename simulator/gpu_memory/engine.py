"""Runs a GPU's accesses through its memory path, stretch by stretch, and says what happened.

Nothing grows with the length of the trace: the timeline joins neighbouring stretches when there are too many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.device import Gpu
from hw_configs.link import Pcie
from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace
from simulator.gather.packets import COMPLETION_BYTES
from simulator.gpu_memory import machine as at
from simulator.gpu_memory.kernel import MARGIN, PIECE_LINES, Out, flush, run
from simulator.gpu_memory.machine import Built, Options, State, Window, build_machine, new_state, new_window
from simulator.gpu_memory.result import GpuMemoryResult, Stretch
from simulator.gpu_memory.timing import BOUNDS, Rates, time_of
from workloads.gpu_trace.trace import GpuAccesses, GpuTrace

__all__ = ["GpuMemoryRun", "simulate_gpu_memory"]

Ints = npt.NDArray[np.int64]
STRETCH: Final = 1 << 15
"""Accesses that overlap: a stretch of the trace."""
ROOM: Final = 1 << 15
"""Requests to memory handed on at a time."""
MOST_STRETCHES: Final = 512


@dataclass(frozen=True, slots=True)
class Requests:
    """Sectors to memory from one stretch, in order: byte address, whether a write, when the stretch began and ended."""

    address: Ints
    write: npt.NDArray[np.uint8]
    begin_s: float
    end_s: float


@dataclass
class GpuMemoryRun:
    """Caches on their way through a trace."""

    gpu: Gpu
    memory: MemorySpace
    built: Built
    state: State
    window: Window
    rates: Rates
    accesses: int = 0
    seconds: float = 0.0
    bound_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BOUNDS, 0.0))
    stretches: list[Stretch] = field(default_factory=list)
    latest_ns: int = 0

    @classmethod
    def begin(
        cls, gpu: Gpu, memory: MemorySpace, options: Options, *, share: float = 1.0, link: Pcie | None = None
    ) -> GpuMemoryRun:
        """Empty caches. ``share``: of the data sheet's bandwidth that its technology delivers.

        Raises ``InputError`` for options that the device cannot have.
        """
        if options.host and link is None:
            raise bad_input("data in host memory needs a link to the host", path="--home")
        built = build_machine(gpu, options, memory.latency_s)
        rates = Rates(
            memory.read_bandwidth * share, memory.write_bandwidth * share, memory.ports == 1,
            link.lane_rate if link is not None else 0.0,
        )  # fmt: skip
        return cls(gpu, memory, built, new_state(built.machine), new_window(built.machine), rates)

    def feed(self, accesses: GpuAccesses) -> Iterator[Requests]:
        """Take accesses in order; what goes to memory, if that is recorded."""
        f = self.built.machine.figure
        taken = [np.ascontiguousarray(part, np.int64) for part in accesses]
        sms = int(f[at.SMS])
        if taken[3].size and not 0 <= int(taken[3].min()) <= int(taken[3].max()) < sms:
            raise bad_input(f"multiprocessor {int(taken[3].max())} of {sms}, counted from 0", path="sm")
        self.accesses += taken[0].size
        pieces = _in_pieces(taken, PIECE_LINES << int(f[at.LINE_SHIFT]))
        for start in range(0, pieces[0].size, STRETCH):
            yield from self._stretch([part[start : start + STRETCH] for part in pieces])

    def _stretch(self, part: list[Ints]) -> Iterator[Requests]:
        """Run a stretch, time it, and hand on its requests."""
        before = self.state.counts.copy()
        records = bool(self.built.machine.figure[at.RECORDS])
        held: list[Out] = []
        done = 0
        while done < part[0].size:
            room = ROOM + MARGIN if records else MARGIN + 1
            out = Out(np.zeros(room, np.int64), np.zeros(room, np.uint8), np.zeros(1, np.int64))
            done = int(run(self.built.machine, self.state, self.window, GpuAccesses(*part), done, out))
            held.append(out)
        begin = self.seconds
        self._time(part, self.state.counts - before)
        for out in held if records else ():
            n = int(out.filled[0])
            if n:
                yield Requests(out.address[:n], out.write[:n], begin, self.seconds)

    def _time(self, part: list[Ints], counted: Ints) -> None:
        """Add a stretch to the timeline and empty the window."""
        requests = int(counted[at.HOST_REQUESTS] + counted[at.HOST_WRITES])
        wire = int(counted[at.HOST_BYTES]) + requests * COMPLETION_BYTES
        last = int(part[4][-1]) if part[4].size else 0
        spanned = max(last - self.latest_ns, 0) * 1e-9
        self.latest_ns = max(last, self.latest_ns)
        time = time_of(self.built, self.window, self.rates, wire, spanned)
        self.seconds += time.seconds
        self.bound_s[time.bound] += time.seconds
        sector = 1 << int(self.built.machine.figure[at.SECTOR_SHIFT])
        self.stretches.append(
            Stretch(
                part[0].size, int(counted[at.L1_LOAD_SECTORS]), int(counted[at.L1_HIT_SECTORS]),
                int(counted[at.L2_READ_SECTORS]), int(counted[at.L2_HIT_SECTORS] + counted[at.FAR_HIT_SECTORS]),
                int(counted[at.READ_SECTORS] + counted[at.WRITTEN_SECTORS]) * sector, time.seconds, time.bound,
            )
        )  # fmt: skip
        if len(self.stretches) > MOST_STRETCHES:
            pairs = zip(self.stretches[::2], self.stretches[1::2], strict=False)
            odd = self.stretches[-1:] if len(self.stretches) % 2 else []
            self.stretches = [first.with_(second) for first, second in pairs] + odd
        for counter in self.window:
            counter[:] = 0

    def result(self, trace: str) -> GpuMemoryResult:
        """What was found so far; the last access's latency comes to the time."""
        f, c = self.built.machine.figure, [int(n) for n in self.state.counts]
        dirty = int(flush(self.state.near)) + int(flush(self.state.behind))
        sector = 1 << int(f[at.SECTOR_SHIFT])
        requests = c[at.HOST_REQUESTS] + c[at.HOST_WRITES]
        deep = bool(c[at.READ_SECTORS] or requests)
        last = float(f[at.MEMORY_LATENCY] if deep else f[at.L1_LATENCY]) / self.built.clock_hz
        return GpuMemoryResult(
            device=self.gpu.name, trace=trace, accesses=self.accesses, loads=c[at.LOADS], stores=c[at.STORES],
            atomics=c[at.ATOMICS], lines=c[at.LINES], asked_bytes=c[at.BYTES_ASKED], sector_bytes=sector,
            l1_bytes=self.built.l1_bytes, l1_sectors=c[at.L1_LOAD_SECTORS], l1_hit_sectors=c[at.L1_HIT_SECTORS],
            l1_evicted_lines=c[at.L1_EVICTED], stored_sectors=c[at.STORED_SECTORS],
            l2_read_sectors=c[at.L2_READ_SECTORS],
            l2_hit_sectors=c[at.L2_HIT_SECTORS], far_hit_sectors=c[at.FAR_HIT_SECTORS],
            l2_write_sectors=c[at.L2_WRITE_SECTORS], l2_write_hit_sectors=c[at.L2_WRITE_HITS],
            l2_evicted_lines=c[at.L2_EVICTED], persisting_hit_sectors=c[at.PERSISTING_HITS],
            filled_sectors=c[at.FILLED], read_sectors=c[at.READ_SECTORS], written_sectors=c[at.WRITTEN_SECTORS],
            dirty_sectors=dirty, tlb_looks=c[at.TLB_LOOKS], tlb_misses=c[at.TLB_MISSES],
            walks=c[at.TLB2_MISSES], link_requests=c[at.HOST_REQUESTS], link_bytes=c[at.HOST_BYTES],
            link_wire_bytes=c[at.HOST_BYTES] + requests * COMPLETION_BYTES,
            seconds=self.seconds + last if self.accesses else 0.0,
            peak_bytes_per_s=self.memory.read_bandwidth if self.memory.ports == 1
            else self.memory.read_bandwidth + self.memory.write_bandwidth,
            bound_s=dict(self.bound_s), stretches=tuple(self.stretches),
        )  # fmt: skip


def _in_pieces(taken: list[Ints], most: int) -> list[Ints]:
    """The accesses, those of more than ``most`` bytes cut at multiples of ``most``."""
    kind, address, size, sm, time_ns = taken
    if not size.size or int(size.max()) <= most // 2:
        return taken
    first = address // most
    counts = (address + size - 1) // most - first + 1
    which = np.repeat(np.arange(size.size, dtype=np.int64), counts)
    step = np.arange(which.size, dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.maximum((first[which] + step) * most, address[which])
    end = np.minimum((first[which] + step + 1) * most, (address + size)[which])
    return [kind[which], begin, end - begin, sm[which], time_ns[which]]


def simulate_gpu_memory(
    gpu: Gpu,
    memory: MemorySpace,
    trace: GpuTrace,
    options: Options | None = None,
    *,
    share: float = 1.0,
    link: Pcie | None = None,
    progress: Callable[[int], None] | None = None,
) -> GpuMemoryResult:
    """Run a trace to its end. Raises ``InputError`` for options that cannot be, and what reading the trace raises."""
    caches = GpuMemoryRun.begin(gpu, memory, options or Options(), share=share, link=link)
    interrupted = False
    try:
        for accesses in trace.chunks(STRETCH):
            for _ in caches.feed(accesses):
                pass
            if progress is not None:
                progress(caches.accesses)
    except KeyboardInterrupt:
        interrupted = True
    result = caches.result(trace.name)
    result.check()
    return result.stopped() if interrupted else result
