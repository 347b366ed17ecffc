"""Nodes without order, to draw from: the array of the heap, where the last one takes the place of what leaves."""

from __future__ import annotations

from typing import Any

from hw_configs.compiled import inlined
from simulator.cache.replacement.nodes import NEWER, OLDER, PLACE
from simulator.cache.replacement.ranking import HELD

__all__ = ["MARKED", "UNMARKED", "bag_add", "bag_drop", "unmark_all"]

MARKED = 1
"""The list of marked nodes, oldest mark first."""
UNMARKED = 2
"""Place of a node in the bag."""


@inlined
def bag_add(s: Any, node: int) -> None:
    """Put a node in."""
    held = s.number[HELD]
    s.heap[held] = node
    s.at[node] = held
    s.number[HELD] = held + 1


@inlined
def bag_drop(s: Any, at: int) -> Any:
    """Take out what stands at a place."""
    node = s.heap[at]
    held = s.number[HELD] - 1
    s.number[HELD] = held
    last = s.heap[held]
    s.heap[at] = last
    s.at[last] = at
    return node


@inlined
def unmark_all(s: Any) -> None:
    """Move all marked nodes into the bag, oldest mark first."""
    node = s.link[MARKED, NEWER]
    while node != MARKED:
        bag_add(s, node)
        s.link[node, PLACE] = UNMARKED
        node = s.link[node, NEWER]
    s.link[MARKED, NEWER] = s.link[MARKED, OLDER] = MARKED
    s.weight[MARKED] = 0
