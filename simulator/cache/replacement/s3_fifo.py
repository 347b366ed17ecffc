"""S3-FIFO: a small FIFO filters what is used once; what was used enters a main FIFO with second chances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import Settings, count, share
from simulator.cache.replacement.nodes import (
    ADMITTED,
    COUNT,
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
from simulator.cache.replacement.policy import Policy, insist

__all__ = ["S3_FIFO", "S3FifoSettings"]

SMALL, MAIN, GHOSTS = 1, 2, 3
MOST_SMALL, MOST_MAIN, MOST_GHOSTS, THRESHOLD, FULL = 3, 4, 5, 6, 7
"""Places of ``Nodes.number``: bytes of each at most, uses that lead to the main queue, whether anything ever left."""
MOST_USES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class S3FifoSettings(Settings):
    """Of S3-FIFO."""

    small: float = share(0.1, "share of the cache that new objects pass")
    ghost: float = share(0.9, "bytes of remembered objects, as a share of the cache", most=64.0)
    threshold: int = count(2, "uses in the small queue that lead to the main one", least=1, most=1 << 30)


def _start(s: Nodes, settings: Any) -> None:
    capacity = int(s.number[0])
    s.number[MOST_SMALL] = int(capacity * settings.small)
    s.number[MOST_MAIN] = capacity - s.number[MOST_SMALL]
    s.number[MOST_GHOSTS] = int(capacity * settings.ghost)
    s.number[THRESHOLD] = settings.threshold
    insist(s, int(s.number[MOST_SMALL]), "the small queue", "s3-fifo")
    insist(s, int(s.number[MOST_MAIN]), "the main queue", "s3-fifo")


@compiled
def _remember(s: Any, node: int) -> None:
    if s.size[node] <= s.number[MOST_GHOSTS]:
        while s.weight[GHOSTS] + s.size[node] > s.number[MOST_GHOSTS]:
            take(s, oldest(s, GHOSTS))
        put(s, GHOSTS, node)


@compiled
def _evict(s: Any, out: Any, i: int) -> None:
    s.number[FULL] = 1
    if s.weight[MAIN] > s.number[MOST_MAIN] or is_empty(s, SMALL):
        last = oldest(s, MAIN)
        while s.link[last, COUNT] > 0:
            s.link[last, COUNT] = min(s.link[last, COUNT], MOST_USES) - 1
            renew(s, MAIN, last)
            last = oldest(s, MAIN)
        take(s, last)
        gone(out, last, i)
        return
    while not is_empty(s, SMALL):
        last = oldest(s, SMALL)
        take(s, last)
        if s.link[last, COUNT] < s.number[THRESHOLD]:
            _remember(s, last)
            gone(out, last, i)
            return
        s.link[last, COUNT] = 0
        put(s, MAIN, last)


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity, most_small = s.number[0], s.number[MOST_SMALL]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        place = first_list(s, node)
        if place in (SMALL, MAIN):
            s.link[node, COUNT] += 1
            out.what[i] = HIT
            continue
        if place == GHOSTS:
            take(s, node)
        out.what[i] = PASSED
        if size > most_small:
            continue
        while s.weight[SMALL] + s.weight[MAIN] + size > capacity:
            _evict(s, out, i)
        if place == GHOSTS:
            queue = MAIN
        elif size >= most_small:
            continue
        else:
            # Before anything had to leave, a full small queue lets objects pass it.
            queue = MAIN if not s.number[FULL] and s.weight[SMALL] >= most_small else SMALL
        s.size[node] = size
        s.link[node, COUNT] = 0
        put(s, queue, node)
        out.what[i] = ADMITTED


S3_FIFO: Final = Policy(
    "s3-fifo", "a small FIFO filters what is used once, a main one gives second chances", "Yang et al., SOSP 2023",
    _run, _start, S3FifoSettings,
)  # fmt: skip
