"""SLRU: segments of LRU; a use moves an object up one, and a segment too full hands its oldest one down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import Settings, count
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    PASSED,
    USED,
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

__all__ = ["SLRU", "SlruSettings"]

SEGMENTS, SHARE = 3, 4
"""Places of ``Nodes.number``: segments, and bytes of each. Segments are the lists from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlruSettings(Settings):
    """Of SLRU."""

    segments: int = count(4, "segments of equal size, probation first", least=1, most=64)


def _start(s: Nodes, settings: Any) -> None:
    s.number[SEGMENTS] = settings.segments
    s.number[SHARE] = s.number[0] // settings.segments
    insist(s, int(s.number[SHARE]), "each segment", "slru")


@compiled
def _evict(s: Any, out: Any, i: int) -> None:
    segment = 1
    while is_empty(s, segment):
        segment += 1
    last = oldest(s, segment)
    take(s, last)
    s.number[USED] -= s.size[last]
    gone(out, last, i)


@compiled
def _settle(s: Any, top: int, out: Any, i: int) -> None:
    # From the segment that grew downwards, each until it is within its share; what is pushed out of the lowest leaves.
    share = s.number[SHARE]
    segment = top
    while True:
        while segment < top and s.weight[segment] <= share:
            segment += 1
        if segment == top and s.weight[top] <= share:
            return
        if segment == 1:
            _evict(s, out, i)
        else:
            last = oldest(s, segment)
            take(s, last)
            put(s, segment - 1, last)
            segment -= 1


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity, segments, share = s.number[0], s.number[SEGMENTS], s.number[SHARE]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        place = first_list(s, node)
        if place:
            if place == segments:
                renew(s, place, node)
            else:
                take(s, node)
                put(s, place + 1, node)
                _settle(s, place + 1, out, i)
            out.what[i] = HIT
        elif size > share:
            out.what[i] = PASSED
        else:
            while s.number[USED] + size > capacity:
                _evict(s, out, i)
            segment = 1
            for k in range(segments, 0, -1):
                if s.weight[k] + size <= share:
                    segment = k
            s.size[node] = size
            s.number[USED] += size
            put(s, segment, node)
            out.what[i] = ADMITTED


SLRU: Final = Policy(
    "slru", "segments of LRU that a use climbs", "Karedla, Love, Wherry, IEEE Computer 27(3), 1994", _run, _start,
    SlruSettings,
)  # fmt: skip
