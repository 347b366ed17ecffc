"""SIEVE: a hand moves from old to new, clears marks of use and drops the first object that has none."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import (
    ADMITTED,
    COUNT,
    HIT,
    NEWER,
    PASSED,
    first_list,
    gone,
    oldest,
    put,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy

__all__ = ["SIEVE"]

HAND: Final = 3


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    # The hand is a node, or the head of the list (or 0, before the first turn) where it starts from the oldest.
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        if first_list(s, node):
            s.link[node, COUNT] = 1
            out.what[i] = HIT
        elif size > capacity:
            out.what[i] = PASSED
        else:
            while s.weight[1] + size > capacity:
                at = s.number[HAND]
                if at < 2:
                    at = oldest(s, 1)
                while s.link[at, COUNT]:
                    s.link[at, COUNT] = 0
                    at = s.link[at, NEWER]
                    if at == 1:
                        at = oldest(s, 1)
                s.number[HAND] = s.link[at, NEWER]
                take(s, at)
                gone(out, at, i)
            s.size[node] = size
            s.link[node, COUNT] = 0
            put(s, 1, node)
            out.what[i] = ADMITTED


SIEVE: Final = Policy(
    "sieve",
    "a hand drops the first object that was not used since it passed",
    "Zhang et al., NSDI 2024",
    _run,
)
