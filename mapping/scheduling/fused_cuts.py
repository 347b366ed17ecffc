"""Cuts of a graph for a spatial device's scratchpad: the strips of rows in which its chains are best run depth first.

Groups and strips are those of :mod:`mapping.loop_nest.fusion`, for least energy; what stands between two layers of a
group (activations, pools) is cut with them.
"""

from __future__ import annotations

from collections.abc import Iterator

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import why_no_home
from hw_configs.system import Node
from mapping.loop_nest.fusion import FusedChain, Pieces, best_fusion
from simulator.accelerator.loop_nest.chains import chains_of
from simulator.rewrite.tile import most_parts
from workloads.graph import Graph

__all__ = ["fused_cuts"]


def fused_cuts(graph: Graph, node: Node, time_limit_s: float | None = None) -> dict[str, tuple[str, int]]:
    """By operator the axis and the number of its strips.

    Raises ``InputError`` for a device that is not spatial, or has no level in which tiles can live.
    """
    device = node.device
    if not isinstance(device, SpatialAccelerator):
        raise bad_input(
            f"{node.name!r} is of kind {device.kind!r}; expected a spatial one", path="--set cuts"
        )
    if why := why_no_home(device.name, device.levels):
        raise bad_input(why, path="--set cuts")
    store = Pieces(device)
    known: dict[tuple[object, ...], FusedChain] = {}
    cuts: dict[str, tuple[str, int]] = {}
    for chain in chains_of(graph):
        if len(chain.layers) == 1 or chain.layers[0].layer.name not in graph.operator_by_name:
            continue
        key = tuple((tuple(link.layer.sizes.items()), link.sides) for link in chain.layers)
        if key not in known:
            known[key] = best_fusion(device, chain, time_limit_s=time_limit_s, pieces=store, by_rows=True)
        for group in known[key].groups:
            if group.program is None:
                continue
            last = chain.layers[group.beyond - 1]
            axis = next(n for n, side in enumerate(last.sides) if side.dim in ("P", "M"))
            parts = last.sides[axis].size // group.program.tiling.tile[axis]
            first, end = chain.layers[group.first].layer.name, last.layer.name
            for name in _between(graph, first, end):
                strips = min(parts, most_parts(graph, name, "row"))
                if strips > 1:
                    cuts[name] = ("row", strips)
    return cuts


def _between(graph: Graph, first: str, last: str) -> Iterator[str]:
    """The operators of a chain from one to another, both included."""
    name = first
    yield name
    while name != last:
        (name,) = graph.consumers[graph.operator_by_name[name].outputs[0]]
        yield name
