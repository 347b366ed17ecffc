"""What one query does: rounds of arithmetic and memory traffic, with the drive's reads between them.

Counts are of the textbook algorithms. A squared distance takes three operations per dimension. A product-quantised
distance takes one table lookup per byte of code. A vector, code or list of neighbours that is reached by its number
is a random access of whole cache lines; lists that are scanned stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from math import ceil
from typing import Final

from simulator.vector_search.footprint import CODEBOOK_ENTRIES, list_bytes
from workloads.vector_index import FlatIndex, GraphIndex, InvertedFile, PostingLists, VectorIndex

__all__ = ["LINE", "Read", "Round", "Work", "query_rounds"]

LINE: Final = 64
"""Bytes of a cache line."""
_DISTANCE: Final = 3
"""Operations per dimension: subtract, multiply, add."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a processor does between reads.

    ``operations`` in fp32 (or the element type, where it has a rate), ``lookups`` in tables that fit its first cache,
    ``streamed`` bytes in order, ``lines`` cache lines at random; ``moved`` bytes that come to a GPU over its wire.
    """

    operations: float = 0.0
    lookups: float = 0.0
    streamed: float = 0.0
    lines: float = 0.0
    moved: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.operations + other.operations, self.lookups + other.lookups, self.streamed + other.streamed,
            self.lines + other.lines, self.moved + other.moved,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Read:
    """Reads of one kind that a round sends at once; ``wanted`` of the ``size`` bytes of each are asked for."""

    count: int
    size: int
    wanted: float


@dataclass(frozen=True, slots=True)
class Round:
    """Work, and then reads at once; the last round of a query has none."""

    work: Work
    reads: tuple[Read, ...] = ()


def query_rounds(index: VectorIndex) -> tuple[Round, ...]:
    """The rounds of a query, the last one without reads.

    >>> from workloads.vector_index import load_index
    >>> [sum(read.count for read in r.reads) for r in query_rounds(load_index("diskann-sift1b"))]
    [4, 4, 4, 4, 4, 4, 4, 4, 4, 0]
    """
    return _rounds(index)


def _lines(size: float) -> int:
    return ceil(size / LINE)


def _sectors(size: float, sector: int) -> int:
    return ceil(size / sector) * sector


@singledispatch
def _rounds(index: object) -> tuple[Round, ...]:
    raise TypeError(f"no index: {type(index).__name__}")


@_rounds.register
def _(index: PostingLists) -> tuple[Round, ...]:
    """Search of the graph over centroids, one round of lists, and their distances."""
    distances, per_vector = index.head_distances, _DISTANCE * index.dimensions
    expanded = ceil(distances / index.head_degree)
    lines = distances * _lines(index.vector_bytes) + expanded * _lines(index.head_degree * index.id_bytes)
    entries = min(index.mean_entries, index.most_entries)
    read = Read(index.lists_read, list_bytes(index), entries * index.entry_bytes)
    scanned = index.lists_read * entries
    moved = index.lists_read * read.size if index.compute == "gpu" else 0
    last = Work(scanned * per_vector, streamed=scanned * index.entry_bytes, moved=moved)
    return (Round(Work(distances * per_vector, lines=lines), (read,)), Round(last))


@_rounds.register
def _(index: GraphIndex) -> tuple[Round, ...]:
    """The query's table, then rounds: exact distances of what came, and distances of its neighbours by their codes."""
    read = Read(index.beam, index.node_read_bytes, index.node_bytes)
    codes = index.beam * index.degree
    came = Work(
        index.beam * _DISTANCE * index.dimensions, codes * index.code_bytes, index.beam * index.node_bytes,
        codes * _lines(index.code_bytes), read.count * read.size if index.compute == "gpu" else 0,
    )  # fmt: skip
    table = Work(
        _DISTANCE * CODEBOOK_ENTRIES * index.dimensions, streamed=CODEBOOK_ENTRIES * index.dimensions * 4
    )
    return (Round(table, (read,)), *(Round(came, (read,)),) * (index.rounds - 1), Round(came))


@_rounds.register
def _(index: InvertedFile) -> tuple[Round, ...]:
    """All centroids, the lists of the nearest, and the exact vectors and values of the best."""
    sector = index.sector_bytes
    coarse = Work(index.lists * _DISTANCE * index.dimensions, streamed=index.lists * index.dimensions * 4)
    entries = index.probes * index.list_entries
    scan = Work(entries * _DISTANCE * index.dimensions, streamed=entries * index.entry_bytes)
    if index.code_bytes is not None:
        # Codes are of the residual to a list's centroid: a table for each list (faiss, by_residual).
        tables = index.probes * CODEBOOK_ENTRIES * index.dimensions
        scan = Work(tables * _DISTANCE, entries * index.code_bytes, entries * index.entry_bytes)
    moved_in = index.compute == "gpu"
    rounds, pending = [], coarse
    if index.place == "drive":
        wanted = index.list_entries * index.entry_bytes
        read = Read(index.probes, _sectors(wanted, sector), wanted)
        rounds.append(Round(pending, (read,)))
        pending = Work(moved=index.probes * read.size if moved_in else 0)
    elif index.place == "memory" and moved_in:
        pending += Work(moved=entries * index.entry_bytes)
    pending += scan
    again, reads = _read_again(index)
    if reads:
        rounds.append(Round(pending, reads))
        return (*rounds, Round(again))
    return (*rounds, Round(pending + again))


def _read_again(index: InvertedFile) -> tuple[Work, tuple[Read, ...]]:
    """Exact vectors and values of the results: work, and reads where they lie on the drive."""
    kinds = [(index.rerank, index.vector_bytes)] if index.rerank else []
    kinds += [(index.neighbours, index.value_bytes)] if index.value_bytes else []
    work = Work(index.rerank * _DISTANCE * index.dimensions)
    work += Work(moved=index.rerank * index.vector_bytes if index.compute == "gpu" else 0)
    if index.store == "drive":
        return work, tuple(Read(count, _sectors(size, index.sector_bytes), size) for count, size in kinds)
    return work + Work(lines=sum(count * _lines(size) for count, size in kinds)), ()


@_rounds.register
def _(index: FlatIndex) -> tuple[Round, ...]:
    """One scan."""
    size = index.vectors * index.vector_bytes
    moved = size if index.compute == "gpu" and index.place != "gpu" else 0
    scan = Work(index.vectors * _DISTANCE * index.dimensions, streamed=size, moved=moved)
    if index.place != "drive":
        return (Round(scan),)
    request = int(index.request)
    count = ceil(size / request)
    return (Round(Work(), (Read(count, request, size / count),)), Round(scan))
