"""The graph of an MLP memory for one token of each sequence: feed-forward blocks, output layer, interpolation."""

from __future__ import annotations

from workloads.graph import Graph
from workloads.layer_builder import LayerBuilder
from workloads.memory_bank.bank import MlpMemory
from workloads.workload import WorkloadOptions

__all__ = ["mlp_graph"]


def mlp_graph(memory: MlpMemory, batch: int) -> Graph:
    """One step: norm, up, activation, down and sum per block; then logits, and their mix with the model's.

    >>> from workloads.memory_bank import load_bank
    >>> mlp_graph(load_bank("mlp-memory-mistral-7b"), 1).parameters() // 10**8
    9
    """
    net = LayerBuilder(memory.name, WorkloadOptions(batch=batch, dtype=memory.element))
    stream = net.input("hidden state", memory.width)
    model = net.input("probabilities of the model", memory.vocabulary)
    for number in range(memory.layers):
        source = net.layer_norm(f"block{number}.norm", stream)
        up = net.linear(f"block{number}.up", source, memory.hidden, bias=False)
        up = net.activation(f"block{number}.act", up, "gelu")
        down = net.linear(f"block{number}.down", up, memory.width, bias=False)
        stream = net.add(f"block{number}.add", stream, down)
    logits = net.linear("head", net.layer_norm("norm", stream), memory.vocabulary, bias=False)
    return net.graph(net.add("mix", model, logits))
