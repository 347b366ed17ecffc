"""Which activations tie the backward pass to the forward pass, and which of them a policy keeps.

A tensor that a forward operator makes and a backward operator reads is skeletal (the word is MEMO's,
arXiv:2407.12117, section 3.1); everything else lives inside one pass. Policies keep a share of tokens of each
skeletal tensor of a layer and drop the rest, which :mod:`mapping.training.recompute.in_graph` makes again:

* ``none`` keeps all;
* ``full`` keeps a layer's input (Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174,
  with one layer per segment, as frameworks do it);
* ``selective`` drops what lies inside attention's core, between queries, keys and values and its result (Megatron-LM's
  selective recomputation, Korthikanti et al., arXiv:2205.05198, section 5); one kernel for attention leaves nothing
  there;
* ``pointwise`` drops what norms, activations and softmax make, which cost bandwidth and no products;
* ``every-other`` keeps the results of attention and of every second product, as torchtitan's selective checkpointing by
  operator does (github.com/pytorch/torchtitan, ``activation_checkpoint.py``);
* ``tokens`` keeps a layer's input and attention output, and of the others a share of the tokens (MEMO, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from simulator.rewrite.operands import itemised
from workloads.graph import Graph, Operator, Role
from workloads.operators import Activation, Attention, Elementwise, Norm, Product

__all__ = ["CHEAP_KINDS", "Skeleton", "every_other", "held_results", "kept_share", "skeleton_of"]

CHEAP_KINDS: Final = frozenset({"norm", "activation", "softmax"})
"""Kinds whose result ``pointwise`` drops."""


@dataclass(frozen=True)
class Skeleton:
    """Skeletal tensors by layer, in the order they are made, and each layer's input and attention outputs.

    ``inputs`` has no entry for a layer whose input another layer keeps (the first, which reads the embedding).
    """

    layers: Mapping[int, tuple[str, ...]]
    inputs: Mapping[int, str]
    attention: Mapping[int, tuple[str, ...]]


def skeleton_of(graph: Graph) -> Skeleton:
    """The skeletal tensors of a training graph's layers; embedding, head and loss are not among them."""
    last = max((op.place.layer for op in graph.operators if op.place.layer is not None), default=-1)
    read_back = {
        name
        for op in graph.operators
        if op.place.training_pass in ("backward", "recompute")
        for name in op.inputs
    }
    layers: dict[int, list[str]] = {}
    inputs: dict[int, str] = {}
    attention: dict[int, list[str]] = {}
    entered: set[int] = set()
    for op in graph.operators:
        layer = op.place.layer
        if op.place.training_pass != "forward" or layer is None or not 0 <= layer < last:
            continue
        for name in op.outputs:
            if name in read_back and graph.tensors[name].role is Role.ACTIVATION:
                layers.setdefault(layer, []).append(name)
                if isinstance(op.work, Attention):
                    attention.setdefault(layer, []).append(name)
        if layer not in entered:
            entered.add(layer)
            entry = _entry(op)
            if entry is not None and entry in read_back:
                inputs[layer] = entry
    return Skeleton(
        {layer: tuple(names) for layer, names in layers.items()},
        inputs,
        {layer: tuple(names) for layer, names in attention.items()},
    )


def kept_share(
    graph: Graph, policy: str, tokens: float = 0.0, first_layers: int | None = None
) -> dict[str, float]:
    """Skeletal tensor -> share of its tokens that is kept, by one of the policies.

    ``tokens`` is the share for the policy of that name. Layers from ``first_layers`` on keep everything.
    """
    skeleton = skeleton_of(graph)
    kept: dict[str, float] = {}
    for layer, names in skeleton.layers.items():
        if first_layers is not None and layer >= first_layers:
            kept.update(dict.fromkeys(names, 1.0))
            continue
        for name in names:
            kept[name] = _share(graph, policy, tokens, name)
        if policy in ("full", "tokens") and layer in skeleton.inputs:
            kept[skeleton.inputs[layer]] = 1.0
        if policy == "tokens":
            kept.update(dict.fromkeys(skeleton.attention.get(layer, ()), 1.0))
    return kept


def _share(graph: Graph, policy: str, tokens: float, name: str) -> float:
    maker = graph.operator_by_name[graph.producer[name]]
    if policy == "none":
        return 1.0
    if policy == "selective":
        return 0.0 if _inside_attention(maker) else 1.0
    if policy == "pointwise":
        return 0.0 if maker.kind in CHEAP_KINDS and maker.outputs[0] == name else 1.0
    return tokens if policy == "tokens" else 0.0


def _inside_attention(op: Operator) -> bool:
    """Whether an operator makes scores or probabilities, or what eager code keeps on the way."""
    prefix = op.name.rpartition("attention.")[0] + "attention."
    inner = op.name.removeprefix(prefix)
    return inner.startswith(("qk_matmul", "softmax", "sv_matmul."))


def every_other(graph: Graph) -> dict[str, float]:
    """Shares under ``every-other``: products are counted module by module through a layer; the second, fourth, ... of
    them run again. A fused product keeps its share of what the modules apart would keep.
    """
    kept = kept_share(graph, "full")
    counts: dict[int, int] = {}
    for op in graph.operators:
        layer = op.place.layer
        if op.place.training_pass != "forward" or layer is None or not op.outputs:
            continue
        if isinstance(op.work, Attention):
            kept.update(dict.fromkeys((name for name in op.outputs if name in kept), 1.0))
        if not isinstance(op.work, Product) or not any(graph.tensors[name].is_weight for name in op.inputs):
            continue
        parts = _modules(graph, op, op.work)
        first = counts.get(layer, 0)
        counts[layer] = first + len(parts)
        share = sum(part for number, part in enumerate(parts, first + 1) if number % 2) / sum(parts)
        if op.outputs[0] in kept:
            kept[op.outputs[0]] = share
    return kept


def held_results(graph: Graph) -> Graph:
    """The graph in which the result of a layer's last product stays until its backward pass, though nothing there needs
    it: checkpointing by operator keeps what it chose to keep.
    """
    last = {
        op.place.layer: op.outputs[0] for op in graph.operators
        if op.place.training_pass == "forward" and isinstance(op.work, Product) and op.place.axis == "row"
    }  # fmt: skip
    operators = []
    for op in graph.operators:
        name = last.get(op.place.layer) if op.place.training_pass == "backward" else None
        if name is None or name in op.inputs:
            operators.append(op)
            continue
        del last[op.place.layer]
        whole = itemised(op, graph.tensors)
        count = len(op.inputs)
        reads = (*whole.reads[:count], 0, *whole.reads[count:])
        operators.append(replace(whole, inputs=(*op.inputs, name), reads=reads))
    return replace(graph, operators=tuple(operators))


def _modules(graph: Graph, op: Operator, work: Product) -> list[float]:
    """Columns of each module in a product: queries, keys and values, or the halves of a gate."""
    if work.heads and work.kv_heads:
        return [float(work.heads), float(work.kv_heads), float(work.kv_heads)]
    readers = [graph.operator_by_name[name] for name in graph.consumers[op.outputs[0]]]
    forward = [one for one in readers if one.place.training_pass == "forward"]
    gated = any(
        isinstance(one.work, Activation) and one.work.gated and len(one.inputs) == 1 for one in forward
    )
    return [1.0, 1.0] if gated else [1.0]


def _entry(op: Operator) -> str | None:
    """What enters a layer: the sum that its first norm leaves behind, or the sum that it begins with."""
    if isinstance(op.work, Norm) and len(op.outputs) > 1:
        return op.outputs[1]
    if isinstance(op.work, Elementwise) and op.work.function == "add":
        return op.outputs[0]
    return None
