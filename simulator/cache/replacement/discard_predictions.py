"""Paging with discard predictions: what is said to be safe to drop goes first, marking decides among the rest.

After Mark0 of Antoniadis et al. (arXiv:2210.02775), which drops a page as soon as its bit says so; here it stays
until its room is wanted, which costs no miss more. Of pages that may go the one used longest ago does.
"""

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
    is_empty,
    oldest,
    put,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.predicted import PredictionSettings
from simulator.cache.replacement.ranking import HELD

__all__ = ["DISCARD_PREDICTIONS"]

SAFE: Final = 3
"""The list of nodes that may go."""


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        place = first_list(s, node)
        if place == UNMARKED:
            bag_drop(s, s.at[node])
        elif place:
            take(s, node)
        elif size > capacity:
            out.what[i] = PASSED
            continue
        else:
            while s.number[USED] + size > capacity:
                if not is_empty(s, SAFE):
                    last = oldest(s, SAFE)
                    take(s, last)
                else:
                    if s.number[HELD] == 0:
                        unmark_all(s)
                    last = bag_drop(s, draw(s, s.number[HELD]))
                    s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                gone(out, last, i)
            s.size[node] = size
            s.number[USED] += size
        put(s, SAFE if hints[i] else MARKED, node)
        out.what[i] = HIT if place else ADMITTED


DISCARD_PREDICTIONS: Final = Policy(
    "discard-predictions", "one predicted bit, 'safe to drop': such objects go first, marking decides among the rest",
    "Antoniadis et al., arXiv:2210.02775 (Mark0), as recalled and as implemented by others", _run,
    settings=PredictionSettings, hint="discard bit", ranked=True, random=True,
)  # fmt: skip
