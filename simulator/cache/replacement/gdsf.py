"""GDSF: the least clock + uses / size leaves first, be it what has just come; the clock is what left last."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import ADMITTED, COUNT, HIT, NOW, PASSED, PLACE, USED, first_list, gone
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.ranking import rank_add, rank_drop, rank_move

__all__ = ["GDSF"]


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity, now = s.number[0], s.number[NOW]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        now += 1
        if first_list(s, node):
            s.link[node, COUNT] += 1
            rank_move(s, node, s.real[0] + float(s.link[node, COUNT]) * 1.0e6 / float(s.size[node]), now)
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            s.size[node] = size
            s.link[node, PLACE] = s.link[node, COUNT] = 1
            s.number[USED] += size
            rank_add(s, node, s.real[0] + 1.0e6 / float(size), now)
            kept = True
            while s.number[USED] > capacity:
                last = rank_drop(s, 0)
                s.real[0] = s.key[last]
                s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                if last == node:
                    kept = False
                else:
                    gone(out, last, i)
            out.what[i] = ADMITTED if kept else PASSED
    s.number[NOW] = now


GDSF: Final = Policy(
    "gdsf", "the least clock + uses / size leaves first, be it what has just come",
    "Cherkasova, HPL-98-69R1, 1998", _run, ranked=True,
)  # fmt: skip
