"""What a plan rewrites in a graph before it runs: narrower storage of tensors (:mod:`simulator.rewrite.element_types`),
experts in groups (:mod:`simulator.rewrite.expert_groups`), tensors and operators in parts
(:mod:`simulator.rewrite.divide`), reshapes that move nothing (:mod:`simulator.rewrite.views`), operators in tiles
(:mod:`simulator.rewrite.tile`), and operators divided over devices (:mod:`simulator.rewrite.split`). Each changes an
operator's fields and its bytes together, so that the price follows.

Mappers call :func:`rewrite` while they plan, and the simulator calls it before it runs a plan, so both speak
of the same operators and tensors.
"""

from __future__ import annotations

from simulator.plan import Plan
from simulator.rewrite.divide import divide_graph
from simulator.rewrite.element_types import store_as
from simulator.rewrite.expert_groups import group_experts
from simulator.rewrite.split import split_graph
from simulator.rewrite.tile import tile_graph
from simulator.rewrite.views import without_views
from workloads.graph import Graph

__all__ = ["rewrite", "store_as"]


def rewrite(graph: Graph, plan: Plan) -> Graph:
    """The graph that a plan's tasks name; the graph itself when the plan rewrites nothing."""
    if plan.precision:
        graph = store_as(graph, plan.precision)
    if plan.experts:
        graph = group_experts(graph, plan.experts)
    if plan.divisions or plan.pieces or plan.appends or plan.sparsity:
        graph = divide_graph(graph, plan)
    if plan.views:
        graph = without_views(graph, plan.views)
    if plan.tiles:
        graph = tile_graph(graph, plan.tiles)
    if plan.splits:
        graph = split_graph(graph, plan.splits)
    return graph
