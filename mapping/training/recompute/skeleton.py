"""Which activations tie the backward pass to the forward pass, and which of them a policy keeps.

A tensor that a forward operator makes and a backward operator reads is skeletal (the word is MEMO's,
arXiv:2407.12117, section 3.1); everything else lives inside one pass. Policies keep a share of tokens of each
skeletal tensor of a layer and drop the rest, which :mod:`mapping.training.recompute.in_graph` makes again:

* ``none`` keeps all;
* ``full`` keeps a layer's input (Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174,
  with one layer per segment, as frameworks do it);
* ``selective`` drops what norms, activations and softmax make, which cost bandwidth and no products
  (Korthikanti et al., arXiv:2205.05198, section 5, choose by the same ratio of bytes to operations);
* ``tokens`` keeps a layer's input and attention output, and of the others a share of the tokens (MEMO, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from workloads.graph import Graph, Operator, Role
from workloads.operators import Attention, Elementwise, Norm

__all__ = ["CHEAP_KINDS", "Skeleton", "kept_share", "skeleton_of"]

CHEAP_KINDS: Final = frozenset({"norm", "activation", "softmax"})
"""Kinds whose result ``selective`` drops."""


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
    """Skeletal tensor -> share of its tokens that is kept, for ``none``, ``selective``, ``full`` or ``tokens``.

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
    if policy == "none":
        return 1.0
    if policy == "selective":
        maker = graph.operator_by_name[graph.producer[name]]
        return 0.0 if maker.kind in CHEAP_KINDS and maker.outputs[0] == name else 1.0
    return tokens if policy == "tokens" else 0.0


def _entry(op: Operator) -> str | None:
    """What enters a layer: the sum that its first norm leaves behind, or the sum that it begins with."""
    if isinstance(op.work, Norm) and len(op.outputs) > 1:
        return op.outputs[1]
    if isinstance(op.work, Elementwise) and op.work.function == "add":
        return op.outputs[0]
    return None
