"""Where the boxes and ribbons of a flow diagram stand: one layout for the page and for the static figures.

y grows downwards, in units about the size of a pixel. A box is as high as the larger of what flows in and out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

__all__ = ["Flow", "layout"]

BODY: Final = 220
GAP: Final = 15
"""Units between boxes, enough for a line of text beside each; ``BODY`` units are left for the boxes."""


class Flow(NamedTuple):
    """An amount from a box in one column to a box in the next."""

    source: str
    target: str
    amount: float


def layout(columns: Iterable[Iterable[Flow]]) -> dict[str, Any]:
    """Boxes and ribbons of flows; ``columns`` has the flows between each pair of neighbouring columns.

    Returns ``{"nodes": [{name, column, y, height, amount}], "links": [{source, target, y0, y1, height,
    amount}], "columns", "height"}``; links name boxes by index. Order within a column is by amount, then name.
    """
    stages = [[flow for flow in stage if flow.amount > 0] for stage in columns]
    amounts: list[dict[str, list[float]]] = [{} for _ in range(len(stages) + 1)]
    for place, stage in enumerate(stages):
        for flow in stage:
            amounts[place].setdefault(flow.source, [0.0, 0.0])[1] += flow.amount
            amounts[place + 1].setdefault(flow.target, [0.0, 0.0])[0] += flow.amount
    totals = [sum(max(pair) for pair in column.values()) for column in amounts]
    most = max((len(column) for column in amounts), default=1)
    scale = BODY / (max(totals, default=0.0) or 1.0)
    nodes: list[dict[str, Any]] = []
    index: dict[tuple[int, str], int] = {}
    for place, column in enumerate(amounts):
        y = 0.0
        for name, pair in sorted(column.items(), key=lambda item: (-max(item[1]), item[0])):
            height = max(pair) * scale
            index[place, name] = len(nodes)
            nodes.append(
                {
                    "name": name,
                    "column": place,
                    "y": round(y, 3),
                    "height": round(height, 3),
                    "amount": max(pair),
                }
            )
            y += height + GAP
    return {
        "nodes": nodes,
        "links": _links(stages, nodes, index, scale),
        "columns": len(amounts),
        "height": BODY + GAP * most,
    }


def _links(
    stages: list[list[Flow]], nodes: list[dict[str, Any]], index: dict[tuple[int, str], int], scale: float
) -> list[dict[str, Any]]:
    links = []
    used_out = [0.0] * len(nodes)
    used_in = [0.0] * len(nodes)
    for place, stage in enumerate(stages):
        ranked = sorted(stage, key=lambda f: (index[place, f.source], index[place + 1, f.target]))
        for flow in ranked:
            source, target = index[place, flow.source], index[place + 1, flow.target]
            height = flow.amount * scale
            links.append(
                {
                    "source": source,
                    "target": target,
                    "y0": round(nodes[source]["y"] + used_out[source], 3),
                    "y1": round(nodes[target]["y"] + used_in[target], 3),
                    "height": round(height, 3),
                    "amount": flow.amount,
                }
            )
            used_out[source] += height
            used_in[target] += height
    return links
