"""ARC: one list of what was used once, one of what was used more; what left them steers how large each may be.

With sizes, as libCacheSim has it: sizes of lists are bytes, the target moves by the ratio of the remembered bytes.
"""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import compiled
from simulator.cache.replacement.nodes import (
    ADMITTED,
    HIT,
    PASSED,
    first_list,
    gone,
    is_empty,
    oldest,
    put,
    renew,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy

__all__ = ["ARC"]

T1, T2, B1, B2 = 1, 2, 3, 4
"""Lists: held and used once, held and used more, and what left either."""


@compiled
def _replace(s: Any, known: int, out: Any, i: int) -> None:
    target = s.real[0]
    first = float(s.weight[T1])
    from_first = (first > 0.0 and (first > target or (first == target and known == B2))) or is_empty(s, T2)
    last = oldest(s, T1 if from_first else T2)
    take(s, last)
    put(s, B1 if from_first else B2, last)
    gone(out, last, i)


@compiled
def _make_room(s: Any, known: int, size: int, out: Any, i: int) -> None:
    capacity = s.number[0]
    if known in (B1, B2):
        _replace(s, known, out, i)
        return
    first = s.weight[T1] + s.weight[B1]
    if first + size > capacity:
        if is_empty(s, B1):
            last = oldest(s, T1)
            take(s, last)
            gone(out, last, i)
            return
        take(s, oldest(s, B1))
    elif first + s.weight[T2] + s.weight[B2] >= 2 * capacity and not is_empty(s, B2):
        take(s, oldest(s, B2))
    _replace(s, known, out, i)


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    capacity = s.number[0]
    for i in range(len(nodes)):
        node, size = nodes[i], sizes[i]
        place = first_list(s, node)
        if place == T2:
            renew(s, T2, node)
            out.what[i] = HIT
            continue
        if place == T1:
            take(s, node)
            put(s, T2, node)
            out.what[i] = HIT
            continue
        if place:
            one, two = float(s.weight[B1]), float(s.weight[B2])
            if place == B1:
                s.real[0] = min(s.real[0] + max(two / one, 1.0), float(capacity))
            else:
                s.real[0] = max(s.real[0] - max(one / two, 1.0), 0.0)
            take(s, node)
        if size > capacity:
            out.what[i] = PASSED
            continue
        while s.weight[T1] + s.weight[T2] + size > capacity:
            _make_room(s, place, size, out, i)
        s.size[node] = size
        put(s, T2 if place else T1, node)
        out.what[i] = ADMITTED


ARC: Final = Policy(
    "arc", "balances recency and frequency by what was dropped too early", "Megiddo, Modha, FAST 2003", _run
)
