"""The caches of a CPU: levels, prefetchers, translation buffers and the way to memory, as manuals state them.

A device of kind ``cpu-cache`` says how the cores of one socket see memory; what the cores compute is a device of kind
``cpu``. Latencies of caches are load-to-use clocks of the whole way, not of one step.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hw_configs.config import Bandwidth, Config, Count, Fault, Frequency, Size, Time, refuse
from hw_configs.units import format_quantity

__all__ = ["CacheLevel", "CpuCache", "MemoryPath", "Prefetcher", "TlbLevel"]

Policy = Literal["lru", "tree-plru", "fifo", "random", "srrip"]


class Prefetcher(Config):
    """What a level fetches ahead; never beyond the 4 KiB page of the access that made it look ahead."""

    rule: Literal["next-line", "stride", "stream"]
    degree: Annotated[int, Field(ge=1, le=16)] = 1
    """Lines fetched for one access."""
    by: Literal["pc", "page"] = "pc"
    """What a stride prefetcher keeps its strides by."""
    entries: Annotated[int, Field(ge=1, le=4096)] = 64
    """Strides or streams that are followed at a time."""


class CacheLevel(Config):
    """One level: all its copies are alike."""

    size: Size
    """Bytes of one copy."""
    ways: Annotated[int, Field(ge=1, le=64)]
    latency: Count
    """Clocks from a load to its use when this level has the line."""
    shared_by: Count = 1
    """Cores that share one copy."""
    policy: Policy = "lru"
    index: Literal["bits", "hashed"] = "bits"
    """What of a line's number chooses the set: its lowest part, or all of it folded by exclusive or."""
    inclusion: Literal["inclusive", "exclusive", "none"] = "none"
    """Towards the levels nearer to the core: holds all their lines, only their victims, or neither."""
    write: Literal["back", "through"] = "back"
    write_allocate: bool = True
    """Whether a store that misses brings the line here."""
    prefetch: Prefetcher | None = None


class TlbLevel(Config):
    """One level of address translation, of each core."""

    entries: Count
    ways: Annotated[int, Field(ge=1, le=4096)]
    huge_entries: Count | None = None
    """Entries for pages above the base size; None: they use the same ones."""
    huge_ways: Annotated[int, Field(ge=1, le=4096)] | None = None


class MemoryPath(Config):
    """What lies behind the last level."""

    latency: Time
    """From a load to its use when memory of the same node has the line."""
    remote_latency: Time | None = None
    """The same from another node; None: as far as local memory."""
    bandwidth: Bandwidth
    """Peak of all channels of the socket."""


class CpuCache(Config):
    """The cores of a socket and their caches."""

    kind: Literal["cpu-cache"]
    name: str
    description: str = ""
    source: str = ""
    cores: Count
    clock: Frequency
    line: Size = 64.0
    """Bytes of a line, at every level."""
    instructions_per_clock: Annotated[float, Field(gt=0, le=16)]
    """While every access hits the first level."""
    outstanding_misses: Annotated[int, Field(ge=1, le=1024)]
    """Misses of one core's first level in flight."""
    l1i: CacheLevel | None = None
    l1d: CacheLevel
    l2: CacheLevel | None = None
    l3: CacheLevel | None = None
    itlb: TlbLevel | None = None
    dtlb: TlbLevel | None = None
    l2_tlb: TlbLevel | None = None
    l2_itlb: TlbLevel | None = None
    """Of instructions alone; None: they share ``l2_tlb``."""
    page: Size = 4096.0
    """Base page size."""
    huge_page: Size = 2097152.0
    walk_levels: Annotated[int, Field(ge=1, le=6)] = 4
    """Entries of the page table that a walk for a base page reads."""
    huge_walk_levels: Annotated[int, Field(ge=1, le=6)] = 3
    main_memory: MemoryPath

    def caches(self) -> dict[str, CacheLevel]:
        """The levels that are there, by name, nearest first."""
        named = {"l1i": self.l1i, "l1d": self.l1d, "l2": self.l2, "l3": self.l3}
        return {name: level for name, level in named.items() if level is not None}

    def translations(self) -> dict[str, TlbLevel]:
        """The translation levels that are there, by name."""
        named = {"itlb": self.itlb, "dtlb": self.dtlb, "l2_tlb": self.l2_tlb, "l2_itlb": self.l2_itlb}
        return {name: level for name, level in named.items() if level is not None}

    def sets(self, level: CacheLevel) -> int:
        """Sets of one copy of a level."""
        return int(level.size) // (int(self.line) * level.ways)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        faults: list[Fault | None] = []
        for name in ("line", "page", "huge_page"):
            value = int(getattr(self, name))
            if value & (value - 1) or not 16 <= value <= 2**34:
                faults.append(((name,), f"found {value} bytes; expected a power of two of 16 to 2^34"))
        if not self.line <= min(self.page, 4096.0):
            faults.append((("line",), "a line is no larger than a page, and than 4 KiB"))
        if self.huge_page < self.page:
            faults.append((("huge_page",), "a huge page is no smaller than the base page"))
        refuse(*faults)
        for name, level in self.caches().items():
            faults += self._level_faults(name, level)
        for name, buffer in self.translations().items():
            faults += _tlb_faults(name, buffer)
        if self.l2_tlb is not None and self.dtlb is None:
            faults.append((("l2_tlb",), "a second level needs a first one (dtlb)"))
        if self.l2_itlb is not None and self.itlb is None:
            faults.append((("l2_itlb",), "a second level needs a first one (itlb)"))
        if self.l3 is not None and self.l2 is None:
            faults.append((("l3",), "found without l2; name the level behind the first one l2"))
        faults += self._order_faults()
        refuse(*faults)
        return self

    def _level_faults(self, name: str, level: CacheLevel) -> list[Fault]:
        faults: list[Fault] = []
        way = int(self.line) * level.ways
        if int(level.size) % way or int(level.size) < way:
            shown = format_quantity(level.size, "size")
            faults.append(
                ((name, "size"), f"{shown} is no multiple of {level.ways} ways of {int(self.line)} bytes")
            )
        elif level.index == "bits" and self.sets(level) & (self.sets(level) - 1):
            found = f"{self.sets(level)} sets are no power of two, as address bits choose; index: hashed can"
            faults.append(((name, "index"), found))
        if level.policy == "tree-plru" and level.ways & (level.ways - 1):
            faults.append(((name, "policy"), f"a tree needs a power of two of ways; found {level.ways}"))
        if name in ("l1i", "l1d") and level.inclusion != "none":
            faults.append(((name, "inclusion"), "nothing is nearer to the core than a first level"))
        if level.shared_by > self.cores or self.cores % level.shared_by:
            faults.append(
                ((name, "shared_by"), f"{self.cores} cores cannot be dealt out by {level.shared_by}")
            )
        return faults

    def _order_faults(self) -> list[Fault]:
        """Levels that are nearer, smaller or faster than what lies behind them must be."""
        faults: list[Fault] = []
        chain = [(name, level) for name, level in self.caches().items() if name != "l1i"]
        for (near, first), (far, second) in pairwise(chain):
            if second.latency <= first.latency:
                faults.append(
                    ((far, "latency"), f"{second.latency} clocks are not above the {first.latency} of {near}")
                )
            if second.shared_by % first.shared_by:
                faults.append(((far, "shared_by"), f"cores that share {near} do not share one copy of {far}"))
            copies = second.shared_by // max(first.shared_by, 1)
            if second.inclusion == "inclusive" and second.size < first.size * copies:
                faults.append(
                    ((far, "inclusion"), f"an inclusive level is no smaller than all {near} before it")
                )
        if self.l1i is not None and self.l2 is not None and self.l2.shared_by % self.l1i.shared_by:
            faults.append((("l2", "shared_by"), "cores that share l1i do not share one copy of l2"))
        last, level = chain[-1]
        if self.main_memory.latency * self.clock <= level.latency:
            faults.append((("main_memory", "latency"), f"is not above the {level.latency} clocks of {last}"))
        remote = self.main_memory.remote_latency
        if remote is not None and remote < self.main_memory.latency:
            faults.append((("main_memory", "remote_latency"), "is below the latency of local memory"))
        return faults


def _tlb_faults(name: str, buffer: TlbLevel) -> list[Fault]:
    faults: list[Fault] = []
    if buffer.entries % buffer.ways:
        faults.append(((name, "ways"), f"{buffer.entries} entries are no multiple of {buffer.ways} ways"))
    if buffer.huge_entries is not None and buffer.huge_entries % (buffer.huge_ways or buffer.huge_entries):
        faults.append(((name, "huge_ways"), f"{buffer.huge_entries} entries are no multiple of them"))
    return faults
