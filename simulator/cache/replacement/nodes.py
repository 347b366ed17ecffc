"""What all policies keep of objects: arrays over nodes, lists from newest to oldest, and what happened to a request.

Nodes below ``HEADS`` are the heads of lists (a list's number is its head's); every object is a node behind them. A
node is in at most one list, and its place is that list's number, 0 outside all.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import inlined

__all__ = [
    "ADMITTED",
    "COUNT",
    "HEADS",
    "HIT",
    "NEWER",
    "NOW",
    "OLDER",
    "PASSED",
    "PLACE",
    "USED",
    "Events",
    "Nodes",
    "draw",
    "first_list",
    "gone",
    "grown",
    "is_empty",
    "make_nodes",
    "newest",
    "oldest",
    "put",
    "renew",
    "take",
]  # fmt: skip

HEADS: Final = 128
"""Nodes that are heads of lists."""
OLDER, NEWER, PLACE, COUNT = 0, 1, 2, 3
"""Columns of ``Nodes.link``."""
PASSED, ADMITTED, HIT = 0, 1, 2
"""What became of a request: a miss that is not admitted, one that is, a hit."""
NOW: Final = 1
SEED: Final = 62
USED: Final = 63
"""Places of ``Nodes.number``: requests before this chunk, state of the random numbers, bytes held."""
GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
SECOND: Final = np.uint64(0x94D049BB133111EB)


class Nodes(NamedTuple):
    """State of one cache. ``key`` to ``times`` have a row per node only where a policy asks for them.

    ``link`` older and newer neighbour, place, count; ``size`` bytes; ``weight`` bytes of each list; ``number`` and
    ``real``: figures of the policy, ``number[0]`` the capacity in bytes and ``number[1]`` requests so far.
    """

    link: npt.NDArray[np.int32]
    size: npt.NDArray[np.int64]
    weight: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    real: npt.NDArray[np.float64]
    key: npt.NDArray[np.float64]
    tie: npt.NDArray[np.int64]
    heap: npt.NDArray[np.int32]
    at: npt.NDArray[np.int32]
    extra: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64]


class Events(NamedTuple):
    """What a chunk did: of each request PASSED, ADMITTED or HIT; which nodes left, and at which request."""

    what: npt.NDArray[np.uint8]
    left: npt.NDArray[np.int32]
    left_at: npt.NDArray[np.int32]
    total: npt.NDArray[np.int64]


def make_nodes(capacity: int, seed: int, ranked: bool = False, extra: bool = False, times: int = 0) -> Nodes:
    """An empty cache of ``capacity`` bytes."""
    link = np.zeros((HEADS, 4), np.int32)
    link[:, OLDER] = link[:, NEWER] = np.arange(HEADS)
    number = np.zeros(64, np.int64)
    number[0], number[SEED] = capacity, seed
    rows = HEADS if ranked else 0
    return Nodes(
        link, np.zeros(HEADS, np.int64), np.zeros(HEADS, np.int64), number, np.zeros(8), np.zeros(rows),
        np.zeros(rows, np.int64), np.zeros(rows, np.int32), np.zeros(rows, np.int32),
        np.zeros((HEADS if extra else 0, 2), np.int32), np.zeros((HEADS if times else 0, times), np.int64),
    )  # fmt: skip


def grown(nodes: Nodes, count: int) -> Nodes:
    """The same state with room for ``count`` nodes."""

    def longer(array: Any) -> Any:
        more = np.zeros((count, *array.shape[1:]), array.dtype)
        more[: len(array)] = array
        return more

    if count <= len(nodes.link):
        return nodes
    kept = {"weight", "number", "real"}
    fields = nodes._asdict().items()
    return Nodes(**{k: v if k in kept or not len(v) else longer(v) for k, v in fields})


@inlined
def first_list(s: Any, node: int) -> Any:
    """The list that a node is in, 0 outside all."""
    return s.link[node, PLACE]


@inlined
def is_empty(s: Any, head: int) -> Any:
    """Whether a list holds nothing."""
    return s.link[head, OLDER] == head


@inlined
def newest(s: Any, head: int) -> Any:
    """The newest of a list, its head where it is empty."""
    return s.link[head, OLDER]


@inlined
def oldest(s: Any, head: int) -> Any:
    """The oldest of a list, its head where it is empty."""
    return s.link[head, NEWER]


@inlined
def put(s: Any, head: int, node: int) -> None:
    """Make a node the newest of a list."""
    first = s.link[head, OLDER]
    s.link[node, OLDER] = first
    s.link[node, NEWER] = head
    s.link[first, NEWER] = node
    s.link[head, OLDER] = node
    s.link[node, PLACE] = head
    s.weight[head] += s.size[node]


@inlined
def take(s: Any, node: int) -> None:
    """Take a node out of its list."""
    older, newer = s.link[node, OLDER], s.link[node, NEWER]
    s.link[newer, OLDER] = older
    s.link[older, NEWER] = newer
    s.weight[s.link[node, PLACE]] -= s.size[node]
    s.link[node, PLACE] = 0


@inlined
def renew(s: Any, head: int, node: int) -> None:
    """Make a node the newest of the list that it is in."""
    first = s.link[head, OLDER]
    if first != node:
        older, newer = s.link[node, OLDER], s.link[node, NEWER]
        s.link[newer, OLDER] = older
        s.link[older, NEWER] = newer
        s.link[node, OLDER] = first
        s.link[node, NEWER] = head
        s.link[first, NEWER] = node
        s.link[head, OLDER] = node


@inlined
def gone(out: Any, node: int, i: int) -> None:
    """Note that a node left at request ``i``."""
    n = out.total[0]
    out.left[n] = node
    out.left_at[n] = i
    out.total[0] = n + 1


@inlined
def draw(s: Any, below: int) -> Any:
    """A random number from 0, less than ``below``: SplitMix64, modulo."""
    state = np.uint64(s.number[SEED]) + GAMMA
    s.number[SEED] = np.int64(state)
    z = (state ^ (state >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    z = z ^ (z >> np.uint64(31))
    return np.int64(z % np.uint64(below))
