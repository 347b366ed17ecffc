"""Graphs known by their published shape, made at a stated scale: nodes, edges, training nodes and features.

Nothing of the data itself is here. Degrees follow a power law and neighbours are matched at random (the configuration
model): an assumption, and one without the communities of a real graph, so that batches share fewer rows than they
would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from hw_configs.problems import bad_input, nearest
from workloads.graph_data.adjacency import Adjacency
from workloads.graph_data.generators import MAX_MADE_EDGES, configuration_model, power_law_degrees

__all__ = ["PRESETS", "GraphShape", "generate", "preset"]

_OGB: Final = "Open Graph Benchmark, arXiv:2005.00687, and its pages of data sets"


@dataclass(frozen=True, slots=True)
class GraphShape:
    """A published shape. ``edges`` are stored neighbours before ``both_ways`` doubles them; features as stored."""

    name: str
    nodes: int
    edges: int
    training_nodes: int
    features: int
    feature_dtype: str
    classes: int
    source: str
    both_ways: bool = False
    exponent: float = 2.2
    """Of the power law of degrees: an assumption, within the 2 to 3 of citation and social networks (Newman 2003)."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a node's features."""
        from workloads.dtypes import size_bytes

        return size_bytes(self.features, self.feature_dtype)

    @property
    def average_degree(self) -> float:
        """Neighbours of a node in the mean."""
        return self.edges * (2 if self.both_ways else 1) / self.nodes

    def scaled(self, scale: Fraction) -> GraphShape:
        """The shape with so many nodes, edges and training nodes; 1 at least."""
        if not 0 < scale <= 1:
            raise bad_input(f"found {scale}; expected above 0 up to 1", path="--scale")
        nodes, edges, training = (
            max(1, round(part * scale)) for part in (self.nodes, self.edges, self.training_nodes)
        )
        return replace(self, nodes=nodes, edges=edges, training_nodes=min(training, nodes))


_ALL: Final = (
    GraphShape("ogbn-papers100m", 111_059_956, 1_615_685_872, 1_207_179, 128, "fp32", 172, _OGB),
    GraphShape(
        "mag240m-cites", 121_751_666, 1_297_748_926, 1_112_392, 768, "fp16", 153,
        "OGB-LSC, arXiv:2103.09430: papers and citations alone",
    ),
    GraphShape(
        "igb-full", 269_346_174, 3_995_777_033, 136_278_514, 1024, "fp32", 19,
        "IGB, arXiv:2302.13522, homogeneous; 60 % of 227,130,858 labelled nodes train",
    ),
    GraphShape("ogbn-products", 2_449_029, 61_859_140, 196_615, 100, "fp32", 47, _OGB, both_ways=True),
    GraphShape("ogbn-arxiv", 169_343, 1_166_243, 90_941, 128, "fp32", 40, _OGB),
    GraphShape(
        "reddit", 232_965, 114_615_892, 153_431, 602, "fp32", 41,
        "GraphSAGE, arXiv:1706.02216, as DGL and PyG store it (both directions)",
    ),
    GraphShape(
        "friendster", 65_608_366, 1_806_067_135, 656_084, 256, "fp32", 64,
        "SNAP com-Friendster; it has no features: 256 x fp32, 64 classes and 1 % training nodes are assumptions",
        both_ways=True,
    ),
)  # fmt: skip
PRESETS: Final = {shape.name: shape for shape in _ALL}
"""Shapes by name."""


def preset(name: str) -> GraphShape:
    """A published shape; an unknown name raises an ``InputError`` with the nearest."""
    if name not in PRESETS:
        raise bad_input(
            f"unknown graph {name[:80]!r}; known: {', '.join(PRESETS)}", suggestion=nearest(name, PRESETS)
        )
    return PRESETS[name]


def generate(shape: GraphShape, *, seed: int = 1) -> Adjacency:
    """A graph of a shape (scaled before): the configuration model over a power law of degrees."""
    total = shape.edges * (2 if shape.both_ways else 1)
    if total > MAX_MADE_EDGES:
        raise bad_input(
            f"{shape.name} has {total} neighbours; at most {MAX_MADE_EDGES} are made: give a smaller scale",
            path="--scale",
        )
    if total > shape.nodes * (shape.nodes - 1):
        raise bad_input(
            f"{shape.nodes} nodes have no room for {total} neighbours; give a larger scale", path="--scale"
        )
    degrees = power_law_degrees(shape.nodes, total - total % 2 * shape.both_ways, shape.exponent, seed=seed)
    graph = configuration_model(degrees, seed=seed, directed=not shape.both_ways)
    return Adjacency(graph.offsets, graph.neighbours, shape.name)
