"""vLLM's scheduler in plain Python: lists, dicts and loops, written from the rules alone (tests/reference/scheduler).

It shares no code with the engine and is as slow as it looks. Numbers in comments are sections of those rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Job:
    """What the scheduler knows of a request."""

    number: int
    tokens: list
    answer: list
    priority: int
    arrival: float
    computed: int = 0
    drafts: int = 0
    outputs: int = 0
    table: list = field(default_factory=list)
    entered: int = 0
    in_prefill: bool = False
    resumed: bool = False

    @property
    def known(self):
        return len(self.tokens)


class Pool:
    """Blocks, the free list as a list, the index as lists of blocks by key."""

    def __init__(self, blocks, size, caching):
        self.free = list(range(1, blocks + 1))
        self.size = size
        self.caching = caching
        self.holders = dict.fromkeys(self.free, 0)
        self.key_of = {}
        self.index = {}

    def key(self, tokens, k):
        """A block's key is simply all tokens up to its end."""
        return tuple(tokens[: (k + 1) * self.size])

    def find(self, tokens, drop_last):
        hits = []
        if self.caching:
            for k in range((len(tokens) - 1) // self.size):
                standing = self.index.get(self.key(tokens, k))
                if not standing:
                    break
                hits.append(standing[0])
        return hits[:-1] if drop_last else hits

    def hold(self, hits):
        for b in hits:
            if self.holders[b] == 0:
                self.free.remove(b)
            self.holders[b] += 1

    def pop(self):
        b = self.free.pop(0)
        if b in self.key_of:
            key = self.key_of.pop(b)
            self.index[key].remove(b)
            if not self.index[key]:
                del self.index[key]
        self.holders[b] = 1
        return b

    def enter(self, b, key):
        self.key_of[b] = key
        self.index.setdefault(key, []).append(b)

    def release(self, table):
        loose = []
        for b in reversed(table):
            self.holders[b] -= 1
            if self.holders[b] == 0:
                loose.append(b)
        self.free = [b for b in loose if b not in self.key_of] + self.free
        self.free += [b for b in loose if b in self.key_of]


class PlainScheduler:
    """One replica's scheduler, under the rules of vLLM 0.32.0."""

    def __init__(self, requests, settings, blocks, block_size):
        self.requests = requests
        self.cfg = settings
        self.pool = Pool(blocks, block_size, settings.enable_prefix_caching)
        self.total = blocks + 1
        spec = settings.speculation
        self.S = spec.tokens if spec else 0
        self.LA = spec.lookahead if spec else 0
        self.ds = spec.draft_slots if spec else 0
        self.drop = bool(spec and spec.drop_last_hit_block)
        self.running, self.queue = [], []
        self.step, self.preempted, self.admitted = [], [], []

    def add(self, i):
        r = self.requests
        prompt = []
        for k in range(r.segment_begin[i], r.segment_begin[i + 1]):
            prompt += [(int(r.adapter[i]), int(r.segment_stream[k]), j) for j in range(r.segment_tokens[k])]
        answer = [(int(r.adapter[i]), int(r.output_stream[i]), j) for j in range(r.output_tokens[i])]
        job = Job(i, prompt, answer, int(r.priority[i]), float(r.arrival_s[i]))
        self.queue.append(job)
        self.sort_queue()

    def sort_queue(self):
        if self.cfg.policy == "priority":
            self.queue.sort(key=lambda j: (j.priority, j.arrival, j.number))

    def room(self):
        return min(self.Bt, self.Bi - self.ds)

    def cap(self, n):
        return min(n, self.L) if self.L > 0 else n

    def schedule(self):
        cfg = self.cfg
        self.step, self.preempted, self.admitted = [], [], []
        self.Bt = self.Bi = cfg.max_num_batched_tokens
        inside = len(self.running) + len(self.queue)
        self.L = cfg.long_prefill_token_threshold if inside > 1 else 0
        if self.L and cfg.long_prefill_token_threshold_adaptive:
            self.L = max(self.L, cfg.max_num_batched_tokens // inside)
        self.running_pass()
        if not self.preempted:
            self.waiting_pass()
        for entry in self.step:
            job = entry["job"]
            job.computed += entry["n"]
            job.in_prefill = job.computed < job.known
        return self.step

    def running_pass(self):
        """4.2"""
        i = 0
        while i < len(self.running) and self.Bt > 0 and self.Bi > self.ds:
            job = self.running[i]
            n = self.cap(job.known + job.drafts - job.computed)
            n = min(n, self.room(), self.cfg.max_model_len - job.computed - 1)
            before = len(job.table)
            got = self.allocate(job, n, [])
            while not got:
                victim = self.running[-1]
                if self.cfg.policy == "priority":
                    worst = max((j.priority, j.arrival) for j in self.running)
                    victim = next(j for j in self.running if (j.priority, j.arrival) == worst)
                if self.running.index(victim) < i:
                    i -= 1
                for entry in [e for e in self.step if e["job"] is victim]:
                    self.step.remove(entry)
                    self.Bt += entry["n"]
                    self.Bi += entry["n"] + self.ds
                self.preempt(victim)
                if victim is job:
                    return
                got = self.allocate(job, n, [])
            self.put(job, n, before)
            i += 1

    def preempt(self, victim):
        self.running.remove(victim)
        self.pool.release(victim.table)
        victim.table, victim.entered, victim.computed, victim.drafts = [], 0, 0, 0
        victim.resumed = True
        self.queue.insert(0, victim)
        self.sort_queue()
        self.preempted.append(victim.number)

    def put(self, job, n, before, padded=False):
        drafts = max(0, n + job.computed - job.known)
        job.drafts = 0
        self.step.append(
            {"job": job, "n": n, "context": job.computed, "drafts": drafts, "padded": padded, "known": job.known,
             "new": job.table[before:]}
        )  # fmt: skip
        self.Bt -= n
        self.Bi -= n + self.ds

    def waiting_pass(self):
        """4.3"""
        cfg = self.cfg
        ran = [entry["job"] for entry in self.step]
        in_prefill = any(job.in_prefill for job in ran)
        while self.Bt > 0:
            if not self.queue or self.Bi <= self.ds:
                return
            if len(self.running) >= (cfg.max_num_active_seqs or cfg.max_num_seqs):
                return
            job = self.queue[0]
            hits, H = self.found(job)
            n = job.known - H
            padded = False
            if self.S > 0 and n == 1 and not in_prefill and (ran or H > 0):
                m = 1 + self.S
                if H + m + 1 <= cfg.max_model_len:
                    if m > self.room():
                        return
                    n, padded = m, True
            n = self.cap(n)
            if not cfg.enable_chunked_prefill and n > self.room():
                return
            n = min(n, self.room())
            job.computed = H
            if not self.allocate(job, n, hits, admission=True):
                job.computed = 0
                return
            self.queue.pop(0)
            self.running.append(job)
            self.admitted.append((job.number, len(hits) * self.pool.size, job.resumed))
            self.put(job, n, 0, padded)

    def found(self, job):
        """Blocks of a waiting request that are there, and the tokens that it needs not compute."""
        hits = self.pool.find(job.tokens, self.drop)
        return hits, len(hits) * self.pool.size

    def allocate(self, job, n, hits, admission=False):
        """4.4"""
        pool, M = self.pool, self.cfg.max_model_len
        W = math.floor(self.cfg.watermark * self.total) if admission and self.running else 0
        parked = sum(pool.holders[b] == 0 for b in hits)
        if admission and self.cfg.scheduler_reserve_full_isl:
            whole = math.ceil(min(job.known, M) / pool.size)
            if whole - len(hits) + parked + W > len(pool.free):
                return False
        held = len(job.table) + len(hits)
        need = max(0, math.ceil(min(job.computed + n + self.LA, M) / pool.size) - held)
        if need + parked + W > len(pool.free):
            return False
        pool.hold(hits)
        if hits:
            job.table, job.entered = list(hits), len(hits)
        job.table += [pool.pop() for _ in range(need)]
        if pool.caching:
            for k in range(job.entered, min(job.computed + n, job.known) // pool.size):
                pool.enter(job.table[k], pool.key(job.tokens, k))
                job.entered = k + 1
        return True

    def complete(self, accepted):
        """4.1, steps 6 and 7"""
        finished = []
        for entry, right in zip(self.step, accepted, strict=True):
            job = entry["job"]
            if entry["padded"]:
                right = 0
            sampled = entry["context"] + entry["n"] >= entry["known"]
            job.computed -= entry["drafts"] - right
            if not sampled:
                continue
            ended = False
            for _ in range(1 + right):
                job.tokens.append(job.answer[job.outputs])
                job.outputs += 1
                if job.known >= self.cfg.max_model_len or job.outputs >= len(job.answer):
                    ended = True
                    break
            if ended:
                self.pool.release(job.table)
                self.running.remove(job)
                finished.append(job.number)
            elif not job.in_prefill:
                job.drafts = self.S
        return finished
