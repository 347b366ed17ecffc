"""2Q: new objects pass a FIFO; what is asked for again after it left that FIFO enters an LRU list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import Settings, share
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    PASSED,
    Nodes,
    first_list,
    gone,
    is_empty,
    oldest,
    put,
    renew,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy

__all__ = ["TWO_Q", "TwoQSettings"]

FRESH, MAIN, GHOSTS = 1, 2, 3
MOST_FRESH, MOST_MAIN, MOST_GHOSTS = 3, 4, 5
"""Places of ``Nodes.number``: bytes of each at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoQSettings(Settings):
    """Of 2Q."""

    a_in: float = share(0.25, "share of the cache that new objects pass (A1in)")
    a_out: float = share(0.5, "bytes of remembered objects (A1out), as a share of the cache", most=64.0)


def _start(s: Nodes, settings: Any) -> None:
    capacity = int(s.number[0])
    s.number[MOST_FRESH] = int(capacity * settings.a_in)
    s.number[MOST_MAIN] = capacity - s.number[MOST_FRESH]
    s.number[MOST_GHOSTS] = int(capacity * settings.a_out)


@compiled
def _remember(s: Any, node: int) -> None:
    if s.size[node] <= s.number[MOST_GHOSTS]:
        while s.weight[GHOSTS] + s.size[node] > s.number[MOST_GHOSTS]:
            take(s, oldest(s, GHOSTS))
        put(s, GHOSTS, node)


@compiled
def _evict(s: Any, out: Any, i: int) -> None:
    fresh = s.weight[FRESH] > s.number[MOST_FRESH] or is_empty(s, MAIN)
    last = oldest(s, FRESH if fresh else MAIN)
    take(s, last)
    if fresh:
        _remember(s, last)
    gone(out, last, i)


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        place = first_list(s, node)
        if place in (FRESH, MAIN):
            if place == MAIN:
                renew(s, MAIN, node)
            out.what[i] = HIT
            continue
        if place == GHOSTS:
            take(s, node)
        out.what[i] = PASSED
        if size > s.number[MOST_FRESH]:
            continue
        while s.weight[FRESH] + s.weight[MAIN] + size > capacity:
            _evict(s, out, i)
        if place == GHOSTS:
            if size > s.number[MOST_MAIN]:
                continue
            while s.weight[MAIN] + size > s.number[MOST_MAIN]:
                last = oldest(s, MAIN)
                take(s, last)
                gone(out, last, i)
        s.size[node] = size
        put(s, MAIN if place == GHOSTS else FRESH, node)
        out.what[i] = ADMITTED


TWO_Q: Final = Policy(
    "2q", "new objects pass a FIFO; what comes back enters an LRU list", "Johnson, Shasha, VLDB 1994", _run, _start,
    TwoQSettings,
)  # fmt: skip
