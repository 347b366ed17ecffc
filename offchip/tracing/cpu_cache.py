"""A program through the caches of a CPU, access by access."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from hw_configs.problems import InputError, bad_input
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto

if TYPE_CHECKING:
    from hw_configs.cpu_cache import CpuCache
    from simulator.cpu_cache.machine import Options
    from simulator.cpu_cache.result import CpuCacheResult
    from workloads.program_trace import ProgramTrace

__all__ = ["CpuCacheTraceOptions", "cpu_device", "kernel_options", "program_of", "trace_cpu_cache"]


@dataclass(frozen=True, slots=True)
class CpuCacheTraceOptions:
    """How a program meets the caches.

    ``format``: champsim, ramulator, pin, lackey or gem5; None tells it from the first line. ``page``: base or huge
    pages. ``nodes``: NUMA nodes that the cores are dealt out to; ``placement`` of pages: first-touch or interleaved.
    ``copies``: the program runs so often at once, a copy a core, each in its own address space unless ``shared``.
    ``outstanding``: misses in flight of one core, instead of the device's (1 for a program whose every load waits for
    the one before). ``prefetch``: whether prefetchers work. ``seed``: of random replacement.
    """

    format: str | None = None
    page: str = "base"
    nodes: int = 1
    placement: str = "first-touch"
    copies: int = 1
    shared: bool = False
    outstanding: int | None = None
    prefetch: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        if not 0 <= self.seed < 2**63:
            raise bad_input(f"found {self.seed}; expected 0 to 2^63 - 1", path="--seed")
        if self.outstanding is not None and not 1 <= self.outstanding <= 1024:
            raise bad_input(f"found {self.outstanding}; expected 1 to 1024", path="--outstanding")


class CpuCacheTraceChoices(TypedDict, total=False):
    """The fields of :class:`CpuCacheTraceOptions`, as keywords."""

    format: str | None
    page: str
    nodes: int
    placement: str
    copies: int
    shared: bool
    outstanding: int | None
    prefetch: bool
    seed: int


def trace_cpu_cache(
    trace: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[CpuCacheTraceChoices]
) -> CpuCacheResult:
    """Run a program's accesses through the caches of a CPU.

    ``trace`` is a file (may be .gz, .zst or .xz) or ``PATTERN:NUMBERS[:SEED]``; ``hw`` a device of kind cpu-cache by
    name or YAML file; options are the fields of :class:`CpuCacheTraceOptions`. Raises ``InputError`` for bad input.

    >>> result = trace_cpu_cache("read:8000", "ryzen-7950x-caches", prefetch=False)
    >>> result.levels["l1d"].program_misses, result.memory_reads["load"]
    (1000, 1000)
    """
    from simulator.cpu_cache.engine import simulate_cpu_cache

    chosen = from_keywords(CpuCacheTraceOptions, options)
    device, program = cpu_device(str(hw), "--hw"), program_of(str(trace), chosen)
    with progress("accesses", program.count or 0) as tally:
        return simulate_cpu_cache(
            device, program, kernel_options(chosen), placement=chosen.placement, progress=upto(tally)
        )


def cpu_device(hw: str, option: str) -> CpuCache:
    """The caches of a name or file; ``InputError`` naming the option for a device of another kind."""
    from hw_configs.cpu_cache import CpuCache
    from hw_configs.library import load_device

    device = load_device(hw)
    if not isinstance(device, CpuCache):
        raise bad_input(f"{hw!r} is a device of kind {device.kind!r}; expected kind 'cpu-cache'", path=option)
    return device


def program_of(text: str, chosen: CpuCacheTraceOptions) -> ProgramTrace:
    """The program of a file or pattern, as often as it runs."""
    from workloads.program_trace import PATTERNS, generate_program, open_program

    head, _, rest = text.partition(":")
    named = head in PATTERNS or (bool(rest) and "/" not in head and "." not in head)
    if named and not Path(text[:255]).exists():
        return _copied(generate_program(text), chosen)
    return _copied(open_program(text, chosen.format), chosen)


def _copied(program: ProgramTrace, chosen: CpuCacheTraceOptions) -> ProgramTrace:
    from workloads.program_trace import Copies

    return program if chosen.copies == 1 else Copies(program, chosen.copies, chosen.shared)


def kernel_options(chosen: CpuCacheTraceOptions) -> Options:
    """The same options as the engine takes them."""
    from simulator.cpu_cache.machine import Options

    return Options(
        page=chosen.page,
        nodes=chosen.nodes,
        outstanding=chosen.outstanding,
        prefetch=chosen.prefetch,
        seed=chosen.seed,
    )
