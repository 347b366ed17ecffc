"""Prefix-aware: the worker that has lately seen the longest beginning of the prompt, unless it has too much to do.

As SGLang's router (Zheng et al., SGLang, arXiv:2312.07104; its router's cache-aware policy): an approximate view of
each worker's cache, kept by the router from what it sent there, and a bound on imbalance.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from simulator.serving.routing.router import Pool, RouterOptions
from workloads.requests import Requests

__all__ = ["PrefixAware", "RecentPrefixes"]

_TOKENS_OF_SLACK = 1000.0

Key = tuple[int, int]
"""Segments before it (their number in the router's table), and the stream that follows."""


class RecentPrefixes:
    """Beginnings of prompts that went to a worker: how much of a stream it saw after which segments."""

    def __init__(self, most: int) -> None:
        self.seen: OrderedDict[Key, int] = OrderedDict()
        self.most = most

    def shared(self, steps: list[tuple[Key, int]]) -> int:
        """Tokens of a prompt, given as its keys and segment lengths, that the worker has seen."""
        total = 0
        for key, tokens in steps:
            seen = self.seen.get(key, 0)
            total += min(seen, tokens)
            if seen < tokens:
                break
        return total

    def remember(self, steps: list[tuple[Key, int]]) -> None:
        """A prompt goes there; the oldest prefixes are forgotten."""
        for key, tokens in steps:
            self.seen[key] = max(self.seen.pop(key, 0), tokens)
        while len(self.seen) > self.most:
            self.seen.popitem(last=False)


class PrefixAware:
    """The longest shared prefix within the bound on load; the least load where several are equal."""

    def __init__(self, requests: Requests, options: RouterOptions) -> None:
        self.requests, self.options = requests, options
        self.table: dict[tuple[int, int, int], int] = {}
        self.of_worker: dict[int, RecentPrefixes] = {}

    def _steps(self, request: int) -> list[tuple[Key, int]]:
        requests = self.requests
        begin, end = requests.segment_begin[request : request + 2].tolist()
        streams = requests.segment_stream[begin:end].tolist()
        lengths = requests.segment_tokens[begin:end].tolist()
        # The answer will be in the worker's cache too, where a later turn looks for it.
        streams.append(int(requests.output_stream[request]))
        lengths.append(int(requests.output_tokens[request]))
        steps, before = [], 0
        for stream, tokens in zip(streams, lengths, strict=True):
            steps.append(((before, stream), tokens))
            before = self.table.setdefault((before, stream, tokens), len(self.table) + 1)
        return steps

    def choose(self, request: int, pool: Pool) -> int:
        """The worker that has seen most of the prompt among those within the bound."""
        options, load = self.options, self.options.of(pool)
        slack = options.slack_requests * (_TOKENS_OF_SLACK if options.load == "tokens" else 1.0)
        bound = max(float(load.min()) * options.imbalance, float(load.min()) + slack)
        steps = self._steps(request)
        known = [self._known(worker) for worker in pool.workers.tolist()]
        shared = np.array([prefixes.shared(steps[:-1]) for prefixes in known])
        place = min(range(len(known)), key=lambda i: (load[i] > bound, -shared[i], load[i], i))
        known[place].remember(steps)
        return int(pool.workers[place])

    def _known(self, worker: int) -> RecentPrefixes:
        if worker not in self.of_worker:
            self.of_worker[worker] = RecentPrefixes(self.options.remembered)
        return self.of_worker[worker]
