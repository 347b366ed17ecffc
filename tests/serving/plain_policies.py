"""The other policies in plain Python, as what they change of the plain vLLM scheduler; and a plain prefix tree."""

from __future__ import annotations

import math

from serving.plain_scheduler import PlainScheduler


class PlainReserved(PlainScheduler):
    """A request is admitted only if all that runs, and it, can come to their ends."""

    take_whole = False

    def final(self, job):
        tokens = len(job.tokens) - job.outputs + len(job.answer) - 1
        return math.ceil(min(tokens + self.S + self.LA, self.cfg.max_model_len) / self.pool.size)

    def at_admission(self, job):
        known = math.ceil(min(job.known + self.LA, self.cfg.max_model_len) / self.pool.size)
        return self.final(job) if self.take_whole else known

    def allocate(self, job, n, hits, admission=False):
        if admission:
            parked = sum(self.pool.holders[b] == 0 for b in hits)
            promised = sum(max(0, self.final(j) - len(j.table)) for j in self.running)
            if self.final(job) - len(hits) + parked + promised > len(self.pool.free):
                return False
        got = super().allocate(job, n, hits, admission)
        if admission and got:
            while len(job.table) < self.at_admission(job):
                job.table.append(self.pool.pop())
        return got


class PlainOrca(PlainReserved):
    """All of a request's memory at once, whole prompts, no limit on tokens."""

    take_whole = True


class PlainStatic(PlainOrca):
    """As Orca, but for admissions, which wait until nothing runs."""

    def running_pass(self):
        super().running_pass()
        self.ran = bool(self.step)

    def waiting_pass(self):
        if not self.ran:
            super().waiting_pass()


class PlainPrefillFirst(PlainReserved):
    """Prompts alone as long as there are any, else answers."""

    def only(self, answers):
        everyone = self.running
        self.running = [j for j in everyone if (j.outputs > 0 and j.known - j.computed == 1) == answers]
        super().running_pass()
        self.running = everyone

    def running_pass(self):
        self.only(False)

    def waiting_pass(self):
        super().waiting_pass()
        if not self.step:
            self.only(True)


class PlainMaxUtilization(PlainScheduler):
    """vLLM's rules; a prompt's blocks are taken as a whole."""

    def allocate(self, job, n, hits, admission=False):
        if not admission:
            return super().allocate(job, n, hits)
        tokens = max(job.known, job.computed + n) + self.LA
        top = math.ceil(min(tokens, self.cfg.max_model_len) / self.pool.size)
        parked = sum(self.pool.holders[b] == 0 for b in hits)
        if top - len(hits) + parked > len(self.pool.free):
            return False
        got = super().allocate(job, n, hits, admission)
        while got and len(job.table) < top:
            job.table.append(self.pool.pop())
        return got


class PlainSwap(PlainScheduler):
    """A preempted request's computed tokens wait in the first memory with room for all, and come back with it."""

    def __init__(self, *args, tiers):
        super().__init__(*args)
        self.tiers, self.kept = list(tiers), {}
        self.moved, self.times = [[0, 0] for _ in tiers], [0 for _ in tiers]

    def preempt(self, victim):
        blocks = math.ceil(victim.computed / self.pool.size)
        for tier, room in enumerate(self.tiers):
            if 0 < blocks <= room:
                self.tiers[tier] -= blocks
                self.kept[victim.number] = victim.computed, tier
                self.moved[tier][0] += blocks
                self.times[tier] += 1
                break
        super().preempt(victim)

    def found(self, job):
        if job.number in self.kept:
            return [], self.kept[job.number][0]
        return super().found(job)

    def allocate(self, job, n, hits, admission=False):
        got = super().allocate(job, n, hits, admission)
        if got and admission and job.number in self.kept:
            tokens, tier = self.kept.pop(job.number)
            blocks = math.ceil(tokens / self.pool.size)
            self.tiers[tier] += blocks
            self.moved[tier][1] += blocks
        return got


class PlainTree:
    """Prefixes as sets of tuples: what a radix tree without eviction holds."""

    def __init__(self, page):
        self.page = page
        self.prefixes = set()

    def insert(self, tokens):
        self.prefixes |= {tuple(tokens[:k]) for k in range(self.page, len(tokens) + 1, self.page)}

    def find(self, tokens):
        ends = [k for k in range(self.page, len(tokens) + 1, self.page) if tuple(tokens[:k]) in self.prefixes]
        return max(ends, default=0)

    @property
    def size(self):
        return len(self.prefixes) * self.page
