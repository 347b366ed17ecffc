"""Marking: a use marks; any unmarked object leaves; when all are marked a phase ends and no mark stands."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.bag import MARKED, UNMARKED, bag_drop, unmark_all
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    PASSED,
    PLACE,
    USED,
    draw,
    first_list,
    gone,
    put,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.ranking import HELD

__all__ = ["MARKING"]


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        if first_list(s, node):
            if s.link[node, PLACE] == UNMARKED:
                bag_drop(s, s.at[node])
                put(s, MARKED, node)
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.number[USED] + size > capacity:
                if s.number[HELD] == 0:
                    unmark_all(s)
                last = bag_drop(s, draw(s, s.number[HELD]))
                s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                gone(out, last, i)
            s.size[node] = size
            s.number[USED] += size
            put(s, MARKED, node)
            out.what[i] = ADMITTED


MARKING: Final = Policy(
    "marking", "any object that was not used in this phase leaves, each as likely",
    "Fiat et al., J. Algorithms 12(4), 1991", _run, ranked=True, random=True,
)  # fmt: skip
