"""LIRS: objects whose last two uses lie close (LIR) stay; the rest (HIR) pass a short queue.

S holds what was used lately, newest first: LIR, held HIR and remembered ones (list 1). Q holds the held HIR (``heap``
and ``at`` as neighbours), OUT what S remembers without holding it (``extra``). As libCacheSim has it, a use of an
object that is only in Q makes room among the LIR first: where that drops the object itself from Q, S still calls it
held, and the room that is then made is that for what took its place. So LIRS can hold a little more than its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hw_configs.compiled import compiled, inlined
from hw_configs.settings import Settings, share
from simulator.cache.replacement.nodes import (
    ADMITTED,
    COUNT,
    HIT,
    PASSED,
    Nodes,
    first_list,
    gone,
    newest,
    oldest,
    put,
    renew,
    take,
)  # fmt: skip
from simulator.cache.replacement.policy import Policy

__all__ = ["LIRS", "LirsSettings"]

S: Final = 1
MOST_HIR, MOST_LIR, HIR_BYTES, LIR_BYTES, LAST_OUT, CAME = 3, 4, 5, 6, 7, 8
"""Places of ``Nodes.number``; the last two: what left Q last and what entered it, in the last drop of a LIR."""
LIR, INSIDE, IN_Q, IN_OUT = 1, 2, 4, 8
"""Flags of a node, in its count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LirsSettings(Settings):
    """Of LIRS."""

    hir: float = share(0.01, "share of the cache for objects whose uses lie far apart")


def _start(s: Nodes, settings: Any) -> None:
    s.number[MOST_HIR] = max(1, int(settings.hir * int(s.number[0])))
    s.number[MOST_LIR] = s.number[0] - s.number[MOST_HIR]


@inlined
def _has(s: Any, node: int, flag: int) -> Any:
    return (s.link[node, COUNT] & flag) != 0


@inlined
def _set(s: Any, node: int, flag: int) -> None:
    s.link[node, COUNT] |= flag


@inlined
def _clear(s: Any, node: int, flag: int) -> None:
    s.link[node, COUNT] &= ~flag


@inlined
def _q_put(s: Any, node: int) -> None:
    first = s.heap[0]
    s.heap[node], s.at[node] = first, 0
    s.at[first] = node
    s.heap[0] = node
    _set(s, node, IN_Q)


@inlined
def _q_take(s: Any, node: int) -> None:
    older, newer = s.heap[node], s.at[node]
    s.heap[newer], s.at[older] = older, newer
    _clear(s, node, IN_Q)


@inlined
def _out_put(s: Any, node: int) -> None:
    if not _has(s, node, IN_OUT):
        first = s.extra[0, 0]
        s.extra[node, 0], s.extra[node, 1] = first, 0
        s.extra[first, 1] = node
        s.extra[0, 0] = node
        _set(s, node, IN_OUT)


@inlined
def _out_take(s: Any, node: int) -> None:
    if _has(s, node, IN_OUT):
        older, newer = s.extra[node, 0], s.extra[node, 1]
        s.extra[newer, 0], s.extra[older, 1] = older, newer
        _clear(s, node, IN_OUT)


@compiled
def _prune(s: Any, out: Any, i: int) -> None:
    last = oldest(s, S)
    while last != newest(s, S) and not _has(s, last, LIR):
        take(s, last)
        _out_take(s, last)
        if _has(s, last, INSIDE) and not _has(s, last, IN_Q):
            gone(out, last, i)
        last = oldest(s, S)


@compiled
def _drop_hir(s: Any, keep: int, out: Any, i: int) -> None:
    last = s.at[0]
    _q_take(s, last)
    s.number[HIR_BYTES] -= s.size[last]
    s.number[LAST_OUT] = last
    if first_list(s, last):
        _clear(s, last, INSIDE)
        _out_put(s, last)
    if last != keep:
        gone(out, last, i)


@compiled
def _drop_lir(s: Any, keep: int, out: Any, i: int) -> None:
    last = oldest(s, S)
    take(s, last)
    _clear(s, last, LIR)
    size = s.size[last]
    s.number[LIR_BYTES] -= size
    s.number[LAST_OUT] = s.number[CAME] = 0
    if size <= s.number[MOST_HIR]:
        while s.number[HIR_BYTES] + size > s.number[MOST_HIR]:
            _drop_hir(s, keep, out, i)
        _q_put(s, last)
        s.number[HIR_BYTES] += size
        s.number[CAME] = last
    else:
        gone(out, last, i)
    _prune(s, out, i)


@compiled
def _raise(s: Any, node: int, out: Any, i: int) -> None:
    while s.number[LIR_BYTES] + s.size[node] > s.number[MOST_LIR]:
        _drop_lir(s, 0, out, i)
    _set(s, node, LIR | INSIDE)
    s.number[LIR_BYTES] += s.size[node]


@compiled
def _use_in_q(s: Any, node: int, out: Any, i: int) -> None:
    counted = node
    while s.number[LIR_BYTES] + s.size[counted] > s.number[MOST_LIR]:
        _drop_lir(s, node, out, i)
        if s.number[LAST_OUT] == counted and s.number[CAME]:
            counted = s.number[CAME]
    put(s, S, node)
    _set(s, node, INSIDE)


@compiled
def _enter(s: Any, node: int, size: int, out: Any, i: int) -> None:
    s.size[node] = size
    _clear(s, node, LIR)
    if s.number[LIR_BYTES] + size <= s.number[MOST_LIR]:
        _set(s, node, LIR)
        s.number[LIR_BYTES] += size
    else:
        while s.number[HIR_BYTES] + size > s.number[MOST_HIR]:
            _drop_hir(s, 0, out, i)
        _q_put(s, node)
        s.number[HIR_BYTES] += size
    put(s, S, node)
    _set(s, node, INSIDE)


@compiled
def _asked(s: Any, node: int, size: int, out: Any, i: int) -> int:
    in_s, in_q = first_list(s, node) != 0, _has(s, node, IN_Q)
    if in_s:
        renew(s, S, node)
    if in_q:
        _q_take(s, node)
        _q_put(s, node)
    if in_s and _has(s, node, LIR):
        _prune(s, out, i)
        return HIT
    if in_s and _has(s, node, INSIDE):
        if in_q:
            _q_take(s, node)
            s.number[HIR_BYTES] -= s.size[node]
        _raise(s, node, out, i)
        return HIT
    if in_s:
        if s.size[node] > s.number[0]:
            return PASSED
        _raise(s, node, out, i)
        _out_take(s, node)
        return ADMITTED
    if in_q:
        _use_in_q(s, node, out, i)
        return HIT
    if size > min(s.number[MOST_LIR], s.number[MOST_HIR]):
        return PASSED
    _enter(s, node, size, out, i)
    return ADMITTED


@compiled
def _run(s: Any, nodes: Any, sizes: Any, hints: Any, out: Any) -> None:  # noqa: ARG001
    for i in range(len(nodes)):
        out.what[i] = _asked(s, nodes[i], sizes[i], out, i)
        while s.weight[S] > 2 * s.number[0] and s.extra[0, 1]:
            last = s.extra[0, 1]
            _out_take(s, last)
            if first_list(s, last):
                take(s, last)


LIRS: Final = Policy(
    "lirs", "keeps what is used again soon after its last use", "Jiang, Zhang, SIGMETRICS 2002", _run, _start,
    LirsSettings, ranked=True, extra=True,
)  # fmt: skip
