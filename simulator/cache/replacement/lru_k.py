"""LRU-K: the K-th last use longest ago leaves first, and before all what has fewer uses, in order of entering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import Settings, count
from simulator.cache.replacement.nodes import (
    ADMITTED,
    COUNT,
    HIT,
    NOW,
    PASSED,
    PLACE,
    USED,
    Nodes,
    first_list,
    gone,
)
from simulator.cache.replacement.policy import Policy
from simulator.cache.replacement.ranking import rank_add, rank_drop, rank_move

__all__ = ["LRU_K", "LruKSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LruKSettings(Settings):
    """Of LRU-K."""

    k: int = count(2, "uses that are remembered", least=1, most=16)


def _start(s: Nodes, settings: Any) -> None:
    s.number[3] = settings.k


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity, now = s.number[0], s.number[NOW]
    k = s.number[3]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        now += 1
        if first_list(s, node):
            uses = s.link[node, COUNT]
            s.times[node, uses % k] = now
            s.link[node, COUNT] = uses + 1
            if uses + 1 >= k:
                rank_move(s, node, 1.0, s.times[node, (uses + 1) % k])
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
            s.times[node, 0] = now
            rank_add(s, node, 1.0 if k == 1 else 0.0, now)
            out.what[i] = ADMITTED
    s.number[NOW] = now


LRU_K: Final = Policy(
    "lru-k", "the K-th last use longest ago leaves first", "O'Neil, O'Neil, Weikum, SIGMOD 1993", _run, _start,
    LruKSettings, ranked=True, times=16,
)  # fmt: skip
