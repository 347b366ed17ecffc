"""LFU: the fewest uses since it entered leave first; among equals what has had that many uses longest."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import ADMITTED, COUNT, HIT, NOW, PASSED, PLACE, USED, first_list, gone
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.ranking import rank_add, rank_drop, rank_move

__all__ = ["LFU"]


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity, now = s.number[0], s.number[NOW]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        now += 1
        if first_list(s, node):
            s.link[node, COUNT] += 1
            rank_move(s, node, float(s.link[node, COUNT]), now)
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.number[USED] + size > capacity:
                last = rank_drop(s, 0)
                s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                gone(out, last, i)
            s.size[node] = size
            s.link[node, PLACE] = 1
            s.number[USED] += size
            s.link[node, COUNT] = 1
            rank_add(s, node, 1.0, now)
            out.what[i] = ADMITTED
    s.number[NOW] = now


LFU: Final = Policy(
    "lfu",
    "the fewest uses since it entered leave first",
    "Aho, Denning, Ullman, J. ACM 18(1), 1971",
    _run,
    ranked=True,
)
