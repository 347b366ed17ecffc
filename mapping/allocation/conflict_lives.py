"""Lives that meet exactly where a conflict graph has an edge, for tools that keep conflicts and not lives.

Buffers that conflict pairwise are in use at one moment; each buffer lives from its first such moment to its last, with
gaps between. Where the graph is chordal, as conflicts of a straight programme are, the moments are its maximal
cliques, else a greedy cover of its edges. Of some orders of the moments the one with the fewest gaps is taken; by the
newest buffer there are none where buffers stand in the order of their first use.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mapping.allocation.problem import Gap

__all__ = ["lives_of_conflicts"]


def lives_of_conflicts(near: Sequence[set[int]]) -> list[tuple[int, int, tuple[Gap, ...]]]:
    """(lower, upper, gaps) per buffer; ``near``: for each buffer those it conflicts with, both ways round."""
    cliques = _maximal_cliques(near)
    if cliques is None:
        cliques = _edge_cover(near)
    index = range(len(cliques))
    orders = [
        sorted(index, key=lambda c: (max(cliques[c]), min(cliques[c]))),
        list(index),
        sorted(index, key=lambda c: (sum(cliques[c]) / len(cliques[c]), min(cliques[c]))),
    ]
    lives = [_lives(len(near), [cliques[c] for c in order]) for order in orders]
    return min(lives, key=lambda rows: sum(len(gaps) for _, _, gaps in rows))


def _maximal_cliques(near: Sequence[set[int]]) -> list[set[int]] | None:
    """The maximal cliques of a chordal graph by maximum cardinality search; None where it is not chordal."""
    n = len(near)
    buckets: list[set[int]] = [set(range(n))]
    weight = [0] * n
    place: dict[int, int] = {}
    before: list[set[int]] = [set() for _ in range(n)]
    top = 0
    for turn in range(n):
        while not buckets[top]:
            top -= 1
        v = min(buckets[top])
        buckets[top].discard(v)
        place[v] = turn
        for u in near[v]:
            if u not in place:
                before[u].add(v)
                buckets[weight[u]].discard(u)
                weight[u] += 1
                if weight[u] == len(buckets):
                    buckets.append(set())
                buckets[weight[u]].add(u)
        top = min(top + 1, len(buckets) - 1)
    cliques: list[set[int]] = []
    covered: set[int] = set()
    for v in sorted(place, key=lambda u: -place[u]):
        if before[v]:
            last = max(before[v], key=lambda u: place[u])
            if not before[v] - {last} <= before[last]:
                return None
            if len(before[v]) >= len(before[last]) + 1:
                covered.add(last)
        if v not in covered or not cliques:
            cliques.append({v} | before[v])
    kept: list[set[int]] = []
    for clique in sorted(cliques, key=len, reverse=True):
        first = min(clique)
        if not any(first in other and clique <= other for other in kept):
            kept.append(clique)
    return kept


def _edge_cover(near: Sequence[set[int]]) -> list[set[int]]:
    """Cliques that hold every edge, and every buffer, at least once."""
    cliques: list[set[int]] = []
    open_edges = {(a, b) for a in range(len(near)) for b in near[a] if a < b}
    for a, b in sorted(open_edges):
        if (a, b) not in open_edges:
            continue
        clique = {a, b}
        common = near[a] & near[b]
        while common:
            new = min(common, key=lambda u: (-len(near[u] & common), u))
            clique.add(new)
            common &= near[new]
        cliques.append(clique)
        open_edges -= {(u, v) for u in clique for v in clique if u < v}
    cliques += [{v} for v in range(len(near)) if not near[v]]
    return cliques


def _lives(n: int, cliques: Sequence[set[int]]) -> list[tuple[int, int, tuple[Gap, ...]]]:
    moments: list[list[int]] = [[] for _ in range(n)]
    for time, clique in enumerate(cliques):
        for v in clique:
            moments[v].append(time)
    return [
        (
            times[0],
            times[-1] + 1,
            tuple(Gap(a + 1, b) for a, b in itertools.pairwise(times) if b > a + 1),
        )
        for times in moments
    ]
