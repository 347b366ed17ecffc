"""Runs a program's accesses through a CPU's caches, in chunks, and says what happened.

Accesses are cut into lines, pages are placed on nodes, and the kernel takes them in order. Nothing grows with the
length of the trace but the table of pages that were touched, and that only with several nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hw_configs.cpu_cache import CpuCache
from hw_configs.problems import bad_input
from simulator.cpu_cache.kernel import MARGIN, Out, Stretch, run, survey
from simulator.cpu_cache.machine import (
    CORES,
    LINE_SHIFT,
    NODE_CORES,
    PAGE_SHIFT,
    RECORDS,
    Built,
    Options,
    State,
    build_machine,
    new_state,
)
from simulator.cpu_cache.result import CpuCacheResult, collect
from workloads.cache_trace.trace import split_ranges
from workloads.memory_trace.trace import Requests
from workloads.program_trace.trace import Accesses, ProgramTrace

__all__ = ["CacheRun", "simulate_cpu_cache"]

Ints = npt.NDArray[np.int64]
CHUNK = 1 << 16
"""Accesses taken at a time."""
ROOM = 1 << 16
"""Requests to memory handed on at a time."""


@dataclass
class _Pages:
    """The node of each page: dealt out in turn, or where a core of it touched the page first."""

    placement: str
    nodes: int
    page_shift: int
    node_cores: int
    known: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    home: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def homes(self, address: Ints, core: Ints) -> Ints:
        """The node of each access's page."""
        if self.nodes == 1:
            return np.zeros(address.size, np.int64)
        page = address >> self.page_shift
        if self.placement == "interleaved":
            return page % self.nodes
        found = np.unique(page, return_index=True, return_inverse=True)
        touched, first, which = (np.asarray(part, np.int64).reshape(-1) for part in found)
        at: Ints = np.asarray(np.searchsorted(self.known, touched), np.int64)
        there: npt.NDArray[np.bool_] = np.asarray(at < self.known.size, np.bool_)
        there[there] = self.known[at[there]] == touched[there]
        home: Ints = core[first] // self.node_cores
        home[there] = self.home[at[there]]
        self.known = np.insert(self.known, at[~there], touched[~there])
        self.home = np.insert(self.home, at[~there], home[~there])
        return home[which]


@dataclass
class CacheRun:
    """Caches on their way through a program."""

    device: CpuCache
    built: Built
    state: State
    pages: _Pages
    accesses: int = 0
    instructions: int = 0

    @classmethod
    def begin(cls, device: CpuCache, options: Options, placement: str = "first-touch") -> CacheRun:
        """Empty caches. Raises ``InputError`` for options that the device cannot have."""
        if placement not in ("first-touch", "interleaved"):
            raise bad_input(f"found {placement!r}; known: first-touch, interleaved", path="--placement")
        built = build_machine(device, options)
        rule = built.machine.rule
        pages = _Pages(placement, options.nodes, int(rule[PAGE_SHIFT]), int(rule[NODE_CORES]))
        return cls(device, built, new_state(built), pages)

    def feed(self, accesses: Accesses) -> Iterator[Requests]:
        """Take accesses in order; what goes to memory, with ticks of the program as arrivals."""
        running = int(self.built.machine.rule[CORES])
        # One layout of arrays, so that the kernels are compiled once.
        accesses = Accesses(*(np.ascontiguousarray(part, np.int64) for part in accesses))
        shift = int(self.built.machine.rule[LINE_SHIFT])
        cut, instructions, most = survey(
            accesses.address, accesses.size, accesses.instructions, accesses.core, shift
        )
        if most >= running:
            raise bad_input(f"core {most} of {running}, counted from 0", path="--copies")
        stretch = self._in_lines(accesses, bool(cut))
        self.accesses += accesses.kind.size
        self.instructions += int(instructions)
        at = 0
        while at < stretch.kind.size:
            room = ROOM + MARGIN if self.built.machine.rule[RECORDS] else 1
            none = np.zeros(room, np.int64)
            out = Out(none, np.zeros(room, np.uint8), np.zeros(room, np.int64), np.zeros(1, np.int64))
            at = int(run(self.built.machine, self.state, stretch, at, out))
            filled = int(out.filled[0])
            if filled:
                yield Requests(out.address[:filled], out.write[:filled], out.tick[:filled])

    def _in_lines(self, accesses: Accesses, cut: bool) -> Stretch:
        """The accesses, cut at the ends of lines where one of them goes beyond."""
        shift = int(self.built.machine.rule[LINE_SHIFT])
        kind, address, size, pc, instructions, core = accesses
        if cut:
            lines, which = split_ranges(address, size, 1 << shift)
            first = np.ones(which.size, np.bool_)
            first[1:] = which[1:] != which[:-1]
            kind, address, pc, core = kind[which], lines << shift, pc[which], core[which]
            instructions = np.where(first, instructions[which], 0)
        return Stretch(kind, address, pc, instructions, core, self.pages.homes(address, core))

    def result(self, trace: str) -> CpuCacheResult:
        """What was found so far."""
        return collect(self.device, self.built, self.state, trace, self.accesses, self.instructions)


def simulate_cpu_cache(
    device: CpuCache,
    program: ProgramTrace,
    options: Options | None = None,
    *,
    placement: str = "first-touch",
    progress: Callable[[int], None] | None = None,
) -> CpuCacheResult:
    """Run a program to its end. Raises ``InputError`` for cores that are not there, and what reading raises."""
    if program.cores > device.cores:
        raise bad_input(
            f"the program runs on {program.cores} cores; {device.name} has {device.cores}", path="--copies"
        )
    caches = CacheRun.begin(device, replace(options or Options(), cores=program.cores), placement)
    interrupted = False
    try:
        for accesses in program.chunks(CHUNK):
            for _ in caches.feed(accesses):
                pass
            if progress is not None:
                progress(caches.accesses)
    except KeyboardInterrupt:
        interrupted = True
    result = caches.result(program.name)
    result.check()
    return result.stopped() if interrupted else result
