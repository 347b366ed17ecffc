"""A sparse matrix in compressed rows: columns rise within a row and none stands twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from workloads.graph_data.adjacency import Adjacency
from workloads.graph_data.generators import GRAPH500, r_mat
from workloads.memory_trace.generators import splitmix64

__all__ = ["SparseMatrix", "from_adjacency", "random_matrix", "transposed"]

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """Row r holds ``values[offsets[r]:offsets[r + 1]]`` at ``indices`` of the same places.

    Raises ``InputError`` where offsets fall, columns do not rise within a row, or one is beyond the last column.
    """

    offsets: Longs
    indices: Ints
    values: Floats
    columns: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", np.ascontiguousarray(self.offsets, np.int64))
        object.__setattr__(self, "indices", np.ascontiguousarray(self.indices, np.int32))
        object.__setattr__(self, "values", np.ascontiguousarray(self.values, np.float64))
        offsets, indices = self.offsets, self.indices
        if offsets.size < 2 or offsets[0] != 0 or bool((np.diff(offsets) < 0).any()):
            raise bad_input("expected offsets from 0 that never fall, for at least one row", path="offsets")
        if not int(offsets[-1]) == indices.size == self.values.size:
            raise bad_input(
                f"the last offset is {int(offsets[-1])}, yet there are {indices.size} columns and {self.values.size} "
                "values", path="offsets",
            )  # fmt: skip
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < self.columns:
            raise bad_input(f"found a column outside of 0 to {self.columns - 1}", path="indices")
        rises = np.diff(indices.astype(np.int64)) > 0
        begins = offsets[1:-1]
        begins = begins[(begins > 0) & (begins < indices.size)]
        rises[begins - 1] = True
        if not bool(rises.all()):
            raise bad_input("expected columns that rise within each row", path="indices")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.offsets.size) - 1

    @property
    def nonzeros(self) -> int:
        """Stored values."""
        return int(self.indices.size)


def from_adjacency(graph: Adjacency, seed: int = 1) -> SparseMatrix:
    """The matrix with a value at (node, neighbour) for each edge, parallel edges once; values are drawn from 1 to 2."""
    sizes = graph.degrees()
    rows = np.repeat(np.arange(graph.nodes, dtype=np.int64), sizes)
    places = np.unique(rows * graph.nodes + graph.neighbours.astype(np.int64))
    offsets = np.zeros(graph.nodes + 1, np.int64)
    np.cumsum(np.bincount(places // graph.nodes, minlength=graph.nodes), out=offsets[1:])
    drawn = splitmix64(seed, 0, places.size).astype(np.float64) / 2.0**64
    return SparseMatrix(offsets, (places % graph.nodes).astype(np.int32), 1.0 + drawn, graph.nodes)


def random_matrix(
    nodes: int, edges: int, shares: tuple[float, float, float, float] = GRAPH500, *, seed: int = 1
) -> SparseMatrix:
    """R-MAT of ``edges`` draws (Chakrabarti et al., SDM 2004); places drawn twice are stored once."""
    return from_adjacency(r_mat(nodes, edges, shares, seed=seed), seed)


def transposed(matrix: SparseMatrix) -> SparseMatrix:
    """The same values with rows and columns exchanged."""
    rows = np.repeat(np.arange(matrix.rows, dtype=np.int64), np.diff(matrix.offsets))
    order = np.argsort(matrix.indices, kind="stable")
    offsets = np.zeros(matrix.columns + 1, np.int64)
    np.cumsum(np.bincount(matrix.indices, minlength=matrix.columns), out=offsets[1:])
    return SparseMatrix(offsets, rows[order].astype(np.int32), matrix.values[order], matrix.rows)
