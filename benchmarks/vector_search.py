"""Hits of all cache sizes in one pass beside caches kept one by one, and reads per second of queries on drives.

    python benchmarks/vector_search.py [--contexts N]

The first part gives the ratio within one run: seconds of an ``OrderedDict`` for one cache size over seconds of the pass
that gives all. The second gives reads per second of user CPU, after compilation, with the drive's filling left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from hw_configs.library import load_system
from simulator.memory_bank.stack_distance import stack_bytes
from simulator.vector_search.search import SearchOptions, machine_of, simulate_search
from workloads.memory_bank import HierarchicalBank, load_bank
from workloads.memory_bank.contexts import block_trace, leaves_of
from workloads.vector_index import load_index

REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """Median CPU seconds of a call."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def one_cache(objects: list[int], sizes: list[int], capacity: int) -> int:
    """Hits of one cache that is kept block by block."""
    cache: OrderedDict[int, int] = OrderedDict()
    used = hits = 0
    for name, size in zip(objects, sizes, strict=True):
        if name in cache:
            hits += 1
            cache.move_to_end(name)
            continue
        cache[name] = size
        used += size
        while used > capacity:
            used -= cache.popitem(last=False)[1]
    return hits


def caches(contexts: int) -> None:
    """The pass against one cache."""
    bank = load_bank("hierarchical-160m")
    assert isinstance(bank, HierarchicalBank)
    trace = block_trace(bank, leaves_of(bank, contexts, 1))
    objects, sizes = np.asarray(trace.object), np.asarray(trace.size)
    stack_bytes(objects[:10], sizes[:10])
    every = seconds(lambda: stack_bytes(objects, sizes))
    named, sized = objects.tolist(), sizes.tolist()
    one = seconds(lambda: one_cache(named, sized, int(bank.cache)))
    print(f"{len(objects)} blocks: every cache size {every:.3f} s, one with an OrderedDict {one:.3f} s, "
          f"ratio {one / every:.1f}")  # fmt: skip


def searches() -> None:
    """Reads per second of the loop, by drives."""
    for drives in (1, 4):
        machine = machine_of(load_system("dgx-2"), drives)
        index = load_index("diskann-sift1b")

        def run(queries: int, index=index, machine=machine) -> object:  # type: ignore[no-untyped-def]
            return simulate_search(index, machine, SearchOptions(queries=queries, in_flight=8))

        run(8)
        spent = seconds(lambda run=run: run(208)) - seconds(lambda run=run: run(8))  # type: ignore[misc]
        print(f"{drives} drives: {200 * 36 / spent:.0f} reads/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, default=50_000)
    caches(parser.parse_args().contexts)
    searches()
