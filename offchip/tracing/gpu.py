"""A GPU's accesses through its caches: a trace or a described kernel, access by access."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from hw_configs.problems import InputError, bad_input, nearest
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto
from offchip.tracing.quantity import option_quantity

if TYPE_CHECKING:
    from hw_configs.device import Gpu
    from hw_configs.link import Pcie
    from hw_configs.system import MemorySpace
    from simulator.dram.channel_run import Memory
    from simulator.gpu_memory.machine import Options
    from simulator.gpu_memory.result import GpuMemoryResult
    from simulator.page_cache.unified_engine import UnifiedResult
    from workloads.gpu_trace import GpuTrace

__all__ = ["GpuTraceOptions", "trace_gpu"]

HOMES: Final = ("device", "zero-copy", "unified")


@dataclass(frozen=True, slots=True)
class GpuTraceOptions:
    """How a trace meets a GPU's memory path.

    ``format``: text or nvbit; None tells it from the first line. ``blocks``: thread blocks of a described kernel at
    work on each multiprocessor. ``shared``: shared memory that the kernel takes of each multiprocessor, such as
    '100KiB'. ``l1``: whether loads look at the L1. ``outstanding``: sectors that a multiprocessor waits for at a
    time, instead of the device's. ``page``: page size, instead of the device's. ``persist``: ADDRESS:SIZE of a window
    whose lines stay in the L2 before others. ``home``: where the data lies: device; zero-copy (host memory, read over
    ``link``); unified (pages move from the host, ``memory`` of the GPU holds them). ``dram``: a DRAM device to take
    the place of the memory's bandwidth, ``channels`` of it. ``plot``: an .svg or .png file.
    """

    format: str | None = None
    blocks: int = 1
    shared: str = "0B"
    l1: bool = True
    outstanding: int | None = None
    page: str | None = None
    persist: str | None = None
    home: str = "device"
    link: str | Path = "pcie4-x16"
    memory: str | None = None
    dram: str | Path | None = None
    channels: int | None = None
    plot: str | Path | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        if self.home not in HOMES:
            known = ", ".join(HOMES)
            raise bad_input(
                f"found {self.home!r}; known: {known}", path="--home", suggestion=nearest(self.home, HOMES)
            )
        if not 1 <= self.blocks <= 64:
            raise bad_input(f"found {self.blocks}; expected 1 to 64", path="--blocks")
        if self.dram is not None and self.home == "zero-copy":
            raise bad_input("data in host memory does not reach the GPU's DRAM", path="--dram")
        if self.channels is not None and self.dram is None:
            raise bad_input("is of a DRAM device; name one with --dram", path="--channels")
        if self.memory is not None and self.home != "unified":
            raise bad_input("is of --home unified", path="--memory")


class GpuTraceChoices(TypedDict, total=False):
    """The fields of :class:`GpuTraceOptions`, as keywords."""

    format: str | None
    blocks: int
    shared: str
    l1: bool
    outstanding: int | None
    page: str | None
    persist: str | None
    home: str
    link: str | Path
    memory: str | None
    dram: str | Path | None
    channels: int | None
    plot: str | Path | None


def trace_gpu(
    trace: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[GpuTraceChoices]
) -> GpuMemoryResult:
    """Run accesses of a GPU's warps through its L1s, its L2, translation and memory.

    ``trace`` is a trace file or a kernel, such as ``matmul:4096:4096:4096:order=swizzle``
    (:data:`workloads.gpu_trace.KERNELS`); ``hw`` a GPU; options are the fields of :class:`GpuTraceOptions`. Raises
    ``InputError`` for bad input.

    >>> result = trace_gpu("stream:16000000:rounds=2", "a100-80gb", l1=False)
    >>> result.l2_read_sectors, round(result.l2_hit_rate, 2)
    (1000000, 0.5)
    """
    chosen = from_keywords(GpuTraceOptions, options)
    gpu, memory = _gpu(str(hw))
    asked = _options(chosen)
    program = _program(str(trace), gpu, chosen)
    picture = None if chosen.plot is None else Path(chosen.plot)
    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise bad_input(f"found {picture.name!r}; expected a file that ends in .svg or .png", path="--plot")
    with progress("accesses", program.count or 0) as tally:
        if chosen.dram is not None:
            result = _behind(gpu, memory, program, asked, chosen)
        else:
            from simulator.gpu_memory.engine import simulate_gpu_memory

            link = _link(chosen) if chosen.home == "zero-copy" else None
            share = 1.0 if link is not None else _share(gpu, memory)
            result = simulate_gpu_memory(
                gpu, memory, program, asked, share=share, link=link, progress=upto(tally)
            )
    if chosen.home == "unified":
        result = replace(result, unified=_unified(gpu, memory, program, chosen))
    if picture is not None:
        from offchip.tracing.gpu_plot import plot_gpu

        plot_gpu(picture, result)
    return result


def _gpu(hw: str) -> tuple[Gpu, MemorySpace]:
    from hw_configs.device import Gpu
    from hw_configs.library import load_system

    system = load_system(hw)
    for node in system.of_kind("gpu"):
        device, memory = node.device, system.memories.get(node.memory or "")
        if isinstance(device, Gpu) and memory is not None:
            return device, memory
    raise bad_input(f"{hw!r} has no GPU with a memory", path="--hw")


def _share(gpu: Gpu, memory: MemorySpace) -> float:
    """Share of the data sheet's bandwidth that the memory's technology delivers to streams."""
    from simulator.gpu.constants import shipped_constants
    from simulator.gpu.sheet import gpu_sheet

    return shipped_constants().memory_share(gpu_sheet(gpu, memory).memory)


def _options(chosen: GpuTraceOptions) -> Options:
    from simulator.gpu_memory.machine import Options

    page = None if chosen.page is None else int(option_quantity(chosen.page, "size", "--page"))
    persist = None
    if chosen.persist is not None:
        from hw_configs.whole_number import integer

        start, sign, size = chosen.persist.partition(":")
        first = integer(start, 0, 2**56, hexadecimal=True)
        if not sign or first is None:
            raise bad_input(
                f"found {chosen.persist[:60]!r}; expected ADDRESS:SIZE, such as 0x200000:8MiB",
                path="--persist",
            )
        persist = (first, int(option_quantity(size, "size", "--persist")))
    return Options(
        shared_bytes=int(option_quantity(chosen.shared, "size", "--shared")), l1=chosen.l1,
        outstanding=chosen.outstanding, page=page, persist=persist, host=chosen.home == "zero-copy",
    )  # fmt: skip


def _program(text: str, gpu: Gpu, chosen: GpuTraceOptions) -> GpuTrace:
    from workloads.gpu_trace import KERNELS, generate_kernel, open_gpu_trace
    from workloads.gpu_trace.kernels import Launch

    head = text.partition(":")[0]
    if not Path(text).exists() and (head in KERNELS or (":" in text and "/" not in head and "." not in head)):
        return generate_kernel(text, Launch(gpu.multiprocessors, chosen.blocks))
    return open_gpu_trace(text, gpu.multiprocessors, chosen.format)


def _link(chosen: GpuTraceOptions) -> Pcie:
    from hw_configs.library import load_link
    from hw_configs.link import Pcie

    link = load_link(str(chosen.link))
    if not isinstance(link, Pcie):
        raise bad_input(f"{chosen.link!s} is no PCIe link", path="--link")
    return link


def _behind(
    gpu: Gpu, memory: MemorySpace, program: GpuTrace, asked: Options, chosen: GpuTraceOptions
) -> GpuMemoryResult:
    """The run with the DRAM engine behind the caches."""
    from simulator.dram.engine import RunOptions, simulate_trace
    from simulator.gpu_memory.memory_requests import SectorTrace

    dram = _dram(chosen)
    requests = SectorTrace(gpu, memory, program, asked, dram.channel.transaction_bytes, dram.channel.tick_s)
    outstanding = asked.outstanding or gpu.architecture.memory_path.outstanding
    in_flight = max(1, min(4096, outstanding * gpu.multiprocessors // dram.channels))
    found = simulate_trace(dram, requests, RunOptions(outstanding=in_flight, wrap=True))
    assert requests.result is not None
    return replace(requests.result, dram=found)


def _dram(chosen: GpuTraceOptions) -> Memory:
    from hw_configs.dram import DramDevice
    from hw_configs.library import load_device
    from simulator.dram.build import memory_of

    device = load_device(str(chosen.dram))
    if not isinstance(device, DramDevice):
        raise bad_input(
            f"{chosen.dram!s} is a device of kind {device.kind!r}; expected kind 'dram'", path="--dram"
        )
    if chosen.channels is not None:
        if not 1 <= chosen.channels <= 1024:
            raise bad_input(f"found {chosen.channels}; expected 1 to 1024", path="--channels")
        device = DramDevice.model_validate(
            device.model_dump(exclude_none=True) | {"channels": chosen.channels}
        )
    return memory_of(device)


def _unified(gpu: Gpu, memory: MemorySpace, program: GpuTrace, chosen: GpuTraceOptions) -> UnifiedResult:
    """Pages that move from the host while the trace touches them."""
    from simulator.page_cache.unified_engine import UnifiedMemory, simulate_unified
    from workloads.gpu_trace.touches import Touches

    size = (
        memory.usable_bytes
        if chosen.memory is None
        else int(option_quantity(chosen.memory, "size", "--memory"))
    )
    unified = UnifiedMemory(gpu.name, size, memory.read_bandwidth, _link(chosen).bandwidth)
    return simulate_unified(unified, Touches(program))
