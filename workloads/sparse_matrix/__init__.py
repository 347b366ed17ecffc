"""Sparse matrices in compressed rows, from graphs or made by rule."""

from workloads.sparse_matrix.matrix import SparseMatrix, from_adjacency, random_matrix, transposed

__all__ = ["SparseMatrix", "from_adjacency", "random_matrix", "transposed"]
