"""Discard predictions made robust: follow them as long as marking, run beside, does not miss much less.

Two caches are kept in mind, one under 'discard-predictions' and one under 'marking'. The real one follows one of them,
the predictions first: what it drops is something that the followed cache does not hold. It goes over to the other
when the followed one has more than ``trust`` times the other's misses and a cache's objects more.

With objects of one size it then misses at most (1 + trust) times as often as the better of the two, and a cache's
objects more for each change (their number grows with the logarithm of the misses). While one is followed, only what it
held at the change and we did not can cost a miss that it has not. At the end the followed one has at most trust times
the other's misses, and the other, when last left, had more misses than are counted against it. Never following
anything else where the bits are right, it is as good as the predictions there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled
from hw_configs.settings import number
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    NEWER,
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
from simulator.cache.replacement.predicted import PredictionSettings

__all__ = ["ROBUST_DISCARD"]

BOTH, ALONE = 1, 2
"""Lists of what is held: by the followed cache too, or not by it."""
FOLLOWED, HELD, MISSES = 2, 3, 4
"""Places in ``Nodes.number``: which cache is followed, objects held, misses of the first; then of the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustSettings(PredictionSettings):
    """Of the combination."""

    trust: float = number(
        1.5,
        "how many times marking's misses the predictions may have, and the other way round",
        least=1.0,
        most=100.0,
    )


def _start(s: Nodes, settings: RobustSettings) -> None:
    s.real[0] = settings.trust


@compiled
def _place_anew(s: Any, which: int) -> None:
    """Follow a cache: sort what is held by whether that cache holds it, BOTH before ALONE, oldest first."""
    for head in (BOTH, ALONE):
        node = s.link[head, NEWER]
        while node != head:
            after = s.link[node, NEWER]
            wanted = BOTH if s.extra[node, which] else ALONE
            if wanted != head:
                take(s, node)
                put(s, wanted, node)
            node = after


@compiled
def _note(s: Any, events: Any, which: int, at: int, node: int, i: int) -> int:
    """What request ``i`` changed in a cache that is kept in mind; how many of its departures are through."""
    while at < len(events.left) and events.left_at[at] == i:
        left = events.left[at]
        s.extra[left, which] = 0
        if which == s.number[FOLLOWED] and first_list(s, left) == BOTH:
            take(s, left)
            put(s, ALONE, left)
        at += 1
    if events.what[i] != HIT:
        s.number[MISSES + which] += 1
    if events.what[i] == ADMITTED:
        s.extra[node, which] = 1
    return at


@compiled
def _make_room(s: Any, size: int, out: Any, i: int) -> None:
    while s.number[USED] + size > s.number[0]:
        last = oldest(s, BOTH if is_empty(s, ALONE) else ALONE)
        take(s, last)
        s.number[USED] -= s.size[last]
        s.number[HELD] -= 1
        gone(out, last, i)


@compiled
def _run(s: Any, nodes: Any, sizes: Any, beside: Any, out: Any) -> None:
    first = second = 0
    for i in range(len(nodes)):
        node = nodes[i]
        first = _note(s, beside[0], 0, first, node, i)
        second = _note(s, beside[1], 1, second, node, i)
        followed = s.number[FOLLOWED]
        if first_list(s, node):
            out.what[i] = HIT
            if s.extra[node, followed]:
                take(s, node)
                put(s, BOTH, node)
        elif s.extra[node, followed]:
            _make_room(s, sizes[i], out, i)
            s.size[node] = sizes[i]
            s.number[USED] += sizes[i]
            s.number[HELD] += 1
            put(s, BOTH, node)
            out.what[i] = ADMITTED
        else:
            out.what[i] = PASSED
        worse, better = s.number[MISSES + followed], s.number[MISSES + 1 - followed]
        if worse > s.real[0] * better + s.number[HELD]:
            s.number[FOLLOWED] = 1 - followed
            _place_anew(s, 1 - followed)


ROBUST_DISCARD: Final = Policy(
    "robust-discard", "discard predictions as long as marking, kept in mind, does not miss much less",
    "the better of two paging rules: Fiat, Rabani, Ravid, FOCS 1990; for predictions Wei, arXiv:2005.13716", _run,
    _start, settings=RobustSettings, hint="discard bit", extra=True, random=True,
    beside=("discard-predictions", "marking"),
)  # fmt: skip
