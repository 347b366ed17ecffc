"""Speed of sampling, of the counts behind a store, and of PCIe requests, each beside a plain way in the same run.

    python benchmarks/gather.py [--scale 1/256] [--batches 40]

Sampling is timed beside the plain Python oracle of the tests (dictionaries and loops, the same draws), a page cache and
Belady beside theirs on a shorter stretch, and building rows from edges beside scipy. Times are user CPU of one core
after compilation.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulator.gather.kernels import belady_window
from simulator.gather.packets import PacketRule, count_packets
from simulator.gather.stores import page_misses
from simulator.gather.table import FeatureTable
from tests.gather import oracle as slow_stores
from tests.graph_data import oracle as slow_samples
from workloads.graph_data import NeighbourSampling, from_edges, training_batches
from workloads.graph_data.batches import training_nodes
from workloads.graph_data.presets import generate, preset

REPEATS = 3


def user_seconds(work: Callable[[], Any]) -> float:
    """The least user CPU seconds of some calls, after one that compiles."""
    work()
    found = []
    for _ in range(REPEATS):
        started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        work()
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - started)
    return min(found)


def row(name: str, count: float, unit: str, ours: float, slow: float) -> None:
    """A line: our rate, and how often faster than the plain way per item; both in items a second."""
    print(f"{name:28} {count / ours / 1e6:8.2f} M {unit}/s   {count / ours / slow:8.0f} x the plain way")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", default="1/256")
    parser.add_argument("--batches", type=int, default=40)
    asked = parser.parse_args()
    shape = preset("ogbn-papers100m").scaled(Fraction(asked.scale))
    graph = generate(shape)
    training = training_nodes(graph, shape.training_nodes)
    rule = NeighbourSampling((20, 15, 10))
    trace = training_batches(graph, training, 64, rule, most=asked.batches)
    edges = sum(layer.edges for layers in trace.layers for layer in layers)
    ours = user_seconds(lambda: training_batches(graph, training, 64, rule, most=asked.batches))
    rows = [graph.of(node).tolist() for node in range(graph.nodes)]
    seeds = training[:16].tolist()
    few = sum(len(layer[2]) for layer in slow_samples.sample(rows, seeds, rule, 0)["layers"])
    row(
        "neighbour sampling",
        edges,
        "edges",
        ours,
        few / user_seconds(lambda: slow_samples.sample(rows, seeds, rule, 0)),
    )

    table = FeatureTable(graph.nodes, 500)
    batch = np.repeat(np.arange(trace.batches), np.diff(trace.offsets))
    ours = user_seconds(lambda: page_misses(trace.rows, batch, table, 20_000, trace.batches))
    short = trace.rows[:4000]
    pages = [(page, 0) for r in short.tolist() for page in slow_stores.pages(table, r)]
    row(
        "LRU of pages",
        trace.rows.size,
        "rows",
        ours,
        short.size / user_seconds(lambda: slow_stores.lru(pages, 1000)),
    )

    miss = np.zeros(trace.rows.size, np.bool_)
    ours = user_seconds(lambda: belady_window(trace.offsets, trace.rows, 1000, 50_000, graph.nodes, miss))
    part = [trace.of(b)[:300].tolist() for b in range(6)]
    row(
        "Belady of a window",
        trace.rows.size,
        "rows",
        ours,
        1800 / user_seconds(lambda: slow_stores.belady(part, 6, 200)),
    )

    ours = user_seconds(lambda: count_packets(table, trace.rows, PacketRule(shift=False)))
    plain = user_seconds(lambda: slow_stores.packets(table, trace.rows[:100].tolist(), 128, 4, False))
    row("PCIe requests", trace.rows.size, "rows", ours, 100 / plain)

    from scipy.sparse import coo_array

    target = np.repeat(np.arange(graph.nodes), graph.degrees())
    ours = user_seconds(lambda: from_edges(graph.neighbours, target, graph.nodes))
    ones = np.ones(graph.edges, np.int8)
    theirs = user_seconds(lambda: coo_array((ones, (target, graph.neighbours)), (graph.nodes,) * 2).tocsr())
    row("rows from edges (scipy)", graph.edges, "edges", ours, graph.edges / theirs)


if __name__ == "__main__":
    main()
