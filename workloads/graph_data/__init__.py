"""Graphs to learn on: adjacencies read, generated or made by a published shape, and mini-batches sampled from them."""

from workloads.graph_data.adjacency import Adjacency, from_edges
from workloads.graph_data.batches import BatchTrace, training_batches
from workloads.graph_data.sampling import LayerSampling, NeighbourSampling, SampledBatch, SampledLayer

__all__ = [
    "Adjacency",
    "BatchTrace",
    "LayerSampling",
    "NeighbourSampling",
    "SampledBatch",
    "SampledLayer",
    "from_edges",
    "training_batches",
]
