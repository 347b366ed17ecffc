"""A file's pages through an operating system's page cache and a drive, or through a GPU's unified memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InputError, bad_input
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto
from offchip.tracing.quantity import option_quantity

if TYPE_CHECKING:
    from simulator.flash.drive import Drive
    from simulator.page_cache.result import PageCacheResult
    from simulator.page_cache.unified_engine import UnifiedMemory, UnifiedResult
    from workloads.block_trace import BlockTrace

__all__ = ["PageTraceOptions", "trace_pages"]

_SPARE: Final = 1.15
"""Of the file's bytes: what a drive made smaller holds at least."""


@dataclass(frozen=True, slots=True)
class PageTraceOptions:
    """How a file's pages meet memory; exactly one of ``drive`` and ``gpu`` is given.

    ``format``: of a block trace, told from the first line without it. ``memory``: bytes for pages; with ``gpu``
    instead of the device's own. ``block_size``: bytes of a request of a pattern. With ``drive``: ``page`` (or
    folio) size; ``read_ahead``: the largest window, 0 B for none; ``replacement``: two-lists or lru; ``refault``:
    whether pages that left not long ago come back as active; ``background_ratio`` and ``dirty_ratio`` of the
    memory, ``expire`` and ``interval`` of writing back; ``touch_time``: to copy or map a page that is there;
    ``outstanding``: requests in flight at the drive. With ``gpu``: the ``link`` to the host; ``batch`` faults
    served together in ``batch_time``, of ``group`` touches side by side; ``prefetch``: the density prefetcher;
    ``pin_after``: a chunk that came back so often stays on the host; ``read_mostly``: the host keeps copies.
    """

    memory: str | None = None
    drive: str | Path | None = None
    gpu: str | Path | None = None
    format: str | None = None
    block_size: str = "4 KiB"
    page: str = "4 KiB"
    read_ahead: str = "128 KiB"
    replacement: str = "two-lists"
    refault: bool = True
    background_ratio: float = 0.10
    dirty_ratio: float = 0.20
    expire: str = "30 s"
    interval: str = "5 s"
    touch_time: str = "400 ns"
    outstanding: int = 0
    link: str | Path = "pcie4-x16"
    batch: int = 256
    batch_time: str = "30 us"
    group: int = 2048
    prefetch: bool = True
    pin_after: int = 0
    read_mostly: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        if (self.drive is None) == (self.gpu is None):
            raise bad_input("expected exactly one of --drive and --gpu", path="--drive, --gpu")
        if self.drive is not None and self.memory is None:
            raise bad_input("missing; how many bytes of memory hold pages, such as '32 GiB'", path="--memory")
        if not 0 <= self.seed < 2**63:
            raise bad_input(f"found {self.seed}; expected 0 to 2^63 - 1", path="--seed")


class PageTraceChoices(TypedDict, total=False):
    """The fields of :class:`PageTraceOptions`, as keywords."""

    memory: str | None
    drive: str | Path | None
    gpu: str | Path | None
    format: str | None
    block_size: str
    page: str
    read_ahead: str
    replacement: str
    refault: bool
    background_ratio: float
    dirty_ratio: float
    expire: str
    interval: str
    touch_time: str
    outstanding: int
    link: str | Path
    batch: int
    batch_time: str
    group: int
    prefetch: bool
    pin_after: int
    read_mostly: bool
    seed: int


def trace_pages(
    trace: str | Path, *, progress: Reporter = silent, **options: Unpack[PageTraceChoices]
) -> PageCacheResult | UnifiedResult:
    """Run a file's touches through a page cache and its drive, or through a GPU's unified memory.

    ``trace`` is a block trace or a pattern: ``sequential:SIZE``, ``loop:SIZE:ROUNDS``, ``random:SIZE:REQUESTS[:SEED]``,
    ``overwrite:SIZE:REQUESTS[:SEED]``, ``mapped-model:MODEL[:TOKENS[:SEED]]``; options are the fields of
    :class:`PageTraceOptions`. Raises ``InputError`` for bad input.

    >>> result = trace_pages("sequential:16MiB", memory="64 MiB", drive="nvme-pcie4-dc-tlc")
    >>> result.faults, result.read_amplification
    (1, 1.0)
    """
    chosen = from_keywords(PageTraceOptions, options)
    requests = _requests(str(trace), chosen)
    with progress("pages", 0) as tally:
        if chosen.gpu is not None:
            from simulator.page_cache.unified_engine import simulate_unified

            return simulate_unified(_unified(chosen), requests, progress=upto(tally))
        from simulator.page_cache.engine import extent_of, simulate_page_cache
        from simulator.page_cache.state import CachePolicy

        drive, write_rate = _drive(str(chosen.drive), extent_of(requests))
        policy = CachePolicy(
            memory_bytes=int(option_quantity(chosen.memory or "", "size", "--memory")),
            page_bytes=int(option_quantity(chosen.page, "size", "--page")),
            read_ahead_bytes=int(option_quantity(chosen.read_ahead, "size", "--read-ahead")),
            replacement=chosen.replacement, refault=chosen.refault, background_ratio=chosen.background_ratio,
            dirty_ratio=chosen.dirty_ratio, expire_s=option_quantity(chosen.expire, "time", "--expire"),
            interval_s=option_quantity(chosen.interval, "time", "--interval"),
            touch_ns=round(option_quantity(chosen.touch_time, "time", "--touch-time") * 1e9),
            write_bytes_per_s=write_rate,
        )  # fmt: skip
        return simulate_page_cache(
            policy, drive, requests, outstanding=chosen.outstanding, seed=chosen.seed, progress=upto(tally)
        )


def _requests(text: str, chosen: PageTraceOptions) -> BlockTrace:
    from workloads.block_trace import open_block_trace
    from workloads.block_trace.file_patterns import FILE_PATTERNS, generate_file_pattern

    head, _, rest = text.partition(":")
    if not Path(text[:255]).exists() and (
        head in FILE_PATTERNS or (rest and "/" not in head and "." not in head)
    ):
        return generate_file_pattern(text, int(option_quantity(chosen.block_size, "size", "--block-size")))
    return open_block_trace(text, chosen.format)


def _drive(name: str, file_bytes: int) -> tuple[Drive, float]:
    """The drive, no larger than the file needs, and the bytes per second that it takes."""
    from hw_configs.device import ComputationalStorage, Flash
    from hw_configs.library import load_device
    from offchip.tracing.flash import FEWEST_BLOCKS
    from simulator.flash.drive import drive_of, smaller

    device = load_device(name)
    if not isinstance(device, Flash | ComputationalStorage):
        found = f"{name!r} is a device of kind {device.kind!r}; expected 'flash' or 'csd'"
        raise bad_input(found, path="--drive")
    drive = drive_of(device)
    blocks = max(int(drive.blocks_per_plane * file_bytes * _SPARE / drive.capacity_bytes) + 1, FEWEST_BLOCKS)
    return smaller(drive, min(blocks, drive.blocks_per_plane)), device.store.write_bandwidth


def _unified(chosen: PageTraceOptions) -> UnifiedMemory:
    """The GPU's memory and link."""
    from hw_configs.device import Gpu
    from hw_configs.library import load_device, load_link
    from simulator.page_cache.unified_engine import UnifiedMemory

    device: Any = load_device(str(chosen.gpu))
    if not isinstance(device, Gpu) or device.memory is None:
        found = f"{str(chosen.gpu)!r} is no GPU with a memory of its own"
        raise bad_input(found, path="--gpu")
    own = device.memory.usable_bytes
    memory = own if chosen.memory is None else int(option_quantity(chosen.memory, "size", "--memory"))
    return UnifiedMemory(
        name=device.name, memory_bytes=memory, bandwidth_bytes_per_s=device.memory.bandwidth,
        link_bytes_per_s=load_link(str(chosen.link)).bandwidth, group=chosen.group, batch=chosen.batch,
        batch_s=option_quantity(chosen.batch_time, "time", "--batch-time"), prefetch=chosen.prefetch,
        pin_after=chosen.pin_after, read_mostly=chosen.read_mostly,
    )  # fmt: skip
