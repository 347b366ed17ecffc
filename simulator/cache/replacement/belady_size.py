"""Belady with sizes: of some objects drawn by chance the one whose bytes wait longest leaves.

Least misses with sizes is a hard problem (Chrobak et al., ESA 2010); this is the usual rule of thumb, no bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import Settings, count
from simulator.cache.replacement.bag import bag_add, bag_drop
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    NOW,
    PASSED,
    PLACE,
    USED,
    Nodes,
    draw,
    first_list,
    gone,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.ranking import HELD

__all__ = ["BELADY_SIZE", "BeladySizeSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeladySizeSettings(Settings):
    """Of Belady with sizes."""

    samples: int = count(
        128, "objects drawn for each eviction; all are looked at where fewer are held", least=1
    )


def _start(s: Nodes, settings: Any) -> None:
    s.number[3] = settings.samples


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:
    capacity, now, samples = s.number[0], s.number[NOW], s.number[3]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        if first_list(s, node):
            s.tie[node] = hints[i]
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.number[USED] + size > capacity:
                held = s.number[HELD]
                best, most = 0, -1.0
                for k in range(min(samples, held)):
                    at = k if held <= samples else draw(s, held)
                    waits = float(s.size[s.heap[at]]) * float(s.tie[s.heap[at]] - now)
                    if waits > most:
                        best, most = at, waits
                last = bag_drop(s, best)
                s.link[last, PLACE] = 0
                s.number[USED] -= s.size[last]
                gone(out, last, i)
            s.size[node] = size
            s.tie[node] = hints[i]
            s.link[node, PLACE] = 1
            s.number[USED] += size
            bag_add(s, node)
            out.what[i] = ADMITTED
        now += 1
    s.number[NOW] = now


BELADY_SIZE: Final = Policy(
    "belady-size", "of some objects drawn by chance, that with the most bytes x requests until its next use leaves",
    "libCacheSim's BeladySize", _run, _start, BeladySizeSettings, hint="next use", ranked=True, exact=True, random=True,
)  # fmt: skip
