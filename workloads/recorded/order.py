"""The order in which the nodes of a trace are replayed, and what had to be cut to have one.

Recorded waits are not always an order. A window of a longer run names nodes that it does not hold: those were over
before it began, so such waits are dropped. Converters join host operators and kernels so that some wait for one
another: within such a cycle, a wait of a node on one that was recorded after it is cut. Both are counted
and reported. Nodes of one recorded stream keep their order. All are then taken by the earliest time at which they
could start, with recorded times alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workloads.recorded.nodes import RecordedNode, clipped

__all__ = ["Cut", "in_order", "without_cycles"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Waits that were dropped: on nodes outside the trace, and on later nodes of a cycle, each with the first."""

    outside: int = 0
    first_outside: str = ""
    backward: int = 0
    first_backward: str = ""

    def told(self, file: str) -> list[str]:
        """A line for each kind of wait that was dropped."""
        lines = []
        if self.outside:
            lines.append(
                f"{file}: {self.outside} waits on nodes that the trace does not hold are taken as over before it began "
                f"(first: {self.first_outside})"
            )
        if self.backward:
            lines.append(
                f"{file}: {self.backward} waits on nodes that were recorded later, within cycles, are cut "
                f"(first: {self.first_backward})"
            )
        return lines


def without_cycles(nodes: Sequence[RecordedNode]) -> tuple[list[tuple[int, ...]], Cut]:
    """For each node the places of those that it waits for, with the one before it on its stream, and what was cut.

    Places are those in ``nodes``, which stand in the order in which they were recorded; ids are different.
    """
    import networkx

    place = {node.id: index for index, node in enumerate(nodes)}
    outside = [(node, other) for node in nodes for other in node.waits if other not in place]
    waits = [dict.fromkeys(place[other] for other in node.waits if other in place) for node in nodes]
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if node.stream:
            if node.stream in last:
                waits[index][last[node.stream]] = None
            last[node.stream] = index
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    graph.add_edges_from((other, index) for index, before in enumerate(waits) for other in before)
    component = [0] * len(nodes)
    for number, members in enumerate(networkx.strongly_connected_components(graph)):
        for member in members:
            component[member] = number
    backward = [
        (index, other)
        for index, before in enumerate(waits)
        for other in before
        if other >= index and component[other] == component[index]
    ]
    for index, other in backward:
        del waits[index][other]
    cut = Cut(
        len(outside),
        f"{clipped(outside[0][0].name)!r} on node {outside[0][1]}" if outside else "",
        len(backward),
        f"{clipped(nodes[backward[0][0]].name)!r} on {clipped(nodes[backward[0][1]].name)!r}"
        if backward
        else "",
    )
    return [tuple(before) for before in waits], cut


def in_order(waits: Mapping[int, Iterable[int]], took_s: Mapping[int, float]) -> list[int] | None:
    """Keys so that each comes after those it waits for, by their earliest start and then by key; None for a cycle."""
    left = {key: len(set(before)) for key, before in waits.items()}
    after: dict[int, list[int]] = {key: [] for key in waits}
    for key, before in waits.items():
        for other in set(before):
            after[other].append(key)
    start = dict.fromkeys(waits, 0.0)
    ready = [(0.0, key) for key, count in left.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        began, key = heapq.heappop(ready)
        order.append(key)
        for other in after[key]:
            start[other] = max(start[other], began + took_s.get(key, 0.0))
            left[other] -= 1
            if left[other] == 0:
                heapq.heappush(ready, (start[other], other))
    return order if len(order) == len(left) else None
