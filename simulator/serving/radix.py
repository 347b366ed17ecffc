"""A radix tree of prefixes: which tokens, from the beginning of a sequence on, lie in the cache.

The tree and its eviction are SGLang's (``python/sglang/srt/mem_cache/radix_cache.py``; Zheng et al., "SGLang:
Efficient Execution of Structured Language Model Programs", NeurIPS 2024, section 3): an edge holds a run of tokens,
a look-up finds the longest prefix in whole pages and splits an edge where it ends, leaves that no request holds are
evicted in order of least recent use. Tokens stand as runs of streams, so that a look-up costs by runs and not by
tokens.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

__all__ = ["Node", "RadixTree", "Run", "length_of", "split_runs"]


class Run(NamedTuple):
    """Tokens ``begin`` to ``begin + tokens`` of a stream."""

    stream: int
    begin: int
    tokens: int


def length_of(runs: list[Run]) -> int:
    """Tokens of runs together."""
    return sum(run.tokens for run in runs)


def split_runs(runs: list[Run], at: int) -> tuple[list[Run], list[Run]]:
    """Runs before and behind token ``at``."""
    before: list[Run] = []
    for place, run in enumerate(runs):
        if at <= 0:
            return before, runs[place:]
        if run.tokens > at:
            before.append(Run(run.stream, run.begin, at))
            return before, [Run(run.stream, run.begin + at, run.tokens - at), *runs[place + 1 :]]
        before.append(run)
        at -= run.tokens
    return before, []


def _in_common(a: list[Run], b: list[Run]) -> int:
    """Tokens with which both begin."""
    common = 0
    for x, y in zip(a, b, strict=False):
        if x == y:
            common += x.tokens
            continue
        if x.stream == y.stream and x.begin == y.begin:
            common += min(x.tokens, y.tokens)
        break
    return common


class Node:
    """An edge of the tree and what hangs on it. ``holders``: requests that hold it or one below it."""

    __slots__ = ("children", "first", "holders", "length", "parent", "runs", "used")

    def __init__(self, runs: list[Run], length: int, parent: Node | None, used: int) -> None:
        self.runs = runs
        self.length = length
        self.parent = parent
        self.used = used
        self.holders = 0
        self.children: dict[object, Node] = {}
        self.first: object = None


class Found(NamedTuple):
    """The longest prefix in the tree: its tokens, and the node where it ends."""

    tokens: int
    node: Node


class RadixTree:
    """A tree over pages of ``page`` tokens. ``size`` and ``held`` count tokens, of which ``size - held`` can go."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.size = 0
        self.held = 0
        self._clock = 0
        self._roots: dict[int, Node] = {}
        self._leaves: list[tuple[int, int, Node]] = []
        self._pushed = 0

    def _first(self, runs: list[Run]) -> object:
        """What tells children apart: their first page."""
        if self.page == 1:
            return runs[0].stream, runs[0].begin
        return tuple(split_runs(runs, self.page)[0])

    def _touch(self, node: Node) -> None:
        self._clock += 1
        node.used = self._clock
        self._offer(node)

    def _offer(self, node: Node) -> None:
        """Note a node as one to evict, if it is: a leaf that nobody holds."""
        if node.parent is not None and not node.children and not node.holders:
            self._pushed += 1
            heapq.heappush(self._leaves, (node.used, self._pushed, node))

    def root(self, adapter: int) -> Node:
        """Where all prefixes under an adapter (-1: none) begin."""
        if adapter not in self._roots:
            self._roots[adapter] = Node([], 0, None, 0)
        return self._roots[adapter]

    def find(self, adapter: int, runs: list[Run]) -> Found:
        """The longest prefix of a sequence, in whole pages. Makes it the most recently used."""
        node, found = self.root(adapter), 0
        left = length_of(runs)
        while left - found >= self.page:
            child = node.children.get(self._first(runs))
            if child is None:
                break
            common = _in_common(child.runs, runs) // self.page * self.page
            if common < child.length:
                child = self._split(child, common)
            self._touch(child)
            found += common
            node = child
            runs = split_runs(runs, common)[1]
        return Found(found, node)

    def _split(self, node: Node, at: int) -> Node:
        """Cut an edge; the new node holds its first ``at`` tokens."""
        parent = node.parent
        assert parent is not None
        before, behind = split_runs(node.runs, at)
        above = Node(before, at, parent, node.used)
        above.holders = node.holders
        above.first = node.first
        parent.children[above.first] = above
        node.runs, node.length, node.parent = behind, node.length - at, above
        node.first = self._first(behind)
        above.children[node.first] = node
        return above

    def insert(self, adapter: int, runs: list[Run]) -> Found:
        """Enter a sequence of whole pages. ``tokens``: how many of it were there before; ``node``: where it ends."""
        there = self.find(adapter, runs)
        behind = split_runs(runs, there.tokens)[1]
        if not behind:
            return there
        length = length_of(behind)
        new = Node(behind, length, there.node, 0)
        new.first = self._first(behind)
        there.node.children[new.first] = new
        self.size += length
        self._touch(new)
        return Found(there.tokens, new)

    def hold(self, node: Node) -> None:
        """One more request holds a prefix."""
        at: Node | None = node
        while at is not None and at.parent is not None:
            if at.holders == 0:
                self.held += at.length
            at.holders += 1
            at = at.parent

    def let_go(self, node: Node) -> None:
        """One request less holds a prefix."""
        at: Node | None = node
        while at is not None and at.parent is not None:
            at.holders -= 1
            if at.holders == 0:
                self.held -= at.length
                self._offer(at)
            at = at.parent

    def evict(self, tokens: int) -> int:
        """Evict leaves until so many tokens are gone, or nothing can go; returns how many went."""
        gone = 0
        while gone < tokens and self._leaves:
            used, _, node = heapq.heappop(self._leaves)
            parent = node.parent
            if parent is None or node.used != used or node.children or node.holders:
                continue
            del parent.children[node.first]
            node.parent = None
            self.size -= node.length
            gone += node.length
            self._offer(parent)
        return gone
