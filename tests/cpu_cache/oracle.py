"""Caches of a CPU in plain Python, a list per set: slow, and meant to be read beside docs/cpu-caches.md.

It takes the device as its file says it, and shares no code with the engine but the device's own class.
"""

from __future__ import annotations

import math
from collections import Counter

LOAD, STORE, FETCH = 0, 1, 2
NAMES = {LOAD: "load", STORE: "store", FETCH: "fetch", "prefetch": "prefetch", "walk": "walk"}
TICKS = 64


class Way:
    """A line in a set."""

    def __init__(self, line, dirty=False, ahead=False):
        self.line, self.dirty, self.ahead = line, dirty, ahead
        self.age, self.ready = 0, 0


class Copy:
    """One copy of a level: sets of ways, None where a way is empty."""

    def __init__(self, sets, ways, policy, hashed=False, draw=None):
        self.sets = [[None] * ways for _ in range(sets)]
        self.tree = [[0] * (2 * ways) for _ in range(sets)]
        self.ways, self.policy, self.hashed, self.draw = ways, policy, hashed, draw
        self.clock = 0
        self.table = {}
        self.streams = []

    def number(self, line):
        folded = line
        if self.hashed:
            bits = max((len(self.sets) - 1).bit_length(), 1)
            while line:
                line //= 2**bits
                folded ^= line
        return folded % len(self.sets)

    def find(self, line):
        for way in self.sets[self.number(line)]:
            if way is not None and way.line == line:
                return way
        return None

    def _away(self, number, index):
        node, low, high = 1, 0, self.ways
        while high - low > 1:
            middle = (low + high) // 2
            right = index >= middle
            self.tree[number][node] = 0 if right else 1
            node = 2 * node + right
            low, high = (middle, high) if right else (low, middle)

    def use(self, way):
        number = self.number(way.line)
        if self.policy == "lru":
            self.clock += 1
            way.age = self.clock
        elif self.policy == "tree-plru":
            self._away(number, self.sets[number].index(way))
        elif self.policy == "srrip":
            way.age = 0

    def put(self, way):
        """Place a line; what gave way, or None."""
        number = self.number(way.line)
        ways = self.sets[number]
        if None in ways:
            index = ways.index(None)
        elif self.policy == "tree-plru":
            node = 1
            while node < self.ways:
                node = 2 * node + self.tree[number][node]
            index = node - self.ways
        elif self.policy == "random":
            index = self.draw() % self.ways
        elif self.policy == "srrip":
            while all(other.age < 3 for other in ways):
                for other in ways:
                    other.age += 1
            index = next(i for i, other in enumerate(ways) if other.age == 3)
        else:
            index = min(range(self.ways), key=lambda i: ways[i].age)
        old, ways[index] = ways[index], way
        self.clock += 1
        way.age = 2 if self.policy == "srrip" else self.clock
        if self.policy == "tree-plru":
            self._away(number, index)
        return old

    def drop(self, way):
        ways = self.sets[self.number(way.line)]
        ways[ways.index(way)] = None


class Machine:
    """The caches of ``cores`` cores of a device."""

    def __init__(self, device, cores=1, page="base", nodes=1, outstanding=None, prefetch=True, seed=1):
        self.device, self.cores, self.prefetch = device, cores, prefetch
        self.random = seed
        self.levels = device.caches()
        self.copies = {
            name: [
                Copy(device.sets(level), level.ways, level.policy, level.index == "hashed", self._draw)
                for _ in range(-(-cores // level.shared_by))
            ]
            for name, level in self.levels.items()
        }
        huge = page == "huge"
        self.buffers = {}
        for name, buffer in device.translations().items():
            entries, ways = buffer.entries, buffer.ways
            if huge and buffer.huge_entries:
                entries, ways = buffer.huge_entries, buffer.huge_ways or buffer.huge_entries
            self.buffers[name] = [Copy(entries // ways, ways, "lru") for _ in range(cores)]
        self.page = int(device.huge_page if huge else device.page)
        self.depth = device.huge_walk_levels if huge else device.walk_levels
        self.node_cores = device.cores // nodes
        self.outstanding = outstanding or device.outstanding_misses
        clock, path = device.clock, device.main_memory
        self.near = math.ceil(path.latency * clock - 1e-6)
        self.far = math.ceil((path.remote_latency or path.latency) * clock - 1e-6)
        self.work = max(round(TICKS / device.instructions_per_clock), 1)
        self.now = [0] * cores
        self.count = Counter()
        self.requests = []

    def _draw(self):
        self.random = (self.random * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.random >> 33) % 2**30

    def behind(self, name):
        after = {"l1i": "l2", "l1d": "l2", "l2": "l3"}.get(name)
        return after if after in self.levels else None

    def copy(self, name, core):
        return self.copies[name][core // self.levels[name].shared_by]

    def tell(self, name, what, by=1):
        self.count[name, what] += by

    def memory(self, line, write):
        self.requests.append((line * int(self.device.line), write))

    # What gives way.

    def gone(self, name, core, way):
        """Whether the line is dirty anywhere nearer or here; an inclusive level takes nearer copies back."""
        self.tell(name, "evicted")
        if way.ahead:
            self.tell(name, "useless")
        dirty = way.dirty
        level = self.levels[name]
        if level.inclusion == "inclusive":
            group = core // level.shared_by
            for near in self.levels:
                chain, step = [], near
                while step:
                    step = self.behind(step)
                    chain.append(step)
                if name not in chain:
                    continue
                sharers = [c for c in range(self.cores) if c // level.shared_by == group]
                for number in sorted({c // self.levels[near].shared_by for c in sharers}):
                    held = self.copies[near][number].find(way.line)
                    if held is not None:
                        self.tell(near, "taken_back")
                        if held.ahead:
                            self.tell(near, "useless")
                        dirty = dirty or held.dirty
                        self.copies[near][number].drop(held)
        if dirty:
            self.tell(name, "written_back")
        return dirty

    def down(self, name, core, line, dirty):
        """A victim arrives at a level."""
        if name is None:
            if dirty:
                self.tell("memory", "writes")
                self.memory(line, 1)
            return
        level, copy = self.levels[name], self.copy(name, core)
        exclusive = level.inclusion == "exclusive"
        if not dirty and not exclusive:
            return
        held = copy.find(line)
        if dirty:
            self.tell(name, "written_to")
            if held is None:
                self.tell(name, "written_to_missing")
        stays = dirty and level.write == "back"
        if held is not None:
            if stays:
                held.dirty = True
            elif dirty:
                self.down(self.behind(name), core, line, True)
        elif stays or exclusive:
            old = copy.put(Way(line, stays))
            if dirty and not stays:
                self.through(self.behind(name), core, line)
            if old is not None:
                self.down(self.behind(name), core, old.line, self.gone(name, core, old))
        else:
            self.down(self.behind(name), core, line, True)

    def through(self, name, core, line):
        if name is None:
            self.tell("memory", "writes")
            self.memory(line, 1)
            return
        self.tell(name, "written_to")
        held = self.copy(name, core).find(line)
        if held is None:
            self.tell(name, "written_to_missing")
        elif self.levels[name].write == "back":
            held.dirty = True
            return
        self.through(self.behind(name), core, line)

    # What comes in.

    def hit(self, name, core, way, cause):
        self.tell(name, ("hit", NAMES[cause]))
        clocks = self.levels[name].latency
        if cause != "prefetch":
            first = way.ahead
            if first:
                way.ahead = False
                self.tell(name, "useful")
                wait = -((self.now[core] - way.ready) // TICKS)
                if wait > clocks:
                    self.tell(name, "late")
                    clocks = wait
            if cause != "walk":
                self.seen[name] = "first" if first else "hit"
        self.copy(name, core).use(way)
        return clocks

    def fetch(self, name, core, line, cause, home):
        """What the levels from ``name`` on give: clocks and dirtiness; they keep copies, deepest first."""
        if name is None:
            self.tell("memory", NAMES[cause])
            remote = home != core // self.node_cores
            if remote:
                self.tell("memory", "remote")
            self.memory(line, 0)
            return (self.far if remote else self.near), False
        level, copy = self.levels[name], self.copy(name, core)
        way = copy.find(line)
        if way is not None:
            clocks = self.hit(name, core, way, cause)
            if level.inclusion == "exclusive":
                copy.drop(way)
                return clocks, way.dirty
            return clocks, False
        self.tell(name, ("miss", NAMES[cause]))
        if cause not in ("prefetch", "walk"):
            self.seen[name] = "miss"
        clocks, dirty = self.fetch(self.behind(name), core, line, cause, home)
        if level.inclusion == "exclusive":
            return clocks, dirty
        self.fill(name, core, line, dirty)
        return clocks, False

    def fill(self, name, core, line, dirty):
        stays = dirty and self.levels[name].write == "back"
        way = Way(line, stays)
        old = self.copy(name, core).put(way)
        if old is not None:
            self.down(self.behind(name), core, old.line, self.gone(name, core, old))
        if dirty and not stays:
            self.through(self.behind(name), core, line)
        return way

    def bring(self, name, core, line, cause, home):
        clocks, dirty = self.fetch(self.behind(name), core, line, cause, home)
        return self.fill(name, core, line, dirty), clocks

    def read(self, name, core, line, cause, home):
        way = self.copy(name, core).find(line)
        if way is not None:
            return self.hit(name, core, way, cause)
        self.tell(name, ("miss", NAMES[cause]))
        if cause != "walk":
            self.seen[name] = "miss"
        return self.bring(name, core, line, cause, home)[1]

    def write(self, core, line, home):
        name, clocks = "l1d", None
        while name is not None:
            level = self.levels[name]
            way = self.copy(name, core).find(line)
            waited = 0
            if way is not None:
                waited = self.hit(name, core, way, STORE)
            else:
                self.tell(name, ("miss", "store"))
                self.seen[name] = "miss"
                if level.write_allocate:
                    way, waited = self.bring(name, core, line, STORE, home)
            clocks = clocks or waited
            if way is not None and level.write == "back":
                way.dirty = True
                break
            name = self.behind(name)
        else:
            self.tell("memory", "through")
            self.memory(line, 1)
        return max(clocks, self.levels["l1d"].latency)

    # Translation, prefetch, other cores.

    def translate(self, core, address, fetch):
        path = ["itlb", "l2_itlb"] if fetch and "itlb" in self.buffers else ["dtlb", "l2_tlb"]
        if path == ["itlb", "l2_itlb"] and "l2_itlb" not in self.buffers:
            path = ["itlb", "l2_tlb"]
        path = [n for n in path if n in self.buffers]
        page, cause, missed = address // self.page, "fetch" if fetch else "load", []
        for name in path:
            way = self.buffers[name][core].find(page)
            self.tell(name, ("hit" if way else "miss", cause))
            if way:
                self.buffers[name][core].use(way)
                break
            missed.append(name)
        clocks = 0
        if path and missed == path:
            self.tell("memory", "walks")
            for level in reversed(range(self.depth)):
                entry = 2**62 + level * 2**58 + page // 512**level * 8
                line = entry // int(self.device.line)
                clocks += self.read("l1d", core, line, "walk", core // self.node_cores)
        for name in missed:
            self.buffers[name][core].put(Way(page))
        return clocks

    def ask(self, name, core, line, home):
        if self.copy(name, core).find(line) is not None:
            return
        self.tell(name, "prefetches")
        way, clocks = self.bring(name, core, line, "prefetch", home)
        way.ahead = True
        way.ready = self.now[core] + clocks * TICKS

    def step(self, name, core, line, pc):
        rule, copy = self.levels[name].prefetch, self.copy(name, core)
        page = line * int(self.device.line) // 4096
        if rule.rule == "stream":
            # Least recently used first.
            entry = next((e for e in copy.streams if e["key"] == page), None)
            if entry is None:
                if len(copy.streams) == rule.entries:
                    copy.streams.pop(0)
                entry = {"key": page, "line": line, "step": 0, "sure": 0}
                copy.streams.append(entry)
                return 0
            copy.streams.remove(entry)
            copy.streams.append(entry)
        else:
            key = page if rule.by == "page" else pc
            entry = copy.table.get(key % rule.entries)
            if entry is None or entry["key"] != key:
                copy.table[key % rule.entries] = {"key": key, "line": line, "step": 0, "sure": 0}
                return 0
        moved = line - entry["line"]
        if rule.rule == "stream":
            moved = (moved > 0) - (moved < 0)
        if moved:
            entry["sure"] = entry["sure"] + 1 if moved == entry["step"] else 1
            entry["line"], entry["step"] = line, moved
        return entry["step"] if entry["sure"] >= 2 else 0

    def look_ahead(self, name, core, line, pc, home):
        rule = self.levels[name].prefetch
        if rule.rule == "next-line":
            moved = int(self.seen[name] in ("miss", "first"))
        else:
            moved = self.step(name, core, line, pc)
        for k in range(1, rule.degree + 1):
            ahead = line + k * moved
            lines = 4096 // int(self.device.line)
            if moved and ahead >= 0 and ahead // lines == line // lines:
                self.ask(name, core, ahead, home)

    def access(self, kind, address, pc=0, instructions=1, core=0, home=0):
        """One access inside a line."""
        line = address // int(self.device.line)
        self.now[core] += instructions * self.work
        self.seen = {}
        first = "l1i" if kind == FETCH and "l1i" in self.levels else "l1d"
        clocks = self.translate(core, address, kind == FETCH)
        if kind == STORE:
            for name, copies in self.copies.items():
                for number, copy in enumerate(copies):
                    held = copy.find(line)
                    if number != core // self.levels[name].shared_by and held is not None:
                        self.tell(name, "invalidated")
                        if held.ahead:
                            self.tell(name, "useless")
                        copy.drop(held)
            clocks += self.write(core, line, home)
        else:
            clocks += self.read(first, core, line, kind, home)
        self.tell("memory", "clocks", clocks)
        self.now[core] += (clocks - self.levels[first].latency) * TICKS // self.outstanding
        name = first
        while self.prefetch and name is not None:
            if self.levels[name].prefetch is not None and name in self.seen:
                self.look_ahead(name, core, line, pc, home)
            name = self.behind(name)
