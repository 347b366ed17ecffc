"""MQ: queues by the logarithm of uses; what is not used for a lifetime moves one down; what left keeps its uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import Settings, count, share
from simulator.cache.replacement.nodes import (
    ADMITTED,
    COUNT,
    HIT,
    NOW,
    PASSED,
    USED,
    Nodes,
    first_list,
    gone,
    is_empty,
    oldest,
    put,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy

__all__ = ["MQ", "MqSettings"]

QUEUES, LIFETIME, MOST_GHOSTS = 3, 4, 5
"""Places of ``Nodes.number``. Queues are the lists from 1; ``Nodes.times`` holds when an object's time is over."""
GHOSTS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class MqSettings(Settings):
    """Of MQ."""

    queues: int = count(8, "queues; an object with u uses is in queue log2(u), or the last", least=1, most=64)
    lifetime: int = count(10000, "requests without a use after which it moves down", least=1, most=1 << 40)
    ghost: float = share(4.0, "bytes of remembered objects, as a share of the cache", most=64.0)


def _start(s: Nodes, settings: Any) -> None:
    s.number[QUEUES] = settings.queues
    s.number[LIFETIME] = settings.lifetime
    s.number[MOST_GHOSTS] = int(int(s.number[0]) * settings.ghost)


@compiled
def _age(s: Any, now: int) -> None:
    for queue in range(2, s.number[QUEUES] + 1):
        node = oldest(s, queue)
        if node != queue and s.times[node, 0] < now:
            take(s, node)
            put(s, queue - 1, node)
            s.times[node, 0] = now + s.number[LIFETIME]


@compiled
def _place(s: Any, node: int, now: int) -> None:
    uses, queue = s.link[node, COUNT], 1
    while uses > 1 and queue < s.number[QUEUES]:
        uses >>= 1
        queue += 1
    put(s, queue, node)
    s.times[node, 0] = now + s.number[LIFETIME]


@compiled
def _evict(s: Any, out: Any, i: int) -> None:
    queue = 1
    while is_empty(s, queue):
        queue += 1
    last = oldest(s, queue)
    take(s, last)
    s.number[USED] -= s.size[last]
    gone(out, last, i)
    if s.size[last] <= s.number[MOST_GHOSTS]:
        while s.weight[GHOSTS] + s.size[last] > s.number[MOST_GHOSTS]:
            take(s, oldest(s, GHOSTS))
        put(s, GHOSTS, last)


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity, now = s.number[0], s.number[NOW]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        now += 1
        _age(s, now)
        place = first_list(s, node)
        if place:
            take(s, node)
        if place and place != GHOSTS:
            s.link[node, COUNT] += 1
            _place(s, node, now)
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.number[USED] + size > capacity:
                _evict(s, out, i)
            s.size[node] = size
            s.link[node, COUNT] = s.link[node, COUNT] + 1 if place else 1
            s.number[USED] += size
            _place(s, node, now)
            out.what[i] = ADMITTED
    s.number[NOW] = now


MQ: Final = Policy(
    "mq", "queues by the logarithm of uses, with a lifetime in each", "Zhou, Philbin, Li, USENIX ATC 2001", _run,
    _start, MqSettings, times=1,
)  # fmt: skip
