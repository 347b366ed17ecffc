"""Belady's misses for all sizes in one pass: the stack of Mattson et al. with the next use as priority.

Of objects of one size. A request at depth d hits in every cache of d objects or more; the requested object goes on
top, and on the way down to its old place the one that is used later of two goes on (IBM Systems Journal 9(2), 1970).
A request costs time proportional to its depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.cache.hints import next_uses

__all__ = ["optimal_hits"]


def optimal_hits(nodes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Requests by depth: entry d of them hit in a cache of d objects and in no smaller one."""
    count = len(np.unique(nodes))
    hits = np.zeros(count + 1, np.int64)
    _depths(nodes, next_uses(nodes), np.zeros(count, np.int64), np.zeros(count, np.int64), hits)
    return hits


@compiled
def _depths(nodes: Any, uses: Any, stack: Any, due: Any, hits: Any) -> None:
    held = 0
    for i in range(len(nodes)):
        node, use = nodes[i], uses[i]
        if held == 0:
            stack[0], due[0], held = node, use, 1
            continue
        if stack[0] == node:
            due[0] = use
            hits[1] += 1
            continue
        carried, carried_due = stack[0], due[0]
        stack[0], due[0] = node, use
        at = 1
        while at < held and stack[at] != node:
            if due[at] > carried_due:
                stack[at], carried = carried, stack[at]
                due[at], carried_due = carried_due, due[at]
            at += 1
        if at < held:
            hits[at + 1] += 1
        else:
            held += 1
        stack[at], due[at] = carried, carried_due
