"""Every replacement policy once more, as plain lists and dicts written from its rule: what the kernels are held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

NEVER: Final = 1 << 62


class Slow:
    """A cache of ``capacity`` bytes; subclasses say how objects enter, what a hit does and what leaves."""

    def __init__(self, capacity: int, **settings: Any) -> None:
        self.capacity = capacity
        self.held: dict[int, int] = {}
        self.now = 0
        self.settings = settings
        self.start()

    def start(self) -> None:
        """Sets up what the policy keeps."""

    def used(self) -> int:
        return sum(self.held.values())

    def request(self, thing: int, size: int, hint: int = 0) -> bool:
        """One request; whether it hit."""
        self.now += 1
        if thing in self.held:
            self.hit(thing, hint)
            return True
        self.missed(thing, size, hint)
        if size <= self.capacity and self.admits(thing, size):
            while self.used() + size > self.capacity:
                self.evict(size)
            self.enter(thing, size, hint)
        return False

    def missed(self, thing: int, size: int, hint: int) -> None:
        """Before anything leaves."""

    def admits(self, thing: int, size: int) -> bool:
        return True

    def hit(self, thing: int, hint: int) -> None:
        """What a hit changes."""

    def enter(self, thing: int, size: int, hint: int) -> None:
        self.held[thing] = size

    def evict(self, size: int) -> None:
        raise NotImplementedError


class Fifo(Slow):
    def evict(self, size: int) -> None:
        del self.held[next(iter(self.held))]


class Lru(Fifo):
    def hit(self, thing: int, hint: int) -> None:
        self.held[thing] = self.held.pop(thing)


class Clock(Fifo):
    def start(self) -> None:
        self.count: dict[int, int] = {}
        self.most = 2 ** self.settings.get("bits", 1) - 1

    def hit(self, thing: int, hint: int) -> None:
        self.count[thing] = min(self.count[thing] + 1, self.most)

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.count[thing] = 0

    def evict(self, size: int) -> None:
        while True:
            oldest = next(iter(self.held))
            if self.count[oldest] == 0:
                del self.held[oldest]
                return
            self.count[oldest] -= 1
            self.held[oldest] = self.held.pop(oldest)


class Ranked(Slow):
    """Drops what ranks lowest."""

    def start(self) -> None:
        self.rank: dict[int, Any] = {}

    def evict(self, size: int) -> None:
        worst = min(self.held, key=lambda thing: self.rank[thing])
        self.dropped(worst)
        del self.held[worst]

    def dropped(self, thing: int) -> None:
        """Told before it leaves."""


class Lfu(Ranked):
    """Fewest uses since it entered; among equals the one that has had that many uses longest."""

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.rank[thing] = (1, self.now)

    def hit(self, thing: int, hint: int) -> None:
        self.rank[thing] = (self.rank[thing][0] + 1, self.now)


class Gdsf(Ranked):
    """Clock + uses / size; a new object competes with those that are there and may be the one that leaves."""

    def request(self, thing: int, size: int, hint: int = 0) -> bool:
        self.now += 1
        if thing in self.held:
            self.hit(thing, hint)
            return True
        if size <= self.capacity:
            self.enter(thing, size, hint)
            while self.used() > self.capacity:
                self.evict(size)
        return False

    def start(self) -> None:
        super().start()
        self.clock = 0.0
        self.uses: dict[int, int] = {}

    def _ranked(self, thing: int) -> None:
        self.rank[thing] = (self.clock + self.uses[thing] * 1.0e6 / self.held[thing], self.now)

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.uses[thing] = 1
        self._ranked(thing)

    def hit(self, thing: int, hint: int) -> None:
        self.uses[thing] += 1
        self._ranked(thing)

    def dropped(self, thing: int) -> None:
        self.clock = self.rank[thing][0]


class LruK(Ranked):
    """Largest backward K-distance; fewer than K uses: first, by order of entering."""

    def start(self) -> None:
        super().start()
        self.k = self.settings.get("k", 2)
        self.uses: dict[int, list[int]] = {}

    def _ranked(self, thing: int) -> None:
        uses = self.uses[thing]
        self.rank[thing] = (1, uses[-self.k]) if len(uses) >= self.k else (0, uses[0])

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.uses[thing] = [self.now]
        self._ranked(thing)

    def hit(self, thing: int, hint: int) -> None:
        self.uses[thing].append(self.now)
        self._ranked(thing)


class Sieve(Slow):
    def start(self) -> None:
        self.queue: list[int] = []  # newest first
        self.visited: set[int] = set()
        self.hand: int | None = None

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.queue.insert(0, thing)

    def hit(self, thing: int, hint: int) -> None:
        self.visited.add(thing)

    def evict(self, size: int) -> None:
        at = len(self.queue) - 1 if self.hand is None else self.queue.index(self.hand)
        while self.queue[at] in self.visited:
            self.visited.discard(self.queue[at])
            at = at - 1 if at else len(self.queue) - 1
        self.hand = self.queue[at - 1] if at else None
        del self.held[self.queue.pop(at)]


class Slru(Slow):
    """Segments of LRU, probation first; a hit moves one up, a full segment pushes its oldest one down."""

    def start(self) -> None:
        count = self.settings.get("segments", 4)
        self.most = [self.capacity // count] * count
        self.segments: list[list[int]] = [[] for _ in range(count)]  # newest first

    def bytes_in(self, at: int) -> int:
        return sum(self.held[thing] for thing in self.segments[at])

    def admits(self, thing: int, size: int) -> bool:
        return size <= self.most[0]

    def enter(self, thing: int, size: int, hint: int) -> None:
        fits = [at for at in range(len(self.most)) if self.bytes_in(at) + size <= self.most[at]]
        super().enter(thing, size, hint)
        self.segments[fits[0] if fits else 0].insert(0, thing)

    def hit(self, thing: int, hint: int) -> None:
        at = next(at for at, segment in enumerate(self.segments) if thing in segment)
        up = min(at + 1, len(self.segments) - 1)
        self.segments[at].remove(thing)
        self.segments[up].insert(0, thing)
        if up != at:
            while self.bytes_in(up) > self.most[up]:
                self.cool(up)

    def cool(self, at: int) -> None:
        if at == 0:
            self.evict(0)
            return
        self.segments[at - 1].insert(0, self.segments[at].pop())
        while self.bytes_in(at - 1) > self.most[at - 1]:
            self.cool(at - 1)

    def evict(self, size: int) -> None:
        lowest = next(segment for segment in self.segments if segment)
        del self.held[lowest.pop()]


class Ghosts:
    """Names of what left, oldest first, up to some bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.names: dict[int, int] = {}

    def add(self, thing: int, size: int) -> None:
        if size <= self.capacity and thing not in self.names:
            while sum(self.names.values()) + size > self.capacity:
                del self.names[next(iter(self.names))]
            self.names[thing] = size

    def take(self, thing: int) -> bool:
        return self.names.pop(thing, None) is not None


class TwoQ(Slow):
    def start(self) -> None:
        self.most_in = int(self.capacity * self.settings.get("a_in", 0.25))
        self.most_main = self.capacity - self.most_in
        self.ghosts = Ghosts(int(self.capacity * self.settings.get("a_out", 0.5)))
        self.fresh: list[int] = []  # oldest first
        self.main: list[int] = []
        self.known = False

    def bytes_of(self, things: Iterable[int]) -> int:
        return sum(self.held[thing] for thing in things)

    def hit(self, thing: int, hint: int) -> None:
        if thing in self.main:
            self.main.remove(thing)
            self.main.append(thing)

    def missed(self, thing: int, size: int, hint: int) -> None:
        self.known = self.ghosts.take(thing)

    def admits(self, thing: int, size: int) -> bool:
        return size <= self.most_in

    def enter(self, thing: int, size: int, hint: int) -> None:
        if not self.known:
            self.fresh.append(thing)
        elif size <= self.most_main:
            while self.bytes_of(self.main) + size > self.most_main:
                del self.held[self.main.pop(0)]
            self.main.append(thing)
        else:
            return
        super().enter(thing, size, hint)

    def evict(self, size: int) -> None:
        if self.bytes_of(self.fresh) > self.most_in or not self.main:
            gone = self.fresh.pop(0)
            self.ghosts.add(gone, self.held[gone])
        else:
            gone = self.main.pop(0)
        del self.held[gone]


class S3Fifo(Slow):
    def start(self) -> None:
        self.most_small = int(self.capacity * self.settings.get("small", 0.1))
        self.most_main = self.capacity - self.most_small
        self.ghosts = Ghosts(int(self.capacity * self.settings.get("ghost", 0.9)))
        self.threshold = self.settings.get("threshold", 2)
        self.small: list[int] = []  # oldest first
        self.main: list[int] = []
        self.uses: dict[int, int] = {}
        self.known = self.full = False

    def bytes_of(self, things: Iterable[int]) -> int:
        return sum(self.held[thing] for thing in things)

    def hit(self, thing: int, hint: int) -> None:
        self.uses[thing] += 1

    def missed(self, thing: int, size: int, hint: int) -> None:
        self.known = self.ghosts.take(thing)

    def admits(self, thing: int, size: int) -> bool:
        return size <= self.most_small

    def enter(self, thing: int, size: int, hint: int) -> None:
        if self.known:
            self.main.append(thing)
        elif size >= self.most_small:
            return
        elif not self.full and self.bytes_of(self.small) >= self.most_small:
            self.main.append(thing)
        else:
            self.small.append(thing)
        super().enter(thing, size, hint)
        self.uses[thing] = 0

    def evict(self, size: int) -> None:
        self.full = True
        if self.bytes_of(self.main) > self.most_main or not self.small:
            self.evict_main()
        else:
            self.evict_small()

    def evict_small(self) -> None:
        while self.small:
            oldest = self.small.pop(0)
            if self.uses[oldest] < self.threshold:
                self.ghosts.add(oldest, self.held.pop(oldest))
                return
            self.main.append(oldest)
            self.uses[oldest] = 0

    def evict_main(self) -> None:
        while self.main:
            oldest = self.main.pop(0)
            if self.uses[oldest] == 0:
                del self.held[oldest]
                return
            self.uses[oldest] = min(self.uses[oldest], 3) - 1
            self.main.append(oldest)


class Arc(Slow):
    """T1 and T2 hold, B1 and B2 remember; all newest first."""

    def start(self) -> None:
        self.t1: list[int] = []
        self.t2: list[int] = []
        self.b1: list[int] = []
        self.b2: list[int] = []
        self.size: dict[int, int] = {}
        self.target = 0.0
        self.known = 0

    def bytes_of(self, things: Iterable[int]) -> int:
        return sum(self.size[thing] for thing in things)

    def hit(self, thing: int, hint: int) -> None:
        (self.t1 if thing in self.t1 else self.t2).remove(thing)
        self.t2.insert(0, thing)

    def missed(self, thing: int, size: int, hint: int) -> None:
        one, two = self.bytes_of(self.b1), self.bytes_of(self.b2)
        self.known = 0
        if thing in self.b1:
            self.known = 1
            self.target = min(self.target + max(two / one, 1), self.capacity)
            self.b1.remove(thing)
        elif thing in self.b2:
            self.known = 2
            self.target = max(self.target - max(one / two, 1), 0)
            self.b2.remove(thing)

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.size[thing] = size
        (self.t2 if self.known else self.t1).insert(0, thing)

    def evict(self, size: int) -> None:
        if not self.known:
            first = self.bytes_of(self.t1) + self.bytes_of(self.b1)
            if first + size > self.capacity:
                if not self.b1:
                    del self.held[self.t1.pop()]
                    return
                self.b1.pop()
            elif first + self.bytes_of(self.t2) + self.bytes_of(self.b2) >= 2 * self.capacity and self.b2:
                self.b2.pop()
        self.replace()

    def replace(self) -> None:
        first = self.bytes_of(self.t1)
        if (self.t1 and (first > self.target or (first == self.target and self.known == 2))) or not self.t2:
            gone = self.t1.pop()
            self.b1.insert(0, gone)
        else:
            gone = self.t2.pop()
            self.b2.insert(0, gone)
        del self.held[gone]


class Lirs(Slow):
    """S: what was used lately, newest first; Q: the held ones of long distance, newest first; out: in S, not held.

    As in libCacheSim a hit in Q makes room among the others first; where that drops the object itself from Q, S still
    calls it held, and the room that is made is for what took its place.
    """

    def start(self) -> None:
        self.most_hir = max(1, int(self.settings.get("hir", 0.01) * self.capacity))
        self.most_lir = self.capacity - self.most_hir
        self.s: list[int] = []
        self.q: list[int] = []
        self.out: list[int] = []
        self.lir: set[int] = set()
        self.inside: set[int] = set()
        self.size: dict[int, int] = {}
        self.lir_bytes = self.hir_bytes = 0

    def request(self, thing: int, size: int, hint: int = 0) -> bool:
        hit = self.asked(thing, size)
        while sum(self.size[other] for other in self.s) > 2 * self.capacity and self.out:
            last = self.out.pop()
            if last in self.s:
                self.s.remove(last)
        return hit

    def forget(self, thing: int) -> None:
        if thing in self.out:
            self.out.remove(thing)

    def asked(self, thing: int, size: int) -> bool:
        in_s, in_q = thing in self.s, thing in self.q
        for stack, there in ((self.s, in_s), (self.q, in_q)):
            if there:
                stack.remove(thing)
                stack.insert(0, thing)
        if in_s and thing in self.lir:
            self.prune()
            return True
        if in_s and thing in self.inside:
            if in_q:
                self.q.remove(thing)
                self.hir_bytes -= self.size[thing]
            self.raise_to_lir(thing)
            return True
        if in_s:
            if self.size[thing] <= self.capacity:
                self.raise_to_lir(thing)
                self.forget(thing)
            return False
        if in_q:
            counted = thing
            while self.lir_bytes + self.size[counted] > self.most_lir:
                gone, came = self.drop_lir()
                if gone == counted and came is not None:
                    counted = came
            self.s.insert(0, thing)
            self.inside.add(thing)
            return True
        if size <= min(self.most_lir, self.most_hir):
            self.fresh(thing, size)
        return False

    def fresh(self, thing: int, size: int) -> None:
        self.size[thing] = size
        if self.lir_bytes + size <= self.most_lir:
            self.lir.add(thing)
            self.lir_bytes += size
        else:
            while self.hir_bytes + size > self.most_hir:
                self.drop_hir()
            self.q.insert(0, thing)
            self.hir_bytes += size
        self.s.insert(0, thing)
        self.inside.add(thing)

    def raise_to_lir(self, thing: int) -> None:
        while self.lir_bytes + self.size[thing] > self.most_lir:
            self.drop_lir()
        self.lir.add(thing)
        self.inside.add(thing)
        self.lir_bytes += self.size[thing]

    def prune(self) -> None:
        while self.s and self.s[-1] != self.s[0] and self.s[-1] not in self.lir:
            last = self.s.pop()
            self.forget(last)

    def drop_lir(self) -> tuple[int | None, int | None]:
        """Lowers the oldest of S to Q; what left Q last for it, and what came into Q."""
        last = self.s.pop()
        self.lir.discard(last)
        self.lir_bytes -= self.size[last]
        gone = came = None
        if self.size[last] <= self.most_hir:
            while self.hir_bytes + self.size[last] > self.most_hir:
                gone = self.drop_hir()
            self.q.insert(0, last)
            self.hir_bytes += self.size[last]
            came = last
        self.prune()
        return gone, came

    def drop_hir(self) -> int:
        last = self.q.pop()
        self.hir_bytes -= self.size[last]
        if last in self.s:
            self.inside.discard(last)
            if last not in self.out:
                self.out.insert(0, last)
        return last


class Mq(Slow):
    """Queues by the logarithm of uses; what was not used for a lifetime goes one down; ghosts keep their uses."""

    def start(self) -> None:
        self.queues: list[list[int]] = [[] for _ in range(self.settings.get("queues", 8))]  # oldest first
        self.lifetime = self.settings.get("lifetime", 10000)
        self.ghosts = Ghosts(int(self.capacity * self.settings.get("ghost", 4.0)))
        self.uses: dict[int, int] = {}
        self.expires: dict[int, int] = {}

    def place(self, thing: int) -> None:
        level = min(int(math.log2(self.uses[thing])), len(self.queues) - 1)
        self.queues[level].append(thing)
        self.expires[thing] = self.now + self.lifetime

    def age(self) -> None:
        for level in range(1, len(self.queues)):
            queue = self.queues[level]
            if queue and self.expires[queue[0]] < self.now:
                thing = queue.pop(0)
                self.queues[level - 1].append(thing)
                self.expires[thing] = self.now + self.lifetime

    def request(self, thing: int, size: int, hint: int = 0) -> bool:
        self.now += 1
        self.age()
        self.now -= 1
        return super().request(thing, size, hint)

    def missed(self, thing: int, size: int, hint: int) -> None:
        self.known = self.ghosts.take(thing)

    def hit(self, thing: int, hint: int) -> None:
        for queue in self.queues:
            if thing in queue:
                queue.remove(thing)
        self.uses[thing] += 1
        self.place(thing)

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.uses[thing] = self.uses[thing] + 1 if self.known else 1
        self.place(thing)

    def evict(self, size: int) -> None:
        lowest = next(queue for queue in self.queues if queue)
        gone = lowest.pop(0)
        self.ghosts.add(gone, self.held.pop(gone))


class Belady(Slow):
    """Drops what is used again last; among what is never used again, the top of a heap kept as libpqueue does."""

    def start(self) -> None:
        self.heap: list[int] = []
        self.next: dict[int, int] = {}

    def up(self, at: int) -> None:
        heap = self.heap
        while at and self.next[heap[(at - 1) // 2]] < self.next[heap[at]]:
            heap[at], heap[(at - 1) // 2] = heap[(at - 1) // 2], heap[at]
            at = (at - 1) // 2

    def down(self, at: int) -> None:
        heap = self.heap
        while 2 * at + 1 < len(heap):
            child = 2 * at + 1
            if child + 1 < len(heap) and self.next[heap[child]] < self.next[heap[child + 1]]:
                child += 1
            if self.next[heap[at]] >= self.next[heap[child]]:
                return
            heap[at], heap[child] = heap[child], heap[at]
            at = child

    def hit(self, thing: int, hint: int) -> None:
        at = self.heap.index(thing)
        before = self.next[thing]
        self.next[thing] = hint
        if before < hint:
            self.up(at)
        else:
            self.down(at)

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.next[thing] = hint
        self.heap.append(thing)
        self.up(len(self.heap) - 1)

    def evict(self, size: int) -> None:
        gone = self.heap[0]
        last = self.heap.pop()
        if self.heap:
            self.heap[0] = last
            self.down(0)
        del self.held[gone]


class Dice:
    """SplitMix64, one number at a time."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, most: int) -> int:
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return (z ^ (z >> 31)) % most


def swap_out(bag: list[int], at: int) -> int:
    """Takes one out; the last one comes to its place."""
    found = bag[at]
    bag[at] = bag[-1]
    bag.pop()
    return found


class Random(Slow):
    def start(self) -> None:
        self.dice = Dice(self.settings.get("seed", 1))
        self.bag: list[int] = []

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.bag.append(thing)

    def evict(self, size: int) -> None:
        del self.held[swap_out(self.bag, self.dice.below(len(self.bag)))]


class BeladySize(Slow):
    def start(self) -> None:
        self.dice = Dice(self.settings.get("seed", 1))
        self.bag: list[int] = []
        self.next: dict[int, int] = {}
        self.samples = self.settings.get("samples", 128)

    def hit(self, thing: int, hint: int) -> None:
        self.next[thing] = hint

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.bag.append(thing)
        self.next[thing] = hint

    def evict(self, size: int) -> None:
        places = range(len(self.bag))
        if len(self.bag) > self.samples:
            places = [self.dice.below(len(self.bag)) for _ in range(self.samples)]  # type: ignore[assignment]
        waits = {at: self.held[self.bag[at]] * (self.next[self.bag[at]] - (self.now - 1)) for at in places}
        del self.held[swap_out(self.bag, max(waits, key=lambda at: waits[at]))]


class Marking(Slow):
    """Bits, where a subclass has them: 1 for what may go."""

    def start(self) -> None:
        self.dice = Dice(self.settings.get("seed", 1))
        self.unmarked: list[int] = []
        self.marked: list[int] = []

    def hit(self, thing: int, hint: int) -> None:
        if thing in self.unmarked:
            swap_out(self.unmarked, self.unmarked.index(thing))
            self.marked.append(thing)

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.marked.append(thing)

    def evict(self, size: int) -> None:
        if not self.unmarked:
            self.unmarked, self.marked = self.marked, []
        del self.held[swap_out(self.unmarked, self.dice.below(len(self.unmarked)))]


class Discard(Marking):
    def start(self) -> None:
        super().start()
        self.safe: list[int] = []  # used longest ago first

    def told(self, thing: int, hint: int) -> None:
        (self.safe if hint else self.marked).append(thing)

    def hit(self, thing: int, hint: int) -> None:
        if thing in self.unmarked:
            swap_out(self.unmarked, self.unmarked.index(thing))
        else:
            (self.safe if thing in self.safe else self.marked).remove(thing)
        self.told(thing, hint)

    def enter(self, thing: int, size: int, hint: int) -> None:
        self.held[thing] = size
        self.told(thing, hint)

    def evict(self, size: int) -> None:
        if self.safe:
            del self.held[self.safe.pop(0)]
        else:
            super().evict(size)


class Flush(Slow):
    def start(self) -> None:
        self.safe: list[int] = []  # used longest ago first

    def told(self, thing: int, hint: int) -> None:
        if thing in self.safe:
            self.safe.remove(thing)
        if hint:
            self.safe.append(thing)

    def hit(self, thing: int, hint: int) -> None:
        self.told(thing, hint)

    def enter(self, thing: int, size: int, hint: int) -> None:
        self.held[thing] = size
        self.told(thing, hint)

    def evict(self, size: int) -> None:
        if self.safe:
            del self.held[self.safe.pop(0)]
        else:
            self.held.clear()


class Noted(dict[int, int]):
    """What a cache holds, and in which order things left it."""

    def __init__(self) -> None:
        self.left: list[int] = []

    def __delitem__(self, thing: int) -> None:
        self.left.append(thing)
        super().__delitem__(thing)


class Robust(Slow):
    """Follows one of two caches; ``both`` and ``alone``: what is held with it and without it, oldest first."""

    def start(self) -> None:
        seed = self.settings.get("seed", 1)
        self.minds = Discard(self.capacity, seed=seed), Marking(self.capacity, seed=seed + 1)
        for mind in self.minds:
            mind.held = Noted()
        self.misses = [0, 0]
        self.followed = self.changes = 0
        self.both: list[int] = []
        self.alone: list[int] = []

    def request(self, thing: int, size: int, hint: int = 0) -> bool:
        for at, mind in enumerate(self.minds):
            assert isinstance(mind.held, Noted)
            mind.held.left = []
            self.misses[at] += not mind.request(thing, size, hint)
            if at == self.followed:
                for left in mind.held.left:
                    if left in self.both:
                        self.both.remove(left)
                        self.alone.append(left)
        there = self.minds[self.followed].held
        hit = thing in self.held
        if hit or thing in there:
            for held in (self.both, self.alone):
                if thing in there and thing in held:
                    held.remove(thing)
            while not hit and self.used() + size > self.capacity:
                del self.held[(self.alone or self.both).pop(0)]
            self.held.setdefault(thing, size)
            if thing in there:
                self.both.append(thing)
        self.choose()
        return hit

    def choose(self) -> None:
        worse, better = self.misses[self.followed], self.misses[1 - self.followed]
        if worse > self.settings.get("trust", 1.5) * better + len(self.held):
            self.followed = 1 - self.followed
            self.changes += 1
            there = self.minds[self.followed].held
            out = [thing for thing in self.both if thing not in there]
            self.both = [thing for thing in self.both if thing in there]
            self.both += [thing for thing in self.alone if thing in there]
            self.alone = [thing for thing in self.alone if thing not in there] + out


class Phase(Slow):
    def start(self) -> None:
        self.dice = Dice(self.settings.get("seed", 1))
        self.marked: list[int] = []
        self.unmarked: tuple[list[int], list[int]] = ([], [])  # said to be done without, and the rest
        self.bit: dict[int, int] = {}

    def hit(self, thing: int, hint: int) -> None:
        for bag in self.unmarked:
            if thing in bag:
                swap_out(bag, bag.index(thing))
                self.marked.append(thing)
        self.bit[thing] = hint

    def enter(self, thing: int, size: int, hint: int) -> None:
        super().enter(thing, size, hint)
        self.marked.append(thing)
        self.bit[thing] = hint

    def evict(self, size: int) -> None:
        without, rest = self.unmarked
        if not without and not rest:
            for thing in self.marked:
                (without if self.bit[thing] else rest).append(thing)
            self.marked = []
        bag = without or rest
        del self.held[swap_out(bag, self.dice.below(len(bag)))]


class PredictiveMarker(Belady):
    """The heap of Belady holds the unmarked objects alone."""

    def start(self) -> None:
        super().start()
        self.dice = Dice(self.settings.get("seed", 1))
        self.marked: list[int] = []
        self.left: dict[int, int] = {}  # in this phase, with the length of the chain that each ends
        self.harmonic = 0.0

    def drop(self, at: int) -> int:
        gone = self.heap[at]
        last = self.heap.pop()
        if at < len(self.heap):
            self.heap[at] = last
            if self.next[last] > self.next[gone]:
                self.up(at)
            else:
                self.down(at)
        return gone

    def hit(self, thing: int, hint: int) -> None:
        if thing in self.heap:
            self.drop(self.heap.index(thing))
            self.marked.append(thing)
        self.next[thing] = hint

    def request(self, thing: int, size: int, hint: int = 0) -> bool:
        self.asked = thing
        return super().request(thing, size, hint)

    def enter(self, thing: int, size: int, hint: int) -> None:
        self.held[thing] = size
        self.marked.append(thing)
        self.next[thing] = hint

    def evict(self, size: int) -> None:
        if not self.heap:
            for thing in self.marked:
                self.heap.append(thing)
                self.up(len(self.heap) - 1)
            self.harmonic = sum(1 / i for i in range(1, len(self.marked) + 1))
            self.marked, self.left = [], {}
        chain = self.left.get(self.asked, 0)
        trusted = chain <= self.harmonic
        gone = self.drop(0 if trusted else self.dice.below(len(self.heap)))
        self.left[gone] = chain + 1
        del self.held[gone]


SLOW: Final[dict[str, Callable[..., Slow]]] = {
    "2q": TwoQ, "arc": Arc, "belady": Belady, "belady-size": BeladySize, "blind-oracle": Belady, "clock": Clock,
    "discard-predictions": Discard, "fifo": Fifo, "flush-predictions": Flush, "gdsf": Gdsf, "lfu": Lfu, "lirs": Lirs,
    "lru": Lru, "lru-k": LruK, "marking": Marking, "mq": Mq, "phase-predictions": Phase,
    "predictive-marker": PredictiveMarker, "random": Random, "robust-discard": Robust, "s3-fifo": S3Fifo,
    "sieve": Sieve, "slru": Slru,
}  # fmt: skip
"""Every policy by its registered name."""
