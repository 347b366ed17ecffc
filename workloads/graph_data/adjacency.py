"""An adjacency in compressed sparse rows: for each node, the nodes whose features it aggregates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["MAX_EDGES", "MAX_NODES", "Adjacency", "from_edges"]

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]

MAX_NODES: Final = 2**31 - 1
"""Node numbers are 32-bit."""
MAX_EDGES: Final = 2**33
"""Edges of one adjacency at most: 32 GiB of node numbers."""


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Node v aggregates ``neighbours[offsets[v]:offsets[v + 1]]``; parallel edges and loops are kept as given.

    Raises ``InputError`` for offsets that do not run from 0 upwards to the number of neighbours, and for neighbours
    that are no nodes.
    """

    offsets: Longs
    neighbours: Ints
    name: str = "graph"

    def __post_init__(self) -> None:
        for field, kind in (("offsets", np.int64), ("neighbours", np.int32)):
            found = np.asarray(getattr(self, field))
            if found.ndim != 1 or found.dtype.kind not in "iu":
                raise bad_input("expected whole numbers in one dimension", file=self.name, path=field)
            if found.size and (int(found.min()) < 0 or int(found.max()) > np.iinfo(kind).max):
                raise bad_input(f"expected 0 to {np.iinfo(kind).max}", file=self.name, path=field)
            given = np.ascontiguousarray(found, kind)
            if given.flags.writeable:
                # Of an array that others may change we keep a view that we do not.
                given = given.view()
                given.flags.writeable = False
            object.__setattr__(self, field, given)
        self._check()

    def _check(self) -> None:
        offsets, neighbours = self.offsets, self.neighbours
        if offsets.size < 2 or offsets.size - 1 > MAX_NODES:
            raise bad_input(f"expected 1 to {MAX_NODES} nodes", file=self.name, path="offsets")
        if int(offsets[0]) != 0 or bool((np.diff(offsets) < 0).any()):
            raise bad_input("expected numbers from 0 that never fall", file=self.name, path="offsets")
        if int(offsets[-1]) != neighbours.size:
            raise bad_input(
                f"the last is {int(offsets[-1])}, yet there are {neighbours.size} neighbours",
                file=self.name, path="offsets",
            )  # fmt: skip
        if neighbours.size and int(neighbours.max()) >= self.nodes:
            raise bad_input(
                f"found node {int(neighbours.max())} among {self.nodes} nodes",
                file=self.name,
                path="neighbours",
            )

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(self.offsets.size) - 1

    @property
    def edges(self) -> int:
        """Number of neighbour entries; an undirected edge counts twice."""
        return int(self.neighbours.size)

    @property
    def bytes(self) -> int:
        """Bytes of the arrays."""
        return int(self.offsets.nbytes + self.neighbours.nbytes)

    def degrees(self) -> Longs:
        """Neighbours of each node."""
        return np.diff(self.offsets)

    def of(self, node: int) -> Ints:
        """The neighbours of a node."""
        return self.neighbours[self.offsets[node] : self.offsets[node + 1]]


def from_edges(
    source: npt.ArrayLike, target: npt.ArrayLike, nodes: int, *, directed: bool = True, name: str = "graph"
) -> Adjacency:
    """The adjacency of edges: ``target`` aggregates ``source``; undirected, each the other.

    Neighbours stand in the order of the edges. Raises ``InputError`` for ends that are no nodes.

    >>> from_edges([0, 2, 1], [1, 1, 0], 3).of(1).tolist()
    [0, 2]
    """
    from workloads.graph_data.kernels import fill_rows

    ends = [np.ascontiguousarray(end, np.int64) for end in (source, target)]
    if ends[0].shape != ends[1].shape or ends[0].ndim != 1:
        raise bad_input("expected as many sources as targets", file=name)
    if not 1 <= nodes <= MAX_NODES:
        raise bad_input(f"found {nodes} nodes; expected 1 to {MAX_NODES}", file=name)
    if ends[0].size and (min(int(e.min()) for e in ends) < 0 or max(int(e.max()) for e in ends) >= nodes):
        raise bad_input(f"an edge ends at what is none of the {nodes} nodes", file=name)
    offsets = np.zeros(nodes + 1, np.int64)
    counts = np.bincount(ends[1], minlength=nodes)
    if not directed:
        counts = counts + np.bincount(ends[0], minlength=nodes)
    np.cumsum(counts, out=offsets[1:])
    neighbours = np.empty(int(offsets[-1]), np.int32)
    fill_rows(ends[0], ends[1], offsets[:-1].copy(), neighbours, not directed)
    return Adjacency(offsets, neighbours, name)
