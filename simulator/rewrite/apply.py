"""What a plan rewrites in a graph before it runs: narrower storage of tensors, tensors and operators in parts
(:mod:`simulator.rewrite.divide`), reshapes that move nothing (:mod:`simulator.rewrite.views`), operators in tiles
(:mod:`simulator.rewrite.tile`), and operators divided over devices (:mod:`simulator.rewrite.split`).

Mappers call :func:`rewrite` while they plan, and the simulator calls it before it runs a plan, so both speak
of the same operators and tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from hw_configs.problems import bad_input, nearest
from simulator.plan import Plan
from simulator.rewrite.divide import divide_graph
from simulator.rewrite.split import split_graph
from simulator.rewrite.tile import tile_graph
from simulator.rewrite.views import without_views
from workloads.dtypes import size_bytes
from workloads.graph import Graph, legacy_replace

__all__ = ["rewrite", "store_as"]


def rewrite(graph: Graph, plan: Plan) -> Graph:
    """The graph that a plan's tasks name; the graph itself when the plan rewrites nothing."""
    if plan.precision:
        graph = store_as(graph, plan.precision)
    if plan.divisions or plan.pieces or plan.appends or plan.sparsity:
        graph = divide_graph(graph, plan)
    if plan.views:
        graph = without_views(graph, plan.views)
    if plan.tiles:
        graph = tile_graph(graph, plan.tiles)
    if plan.splits:
        graph = split_graph(graph, plan.splits)
    return graph


def store_as(graph: Graph, precision: Mapping[str, str]) -> Graph:
    """The graph with some tensors stored in another element type; traffic shrinks with them.

    Arithmetic keeps its type: a narrower copy saves bytes, not operations.
    """
    tensors = dict(graph.tensors)
    ratio: dict[str, float] = {}
    for name, dtype in precision.items():
        if name not in tensors:
            raise bad_input(f"unknown tensor {name!r}", path="precision", suggestion=nearest(name, tensors))
        old = tensors[name]
        tensors[name] = replace(old, dtype=dtype, size_bytes=size_bytes(prod(old.shape), dtype))
        ratio[name] = tensors[name].size_bytes / old.size_bytes if old.size_bytes else 1.0
    operators = []
    for op in graph.operators:
        touched = [t for t in (*op.inputs, *op.updates, *op.outputs) if t in ratio]
        if touched:
            read = _scaled(graph, op.read_bytes, (*op.inputs,), ratio)
            written = _scaled(graph, op.write_bytes, (*op.outputs, *op.updates), ratio)
            op = legacy_replace(op, read_bytes=read, write_bytes=written)
        operators.append(op)
    return Graph(graph.name, tensors, tuple(operators), graph.outputs, graph.structure, graph.metadata)


def _scaled(graph: Graph, traffic: int, names: tuple[str, ...], ratio: dict[str, float]) -> int:
    """Traffic when each tensor's part of it, by size, shrinks by its ratio."""
    total = sum(graph.tensors[name].size_bytes for name in names)
    if total == 0:
        return traffic
    shrunk = sum(graph.tensors[name].size_bytes * ratio.get(name, 1.0) for name in names)
    return round(traffic * shrunk / total)
