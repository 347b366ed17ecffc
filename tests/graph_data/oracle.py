"""Sampling in plain Python: the same draws in dictionaries and loops, and a checker that knows what a sample is."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from workloads.graph_data import Adjacency, NeighbourSampling, SampledBatch, from_edges

MASK = 2**64 - 1


def word(seed: int, index: int) -> int:
    z = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def below(seed: int, index: int, bound: int) -> int:
    return ((word(seed, index) >> 32) * bound) >> 32


def sample(rows: list[list[int]], seeds: list[int], rule: NeighbourSampling, number: int) -> dict[str, Any]:
    """What the sampler is to return, nodes and edges in its order."""
    stream = word(rule.seed, number) >> 1
    nodes, first, draw, layers = list(seeds), 0, 0, []
    for fan_out in rule.fan_out:
        count, edges = len(nodes), []
        place = {node: index for index, node in enumerate(nodes)}
        for local in range(first, count):
            row, taken = rows[nodes[local]], []
            if fan_out < 0 or (not rule.replace and len(row) <= fan_out):
                taken = list(range(len(row)))
            elif rule.replace and row:
                for _ in range(fan_out):
                    taken.append(below(stream, draw, len(row)))
                    draw += 1
            elif row:
                for j in range(len(row) - fan_out, len(row)):
                    t = below(stream, draw, j + 1)
                    draw += 1
                    taken.append(j if t in taken else t)
            for index in taken:
                place.setdefault(row[index], len(place))
                if place[row[index]] == len(nodes):
                    nodes.append(row[index])
                edges.append((local, place[row[index]]))
        layers.append((count, len(nodes), edges))
        first = count if rule.expand == "new" else 0
    return {"nodes": nodes, "layers": layers}


def violations(graph: Adjacency, seeds: list[int], found: SampledBatch, rule: NeighbourSampling) -> list[str]:
    """What is wrong with a sample by the rules alone, whatever was drawn."""
    told = []
    nodes = found.nodes.tolist()
    if len(set(nodes)) < len(nodes):
        told.append("a node stands twice")
    if nodes[: len(seeds)] != seeds:
        told.append("the seeds do not come first")
    known = len(seeds)
    for number, (layer, fan_out) in enumerate(zip(found.layers, rule.fan_out, strict=True)):
        if layer.targets != known or layer.sources < known:
            told.append(f"layer {number}: sizes")
        by_target: dict[int, list[int]] = {}
        for target, source in zip(layer.edge_target.tolist(), layer.edge_source.tolist(), strict=True):
            by_target.setdefault(target, []).append(nodes[source])
        for target, sources in by_target.items():
            row = graph.of(nodes[target]).tolist()
            if not rule.replace and any(sources.count(s) > row.count(s) for s in sources):
                told.append(f"layer {number}: no neighbour, or taken twice")
            if any(s not in row for s in sources):
                told.append(f"layer {number}: no neighbour")
            if fan_out > 0 and len(sources) > fan_out:
                told.append(f"layer {number}: more than the fan-out")
            if not rule.replace and len(sources) < min(len(row), fan_out if fan_out > 0 else len(row)):
                told.append(f"layer {number}: fewer than there are")
        known = layer.sources
    if known != len(nodes):
        told.append("nodes that no layer brought")
    return told


@st.composite
def graphs(draw: st.DrawFn) -> Adjacency:
    nodes = draw(st.integers(1, 12))
    edges = draw(st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=50))
    ends = np.array(edges, np.int64).reshape(-1, 2)
    return from_edges(ends[:, 0], ends[:, 1], nodes, directed=draw(st.booleans()))
