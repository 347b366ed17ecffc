"""The mini-batches of an epoch: shuffled training nodes, cut into runs, each with its sampled neighbourhood.

What a feature store is asked for: for each batch, distinct rows of the feature table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from workloads.graph_data.adjacency import Adjacency
from workloads.graph_data.sampling import LayerSampling, NeighbourSampling, SampledBatch

__all__ = ["BatchTrace", "LayerSizes", "training_batches", "training_nodes"]

Longs = npt.NDArray[np.int64]
MOST_ROWS: Final = 2**30
"""Rows of all batches of a trace: 8 GiB."""


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Counts of one layer of a sampled batch."""

    targets: int
    sources: int
    edges: int


@dataclass(frozen=True, eq=False)
class BatchTrace:
    """Rows that each batch asks for: batch b wants ``rows[offsets[b]:offsets[b + 1]]``, all distinct.

    ``layers``: the sizes of each batch's layers, seeds outwards; empty for a trace made from rows alone. ``nodes``:
    rows of the table. Raises ``InputError`` where a batch names a row twice or one that is not there.
    """

    offsets: Longs
    rows: Longs
    nodes: int
    layers: tuple[tuple[LayerSizes, ...], ...] = ()
    seeds: int = 0

    def __post_init__(self) -> None:
        from workloads.graph_data.kernels import repeats

        offsets, rows = (
            np.ascontiguousarray(self.offsets, np.int64),
            np.ascontiguousarray(self.rows, np.int64),
        )
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "rows", rows)
        if (
            offsets.size < 1
            or offsets[0] != 0
            or offsets[-1] != rows.size
            or bool((np.diff(offsets) < 0).any())
        ):
            raise bad_input("the offsets of a batch trace must rise from 0 to the number of rows")
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < self.nodes:
            raise bad_input(f"a batch asks for a row that is none of the {self.nodes}")
        if repeats(offsets, rows, np.full(self.nodes, -1, np.int32)):
            raise bad_input("a batch names a row twice")

    @property
    def batches(self) -> int:
        """Number of batches."""
        return int(self.offsets.size) - 1

    def of(self, batch: int) -> Longs:
        """The rows of a batch."""
        return self.rows[self.offsets[batch] : self.offsets[batch + 1]]

    def frequency(self) -> Longs:
        """How many batches ask for each row."""
        return np.bincount(self.rows, minlength=self.nodes)

    @classmethod
    def from_rows(cls, batches: list[npt.ArrayLike], nodes: int) -> BatchTrace:
        """A trace of rows alone.

        >>> BatchTrace.from_rows([[0, 3], [3]], 4).frequency().tolist()
        [1, 0, 0, 2]
        """
        parts = [np.ascontiguousarray(rows, np.int64) for rows in batches]
        offsets = np.concatenate([[0], np.cumsum([part.size for part in parts], dtype=np.int64)])
        return cls(offsets, np.concatenate([np.empty(0, np.int64), *parts]), nodes)


def training_nodes(graph: Adjacency, count: int, *, seed: int = 1) -> Longs:
    """``count`` nodes that train, drawn evenly, in rising order."""
    from workloads.graph_data.kernels import shuffle

    if not 1 <= count <= graph.nodes:
        raise bad_input(f"found {count} training nodes; expected 1 to {graph.nodes}", path="--training-nodes")
    order = np.arange(graph.nodes)
    shuffle(order, seed)
    return np.sort(order[:count])


def training_batches(
    graph: Adjacency,
    training: npt.ArrayLike,
    batch: int,
    rule: NeighbourSampling | LayerSampling,
    *,
    most: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> BatchTrace:
    """An epoch over the training nodes, shuffled by the rule's seed; at most the first ``most`` batches of it."""
    from workloads.graph_data.kernels import shuffle

    order = np.array(training, np.int64)
    if batch < 1 or order.size == 0:
        raise bad_input(
            f"found {batch}; expected 1 or more nodes a batch, and some that train", path="--batch"
        )
    shuffle(order, rule.seed)
    sampler = rule.sampler(graph)
    starts = range(0, order.size, batch)[:most]
    parts: list[Longs] = []
    layers: list[tuple[LayerSizes, ...]] = []
    total = 0
    for number, start in enumerate(starts):
        found = sampler.sample(order[start : start + batch], number)
        parts.append(found.nodes)
        layers.append(_sizes(found))
        total += found.nodes.size
        if total > MOST_ROWS:
            raise bad_input(
                f"the batches ask for more than {MOST_ROWS} rows; take fewer batches or a smaller scale"
            )
        if progress is not None:
            progress(number + 1)
    offsets = np.concatenate([[0], np.cumsum([part.size for part in parts], dtype=np.int64)])
    return BatchTrace(
        offsets, np.concatenate(parts), graph.nodes, tuple(layers), min(order.size, len(starts) * batch)
    )


def _sizes(found: SampledBatch) -> tuple[LayerSizes, ...]:
    return tuple(LayerSizes(layer.targets, layer.sources, layer.edges) for layer in found.layers)
