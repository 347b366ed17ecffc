"""A GPU's memory path once more, plainly: lists of lines, youngest first, sectors as sets of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Path:
    """Figures of a small machine, named as in the kernel."""

    sms: int = 2
    line: int = 128
    sector: int = 32
    l1_sets: int = 2
    l1_ways: int = 2
    write_back: bool = False
    l2_sets: int = 3
    l2_ways: int = 2
    partitions: int = 1
    slices: int = 2
    page: int = 4096
    tlb: int = 2
    tlb2_sets: int = 2
    tlb2_ways: int = 2
    persist: tuple[int, int] | None = None
    persist_ways: int = 1
    host: bool = False
    l1_latency: int = 10
    l2_latency: int = 100
    memory_latency: int = 500
    tlb_latency: int = 30
    walk_latency: int = 70


def mixed(number: int) -> int:
    """The finaliser of MurmurHash3, 31 bits."""
    h = number % 2**32
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return (h ^ (h >> 16)) // 2


def set_number(line: int, sets: int) -> int:
    """Each run of ``sets`` lines in order, turned by its hash."""
    return (line % sets + mixed(line // sets) * sets // 2**31) % sets


@dataclass
class Line:
    number: int
    valid: set[int] = field(default_factory=set)
    dirty: set[int] = field(default_factory=set)
    kept: bool = False


@dataclass
class Oracle:
    path: Path
    count: Counter[str] = field(default_factory=Counter)
    wait: Counter[int] = field(default_factory=Counter)
    path_bytes: Counter[int] = field(default_factory=Counter)
    slice_bytes: Counter[int] = field(default_factory=Counter)
    requests: list[tuple[int, int]] = field(default_factory=list)
    near: dict[tuple[int, int], list[Line]] = field(default_factory=dict)
    behind: dict[tuple[int, int], list[Line]] = field(default_factory=dict)
    pages: dict[int, list[int]] = field(default_factory=dict)
    pages2: dict[int, list[int]] = field(default_factory=dict)

    def run(self, accesses: Iterable[tuple[int, int, int, int]]) -> Oracle:
        for kind, address, size, sm in accesses:
            self.count[("loads", "stores", "atomics")[kind]] += 1
            self.count["asked"] += size
            waited = self.translate(sm, address // self.path.page)
            if (address + size - 1) // self.path.page != address // self.path.page:
                waited = max(waited, self.translate(sm, (address + size - 1) // self.path.page))
            touched: dict[int, dict[int, int]] = {}
            for byte in range(address, address + size):
                sectors = touched.setdefault(byte // self.path.line, {})
                sector = byte % self.path.line // self.path.sector
                sectors[sector] = sectors.get(sector, 0) + 1
            for line, sectors in touched.items():
                self.count["lines"] += 1
                whole = {sector for sector, n in sectors.items() if n == self.path.sector}
                waited += (self.load, self.store, self.atomic)[kind](sm, line, set(sectors), whole)
            self.wait[sm] += waited
        return self

    def translate(self, sm: int, page: int) -> int:
        p = self.path
        self.count["tlb looks"] += 1
        held = self.pages.setdefault(sm, [])
        if page in held:
            held.remove(page)
            held.insert(0, page)
            return 0
        self.count["tlb misses"] += 1
        held.insert(0, page)
        del held[p.tlb :]
        second = self.pages2.setdefault(set_number(page, p.tlb2_sets), [])
        found = page in second
        if found:
            second.remove(page)
        else:
            self.count["walks"] += 1
        second.insert(0, page)
        del second[p.tlb2_ways :]
        return p.tlb_latency if found else p.walk_latency

    def load(self, sm: int, line: int, sectors: set[int], _: set[int]) -> int:
        p = self.path
        self.count["l1 sectors"] += len(sectors)
        wanted = sectors
        if p.l1_sets:
            held = self.near.setdefault((sm, set_number(line, p.l1_sets)), [])
            entry = next((one for one in held if one.number == line), None)
            if entry is None:
                entry = Line(line)
                if len(held) == p.l1_ways:
                    gone = held.pop()
                    self.count["l1 evicted"] += 1
                    if gone.dirty:
                        self.down(sm, gone.number, gone.dirty, gone.dirty)
            else:
                held.remove(entry)
            held.insert(0, entry)
            wanted = sectors - entry.valid
            entry.valid |= sectors
            self.count["l1 hits"] += len(sectors) - len(wanted)
            if not wanted:
                return len(sectors) * p.l1_latency
        clocks = self.link(sm, wanted, False) if p.host else self.read(sm, line, wanted)
        return len(wanted) * clocks

    def store(self, sm: int, line: int, sectors: set[int], whole: set[int]) -> int:
        p = self.path
        self.count["stored"] += len(sectors)
        held = self.near.get((sm, set_number(line, p.l1_sets)), []) if p.l1_sets else []
        for entry in held:
            if entry.number == line:
                held.remove(entry)
                held.insert(0, entry)
                there = {s for s in sectors if s in whole or s in entry.valid}
                if p.write_back and there == sectors:
                    entry.valid |= sectors
                    entry.dirty |= sectors
                    return 0
                entry.valid |= there
                entry.dirty -= sectors
                break
        clocks = self.down(sm, line, sectors, whole)
        return 0 if p.host else len(sectors) * (clocks - p.l2_latency)

    def atomic(self, sm: int, line: int, sectors: set[int], _: set[int]) -> int:
        self.count["stored"] += len(sectors)
        held = self.near.get((sm, set_number(line, self.path.l1_sets)), []) if self.path.l1_sets else []
        for entry in held:
            if entry.number == line:
                dirty = entry.dirty & sectors
                entry.valid -= sectors
                entry.dirty -= sectors
                if dirty:
                    self.down(sm, line, dirty, dirty)
        return len(sectors) * self.down(sm, line, sectors, set())

    def down(self, sm: int, line: int, sectors: set[int], whole: set[int]) -> int:
        return self.link(sm, sectors, True) if self.path.host else self.write(sm, line, sectors, whole)

    def link(self, sm: int, sectors: set[int], write: bool) -> int:
        self.path_bytes[sm] += len(sectors) * self.path.sector
        self.count["host writes" if write else "host reads"] += 1
        self.count["host bytes"] += len(sectors) * self.path.sector
        return self.path.memory_latency

    def home(self, line: int) -> int:
        return mixed(line * self.path.line // 4096) * self.path.partitions // 2**31

    def port(self, partition: int, line: int, count: int) -> None:
        at = set_number(line, self.path.l2_sets) % self.path.slices
        self.slice_bytes[partition * self.path.slices + at] += count * self.path.sector

    def entry(self, partition: int, line: int) -> Line:
        p = self.path
        held = self.behind.setdefault((partition, set_number(line, p.l2_sets)), [])
        for one in held:
            if one.number == line:
                held.remove(one)
                held.insert(0, one)
                return one
        window = p.persist
        kept = window is not None and window[0] <= line <= window[1]
        if len(held) == p.l2_ways:
            others = [one for one in held if not one.kept]
            keeping = [one for one in held if one.kept]
            give = keeping if not others or (kept and len(keeping) >= p.persist_ways) else others
            gone = give[-1]
            held.remove(gone)
            self.count["l2 evicted"] += 1
            self.memory(gone.number, gone.dirty, True)
        made = Line(line, kept=kept)
        held.insert(0, made)
        return made

    def memory(self, line: int, sectors: set[int], write: bool) -> None:
        self.count["written" if write else "read"] += len(sectors)
        for sector in sorted(sectors):
            self.requests.append((line * self.path.line + sector * self.path.sector, int(write)))

    def read(self, sm: int, line: int, sectors: set[int]) -> int:
        p = self.path
        self.count["l2 sectors"] += len(sectors)
        self.path_bytes[sm] += len(sectors) * p.sector
        near, home = sm % p.partitions, self.home(line)
        self.port(near, line, len(sectors))
        entry = self.entry(near, line)
        found = sectors & entry.valid
        self.count["l2 hits"] += len(found)
        if entry.kept:
            self.count["persisting hits"] += len(found)
        entry.valid |= sectors
        missing = sectors - found
        if missing and near != home:
            self.port(home, line, len(missing))
            far = self.entry(home, line)
            there = missing & far.valid
            self.count["far hits"] += len(there)
            far.valid |= missing
            missing -= there
        if not missing:
            return p.l2_latency
        self.memory(line, missing, False)
        return p.memory_latency

    def write(self, sm: int, line: int, sectors: set[int], whole: set[int]) -> int:
        p = self.path
        self.count["l2 written"] += len(sectors)
        self.path_bytes[sm] += len(sectors) * p.sector
        home = self.home(line)
        self.port(home, line, len(sectors))
        for partition in range(p.partitions):
            if partition != home:
                for one in self.behind.get((partition, set_number(line, p.l2_sets)), []):
                    if one.number == line:
                        one.valid -= sectors
        entry = self.entry(home, line)
        self.count["l2 write hits"] += len(sectors & entry.valid)
        fill = sectors - whole - entry.valid
        entry.valid |= sectors
        entry.dirty |= sectors
        if not fill:
            return p.l2_latency
        self.count["filled"] += len(fill)
        self.memory(line, fill, False)
        return p.memory_latency

    def dirty(self) -> int:
        caches: tuple[dict[Any, list[Line]], ...] = (self.near, self.behind)
        return sum(len(one.dirty) for cache in caches for held in cache.values() for one in held)
