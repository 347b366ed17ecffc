"""What an index of vectors is: its sizes, and what a query reads at the recall that its file states.

Four kinds. ``posting-lists``: centroids in memory, the vectors around each on the drive (SPANN, arXiv:2111.08566).
``graph``: compressed codes in memory, each vector with its neighbours on the drive (DiskANN, NeurIPS 2019). ``ivf``:
lists of vectors or of codes, with exact keys read again (faiss; kNN-LM, arXiv:1911.00172). ``flat``: every vector.

Recall is never worked out: lists read, rounds and probes are inputs, and ``stated_recall`` says where they are from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from hw_configs.config import Config, Count, Fault, Size, parse, refuse
from hw_configs.problems import bad_input, nearest
from hw_configs.yaml_file import Document, read_yaml
from workloads.dtypes import size_bytes

__all__ = [
    "FlatIndex", "GraphIndex", "InvertedFile", "Place", "PostingLists", "VectorIndex", "load_index",
    "preset_indexes",
]  # fmt: skip

Element = Literal["fp32", "fp16", "bf16", "int8", "uint8", "int4"]
Place = Literal["memory", "gpu", "drive"]
Some = Annotated[int, Field(ge=1, le=2**24)]
Any_ = Annotated[int, Field(ge=0, le=2**24)]
_PRESETS: Final = Path(__file__).parent / "presets"


class _Index(Config):
    """What every index says."""

    name: str
    description: str = ""
    source: str = ""
    vectors: Count
    dimensions: Annotated[int, Field(ge=1, le=65536)]
    element: Element
    """Element type of a stored vector."""
    stated_recall: str = ""
    """The recall at which the reads below were stated, and by whom; nothing is worked out from it."""
    sector: Size = 4096.0
    """Bytes of the drive's block: reads begin and end at one."""
    id_bytes: Annotated[int, Field(ge=0, le=16)] = 4
    """Bytes of a vector's number."""
    compute: Literal["cpu", "gpu"] = "cpu"
    """Where distances are worked out."""

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector."""
        return size_bytes(self.dimensions, self.element)

    @property
    def sector_bytes(self) -> int:
        """Bytes of the drive's block."""
        return int(self.sector)

    @model_validator(mode="after")
    def _whole_sectors(self) -> Self:
        size = self.sector
        wrong = not 512 <= size <= 2**20 or size % 512
        refuse((("sector",), "expected 512 B to 1 MiB in whole 512 B") if wrong else None)
        return self


class PostingLists(_Index):
    """Centroids and their graph in memory, a posting list of whole sectors for each on the drive."""

    kind: Literal["posting-lists"]
    centroid_share: Annotated[float, Field(gt=0, le=1)]
    """Centroids over vectors."""
    replicas: Annotated[float, Field(ge=1, le=64)]
    """Lists that a vector stands in, on average (closure)."""
    list_limit: Size
    """Bytes of a list at most; what is beyond is left out."""
    length_variation: Annotated[float, Field(ge=0, le=3)] = 0.0
    """Standard deviation of a list's length over its mean, before the limit; 0: balanced exactly."""
    lists_read: Some
    """Lists that a query reads after pruning."""
    head_degree: Some = 32
    """Neighbours of a centroid in the graph over the centroids."""
    head_distances: Some = 1024
    """Distances to centroids that a query works out."""

    @property
    def centroids(self) -> int:
        """Number of centroids, and of lists."""
        return max(round(self.vectors * self.centroid_share), 1)

    @property
    def entry_bytes(self) -> int:
        """Bytes of a vector in a list, with its number."""
        return self.vector_bytes + self.id_bytes

    @property
    def most_entries(self) -> int:
        """Entries that the limit leaves in a list."""
        return int(self.list_limit) // self.entry_bytes

    @property
    def mean_entries(self) -> float:
        """Entries of a list on average, before the limit."""
        return self.vectors * self.replicas / self.centroids

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        short = self.most_entries < 1
        refuse(
            (("list_limit",), f"holds no entry of {self.entry_bytes} bytes") if short else None,
            _more(("lists_read",), self.lists_read, self.centroids, "lists"),
        )
        return self


class GraphIndex(_Index):
    """Codes of every vector in memory, a node of vector and neighbours for each on the drive."""

    kind: Literal["graph"]
    degree: Some
    """Neighbours of a node; room is kept for all of them."""
    code_bytes: Annotated[int, Field(ge=1, le=65536)]
    """Bytes of a product-quantised vector in memory."""
    beam: Some
    """Nodes read at once in a round."""
    rounds: Annotated[int, Field(ge=1, le=4096)]
    """Rounds of a query, each begun when the last one's reads are back."""
    cached_nodes: Annotated[int, Field(ge=0, le=2**40)] = 0
    """Nodes kept in memory beside the codes; the rounds above are those that still go to the drive."""

    @property
    def node_bytes(self) -> int:
        """A vector, the number of its neighbours, and their numbers."""
        return self.vector_bytes + 4 + self.degree * self.id_bytes

    @property
    def node_read_bytes(self) -> int:
        """Whole sectors of a node; small nodes share one and none lies across two."""
        return -(-self.node_bytes // self.sector_bytes) * self.sector_bytes

    @property
    def nodes_per_sector(self) -> int:
        """Nodes that share a sector; 1 where a node takes a sector or more."""
        return max(self.sector_bytes // self.node_bytes, 1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse(
            _more(("cached_nodes",), self.cached_nodes, self.vectors, "vectors"),
            _more(("beam",), self.beam * self.rounds, self.vectors, "vectors"),
        )
        return self


class InvertedFile(_Index):
    """Lists around centroids, of whole vectors or of codes; keys may be read again for exact distances."""

    kind: Literal["ivf"]
    lists: Count
    probes: Some
    """Lists that a query scans."""
    code_bytes: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Bytes of a product-quantised vector; None: the lists hold the vectors."""
    place: Place = "memory"
    """Where the lists lie."""
    neighbours: Some = 1
    """Results of a query."""
    value_bytes: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Bytes that are kept for each vector and read for each result (a token, a document's number)."""
    rerank: Any_ = 0
    """Results whose exact vectors are read again."""
    store: Place = "drive"
    """Where exact vectors and values lie."""

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry of a list, with its number."""
        return (self.vector_bytes if self.code_bytes is None else self.code_bytes) + self.id_bytes

    @property
    def list_entries(self) -> float:
        """Entries of a list on average."""
        return self.vectors / self.lists

    @model_validator(mode="after")
    def _possible(self) -> Self:
        gpu = self.place == "gpu" and self.compute != "gpu"
        refuse(
            _more(("probes",), self.probes, self.lists, "lists"),
            _more(("lists",), self.lists, self.vectors, "vectors"),
            _more(("rerank",), self.rerank, self.vectors, "vectors"),
            (("place",), "lists on a GPU are scanned there: say compute: gpu") if gpu else None,
            (("store",), "expected 'memory' or 'drive'") if self.store == "gpu" else None,
        )
        return self


class FlatIndex(_Index):
    """Every vector, scanned for every query."""

    kind: Literal["flat"]
    place: Place = "memory"
    request: Size = 131072.0
    """Bytes of a read of a scan from the drive."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        gpu = self.place == "gpu" and self.compute != "gpu"
        refuse(
            (("place",), "vectors on a GPU are scanned there: say compute: gpu") if gpu else None,
            (("request",), "expected whole sectors, 4 MiB at most")
            if self.request % self.sector or self.request > 2**22
            else None,
        )
        return self


VectorIndex = PostingLists | GraphIndex | InvertedFile | FlatIndex
_READERS: Final[dict[str, Callable[[Document], VectorIndex]]] = {
    "posting-lists": lambda document: parse(PostingLists, document),
    "graph": lambda document: parse(GraphIndex, document),
    "ivf": lambda document: parse(InvertedFile, document),
    "flat": lambda document: parse(FlatIndex, document),
}


def _more(path: tuple[str, ...], found: int, most: int, what: str) -> Fault | None:
    return (path, f"{found} are more than the {most} {what} of the index") if found > most else None


def preset_indexes() -> dict[str, Path]:
    """The shipped indexes by name."""
    return {path.stem: path for path in sorted(_PRESETS.glob("*.yaml"))}


def load_index(source: str | Path) -> VectorIndex:
    """An index by the name of a preset or from a YAML file; ``InputError`` with every problem of it.

    >>> load_index("spann-sift1b").vector_bytes
    128
    """
    text, presets = str(source), preset_indexes()
    if text not in presets and "/" not in text and not text.endswith((".yaml", ".yml")):
        raise bad_input(
            f"unknown index {text[:80]!r}; presets: {', '.join(presets)}", suggestion=nearest(text, presets)
        )
    document = read_yaml(presets.get(text, Path(text)))
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if kind not in _READERS:
        raise bad_input(
            f"found {kind!r}; known: {', '.join(_READERS)}", file=document.file, line=document.line_of(("kind",)),
            path="kind", suggestion=nearest(str(kind), _READERS),
        )  # fmt: skip
    return _READERS[kind](document)
