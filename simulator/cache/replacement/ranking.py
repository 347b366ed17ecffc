"""A binary heap over nodes by key, then tie: on top what leaves first. Kept as libpqueue keeps it, equals included."""

from __future__ import annotations

from typing import Any, Final

from hw_configs.compiled import inlined

__all__ = ["HELD", "rank_add", "rank_drop", "rank_move"]

HELD: Final = 2
"""Place of ``Nodes.number``: nodes in the heap."""


@inlined
def _before(s: Any, a: int, b: int) -> Any:
    if s.key[a] == s.key[b]:
        return s.tie[a] < s.tie[b]
    return s.key[a] < s.key[b]


@inlined
def _up(s: Any, at: int) -> None:
    node = s.heap[at]
    while at > 0 and _before(s, node, s.heap[(at - 1) >> 1]):
        s.heap[at] = s.heap[(at - 1) >> 1]
        s.at[s.heap[at]] = at
        at = (at - 1) >> 1
    s.heap[at] = node
    s.at[node] = at


@inlined
def _down(s: Any, at: int) -> None:
    held = s.number[HELD]
    node = s.heap[at]
    while 2 * at + 1 < held:
        child = 2 * at + 1
        if child + 1 < held and _before(s, s.heap[child + 1], s.heap[child]):
            child += 1
        if not _before(s, s.heap[child], node):
            break
        s.heap[at] = s.heap[child]
        s.at[s.heap[at]] = at
        at = child
    s.heap[at] = node
    s.at[node] = at


@inlined
def rank_add(s: Any, node: int, key: float, tie: int) -> None:
    """Put a node in."""
    s.key[node] = key
    s.tie[node] = tie
    held = s.number[HELD]
    s.heap[held] = node
    s.number[HELD] = held + 1
    _up(s, held)


@inlined
def rank_move(s: Any, node: int, key: float, tie: int) -> None:
    """Give a node that is in another rank."""
    rises = key < s.key[node] or (key == s.key[node] and tie < s.tie[node])
    s.key[node] = key
    s.tie[node] = tie
    if rises:
        _up(s, s.at[node])
    else:
        _down(s, s.at[node])


@inlined
def rank_drop(s: Any, at: int) -> Any:
    """Take out what stands at a place of the heap (0: what leaves first)."""
    node = s.heap[at]
    held = s.number[HELD] - 1
    s.number[HELD] = held
    if at < held:
        last = s.heap[held]
        s.heap[at] = last
        s.at[last] = at
        if _before(s, last, node):
            _up(s, at)
        else:
            _down(s, at)
    return node
