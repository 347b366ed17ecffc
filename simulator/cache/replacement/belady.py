"""Belady: what is used again last leaves first; the blind oracle does the same with predicted uses."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import ADMITTED, HIT, NOW, PASSED, PLACE, USED, first_list, gone
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.predicted import DistanceSettings
from simulator.cache.replacement.ranking import rank_add, rank_drop, rank_move

__all__ = ["BELADY", "BLIND_ORACLE"]


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:
    capacity, now = s.number[0], s.number[NOW]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        now += 1
        if first_list(s, node):
            rank_move(s, node, -float(hints[i]), 0)
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
            rank_add(s, node, -float(hints[i]), 0)
            out.what[i] = ADMITTED
    s.number[NOW] = now


BELADY: Final = Policy(
    "belady", "what is used again last leaves first: fewest misses for objects of one size",
    "Belady, IBM Systems Journal 5(2), 1966", _run, hint="next use", ranked=True, stack=True, exact=True,
)  # fmt: skip
BLIND_ORACLE: Final = Policy(
    "blind-oracle", "trusts predictions: what is predicted to be used again last leaves first",
    "Lykouris, Vassilvitskii, arXiv:1802.05399", _run, settings=DistanceSettings, hint="next use",
    ranked=True,
)  # fmt: skip
