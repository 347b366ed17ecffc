"""Vector indexes as workloads: what lies where, and what one query reads of it."""

from __future__ import annotations

from workloads.vector_index.index import (
    FlatIndex,
    GraphIndex,
    InvertedFile,
    PostingLists,
    VectorIndex,
    load_index,
    preset_indexes,
)

__all__ = [
    "FlatIndex", "GraphIndex", "InvertedFile", "PostingLists", "VectorIndex", "load_index", "preset_indexes",
]  # fmt: skip
