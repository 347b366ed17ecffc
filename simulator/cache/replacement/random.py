"""Random: any object leaves, each as likely as the other."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.bag import bag_add, bag_drop
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    PASSED,
    PLACE,
    USED,
    draw,
    first_list,
    gone,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.ranking import HELD

__all__ = ["RANDOM"]


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        if first_list(s, node):
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.number[USED] + size > capacity:
                last = bag_drop(s, draw(s, s.number[HELD]))
                s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                gone(out, last, i)
            s.size[node] = size
            s.link[node, PLACE] = 1
            s.number[USED] += size
            bag_add(s, node)
            out.what[i] = ADMITTED


RANDOM: Final = Policy(
    "random", "any object leaves, each as likely as the other", "Belady, IBM Systems Journal 5(2), 1966", _run,
    ranked=True, random=True,
)  # fmt: skip
