"""An operating system's page cache in plain Python: lists of pages, the youngest last, and one rule after another.

It shares nothing with the engine but the numbers that a policy gives.
"""

from __future__ import annotations

import math
from collections import Counter

BATCH = 1024


class Cache:
    """Pages of one file, read by calls or mapped."""

    def __init__(self, policy, file_bytes, mapped=False):
        size = policy.page_bytes
        self.capacity, self.pages, self.mapped = policy.memory_bytes // size, -(-file_bytes // size), mapped
        self.most = min(policy.read_ahead_bytes // size, self.capacity // 4, BATCH)
        self.background = max(int(self.capacity * policy.background_ratio), 1)
        self.hard = max(int(self.capacity * policy.dirty_ratio), 1)
        self.expire, self.interval = round(policy.expire_s * 1e9), max(round(policy.interval_s * 1e9), 1)
        self.touch_ns, self.two, self.refault = (
            policy.touch_ns,
            policy.replacement == "two-lists",
            policy.refault,
        )
        rate = policy.write_bytes_per_s
        self.write_ns = max(round(size / rate * 1e9), 1) if rate else 0
        self.ratio = max(math.isqrt(10 * (policy.memory_bytes // 2**30)), 1)
        self.inactive, self.active = [], []
        self.referenced, self.ahead, self.marks, self.dirty = set(), {}, set(), {}
        self.left, self.age = {}, 0
        self.start = self.length = self.wait = 0
        self.before, self.misses = -2, 0
        self.clock, self.next_flush, self.free = 0, self.interval, 0
        self.count = Counter()
        self.events = []
        self.requests = 0

    def there(self, page):
        return page in self.inactive or page in self.active

    def tell(self, kind, page, pages):
        self.events.append((kind, page, pages, self.count["touches"]))
        if kind != "wait":
            self.requests += 1

    def write_back(self, kind, cause, left, older):
        done = 0
        while done < BATCH and len(self.dirty) > left:
            first, when = next(iter(self.dirty.items()))
            if when > older:
                break
            run = []
            for page, written in list(self.dirty.items()):
                if page != first + len(run) or written > older or done == BATCH or len(self.dirty) <= left:
                    break
                run.append(page)
                done += 1
                del self.dirty[page]
            self.count[cause] += len(run)
            self.tell(kind, first, len(run))
        return done

    def reclaim(self):
        if self.two:
            while len(self.inactive) * self.ratio < len(self.active):
                page = self.active.pop(0)
                self.referenced.discard(page)
                self.inactive.append(page)
        page = self.inactive.pop(0)
        if page in self.dirty:
            del self.dirty[page]
            self.count["reclaimed"] += 1
            self.tell("write waited", page, 1)
        if self.ahead.pop(page, None) is not None:
            self.count["useless"] += 1
        self.referenced.discard(page)
        self.marks.discard(page)
        self.count["evicted"] += 1
        self.age += 1
        self.left[page] = self.age

    def enter(self, page):
        if len(self.inactive) + len(self.active) >= self.capacity:
            self.reclaim()
        to = self.inactive
        if page in self.left:
            self.count["refaults"] += 1
            if self.two and self.refault and self.age - self.left[page] <= len(self.active):
                to = self.active
                self.count["activated"] += 1
                self.age += 1
        to.append(page)

    def use(self, page):
        if not self.two:
            self.inactive.remove(page)
            self.inactive.append(page)
        elif page not in self.referenced:
            self.referenced.add(page)
        elif page in self.inactive:
            self.inactive.remove(page)
            self.referenced.discard(page)
            self.active.append(page)
            self.count["activated"] += 1
            self.age += 1

    def read(self, wanted, first, pages, mark=None):
        at, last = first, min(first + pages, self.pages)
        while at < last:
            if self.there(at):
                at += 1
                continue
            run = [at]
            while run[-1] + 1 < last and not self.there(run[-1] + 1):
                run.append(run[-1] + 1)
            number = self.requests
            self.tell("read" if wanted in run else "read ahead", at, len(run))
            for page in run:
                self.enter(page)
                self.ahead[page] = number
                if page == mark:
                    self.marks.add(page)
            self.count["ahead"] += len(run)
            at = run[-1] + 1

    def grown(self, size):
        if size < self.most // 16:
            return 4 * size
        return 2 * size if size <= self.most // 2 else self.most

    def submit(self, wanted, index):
        if index == self.start and self.length == self.wait:
            more = self.grown(self.length)
            if self.length + more <= self.most:
                self.wait, self.length = more, self.length + more
            else:
                self.length, self.wait = self.most, self.most // 2
        self.read(wanted, self.start, self.length, self.start + self.length - self.wait)

    def expected(self, page):
        end = self.start + self.length
        if not self.length or page not in (end, end - self.wait):
            return False
        self.start, self.length = end, self.grown(self.length)
        self.wait = self.length
        return True

    def missed(self, page, asked):
        if not self.most:
            self.read(page, page, 1)
        elif self.mapped:
            self.misses += 1
            if self.misses > 100:
                self.read(page, page, 1)
            else:
                self.start, self.length, self.wait = max(page - self.most // 2, 0), self.most, self.most // 4
                self.read(page, self.start, self.most, self.start + self.most - self.wait)
        elif page > 0 and self.expected(page):
            self.submit(page, page)
        elif page == 0 or asked > self.most or self.before in (page, page - 1):
            asked = min(asked, self.most)
            size = 2 ** math.ceil(math.log2(asked))
            if size <= self.most // 32:
                size *= 4
            elif size <= self.most // 4:
                size *= 2
            else:
                size = self.most
            self.start, self.length = page, size
            self.wait = size - asked if size > asked else size
            self.submit(page, page)
        else:
            self.read(page, page, min(asked, self.most))
        if not self.there(page):
            self.read(page, page, 1)

    def marked(self, page, asked):
        if not self.expected(page):
            hole = next(
                (k for k in range(page + 1, min(page + self.most, self.pages - 1) + 1) if not self.there(k)),
                None,
            )
            if hole is None:
                return
            self.start, self.length = hole, self.grown(hole - page + min(asked, self.most))
            self.wait = self.length
        self.submit(None, page)

    def touch(self, page, asked=1, write=False, whole=True):
        self.clock += self.touch_ns
        self.count["touches"] += 1
        if self.there(page):
            self.count["hits"] += 1
            number = self.ahead.pop(page, None)
            if number is not None:
                self.count["useful"] += 1
                self.tell("wait", number, 0)
                self.misses = max(self.misses - 1, 0)
            if page in self.marks:
                self.marks.discard(page)
                self.marked(page, asked)
        elif write and whole:
            self.count["whole"] += 1
            self.enter(page)
        else:
            self.count["faults"] += 1
            self.missed(page, asked)
            self.count["ahead"] -= 1
            self.ahead.pop(page, None)
            self.marks.discard(page)
        if self.there(page):
            self.use(page)
            if write:
                self.dirty.setdefault(page, self.clock)
        self.before = page
        self.flush()

    def flush(self):
        if len(self.dirty) > self.hard:
            pages = self.write_back("write waited", "throttled", self.background, self.clock)
            self.clock = self.free = max(self.clock, self.free) + pages * self.write_ns
        elif len(self.dirty) > self.background and self.clock >= self.free:
            self.free = self.clock + self.write_ns * self.write_back(
                "write", "background", self.background, self.clock
            )
        if self.clock >= self.next_flush and self.clock >= self.free:
            pages = self.write_back("write", "expired", 0, self.clock - self.expire)
            self.free = self.clock + pages * self.write_ns
            self.next_flush = self.clock + (0 if pages == BATCH else self.interval)
