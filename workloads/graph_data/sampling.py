"""Sampled neighbourhoods of a mini-batch, as DGL and PyG draw them, and layers of a budget (FastGCN, LADIES).

Neighbour sampling goes outwards from the seeds: layer 0 draws neighbours of the seeds, layer 1 of the nodes then known.
``expand`` ``all`` draws again for every node known (DGL's blocks), ``new`` only for those that the layer before brought
(PyG's sampler). The same seed and batch number give the same sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from workloads.graph_data.adjacency import Adjacency
from workloads.memory_trace.generators import splitmix64

__all__ = ["LayerSampling", "NeighbourSampling", "SampledBatch", "SampledLayer", "Sampler"]

Longs = npt.NDArray[np.int64]
MOST_SAMPLED: Final = 2**28
"""Edges of one layer of one batch."""


@dataclass(frozen=True, eq=False)
class SampledLayer:
    """Edges from ``sources`` local nodes into the first ``targets`` ones; arrays of local numbers, one pair an edge."""

    targets: int
    sources: int
    edge_target: Longs
    edge_source: Longs

    @property
    def edges(self) -> int:
        """Number of edges."""
        return int(self.edge_target.size)


@dataclass(frozen=True, eq=False)
class SampledBatch:
    """A mini-batch: its unique nodes, seeds first, and its layers from the seeds outwards."""

    nodes: Longs
    seeds: int
    layers: tuple[SampledLayer, ...]

    @property
    def edges(self) -> int:
        """Edges of all layers."""
        return sum(layer.edges for layer in self.layers)


@dataclass(frozen=True, slots=True)
class NeighbourSampling:
    """``fan_out`` neighbours a node, from the seeds outwards (-1: all); DGL lists them the other way round."""

    fan_out: tuple[int, ...]
    replace: bool = False
    expand: Literal["all", "new"] = "all"
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.fan_out) <= 16 or any(f == 0 or not -1 <= f <= 4096 for f in self.fan_out):
            raise bad_input(
                f"found {self.fan_out}; expected 1 to 16 numbers, each 1 to 4096 or -1", path="--fan-out"
            )
        if self.expand not in ("all", "new"):
            raise bad_input(f"found {self.expand!r}; known: all, new", path="--expand")
        _seeded(self.seed)

    def sampler(self, graph: Adjacency) -> Sampler:
        """What draws batches of a graph; it keeps arrays of the graph's size between them."""
        return _NeighbourSampler(graph, self)


@dataclass(frozen=True, slots=True)
class LayerSampling:
    """``budget`` nodes a layer, drawn without replacement.

    ``ladies``: among the neighbours of the layer before, by the squares of its row-normalised adjacency (Zou et al.,
    NeurIPS 2019); its own nodes stay in. ``fastgcn``: among all nodes, by the squares over all rows (Chen et al., ICLR
    2018).
    """

    budget: tuple[int, ...]
    rule: Literal["ladies", "fastgcn"] = "ladies"
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.budget) <= 16 or any(not 1 <= b <= 2**24 for b in self.budget):
            raise bad_input(
                f"found {self.budget}; expected 1 to 16 numbers, each 1 to {2**24}", path="--budget"
            )
        if self.rule not in ("ladies", "fastgcn"):
            raise bad_input(f"found {self.rule!r}; known: ladies, fastgcn", path="--rule")
        _seeded(self.seed)

    def sampler(self, graph: Adjacency) -> Sampler:
        """What draws batches of a graph."""
        return _LayerSampler(graph, self)


def _seeded(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise bad_input(f"found {seed}; expected 0 to 2^63 - 1", path="--seed")


class Sampler(ABC):
    """Draws mini-batches of one graph."""

    def __init__(self, graph: Adjacency, seed: int) -> None:
        self.graph = graph
        self._seed = seed
        self._arrays = (graph.offsets, graph.neighbours)
        self._place = np.full(graph.nodes, -1, np.int32)
        self._nodes = np.empty(graph.nodes, np.int64)
        self._edges = (np.empty(0, np.int64), np.empty(0, np.int64))

    def sample(self, seeds: npt.ArrayLike, number: int = 0) -> SampledBatch:
        """The batch of distinct seed nodes; ``number`` tells its draws from those of other batches."""
        start = np.ascontiguousarray(seeds, np.int64)
        count = int(start.size)
        if not count or int(start.min()) < 0 or int(start.max()) >= self.graph.nodes:
            raise bad_input(f"a batch needs seeds among the {self.graph.nodes} nodes", file=self.graph.name)
        if np.unique(start).size != count:
            raise bad_input("a batch names a seed twice", file=self.graph.name)
        return self._draw(start, int(splitmix64(self._seed, number, 1)[0] >> np.uint64(1)))

    @abstractmethod
    def _draw(self, seeds: Longs, stream: int) -> SampledBatch:
        """The batch, its random numbers from one stream."""

    def _room(self, edges: int) -> None:
        if edges > MOST_SAMPLED:
            raise bad_input(f"a layer of a batch has up to {edges} edges; expected at most {MOST_SAMPLED}")
        if self._edges[0].size < edges:
            self._edges = (np.empty(edges, np.int64), np.empty(edges, np.int64))

    def _layer(self, targets: int, sources: int, made: int) -> SampledLayer:
        return SampledLayer(targets, sources, self._edges[0][:made].copy(), self._edges[1][:made].copy())


class _NeighbourSampler(Sampler):
    def __init__(self, graph: Adjacency, rule: NeighbourSampling) -> None:
        super().__init__(graph, rule.seed)
        self._rule = rule

    def _draw(self, seeds: Longs, stream: int) -> SampledBatch:
        from workloads.graph_data.kernels import release, sample_layer

        rule, offsets = self._rule, self.graph.offsets
        count, first, draws = int(seeds.size), 0, 0
        self._nodes[:count] = seeds
        self._place[seeds] = np.arange(count, dtype=np.int32)
        layers = []
        try:
            for fan_out in rule.fan_out:
                known = self._nodes[first:count]
                taken = offsets[known + 1] - offsets[known]
                if fan_out > 0:
                    taken = np.minimum(taken, fan_out) if not rule.replace else np.full(known.size, fan_out)
                self._room(int(taken.sum()))
                unique, made, draws = sample_layer(
                    self._arrays, (first, count), fan_out, rule.replace, (stream, draws), (self._place, self._nodes),
                    self._edges,
                )  # fmt: skip
                layers.append(self._layer(count, unique, made))
                first, count = (count if rule.expand == "new" else 0), unique
            return SampledBatch(self._nodes[:count].copy(), int(seeds.size), tuple(layers))
        finally:
            release(self._nodes, count, self._place)


class _LayerSampler(Sampler):
    def __init__(self, graph: Adjacency, rule: LayerSampling) -> None:
        super().__init__(graph, rule.seed)
        self._rule = rule
        self._weights = np.empty(graph.nodes, np.float64)
        self._everywhere: npt.NDArray[np.float64] | None = None

    def _draw(self, seeds: Longs, stream: int) -> SampledBatch:
        known, layers, draws = seeds, [], 0
        for budget in self._rule.budget:
            nodes, weights = self._candidates(known)
            chosen = nodes[_without_replacement(weights, budget, stream, draws)]
            draws += weights.size
            known, layer = self._joined(known, chosen)
            layers.append(layer)
        return SampledBatch(known, int(seeds.size), tuple(layers))

    def _candidates(self, known: Longs) -> tuple[Longs, npt.NDArray[np.float64]]:
        """Nodes that may be drawn, in the order of their first mention, and their weights."""
        from workloads.graph_data.kernels import candidate_weights, release

        if self._rule.rule == "fastgcn":
            if self._everywhere is None:
                count = candidate_weights(
                    self._arrays, np.arange(self.graph.nodes), self._place, self._nodes, self._weights
                )
                release(self._nodes, count, self._place)
                self._everywhere = self._weights[:count].copy()
                self._all = self._nodes[:count].copy()
            return self._all, self._everywhere
        count = candidate_weights(self._arrays, known, self._place, self._nodes, self._weights)
        release(self._nodes, count, self._place)
        return self._nodes[:count].copy(), self._weights[:count].copy()

    def _joined(self, known: Longs, chosen: Longs) -> tuple[Longs, SampledLayer]:
        """The nodes so far with those chosen, and all edges from the chosen (and known) into the known."""
        from workloads.graph_data.kernels import keep_edges

        new = chosen[~np.isin(chosen, known)]
        nodes = np.concatenate([known, new])
        self._place[nodes] = np.arange(nodes.size, dtype=np.int32)
        degrees = self.graph.offsets[known + 1] - self.graph.offsets[known]
        self._room(int(degrees.sum()))
        made = keep_edges(self._arrays, known, self._place, self._edges)
        self._place[nodes] = -1
        return nodes, self._layer(int(known.size), int(nodes.size), made)


def _without_replacement(weights: npt.NDArray[np.float64], count: int, stream: int, start: int) -> Longs:
    """Places drawn one by one in proportion to weight: the least of exponential times (Efraimidis, Spirakis 2006)."""
    if weights.size <= count:
        return np.arange(weights.size)
    uniform = ((splitmix64(stream, start, weights.size) >> np.uint64(11)).astype(float) + 0.5) * 2.0**-53
    times = -np.log(uniform) / weights
    return np.sort(np.argpartition(times, count - 1)[:count])
