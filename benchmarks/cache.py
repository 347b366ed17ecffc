"""Requests per second of the cache engine, policy by policy, beside a plain LRU of Python in the same run.

    python benchmarks/cache.py [--requests N] [POLICY ...]

One core, user CPU, after compilation: numbers of objects to nodes, the policy, the tally of hits and bytes; not making
the requests. The baseline is an ``OrderedDict`` that moves to the end and pops the first, on the same requests.
"""

from __future__ import annotations

import argparse
import resource
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from simulator.cache.distances import Distances
from simulator.cache.hierarchy import Level
from simulator.cache.replacement.policy import POLICIES
from simulator.cache.simulate import Hierarchy, simulate_caches
from workloads.cache_trace import ArrayCacheTrace, open_pattern

REPEATS = 3
TRACES = (("zipf1.0", 100_000, 10_000), ("zipf1.0", 1_000_000, 100_000), ("zipf0.8", 1_000_000, 100_000))
BASELINE_REQUESTS = 1_000_000


def user_seconds(work: Callable[[], Any]) -> float:
    """User CPU seconds of a call, the least of several."""
    found = []
    for _ in range(REPEATS):
        started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        work()
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - started)
    return min(found)


def ordered_dict(objects: list[int], capacity: int) -> int:
    """Misses of a plain LRU."""
    held: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for thing in objects:
        if thing in held:
            held.move_to_end(thing)
        else:
            misses += 1
            if len(held) == capacity:
                held.popitem(last=False)
            held[thing] = None
    return misses


def main() -> None:
    """Print a row per policy and trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", default=[])
    parser.add_argument("--requests", type=int, default=4_000_000)
    given = parser.parse_args()
    names = given.policies or list(POLICIES)
    for pattern, objects, capacity in TRACES:
        recipe = f"{pattern}:{given.requests}:{objects}:7"
        (chunk,) = open_pattern(recipe).chunks(given.requests)
        trace = ArrayCacheTrace(chunk.object)
        few = np.asarray(trace.object)[:BASELINE_REQUESTS].tolist()
        base = len(few) / user_seconds(lambda f=few, c=capacity: ordered_dict(f, c)) / 1e6
        print(f"{recipe}, {capacity} fit: OrderedDict LRU {base:.2f} M requests/s")
        for name in names:
            levels = (Level.of("cache", capacity, name),)
            work = [Hierarchy(name, levels)]
            rate = given.requests / user_seconds(lambda w=work, t=trace: simulate_caches(t, w)) / 1e6
            print(f"  {name:20} {rate:7.1f} M requests/s, {rate / base:6.1f} times the OrderedDict")
        for share in (1.0, 0.01):
            seconds = user_seconds(lambda s=share, t=trace: simulate_caches(t, [], distances=Distances(s)))
            print(f"  distances at {share:<7g} {given.requests / seconds / 1e6:7.1f} M requests/s")


if __name__ == "__main__":
    main()
