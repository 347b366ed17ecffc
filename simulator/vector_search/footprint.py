"""What lies where: the bytes of an index in memory, on the GPU and on drives, each part counted from its sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch

from workloads.vector_index import FlatIndex, GraphIndex, InvertedFile, PostingLists, VectorIndex
from workloads.vector_index.index import Place

__all__ = ["Footprint", "Part", "footprint", "list_bytes"]

CODEBOOK_ENTRIES = 256
"""Centroids of one sub-quantiser: a code of one byte (Jegou et al., TPAMI 2011)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an index and its bytes."""

    name: str
    place: Place
    bytes: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """All parts of an index."""

    parts: tuple[Part, ...]

    def bytes_at(self, place: Place) -> int:
        """Bytes of all parts at a place."""
        return sum(part.bytes for part in self.parts if part.place == place)


def footprint(index: VectorIndex) -> Footprint:
    """The parts of an index, exact but for the lengths of posting lists, which count at their mean."""
    return Footprint(tuple(_parts(index)))


def list_bytes(index: PostingLists) -> int:
    """Bytes that the mean list takes on the drive: whole sectors, cut at the limit.

    >>> from workloads.vector_index import load_index
    >>> list_bytes(load_index("spann-sift1b"))  # 66.7 entries of 132 B are 8800 B
    12288
    """
    entries = min(index.mean_entries, index.most_entries)
    return -(-round(entries * index.entry_bytes) // index.sector_bytes) * index.sector_bytes


@singledispatch
def _parts(index: object) -> Iterator[Part]:
    raise TypeError(f"no index: {type(index).__name__}")


@_parts.register
def _(index: PostingLists) -> Iterator[Part]:
    heads = index.centroids
    yield Part("centroids", "memory", heads * index.vector_bytes)
    yield Part("graph over centroids", "memory", heads * index.head_degree * index.id_bytes)
    yield Part("posting lists", "drive", heads * list_bytes(index))


@_parts.register
def _(index: GraphIndex) -> Iterator[Part]:
    yield Part("codes", "memory", index.vectors * index.code_bytes)
    yield Part("codebook", "memory", CODEBOOK_ENTRIES * index.dimensions * 4)
    yield Part("cached nodes", "memory", index.cached_nodes * index.node_bytes)
    sharing = index.nodes_per_sector
    yield Part("nodes", "drive", -(-index.vectors // sharing) * index.node_read_bytes)


@_parts.register
def _(index: InvertedFile) -> Iterator[Part]:
    near: Place = "gpu" if index.compute == "gpu" else "memory"
    yield Part("centroids", near, index.lists * index.dimensions * 4)
    if index.code_bytes is not None:
        yield Part("codebook", near, CODEBOOK_ENTRIES * index.dimensions * 4)
    yield Part("lists", index.place, index.vectors * index.entry_bytes)
    if index.value_bytes:
        yield Part("values", index.store, index.vectors * index.value_bytes)
    if index.rerank:
        yield Part("exact vectors", index.store, index.vectors * index.vector_bytes)


@_parts.register
def _(index: FlatIndex) -> Iterator[Part]:
    yield Part("vectors", index.place, index.vectors * index.vector_bytes)
